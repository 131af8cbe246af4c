"""What happens to a module, or to the worker that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from steadyflow.events.event import Delivery, FlowEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleAdded(FlowEvent):
    """A module is part of the flow. Published by the coordinator."""

    module: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleReady(FlowEvent):
    """The setup of a module has succeeded, and it waits for the others. Published by the coordinator."""

    module: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleStarted(FlowEvent):
    """All modules are ready, and blocks flow. Published by the coordinator for each of them."""

    module: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModulePaused(FlowEvent):
    """A module gets and makes no blocks until it is resumed. Published by `DataFlowCoordinator.pause`."""

    delivery: ClassVar[Delivery] = "high"

    module: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleResumed(FlowEvent):
    """A module goes on. Published by `DataFlowCoordinator.resume`."""

    delivery: ClassVar[Delivery] = "high"

    module: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleStopped(FlowEvent):
    """A module was stopped before its inputs had ended. Published by the coordinator when its worker has ended."""

    module: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleEnded(FlowEvent):
    """All inputs of a module have ended, or its source has; it has finished. Published by its worker."""

    module: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleReplaced(FlowEvent):
    """Another module has taken the place of one of its name, which has ended. Published by the coordinator."""

    delivery: ClassVar[Delivery] = "high"

    module: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineFailure(FlowEvent):
    """A module or its worker failed; its pipelines end. Published when the coordinator hears of it."""

    delivery: ClassVar[Delivery] = "critical"

    module: str | None
    worker: str
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RealtimeRefused(FlowEvent):
    """
    The system does not allow a worker to run with real-time priority; the flow runs without it.

    Published by the coordinator when the worker is set up.
    """

    worker: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RealtimeRevoked(FlowEvent):
    """
    A real-time worker kept a core to itself and was given normal priority, with which it goes on.

    The module is the one that computed for so long, where that is known. Published by the coordinator when it hears of it.
    """

    delivery: ClassVar[Delivery] = "critical"

    worker: str
    module: str | None
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerUnresponsive(FlowEvent):
    """
    A worker had not ended by its deadline; a process was killed, a thread was left behind.

    Published by the coordinator at the end of the run.
    """

    delivery: ClassVar[Delivery] = "high"

    worker: str
