"""
Flow control of a run: looks at its pipelines every 10 ms, and at once when one becomes full; tells what is wrong, and does what their
rules say.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, ParamSpec, Protocol, TypeVar

from steadyflow._native import Ring, Segment, monotonic_ns, ring_bell, wait_for_bell
from steadyflow.backpressure.reading import Reading
from steadyflow.backpressure.rules import Latest
from steadyflow.errors import FlowError
from steadyflow.events import (
    BackpressureDetected,
    BackpressureRelieved,
    FlowEvent,
    QualityChanged,
    StandstillDetected,
    StrategyAssessed,
    StrategyChanged,
)
from steadyflow.metrics.pressure import Pressure
from steadyflow.pipeline import Pipeline
from steadyflow.platform.machine_load import MachineLoad, read_machine_load
from steadyflow.runtime.controlled import Change, Controlled, blocks_per_block
from steadyflow.runtime.standstill import Link, waits_in_a_circle
from steadyflow.runtime.treatments import Treatment, treatment_for
from steadyflow.runtime.upstream import Paces, first_rings_above

P = ParamSpec("P")
T = TypeVar("T")

LOOK_NS: Final = 10_000_000
"""From one look to the next."""

_LOAD_NS: Final = 100_000_000  # for so long what is known of the machine holds
_STANDSTILL_NS: Final = 500_000_000
_JOIN_STANDSTILL_NS: Final = 2_000_000_000  # of a join, which may also be at work on one block for so long
_COLLECT_NS: Final = 1_000_000_000  # how often memory is given back that has become free
_NEWEST: Final = "only its newest block"
_BLOCKED: Final = 0.1  # the share of its time above which a sender counts as waiting

_logger: Final = logging.getLogger("steadyflow.backpressure")


class Run(Protocol):
    """What is controlled: the execution."""

    def quality_levels(self, module: str) -> Sequence[str]:
        """Return the levels at which a module can work, the best first; none where it has no ladder."""

    def set_quality(self, module: str, level: str) -> str:
        """
        Let a module work at a level, between two blocks; blocks until it does. Returns the level until then.

        Raises:
            FlowError: It does not, and says why.
        """

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

    def give_back_buffers(self, pipeline: Pipeline) -> bool:
        """Give the memory of those back that may not be used, if none still is. Returns whether."""


class _Shrunk(NamedTuple):
    """
    A pipeline that has less room than before.

    Args:
        pipeline: The pipeline.
        rings: Its rings then.
        allowed: For how many blocks buffers may be used: for more than it has room for, as long as more of them wait.
        sent: How many had been sent into each ring when that became fewer.
    """

    pipeline: Pipeline
    rings: tuple[Ring, ...]
    allowed: int
    sent: tuple[int, ...] = ()

    @property
    def is_seen(self) -> bool:
        """Whether its producer has seen what it may not use: two blocks later."""
        return all(ring.look()[0] >= sent + 2 for ring, sent in zip(self.rings, self.sent, strict=False))


class BackpressureController:
    """
    Looks at pipelines, in a thread of its own from `start` to `end`, and acts. Any thread may ask.

    Args:
        flow: The name of the flow.
        run: What is controlled.
        pipelines: Returns all pipelines of the flow.
        alarm: Where its thread sleeps.
        publish: Takes events; must not block.
        now_ns: The clock that it goes by.
    """

    def __init__(
        self,
        flow: str,
        run: Run,
        pipelines: Callable[[], Iterable[Pipeline]],
        alarm: tuple[Segment, int],
        publish: Callable[[FlowEvent], None],
        now_ns: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._flow = flow
        self._run = run
        self._pipelines = pipelines
        self._alarm = alarm
        self._publish = publish
        self._now_ns = now_ns
        self._looking = threading.RLock()
        self._controlled: dict[str, Controlled] = {}
        self._treatments: dict[str, Treatment] = {}
        self._rules: dict[str, object] = {}  # by which each is treated
        self._paces = Paces()
        self._load = MachineLoad(None, None)
        self._load_ns = 0
        self._alarms: dict[str, tuple[tuple[Ring, ...], bool]] = {}  # which rings ring the bell, and whether they do
        self._standing: dict[str, Reading] = {}  # of full pipelines, what was found when a block was last taken
        self._told_standing: set[str] = set()
        self._shrunk: dict[str, _Shrunk] = {}
        self._qualities: dict[
            str, tuple[Pipeline, str, str]
        ] = {}  # at which modules are to work, for whose sake, and why
        self._quality_turns: dict[str, threading.Lock] = {}
        self._yielding: dict[str, list[Pipeline]] = {}  # which keep only their newest block, for whose sake
        self._collected_ns = 0
        self._ending = False
        self._thread: threading.Thread | None = None

    # --- its thread ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """
        Begin to look, if there is anything to look at. Idempotent.

        Before anything is sent: a pace holds from the first block on.
        """
        self.look()
        if self._thread is not None or self._ending or not self._controlled:
            return
        self._thread = threading.Thread(target=self._run_thread, name="steadyflow-flow-control", daemon=True)
        self._thread.start()

    def let_go(self) -> None:
        """Slow nothing down any more, and do nothing: the flow stops. Any thread; waits for no more than a look."""
        self._ending = True
        with self._looking:
            self._paces.clear()

    def end(self, timeout_s: float) -> None:
        """End the thread. Idempotent; waits for no longer than `timeout_s`."""
        thread, self._thread = self._thread, None
        self._ending = True
        if thread is not None:
            ring_bell(*self._alarm, 0)
            thread.join(timeout_s)

    def _run_thread(self) -> None:
        while not self._ending:
            wait_for_bell(*self._alarm, monotonic_ns() + LOOK_NS)
            if not self._ending:
                try:
                    self.look()
                except FlowError:
                    # A pipeline that was damaged, or closed at this moment: whoever it belongs to tells.
                    _logger.debug("flow %r: a look at its pipelines failed", self._flow, exc_info=True)
                except Exception:
                    # The flow goes on as its rules say; nothing may stay slowed down that nobody looks at.
                    _logger.exception("flow %r: flow control has ended", self._flow)
                    self._undo()

    def _undo(self) -> None:
        self._ending = True
        with self._looking:
            try:
                for treatment in self._treatments.values():
                    with contextlib.suppress(FlowError):  # of a pipeline that is damaged, or closed
                        treatment.end()
            finally:
                self._paces.clear()

    def release(self) -> None:
        """Let go of the memory. After the end; nobody asks any more."""
        with self._looking:
            self._controlled = {}
            for kept in (self._treatments, self._rules, self._alarms, self._standing, self._shrunk):
                kept.clear()
            self._paces = Paces()
            del self._alarm

    # --- looks --------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look once, and act. Any thread."""
        with self._looking:
            if self._ending:
                return
            now_ns = self._now_ns()
            pipelines = [each for each in self._pipelines() if each.has_ring]
            self._forget_others(pipelines)
            changes = [
                (self._controlled_of(each), change)
                for each in pipelines
                if (change := self._unless_broken(each, self._look_at, each, now_ns))
            ]
            # After the look at all of them: who is to blame is seen at the others.
            news = [self._told(controlled, change) for controlled, change in changes]
            busy = [each for each in map(self._controlled_of, pipelines) if not self._may_rest(each)]
            for controlled in busy:
                news += self._unless_broken(controlled.pipeline, self._treat, controlled) or ()
            if busy:
                self._paces.apply()
                news += self._look_for_standstill(pipelines)
            self._collect(now_ns)
        for event in news:
            self._publish(event)

    def _unless_broken(self, pipeline: Pipeline, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Do something for a pipeline; None where it is damaged, or closed at this moment, which whoever it belongs to tells."""
        try:
            return do(*args, **kwargs)
        except FlowError:
            _logger.debug("flow %r: a look at %s failed", self._flow, pipeline.id, exc_info=True)
            return None

    def standing_by(self) -> contextlib.AbstractContextManager[object]:
        """Do nothing meanwhile. Any thread; waits for no more than a look."""
        return self._looking

    def pressure(self, pipeline: Pipeline) -> Pressure | None:
        """Return what is known of a pipeline; None: it was never looked at. Any thread; does not wait for a look."""
        controlled = self._controlled.get(pipeline.id)
        return None if controlled is None or controlled.pipeline is not pipeline else controlled.pressure()

    def begin_anew(self, module: str) -> None:
        """Forget what was found of the pipelines into a module, and what was done: another one has its place. Any thread."""
        with self._looking:
            for controlled in list(self._controlled.values()):
                if controlled.pipeline.target[0] == module:
                    self.forget(controlled.pipeline)

    def forget(self, pipeline: Pipeline) -> None:
        """Look no more at a pipeline. Any thread."""
        with self._looking:
            if self._controlled.pop(pipeline.id, None) is not None:
                treatment = self._treatments.pop(pipeline.id, None)
                self._rules.pop(pipeline.id, None)
                self._alarms.pop(pipeline.id, None)
                self._standing.pop(pipeline.id, None)
                self._told_standing.discard(pipeline.id)
                self._shrunk.pop(pipeline.id, None)
                self._paces.forget(pipeline)
                if treatment is not None:
                    treatment.end()  # others may do something for its sake

    def _forget_others(self, pipelines: Sequence[Pipeline]) -> None:
        known = {id(pipeline) for pipeline in pipelines}
        for controlled in list(self._controlled.values()):
            if id(controlled.pipeline) not in known:
                self._unless_broken(controlled.pipeline, self.forget, controlled.pipeline)

    def _controlled_of(self, pipeline: Pipeline) -> Controlled:
        controlled = self._controlled.get(pipeline.id)
        if controlled is None:
            # A new one: others may look through it.
            controlled = Controlled(pipeline)
            controlled.begin_beside(self._controlled.values())
            self._controlled = {**self._controlled, pipeline.id: controlled}
        return controlled

    def _look_at(self, pipeline: Pipeline, now_ns: int) -> Change | None:
        controlled = self._controlled_of(pipeline)
        change = controlled.look(now_ns)
        rings, alarmed = pipeline.filling, not controlled.congested and controlled.heeds_alarms
        if self._alarms.get(pipeline.id) != (rings, alarmed):  # others may have taken their place
            self._alarms[pipeline.id] = rings, alarmed
            for ring in rings:
                ring.set_alarmed(alarmed)
        return change

    def _may_rest(self, controlled: Controlled) -> bool:
        """Tell whether there is nothing to do for a pipeline: nothing waits there, and nothing is done that could be undone."""
        pipeline = controlled.pipeline
        treatment = self._treatments.get(pipeline.id)
        known = treatment is not None and self._rules[pipeline.id] is pipeline.rule
        return known and controlled.rests and treatment is not None and treatment.rests

    def _treat(self, controlled: Controlled) -> Iterable[FlowEvent]:
        pipeline = controlled.pipeline
        before = self._treatments.get(pipeline.id)
        if before is None or self._rules[pipeline.id] is not pipeline.rule:
            if before is not None:
                before.end()
                assert pipeline.rule is not None
                pipeline.carry_out(pipeline.rule.to_native(pipeline.live))
            self._rules[pipeline.id] = pipeline.rule
            self._treatments[pipeline.id] = treatment_for(
                controlled,
                self,
                may_pace=not pipeline.live,
                quality_levels=() if pipeline.target_open else self._run.quality_levels(pipeline.target[0]),
            )
        # Now, and not where they are told: it may meet a pipeline that is damaged.
        return list(self._treatments[pipeline.id].note(self._flow))

    def _told(self, controlled: Controlled, change: Change) -> FlowEvent:
        pipeline = controlled.pipeline
        if change.congested:
            return BackpressureDetected(
                flow=self._flow,
                pipeline=pipeline.id,
                detector=change.verdict.detector,
                reason=change.verdict.reason,
                numbers=change.verdict.numbers,
                culprit=self._culprit(pipeline),
                stalled=self._stalled_by(controlled),
            )
        return BackpressureRelieved(
            flow=self._flow,
            pipeline=pipeline.id,
            reason=change.verdict.reason,
            lasted_s=change.lasted_ns / 1e9,
            dropped=change.dropped,
            dropped_ms=controlled.dropped_ms(change.dropped_frames),
            waiting=controlled.backlog,
        )

    def _culprit(self, pipeline: Pipeline) -> str:
        """Return who cannot keep up: the first one downstream that does not wait for somebody else."""
        module, seen = pipeline.target[0], {pipeline.source[0]}
        while module not in seen:
            seen.add(module)
            for link in self._controlled.values():
                if link.pipeline.source[0] == module and link.blocked_share > _BLOCKED:
                    module = link.pipeline.target[0]
                    break
        return module

    def _stalled_by(self, controlled: Controlled) -> tuple[str, ...]:
        """Return what else the sender feeds, if it has to wait here."""
        pipeline = controlled.pipeline
        if pipeline.rule is None or not pipeline.rule.to_native(pipeline.live).waits or pipeline.source_open:
            return ()
        others = (link.pipeline for link in self._controlled.values())
        return tuple(each.id for each in others if each is not pipeline and each.source[0] == pipeline.source[0])

    def _look_for_standstill(self, pipelines: Sequence[Pipeline]) -> Iterable[FlowEvent]:
        waiting: list[Pipeline] = []
        longer: list[Pipeline] = []
        for pipeline in pipelines:
            controlled = self._controlled[pipeline.id]
            reading = controlled.reading
            if reading is None or reading.fill < 1 or not controlled.blocked_share:
                self._standing.pop(pipeline.id, None)
                self._told_standing.discard(pipeline.id)
                continue
            since = self._standing.setdefault(pipeline.id, reading)
            if since.delivered != reading.delivered:
                self._standing[pipeline.id] = reading
                continue
            # Over all of that time: between two looks it may be less, where one of them was held up.
            stood_ns, blocked_ns = reading.at_ns - since.at_ns, reading.blocked_ns - since.blocked_ns
            if stood_ns >= _STANDSTILL_NS and blocked_ns >= (1 - _BLOCKED) * stood_ns:
                waiting.append(pipeline)
                longer += [pipeline] * (stood_ns >= _JOIN_STANDSTILL_NS)
        if not waiting or self._told_standing.issuperset(each.id for each in waiting):
            return
        empty = {
            each.id
            for each in pipelines
            if (found := self._controlled[each.id].reading) is not None and not found.waiting
        }
        circle = waits_in_a_circle(_links(waiting), [], []) or waits_in_a_circle(
            _links(longer),
            _links(each for each in pipelines if each.id in empty),
            [(each.source[0], each.target[0]) for each in self._pipelines()],
        )
        if circle is None:
            return
        self._told_standing.update(each.id for each in waiting)
        yield StandstillDetected(
            flow=self._flow, modules=circle.modules, pipelines=circle.pipelines, reason=circle.reason
        )

    def _collect(self, now_ns: int) -> None:
        if not self._shrunk or now_ns - self._collected_ns < _COLLECT_NS:
            return
        self._collected_ns = now_ns
        for name, shrunk in list(self._shrunk.items()):
            if shrunk.pipeline.filling != shrunk.rings:
                del self._shrunk[name]  # others have taken their place, with buffers of their own
            elif shrunk.allowed > shrunk.pipeline.buffer_size:
                self._shrunk[name] = self._unless_broken(shrunk.pipeline, self._lowered, shrunk) or shrunk
        # The pipelines of an output share its buffers: they are given back when the producer has seen all that it may not use.
        unseen = {each.pipeline.source for each in self._shrunk.values() if not each.is_seen}
        for name, shrunk in list(self._shrunk.items()):
            pipeline = shrunk.pipeline
            if pipeline.source in unseen or shrunk.allowed > pipeline.buffer_size:
                continue
            if self._unless_broken(pipeline, self._run.give_back_buffers, pipeline):
                del self._shrunk[name]

    def _lowered(self, shrunk: _Shrunk) -> _Shrunk:
        """Let no more buffers be used than its room needs, once no more wait: until then, others need those that they share with it."""
        pipeline, rings, allowed, _ = shrunk
        blocks = pipeline.buffer_size
        if any(ring.look()[3] > ring.buffer_size for ring in rings):
            return shrunk
        self._run.allow_buffers(pipeline, allowed, blocks)
        return _Shrunk(pipeline, rings, blocks, tuple(ring.look()[0] for ring in rings))

    # --- what its treatments can do -----------------------------------------------------------------------------------

    def pace(self, pipeline: Pipeline, hz: float | None) -> None:
        """See `treatments.Hands`."""
        first = first_rings_above(pipeline, self._pipelines())
        below = self._controlled.get(pipeline.id)
        ratios = {
            each.id: blocks_per_block(above, below)
            for each in first
            if below is not None and (above := self._controlled.get(each.id)) is not None
        }
        self._paces.want(pipeline, hz, first, ratios)

    def give_room(self, pipeline: Pipeline, blocks: int) -> None:
        """See `treatments.Hands`."""
        if not pipeline.has_ring:
            return  # it is gone
        rings, before = pipeline.filling, pipeline.buffer_size
        shrunk = self._shrunk.get(pipeline.id)
        allowed = shrunk.allowed if shrunk is not None and shrunk.rings == rings else before
        if blocks > allowed:
            self._run.allow_buffers(pipeline, allowed, blocks)
            allowed = blocks
        pipeline.set_room(blocks)
        if blocks < allowed:
            self._shrunk[pipeline.id] = self._lowered(_Shrunk(pipeline, rings, allowed))
        else:
            self._shrunk.pop(pipeline.id, None)

    def set_quality(self, pipeline: Pipeline, level: str, reason: str) -> None:
        """See `treatments.Hands`."""
        # In a thread of its own: the module may be in the middle of a block, and others cannot wait for that.
        module = pipeline.target[0]
        turn = self._quality_turns.setdefault(module, threading.Lock())
        self._qualities[module] = (pipeline, level, reason)
        threading.Thread(target=self._set_quality, args=(module, turn), name="steadyflow-quality", daemon=True).start()

    def _set_quality(self, module: str, turn: threading.Lock) -> None:
        with turn:  # the latest one counts, whichever thread comes first
            wanted = self._qualities.pop(module, None)
            if wanted is not None:
                self._set_quality_now(module, *wanted)

    def _set_quality_now(self, module: str, pipeline: Pipeline, level: str, reason: str) -> None:
        if not self._run.quality_levels(module):
            return  # it is gone
        try:
            before = self._run.set_quality(module, level)
        except FlowError as refusal:  # it has ended, or is busy for too long
            self._publish(
                StrategyAssessed(
                    flow=self._flow,
                    pipeline=pipeline.id,
                    strategy=f"quality {level}",
                    helped=False,
                    reason=str(refusal),
                    numbers=(),
                )
            )
            return
        if before != level:  # as that of one that has just taken another one's place
            event = QualityChanged(
                flow=self._flow, module=module, pipeline=pipeline.id, before=before, after=level, reason=reason
            )
            self._publish(event)

    def let_others_yield(self, pipeline: Pipeline, *, yields: bool) -> None:
        """See `treatments.Hands`."""
        if yields and pipeline.id not in self._yielding:
            others = self._yielding[pipeline.id] = list(self.less_important(pipeline))
            for other in others:
                other.carry_out(Latest().to_native(other.live))
                reason = f"{pipeline.id} is under pressure, and more important"
                expected = f"that {pipeline.target[0]!r} has more time for {pipeline.id}"
                self._tell_of_yielding(other, pipeline, (repr(other.rule), _NEWEST), reason, expected)
        elif not yields:
            others = self._yielding.pop(pipeline.id, [])
            still = {id(each) for each in itertools.chain(*self._yielding.values())}
            for other in others:
                if id(other) not in still and other.rule is not None:
                    other.carry_out(other.rule.to_native(other.live))
                    reason = f"{pipeline.id} has enough without that"
                    self._tell_of_yielding(other, pipeline, (_NEWEST, repr(other.rule)), reason, "that it loses less")

    def _tell_of_yielding(
        self, pipeline: Pipeline, sake: Pipeline, change: tuple[str, str], reason: str, expected: str
    ) -> None:
        found = self._controlled.get(sake.id)
        reading = None if found is None else found.reading
        before, after = change
        self._publish(
            StrategyChanged(
                flow=self._flow,
                pipeline=pipeline.id,
                before=before,
                after=after,
                reason=reason,
                numbers=()
                if reading is None
                else (("fill_share", reading.fill), ("sojourn_ms", reading.sojourn_ns / 1e6)),
                expected=expected,
            )
        )

    def less_important(self, pipeline: Pipeline) -> Sequence[Pipeline]:
        """See `treatments.Hands`."""
        rank = pipeline.config.priority.rank
        return [
            each
            for each in self._pipelines()
            if each.has_ring
            and each.target[0] == pipeline.target[0]
            and each.config.priority.rank > rank
            and each.rule is not None
            and each.rule.to_native(each.live).loses
        ]

    def load(self) -> MachineLoad:
        """See `treatments.Hands`."""
        now_ns = self._now_ns()
        if now_ns - self._load_ns >= _LOAD_NS:
            self._load_ns = now_ns
            self._load = read_machine_load()
        return self._load


def _links(pipelines: Iterable[Pipeline]) -> list[Link]:
    return [(each.id, each.source[0], each.target[0]) for each in pipelines]
