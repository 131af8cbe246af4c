"""
Whether a pipeline keeps its budget, judged from what its consumers' cycles took: pure rules, no clock, no thread.

A cycle is a block, from its sending to the end of the work on it; its share is what that took of its deadline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

WINDOW_CYCLES: Final = 10
"""How many of the latest cycles are judged together."""
OVER_CYCLES: Final = 3
"""With so many of them over the limit, the budget is exceeded; with none of them, it is restored."""
LIMIT: Final = 1.0
"""The share of its deadline that a cycle may take."""
LOCK_LIMIT: Final = 0.1
"""The share of a block's length that its consumer may wait for the interpreter lock, at the 99th percentile."""
LOCK_BLOCKS: Final = 200
"""How many blocks there have to be before that is judged."""
LOCK_INTERVAL_NS: Final = 1_000_000_000
"""How long until it is judged again."""


class ConsumerCycles(NamedTuple):
    """
    What one consumer's cycles were at a look.

    Args:
        cycles: How many there have been.
        shares: Those of the latest ones, the oldest first.
    """

    cycles: int
    shares: Sequence[float]


class Verdict(NamedTuple):
    """
    What a look found to have changed.

    Args:
        exceeded: True: the budget is exceeded from now on; False: it is kept again.
        share: The largest share among the cycles that were judged.
    """

    exceeded: bool
    share: float


class BudgetWatch:
    """
    Watches the budget of one pipeline, at looks that may come at any interval.

    It is exceeded when three of ten cycles in a row were over the limit, and kept again when ten in a row were not: those that
    were over are out of the window by then. A look at
    which nothing has been finished for longer than the limit, although blocks are on their way, counts as such a cycle: so a
    consumer that hangs is seen, too. Cycles between two looks of which only the latest 64 can be seen are judged
    by those.

    Args:
        limit: The share of its deadline that a cycle may take.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        self._limit = limit
        self._window: deque[float] = deque(maxlen=WINDOW_CYCLES)
        self._seen: list[int] = []
        self._waiting_since_ns: int | None = None
        self.exceeded = False
        """Whether it is, as of the latest look."""

    def look(
        self, now_ns: int, consumers: Sequence[ConsumerCycles], waiting: bool, deadline_ns: float
    ) -> list[Verdict]:
        """
        Judge what happened since the last look.

        Args:
            now_ns: When the look was taken.
            consumers: The cycles of each consumer, in the same order as long as there are as many.
            waiting: Whether blocks are on their way.
            deadline_ns: How long a cycle may take; 0: not known yet.

        Returns:
            What has changed, in order: an excess may have begun and ended since.
        """
        fresh = self._fresh(consumers)
        if fresh or not waiting or self._waiting_since_ns is None:
            self._waiting_since_ns = now_ns if waiting else None
        elif deadline_ns > 0:
            # Only what is over: before, it is a block that takes its time, and will be counted when it is finished.
            share = (now_ns - self._waiting_since_ns) / deadline_ns
            fresh = [share] if share > self._limit else []
        verdicts = []
        for share in fresh:
            self._window.append(share)
            over = sum(each > self._limit for each in self._window)
            exceeded = over > 0 if self.exceeded else over >= OVER_CYCLES
            if exceeded != self.exceeded:
                self.exceeded = exceeded
                verdicts.append(Verdict(exceeded, max(self._window)))
        return verdicts

    def _fresh(self, consumers: Sequence[ConsumerCycles]) -> list[float]:
        if not self._seen:
            self._seen = [0] * len(consumers)
        elif len(self._seen) != len(consumers):
            # A module at the pipeline is being replaced, or has been: what its consumers finish is judged from now on.
            self._seen = [each.cycles for each in consumers]
        fresh: list[float] = []
        for index, (cycles, shares) in enumerate(consumers):
            new = min(cycles - self._seen[index], len(shares))
            if new > 0:
                fresh += shares[-new:]
            self._seen[index] = cycles
        return fresh


class LockWatch:
    """Watches how long a consumer waits for the interpreter lock; tells once."""

    def __init__(self) -> None:
        self._next_ns = 0
        self.told = False
        """Whether it has been told; then there is nothing more to look at."""

    def is_due(self, now_ns: int, blocks: int) -> bool:
        """Tell whether to look: after 200 blocks, and then every second."""
        if self.told or blocks < LOCK_BLOCKS or now_ns < self._next_ns:
            return False
        self._next_ns = now_ns + LOCK_INTERVAL_NS
        return True

    def judge(self, gil_p99_ms: float, period_ms: float) -> bool:
        """Tell whether it waits for too long, the first time that it does."""
        if self.told or period_ms <= 0 or gil_p99_ms <= LOCK_LIMIT * period_ms:
            return False
        self.told = True
        return True
