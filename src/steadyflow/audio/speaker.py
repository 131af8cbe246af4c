"""What a device plays, taken by its own callback."""

from __future__ import annotations

from steadyflow._native import DeviceStream
from steadyflow.audio.device_module import DeviceModule
from steadyflow.audio.driver import Driver
from steadyflow.errors import ConfigurationError
from steadyflow.formats import AudioFormat
from steadyflow.module import Input


class Speaker(DeviceModule):
    """
    Plays on a device.

    Port ``audio``: f32 blocks of any length, at a rate that the device takes. Its own callback, which is native, takes the frames
    as it needs them. Where none wait there is silence, which is counted; ``target_fill_ms`` and ``late="conceal"`` of the pipeline
    (`AudioPipelineConfig`) say how much has to wait before playing begins, and whether gaps are filled.

    The device's clock paces what comes from a file: the pipeline waits, unless it has another rule. Below a live source it drops.
    It ends when its stream has ended and the last frame was heard, also when the flow is stopped: what waits is played first. For
    what happens when the device goes away, see `DeviceModule`.

    Args:
        device: Number or name, or a part of the name, as ``steadyflow devices`` shows them; None: the default one. Or
            a `testing.ScriptedDevice`.
        latency: ``"low"``, ``"high"`` or seconds, for the driver.

    Raises:
        ConfigurationError: An argument is impossible.
    """

    audio = Input(AudioFormat())

    direction = "output"

    def __init__(self, device: int | str | Driver | None = None, *, latency: str | float = "low") -> None:
        self._choose(device, latency)

    def _connect(self, native: DeviceStream) -> None:
        if self.audio.device_feed is None:
            raise ConfigurationError("Speaker: expected a pipeline that leads to it; nothing is connected.")
        native.play(self.audio.device_feed)
