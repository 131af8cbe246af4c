"""How fast sources may send: a queue that is simulated, with a source in front of it and a consumer behind, and no clock but its own."""

from __future__ import annotations

import random
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from steadyflow.backpressure.pacing import (
    CUT,
    CUT_NS,
    GAIN_PER_S,
    STANDING_NS,
    AdditiveIncrease,
    Credit,
    FixedRate,
)
from steadyflow.backpressure.reading import Reading
from steadyflow.backpressure.service_rate import ServiceRate

MS = 1_000_000
STANDING_S = STANDING_NS / 1e9


def look(at_ms, fill, room=100):
    return Reading(round(at_ms * MS), 0, 0, 0, round(fill * room), fill, 0, 0, 0)


class Instant(NamedTuple):
    """
    A look at the simulated queue.

    Args:
        at_s: When.
        waiting: How many blocks wait.
        idle: Whether the consumer waits for one.
        hz: What may come from now on; None: everything.
    """

    at_s: float
    waiting: int
    idle: bool
    hz: float | None


def simulate(pacer, service_hz, room, *, seconds=20.0, source_hz=1e6, jitter=0.0, seed=1):
    """
    Return what looks found, every 10 ms or so, at a queue whose source waits where it is full, and is paced.

    Args:
        pacer: Says how fast.
        service_hz: What the consumer takes; or a function of the time in s that says so.
        room: How many blocks may wait.
        source_hz: What the source would send.
        jitter: By what share of themselves, up to 1, the times differ: of each block, and between looks.
        seed: Of the jitter.
    """
    chance = random.Random(seed)
    rate = service_hz if callable(service_hz) else lambda _: service_hz
    service, instants = ServiceRate(), []
    now = look_s = source_s = 0.0
    sent_s, done_s, pace_hz = -1e9, None, None
    sent = delivered = waiting = 0
    while now < seconds:
        may_send_s = max(source_s, sent_s + (1 / pace_hz if pace_hz else 0)) if waiting < room else seconds
        now = max(now, min(may_send_s, seconds if done_s is None else done_s, look_s))
        if look_s <= now:
            reading = Reading(1 + round(now * 1e9), sent, delivered, 0, waiting, waiting / room, 0, 0, 0)
            service.note(reading)
            pace_hz = pacer.note(reading, service.hz)
            instants.append(Instant(now, waiting, done_s is None, pace_hz))
            look_s += 0.01 * (1 + jitter * chance.uniform(-0.5, 0.5))
            continue
        if done_s is not None and done_s <= now:
            done_s = None
            delivered += 1
        elif may_send_s <= now:
            waiting, sent, sent_s = waiting + 1, sent + 1, now
            source_s = now + 1 / source_hz
        if done_s is None and waiting:
            waiting -= 1
            done_s = now + (1 + jitter * chance.uniform(-1, 1)) / rate(now)
    return instants, delivered


def aim(service_hz, room):
    """How many blocks are to wait."""
    return min(max(service_hz * STANDING_S, 1), room / 2)


# --- a rate that was asked for ------------------------------------------------------------------------------------------


def test_a_fixed_rate_is_that_whatever_comes():
    pacer = FixedRate(30)
    assert [pacer.note(look(0, fill), hz) for fill, hz in ((0, None), (1, 5.0), (0.3, 1e6))] == [30, 30, 30]


# --- credits ------------------------------------------------------------------------------------------------------------


def test_nothing_is_paced_before_it_is_known_what_is_taken():
    pacer = Credit()
    assert pacer.note(look(0, 1.0), None) is None
    assert pacer.note(look(10, 1.0), 0.0) is None


def test_nothing_is_paced_where_a_full_queue_is_taken_at_once():
    pacer = Credit()
    assert pacer.note(look(0, 1.0, room=49), 1000) is None
    assert pacer.note(look(10, 0.89), 1000) is None
    assert pacer.note(look(20, 1.0, room=50), 1000) is not None


def test_a_full_queue_gets_a_tenth_of_what_is_taken_and_one_at_its_aim_all_of_it():
    pacer = Credit()
    assert pacer.note(look(0, 1.0), 1000) == pytest.approx(100 * 10 * 0.1)
    assert pacer.note(look(10, 0.5), 1000) == pytest.approx(1000)
    assert pacer.note(look(20, 0.25), 1000) == pytest.approx(1500)
    assert pacer.note(look(30, 0.0), 1000) == pytest.approx(2000)


@pytest.mark.parametrize(
    ("service_hz", "room"),
    [(1000, 1000), (1000, 64), (100, 64), (100, 8), (3000, 4096), (20, 64), (5, 4), (1, 8)],
)
@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_what_waits_comes_to_fifty_ms_of_work_or_half_of_the_room(service_hz, room, jitter):
    seconds = 20 + 20 * room / service_hz / 10
    instants, delivered = simulate(Credit(), service_hz, room, seconds=seconds, jitter=jitter)
    settled = [each for each in instants if each.at_s > seconds / 2]
    assert all(each.hz is not None for each in settled)
    assert max(each.waiting for each in settled) <= 1.5 * aim(service_hz, room) + 2
    average = sum(each.waiting for each in settled) / len(settled)
    assert average == pytest.approx(aim(service_hz, room), abs=1 + 0.1 * aim(service_hz, room))
    assert delivered >= 0.9 * service_hz * seconds - 2


def test_it_follows_a_consumer_that_becomes_slower_and_faster():
    instants, _ = simulate(
        Credit(), lambda at_s: 200 if 5 < at_s < 10 else 1000, 100, seconds=15, jitter=0.3, source_hz=5000
    )
    rates = {second: [each.hz for each in instants if second - 1 < each.at_s < second] for second in (5, 10, 15)}
    averages = {second: sum(found) / len(found) for second, found in rates.items()}
    assert averages == {
        5: pytest.approx(1000, rel=0.1),
        10: pytest.approx(200, rel=0.1),
        15: pytest.approx(1000, rel=0.1),
    }


@pytest.mark.parametrize(("service_hz", "room"), [(1000, 100), (100, 64), (20, 16)])
def test_it_ends_where_what_comes_is_less_than_what_is_taken(service_hz, room):
    instants, _ = simulate(
        Credit(),
        lambda at_s: service_hz if at_s < 5 else 10 * service_hz,
        room,
        seconds=10,
        source_hz=1.5 * service_hz,
        jitter=0.3,
    )
    assert any(each.hz is not None for each in instants if 4 < each.at_s < 5)
    assert all(each.hz is None for each in instants if each.at_s > 6)


def test_an_empty_look_in_between_does_not_end_it():
    pacer = Credit()
    pacer.note(look(0, 1.0), 1000)
    for at_ms in range(10, 2000, 10):
        assert pacer.note(look(at_ms, 0.5 if at_ms % 190 == 0 else 0.0), 1000) is not None


def test_it_stays_empty_for_two_tenths_of_a_second_or_eight_blocks_of_a_slow_consumer():
    for service_hz, ends_ms in ((1000, 210), (4, 2010)):
        pacer = Credit()
        assert pacer.note(look(0, 1.0), service_hz) is not None
        paced = [at_ms for at_ms in range(10, 3000, 10) if pacer.note(look(at_ms, 0.0), service_hz) is not None]
        assert paced[-1] == ends_ms - 10
        # And begins again where it is full again.
        assert pacer.note(look(3000, 1.0), service_hz) is not None


@settings(derandomize=True, database=None, deadline=None, max_examples=40)
@given(
    st.floats(20, 2000),
    st.integers(4, 300),
    st.floats(0, 0.8),
    st.floats(1.2, 1000),
    st.integers(0, 1 << 30),
)
@example(
    service_hz=100.0, room=64, jitter=0.0, faster=1000.0, seed=0
)  # 50 ms of work are less than a tenth of the room
@example(service_hz=20.0, room=20, jitter=0.8, faster=18.0, seed=107)  # of few blocks, some take twice as long
def test_a_queue_under_credit_neither_starves_its_consumer_nor_stays_full(service_hz, room, jitter, faster, seed):
    seconds = 8 + 4 * room / service_hz
    instants, delivered = simulate(
        Credit(), service_hz, room, seconds=seconds, source_hz=faster * service_hz, jitter=jitter, seed=seed
    )
    settled = [each for each in instants if each.at_s > seconds / 2]
    assert sum(each.idle for each in settled) <= 0.1 * len(settled)
    if room > 2 * STANDING_S * service_hz + 10:  # it is full with more work than may stand
        assert sum(each.waiting >= 0.9 * room for each in settled) <= 0.02 * len(settled)
    assert delivered >= 0.85 * service_hz * seconds - 5


@settings(derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1000), st.floats(0, 1), st.integers(0, 5000), st.none() | st.floats(0, 1e6)),
        max_size=100,
    )
)
def test_a_rate_is_one_that_something_comes_with(rows):
    for pacer in (Credit(), AdditiveIncrease()):
        at_ms = 1
        for interval_ms, fill, waiting, service_hz in rows:
            at_ms += interval_ms
            hz = pacer.note(look(at_ms, fill)._replace(waiting=waiting), service_hz)
            assert hz is None or hz >= 0.1


# --- a little more all the time, and a quarter less where it fills ------------------------------------------------------


def increase(*looks, service_hz=1000.0):
    """What follows from looks at (ms, fill)."""
    pacer = AdditiveIncrease()
    return [pacer.note(look(at_ms, fill), service_hz) for at_ms, fill in looks]


def test_nothing_is_paced_before_more_than_half_of_the_room_is_taken():
    assert increase((10, 0.0), (20, 0.5)) == [None, None]
    assert increase((10, 1.0), service_hz=None) == [None]


def test_it_begins_with_what_is_taken():
    assert increase((10, 0.2), (20, 0.51)) == [None, 1000]


def test_it_cuts_by_a_quarter_and_at_most_every_tenth_of_a_second():
    looks = [(at_ms, 0.9) for at_ms in range(10, 330, 10)]
    rates = increase(*looks)
    cuts = [at_ms for (at_ms, _), before, now in zip(looks[1:], rates, rates[1:], strict=False) if now < before]
    assert cuts == [110, 210, 310]
    assert CUT_NS == 100 * MS
    assert rates[-1] == pytest.approx(1000 * CUT**3)


def test_it_gives_half_of_what_is_taken_more_in_a_second():
    rates = increase((10, 0.9), *[(at_ms, 0.3) for at_ms in range(20, 2011, 10)])
    assert rates[-1] == pytest.approx(1000 * (1 + 2 * GAIN_PER_S))


def test_what_has_grown_while_less_came_is_cut_down_to_what_is_taken_in_no_time():
    rates = increase((10, 0.9), *[(at_ms, 0.3) for at_ms in range(20, 60_000, 10)], (60_000, 0.9), (60_110, 0.9))
    assert rates[-3] > 30_000
    assert rates[-2:] == [pytest.approx(1700), pytest.approx(1445)]


def test_after_a_long_time_without_a_look_it_doubles_at_most():
    assert increase((10, 0.9), (600_000, 0.3)) == [1000, 2000]


def test_a_clock_that_goes_back_changes_nothing():
    assert increase((1000, 0.9), (10, 0.3)) == [1000, 1000]


def test_it_is_never_cut_to_nothing():
    rates = increase(*[(at_ms, 1.0) for at_ms in range(10, 60_000, 100)], service_hz=2.0)
    assert rates[-1] == 0.1


@pytest.mark.parametrize(("service_hz", "room"), [(1000, 1000), (100, 64), (100, 8), (20, 64)])
@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_a_queue_under_additive_increase_is_never_full_for_long_and_its_consumer_seldom_idle(service_hz, room, jitter):
    instants, delivered = simulate(AdditiveIncrease(), service_hz, room, jitter=jitter)
    settled = [each for each in instants if each.at_s > 5]
    assert sum(each.waiting >= 0.9 * room for each in settled) <= 0.01 * len(settled)
    assert sum(each.idle for each in settled) <= 0.05 * len(settled)
    assert delivered >= 0.9 * service_hz * 20 - 2
    assert all(each.hz is not None for each in settled)


def test_a_consumer_is_as_fast_as_what_it_takes_also_where_nothing_waits():
    """Else one that was slow would be paced for ever by what it once took: where it is paced, nothing waits."""
    service = ServiceRate()

    def reading(at_ms, delivered, waiting):
        return Reading(1 + at_ms * MS, delivered + waiting, delivered, 0, waiting, waiting / 64, 0, 0, 0)

    for at_ms, delivered in ((0, 0), (50, 100)):
        service.note_taken(reading(at_ms, delivered, 0))
        service.note(reading(at_ms, delivered, 0))
    assert service.hz is None  # it may have waited
    for at_ms in range(100, 1100, 100):
        service.note_taken(reading(at_ms, 100 + at_ms // 20, 64))
        service.note(reading(at_ms, 100 + at_ms // 20, 64))
    assert service.hz == pytest.approx(50, rel=0.2)
    service.note_taken(reading(1020, 160, 0))
    service.note_taken(reading(1050, 650, 0))
    assert service.hz == pytest.approx(10_000, rel=0.2)
    service.note_taken(reading(1100, 651, 0))
    assert service.hz == pytest.approx(10_000, rel=0.2)
