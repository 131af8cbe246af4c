"""A sine tone, for tests and for finding out whether a flow makes any sound."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Final

import numpy as np

from steadyflow.arguments import MAX_BLOCK_FRAMES, checked_number, checked_switch
from steadyflow.clock import Clock, SystemClock
from steadyflow.data import BlockFlag, FlowData
from steadyflow.formats import AudioFormat, Format, checked_integer
from steadyflow.module import Output, Source

_AMPLITUDE: Final = 0.5  # -6 dB below full scale: loud enough to measure, and not too loud for ears
_LONGEST_S: Final = 1e9
_NEVER: Final = 1 << 62


class Tone(Source):
    """
    Plays a sine of amplitude 0.5, the same in all channels.

    Port ``out``: f32 blocks of `block_frames`; the last one may be shorter, and is flagged ``END_OF_STREAM``. A frame
    is stamped ``start + index / rate``, where start is the time at which the first block was sent.

    Never blocks; allocates each block.

    Args:
        frequency_hz: Above 0, up to half the sample rate.
        sample_rate_hz: Frames per second.
        channels: How many.
        duration_s: Length of the tone; None: without end.
        block_frames: The length of the blocks, 1 to 1,048,576.
        realtime_pace: Send each block when its first frame is due; False: as fast as the pipelines take them.

    Raises:
        ConfigurationError: An argument is impossible.
    """

    out = Output(AudioFormat())

    _clock: Clock = SystemClock()

    def __init__(
        self,
        frequency_hz: float,
        sample_rate_hz: int = 48_000,
        channels: int = 1,
        duration_s: float | None = None,
        block_frames: int = 480,
        *,
        realtime_pace: bool = True,
    ) -> None:
        self._rate = checked_integer("Tone", "sample_rate_hz", sample_rate_hz, 768_000)
        self._format = AudioFormat(
            self._rate,
            checked_integer("Tone", "channels", channels, 1024),
            max_block_frames=checked_integer("Tone", "block_frames", block_frames, MAX_BLOCK_FRAMES),
        )
        self._frequency_hz = checked_number("Tone", "frequency_hz", frequency_hz, above=0, most=self._rate / 2)
        self._frames: int | None = None
        if duration_s is not None:
            duration_s = checked_number("Tone", "duration_s", duration_s, above=0, most=_LONGEST_S)
            self._frames = max(round(duration_s * self._rate), 1)
        self.paced = checked_switch("Tone", "realtime_pace", realtime_pace)

    def resolve_formats(self, inputs: Mapping[str, Format]) -> Mapping[str, Format]:
        """Return the format that the arguments describe. Does not block."""
        return {"out": self._format}

    def produce(self) -> Generator[int | None, int | None]:
        """
        Send the tone block by block.

        Yields:
            When paced, the monotonic time in ns at which the next block is due, always counted from the start, which
            a pause moves; else None.
        """
        step, channels = self._format.block_shape(self._format.max_block_frames)
        end = _NEVER if self._frames is None else self._frames
        indices = np.arange(step)
        start_ns = self._clock.monotonic_ns()
        position = 0
        while position < end:
            if position and self.paced:
                start_ns += (yield start_ns + position * 1_000_000_000 // self._rate) or 0
            elif position:
                yield None
            # The phase of each frame by its index, reduced to one turn first: exact also after days.
            turns = (indices[: end - position] + position) * (self._frequency_hz / self._rate) % 1.0
            wave = (_AMPLITUDE * np.sin(2 * np.pi * turns)).astype(np.float32)
            samples = np.repeat(wave[:, np.newaxis], channels, axis=1)
            data = FlowData(
                samples,
                timestamp_ns=start_ns + position * 1_000_000_000 // self._rate,
                first_frame=position,
                flags=int(BlockFlag.END_OF_STREAM) if position + len(wave) == end else 0,
            )
            self.out.send(data)
            position += len(wave)

    def __repr__(self) -> str:
        length = "without end" if self._frames is None else f"{self._frames / self._rate:g} s"
        return f"<Tone {self._frequency_hz:g} Hz, {length}, {self._format}>"
