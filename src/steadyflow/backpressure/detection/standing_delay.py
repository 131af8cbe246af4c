"""How long its blocks wait, even the quickest: as CoDel does, K. Nichols and V. Jacobson, "Controlling queue delay"; RFC 8289."""

from __future__ import annotations

from typing import Final

from steadyflow.backpressure.detection.detector import checked_ms
from steadyflow.backpressure.reading import Reading
from steadyflow.backpressure.verdict import Level, Verdict


class StandingDelay:
    """
    Congested where even the least time that blocks waited within an interval is above a target; relieved at once where one waits less.

    A queue that absorbs a burst is empty again soon, so its least delay says nothing; one that stands only adds latency. The least is
    known between the looks as well: a block that has waited for 30 ms was there 20 ms ago, and nothing older has waited less since. So one
    look is enough where it finds a block that waited for the interval beyond the target.

    The RFC proposes an interval of 100 ms, a round trip through the internet; here it is 40 ms, so that it ends within 50 ms with looks
    every 10 ms. Those are from when the delay is above the target: while twice as much comes as is taken, that is after twice the target.

    Args:
        target_ms: How long blocks may wait for long.
        interval_ms: How long it is borne that they wait longer.

    Raises:
        ConfigurationError: One is no time above 0.
    """

    name: Final = "standing_delay"

    def __init__(self, target_ms: float, interval_ms: float = 40.0) -> None:
        self._target_ns = checked_ms("StandingDelay", "target_ms", target_ms)
        self._interval_ns = checked_ms("StandingDelay", "interval_ms", interval_ms)
        self._looked_ns: int | None = None
        self._below_ns: int | None = None  # the latest look at which it was not above
        self._above_ns: int | None = None  # since when it is
        self._congested = False

    def note(self, reading: Reading) -> Verdict:
        """Take in what a look found, and return the verdict on it."""
        now_ns = reading.at_ns
        if self._looked_ns is not None and now_ns < self._looked_ns:  # by another clock: what was before says nothing
            self._below_ns = self._above_ns = None
        self._looked_ns = now_ns
        stood_ns = 0
        if reading.sojourn_ns <= self._target_ns:
            self._above_ns = None
            self._below_ns = now_ns
            self._congested = False
        else:
            since_ns = now_ns - (reading.sojourn_ns - self._target_ns)
            if self._below_ns is not None:
                since_ns = max(since_ns, self._below_ns)
            self._above_ns = since_ns if self._above_ns is None else min(self._above_ns, since_ns)
            stood_ns = now_ns - self._above_ns
            self._congested = self._congested or stood_ns >= self._interval_ns
        level: Level = "HIGH" if self._congested else "LOW" if self._above_ns is not None else "OK"
        numbers = (
            ("sojourn_ms", reading.sojourn_ns / 1e6),
            ("target_ms", self._target_ns / 1e6),
            ("stood_ms", stood_ns / 1e6),
            ("interval_ms", self._interval_ns / 1e6),
        )
        return Verdict(self.name, self._congested, level, self._reason(reading, stood_ns), numbers)

    def _reason(self, reading: Reading, stood_ns: int) -> str:
        target = f"{self._target_ns / 1e6:g} ms"
        if self._above_ns is not None:
            return f"every block has waited above {target} for {stood_ns / 1e6:.1f} ms, the oldest for {reading.sojourn_ns / 1e6:.1f} ms"
        if reading.sojourn_ns > 0:
            return f"the oldest block has waited for {reading.sojourn_ns / 1e6:.1f} ms, within {target}"
        return "no block waits"
