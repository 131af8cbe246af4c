"""What flow control finds, and what it does about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from steadyflow.events.event import Delivery, FlowEvent

PACED_BY_CREDITS: Final = "paced by credits"
"""What `StrategyChanged` calls what is done where sources that can wait are slowed down, so that no queue below them stands full."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackpressureDetected(FlowEvent):
    """
    A pipeline gets more than its consumer takes. Published by the coordinator, which looks every 10 ms, once until it is relieved.

    Args:
        pipeline: Its id.
        detector: What found it: ``"watermarks"``, ``"standing_delay"``, ``"time_to_full"``, ``"growing_queue"`` or
            ``"blocked_share"``.
        reason: What was found, in words.
        numbers: What it was found by, as names, which end with their unit, and values.
        culprit: The module that cannot keep up: the first one downstream that does not wait for another; None: not known.
        stalled: Other pipelines that the same module feeds, which get nothing while this one makes it wait.
    """

    delivery: ClassVar[Delivery] = "critical"

    pipeline: str
    detector: str
    reason: str
    numbers: tuple[tuple[str, float], ...]
    culprit: str | None
    stalled: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackpressureRelieved(FlowEvent):
    """
    A pipeline's consumer takes what comes again; says what was lost, and how much still waits. Published as `BackpressureDetected`, which it ends.

    Args:
        pipeline: Its id.
        reason: What was found, in words.
        lasted_s: How long it was under pressure.
        dropped: How many blocks were dropped meanwhile, in it or by its spool.
        dropped_ms: How much audio that was; 0 where it is none.
        waiting: How many still wait, in it or on disk.
    """

    delivery: ClassVar[Delivery] = "critical"

    pipeline: str
    reason: str
    lasted_s: float
    dropped: int
    dropped_ms: float
    waiting: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyChanged(FlowEvent):
    """
    What is done about a full pipeline was changed. Published by `handle_backpressure`, and by the coordinator for a rule that adapts or grows, for
    an input that yields to a more important one, and where credits begin and end to pace sources.

    Args:
        pipeline: Its id.
        before: What was done until now.
        after: What is done from now on; `PACED_BY_CREDITS` where that is.
        reason: Why, in words; who says so, where it was not flow control.
        numbers: What it was decided by, likewise.
        expected: The effect that is expected of it.
    """

    delivery: ClassVar[Delivery] = "high"

    pipeline: str
    before: str
    after: str
    reason: str
    numbers: tuple[tuple[str, float], ...]
    expected: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyAssessed(FlowEvent):
    """
    Whether what was done about a full pipeline has helped. Published by the coordinator, 0.2 s after a step of a rule that adapts.

    Args:
        pipeline: Its id.
        strategy: What was done.
        helped: Whether the effect came that was expected.
        reason: What was found, in words.
        numbers: What it was found by, as names, which end with their unit, and values.
    """

    delivery: ClassVar[Delivery] = "normal"

    pipeline: str
    strategy: str
    helped: bool
    reason: str
    numbers: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StandstillDetected(FlowEvent):
    """
    Modules wait for each other, so that nothing moves any more. Published by the coordinator after half a second of that (two at a join), once.

    Args:
        modules: Those that wait, each for the next one, and the last for the first.
        pipelines: What they wait at.
        reason: Why, in words, and what to do about it.
    """

    delivery: ClassVar[Delivery] = "critical"

    modules: tuple[str, ...]
    pipelines: tuple[str, ...]
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityChanged(FlowEvent):
    """
    A module works at another level of its quality ladder, because of a pipeline that leads into it. Published by the coordinator.

    Args:
        module: Its name.
        pipeline: The pipeline that was under pressure, or is so no more.
        before: The level until now.
        after: The level from now on.
        reason: Why, in words.
    """

    delivery: ClassVar[Delivery] = "high"

    module: str
    pipeline: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SpillFailed(FlowEvent):
    """
    Blocks that a pipeline has no room for cannot wait on disk any more. Published by the `Spool`, once until they can again.

    Args:
        module: Its name.
        path: The file.
        reason: What is wrong with it, in words.
        then: What is done with such blocks meanwhile: ``"drop_oldest"``, ``"drop_newest"`` or ``"wait"``.
    """

    delivery: ClassVar[Delivery] = "high"

    module: str
    path: str
    reason: str
    then: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SpillFull(FlowEvent):
    """
    As many blocks wait on disk as may. Published by the `Spool`, once until no more than half of them do.

    Args:
        module: Its name.
        path: The file.
        blocks: How many wait.
        then: What is done with what comes meanwhile: ``"drop_oldest"``, ``"drop_newest"`` or ``"wait"``.
    """

    delivery: ClassVar[Delivery] = "high"

    module: str
    path: str
    blocks: int
    then: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SpillRestored(FlowEvent):
    """
    Blocks can wait on disk again. Published by the `Spool`, which tries once a second; ends a `SpillFailed`.

    Args:
        module: Its name.
        path: The file.
        lasted_s: How long they could not.
        dropped: How many blocks were dropped meanwhile.
    """

    delivery: ClassVar[Delivery] = "high"

    module: str
    path: str
    lasted_s: float
    dropped: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SpillLeft(FlowEvent):
    """
    A flow has ended before all blocks were delivered that wait on disk; the next run begins with them. Published by the `Spool`.

    Args:
        module: Its name.
        path: The file.
        blocks: How many there are.
        frames: How long they are together, with those that are lost.
        lost: How many more could not be written at the end, or were in a file that is gone.
    """

    delivery: ClassVar[Delivery] = "high"

    module: str
    path: str
    blocks: int
    frames: int
    lost: int
