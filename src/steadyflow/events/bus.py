"""The bus: what happens in a flow reaches whoever asked for it, and delays nobody."""

from __future__ import annotations

import dataclasses
import inspect
import os
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from steadyflow._native import monotonic_ns
from steadyflow.arguments import checked_switch
from steadyflow.errors import ConfigurationError, StateError
from steadyflow.events.dispatching import Dispatching
from steadyflow.events.event import LIMITS_MS, Delivery, FlowEvent, check_delivery, check_event, check_event_class
from steadyflow.events.of_events import DeliveryMissed, SubscriberStalled
from steadyflow.events.subscription import Subscription
from steadyflow.formats import checked_integer
from steadyflow.metrics.histogram import Histogram

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

EventT = TypeVar("EventT", bound=FlowEvent)

QUEUE_SIZE: Final = 1024
"""How many events may wait for a subscriber, unless it says otherwise."""

HISTORY: Final = 10_000
"""How many events a bus remembers, the latest."""

_NEWS_NS: Final = 60_000_000_000  # what is older was not made to be told now

DRAIN_TIMEOUT_S: Final = 1.0
"""How long a bus that is closed waits for subscribers that are not stuck."""


class TypedEventBus:
    """
    Takes events from any thread, and gives each to those who subscribed to its type. Public as ``flow.events``.

    ::

        with flow.events.subscribe(DeviceLost, lambda event: print(event.module, event.problem)):
            flow.run()

    Args:
        flow: The name of the flow, for the events of the bus itself.
    """

    def __init__(self, flow: str = "flow") -> None:
        self._flow = flow
        self._now: Callable[[], int] | None = None
        self._history: deque[FlowEvent] = deque(maxlen=HISTORY)
        self._closed = False
        self._begin_dispatching()
        _buses.add(self)

    def _begin_dispatching(self) -> None:
        # The threads of a bus that was given up must not keep it.
        post = weakref.WeakMethod(self.post)
        self._dispatching = Dispatching(_teller_of_stalls(self._flow, post), _teller_of_misses(self._flow, post))
        self._incoming: deque[tuple[FlowEvent, int]] = deque()
        self._distributing = False
        # It may run anywhere, so it waits for nobody.
        self._given_up = weakref.finalize(self, self._dispatching.end, joins=False)
        self._given_up.atexit = False

    def subscribe(
        self,
        event_type: type[EventT],
        callback: Callable[[EventT], Awaitable[None] | None],
        *,
        where: Callable[[EventT], bool] | None = None,
        delivery: Delivery | None = None,
        queue_size: int = QUEUE_SIZE,
        own_thread: bool = False,
        name: str | None = None,
    ) -> Subscription[EventT]:
        """
        Have a function called with each event of a type from now on, in the order in which they are published.

        It is called in a thread of the bus, one event at a time; a coroutine function in the event loop that is running now. What it
        raises is logged, counted, and harms nobody. If it takes longer than its class allows, it is served apart from then on.

        Args:
            event_type: The type; subtypes are included, so `FlowEvent` is everything.
            callback: What is called.
            where: Told of each event first; the callback gets those of which it says True. Called where the callback is.
            delivery: The class to be served in; None: that of the type.
            queue_size: How many events may wait; of more, the oldest goes, and is counted.
            own_thread: Be served by a thread that serves nobody else.
            name: What messages call it; None: as the callback is called.

        Raises:
            ConfigurationError: That is no type of events, or an argument is impossible; a coroutine function outside of an event loop.
            StateError: The bus has been closed.
        """
        check_event_class("subscribe", event_type)
        for what, function in (("callback", callback), ("where", where)):
            if not callable(function) and (what == "callback" or function is not None):
                raise ConfigurationError(f"subscribe: expected {what} to be a function of an event, got {function!r}.")
        if delivery is not None:
            check_delivery("subscribe: delivery", delivery)
        loop = _loop_for(callback, own_thread=checked_switch("subscribe", "own_thread", own_thread))
        if self._closed:
            raise StateError(f"flow {self._flow!r}: expected an open bus to subscribe to; its flow has been closed.")
        subscription = Subscription(
            name if name is not None else str(getattr(callback, "__qualname__", callback)),
            event_type,
            callback,
            where,
            delivery or event_type.delivery,
            checked_integer("subscribe", "queue_size", queue_size, 1 << 20),
            loop,
            self._dispatching,
        )
        if not self._dispatching.add(subscription, own_thread):
            raise StateError(f"flow {self._flow!r}: expected an open bus to subscribe to; its flow has been closed.")
        return subscription

    def publish(self, event: FlowEvent) -> None:
        """
        Tell an event. Any thread; never waits for subscribers, and runs nothing of theirs.

        Raises:
            ConfigurationError: It is no event, or holds something that can change or that nobody can encode; names the field.
            StateError: The bus has been closed.
        """
        check_event(event)
        if not self.post(event):
            raise StateError(
                f"flow {self._flow!r}: expected an open bus to publish {type(event).__name__} on; its flow has been closed."
            )

    def post(self, event: FlowEvent) -> bool:
        """Do the same with an event that is known to be good; False if the bus has been closed."""
        now_ns = monotonic_ns()
        published_ns = now_ns
        if self._now is not None:  # it may come from a thread that does not go by that clock
            event = dataclasses.replace(event, flow=event.flow or self._flow, timestamp_ns=self._now())
        else:
            if not event.flow:
                event = dataclasses.replace(event, flow=self._flow)
            if 0 <= now_ns - event.timestamp_ns < _NEWS_NS:
                published_ns = event.timestamp_ns  # from a process it has come a long way
        with self._dispatching.lock:
            if self._closed:
                return False
            self._incoming.append((event, published_ns))
            if self._distributing:
                return True  # it comes in the middle of another, from a signal's handler or a finalizer: after that one
            self._distributing = True
            try:
                while self._incoming:
                    event, published_ns = self._incoming.popleft()
                    self._history.append(event)
                    self._dispatching.put(event, published_ns)
            finally:
                self._distributing = False
        self._dispatching.tell_of_orphans()
        return True

    @property
    def history(self) -> tuple[FlowEvent, ...]:
        """The latest events, up to 10,000, in the order in which they were published."""
        with self._dispatching.lock:
            return tuple(self._history)

    @property
    def subscriptions(self) -> tuple[Subscription[Any], ...]:
        """Who is subscribed."""
        return self._dispatching.subscriptions

    def delivery_times(self, delivery: Delivery) -> Histogram:
        """
        Return how long it took from publishing to the beginning of each callback of a class.

        Raises:
            ConfigurationError: There is no such class.
        """
        check_delivery("delivery_times", delivery)
        return self._dispatching.histogram(delivery)

    def missed_deliveries(self, delivery: Delivery) -> int:
        """
        Return how many events of a class came later than it promises.

        Raises:
            ConfigurationError: There is no such class.
        """
        check_delivery("missed_deliveries", delivery)
        return self._dispatching.missed(delivery)

    def drain(self, timeout_s: float = DRAIN_TIMEOUT_S) -> bool:
        """
        Wait until subscribers have got what was published, but for those who are stuck, and for whoever calls. Blocks.

        Returns:
            False after the time.
        """
        return self._dispatching.drain(timeout_s)

    def close(self, drain_timeout_s: float = DRAIN_TIMEOUT_S) -> None:
        """Deliver what waits, and take nothing more. Idempotent; blocks for that time at most, whatever a subscriber does."""
        with self._dispatching.lock:
            self._closed = True
        self._dispatching.drain(drain_timeout_s)
        self._given_up.detach()
        self._dispatching.end()

    def go_by(self, now_ns: Callable[[], int]) -> None:
        """Stamp events by another clock from now on, and those that are noted already with its time."""
        with self._dispatching.lock:
            self._now = now_ns
            began_ns = now_ns()
            noted = [dataclasses.replace(event, timestamp_ns=began_ns) for event in self._history]
            self._history = deque(noted, maxlen=HISTORY)

    def forget(self) -> None:
        """Give the bus up in a forked child, where the flow does not run."""
        self._closed = True

    def begin_anew(self) -> None:
        """Go on without subscriptions in a forked child: their threads do not run there, and one may have held the lock."""
        self._given_up.detach()
        self._begin_dispatching()

    def __repr__(self) -> str:
        return f"<TypedEventBus of {self._flow!r}: {len(self.subscriptions)} subscriptions>"


def _loop_for(callback: Callable[..., object], *, own_thread: bool) -> AbstractEventLoop | None:
    """Return the event loop that a coroutine function is to be called in; None for a plain function."""
    function = callback if inspect.isroutine(callback) else getattr(callback, "__call__", callback)  # noqa: B004
    if not (inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(function)):
        return None
    if own_thread:
        raise ConfigurationError("subscribe: expected a plain function with own_thread=True, got a coroutine function.")
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "subscribe: expected a running event loop for a coroutine function, because it is called there. Subscribe in a "
            "coroutine, or give a plain function."
        ) from None


Post = Callable[[], Callable[[FlowEvent], bool] | None]


def _teller_of_stalls(flow: str, post: Post) -> Callable[[Subscription[Any], FlowEvent, int], None]:
    def tell(subscription: Subscription[Any], event: FlowEvent, stalled_ns: int) -> None:
        publish = post()
        if publish is not None:
            publish(
                SubscriberStalled(
                    flow=flow,
                    subscription=subscription.name,
                    event_type=type(event).__name__,
                    delivery_class=subscription.delivery,
                    stalled_ms=stalled_ns / 1e6,
                )
            )

    return tell


def _teller_of_misses(flow: str, post: Post) -> Callable[[Subscription[Any], FlowEvent, int, int], None]:
    def tell(subscription: Subscription[Any], event: FlowEvent, took_ns: int, missed: int) -> None:
        publish = post()
        if publish is not None:
            publish(
                DeliveryMissed(
                    flow=flow,
                    subscription=subscription.name,
                    event_type=type(event).__name__,
                    delivery_class=subscription.delivery,
                    delivery_ms=took_ns / 1e6,
                    limit_ms=LIMITS_MS[subscription.delivery],
                    missed=missed,
                )
            )

    return tell


_buses: Final[weakref.WeakSet[TypedEventBus]] = weakref.WeakSet()


def _begin_anew() -> None:
    for bus in list(_buses):
        bus.begin_anew()


os.register_at_fork(after_in_child=_begin_anew)
