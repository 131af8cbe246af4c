"""
Events from worker processes: a ring of each of them into the coordinator, where one thread reads all.

Made of what pipelines are made of, so that a worker that is killed loses nothing that it has told, and one whose news nobody reads goes
on all the same.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, NamedTuple

from steadyflow._native import (
    AbortFlag,
    Inbox,
    ModuleContext,
    OutputCore,
    Ring,
    Segment,
    Target,
    create_pool,
    create_ring,
    monotonic_ns,
    pool_bytes,
    ring_bytes,
)
from steadyflow.backpressure.rules import DropNewest
from steadyflow.data import Block
from steadyflow.errors import CorruptedSegment, PipelineClosed
from steadyflow.events import EventsLost, FlowEvent, is_own
from steadyflow.events.wire import MAX_EVENT_BYTES, decode_event, encode_event
from steadyflow.formats import BytesFormat
from steadyflow.payload import Preparer, native_spec
from steadyflow.pipeline import Lane, buffer_bytes
from steadyflow.runtime.failure_text import in_one_line
from steadyflow.runtime.wiring import NewsWiring

WAITING_EVENTS: Final = 96
"""How many events of a worker may wait for the coordinator."""

RESERVED_EVENTS: Final = 32
"""How many of them are not for those of modules: what happens to a module is told whatever it tells itself."""

_FORMAT: Final = BytesFormat(MAX_EVENT_BYTES)
_SLOTS: Final = WAITING_EVENTS + 2
_POOL: Final = (_SLOTS + 1, buffer_bytes(_FORMAT))
_RANK: Final = 0
_FOREVER: Final = -1
_ALL: Final = 1 << 62
_LOOK_S: Final = 0.002
_LOOK_NS: Final = 250_000_000  # while nobody is there who could tell anything
_REASON: Final = 500  # characters
_MOST_LOST: Final = 1 << 40  # a damaged count may be anything

RING_BYTES: Final = ring_bytes(_SLOTS, 1)
POOL_BYTES: Final = pool_bytes(*_POOL)

_logger: Final = logging.getLogger("steadyflow.events")


def create_news(segment: Segment, ring: int, pool: int) -> None:
    """Make the ring and the buffers of one worker, in memory that was counted out for them."""
    create_ring(segment, ring, WAITING_EVENTS, _SLOTS, 1, 0, *DropNewest().to_native(live=True))
    create_pool(segment, pool, *_POOL)


def news_name(worker: str) -> str:
    """Return what messages call the way of a worker's events."""
    return f"events of worker {worker!r}"


class NewsSender:
    """
    The sending end, in a worker process. Any thread; does not wait.

    Args:
        worker: The name of the worker.
        wiring: Where it is.
        segments: The flow's segments.
    """

    def __init__(self, worker: str, wiring: NewsWiring, segments: Mapping[int, Segment]) -> None:
        name = news_name(worker)
        self._lost = 0
        self._output = OutputCore()
        self._output.configure(name, native_spec(_FORMAT), _FORMAT, Preparer(name, _FORMAT), None, AbortFlag())
        self._output.set_pool(segments[wiring.pool.segment], wiring.pool.offset, name)
        self._output.add_ring(
            name,
            segments[wiring.ring.segment],
            wiring.ring.offset,
            segments[wiring.bell.segment],
            wiring.bell.offset,
            wiring.bit,
        )

    def publish(self, event: FlowEvent) -> None:
        """
        Tell an event. Where there is no room it is lost, and the next one that has some says so.

        Raises:
            ConfigurationError: It is too long.
        """
        encoded = encode_event(event, self._lost)
        try:
            full = self._output.waiting_blocks >= WAITING_EVENTS - RESERVED_EVENTS and not is_own(event)
            queued = not full and self._output.send(encoded)
        except PipelineClosed:
            return  # the worker has ended, and so has what anybody wants to hear of it
        if not queued:
            self._lost += 1

    @property
    def lost(self) -> int:
        """How many events had no room."""
        return self._lost

    def end(self) -> None:
        """Tell nothing more. Idempotent."""
        self._output.end()

    def detach(self) -> None:
        """Let go of the memory. After `end`."""
        self._output.close("the worker has ended; nobody is told anything any more")
        self._output.detach()


class NewsEnd(NamedTuple):
    """
    Where the coordinator finds the ring of a worker.

    Args:
        worker: Its name.
        lane: Its ring and buffers.
        bit: Of the bell of whoever reads it.
    """

    worker: str
    lane: Lane
    bit: int


class NewsReader:
    """
    The receiving end of all of them, and the one order of all events of modules; a thread, once there are any.

    What causes comes before what it causes: what was sent because of something can be seen when that can, and each look takes the oldest.
    What threads tell meanwhile waits until all that is older has been told.

    Args:
        flow: The name of the flow.
        bell: Where the thread sleeps.
        told: Called with the worker and each event, in the order in which the worker has told them; must not block.
    """

    def __init__(self, flow: str, bell: tuple[Segment, int], told: Callable[[str, FlowEvent], None]) -> None:
        self._flow = flow
        self._told = told
        self._lost: dict[str, int] = {}
        self._rings: dict[str, Ring] = {}
        self._damaged: set[str] = set()
        self._held = 0  # inputs of those, which do not end
        self._ending = False
        self._reading = threading.Condition()
        self._coming: deque[NewsEnd] = deque()
        self._gone: deque[str] = deque()
        self._deferred: deque[tuple[int, Callable[[], None]]] = deque()  # when it happened, and what tells it
        self._telling = False  # whether something of those is being told
        self._inbox = Inbox(*bell, 0, AbortFlag())
        self._inbox.keep_time_order()
        self._thread = threading.Thread(target=self._read, name="steadyflow-events-of-workers", daemon=True)

    def add(self, ends: Iterable[NewsEnd]) -> None:
        """Read these, too, once it has been started. Any thread."""
        with self._reading:
            for end in ends:
                self._lost[end.worker] = 0
                ring = Ring(end.lane.segment, end.lane.ring, news_name(end.worker))
                self._rings = {**self._rings, end.worker: ring}  # a new one: others may look through it
                self._coming.append(end)

    def start(self) -> None:
        """Read from now on what was added, and what will be. Idempotent."""
        if self._coming and self._thread.ident is None:
            self._thread.start()
        else:
            self._inbox.interrupt()

    def forget(self, worker: str) -> None:
        """Forget a worker that has ended. Any thread."""
        with self._reading:
            self._rings = {name: ring for name, ring in self._rings.items() if name != worker}
            self._lost.pop(worker, None)

    def end(self, timeout_s: float) -> None:
        """Read what all have told until their end, for that time at most; then stop."""
        if self._thread.ident is not None:
            with self._reading:
                self._reading.wait_for(self._has_heard_all, timeout_s)
            self._ending = True
            self._inbox.interrupt()
            self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._tell_deferred(None)
            self._inbox.detach()

    def release(self) -> None:
        """Let go of the memory. After the end."""
        self._rings = {}
        if not self._thread.is_alive():
            del self._inbox

    def tell_in_order(self, at_ns: int, tell: Callable[[], None]) -> None:
        """
        Tell something that happened in this process: now, or, where processes have told what is older and not read yet, after that.

        Any thread; does not wait.

        Args:
            at_ns: When it happened.
            tell: Tells it; must not block.
        """
        with self._reading:
            waits = self._thread.is_alive() and (bool(self._deferred) or self._telling or self._has_unread())
            if waits:
                self._deferred.append((at_ns, tell))
        if waits:
            self._inbox.interrupt()
        else:
            tell()

    def _has_heard_all(self) -> bool:
        return not self._coming and self._inbox.open_inputs <= self._held

    def _has_unread(self) -> bool:
        for worker, ring in self._rings.items():
            if worker not in self._damaged:
                with contextlib.suppress(CorruptedSegment):  # whoever reads it tells
                    if ring.in_flight:
                        return True
        return False

    def _tell_deferred(self, before_ns: int | None) -> None:
        """Tell what has waited, as far as it is older than that; None: all of it."""
        while True:
            with self._reading:
                self._telling = bool(self._deferred) and (before_ns is None or self._deferred[0][0] < before_ns)
                if not self._telling:
                    return
                _, tell = self._deferred.popleft()
            tell()

    def catch_up(self, worker: str, timeout_s: float) -> None:
        """Wait until all that a worker has told so far has been read, for that time at most."""
        ring, deadline = self._rings.get(worker), time.monotonic() + timeout_s
        while ring is not None and worker not in self._damaged and self._thread.is_alive():
            try:
                counters = ring.counters()
                if counters["sent"] <= counters["delivered"] + sum(counters["dropped"].values()):
                    return
            except CorruptedSegment:
                return  # whoever reads it finds the same
            with self._reading:
                if not self._reading.wait(min(_LOOK_S, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    return

    def begin_anew(self, worker: str) -> None:
        """Another process follows in that worker, which has lost nothing yet."""
        if worker in self._lost:
            self._lost[worker] = 0

    def count_lost(self, worker: str, lost: int) -> None:
        """Tell of events that had no room, and after which none got through that could have said so."""
        if not self._lost.get(worker, _MOST_LOST) < lost <= _MOST_LOST:
            return
        missing, self._lost[worker] = lost - self._lost[worker], lost
        reason = f"more than {WAITING_EVENTS - RESERVED_EVENTS} waited"
        self._told(worker, EventsLost(worker=worker, lost=missing, reason=reason))

    def _read(self) -> None:
        self._inbox.adopt(in_event_loop=False)
        while not self._ending:
            while self._coming:
                end = self._coming.popleft()
                try:
                    self._add_input(end)
                except CorruptedSegment as damage:
                    self._silence(end.worker, damage)
            while self._gone:
                self._inbox.remove(news_name(self._gone.popleft()))
            with self._reading:
                self._reading.notify_all()
            try:
                self._inbox.serve(_FOREVER if self._inbox.open_inputs else monotonic_ns() + _LOOK_NS, _ALL)
            except CorruptedSegment as damage:
                self._leave_out(damage)
            if not self._has_unread():
                self._tell_deferred(None)

    def _add_input(self, end: NewsEnd) -> None:
        name = news_name(end.worker)
        target = Target(
            name,
            native_spec(_FORMAT),
            _FORMAT,
            None,
            partial(self._take, end.worker),
            None,
            ModuleContext(),
            partial(self._failed, end.worker),
            0,
        )
        self._inbox.add_input(*end.lane, 0, _RANK, target, partial(self._gone.append, end.worker), None, end.bit)

    def _leave_out(self, damage: CorruptedSegment) -> None:
        """Read the others, where the ring of one worker is damaged: what else that means is found out by those that carry sound."""
        worker = next((name for name in self._lost if news_name(name) == damage.pipeline), None)
        if worker is None:
            self._ending = True
            _logger.error("flow %r: events of workers cannot be read any more", self._flow, exc_info=damage)
        elif worker not in self._damaged:
            self._inbox.hold(news_name(worker), True)
            self._held += 1
            self._silence(worker, damage)

    def _silence(self, worker: str, damage: CorruptedSegment) -> None:
        self._damaged.add(worker)
        self._told(worker, EventsLost(worker=worker, lost=1, reason=f"{damage}; no more of them can be read"))

    def _take(self, worker: str, block: Block) -> None:
        try:
            event, lost = decode_event(bytes(block.data))
        except Exception as damage:
            reason = in_one_line(damage)[:_REASON]
            self._told(worker, EventsLost(worker=worker, lost=1, reason=reason))
        else:
            self._tell_deferred(event.timestamp_ns)
            self.count_lost(worker, lost)
            self._told(worker, event)
        with self._reading:
            self._reading.notify_all()

    def _failed(self, worker: str, problem: BaseException, _block: Block) -> None:
        _logger.error("flow %r: what worker %r told could not be passed on", self._flow, worker, exc_info=problem)
