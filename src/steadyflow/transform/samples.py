"""
Sample type, channels and memory layout, in one pass.

What the numbers mean: full scale of an integer of b bits is 2^(b-1) in both directions, rounding is to the nearest, halves to
even; what is outside is limited and counted. The arithmetic is native, see native/convert.hpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

import msgspec

from steadyflow._native import Block, SampleStage
from steadyflow.conversion import ConversionOptions, ConversionStep, CostClass
from steadyflow.formats import SAMPLE_BITS, AudioFormat, Format, SampleType
from steadyflow.payload import native_spec
from steadyflow.transform.conforming import Conforming, unlimited
from steadyflow.transform.converter import Stage
from steadyflow.transform.mixing import Matrix, mixing_matrix

_CALL_NS: Final = 1000  # so that one step is better than two
_BYTES_PER_NS: Final = 8
_MIXES_PER_NS: Final = 2


def working_type(*types: str) -> SampleType:
    """Return the type to compute in, so that nothing is lost that all of these types keep."""
    return "f32" if min(SAMPLE_BITS[each] for each in types) <= SAMPLE_BITS["f32"] else "f64"


class SampleTypeConverter:
    """Converts between sample types, channel layouts and memory layouts."""

    name = "samples"
    starts: Sequence[Format] = ()

    def offers(self, fmt: Format, goals: Sequence[Format], options: ConversionOptions) -> Iterator[ConversionStep]:
        """Return every mixture of what there is, what is wanted, and what a resampler needs."""
        if not isinstance(fmt, AudioFormat):
            return
        offered = {fmt}
        for goal in goals:
            if not isinstance(goal, AudioFormat):
                continue
            types = {fmt.sample_type, goal.sample_type, working_type(fmt.sample_type, goal.sample_type)}
            channels = {(fmt.channels, fmt.channel_layout), (goal.channels, goal.channel_layout)}
            layouts = {fmt.layout, goal.layout, "interleaved"}
            for sample_type, (count, names), layout in product(sorted(types), channels, sorted(layouts)):
                target = msgspec.structs.replace(
                    fmt, sample_type=sample_type, channels=count, channel_layout=names, layout=layout
                )
                if target not in offered:
                    offered.add(target)
                    step = _step(fmt, target, options)
                    if step is not None:
                        yield step

    def delay_frames(self, _step: ConversionStep, _options: ConversionOptions) -> int:
        """Return 0: each sample comes out with its block."""
        return 0

    def stage(self, step: ConversionStep, options: ConversionOptions) -> Stage:
        """Set the native kernel to work, or nothing where the memory stays as it is."""
        source, target = _audio(step.source), _audio(step.target)
        if step.zero_copy:
            return _View(step, source, target)
        matrix = matrix_between(source, target, options)
        return SampleStage(
            native_spec(unlimited(source)),
            native_spec(unlimited(target)),
            [coefficient for row in matrix or () for coefficient in row],
            dithers(source, target, matrix, options),
            target,
            Conforming(self.name, source),
        )


def matrix_between(source: AudioFormat, target: AudioFormat, options: ConversionOptions) -> Matrix | None:
    """
    Return how channels are mixed; None: channel by channel.

    Raises:
        LookupError: Nobody said how.
    """
    if source.channels == target.channels and source.positions == target.positions:
        return None
    mix = options.mix
    if mix is not None and (len(mix), len(mix[0])) == (target.channels, source.channels):
        return mix
    assert source.positions is not None
    assert target.positions is not None
    matrix = mixing_matrix(source.positions, target.positions, normalize=options.normalize)
    if matrix is None and source.channels != target.channels:
        raise LookupError(f"no way from {source.positions} to {target.positions}")
    return matrix


def _step(source: AudioFormat, target: AudioFormat, options: ConversionOptions) -> ConversionStep | None:
    try:
        matrix = matrix_between(source, target, options)
    except LookupError:
        return None
    same_memory = source.layout == target.layout or source.channels == 1
    free = matrix is None and source.sample_type == target.sample_type and same_memory
    cost_class: CostClass = "free" if free else "copy"
    rate = source.sample_rate_hz or 0
    cost = _CALL_NS
    if not free:
        cost += rate * (source.frame_bytes + target.frame_bytes) // _BYTES_PER_NS
    if matrix is not None:
        cost += rate * len(matrix) * len(matrix[0]) // _MIXES_PER_NS
    return ConversionStep(
        converter=SampleTypeConverter.name,
        source=source,
        target=target,
        does=_in_words(source, target, matrix, options),
        cost_class=cost_class,
        cost=cost,
    )


def _in_words(source: AudioFormat, target: AudioFormat, matrix: Matrix | None, options: ConversionOptions) -> str:
    parts = []
    if source.sample_type != target.sample_type:
        parts.append(f"{source.sample_type} -> {target.sample_type}")
    if source.channels != target.channels or source.positions != target.positions:
        parts.append(f"{_channels(source)} -> {_channels(target)}")
    if source.layout != target.layout:
        parts.append(f"{source.layout} -> {target.layout}")
    if dithers(source, target, matrix, options):
        parts.append("dithered")
    return ", ".join(parts)


def _channels(fmt: AudioFormat) -> str:
    return f"{fmt.channels} {fmt.positions}" if fmt.positions == "discrete" else str(fmt.positions)


def dithers(source: AudioFormat, target: AudioFormat, matrix: Matrix | None, options: ConversionOptions) -> bool:
    """Tell whether bits are lost, and noise is wanted in their place."""
    if not options.dither or target.sample_type in ("f32", "f64"):
        return False
    return matrix is not None or SAMPLE_BITS[target.sample_type] < SAMPLE_BITS[source.sample_type]


class _View:
    """The same memory under another name: one channel is planar and interleaved at once."""

    def __init__(self, step: ConversionStep, source: AudioFormat, target: AudioFormat) -> None:
        self._conforming = Conforming(step.converter, source)
        self._axis = 1 if source.layout == "planar" else 0
        self._target = target

    def push(self, block: Block) -> tuple[Block, ...]:
        samples = self._conforming(block.data)
        frames = samples.shape[self._axis]
        return (block.derived(samples.reshape(self._target.block_shape(frames)), self._target),)

    def flush(self) -> tuple[Block, ...]:
        return ()


def _audio(fmt: Format) -> AudioFormat:
    assert isinstance(fmt, AudioFormat)
    return fmt
