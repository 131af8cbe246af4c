"""Replicas: a module that computes for 0.1 to 0.2 ms on each block, in one process and in two, unordered and ordered.

Two figures: a module in plain Python, which would hold the interpreter lock all the time, and one that computes with
numpy. Source and sink are in the flow's own process, so on two cores they take their time from the replicas. Beside them
a pool of multiprocessing: it preserves the order too, but has no bound: it takes its whole input at once.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from steadyflow import Block, Input, Module, Output
from steadyflow.benchmarks.blocks import WINDOW_BLOCKS, per_block_ns, stamped_block
from steadyflow.benchmarks.flows import FORMAT, run_flow
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
    from collections.abc import Callable

    import numpy.typing as npt

__all__ = ["run"]

_TWO = "steadyflow, two replicas"
_ORDERED = "steadyflow, two ordered"
_ONE = "steadyflow, one process"

_STEPS = 1_500
_SPECTRUM_FRAMES = 8_192


def run(quick: bool = False, *, effort: Effort | None = None, say: Say = silent) -> Result:
    """Measure both modules."""
    effort = effort or (QUICK if quick else FULL)
    recording = Recording("replicas", effort, say)
    for title, contestants in (("plain Python", _PYTHON), ("numpy", _NUMPY)):
        recording.compare(
            f"replicas of a module in {title}",
            "time per block",
            contestants,
            effort.unpaced(times=0.2),
            targets=_targets,
        )
    return recording.result()


def _targets(figure: Figure) -> list[Target]:
    return [
        _target(figure, _TWO, "two replicas are at least 1.7 times as fast as one process"),
        _target(figure, _ORDERED, "the same in order"),
    ]


def _target(figure: Figure, name: str, text: str) -> Target:
    rounds = [figure.row(row).rounds_ns.get("mean", []) for row in (_ONE, name)]
    ratios = [one / two for one, two in zip(*rounds, strict=False)]
    if not ratios:
        return Target(text, "not measured", met=None)
    ratio = statistics.median(ratios)
    return Target(text, f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", met=ratio >= 1.7)


# ------------------------------------------------------------------------------------------------- what is computed


def ponder(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Compute in plain Python, and return the block."""
    state = int(samples[0, 0]) + 1
    for _ in range(_STEPS):
        state = (state * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
    return samples


def correlate(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Correlate the block with itself by way of its spectrum, and return the first lags."""
    spectrum = np.fft.rfft(samples[:, 0], _SPECTRUM_FRAMES)
    return np.fft.irfft(spectrum * spectrum.conj())[: len(samples), None].astype(np.float32)


class Ponder(Module):
    """Computes in plain Python."""

    audio = Input(FORMAT)
    out = Output(FORMAT)

    def process(self, audio: Block) -> npt.NDArray[np.float32]:
        """See `ponder`."""
        return ponder(audio.samples)


class Correlate(Module):
    """Computes with numpy."""

    audio = Input(FORMAT)
    out = Output(FORMAT)

    def process(self, audio: Block) -> npt.NDArray[np.float32]:
        """See `correlate`."""
        return correlate(audio.samples)


# ------------------------------------------------------------------------------------------------- ours


def _measure(work: Workload, module: Callable[[], Module], **options: Any) -> Measured:
    return run_flow(work, modules_between=1, between=module, between_options={"placement": "process"} | options)


def python_one(work: Workload) -> Measured:
    """Plain Python in one process."""
    return _measure(work, Ponder)


def python_two(work: Workload) -> Measured:
    """Plain Python in two replicas."""
    return _measure(work, Ponder, replicas=2)


def python_ordered(work: Workload) -> Measured:
    """Plain Python in two replicas, in order."""
    return _measure(work, Ponder, replicas=2, ordered=True)


def numpy_one(work: Workload) -> Measured:
    """Numpy in one process."""
    return _measure(work, Correlate)


def numpy_two(work: Workload) -> Measured:
    """Numpy in two replicas."""
    return _measure(work, Correlate, replicas=2)


def numpy_ordered(work: Workload) -> Measured:
    """Numpy in two replicas, in order."""
    return _measure(work, Correlate, replicas=2, ordered=True)


# ------------------------------------------------------------------------------------------------- peers


def _pool(work: Workload, function: Callable[[Any], Any]) -> Measured:
    samples, _ = stamped_block()
    marks_ns = []
    with multiprocessing.get_context("fork").Pool(2) as pool:
        arrived = pool.imap(function, itertools.repeat(samples, work.all_blocks))
        for count, _ in enumerate(arrived, 1):
            if count % WINDOW_BLOCKS == 0:
                marks_ns.append(time.monotonic_ns())
    return Measured(per_block_ns(marks_ns, work))


def python_pool(work: Workload) -> Measured:
    """Plain Python in a pool of two processes."""
    return _pool(work, ponder)


def numpy_pool(work: Workload) -> Measured:
    """Numpy in a pool of two processes."""
    return _pool(work, correlate)


def _contestants(
    one: Callable[[Workload], Measured],
    two: Callable[[Workload], Measured],
    ordered: Callable[[Workload], Measured],
    pool: Callable[[Workload], Measured],
) -> list[Contestant]:
    return [
        Contestant(_TWO, two, note="buffer_size=64 before and behind them"),
        Contestant(_ORDERED, ordered, note="ordered=True"),
        Contestant(_ONE, one, note="the same module with placement='process'"),
        Contestant("multiprocessing.Pool(2)", pool, note="imap, in order, its input unbounded; arrays pickled"),
    ]


_PYTHON = _contestants(python_one, python_two, python_ordered, python_pool)
_NUMPY = _contestants(numpy_one, numpy_two, numpy_ordered, numpy_pool)
