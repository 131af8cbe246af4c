"""
Measure capture beside a computing thread in turn with the sound server alone: whose are the cycles that the server misses?

    python tools/paired_device_runs.py [PAIRS] [SECONDS]

Both take turns, with the order changed each time, so that what the machine does by itself falls on both alike. Prints each run
and the sums. Needs jackd2, as `steadyflow bench device` does, and a machine that does nothing else.
"""

from __future__ import annotations

import sys

from steadyflow.benchmarks.device.cells import measure, plan

pairs, seconds = (int(given or default) for given, default in zip([*sys.argv[1:], "", ""], (8, 30), strict=False))
alone, capture = (
    cell
    for cell in plan([128], ["thread"])
    if cell.contestant in ("JACK alone", "steadyflow, process") and cell.kind in ("server", "capture")
)
cells = [cell for number in range(pairs) for cell in ((alone, capture), (capture, alone))[number % 2]]
sums = {cell: [0, 0.0, 0] for cell in (alone, capture)}
for row in measure(cells, seconds, lambda line: None):
    print(
        f"{row.cell}: {row.blocks} blocks, {row.lost_blocks:g} lost, {row.late_blocks} late, {row.xruns} xruns",
        flush=True,
    )
    for index, count in enumerate((row.blocks, row.lost_blocks, row.xruns)):
        sums[row.cell][index] += count
for cell, (blocks, lost, xruns) in sums.items():
    print(f"{cell}, {pairs} times {seconds} s: {lost:g} of {blocks} blocks lost, {xruns} xruns")
