"""
Pool: memory for a block is asked for, written, handed over, read and given back, in one thread; ns for all of it.

Beside it what people do without: a new array for each block, and a list of arrays to use again. Both pass a pointer; they have no bound,
no count, no second process, and whoever keeps a block of the list sees it overwritten.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from steadyflow.benchmarks.blocks import WINDOW_BLOCKS, per_block_ns
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
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["run"]

_KEPT = 3  # blocks that the reader keeps, as a module does that looks back
_BUFFERS = 8
_LARGE_BYTES = 1 << 20


def run(quick: bool = False, *, effort: Effort | None = None, say: Say = silent) -> Result:
    """Measure blocks of 16 and of 256 KiB, of which the reader keeps the last three."""
    effort = effort or (QUICK if quick else FULL)
    recording = Recording("pool", effort, say)
    for kibibytes, contestants in _CONTESTANTS.items():
        recording.compare(
            f"a block of {kibibytes} KiB",
            "ask + hand over + give back",
            contestants,
            effort.unpaced(times=0.2),
            targets=_targets,
        )
    return recording.result()


def _targets(figure: Figure) -> list[Target]:
    facts = figure.rows[0].facts
    targets = [_at_least(facts, "hit_rate", 0.99, "a hit rate of at least 99 % after the warm-up")]
    if facts.get("mapped_bytes", 0) >= _LARGE_BYTES:
        targets.append(_less_than(facts, "overhead", 0.03, "an overhead of less than 3 %, of pools of at least 1 MiB"))
    return targets


def _at_least(facts: Mapping[str, Any], name: str, least: float, text: str) -> Target:
    if name not in facts:
        return Target(text, "not measured", met=None)
    return Target(text, f"{facts[name]:.2%}", met=facts[name] >= least)


def _less_than(facts: Mapping[str, Any], name: str, limit: float, text: str) -> Target:
    return Target(text, f"{facts[name]:.2%}", met=facts[name] < limit)


def _timed(work: Workload, step: Callable[[], Any]) -> list[float]:
    marks_ns = []
    kept: deque[Any] = deque(maxlen=_KEPT)
    for _ in range(work.all_blocks // WINDOW_BLOCKS):
        for _ in range(WINDOW_BLOCKS):
            kept.append(step())
        marks_ns.append(time.monotonic_ns())
    return per_block_ns(marks_ns, work)


def _steadyflow(work: Workload, kibibytes: int) -> Measured:
    from steadyflow import AudioFormat, DataFlowCoordinator, PipelineConfig

    frames = kibibytes * 256
    with DataFlowCoordinator("bench") as flow:
        fmt = AudioFormat(48_000, 1, max_block_frames=frames)
        pipe = flow.pipeline(flow.register_pipeline("a", "b", PipelineConfig(buffer_size=_BUFFERS), format=fmt))
        receive = pipe.receive

        def step() -> Any:
            with pipe.loan(frames) as samples:
                samples[0] = 1
            return receive().samples

        times = _timed(work, step)
        pool = flow.pools["a"]
    said = f"{pool.buffers} buffers, hit rate {pool.hit_rate:.2%}, overhead {pool.overhead:.2%}"
    facts = {"hit_rate": pool.hit_rate, "overhead": pool.overhead, "mapped_bytes": pool.mapped_bytes, "quality": said}
    return Measured(times, facts=facts)


def _new(work: Workload, kibibytes: int) -> Measured:
    queue: deque[Any] = deque()

    def step() -> Any:
        samples = np.empty((kibibytes * 256, 1), np.float32)
        samples[0] = 1
        queue.append(samples)
        return queue.popleft()

    return Measured(_timed(work, step))


def _free_list(work: Workload, kibibytes: int) -> Measured:
    queue: deque[Any] = deque()
    free = [np.empty((kibibytes * 256, 1), np.float32) for _ in range(_BUFFERS)]
    kept: deque[Any] = deque()

    def step() -> Any:
        samples = free.pop()
        samples[0] = 1
        queue.append(samples)
        taken = queue.popleft()
        kept.append(taken)
        if len(kept) > _KEPT:
            free.append(kept.popleft())  # which its reader has to say
        return taken

    return Measured(_timed(work, step))


def pool_16(work: Workload) -> Measured:
    """Blocks of 16 KiB through a pipeline."""
    return _steadyflow(work, 16)


def pool_256(work: Workload) -> Measured:
    """Blocks of 256 KiB through a pipeline."""
    return _steadyflow(work, 256)


def new_16(work: Workload) -> Measured:
    """Allocate 16 KiB."""
    return _new(work, 16)


def new_256(work: Workload) -> Measured:
    """Allocate 256 KiB."""
    return _new(work, 256)


def free_16(work: Workload) -> Measured:
    """Use 16 KiB again."""
    return _free_list(work, 16)


def free_256(work: Workload) -> Measured:
    """Use 256 KiB again."""
    return _free_list(work, 256)


_OURS = "bounded, counted, shared with processes; lent, sent, received as a view"
_CONTESTANTS = {
    16: [
        Contestant("steadyflow", pool_16, note=_OURS),
        Contestant("numpy.empty", new_16, note="a new array for each block, passed on by a deque"),
        Contestant(
            "free list", free_16, note="arrays that are used again when the reader says so, passed on by a deque"
        ),
    ],
    256: [
        Contestant("steadyflow", pool_256, note=_OURS),
        Contestant("numpy.empty", new_256, note="a new array for each block, passed on by a deque"),
        Contestant(
            "free list", free_256, note="arrays that are used again when the reader says so, passed on by a deque"
        ),
    ],
}
