"""A module of a flow, and where its user wants it to run."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from steadyflow.module import Module, is_asynchronous
from steadyflow.realtime import Realtime

MAIN_WORKER: Final = "main"
"""The thread that runs the modules which ask for nothing else."""

ASYNCIO_WORKER: Final = "asyncio"
"""The thread with an event loop that runs the asynchronous modules which ask for nothing else."""

Placement: TypeAlias = Literal["thread", "process"]


class Placed(NamedTuple):
    """
    What ``flow.add`` was told.

    Args:
        name: The module's name in the flow.
        module: The instance.
        placement: A thread of this process, or a process.
        worker: The worker to share; None: the placement's own.
        realtime: What its worker asks for with real-time scheduling; None: does not ask for that.
        replicas: How many workers run an instance of it each, and compete for its blocks.
        ordered: Whether what they send is put into the order of what they were given.
        depends_on: The names of the modules that have to be ready before it is set up.
    """

    name: str
    module: Module
    placement: Placement
    worker: str | None
    realtime: Realtime | None
    replicas: int = 1
    ordered: bool = False
    depends_on: tuple[str, ...] = ()

    @property
    def restores_order(self) -> bool:
        """Whether blocks that it sends may have to wait for others before them."""
        return self.ordered and self.replicas > 1

    @property
    def workers(self) -> tuple[str, ...]:
        """The names of the workers that run it, one for each replica."""
        if self.replicas > 1:
            return tuple(f"{self.name}-{number}" for number in range(1, self.replicas + 1))
        alone = self.placement == "process" or self.module.blocking
        shared = ASYNCIO_WORKER if is_asynchronous(self.module) else MAIN_WORKER
        return (self.worker or (self.name if alone else shared),)

    @property
    def shown_workers(self) -> str:
        """The names of its workers for a reader: ``pitch``, or ``pitch-1..4`` for four replicas."""
        first, *others = self.workers
        return f"{first}..{self.replicas}" if others else first
