"""Chain: five trivial modules in one worker, beside five asyncio tasks and five threads linked by queues.

A source feeds the first of the five; each passes the block on, the last one takes the times. That is five hops.
The queues pass pointers, or at 1 kHz the time itself: they neither copy nor count.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from typing import Any, Final

from steadyflow.benchmarks.blocks import (
    BUFFER_BLOCKS,
    WINDOW_BLOCKS,
    per_block_ns,
    receive_latencies,
    receive_unpaced,
    send_paced,
    send_unpaced,
    stamp_of,
    stamped_block,
)
from steadyflow.benchmarks.harness import (
    FULL,
    QUICK,
    Contestant,
    Effort,
    Figure,
    Measured,
    Recording,
    Result,
    Say,
    Target,
    Workload,
    silent,
    target_at_most,
    target_ratio,
)

__all__ = ["run"]

_HOPS: Final = 5


def run(quick: bool = False, *, effort: Effort | None = None, say: Say = silent) -> Result:
    """Measure the chain: the cost of a hop, and the time from end to end at 1 kHz."""
    effort = effort or (QUICK if quick else FULL)
    recording = Recording("chain", effort, say)
    recording.compare("chain of 5 modules", "cost per hop", _CONTESTANTS, effort.unpaced(), targets=_unpaced_targets)
    recording.compare(
        "chain of 5 modules", "time from end to end", _CONTESTANTS, effort.paced(), targets=_paced_targets
    )
    return recording.result()


def _unpaced_targets(figure: Figure) -> list[Target]:
    return [target_at_most(figure, "mean", 1_000, "a hop costs at most 1 µs")]


def _paced_targets(figure: Figure) -> list[Target]:
    return [target_ratio(figure, "asyncio tasks", "p50", 1.0, "asyncio queues take at least as long")]


def _per_hop(measured: Measured) -> Measured:
    return Measured([sample / _HOPS for sample in measured.samples_ns], measured.facts)


def steadyflow_chain(work: Workload) -> Measured:
    """Run a source and five modules in the flow's one worker."""
    from steadyflow.benchmarks.flows import run_flow

    measured = run_flow(work, modules_between=_HOPS - 1)
    return measured if work.interval_ns else _per_hop(measured)


def asyncio_chain(work: Workload) -> Measured:
    """Run a source and five tasks in one event loop, linked by asyncio.Queue."""
    measured = Measured(asyncio.run(_asyncio_chain(work)))
    return measured if work.interval_ns else _per_hop(measured)


async def _asyncio_chain(work: Workload) -> list[float]:
    queues: list[asyncio.Queue[Any]] = [asyncio.Queue(BUFFER_BLOCKS) for _ in range(_HOPS)]

    async def send() -> None:
        samples, _ = stamped_block()
        due_ns = time.monotonic_ns()
        for _ in range(work.all_blocks):
            if work.interval_ns:
                due_ns += work.interval_ns
                await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
                await queues[0].put(time.monotonic_ns())
            else:
                await queues[0].put(samples)

    async def pass_on(taken: asyncio.Queue[Any], given: asyncio.Queue[Any]) -> None:
        for _ in range(work.all_blocks):
            await given.put(await taken.get())

    async def arrive() -> list[float]:
        times_ns = []
        for count in range(1, work.all_blocks + 1):
            payload = await queues[-1].get()
            if work.interval_ns:
                times_ns.append(time.monotonic_ns() - stamp_of(payload))
            elif count % WINDOW_BLOCKS == 0:
                times_ns.append(time.monotonic_ns())
        return [*times_ns[work.warm_up_blocks :]] if work.interval_ns else per_block_ns(times_ns, work)

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        for taken, given in itertools.pairwise(queues):
            group.create_task(pass_on(taken, given))
        return await arrive()


def thread_chain(work: Workload) -> Measured:
    """Run a source and five threads, linked by queue.Queue."""
    queues: list[queue.Queue[Any]] = [queue.Queue(BUFFER_BLOCKS) for _ in range(_HOPS)]

    def send() -> None:
        if work.interval_ns:
            send_paced(queues[0].put, work, stamp_only=True)
        else:
            send_unpaced(queues[0].put, work)

    def pass_on(taken: queue.Queue[Any], given: queue.Queue[Any]) -> None:
        for _ in range(work.all_blocks):
            given.put(taken.get())

    threads = [threading.Thread(target=send, daemon=True)]
    threads += [threading.Thread(target=pass_on, args=pair, daemon=True) for pair in itertools.pairwise(queues)]
    for thread in threads:
        thread.start()
    if work.interval_ns:
        return Measured(receive_latencies(queues[-1].get, work))
    return _per_hop(Measured(receive_unpaced(queues[-1].get, work)))


_CONTESTANTS = [
    Contestant("steadyflow", steadyflow_chain, note="one worker; each hop copied, counted, stamped"),
    Contestant("asyncio tasks", asyncio_chain, note="one event loop, asyncio.Queue(64): pointers only"),
    Contestant("threads", thread_chain, note="queue.Queue(64): pointers only"),
]
