"""Relief while a backlog drains: the overload is over, however much still waits."""

from __future__ import annotations

import pytest
from tests.unit.looks import MS, UNITS, changes, look, overload, recorded

from steadyflow.backpressure.detection import AnyOf, BlockedShare, GrowingQueue, TimeToFull, UnlessDraining, Watermarks
from steadyflow.errors import ConfigurationError


def whatever_it_finds():
    return AnyOf(Watermarks(), TimeToFull(), BlockedShare(), GrowingQueue())


class Congested:
    """Finds everything congested."""

    name = "congested"

    def note(self, reading):
        return Watermarks(looks=1).note(reading._replace(fill=1.0))


def drain(per_s, *, since_ms=500, until_ms=1000, backlog, every_ms=10, **found):
    """Looks at a queue of that length at a moment, of which so many are taken in a second, while half as many come."""
    readings = []
    for at_ms in range(since_ms + every_ms // 2, until_ms, every_ms):
        taken = int((at_ms - since_ms) * per_s / 1000)
        come = taken // 2
        waiting = max(backlog + come - taken, 0)
        readings.append(look(at_ms, sent=backlog + come, delivered=backlog + come - waiting, waiting=waiting, **found))
    return readings


def first_change_ms(detector, readings):
    """When it says something else than at the first look; None: never."""
    verdicts = [detector.note(reading).congested for reading in readings]
    return next((each.at_ns / MS for each, said in zip(readings, verdicts, strict=True) if said != verdicts[0]), None)


@pytest.mark.parametrize("name", ["backlog", "backlog_on_disk"])
def test_an_overload_is_over_when_its_backlog_drains_in_recordings(name):
    trace = recorded(name)
    (onset_ms, _), (relief_ms, congested) = changes(UnlessDraining(whatever_it_finds()), trace.readings)
    assert 0 <= onset_ms - trace.onset_ms <= 50
    assert not congested
    assert trace.relief_ms < relief_ms <= trace.relief_ms + 400
    at_relief = next(reading for reading in trace.readings if reading.at_ns >= relief_ms * MS)
    assert at_relief.waiting + at_relief.spilled > 200, "before it has drained"
    without = [at_ms for at_ms, congested in changes(whatever_it_finds(), trace.readings) if not congested]
    assert all(at_ms > relief_ms + 100 for at_ms in without), "without it, relief comes when there is room"


@pytest.mark.parametrize("per_s", [187.5, 500, 5_000, 50_000])
def test_at_any_rate(per_s):
    assert first_change_ms(UnlessDraining(Congested()), drain(per_s, backlog=int(per_s))) in (755.0, 765.0)


def test_how_much_still_waits_is_told():
    detector = UnlessDraining(Congested())
    verdict = [detector.note(each) for each in drain(1000, until_ms=760, backlog=1000, spilled=400)][-1]
    assert (verdict.detector, verdict.congested, verdict.level) == ("draining", False, "LOW")
    numbers = dict(verdict.numbers)
    assert numbers.keys() == {"waiting_count", "fall_count", "window_ms", "drained_in_ms"}
    assert (numbers["waiting_count"], numbers["fall_count"], numbers["window_ms"]) == (1272, 125, 250)
    assert numbers["drained_in_ms"] == pytest.approx(1272 / 125 * 250)
    assert verdict.reason.startswith("1272 blocks still wait, 400 of them on disk, 125 fewer than 250 ms ago")
    assert {name.rpartition("_")[2] for name, _ in verdict.numbers} <= UNITS


def test_where_its_detector_finds_nothing_nothing_is_said():
    detector = UnlessDraining(Watermarks())
    assert {detector.note(each).detector for each in drain(1000, backlog=1000)} == {"watermarks"}


def test_what_grows_again_is_found_as_soon_as_elsewhere():
    grown = [
        each._replace(sent=each.sent + 1250, delivered=each.delivered + 500, waiting=each.waiting + 750)
        for each in overload(1000, onset_ms=1000, until_ms=1100)
        if each.at_ns > 1000 * MS
    ]
    detector = UnlessDraining(Congested())
    assert first_change_ms(detector, drain(1000, backlog=1000)) is not None
    (at_ms, congested), *rest = changes_after_relief(detector, grown)
    assert congested
    assert at_ms <= 1050
    assert not rest


def changes_after_relief(detector, readings):
    before, told = False, []
    for reading in readings:
        congested = detector.note(reading).congested
        if congested is not before:
            told.append((reading.at_ns / MS, congested))
        before = congested
    return told


def test_what_drains_no_further_is_found_again():
    detector = UnlessDraining(Congested())
    *_, last = readings = drain(1000, backlog=1000)
    assert first_change_ms(detector, readings) is not None
    stays = [last._replace(at_ns=last.at_ns + number * 10 * MS) for number in range(1, 40)]
    ((at_ms, congested),) = changes_after_relief(detector, stays)
    assert congested
    assert at_ms - last.at_ns / MS == pytest.approx(250, abs=10)


@pytest.mark.parametrize("hindrance", [{"dropped": 1}, {"full_events": 1}])
def test_what_is_lost_or_becomes_full_meanwhile_does_not_drain(hindrance):
    detector = UnlessDraining(Congested())
    *_, last = readings = drain(1000, backlog=1000)
    assert first_change_ms(detector, readings) is not None
    assert detector.note(last._replace(at_ns=last.at_ns + 10 * MS, waiting=last.waiting - 5, **hindrance)).congested


def test_what_waits_on_disk_fills_the_pipeline_again_and_again():
    readings = [
        each._replace(waiting=8, spilled=each.waiting, full_events=number)
        for number, each in enumerate(drain(1000, backlog=1000))
    ]
    assert first_change_ms(UnlessDraining(Congested()), readings) == 755.0


def test_what_was_flushed_has_not_drained():
    (first, *rest) = drain(1000, backlog=1000)
    flushed = [each._replace(waiting=10, delivered=0, dropped=990) for each in rest]
    assert first_change_ms(UnlessDraining(Congested()), [first, *flushed]) is None


def test_a_queue_that_stands_or_becomes_less_slowly_does_not_drain():
    detector = UnlessDraining(Congested())
    slowly = [
        look(at_ms, sent=1000 + at_ms * 95 // 100, delivered=at_ms, waiting=1000 - at_ms * 5 // 100)
        for at_ms in range(0, 2000, 10)
    ]
    assert first_change_ms(detector, slowly) is None


def test_counters_that_begin_again_and_the_same_look_are_no_draining():
    detector = UnlessDraining(Congested())
    *_, last = readings = drain(1000, backlog=1000)
    assert first_change_ms(detector, readings) is not None
    assert not detector.note(last).congested, "the same look again changes nothing"
    assert detector.note(last._replace(at_ns=last.at_ns + 10 * MS, sent=3, delivered=2, waiting=1)).congested


@pytest.mark.parametrize("options", [{"window_ms": 0}, {"least_share": 0}, {"least_share": 2}, {"window_ms": "30"}])
def test_impossible_ones_are_refused(options):
    with pytest.raises(ConfigurationError, match="UnlessDraining: expected"):
        UnlessDraining(Watermarks(), **options)


@pytest.mark.parametrize("other", [None, Watermarks])
def test_it_needs_a_detector(other):
    with pytest.raises(ConfigurationError, match="UnlessDraining: expected detectors"):
        UnlessDraining(other)
