"""The block of all cases, 128 frames of one channel as 32-bit floats (512 bytes), and the loops that move it.

A paced sender writes the time into the block itself, and the receiver reads its clock as the first thing it
does with a block. So ours and theirs are measured by the same two stamps, whatever stamps a library has of its own.
"""

from __future__ import annotations

import itertools
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from steadyflow.benchmarks.harness import Workload

__all__ = [
    "BLOCK_BYTES",
    "BLOCK_FRAMES",
    "BUFFER_BLOCKS",
    "WINDOW_BLOCKS",
    "per_block_ns",
    "receive_latencies",
    "receive_unpaced",
    "send_paced",
    "send_unpaced",
    "stamp_of",
    "stamped_block",
]

BLOCK_FRAMES: Final = 128
BLOCK_BYTES: Final = BLOCK_FRAMES * 4
BUFFER_BLOCKS: Final = 64
"""The bound of every queue that has one."""
WINDOW_BLOCKS: Final = 64
"""Unpaced, a sample is the mean of so many blocks: reading a clock for each would cost as much as a hop.

Where two threads or processes fill and empty a buffer by turns, most windows see only one of the two. There the
percentiles show the turns, and the mean of all windows is the throughput."""


def stamped_block() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return a block, shape (128, 1), and the same memory as 64-bit integers; the first is for the time."""
    memory = np.zeros(BLOCK_BYTES // 8, np.int64)
    return memory.view(np.float32).reshape(BLOCK_FRAMES, 1), memory


def stamp_of(payload: Any) -> int:
    """Return the time that the sender wrote: from bytes, from an array, or, where objects travel, the number itself."""
    if isinstance(payload, int):
        return payload
    return int.from_bytes(memoryview(payload).cast("B")[:8], sys.byteorder)


def send_unpaced(send: Callable[[Any], object], work: Workload) -> None:
    """Send the same block again and again, as fast as it goes."""
    samples, _ = stamped_block()
    for _ in range(work.all_blocks):
        send(samples)


def send_paced(send: Callable[[Any], object], work: Workload, *, stamp_only: bool = False) -> None:
    """Send a stamped block each `interval_ns`, on an absolute schedule.

    `stamp_only` is for queues of objects, which would share the one block: they get the number instead.
    """
    samples, stamps = stamped_block()
    due_ns = time.monotonic_ns()
    for _ in range(work.all_blocks):
        due_ns += work.interval_ns
        wait_ns = due_ns - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        now_ns = time.monotonic_ns()
        stamps[0] = now_ns
        send(now_ns if stamp_only else samples)


def receive_unpaced(receive: Callable[[], object], work: Workload) -> list[float]:
    """Take all blocks; returns ns per block, one value for each window after the warm-up."""
    marks_ns = []
    for _ in range(work.all_blocks // WINDOW_BLOCKS):
        for _ in range(WINDOW_BLOCKS):
            receive()
        marks_ns.append(time.monotonic_ns())
    for _ in range(work.all_blocks % WINDOW_BLOCKS):
        receive()
    return per_block_ns(marks_ns, work)


def receive_latencies(receive: Callable[[], object], work: Workload) -> list[float]:
    """Take all blocks; returns the ns that each block after the warm-up was on its way."""
    latencies_ns: list[float] = []
    for _ in range(work.all_blocks):
        payload = receive()
        now_ns = time.monotonic_ns()
        latencies_ns.append(now_ns - stamp_of(payload))
    return latencies_ns[work.warm_up_blocks :]


def per_block_ns(marks_ns: list[int], work: Workload) -> list[float]:
    """Turn the times at the ends of windows into ns per block, without the windows of the warm-up."""
    warm_up_windows = work.warm_up_blocks // WINDOW_BLOCKS
    counted = marks_ns[warm_up_windows:]
    return [(end - start) / WINDOW_BLOCKS for start, end in itertools.pairwise(counted)]
