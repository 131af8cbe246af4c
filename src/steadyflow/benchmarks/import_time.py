"""Import: what `import steadyflow` costs beside `import numpy`, which it includes; each in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

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

__all__ = ["run"]

_IMPORTS = Workload(blocks=3, warm_up_blocks=1)
"""Interpreters started by one measurement; the first one only warms the file cache."""


def run(quick: bool = False, *, effort: Effort | None = None, say: Say = silent) -> Result:
    """Measure the time of the import statement."""
    effort = effort or (QUICK if quick else FULL)
    recording = Recording("import_time", effort, say)
    recording.compare(
        "import",
        "import statement",
        _CONTESTANTS,
        _IMPORTS,
        counted="imports",
        rounds=3 * effort.rounds,
        targets=_targets,
    )
    return recording.result()


def _targets(figure: Figure) -> list[Target]:
    text = "import steadyflow takes at most 1.5 times as long as import numpy: theirs / ours from 0.67"
    return [target_ratio(figure, "numpy", "p50", 1 / 1.5, text)]


def import_steadyflow(work: Workload) -> Measured:
    """Import ours."""
    return _time_import("steadyflow", work)


def import_numpy(work: Workload) -> Measured:
    """Import numpy."""
    return _time_import("numpy", work)


def _time_import(package: str, work: Workload) -> Measured:
    code = f"import time; start = time.perf_counter_ns(); import {package}; print(time.perf_counter_ns() - start)"
    samples_ns = [
        float(subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(work.all_blocks)
    ]
    return Measured(samples_ns[work.warm_up_blocks :])


_CONTESTANTS = [
    Contestant("steadyflow", import_steadyflow, note="numpy included"),
    Contestant("numpy", import_numpy),
]
