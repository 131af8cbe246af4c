"""What becomes of what waits: relief while it drains, however much there still is, and none while it grows, however much room there is."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.unit.looks import MS, UNITS, changes, look, overload, recorded

from steadyflow.backpressure.detection import AnyOf, BlockedShare, GrowingQueue, TimeToFull, Watermarks, WithBacklog
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
    (onset_ms, _), (relief_ms, congested) = changes(WithBacklog(whatever_it_finds()), trace.readings)
    assert 0 <= onset_ms - trace.onset_ms <= 50
    assert not congested
    assert trace.relief_ms < relief_ms <= trace.relief_ms + 400
    at_relief = next(reading for reading in trace.readings if reading.at_ns >= relief_ms * MS)
    assert at_relief.waiting + at_relief.spilled > 200, "before it has drained"
    without = [at_ms for at_ms, congested in changes(whatever_it_finds(), trace.readings) if not congested]
    assert all(at_ms > relief_ms + 100 for at_ms in without), "without it, relief comes when there is room"


@pytest.mark.parametrize("per_s", [187.5, 500, 5_000, 50_000])
def test_at_any_rate(per_s):
    assert first_change_ms(WithBacklog(Congested()), drain(per_s, backlog=int(per_s))) in (755.0, 765.0)


def test_how_much_still_waits_is_told():
    detector = WithBacklog(Congested())
    verdict = [detector.note(each) for each in drain(1000, until_ms=760, backlog=1000, spilled=400)][-1]
    assert (verdict.detector, verdict.congested, verdict.level) == ("backlog", False, "LOW")
    numbers = dict(verdict.numbers)
    assert numbers.keys() == {"waiting_count", "fall_count", "window_ms", "drained_in_ms"}
    assert (numbers["waiting_count"], numbers["fall_count"], numbers["window_ms"]) == (1272, 125, 250)
    assert numbers["drained_in_ms"] == pytest.approx(1272 / 125 * 250)
    assert verdict.reason.startswith("1272 blocks wait, 400 of them on disk, 125 fewer than 250 ms ago; if it")
    assert {name.rpartition("_")[2] for name, _ in verdict.numbers} <= UNITS


def test_where_its_detector_finds_nothing_nothing_is_said():
    detector = WithBacklog(Watermarks())
    assert {detector.note(each).detector for each in drain(1000, backlog=1000)} == {"watermarks"}


def test_what_grows_again_is_found_as_soon_as_elsewhere():
    grown = [
        each._replace(sent=each.sent + 1250, delivered=each.delivered + 500, waiting=each.waiting + 750)
        for each in overload(1000, onset_ms=1000, until_ms=1100)
        if each.at_ns > 1000 * MS
    ]
    detector = WithBacklog(Congested())
    assert first_change_ms(detector, drain(1000, backlog=1000)) is not None
    (at_ms, congested), *rest = changes_after_relief(detector, grown)
    assert congested
    assert at_ms <= 1050
    assert not rest


def changes_after_relief(detector, readings, *, before=False):
    told = []
    for reading in readings:
        congested = detector.note(reading).congested
        if congested is not before:
            told.append((reading.at_ns / MS, congested))
        before = congested
    return told


def test_what_drains_no_further_is_found_again():
    detector = WithBacklog(Congested())
    *_, last = readings = drain(1000, backlog=1000)
    assert first_change_ms(detector, readings) is not None
    stays = [last._replace(at_ns=last.at_ns + number * 10 * MS) for number in range(1, 40)]
    ((at_ms, congested),) = changes_after_relief(detector, stays)
    assert congested
    assert at_ms - last.at_ns / MS == pytest.approx(250, abs=10)


@pytest.mark.parametrize("hindrance", [{"dropped": 1}, {"full_events": 1}, {"blocked_ns": MS}])
def test_what_is_lost_or_becomes_full_meanwhile_does_not_drain(hindrance):
    detector = WithBacklog(Congested())
    *_, last = readings = drain(1000, backlog=1000)
    assert first_change_ms(detector, readings) is not None
    assert detector.note(last._replace(at_ns=last.at_ns + 10 * MS, waiting=last.waiting - 5, **hindrance)).congested


def test_what_waits_on_disk_fills_the_pipeline_again_and_again():
    readings = [
        each._replace(waiting=8, spilled=each.waiting, full_events=number)
        for number, each in enumerate(drain(1000, backlog=1000))
    ]
    assert first_change_ms(WithBacklog(Congested()), readings) == 755.0


def test_what_was_flushed_has_not_drained():
    (first, *rest) = drain(1000, backlog=1000)
    flushed = [each._replace(waiting=10, delivered=0, dropped=990) for each in rest]
    assert first_change_ms(WithBacklog(Congested()), [first, *flushed]) is None


def test_a_queue_that_stands_or_becomes_less_slowly_does_not_drain():
    detector = WithBacklog(Congested())
    slowly = [
        look(at_ms, sent=1000 + at_ms * 95 // 100, delivered=at_ms, waiting=1000 - at_ms * 5 // 100)
        for at_ms in range(0, 2000, 10)
    ]
    assert first_change_ms(detector, slowly) is None


def test_counters_that_begin_again_and_the_same_look_are_no_draining():
    detector = WithBacklog(Congested())
    *_, last = readings = drain(1000, backlog=1000)
    assert first_change_ms(detector, readings) is not None
    assert not detector.note(last).congested, "the same look again changes nothing"
    assert detector.note(last._replace(at_ns=last.at_ns + 10 * MS, sent=3, delivered=2, waiting=1)).congested


class Sometimes:
    """Finds everything congested until a moment."""

    name = "sometimes"

    def __init__(self, until_ms):
        self.until_ns = until_ms * MS

    def note(self, reading):
        return Watermarks(looks=1).note(reading._replace(fill=float(reading.at_ns < self.until_ns)))


@pytest.mark.parametrize(("taken_of", "held"), [(0.5, True), (0.8, True), (0.9, False), (1.0, False)])
def test_what_goes_on_growing_is_not_relieved(taken_of, held):
    """Where more room makes a queue look emptier; what hardly grows does not count."""
    detector = WithBacklog(Sometimes(600))
    told = changes(detector, overload(1000, taken_of=taken_of, onset_ms=200, until_ms=1500))
    assert told == ([(5.0, True)] if held else [(5.0, True), (605.0, False)])
    verdict = detector.note(look(1505, sent=1505, delivered=1505 - 100, waiting=100))
    assert not verdict.congested, "nor does a burst that has gone"


def test_what_grows_slowly_is_told_as_growing():
    detector = WithBacklog(Sometimes(600))
    verdict = [detector.note(each) for each in overload(1000, taken_of=0.75, onset_ms=200, until_ms=1000)][-1]
    assert (verdict.detector, verdict.congested, verdict.level) == ("backlog", True, "LOW")
    assert verdict.reason == "198 blocks wait, 62 more than 250 ms ago"
    assert dict(verdict.numbers) == {"waiting_count": 198, "rise_count": 62, "window_ms": 250}


def bursts(every_ms, *, load, seconds, backlog, per_s=1000, every_look_ms=10):
    """Looks at a queue with a backlog into which blocks come in bursts; that share of what is taken comes."""
    readings, sent, delivered = [], backlog, 0.0
    for at_ms in range(every_look_ms, round(seconds * 1000), every_look_ms):
        if at_ms % every_ms < every_look_ms:
            sent += round(every_ms * per_s / 1000 * load)
        delivered = min(delivered + every_look_ms * per_s / 1000, sent)
        readings.append(look(at_ms, sent=sent, delivered=int(delivered), waiting=sent - int(delivered)))
    return readings


@pytest.mark.parametrize(
    ("every_ms", "load", "least", "most"),
    [(180, 1.1, 3, 9), (200, 1.05, 3, 9), (1000, 0.5, 3, 9), (1000, 1.0, 3, 9), (50, 0.5, 2, 2)],
)
def test_between_bursts_it_changes_its_mind_less_and_less_often(every_ms, load, least, most):
    """Before it drains for so long again, it has to for twice as long, up to 2 s."""
    readings = bursts(every_ms, load=load, seconds=30, backlog=30_000)
    told = [at_ms for at_ms, _ in changes(WithBacklog(Congested()), readings)]
    assert least <= len(told) <= most
    apart = [relieved - congested for congested, relieved in zip(told[::2], told[1::2], strict=False)]
    assert all(later >= 0.9 * before for before, later in pairwise(apart))


def test_it_is_as_patient_as_at_first_where_nothing_waits_any_more():
    detector = WithBacklog(Congested())
    changes(detector, bursts(180, load=1.1, seconds=10, backlog=10_000))
    assert detector.note(look(10_000, sent=100_000, delivered=100_000)).congested
    later = [
        each._replace(sent=each.sent + 100_000, delivered=each.delivered + 100_000)
        for each in drain(1000, since_ms=10_500, until_ms=11_000, backlog=1000)
    ]
    assert first_change_ms(detector, later) in (10_755.0, 10_765.0)


def test_what_comes_after_the_backlog_has_gone_is_found_at_once():
    detector = WithBacklog(Congested())
    assert first_change_ms(detector, drain(1000, backlog=180)) == 755.0
    *_, last = drain(1000, backlog=180)
    assert last.waiting == 0
    assert not detector.note(last._replace(at_ns=last.at_ns + 10 * MS)).congested, (
        "although its detector goes on for a while"
    )
    few, more = (
        last._replace(at_ns=last.at_ns + ms * MS, sent=last.sent + new, waiting=new) for ms, new in ((20, 5), (30, 6))
    )
    assert not detector.note(few).congested
    assert detector.note(more).congested


def test_what_its_detector_finds_after_a_backlog_has_gone_is_told():
    """Also where fewer wait than an overload has to add to be one."""
    detector = WithBacklog(Watermarks())
    full = [each._replace(fill=0.9) for each in drain(1000, until_ms=900, backlog=180) if each.waiting]
    assert first_change_ms(detector, full) is not None
    last = full[-1]
    empty = [last._replace(at_ns=last.at_ns + number * 10 * MS, waiting=0, fill=0.0) for number in (1, 2, 3)]
    assert changes(detector, empty) == []
    again = [last._replace(at_ns=last.at_ns + number * 10 * MS, waiting=5, fill=0.9) for number in (4, 5)]
    assert changes(detector, again) == [(again[1].at_ns / MS, True)]


def test_what_is_lost_where_nothing_waits_any_more_is_told():
    detector = WithBacklog(Congested())
    *_, last = readings = drain(1000, backlog=180)
    assert first_change_ms(detector, readings) == 755.0
    assert last.waiting == 0
    assert detector.note(last._replace(at_ns=last.at_ns + 10 * MS, dropped=1)).congested


@pytest.mark.parametrize("loss", [{"dropped": 1}, {"full_events": 1}, {"blocked_ns": MS}])
def test_a_queue_that_grows_still_does_after_a_loss(loss):
    detector = WithBacklog(Sometimes(605))
    *grown, last = overload(1000, taken_of=0.75, onset_ms=200, until_ms=600)
    assert [detector.note(each).congested for each in grown][-1]
    after = [
        each._replace(**loss)
        for each in overload(1000, taken_of=0.75, onset_ms=200, until_ms=1000)
        if each.at_ns > last.at_ns
    ]
    assert all(detector.note(each).congested for each in after)


def test_a_rise_that_is_no_longer_clear_is_one_until_there_is_none():
    detector = WithBacklog(Sometimes(600))
    readings = overload(1000, taken_of=0.75, onset_ms=200, until_ms=700)
    assert all(detector.note(each).congested for each in readings)
    last = readings[-1]
    slowly = [
        last._replace(
            at_ns=last.at_ns + n * 10 * MS,
            sent=last.sent + 10 * n,
            delivered=last.delivered + 10 * n - n // 10,
            waiting=last.waiting + n // 10,
        )
        for n in range(1, 60)
    ]
    assert all(detector.note(each).congested for each in slowly)
    last = slowly[-1]
    stands = [last._replace(at_ns=last.at_ns + n * 10 * MS) for n in range(1, 40)]
    (relieved_ms, congested), *_ = changes_after_relief(detector, stands, before=True)
    assert not congested
    assert relieved_ms - last.at_ns / MS <= 260


@pytest.mark.parametrize("options", [{"window_ms": 0}, {"least_share": 0}, {"least_share": 2}, {"window_ms": "30"}])
def test_impossible_ones_are_refused(options):
    with pytest.raises(ConfigurationError, match="WithBacklog: expected"):
        WithBacklog(Watermarks(), **options)


@pytest.mark.parametrize("other", [None, Watermarks])
def test_it_needs_a_detector(other):
    with pytest.raises(ConfigurationError, match="WithBacklog: expected detectors"):
        WithBacklog(other)
