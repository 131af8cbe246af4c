"""
How many views of large blocks the consumers of a pipeline should be allowed to keep, by what they kept lately.

A window is a second. What is missing is given soon, because each miss is a copy of a large block; what nobody needs is taken back late,
because it may be needed again.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

LOW_HIT_RATE: Final = 0.9
"""Below that, a pool misses too much."""

PATIENCE: Final = 10
"""How many windows in a row have to need little before anything is taken back."""

LEAST_VIEWS: Final = 2
"""The one that a module works on, and one that it compares it with."""

MOST_BYTES: Final = 64 << 20
"""What the views of one consumer may come to take. Whoever keeps more for long should copy."""

_LEAST_CHANGE: Final = 0.25
_ROOM: Final = 1.25  # above what was needed


class Window(NamedTuple):
    """
    What was asked for in a second.

    Args:
        views: How many large blocks were given where they lie.
        copies: How many had to be copied, because too many were kept.
        peak: The most that were kept at once.
    """

    views: int
    copies: int
    peak: int


class ViewDemand:
    """
    Keeps what was asked for lately, and proposes how many views there should be.

    Args:
        block_bytes: The size of one.
    """

    def __init__(self, block_bytes: int) -> None:
        self._most = max(LEAST_VIEWS, MOST_BYTES // block_bytes)
        self._windows: deque[Window] = deque(maxlen=PATIENCE)
        self._is_whole = True  # whether the window that ends next was all under this limit

    def note(self, window: Window) -> None:
        """Take in what was asked for in a second; one in which nothing flowed says nothing."""
        if self._is_whole and (window.views or window.copies):
            self._windows.append(window)
        self._is_whole = True

    def begin_anew(self) -> None:
        """Forget what was asked for under another limit."""
        self._windows.clear()
        self._is_whole = False

    def propose(self, limit: int) -> tuple[int, str] | None:
        """Return how many views there should be instead of `limit`, and why; None: as many."""
        if not self._windows:
            return None
        latest = self._windows[-1]
        if latest.views < LOW_HIT_RATE * (latest.views + latest.copies):
            wanted = min(max(2 * limit, LEAST_VIEWS), self._most)
            if wanted > limit:
                share = latest.copies / (latest.views + latest.copies)
                return (
                    wanted,
                    f"{share:.0%} of the blocks of the last second were copied, as its consumer kept {limit} already",
                )
            return None
        needed = max(window.peak for window in self._windows)
        if len(self._windows) < PATIENCE or any(window.copies for window in self._windows):
            return None
        wanted = max(LEAST_VIEWS, round(_ROOM * needed))
        if wanted < (1 - _LEAST_CHANGE) * limit and needed <= limit / 2:
            return wanted, f"its consumer kept {needed} at most in the last {PATIENCE} seconds in which blocks came"
        return None
