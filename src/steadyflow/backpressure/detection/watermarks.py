"""How much of its room is taken."""

from __future__ import annotations

from typing import Final

from steadyflow.backpressure.detection.detector import checked_marks
from steadyflow.backpressure.reading import Reading, growth
from steadyflow.backpressure.verdict import Level, Verdict
from steadyflow.formats import checked_integer

MOST_LOOKS: Final = 10_000
"""How many looks may have to agree."""


class Watermarks:
    """
    Congested where a pipeline is nearly full at several looks in a row, or became full; relieved where it is rather empty as often.

    Becoming full needs no second look: somebody had to wait by then, or something was dropped. A second look at the same moment is none.

    Args:
        high: The share of its room from which on it is nearly full.
        low: The share below which it is rather empty.
        looks: How many looks in a row have to agree.

    Raises:
        ConfigurationError: A mark is no share, low is not below high, or looks is no integer from 1 on.
    """

    name: Final = "watermarks"

    def __init__(self, high: float = 0.8, low: float = 0.5, looks: int = 2) -> None:
        self._low, self._high = checked_marks("Watermarks", low, high)
        self._looks = checked_integer("Watermarks", "looks", looks, MOST_LOOKS)
        self._last: Reading | None = None
        self._congested = False
        self._agreeing = 0  # looks in a row that show another state than the one that it has

    def note(self, reading: Reading) -> Verdict:
        """Take in what a look found, and return the verdict on it."""
        happened = growth(self._last or reading, reading)
        is_new = self._last is None or reading.at_ns != self._last.at_ns
        self._last = reading
        filled = happened.full_events > 0
        speaks_against = reading.fill < self._low if self._congested else reading.fill >= self._high
        if not speaks_against or (filled and self._congested):
            self._agreeing = 0
        elif is_new:
            self._agreeing += 1
        agreeing = self._agreeing
        if self._agreeing >= self._looks or (filled and not self._congested):
            self._congested = not self._congested
            self._agreeing = 0
        level: Level = "HIGH" if filled or reading.fill >= self._high else "LOW" if reading.fill >= self._low else "OK"
        numbers = (
            ("fill_share", float(reading.fill)),
            ("high_share", self._high),
            ("low_share", self._low),
            ("full_events_count", float(happened.full_events)),
        )
        return Verdict(self.name, self._congested, level, self._reason(reading, filled, agreeing), numbers)

    def _reason(self, reading: Reading, filled: bool, agreeing: int) -> str:
        taken = f"{reading.fill:.0%} of its room is taken"
        if filled:
            return f"it became full since the last look; {taken}"
        looks = f" in {agreeing} looks" if agreeing > 1 else ""
        if reading.fill >= self._high:
            return f"{taken}{looks}, not below {self._high:.0%}"
        if reading.fill < self._low:
            return f"{taken}{looks}, below {self._low:.0%}"
        return f"{taken}, between {self._low:.0%} and {self._high:.0%}"
