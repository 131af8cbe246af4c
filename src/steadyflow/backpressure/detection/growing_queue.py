"""Whether more comes than is taken, look after look."""

from __future__ import annotations

from collections import deque
from typing import Final

from steadyflow.arguments import checked_number
from steadyflow.backpressure.detection.detector import checked_ms
from steadyflow.backpressure.reading import Reading, growth
from steadyflow.backpressure.verdict import Level, Verdict

LEAST_BLOCKS: Final = 6
"""By how many blocks it has to have grown at least: less is how two clocks meet."""
LEAST_LOOKS: Final = 3


class GrowingQueue:
    """
    Congested where what waits has grown at every look for a while, by a share of what came, although its consumer has been at work; relieved
    where it has not grown for as long.

    It needs not know how much room there is, so it finds an overload long before a large room is full. A burst that comes at once is not
    one, because less waits at the next look; nor is a consumer that takes nothing at all: that is found when room becomes scarce.

    Args:
        window_ms: How long it has to grow at least. By how much is counted over twice that: in a slow stream few blocks come in that time.
        least_share: By what share of what came.

    Raises:
        ConfigurationError: The time is none above 0, or that is no share.
    """

    name: Final = "growing_queue"

    def __init__(self, window_ms: float = 30.0, least_share: float = 0.35) -> None:
        self._window_ns = checked_ms("GrowingQueue", "window_ms", window_ms)
        self._least_share = checked_number("GrowingQueue", "least_share", least_share, above=0, most=1)
        self._growing: deque[Reading] = deque()  # looks since it grows
        self._calm_since_ns: int | None = None
        self._congested = False

    def note(self, reading: Reading) -> Verdict:
        """Take in what a look found, and return the verdict on it."""
        growing = self._growing
        if growing and reading.at_ns <= growing[-1].at_ns:
            return self._verdict(reading, 0, 0, 0)
        if growing and (reading.waiting <= growing[-1].waiting or reading.sent < growing[-1].sent):
            growing.clear()
        growing.append(reading)
        while len(growing) > LEAST_LOOKS + 1 and growing[1].at_ns <= reading.at_ns - 2 * self._window_ns:
            growing.popleft()
        first = growing[0]
        happened = growth(first, reading)
        rise = reading.waiting - first.waiting
        lasts = happened.elapsed_ns >= self._window_ns and len(growing) > LEAST_LOOKS
        is_much = rise >= max(LEAST_BLOCKS, self._least_share * happened.sent)
        grows = lasts and is_much and happened.delivered > 0
        if grows:
            self._congested, self._calm_since_ns = True, None
        elif self._congested and rise <= 0:
            if self._calm_since_ns is None:
                self._calm_since_ns = reading.at_ns
            self._congested = reading.at_ns - self._calm_since_ns < self._window_ns
        return self._verdict(reading, rise, happened.sent, happened.delivered)

    def _verdict(self, reading: Reading, rise: int, sent: int, delivered: int) -> Verdict:
        level: Level = "HIGH" if self._congested else "LOW" if rise >= LEAST_BLOCKS else "OK"
        numbers = (
            ("rise_count", float(rise)),
            ("sent_count", float(sent)),
            ("delivered_count", float(delivered)),
            ("window_ms", self._window_ns / 1e6),
        )
        reason = (
            f"{rise} more blocks wait than some looks ago: {sent} came, and {delivered} were taken"
            if rise
            else "it does not grow"
        )
        return Verdict(self.name, self._congested, level, reason, numbers)
