"""
A rate that is almost the same, and moves: so that what one device captures lasts as long as another one plays.

soxr resamples by a ratio that may change at any time, without a step in the sound.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from steadyflow._native import Block, StampTrail
from steadyflow.errors import ConfigurationError, MissingExtra
from steadyflow.formats import AudioFormat
from steadyflow.transform.conforming import Conforming
from steadyflow.transform.fields import ONCE, Fields

MAX_PPM: Final = 10_000.0
"""More is no drift but another rate."""


class VariableRateStage:
    """
    Resamples by a ratio close to 1 that may change while it runs; a `Stage`.

    Args:
        fmt: What goes in: interleaved, f32.
        max_ppm: The most that may be corrected, in either direction, in millionths.

    Raises:
        ConfigurationError: The format is another, or the limit is impossible.
        MissingExtra: soxr is not installed.
    """

    def __init__(self, fmt: AudioFormat, *, max_ppm: float = 1000.0) -> None:
        if fmt.sample_type != "f32" or fmt.layout != "interleaved" or not fmt.is_resolved:
            raise ConfigurationError(f"VariableRateStage: expected interleaved f32 of a known rate, got {fmt}.")
        if not 0 < max_ppm <= MAX_PPM:
            raise ConfigurationError(
                f"VariableRateStage: expected max_ppm above 0, up to {MAX_PPM:g}; got {max_ppm!r}."
            )
        try:
            import soxr
        except ImportError as missing:
            raise MissingExtra("audio", "correcting drift") from missing
        assert fmt.sample_rate_hz is not None
        self._rate = fmt.sample_rate_hz
        self._max_ppm = max_ppm
        self._stream = soxr.ResampleStream(
            self._rate * (1 + max_ppm / 1e6), self._rate, fmt.channels or 1, dtype="float32", quality="HQ", vr=True
        )
        # A block may come out a few frames longer than it went in.
        more = 2 + round(fmt.max_block_frames * max_ppm / 1e6)
        self.target = msgspec.structs.replace(fmt, max_block_frames=fmt.max_block_frames + more)
        self._conforming = Conforming("drift", fmt)
        self._trail = StampTrail(1e9 / self._rate)
        self._fields = Fields("drift")
        self._origin = 0  # the first frame since the stream began or was broken
        self._position = 0.0  # from there in the input, of the next frame that comes out
        self._next_in = -1
        self._given = 0
        self._sequence = 0
        self._flags = 0
        self.ppm = 0.0
        self.correct(0.0)

    def correct(self, ppm: float, *, slew_frames: int = 0) -> None:
        """
        From now on take so many more frames for each that comes out, in millionths: above 0 where too much comes in.

        Args:
            ppm: Limited to `max_ppm`.
            slew_frames: Over how many frames of the input the ratio moves to it.

        Raises:
            ConfigurationError: It is no number.
        """
        if not math.isfinite(ppm):
            raise ConfigurationError(f"VariableRateStage: expected ppm to be a finite number, got {ppm!r}.")
        self.ppm = max(-self._max_ppm, min(ppm, self._max_ppm))
        self._stream.set_io_ratio(self._rate * (1 + self.ppm / 1e6), self._rate, slew_frames)

    def push(self, block: Block) -> tuple[Block, ...]:
        """Resample a block; see `Stage`. At a discontinuity what is left of before is dropped, some ms, and a stream begins anew."""
        samples = self._conforming(block.payload)
        if block.first_frame != self._next_in or block.flags & ONCE:
            self._trail.clear()
            self._fields.restart()
            self._stream.clear()
            self.correct(self.ppm)
            self._position = 0.0
            self._origin = block.first_frame
        self._fields.add(block, block.first_frame - self._origin)
        self._trail.add(block, block.first_frame - self._origin)
        self._next_in = block.first_frame + len(samples)
        self._flags |= block.flags & ONCE
        samples = self._stream.resample_chunk(samples)
        made = []
        most = self.target.max_block_frames
        for begin in range(0, len(samples), most):
            part = samples[begin : begin + most]
            after = self._position + len(part) * (1 + self.ppm / 1e6)
            made.append(
                Block(
                    part,
                    self.target,
                    timestamp_ns=self._trail.timestamp_ns(self._position),
                    first_frame=self._given,
                    sequence=self._sequence,
                    flags=self._flags | self._trail.flags(self._position, after),
                    metadata=self._fields.take(after),
                )
            )
            self._position, self._flags = after, 0
            self._given += len(part)
            self._sequence += 1
        return tuple(made)

    def flush(self) -> tuple[Block, ...]:
        """Nothing is given at the end: what is left is some ms, of a stream that a device would go on playing."""
        return ()
