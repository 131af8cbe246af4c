"""``steadyflow run FLOW.toml``: the flow of a file, until its streams have ended."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steadyflow import FlowFailed
from steadyflow.cli.outcome import Outcome
from steadyflow.cli.screens import Screen, make_screen
from steadyflow.clock import SystemClock
from steadyflow.events import BackpressureDetected, BackpressureRelieved, FlowEvent
from steadyflow.events.sentences import TOLD, is_of_credits, sentence
from steadyflow.flow_files.loading import load
from steadyflow.flow_files.settings import Setting
from steadyflow.report import spill_dropped

if TYPE_CHECKING:
    from rich.console import RenderableType

    from steadyflow.flow_files.flow import FileFlow

_LOOK_UP_S: Final = 0.25
_FOREVER_S: Final = 1e9


def run(file: Path, settings: Sequence[str], *, duration_s: float | None, as_json: bool, quiet: bool) -> int:
    """
    Run the flow of a file; blocks until all streams have ended, or the time is over.

    Args:
        file: The flow file.
        settings: ``KEY=VALUE``: values instead of those in the file.
        duration_s: Stop after this time; None: as the file says.
        as_json: One JSON document instead of a table.
        quiet: Show nothing while it runs.

    Returns:
        The exit code: 0; 1 if the flow failed; 130 after Ctrl-C. The report is printed in any case.

    Raises:
        FlowError: The file cannot be read, describes something impossible, or its flow could not start.
    """
    replaced = [Setting.parse(text, option="--set") for text in settings]
    if duration_s is not None:
        replaced.append(Setting("flow.duration_s", duration_s, "--duration-s"))
    outcome = Outcome()
    with load(file, replaced) as flow:
        live = not as_json and sys.stdout.isatty()
        screen = make_screen(Progress(flow), live=live, quiet=quiet)
        if not live and not quiet:
            for kind in TOLD:
                flow.events.subscribe(kind, partial(_tell, flow))
        _watch(flow, screen, outcome)
    if outcome.report is not None:
        if as_json:
            value = {"file": str(file), "interrupted": outcome.interrupted, "problems": outcome.problems}
            print(json.dumps({**value, "report": outcome.report.to_dict()}, indent=2))
        else:
            print(outcome.report)
    return outcome.conclude()


class Progress:
    """How far a flow is. A `Gauge`."""

    def __init__(self, flow: FileFlow) -> None:
        self._flow = flow

    def line(self) -> str:
        """Return the time, the blocks so far, and the pipeline that is worst off."""
        report = self._flow.report()
        pipelines = report.pipelines.values()
        delivered = sum(each.delivered for each in pipelines)
        dropped = sum(each.dropped_total + spill_dropped(each) for each in pipelines)
        line = f"{report.duration_s:7.2f} s  {delivered} delivered, {dropped} dropped"
        if not report.pipelines:
            return line
        name, worst = min(report.pipelines.items(), key=lambda item: item[1].health_score)
        return f"{line}, health {worst.health_score:.0f} ({name})"

    def render(self) -> RenderableType:
        """Return the time."""
        return f"{self._flow.report().duration_s:6.1f} s"


def _tell(flow: FileFlow, event: FlowEvent) -> None:
    """Say what flow control does, while it does it; not that a source which can wait has to, or is paced."""
    if is_of_credits(event):
        return
    if isinstance(event, (BackpressureDetected, BackpressureRelieved)):
        link = flow.pipelines.get(event.pipeline)
        if link is not None and link.rule is not None and not link.live and link.rule.to_native(False).waits_for_ever:
            return
    print(f"           {sentence(event)}", file=sys.stderr, flush=True)


def _watch(flow: FileFlow, screen: Screen, outcome: Outcome) -> None:
    """Run the flow to its end. A failure, and Ctrl-C, end it early and are noted down."""
    title = f"Running: {flow.name}" + (f" - {flow.description}" if flow.description else "")
    started = False
    try:
        with screen.watching(flow, title):
            flow.start()
            started = True
            ends_ns = SystemClock.monotonic_ns() + round((flow.duration_s or _FOREVER_S) * 1e9)
            while (left_s := (ends_ns - SystemClock.monotonic_ns()) / 1e9) > 0:
                if flow.wait(min(_LOOK_UP_S, left_s)):
                    break
                screen.refresh()
            flow.stop()
    except KeyboardInterrupt:
        outcome.interrupted = True
        if not started:
            return
        outcome.stop(flow)
    except FlowFailed as failure:
        outcome.failure = failure
    outcome.report = flow.report()
