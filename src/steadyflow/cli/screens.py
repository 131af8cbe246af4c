"""What the demo shows while it runs: a live table on a terminal, else a line now and then on standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from steadyflow.clock import SystemClock

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from steadyflow import DataFlowCoordinator, FlowMetrics, FlowReport
    from steadyflow.audio import Level, Pitch

_REFRESHES_PER_SECOND: Final = 10
_LINE_INTERVAL_NS: Final = 1_000_000_000
_QUIETEST_DB: Final = 60.0


class Screen(Protocol):
    """Shows what it is told; never waits for long."""

    def watching(self, flow: DataFlowCoordinator, title: str) -> contextlib.AbstractContextManager[None]:
        """Show the flow while inside."""
        ...

    def show_pitch(self, pitch: Pitch) -> None:
        """Take the newest pitch."""
        ...

    def show_level(self, level: Level, began_ns: int) -> None:
        """Take the newest level; the music began at `began_ns`."""
        ...


def make_screen(*, live: bool) -> Screen:
    """
    Return the screen for this place.

    Args:
        live: Draw on the terminal; else lines go to standard error.
    """
    return LiveScreen() if live else LineScreen()


class LineScreen:
    """One line a second on standard error: where it is, and what it hears."""

    def __init__(self) -> None:
        self._pitch: Pitch | None = None
        self._next_line_ns = 0

    @contextlib.contextmanager
    def watching(self, flow: DataFlowCoordinator, title: str) -> Iterator[None]:
        """Say what is played."""
        print(f"Playing: {title}", file=sys.stderr, flush=True)
        yield

    def show_pitch(self, pitch: Pitch) -> None:
        """Keep it for the next line."""
        self._pitch = pitch

    def show_level(self, level: Level, began_ns: int) -> None:
        """Print a line, once a second has passed since the last."""
        now_ns = SystemClock.monotonic_ns()
        if now_ns < self._next_line_ns:
            return
        self._next_line_ns = now_ns + _LINE_INTERVAL_NS
        position_s = (level.timestamp_ns - began_ns) / 1e9
        print(f"{position_s:7.2f} s  {_named(self._pitch):<15} {level.rms_db:6.1f} dB", file=sys.stderr, flush=True)


class LiveScreen:
    """
    A table that is drawn anew ten times a second, by a thread of its own: the flow does not wait for the terminal.

    What that thread reads are single references, replaced as a whole.
    """

    def __init__(self) -> None:
        self._flow: DataFlowCoordinator | None = None
        self._title = ""
        self._pitch: Pitch | None = None
        self._level: Level | None = None
        self._began_ns = 0

    @contextlib.contextmanager
    def watching(self, flow: DataFlowCoordinator, title: str) -> Iterator[None]:
        """Draw until the end, then leave the terminal as it was."""
        from rich.live import Live

        self._flow, self._title = flow, title
        with Live(get_renderable=self.render, refresh_per_second=_REFRESHES_PER_SECOND, transient=True):
            yield

    def show_pitch(self, pitch: Pitch) -> None:
        """Keep it for the next drawing."""
        self._pitch = pitch

    def show_level(self, level: Level, began_ns: int) -> None:
        """Keep it for the next drawing."""
        self._level, self._began_ns = level, began_ns

    def render(self) -> RenderableType:
        """Return what is to be seen now."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        assert self._flow is not None
        level = self._level
        now = Table.grid(padding=(0, 2))
        if level is None:
            now.add_row("", Text("starting", style="dim"))
        else:
            bar = ProgressBar(total=_QUIETEST_DB, completed=max(0.0, _QUIETEST_DB + level.rms_db), width=30)
            position_s = (level.timestamp_ns - self._began_ns) / 1e9
            note = Text(f"{_named(self._pitch):<15}", style="bold")
            now.add_row(f"{position_s:6.1f} s", note, bar, f"{level.rms_db:6.1f} dB")
        return Group(Text(self._title, style="bold"), "", now, "", _pipelines_table(self._flow.report()))


def _named(pitch: Pitch | None) -> str:
    if pitch is None or pitch.note is None:
        return "-"
    return f"{pitch.note} {pitch.cents:+.0f} cents"


def _pipelines_table(report: FlowReport) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("pipeline", overflow="fold")
    for column in ("sent", "delivered", "dropped", "p50 ms", "p99 ms", "health"):
        table.add_column(column, justify="right")
    colours = {"healthy": "green", "degraded": "yellow", "failing": "red", "idle": "dim"}
    for name, metrics in report.pipelines.items():
        health = Text(f"{metrics.health_score:.0f} {metrics.pipeline_health}", style=colours[metrics.pipeline_health])
        table.add_row(name, *_figures(metrics), health)
    return table


def _figures(metrics: FlowMetrics) -> tuple[str, ...]:
    return (
        str(metrics.sent),
        str(metrics.delivered),
        str(metrics.dropped_total),
        f"{metrics.latency_p50_ms:.3f}",
        f"{metrics.latency_p99_ms:.3f}",
    )
