"""Loan: a large block is computed and received in one thread; written in place beside sent as an array, ns for all of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from steadyflow.benchmarks.blocks import WINDOW_BLOCKS, per_block_ns
from steadyflow.benchmarks.harness import (
    FULL,
    QUICK,
    Contestant,
    Effort,
    Measured,
    Recording,
    Result,
    Say,
    Workload,
    silent,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from steadyflow import Pipeline

__all__ = ["run"]


def run(quick: bool = False, *, effort: Effort | None = None, say: Say = silent) -> Result:
    """Measure blocks of 64 and of 256 KiB."""
    effort = effort or (QUICK if quick else FULL)
    recording = Recording("loan", effort, say)
    for kibibytes, contestants in _CONTESTANTS.items():
        recording.compare(
            f"a block of {kibibytes} KiB", "compute + hand over + receive", contestants, effort.unpaced(times=0.2)
        )
    return recording.result()


def _measure(work: Workload, kibibytes: int, prepare: Callable[[Pipeline, Any], Callable[[], None]]) -> Measured:
    """Time the sending that `prepare` returns, each with the receipt of its block; the computation is the same in all."""
    from steadyflow import AudioFormat, DataFlowCoordinator, PipelineConfig

    frames = kibibytes * 256
    with DataFlowCoordinator("bench") as flow:
        fmt = AudioFormat(48_000, 1, max_block_frames=frames)
        pipe = flow.pipeline(flow.register_pipeline("a", "b", PipelineConfig(buffer_size=4), format=fmt))
        send, receive = prepare(pipe, np.zeros((frames, 1), np.float32)), pipe.receive
        marks_ns = []
        for _ in range(work.all_blocks // WINDOW_BLOCKS):
            for _ in range(WINDOW_BLOCKS):
                send()
                receive()
            marks_ns.append(time.monotonic_ns())
        metrics = pipe.statistics()
    return Measured(
        per_block_ns(marks_ns, work),
        facts={"sent": metrics.sent, "delivered": metrics.delivered, "loan_copies": metrics.loan_copies},
    )


def _loan(pipe: Pipeline, origin: Any) -> Callable[[], None]:
    frames = len(origin)

    def send() -> None:
        with pipe.loan(frames) as samples:
            np.multiply(origin, 0.5, out=samples)

    return send


def _array(pipe: Pipeline, origin: Any) -> Callable[[], None]:
    result = np.empty_like(origin)

    def send() -> None:
        np.multiply(origin, 0.5, out=result)
        pipe.send(result)

    return send


def loan_64(work: Workload) -> Measured:
    """Write 64 KiB in place."""
    return _measure(work, 64, _loan)


def array_64(work: Workload) -> Measured:
    """Send an array of 64 KiB."""
    return _measure(work, 64, _array)


def loan_256(work: Workload) -> Measured:
    """Write 256 KiB in place."""
    return _measure(work, 256, _loan)


def array_256(work: Workload) -> Measured:
    """Send an array of 256 KiB."""
    return _measure(work, 256, _array)


_CONTESTANTS = {
    64: [
        Contestant("steadyflow, loan", loan_64, note="numpy writes into the buffer that is sent"),
        Contestant("steadyflow, send", array_64, note="numpy writes into an array, which is copied into a buffer"),
    ],
    256: [
        Contestant("steadyflow, loan", loan_256, note="numpy writes into the buffer that is sent"),
        Contestant("steadyflow, send", array_256, note="numpy writes into an array, which is copied into a buffer"),
    ],
}
