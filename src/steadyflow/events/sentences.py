"""What flow control tells, as sentences: for reports, and for whoever watches a flow run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, TypeGuard

from steadyflow.events.event import FlowEvent
from steadyflow.events.of_backpressure import (
    PACED_BY_CREDITS,
    BackpressureDetected,
    BackpressureRelieved,
    QualityChanged,
    SpillFailed,
    SpillFull,
    SpillLeft,
    SpillRestored,
    StandstillDetected,
    StrategyAssessed,
    StrategyChanged,
)
from steadyflow.events.of_flows import DataFlowStarted

TOLD: Final = (
    BackpressureDetected,
    BackpressureRelieved,
    StrategyChanged,
    StrategyAssessed,
    QualityChanged,
    StandstillDetected,
    SpillFailed,
    SpillFull,
    SpillRestored,
    SpillLeft,
)
"""The events that there are sentences of."""

_MOST_LINES: Final = 24


def sentence(event: FlowEvent) -> str | None:
    """Return what an event of flow control says; None: it is another one."""
    match event:
        case BackpressureDetected():
            blame = "" if event.culprit is None else f"; {event.culprit!r} cannot keep up"
            stalls = f"; {', '.join(event.stalled)} wait with it" if event.stalled else ""
            return f"{event.pipeline} is under pressure: {event.reason}{blame}{stalls}"
        case BackpressureRelieved():
            sound = f" ({event.dropped_ms:.0f} ms)" if event.dropped_ms else ""
            lost = f"{event.dropped} blocks{sound} were dropped" if event.dropped else "nothing was dropped"
            waits = f"; {event.waiting} blocks still wait" if event.waiting > 1 else ""
            return f"{event.pipeline} is relieved after {event.lasted_s:.2f} s: {lost}{waits}"
        case StrategyChanged():
            expected = f"; expected: {event.expected}" if event.expected else ""
            return f"{event.pipeline}: {event.before} -> {event.after}, because {event.reason}{expected}"
        case StrategyAssessed():
            verdict = "has helped" if event.helped else "has not helped"
            return f"{event.pipeline}: {event.strategy!r} {verdict}: {event.reason}"
        case QualityChanged():
            return f"{event.module} works at quality {event.after!r} instead of {event.before!r}, because of {event.pipeline}"
        case StandstillDetected():
            return f"standstill: {event.reason}"
        case SpillFailed():
            return f"{event.module} cannot use {event.path}, so that {event.then!r} holds: {event.reason}"
        case SpillFull():
            return f"{event.module} has no room for more than the {event.blocks} blocks in {event.path}, so that {event.then!r} holds"
        case SpillRestored():
            return f"{event.module} uses {event.path} again after {event.lasted_s:.2f} s, in which {event.dropped} blocks were dropped"
        case SpillLeft():
            lost = f"; {event.lost} more could not be written, and are lost" if event.lost else ""
            return f"{event.module} has left {event.blocks} blocks in {event.path} for the next run{lost}"
    return None


def is_of_credits(event: FlowEvent) -> TypeGuard[StrategyChanged]:
    """Tell whether an event says that credits begin or end to pace sources."""
    return isinstance(event, StrategyChanged) and PACED_BY_CREDITS in (event.before, event.after)


def story(events: Sequence[FlowEvent], harmed: Collection[str]) -> list[str]:
    """
    Return what flow control has told of a run, each with its time since the start; of very much, the beginning and the end.

    That a source which can wait had to wait, or was paced, is no news: of pipelines that lost nothing, were not late, and for which nothing else was
    done, nothing is told.

    Args:
        events: All of the run, in order.
        harmed: The ids of the pipelines that lost something, or were late.
    """
    began_ns = 0
    lines = []
    treated = {
        event.pipeline
        for event in events
        if isinstance(event, (StrategyChanged, QualityChanged)) and not is_of_credits(event)
    }
    for event in events:
        if isinstance(event, DataFlowStarted):
            began_ns = event.timestamp_ns
        if isinstance(event, (BackpressureDetected, BackpressureRelieved)) or is_of_credits(event):
            if event.pipeline not in treated and event.pipeline not in harmed:
                continue
        text = sentence(event)
        if text is not None:
            lines.append(f"{max(event.timestamp_ns - began_ns, 0) / 1e9 if began_ns else 0.0:8.3f} s  {text}")
    if len(lines) <= _MOST_LINES:
        return lines
    half = _MOST_LINES // 2
    return [*lines[:half], f"           ... {len(lines) - 2 * half} more ...", *lines[-half:]]
