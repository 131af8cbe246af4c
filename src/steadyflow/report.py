"""What a run did: one table for people, one record for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from steadyflow.conversion import StepReport
from steadyflow.events import FlowEvent
from steadyflow.events.sentences import story
from steadyflow.metrics.devices import DeviceReport
from steadyflow.metrics.flow_metrics import FlowMetrics

if TYPE_CHECKING:
    from rich.console import Group


class AlignedInputReport(msgspec.Struct, frozen=True, kw_only=True):
    """
    What became of one input of an `Aligned`.

    Args:
        delivered_frames: Frames that were processed.
        silent_frames: Frames in place of which silence was processed, because they were lost or late.
        late_frames: Frames that came when their place had been passed, or was taken; dropped.
        held_frames: Frames that wait for another input at this moment. If they grow to ``max_hold_frames`` while another
            input has none, that one is missing.
        offset_frames: By time: what was added to the numbers of its frames, so that equal numbers are equal times.
        drift_frames: By time: how far the stamp of its latest block is from where the frame count had put it; the
            jitter of the stamps, and what the clocks have drifted apart.
    """

    delivered_frames: int
    silent_frames: int
    late_frames: int
    held_frames: int
    offset_frames: int
    drift_frames: int


class ModuleReport(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one module did.

    Args:
        worker: The worker that ran it; ``pitch-1..4`` for four replicas, whose figures are added up.
        calls: How many blocks it processed.
        busy_ms: Time of its own work, without the modules it called.
        state: ``"ended"``, ``"failed"``, ``"running"``, or ``"stopped"`` before its inputs had ended.
        aligned: What became of its aligned inputs, by name; empty if it has none.
    """

    worker: str
    calls: int
    busy_ms: float
    state: str
    aligned: Mapping[str, AlignedInputReport] = {}


class FlowReport(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a flow did from its start to the report. ``print(report)`` shows a table.

    Args:
        name: The name of the flow.
        duration_s: From the start of the sources to the end of the last worker, or to now.
        pipelines: The metrics of each pipeline, by id.
        modules: What each module did, by name.
        conversions: What each step did of what stands before a target, by pipeline: checks, conversions, windows. Of a module
            in a process, when that has ended.
        devices: What happened at the devices, by module.
        clock_drifts_ppm: How much faster a device that captures is than another one that plays what comes of it, in millionths, by
            ``"mic->speaker"``. Above 0 audio piles up between them, below 0 it runs dry. Known after a second.
        events: What happened, in order.
    """

    name: str
    duration_s: float
    pipelines: Mapping[str, FlowMetrics]
    modules: Mapping[str, ModuleReport]
    conversions: Mapping[str, tuple[StepReport, ...]] = {}
    devices: Mapping[str, DeviceReport] = {}
    clock_drifts_ppm: Mapping[str, float] = {}
    events: tuple[FlowEvent, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as builtin types, for JSON. Events carry their kind as ``event``."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        for event, record in zip(self.events, plain["events"], strict=True):
            record["event"] = type(event).__name__
        return plain

    def __str__(self) -> str:
        head = f"flow {self.name!r}: {self.duration_s:.3f} s"
        pipelines = _aligned([_PIPELINE_COLUMNS, *self._pipeline_rows()])
        modules = _aligned([_MODULE_COLUMNS, *self._module_rows()])
        devices = ["", *_aligned([DEVICE_COLUMNS, *device_rows(self.devices)])] if self.devices else []
        steps = list(self._step_rows())
        conversions = ["", *_aligned([_STEP_COLUMNS, *steps])] if steps else []
        remarks = self._remarks()
        return "\n".join(
            [head, "", *pipelines, "", *modules, *conversions, *devices, *(["", *remarks] if remarks else [])]
        )

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table

        def table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
            made = Table(title=title, title_justify="left")
            for index, column in enumerate(columns):
                made.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
            for row in rows:
                made.add_row(*row)
            return made

        tables = [table(f"flow {self.name!r}: {self.duration_s:.3f} s", _PIPELINE_COLUMNS, self._pipeline_rows())]
        if remarks := self._remarks():
            tables[0].caption, tables[0].caption_justify = "\n".join(remarks), "left"
        if steps := list(self._step_rows()):
            tables.append(table("conversions", _STEP_COLUMNS, steps))
        if self.devices:
            tables.append(table("devices", DEVICE_COLUMNS, device_rows(self.devices)))
        return Group(*tables)

    def _remarks(self) -> list[str]:
        missed = [line for name, metrics in self.pipelines.items() for line in missed_lines(name, metrics)]
        spools = [line for name, metrics in self.pipelines.items() for line in _spool_lines(name, metrics)]
        drifts = [
            f"{pair}: the clocks of the devices drift by {ppm:+.1f} ppm" for pair, ppm in self.clock_drifts_ppm.items()
        ]
        harmed = [
            name
            for name, metrics in self.pipelines.items()
            if metrics.dropped_total or metrics.late or spill_dropped(metrics)
        ]
        told = story(self.events, harmed)
        return [*missed, *spools, *drifts, *(["", "flow control", *told] if told else [])]

    def _pipeline_rows(self) -> Iterable[tuple[str, ...]]:
        for name, metrics in self.pipelines.items():
            yield (
                name,
                str(metrics.sent),
                str(metrics.delivered),
                _reasons(metrics),
                f"{metrics.latency_p50_ms:.3f}",
                f"{metrics.latency_p99_ms:.3f}",
                f"{metrics.latency_max_ms:.3f}",
                str(metrics.late),
                f"{metrics.health_score:.0f} {metrics.pipeline_health}",
            )

    def _module_rows(self) -> Iterable[tuple[str, ...]]:
        for name, module in self.modules.items():
            yield name, module.worker, str(module.calls), f"{module.busy_ms:.1f}", module.state

    def _step_rows(self) -> Iterable[tuple[str, ...]]:
        """Return a row for each step of a conversion; windows alone, which a module asks for itself, are none."""
        for pipeline, steps in self.conversions.items():
            for step in steps if any(not each.step.startswith("windows") for each in steps) else ():
                yield (
                    pipeline,
                    step.step,
                    str(step.calls),
                    str(step.frames),
                    f"{step.ns_per_frame:.1f}",
                    f"{step.copied_bytes / 1e6:.1f}",
                    str(step.clipped + step.not_a_number),
                    str(step.invalid),
                    str(step.rejected),
                )


_PIPELINE_COLUMNS = ("pipeline", "sent", "delivered", "dropped", "p50 ms", "p99 ms", "max ms", "late", "health")
DEVICE_COLUMNS = ("module", "device", "cycles", "worst load %", "xruns", "lost frames", "underruns", "drift ppm")
_STEP_COLUMNS = ("pipeline", "step", "calls", "frames", "ns/frame", "copied MB", "clipped", "invalid", "rejected")
_MODULE_COLUMNS = ("module", "worker", "calls", "busy ms", "state")


def missed_lines(pipeline: str, metrics: FlowMetrics) -> list[str]:
    """Say how many deadlines a pipeline missed, and where the time of its worst block went; nothing if it missed none."""
    if not metrics.missed_deadlines:
        return []
    concealed = f", {metrics.concealed_blocks} blocks concealed" if metrics.concealed_blocks else ""
    worst = "" if metrics.worst_block is None else f"; {metrics.worst_block}"
    load = f", load {metrics.load_p99:.0%} at p99" if metrics.load_max else ""
    return [f"{pipeline}: {metrics.missed_deadlines} deadlines missed{concealed}{load}{worst}"]


def spill_dropped(metrics: FlowMetrics) -> int:
    """Return how many blocks the spool of a pipeline has dropped, which its own counts do not hold."""
    return 0 if metrics.pressure is None else metrics.pressure.spill_dropped


def _spool_lines(pipeline: str, metrics: FlowMetrics) -> list[str]:
    dropped = spill_dropped(metrics)
    waiting = 0 if metrics.pressure is None else metrics.pressure.spilled_blocks
    if not (dropped or waiting):
        return []
    lost_ms = 0.0 if metrics.pressure is None else metrics.pressure.spill_dropped_ms
    sound = f" ({lost_ms:.0f} ms)" if lost_ms else ""
    return [f"{pipeline}: its spool dropped {dropped} blocks{sound}, and {waiting} wait on disk"]


def device_rows(devices: Mapping[str, DeviceReport]) -> Iterable[tuple[str, ...]]:
    """Return a row of `DEVICE_COLUMNS` for each device."""
    for name, device in devices.items():
        capture, playback = device.capture, device.playback
        yield (
            name,
            "-" if device.device is None else device.device[0],
            str(device.cycles),
            f"{100 * device.worst_load:.1f}",
            str(sum(way.xruns for way in (capture, playback) if way is not None)),
            "-" if capture is None else str(capture.lost_frames),
            "-" if playback is None else str(playback.underruns),
            f"{device.drift_ppm:+.1f}",
        )


def _reasons(metrics: FlowMetrics) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in metrics.dropped.items())
    return reasons or "0"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines
