"""How soon it will be full, as it fills now."""

from __future__ import annotations

import math
from typing import Final

from steadyflow.backpressure.detection.detector import checked_ms
from steadyflow.backpressure.reading import Growth, Reading, growth
from steadyflow.backpressure.verdict import Level, Verdict
from steadyflow.formats import checked_integer

LEAST_FILL: Final = 0.25
"""The share of its room below which nothing is predicted."""
LEAST_RISE: Final = 0.25
"""By what share of its room it has to have filled above where it usually is: less is jitter."""
GROWING_NS: Final = 25_000_000
"""For how long it has to fill: a burst that comes within less, and is worked off then, is absorbed."""
LEAST_LOOKS: Final = 2
"""At how many looks, however far apart they are."""
MOST_LOST: Final = 0.25
"""What share of that rise it may lose again in between."""
LOW_FILL: Final = 0.5
"""The share of its room below which it is relieved soon."""
CALM_LOOKS: Final = 4
"""How many looks without a sign relieve it where less than that is taken; elsewhere as many as rates are smoothed over."""

_USUAL_LOOKS: Final = 8  # over how many times as many looks as rates it is learnt where the fill usually is
_MOST_LOOKS: Final = 10_000


class TimeToFull:
    """
    Congested where a pipeline fills, and will be full soon if it goes on like this; relieved where it has time again.

    What comes and what is taken is smoothed over some looks, their lengths as well, so a rate is right whatever the interval of the
    looks is. It has to be filled by a quarter, to have filled by a quarter above where it usually is, and to do so for 25 ms, in which it
    loses little of what it has gained. So traffic whose fill stays within a quarter of the room is never called congested,
    nor is a burst that is worked off at once. What is full already has no time left, and counts as filling.

    Relieved after 4 looks in a row without a sign of it (no time below twice the horizon, not full) with less than half of its room
    taken; wherever it stands, after as many as are smoothed over. Where the usual fill rises by and by, as that of a jitter buffer
    does, it is learnt.

    Args:
        horizon_ms: How soon is soon.
        looks: Over how many looks rates are smoothed.

    Raises:
        ConfigurationError: The horizon is no time above 0, or looks is no integer from 1 on.
    """

    name: Final = "time_to_full"

    def __init__(self, horizon_ms: float = 500.0, looks: int = 16) -> None:
        self._horizon_ns = checked_ms("TimeToFull", "horizon_ms", horizon_ms)
        self._looks = checked_integer("TimeToFull", "looks", looks, _MOST_LOOKS)
        self._last: Reading | None = None
        self._seen = 0  # looks at which time had passed, up to those that are smoothed over
        self._elapsed_ns = self._sent = self._delivered = 0.0  # of a look, smoothed
        self._usual_fill = 1.0
        self._growing_looks = 0  # since it began to fill
        self._growing_ns = 0  # likewise, and what lay before the first of them
        self._valley = self._peak = 0.0  # the fill when it began, and the most since
        self._calm = 0  # looks in a row without a sign
        self._congested = False

    def note(self, reading: Reading) -> Verdict:
        """Take in what a look found, and return the verdict on it."""
        last = self._last or reading
        happened = growth(last, reading)
        if reading.at_ns > last.at_ns:
            self._smooth(happened)
            self._follow(happened, last.fill, reading)
        # What is counted while time stands still counts in the next look.
        if reading.at_ns != last.at_ns or self._last is None:
            self._last = reading
        self._learn_usual_fill(reading.fill, passed=happened.elapsed_ns > 0)
        left_ns = self._left_ns(reading)
        rises = reading.fill >= LEAST_FILL and reading.fill - self._usual_fill >= LEAST_RISE
        is_soon = rises and left_ns < self._horizon_ns
        if happened.elapsed_ns > 0:
            has_sign = happened.full_events > 0 or (reading.fill >= LEAST_FILL and left_ns < 2 * self._horizon_ns)
            self._calm = 0 if has_sign else self._calm + 1
        if self._congested:
            self._congested = self._calm < (min(CALM_LOOKS, self._looks) if reading.fill < LOW_FILL else self._looks)
        elif is_soon and self._growing_looks >= LEAST_LOOKS and self._growing_ns >= GROWING_NS:
            self._congested = True
            self._calm = 0
        level: Level = "HIGH" if is_soon else "LOW" if rises and left_ns < 2 * self._horizon_ns else "OK"
        return self._verdict(reading, level, left_ns)

    def _smooth(self, happened: Growth) -> None:
        """Take the counts of a look and its length into their averages: at first plain ones, of all that there were."""
        self._seen = min(self._seen + 1, self._looks)
        self._elapsed_ns += (happened.elapsed_ns - self._elapsed_ns) / self._seen
        self._sent += (happened.sent - self._sent) / self._seen
        self._delivered += (happened.delivered - self._delivered) / self._seen

    def _follow(self, happened: Growth, last_fill: float, reading: Reading) -> None:
        """Note for how long it has been filling."""
        grows = happened.sent > happened.delivered or happened.full_events > 0 or reading.fill >= 1
        if grows:
            if not self._growing_looks:
                self._valley = self._peak = last_fill
            self._peak = max(self._peak, reading.fill)
            self._growing_looks += 1
            self._growing_ns += happened.elapsed_ns
        elif (
            reading.fill - self._usual_fill < LEAST_RISE / 2
            or self._peak - reading.fill > (self._peak - self._valley) * MOST_LOST
        ):
            self._growing_looks = self._growing_ns = 0
        # Any other look says nothing: what comes may be rarer than looks, or come in bursts that are too much in all.

    def _learn_usual_fill(self, fill: float, *, passed: bool) -> None:
        if fill <= self._usual_fill:
            self._usual_fill = fill
        elif passed:
            self._usual_fill += (fill - self._usual_fill) / (_USUAL_LOOKS * self._looks)

    def _left_ns(self, reading: Reading) -> float:
        """Return after what time it will be full; infinite where it does not fill."""
        if reading.fill >= 1:
            return 0.0
        net = self._sent - self._delivered
        if net <= 0 or reading.fill <= 0 or reading.waiting <= 0:
            return math.inf
        # What is taken of the tightest limit by one block is known by those that wait.
        room_blocks = reading.waiting * (1 - reading.fill) / reading.fill
        return room_blocks * self._elapsed_ns / net

    def _verdict(self, reading: Reading, level: Level, left_ns: float) -> Verdict:
        per_s = 1e9 / self._elapsed_ns if self._elapsed_ns > 0 else 0.0
        sent_hz, delivered_hz = self._sent * per_s, self._delivered * per_s
        # JSON has no infinity: a time that never comes is left out.
        left = () if math.isinf(left_ns) else (("time_to_full_ms", left_ns / 1e6),)
        numbers = (
            *left,
            ("horizon_ms", self._horizon_ns / 1e6),
            ("fill_share", float(reading.fill)),
            ("arrivals_hz", sent_hz),
            ("service_hz", delivered_hz),
        )
        rates = f"{sent_hz:.0f} blocks/s come, {delivered_hz:.0f} are taken, {reading.fill:.0%} of its room is"
        if left_ns == 0:
            reason = f"it is full: {rates}"
        elif left:
            reason = f"it will be full in {left_ns / 1e6:.0f} ms: {rates}"
        else:
            reason = f"it does not fill: {rates}"
        return Verdict(self.name, self._congested, level, reason, numbers)
