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
    with what waited a window ago; relief is held from a clear rise on until there is none.

    That it drains is taken back where a block is dropped, a sender waits, the pipeline becomes full although nothing is on disk, the queue grows
    for 30 ms (`GrowingQueue`), or is no shorter than a window ago; once nothing waits, where its detector has come to rest, or 6 blocks wait
    again. Where that happens soon, as between bursts, it has to drain for twice as long until it is said again, up to 2 s, until its
    detector rests.

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
        self._follow(reading._replace(waiting=reading.waiting + reading.spilled), pressed=verdict.congested)
        if verdict.congested and self._drains_since_ns is not None:
            verdict = self._verdict(reading, congested=False)
        elif self._congested and not verdict.congested and self._rises:
            verdict = self._verdict(reading, congested=True)
        self._congested = verdict.congested
        return verdict

    def _follow(self, reading: Reading, *, pressed: bool) -> None:
        """Compare with what waited before; what waits on disk is among what waits. `pressed`: what its detector says."""
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
        is_whole = happened.elapsed_ns >= self._window_ns
        self._note_rise(fall, least, happened.elapsed_ns, waits=reading.waiting > 0)
        if self._drains_since_ns is None:
            self._note_fall(reading, is_clear=is_whole and fall >= least and not grows)
        elif hindered or grows:
            self._take_back(reading, pressed=pressed)
        elif self._drained:
            if not pressed or reading.waiting >= LEAST_BLOCKS:
                self._drains_since_ns, self._drained = None, False
        elif not reading.waiting:
            self._drained = True
        elif fall < 1:
            self._take_back(reading, pressed=pressed)
        if not pressed or not reading.waiting:
            self._patience_ns = 0

    def _note_rise(self, fall: int, least: float, elapsed_ns: int, *, waits: bool) -> None:
        """Note whether more and more waits. It does until it no longer does so, after a loss, too, from which on nothing is compared."""
        if fall <= -least:
            self._rises = True
        elif (
            not waits
            or (elapsed_ns >= self._window_ns and fall >= 0)
            or (elapsed_ns >= self._window_ns // 5 and fall > 0)
        ):
            self._rises = False

    def _note_fall(self, reading: Reading, *, is_clear: bool) -> None:
        """Note that it drains, where it has for long enough."""
        if not is_clear:
            self._less_since_ns = None
            return
        self._less_since_ns = self._less_since_ns or reading.at_ns
        if reading.at_ns - self._less_since_ns >= self._patience_ns:
            self._drains_since_ns = reading.at_ns

    def _take_back(self, reading: Reading, *, pressed: bool) -> None:
        """It drains no more; where that is so soon that it need not have been said, and would be news, the next time is later."""
        assert self._drains_since_ns is not None
        lasted_ns = reading.at_ns - self._drains_since_ns
        self._less_since_ns = self._drains_since_ns = None
        self._drained = False
        if pressed and lasted_ns < SOON_WINDOWS * self._window_ns:
            longer_ns = max(2 * self._patience_ns, self._window_ns)
            self._patience_ns = min(longer_ns, (SOON_WINDOWS - 1) * self._window_ns)
        else:
            self._patience_ns = 0

    def _verdict(self, reading: Reading, *, congested: bool) -> Verdict:
        first, last = self._looks[0], self._looks[-1]
        elapsed_ms, fall = (last.at_ns - first.at_ns) / 1e6, first.waiting - last.waiting
        change = ("fall_count", float(fall)) if fall >= 0 else ("rise_count", float(-fall))
        numbers = [("waiting_count", float(last.waiting)), change, ("window_ms", elapsed_ms)]
        reason = f"{last.waiting} {'block waits' if last.waiting == 1 else 'blocks wait'}"
        if reading.spilled:
            reason += f", {reading.spilled} of them on disk"
        if fall:
            reason += f", {abs(fall)} {'more' if fall < 0 else 'fewer'} than {elapsed_ms:.0f} ms ago"
        if fall > 0:
            drained_ms = elapsed_ms * last.waiting / fall
            numbers.append(("drained_in_ms", drained_ms))
            reason += f"; if it goes on like this, none in {drained_ms / 1e3:.1f} s"
        return Verdict(self.name, congested, "LOW", reason, tuple(numbers))


def _is_hindered(last: Reading, reading: Reading) -> bool:
    """Tell whether something has happened that is no draining, or counters have begun again."""
    happened = growth(last, reading)
    filled = happened.full_events > 0 and not reading.spilled
    return filled or happened.blocked_ns > 0 or reading.dropped != last.dropped or reading.sent < last.sent
