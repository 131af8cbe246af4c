"""The benchmark of backpressure: what comes when, what is made of several rounds, who is measured, and what a picture is."""

from __future__ import annotations

import io
import itertools
import time

import pytest

import steadyflow
from steadyflow.benchmarks.backpressure import RATES, contestants, gstreamer
from steadyflow.benchmarks.backpressure.load import PHASES, STEP_NS, Load
from steadyflow.benchmarks.backpressure.record import Look, Record, Told, summarise
from steadyflow.benchmarks.backpressure.rules import RULES, Context
from steadyflow.errors import FileUnwritable

LOAD = Load(1_000, calm_s=1.0, overload_s=3.0)


@pytest.mark.parametrize("blocks_per_s", RATES)
@pytest.mark.parametrize("live", [True, False])
def test_a_calm_an_overload_and_a_calm_come(blocks_per_s, live):
    load = Load(blocks_per_s, calm_s=1.0, overload_s=3.0)
    bursts = list(load.bursts(live=live))

    assert list(dict.fromkeys(burst.phase for burst in bursts)) == list(PHASES)
    for phase, blocks in (("before", blocks_per_s / 4), ("overload", 3 * blocks_per_s), ("after", blocks_per_s / 4)):
        assert sum(burst.blocks for burst in bursts if burst.phase == phase) == pytest.approx(blocks, abs=2)
    assert sum(burst.blocks for burst in bursts) <= load.most_blocks
    gaps_ns = {later.due_ns - sooner.due_ns for sooner, later in itertools.pairwise(bursts)}
    assert gaps_ns == {max(STEP_NS, round(1e9 / blocks_per_s))}
    assert max(burst.blocks for burst in bursts) < load.room


def test_only_a_live_producer_catches_up():
    """Whoever is held up for as long as the run has then all of it to send, or nothing."""
    late = Load(1_000, calm_s=0.01, overload_s=0.02)

    def blocks_after_a_delay(live):
        bursts = late.bursts(live=live)
        first = next(bursts)
        while time.monotonic_ns() < first.due_ns + 50_000_000:
            pass
        return sum(burst.blocks for burst in bursts)

    assert blocks_after_a_delay(live=True) >= 20
    assert blocks_after_a_delay(live=False) == 0


def test_a_room_is_for_64_blocks_or_20_ms():
    assert [Load(blocks_per_s, 1.0, 1.0).room for blocks_per_s in RATES] == [64, 64, 200, 2_000]
    work = LOAD.to_workload()
    assert (work.blocks, work.warm_up_blocks, work.interval_ns) == (3_000, 250, 1_000_000)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_can_be_made(name, tmp_path):
    entry = RULES[name]
    assert isinstance(entry.make(Context(tmp_path, entry.live, LOAD)), steadyflow.Rule)


def test_every_contestant_has_a_name_of_its_own():
    names = [each.name for each in contestants(LOAD)]
    assert names[0] == f"steadyflow {next(iter(RULES))}"
    assert len(set(names)) == len(names)
    assert [each.name for each in contestants(LOAD, trace=True)] == [f"steadyflow {rule}" for rule in RULES]


def test_what_gstreamer_lacks_is_named(monkeypatch):
    monkeypatch.setattr(gstreamer.ctypes.util, "find_library", lambda name: None if "gstapp" in name else "there.so")
    assert gstreamer.lacks() == "apt-get install gstreamer1.0-plugins-base"
    (leaky, _) = [each for each in contestants(LOAD) if each.name.startswith("GStreamer")]
    assert leaky.missing == gstreamer.lacks()
    monkeypatch.setattr(gstreamer.ctypes.util, "find_library", lambda name: "there.so")
    assert leaky.missing == ""


def test_a_record_counts_what_is_lost_when():
    record = Record(Load(100_000, calm_s=0.02, overload_s=0.02), live=True, trace=True)
    dropped = {"oldest": 0}
    record.watch(lambda: Look(1, dropped))
    for burst in record.load.bursts(live=True):
        while time.monotonic_ns() < burst.due_ns:
            pass
        if burst.phase == "overload" and "overload" not in record._began_ns:
            dropped = {"oldest": 5}
        if burst.phase == "after" and "after" not in record._began_ns:
            dropped = {"oldest": 905}
        record.begin(burst)
        if burst.blocks:
            record.take(burst.due_ns)
    record.end_watch()
    onset_ns, end_ns = record._began_ns["overload"], record._began_ns["after"]
    record.told += [Told("detected", onset_ns - 1, "watermarks"), Told("detected", onset_ns + 7_000_000, "watermarks")]
    record.told += [Told("changed", onset_ns, "Sample"), Told("relieved", end_ns + 9_000_000, "")]
    record.refused = 10

    measured = record.measured({"oldest": 905, "newest": 0})
    facts = measured.facts
    assert facts["reasons"] == {"oldest": 905, "refused": 10}
    assert (facts["lost"], facts["lost_in_calm"], facts["dropped"]) == (900, 15, 915)
    assert facts["lost_percent"] == pytest.approx(100 * 900 / 2_000, rel=0.01)
    assert facts["offered_per_s"] == pytest.approx(2_000 / ((end_ns - onset_ns) / 1e9), rel=0.01)
    assert (facts["peak_fill"], facts["false_alarms"], facts["changes"], facts["half_ms"]) == (1, 1, 1, 0)
    assert facts["detections"] == 2
    assert record.until_detected() == 0, "it was there already"
    record.told[1:1] = [Told("relieved", onset_ns - 1, "")]
    assert record.until_detected() == 7
    assert record.until_relieved() == 9
    assert facts["false_reliefs"] == 0
    record.told.insert(4, Told("relieved", end_ns - 1, ""))
    assert record.until_relieved() is None, "while it went on"
    assert record.measured({"oldest": 905, "newest": 0}).facts["false_reliefs"] == 1
    record.told[2:2] = [Told("detected", onset_ns, "watermarks", "another")]
    assert record.measured({"oldest": 905, "newest": 0}).facts["false_reliefs"] == 0, "another one is under pressure"
    del record.told[2]
    record.live = False
    assert record.until_relieved() == 0
    record.told[4:] = [
        Told("detected", end_ns - 2, "watermarks", "another"),
        Told("relieved", end_ns + 9_000_000, ""),
        Told("relieved", end_ns + 12_000_000, "", "another"),
    ]
    assert record.until_relieved() == 12, "when both are"
    record.told.clear()
    assert record.until_detected() is None
    assert record.until_relieved() is None
    assert 0 < len(measured.samples_ns) <= facts["delivered"]
    course = facts["trace"]
    assert len(course["at_ms"]) == len(course["fill"]) == len(course["sojourn_ms"]) == len(course["dropped"]["oldest"])
    assert course["told"][1] == ("detected", 7.0, "watermarks")


def test_counts_of_rounds_add_up_and_times_are_medians():
    same = {
        "peak_fill": 64,
        "late_p99_ms": 0.1,
        "changes": 0,
        "detections": 1,
        "lost_in_calm": 0,
        "delivered": 5,
        "relief_ms": None,
    }
    rounds = [
        {"sent": 10, "dropped": 5, "detect_ms": detect_ms, "false_alarms": alarms, "reasons": reasons, **same}
        for detect_ms, alarms, reasons in ((10.0, 0, {"oldest": 5}), (None, 1, {"newest": 5}), (30.0, 0, {"oldest": 5}))
    ]
    facts = summarise(rounds)
    assert (facts["sent"], facts["delivered"], facts["dropped"]) == (30, 15, 15)
    assert facts["reasons"] == {"oldest": 10, "newest": 5}
    assert facts["detect_ms"] == 20
    assert facts["relief_ms"] is None
    assert facts["quality"] == "10 oldest, 5 newest; at most 64 waited; detected in 2 of 3 rounds; 1 false alarms"


def course(told, dropped):
    at_ms = list(range(-1_000, 4_000, 10))
    return {
        "room": 64,
        "end_ms": 3_000.0,
        "at_ms": at_ms,
        "fill": [64 * (0 < at < 3_000) for at in at_ms],
        "sojourn_ms": [None if at < 0 else 12.5 for at in at_ms],
        "dropped": {reason: [count * (at > 0) for at in at_ms] for reason, count in dropped.items()},
        "told": told,
    }


@pytest.mark.parametrize(
    ("told", "dropped"),
    [
        ([], {}),
        ([("detected", 40.0, "watermarks"), ("relieved", 3_900.0, "")], {"oldest": 900}),
        ([("changed", 40.0, "Sample"), ("changed", 90.0, "DropOldest")], {"oldest": 900, "newest": 30, "refused": 4}),
    ],
)
def test_a_picture_is_small(told, dropped):
    pytest.importorskip("matplotlib")
    from PIL import Image

    from steadyflow.benchmarks.backpressure.pictures import draw

    drawn = draw("DropOldest", course(told, dropped))
    assert len(drawn) <= 60_000
    assert Image.open(io.BytesIO(drawn)).size == (900, 660)


def test_a_folder_for_pictures_that_cannot_be_is_refused(tmp_path):
    pytest.importorskip("matplotlib")
    from steadyflow.benchmarks.backpressure.pictures import prepare

    prepare(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileUnwritable, match="expected a folder for pictures"):
        prepare(tmp_path / "file")
