"""One run of a flow: workers are launched, watched, stopped and accounted for."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, Final, Protocol

from steadyflow._native import (
    CONTROL_BIT,
    ROOM_BIT,
    AbortFlag,
    DeviceAccount,
    Inbox,
    ManualTime,
    Ring,
    Segment,
    give_back_unusable_buffers,
    monotonic_ns,
    release_process,
    retire_bell,
    ring_bell,
    set_usable_buffers,
    take_over,
    usable_buffers,
)
from steadyflow.audio_config import AudioPipelineConfig
from steadyflow.backpressure.room import divided
from steadyflow.clock import ManualClock
from steadyflow.config import PipelinePriority
from steadyflow.conversion import StepReport, added_up
from steadyflow.errors import CorruptedSegment, FlowFailed, StateError, WorkerDied
from steadyflow.events import (
    DataFlowStarted,
    DataFlowStopped,
    DeviceLost,
    DeviceRecovered,
    FlowEvent,
    ModuleEnded,
    PipelineFailure,
    RealtimeRefused,
    RealtimeRevoked,
    WorkerUnresponsive,
)
from steadyflow.formats import Format
from steadyflow.lifecycle import ModuleAction
from steadyflow.metrics.devices import DeviceReport, report_of_module, stream_rate_hz
from steadyflow.metrics.drift import drift_ppm
from steadyflow.module import Module, Source, is_device_driven
from steadyflow.pipeline import DROPPED_FAILED, DROPPED_STOPPED, Lane, Pipeline, make_receiver
from steadyflow.report import ModuleReport
from steadyflow.runtime.backpressure_controller import BackpressureController
from steadyflow.runtime.changes import Change, SetQuality
from steadyflow.runtime.channel import ModuleDid
from steadyflow.runtime.dependencies import awaited_workers
from steadyflow.runtime.format_resolution import resolve_formats
from steadyflow.runtime.freewheel import freewheeling
from steadyflow.runtime.graph import upstream_of
from steadyflow.runtime.layout import (
    Layout,
    WorkerPlan,
    check_audio_limits,
    check_placements,
    default_rules,
    edges_between,
    has_views,
    plan_workers,
    topological,
)
from steadyflow.runtime.news import NewsEnd, NewsReader, news_name
from steadyflow.runtime.open_ends import OpenPlace, block_rejected, views_exhausted
from steadyflow.runtime.path_delays import PathBudget, check_path_budgets
from steadyflow.runtime.placed import Placed
from steadyflow.runtime.pool_watch import PoolWatch
from steadyflow.runtime.replicas import check_around_replicas
from steadyflow.runtime.watch import Watch, Watched, WatchedDevice, WatchedPipeline
from steadyflow.runtime.wiring import LaneWiring, PipelineWiring, Place
from steadyflow.runtime.workers import ProcessWorker, ThreadWorker, Worker, ask_to_change

_LOOK_UP_S: Final = 0.25  # waits are interrupted by signals; this bounds those that another thread took
_ABORT_TIMEOUT_S: Final = 0.5
_FAILED_DRAIN_TIMEOUT_S: Final = 1.0
_CATCH_UP_S: Final = 0.05
_ANSWER_TIMEOUT_S: Final = 5.0
# A module with replicas is in the first of these that one of them is in.
_STATES: Final = ("failed", "running", "stopped", "ended")


class Lifecycles(Protocol):
    """Who keeps where each module is: the registry. Any thread; must not block."""

    def note(self, name: str, action: ModuleAction) -> bool:
        """Let something happen to a module that is told elsewhere; False where it cannot."""

    def move_if_allowed(self, name: str, action: ModuleAction) -> bool:
        """Let something happen, and tell it; False where it cannot."""

    def put_in_place(self, name: str, module: Module) -> None:
        """Keep that a module runs in the place of another one of its name."""


class Execution:
    """
    Runs a described flow once.

    Args:
        flow: The name of the flow.
        modules: All modules, by name.
        pipelines: All pipelines.
        opened: Where those with an open source lie.
        abort: What makes everything in this process give up.
        publish: Takes events.
        settled: Called once, when the run is over and every block has its fate; may block for a moment.
        lifecycles: Keeps where each module is.
        budgets: What paths may take.
        clock: Freewheel by this clock, all in this process; None: run by the system's.

    Raises:
        ConfigurationError: The description cannot run (formats, loops, limits).
        InsufficientMemory: The system has too little; says how much is needed.
    """

    def __init__(
        self,
        flow: str,
        modules: Mapping[str, Placed],
        pipelines: Sequence[Pipeline],
        opened: Mapping[str, OpenPlace],
        abort: AbortFlag,
        publish: Callable[[FlowEvent], None],
        settled: Callable[[], None],
        lifecycles: Lifecycles,
        budgets: Sequence[PathBudget],
        clock: ManualClock | None = None,
    ) -> None:
        self._flow = flow
        self._lifecycles = lifecycles
        self._clock = clock
        self._turns: ManualTime | None = None
        self._abort = abort
        self._publish = publish
        self._settled = settled
        self._changed = threading.Condition()
        self._concluding = threading.Lock()
        self._ready = 0
        self._running = 0
        self._stopping = False
        self._hurried = False  # nothing drains any more
        self._ending: threading.Thread | None = None  # ends the run where nobody may be in wait() or stop()
        self._left_behind: set[str] = set()
        self._when_over: list[Callable[[], None]] = []
        self.problems: list[Exception] = []
        self._quality: dict[str, str] = {}  # the level of each module that works at another one than its best
        self._failed_modules: set[str] = set()
        self.started_ns = 0
        self.ended_ns = 0

        self.change_numbers = count(1)
        """By which workers tell changes apart."""
        self._opened = opened
        self._between_open_ends = [pipeline for pipeline in pipelines if pipeline.source_open and pipeline.target_open]
        linked = [pipeline for pipeline in pipelines if not (pipeline.source_open and pipeline.target_open)]
        order = topological(modules, linked)
        if clock is not None:
            plan_workers(modules, order)  # what could not run live does not run so, either
            modules = freewheeling(modules, pipelines)
        else:
            check_placements(modules)
        self.modules = dict(modules)
        """Those that are part of the run, by name."""
        self.budgets = budgets
        self._retiring: set[tuple[str, str]] = set()  # worker and module, of which another one takes the place
        self._left_inputs: set[tuple[str, str]] = set()  # worker and pipeline, that was taken away and is drained
        self._waiting_to_begin: set[str] = set()  # workers that have joined, until whoever changes the run lets them
        self._departed: dict[str, list[ModuleDid]] = {}  # what modules did in workers that are there no more
        self._joining: dict[str, list[Exception]] = {}  # workers that come to the run, and what went wrong with them
        self._replicas_left = {name: placed.replicas for name, placed in modules.items()}
        self._replicas_to_set_up = dict(self._replicas_left)
        check_around_replicas(modules, linked, order)
        self.formats = resolve_formats(modules, linked, order)
        check_path_budgets(budgets, modules, linked, order, self.formats)
        check_audio_limits(linked, {pipeline.id: pipeline.format for pipeline in linked})
        default_rules(modules, linked)
        plans = plan_workers(modules, order)
        places = {pipeline.id: opened[pipeline.id][:4] for pipeline in linked if pipeline.id in opened}
        self.linked = linked
        """The pipelines of it that a module is at."""
        layout = Layout(modules, linked, plans, order, places)
        self.layouts = [layout]
        """The first, and one for each change that added something; those without which nothing could go on."""
        self.segments = layout.segments
        """Their segments, by number."""
        self.wirings = dict(layout.wirings)
        """The pipelines as their ends see them, by id."""
        # Where threads take turns, those that come first are set up first, and nobody may be kept from sitting down.
        self._awaited = awaited_workers(modules) if clock is None else {plan.name: set() for plan in plans}
        self.workers: dict[str, Worker] = {}
        self._devices: dict[str, WatchedDevice] = {}
        self._news = NewsReader(flow, self.at(layout.news_bell), self._tell)
        if clock is not None:
            self._turns = clock.begin_run(flow)
            for pipeline in linked:
                pipeline.clock = clock
        try:
            self.connect_pipelines(layout, linked)
            self.make_workers(layout, plans)
            self.pools = PoolWatch(self)
            """What is asked of the buffers of each output."""
            self._watches_pools = False
            watched: list[Watched] = [*self._watched(linked), *self._devices.values(), *self._watched_pools(linked)]
            self.watch = Watch(flow, watched, publish, self._turns)
            self.flow_control: BackpressureController | None = None
            """None where the flow freewheels: its times are none that a pace could go by."""
            if self._turns is None:
                self.flow_control = BackpressureController(
                    flow, self, lambda: (*self.linked, *self._between_open_ends), self.at(layout.alarm), publish
                )
                for pipeline in pipelines:
                    pipeline.watched_by = self.flow_control.pressure
        except BaseException:
            if clock is not None:
                clock.end_run()
            raise

    def make_workers(self, layout: Layout, plans: Sequence[WorkerPlan]) -> list[Worker]:
        """Make the workers of a layout, and what reads the events of those that are processes."""
        made: list[Worker] = []
        wirings = layout.worker_wirings(plans, self._awaited)
        for order, (plan, wiring) in enumerate(zip(plans, wirings, strict=True)):
            if plan.placement == "process":
                worker: Worker = ProcessWorker(wiring, self, self._flow, self.segments)
            else:
                instances = {placed.name: placed.module for placed in plan.modules}
                worker = ThreadWorker(wiring, self, instances, self.segments, self._abort, self._turns, order)
            self.workers = {**self.workers, plan.name: worker}  # a new one: others may look through it
            made.append(worker)
            for module in wiring.modules:
                if module.account is not None:
                    device_driven: Any = self.modules[module.name].module
                    device_driven.device_account = account = DeviceAccount(*self.at(module.account))
                    self._devices[module.name] = WatchedDevice(module.name, account, stream_rate_hz(device_driven))
        self._news.add(
            NewsEnd(worker, Lane(*self.at(news.ring), news.pool.offset, *self.at(layout.bells[worker])), news.bit)
            for worker, news in layout.news.items()
        )
        return made

    def _watched(self, pipelines: Iterable[Pipeline]) -> Iterator[WatchedPipeline]:
        """Say which of the pipelines are looked at while they run: where somebody waits for the blocks, and a limit or a priority is set."""
        for pipeline in pipelines:
            wiring = self.wirings[pipeline.id]
            if wiring.cycles is None:
                continue
            consumer = self.modules.get(pipeline.target[0])
            if consumer is not None and is_device_driven(consumer.module):
                continue  # a device takes what is there when it wants it, and has no cycle for each block
            config = pipeline.config
            has_budget = config.max_latency_ms is not None or isinstance(config, AudioPipelineConfig)
            is_thread = consumer is not None and consumer.placement == "thread"
            thread = consumer.workers[0] if consumer is not None and is_thread else None
            if config.priority is not PipelinePriority.CRITICAL:
                thread = None
            if has_budget or thread is not None:
                yield WatchedPipeline(
                    pipeline,
                    has_budget=has_budget,
                    deadline_ns=wiring.cycles.deadline_ns,
                    may_keep=wiring.intake is not None and wiring.intake.most_staged != 0,
                    thread=thread,
                )

    def _watched_pools(self, pipelines: Iterable[Pipeline]) -> Iterator[PoolWatch]:
        """Say whether buffers are looked at from now on: where something can be kept, and time is the system's."""
        kept = any(pipeline.format is not None and has_views(pipeline.format) for pipeline in pipelines)
        if kept and self._turns is None and not self._watches_pools:
            self._watches_pools = True
            yield self.pools

    def connect_pipelines(self, layout: Layout, pipelines: Iterable[Pipeline]) -> None:
        """Tell the pipelines of a layout where they are, and make their open ends."""
        for pipeline in pipelines:
            wiring = layout.wirings[pipeline.id]
            assert pipeline.format is not None
            rings, producer_bells, consumer_bells = self.places_of(wiring)
            if not pipeline.source_open:
                pipeline.attach(rings, pipeline.format, producer_bells, consumer_bells, wiring.growth)
            else:
                pipeline.move_consumers(consumer_bells, self.at(wiring.alarm))
            if pipeline.target_open:
                told = block_rejected(pipeline, self._flow, self._publish)
                pipeline.open_target(self._receiver(pipeline, pipeline.format, wiring), told)

    def places_of(
        self, wiring: PipelineWiring
    ) -> tuple[list[Ring], list[tuple[Segment, int]], list[tuple[Segment, int, int]]]:
        """Return the rings of a pipeline, and where those sleep who send and who take."""
        return (
            [Ring(*self.at(lane.ring), wiring.id) for lane in wiring.lanes],
            [self.at(lane.producer_bell) for lane in wiring.lanes],
            [(*self.at(bell), wiring.consumer_bit) for bell in wiring.consumer_bells],
        )

    def lane_of(self, lane: LaneWiring) -> Lane:
        """Return where a receiving end finds a ring."""
        assert lane.pool is not None
        return Lane(*self.at(lane.ring), lane.pool.offset, *self.at(lane.producer_bell))

    def _receiver(self, pipeline: Pipeline, fmt: Format, wiring: PipelineWiring) -> Inbox:
        lanes = [self.lane_of(lane) for lane in wiring.lanes]
        order = None if wiring.order is None else self.at(wiring.order)
        bell = self.at(wiring.consumer_bells[0])
        return make_receiver(
            pipeline,
            fmt,
            self._abort,
            bell,
            lanes,
            order,
            wiring.max_latency_ns,
            wiring.intake,
            wiring.cycles,
            views_exhausted(pipeline, self._flow, self._publish),
        )

    def at(self, place: Place) -> tuple[Segment, int]:
        """Return where that is in this process."""
        return self.segments[place.segment], place.offset

    # --- the run --------------------------------------------------------------------------------------------------------

    def start(self) -> bool:
        """
        Launch every worker, wait until all are set up, then let the sources produce.

        Returns:
            False if a module's setup failed, or a worker did not come up: nothing was produced, everything has ended.
        """
        # Processes first: they take longest.
        try:
            self._news.start()
            if self._turns is not None:  # a setup, too, may take its time
                self._turns.expect(len(self.workers))
                self.let_time_go_on()
            waiting = sorted(self.workers.values(), key=lambda worker: isinstance(worker, ThreadWorker))
            while waiting and not self.problems:
                ready = {worker.name for worker in self.workers.values() if worker.state == "ready"}
                launched = [worker for worker in waiting if self._awaited[worker.name] <= ready]
                for worker in launched:
                    self._launch(worker)
                waiting = [worker for worker in waiting if worker not in launched]
                known = len(ready)
                self._wait(lambda known=known: self._ready > known or bool(self.problems), None)  # type: ignore[misc]
            self._wait(lambda: self._ready == len(self.workers) or bool(self.problems), None)
            self._warn_of_refusals()
            if not self.problems:
                self._release_workers()
                return True
        except BaseException:
            self.give_up()
            raise
        self.give_up()
        return False

    def _launch(self, worker: Worker) -> None:
        with self._changed:
            self._running += 1
        for module in worker.wiring.modules:
            self._lifecycles.note(module.name, "set_up")
        try:
            worker.launch()
        except BaseException:
            with self._changed:
                self._running -= 1
            raise

    def hold_source(self, module: str, *, held: bool) -> None:
        """Let a source produce nothing, or go on; nothing where it is none. Any thread; does not wait."""
        placed = self.modules[module]
        if isinstance(placed.module, Source) and not is_device_driven(placed.module):
            for worker in placed.workers:
                self.workers[worker].hold_source(module, held)

    # --- what flow control does -----------------------------------------------------------------------------------------

    def quality_levels(self, module: str) -> Sequence[str]:
        """Return the levels at which a module can work, the best first; none where it has no ladder."""
        return self.modules[module].module.quality_levels if module in self.modules else ()

    def set_quality(self, module: str, level: str) -> str:
        """
        Let a module work at a level, between two blocks; blocks until all of its replicas do. Returns the level until then.

        Raises:
            StateError: One has ended, does not come to a place between two blocks, or refuses; the others go back to the level until then.
        """
        before = self._quality.get(module, self.quality_levels(module)[0])
        changed: list[str] = []
        for name in self.modules[module].workers:
            problem = self._ask_for_quality(name, module, level)
            if problem is not None:
                for other in changed:
                    self._ask_for_quality(other, module, before)
                raise StateError(f"module {module!r}: expected to work at {level!r}, but {problem}.")
            changed.append(name)
        self._quality[module] = level
        return before

    def _ask_for_quality(self, worker: str, module: str, level: str) -> str | None:
        change = Change(next(self.change_numbers), (SetQuality(module, level),))
        return ask_to_change(self.workers[worker], change, _ANSWER_TIMEOUT_S)

    def allow_buffers(self, pipeline: Pipeline, before: int, after: int) -> None:
        """
        Let as many of the buffers be used that blocks of a pipeline lie in as so many blocks need.

        Args:
            pipeline: The pipeline.
            before: How many might wait until now: as many as at first, or more.
            after: How many may wait now, likewise.

        Raises:
            InsufficientMemory: The system has too little.
        """
        pools, first = self._pools_of(pipeline), pipeline.config.buffer_size
        shares = zip(*(divided(max(each - first, 0), len(pools)) for each in (before, after)), strict=True)
        for pool, (was, is_now) in zip(pools, shares, strict=True):
            set_usable_buffers(*pool, usable_buffers(*pool) + is_now - was)

    def without_flow_control(self) -> contextlib.AbstractContextManager[object]:
        """Let flow control do nothing meanwhile: the rings of a pipeline, and where they are, change together."""
        return contextlib.nullcontext() if self.flow_control is None else self.flow_control.standing_by()

    def give_back_buffers(self, pipeline: Pipeline) -> bool:
        """Give the memory of those back that may not be used, if none still is. Returns whether."""
        given_back = [give_back_unusable_buffers(*pool) for pool in self._pools_of(pipeline)]
        return all(given_back)

    def _pools_of(self, pipeline: Pipeline) -> list[tuple[Segment, int]]:
        wiring = self.wirings.get(pipeline.id)
        if wiring is None:  # both of its ends are open
            segment, _, pool, *_ = self._opened[pipeline.id]
            return [(segment, pool)]
        return [self.at(lane.pool) for lane in wiring.lanes if lane.pool is not None]

    # --- changes while it runs ------------------------------------------------------------------------------------------

    @property
    def goes_on(self) -> bool:
        """Whether it has begun, and nothing has told it to end."""
        return self.started_ns != 0 and not self._stopping and self.ended_ns == 0

    @property
    def freewheels(self) -> bool:
        """Whether it goes by a manual clock."""
        return self._clock is not None

    def replicas_ended(self, module: str) -> bool:
        """Tell whether a module has ended."""
        return self._replicas_left[module] == 0

    def expect(self, modules: Mapping[str, Placed]) -> None:
        """Make modules part of the run, whose workers are made next."""
        self.modules = {**self.modules, **modules}  # a new one: others may look through it
        for name, placed in modules.items():
            self._replicas_left[name] = self._replicas_to_set_up[name] = placed.replicas
            for worker in placed.workers:
                self._awaited[worker] = set()
                for other in self.modules.values():
                    if name in other.depends_on:
                        for dependent in other.workers:
                            self._awaited[dependent] = {*self._awaited.get(dependent, ()), worker} - {dependent}

    def join(self, workers: Sequence[Worker]) -> list[Exception]:
        """
        Launch workers beside those that run, and wait until they are set up. Blocks.

        Returns:
            What went wrong: then none of them runs any more, and the run goes on without them.
        """
        self._joining.update((worker.name, []) for worker in workers)
        try:
            self._news.start()
            for worker in workers:
                self._launch(worker)
            self._wait(
                lambda: (
                    all(worker.state == "ready" for worker in workers)
                    or bool(self._problems_of(workers))
                    or self._stopping
                ),
                None,
            )
            problems = self._problems_of(workers)
            if self._stopping and not problems:
                problems = [StateError(f"flow {self._flow!r}: it was stopped while a module was set up")]
            if problems:
                self.send_away(workers)
        except BaseException:
            self.send_away(workers)
            raise
        finally:
            with self._changed:
                self._waiting_to_begin.update(worker.name for worker in workers)
                for worker in workers:
                    del self._joining[worker.name]
        return problems

    def _problems_of(self, workers: Sequence[Worker]) -> list[Exception]:
        return [problem for worker in workers for problem in self._joining[worker.name]]

    def send_away(self, workers: Sequence[Worker]) -> None:
        """End workers that have not begun. Blocks for a moment."""
        for worker in workers:
            if not worker.ended:
                worker.stop()
        if not self._wait(lambda: all(worker.ended for worker in workers), time.monotonic() + _ABORT_TIMEOUT_S):
            for worker in workers:
                worker.kill()
            self._wait(lambda: all(worker.ended for worker in workers), time.monotonic() + _ABORT_TIMEOUT_S)

    def dismiss(self, worker: Worker) -> None:
        """Forget a worker that has ended, or never came to anything; what it did is kept. Blocks for a moment."""
        worker.join(_ABORT_TIMEOUT_S)
        self._waiting_to_begin.discard(worker.name)
        self._news.count_lost(worker.name, worker.lost_events)
        for name, did in worker.module_reports().items():
            self._departed.setdefault(name, []).append(did)
        self._end_news(worker)
        self._news.catch_up(worker.name, _CATCH_UP_S)
        self._news.forget(worker.name)
        self._awaited.pop(worker.name, None)
        self.workers = {name: each for name, each in self.workers.items() if name != worker.name}

    def begin(self, workers: Iterable[Worker], pipelines: Sequence[Pipeline]) -> None:
        """Let workers that have joined produce, and look at what they do."""
        now_ns = self.now_ns()
        for pipeline in pipelines:
            pipeline.mark_started(now_ns)
        for worker in workers:
            for module in worker.wiring.modules:
                self._lifecycles.move_if_allowed(module.name, "start")
            worker.start()
            with self._changed:
                self._waiting_to_begin.discard(worker.name)
                stopping = self._stopping
            if stopping:
                worker.stop()
        self.watch.add([*self._watched(pipelines), *self._watched_pools(pipelines)], len(self.workers))
        if self.flow_control is not None:
            for pipeline in pipelines:
                pipeline.watched_by = self.flow_control.pressure
            self.flow_control.start()

    def ring_consumers(self, wiring: PipelineWiring) -> None:
        """Let the consumers of a pipeline look at it."""
        for bell in wiring.consumer_bells:
            ring_bell(*self.at(bell), wiring.consumer_bit)

    def retire(self, worker: str, module: str) -> None:
        """Say that another module takes the place of that one, whose end is none of the flow's."""
        with self._changed:
            self._retiring.add((worker, module))

    def keep(self, worker: str, placed: Placed) -> None:
        """Say that no other module takes the place of that one after all."""
        with self._changed:
            self.modules = {**self.modules, placed.name: placed}
            self._replicas_left[placed.name] = 1
            ended = (worker, placed.name) not in self._retiring
            self._retiring.discard((worker, placed.name))
        if ended:  # meanwhile
            self._tell(worker, ModuleEnded(flow=self._flow, module=placed.name))

    def leave_behind(self, worker: Worker, module: str, outputs: Sequence[PipelineWiring]) -> None:
        """Go on without a module that does not end, although another one has its place: what it still sends comes nowhere."""
        self._publish(WorkerUnresponsive(flow=self._flow, worker=worker.name))
        for wiring in outputs:
            for lane in wiring.lanes:
                ring = Ring(*self.at(lane.ring), wiring.id)
                ring.set_abandoned()  # else it waits for room there, and everything else in its worker for it
                ring.set_ended()
            self.ring_consumers(wiring)

    def put_in_place(self, placed: Placed) -> None:
        """Say that a module runs in the place of another one of its name."""
        self._lifecycles.put_in_place(placed.name, placed.module)
        self._quality.pop(placed.name, None)  # it begins at its best
        if self.flow_control is not None:
            self.flow_control.begin_anew(placed.name)

    def wait_until_retired(self, worker: str, module: str, deadline: float) -> bool:
        """Wait until such a module has ended, or its worker; False after the time."""
        retired = lambda: (worker, module) not in self._retiring or self.workers[worker].ended  # noqa: E731
        return self._wait(retired, deadline)

    def forget_left(self, workers: Iterable[str], pipeline: str) -> None:
        """Before an input is taken away: none has been yet."""
        with self._changed:
            self._left_inputs.difference_update((worker, pipeline) for worker in workers)

    def wait_until_left(self, workers: Sequence[str], pipeline: str, deadline: float) -> bool:
        """Wait until workers have taken all of a pipeline that is taken away, or have ended; False after the time."""

        def left() -> bool:
            return all((name, pipeline) in self._left_inputs or self.workers[name].ended for name in workers)

        return self._wait(left, deadline)

    def end_if_nothing_comes(self) -> None:
        """
        End the modules that wait for something to lead into them, once nothing else is left that could come.

        Any thread; does not wait.
        """
        with self._changed:
            fed = {pipeline.target[0] for pipeline in self.linked if pipeline.source[0] != pipeline.target[0]}
            left = [name for name in self.modules if not self.replicas_ended(name)]
            idle = all(name not in fed and not isinstance(self.modules[name].module, Source) for name in left)
            if not (left and idle and self.goes_on) or self._joining:
                return
            workers = [self.workers[worker] for name in left for worker in self.modules[name].workers]
        for worker in workers:
            if not worker.ended:
                worker.stop()

    def _release_workers(self) -> None:
        # Whoever hears of the start may add others at once, which are none of these.
        workers = list(self.workers.values())
        with self._changed:
            self.started_ns = self.now_ns()
            failed_meanwhile = self._stopping
        for pipeline in self.linked:
            pipeline.mark_started(self.started_ns)
        for name in self.modules:
            self._lifecycles.move_if_allowed(name, "start")
        self._publish(DataFlowStarted(flow=self._flow, workers=tuple(self.workers)))
        if self._turns is not None:
            self._turns.stand_still()
            self._turns.expect(len(workers))
        self.watch.start(len(workers))
        if self.flow_control is not None:
            self.flow_control.start()
        for worker in workers:
            worker.start()
            if failed_meanwhile:
                worker.stop()
        if failed_meanwhile:
            self._end_by_itself()
        elif self._turns is not None:
            # What is due at once is done when the caller goes on.
            while not self._turns.wait_until(self.started_ns, _LOOK_UP_S):
                pass
        self.end_if_nothing_comes()

    def forget(self) -> None:
        """Give up the run in a forked child: it goes on in the parent, which nothing here may disturb."""
        self.ended_ns = 1
        for worker in self.workers.values():
            worker.forget()

    def wait(self, timeout_s: float | None) -> bool:
        """
        Wait until the run is over; False after the time.

        Interrupted by signals' exceptions, such as KeyboardInterrupt. Where the flow freewheels, its time goes on meanwhile.
        """
        if self._clock is not None and timeout_s is not None and not self._is_over():
            self._clock.sleep(timeout_s)
            if not self._is_over():
                return False
        else:
            self.let_time_go_on()
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            if not self._wait(self._is_over, deadline):
                return False
        self._conclude()
        return True

    def when_over(self, callback: Callable[[], None]) -> None:
        """Call back once when the run is over, now if it is; any thread, must not block. `wait` then returns soon."""
        with self._changed:
            self._when_over.append(callback)
        self._tell_when_over()

    def stop(self, drain_timeout_s: float) -> None:
        """
        Stop the sources, let blocks drain within the time, then give up what is left.

        An exception that interrupts it, such as KeyboardInterrupt, ends that time.
        """
        try:
            self._request_stop("the flow was stopped")
            self._wait(lambda: self._is_over() or self._hurried, time.monotonic() + drain_timeout_s)
        except BaseException:
            self.hurry()
            self.give_up()
            raise
        if not self._is_over():
            self.give_up()
        self._conclude()

    def hurry(self) -> None:
        """Let nothing drain any more, neither in a stop that goes on nor in a later one. Any thread; does not wait."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()

    def runs_in_this_thread(self) -> str | None:
        """Return the name of the worker whose thread calls; None in any other thread."""
        return next((worker.name for worker in self.workers.values() if worker.is_this_thread), None)

    def give_up(self) -> None:
        """End everything that still runs: waiting calls first, then processes by force. Threads cannot be forced."""
        self._stopping = True
        self._abort.set()
        if self._turns is not None:
            self._turns.disband()
        self._end_open_sources("the flow was aborted")
        for worker in self.workers.values():
            if not worker.ended:
                worker.abort()
        self._ring_all_bells()
        try:
            self._wait(lambda: self._running == 0, time.monotonic() + _ABORT_TIMEOUT_S)
        finally:  # also where the wait was interrupted
            self._end_by_force()
        self._conclude()

    def _end_by_force(self) -> None:
        for worker in self.workers.values():
            if not worker.ended:
                if worker.name not in self._left_behind:
                    self._left_behind.add(worker.name)
                    self._publish(WorkerUnresponsive(flow=self._flow, worker=worker.name))
                worker.kill()
        killed = [worker for worker in self.workers.values() if isinstance(worker, ProcessWorker)]
        self._wait(lambda: all(worker.ended for worker in killed), time.monotonic() + 2 * _ABORT_TIMEOUT_S)

    def release(self) -> None:
        """Give the shared memory back, as far as no view of a block keeps it. After the end."""
        for worker in self.workers.values():
            worker.release()
        for layout in self.layouts:
            layout.release()
        self.segments = {}
        self._news.release()
        if self.flow_control is not None:
            self.flow_control.release()
            self.flow_control = None

    def module_reports(self) -> dict[str, ModuleReport]:
        """Return what each module did: what its worker told, or what was seen of it."""
        replicas = {name: list(each) for name, each in self._departed.items()}
        for worker in self.workers.values():
            told = worker.module_reports()
            for module in worker.wiring.modules:
                did = told.get(module.name) or self._seen_from_outside(module.name, worker)
                replicas.setdefault(module.name, []).append(did)
        reports: dict[str, ModuleReport] = {}
        for name, each in replicas.items():
            calls, busy_ns, states, aligned, _ = zip(*each, strict=True)
            if name not in self.modules:
                continue  # it was never set up
            reports[name] = ModuleReport(
                worker=self.modules[name].shown_workers,
                calls=sum(calls),
                busy_ms=sum(busy_ns) / 1e6,
                state="failed" if name in self._failed_modules else min(states, key=_STATES.index),
                aligned=aligned[0],  # a module that aligns its inputs has no replicas
            )
        return reports

    def conversion_reports(self) -> dict[str, tuple[StepReport, ...]]:
        """Return what each step of each conversion did, by pipeline."""
        told = [did[4] for worker in self.workers.values() for did in worker.module_reports().values()]
        told += [did[4] for each in self._departed.values() for did in each]
        told += [{pipeline.id: steps} for pipeline in self.linked if (steps := pipeline.conversion_reports())]
        return added_up(told)

    def now_ns(self) -> int:
        """Return the time by the clock of the run."""
        return monotonic_ns() if self._turns is None else self._turns.now_ns

    def device_reports(self) -> dict[str, DeviceReport]:
        """Return what happened at each device, by module."""
        return {
            name: report_of_module(account, placed.module)
            for name, placed in self.modules.items()
            if isinstance(placed.module, Source) and (account := placed.module.device_account) is not None
        }

    def clock_drifts(self) -> dict[str, float]:
        """Return how much faster each device that captures is than each other one that plays what comes of it, as far as known."""
        upstream = upstream_of(edges_between(self.modules, self.linked))
        pairs = [
            (capturing, playing)
            for playing in self._devices
            for capturing in self._devices
            if capturing != playing and capturing in upstream.get(playing, ())
        ]
        drifts = {
            f"{capturing}->{playing}": drift_ppm(self._devices[capturing].rate, self._devices[playing].rate)
            for capturing, playing in pairs
        }
        return {pair: ppm for pair, ppm in drifts.items() if ppm is not None}

    def device_places(self) -> dict[str, tuple[Segment, int]]:
        """Return where the callback of each device counts, by module."""
        places = [item for layout in self.layouts for item in layout.accounts.items()]
        return {name: self.at(place) for name, place in places}

    def _seen_from_outside(self, module: str, worker: Worker) -> ModuleDid:
        """Tell what a module did by what its pipelines counted: of a process that has not reported yet, or never will."""
        calls = busy_ns = 0
        for pipeline in self.linked:
            for ring in pipeline.rings if pipeline.target[0] == module else ():
                received, worked_ns = ring.consumed(worker.wiring.replica)
                calls += received
                busy_ns += worked_ns
        return calls, busy_ns, "stopped" if worker.ended else "running", {}, {}

    def failure(self, report: object) -> FlowFailed | None:
        """Return the error of a failed run; None if nothing failed."""
        if not self.problems:
            return None
        first = str(self.problems[0]).splitlines()[0]
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return FlowFailed(f"flow {self._flow!r} failed: {first}{more}", self.problems, report)

    # --- told by workers, from any thread -------------------------------------------------------------------------------

    def worker_ready(self, worker: Worker) -> None:
        """See `workers.Owner`."""
        if worker.realtime_refusal is not None:
            self._publish(RealtimeRefused(flow=self._flow, worker=worker.name, reason=worker.realtime_refusal))
        for module in worker.wiring.modules:
            with self._changed:
                self._replicas_to_set_up[module.name] -= 1
                all_ready = self._replicas_to_set_up[module.name] == 0
            if all_ready:
                self._lifecycles.move_if_allowed(module.name, "be_ready")
        with self._changed:
            self._ready += 1
            self._changed.notify_all()

    def worker_failed(self, worker: Worker, problem: Exception, module: str | None) -> None:
        """See `workers.Owner`."""
        if self._is_joining(worker, problem):
            return
        if module is not None:
            self._failed_modules.add(module)
        self._failed(worker, problem, module)

    def _is_joining(self, worker: Worker, problem: Exception) -> bool:
        """Note what went wrong with a worker that is about to join the run, which goes on without it; False of any other."""
        with self._changed:
            if worker.name not in self._joining:
                return False
            for module in worker.wiring.modules:
                self._lifecycles.note(module.name, "fail")
            self._joining[worker.name].append(problem)
            self._changed.notify_all()
            return True

    def worker_died(self, worker: Worker, problem: WorkerDied) -> None:
        """See `workers.Owner`."""
        if self._is_joining(worker, problem):
            return
        self._failed_modules.update(module.name for module in worker.wiring.modules)
        self._reclaim(worker)
        self._failed(worker, problem, None)

    def realtime_revoked(self, worker: Worker, module: str | None, reason: str) -> None:
        """See `workers.Owner`."""
        self._publish(RealtimeRevoked(flow=self._flow, worker=worker.name, module=module, reason=reason))

    def worker_lost(self, worker: Worker, module: str, problem: str) -> None:
        """See `workers.Owner`."""
        self._reclaim(worker, for_successor=True)
        self._catch_up(worker)
        self._news.begin_anew(worker.name)
        self.device_lost(worker, module, problem)

    def worker_recovered(self, worker: Worker, module: str, away_s: float, attempts: int) -> None:
        """See `workers.Owner`."""
        self.device_recovered(worker, module, away_s, attempts)

    def device_lost(self, worker: Worker, module: str, problem: str) -> None:
        """See `workers.Owner`."""
        self._lifecycles.note(module, "lose_device")
        self._publish(DeviceLost(flow=self._flow, module=module, worker=worker.name, problem=problem))

    def device_recovered(self, worker: Worker, module: str, away_s: float, attempts: int) -> None:
        """See `workers.Owner`."""
        self._lifecycles.note(module, "find_device")
        self._publish(
            DeviceRecovered(flow=self._flow, module=module, worker=worker.name, away_s=away_s, attempts=attempts)
        )

    def worker_given_up(self, worker: Worker) -> None:
        """See `workers.Owner`."""
        self._reclaim(worker)

    def worker_ended(self, worker: Worker) -> None:
        """See `workers.Owner`."""
        with self._changed:
            self._running -= 1
            if self._running == 0 and self.started_ns and not self._stopping:
                self._end_by_itself()
            self._changed.notify_all()
        self._end_news(worker)
        if self.goes_on and worker.wiring.process:
            self._release_views(worker)
        for name in self._awaited.get(worker.name, ()):
            if all(self.workers[other].ended for other in self.workers[name].wiring.dependents):
                self.workers[name].let_down()
        self.end_if_nothing_comes()
        self._tell_when_over()

    def happened(self, worker: str, event: FlowEvent) -> None:
        """See `workers.Owner`."""
        self._news.tell_in_order(event.timestamp_ns, partial(self._tell, worker, event))

    def _tell(self, worker: str, event: FlowEvent) -> None:
        """Publish an event of a module, after what its device has missed, which may be why."""
        if self._devices:
            self.watch.look_at(self._devices.values())
        if isinstance(event, ModuleEnded) and event.module in self._replicas_left:
            with self._changed:
                retires = (worker, event.module) in self._retiring
                self._retiring.discard((worker, event.module))
                self._changed.notify_all()
            if retires or not self._is_last_replica(event.module):
                return
            self._lifecycles.note(event.module, "end")
        self._publish(event)
        if isinstance(event, ModuleEnded):
            self.end_if_nothing_comes()

    def input_left(self, worker: Worker, pipeline: str) -> None:
        """See `workers.Owner`."""
        with self._changed:
            self._left_inputs.add((worker.name, pipeline))
            self._changed.notify_all()

    def _is_last_replica(self, module: str) -> bool:
        """Note that a replica has ended. A module has ended when all of its replicas have."""
        with self._changed:
            self._replicas_left[module] -= 1
            return self._replicas_left[module] == 0

    def _warn_of_refusals(self) -> None:
        # In the caller's thread, where a filter that makes warnings errors stops the flow and not a monitor.
        refused = [worker for worker in self.workers.values() if worker.realtime_refusal is not None]
        if refused:
            names = ", ".join(repr(worker.name) for worker in refused)
            run = f"worker {names} runs" if len(refused) == 1 else f"workers {names} run"
            # Once: it is one system that refuses, for one reason.
            warnings.warn(
                f"flow {self._flow!r}: {run} without real-time priority: {refused[0].realtime_refusal}",
                RuntimeWarning,
                stacklevel=5,  # start() or run(), as the user called it
            )

    def _failed(self, worker: Worker, problem: Exception, module: str | None) -> None:
        first = str(problem).splitlines()[0]
        self._catch_up(worker)
        for name in (each.name for each in worker.wiring.modules) if module is None else (module,):
            self._lifecycles.note(name, "fail")
        self._publish(PipelineFailure(flow=self._flow, module=module, worker=worker.name, problem=first))
        if self.ended_ns:
            return  # the run is over and has been judged; a thread that was left behind is no new failure of it
        with self._changed:
            self.problems.append(problem)
            self._changed.notify_all()
        self._request_stop(f"the flow failed: {first}")
        if self.started_ns:
            self._end_by_itself()

    # --- ending -----------------------------------------------------------------------------------------------------------

    def _end_by_itself(self) -> None:
        """
        Let a thread end the run, which has failed, or has come to its end.

        Nobody may be in wait() or stop(): the application may be receiving, others observing, and have to hear of it.
        """
        with self._changed:
            if self._ending is None:
                ending = threading.Thread(target=self._end, name="steadyflow-end", daemon=True)
                ending.start()
                self._ending = ending

    def _end(self) -> None:
        if self._wait(self._is_over, time.monotonic() + _FAILED_DRAIN_TIMEOUT_S):
            self._conclude()
        else:
            self.give_up()

    def _request_stop(self, reason: str) -> None:
        with self._changed:
            if self._stopping:
                return
            self._stopping = True
        if self.flow_control is not None:
            self.flow_control.let_go()
        self._end_open_sources(reason)
        for pipeline in self.linked:
            pipeline.end_pausing(reason)
        if self.started_ns:
            for worker in self.workers.values():
                if not worker.ended and worker.name not in self._waiting_to_begin:
                    worker.stop()
        self.let_time_go_on()

    def let_time_go_on(self) -> None:
        """Where the flow freewheels: let its time go on until it is over. Any thread; does not wait."""
        if self._turns is not None:
            self._turns.go_on_until(self._turns.NO_LIMIT)

    def _end_open_sources(self, reason: str) -> None:
        for pipeline in self.linked:
            if pipeline.source_open:
                pipeline.end_from_outside(f"{pipeline.id}: {reason}")

    def _ring_all_bells(self) -> None:
        for worker in self.workers.values():
            if worker.wiring.bell.segment in self.segments:
                ring_bell(*self.at(worker.wiring.bell), ROOM_BIT)
                ring_bell(*self.at(worker.wiring.bell), CONTROL_BIT)
        for layout in self.layouts:
            for offset in layout.target_bells.values():
                ring_bell(layout.segment, offset, CONTROL_BIT)

    def _reclaim(self, worker: Worker, *, for_successor: bool = False) -> None:
        """Take over what a dead process had in hand: its blocks, its views and, unless another follows it, its ends."""
        names = {module.name for module in worker.wiring.modules}
        self._take_over(worker, names)
        if not for_successor:
            retire_bell(*self.at(worker.wiring.bell))
        for wiring in worker.wiring.pipelines:
            try:
                self._reclaim_pipeline(worker, wiring, names, for_successor)
            except CorruptedSegment as damage:
                self._failed(worker, damage, None)  # the others are reclaimed all the same
            self.ring_consumers(wiring)
            for lane in wiring.lanes:
                ring_bell(*self.at(lane.producer_bell), ROOM_BIT)

    def _reclaim_pipeline(self, worker: Worker, wiring: PipelineWiring, names: set[str], for_successor: bool) -> None:
        if wiring.target[0] in names:
            self._reclaim_input(worker, wiring)
        # Its views, and on its own outputs its loans.
        for lane in wiring.lanes:
            if lane.pool is not None:
                release_process(*self.at(lane.pool), worker.wiring.process, wiring.id)
        if wiring.source[0] in names and not for_successor:
            Ring(*self.at(wiring.lanes[worker.wiring.replica].ring), wiring.id).set_ended()

    def _reclaim_input(self, worker: Worker, wiring: PipelineWiring) -> None:
        # Other replicas go on with what it had claimed, and with what still comes.
        nobody_left = all(self.workers[name].ended for name in self.modules[wiring.target[0]].workers)
        for lane in wiring.lanes:
            ring = Ring(*self.at(lane.ring), wiring.id)
            ring.reap(worker.wiring.process)
            if nobody_left:
                ring.set_abandoned()

    def _release_views(self, worker: Worker) -> None:
        """Give back the blocks of which a process kept views until its end: another one may get its number."""
        names = {module.name for module in worker.wiring.modules}
        for wiring in worker.wiring.pipelines:
            for lane in wiring.lanes if wiring.target[0] in names else ():
                if lane.pool is not None:
                    with contextlib.suppress(CorruptedSegment):  # whoever sends there finds the same
                        release_process(*self.at(lane.pool), worker.wiring.process, wiring.id)

    def _end_news(self, worker: Worker) -> None:
        """Say for a process that is gone that nothing more is told."""
        news = worker.wiring.news
        if news is not None:
            with contextlib.suppress(CorruptedSegment):  # whoever reads it tells
                Ring(*self.at(news.ring), news_name(worker.name)).set_ended()
            ring_bell(*self.at(news.bell), news.bit)

    def _catch_up(self, worker: Worker) -> None:
        """Hear first what a worker has told itself, before something is told of it that came another way."""
        self._news.catch_up(worker.name, _CATCH_UP_S)

    def _take_over(self, worker: Worker, names: set[str]) -> None:
        """Complete what a dead process may have left half sent, before anything says that its streams have ended."""
        ports: dict[Place, dict[str, int]] = {}
        if worker.wiring.news is not None:
            ports[worker.wiring.news.pool] = {news_name(worker.name): worker.wiring.news.ring.offset}
        for wiring in worker.wiring.pipelines:
            lane = wiring.lanes[worker.wiring.replica] if wiring.source[0] in names else None
            if lane is not None and lane.pool is not None:
                ports.setdefault(lane.pool, {})[wiring.id] = lane.ring.offset
        for pool, rings in ports.items():
            try:
                take_over(*self.at(pool), list(rings.values()), list(rings))
            except CorruptedSegment as damage:
                self._failed(worker, damage, None)

    def _is_over(self) -> bool:
        return self._running == 0 or self.ended_ns != 0

    def _conclude(self) -> None:
        """Give every block a fate, once nothing moves any more."""
        with self._concluding:
            if not self.ended_ns:
                try:
                    ended_ns = self._settle()
                finally:
                    self._settled()
                    if self._clock is not None:
                        self._clock.end_run()
                self.ended_ns = ended_ns  # last: whoever sees it need not wait for anything
        with self._changed:
            self._changed.notify_all()
        self._tell_when_over()
        ending = self._ending
        if ending is not None and ending is not threading.current_thread():
            ending.join(_ABORT_TIMEOUT_S)  # so that nothing of the run is left

    def _tell_when_over(self) -> None:
        if self._is_over():
            with self._changed:
                callbacks, self._when_over = self._when_over, []
            for callback in callbacks:
                callback()

    def _settle(self) -> int:
        """Return when it was done, on the monotonic clock."""
        for worker in self.workers.values():
            if worker.name not in self._left_behind:
                worker.join(_ABORT_TIMEOUT_S)
        for worker in self.workers.values():
            if worker.state == "created":  # it was never launched
                self._end_news(worker)
        self._news.end(_ABORT_TIMEOUT_S)
        for worker in self.workers.values():
            self._news.count_lost(worker.name, worker.lost_events)
        self.watch.end(_ABORT_TIMEOUT_S)
        if self.flow_control is not None:
            self.flow_control.end(_ABORT_TIMEOUT_S)
        for name in self.modules:
            self._lifecycles.move_if_allowed(name, "stop")
        for pipeline in self.linked:
            pipeline.mark_ended()
            failed = pipeline.target[0] in self._failed_modules
            for ring in () if pipeline.target_open else pipeline.rings:
                ring.abandon(DROPPED_FAILED if failed else DROPPED_STOPPED)
        self._publish(DataFlowStopped(flow=self._flow, failed=bool(self.problems)))
        return self.now_ns()

    def _wait(self, condition: Callable[[], bool], deadline: float | None) -> bool:
        with self._changed:
            while not condition():
                left = _LOOK_UP_S if deadline is None else min(_LOOK_UP_S, deadline - time.monotonic())
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True
