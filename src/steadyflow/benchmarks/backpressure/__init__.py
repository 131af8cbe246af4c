"""
Backpressure: what each rule makes of a producer that is twice as fast as its consumer, beside queues with a rule by hand.

Each run is a calm, an overload, a calm again: 375, 1,000, 10,000 and 100,000 blocks/s come in the overload, and a quarter of them in the
calm; the consumer takes half of the overload. Producer and consumer are two threads of one interpreter, ours and theirs.

    load        what comes when, and how long a block keeps the consumer busy
    rules       the rules, a line each
    record      what is noted of a run, and what comes of it
    ours        a flow with one of the rules
    peers       `queue.Queue` and culsans
    gstreamer   its leaky queue
    pictures    the course of a run, as a PNG
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steadyflow.benchmarks.backpressure.gstreamer import lacks, measure_leaky
from steadyflow.benchmarks.backpressure.load import Load
from steadyflow.benchmarks.backpressure.ours import measure_rule
from steadyflow.benchmarks.backpressure.peers import measure_culsans, measure_queue
from steadyflow.benchmarks.backpressure.record import summarise
from steadyflow.benchmarks.backpressure.rules import RULES
from steadyflow.benchmarks.harness import (
    FULL,
    QUICK,
    Contestant,
    Effort,
    Figure,
    Recording,
    Result,
    Row,
    Say,
    Target,
    silent,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RATES", "contestants", "run"]

RATES: Final = (375, 1_000, 10_000, 100_000)
"""Blocks per second in the overload."""

_PLOTTED_RATE: Final = 1_000

_HANDED_OVER: Final = "outside of the queue its thread has a block, and the sink one, or those of a millisecond"

_COLUMNS: Final = {
    "in/s": "offered_per_s",
    "out/s": "taken_per_s",
    "p50": "p50",
    "p99": "p99",
    "lost %": "lost_percent",
    "CPU %": "cpu_percent",
    "KiB": "grown_kib",
    "detect": "detect_ms",
    "relief": "relief_ms",
    "half": "half_ms",
}
_LEGEND: Final = (
    "In and out: blocks per second during the overload, which were offered and taken. p50, p99: how long those that were taken had been "
    "on their way. Lost: the share of what was offered. CPU: of one core, by producer, consumer and whoever looks on. KiB: what the process grew by since the onset. Detect: from the "
    "onset to the event; relief: from the overload's end to the event, 0 if it had come before; half: until less than half of the room was in use. Times in ms."
)


def run(
    quick: bool = False,
    *,
    effort: Effort | None = None,
    say: Say = silent,
    seconds: float | None = None,
    plot: Path | None = None,
) -> Result:
    """
    Measure every rule and every peer at each rate; quick: at 1,000 blocks/s only.

    Args:
        quick: One round at one rate, with a short overload.
        effort: Instead of `quick`.
        say: Called with a line of progress, now and then.
        seconds: How long the overload lasts; None: 3 s, or less with less effort.
        plot: Where a picture of each rule is written, of one run at 1,000 blocks/s; then nothing else is measured.

    Raises:
        MissingExtra: There is no matplotlib for `plot`.
        FileUnwritable: `plot` is no folder, and cannot be made one.
    """
    effort = effort or (QUICK if quick else FULL)
    short = plot is not None or effort.paced_blocks < FULL.paced_blocks
    overload_s = seconds if seconds is not None else max(0.1, 3 * effort.paced_blocks / FULL.paced_blocks)
    if plot is not None:
        from steadyflow.benchmarks.backpressure.pictures import prepare

        prepare(plot)
        overload_s = seconds or 3.0
    recording = Recording("backpressure", effort, say)
    rates = (_PLOTTED_RATE,) if short else RATES
    for blocks_per_s in rates:
        load = Load(blocks_per_s, calm_s=min(1.0, overload_s), overload_s=overload_s)
        recording.compare(
            f"{blocks_per_s:,} blocks/s, a consumer of {blocks_per_s / 2:,g}/s, room for {load.room:,}",
            f"overload of {overload_s:g} s",
            contestants(load, trace=plot is not None),
            load.to_workload(),
            rounds=1 if short else max(1, effort.rounds // 3),
            targets=_targets,
            columns=_COLUMNS,
            notes=[_LEGEND] if blocks_per_s == rates[-1] else [],
            summarise=summarise,
        )
    result = recording.result()
    if plot is not None:
        from steadyflow.benchmarks.backpressure.pictures import draw_all

        draw_all(plot, result.figures[0].rows, say)
    return result


def contestants(load: Load, *, trace: bool = False) -> list[Contestant]:
    """Return who is measured under a load: every rule, and every peer unless the course of each run is kept for a picture."""
    asked = {"load": asdict(load)}
    ours = [
        Contestant(f"steadyflow {name}", measure_rule, note=entry.note, options=asked | {"rule": name, "trace": trace})
        for name, entry in RULES.items()
    ]
    if trace:
        return ours
    return [
        *ours,
        *(
            Contestant(f"queue.Queue, drop {drop}", measure_queue, note=note, options=asked | {"drop": drop})
            for drop, note in (("oldest", "get_nowait, then put_nowait again"), ("newest", "try, except Full"))
        ),
        Contestant(
            "culsans, drop oldest",
            measure_culsans,
            requires="culsans",
            note="its synchronous side; get_nowait, then put_nowait again",
            options=asked | {"drop": "oldest"},
        ),
        *(
            Contestant(
                f"GStreamer, leaky={leaky}", measure_leaky, lacks=lacks, note=note, options=asked | {"drop": drop}
            )
            for leaky, drop, note in (
                ("downstream", "oldest", _HANDED_OVER),
                ("upstream", "newest", _HANDED_OVER),
            )
        ),
    ]


# ------------------------------------------------------------------------------------------------- judging


def _targets(figure: Figure) -> list[Target]:
    rows = [row for row in figure.rows if row.name.startswith("steadyflow") and row.state == "measured"]
    return [
        _all_accounted_for(rows),
        _at_most(rows, "detect_ms", 50, "detected within 50 ms of the onset, by every rule that says so"),
        _at_most(rows, "relief_ms", 500, "relieved within 500 ms of its end, by every rule that says so"),
        _no_false_relief(rows),
    ]


def _all_accounted_for(rows: Sequence[Row]) -> Target:
    text = "sent = delivered + dropped, for every rule"
    missing = {
        row.name: row.facts["sent"] - row.facts["delivered"] - row.facts["dropped"] for row in rows if row.facts["sent"]
    }
    if not missing:
        return Target(text, "not measured", met=None)
    return Target(text, f"{sum(map(abs, missing.values()))} unaccounted for", met=not any(missing.values()))


def _no_false_relief(rows: Sequence[Row]) -> Target:
    told = {row.name: row.facts["false_reliefs"] for row in rows if row.facts.get("false_reliefs")}
    named = ", ".join(f"{name}: {count:g}" for name, count in told.items()) or "none was"
    return Target("no relief is told while a producer that does not wait goes on", named, met=not told)


def _at_most(rows: Sequence[Row], fact: str, limit_ms: float, text: str) -> Target:
    took_ms = {row.name: row.facts[fact] for row in rows if row.facts.get(fact) is not None}
    if not took_ms:
        return Target(text, "no event came", met=None)
    slowest = max(took_ms, key=lambda name: took_ms[name])
    return Target(text, f"at most {took_ms[slowest]:.3g} ms ({slowest})", met=took_ms[slowest] <= limit_ms)
