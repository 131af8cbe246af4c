"""A module of a flow, and where its user wants it to run."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from steadyflow.module import Module

MAIN_WORKER: Final = "main"
"""The thread that runs the modules which ask for nothing else."""

Placement: TypeAlias = Literal["thread", "process"]


class Placed(NamedTuple):
    """
    What ``flow.add`` was told.

    Args:
        name: The module's name in the flow.
        module: The instance.
        placement: A thread of this process, or a process.
        worker: The worker to share; None: the placement's own.
        realtime: Whether its worker asks for real-time scheduling.
    """

    name: str
    module: Module
    placement: Placement
    worker: str | None
    realtime: bool
