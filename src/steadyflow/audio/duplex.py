"""What a device captures and plays at once, on one clock, by one callback."""

from __future__ import annotations

from collections.abc import Mapping

from steadyflow._native import DeviceStream
from steadyflow.arguments import MAX_BLOCK_FRAMES
from steadyflow.audio.device_module import DeviceModule, checked_rate_hz
from steadyflow.audio.driver import Driver
from steadyflow.errors import ConfigurationError
from steadyflow.formats import AudioFormat, Format, checked_integer
from steadyflow.module import Input, Output


class Duplex(DeviceModule):
    """
    Captures from a device and plays on it, with one clock: what goes out was asked for in the cycle in which something came in.

    Port ``out`` is that of a `Microphone`, port ``audio`` that of a `Speaker`; both have the same rate, and as many channels as
    each of them says. A path from ``out`` through modules back to ``audio`` drops when it is full, because a device waits for
    nobody.

    It ends when what it plays has ended and was heard. When the flow is stopped it captures no more, and plays what still comes.

    Args:
        device: Number or name, or a part of the name, as ``steadyflow devices`` shows them; None: the default one. It has to
            have both directions. Or a `testing.ScriptedDevice`.
        block_frames: The length of the blocks that are captured, 1 to 1,048,576.
        sample_rate_hz: Frames per second; None: what the device runs at.
        channels: How many are captured; the first ones of the device.
        latency: ``"low"``, ``"high"`` or seconds, for the driver.

    Raises:
        ConfigurationError: An argument is impossible.
    """

    audio = Input(AudioFormat())
    out = Output(AudioFormat())

    live = True
    direction = "duplex"

    def __init__(
        self,
        device: int | str | Driver | None = None,
        block_frames: int = 128,
        *,
        sample_rate_hz: int | None = None,
        channels: int = 1,
        latency: str | float = "low",
    ) -> None:
        self._choose(device, latency)
        self._block_frames = checked_integer("Duplex", "block_frames", block_frames, MAX_BLOCK_FRAMES)
        self._rate = checked_rate_hz("Duplex", sample_rate_hz)
        self._channels = checked_integer("Duplex", "channels", channels, 1024)

    def resolve_formats(self, inputs: Mapping[str, Format]) -> Mapping[str, Format]:
        """
        Return the format of the blocks; asks the device where its rate was left open, which may block.

        Raises:
            DeviceUnavailable: There is no such device.
        """
        rate = self._rate or self._default_rate_hz()
        return {"out": AudioFormat(rate, self._channels, max_block_frames=self._block_frames)}

    def _connect(self, native: DeviceStream) -> None:
        if self.audio.device_feed is None:
            raise ConfigurationError(
                "Duplex: expected a pipeline into audio; nothing is connected. To capture only, use Microphone."
            )
        native.capture(self.out, self._block_frames)
        native.play(self.audio.device_feed)
