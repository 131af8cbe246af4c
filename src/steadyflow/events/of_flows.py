"""What happens to a flow as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from steadyflow.events.event import FlowEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFlowStarted(FlowEvent):
    """All workers are set up, and the sources may produce. Published by the coordinator."""

    workers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFlowStopped(FlowEvent):
    """All workers have ended. Published by the coordinator."""

    failed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservationUnavailable(FlowEvent):
    """
    Other processes cannot observe this flow, because its socket could not be made; the flow runs all the same.

    Published by the coordinator at the start.
    """

    reason: str
