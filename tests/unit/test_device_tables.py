"""What is said of a run of the benchmark of devices: tables, targets, and what is left open."""

from __future__ import annotations

import io
import json

import pytest

from steadyflow.benchmarks.device import DeviceResult, Row
from steadyflow.benchmarks.device.cells import FRAMES, LOADS, Cell, plan
from steadyflow.benchmarks.device.contestants import CONTESTANTS
from steadyflow.benchmarks.device.tables import print_device_result, targets, to_markdown

MEASURED = {"state": "measured", "seconds": 60.0, "blocks": 22_500, "xruns_alone": 0, "latency_p999_ms": 2.0}


def row(kind, contestant, load="thread", **values):
    return Row(Cell(128, load, kind, contestant), **{**MEASURED, **values})


def result_of(*rows):
    return DeviceResult(60.0, rows=list(rows))


def test_every_contestant_is_measured_with_every_period_under_every_load():
    cells = plan()
    assert len(cells) == len(set(cells)) == len(FRAMES) * len(LOADS) * (1 + len(CONTESTANTS))
    # The server alone comes before those whose xruns are compared with its.
    for cell in cells:
        same = [each for each in cells if (each.frames, each.load) == (cell.frames, cell.load)]
        assert same[0].kind == "server"
    assert [cell.contestant for cell in plan([64], ["quiet"])] == ["JACK alone", *(each.name for each in CONTESTANTS)]


def test_names_tell_contestants_apart():
    names = [(each.kind, each.name) for each in CONTESTANTS]
    assert len(set(names)) == len(names)


def test_the_terminal_shows_every_row_and_why_one_is_empty():
    pytest.importorskip("rich")
    from rich.console import Console

    failed = Row(Cell(128, "thread", "duplex", "rtmixer"), "failed", reason="nothing came back")
    text = io.StringIO()
    shown = result_of(row("capture", "steadyflow, process"), row("capture", "sounddevice", lost_blocks=313), failed)
    print_device_result(shown, Console(file=text, width=170))
    lines = text.getvalue().splitlines()
    assert any("128 frames (2.67 ms)" in line and "computing" in line for line in lines)
    (sounddevice,) = [line for line in lines if "capture: sounddevice" in line]
    assert "313" in sounddevice
    assert any("rtmixer: nothing came back" in line for line in lines)


def test_a_page_gets_one_table_for_each_period_and_load():
    page = to_markdown(result_of(row("capture", "sounddevice", "quiet"), row("capture", "sounddevice", "thread")))
    assert page.count("| capture: sounddevice |") == 2
    tables = [block for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def verdicts(result):
    return [target.met for target in targets(result)]


def test_targets_are_open_until_they_are_measured():
    assert set(verdicts(result_of())) == {None}
    assert set(verdicts(result_of(Row(Cell(128, "thread", "capture", "steadyflow, process"), "failed")))) == {None}


@pytest.mark.parametrize(
    ("values", "met"),
    [({}, True), ({"lost_blocks": 1}, False), ({"xruns": 1}, False), ({"xruns": 2, "xruns_alone": 2}, True)],
)
def test_ours_may_lose_nothing_that_the_server_does_not(values, met):
    assert verdicts(result_of(row("capture", "steadyflow, process", **values)))[0] is met


@pytest.mark.parametrize(("late_ms", "met"), [(5.3, True), (5.4, False)])
def test_duplex_adds_two_periods_at_the_most(late_ms, met):
    found = verdicts(result_of(row("duplex", "steadyflow", "quiet", latency_p999_ms=late_ms)))
    assert found[1:4] == [met, None, None]


@pytest.mark.parametrize(
    ("ours", "theirs", "met"),
    [
        ({"jitter_ms": 1.0}, {"jitter_ms": 2.0, "lost_blocks": 5}, True),
        ({"jitter_ms": 3.0}, {"jitter_ms": 2.0, "lost_blocks": 5}, False),
        ({"jitter_ms": 1.0, "lost_blocks": 6}, {"jitter_ms": 2.0, "lost_blocks": 5}, False),
    ],
)
def test_the_paired_run_compares_losses_and_jitter(ours, theirs, met):
    result = result_of(row("analysis", "steadyflow", **ours), row("analysis", "behind a queue", **theirs))
    assert verdicts(result)[4:] == [None, met]


def test_a_record_is_plain_and_says_whether_ours_failed():
    result = result_of(row("capture", "steadyflow, process"))
    record = json.loads(json.dumps(result.to_json_value()))
    assert record["case"] == "device"
    assert record["rows"][0]["cell"]["contestant"] == "steadyflow, process"
    assert not result.failed
    result.rows.append(Row(Cell(128, "quiet", "capture", "steadyflow, thread"), "failed", reason="no memory"))
    assert result.failed
