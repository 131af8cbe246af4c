"""How many blocks may wait, where that follows the load, and how much a consumer takes: scripted looks."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from steadyflow.backpressure.reading import Reading
from steadyflow.backpressure.room import LEAST_CHANGE, SHRINK_NS, GrowingRoom, drained_within
from steadyflow.backpressure.service_rate import ServiceRate

MS = 1_000_000


def look(at_ms, waiting=0, *, delivered=0, fill=0.0):
    return Reading(round(at_ms * MS), delivered + waiting, delivered, 0, waiting, fill, 0, 0, 0)


# --- what is taken within a time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service_hz", "drain_ms", "room", "wanted"),
    [
        (1000, 20, 64, 20),
        (1000, 20, 16, None),  # a quarter more, and not above that
        (1000, 20, 15, 20),
        (1000, 20, 26, None),
        (1000, 20, 27, 20),
        (1000, 500, 8, 64),  # no more than there may be
        (1000, 500, 64, None),
        (1, 20, 8, 2),  # two have to have room
        (1, 20, 2, None),
    ],
)
def test_the_room_is_what_is_taken_within_the_time(service_hz, drain_ms, room, wanted):
    assert drained_within(service_hz, drain_ms, room, 64) == wanted


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6), st.integers(1, 65_536), st.integers(1, 65_536))
def test_a_room_is_changed_by_more_than_a_quarter_or_not_at_all(service_hz, drain_ms, room, most):
    wanted = drained_within(service_hz, drain_ms, room, most)
    if wanted is not None:
        assert min(2, most) <= wanted <= most
        assert abs(wanted - room) > LEAST_CHANGE * room
        assert drained_within(service_hz, drain_ms, wanted, most) is None


# --- a room that grows --------------------------------------------------------------------------------------------------


def test_it_doubles_where_half_of_it_is_taken_up_to_the_limit():
    room = GrowingRoom(4, 20)
    assert room.note(look(0, 1), 4) is None
    assert room.note(look(10, 2), 4) == 8
    assert room.note(look(20, 8), 8) == 16
    assert room.note(look(30, 16), 16) == 20
    assert room.note(look(40, 20), 20) is None


def test_it_does_not_double_where_bytes_are_what_is_short():
    assert GrowingRoom(4, 20).note(look(0, 1, fill=1.0), 4) is None


def test_it_halves_where_less_than_a_quarter_was_taken_for_five_seconds():
    room = GrowingRoom(4, 64)
    halved = [(at_ms, new) for at_ms in range(0, 12_000, 10) if (new := room.note(look(at_ms, 3), 32)) is not None]
    assert halved == [(5000, 16), (10_010, 16)]
    assert SHRINK_NS == 5_000 * MS


def test_it_halves_down_to_what_it_began_with():
    room, size, sizes = GrowingRoom(5, 64), 64, []
    for at_ms in range(0, 60_000, 10):
        size = room.note(look(at_ms), size) or size
        if not sizes or sizes[-1] != size:
            sizes.append(size)
    assert sizes == [64, 32, 16, 8, 5]


@pytest.mark.parametrize("waiting", [8, 15])
def test_a_quarter_in_between_begins_the_five_seconds_anew(waiting):
    room = GrowingRoom(4, 64)
    assert all(room.note(look(at_ms), 32) is None for at_ms in range(0, 5000, 10))
    assert room.note(look(5000, waiting), 32) is None
    assert all(room.note(look(at_ms), 32) is None for at_ms in range(5010, 10_010, 10))
    assert room.note(look(10_010), 32) == 16


@given(
    st.integers(1, 100),
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(0, 6000), st.floats(0, 1)), max_size=100),
)
def test_a_room_stays_between_its_limits(least, more, looks):
    room, size, at_ms = GrowingRoom(least, least + more), least, 0
    for interval_ms, share in looks:
        at_ms += interval_ms
        waiting = int(share * size)
        wanted = room.note(look(at_ms, waiting), size)
        if wanted is not None:
            assert least <= wanted <= least + more
            assert wanted != size
            assert wanted >= waiting
            size = wanted


# --- how much a consumer takes ------------------------------------------------------------------------------------------


def measured(readings):
    service = ServiceRate()
    for reading in readings:
        service.note(reading)
    return service.hz


def busy(per_s, *, every_ms=10, until_ms=2000, from_ms=0, before=0, waiting=5):
    """Looks at a consumer that never waits, and takes so many in a second."""
    return [
        look(at_ms, waiting, delivered=before + int((at_ms - from_ms) * per_s / 1000))
        for at_ms in range(from_ms, until_ms, every_ms)
    ]


@pytest.mark.parametrize("per_s", [0.7, 3, 20, 90, 1000, 50_000])
@pytest.mark.parametrize("every_ms", [1, 10, 13])
def test_what_is_taken_is_measured_however_slow_it_is(per_s, every_ms):
    until_ms = max(2000, int(10_000 / per_s))
    assert measured(busy(per_s, every_ms=every_ms, until_ms=until_ms)) == pytest.approx(per_s, rel=0.1)


def test_nothing_is_known_before_something_was_taken():
    assert measured([]) is None
    assert measured([look(at_ms, 5) for at_ms in range(0, 1000, 10)]) is None


def test_where_no_block_waits_what_is_taken_says_nothing():
    assert measured([look(at_ms, 0, delivered=at_ms) for at_ms in range(0, 1000, 10)]) is None


def test_a_time_in_which_no_block_waited_is_left_out():
    before = busy(100)
    idle = [look(at_ms, 0, delivered=200) for at_ms in range(2000, 60_000, 10)]
    after = busy(100, from_ms=60_000, until_ms=62_000, before=200)
    assert measured([*before, *idle, *after]) == pytest.approx(100, rel=0.1)


def test_a_time_in_which_nothing_could_be_taken_is_left_out():
    service = ServiceRate()
    for reading in busy(100):
        service.note(reading)
    service.interrupt()
    for reading in busy(100, from_ms=60_000, until_ms=62_000, before=200):
        service.note(reading)
    assert service.hz == pytest.approx(100, rel=0.1)


def test_counters_that_begin_again_are_none_of_its_business():
    again = busy(100, from_ms=2000, until_ms=4000)
    assert measured([*busy(100), *again]) == pytest.approx(100, rel=0.1)


def test_a_second_look_at_the_same_moment_is_none():
    readings = busy(100)
    assert measured([each for reading in readings for each in (reading, reading)]) == measured(readings)


def test_it_follows_a_consumer_within_some_looks():
    service = ServiceRate()
    for reading in busy(1000, waiting=32):
        service.note(reading)
    for reading in busy(200, from_ms=2000, until_ms=2500, before=2000, waiting=32):
        service.note(reading)
    assert service.hz == pytest.approx(200, rel=0.15)


def test_a_consumer_that_may_have_waited_is_not_taken_for_slow_at_once():
    service = ServiceRate()
    for reading in busy(1000, waiting=32):
        service.note(reading)
    for reading in busy(200, from_ms=2000, until_ms=2500, before=2040, waiting=2):
        service.note(reading)
    assert 600 < service.hz < 950
    for reading in busy(2000, from_ms=2500, until_ms=3000, before=2200, waiting=2):
        service.note(reading)
    assert service.hz > 1500


@settings(derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(st.integers(-50, 500), st.integers(0, 100), st.integers(0, 10), st.booleans(), st.booleans()),
        max_size=100,
    )
)
def test_a_rate_is_above_zero_or_not_known(rows):
    service, at_ms, delivered = ServiceRate(), 1000, 0
    for interval_ms, taken, waiting, begins_again, interrupted in rows:
        at_ms += interval_ms
        delivered = 0 if begins_again else delivered + taken
        service.note(look(at_ms, waiting, delivered=delivered))
        if interrupted:
            service.interrupt()
        assert service.hz is None or service.hz > 0
