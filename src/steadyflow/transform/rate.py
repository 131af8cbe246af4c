"""
Sample rate, by soxr: one stream, never cleared in the middle, flushed at the end.

soxr gives the first sample of its output at the time of the first one of its input, and withholds what it cannot know yet. So no
sample is shifted, and a block's timestamp is that of the place in the input where its first frame lies.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from steadyflow._native import Block
from steadyflow.conversion import ConversionOptions, ConversionStep
from steadyflow.data import possible_time
from steadyflow.errors import MissingExtra, TransformError
from steadyflow.formats import AudioFormat, Format, SampleType
from steadyflow.transform.conforming import Conforming
from steadyflow.transform.converter import Stage
from steadyflow.transform.fields import ONCE, Fields

if TYPE_CHECKING:
    import soxr

_CALL_NS: Final = 3000
_NS_PER_SAMPLE: Final[dict[str, int]] = {"QQ": 4, "LQ": 10, "MQ": 12, "HQ": 20, "VHQ": 40}
_LAST_FRAME: Final = 1 << 62  # a damaged block may begin anywhere
_NEVER: Final = float("inf")
_PROBE_SECONDS: Final = 20


class RateConverter:
    """Converts between sample rates."""

    name = "rate"
    starts: Sequence[Format] = ()

    def offers(self, fmt: Format, goals: Sequence[Format], options: ConversionOptions) -> Iterator[ConversionStep]:
        """Return one step to each rate that is wanted, where the samples are as soxr takes them."""
        if not isinstance(fmt, AudioFormat) or fmt.layout != "interleaved" or fmt.sample_type not in ("f32", "f64"):
            return
        rates = {goal.sample_rate_hz for goal in goals if isinstance(goal, AudioFormat)}
        in_hz, channels = fmt.sample_rate_hz or 1, fmt.channels or 1
        for rate in sorted(rate for rate in rates if rate is not None and rate != in_hz):
            work = max(rate, in_hz) * channels * _NS_PER_SAMPLE[options.quality]
            most = min(-(-fmt.max_block_frames * rate // in_hz), 1 << 24)
            yield ConversionStep(
                converter=self.name,
                source=fmt,
                target=msgspec.structs.replace(fmt, sample_rate_hz=rate, max_block_frames=most),
                does=f"{in_hz} Hz -> {rate} Hz, {options.quality}",
                cost_class="compute",
                cost=_CALL_NS + (work if fmt.sample_type == "f32" else 2 * work),
                remembers=True,
            )

    def delay_frames(self, step: ConversionStep, options: ConversionOptions) -> int:
        """
        Return how many frames soxr withholds at most.

        Raises:
            MissingExtra: It is not installed.
        """
        source, target = _audio(step.source), _audio(step.target)
        return withheld_frames(
            source.sample_rate_hz or 1, target.sample_rate_hz or 1, source.sample_type, options.quality
        )

    def stage(self, step: ConversionStep, options: ConversionOptions) -> Stage:
        """Set a stream of soxr to work."""
        return RateStage(_audio(step.source), _audio(step.target), options.quality)


class RateStage:
    """
    A stream of soxr at work.

    What comes before a discontinuity is given whole, as at the end of a stream, before what comes after it.

    Args:
        source: What goes in: interleaved, f32 or f64.
        target: The same at another rate; blocks are at most as long as its `max_block_frames`.
        quality: Of soxr.

    Raises:
        MissingExtra: soxr is not installed.
        TransformError: It refuses.
    """

    def __init__(self, source: AudioFormat, target: AudioFormat, quality: str) -> None:
        self._in_hz = source.sample_rate_hz or 1
        self._out_hz = target.sample_rate_hz or 1
        self._ratio = self._in_hz / self._out_hz
        self._target = target
        self._stream = make_stream(source, self._out_hz, quality)
        self._resample = self._stream.resample_chunk
        self._conforming = Conforming(RateConverter.name, source)
        self._nothing = np.empty(source.block_shape(0), source.dtype)
        self._begun = False
        self._next_in = 0  # the index that the next frame of the input will have
        self._base_in = 0  # of the first frame since the stream began or was broken
        self._base_out = 0
        self._given = 0  # frames since then
        self._sequence = 0
        self._flags = 0  # that the next block says, of what comes before it
        self._fields = Fields(RateConverter.name, 1e9 / self._in_hz)

    def push(self, block: Block) -> Sequence[Block]:
        """Resample a block; see `Stage`."""
        samples = self._conforming(block.payload)  # before anything changes
        first_frame = block.first_frame
        before: list[Block] = []
        if self._begun and (first_frame != self._next_in or block.flags & ONCE):
            before = self._end()
            self._fields.restart()
        if not self._begun:
            self._begin(first_frame)
        self._fields.add(block, first_frame)
        self._flags |= block.flags & ONCE
        self._next_in = first_frame + len(samples)
        return self._blocks(self._resample(samples), before)

    def flush(self) -> Sequence[Block]:
        """Give what soxr still withholds."""
        left = self._end() if self._begun else []
        self._fields.clear()
        self._flags = self._sequence = 0
        return left

    def _begin(self, first_frame: int) -> None:
        self._begun = True
        self._base_in = first_frame
        self._base_out = min((2 * first_frame * self._out_hz + self._in_hz) // (2 * self._in_hz), _LAST_FRAME)
        self._given = 0

    def _end(self) -> list[Block]:
        blocks = self._blocks(self._resample(self._nothing, last=True), [], _NEVER)
        self._stream.clear()
        self._begun = False
        return blocks

    def _blocks(self, samples: np.ndarray[Any, Any], blocks: list[Block], beyond: float = 0) -> list[Block]:
        """Put samples into blocks with their stamps; append them. They get the fields of what begins before `beyond`, too."""
        frames, most = len(samples), self._target.max_block_frames
        for begin in range(0, frames, most):
            part = samples if frames <= most else samples[begin : begin + most]
            position = self._base_in + self._given * self._ratio
            end = self._base_in + (self._given + len(part)) * self._ratio
            blocks.append(
                Block(
                    part,
                    self._target,
                    timestamp_ns=possible_time(self._fields.timestamp_ns(position)),
                    first_frame=self._base_out + self._given,
                    sequence=self._sequence,
                    flags=self._flags | self._fields.flags(position, end),
                    metadata=self._fields.take(beyond if begin + most >= frames and beyond else end),
                )
            )
            self._given += len(part)
            self._sequence += 1
            self._flags = 0
        return blocks


def make_stream(source: AudioFormat, rate_hz: int, quality: str) -> soxr.ResampleStream:
    """
    Make a stream of soxr.

    Raises:
        MissingExtra: soxr is not installed.
        TransformError: It refuses.
    """
    try:
        import soxr
    except ImportError as missing:
        raise MissingExtra("audio", "another sample rate") from missing
    try:
        return soxr.ResampleStream(
            source.sample_rate_hz or 1, rate_hz, source.channels or 1, dtype=source.dtype.name, quality=quality
        )
    except (ValueError, RuntimeError, MemoryError) as refusal:
        raise TransformError(
            f"{RateConverter.name}: expected soxr to take {source} to {rate_hz} Hz at {quality}: {refusal}"
        ) from refusal


@functools.cache
def withheld_frames(in_hz: int, out_hz: int, sample_type: SampleType, quality: str) -> int:
    """
    Return how many frames of its output soxr withholds at most, found by asking it. Allocates; takes some ms.

    Raises:
        MissingExtra: soxr is not installed.
    """
    fmt = AudioFormat(in_hz, 1, sample_type)
    stream = make_stream(fmt, out_hz, quality)
    block = np.zeros(max(1, in_hz // 1000), fmt.dtype)  # as short as blocks are: a long one hides what is withheld
    taken = given = most = 0
    until = _PROBE_SECONDS * in_hz
    while taken < until:
        taken += len(block)
        given += len(stream.resample_chunk(block))
        most = max(most, taken * out_hz // in_hz - given)
        if given and until == _PROBE_SECONDS * in_hz:
            until = max(8 * taken, in_hz)  # it gives what it has in bursts: several of them tell
    return most


def _audio(fmt: Format) -> AudioFormat:
    assert isinstance(fmt, AudioFormat)
    return fmt
