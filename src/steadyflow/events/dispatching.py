"""
The threads that call subscribers: one for each class, and one for each subscriber that asked for it or was too slow.

One lock guards all of it, for a few lines at a time. It can be taken again by the thread that holds it: the garbage collector or a
signal's handler may come in anywhere, and unsubscribe, or publish.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from steadyflow._native import monotonic_ns
from steadyflow.events.event import LIMITS_MS, Delivery, FlowEvent
from steadyflow.events.of_events import DeliveryMissed
from steadyflow.events.subscription import Subscription
from steadyflow.metrics.histogram import Histogram, bucket_limits

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task

AnySubscription = Subscription[Any]

_JOIN_S: Final = 0.1
_LOOK_UP_S: Final = 0.05
_PATIENCE_S: Final = 0.2  # with a subscriber that is late, and may be about to come back
_TELL_MISSES_NS: Final = 1_000_000_000
_MOST_EXCUSES: Final = 20
_LIMITS_NS: Final[dict[Delivery, int]] = {delivery: round(limit * 1e6) for delivery, limit in LIMITS_MS.items()}

_logger: Final = logging.getLogger("steadyflow.events")


class _Server:
    """A thread, whom it serves next, and in whose callback it is. Guarded by the lock of `Dispatching`."""

    def __init__(self, delivery: Delivery, lock: Any, only: AnySubscription | None = None) -> None:
        self.delivery: Delivery = delivery
        self.only = only  # the subscription that it belongs to; None: it serves a class
        self.work = threading.Condition(lock)
        self.ready: deque[AnySubscription] = deque()
        self.current: AnySubscription | None = None
        self.event: FlowEvent | None = None
        self.began_ns = 0
        self.due_ns = 0
        self.excuses = 0  # how often its callback was given more time, because the watch did not run, either
        self.ending = False
        self.thread: threading.Thread | None = None


class _Deliveries:
    """How long it took to tell, in one class. Guarded by the lock of `Dispatching`."""

    def __init__(self) -> None:
        self.counts = [0] * (len(bucket_limits()) - 1)
        self.sum_ns = 0
        self.max_ns = 0
        self.missed = 0
        self.told_ns = 0

    def add(self, took_ns: int) -> None:
        self.counts[min(bisect_right(bucket_limits(), took_ns) - 1, len(self.counts) - 1)] += 1
        self.sum_ns += took_ns
        self.max_ns = max(self.max_ns, took_ns)


class Dispatching:
    """
    Serves subscriptions.

    Args:
        stalled: Called with a subscription, the event that it was given, its class and for how many ns it has been in its callback.
        missed: Called with a subscription, an event, the time that it took in ns and how many of its class came late so far.
            Both from threads of this; must not block.
    """

    def __init__(
        self,
        stalled: Callable[[AnySubscription, FlowEvent, int], None],
        missed: Callable[[AnySubscription, FlowEvent, int, int], None],
    ) -> None:
        self.lock = threading.RLock()
        self._stalled = stalled
        self._missed = missed
        self._subscriptions: list[AnySubscription] = []
        self._servers: dict[Delivery, _Server] = {}
        self._own: dict[AnySubscription, _Server] = {}
        self._scheduled: set[AnySubscription] = set()  # in the line of its server, being called, or handed to its loop
        self._deliveries: dict[Delivery, _Deliveries] = {delivery: _Deliveries() for delivery in LIMITS_MS}
        self._orphans: deque[AnySubscription] = deque()
        self._quiet = threading.Condition(self.lock)
        self._look = threading.Condition(self.lock)
        self._look_ns: int | None = None  # when the watch looks next; None: it sleeps
        self._watch: threading.Thread | None = None
        self.closed = False

    # --- who is served ------------------------------------------------------------------------------------------------

    def add(self, subscription: AnySubscription, own_thread: bool) -> bool:
        """Serve a subscription from now on; False where nobody is served any more."""
        with self.lock:
            if self.closed:
                return False
            # Threads first: where one cannot be made, nothing is served by it.
            if subscription.loop is None and own_thread:
                self._own[subscription] = self._begin(_Server(subscription.delivery, self.lock, subscription))
            elif subscription.loop is None and subscription.delivery not in self._servers:
                self._servers[subscription.delivery] = self._begin(_Server(subscription.delivery, self.lock))
            self._subscriptions.append(subscription)
            return True

    def remove(self, subscription: AnySubscription) -> None:
        """Serve it no more."""
        with self.lock:
            self._remove(subscription)

    def _remove(self, subscription: AnySubscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        subscription.forget()
        own = self._own.pop(subscription, None)
        if own is not None:
            own.ending = True
            own.work.notify()
        self._quiet.notify_all()

    @property
    def subscriptions(self) -> tuple[AnySubscription, ...]:
        """Those that are served."""
        with self.lock:
            return tuple(self._subscriptions)

    def put(self, event: FlowEvent, published_ns: int) -> None:
        """Let an event wait for all whose type it has, and wake who serves them. The lock is held."""
        for subscription in tuple(self._subscriptions):
            if isinstance(event, subscription.event_type):
                subscription.put(event, published_ns)
                loop = subscription.loop
                if loop is not None and loop.is_closed():  # nobody will ever run there again
                    self._scheduled.discard(subscription)
                    self._remove(subscription)
                    self._orphans.append(subscription)
                elif subscription not in self._scheduled:
                    self._schedule(subscription)

    def _schedule(self, subscription: AnySubscription) -> None:
        self._scheduled.add(subscription)
        loop = subscription.loop
        if loop is None:
            server = self._server_of(subscription)
            server.ready.append(subscription)
            server.work.notify()
            return
        try:
            loop.call_soon_threadsafe(self._begin_task, subscription)
        except RuntimeError:  # it was closed just now
            self._scheduled.discard(subscription)
            self._remove(subscription)
            self._orphans.append(subscription)

    def tell_of_orphans(self) -> None:
        """Log which subscriptions have ended with their event loops. Without the lock: whoever logs may do anything."""
        while self._orphans:
            name = self._orphans.popleft().name
            _logger.warning("subscription %r ends: the event loop that it was made in is closed", name)

    def _server_of(self, subscription: AnySubscription) -> _Server:
        return self._own.get(subscription) or self._servers[subscription.delivery]

    # --- threads ------------------------------------------------------------------------------------------------------

    def _begin(self, server: _Server) -> _Server:
        whom = server.delivery if server.only is None else server.only.name
        server.thread = threading.Thread(
            target=self._serve, args=(server,), name=f"steadyflow-events-{whom}", daemon=True
        )
        server.thread.start()
        if self._watch is None:
            self._watch = threading.Thread(target=self._watch_callbacks, name="steadyflow-events-watch", daemon=True)
            self._watch.start()
        return server

    def _serve(self, server: _Server) -> None:
        while True:
            with self.lock:
                while not server.ready and not server.ending:
                    server.work.wait()
                if server.ending and not server.ready:
                    return
                subscription = server.ready.popleft()
                taken = subscription.take()
                if taken is None:
                    self._scheduled.discard(subscription)
                    self._quiet.notify_all()
                    continue
                event, published_ns = taken
                late = self._begin_call(server, subscription, event, published_ns)
            if late is not None:
                self._missed(*late)
            subscription.call(event)
            with self.lock:
                server.current = server.event = None
                self._continue(subscription)

    def _begin_call(
        self, server: _Server, subscription: AnySubscription, event: FlowEvent, published_ns: int
    ) -> tuple[AnySubscription, FlowEvent, int, int] | None:
        server.current, server.event = subscription, event
        server.began_ns = monotonic_ns()
        server.due_ns = server.began_ns + _LIMITS_NS[server.delivery]
        server.excuses = 0
        if not subscription.stalled and (self._look_ns is None or server.due_ns < self._look_ns):
            self._look.notify()
        return self._note_delivery(subscription, event, server.began_ns - published_ns)

    def _continue(self, subscription: AnySubscription) -> None:
        """Line up again for what waits, behind the others."""
        if subscription.pending and (subscription in self._own or subscription.delivery in self._servers):
            server = self._server_of(subscription)
            server.ready.append(subscription)
            server.work.notify()  # it may be another thread's by now
        else:
            self._scheduled.discard(subscription)
            self._quiet.notify_all()

    def _note_delivery(
        self, subscription: AnySubscription, event: FlowEvent, took_ns: int
    ) -> tuple[AnySubscription, FlowEvent, int, int] | None:
        """Count how long it took to tell; return what is to be told of that, if it is too long."""
        deliveries = self._deliveries[subscription.delivery]
        deliveries.add(took_ns)
        if took_ns <= _LIMITS_NS[subscription.delivery]:
            return None
        deliveries.missed += 1
        if isinstance(event, DeliveryMissed):
            return None  # what tells of a miss may be late itself, and would be told of in turn
        now_ns = monotonic_ns()
        if deliveries.told_ns and now_ns - deliveries.told_ns < _TELL_MISSES_NS:
            return None
        deliveries.told_ns = now_ns
        return subscription, event, took_ns, deliveries.missed

    # --- event loops --------------------------------------------------------------------------------------------------

    def _begin_task(self, subscription: AnySubscription) -> None:
        assert subscription.loop is not None
        task = subscription.loop.create_task(
            self._serve_async(subscription), name=f"steadyflow-events-{subscription.name}"
        )
        # The loop itself keeps no reference.
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    async def _serve_async(self, subscription: AnySubscription) -> None:
        try:
            while True:
                with self.lock:
                    taken = subscription.take()
                    if taken is None:
                        # With the look that found nothing: what comes now begins a new task.
                        self._scheduled.discard(subscription)
                        self._quiet.notify_all()
                        return
                    event, published_ns = taken
                    late = self._note_delivery(subscription, event, monotonic_ns() - published_ns)
                if late is not None:
                    self._missed(*late)
                await subscription.call_async(event)
        except BaseException:
            with self.lock:
                self._scheduled.discard(subscription)
                self._quiet.notify_all()
            raise

    # --- who is slow --------------------------------------------------------------------------------------------------

    def _watch_callbacks(self) -> None:
        while True:
            with self.lock:
                stalled = self._wait_for_a_stall()
                if stalled is None:
                    return
            self._stalled(*stalled)

    def _wait_for_a_stall(self) -> tuple[AnySubscription, FlowEvent, int] | None:
        """Return who has been in a callback for too long, now apart; None at the end. The lock is held, but for waiting."""
        while not self.closed:
            # Who has been found slow is known to be.
            busy = [
                server for server in self._all_servers() if server.current is not None and not server.current.stalled
            ]
            self._look_ns = min((server.due_ns for server in busy), default=None)
            if self._look_ns is None:
                self._look.wait()
                continue
            now_ns = monotonic_ns()
            if now_ns < self._look_ns:
                self._look.wait((self._look_ns - now_ns) / 1e9)
            now_ns = monotonic_ns()
            for server in busy:
                if server.current is None or now_ns < server.due_ns:
                    continue
                limit_ns = _LIMITS_NS[server.delivery]
                if now_ns - server.due_ns > limit_ns // 2 and server.excuses < _MOST_EXCUSES:
                    server.excuses += 1
                    server.due_ns = now_ns + limit_ns  # this thread did not run, either: nobody knows who was slow
                    continue
                return self._set_apart(server, now_ns)
        return None

    def _set_apart(self, server: _Server, now_ns: int) -> tuple[AnySubscription, FlowEvent, int]:
        """Leave a thread to the subscription whose callback it is in, and let another one serve the rest."""
        subscription, event = server.current, server.event
        assert subscription is not None
        assert event is not None
        subscription.stalled = True
        if server.only is not None:
            return subscription, event, now_ns - server.began_ns  # its thread is its own anyway
        try:
            successor = self._begin(_Server(server.delivery, self.lock))
        except RuntimeError:  # no thread can be had: the others wait for this one
            _logger.exception("nobody can take the place of subscription %r", subscription.name)
            return subscription, event, now_ns - server.began_ns
        successor.ready, server.ready = server.ready, deque()
        successor.work.notify()
        self._servers[server.delivery] = successor
        server.only = subscription
        if subscription in self._subscriptions:
            self._own[subscription] = server
        else:
            server.ending = True  # it was unsubscribed meanwhile
        self._quiet.notify_all()
        return subscription, event, now_ns - server.began_ns

    # --- the end ------------------------------------------------------------------------------------------------------

    def histogram(self, delivery: Delivery) -> Histogram:
        """Return how long it took from publishing to the beginning of callbacks, in a class."""
        import numpy as np

        with self.lock:
            deliveries = self._deliveries[delivery]
            return Histogram(np.array(deliveries.counts, np.uint64), deliveries.sum_ns, deliveries.max_ns)

    def missed(self, delivery: Delivery) -> int:
        """Return how many events came later than their class promises."""
        return self._deliveries[delivery].missed

    def drain(self, timeout_s: float) -> bool:
        """
        Wait until everybody has got what waits, but for those who are stuck, and for whoever calls.

        Returns:
            False after the time.
        """
        began = time.monotonic()
        deadline = began + timeout_s
        with self.lock:
            while any(
                self._will_be_served(subscription, patient=time.monotonic() < began + _PATIENCE_S)
                for subscription in self._scheduled
            ):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._quiet.wait(min(left, _LOOK_UP_S))  # who is stuck is a matter of time
        return True

    def _will_be_served(self, subscription: AnySubscription, *, patient: bool) -> bool:
        if subscription not in self._subscriptions:
            return False
        if subscription.loop is not None:
            return subscription.loop.is_running() and subscription.loop is not _running_loop()
        server = self._server_of(subscription)
        if server.current is subscription:  # stuck, or what calls
            late_ns = monotonic_ns() - server.began_ns - _LIMITS_NS[server.delivery]
            waits = patient or late_ns < 0 or not subscription.stalled
            return server.thread is not threading.current_thread() and waits
        return server.thread is not threading.current_thread()

    def end(self, *, joins: bool = True) -> None:
        """Serve nobody any more. Idempotent; `joins`: waits a moment for threads that are not stuck."""
        with self.lock:
            self.closed = True
            servers = list(self._all_servers())
            for subscription in self._subscriptions:
                subscription.dropped += subscription.pending
                subscription.forget()
            self._subscriptions.clear()
            for server in servers:
                server.ending = True
                server.work.notify_all()
            self._look.notify_all()
            threads = [server.thread for server in servers if server.current is None]
            threads.append(self._watch)
        for thread in threads if joins else ():
            if thread is not None and thread is not threading.current_thread():
                thread.join(_JOIN_S)

    def _all_servers(self) -> Iterator[_Server]:
        yield from self._servers.values()
        yield from self._own.values()


_tasks: Final[set[Task[None]]] = set()


def _running_loop() -> AbstractEventLoop | None:
    if "asyncio" not in sys.modules:
        return None  # nobody has loaded it, so no loop runs
    import asyncio

    return asyncio._get_running_loop()
