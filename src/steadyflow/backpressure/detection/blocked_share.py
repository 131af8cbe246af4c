"""How long its senders wait for room: as Flink shows it, with its levels."""

from __future__ import annotations

from collections import deque
from typing import Final

from steadyflow.backpressure.detection.detector import checked_marks, checked_ms
from steadyflow.backpressure.reading import Reading, growth
from steadyflow.backpressure.verdict import Level, Verdict

GOOD_WINDOWS: Final = 4
"""For how many windows it has to be OK before it is relieved: good news are believed a quarter as quickly as bad."""
PARTS: Final = 16
"""How many looks of a window are kept; what comes between them is counted, and not kept apart."""


class BlockedShare:
    """
    The share of the latest time in which senders waited for room: OK up to one mark, LOW up to another one, HIGH above.

    Congested at once where it is HIGH: the sender has lost more than half of its time, which no chance does. LOW may be a single wait that
    is still in the window, so it has to stand until the window holds nothing of what began it. Relieved where it is OK for four
    windows: a sender that is woken when half of the room is free runs freely in between, and is not out of it.

    Args:
        low: Up to which share it is OK.
        high: Up to which share it is LOW.
        window_ms: How long the latest time is. Half of 40 ms is 20 ms, which leaves a look every 10 ms to tell it within 50.

    Raises:
        ConfigurationError: A mark is no share, low is not below high, or the window is no time.
    """

    name: Final = "blocked_share"

    def __init__(self, low: float = 0.10, high: float = 0.50, window_ms: float = 40.0) -> None:
        self._low, self._high = checked_marks("BlockedShare", low, high)
        self._window_ns = checked_ms("BlockedShare", "window_ms", window_ms)
        self._last: Reading | None = None
        self._now_ns = 0  # the sum of what passed, so that a clock that goes back is none of our business
        self._blocked_ns = 0  # likewise, of what was waited
        self._kept: deque[tuple[int, int]] = deque([(0, 0)])
        self._against_ns: int | None = None  # since when looks show another state than the one that it has
        self._congested = False

    def note(self, reading: Reading) -> Verdict:
        """Take in what a look found, and return the verdict on it."""
        happened = growth(self._last or reading, reading)
        self._last = reading
        self._now_ns += happened.elapsed_ns
        self._blocked_ns += happened.blocked_ns
        share, over_ns = self._share()
        self._keep()
        level: Level = "OK" if share <= self._low else "LOW" if share <= self._high else "HIGH"
        if (level == "OK") is not self._congested:
            self._against_ns = None
        elif self._against_ns is None:
            self._against_ns = self._now_ns
        stands_ns = self._window_ns * (GOOD_WINDOWS if self._congested else 1)
        stands = self._against_ns is not None and self._now_ns - self._against_ns >= stands_ns
        if stands or (level == "HIGH" and not self._congested):
            self._congested = not self._congested
            self._against_ns = None
        numbers = (
            ("blocked_share", share),
            ("window_ms", over_ns / 1e6),
            ("low_share", self._low),
            ("high_share", self._high),
        )
        return Verdict(self.name, self._congested, level, self._reason(level, share, over_ns), numbers)

    def _share(self) -> tuple[float, int]:
        """Return the share of the window, and how long that was; before so much has passed, of the window as if nobody waited before."""
        while len(self._kept) > 1 and self._kept[1][0] <= self._now_ns - self._window_ns:
            self._kept.popleft()
        since_ns, blocked_ns = self._kept[0]
        over_ns = max(self._window_ns, self._now_ns - since_ns)
        # Several senders may wait at once.
        return min(1.0, (self._blocked_ns - blocked_ns) / over_ns), over_ns

    def _keep(self) -> None:
        if self._now_ns - self._kept[-1][0] >= max(1, self._window_ns // PARTS):
            self._kept.append((self._now_ns, self._blocked_ns))

    def _reason(self, level: Level, share: float, over_ns: int) -> str:
        waited = f"senders waited for room {share:.0%} of the last {over_ns / 1e6:.0f} ms"
        if level == "HIGH":
            return f"{waited}, above {self._high:.0%}"
        if level == "LOW":
            return f"{waited}, above {self._low:.0%}"
        return f"{waited}, not above {self._low:.0%}"
