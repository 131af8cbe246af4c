"""
Events from worker processes: a ring of each of them into the coordinator, where one thread reads all.

Made of what pipelines are made of, so that a worker that is killed loses nothing that it has told, and one whose news nobody reads goes
on all the same.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from steadyflow._native import (
    AbortFlag,
    Inbox,
    ModuleContext,
    OutputCore,
    Segment,
    Target,
    create_pool,
    create_ring,
    pool_bytes,
    ring_bytes,
)
from steadyflow.config import DropNewest
from steadyflow.data import Block
from steadyflow.errors import DataError, FlowError, PipelineClosed
from steadyflow.events import EventsLost, FlowEvent
from steadyflow.events.wire import MAX_EVENT_BYTES, decode_event, encode_event
from steadyflow.formats import BytesFormat
from steadyflow.payload import Preparer, native_spec
from steadyflow.pipeline import Lane, buffer_bytes
from steadyflow.runtime.wiring import NewsWiring

WAITING_EVENTS: Final = 64
"""How many events of a worker may wait for the coordinator."""

_FORMAT: Final = BytesFormat(MAX_EVENT_BYTES)
_SLOTS: Final = WAITING_EVENTS + 2
_POOL: Final = (_SLOTS + 1, buffer_bytes(_FORMAT))
_RANK: Final = 0
_FOREVER: Final = -1
_ALL: Final = 1 << 62

RING_BYTES: Final = ring_bytes(_SLOTS, 1)
POOL_BYTES: Final = pool_bytes(*_POOL)

_logger: Final = logging.getLogger("steadyflow.events")


def create_news(segment: Segment, ring: int, pool: int) -> None:
    """Make the ring and the buffers of one worker, in memory that was counted out for them."""
    create_ring(segment, ring, WAITING_EVENTS, _SLOTS, 1, 0, *DropNewest().to_native())
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

    def __init__(self, worker: str, wiring: NewsWiring, segments: Sequence[Segment]) -> None:
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
            queued = self._output.send(encoded)
        except PipelineClosed:
            return  # the worker has ended, and so has what anybody wants to hear of it
        if not queued:
            self._lost += 1

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
    """

    worker: str
    lane: Lane


class NewsReader:
    """
    The receiving end of all of them; a thread from `start` on.

    Args:
        flow: The name of the flow.
        bell: Where the thread sleeps.
        ends: The rings, in the order of their bits.
        told: Called with the worker and each event, in the order in which the worker has told them; must not block.
    """

    def __init__(
        self,
        flow: str,
        bell: tuple[Segment, int],
        ends: Sequence[NewsEnd],
        told: Callable[[str, FlowEvent], None],
    ) -> None:
        self._flow = flow
        self._told = told
        self._lost = {end.worker: 0 for end in ends}
        self._ending = False
        self._inbox = Inbox(*bell, 0, AbortFlag())
        for end in ends:
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
            self._inbox.add_input(*end.lane, 0, _RANK, target, None)
        self._thread = threading.Thread(target=self._read, name="steadyflow-events-of-workers", daemon=True)

    def start(self) -> None:
        """Read from now on."""
        self._thread.start()

    def end(self, timeout_s: float) -> None:
        """Read what all have told until their end, for that time at most; then stop."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
            self._ending = True
            self._inbox.interrupt()
            self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._inbox.detach()

    def _read(self) -> None:
        self._inbox.adopt(in_event_loop=False)
        while self._inbox.open_inputs and not self._ending:
            try:
                self._inbox.serve(_FOREVER, _ALL)
            except FlowError:
                # The memory of the ring itself is damaged: whatever else that means is found out by those that carry sound.
                _logger.exception("flow %r: events of workers cannot be read any more", self._flow)
                return

    def _take(self, worker: str, block: Block) -> None:
        try:
            event, lost = decode_event(bytes(block.data))
        except DataError as damage:
            self._told(worker, EventsLost(flow=self._flow, worker=worker, lost=1, reason=str(damage)))
            return
        if lost > self._lost[worker]:
            missing, self._lost[worker] = lost - self._lost[worker], lost
            reason = f"more than {WAITING_EVENTS} waited"
            self._told(worker, EventsLost(flow=self._flow, worker=worker, lost=missing, reason=reason))
        self._told(worker, event)

    def _failed(self, worker: str, problem: BaseException, _block: Block) -> None:
        _logger.error("flow %r: what worker %r told could not be passed on", self._flow, worker, exc_info=problem)
