"""Stats: what stamps and statistics add to a block, ns: a native hop with them less the same hop without."""

from __future__ import annotations

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
)

__all__ = ["run"]

_REPEATS = 50


def run(quick: bool = False, *, effort: Effort | None = None, say: Say = silent) -> Result:
    """Measure the cost of stamps and statistics."""
    effort = effort or (QUICK if quick else FULL)
    recording = Recording("stats", effort, say)
    recording.compare("stats and stamps", "added per block", _CONTESTANTS, effort.unpaced(times=5), targets=_targets)
    return recording.result()


def _targets(figure: Figure) -> list[Target]:
    return [target_at_most(figure, "p50", 100, "stats and stamps cost at most 100 ns per block")]


def native_stamps(work: Workload) -> Measured:
    """Let the native module time itself, in portions."""
    from steadyflow import _native

    _native.measure_stamps(work.warm_up_blocks)
    portion = max(1, work.blocks // _REPEATS)
    return Measured([_native.measure_stamps(portion) for _ in range(_REPEATS)])


_CONTESTANTS = [Contestant("steadyflow", native_stamps, note="measured natively; no peer keeps such statistics")]
