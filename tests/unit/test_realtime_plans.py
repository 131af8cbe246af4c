"""What a real-time worker asks the system for, given its limits: decisions only, nothing is asked here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyflow import PipelinePriority
from steadyflow.runtime.memory_lock import plan_memory_lock
from steadyflow.runtime.runaway import running_module
from steadyflow.runtime.scheduling import (
    CRITICAL_PRIORITY,
    HIGH_PRIORITY,
    LOW_PRIORITY,
    NORMAL_PRIORITY,
    RUNAWAY_LIMIT_US,
    Refusal,
    Scheduling,
    Terms,
    fifo_attempts,
    rtkit_terms,
    runaway_limits,
    wanted_priority,
)

MIB = 1 << 20
RANKS = st.lists(st.integers(0, 3))


@pytest.mark.parametrize(
    ("priority", "expected"),
    [
        ("critical", CRITICAL_PRIORITY),
        ("high", HIGH_PRIORITY),
        ("normal", NORMAL_PRIORITY),
        ("low", LOW_PRIORITY),
    ],
)
def test_a_pipelines_priority_has_its_real_time_priority(priority, expected):
    assert wanted_priority([PipelinePriority(priority).rank]) == expected


def test_real_time_priorities_lie_above_none_and_below_the_clients_of_an_audio_server():
    assert 0 < LOW_PRIORITY < NORMAL_PRIORITY < HIGH_PRIORITY < CRITICAL_PRIORITY < 5


@given(RANKS, RANKS)
def test_the_most_critical_input_decides_or_the_outputs_where_there_is_none(inputs, outputs):
    wanted = wanted_priority(iter(inputs), iter(outputs))
    assert wanted == max((wanted_priority([rank]) for rank in inputs or outputs), default=NORMAL_PRIORITY)


@pytest.mark.parametrize(
    ("wanted", "limit", "attempts"),
    [(4, 0, (4,)), (4, -1, (4,)), (4, 95, (4,)), (4, 4, (4,)), (4, 2, (4, 2)), (1, 1, (1,))],
)
def test_a_lower_limit_is_asked_for_after_what_a_privilege_may_grant(wanted, limit, attempts):
    assert fifo_attempts(wanted, limit) == attempts


def test_rtkit_is_asked_within_its_limits():
    assert rtkit_terms(4, 20, 200_000) == Terms(4, 150_000, 200_000)
    assert rtkit_terms(4, 3, 200_000) == Terms(3, 150_000, 200_000)
    assert rtkit_terms(4, 20, 10_000_000) == Terms(4, RUNAWAY_LIMIT_US, 10_000_000)
    assert rtkit_terms(4, 0, 200_000) is None
    assert rtkit_terms(4, 20, 0) is None


@given(st.integers(1, 99), st.integers(1, 99), st.integers(2, 1 << 40))
def test_a_thread_of_rtkit_is_lowered_before_it_is_killed(wanted, most, rttime_max_us):
    terms = rtkit_terms(wanted, most, rttime_max_us)
    assert terms.priority == min(wanted, most)
    assert 0 < terms.soft_us < terms.hard_us <= rttime_max_us


@given(st.one_of(st.just(-1), st.integers(1, 1 << 40)), st.one_of(st.just(-1), st.integers(2, 1 << 40)))
def test_a_runaway_is_lowered_before_it_is_killed_and_no_limit_is_raised(soft_us, hard_us):
    if hard_us >= 0 and not 0 <= soft_us <= hard_us:
        soft_us = hard_us  # the kernel has no other
    soft, hard = runaway_limits(soft_us, hard_us)
    assert hard == hard_us
    assert 0 < soft <= RUNAWAY_LIMIT_US
    assert soft_us < 0 or soft <= soft_us
    assert hard < 0 or soft < hard


def test_usual_limits_of_a_runaway():
    assert runaway_limits(-1, -1) == (RUNAWAY_LIMIT_US, -1)
    assert runaway_limits(200_000, 200_000) == (150_000, 200_000)


@pytest.mark.parametrize(
    ("limit", "segments", "planned"),
    [
        (None, [1 * MIB], "everything"),
        (None, [], "everything"),
        (500 * MIB, [1 * MIB], "present"),
        (309 * MIB, [1 * MIB], "present"),
        (308 * MIB - 1, [1 * MIB], "segments"),
        (8 * MIB, [1 * MIB], "segments"),
        (8 * MIB, [9 * MIB, 1 * MIB], "segments"),
        (8 * MIB, [9 * MIB], "nothing"),
        (0, [1 * MIB], "nothing"),
    ],
)
def test_what_memory_is_locked(limit, segments, planned):
    assert plan_memory_lock(limit, mapped_bytes=300 * MIB, stack_bytes=8 * MIB, segment_bytes=segments) == planned


def test_a_module_is_named_where_it_is_the_only_one_that_it_can_be():
    assert running_module(None, [("pitch", 3)]) == "pitch"
    assert running_module(2, [("filter", 1), ("pitch", 2)]) == "pitch"
    assert running_module(None, [("filter", 1), ("pitch", 2)]) is None
    assert running_module(1, [("filter", 1), ("echo", 1)]) is None, "a loop: both have the same place"


def test_the_notice_says_all_that_was_tried_and_how_to_allow_it():
    refusals = (
        Refusal("SCHED_FIFO", "not for this user"),
        Refusal("RealtimeKit", "no bus"),
        Refusal("memory lock", "8 MiB"),
    )
    notice = Scheduling(refusals=refusals).notice
    assert notice.startswith("not for this user; no bus; allow it with ")
    assert "/etc/security/limits.d" in notice
    assert "8 MiB" not in notice


def test_there_is_no_notice_of_what_was_granted_or_not_asked_for():
    assert Scheduling().notice is None
    granted = Scheduling(
        policy="rr", priority=4, granted_by="rtkit", refusals=(Refusal("SCHED_FIFO", "not for this user"),)
    )
    assert granted.realtime
    assert granted.notice is None


def test_what_was_granted_can_be_revoked():
    granted = Scheduling(
        policy="fifo", priority=4, granted_by="system", memory_locked="everything", runaway_limit_us=500_000
    )
    left = granted.revoked("it computed for 500 ms")
    assert (left.policy, left.priority, left.granted_by, left.realtime) == ("other", 0, None, False)
    assert left.memory_locked == "everything"
    assert left.notice == "it computed for 500 ms"
