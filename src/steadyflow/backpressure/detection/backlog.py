"""What becomes of what waits: whether more is taken than comes, however much there still is, or more comes, however much room there is."""

from __future__ import annotations

from collections import deque
from typing import Final

from steadyflow.arguments import checked_number
from steadyflow.backpressure.detection.combined import checked_detectors
from steadyflow.backpressure.detection.detector import Detector, checked_ms
from steadyflow.backpressure.detection.growing_queue import LEAST_BLOCKS, GrowingQueue
from steadyflow.backpressure.reading import Reading, growth
from steadyflow.backpressure.verdict import Verdict

SOON_WINDOWS: Final = 8
"""What is taken back within so many windows has come too soon, and has to hold for longer the next time: up to as many, less one."""


class WithBacklog:
    """
    Congested where its detector says so; relieved while what waits becomes clearly less, and not while it becomes clearly more.

    A pipeline that keeps what it cannot deliver at once (a large room, `Grow`, `Spill`) has a backlog when an overload is over, and delivers it for
    as long as there is much of it, while its detector goes on. But the overload is over: the consumer takes more than comes. The other
    way round, a room that grows looks emptier, although more and more waits. So what waits, in memory and on disk, is compared
    with what waited a window ago.

    That it drains is taken back where a block is dropped, the pipeline becomes full although nothing is on disk, the queue grows for 30 ms
    (`GrowingQueue`), or is no shorter than a window ago; once nothing waits, where 6 blocks do again. Where that happens soon, as between bursts, it has to drain for twice as long until it
    is said again, up to 2 s, until nothing waits.

    Args:
        detector: For no other pipeline or combination.
        window_ms: Over how long it is compared.
        least_share: What is clear, as a share of what was delivered then; 6 blocks at least.

    Raises:
        ConfigurationError: That is no detector, the time is none above 0, or that is no share.
    """

    name: Final = "backlog"

    def __init__(self, detector: Detector, window_ms: float = 250.0, least_share: float = 0.15) -> None:
        (self._detector,) = checked_detectors("WithBacklog", [detector])
        self._window_ns = checked_ms("WithBacklog", "window_ms", window_ms)
        self._least_share = checked_number("WithBacklog", "least_share", least_share, above=0, most=1)
        self._growing = GrowingQueue()
        self._looks: deque[Reading] = deque()  # those of the window, and the one before it
        self._congested = False
        self._rises = False
        self._less_since_ns: int | None = None  # since when clearly less waits than a window before
        self._patience_ns = 0  # for how long it has to be so
        self._drains_since_ns: int | None = None
        self._drained = False  # whether nothing has waited since

    def note(self, reading: Reading) -> Verdict:
        """Take in what a look found, and return the verdict on it."""
        verdict = self._detector.note(reading)
        self._follow(reading._replace(waiting=reading.waiting + reading.spilled))
        if verdict.congested and self._drains_since_ns is not None:
            verdict = self._verdict(reading, congested=False)
        elif self._congested and not verdict.congested and self._rises:
            verdict = self._verdict(reading, congested=True)
        self._congested = verdict.congested
        return verdict

    def _follow(self, reading: Reading) -> None:
        """Compare with what waited before; what waits on disk is among what waits."""
        looks = self._looks
        if looks and reading.at_ns <= looks[-1].at_ns:
            return
        grows = self._growing.note(reading).congested
        hindered = bool(looks) and _is_hindered(looks[-1], reading)
        if hindered or not reading.waiting:
            looks.clear()
        looks.append(reading)
        while len(looks) > 2 and looks[1].at_ns <= reading.at_ns - self._window_ns:
            looks.popleft()
        happened = growth(looks[0], reading)
        fall = looks[0].waiting - reading.waiting
        least = max(LEAST_BLOCKS, self._least_share * happened.delivered)
        self._rises = fall <= -least
        if not reading.waiting:
            self._less_since_ns = None
            self._patience_ns = 0
            self._drained = self._drains_since_ns is not None
        elif self._drains_since_ns is not None:
            if hindered or grows or (reading.waiting >= LEAST_BLOCKS if self._drained else fall < 1):
                self._take_back(reading.at_ns - self._drains_since_ns)
        elif grows or happened.elapsed_ns < self._window_ns or fall < least:
            self._less_since_ns = None
        else:
            self._less_since_ns = self._less_since_ns or reading.at_ns
            if reading.at_ns - self._less_since_ns >= self._patience_ns:
                self._drains_since_ns = reading.at_ns

    def _take_back(self, lasted_ns: int) -> None:
        self._less_since_ns = self._drains_since_ns = None
        if self._drained:
            self._drained = False
        elif lasted_ns < SOON_WINDOWS * self._window_ns:
            longer_ns = max(2 * self._patience_ns, self._window_ns)
            self._patience_ns = min(longer_ns, (SOON_WINDOWS - 1) * self._window_ns)
        else:
            self._patience_ns = 0

    def _verdict(self, reading: Reading, *, congested: bool) -> Verdict:
        first, last = self._looks[0], self._looks[-1]
        elapsed_ms, fall = (last.at_ns - first.at_ns) / 1e6, first.waiting - last.waiting
        on_disk = f", {reading.spilled} of them on disk" if reading.spilled else ""
        compared = f"{abs(fall)} {'more' if fall < 0 else 'fewer'} than {elapsed_ms:.0f} ms ago"
        numbers = [("waiting_count", float(last.waiting)), ("fall_count", float(fall)), ("window_ms", elapsed_ms)]
        if fall > 0:
            drained_ms = elapsed_ms * last.waiting / fall
            numbers.append(("drained_in_ms", drained_ms))
            compared += f"; if it goes on like this, none in {drained_ms / 1e3:.1f} s"
        return Verdict(self.name, congested, "LOW", f"{last.waiting} blocks wait{on_disk}, {compared}", tuple(numbers))


def _is_hindered(last: Reading, reading: Reading) -> bool:
    """Tell whether something has happened that is no draining, or counters have begun again."""
    happened = growth(last, reading)
    filled = happened.full_events > 0 and not reading.spilled
    return filled or reading.dropped != last.dropped or reading.sent < last.sent
