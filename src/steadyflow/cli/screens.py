"""What a command shows while its flow runs: a live table on a terminal, else a line now and then on standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from steadyflow.clock import SystemClock
from steadyflow.report import DEVICE_COLUMNS, device_rows, missed_lines

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from steadyflow import DataFlowCoordinator, FlowMetrics
    from steadyflow.metrics.devices import DeviceReport

_REFRESHES_PER_SECOND: Final = 10
_LINE_INTERVAL_NS: Final = 1_000_000_000


class Gauge(Protocol):
    """What a command has to show beside the pipelines. Read by the thread that draws; must not wait."""

    def line(self) -> str:
        """Return it as one line; empty while there is nothing to say."""
        ...

    def render(self) -> RenderableType:
        """Return it for a terminal."""
        ...


class Screen(Protocol):
    """Shows a flow and a gauge."""

    def watching(self, flow: DataFlowCoordinator, title: str) -> contextlib.AbstractContextManager[None]:
        """Show the flow while inside."""
        ...

    def refresh(self) -> None:
        """Show what is new, if it is time for it; never waits for long. Called as often as one likes."""
        ...


def make_screen(gauge: Gauge, *, live: bool, quiet: bool = False) -> Screen:
    """
    Return the screen for this place.

    Args:
        gauge: What is shown beside the pipelines.
        live: Draw on the terminal; else lines go to standard error.
        quiet: Neither of them.
    """
    if quiet:
        return QuietScreen()
    return LiveScreen(gauge) if live else LineScreen(gauge)


class QuietScreen:
    """Shows nothing."""

    @contextlib.contextmanager
    def watching(self, flow: DataFlowCoordinator, title: str) -> Iterator[None]:
        """Show nothing."""
        yield

    def refresh(self) -> None:
        """Show nothing."""


class LineScreen:
    """The title, and then the line of the gauge once a second, on standard error."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._next_line_ns = 0

    @contextlib.contextmanager
    def watching(self, flow: DataFlowCoordinator, title: str) -> Iterator[None]:
        """Say what begins."""
        print(title, file=sys.stderr, flush=True)
        yield

    def refresh(self) -> None:
        """Print a line, once a second has passed since the last."""
        now_ns = SystemClock.monotonic_ns()
        if now_ns < self._next_line_ns:
            return
        line = self._gauge.line()
        if line:
            self._next_line_ns = now_ns + _LINE_INTERVAL_NS
            print(line, file=sys.stderr, flush=True)


class LiveScreen:
    """
    A table that is drawn anew ten times a second, by a thread of its own: the flow does not wait for the terminal.

    What that thread reads of the gauge are single references, replaced as a whole.
    """

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._flow: DataFlowCoordinator | None = None
        self._title = ""

    @contextlib.contextmanager
    def watching(self, flow: DataFlowCoordinator, title: str) -> Iterator[None]:
        """Draw until the end, then leave the terminal as it was."""
        from rich.live import Live

        self._flow, self._title = flow, title
        with Live(get_renderable=self.render, refresh_per_second=_REFRESHES_PER_SECOND, transient=True):
            yield

    def refresh(self) -> None:
        """Leave it to the thread that draws."""

    def render(self) -> RenderableType:
        """Return what is to be seen now."""
        from rich.console import Group
        from rich.text import Text

        assert self._flow is not None
        report = self._flow.report()
        tables = [pipelines_table(report.pipelines), *([devices_table(report.devices)] if report.devices else [])]
        return Group(Text(self._title, style="bold"), "", self._gauge.render(), "", *tables)


def pipelines_table(pipelines: Mapping[str, FlowMetrics]) -> Table:
    """Return the metrics of pipelines, by their ids, as a table for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("pipeline", overflow="fold")
    for column in ("sent", "delivered", "dropped", "p50 ms", "p99 ms", "load", "health"):
        table.add_column(column, justify="right")
    colours = {"healthy": "green", "degraded": "yellow", "failing": "red", "idle": "dim"}
    for name, metrics in pipelines.items():
        health = Text(f"{metrics.health_score:.0f} {metrics.pipeline_health}", style=colours[metrics.pipeline_health])
        table.add_row(name, *_figures(metrics), health)
    missed = [line for name, metrics in pipelines.items() for line in missed_lines(name, metrics)]
    if missed:
        table.caption, table.caption_justify = "\n".join(missed), "left"
    return table


def _figures(metrics: FlowMetrics) -> tuple[str, ...]:
    return (
        str(metrics.sent),
        str(metrics.delivered),
        str(metrics.dropped_total),
        f"{metrics.latency_p50_ms:.3f}",
        f"{metrics.latency_p99_ms:.3f}",
        f"{metrics.load_p99:.0%}" if metrics.period_ms else "-",
    )


def devices_table(devices: Mapping[str, DeviceReport]) -> Table:
    """Return what happened at devices, by module, as a table for a terminal."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    first, *others = DEVICE_COLUMNS
    table.add_column(first, overflow="fold")
    for column in others:
        table.add_column(column, justify="right")
    for row in device_rows(devices):
        table.add_row(*row)
    return table
