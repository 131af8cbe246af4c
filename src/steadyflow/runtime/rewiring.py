"""
Changes of a flow that runs: what is added gets memory of its own, and workers are told, one after the other, what to do between
two blocks.

Memory comes first, then whoever takes from a pipeline, then whoever sends into it: so the first block finds somebody who waits for
it. What is taken away ends in the other direction, and is drained.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from steadyflow._native import Ring
from steadyflow.backpressure.rules import DropByPriority
from steadyflow.errors import ConfigurationError, FormatClash, StateError, concerning
from steadyflow.formats import AnyFormat, Format
from steadyflow.module import Module, Source, aligned_inputs, input_ports, is_device_driven, output_ports
from steadyflow.pipeline import Pipeline
from steadyflow.runtime.changes import (
    OVER,
    WITHDRAWN,
    AddInput,
    AddOutput,
    Change,
    EndModule,
    KeepInput,
    ReleaseInput,
    RemoveOutput,
    Reorder,
    Step,
)
from steadyflow.runtime.execution import Execution
from steadyflow.runtime.format_resolution import FoundFormats, ask, check_complete, find_formats
from steadyflow.runtime.layout import (
    Layout,
    Running,
    WorkerPlan,
    check_audio_limits,
    check_placements,
    default_rules,
    plan_workers,
    topological,
)
from steadyflow.runtime.open_ends import OpenPlace
from steadyflow.runtime.path_delays import check_path_budgets
from steadyflow.runtime.placed import Placed
from steadyflow.runtime.replicas import check_around_replicas
from steadyflow.runtime.wiring import PipelineWiring, Place
from steadyflow.runtime.workers import Worker, ask_to_change

ANSWER_TIMEOUT_S: Final = 5.0
"""How long a worker may need to come to a place between two blocks, before a change is given up."""

_PATIENCE_S: Final = 0.5  # for the end of a worker whose last module has ended


class Rewiring:
    """
    Changes a run. One change at a time, from any thread but those of its workers; each call blocks until it is made.

    Args:
        flow: The name of the flow.
        run: The run.
    """

    def __init__(self, flow: str, run: Execution) -> None:
        self._flow = flow
        self._run = run
        self._changing = threading.Lock()
        self._segments = max(run.segments) + 1  # the number of the next one

    # --- what is added ------------------------------------------------------------------------------------------------

    def connect(
        self, modules: Mapping[str, Placed], pipelines: Sequence[Pipeline], opened: Mapping[str, OpenPlace]
    ) -> None:
        """
        Set up modules that are new, and let blocks flow on new pipelines.

        Args:
            modules: All that are described; those that are new and that no pipeline is at stay as they are.
            pipelines: The new ones.
            opened: Where those with an open source lie.

        Raises:
            StateError: A module at one of them has ended, or is not told in time; or the flow stops. Nothing has changed.
            ConfigurationError: They cannot run. Nothing has changed.
            FlowError: A new module could not be set up. Nothing has changed.
        """
        with self._changing:
            run = self._run
            self._require_run()
            ends = {name for pipeline in pipelines for name in (pipeline.source[0], pipeline.target[0])}
            added = {name: placed for name, placed in modules.items() if name in ends and name not in run.modules}
            self._check_ends([run.modules[name] for name in ends if name in run.modules], pipelines)
            linked = [*run.linked, *pipelines]
            together = {**run.modules, **added}
            order = topological(together, linked)
            self._check_workers(added)
            check_placements(added)
            check_around_replicas(together, linked, order)
            found = self._find_formats(together, added, linked, order)
            self._check_aligned(together, pipelines, added)
            for pipeline in pipelines:
                pipeline.format = found.pipelines[pipeline.id]
                pipeline.conversion = found.conversions.get(pipeline.id)
            check_path_budgets(run.budgets, together, linked, order, found)
            check_audio_limits(pipelines, {pipeline.id: pipeline.format for pipeline in pipelines})
            default_rules(together, linked)
            _tell_ports(added, found)
            plans = plan_workers(added, [[name] for group in order for name in group if name in added])
            places = {pipeline.id: opened[pipeline.id][:4] for pipeline in pipelines if pipeline.id in opened}
            layout = Layout(together, linked, plans, order, places, self._running({p.id for p in run.linked}))
            self._include(layout)
            told: list[tuple[Worker, PipelineWiring]] = []
            workers: list[Worker] = []
            try:
                run.expect(added)
                workers = run.make_workers(layout, plans)
                for worker in self._running_workers(run.modules.keys() - added.keys()):
                    taken = [wiring for wiring in layout.wirings.values() if wiring.target[0] in self._names(worker)]
                    # Before: who is interrupted does not know whether it was done.
                    told += [(worker, wiring) for wiring in taken]
                    self._require_done(
                        worker, [self._reorder(worker, layout), *(AddInput(each, False) for each in taken)]
                    )
                run.connect_pipelines(layout, pipelines)
                problems = run.join(workers)
                if problems:
                    raise problems[0]
                senders = self._running_workers(run.modules.keys() - added.keys())
                theirs = [
                    (worker, [w for w in layout.wirings.values() if w.source[0] in self._names(worker)])
                    for worker in senders
                ]
                self._let_send(
                    [(worker, [AddOutput(wiring) for wiring in sent], sent) for worker, sent in theirs if sent]
                )
            except BaseException:
                self._undo(layout, workers, told, added, pipelines)
                raise
            run.linked, run.formats = linked, found
            run.wirings.update(layout.wirings)
            for worker, wiring in told:
                _note_pipelines(worker, [wiring])
            run.begin(workers, pipelines)

    def _undo(
        self,
        layout: Layout,
        workers: Sequence[Worker],
        told: Sequence[tuple[Worker, PipelineWiring]],
        added: Mapping[str, Placed],
        pipelines: Sequence[Pipeline],
    ) -> None:
        for worker, wiring in told:
            self._run.forget_left([worker.name], wiring.id)
            self._tell(worker, [ReleaseInput(wiring.id)])
            self._end_rings([wiring])
            self._run.wait_until_left([worker.name], wiring.id, time.monotonic() + ANSWER_TIMEOUT_S)
        for pipeline in pipelines:
            pipeline.detach(f"{pipeline.id}: it could not be connected")
        self._run.send_away(workers)
        for worker in workers:
            self._run.dismiss(worker)
        self._run.modules = {name: placed for name, placed in self._run.modules.items() if name not in added}
        self._give_back([layout])

    # --- what is taken away -------------------------------------------------------------------------------------------

    def disconnect(self, pipeline: Pipeline, *, discard: bool, drain_timeout_s: float) -> None:
        """
        Let nothing more into a pipeline, and forget it when what is in it has been taken.

        Args:
            pipeline: One of the run.
            discard: Whether what waits in it is dropped.
            drain_timeout_s: What has not been taken by then is dropped.

        Raises:
            StateError: A module at it is not told in time, or the flow stops.
            ConfigurationError: One of its ends cannot do without it.
        """
        with self._changing:
            self._require_run()
            ends = [
                self._run.modules[name]
                for name in (pipeline.source[0], pipeline.target[0])
                if name in self._run.modules
            ]
            self._check_ends(ends, [pipeline], ended_too=True)
            aligned = None if pipeline.target_open else aligned_inputs(self._run.modules[pipeline.target[0]].module)
            if aligned is not None and pipeline.target[1] in aligned.names:
                raise ConfigurationError(
                    f"{pipeline.id}: expected an input that its module can do without; {'.'.join(pipeline.target)} is one of "
                    f"{aligned!r}, which waits for all of them. Replace the module instead."
                )
            self._take_away(pipeline, discard=discard, drain_timeout_s=drain_timeout_s)
            self._collect()
        self._run.end_if_nothing_comes()

    def _take_away(self, pipeline: Pipeline, *, discard: bool, drain_timeout_s: float) -> None:
        run = self._run
        if pipeline.paused:
            pipeline.resume()  # so that it drains, and nobody waits there in vain
        consumers = [] if pipeline.target_open else self._workers_of(pipeline.target[0])
        producers = [] if pipeline.source_open else self._workers_of(pipeline.source[0])
        run.forget_left([worker.name for worker in consumers], pipeline.id)
        if discard:
            pipeline.flush()  # also now: who has to be told may be busy with what waits
        try:
            for worker in consumers:
                self._require_done(worker, [ReleaseInput(pipeline.id)], may_be_over=True)
            for worker in producers:
                self._require_done(worker, [RemoveOutput(pipeline.id)], may_be_over=True)
        except BaseException:
            for worker in consumers:
                self._tell(worker, [KeepInput(pipeline.id)])
            raise
        if pipeline.source_open:
            pipeline.end_from_outside(f"{pipeline.id}: it was disconnected")
        pipeline.end_pausing(f"{pipeline.id} is disconnected")
        if discard:
            pipeline.flush()
        names = [worker.name for worker in consumers]
        if not run.wait_until_left(names, pipeline.id, time.monotonic() + drain_timeout_s):
            pipeline.flush()
            run.wait_until_left(names, pipeline.id, time.monotonic() + ANSWER_TIMEOUT_S)
        for worker in (*consumers, *producers):
            _forget_pipeline(worker, pipeline.id)
        run.linked = [each for each in run.linked if each is not pipeline]
        run.watch.discard(pipeline)
        if not pipeline.target_open:  # the application still takes what waits
            pipeline.detach(f"{pipeline.id}: it was disconnected")
            del run.wirings[pipeline.id]

    # --- what takes the place of something else -----------------------------------------------------------------------

    def replace(self, placed: Placed, *, discard: bool, drain_timeout_s: float) -> None:
        """
        Let another module take the place of one: it gets the next block, and sends what comes next.

        The one that goes first drains; only when it has ended comes what the other one sends.

        Args:
            placed: The module that comes, by the name of the one that goes.
            discard: Whether what waits for the one that goes is dropped.
            drain_timeout_s: What it has not taken by then is dropped.

        Raises:
            FormatClash: A port of it would have another format.
            ConfigurationError: It cannot take that place.
            StateError: A module is not told in time, or the flow stops.
            FlowError: It could not be set up. Nothing has changed.
        """
        with self._changing:
            run, name = self._run, placed.name
            self._require_run()
            old = run.modules[name]
            self._check_ends([old, placed])
            inputs = [pipeline for pipeline in run.linked if pipeline.target[0] == name]
            outputs = [pipeline for pipeline in run.linked if pipeline.source[0] == name]
            self._check_ends([run.modules[each.target[0]] for each in outputs if not each.target_open], outputs)
            _check_place(old, placed, inputs, outputs)
            for pipeline in (*inputs, *outputs):
                if run.wirings[pipeline.id].in_loop:
                    raise ConfigurationError(
                        f"{pipeline.id}: expected no loop at a module that is replaced, because it would wait for its own end."
                    )
            together = {**run.modules, name: placed}
            order = topological(together, run.linked)
            found = self._find_formats(together, {name: placed}, run.linked, order)
            _check_formats(old, found, outputs)
            check_path_budgets(run.budgets, together, run.linked, order, found)
            conversions = {pipeline.id: pipeline.conversion for pipeline in inputs}
            (old_worker,) = self._workers_of(name)
            links = [*inputs, *outputs]
            before = {pipeline.id: run.wirings[pipeline.id] for pipeline in links}
            changing: list[Pipeline] = []
            layout: Layout | None = None
            workers: list[Worker] = []
            run.retire(old_worker.name, name)
            try:
                for pipeline in links:
                    pipeline.begin_change()
                    changing.append(pipeline)
                for pipeline in inputs:
                    pipeline.conversion = found.conversions.get(pipeline.id)
                _tell_ports({name: placed}, found)
                ((plan),) = plan_workers({name: placed}, [[name]])
                layout = self._lay_out_anew(together, order, [plan], links)
                run.expect({name: placed})
                workers = run.make_workers(layout, [plan])
                problems = run.join(workers)
                if problems:
                    raise problems[0]
                self._announce(layout, outputs)
                if isinstance(placed.module, Source) or not inputs:
                    self._require_done(old_worker, [EndModule(name)], may_be_over=True)
                places = {pipeline.id: run.places_of(layout.wirings[pipeline.id]) for pipeline in links}
                for pipeline in links:
                    pipeline.expect(places[pipeline.id][0])
                self._switch(layout, inputs, drain_timeout_s)
            except BaseException:
                for pipeline in links:
                    pipeline.expect(())
                for pipeline in inputs:
                    pipeline.conversion = conversions[pipeline.id]
                if layout is not None:
                    self._end_rings(layout.wirings[pipeline.id] for pipeline in links)
                run.send_away(workers)
                for worker in workers:
                    run.dismiss(worker)
                if layout is not None:
                    self._give_back([layout])
                run.keep(old_worker.name, old)
                for pipeline in changing:
                    pipeline.end_change()
                raise
            with run.without_flow_control():
                earlier = {}
                for pipeline in links:
                    wiring = layout.wirings[pipeline.id]
                    earlier[pipeline.id] = pipeline.succeed(*places[pipeline.id], wiring.growth)
                run.wirings.update(layout.wirings)
            for pipeline in outputs:
                for worker in () if pipeline.target_open else self._workers_of(pipeline.target[0]):
                    _note_pipelines(worker, [layout.wirings[pipeline.id]])
            run.formats = found
            run.put_in_place(placed)
            if discard:
                _flush(earlier[pipeline.id] for pipeline in inputs)
            if not run.wait_until_retired(old_worker.name, name, time.monotonic() + drain_timeout_s):
                _flush(earlier[pipeline.id] for pipeline in inputs)
                if not run.wait_until_retired(old_worker.name, name, time.monotonic() + ANSWER_TIMEOUT_S):
                    run.leave_behind(old_worker, name, [before[pipeline.id] for pipeline in outputs])
            # Only now: what it does comes after all that the other one has done.
            run.begin(workers, [])
            for pipeline in links:
                _forget_pipeline(old_worker, pipeline.id)
                pipeline.settle(*places[pipeline.id][1:])
                pipeline.end_change()
            if {each.name for each in old_worker.wiring.modules} == {name} and old_worker.join(_PATIENCE_S):
                run.dismiss(old_worker)
            self._collect()

    def _lay_out_anew(
        self,
        modules: Mapping[str, Placed],
        order: Sequence[Sequence[str]],
        plans: Sequence[WorkerPlan],
        pipelines: Sequence[Pipeline],
    ) -> Layout:
        run = self._run
        again = {pipeline.id for pipeline in pipelines}
        sources = {p.id: run.wirings[p.id].lanes[0].producer_bell for p in pipelines if p.source_open}
        targets = {p.id: run.wirings[p.id].consumer_bells[0] for p in pipelines if p.target_open}
        running = self._running({pipeline.id for pipeline in run.linked} - again)._replace(
            open_ends=sources | targets,
            bits={p.id: run.wirings[p.id].consumer_bit for p in pipelines if not run.wirings[p.id].fused},
        )
        layout = Layout(modules, run.linked, plans, order, {}, running)
        self._include(layout)
        return layout

    def _announce(self, layout: Layout, outputs: Sequence[Pipeline]) -> None:
        """Let the consumers of a module take, after all that it sends, what another one will."""
        for worker in self._running_workers({pipeline.target[0] for pipeline in outputs} & self._run.modules.keys()):
            followed = [layout.wirings[each.id] for each in outputs if each.target[0] in self._names(worker)]
            self._require_done(worker, [AddInput(wiring, True) for wiring in followed], may_be_over=True)
        for pipeline in outputs:
            if pipeline.target_open:
                pipeline.follow(self._run.lane_of(layout.wirings[pipeline.id].lanes[0]))

    def _switch(self, layout: Layout, inputs: Sequence[Pipeline], drain_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """
        Let the producers of a module send to another one from the next block on.

        Where one of them does not come to that because it waits for room, when others have, what fills its pipelines is dropped after that time.

        Raises:
            StateError: See `_let_send`.
        """
        producers = self._running_workers({pipeline.source[0] for pipeline in inputs} & self._run.modules.keys())
        theirs = [
            (worker, [layout.wirings[each.id] for each in inputs if each.source[0] in self._names(worker)])
            for worker in producers
        ]
        deadline = time.monotonic() + drain_timeout_s

        def make_room(sent: Sequence[PipelineWiring]) -> None:
            names = {wiring.id for wiring in sent}
            for pipeline in inputs if time.monotonic() >= deadline else ():
                if pipeline.id in names:
                    pipeline.flush()

        self._let_send(
            [
                (worker, [step for wiring in sent for step in (RemoveOutput(wiring.id), AddOutput(wiring))], sent)
                for worker, sent in theirs
            ],
            make_room,
        )
        running = {name for worker in producers for name in self._names(worker)}
        ended = [each for each in inputs if not each.source_open and each.source[0] not in running]
        self._end_rings(layout.wirings[each.id] for each in ended)
        for pipeline in inputs:
            if pipeline.source_open:
                (lane,) = layout.wirings[pipeline.id].lanes
                _, _, (consumer,) = self._run.places_of(layout.wirings[pipeline.id])
                assert lane.pool is not None
                pipeline.switch_source(self._run.at(lane.ring), self._run.at(lane.pool), consumer)

    # --- other memory in the place of some ----------------------------------------------------------------------------

    def lay_out_again(self, link: Pipeline) -> None:
        """
        Let other buffers and rings take the place of those of an output, by what its pipelines say now. Nothing that lies there moves.

        Args:
            link: One of the pipelines that come from the output. All of them that have buffers get others.

        Raises:
            ConfigurationError: A device or replicas are at them, or they share their room with inputs from elsewhere. Nothing has changed.
            StateError: A worker is not told in time, the flow stops, or the pipeline is not there any more. Nothing has changed.
        """
        with self._changing:
            run = self._run
            self._require_run()
            pipelines = [
                each for each in run.linked if each.source == link.source and each.has_ring and each.id in run.wirings
            ]
            if link not in pipelines:
                raise StateError(
                    f"{link.id}: expected a pipeline of the flow between modules, to give it other memory."
                )
            ends = {name for pipeline in pipelines for name in (pipeline.source[0], pipeline.target[0])}
            self._check_ends([run.modules[name] for name in ends if name in run.modules], pipelines)
            self._check_shared_room(pipelines)
            order = topological(run.modules, run.linked)
            layout = self._lay_out_anew(run.modules, order, [], pipelines)
            places = {pipeline.id: run.places_of(layout.wirings[pipeline.id]) for pipeline in pipelines}
            try:
                self._announce(layout, pipelines)
                for pipeline in pipelines:
                    pipeline.expect(places[pipeline.id][0])
                self._switch(layout, pipelines)
            except BaseException:
                for pipeline in pipelines:
                    pipeline.expect(())
                self._end_rings(layout.wirings[pipeline.id] for pipeline in pipelines)
                self._give_back([layout])
                raise
            with run.without_flow_control():
                for pipeline in pipelines:
                    rings, producers, consumers = places[pipeline.id]
                    pipeline.succeed(rings, producers, consumers, layout.wirings[pipeline.id].growth)
                    pipeline.settle(producers, consumers)
                    run.pools.succeed(pipeline, run.wirings[pipeline.id])
                run.wirings.update(layout.wirings)
            for pipeline in pipelines:
                for worker in () if pipeline.target_open else self._workers_of(pipeline.target[0]):
                    _note_pipelines(worker, [layout.wirings[pipeline.id]])
            self._collect()

    # --- telling workers ----------------------------------------------------------------------------------------------

    def _let_send(
        self,
        told: Iterable[tuple[Worker, Sequence[Step], Sequence[PipelineWiring]]],
        make_room: Callable[[Sequence[PipelineWiring]], None] | None = None,
    ) -> None:
        """
        Let workers send where others wait for it already; where one has ended, so has what it would send.

        Args:
            told: Workers, what they are to do, and where they send then.
            make_room: Where those that have begun cannot stop again: called with where another one sends that does not come to it, before that
                one is told again. None: they can, and do.

        Raises:
            StateError: One does not come to a place between two blocks, or refuses; nothing has changed.
        """
        begun: list[tuple[Worker, Sequence[PipelineWiring]]] = []
        for worker, steps, sent in told:
            problem = self._tell(worker, steps)
            while problem == WITHDRAWN and begun and make_room is not None and not self._run.ended_ns:
                make_room(sent)
                problem = self._tell(worker, steps)
            if problem not in (None, OVER) and (make_room is None or not begun):
                for other, theirs in begun:
                    self._tell(other, [RemoveOutput(wiring.id) for wiring in theirs])
                raise StateError(f"flow {self._flow!r}: worker {worker.name!r} cannot be changed: {problem}.")
            if problem is not None:
                self._end_rings(sent)
            _note_pipelines(worker, sent)
            begun.append((worker, sent))

    def _require_done(self, worker: Worker, steps: Iterable[Step], *, may_be_over: bool = False) -> None:
        problem = self._tell(worker, steps)
        if problem is not None and not (may_be_over and problem == OVER):
            raise StateError(f"flow {self._flow!r}: worker {worker.name!r} cannot be changed: {problem}.")

    def _tell(self, worker: Worker, steps: Iterable[Step]) -> str | None:
        """Return None when it was done, else why not."""
        return ask_to_change(worker, self._change(worker, tuple(steps)), ANSWER_TIMEOUT_S)

    def _change(self, worker: Worker, steps: tuple[Step, ...], forget: Sequence[int] = ()) -> Change:
        wirings = [step.pipeline for step in steps if isinstance(step, (AddInput, AddOutput))]
        bells = {bell for wiring in wirings for bell in wiring.consumer_bells}
        bells |= {lane.producer_bell for wiring in wirings for lane in wiring.lanes}
        bells |= {wiring.alarm for wiring in wirings}
        numbers = {bell.segment for bell in bells}
        numbers |= {lane.ring.segment for wiring in wirings for lane in wiring.lanes}
        numbers |= {wiring.order.segment for wiring in wirings if wiring.order is not None}
        return Change(
            next(self._run.change_numbers),
            steps,
            segments=sorted(numbers),
            bells=sorted((bell.segment, bell.offset) for bell in bells),
            forget=list(forget),
        )

    def _reorder(self, worker: Worker, layout: Layout) -> Reorder:
        names = self._names(worker)
        return Reorder(
            {name: layout.orders[name] for name in names},
            {name: stops for name, stops in layout.stops.items() if name in names},
        )

    def _end_rings(self, wirings: Iterable[PipelineWiring]) -> None:
        for wiring in wirings:
            for lane in wiring.lanes:
                Ring(*self._run.at(lane.ring), wiring.id).set_ended()
            self._run.ring_consumers(wiring)

    def _names(self, worker: Worker) -> set[str]:
        """Return the modules of a worker, without those that were replaced."""
        modules = self._run.modules
        return {each.name for each in worker.wiring.modules if worker.name in modules[each.name].workers}

    def _workers_of(self, module: str) -> list[Worker]:
        return [self._run.workers[worker] for worker in self._run.modules[module].workers]

    def _running_workers(self, modules: Iterable[str]) -> list[Worker]:
        names = dict.fromkeys(worker for module in sorted(modules) for worker in self._run.modules[module].workers)
        return [worker for name in names if not (worker := self._run.workers[name]).ended]

    # --- memory -------------------------------------------------------------------------------------------------------

    def _running(self, pipelines: Collection[str]) -> Running:
        workers = self._run.workers.values()
        return Running(
            pipelines=pipelines,
            bells={worker.name: worker.wiring.bell for worker in workers if not worker.ended},
            processes={worker.wiring.process for worker in workers if not worker.ended},
            news_bell=self._run.layouts[0].news_bell,
            alarm=self._run.layouts[0].alarm,
            segments=self._segments,
        )

    def _include(self, layout: Layout) -> None:
        self._segments = layout.numbers.stop
        self._run.segments.update(layout.segments)
        self._run.layouts = [*self._run.layouts, layout]

    def _exclude(self, layout: Layout) -> None:
        self._run.layouts = [each for each in self._run.layouts if each is not layout]
        for number in layout.numbers:
            del self._run.segments[number]

    def _collect(self) -> None:
        """Give back the memory that nothing leads to any more."""
        run = self._run
        used = {place.segment for wiring in run.wirings.values() for place in _places(wiring)}
        used |= {each.wiring.bell.segment for each in run.workers.values() if not (each.ended and each.join(0))}
        self._give_back([layout for layout in run.layouts[1:] if used.isdisjoint(layout.numbers)])

    def _give_back(self, layouts: Sequence[Layout]) -> None:
        for layout in layouts:
            self._exclude(layout)
        forget = [number for layout in layouts for number in layout.numbers]
        for worker in self._run.workers.values() if forget else ():
            if worker.wiring.process != 0 and not worker.ended:
                worker.begin_change(self._change(worker, (), forget), _ignore)

    # --- checks -------------------------------------------------------------------------------------------------------

    def _require_run(self) -> None:
        if not self._run.goes_on:
            raise StateError(f"flow {self._flow!r}: expected a flow that goes on, to change it; it is about to end.")
        if self._run.freewheels:
            raise StateError(
                f"flow {self._flow!r}: expected a flow that runs by the system's clock, to change it; this one freewheels, and "
                f"would not be the same in each run. Describe all of it before the start."
            )

    def _check_ends(
        self, ends: Iterable[Placed], pipelines: Iterable[Pipeline] = (), *, ended_too: bool = False
    ) -> None:
        fed = {pipeline.target[0] for pipeline in pipelines}
        for placed in ends:
            with concerning(module=placed.name):
                if placed.name in fed and is_device_driven(placed.module):
                    raise ConfigurationError(
                        f"module {placed.name!r}: expected no device at the end of a pipeline that is changed while it runs, because "
                        f"it plays without a break. Let a module pass the blocks on to it, and change what leads into that one."
                    )
                if placed.replicas > 1:
                    raise ConfigurationError(
                        f"module {placed.name!r}: expected no replicas at a pipeline that is changed while they run. Let a "
                        f"module pass the blocks on, and change what follows that one."
                    )
                if not ended_too and self._run.replicas_ended(placed.name):
                    raise StateError(f"module {placed.name!r}: expected a module that runs; it has ended.")

    def _check_shared_room(self, pipelines: Sequence[Pipeline]) -> None:
        """Refuse to move rings which those of other outputs lend room to: the others would go on with those that are gone."""
        sharing = [each for each in self._run.linked if isinstance(each.rule, DropByPriority) and each.has_ring]
        for pipeline in pipelines:
            for other in sharing if pipeline in sharing else ():
                if other.target[0] == pipeline.target[0] and other.source != pipeline.source:
                    raise ConfigurationError(
                        f"{pipeline.id}: expected a pipeline with room of its own, to give it other memory; by DropByPriority it shares its "
                        f"room with {other.id}."
                    )

    def _check_workers(self, added: Mapping[str, Placed]) -> None:
        for placed in added.values():
            for worker in placed.workers:
                if worker in self._run.workers:
                    raise StateError(
                        f"module {placed.name!r}: expected a worker that does not run yet, got {worker!r}, which another module has brought "
                        f"up. Connect both in one `with flow.changes()`, or leave worker= out."
                    )

    def _check_aligned(
        self, modules: Mapping[str, Placed], pipelines: Sequence[Pipeline], added: Collection[str]
    ) -> None:
        for pipeline in pipelines:
            placed = modules.get(pipeline.target[0])
            aligned = None if placed is None or placed.name in added else aligned_inputs(placed.module)
            if aligned is not None and pipeline.target[1] in aligned.names:
                raise ConfigurationError(
                    f"{pipeline.id}: expected an input that is not aligned yet: {aligned!r} runs already."
                )

    def _find_formats(
        self,
        modules: Mapping[str, Placed],
        added: Mapping[str, Placed],
        linked: Sequence[Pipeline],
        order: Sequence[Sequence[str]],
    ) -> FoundFormats:
        new = {id(placed.module) for placed in added.values()}

        def resolve(module: Module, inputs: Mapping[str, Format]) -> Mapping[str, Format]:
            if id(module) in new:
                return ask(module, inputs)
            # It runs, and has been asked.
            known = {name: port.format for name, port in output_ports(module).items()}
            return {name: fmt for name, fmt in known.items() if fmt.is_resolved and not isinstance(fmt, AnyFormat)}

        found = find_formats(modules, linked, order, resolve)
        check_complete(linked, found)
        return found


def _check_place(old: Placed, new: Placed, inputs: Sequence[Pipeline], outputs: Sequence[Pipeline]) -> None:
    """
    Refuse a module that cannot take the place of another one.

    Raises:
        ConfigurationError: It lacks a port that is connected; one of them is a device; or only one of them is a source.
    """
    name = new.name
    for each in (old, new):
        if is_device_driven(each.module):
            raise ConfigurationError(
                f"module {name!r}: expected no device at either side of a replacement, got {each.module!r}; a device begins and ends with "
                f"its flow."
            )
    if isinstance(old.module, Source) != isinstance(new.module, Source):
        kinds = ["a source" if isinstance(each.module, Source) else "no source" for each in (old, new)]
        raise ConfigurationError(
            f"module {name!r}: expected {kinds[0]} in the place of {old.module!r}, got {new.module!r}, {kinds[1]}."
        )
    for kind, needed, there in (
        ("input", {pipeline.target[1] for pipeline in inputs}, input_ports(new.module)),
        ("output", {pipeline.source[1] for pipeline in outputs}, output_ports(new.module)),
    ):
        missing = sorted(needed - there.keys())
        if missing:
            raise ConfigurationError(
                f"module {name!r}: expected {kind} {', '.join(missing)} in {type(new.module).__name__}, because it is connected; got "
                f"{', '.join(there) or 'none'}. Replace a module by one with the same ports."
            )


def _check_formats(old: Placed, found: FoundFormats, outputs: Sequence[Pipeline]) -> None:
    """
    Refuse a module that would send something else.

    Raises:
        FormatClash: It would; names both formats.
    """
    for pipeline in outputs:
        sends = found.outputs.get(pipeline.source)
        sent = output_ports(old.module)[pipeline.source[1]].format
        if sends != sent:
            with concerning(pipeline=pipeline.id):
                raise FormatClash(
                    f"{pipeline.id}: expected {sent}, as the module sends that is replaced, got {sends}. Those that take it were set up "
                    f"for that format."
                )


def _flush(rings: Iterable[Iterable[Ring]]) -> None:
    for ring in (ring for each in rings for ring in each):
        ring.flush()


def _tell_ports(added: Mapping[str, Placed], found: FoundFormats) -> None:
    for name, placed in added.items():
        for (module, port), fmt in found.inputs.items():
            if module == name:
                input_ports(placed.module)[port].format = fmt
        for (module, port), fmt in found.outputs.items():
            if module == name:
                output_ports(placed.module)[port].format = fmt


def _places(wiring: PipelineWiring) -> Iterable[Place]:
    for lane in wiring.lanes:
        yield lane.ring
        yield lane.producer_bell
    yield from wiring.consumer_bells


def _note_pipelines(worker: Worker, wirings: Sequence[PipelineWiring]) -> None:
    """Keep what a worker is wired to: whoever reaps it goes by that."""
    new = {wiring.id for wiring in wirings}
    kept = [wiring for wiring in worker.wiring.pipelines if wiring.id not in new]
    worker.wiring = msgspec.structs.replace(worker.wiring, pipelines=(*kept, *wirings))


def _forget_pipeline(worker: Worker, pipeline: str) -> None:
    kept = tuple(wiring for wiring in worker.wiring.pipelines if wiring.id != pipeline)
    worker.wiring = msgspec.structs.replace(worker.wiring, pipelines=kept)


def _ignore(_problem: str | None) -> None:
    """A worker that has ended needs not forget anything."""
