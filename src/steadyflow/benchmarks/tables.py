"""Results as tables for a terminal (needs rich)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from steadyflow.errors import MissingExtra

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from steadyflow.benchmarks.harness import Figure, Result, Row, Statistic, Target

__all__ = ["machine_line", "print_result", "render_result", "target_line"]

_HEADINGS: Final[dict[Statistic, str]] = {"mean": "mean", "p50": "p50", "p99": "p99", "p999": "p99.9", "max": "max"}


def print_result(result: Result, console: Console | None = None) -> None:
    """Print the tables of a case, its targets, and the machine.

    Raises:
        MissingExtra: rich is not installed.
    """
    try:
        from rich.console import Console
    except ImportError:
        raise MissingExtra("cli", "tables in the terminal") from None

    (console or Console()).print(render_result(result))


def render_result(result: Result) -> RenderableType:
    """Return everything there is to say about a case."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"{result.case} ({result.duration_s:.0f} s)", style="bold")]
    for figure in result.figures:
        parts.append(_table_of_columns(figure) if figure.columns else _table(figure))
        paced = figure.work.interval_ns > 0
        parts.extend(remark for row in figure.rows if (remark := _remark(row, paced=paced)))
        parts.extend(target_line(target) for target in figure.targets)
        parts.extend(Text(note, style="dim") for note in figure.notes)
        parts.append(Text(""))
    parts.append(Text(machine_line(result.machine), style="dim"))
    return Group(*parts)


def machine_line(machine: dict[str, object]) -> str:
    """Return the machine and the software in one line."""
    packages = machine["packages"]
    assert isinstance(packages, dict)
    installed = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    return (
        f"{machine['cpu']}, {machine['usable_cores']} cores, {machine['kernel']} {machine['architecture']}, "
        f"{machine['python']}, switch interval {machine['switch_interval_ms']:g} ms, {installed}, "
        f"load before {machine['load_average_1min']}"
    )


def _table(figure: Figure) -> RenderableType:
    from rich import box
    from rich.table import Table

    # Of an unpaced flow the mean is the throughput; of a paced one the tail is what matters.
    compared: tuple[Statistic, Statistic] = ("p50", "p999") if figure.work.interval_ns else ("mean", "p50")
    pace = f", one block each {figure.work.interval_ns / 1e6:g} ms" if figure.work.interval_ns else ""
    unit, unit_ns = _unit(figure)
    table = Table(
        title=f"{figure.title}: {figure.quantity} in {unit}{pace}",
        caption=f"{figure.rounds} x {figure.work.blocks} {figure.counted}, each time after {figure.work.warm_up_blocks} "
        "to warm up; × is theirs / ours: above 1, ours is faster",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", min_width=max(len(row.name) for row in figure.rows))
    for heading in [*_HEADINGS.values(), *(f"× {_HEADINGS[name]}" for name in compared)]:
        table.add_column(heading, justify="right", no_wrap=True)
    for index, row in enumerate(figure.rows):
        if row.state != "measured":
            table.add_row(row.name, row.state)
            continue
        values = [_three_digits(row.values_ns[name] / unit_ns) for name in _HEADINGS]
        ratios = [f"{row.ratios[name]:.2f}" if index and name in row.ratios else "" for name in compared]
        table.add_row(row.name, *values, *ratios, style=None if index else "bold")
    return table


def _table_of_columns(figure: Figure) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"{figure.title}: {figure.quantity}",
        caption=f"{figure.rounds} x {figure.work.blocks} {figure.counted}, each time after {figure.work.warm_up_blocks}; medians of "
        "the rounds, percentiles of all",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", min_width=max(len(word) for row in figure.rows for word in row.name.split()))
    for heading in figure.columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for index, row in enumerate(figure.rows):
        if row.state != "measured":
            table.add_row(row.name, row.state)
            continue
        cells = [_cell(row, name) for name in figure.columns.values()]
        table.add_row(row.name, *cells, style=None if index else "bold")
    return table


def _cell(row: Row, name: str) -> str:
    """Return a statistic in ms, or a fact; a dash where a contestant has nothing of the kind, `none` where there was nothing."""
    if name in _HEADINGS:
        return _three_digits(row.values_ns[name] / 1e6)
    if name not in row.facts:
        return "-"
    value = row.facts[name]
    if value is None:
        return "none"
    return _three_digits(value) if value else "0"


def _unit(figure: Figure) -> tuple[str, float]:
    """Return one unit for the whole table, so that its columns can be compared by eye."""
    slowest_ns = max((row.values_ns["p50"] for row in figure.rows if row.state == "measured"), default=0)
    return ("ms", 1e6) if slowest_ns >= 1e6 else ("µs", 1e3)


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _remark(row: Row, *, paced: bool) -> RenderableType | None:
    """Return what a reader must know about a row, or why it is empty; under the table, where there is room."""
    from rich.text import Text

    said = [row.note if row.state == "measured" else row.reason]
    if row.facts.get("scheduling", "default") != "default":
        said.append(row.facts["scheduling"])
    if "quality" in row.facts:
        said.append(row.facts["quality"])
    if paced and "own_latency_p50_ms" in row.facts:
        own_us = [row.facts[f"own_latency_{name}_ms"] * 1e3 for name in ("p50", "p999")]
        said.append(f"by its own statistics p50 {_three_digits(own_us[0])} µs, p99.9 {_three_digits(own_us[1])} µs")
    said = [part for part in said if part]
    return Text(f"  {row.name}: {'; '.join(said)}", style="dim") if said else None


def target_line(target: Target) -> RenderableType:
    """Return a target with what was measured, and whether that is enough."""
    from rich.text import Text

    verdict, style = {True: ("reached", "green"), False: ("missed", "red"), None: ("open", "yellow")}[target.met]
    return Text.assemble((f"{verdict:>8}", style), f"  {target.text}: {target.measured}")
