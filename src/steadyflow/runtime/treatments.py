"""What flow control does for a pipeline, by its rule: it paces what is above, gives it room, or follows the load."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from steadyflow.backpressure.ladder import Found, Judgement, Ladder, Move, Rung
from steadyflow.backpressure.pacing import AdditiveIncrease, Credit, FixedRate, Pacer
from steadyflow.backpressure.room import GrowingRoom, drained_within
from steadyflow.backpressure.rules import Adaptive, Grow, Spill, Throttle
from steadyflow.errors import InsufficientMemory
from steadyflow.events import FlowEvent, StrategyAssessed, StrategyChanged
from steadyflow.events.of_backpressure import PACED_BY_CREDITS
from steadyflow.pipeline import Pipeline
from steadyflow.platform.machine_load import MachineLoad
from steadyflow.runtime.controlled import Controlled

_DRAIN_SHARE: Final = 0.5  # of a pipeline's budget, that what waits may take
_DRAIN_MS: Final = 20.0
_HEADROOM: Final = 0.75  # of that time, for which there is room: so that a full pipeline is within it
_SHED_SHARE: Final = 0.25  # of it at the last step
_LIMITED_NS: Final = 1_000_000_000
_RESIZE_NS: Final = 500_000_000  # from one change of the room to the next


class Hands(Protocol):
    """What flow control can do: each of it a user could do by hand."""

    def pace(self, pipeline: Pipeline, hz: float | None) -> None:
        """Let no more come through a pipeline in a second than that; None: as it comes."""

    def give_room(self, pipeline: Pipeline, blocks: int) -> None:
        """
        Let so many blocks wait, and get the memory for them.

        Raises:
            InsufficientMemory: The system has too little.
        """

    def set_quality(self, pipeline: Pipeline, level: str, reason: str) -> None:
        """Let the module that a pipeline leads into work at a level; tells when it does. Does not wait."""

    def let_others_yield(self, pipeline: Pipeline, *, yields: bool) -> None:
        """Let the inputs of the same module that are less important keep only their newest block, or not for this one any more."""

    def less_important(self, pipeline: Pipeline) -> Sequence[Pipeline]:
        """Return the inputs of the same module that are less important, and may lose something."""

    def load(self) -> MachineLoad:
        """Return how busy the machine is."""


class Treatment(Protocol):
    """What is done for one pipeline. One thread at a time."""

    @property
    def rests(self) -> bool:
        """Whether there is nothing to undo, so that it need not be asked while nothing waits."""

    def note(self, flow: str) -> Iterable[FlowEvent]:
        """Do what follows from the last look; return what is to be told."""

    def end(self) -> None:
        """Undo what was done."""


class Nothing:
    """The data plane does what there is to do."""

    rests = True

    def note(self, flow: str) -> Iterable[FlowEvent]:
        """Do nothing."""
        return ()

    def end(self) -> None:
        """There is nothing to undo."""


class Paced:
    """
    Slows the sources down.

    Args:
        controlled: The pipeline.
        hands: Does it.
        pacer: Says by how much.
        name: What that is called, and told where it begins and ends; "": it is one of several things that are done, or what the rule says.
    """

    def __init__(self, controlled: Controlled, hands: Hands, pacer: Pacer, name: str = "") -> None:
        self._controlled = controlled
        self._hands = hands
        self._pacer = pacer
        self._name = name

    @property
    def rests(self) -> bool:
        """Whether nothing is paced."""
        return self._controlled.pace_hz is None

    def note(self, flow: str) -> Iterable[FlowEvent]:
        """Pace as the pacer says."""
        controlled, reading = self._controlled, self._controlled.reading
        if reading is None:
            return
        before_hz, service_hz = controlled.pace_hz, controlled.service.hz or 0.0
        hz = self._pacer.note(reading, controlled.service.hz)
        if hz is None and before_hz is None:
            return
        controlled.pace_hz = hz
        self._hands.pace(controlled.pipeline, hz)
        if not self._name:
            return
        controlled.strategy = self._name if hz is not None else ""
        if (hz is None) is (before_hz is None):
            return
        rule = repr(controlled.pipeline.rule)
        numbers = (("fill_share", reading.fill), ("waiting_count", float(reading.waiting)), ("service_hz", service_hz))
        if hz is not None:
            reason = (
                f"it stands full, with {reading.waiting} blocks for a consumer that takes {service_hz:.3g} a second"
            )
            expected = "that its sources wait, and no block does for long"
            yield _changed(flow, controlled.pipeline, rule, self._name, reason, numbers, expected)
        else:
            yield _changed(flow, controlled.pipeline, self._name, rule, "it stays nearly empty", numbers, "")

    def end(self) -> None:
        """Let everything come as it comes."""
        self._controlled.pace_hz = None
        if self._name:
            self._controlled.strategy = ""
        self._hands.pace(self._controlled.pipeline, None)


class Growing:
    """
    Gives more room before it is full, and takes it back.

    Args:
        controlled: The pipeline.
        hands: Gives it.
        rule: Its rule.
    """

    def __init__(self, controlled: Controlled, hands: Hands, rule: Grow) -> None:
        self._controlled = controlled
        self._hands = hands
        least = controlled.pipeline.config.buffer_size
        self._room = GrowingRoom(least, max(rule.max_blocks, least))
        self._limited_ns: int | None = None  # since when it would have grown further, if it could
        self._told_limit = False

    @property
    def rests(self) -> bool:
        """Whether it has the room that it began with."""
        return self._controlled.pipeline.room_blocks in (None, self._controlled.pipeline.config.buffer_size)

    def note(self, flow: str) -> Iterable[FlowEvent]:
        """Give room, or take it back."""
        pipeline, reading = self._controlled.pipeline, self._controlled.reading
        before, most = pipeline.buffer_size, pipeline.config.buffer_size + pipeline.growth_blocks
        wanted = None if reading is None else self._room.note(reading, before)
        if reading is None or wanted is None:
            return
        if wanted > most:
            wanted = most
            self._limited_ns = reading.at_ns if self._limited_ns is None else self._limited_ns
            # A rule that was just switched to is about to get it.
            if not self._told_limit and reading.at_ns - self._limited_ns >= _LIMITED_NS:
                self._told_limit = True
                yield _changed(flow, pipeline, _blocks(before), _blocks(most), _laid_out_text(most), (), "")
            if wanted <= before:
                return
        reason = f"{reading.waiting / before:.0%} of its room is taken"
        if wanted < before:
            reason += ", and was not more for 5 s"
        try:
            self._hands.give_room(pipeline, wanted)
        except InsufficientMemory as shortage:
            self._room = GrowingRoom(pipeline.config.buffer_size, before)
            yield _changed(
                flow, pipeline, _blocks(before), _blocks(before), f"no more memory for it: {shortage}", (), ""
            )
            return
        yield _changed(
            flow,
            pipeline,
            _blocks(before),
            _blocks(pipeline.buffer_size),
            reason,
            (("fill_share", reading.fill), ("waiting_count", float(reading.waiting))),
            "that nothing has to wait or go" if wanted > before else "that memory is given back",
        )

    def end(self) -> None:
        """Let as many wait as at first."""
        self._hands.give_room(self._controlled.pipeline, self._controlled.pipeline.config.buffer_size)


class Adapting:
    """
    Follows the load, step by step.

    Args:
        controlled: The pipeline.
        hands: Does what is to be done.
        rule: Its rule.
        may_pace: Whether its sources can be slowed down.
        qualities: The levels below the best one of the module that it leads into, the best first.
    """

    def __init__(
        self,
        controlled: Controlled,
        hands: Hands,
        rule: Adaptive,
        *,
        may_pace: bool,
        qualities: Sequence[str],
        best: str,
    ) -> None:
        self._controlled = controlled
        self._hands = hands
        self._drain_ms = drain_ms(controlled.pipeline, rule)
        self._best = best
        self._quality = best
        self._paced: Paced | None = None
        self._resized_ns = 0
        live = controlled.pipeline.live
        self._rungs = _rungs(
            may_pace=may_pace,
            qualities=qualities if rule.lower_quality is not False else (),
            has_others=bool(hands.less_important(controlled.pipeline)),
            sheds=live,
        )
        self._ladder = Ladder(self._rungs, self._drain_ms)

    @property
    def rests(self) -> bool:
        """Whether no step is taken."""
        return self._ladder.rung is NORMAL

    def note(self, flow: str) -> Iterable[FlowEvent]:
        """Take the next step, if it is time."""
        controlled = self._controlled
        reading = controlled.reading
        if reading is None:
            return
        load = self._hands.load()
        found = Found(
            at_ns=reading.at_ns,
            sojourn_ms=reading.sojourn_ns / 1e6,
            lost_share=controlled.lost_share,
            fill_share=reading.fill,
            cpu_pressure_share=load.cpu_pressure_share,
            runnable_per_core=load.runnable_per_core,
        )
        for news in self._ladder.note(found):
            if isinstance(news, Judgement):
                yield StrategyAssessed(
                    flow=flow,
                    pipeline=controlled.pipeline.id,
                    strategy=news.rung.name,
                    helped=news.helped,
                    reason=news.reason,
                    numbers=news.numbers,
                )
            else:
                yield self._take(flow, news)
        if self._paced is not None:
            yield from self._paced.note(flow)
        yield from self._fit_room(flow, reading.at_ns)

    def end(self) -> None:
        """Undo all steps."""
        self._go_to(NORMAL, "its rule was switched")
        self._controlled.strategy = ""

    def _take(self, flow: str, move: Move) -> FlowEvent:
        self._go_to(move.after, move.reason)
        return _changed(
            flow, self._controlled.pipeline, move.before.name, move.after.name, move.reason, move.numbers, move.expected
        )

    def _go_to(self, rung: Rung, reason: str) -> None:
        """Do what that step and all before it say, and nothing of those behind it."""
        pipeline = self._controlled.pipeline
        at = self._rungs.index(rung)
        names = [each.name for each in self._rungs[: at + 1]]
        self._controlled.strategy = rung.name
        if (THROTTLE.name in names) is (self._paced is None):
            if self._paced is None:
                self._paced = Paced(self._controlled, self._hands, AdditiveIncrease())
            else:
                self._paced.end()
                self._paced = None
        quality = next((name.removeprefix(QUALITY) for name in reversed(names) if name.startswith(QUALITY)), self._best)
        if quality != self._quality:
            self._quality = quality
            self._hands.set_quality(pipeline, quality, reason)
        self._hands.let_others_yield(pipeline, yields=BY_PRIORITY.name in names)
        self._resized_ns = 0
        if LESS_ROOM.name not in names:
            pipeline.set_room(pipeline.config.buffer_size)

    def _fit_room(self, flow: str, now_ns: int) -> Iterable[FlowEvent]:
        """Size the room to what the consumer takes, from the step on that says so."""
        service_hz, pipeline = self._controlled.service.hz, self._controlled.pipeline
        if self._ladder.rung is NORMAL or service_hz is None or now_ns - self._resized_ns < _RESIZE_NS:
            return
        share = _SHED_SHARE if self._ladder.rung is SHED else _HEADROOM
        before = pipeline.buffer_size
        wanted = drained_within(service_hz, share * self._drain_ms, before, pipeline.config.buffer_size)
        # One block more or less is more than a quarter of a small room, and comes and goes with every measurement.
        if wanted is None or (before > 1 and abs(wanted - before) == 1):
            return
        self._resized_ns = now_ns
        pipeline.set_room(wanted)
        yield _changed(
            flow,
            pipeline,
            _blocks(before),
            _blocks(wanted),
            f"its consumer takes {service_hz:.0f} blocks/s, and what waits is to be taken within {share * self._drain_ms:.1f} ms",
            (("service_hz", service_hz), ("drain_ms", share * self._drain_ms)),
            f"that no block waits for more than {share * self._drain_ms:.1f} ms",
        )


NORMAL: Final = Rung("normal", "")
LESS_ROOM: Final = Rung("less room", "that blocks wait for less long", "sojourn_ms")
THROTTLE: Final = Rung("throttle", "that no more comes than is taken")
QUALITY: Final = "quality "
BY_PRIORITY: Final = Rung("drop by priority", "that the module has more time for this input")
SHED: Final = Rung("shed", "that what is taken is newer", "sojourn_ms")


def _rungs(*, may_pace: bool, qualities: Sequence[str], has_others: bool, sheds: bool) -> list[Rung]:
    return [
        NORMAL,
        LESS_ROOM,
        *([THROTTLE] if may_pace else []),
        *(Rung(f"{QUALITY}{level}", "that the module takes more blocks in the same time") for level in qualities),
        *([BY_PRIORITY] if has_others else []),
        *([SHED] if sheds else []),
    ]


def drain_ms(pipeline: Pipeline, rule: Adaptive) -> float:
    """Return how soon what waits in a pipeline is to be taken."""
    if rule.drain_ms is not None:
        return rule.drain_ms
    budget_ms = pipeline.config.max_latency_ms
    return _DRAIN_MS if budget_ms is None else _DRAIN_SHARE * budget_ms


def treatment_for(controlled: Controlled, hands: Hands, *, may_pace: bool, quality_levels: Sequence[str]) -> Treatment:
    """
    Return what is done for a pipeline, by its rule.

    Args:
        controlled: The pipeline.
        hands: Does it.
        may_pace: Whether nothing above it is live, so that its sources can be slowed down.
        quality_levels: Those of the module that it leads into, the best first.
    """
    rule = controlled.pipeline.rule
    match rule:
        case Throttle():
            hz = rule.blocks_per_second
            return Paced(controlled, hands, AdditiveIncrease() if hz is None else FixedRate(hz))
        case Grow():
            return Growing(controlled, hands, rule)
        case Adaptive():
            return Adapting(
                controlled,
                hands,
                rule,
                may_pace=may_pace,
                qualities=quality_levels[1:],
                best=quality_levels[0] if quality_levels else "",
            )
        case Spill() | None:
            return Nothing()
    if may_pace and rule.to_native(controlled.pipeline.live).waits_for_ever:
        return Paced(controlled, hands, Credit(), PACED_BY_CREDITS)
    return Nothing()


def _laid_out_text(most: int) -> str:
    return (
        f"it was made for no more than {_blocks(most).removeprefix('room for ')}: its rule was another one then. Connect it with this one, "
        f"so that it gets the memory to grow in"
    )


def _blocks(count: int) -> str:
    return f"room for {count} block{'s' if count != 1 else ''}"


def _changed(
    flow: str,
    pipeline: Pipeline,
    before: str,
    after: str,
    reason: str,
    numbers: tuple[tuple[str, float], ...],
    expected: str,
) -> StrategyChanged:
    return StrategyChanged(
        flow=flow,
        pipeline=pipeline.id,
        before=before,
        after=after,
        reason=reason,
        numbers=numbers,
        expected=expected,
    )
