"""How many views are proposed, by what was asked for: scripted seconds."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from steadyflow.metrics.view_demand import LEAST_VIEWS, MOST_BYTES, PATIENCE, ViewDemand, Window

QUIET = Window(0, 0, 0)


def demand(*windows, block_bytes=1 << 16):
    asked = ViewDemand(block_bytes)
    for window in windows:
        asked.note(window)
    return asked


def test_nothing_is_proposed_before_anything_was_asked_for():
    assert demand().propose(8) is None
    assert demand(QUIET, QUIET).propose(8) is None


def test_what_was_missing_is_doubled_at_once():
    wanted, reason = demand(Window(50, 50, 8)).propose(8)
    assert wanted == 16
    assert "50%" in reason
    assert "kept 8 already" in reason


@pytest.mark.parametrize(("copies", "is_much"), [(10, False), (11, True)])
def test_a_tenth_is_borne(copies, is_much):
    assert (demand(Window(100 - copies, copies, 8)).propose(8) is not None) == is_much


def test_it_does_not_grow_for_ever():
    block_bytes = MOST_BYTES // 20
    assert demand(Window(0, 100, 15), block_bytes=block_bytes).propose(15)[0] == 20
    assert demand(Window(0, 100, 20), block_bytes=block_bytes).propose(20) is None
    assert demand(Window(0, 100, 1), block_bytes=2 * MOST_BYTES).propose(1)[0] == LEAST_VIEWS


def test_what_nobody_needs_is_taken_back_late():
    asked = demand(*[Window(100, 0, 4)] * (PATIENCE - 1))
    assert asked.propose(32) is None
    asked.note(QUIET)  # says nothing
    assert asked.propose(32) is None
    asked.note(Window(100, 0, 4))
    wanted, reason = asked.propose(32)
    assert wanted == 5
    assert "4 at most in the last 10 seconds" in reason


def test_one_second_of_need_keeps_it():
    windows = [Window(100, 0, 2)] * PATIENCE
    windows[3] = Window(100, 0, 20)
    assert demand(*windows).propose(32) is None
    windows[3] = Window(100, 1, 2)
    assert demand(*windows).propose(32) is None


def test_a_little_less_is_left_alone():
    assert demand(*[Window(100, 0, 2)] * PATIENCE).propose(3) is None


def test_another_limit_begins_anew():
    asked = demand(Window(50, 50, 8))
    asked.begin_anew()
    assert asked.propose(16) is None
    asked.note(Window(50, 50, 8))  # partly of before
    assert asked.propose(16) is None
    asked.note(Window(50, 50, 16))
    assert asked.propose(16)[0] == 32


@given(
    st.lists(st.builds(Window, st.integers(0, 500), st.integers(0, 500), st.integers(0, 200)), max_size=30),
    st.integers(1, 300),
    st.sampled_from([1 << 12, 1 << 20, 1 << 26]),
)
def test_what_is_proposed_helps(windows, limit, block_bytes):
    proposal = demand(*windows, block_bytes=block_bytes).propose(limit)
    if proposal is None:
        return
    wanted, reason = proposal
    assert reason
    assert wanted >= LEAST_VIEWS
    if wanted > limit:
        assert wanted * block_bytes <= max(MOST_BYTES, LEAST_VIEWS * block_bytes)
        assert wanted <= max(2 * limit, LEAST_VIEWS)
    else:
        assert wanted < limit
        assert all(window.peak <= limit / 2 for window in windows[-PATIENCE:])
