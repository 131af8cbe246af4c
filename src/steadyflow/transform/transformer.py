"""A plan at work: data in, data out, with what is between remembered until the next."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from steadyflow._native import Block, StageMeter, monotonic_ns
from steadyflow.conversion import ConversionOptions, ConversionPlan, StepReport
from steadyflow.data import BlockFlag, FlowData, MetadataValue, possible_time
from steadyflow.errors import ConfigurationError, TransformError
from steadyflow.formats import MAX_WINDOW_FRAMES, AnyFormat, AudioFormat, CarrierFormat, Format, checked_integer
from steadyflow.transform.carriers.carrier import CarrierConverter, EncodingStage, carrier_of
from steadyflow.transform.conforming import Conforming
from steadyflow.transform.converter import Converters, FunctionConverter, Stage, filled, same_kind
from steadyflow.transform.planner import cheapest_chain
from steadyflow.transform.rate import RateConverter
from steadyflow.transform.samples import SampleTypeConverter
from steadyflow.transform.validating import ValidationStage
from steadyflow.transform.windows import WindowStage
from steadyflow.validation import Validation, check_validation

_END: Final = int(BlockFlag.END_OF_STREAM)
_ONCE_OR_END: Final = int(BlockFlag.DISCONTINUITY | BlockFlag.END_OF_STREAM)
_PIECE_FRAMES: Final = 1 << 16

converters = Converters([SampleTypeConverter(), RateConverter(), CarrierConverter()])
"""All converters of this process."""

register = converters.register
unregister = converters.unregister


def register_function(
    function: Callable[[Any], object], source: Format, target: Format, *, name: str | None = None, cost: int = 1_000_000
) -> None:
    """
    Let conversions use a function: for data of one block it returns the data of another one.

    Args:
        function: Takes `Block.data`, returns what the new block carries. In a flow with process workers, define it at the top
            level of a module, and register it there.
        source: What it takes; what an `AudioFormat` leaves open may be anything.
        target: What it returns; what an `AudioFormat` leaves open stays as it is.
        name: What plans call it; None: as the function is called.
        cost: An estimate by which chains are compared: ns of work for each second of a stream.

    Raises:
        DuplicateName: There is a converter of that name.
    """
    called = name if name is not None else str(getattr(function, "__qualname__", function))
    converters.register(FunctionConverter(called, function, source, target, cost))


def make_plan(
    source: Format,
    goal: Format,
    options: ConversionOptions | None = None,
    *,
    window_frames: int | None = None,
    hop_frames: int | None = None,
    pad_last: bool = False,
    where: str = "plan",
) -> ConversionPlan:
    """
    Find how to come from one format to another.

    Args:
        source: What there is; nothing may be left open.
        goal: What is wanted; what is open in it stays as it is.
        options: How, where there is a choice.
        window_frames: Give blocks of this length; None: as they come.
        hop_frames: How many frames a block starts after the one before; None: where that one ends.
        pad_last: Give what is left at the end, too, filled up with silence.
        where: The pipeline or call, for messages.

    Raises:
        FormatClash: Nothing leads there, or two ways of the same cost do.
        ConfigurationError: A format is not complete, or an option does not go with them.
        MissingExtra: What a step needs is not installed.
    """
    options = options or ConversionOptions()
    for name, fmt in (("from_format", source), ("to_format", goal)):
        if not isinstance(fmt, Format):
            raise ConfigurationError(f"{where}: expected {name} to be a format, got {fmt!r}.")
    if not source.is_resolved or isinstance(source, AnyFormat):
        raise ConfigurationError(f"{where}: expected to know what there is, got {source}. Give its rate and channels.")
    source, goal = _completed(source, goal, options)
    if not goal.is_resolved or isinstance(goal, AnyFormat):
        raise ConfigurationError(f"{where}: expected to know what is wanted, got {goal}, and {source} does not say it.")
    check_mix(source, goal, options, where)
    chain = cheapest_chain(source, goal, converters, options, where=where)
    steps = tuple(
        msgspec.structs.replace(step, delay_frames=converters.named(step.converter).delay_frames(step, options))
        for step in chain
    )
    target = steps[-1].target if steps else source
    if window_frames is None:
        for name, given in (("hop_frames", hop_frames is not None), ("pad_last", pad_last)):
            if given:
                raise ConfigurationError(f"{where}: {name} needs window_frames, the length of a window.")
    else:
        if not isinstance(target, AudioFormat):
            raise ConfigurationError(f"{where}: only audio has windows, got window_frames with {target}.")
        window_frames = checked_integer(where, "window_frames", window_frames, MAX_WINDOW_FRAMES)
        hop_frames = checked_integer(
            where, "hop_frames", window_frames if hop_frames is None else hop_frames, MAX_WINDOW_FRAMES
        )
        target = msgspec.structs.replace(target, max_block_frames=window_frames)
    return ConversionPlan(
        source=source,
        target=target,
        steps=steps,
        options=options,
        window_frames=window_frames,
        hop_frames=hop_frames,
        pad_last=pad_last,
    )


def _completed(source: Format, goal: Format, options: ConversionOptions) -> tuple[Format, Format]:
    """Return both formats with what either leaves open taken from the other, as far as a conversion does not change it."""
    wanted = filled(goal, source)
    if wanted is None:
        return source, goal
    there, then = _audio(source), _audio(wanted)
    if there is None or then is None or then.channel_layout is None or options.mix is not None:
        return source, wanted
    if there.channel_layout is None and there.channels == then.channels:
        # Channels that only one end names are what it says.
        named = msgspec.structs.replace(there, channel_layout=then.channel_layout)
        source = msgspec.structs.replace(source, audio=named) if isinstance(source, CarrierFormat) else named
    return source, wanted


def _audio(fmt: Format) -> AudioFormat | None:
    """Return the audio that a format is, or holds."""
    held = fmt.audio if isinstance(fmt, CarrierFormat) else fmt
    return held if isinstance(held, AudioFormat) else None


def check_mix(source: Format, goal: Format, options: ConversionOptions, where: str) -> None:
    """
    Check a matrix against the channels of both ends.

    Raises:
        ConfigurationError: It has another shape, or there is nothing to mix.
    """
    if options.mix is None:
        return
    there, then = _audio(source), _audio(goal)
    if there is None or then is None:
        raise ConfigurationError(f"{where}: mix= is for audio, got {source} and {goal}.")
    shape = (len(options.mix), len(options.mix[0]))
    if shape != (then.channels, there.channels):
        raise ConfigurationError(
            f"{where}: expected mix of {then.channels} rows, one for each channel that comes out, with {there.channels} "
            f"coefficients; got {shape[0]} rows with {shape[1]}."
        )
    if there.channels == then.channels and there.positions == then.positions:
        raise ConfigurationError(
            f"{where}: expected other channels at the other end, because mix= says how they are mixed; both are "
            f"{then.positions}. Name one of them: channel_layout='discrete'."
        )


class _Counted:
    """A stage, and what it has done."""

    __slots__ = ("_carried", "_copies", "_frame_bytes", "_meter", "name", "push", "stage")

    def __init__(
        self,
        name: str,
        stage: Stage | WindowStage | ValidationStage,
        target: Format,
        *,
        copies: bool,
        holds_end: bool,
    ) -> None:
        self.name = name
        self.stage = stage
        self._copies = copies
        # Where audio comes out, what was copied follows from its frames.
        self._frame_bytes = target.frame_bytes if isinstance(target, AudioFormat) else 0
        self._meter = StageMeter(stage, counts_frames=self._frame_bytes > 0, holds_end=holds_end)
        self._carried: _Carried | None = None
        self.push: Callable[[Block], Iterable[Block]] = self._meter.push
        if isinstance(stage, WindowStage):  # of a block it may make very many, which need not be there all at once
            self.push = functools.partial(_one_by_one, stage, self._meter)
        elif not self._frame_bytes:
            self._carried = _Carried(self._meter, copies=copies)
            self.push = self._carried.push

    def flush(self) -> Sequence[Block]:
        began_ns = monotonic_ns()
        made = self.stage.flush()
        self._meter.busy_ns += monotonic_ns() - began_ns
        self._meter.frames += sum(block.frames for block in made)
        return made

    def end_taken(self) -> bool:
        """Tell whether the stream that was flushed said that it ends, and forget it."""
        ends, self._meter.end_held = self._meter.end_held, False
        return ends

    def report(self) -> StepReport:
        meter = self._meter
        carried_bytes = 0 if self._carried is None else self._carried.copied_bytes
        return StepReport(
            step=self.name,
            calls=meter.calls,
            frames=meter.frames,
            copied_bytes=carried_bytes + (meter.frames * self._frame_bytes if self._copies else 0),
            busy_ns=meter.busy_ns,
            clipped=getattr(self.stage, "clipped", 0),
            not_a_number=getattr(self.stage, "not_a_number", 0),
            invalid=getattr(self.stage, "invalid", 0),
            repaired=getattr(self.stage, "repaired", 0),
            rejected=meter.rejected,
        )


class _Carried:
    """Counts what becomes something else than audio."""

    def __init__(self, meter: StageMeter, *, copies: bool) -> None:
        self._meter = meter
        self._copies = copies
        self.copied_bytes = 0

    def push(self, block: Block) -> Sequence[Block]:
        made = self._meter.push(block)
        for each in made:
            self._meter.frames += block.frames
            # A view that was planned may have to be a copy: what may only be read, say.
            if self._copies or not _shares(block.payload, each.payload):
                self.copied_bytes += _bytes_of(each.payload)
        return made


def _one_by_one(stage: WindowStage, meter: StageMeter, block: Block) -> Iterator[Block]:
    meter.calls += 1
    if block.flags & _END:  # it does not come out again: see `WindowStage`
        meter.end_held = True
    began_ns = monotonic_ns()
    try:
        for made in stage.push(block):
            meter.busy_ns += monotonic_ns() - began_ns
            meter.frames += made.frames
            yield made
            began_ns = monotonic_ns()
    except TransformError:
        meter.rejected += 1
        raise
    meter.busy_ns += monotonic_ns() - began_ns


def _shares(source: object, made: object) -> bool:
    if source is made or not isinstance(made, np.ndarray):
        return True
    try:
        return np.may_share_memory(np.asarray(source), made)
    except (TypeError, ValueError):
        return True  # what cannot be looked into is taken at its word


def _bytes_of(payload: object) -> int:
    try:
        return memoryview(payload).nbytes  # type: ignore[arg-type]
    except TypeError:
        return int(getattr(payload, "nbytes", 0))


class Conversion:
    """
    A plan at work on one stream. One thread at a time; may allocate; does not wait.

    Args:
        plan: What it does.
        validation: What the blocks are checked for before; None: nothing.

    Attributes:
        push: Takes a block; returns what that makes: none, one or several. Take all of it before the next call. Raises
            TransformError where the block is not what the plan takes; also while what it makes is taken, behind what came before it.

    Raises:
        MissingExtra: What a step needs is not installed.
        ConfigurationError: What is no audio is to be checked.
    """

    def __init__(self, plan: ConversionPlan, validation: Validation | None = None) -> None:
        self.plan = plan
        # The end is said by the last block that comes out.
        holds_end = plan.window_frames is not None or any(step.remembers for step in plan.steps)
        stages: list[_Counted] = []

        def add(name: str, stage: Stage | WindowStage | ValidationStage, target: Format, *, copies: bool) -> None:
            stages.append(_Counted(name, stage, target, copies=copies, holds_end=holds_end and not stages))

        if validation is not None:
            check_validation("validation", plan.source, validation)
            assert isinstance(plan.source, AudioFormat)
            check = ValidationStage(plan.source, validation)
            add(f"validation: {validation.mode}", check, plan.source, copies=False)
        for step in plan.steps:
            stage = converters.named(step.converter).stage(step, plan.options)
            add(f"{step.converter}: {step.does}", stage, step.target, copies=not step.zero_copy)
        if plan.window_frames is not None:
            fmt = plan.steps[-1].target if plan.steps else plan.source
            assert isinstance(fmt, AudioFormat)
            assert plan.hop_frames is not None
            windows = WindowStage(fmt, plan.window_frames, plan.hop_frames, pad_last=plan.pad_last)
            does = f"windows: {plan.window_frames} frames, hop {plan.hop_frames}"
            add(does, windows, fmt, copies=True)
        self._stages = tuple(stages)
        # One stage, as most plans have, is called without a detour.
        self.push: Callable[[Block], Iterable[Block]] = (
            stages[0].push if len(stages) == 1 else functools.partial(_through, self._stages)
        )

    def flush(self) -> Iterator[Block]:
        """Give what is left, at the end of the stream; after that a new one may begin."""
        held: Block | None = None
        for number, stage in enumerate(self._stages, 1):
            for block in stage.flush():
                for made in _through(self._stages[number:], block):
                    if held is not None:
                        yield held
                    held = made
        ends = bool(self._stages) and self._stages[0].end_taken()  # the others never see it
        if held is not None:
            yield held.derived(held.data, held.format, held.flags | _END) if ends else held

    def whole(self, blocks: Iterable[Block]) -> Block:
        """
        Convert a stream that is there whole, step by step, to one block.

        Raises:
            TransformError: It is not what the plan takes, or so short that nothing comes out.
            ConfigurationError: The plan has windows, which are many blocks.
        """
        if self.plan.window_frames is not None:
            raise ConfigurationError("convert: expected a plan without windows, because one block is to come out.")
        for stage in self._stages:
            if isinstance(stage.stage, EncodingStage):  # a file of all of it, and not one of each piece
                blocks = (_joined(list(blocks), self.plan),)
            blocks = [*(made for block in blocks for made in stage.push(block)), *stage.flush()]
        whole = _joined(list(blocks), self.plan)
        ends = bool(self._stages) and self._stages[0].end_taken()
        return whole.derived(whole.data, whole.format, whole.flags | _END) if ends else whole

    def reports(self) -> tuple[StepReport, ...]:
        """Return what each step has done. Any thread."""
        return tuple(stage.report() for stage in self._stages)


def _through(stages: Sequence[_Counted], block: Block) -> Iterator[Block]:
    """Yield what stages, one after the other, make of a block."""
    if not stages:
        yield block
        return
    for made in stages[0].push(block):
        yield from _through(stages[1:], made)


class DataTransformer:
    """
    Converts the data of one stream, or of one after the other.

    ::

        transformer = DataTransformer()
        plan = transformer.plan(AudioFormat(48_000, 2, "s16"), AudioFormat(16_000, 1), window_frames=512, hop_frames=160)
        print(plan)
        for block in blocks:
            windows = transformer.transform(block, plan)
        windows = transformer.flush()

    One thread at a time; may allocate; does not wait. What a stage remembers belongs to the stream, so use one for each.

    Args:
        validation: What the data is checked for before it is converted; None: only for what a step needs.
    """

    def __init__(self, validation: Validation | None = None) -> None:
        self._validation = validation
        self._conversion: Conversion | None = None
        self._ended = False
        self._next_frame = 0
        self._sequence = 0

    def plan(
        self,
        from_format: Format,
        to_format: Format,
        options: ConversionOptions | None = None,
        *,
        window_frames: int | None = None,
        hop_frames: int | None = None,
        pad_last: bool = False,
    ) -> ConversionPlan:
        """
        Find the cheapest way from one format to another. Print it to see what it does.

        Args:
            from_format: What there is; nothing may be left open.
            to_format: What is wanted; what is open in it stays as it is.
            options: How, where there is a choice.
            window_frames: Give blocks of this length; None: as they come.
            hop_frames: How many frames a block starts after the one before; None: where that one ends.
            pad_last: Give what is left at the end, too, filled up with silence.

        Raises:
            FormatClash: Nothing leads there, or two ways of the same cost do; says what is missing.
            ConfigurationError: A format is not complete, or an option does not go with them.
            MissingExtra: What a step needs is not installed.
        """
        return make_plan(
            from_format, to_format, options, window_frames=window_frames, hop_frames=hop_frames, pad_last=pad_last
        )

    def transform(self, data: object, plan: ConversionPlan) -> Sequence[Block]:
        """
        Convert the next piece of a stream.

        Args:
            data: A `Block`, a `FlowData`, or bare data; what it does not say about itself follows from what came before.
            plan: What to do. Another one than before begins another stream; flush the one before first.

        Returns:
            The blocks that come out of it: none, one or several.

        Raises:
            TransformError: The data is not what the plan takes; says the step, what was expected, and what came.
            ConfigurationError: The stream of another plan was not flushed.
        """
        conversion = self._conversion
        if conversion is None or self._ended or conversion.plan is not plan:
            conversion = self._begin(plan)
        block = as_block(data, plan.source, first_frame=self._next_frame, sequence=self._sequence)
        self._next_frame = block.first_frame + block.frames
        self._sequence = block.sequence + 1
        return tuple(conversion.push(block))

    def flush(self) -> Sequence[Block]:
        """Return what is left at the end of the stream. After that another one may begin."""
        left = () if self._conversion is None or self._ended else tuple(self._conversion.flush())
        self._ended = True
        self._next_frame = self._sequence = 0
        return left

    def reports(self) -> tuple[StepReport, ...]:
        """Return what each step has done for the latest stream."""
        return () if self._conversion is None else self._conversion.reports()

    def _begin(self, plan: ConversionPlan) -> Conversion:
        conversion = self._conversion
        if conversion is None or self._ended:
            self._conversion = conversion = Conversion(plan, self._validation)
            self._ended = False
        elif conversion.plan != plan:
            raise ConfigurationError(
                f"transform: expected the stream to go on with the plan that it began with, to {conversion.plan.target}; "
                f"got one to {plan.target}. Take the end of that stream with flush() first, or use another DataTransformer."
            )
        return conversion


def as_block(data: object, fmt: Format, *, first_frame: int = 0, sequence: int = 0, where: str = "transform") -> Block:
    """
    Make a block of data; what it does not say about itself follows from the number of its first frame.

    Raises:
        TransformError: The data is not of the format.
    """
    if isinstance(data, Block):
        _check_declared(data.format, fmt, where)
        if isinstance(fmt, AudioFormat) and isinstance(data.payload, np.ndarray) and data.payload.ndim == 1:
            return data.derived(Conforming(where, fmt)(data.payload), fmt)
        return data
    metadata: dict[str, MetadataValue] | None = None
    timestamp_ns, flags = None, 0
    if isinstance(data, FlowData):
        _check_declared(data.format, fmt, where)
        first_frame = data.first_frame if data.first_frame is not None else first_frame
        timestamp_ns, flags = data.timestamp_ns, data.flags
        metadata = dict(data.metadata) if data.metadata else None
        data = data.data
    if isinstance(fmt, AudioFormat):
        data = Conforming(where, fmt)(data)
    if timestamp_ns is None:
        rate = fmt.sample_rate_hz if isinstance(fmt, AudioFormat) else None
        timestamp_ns = 0 if rate is None else first_frame * 1_000_000_000 // rate
    return Block(
        data,
        fmt,
        timestamp_ns=timestamp_ns,
        first_frame=first_frame,
        sequence=sequence,
        flags=flags,
        metadata=metadata,
    )


def _check_declared(declared: Format | None, fmt: Format, where: str) -> None:
    """Compare what data is said to be with what a plan takes."""
    if declared is None or declared is fmt or isinstance(declared, AnyFormat):
        return
    wanted = filled(declared, fmt)
    if wanted is None or not same_kind(wanted, fmt):
        raise TransformError(f"{where}: expected {fmt}, got data of {declared}. Make a plan from what the data is.")


def convert(
    data: Any,
    from_format: Format,
    to_format: Format,
    options: ConversionOptions | None = None,
    *,
    where: str = "convert",
) -> Any:
    """
    Convert data whole, from its first frame to its last.

    Args:
        data: Bare data, a `FlowData` or a `Block`.
        from_format: What it is.
        to_format: What it is to be; what is open in it stays as it is.
        options: How, where there is a choice.
        where: The call, for messages.

    Returns:
        The same kind of thing; the data itself, where the formats agree.

    Raises:
        FormatClash: Nothing leads there, or two ways of the same cost do.
        ConfigurationError: A format is not complete, or an option does not go with them.
        TransformError: The data is not of its format.
        MissingExtra: What a step needs is not installed.
    """
    bare = data.data if isinstance(data, (Block, FlowData)) else data
    if isinstance(from_format, CarrierFormat) and not from_format.is_resolved:
        told = carrier_of(from_format).describe(bare)
        if told is not None:
            from_format = msgspec.structs.replace(from_format, audio=_completed_by(from_format.audio, told, where))
    plan = make_plan(from_format, to_format, options, where=where)
    if plan.is_empty:
        return data
    made = Conversion(plan).whole(_pieces(data, plan.source, where))
    if isinstance(data, Block):
        return made
    if isinstance(data, FlowData):
        told_by_data = isinstance(plan.source, CarrierFormat) and carrier_of(plan.source).has_stamps
        return FlowData(
            made.data,
            made.format,
            timestamp_ns=None if data.timestamp_ns is None and not told_by_data else max(made.timestamp_ns, 0),
            first_frame=None if data.first_frame is None and not told_by_data else made.first_frame,
            flags=made.flags,
            metadata=made.metadata or None,
        )
    return made.data


def _completed_by(said: AudioFormat | None, told: AudioFormat, where: str) -> AudioFormat:
    """Return what data tells about itself, with the names of channels that somebody has said; the rest has to agree."""
    if said is None:
        return told
    for name in ("sample_rate_hz", "channels"):
        wanted = getattr(said, name)
        if wanted is not None and wanted != getattr(told, name):
            raise TransformError(f"{where}: expected {name} {wanted}, got data of {told}.")
    return msgspec.structs.replace(told, channel_layout=said.channel_layout)


def _pieces(data: Any, fmt: Format, where: str) -> Iterator[Block]:
    """Yield data as blocks of a length that blocks may have."""
    samples = data.payload if isinstance(data, Block) else data.data if isinstance(data, FlowData) else data
    axis = 1 if isinstance(fmt, AudioFormat) and fmt.layout == "planar" else 0
    if not isinstance(fmt, AudioFormat) or not isinstance(samples, np.ndarray) or samples.ndim <= axis:
        yield as_block(data, fmt, where=where)
        return
    frames = samples.shape[axis]
    if frames <= _PIECE_FRAMES:
        yield as_block(data, fmt, where=where)
        return
    first = as_block(_cut(data, samples, axis, 0, _PIECE_FRAMES), fmt, where=where)
    yield first
    for begin in range(_PIECE_FRAMES, frames, _PIECE_FRAMES):
        part = samples[:, begin : begin + _PIECE_FRAMES] if axis else samples[begin : begin + _PIECE_FRAMES]
        yield Block(
            Conforming(where, fmt)(part),
            fmt,
            timestamp_ns=possible_time(first.timestamp_ns + begin * 1_000_000_000 // (fmt.sample_rate_hz or 1)),
            first_frame=first.first_frame + begin,
            sequence=first.sequence,
            flags=first.flags & ~_ONCE_OR_END,
        )


def _cut(data: Any, samples: np.ndarray[Any, Any], axis: int, begin: int, end: int) -> Any:
    part = samples[:, begin:end] if axis else samples[begin:end]
    if isinstance(data, Block):
        return data.derived(np.ascontiguousarray(part), data.format)
    if isinstance(data, FlowData):
        return FlowData(
            part,
            data.format,
            timestamp_ns=data.timestamp_ns,
            first_frame=data.first_frame,
            flags=data.flags,
            metadata=data.metadata,
        )
    return part


def _joined(blocks: Sequence[Block], plan: ConversionPlan) -> Block:
    """Join the blocks that a whole stream has become."""
    if len(blocks) == 1:
        return blocks[0]
    if not blocks:
        raise TransformError(
            f"convert: expected more of {plan.source}: it is so short that nothing of {plan.target} comes out."
        )
    fmt = blocks[0].format
    if not isinstance(fmt, AudioFormat):
        raise TransformError(f"convert: expected one piece of {fmt}, got {len(blocks)}, which nothing puts together.")
    fields: dict[str, MetadataValue] = {}
    flags = 0
    for block in blocks:
        fields |= block.metadata
        flags |= block.flags
    return Block(
        np.concatenate([block.samples for block in blocks], axis=1 if fmt.layout == "planar" else 0),
        fmt,
        timestamp_ns=blocks[0].timestamp_ns,
        first_frame=blocks[0].first_frame,
        sequence=blocks[0].sequence,
        flags=flags,
        metadata=fields or None,
    )
