"""A pipeline as flow control sees it: what each look finds, what its detectors say, and what its rule makes of that."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from steadyflow._native import Ring
from steadyflow.backpressure.detection import (
    AnyOf,
    BlockedShare,
    Detector,
    GrowingQueue,
    StandingDelay,
    TimeToFull,
    Watermarks,
    WithBacklog,
)
from steadyflow.backpressure.reading import Reading, growth
from steadyflow.backpressure.rules import Latest, Sample
from steadyflow.backpressure.service_rate import ServiceRate
from steadyflow.backpressure.verdict import Verdict
from steadyflow.formats import AudioFormat
from steadyflow.metrics.pressure import Pressure
from steadyflow.pipeline import Pipeline

_QUIET_FILL: Final = 0.25  # below that, nothing is to be found
_LEAST_ROOM: Final = 3  # a pipeline with less room becomes full in ordinary traffic
_SHARE_OF_BUDGET: Final = 0.2
_DELAY_INTERVAL_MS: Final = 25.0  # 40 ms and twice the target would be too late for most budgets
_RELIEF_NS: Final = 100_000_000
_numbers: Final = itertools.count()
_ON_PURPOSE: Final = Verdict("watermarks", False, "OK", "its rule loses blocks on purpose now", ())


class Change(NamedTuple):
    """
    That a pipeline has come under pressure, or is no more.

    Args:
        congested: Which of them.
        verdict: What was found.
        lasted_ns: For how long it was; of one that has come, 0.
        dropped: How many blocks were dropped meanwhile.
        dropped_frames: How many frames of audio those had.
    """

    congested: bool
    verdict: Verdict
    lasted_ns: int = 0
    dropped: int = 0
    dropped_frames: int = 0


def detectors_for(pipeline: Pipeline) -> Detector:
    """Return what finds that a pipeline gets too much, by its room and its budget."""
    found: list[Detector] = [BlockedShare()]
    if pipeline.buffer_size >= _LEAST_ROOM:
        found[:0] = [Watermarks(), TimeToFull(), GrowingQueue()]  # the last one also while its room grows with it
    if pipeline.config.max_latency_ms is not None:
        target_ms = max(_SHARE_OF_BUDGET * pipeline.config.max_latency_ms, 0.1)
        found.append(StandingDelay(target_ms, _DELAY_INTERVAL_MS))
    return WithBacklog(AnyOf(*found))


class Controlled:
    """
    One pipeline, and what is known of it. One thread at a time.

    Args:
        pipeline: The pipeline.
        detector: What finds that it gets too much.
    """

    def __init__(self, pipeline: Pipeline, detector: Detector | None = None) -> None:
        self.pipeline = pipeline
        self.reading: Reading | None = None
        """What the last look found; None: nothing yet, or it is paused."""
        self.service = ServiceRate()
        self.congested = False
        self.blocked_share = 0.0
        self.lost_share = 0.0
        self.strategy = ""
        """What is done, where that is not its rule as it stands."""
        self.pace_hz: float | None = None
        self.come = 0
        """How many blocks have been sent since it was first looked at, also into rings that other ones have succeeded."""
        self.rests = False
        """Whether nothing waited at this look, nor at the one before, and nothing was lost: then there is nothing to do."""
        self._number = next(_numbers)  # of those that are made later, it is larger
        self._come_before: dict[str, int] = {}  # of the others, when this one was made
        self._sent: int | None = None  # by its counters, at the last look
        self._detector = detector or detectors_for(pipeline)
        self._passed_over: Reading | None = None  # the latest look that its detectors were not bothered with
        self._level = "OK"
        self._in_state_ns = {"OK": 0, "LOW": 0, "HIGH": 0}
        self._since_ns = 0
        self._relieved_ns: int | None = None  # since when it would be, if it stays so
        self._dropped_before = (0, 0)

    def begin_beside(self, others: Iterable[Controlled]) -> None:
        """Note what has come through others until now."""
        self._come_before = {each.pipeline.id: each.come for each in others}

    @property
    def backlog(self) -> int:
        """How many blocks waited at the last look, in it and on disk before it."""
        return 0 if self.reading is None else self.reading.waiting + self.reading.spilled

    @property
    def heeds_alarms(self) -> bool:
        """Whether it says something that it becomes full. Others would wake flow control at every block."""
        return self.pipeline.buffer_size >= _LEAST_ROOM and not isinstance(self.pipeline.rule, (Latest, Sample))

    def look(self, now_ns: int) -> Change | None:
        """Read its counters, and return what has changed. Does not disturb it."""
        # Without those that drain: what they have counted goes with them, and would come again.
        rings = self.pipeline.filling
        reading = read(rings, self.pipeline, now_ns) if rings else None
        self.rests = False
        if reading is None:
            self.reading = None
            self.service.interrupt()
            return None
        if self._sent is not None:
            self.come += reading.sent - (self._sent if reading.sent >= self._sent else 0)
        self._sent = reading.sent
        self.service.note_taken(reading)
        last, self.reading = self.reading or reading, reading
        if self._level == "OK" and not self.congested and _is_idle(last, reading):
            self._in_state_ns["OK"] += reading.at_ns - last.at_ns
            self.service.interrupt()
            self.lost_share = self.blocked_share = 0.0
            self._passed_over = reading
            self.rests = True
            return None
        self.service.note(reading)
        happened = growth(last, reading)
        dropped = max(reading.dropped - last.dropped, 0)
        self.lost_share = min(dropped / happened.sent, 1.0) if happened.sent else 0.0  # what is flushed was sent before
        self.blocked_share = min(happened.blocked_ns / happened.elapsed_ns, 1.0) if happened.elapsed_ns > 0 else 0.0
        self._in_state_ns[self._level] += max(happened.elapsed_ns, 0)
        if isinstance(self.pipeline.rule, (Latest, Sample)):
            self._level = "OK"  # it loses blocks on purpose
            return self._relieved(_ON_PURPOSE, now_ns) if self.congested else None
        quiet = (
            reading.fill < _QUIET_FILL
            and not happened.full_events
            and not happened.blocked_ns
            and not reading.sojourn_ns
        )
        if quiet and not self.congested and self._level == "OK":
            self._passed_over = reading
            return None
        if self._passed_over is not None:
            # What happened since then, and not since long ago.
            self._detector.note(self._passed_over)
            self._passed_over = None
        verdict = self._detector.note(reading)
        self._level = "LOW" if verdict.congested and verdict.level == "OK" else verdict.level
        if verdict.congested or not self.congested:
            self._relieved_ns = None
        elif self._relieved_ns is None:
            self._relieved_ns = now_ns
        if verdict.congested is self.congested:
            return None
        if self._relieved_ns is not None and now_ns - self._relieved_ns < _RELIEF_NS:
            return None  # it may come back at once: that is one time under pressure, and not two
        self.congested = verdict.congested
        if self.congested:
            self._since_ns, self._dropped_before = now_ns, self._drops()
            return Change(True, verdict)
        return self._relieved(verdict, now_ns)

    def _relieved(self, verdict: Verdict, now_ns: int) -> Change:
        self.congested, self._relieved_ns = False, None
        blocks, frames = self._drops()
        blocks_before, frames_before = self._dropped_before
        return Change(
            False, verdict, now_ns - self._since_ns, max(blocks - blocks_before, 0), max(frames - frames_before, 0)
        )

    def pressure(self) -> Pressure:
        """Return what is known of it. Any thread."""
        reading, room = self.reading, self.pipeline.buffer_size
        waiting = 0 if reading is None else reading.waiting
        rings = self.pipeline.filling
        spool = None if self.pipeline.spool_counts is None else self.pipeline.spool_counts()
        return Pressure(
            state=self._level,
            ok_s=self._in_state_ns["OK"] / 1e9,
            low_s=self._in_state_ns["LOW"] / 1e9,
            high_s=self._in_state_ns["HIGH"] / 1e9,
            blocked_share=self.blocked_share,
            service_hz=self.service.hz or 0.0,
            strategy=self.strategy or repr(self.pipeline.rule),
            pace_hz=self.pace_hz or 0.0,
            credits=max(room // 2 - waiting, 0),
            room_blocks=sum(ring.buffer_size for ring in rings) if rings else room,
            spilled_blocks=0 if spool is None else spool.depth_blocks,
            spilled_bytes=0 if spool is None else spool.depth_bytes,
            spill_dropped=0 if spool is None else spool.dropped_blocks,
            spill_dropped_ms=0.0 if spool is None else self.dropped_ms(spool.dropped_frames),
        )

    def dropped_ms(self, frames: int) -> float:
        """Return how long so many frames of it last; 0 where it is no audio."""
        fmt = self.pipeline.format
        return frames * 1000 / fmt.sample_rate_hz if isinstance(fmt, AudioFormat) and fmt.sample_rate_hz else 0.0

    def _drops(self) -> tuple[int, int]:
        counters = [ring.counters() for ring in self.pipeline.counted]
        spool = None if self.pipeline.spool_before is None else self.pipeline.spool_before()
        return (
            sum(sum(each["dropped"].values()) for each in counters) + (spool.dropped_blocks if spool else 0),
            sum(sum(each["dropped_frames"].values()) for each in counters) + (spool.dropped_frames if spool else 0),
        )


def blocks_per_block(above: Controlled, below: Controlled) -> float | None:
    """
    Return how many blocks come through one pipeline for each block through another one below it, while both were there; None: it is not
    known yet.
    """
    if above is below:
        return 1.0
    sent_above, sent_below = above.come, below.come
    if below._number > above._number:
        sent_above -= below._come_before.get(above.pipeline.id, 0)
    else:
        sent_below -= above._come_before.get(below.pipeline.id, 0)
    return sent_above / sent_below if sent_above and sent_below else None


def _is_idle(last: Reading, reading: Reading) -> bool:
    """Tell whether nothing has waited, and nothing was lost."""
    if reading.waiting or last.waiting or reading.dropped != last.dropped:
        return False
    return reading.blocked_ns == last.blocked_ns and reading.full_events == last.full_events


def read(rings: Sequence[Ring], pipeline: Pipeline, now_ns: int) -> Reading | None:
    """Return what there is to see in the rings of a pipeline; None where it is paused. Does not disturb it; any thread."""
    # First: what moves on meanwhile is counted twice, and not left out.
    spool = None if pipeline.spool_before is None else pipeline.spool_before()
    looks = [ring.look() for ring in rings]
    if any(look[9] for look in looks):
        return None
    if len(looks) == 1:
        sent, delivered, dropped, waiting, waiting_bytes, waiting_frames, oldest_ns, blocked_ns, full_events, _ = looks[
            0
        ]
        room = rings[0].buffer_size
    else:
        sent, delivered, dropped, waiting, waiting_bytes, waiting_frames, _, blocked_ns, full_events, _ = map(
            sum, zip(*looks, strict=True)
        )
        oldest_ns = min((look[6] for look in looks if look[6]), default=0)
        room = sum(ring.buffer_size for ring in rings)
    fill = waiting / room
    if waiting:
        limits = pipeline.limits
        fill = max(fill, waiting_bytes / (limits.bytes or math.inf), waiting_frames / (limits.frames or math.inf))
    spilled, lost = (spool.depth_blocks, spool.dropped_blocks) if spool else (0, 0)
    return Reading(
        now_ns,
        sent + lost,
        delivered,
        dropped + lost,
        waiting,
        min(fill, 1.0),
        max(now_ns - oldest_ns, 0) if oldest_ns else 0,
        blocked_ns,
        full_events,
        spilled,
    )
