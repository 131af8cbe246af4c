"""
Adaptive: a live source twice as fast as its consumer, which takes 1 ms a block, for a minute, within a budget of 50 ms.

Source and consumer are processes. Beside `Adaptive` the rule that most people take, with room for as many blocks.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from steadyflow import Adaptive, AudioFormat, DataFlowCoordinator, DropOldest, Input, Module, Output, Rule, Source
from steadyflow.benchmarks.harness import (
    FULL,
    QUICK,
    Contestant,
    Effort,
    Figure,
    Measured,
    Recording,
    Result,
    Row,
    Say,
    Target,
    Workload,
    silent,
)
from steadyflow.events import StrategyChanged

__all__ = ["run"]

_FORMAT: Final = AudioFormat(48_000, 1, max_block_frames=128)
_BLOCK_NS: Final = 1_000_000  # that the consumer takes
_BUDGET_MS: Final = 50.0
_ROOM: Final = 256
_LONG_S: Final = 60.0
_SETTLED_S: Final = 1.0  # from when on memory has to stay as it is

_COLUMNS: Final = {
    "p50": "p50_ms",
    "p99": "p99_ms",
    "max": "max_ms",
    "out/s": "taken_per_s",
    "% of 1,000": "nominal_percent",
    "busy %": "busy_percent",
    "lost %": "lost_percent",
    "KiB": "grown_kib",
    "steps": "steps",
}
_LEGEND: Final = (
    "p50, p99, max: latency in ms. % of 1,000: what was taken of what a consumer could take that has a core to itself; busy: for what share of "
    "the time it was at work, which is all that there is where other programs take the core from it. KiB: what all processes grew by after the "
    "first second. Steps: changes of strategy, each told with its reason."
)


class _Live(Source):
    """Two blocks each millisecond, whatever becomes of them."""

    out = Output(_FORMAT)
    live = True

    def produce(self) -> Any:
        block = np.zeros((128, 1), np.float32)
        due_ns = time.monotonic_ns()
        while True:
            self.out.send(block)
            due_ns += _BLOCK_NS // 2
            yield due_ns


class _Model(Module):
    """At work for 1 ms a block, by the clock."""

    audio = Input(_FORMAT)

    def process(self, audio: object) -> None:
        until_ns = time.perf_counter_ns() + _BLOCK_NS
        while time.perf_counter_ns() < until_ns:
            pass


_RULES: Final[Mapping[str, Rule]] = {"Adaptive": Adaptive(), "DropOldest": DropOldest()}


def run(quick: bool = False, *, effort: Effort | None = None, say: Say = silent) -> Result:
    """Measure both rules for a minute each, three times; quick: once for some seconds."""
    effort = effort or (QUICK if quick else FULL)
    is_long = effort.paced_blocks >= FULL.paced_blocks
    seconds = _LONG_S if is_long else max(1.5, effort.paced_blocks / 200)
    recording = Recording("adaptive", effort, say)
    recording.compare(
        f"a live source of 2,000 blocks/s, a consumer of 1 ms a block, a budget of {_BUDGET_MS:g} ms",
        f"{seconds:g} s of overload",
        [Contestant(f"steadyflow {name}", _measure, options={"rule": name, "seconds": seconds}) for name in _RULES],
        Workload(round(seconds * 2000), 0, _BLOCK_NS // 2),
        rounds=3 if is_long else 1,
        targets=_targets,
        columns=_COLUMNS,
        notes=[_LEGEND],
        summarise=_median,
    )
    return recording.result()


def _measure(work: Workload, *, rule: str, seconds: float) -> Measured:
    with DataFlowCoordinator("adaptive") as flow:
        live = flow.add(_Live(), name="live", placement="process")
        model = flow.add(_Model(), name="model", placement="process")
        pipe = flow.connect(
            live.out, model.audio, buffer_size=_ROOM, max_latency_ms=_BUDGET_MS, backpressure_strategy=_RULES[rule]
        )
        flow.start()
        began_ns = time.monotonic_ns()
        time.sleep(min(_SETTLED_S, seconds / 2))
        settled_bytes = _used_bytes(flow)
        time.sleep(max(seconds - (time.monotonic_ns() - began_ns) / 1e9, 0))
        grown_bytes = _used_bytes(flow) - settled_bytes
        metrics = pipe.statistics()
        elapsed_s = (time.monotonic_ns() - began_ns) / 1e9
        report = flow.stop(drain_timeout_s=0.0)
    final = report.pipelines[pipe.id]
    facts = {
        "p50_ms": metrics.latency_p50_ms,
        "p99_ms": metrics.latency_p99_ms,
        "max_ms": metrics.latency_max_ms,
        "taken_per_s": metrics.delivered / elapsed_s,
        "nominal_percent": 100 * metrics.delivered / elapsed_s * _BLOCK_NS / 1e9,
        "busy_percent": min(100 * report.modules["model"].busy_ms / (elapsed_s * 1000), 100.0),
        "lost_percent": 100 * metrics.dropped_total / max(metrics.sent, 1),
        "grown_kib": grown_bytes / 1024,
        "steps": sum(isinstance(event, StrategyChanged) for event in report.events),
        "unaccounted": final.sent - final.delivered - final.dropped_total - final.in_flight,
    }
    return Measured([metrics.latency_p99_ms * 1e6], facts)


def _used_bytes(flow: DataFlowCoordinator) -> int:
    pids = [os.getpid(), *(worker.pid for worker in flow.workers.values() if worker.pid)]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in set(pids))
    return pages * os.sysconf("SC_PAGESIZE")


def _median(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def _targets(figure: Figure) -> list[Target]:
    rows = [row for row in figure.rows if row.state == "measured"]
    if not rows:
        return [Target("p99 within the budget", "not measured", met=None)]
    return [*_targets_of(rows[0]), _accounted(rows)]


def _targets_of(row: Row) -> list[Target]:
    facts = row.facts
    return [
        Target(
            f"p99 within the budget of {_BUDGET_MS:g} ms",
            f"{facts['p99_ms']:.1f} ms",
            met=facts["p99_ms"] <= _BUDGET_MS,
        ),
        Target(
            "at least 90 % of what the consumer can take",
            f"{facts['nominal_percent']:.1f} % of 1,000/s; at work for {facts['busy_percent']:.1f} % of the time",
            met=max(facts["nominal_percent"], facts["busy_percent"]) >= 90,
        ),
        Target("memory flat", f"{facts['grown_kib']:.0f} KiB in all", met=facts["grown_kib"] < 1024),
    ]


def _accounted(rows: Sequence[Row]) -> Target:
    missing = sum(abs(row.facts["unaccounted"]) for row in rows)
    return Target("sent = delivered + dropped + in flight", f"{missing:.0f} unaccounted for", met=not missing)
