"""Results as tables: for a terminal (needs rich), and for a page."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from steadyflow.benchmarks.device.cells import Row
from steadyflow.benchmarks.harness import Target
from steadyflow.benchmarks.tables import machine_line, target_line
from steadyflow.errors import MissingExtra

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from steadyflow.benchmarks.device import DeviceResult

__all__ = ["print_device_result", "targets", "to_markdown"]

LOAD_NAMES: Final = {
    "quiet": "quiet",
    "thread": "beside a computing Python thread in the same process",
    "cores": "beside two computing processes per core",
}

_COLUMNS: Final = (
    *("blocks", "lost", "late", "xruns", "alone", "load", "max load"),
    *("p50", "p99", "p99.9", "max", "p99.9 / period", "jitter"),
)

_LEGEND: Final = (
    "lost: by the numbers in the audio; late: more than one period, duplex two, or silent; xruns: the server's, and with nobody but "
    "the probe; load: of the cycle, mean and worst; times in ms, from when the last frame of a block was played to when Python has "
    "it (capture) or has analysed it, or to when it came back (duplex); jitter: from block to block, in the mean"
)


def print_device_result(result: DeviceResult, console: Console | None = None) -> None:
    """
    Print the tables of what was measured, the targets, and the machine.

    Raises:
        MissingExtra: rich is not installed.
    """
    try:
        from rich.console import Console, Group
        from rich.text import Text
    except ImportError:
        raise MissingExtra("cli", "tables in the terminal") from None

    parts: list[RenderableType] = [Text(f"device ({result.duration_s:.0f} s)", style="bold")]
    for title, rows in _groups(result):
        parts.append(_table(title, rows))
        parts.extend(Text(f"  {row.cell.contestant}: {row.reason}", style="dim") for row in rows if row.reason)
    parts.append(Text(_LEGEND, style="dim"))
    parts.extend(target_line(target) for target in targets(result))
    parts.append(Text(machine_line(result.machine), style="dim"))
    (console or Console()).print(Group(*parts))


def _groups(result: DeviceResult) -> list[tuple[str, list[Row]]]:
    def title(row: Row) -> str:
        return f"{row.cell.frames} frames ({row.period_ms:.2f} ms), {LOAD_NAMES[row.cell.load]}"

    return [(name, list(rows)) for name, rows in groupby(result.rows, title)]


def _table(title: str, rows: list[Row]) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in _COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        style = "bold" if row.cell.contestant.startswith("steadyflow") else None
        table.add_row(_name(row), *_values(row), style=style)
    return table


def _name(row: Row) -> str:
    return row.cell.contestant if row.cell.kind == "server" else f"{row.cell.kind}: {row.cell.contestant}"


def _values(row: Row) -> list[str]:
    if row.state != "measured":
        return [row.state]
    times_ms = (row.latency_p50_ms, row.latency_p99_ms, row.latency_p999_ms, row.latency_max_ms)
    return [
        str(row.blocks),
        f"{row.lost_blocks:g}",
        str(row.late_blocks),
        str(row.xruns),
        "" if row.xruns_alone is None else str(row.xruns_alone),
        f"{row.mean_load:.1%}",
        f"{row.worst_load:.1%}",
        *(f"{value:.2f}" for value in times_ms),
        f"{row.latency_p999_ms / row.period_ms:.2f}",
        f"{row.jitter_ms:.3f}",
    ]


def to_markdown(result: DeviceResult) -> str:
    """Return the tables as docs/performance.md has them."""
    lines = []
    for title, rows in _groups(result):
        lines += [
            f"{title[0].upper()}{title[1:]}:",
            "",
            f"| | {' | '.join(_COLUMNS)} |",
            f"|---{'|--:' * len(_COLUMNS)}|",
        ]
        lines += [f"| {' | '.join([_name(row), *_values(row)])} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------ targets


def targets(result: DeviceResult) -> list[Target]:
    """Judge what was measured of the figures that were set; what was not measured stays open."""
    return [
        _nothing_lost(result),
        *(_duplex_adds_little(result, load) for load in LOAD_NAMES),
        *(_flow_is_better(result, peer) for peer in ("in the callback", "behind a queue")),
    ]


def _row(result: DeviceResult, kind: str, contestant: str, load: str) -> Row | None:
    """Return the row of 128 frames."""
    for row in result.rows:
        cell = row.cell
        if (cell.kind, cell.contestant, cell.load, cell.frames) == (kind, contestant, load, 128):
            return row if row.state == "measured" else None
    return None


def _nothing_lost(result: DeviceResult) -> Target:
    text = "capture, 128 frames, a computing thread: nothing lost, and no xrun that the server has not by itself"
    row = _row(result, "capture", "steadyflow, process", "thread")
    if row is None or row.xruns_alone is None:
        return Target(text, "not measured", met=None)
    measured = f"{row.lost_blocks:g} lost, {row.xruns} xruns, {row.xruns_alone} alone"
    return Target(text, measured, met=not row.lost_blocks and row.xruns <= row.xruns_alone)


def _duplex_adds_little(result: DeviceResult, load: str) -> Target:
    text = f"duplex through a process, 128 frames, {load}: at most 2 periods at p99.9"
    row = _row(result, "duplex", "steadyflow", load)
    if row is None:
        return Target(text, "not measured", met=None)
    periods = row.latency_p999_ms / row.period_ms
    return Target(text, f"{periods:.2f} periods", met=periods <= 2)


def _flow_is_better(result: DeviceResult, peer: str) -> Target:
    text = f"the same analysis as a flow and {peer}, 128 frames, a computing thread: no more lost, and less jitter"
    ours, theirs = (_row(result, "analysis", name, "thread") for name in ("steadyflow", peer))
    if ours is None or theirs is None:
        return Target(text, "not measured", met=None)
    measured = f"{ours.lost_blocks:g} and {theirs.lost_blocks:g} lost, jitter {ours.jitter_ms:.3f} and {theirs.jitter_ms:.3f} ms"
    return Target(text, measured, met=ours.lost_blocks <= theirs.lost_blocks and ours.jitter_ms < theirs.jitter_ms)
