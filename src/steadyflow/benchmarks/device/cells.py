"""What is measured, cell by cell: periods, loads and contestants, each with a server, a probe and a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from steadyflow.benchmarks.device.blocks import judge
from steadyflow.benchmarks.device.contestants import CONTESTANTS, RATE_HZ, Kind
from steadyflow.benchmarks.device.probe import Hears, Probe
from steadyflow.benchmarks.device.server import DummyServer
from steadyflow.benchmarks.harness import Say, busy_cores, end_session, interrupt_deferred, percentile
from steadyflow.errors import FlowError

__all__ = ["FRAMES", "LOADS", "Cell", "CellKind", "Load", "Row", "measure", "plan"]

Load = Literal["quiet", "thread", "cores"]
CellKind = Literal["server"] | Kind

FRAMES: Final = (64, 128, 256)
LOADS: Final[tuple[Load, ...]] = get_args(Load)

_WARM_UP_S: Final = 1.0
_DRAIN_S: Final = 0.3
_SPARE_S: Final = 60  # for starting, ending, and a machine that is busy


@dataclass(frozen=True)
class Cell:
    """
    One measurement.

    Attributes:
        frames: The server's period, and the length of a block.
        load: What else the machine does: nothing; a thread of the measured process that computes in Python; two computing
            processes per core.
        kind: What is measured. ``"server"``: nobody captures or plays, so what is left is the server's own doing.
        contestant: Who.
        requires: The package that has to be installed, if any.
        note: What a reader must know to compare it.
    """

    frames: int
    load: Load
    kind: CellKind
    contestant: str
    requires: str = ""
    note: str = ""

    def __str__(self) -> str:
        return f"{self.frames} frames, {self.load}, {self.kind}: {self.contestant}"


@dataclass(frozen=True)
class Row:
    """
    What a cell has yielded. Times are in ms; of a cell that was not measured, `reason` says why.

    Attributes:
        blocks: How many were played to it.
        lost_blocks: What of them never came back, or never reached Python: frames, in blocks.
        late_blocks: That came more than a period late, of duplex more than two; of duplex also those that were silent.
        xruns: What JACK's server said of deadlines that were missed.
        xruns_alone: The same without anybody but the probe, in a run of its own of the same length.
        mean_load: The share of a cycle that the clients took, as JACK tells.
        worst_load: The same for the worst of the moments that were looked at.
        latency_p50_ms: From when the last frame of a block was played to when it was there, or had come back.
        jitter_ms: By how much that differs from one block to the next, in the mean.
        counts: What the contestant and the probe counted besides.
    """

    cell: Cell
    state: Literal["measured", "not installed", "failed"]
    reason: str = ""
    seconds: float = 0
    blocks: int = 0
    lost_blocks: float = 0
    late_blocks: int = 0
    xruns: int = 0
    xruns_alone: int | None = None
    mean_load: float = 0
    worst_load: float = 0
    latency_p50_ms: float = 0
    latency_p99_ms: float = 0
    latency_p999_ms: float = 0
    latency_max_ms: float = 0
    jitter_ms: float = 0
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def period_ms(self) -> float:
        """The length of a block."""
        return self.cell.frames / RATE_HZ * 1e3


def plan(frames: Sequence[int] = FRAMES, loads: Sequence[Load] = LOADS) -> list[Cell]:
    """Return the cells in the order in which they are measured: the server alone before those who need it."""
    cells = []
    for period in frames:
        for load in loads:
            cells.append(Cell(period, load, "server", "JACK alone", note="the probe hears itself"))
            cells.extend(Cell(period, load, each.kind, each.name, each.requires, each.note) for each in CONTESTANTS)
    return cells


def measure(cells: Sequence[Cell], seconds: float, say: Say) -> Iterator[Row]:
    """
    Measure cells, one after the other; takes `seconds` and some more for each.

    Yields:
        A row for each cell.

    Raises:
        SystemShortage: There is no JACK server to be had.
    """
    alone: dict[tuple[int, Load], int] = {}
    for number, cell in enumerate(cells, 1):
        if cell.requires and importlib.util.find_spec(cell.requires) is None:
            yield Row(cell, "not installed", reason="pip install 'steadyflow[bench]'")
            continue
        say(f"{number} of {len(cells)}: {cell}, {seconds:g} s")
        row = _measure(cell, seconds)
        if row.state == "measured":
            if cell.kind == "server":
                alone[cell.frames, cell.load] = row.xruns
            row = replace(row, xruns_alone=alone.get((cell.frames, cell.load)))
            say(
                f"  {row.lost_blocks:g} lost, {row.late_blocks} late of {row.blocks}, {row.xruns} xruns, "
                f"p50 {row.latency_p50_ms:.2f} ms, p99.9 {row.latency_p999_ms:.2f} ms"
            )
        else:
            say(f"  {row.state}: {row.reason}")
        yield row


def _measure(cell: Cell, seconds: float) -> Row:
    limit_s = int(seconds) + _SPARE_S
    with tempfile.TemporaryDirectory(prefix="steadyflow-benchmark-") as name:
        folder = Path(name)
        busy = busy_cores(per_core=2, limit_s=limit_s) if cell.load == "cores" else contextlib.nullcontext()
        with DummyServer(cell.frames, RATE_HZ, folder / "jackd.log") as server, busy:
            hears: Hears = "itself" if cell.kind == "server" else "others" if cell.kind == "duplex" else "nothing"
            with Probe(server.name, hears, limit_s=limit_s) as probe:
                return _measure_with(probe, cell, seconds, folder, server.environment)


def _measure_with(probe: Probe, cell: Cell, seconds: float, folder: Path, environment: dict[str, str]) -> Row:
    log_file = folder / "blocks.npy"
    process = _start(cell, seconds, log_file, folder / "stderr", environment)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "running\n" or _ends_within(process, _WARM_UP_S):
            return Row(cell, "failed", reason=_reason(process, folder / "stderr"))
        probe.reset()
        if _ends_within(process, seconds):
            return Row(cell, "failed", reason=_reason(process, folder / "stderr"))
        report = probe.report()
        _ends_within(process, _DRAIN_S)
        process.stdin.close()
        counts = process.stdout.readline()
        if process.wait(_SPARE_S) != 0:
            return Row(cell, "failed", reason=_reason(process, folder / "stderr"))
        row = _common(cell, report, json.loads(counts))
        if cell.kind in ("server", "duplex"):
            return _of_probe(row, report)
        return _of_log(row, np.load(log_file), probe.cycles(folder / "cycles"), report)
    except (FlowError, subprocess.TimeoutExpired) as error:
        return Row(cell, "failed", reason=str(error))
    finally:
        end_session(process)


def _start(
    cell: Cell, seconds: float, log_file: Path, complaints: Path, environment: dict[str, str]
) -> subprocess.Popen[str]:
    arguments = {
        "kind": cell.kind,
        "contestant": cell.contestant,
        "computes": cell.load == "thread",
        "frames": cell.frames,
        "most_blocks": int((seconds + _SPARE_S) * RATE_HZ / cell.frames),
        "log_file": str(log_file),
        "limit_s": int(seconds) + _SPARE_S,
    }
    # -P: the directory that this was started in is not searched for modules.
    command = [sys.executable, "-P", "-m", "steadyflow.benchmarks.device.cell", json.dumps(arguments)]
    # One thread for linear algebra: idle pools disturb. Files of a process that is killed go with the folder.
    single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(complaints.parent)}
    with complaints.open("wb") as stderr, interrupt_deferred():
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | environment | single,
            start_new_session=True,
        )


def _ends_within(process: subprocess.Popen[str], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _reason(process: subprocess.Popen[str], complaints: Path) -> str:
    code = process.wait(_SPARE_S)
    lines = [line for line in complaints.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"ended with exit code {code}"


def _common(cell: Cell, report: dict[str, Any], counts: dict[str, Any]) -> Row:
    return Row(
        cell,
        "measured",
        seconds=report["seconds"],
        blocks=report["cycles"],
        xruns=report["xruns"],
        mean_load=report["mean_load"],
        worst_load=report["worst_load"],
        counts={**counts, "skipped_frames": report["skipped_frames"]},
    )


def _of_probe(row: Row, report: dict[str, Any]) -> Row:
    heard = report["heard"]
    if not heard["latencies"]:
        return Row(row.cell, "failed", reason="nothing came back")
    ms = 1e3 / RATE_HZ
    return replace(
        row,
        lost_blocks=round(heard["lost_frames"] / row.cell.frames, 2),
        late_blocks=heard["late_cycles"] + heard["silent_cycles"],
        latency_p50_ms=heard["latency_p50_frames"] * ms,
        latency_p99_ms=heard["latency_p99_frames"] * ms,
        latency_p999_ms=heard["latency_p999_frames"] * ms,
        latency_max_ms=heard["latency_max_frames"] * ms,
        jitter_ms=heard["jitter_frames"] * ms,
        counts={**row.counts, **heard},
    )


def _of_log(row: Row, noted: Any, cycles: Any, report: dict[str, Any]) -> Row:
    reached = judge(noted, cycles, report["first_position"], report["last_position"])
    if not reached.blocks:
        return Row(row.cell, "failed", reason="nothing arrived")
    latencies_ms = reached.latencies_ns / 1e6
    ordered = sorted(latencies_ms.tolist())
    return replace(
        row,
        lost_blocks=round(reached.lost_frames / row.cell.frames, 2),
        late_blocks=int(np.count_nonzero(latencies_ms > row.period_ms)),
        latency_p50_ms=percentile(ordered, 0.5),
        latency_p99_ms=percentile(ordered, 0.99),
        latency_p999_ms=percentile(ordered, 0.999),
        latency_max_ms=ordered[-1],
        jitter_ms=float(np.abs(np.diff(latencies_ms)).mean()) if len(latencies_ms) > 1 else 0.0,
        counts={**row.counts, "blocks_that_arrived": reached.blocks, "repeated_frames": reached.repeated_frames},
    )
