"""The benchmarks run: each case in a tiny configuration yields a well-formed record. Nothing here judges a time."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from steadyflow.benchmarks import CASES, run_case
from steadyflow.benchmarks.backpressure import contestants as contestants_of_backpressure
from steadyflow.benchmarks.backpressure.load import Load
from steadyflow.benchmarks.backpressure.rules import RULES
from steadyflow.benchmarks.harness import (
    Contestant,
    Effort,
    Failed,
    Figure,
    Measured,
    Row,
    Workload,
    busy_cores,
    compare,
    measure_in_fresh_process,
    percentile,
    target_at_most,
    target_ratio,
)

TINY = Effort(rounds=1, blocks=640, paced_blocks=50)
WORK = Workload(blocks=4, warm_up_blocks=1)


@pytest.mark.parametrize("name", CASES)
def test_case_yields_a_well_formed_record(name):
    progress = []
    result = run_case(name, effort=TINY, say=progress.append)

    record = json.loads(json.dumps(result.to_json_value()))
    assert record["case"] == name
    assert record["machine"]["python"].startswith("CPython")
    assert record["figures"]
    assert progress
    for figure in record["figures"]:
        names = [row["name"] for row in figure["rows"]]
        assert names[0].startswith("steadyflow")
        assert len(set(names)) == len(names)
        for row in figure["rows"]:
            check_row(row)
        for target in figure["targets"]:
            assert target["text"]
            assert target["measured"]


def check_row(row):
    if row["state"] != "measured":
        assert not row["name"].startswith("steadyflow"), row["reason"]
        # Real-time scheduling is the system's to refuse; everything else that is installed must run.
        assert row["state"] == "not installed" or "PermissionError" in row["reason"], row["reason"]
        return
    values = row["values_ns"]
    assert row["samples"] > 0
    assert 0 < values["p50"] <= values["p99"] <= values["p999"] <= values["max"]
    assert set(row["ratios"]) == set(values)
    facts = row["facts"]
    if "sent" in facts:
        assert facts["sent"] == facts["delivered"] + facts.get("dropped", 0)


FAST = Load(100_000, calm_s=0.1, overload_s=0.3)


@pytest.mark.parametrize("contestant", contestants_of_backpressure(FAST), ids=lambda contestant: contestant.name)
def test_backpressure_accounts_for_every_block(contestant):
    if contestant.missing:
        pytest.skip(contestant.missing)
    measured = measure_in_fresh_process(contestant, FAST.to_workload())

    assert isinstance(measured, Measured), measured
    facts = measured.facts
    assert facts["sent"] == facts["delivered"] + facts["dropped"]
    assert facts["sent"] <= FAST.most_blocks
    assert facts["peak_fill"] <= FAST.room or contestant.name in {"steadyflow Grow", "steadyflow Spill"}


def test_backpressure_draws_a_picture_of_each_rule(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    rules = {name: RULES[name] for name in ("DropOldest", "Wait")}
    monkeypatch.setattr("steadyflow.benchmarks.backpressure.RULES", rules)
    progress = []
    result = run_case("backpressure", effort=TINY, say=progress.append, seconds=0.1, plot=tmp_path / "pictures")

    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == rules.keys()
    (figure,) = result.figures
    for row in figure.rows:
        assert "trace" not in row.facts
        assert row.facts["picture"].endswith(".png")
    assert any(".png" in line for line in progress)


def test_table_of_backpressure_says_what_did_not_come():
    pytest.importorskip("rich")
    from rich.console import Console

    from steadyflow.benchmarks.tables import render_result

    facts = {"offered_per_s": 1_000.4, "detect_ms": None, "lost_percent": 0.0}
    columns = {
        "in/s": "offered_per_s",
        "p99": "p99",
        "detect": "detect_ms",
        "lost %": "lost_percent",
        "half": "half_ms",
    }
    row = Row("steadyflow Wait", "measured", values_ns={"p50": 1.0, "p99": 2_500_000.0}, facts=facts)
    absent = Row("culsans", "not installed", reason="pip install 'steadyflow[bench]'")
    result = run_case("stats", effort=TINY)
    figure = replace(result.figures[0], rows=[row, absent], columns=columns, targets=[], notes=["Times in ms."])
    text = io.StringIO()
    Console(file=text, width=100).print(render_result(replace(result, figures=[figure])))
    lines = text.getvalue().splitlines()
    assert next(line for line in lines if line.startswith(" steadyflow Wait ")).split()[2:] == [
        "1,000",
        "2.50",
        "none",
        "0",
        "-",
    ]
    assert any("culsans: pip install" in line for line in lines)


def test_unknown_case_names_the_near_miss():
    with pytest.raises(LookupError, match="hop"):
        run_case("hopp")


def test_table_names_every_contestant_and_the_machine():
    pytest.importorskip("rich")
    from rich.console import Console

    from steadyflow.benchmarks.tables import print_result

    result = run_case("stats", effort=TINY)
    text = io.StringIO()
    print_result(result, Console(file=text, width=100))
    assert "steadyflow" in text.getvalue()
    assert "at most 100 ns" in text.getvalue()
    assert "CPython" in text.getvalue()


@pytest.fixture
def contestants(tmp_path, monkeypatch):
    """A module of contestants that a measuring process can import."""
    code = """
        import os, pathlib, signal
        from steadyflow.benchmarks.harness import Measured

        def slow(work): return Measured([200.0] * work.blocks)
        def fast(work): return Measured([100.0] * work.blocks)
        def broken(work): raise OSError("no such\\n  device")
        def group(work): raise ExceptionGroup("two things", [ValueError("first"), ValueError("second")])
        def empty(work): return Measured([])
        def killed(work): os.kill(os.getpid(), signal.SIGKILL)
        def endless(work):
            pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
            signal.pause()
    """
    (tmp_path / "contestants_of_a_test.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    import contestants_of_a_test

    yield contestants_of_a_test
    del sys.modules["contestants_of_a_test"]


def test_ratios_are_theirs_by_ours(contestants):
    ours, theirs = compare(
        [Contestant("ours", contestants.fast), Contestant("theirs", contestants.slow)], WORK, rounds=2
    )
    assert ours.values_ns["p50"] == 100
    assert ours.ratios["p50"] == 1
    assert theirs.ratios["p50"] == theirs.ratios_of_medians["p50"] == 2
    assert theirs.rounds_ns["p50"] == [200, 200]
    assert theirs.samples == 8

    figure = Figure("f", "q", "blocks", WORK, 2, [ours, theirs])
    assert target_at_most(figure, "p50", 100, "t").met is True
    assert target_at_most(figure, "p50", 99, "t").met is False
    assert target_ratio(figure, "theirs", "p50", 2, "t").met is True
    assert target_ratio(figure, "theirs", "p50", 2.1, "t").met is False


def test_who_cannot_be_measured_stays_in_the_table_with_the_reason(contestants):
    progress = []
    rows = compare(
        [
            Contestant("ours", contestants.broken),
            Contestant("absent", contestants.fast, requires="no_such_package"),
            Contestant("group", contestants.group),
            Contestant("empty", contestants.empty),
            Contestant("killed", contestants.killed),
            Contestant("fast", contestants.fast),
        ],
        WORK,
        rounds=2,
        say=progress.append,
    )
    states = {row.name: (row.state, row.reason) for row in rows}
    assert states["ours"] == ("failed", "OSError: no such device")
    assert states["absent"] == ("not installed", "pip install 'steadyflow[bench]'")
    assert states["group"][1].startswith("ExceptionGroup: two things")
    assert states["group"][1].endswith("ValueError: first")
    assert states["empty"] == ("failed", "yielded no samples")
    assert states["killed"] == ("failed", "ended with exit code -9")
    assert states["fast"] == ("measured", "")
    # With nothing of ours to compare with, targets stay open, and who failed once is not tried again.
    assert target_ratio(Figure("f", "q", "blocks", WORK, 2, rows), "fast", "p50", 1, "t").met is None
    assert target_at_most(Figure("f", "q", "blocks", WORK, 2, rows), "p50", 1, "t").met is None
    assert sum("killed: failed" in line for line in progress) == 1


def test_measurement_that_does_not_end_is_ended(contestants):
    outcome = measure_in_fresh_process(Contestant("endless", contestants.endless), WORK, limit_s=5)
    assert outcome == Failed("took longer than 5 s")
    pid = int(Path(contestants.__file__).with_name("pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_measured_survives_the_way_through_the_process(contestants):
    assert measure_in_fresh_process(Contestant("fast", contestants.fast), WORK) == Measured([100.0] * 4)


def test_busy_processes_are_gone_afterwards():
    with busy_cores(per_core=1, limit_s=60):
        pids = children_of(os.getpid())
        assert len(pids) >= len(os.sched_getaffinity(0))
    assert not pids & children_of(os.getpid())


def test_interrupt_ends_every_process():
    command = [sys.executable, "-m", "steadyflow.benchmarks", "hop", "--quick", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
        assert "round 1 of" in bench.stderr.readline()
        pids = children_of(bench.pid)
        bench.send_signal(signal.SIGINT)
        output, _ = bench.communicate(timeout=30)
    assert bench.returncode == 130
    assert json.loads(output) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def children_of(pid):
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_percentile_is_the_nearest_rank():
    ordered = list(range(1, 1001))
    assert [percentile(ordered, share) for share in (0.5, 0.99, 0.999, 1.0)] == [500, 990, 999, 1000]
    assert percentile([7], 0.5) == percentile([7], 0.999) == 7
