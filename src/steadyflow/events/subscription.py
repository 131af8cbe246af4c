"""One subscription: whom it calls, what waits for it, and what became of the rest."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

from steadyflow.events.event import Delivery, FlowEvent

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from steadyflow.events.dispatching import Dispatching

EventT = TypeVar("EventT", bound=FlowEvent)

_FAILED: Final = "subscription %r failed at %r; the next event is given to it all the same"

_logger: Final = logging.getLogger("steadyflow.events")


class Subscription(Generic[EventT]):
    """
    What `TypedEventBus.subscribe` returns; a context manager that unsubscribes. Any thread.

    Attributes:
        name: For messages.
        event_type: What it gets, subtypes included.
        delivery: The class that it is served in.
        queue_size: How many events may wait for it.
        delivered: How many times it was called.
        dropped: How many events went because too many waited, the oldest first.
        failed: How many times callback or predicate raised.
        stalled: Whether it was in its callback for longer than its class allows; it is served apart since.
    """

    def __init__(
        self,
        name: str,
        event_type: type[EventT],
        callback: Callable[[EventT], Awaitable[None] | None],
        where: Callable[[EventT], bool] | None,
        delivery: Delivery,
        queue_size: int,
        loop: AbstractEventLoop | None,
        dispatching: Dispatching,
    ) -> None:
        self.name = name
        self.event_type = event_type
        self.delivery: Delivery = delivery
        self.queue_size = queue_size
        self.delivered = 0
        self.dropped = 0
        self.failed = 0
        self.stalled = False
        self.loop = loop
        self._callback = callback
        self._where = where
        self._dispatching = dispatching
        self._waiting: deque[tuple[EventT, int]] = deque()

    @property
    def pending(self) -> int:
        """How many events wait for it."""
        return len(self._waiting)

    def unsubscribe(self) -> None:
        """Get no more events, also none of those that wait. A call that has begun goes on. Idempotent; does not wait."""
        self._dispatching.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.unsubscribe()

    def __repr__(self) -> str:
        return f"<Subscription {self.name!r} to {self.event_type.__name__}: {self.delivered} delivered, {self.dropped} dropped>"

    # --- the bus's side; the first three with its lock held -----------------------------------------------------------

    def put(self, event: EventT, published_ns: int) -> None:
        """Let an event wait."""
        if len(self._waiting) >= self.queue_size:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append((event, published_ns))

    def take(self) -> tuple[EventT, int] | None:
        """Return the oldest event, and when it was published."""
        return self._waiting.popleft() if self._waiting else None

    def forget(self) -> None:
        """Let nothing wait any more."""
        self._waiting.clear()

    def call(self, event: EventT) -> None:
        """Call back, where the predicate agrees. Whatever that raises goes no further."""
        try:
            if self._where is None or self._where(event):
                self.delivered += 1
                _require_nothing_to_await(self._callback(event))
        except BaseException:  # also SystemExit: it would end the thread that serves others
            self.failed += 1
            _logger.exception(_FAILED, self.name, event)

    async def call_async(self, event: EventT) -> None:
        """Do the same, and await what the callback returns. Cancelling the task that does so gets through."""
        try:
            if self._where is None or self._where(event):
                self.delivered += 1
                awaitable = self._callback(event)
                assert awaitable is not None
                await awaitable
        except Exception:
            self.failed += 1
            _logger.exception(_FAILED, self.name, event)
        except BaseException as ending:
            # A callback that awaited something that was cancelled has failed; where this task itself is, the loop ends.
            if not _is_cancellation_of_another(ending):
                raise
            self.failed += 1
            _logger.exception(_FAILED, self.name, event)


def _require_nothing_to_await(result: object) -> None:
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(
            "expected a plain function, or one that is written as async def; got one that returns a coroutine"
        )


def _is_cancellation_of_another(problem: BaseException) -> bool:
    import asyncio

    task = asyncio.current_task()
    return isinstance(problem, asyncio.CancelledError) and task is not None and not task.cancelling()
