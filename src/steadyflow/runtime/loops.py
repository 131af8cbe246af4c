"""Which way of running its modules a worker gets: one that calls them, or an event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from steadyflow._native import AbortFlag, ManualTime, Segment
from steadyflow.module import Module, is_asynchronous
from steadyflow.runtime.loop import Host, WorkerLoop
from steadyflow.runtime.wiring import WorkerWiring


def make_loop(
    wiring: WorkerWiring,
    modules: Mapping[str, Module],
    segments: dict[int, Segment],
    abort: AbortFlag,
    host: Host,
    resolve: Callable[[str], type] | None = None,
    turns: ManualTime | None = None,
) -> WorkerLoop:
    """Make the loop that the modules of a worker ask for; see `WorkerLoop`. `turns`: what its thread goes by, unless the system's clock."""
    if any(is_asynchronous(module) for module in modules.values()):
        from steadyflow.runtime.event_loop import EventLoop  # asyncio is slow to import

        return EventLoop(wiring, modules, segments, abort, host, resolve, turns)
    from steadyflow.runtime.serving import ServingLoop

    return ServingLoop(wiring, modules, segments, abort, host, resolve, turns)
