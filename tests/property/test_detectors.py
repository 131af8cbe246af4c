"""Detectors at looks of any kind: nothing breaks them, none changes its mind within a look, and worse never looks better."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from steadyflow.backpressure.averages import AsymmetricAverage
from steadyflow.backpressure.detection import (
    AllOf,
    AnyOf,
    BlockedShare,
    StandingDelay,
    TimeToFull,
    Watermarks,
    WithBacklog,
)
from steadyflow.backpressure.reading import Reading, growth

MS = 1_000_000
DETECTORS = {
    "watermarks": Watermarks,
    "standing_delay": lambda: StandingDelay(5),
    "time_to_full": TimeToFull,
    "blocked_share": BlockedShare,
    "any_of": lambda: AnyOf(Watermarks(looks=1), StandingDelay(1, 1), TimeToFull(1000, 2), BlockedShare()),
    "backlog": lambda: WithBacklog(AnyOf(Watermarks(), BlockedShare()), 40),
    "all_of": lambda: AllOf(Watermarks(), StandingDelay(5)),
}

unhurried = settings(deadline=None, derandomize=True, database=None, max_examples=100)

intervals_ms = st.sampled_from([0, 0.001, 3, 9.7, 10, 10, 10, 11, 40, 70, 5000])
shares = st.floats(0, 1) | st.sampled_from([0, 0.25, 0.5, 0.8, 1])


def as_readings(first_ns, rows):
    """
    Looks, by rows of: interval in ms; what counters grow by; the room, and waits, as they are; and whether something odd comes
    first, which is that the counters begin again, or that the clock goes back.
    """
    readings, at_ns, counters = [], first_ns, (0, 0, 0, 0, 0)
    for interval_ms, more, waiting, fill, sojourn_ns, odd in rows:
        if odd == "anew":
            counters = (0, 0, 0, 0, 0)
        elif odd == "back":
            at_ns //= 2
        at_ns += round(interval_ms * MS)
        counters = tuple(max(0, count + each) for count, each in zip(counters, more, strict=True))
        sent, delivered, dropped, blocked_ns, full_events = counters
        readings.append(Reading(at_ns, sent, delivered, dropped, waiting, fill, sojourn_ns, blocked_ns, full_events))
    return readings


blocks = st.integers(0, 100)
looks = st.builds(
    as_readings,
    st.integers(0, 1 << 62),
    st.lists(
        st.tuples(
            intervals_ms,
            st.tuples(
                blocks, blocks, blocks, st.integers(-1000, 50 * MS), st.integers(0, 2)
            ),  # a wait may be a little behind
            st.integers(0, 200),
            shares,
            st.integers(0, 100 * MS),
            st.sampled_from(["", "", "", "", "", "", "anew", "back"]),
        ),
        min_size=1,
        max_size=50,
    ),
)


@pytest.mark.parametrize("name", DETECTORS)
@unhurried
@given(looks)
def test_nothing_breaks_it(name, readings):
    detector = DETECTORS[name]()
    for reading in readings:
        verdict = detector.note(reading)
        assert verdict.reason
        assert verdict.level in ("OK", "LOW", "HIGH")
        assert all(math.isfinite(value) and value >= 0 for _, value in verdict.numbers)


@unhurried
@given(looks)
def test_nothing_grows_backwards(readings):
    for before, now in pairwise(readings):
        assert min(growth(before, now)) >= 0


@pytest.mark.parametrize("name", DETECTORS)
@unhurried
@given(looks)
def test_the_same_look_again_changes_nothing(name, readings):
    detector, other = DETECTORS[name](), DETECTORS[name]()
    for reading in readings:
        verdict = detector.note(reading)
        assert detector.note(reading).congested is verdict.congested
        assert other.note(reading).congested is verdict.congested


@unhurried
@given(looks, st.integers(1, 5))
def test_watermarks_are_relieved_by_no_less_looks_than_asked_for(readings, needed):
    detector, since, before = Watermarks(looks=needed), 0, False
    for reading in readings:
        congested = detector.note(reading).congested
        if congested != before:
            assert congested or since >= needed - 1
            since = 0
        else:
            since += 1
        before = congested


def never_better(worse, better):
    """Assert that of two detectors the one is congested wherever the other one is; each with its readings."""
    for reading, milder in zip(worse[1], better[1], strict=True):
        congested, milder_congested = worse[0].note(reading).congested, better[0].note(milder).congested
        assert congested or not milder_congested


def series(*columns):
    """Lists of as many values in each column, one row a look; the first column is of intervals in ms."""
    return st.lists(st.tuples(intervals_ms, *columns), min_size=1, max_size=60)


def at(rows):
    return list(accumulate(round(row[0] * MS) for row in rows))


@unhurried
@given(series(shares, st.floats(0, 0.5), st.integers(0, 1), st.integers(0, 1)), st.integers(1, 4))
def test_fuller_is_not_better(rows, needed):
    milder_full = accumulate(row[3] for row in rows)
    full = accumulate(row[3] + row[4] for row in rows)
    milder = [
        Reading(ns, 0, 0, 0, 0, row[1], 0, 0, count) for ns, row, count in zip(at(rows), rows, milder_full, strict=True)
    ]
    worse = [
        Reading(ns, 0, 0, 0, 0, min(1, row[1] + row[2]), 0, 0, count)
        for ns, row, count in zip(at(rows), rows, full, strict=True)
    ]
    never_better((Watermarks(looks=needed), worse), (Watermarks(looks=needed), milder))
    never_better((Watermarks(high=0.7, looks=needed), milder), (Watermarks(high=0.9, looks=needed), milder))


@unhurried
@given(series(st.integers(0, 100 * MS), st.integers(0, 50 * MS)))
def test_longer_waits_are_not_better(rows):
    milder = [Reading(ns, 0, 0, 0, 0, 0, row[1], 0, 0) for ns, row in zip(at(rows), rows, strict=True)]
    worse = [Reading(ns, 0, 0, 0, 0, 0, row[1] + row[2], 0, 0) for ns, row in zip(at(rows), rows, strict=True)]
    never_better((StandingDelay(5), worse), (StandingDelay(5), milder))
    never_better((StandingDelay(4), milder), (StandingDelay(5), milder))
    never_better((StandingDelay(5, 10), milder), (StandingDelay(5), milder))


@unhurried
@given(series(st.integers(0, 20 * MS), st.integers(0, 20 * MS)))
def test_more_time_blocked_is_not_better(rows):
    milder_ns = accumulate(row[1] for row in rows)
    worse_ns = accumulate(row[1] + row[2] for row in rows)
    milder = [Reading(ns, 0, 0, 0, 0, 0, 0, each, 0) for ns, each in zip(at(rows), milder_ns, strict=True)]
    worse = [Reading(ns, 0, 0, 0, 0, 0, 0, each, 0) for ns, each in zip(at(rows), worse_ns, strict=True)]
    never_better((BlockedShare(), worse), (BlockedShare(), milder))


def flow_of(rows, room):
    """Looks at a pipeline of so much room: after each interval, what came and what could be taken at most."""
    readings, sent, delivered, dropped, waiting, full_events = [], 0, 0, 0, 0, 0
    for ns, (_, come, could) in zip(at(rows), rows, strict=True):
        sent += come
        taken = min(could, waiting + come)
        delivered += taken
        waiting += come - taken
        full_events += waiting > room
        dropped += max(0, waiting - room)
        waiting = min(waiting, room)
        readings.append(Reading(ns, sent, delivered, dropped, waiting, waiting / room, 0, 0, full_events))
    return readings


passing = series(st.integers(0, 30), st.integers(0, 30)).map(lambda rows: [row for row in rows if row[0]])


@unhurried
@given(passing, st.integers(4, 200), st.floats(1, 1000), st.floats(1, 5))
def test_a_longer_horizon_finds_more(rows, room, horizon_ms, factor):
    readings = flow_of(rows, room)
    never_better((TimeToFull(horizon_ms * factor), readings), (TimeToFull(horizon_ms), readings))


@unhurried
@given(st.floats(0, 1), series(st.floats(0, 0.249), st.integers(0, 100), st.integers(0, 100), st.integers(0, 1)))
def test_what_stays_within_a_quarter_of_the_room_is_never_about_to_be_full(base, rows):
    detector, sent, delivered, full_events = TimeToFull(100_000), 0, 0, 0
    for ns, (_, share, come, taken, full) in zip(at(rows), rows, strict=True):
        sent, delivered, full_events = sent + come, delivered + taken, full_events + full
        fill = min(1, base + share)
        assert not detector.note(Reading(ns, sent, delivered, 0, 10, fill, 0, 0, full_events)).congested


@unhurried
@given(
    st.lists(st.sampled_from([1, 3, 9, 10, 12, 70]), min_size=40, max_size=80), st.integers(1, 50), st.integers(1, 50)
)
def test_rates_are_right_whatever_the_intervals(intervals, sent_per_ms, delivered_per_ms):
    detector, now_ms, verdict = TimeToFull(), 0, None
    for interval in [0, *intervals]:
        now_ms += interval
        verdict = detector.note(
            Reading(now_ms * MS, now_ms * sent_per_ms, now_ms * delivered_per_ms, 0, 1, 0.5, 0, 0, 0)
        )
    numbers = dict(verdict.numbers)
    assert numbers["arrivals_hz"] == pytest.approx(1000 * sent_per_ms)
    assert numbers["service_hz"] == pytest.approx(1000 * delivered_per_ms)


@unhurried
@given(st.lists(st.floats(-1e9, 1e9), min_size=1), st.integers(1, 20), st.integers(1, 20))
def test_an_average_stays_among_its_values(values, bad, good):
    average = AsymmetricAverage(bad, good)
    for value in values:
        before = average.value
        now = average.note(value)
        if before is not None:
            slack = 1e-6 * max(1, abs(before), abs(value))
            assert min(before, value) - slack <= now <= max(before, value) + slack
