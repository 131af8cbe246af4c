"""
The life of a worker, the same in a thread and in a process: build the ends, set up, end, fail, tear down.

How its modules are called in between is not here: `serving` calls them one after the other, `event_loop` lets them await.
Whatever calls a module is written once, as a coroutine; without an event loop there is nothing to await in it, and it is
run to its end at once.
"""

from __future__ import annotations

import operator
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from steadyflow._native import (
    AbortFlag,
    DeviceAccount,
    DeviceFeed,
    Inbox,
    ManualTime,
    ModuleContext,
    Segment,
    Target,
    monotonic_ns,
)
from steadyflow.codec import codec_for
from steadyflow.data import Block, possible_time
from steadyflow.errors import ConfigurationError, PipelineClosed, StateError
from steadyflow.events import BlockRejected, FlowEvent, ModuleEnded, ViewsExhausted
from steadyflow.formats import AudioFormat, Format, format_from_wire
from steadyflow.module import (
    Input,
    Module,
    OutputPort,
    Source,
    aligned_inputs,
    input_ports,
    is_device_driven,
    output_ports,
    process_methods,
    set_publisher,
)
from steadyflow.payload import Preparer, native_spec
from steadyflow.pipeline import Lane
from steadyflow.runtime.alignment import Alignment
from steadyflow.runtime.changes import (
    OVER,
    AddInput,
    AddOutput,
    Change,
    EndModule,
    KeepInput,
    ReleaseInput,
    RemoveOutput,
    Reorder,
    SetQuality,
    Step,
)
from steadyflow.runtime.channel import ModuleReports
from steadyflow.runtime.failure_text import in_one_line, with_traceback
from steadyflow.runtime.input_stages import InputStages
from steadyflow.runtime.wiring import LaneWiring, ModuleWiring, PipelineWiring, Place, WorkerWiring

if TYPE_CHECKING:
    from steadyflow.transform.transformer import Conversion

_REASON: Final = 2000  # characters of a reason: an event has to be short


class Host(Protocol):
    """Who a worker reports to: the coordinator, directly or through a socket."""

    def module_failed(self, module: str, problem: Exception, text: str, block_sequence: int | None) -> None:
        """Tell that a module raised. Its worker's thread; must not block."""

    def publish(self, event: FlowEvent) -> None:
        """Tell an event, of this worker or of a module in it. Any thread; must not block."""

    def device_lost(self, module: str, problem: str) -> None:
        """Tell that a device went away that is looked for in this worker. Its worker's thread; must not block."""

    def device_recovered(self, module: str, away_s: float, attempts: int) -> None:
        """Tell that it is back. Its worker's thread; must not block."""

    def input_left(self, pipeline: str) -> None:
        """Tell that all that came from a pipeline which was taken away has been taken. Its worker's thread; must not block."""


class Seat:
    """A module in its worker, and how far it has come."""

    __slots__ = (
        "alignment",
        "awaited",
        "context",
        "conversions",
        "fed_by",
        "is_loose",
        "module",
        "name",
        "outputs_ended",
        "stages",
        "state",
        "targets",
    )

    def __init__(self, name: str, module: Module) -> None:
        self.name = name
        self.module = module
        self.context = ModuleContext()
        self.awaited: set[str] = set()  # pipelines that have to end before the module does
        self.targets: dict[str, Target] = {}  # by pipeline
        self.fed_by: list[str] = []  # pipelines that its device consumes
        self.alignment: Alignment | None = None
        self.stages: dict[str, InputStages] = {}  # what stands before it and has not been flushed, by pipeline
        self.conversions: dict[str, Conversion] = {}  # that they are made of
        self.state = "running"
        self.outputs_ended = False
        self.is_loose = False  # whether nothing leads into it any more, so that it waits for what will


class WorkerLoop(ABC):
    """
    Runs the modules of one worker.

    Args:
        wiring: What to run.
        modules: The instances, by name.
        segments: The mapped segments by number; whoever maps another one puts it there.
        abort: Shared by all workers of this process: when set, everything that waits gives up.
        host: Who is told.
        resolve: Finds a class by its path, where classes of the main script are involved.
        turns: What its thread goes by, unless the system's clock.
    """

    def __init__(
        self,
        wiring: WorkerWiring,
        modules: Mapping[str, Module],
        segments: dict[int, Segment],
        abort: AbortFlag,
        host: Host,
        resolve: Callable[[str], type] | None = None,
        turns: ManualTime | None = None,
    ) -> None:
        self._wiring = wiring
        self._turns = turns
        self._segments = segments
        self._abort = abort
        self._host = host
        self._resolve = resolve
        self._stopping = False
        self._pid = os.getpid()
        self._attention = False  # set from other threads: a source that runs alone pauses at its next yield
        self._seats = {name: Seat(name, module) for name, module in modules.items()}
        self._inbox = Inbox(segments[wiring.bell.segment], wiring.bell.offset, wiring.process, abort)
        self._formats: dict[str, Format] = {}
        self._fused_into: dict[tuple[str, str], list[PipelineWiring]] = {}
        self._set_up: set[str] = set()
        self._let_down = threading.Event()
        self._held: dict[str, int] = {}  # sources that produce nothing, and since when
        self._held_for_ns: dict[str, int] = {}  # for how long others were held, that have not been told yet
        self._unrung: set[str] = set()  # inputs that a device has left: the bell that is rung for them is the device's
        self._timed: list[tuple[Seat, Alignment]] = []  # who is called when a time has come, and not only a block
        self._pipelines = {pipeline.id: pipeline for pipeline in wiring.pipelines}
        self._configured: set[OutputPort] = set()
        self._pools: dict[OutputPort, Place] = {}  # the buffers that the rings which were added last share
        self._submitting = threading.Lock()
        self._changes: deque[tuple[Change, Callable[[str | None], None]]] = deque()
        self._is_over = False
        self._changed_outputs: dict[tuple[str, str], OutputPort] = {}  # by what is changed at this moment
        self._unsent: set[str] = set()
        self._keepers: dict[str, Callable[[bool], bool]] = {}  # what a module holds its inputs back by, by pipeline
        self._released: set[str] = set()  # pipelines whose end is not that of what their module gets
        self._followed: set[str] = set()  # fused pipelines behind whose end a ring of the same id goes on
        self._ended_inputs: set[str] = set()
        self._leaving: list[str] = []  # of them those that were taken away, to be forgotten between two blocks
        self._build()

    # --- before the flow -------------------------------------------------------------------------------------------

    @abstractmethod
    def setup(self) -> bool:
        """
        Set up every module, in topological order. The worker's own thread.

        Returns:
            False after a failure, which has been reported.
        """

    @abstractmethod
    def close(self) -> None:
        """Tear down what was set up, where the flow does not start. The worker's own thread."""

    async def _set_up_all(self) -> bool:
        for seat in (self._seats[name] for name in self._wiring.setup):
            try:
                await self._run_method(seat, seat.module.setup)
            except BaseException as problem:
                self._tell_failure(seat, problem, None)
                return False
            self._set_up.add(seat.name)
        return True

    def _build(self) -> None:
        for module in self._wiring.modules:
            self._seats[module.name].context.order = module.order
        for module in self._wiring.modules:
            seat = self._seats[module.name]
            set_publisher(seat.module, self._host.publish, seat.name)
            for name, wire in module.inputs.items():
                input_ports(seat.module)[name].format = self._format(wire)
            for name, wire in module.outputs.items():
                port = output_ports(seat.module)[name]
                port.format = self._format(wire)
                self._configure(port, f"{module.name}.{name}", seat)
            if module.account is not None and isinstance(seat.module, Source):
                seat.module.device_account = DeviceAccount(*self._at(module.account))
            if (alignment := self._alignment(seat, module)) is not None:
                seat.alignment = alignment
                self._timed.append((seat, alignment))
        ends = [pipeline for pipeline in self._pipelines.values() if pipeline.target[0] in self._seats]
        # Ring inputs in the order of their bits, which is the order of their priorities.
        for pipeline in sorted(ends, key=lambda end: (end.fused, end.consumer_bit)):
            target = self._target(pipeline)
            if pipeline.fused:
                output = output_ports(self._seats[pipeline.source[0]].module)[pipeline.source[1]]
                output.add_fused(target, *self._at(pipeline.lanes[0].ring), self._inbox)
                self._fused_into.setdefault(pipeline.source, []).append(pipeline)
            else:
                self._add_input(pipeline, target)
        for pipeline in self._pipelines.values():
            if pipeline.source[0] in self._seats and not pipeline.fused:
                self._add_ring(pipeline)
        for name, seat in self._seats.items():
            inputs = [pipeline for pipeline in ends if pipeline.target[0] == name]
            # A loop would wait for its own end: a module in it ends when everything from outside of the loop has ended.
            outside = [pipeline for pipeline in inputs if not pipeline.in_loop]
            seat.awaited = {pipeline.id for pipeline in outside or inputs}
            # By a manual clock nobody can come, and whoever waited would let time go on.
            seat.is_loose = not inputs and not isinstance(seat.module, Source) and self._turns is None

    def _configure(self, port: OutputPort, name: str, seat: Seat) -> None:
        port.configure(
            name, native_spec(port.format), port.format, Preparer(name, port.format), seat.context, self._abort
        )
        port.set_inbox(self._inbox)
        self._configured.add(port)

    def _alignment(self, seat: Seat, wiring: ModuleWiring) -> Alignment | None:
        aligned = aligned_inputs(seat.module)
        if aligned is None:
            return None
        formats = {name: port.format for name, port in input_ports(seat.module).items()}
        return Alignment(
            aligned,
            {name: fmt for name, fmt in formats.items() if isinstance(fmt, AudioFormat)},
            seat.module.process,  # type: ignore[attr-defined]
            _only_output(seat.module),
            seat.context,
            wiring.stops,
            partial(self._hold, seat.name),
        )

    def _hold(self, module: str, port: str, held: bool) -> None:
        pipeline = next(each for each in self._pipelines.values() if each.target == (module, port))
        self._inbox.hold(pipeline.id, held)

    def _target(self, pipeline: PipelineWiring, *, goes_on: bool = False) -> Target:
        """Make the end of a pipeline; `goes_on`: with what stands before its module already."""
        seat = self._seats[pipeline.target[0]]
        fmt = self._format(pipeline.format)
        codec = codec_for(fmt, where=pipeline.id)
        output = _only_output(seat.module)
        process = process_methods(seat.module)[pipeline.target[1]]
        declared: Input = input_ports(seat.module)[pipeline.target[1]].declaration
        if seat.alignment is not None and pipeline.target[1] in seat.alignment.names:
            process = seat.alignment.taker(pipeline.target[1])
        stages = seat.stages.get(pipeline.id) if goes_on else None
        conversion = None if goes_on else self._conversion(pipeline, fmt, declared)
        if conversion is not None:
            from steadyflow.transform.stream import StreamConversion

            stream = StreamConversion(conversion, partial(self._tell_rejected, pipeline))
            stages = InputStages(stream, process, output, seat.context)
            seat.conversions[pipeline.id], seat.stages[pipeline.id] = conversion, stages
        call = self._target_call(seat, process, stages)
        target = Target(
            pipeline.id,
            native_spec(fmt),
            fmt,
            None if codec is None else codec.decode,
            call,
            output,
            seat.context,
            partial(self._failed_in_process, seat),
            pipeline.max_latency_ns,
        )
        if pipeline.cycles is not None:
            target.count_cycles(pipeline.cycles.ns_per_frame, pipeline.cycles.deadline_ns)
        seat.targets[pipeline.id] = target
        return target

    def _conversion(self, pipeline: PipelineWiring, fmt: Format, declared: Input) -> Conversion | None:
        """Return what is done with the blocks of an input before its module gets them; None where nothing is."""
        windowed = declared.window_frames is not None and isinstance(fmt, AudioFormat)
        if pipeline.target_format is None and not windowed and pipeline.validation is None:
            return None
        from steadyflow.transform.transformer import Conversion, make_plan

        plan = make_plan(
            fmt,
            fmt if pipeline.target_format is None else self._format(pipeline.target_format),
            pipeline.conversion,
            window_frames=declared.window_frames,
            hop_frames=declared.hop_frames,
            pad_last=declared.pad_last,
            where=pipeline.id,
        )
        found = tuple(step.converter for step in plan.steps)
        if found != pipeline.converters:
            raise ConfigurationError(
                f"{pipeline.id}: expected to convert by {', '.join(pipeline.converters)}, as planned, got {', '.join(found)} in "
                f"worker {self._wiring.name!r}. Register converters where the module's class is defined, so that its worker has them."
            )
        # The same object as the ports have: a block that is passed on as it came is recognised by it.
        steps = tuple(msgspec.structs.replace(step, target=self._same_format(step.target)) for step in plan.steps)
        return Conversion(msgspec.structs.replace(plan, steps=steps), pipeline.validation)

    def _tell_rejected(self, pipeline: PipelineWiring, sequence: int, reason: str, rejected: int) -> None:
        module = pipeline.target[0]
        self._host.publish(
            BlockRejected(
                pipeline=pipeline.id, module=module, block_sequence=sequence, reason=reason[:_REASON], rejected=rejected
            )
        )

    def _tell_views_exhausted(self, pipeline: PipelineWiring, limit: int) -> None:
        self._host.publish(ViewsExhausted(pipeline=pipeline.id, module=pipeline.target[0], limit=limit))

    def _add_input(self, pipeline: PipelineWiring, target: Target) -> None:
        first, *others = (self._lane(lane) for lane in pipeline.lanes)
        consumer = self._wiring.replica
        self._inbox.add_input(
            *first,
            consumer,
            pipeline.rank,
            target,
            partial(self._input_ended, self._seats[pipeline.target[0]], pipeline),
            partial(self._tell_views_exhausted, pipeline),
            pipeline.consumer_bit,
        )
        for lane in others:
            self._inbox.add_lane(*lane, consumer)
        if pipeline.order is not None:
            self._inbox.restore_order_of(*self._at(pipeline.order))
        if is_device_driven(self._seats[pipeline.target[0]].module):
            self._feed_device(pipeline)
        elif pipeline.intake is not None:
            self._inbox.regulate(*msgspec.structs.astuple(pipeline.intake))
            module, port = self._seats[pipeline.target[0]].module, pipeline.target[1]
            self._keepers[pipeline.id] = keeper = partial(self._inbox.set_wanted, pipeline.id)
            keepers = input_ports(module)[port].keepers
            keepers[:] = [*(each for each in keepers if each is not _nothing_comes), keeper]

    def _feed_device(self, pipeline: PipelineWiring) -> None:
        """
        Let a device's callback consume a pipeline.

        The worker holds its own end back until the module has ended: then it gives what is left its fate.
        """
        fmt = self._format(pipeline.format)
        feed = DeviceFeed(pipeline.id, native_spec(fmt), self._wiring.process)
        for lane in pipeline.lanes:
            feed.add_lane(*self._lane(lane), self._wiring.replica)
        if pipeline.order is not None:
            feed.restore_order_of(*self._at(pipeline.order))
        if pipeline.intake is not None:
            feed.regulate(*msgspec.structs.astuple(pipeline.intake))
        seat = self._seats[pipeline.target[0]]
        input_ports(seat.module)[pipeline.target[1]].device_feed = feed
        seat.fed_by.append(pipeline.id)
        self._inbox.hold(pipeline.id, True)

    def _add_ring(self, pipeline: PipelineWiring) -> None:
        lane = pipeline.lanes[self._wiring.replica]
        assert lane.pool is not None
        port = output_ports(self._seats[pipeline.source[0]].module)[pipeline.source[1]]
        if self._pools.get(port) != lane.pool:
            port.set_pool(*self._at(lane.pool), pipeline.id)
            self._pools[port] = lane.pool
        first, *others = pipeline.consumer_bells
        port.add_ring(pipeline.id, *self._at(lane.ring), *self._at(first), pipeline.consumer_bit)
        for bell in others:
            port.add_consumer(pipeline.id, *self._at(bell), pipeline.consumer_bit)
        port.set_alarm(pipeline.id, *self._at(pipeline.alarm))
        for other in pipeline.sharing:
            port.share_room(pipeline.id, pipeline.rank, *self._at(other.ring), other.rank)
        if pipeline.order is not None:
            for bell in pipeline.consumer_bells:
                self._inbox.tell_finished(*self._at(bell), pipeline.consumer_bit)

    def _at(self, place: Place) -> tuple[Segment, int]:
        return self._segments[place.segment], place.offset

    def _lane(self, lane: LaneWiring) -> Lane:
        assert lane.pool is not None
        return Lane(*self._at(lane.ring), lane.pool.offset, *self._at(lane.producer_bell))

    def _format(self, wire: dict[str, object]) -> Format:
        return self._same_format(format_from_wire(wire, self._resolve))

    def _same_format(self, fmt: Format) -> Format:
        # One object for each format: a block that is passed on as it came is recognised by it.
        return self._formats.setdefault(repr(fmt), fmt)

    # --- the flow -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def run(self) -> None:
        """Run until every module has ended, or until aborted. The worker's own thread; returns after teardown."""

    @abstractmethod
    def _target_call(
        self, seat: Seat, process: Callable[[Block], Any], stages: InputStages | None
    ) -> Callable[..., object]:
        """Return what is called with the blocks of an input; `stages` give `process` what they make of them."""

    @abstractmethod
    def _flush_call(self, stages: InputStages) -> Callable[[], object]:
        """Return what gives the module what its stages still have, at the end of an input."""

    @abstractmethod
    async def _run_method(self, seat: Seat, method: Callable[[], Any]) -> None:
        """Call a method of a module that is not process(): nothing is served to it meanwhile."""

    @abstractmethod
    def _carry_out(self, seat: Seat, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Do what follows from an end or a failure that was met in native code."""

    def stop(self) -> None:
        """Stop the sources at their next yield; what is on its way still drains. Any thread."""
        self._stopping = True
        self.interrupt()

    def hold_source(self, module: str, held: bool) -> None:
        """Let a source produce nothing, from its next yield on, or let it go on. Any thread; does not wait."""
        now_ns = (
            monotonic_ns() if self._turns is None else self._turns.now_ns
        )  # whoever calls does not go by that clock
        if held:
            self._held.setdefault(module, now_ns)
        elif (since_ns := self._held.get(module)) is not None:
            # First for how long, so that it does not go on without being told.
            self._held_for_ns[module] = self._held_for_ns.get(module, 0) + now_ns - since_ns
            del self._held[module]
        self.interrupt()

    def interrupt(self) -> None:
        """Make the loop look at its flags. Any thread."""
        self._attention = True
        self._inbox.interrupt()

    @abstractmethod
    def on_idle(self, call: Callable[[], object]) -> None:
        """Have something called, now and then, when no block waits and nothing is at work. Of a real-time worker only."""

    @property
    def inbox(self) -> Inbox:
        """The receiving side."""
        return self._inbox

    def module_reports(self) -> ModuleReports:
        """Return calls, busy time in ns, state, aligned inputs and conversions of each module."""
        return {
            name: (
                seat.context.calls,
                seat.context.busy_ns,
                seat.state,
                {} if seat.alignment is None else seat.alignment.reports(),
                {pipeline: conversion.reports() for pipeline, conversion in seat.conversions.items()},
            )
            for name, seat in self._seats.items()
        }

    # --- changes --------------------------------------------------------------------------------------------------------

    def submit(self, change: Change, answer: Callable[[str | None], None]) -> None:
        """
        Have something changed between two blocks. Any thread; does not wait.

        Args:
            change: What.
            answer: Called once, in any thread: with None when it was done, or with the reason why nothing was.
        """
        with self._submitting:
            if not self._is_over:
                self._changes.append((change, answer))
                self.interrupt()
                return
        answer(OVER)

    def withdraw(self, number: int) -> bool:
        """Take back a change that has not been begun; False where it is too late. Any thread; does not wait."""
        with self._submitting:
            waiting = next((each for each in self._changes if each[0].number == number), None)
            if waiting is not None:
                self._changes.remove(waiting)
        return waiting is not None

    def _change(self) -> None:
        """Do what was submitted. The worker's own thread, between two blocks."""
        while self._leaving:
            pipeline_id = self._leaving.pop()
            self._forget_input(pipeline_id)
            self._host.input_left(pipeline_id)
        while self._changes:
            with self._submitting:
                if not self._changes:
                    return
                change, answer = self._changes.popleft()
            try:
                for step in change.steps:
                    self._check_step(step)
                for step in change.steps:
                    self._take_step(step)
                self._commit_outputs()
                for number in change.forget:
                    self._segments.pop(number, None)
            except Exception as problem:
                for port in self._changed_outputs.values():
                    port.roll_back()
                self._changed_outputs.clear()
                self._unsent.clear()
                answer(in_one_line(problem))
            else:
                answer(None)

    def _defer(self, output: tuple[str, str], port: OutputPort) -> None:
        """Let what is changed of an output take place at the end of the change: another thread may send there, too."""
        if output not in self._changed_outputs:
            port.defer()
            self._changed_outputs[output] = port

    def _commit_outputs(self) -> None:
        """Let outputs send where the steps of a change said, each all at once."""
        for port in self._changed_outputs.values():
            port.commit()
        self._changed_outputs.clear()
        for pipeline_id in self._unsent:
            pipeline = self._pipelines.get(pipeline_id)
            if pipeline is not None and pipeline.target[0] not in self._seats:
                del self._pipelines[pipeline_id]
        self._unsent.clear()

    def _end_changes(self) -> None:
        """Answer what comes too late."""
        with self._submitting:
            self._is_over = True
            late, self._changes = list(self._changes), deque()
        for _, answer in late:
            answer(OVER)

    def _check_step(self, step: Step) -> None:
        """Refuse what cannot be done, before anything is."""
        name = None
        if isinstance(step, AddInput):
            name = step.pipeline.target[0]
        elif isinstance(step, (EndModule, SetQuality)):
            name = step.module
        if name is not None and self._seats[name].state != "running":
            raise StateError(f"module {name!r} is {self._seats[name].state}")

    def _take_step(self, step: Step) -> None:
        match step:
            case AddOutput(pipeline):
                self._start_sending(pipeline)
            case RemoveOutput(pipeline_id):
                self._stop_sending(pipeline_id)
            case AddInput(pipeline, follows):
                self._start_taking(pipeline, follows)
            case ReleaseInput(pipeline_id):
                if pipeline_id not in self._pipelines:
                    self._host.input_left(pipeline_id)  # it was never there
                    return
                self._released.add(pipeline_id)
                if pipeline_id in self._ended_inputs:
                    self._leaving.append(pipeline_id)
                    self.interrupt()
            case KeepInput(pipeline_id):
                seat = self._seats[self._pipelines[pipeline_id].target[0]]
                if pipeline_id not in self._ended_inputs:
                    self._released.discard(pipeline_id)
                elif seat.is_loose:  # it ended in between
                    self._end_module(seat)
            case EndModule(module):
                self._end_module(self._seats[module])
            case SetQuality(module, level):
                self._seats[module].module.set_quality(level)
            case Reorder(orders, stops):
                for name, order in orders.items():
                    self._seats[name].context.order = order
                    alignment = self._seats[name].alignment
                    if alignment is not None:
                        alignment.stops = stops.get(name, {})

    def _start_sending(self, pipeline: PipelineWiring) -> None:
        seat = self._seats[pipeline.source[0]]
        port = output_ports(seat.module)[pipeline.source[1]]
        if port not in self._configured:
            port.format = self._format(pipeline.format)
            self._configure(port, ".".join(pipeline.source), seat)
        self._pipelines[pipeline.id] = pipeline
        self._unsent.discard(pipeline.id)
        self._defer(pipeline.source, port)
        self._add_ring(pipeline)
        if seat.outputs_ended:
            port.remove(pipeline.id)  # which ends it at once, as the others of this output were

    def _stop_sending(self, pipeline_id: str) -> None:
        pipeline = self._pipelines[pipeline_id]
        seat = self._seats[pipeline.source[0]]
        port = output_ports(seat.module)[pipeline.source[1]]
        self._defer(pipeline.source, port)
        port.remove(pipeline_id)
        fused = self._fused_into.get(pipeline.source, [])
        for link in [link for link in fused if link.id == pipeline_id]:
            fused.remove(link)
            self._input_ended(self._seats[link.target[0]], link)
        self._unsent.add(pipeline_id)

    def _start_taking(self, pipeline: PipelineWiring, follows: bool) -> None:
        seat = self._seats[pipeline.target[0]]
        known = self._pipelines.get(pipeline.id) if follows else None
        if known is not None and not known.fused and pipeline.id not in self._ended_inputs:
            (lane,) = pipeline.lanes
            self._inbox.add_successor(pipeline.id, *self._lane(lane), self._wiring.replica)
            return
        self._pipelines[pipeline.id] = pipeline
        for marks in (self._ended_inputs, self._released):
            marks.discard(pipeline.id)
        input_ports(seat.module)[pipeline.target[1]].format = self._format(pipeline.target_format or pipeline.format)
        is_fused = known is not None and known.fused
        self._add_input(pipeline, self._target(pipeline, goes_on=is_fused))
        if is_fused:
            self._followed.add(pipeline.id)
            self._inbox.hold(pipeline.id, True)
        if not pipeline.in_loop or not seat.awaited:
            seat.awaited.add(pipeline.id)
        seat.is_loose = False

    def _forget_input(self, pipeline_id: str) -> None:
        pipeline = self._pipelines[pipeline_id]
        if not pipeline.fused:
            self._inbox.remove(pipeline_id)
        seat = self._seats[pipeline.target[0]]
        seat.targets.pop(pipeline_id, None)
        if (keeper := self._keepers.pop(pipeline_id, None)) is not None:
            keepers = input_ports(seat.module)[pipeline.target[1]].keepers
            keepers[:] = [each for each in keepers if each is not keeper] or [_nothing_comes]
        del self._pipelines[pipeline_id]

    def _taken_away(self, seat: Seat, pipeline: PipelineWiring) -> None:
        """Go on without an input: what was made of it comes to its module, but no end."""
        seat.awaited.discard(pipeline.id)
        seat.is_loose = seat.state == "running" and not seat.awaited
        stages = seat.stages.pop(pipeline.id, None)
        if stages is not None and seat.state == "running":
            self._carry_out(seat, partial(self._flush_and_leave, seat, pipeline, stages))
        else:
            self._leave(pipeline)

    async def _flush_and_leave(self, seat: Seat, pipeline: PipelineWiring, stages: InputStages) -> None:
        await self._call(seat, self._flush_call(stages))
        self._leave(pipeline)

    def _leave(self, pipeline: PipelineWiring) -> None:
        self._released.discard(pipeline.id)
        self._leaving.append(pipeline.id)
        self.interrupt()

    @abstractmethod
    def _end_module(self, seat: Seat) -> None:
        """End a module that nothing leads into. Between two blocks."""

    def _loose_seats(self) -> list[Seat]:
        """Return the modules that wait for something to lead into them."""
        return [seat for seat in self._seats.values() if seat.is_loose and seat.state == "running"]

    # --- ends and failures --------------------------------------------------------------------------------------------

    def _input_ended(self, seat: Seat, pipeline: PipelineWiring) -> None:
        if pipeline.id in self._followed:
            self._followed.discard(pipeline.id)
            self._inbox.hold(pipeline.id, False)
            return
        self._ended_inputs.add(pipeline.id)
        if pipeline.id in self._released:
            self._taken_away(seat, pipeline)
            return
        self._unrung.discard(pipeline.id)
        port = pipeline.target[1]
        was_awaited = pipeline.id in seat.awaited
        seat.awaited.discard(pipeline.id)
        is_last = was_awaited and not seat.awaited
        # With the last one all, also those in a loop, of which the end would come after that of the module.
        ending = [name for name in seat.stages if is_last or name == pipeline.id]
        works: list[Callable[[], Coroutine[Any, Any, object]]] = [
            partial(self._call, seat, self._flush_call(seat.stages.pop(name))) for name in ending
        ]
        if seat.alignment is not None and port in seat.alignment.names:
            works.append(partial(self._call, seat, partial(seat.alignment.end, port)))
        if is_last:
            works.append(partial(self._end, seat))
        if works and seat.state == "running":
            self._carry_out(seat, partial(self._one_by_one, seat, works))

    async def _one_by_one(self, seat: Seat, works: Sequence[Callable[[], Coroutine[Any, Any, object]]]) -> None:
        """Do what the end of an input asks for, as long as its module is well."""
        for work in works:
            if seat.state == "running":
                await work()

    async def _end(self, seat: Seat, state: str = "ended") -> None:
        """Finish a module whose inputs have ended: what it still sends comes before the end of its outputs."""
        if not await self._call(seat, seat.module.finish):
            return
        seat.state = state
        self._end_outputs(seat)
        if not self._is_needed(seat.name):
            await self._tear_down(seat)
        if seat.state == state == "ended":
            self._host.publish(ModuleEnded(module=seat.name))

    def _is_needed(self, name: str) -> bool:
        """Tell whether others depend on a module, so that it is torn down after them."""
        return any(module.name == name and module.is_needed for module in self._wiring.modules)

    def _await_dependents(self) -> None:
        """Wait until the workers have ended whose modules depend on ours. Blocks; ends early where the flow is given up."""
        if self._wiring.dependents and not self._abort.is_set():
            self._let_down.wait()

    def let_down(self) -> None:
        """Say that nobody depends on this worker's modules any more. Any thread."""
        self._let_down.set()

    def _end_outputs(self, seat: Seat) -> None:
        if seat.outputs_ended:
            return
        seat.outputs_ended = True
        for target in seat.targets.values():
            target.fail() if seat.state == "failed" else target.close()
        for pipeline_id in seat.fed_by:
            self._inbox.hold(pipeline_id, False)
            self._unrung.add(pipeline_id)
        for name, port in output_ports(seat.module).items():
            port.end()
            for pipeline in self._fused_into.get((seat.name, name), ()):
                self._input_ended(self._seats[pipeline.target[0]], pipeline)

    async def _call(self, seat: Seat, method: Callable[[], Any]) -> bool:
        """Call a method of a module, or one that calls it. False if it failed, which has been reported."""
        try:
            await self._run_method(seat, method)
        except BaseException as problem:
            if not self._is_abort(problem):
                await self._fail(seat, problem, None)
                return False
        return True

    def _failed_in_process(self, seat: Seat, problem: BaseException, block: Block) -> None:
        self._carry_out(seat, partial(self._fail_unless_aborted, seat, problem, block.sequence))

    async def _fail_unless_aborted(self, seat: Seat, problem: BaseException, block_sequence: int | None) -> None:
        if self._is_abort(problem):
            seat.state = "stopped"
        else:
            await self._fail(seat, problem, block_sequence)

    def _is_abort(self, problem: BaseException) -> bool:
        """Tell whether a module was interrupted by the end of the flow, rather than failed."""
        return isinstance(problem, PipelineClosed) and self._abort.is_set() and self._is_home

    @property
    def _is_home(self) -> bool:
        """Whether this is the worker's own process, and not one that a module forked and that came back to the loop."""
        return os.getpid() == self._pid

    async def _fail(self, seat: Seat, problem: BaseException, block_sequence: int | None) -> None:
        if seat.state == "failed":
            return
        self._tell_failure(seat, problem, block_sequence)
        self._end_outputs(seat)
        await self._tear_down(seat)

    def _tell_failure(self, seat: Seat, problem: BaseException, block_sequence: int | None) -> None:
        if not self._is_home:
            raise problem  # its own thread is all that it has; the module is the parent's, and so is whoever could be told
        seat.state = "failed"
        text = with_traceback(problem)
        if not isinstance(problem, Exception):
            # sys.exit() in a module ends the module, not the worker; in an exception group it needs to be an Exception.
            ending = RuntimeError(in_one_line(problem))
            ending.__cause__ = problem
            problem = ending
        self._host.module_failed(seat.name, problem, text, block_sequence)

    async def _tear_down(self, seat: Seat) -> None:
        if seat.name not in self._set_up:
            return
        self._set_up.discard(seat.name)
        try:
            await self._run_method(seat, seat.module.teardown)
        except BaseException as problem:
            await self._fail(seat, problem, None)

    async def _close_seats(self) -> None:
        for seat in [self._seats[name] for name in reversed(self._wiring.setup)]:
            if seat.state == "running":
                seat.state = "stopped"
            for port in output_ports(seat.module).values():
                port.end()
            await self._tear_down(seat)

    def detach(self) -> None:
        """Let go of the segments. After run()."""
        self._end_changes()
        for seat in self._seats.values():
            for port in output_ports(seat.module).values():
                port.close(f"{seat.name}.{port.name}: the flow has ended; nothing can be sent any more")
                port.detach()
            set_publisher(seat.module, None)
            # They refer to this loop, and the garbage collector does not see through native objects.
            seat.targets.clear()
            seat.stages.clear()
        self._inbox.detach()
        self._segments = {}


def _nothing_comes(_wanted: bool) -> bool:
    """Hold an input back that nothing leads into any more."""
    return True


def _only_output(module: Module) -> OutputPort | None:
    outputs = list(output_ports(module).values())
    return outputs[0] if len(outputs) == 1 else None


def due_time_ns(yielded: object) -> int:
    """
    Return when a source wants to go on, of what its produce() yielded; 0: at once.

    Raises:
        TypeError: It yielded something else than None or a time.
    """
    if yielded is None:
        return 0
    try:
        return possible_time(operator.index(yielded))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"expected produce() to yield None or a time in ns, got {yielded!r}") from None
