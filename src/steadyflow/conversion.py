"""What a conversion does, as plain values: how, in which steps, and what each of them has done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from steadyflow.errors import ConfigurationError, UnknownName
from steadyflow.formats import AudioFormat, Format

QUALITIES = ("QQ", "LQ", "MQ", "HQ", "VHQ")
"""Of the resampler, from quick to very high; as soxr calls them."""

_ON_ERROR = ("fail", "drop")

CostClass: TypeAlias = Literal["free", "copy", "compute"]
"""Nothing is touched; each sample is touched once; it is worked on."""


class ConversionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    How to convert, where there is a choice.

    Args:
        quality: Of the resampler: ``"QQ"``, ``"LQ"``, ``"MQ"``, ``"HQ"`` or ``"VHQ"``.
        dither: Add triangular noise of one step where samples lose bits.
        mix: One row for each channel that comes out, one coefficient for each that goes in; None: by the names of the
            layouts, with the coefficients of ITU-R BS.775.
        normalize: Scale the published coefficients so that what did not clip before the mix does not clip after it.
        on_error: What a flow does with a block that cannot be converted: ``"fail"`` ends the module with the `TransformError`,
            ``"drop"`` drops the block, tells it by an event, and the next block says `BlockFlag.DISCONTINUITY`.

    Raises:
        UnknownName: There is no such quality.
        ConfigurationError: The matrix has rows of different length, or what is no finite number.
    """

    quality: str = "HQ"
    dither: bool = False
    mix: tuple[tuple[float, ...], ...] | None = None
    normalize: bool = True
    on_error: Literal["fail", "drop"] = "fail"

    def __post_init__(self) -> None:
        if self.quality not in QUALITIES:
            raise UnknownName("quality", self.quality, QUALITIES, where="ConversionOptions")
        if self.on_error not in _ON_ERROR:
            raise UnknownName("value of on_error", self.on_error, _ON_ERROR, where="ConversionOptions")
        if self.mix is not None:
            msgspec.structs.force_setattr(self, "mix", _checked_matrix(self.mix))


def _checked_matrix(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    try:
        matrix = tuple(tuple(float(coefficient) for coefficient in row) for row in rows)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"ConversionOptions: expected mix to be rows of numbers, such as [[0.5, 0.5]], got {rows!r}."
        ) from None
    widths = {len(row) for row in matrix}
    if len(widths) != 1 or widths == {0}:
        raise ConfigurationError(
            f"ConversionOptions: expected mix to have rows of the same length, one coefficient for each channel that goes "
            f"in; got rows of {sorted(widths)}."
        )
    if not all(abs(coefficient) < float("inf") for row in matrix for coefficient in row):
        raise ConfigurationError(f"ConversionOptions: expected mix to have finite coefficients, got {rows!r}.")
    return matrix


class ConversionStep(msgspec.Struct, frozen=True, kw_only=True):
    """
    One conversion of a plan.

    Args:
        converter: The name of the converter that does it.
        source: What goes in.
        target: What comes out.
        does: In words: ``"48000 Hz -> 16000 Hz, HQ"``.
        cost_class: ``"free"``, ``"copy"`` or ``"compute"``.
        cost: An estimate by which chains are compared: ns of work for each second of a stream.
        delay_frames: How many frames of the target come out later than they went in, at most.
        remembers: Whether it needs the blocks in their order, because what comes out depends on those before.
    """

    converter: str
    source: Format
    target: Format
    does: str
    cost_class: CostClass
    cost: int
    delay_frames: int = 0
    remembers: bool = False

    @property
    def zero_copy(self) -> bool:
        """Whether what comes out lies where it lay before."""
        return self.cost_class == "free"


class ConversionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """
    A chain of conversions from one format to another. Print it to see what it does.

    Args:
        source: What goes in.
        target: What comes out, with nothing left open.
        steps: In their order; none where the ends agree.
        options: How they are done.
        window_frames: The length of the blocks that come out; None: as they come.
        hop_frames: How many frames a block starts after the one before.
        pad_last: Whether the last, shorter block comes out too, filled up with silence.
    """

    source: Format
    target: Format
    steps: tuple[ConversionStep, ...]
    options: ConversionOptions = ConversionOptions()
    window_frames: int | None = None
    hop_frames: int | None = None
    pad_last: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do: the data itself is what comes out."""
        return not self.steps and self.window_frames is None

    @property
    def zero_copy(self) -> bool:
        """Whether no step copies samples."""
        return all(step.zero_copy for step in self.steps) and self.window_frames is None

    @property
    def delay_ms(self) -> float:
        """How much later frames come out than they went in, at most, without the wait for a window to fill."""
        return sum(
            1000 * step.delay_frames / (step.target.sample_rate_hz or 1)
            for step in self.steps
            if isinstance(step.target, AudioFormat)
        )

    @property
    def window_ms(self) -> float:
        """How long a window takes to fill; 0 where there is none."""
        if self.window_frames is None or not isinstance(self.target, AudioFormat):
            return 0.0
        return 1000 * self.window_frames / (self.target.sample_rate_hz or 1)

    def __str__(self) -> str:
        lines = [f"{self.source}", f"  -> {self.target}"]
        if self.is_empty:
            return "\n".join([*lines, "  nothing to convert: the data itself is passed on"])
        rows = [(step.converter, step.does, step.cost_class, _frames(step.delay_frames)) for step in self.steps]
        if self.window_frames is not None:
            padded = ", the last one padded" if self.pad_last else ""
            rows.append(
                ("windows", f"{self.window_frames} frames, hop {self.hop_frames}{padded}", "copy", "until it is full")
            )
        header = ("step", "does", "cost", "delay")
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(4)]
        for number, row in enumerate((header, *rows)):
            cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append(f"  {number or ' '}  {cells}".rstrip())
        lines.append(f"  delay of the filters: {self.delay_ms:.2f} ms; copies: {'none' if self.zero_copy else 'yes'}")
        return "\n".join(lines)


def _frames(frames: int) -> str:
    return "none" if frames == 0 else f"{frames} frames"


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one step of a conversion has done.

    Args:
        step: What it is: ``"rate: 48000 Hz -> 16000 Hz, HQ"``.
        calls: How many blocks went in.
        frames: How many frames came out; 0 where there are none.
        copied_bytes: How many bytes it has written that lay elsewhere before.
        busy_ns: How long it worked.
        clipped: Samples that were limited to full scale.
        not_a_number: Samples that were no numbers, and became 0.
        invalid: Blocks that a check found wrong.
        repaired: Blocks that it repaired.
        rejected: Blocks that could not be converted, or did not pass the check, and were dropped.
    """

    step: str
    calls: int
    frames: int
    copied_bytes: int
    busy_ns: int
    clipped: int = 0
    not_a_number: int = 0
    invalid: int = 0
    repaired: int = 0
    rejected: int = 0

    @property
    def ns_per_frame(self) -> float:
        """How long a frame took; 0 where there were none."""
        return self.busy_ns / self.frames if self.frames else 0.0


def added_up(conversions: Sequence[Mapping[str, Sequence[StepReport]]]) -> dict[str, tuple[StepReport, ...]]:
    """Add up what the replicas of a module did, step by step; one that has not told yet did nothing."""
    sums: dict[str, tuple[StepReport, ...]] = {}
    for each in conversions:
        for pipeline, steps in each.items():
            known = sums.get(pipeline)
            sums[pipeline] = tuple(steps) if known is None else tuple(map(_sum, known, steps))
    return sums


def _sum(one: StepReport, other: StepReport) -> StepReport:
    counted = [name for name in StepReport.__struct_fields__ if name != "step"]
    return StepReport(step=one.step, **{name: getattr(one, name) + getattr(other, name) for name in counted})


def conversion_from_table(table: object) -> ConversionOptions:
    """
    Read options as a file writes them: ``{quality = "VHQ", dither = true}``.

    Raises:
        UnknownName: There is no such option.
        ConfigurationError: A value is impossible.
    """
    if not isinstance(table, Mapping):
        raise ConfigurationError(f'expected options such as {{quality = "VHQ"}}, got {table!r}.')
    values: dict[str, Any] = dict(table)
    for name, value in values.items():
        if name not in ConversionOptions.__struct_fields__:
            raise UnknownName("option of conversion", name, ConversionOptions.__struct_fields__)
        if name in ("dither", "normalize") and not isinstance(value, bool):
            raise ConfigurationError(f"conversion: expected {name} to be true or false, got {value!r}.")
    return ConversionOptions(**values)
