"""Whether a budget is kept: the rules alone, against a plain model, without a clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyflow.metrics.budgets import (
    LOCK_BLOCKS,
    LOCK_INTERVAL_NS,
    BudgetWatch,
    ConsumerCycles,
    LockWatch,
    Verdict,
)

MS = 1_000_000
DEADLINE_NS = 20.0 * MS


def looks(watch, shares, *, per_look=1):
    """Let a watch see these shares, so many at each look; return all of its verdicts."""
    verdicts = []
    for end in range(per_look, len(shares) + per_look, per_look):
        seen = shares[:end]
        verdicts += watch.look(0, [ConsumerCycles(len(seen), seen[-64:])], True, DEADLINE_NS)
    return verdicts


def test_three_of_ten_exceed_and_ten_in_a_row_restore():
    few = [0.5, 1.2, 0.5, 1.4, 0.5]
    assert looks(BudgetWatch(), few) == []
    over = [*few, 1.1]
    assert looks(BudgetWatch(), over) == [Verdict(True, 1.4)]
    assert looks(BudgetWatch(), [*over, *[0.9] * 9]) == [Verdict(True, 1.4)]
    assert looks(BudgetWatch(), [*over, *[0.9] * 9, 0.7]) == [Verdict(True, 1.4), Verdict(False, 0.9)]


@pytest.mark.parametrize("apart", [1, 2, 3, 4, 5, 8, 20])
def test_it_depends_on_how_close_the_slow_ones_are(apart):
    shares = ([1.5] + [0.1] * (apart - 1)) * 12
    verdicts = looks(BudgetWatch(), shares)
    assert bool(verdicts) is (2 * apart < 10)


def test_what_lies_at_the_limit_is_within_it():
    assert looks(BudgetWatch(), [1.0] * 50) == []


@given(st.lists(st.floats(0, 3), max_size=150), st.integers(1, 20), st.floats(0.1, 2))
def test_it_does_not_matter_how_often_it_is_looked(shares, per_look, limit):
    expected, exceeded, window = [], False, []
    for share in shares:
        window = [*window, share][-10:]
        over = [each for each in window if each > limit]
        if (not exceeded and len(over) >= 3) or (exceeded and not over):
            exceeded = not exceeded
            expected.append(Verdict(exceeded, max(window)))
    watch = BudgetWatch(limit)
    assert looks(watch, shares, per_look=per_look) == expected
    assert watch.exceeded is exceeded


def test_of_many_cycles_between_two_looks_the_latest_are_judged():
    watch = BudgetWatch()
    assert watch.look(0, [ConsumerCycles(1000, [2.0] * 64)], True, DEADLINE_NS) == [Verdict(True, 2.0)]
    assert watch.look(0, [ConsumerCycles(5000, [0.1] * 64)], True, DEADLINE_NS) == [Verdict(False, 0.1)]


def test_consumers_that_compete_are_judged_together():
    watch = BudgetWatch()
    one, other = ConsumerCycles(2, [2.0, 0.1]), ConsumerCycles(2, [1.5, 1.2])
    assert watch.look(0, [one, other], True, DEADLINE_NS) == [Verdict(True, 2.0)]
    assert watch.look(0, [one, other], True, DEADLINE_NS) == []


def test_where_other_consumers_take_their_place_those_are_judged_from_then_on():
    watch = BudgetWatch()
    old = ConsumerCycles(5, (2.0,) * 5)
    assert [each.exceeded for each in watch.look(0, [old], False, 10)] == [True]
    assert watch.look(1, [ConsumerCycles(3, (0.1,) * 3), old], False, 10) == []
    both = [ConsumerCycles(7, (0.1,) * 7), ConsumerCycles(6, (0.1,) * 6)]
    assert watch.look(2, both, False, 10) == []
    assert watch.look(3, both[:1], False, 10) == []
    assert [each.exceeded for each in watch.look(4, [ConsumerCycles(12, (0.1,) * 12)], False, 10)] == [False]


def test_a_consumer_that_hangs_is_seen_although_it_finishes_nothing():
    watch = BudgetWatch()
    cycles = [ConsumerCycles(5, [0.1] * 5)]
    assert [watch.look(at * MS, cycles, True, DEADLINE_NS) for at in (0, 50, 100)] == [[], [], []]
    assert watch.look(150 * MS, cycles, True, DEADLINE_NS) == [Verdict(True, 7.5)]
    back = [ConsumerCycles(15, [0.1] * 15)]
    assert watch.look(200 * MS, back, True, DEADLINE_NS) == [Verdict(False, 0.1)]


def test_a_block_that_takes_its_time_counts_once_however_often_it_is_looked():
    watch = BudgetWatch()
    shares: list[float] = []
    verdicts = []
    for number in range(4):
        verdicts += [
            watch.look((number * 20 + at) * MS, [ConsumerCycles(number, shares)], True, DEADLINE_NS) for at in range(20)
        ]
        shares = [*shares, 1.05]
    assert [verdict for each in verdicts for verdict in each] == [Verdict(True, 1.05)]


def test_where_nothing_is_on_its_way_nobody_hangs():
    watch = BudgetWatch()
    cycles = [ConsumerCycles(5, [0.1] * 5)]
    assert [watch.look(at * 50 * MS, cycles, False, DEADLINE_NS) for at in range(20)] == [[]] * 20
    # What comes now has not waited before.
    assert [watch.look(at * MS, cycles, True, DEADLINE_NS) for at in (2000, 2050, 2100)] == [[]] * 3


def test_without_a_known_deadline_nothing_is_judged_by_waiting():
    watch = BudgetWatch()
    assert [watch.look(at * 50 * MS, [ConsumerCycles(0, [])], True, 0) for at in range(20)] == [[]] * 20


def test_the_lock_is_looked_at_after_200_blocks_and_then_every_second():
    watch = LockWatch()
    assert not watch.is_due(0, LOCK_BLOCKS - 1)
    assert watch.is_due(5, LOCK_BLOCKS)
    assert not watch.is_due(5 + LOCK_INTERVAL_NS - 1, 10_000)
    assert watch.is_due(5 + LOCK_INTERVAL_NS, 10_000)


def test_a_tenth_of_a_block_may_be_waited_for_the_lock_and_more_is_told_once():
    watch = LockWatch()
    assert not watch.judge(0.25, 2.5)
    assert not watch.judge(5.0, 0.0)  # no audio
    assert watch.judge(0.26, 2.5)
    assert not watch.judge(9.0, 2.5)
    assert not watch.is_due(10**15, 10**6)
