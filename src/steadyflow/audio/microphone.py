"""What a device captures, sent by its own callback."""

from __future__ import annotations

from collections.abc import Mapping

from steadyflow._native import DeviceStream
from steadyflow.arguments import MAX_BLOCK_FRAMES
from steadyflow.audio.device_module import DeviceModule, checked_rate_hz
from steadyflow.audio.driver import Driver
from steadyflow.formats import AudioFormat, Format, checked_integer
from steadyflow.module import Output


class Microphone(DeviceModule):
    """
    Captures from a device.

    Port ``out``: f32 blocks of `block_frames`; a block before a gap may be shorter. The device's own callback, which is native,
    copies the frames to the consumers: Python's interpreter lock is not needed for it, so no computing thread makes it late.
    A frame is stamped with the time at which it was sampled, as the device tells, on the monotonic clock. What was lost is
    missing from the positions, and the block behind it is flagged ``DISCONTINUITY`` and ``GAP``; positions go on as if the time
    had passed, also where the device was away (see `DeviceModule`).

    Its pipelines drop the oldest block when they are full, unless they have another rule that does not wait.

    Args:
        device: Number or name, or a part of the name, as ``steadyflow devices`` shows them; None: the default one. Or
            a `testing.ScriptedDevice`.
        block_frames: The length of the blocks, 1 to 1,048,576.
        sample_rate_hz: Frames per second; None: what the device runs at.
        channels: How many; the first ones of the device.
        latency: ``"low"``, ``"high"`` or seconds, for the driver.

    Raises:
        ConfigurationError: An argument is impossible.
    """

    out = Output(AudioFormat())

    live = True
    direction = "input"

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
        self._block_frames = checked_integer("Microphone", "block_frames", block_frames, MAX_BLOCK_FRAMES)
        self._rate = checked_rate_hz("Microphone", sample_rate_hz)
        self._channels = checked_integer("Microphone", "channels", channels, 1024)

    def resolve_formats(self, inputs: Mapping[str, Format]) -> Mapping[str, Format]:
        """
        Return the format of the blocks; asks the device where its rate was left open, which may block.

        Raises:
            DeviceUnavailable: There is no such device.
        """
        rate = self._rate or self._default_rate_hz()
        return {"out": AudioFormat(rate, self._channels, max_block_frames=self._block_frames)}

    def _connect(self, native: DeviceStream) -> None:
        native.capture(self.out, self._block_frames)
