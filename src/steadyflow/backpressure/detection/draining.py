"""Whether what waits becomes less: then more is taken than comes, however much there still is."""

from __future__ import annotations

from collections import deque
from typing import Final

from steadyflow.arguments import checked_number
from steadyflow.backpressure.detection.combined import checked_detectors
from steadyflow.backpressure.detection.detector import Detector, checked_ms
from steadyflow.backpressure.detection.growing_queue import LEAST_BLOCKS, GrowingQueue
from steadyflow.backpressure.reading import Reading, growth
from steadyflow.backpressure.verdict import Verdict


class UnlessDraining:
    """
    Congested where its detector says so, unless what waits, in memory and on disk, has become clearly less for a while, and goes on to.

    A pipeline that keeps what it cannot deliver at once (a large room, `Grow`, `Spill`) has a backlog when an overload is over, and takes as long
    to deliver it as there is much of it; its detector goes on as long. The overload is over all the same: the consumer takes more than comes.
    The verdict says how much still waits, and when that will have gone. It is taken back where a block is dropped, the pipeline becomes full
    again in spite of what waits, the queue grows for 30 ms (`GrowingQueue`), or does not become less for the whole window.

    Args:
        detector: For no other pipeline or combination.
        window_ms: For how long it has to become less.
        least_share: By what share of what was delivered then; by 6 blocks at least.

    Raises:
        ConfigurationError: That is no detector, the time is none above 0, or that is no share.
    """

    name: Final = "draining"

    def __init__(self, detector: Detector, window_ms: float = 250.0, least_share: float = 0.15) -> None:
        (self._detector,) = checked_detectors("UnlessDraining", [detector])
        self._window_ns = checked_ms("UnlessDraining", "window_ms", window_ms)
        self._least_share = checked_number("UnlessDraining", "least_share", least_share, above=0, most=1)
        self._growing = GrowingQueue()
        self._looks: deque[Reading] = deque()  # those of the window, and the one before it
        self._drains = False

    def note(self, reading: Reading) -> Verdict:
        """Take in what a look found, and return the verdict on it."""
        verdict = self._detector.note(reading)
        drains = self._note_drain(reading._replace(waiting=reading.waiting + reading.spilled))
        return self._drained(reading) if drains and verdict.congested else verdict

    def _note_drain(self, reading: Reading) -> bool:
        """Tell whether it drains; what waits on disk is among what waits."""
        looks = self._looks
        if looks and reading.at_ns <= looks[-1].at_ns:
            return self._drains
        if looks and self._is_hindered(looks[-1], reading):
            looks.clear()
            self._drains = False
        looks.append(reading)
        while len(looks) > 2 and looks[1].at_ns <= reading.at_ns - self._window_ns:
            looks.popleft()
        first = looks[0]
        happened = growth(first, reading)
        fall = first.waiting - reading.waiting
        if self._growing.note(reading).congested:
            self._drains = False
        elif happened.elapsed_ns >= self._window_ns:
            least = 1 if self._drains else max(LEAST_BLOCKS, self._least_share * happened.delivered)
            self._drains = fall >= least
        return self._drains

    @staticmethod
    def _is_hindered(last: Reading, reading: Reading) -> bool:
        """Tell whether something has happened that is no draining, or counters have begun again."""
        happened = growth(last, reading)
        # What waits on disk fills the pipeline again and again, as it should.
        filled = happened.full_events > 0 and not reading.spilled
        return filled or reading.dropped != last.dropped or reading.sent < last.sent

    def _drained(self, reading: Reading) -> Verdict:
        first, last = self._looks[0], self._looks[-1]
        elapsed_ms, fall = (last.at_ns - first.at_ns) / 1e6, first.waiting - last.waiting
        drained_ms = elapsed_ms * last.waiting / max(fall, 1)
        on_disk = f", {reading.spilled} of them on disk" if reading.spilled else ""
        numbers = (
            ("waiting_count", float(last.waiting)),
            ("fall_count", float(fall)),
            ("window_ms", elapsed_ms),
            ("drained_in_ms", drained_ms),
        )
        reason = (
            f"{last.waiting} blocks still wait{on_disk}, {fall} fewer than {elapsed_ms:.0f} ms ago; if it goes on like this, "
            f"none do in {drained_ms / 1e3:.1f} s"
        )
        return Verdict(self.name, False, "LOW", reason, numbers)
