"""How it is measured: fresh processes, contestants alternating, warm-up skipped, percentiles, ratios.

One *measurement* is one contestant in one new process (`python -m steadyflow.benchmarks.measure`). One *round* measures
each contestant once; every second round goes backwards, so that a machine that gets slower or faster
favours nobody. A ratio is taken between neighbours, ours and theirs of the same round, and the median of the rounds'
ratios is what counts. Percentiles are those of all samples of all rounds.

Everything here is bounded in count and time, and every process that is started is ended by its pid,
also after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from steadyflow.benchmarks.machine import describe_machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "FULL",
    "QUICK",
    "Contestant",
    "Effort",
    "Failed",
    "Figure",
    "Measured",
    "Recording",
    "Result",
    "Row",
    "Say",
    "Statistic",
    "Summarise",
    "Target",
    "Workload",
    "busy_cores",
    "compare",
    "end_session",
    "interrupt_deferred",
    "last",
    "measure_in_fresh_process",
    "percentile",
    "silent",
    "target_at_most",
    "target_ratio",
]

Say = Callable[[str], None]
"""Takes one line of progress."""

Statistic = Literal["mean", "p50", "p99", "p999", "max"]
_STATISTICS: tuple[Statistic, ...] = ("mean", "p50", "p99", "p999", "max")


def silent(line: str) -> None:
    """Say nothing."""


Summarise = Callable[[list[dict[str, Any]]], dict[str, Any]]
"""Takes the facts of each round of one contestant."""


def last(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Take those of the last round for all."""
    return facts[-1]


# ------------------------------------------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Workload:
    """What one measurement does: `warm_up_blocks` that are not counted, then `blocks` that are.

    `interval_ns` is the time between two blocks; 0 is unpaced, as fast as it goes.
    """

    blocks: int
    warm_up_blocks: int
    interval_ns: int = 0

    @property
    def all_blocks(self) -> int:
        """The number of blocks that are sent, warm-up included."""
        return self.warm_up_blocks + self.blocks


@dataclass(frozen=True)
class Effort:
    """How much a case measures: rounds, and blocks of one measurement."""

    rounds: int
    blocks: int
    paced_blocks: int

    def unpaced(self, *, times: float = 1.0) -> Workload:
        """Return the work of an unpaced measurement; `times` more (or less) of it where a block is cheap (or dear)."""
        blocks = int(self.blocks * times)
        return Workload(blocks, warm_up_blocks=max(1, blocks // 4))

    def paced(self) -> Workload:
        """Return the work of a measurement at 1 kHz."""
        return Workload(self.paced_blocks, warm_up_blocks=max(1, self.paced_blocks // 5), interval_ns=1_000_000)


QUICK = Effort(rounds=3, blocks=30_000, paced_blocks=1_000)
FULL = Effort(rounds=9, blocks=200_000, paced_blocks=5_000)


@dataclass(frozen=True)
class Measured:
    """What one measurement yields: samples in ns, in order of time, and facts worth printing beside them."""

    samples_ns: list[float]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """Why a measurement yields nothing."""

    reason: str


@dataclass(frozen=True)
class Contestant:
    """One way to move a block.

    Args:
        name: As printed.
        measure: A function at the top level of a module; it is called in a process of its own.
        requires: The package that has to be installed, if any.
        note: What a reader must know to compare it.
        options: What `measure` is called with besides, by name; plain values.
        lacks: Tells, for what is no package, how it can be installed; nothing if it is there.
    """

    name: str
    measure: Callable[..., Measured]
    requires: str = ""
    note: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    lacks: Callable[[], str] | None = None

    @property
    def missing(self) -> str:
        """How to install what it needs; empty if that is there."""
        if self.requires and importlib.util.find_spec(self.requires) is None:
            return "pip install 'steadyflow[bench]'"
        return self.lacks() if self.lacks else ""


# ------------------------------------------------------------------------------------------------- what comes out


@dataclass(frozen=True)
class Row:
    """One contestant's line in a figure. Values in ns; `ratios` are theirs / ours, median of the rounds' pairs."""

    name: str
    state: Literal["measured", "not installed", "failed"]
    reason: str = ""
    note: str = ""
    samples: int = 0
    values_ns: dict[Statistic, float] = field(default_factory=dict)
    rounds_ns: dict[Statistic, list[float]] = field(default_factory=dict)
    ratios: dict[Statistic, float] = field(default_factory=dict)
    ratios_of_medians: dict[Statistic, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A figure to reach. `met` is None if it could not be measured."""

    text: str
    measured: str
    met: bool | None


@dataclass(frozen=True)
class Figure:
    """
    One table: the same work done by all contestants. The first row is ours.

    Without `columns` the table is of the samples' statistics; else of those statistics, in ms, and facts, by heading.
    """

    title: str
    quantity: str
    counted: str
    work: Workload
    rounds: int
    rows: list[Row]
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        """Return the row of that contestant."""
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True)
class Result:
    """The record of one case."""

    case: str
    figures: list[Figure]
    effort: Effort
    started_at: str
    duration_s: float
    machine: dict[str, object]

    @property
    def failed(self) -> bool:
        """Whether ours could not be measured in some figure."""
        return any(figure.rows[0].state == "failed" for figure in self.figures)

    def to_json_value(self) -> dict[str, Any]:
        """Return the record as plain dicts and lists."""
        return asdict(self)


class Recording:
    """Collects the figures of one case into its `Result`, with the time it took."""

    def __init__(self, case: str, effort: Effort, say: Say) -> None:
        self._case = case
        self._effort = effort
        self._say = say
        self._figures: list[Figure] = []
        self._started_at = datetime.now(UTC)
        self._started_ns = time.monotonic_ns()
        self._machine = describe_machine()

    def compare(
        self,
        title: str,
        quantity: str,
        contestants: Sequence[Contestant],
        work: Workload,
        *,
        counted: str = "blocks",
        rounds: int | None = None,
        targets: Callable[[Figure], list[Target]] = lambda _: [],
        notes: Sequence[str] = (),
        columns: Mapping[str, str] = MappingProxyType({}),
        summarise: Summarise = last,
    ) -> None:
        """Measure one figure and keep it."""
        rounds = rounds or self._effort.rounds
        rows = compare(
            contestants, work, rounds=rounds, say=lambda line: self._say(f"{title}: {line}"), summarise=summarise
        )
        figure = Figure(title, quantity, counted, work, rounds, rows, notes=list(notes), columns=dict(columns))
        self._figures.append(replace(figure, targets=targets(figure)))

    def result(self) -> Result:
        """Return the record of what was measured so far."""
        return Result(
            case=self._case,
            figures=self._figures,
            effort=self._effort,
            started_at=self._started_at.isoformat(timespec="seconds"),
            duration_s=round((time.monotonic_ns() - self._started_ns) / 1e9, 1),
            machine=self._machine,
        )


# ------------------------------------------------------------------------------------------------- measuring


def compare(
    contestants: Sequence[Contestant],
    work: Workload,
    *,
    rounds: int,
    say: Say = silent,
    summarise: Summarise = last,
) -> list[Row]:
    """Measure all contestants, alternating, `rounds` times; the first one is ours, the ratios refer to it.

    `summarise` makes one record of the facts of a contestant's rounds.

    A contestant that is not installed, or fails once, is not tried again; its row says why.
    """
    measured: dict[str, list[Measured]] = {contestant.name: [] for contestant in contestants}
    out: dict[str, Row] = {
        contestant.name: Row(contestant.name, "not installed", reason=missing)
        for contestant in contestants
        if (missing := contestant.missing)
    }
    for round_number in range(1, rounds + 1):
        for contestant in contestants if round_number % 2 else reversed(contestants):
            if contestant.name in out:
                continue
            outcome = measure_in_fresh_process(contestant, work)
            if isinstance(outcome, Failed):
                out[contestant.name] = Row(contestant.name, "failed", reason=outcome.reason, note=contestant.note)
                say(f"round {round_number} of {rounds}: {contestant.name}: failed: {outcome.reason}")
                continue
            measured[contestant.name].append(outcome)
            p50_us = percentile(sorted(outcome.samples_ns), 0.5) / 1e3
            say(f"round {round_number} of {rounds}: {contestant.name}: p50 {p50_us:.2f} µs")

    ours = measured[contestants[0].name] if contestants[0].name not in out else []
    return [
        out[contestant.name] if contestant.name in out else _row(contestant, measured[contestant.name], ours, summarise)
        for contestant in contestants
    ]


def measure_in_fresh_process(
    contestant: Contestant, work: Workload, *, limit_s: int | None = None
) -> Measured | Failed:
    """Run one measurement in a new interpreter; ended by its pid after `limit_s`, or on Ctrl-C."""
    if limit_s is None:
        # Generous: a busy machine takes many times as long, and a limit must not decide who takes part.
        limit_s = math.ceil(40 + 4 * work.all_blocks * max(work.interval_ns, 50_000) / 1e9)
    function = f"{contestant.measure.__module__}:{contestant.measure.__qualname__}"
    # -P: the directory that this was started in is not searched for modules.
    command = [sys.executable, "-P", "-m", "steadyflow.benchmarks.measure"]
    command += [function, json.dumps(asdict(work)), json.dumps(contestant.options), str(limit_s)]
    child: subprocess.Popen[str] | None = None
    with tempfile.TemporaryDirectory(prefix="steadyflow-benchmark-") as folder:
        # One thread for linear algebra: none of it is used, and idle pools disturb. Files of a process that
        # is killed go with the folder.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TMPDIR": folder}
        try:
            with interrupt_deferred():
                # In a session of its own: Ctrl-C reaches only us, and we end it with all that it started.
                child = subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                    start_new_session=True,
                )
            output, complaint = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return Failed(f"took longer than {limit_s} s")
        finally:
            if child is not None:
                end_session(child)
    if child.returncode != 0:
        return Failed(_last_line(complaint) or f"ended with exit code {child.returncode}")
    measured = Measured(**json.loads(_last_line(output)))
    return measured if measured.samples_ns else Failed("yielded no samples")


@contextlib.contextmanager
def busy_cores(*, per_core: int, limit_s: float) -> Iterator[None]:
    """Keep every core busy with `per_core` computing processes; they end by themselves after `limit_s`."""
    compute = (
        "import os, sys, time\n"
        "end_s, parent = time.monotonic() + float(sys.argv[1]), os.getppid()\n"
        "while time.monotonic() < end_s and os.getppid() == parent:\n"
        "    for _ in range(100_000): pass\n"
    )
    busy: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(per_core * len(os.sched_getaffinity(0))):
            with interrupt_deferred():
                busy.append(
                    subprocess.Popen([sys.executable, "-I", "-S", "-c", compute, str(limit_s)], start_new_session=True)
                )
        yield
    finally:
        for process in busy:
            end_session(process)


@contextlib.contextmanager
def interrupt_deferred() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the body: a process must not get lost between its start and its name."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Ctrl-C is the main thread's
        return
    arrived: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if arrived:
            signal.raise_signal(signal.SIGINT)


def end_session(process: subprocess.Popen[Any]) -> None:
    """End a process, if it still runs, with all of its session; close its pipes and wait for it."""
    with interrupt_deferred(), process:
        if process.poll() is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                process.kill()  # it is on its way into its session, or has just left it


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


# ------------------------------------------------------------------------------------------------- statistics


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least `share` of the samples do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _summary(samples_ns: Sequence[float]) -> dict[Statistic, float]:
    ordered = sorted(samples_ns)
    return {
        "mean": statistics.fmean(ordered),
        "p50": percentile(ordered, 0.5),
        "p99": percentile(ordered, 0.99),
        "p999": percentile(ordered, 0.999),
        "max": ordered[-1],
    }


def _row(contestant: Contestant, measured: list[Measured], ours: list[Measured], summarise: Summarise) -> Row:
    """Summarise one contestant's rounds; `ours` is empty if there is nothing to compare with."""
    rounds = [_summary(each.samples_ns) for each in measured]
    pairs = list(zip(rounds, [_summary(each.samples_ns) for each in ours], strict=False))
    samples = [sample for each in measured for sample in each.samples_ns]
    return Row(
        contestant.name,
        "measured",
        note=contestant.note,
        samples=len(samples),
        values_ns=_summary(samples),
        rounds_ns={name: [each[name] for each in rounds] for name in _STATISTICS},
        ratios={name: statistics.median(t[name] / o[name] for t, o in pairs) for name in _STATISTICS if pairs},
        ratios_of_medians={
            name: statistics.median(t[name] for t, _ in pairs) / statistics.median(o[name] for _, o in pairs)
            for name in _STATISTICS
            if pairs
        },
        facts=summarise([each.facts for each in measured]),
    )


def target_at_most(figure: Figure, statistic: Statistic, limit_ns: float, text: str) -> Target:
    """Judge one of our values against an absolute limit."""
    ours = figure.rows[0].values_ns.get(statistic)
    if ours is None:
        return Target(text, "not measured", met=None)
    return Target(text, f"{ours / 1e3:.3g} µs", met=ours <= limit_ns)


def target_ratio(figure: Figure, peer: str, statistic: Statistic, least: float, text: str) -> Target:
    """Judge theirs / ours of one peer: it has to be at least `least`."""
    ratio = figure.row(peer).ratios.get(statistic)
    if ratio is None:
        return Target(text, "not measured", met=None)
    return Target(text, f"{ratio:.2f}", met=ratio >= least)
