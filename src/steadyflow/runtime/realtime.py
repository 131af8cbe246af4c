"""What ``realtime=True`` makes of a worker process, in the order in which it has to be done."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import msgspec

from steadyflow._native import Segment
from steadyflow.runtime.cpu_latency import request_cpu_latency
from steadyflow.runtime.idle_collection import IdleCollection
from steadyflow.runtime.loop import WorkerLoop
from steadyflow.runtime.memory_lock import lock_worker_memory
from steadyflow.runtime.pools import limit_pools
from steadyflow.runtime.runaway import RunawayWatch, running_module
from steadyflow.runtime.scheduling import Refusal, Scheduling, request_realtime, wanted_priority
from steadyflow.runtime.wiring import WorkerWiring


def become_realtime(
    wiring: WorkerWiring, loop: WorkerLoop, segments: Sequence[Segment], revoked: Callable[[str | None, str], None]
) -> tuple[Scheduling, RunawayWatch | None]:
    """
    Make a worker process run in real time as far as the system allows it. Its main thread, after setup.

    After setup, because a module that loads a model may compute for longer than any block may; and because what setup has
    made, objects and threads, is known then. May block for some seconds, where RealtimeKit has to be asked.

    Args:
        wiring: What the worker runs.
        loop: What runs it.
        segments: The flow's.
        revoked: Told, from another thread, when the worker was lowered later: the module, if it is known, and the reason.

    Returns:
        What was granted, and who watches; None if nobody can.
    """
    limit_pools()
    assert wiring.realtime is not None
    loop.inbox.spin_for(wiring.realtime.spin_us * 1000)
    collection = IdleCollection()
    collection.begin()
    loop.on_idle(collection)
    locked, lock_refusal = lock_worker_memory(segments)
    refusals = [] if lock_refusal is None else [Refusal("memory lock", lock_refusal)]
    latency_us = wiring.realtime.cpu_latency_us
    if latency_us is not None and (reason := request_cpu_latency(latency_us)) is not None:
        refusals.append(Refusal("CPU latency", reason))
        latency_us = None
    orders = [(module.name, module.order) for module in wiring.modules]
    limit_us = 0

    def tell(order: int | None, error: int) -> None:
        failed = f", and could not be lowered: {os.strerror(error)}" if error else ""
        revoked(
            running_module(order, orders),
            f"it computed for {limit_us / 1000:g} ms without a blocking call{failed}",
        )

    # Before there is a limit: without the guard, to reach it ends the process.
    try:
        watch = RunawayWatch(loop.inbox, tell)
    except OSError as problem:
        refusals.append(Refusal("runaway guard", f"the system refused a handler for SIGXCPU: {problem.strerror}"))
        return Scheduling(memory_locked=locked, cpu_latency_us=latency_us, refusals=tuple(refusals)), None
    names = {module.name for module in wiring.modules}
    scheduling = request_realtime(
        wanted_priority(
            (pipeline.rank for pipeline in wiring.pipelines if pipeline.target[0] in names),
            (pipeline.rank for pipeline in wiring.pipelines if pipeline.source[0] in names),
        ),
        wiring.refusals,
    )
    limit_us = scheduling.runaway_limit_us
    scheduling = msgspec.structs.replace(
        scheduling, memory_locked=locked, cpu_latency_us=latency_us, refusals=(*scheduling.refusals, *refusals)
    )
    return scheduling, watch
