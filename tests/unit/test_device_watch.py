"""What is told of deadlines that a device missed, and when."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from steadyflow.metrics.devices import TELL_INTERVAL_NS, DeviceWatch, MissedDeadlines

NOTHING = MissedDeadlines(0, 0, 0, 0)


def test_what_is_missed_is_told_at_once_and_what_follows_together() -> None:
    watch = DeviceWatch()
    assert watch.look(0, NOTHING) is None
    assert watch.look(50, MissedDeadlines(1, 0, 0, 0)) == MissedDeadlines(1, 0, 0, 0)
    assert watch.look(100, MissedDeadlines(2, 0, 128, 0)) is None
    assert watch.look(200, MissedDeadlines(3, 1, 128, 0)) is None
    assert watch.look(50 + TELL_INTERVAL_NS, MissedDeadlines(3, 1, 128, 0)) == MissedDeadlines(2, 1, 128, 0)
    assert watch.look(60 + 2 * TELL_INTERVAL_NS, MissedDeadlines(3, 1, 128, 0)) is None
    assert watch.look(70 + 2 * TELL_INTERVAL_NS, MissedDeadlines(3, 1, 128, 4)) == MissedDeadlines(0, 0, 0, 4)


steps = st.tuples(st.integers(0, TELL_INTERVAL_NS), st.tuples(*[st.integers(0, 3)] * 4))


@given(st.lists(steps, max_size=40))
def test_everything_is_told_once(script: list[tuple[int, tuple[int, int, int, int]]]) -> None:
    watch, now_ns, totals = DeviceWatch(), 0, NOTHING
    told = NOTHING
    times = []
    for passed_ns, more in script:
        now_ns += passed_ns
        totals = MissedDeadlines(*(one + other for one, other in zip(totals, more, strict=True)))
        news = watch.look(now_ns, totals)
        if news is not None:
            assert any(news)
            times.append(now_ns)
            told = MissedDeadlines(*(one + other for one, other in zip(told, news, strict=True)))
    last = watch.look(now_ns + 2 * TELL_INTERVAL_NS, totals)
    told = MissedDeadlines(*(one + other for one, other in zip(told, last or NOTHING, strict=True)))
    assert told == totals
    assert all(later - earlier >= TELL_INTERVAL_NS for earlier, later in itertools.pairwise(times))
