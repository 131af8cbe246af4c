"""Event loop: 512-byte blocks from a plain thread, such as a device's callback, to a task of asyncio.

Two figures: the time per block as fast as it goes, and the time on the way at 1 kHz. The thread copies each block, since
a device uses its memory again; what travels to the task is the copy, or at 1 kHz the time itself where objects travel.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

from steadyflow.benchmarks.blocks import (
    BUFFER_BLOCKS,
    WINDOW_BLOCKS,
    per_block_ns,
    send_paced,
    send_unpaced,
    stamp_of,
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
    target_ratio,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["run"]


def run(quick: bool = False, *, effort: Effort | None = None, say: Say = silent) -> Result:
    """Measure the way from a thread into an event loop: the cost of a block, and its time on the way at 1 kHz."""
    effort = effort or (QUICK if quick else FULL)
    recording = Recording("event_loop", effort, say)
    recording.compare("thread to event loop", "time per block", _CONTESTANTS, effort.unpaced(), targets=_targets)
    recording.compare("thread to event loop", "time on the way", _CONTESTANTS, effort.paced())
    return recording.result()


def _targets(figure: Figure) -> list[Target]:
    return [target_ratio(figure, "janus", "mean", 1.0, "janus takes at least as long")]


def steadyflow_pipeline(work: Workload) -> Measured:
    """Send from a thread into a pipeline, and receive in a task."""
    from steadyflow import AudioFormat, DataFlowCoordinator, PipelineConfig

    async def main() -> Measured:
        async with DataFlowCoordinator("bench") as flow:
            config = PipelineConfig(buffer_size=BUFFER_BLOCKS)
            pipe = flow.pipeline(flow.register_pipeline("thread", "task", config, format=AudioFormat(48_000, 1)))

            async def receive() -> Any:
                return (await pipe.receive_async()).samples

            samples_ns = await _from_thread(work, pipe.send, receive)
            metrics = pipe.statistics()
            return Measured(samples_ns, facts={"sent": metrics.sent, "delivered": metrics.delivered})

    return asyncio.run(main())


def call_soon(work: Workload) -> Measured:
    """Schedule put_nowait of an asyncio.Queue from the thread: what most people write."""

    async def main() -> list[float]:
        blocks: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def send(payload: Any) -> None:
            loop.call_soon_threadsafe(blocks.put_nowait, _own(payload))

        return await _from_thread(work, send, blocks.get, stamp_only=True)

    return Measured(asyncio.run(main()))


def run_coroutine(work: Workload) -> Measured:
    """Run put of a bounded asyncio.Queue from the thread, and wait for it."""

    async def main() -> list[float]:
        blocks: asyncio.Queue[Any] = asyncio.Queue(BUFFER_BLOCKS)
        loop = asyncio.get_running_loop()

        def send(payload: Any) -> None:
            asyncio.run_coroutine_threadsafe(blocks.put(_own(payload)), loop).result()

        return await _from_thread(work, send, blocks.get, stamp_only=True)

    return Measured(asyncio.run(main()))


def janus_queue(work: Workload) -> Measured:
    """Put into the synchronous side of a bounded janus.Queue, get from the asynchronous one."""
    import janus

    async def main() -> list[float]:
        blocks: janus.Queue[Any] = janus.Queue(BUFFER_BLOCKS)

        def send(payload: Any) -> None:
            blocks.sync_q.put(_own(payload))

        samples_ns = await _from_thread(work, send, blocks.async_q.get, stamp_only=True)
        await blocks.aclose()
        return samples_ns

    return Measured(asyncio.run(main()))


def _own(payload: Any) -> Any:
    """Copy a block, which the device will use again; a time is no block."""
    return payload if isinstance(payload, int) else payload.copy()


async def _from_thread(
    work: Workload, send: Callable[[Any], object], receive: Callable[[], Awaitable[Any]], *, stamp_only: bool = False
) -> list[float]:
    """Send from a thread, receive in this task; returns ns per block, or the ns of each block on its way."""
    if work.interval_ns:
        sender = threading.Thread(target=send_paced, args=(send, work), kwargs={"stamp_only": stamp_only}, daemon=True)
    else:
        sender = threading.Thread(target=send_unpaced, args=(send, work), daemon=True)
    sender.start()
    marks_ns: list[int] = []
    latencies_ns: list[float] = []
    for number in range(work.all_blocks):
        payload = await receive()
        if work.interval_ns:
            latencies_ns.append(time.monotonic_ns() - stamp_of(payload))
        elif number % WINDOW_BLOCKS == WINDOW_BLOCKS - 1:
            marks_ns.append(time.monotonic_ns())
    await asyncio.to_thread(sender.join)
    return latencies_ns[work.warm_up_blocks :] if work.interval_ns else per_block_ns(marks_ns, work)


_CONTESTANTS = [
    Contestant("steadyflow", steadyflow_pipeline, note="buffer_size=64: copied, counted, stamped"),
    Contestant("call_soon_threadsafe", call_soon, note="asyncio.Queue without a bound: what is not taken piles up"),
    Contestant("run_coroutine_threadsafe", run_coroutine, note="asyncio.Queue(64), the thread waits for each put"),
    Contestant("janus", janus_queue, requires="janus", note="janus.Queue(64)"),
]
