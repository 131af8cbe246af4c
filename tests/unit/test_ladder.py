"""The steps of a rule that follows the load: scripted looks, every 10 ms."""

from __future__ import annotations

import math
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from steadyflow.backpressure.ladder import (
    BUSY_FACTOR,
    MOST_PATIENCE_NS,
    PATIENCE_NS,
    SETTLE_NS,
    Found,
    Judgement,
    Ladder,
    Move,
    Rung,
)

MS = 1_000_000
TARGET_MS = 10.0
NORMAL = Rung("normal", "")
FEWER = Rung("fewer", "that less waits", "sojourn_ms")
SLOWER = Rung("slower", "that less is lost", "lost_share")
SHED = Rung("shed", "that it is over")
RUNGS = (NORMAL, FEWER, SLOWER, SHED)


class Climber:
    """A ladder that is told of a look every 10 ms; what follows is kept with the time in ms."""

    def __init__(self, *rungs, target_ms=TARGET_MS):
        self.ladder = Ladder(rungs or RUNGS, target_ms)
        self.at_ms = 0
        self.news = []

    def looks(self, count, waited_ms=0.0, lost=0.0, **found):
        """Return what followed from so many looks that found the same."""
        before = len(self.news)
        for _ in range(count):
            self.at_ms += 10
            found_now = Found(self.at_ms * MS, waited_ms, lost, 0.5, **found)
            self.news += [(self.at_ms, news) for news in self.ladder.note(found_now)]
        return self.news[before:]

    def until(self, rung, waited_ms=0.0, lost=0.0, most=20_000, **found):
        """Look until it is at a step; return after how many ms it was."""
        before_ms = self.at_ms
        for _ in range(most):
            if self.ladder.rung is rung:
                return self.at_ms - before_ms
            self.looks(1, waited_ms, lost, **found)
        raise AssertionError(f"still at {self.ladder.rung} after {most} looks")


def moves(news):
    return [(at_ms, each.before.name, each.after.name) for at_ms, each in news if isinstance(each, Move)]


def judgements(news):
    return [(at_ms, each.rung.name, each.helped) for at_ms, each in news if isinstance(each, Judgement)]


def test_it_begins_where_nothing_is_done_and_stays_there_while_nothing_waits_for_long():
    climber = Climber()
    assert climber.ladder.pressure == 0
    assert climber.looks(1000, 0.99 * TARGET_MS, lost=0.009) == []
    assert climber.ladder.rung is NORMAL
    assert climber.ladder.pressure == pytest.approx(0.99)


def test_it_climbs_step_by_step_while_blocks_wait_for_too_long():
    climber = Climber()
    settle_ms = SETTLE_NS // MS
    assert moves(climber.looks(100, 1.5 * TARGET_MS)) == [
        (10, "normal", "fewer"),
        (10 + settle_ms, "fewer", "slower"),
        (10 + 2 * settle_ms, "slower", "shed"),
    ]
    assert climber.ladder.rung is SHED


def test_one_bad_look_among_good_ones_is_borne():
    climber = Climber()
    climber.looks(20)
    assert climber.looks(1, 3.9 * TARGET_MS) == []
    assert climber.looks(20) == []


def test_two_bad_looks_are_enough():
    climber = Climber()
    climber.looks(20)
    climber.looks(1, 3 * TARGET_MS)
    assert moves(climber.looks(1, 3 * TARGET_MS)) == [(220, "normal", "fewer")]


def test_what_is_worse_than_the_worst_is_not_remembered_for_longer():
    climbers = Climber(), Climber()
    for climber, factor in zip(climbers, (4, 4000), strict=True):
        climber.looks(50, factor * TARGET_MS)
    assert climbers[0].ladder.pressure == climbers[1].ladder.pressure == 4
    assert climbers[0].until(SLOWER) == climbers[1].until(SLOWER)


def test_one_percent_of_the_blocks_lost_is_as_bad_as_a_wait_of_the_whole_target():
    climber = Climber()
    assert moves(climber.looks(1, 0, lost=0.01)) == [(10, "normal", "fewer")]


def test_a_move_says_why_and_by_what_it_was_decided():
    climber = Climber()
    ((_, move),) = climber.looks(1, 15.0, lost=0.25)
    assert move == Move(
        NORMAL,
        FEWER,
        "the oldest block has waited for 15.0 ms, of 10.0 that it may, and 25% of the blocks were lost",
        (("pressure_ratio", 4.0), ("sojourn_ms", 15.0), ("target_ms", 10.0), ("lost_share", 0.25), ("fill_share", 0.5)),
        "that less waits",
    )


def test_a_busy_machine_is_mentioned_with_what_is_known_of_it():
    climber = Climber()
    ((_, move),) = climber.looks(1, 15.0, cpu_pressure_share=0.4, runnable_per_core=3.0)
    assert move.reason.endswith("of the blocks were lost, while the machine is busy with other things, too")
    assert dict(move.numbers)["cpu_pressure_share"] == 0.4
    assert dict(move.numbers)["runnable_per_core_ratio"] == 3.0


@pytest.mark.parametrize(
    ("cpu_pressure_share", "runnable_per_core", "busy"),
    [(None, None, False), (0.2, 2.0, False), (0.21, None, True), (None, 2.1, True), (0.0, 9.0, True)],
)
def test_a_machine_is_busy_where_one_sign_says_so(cpu_pressure_share, runnable_per_core, busy):
    assert Found(0, 0, 0, 0, cpu_pressure_share, runnable_per_core).machine_is_busy is busy


# --- whether a step has helped ------------------------------------------------------------------------------------------


def test_a_step_is_judged_when_it_has_settled_and_before_the_next_one():
    climber = Climber()
    news = climber.looks(21, 1.5 * TARGET_MS)
    assert [type(each).__name__ for _, each in news] == ["Move", "Judgement", "Move"]
    assert judgements(news) == [(210, "fewer", False)]


def test_a_step_has_helped_where_there_is_no_pressure_left():
    climber = Climber()
    climber.looks(1, 1.2 * TARGET_MS)
    assert judgements(climber.looks(30, 0.95 * TARGET_MS)) == [(210, "fewer", True)]


def test_a_step_has_helped_where_a_tenth_of_what_it_aims_at_is_gone():
    climber = Climber()
    climber.looks(1, 3.9 * TARGET_MS)
    news = climber.looks(25, 2 * TARGET_MS)
    assert judgements(news) == [(210, "fewer", True)]
    ((_, judgement),) = [each for each in news if isinstance(each[1], Judgement)]
    assert judgement.reason.startswith("the oldest block had waited for 39.0 ms before, and 2")
    assert judgement.reason.endswith(" ms now")
    assert judgement.numbers[0] == ("before_sojourn_ms", 39.0)


def test_each_step_is_judged_by_what_it_aims_at():
    climber = Climber()
    climber.until(SLOWER, 3 * TARGET_MS, lost=0.5)
    # As much is lost as before, while the blocks wait for less long: that is not what it was for.
    news = climber.looks(20, 1.0, lost=0.5)
    assert judgements(news) == [(410, "slower", False)]
    assert news[0][1].reason == "of the blocks were lost 50% before, and 50% now"
    assert climber.ladder.rung is SHED
    news = climber.looks(30, 1.0, lost=0.008)
    assert judgements(news) == [(610, "shed", True)]
    assert news[0][1].reason.startswith("the pressure, of which 1.0 is the limit, was 4.0 before, and ")
    assert news[0][1].numbers[0] == ("before_pressure_ratio", 4.0)


def test_a_step_that_is_taken_back_before_anybody_looked_is_not_judged():
    climber = Climber()
    climber.looks(1, TARGET_MS)
    climber.at_ms += 2000  # no look for two seconds
    climber.looks(1)
    assert [type(each).__name__ for _, each in climber.news] == ["Move", "Judgement"]
    climber.until(NORMAL)
    assert len(judgements(climber.news)) == 1


# --- down ---------------------------------------------------------------------------------------------------------------


def up_and_calm(climber, rung=FEWER):
    """Climb to a step, and then look until there is no pressure; return since when there is none."""
    climber.until(rung, 1.5 * TARGET_MS)
    return climber.at_ms


def test_it_descends_one_step_after_a_second_without_pressure_and_the_next_after_another():
    climber = Climber()
    up_and_calm(climber, SLOWER)
    first_ms = climber.until(FEWER)
    # The average over 16 looks has to come down first, from 1.5 to below a half.
    assert first_ms == PATIENCE_NS // MS + 10 * math.ceil(math.log(1.5 / 0.5) / math.log(16 / 15))
    assert climber.until(NORMAL) == PATIENCE_NS // MS
    assert climber.looks(1000) == []


def test_the_descent_says_why():
    climber = Climber()
    up_and_calm(climber)
    climber.until(NORMAL)
    move = climber.news[-1][1]
    assert (
        move.reason == "blocks waited for less than 50% of what they may, on average, and hardly any was lost, for 1 s"
    )
    assert move.expected == "that it stays so with less effort"


def test_half_a_pressure_is_not_none():
    climber = Climber()
    up_and_calm(climber)
    assert moves(climber.looks(1000, 0.6 * TARGET_MS)) == []
    assert climber.ladder.rung is FEWER


def test_pressure_in_between_begins_the_wait_anew():
    climber = Climber()
    up_and_calm(climber)
    climber.looks(90)
    climber.looks(15, 0.9 * TARGET_MS)
    assert moves(climber.looks(90)) == []
    assert climber.until(NORMAL) < 300


def test_it_does_not_descend_at_the_moment_at_which_pressure_comes():
    climber = Climber(NORMAL, FEWER)
    up_and_calm(climber)
    while climber.ladder.rung is FEWER:  # find out when it would
        climber.looks(1)
    descends_ms = climber.at_ms
    again = Climber(NORMAL, FEWER)
    up_and_calm(again)
    again.looks((descends_ms - again.at_ms) // 10 - 1)
    assert moves(again.looks(1, 40 * TARGET_MS)) == []
    assert again.ladder.rung is FEWER


def test_a_busy_machine_makes_it_wait_longer():
    idle, busy = Climber(), Climber()
    up_and_calm(idle)
    up_and_calm(busy)
    average_ms = idle.until(NORMAL) - PATIENCE_NS // MS
    assert busy.until(NORMAL, runnable_per_core=3.0) == BUSY_FACTOR * PATIENCE_NS // MS + average_ms
    assert "for 4 s" in busy.news[-1][1].reason


def waits_between_descents(count, *, pause_looks=0):
    """The patience of each descent where pressure comes back after each of them."""
    climber, waits = Climber(NORMAL, FEWER), []
    for _ in range(count):
        climber.until(FEWER, 1.5 * TARGET_MS)
        waits.append(climber.until(NORMAL))
        climber.looks(pause_looks)
    return waits


def test_patience_doubles_where_a_step_down_has_to_be_taken_back():
    waits = waits_between_descents(9)
    average_ms = waits[0] - PATIENCE_NS // MS
    patience_s = [round((wait - average_ms) / 1000) for wait in waits]
    assert patience_s == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert MOST_PATIENCE_NS == 60_000_000_000


def test_pressure_that_comes_much_later_is_another_one():
    assert max(waits_between_descents(4, pause_looks=300)) < 1.5 * PATIENCE_NS / MS


# --- whatever comes -----------------------------------------------------------------------------------------------------

looks = st.lists(
    st.tuples(
        st.sampled_from([1, 10, 10, 10, 50, 2000]),
        st.floats(0, 200) | st.just(0.0),
        st.floats(0, 1) | st.just(0.0),
        st.none() | st.floats(0, 1),
        st.none() | st.floats(0, 20),
    ),
    max_size=200,
)


@settings(derandomize=True, database=None, deadline=None)
@given(looks, st.integers(1, 5), st.sampled_from([0.1, 10.0, 1000.0]))
def test_it_moves_by_one_step_at_a_time_and_never_sooner_than_a_step_settles(rows, count, target_ms):
    rungs = [Rung(str(number), "", "pressure") for number in range(count)]
    ladder, at_ms, moved, judged = Ladder(rungs, target_ms), 0, [], []
    for interval_ms, waited_ms, lost, *load in rows:
        at_ms += interval_ms
        before = ladder.rung
        news = ladder.note(Found(at_ms * MS, waited_ms, lost, 0.0, *load))
        steps = [each for each in news if isinstance(each, Move)]
        assert len(steps) <= 1
        for step in steps:
            assert step.before is before
            assert step.after is ladder.rung
            assert abs(rungs.index(step.after) - rungs.index(step.before)) == 1
            moved.append((at_ms, step))
        judged += [each for each in news if isinstance(each, Judgement)]
        assert 0 <= ladder.pressure <= 4
    assert all(later - sooner >= SETTLE_NS // MS for (sooner, _), (later, _) in pairwise(moved))
    climbs = [step for _, step in moved if rungs.index(step.after) > rungs.index(step.before)]
    assert len(judged) <= len(climbs)
