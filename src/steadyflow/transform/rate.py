"""
Sample rate, by soxr: one stream, never cleared in the middle, flushed at the end.

soxr gives the first sample of its output at the time of the first one of its input, and withholds what it cannot know yet. So no
sample is shifted, and a block's timestamp is that of the place in the input where its first frame lies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from steadyflow._native import RateStage
from steadyflow.conversion import ConversionOptions, ConversionStep
from steadyflow.errors import MissingExtra, TransformError
from steadyflow.formats import AudioFormat, Format, SampleType
from steadyflow.payload import native_spec
from steadyflow.transform.conforming import Conforming, unlimited
from steadyflow.transform.converter import Stage
from steadyflow.transform.fields import Fields

if TYPE_CHECKING:
    import soxr

_CALL_NS: Final = 3000
_NS_PER_SAMPLE: Final[dict[str, int]] = {"QQ": 4, "LQ": 10, "MQ": 12, "HQ": 20, "VHQ": 40}
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
        """
        Set a stream of soxr to work.

        Raises:
            MissingExtra: It is not installed.
            TransformError: It refuses.
        """
        source, target = _audio(step.source), _audio(step.target)
        assert source.sample_rate_hz is not None
        assert target.sample_rate_hz is not None
        stream = make_stream(source, target.sample_rate_hz, options.quality)
        return RateStage(
            _unchecked(stream, source),
            stream.clear,
            native_spec(unlimited(source)),
            target,
            target.max_block_frames,
            source.sample_rate_hz,
            target.sample_rate_hz,
            Conforming(self.name, source),
            Fields(self.name),
        )


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


def _unchecked(stream: soxr.ResampleStream, source: AudioFormat) -> Callable[..., object]:
    """
    Return what `resample_chunk` of a new stream calls, once it has checked what `RateStage` has checked already.

    A tenth of the time of a short block. It is not documented, so where it is not what it was, the method itself.
    """
    process: Callable[..., object] | None = getattr(stream, "_process", None)
    nothing = np.empty(source.block_shape(0), source.dtype)
    try:
        given = None if process is None else process(nothing, False)
    except TypeError:
        given = None
    known = isinstance(given, np.ndarray) and given.dtype == nothing.dtype and given.shape == nothing.shape
    return process if process is not None and known else stream.resample_chunk


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
