"""
Waiting in an event loop: for blocks, for room, and for code that blocks, without ever stopping the loop.

Whoever sleeps on a bell waits for bytes in a pipe, and a pipe is something that an event loop can watch. So a task that
waits is woken by the sender itself, with no thread in between. Loaded where it is used: asyncio is slow to import.
"""

from __future__ import annotations

import asyncio
import contextvars
import numbers
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, ParamSpec, TypeVar

from steadyflow._native import Bell, Block, Inbox, OutputCore, monotonic_ns
from steadyflow.errors import ConfigurationError, ReceiveTimeout

P = ParamSpec("P")
T = TypeVar("T")

NEVER: Final = -1
"""The deadline of a wait that has none."""

_LOOK_S: Final = 0.001  # between two looks of a task where somebody else sleeps on the bell
_LOOK_UP_S: Final = 0.25  # between two looks of a task that no bell wakes: one that is damaged may never ring
_AT_ONCE: Final = 32  # calls that found what they wanted; then the other tasks of the loop have their turn


class BellWatch:
    """
    Lets the tasks of an event loop sleep on a bell; one for each bell.

    Tasks of one loop sleep together, and all of them look again when it rings. Where a thread or another loop sleeps on
    the bell already, they look every millisecond instead.

    Args:
        bell: The bell.
        collect: Takes what rang, before anybody looks again; `Bell.take` where the bits mean nothing.
    """

    def __init__(self, bell: Bell, collect: Callable[[], object]) -> None:
        self.heard_ns = 0
        """When the loop heard the bell for the last time."""
        self._bell = bell
        self._collect = collect
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that has the bell's seat for us
        self._look_up: asyncio.TimerHandle | None = None  # while we have the seat
        self._seat = threading.Lock()  # around a change of it
        self._waiting: dict[asyncio.Future[None], None] = {}  # in the order in which they came

    async def sleep(self, deadline_ns: int) -> None:
        """
        Sleep until the bell rings or the deadline passes (`NEVER`: there is none); may return early.

        What the caller waits for has to be looked at again afterwards. Cancelling it leaves nothing behind.
        """
        loop = asyncio.get_running_loop()
        if not self._sit_down(loop):
            await asyncio.sleep(_LOOK_S)
            return
        try:
            await self._sleep_in_the_seat(loop, deadline_ns)
        finally:
            if loop.is_closed():
                self._stand_up()
            elif not self._waiting:
                # Not at once: a task that takes what came and waits again finds everything as it was.
                loop.call_soon(self._stand_up)

    async def _sleep_in_the_seat(self, loop: asyncio.AbstractEventLoop, deadline_ns: int) -> None:
        if not self._bell.arm():
            # It rang since the caller looked, and perhaps for others than the caller.
            self.wake()
            await asyncio.sleep(0)
            return
        woken = loop.create_future()
        self._waiting[woken] = None
        # Wakes everybody: who came first looks first, whoever's time has come.
        timer = None if deadline_ns < 0 else loop.call_later(_seconds_until(deadline_ns), self.wake)
        try:
            await woken
        finally:
            self._waiting.pop(woken, None)
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        """Make everybody look again. The loop's thread."""
        self._collect()
        for woken in self._waiting:
            _wake(woken)
        self._waiting.clear()

    def _sit_down(self, loop: asyncio.AbstractEventLoop) -> bool:
        if self._loop is loop:
            return True
        with self._seat:
            if self._loop is not None and self._loop.is_closed():
                self._waiting.clear()  # its tasks will never run again
                self._loop = None
                self._bell.leave_seat()
            if self._loop is not None or not self._bell.take_seat():
                return False
            try:
                loop.add_reader(self._bell.descriptor, self._hear)
            except BaseException:  # a loop that watches no descriptors
                self._bell.leave_seat()
                raise
            self._loop = loop
            if getattr(loop, "looks_up", True):  # by a manual clock, no time goes on for a look
                self._look_up = loop.call_later(_LOOK_UP_S, self._look_again)
            return True

    def _stand_up(self) -> None:
        with self._seat:
            if self._waiting or self._loop is None:
                return
            if not self._loop.is_closed():
                self._loop.remove_reader(self._bell.descriptor)
                if self._look_up is not None:
                    self._look_up.cancel()
            self._loop = None
            self._bell.leave_seat()

    def _look_again(self) -> None:
        self.wake()
        if self._loop is not None:
            self._look_up = self._loop.call_later(_LOOK_UP_S, self._look_again)

    def _hear(self) -> None:
        self._bell.hear()
        self.heard_ns = monotonic_ns()
        self.wake()


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _seconds_until(deadline_ns: int) -> float:
    return max(deadline_ns - monotonic_ns(), 0) / 1e9


class _Turns:
    """Gives the loop a turn now and then, where a call never has to wait: tasks that are always ready starve the others."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _AT_ONCE

    async def take(self) -> None:
        self._left -= 1
        if self._left <= 0:
            # Whoever comes meanwhile waits behind this one, so calls are served as they came.
            try:
                await asyncio.sleep(0)
            finally:
                self._left = _AT_ONCE


class Sender:
    """
    The sending end of a pipeline or port, for event loops.

    Args:
        output: The end.
        watch: Watches the bell that its consumers ring when there is room.
    """

    def __init__(self, output: OutputCore, watch: BellWatch) -> None:
        self._output = output
        self._watch = watch
        self._turns = _Turns()

    async def send_async(self, data: object) -> bool:
        """
        Send as `OutputCore.send` does, by the same rules; waits without stopping the loop.

        Cancelling it means that nothing was queued.
        """
        await self._turns.take()
        answer = self._output.attempt(data)
        if isinstance(answer, bool):
            return answer
        while (queued := answer.settle()) is None:
            await self._watch.sleep(answer.until_ns)
        return queued

    async def wait_for_room(self, payload_bytes: int, frames: int) -> None:
        """Wait until `OutputCore.has_room`; whoever takes from what is full ends the sleep."""
        await self._turns.take()
        while until_ns := self._output.seek_room(payload_bytes, frames):
            await self._watch.sleep(until_ns)


class Receiver:
    """
    The receiving end of a pipeline, for event loops.

    Args:
        name: The pipeline, for the messages.
        inbox: The end.
    """

    def __init__(self, name: str, inbox: Inbox) -> None:
        self._name = name
        self._inbox = inbox
        self._bell = inbox.bell
        self._watch = BellWatch(self._bell, self._bell.take)
        self._turns = _Turns()

    async def receive(self, timeout_s: float | None, entered_ns: int = 0) -> Block:
        """
        Receive as `Inbox.receive` does; waits without stopping the loop.

        A block is committed and returned in one step, so cancelling the call loses none.

        Args:
            timeout_s: None: wait for ever.
            entered_ns: When the wait began, if that is not now.
        """
        entered_ns = entered_ns or monotonic_ns()
        deadline_ns = NEVER if timeout_s is None else entered_ns + nanoseconds(timeout_s)
        await self._turns.take()
        heard_ns = 0
        while (block := self._inbox.try_receive(entered_ns, heard_ns)) is None:
            if 0 <= deadline_ns <= monotonic_ns():
                raise ReceiveTimeout(f"{self._name}: expected a block within {timeout_s} s, got none")
            await self._watch.sleep(deadline_ns)
            heard_ns = self._watch.heard_ns
        return block


def nanoseconds(timeout_s: object) -> int:
    """
    Return the time-out of `receive_async` in ns.

    Raises:
        ConfigurationError: It is no time.
    """
    seconds = float(timeout_s) if isinstance(timeout_s, numbers.Real) else -1.0
    if seconds >= 0:
        return int(min(seconds, 1e9) * 1e9)
    raise ConfigurationError(
        f"receive_async: expected timeout_s to be a number of seconds >= 0, or None; got {timeout_s!r}"
    )


def loop_is_running() -> bool:
    """Tell whether anything can be awaited here; not in a task whose loop was closed over it."""
    return asyncio._get_running_loop() is not None


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Call a function that blocks, in a thread of its own, while the loop goes on.

    Not in the loop's pool: ending a flow may be what lets the calls in there return. If the caller is cancelled, that is
    carried out after the function has returned: half a start or half a stop would be nothing to go on from.
    """
    return await in_thread_until_hurried(lambda: None, function, *args, **kwargs)


async def in_thread_until_hurried(
    hurry: Callable[[], None], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """
    Call a function as `in_thread` does; if the caller is cancelled, hurry it.

    Args:
        hurry: Makes the function return soon; must not block.
        function: What is called.
        *args: With these.
        **kwargs: And these.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            settle = partial(done.set_result, context.run(function, *args, **kwargs))
        except BaseException as problem:  # noqa: BLE001 - whatever it is, it is the caller's
            settle = partial(done.set_exception, problem)
        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:
            if not loop.is_closed():
                raise
            # The loop was closed over its tasks: nobody is left to be told.

    cancelled: asyncio.CancelledError | None = None
    try:
        threading.Thread(target=run, name="steadyflow-in-thread", daemon=True).start()
        while not done.done():
            try:
                await asyncio.wait([done])
            except asyncio.CancelledError as cancellation:
                cancelled = cancellation
                hurry()
    except BaseException:  # Ctrl-C itself, or a loop that was closed over its tasks: there is no waiting any more
        hurry()
        raise
    if cancelled is not None:
        raise cancelled from done.exception()
    return done.result()


async def wait_for_call(
    subscribe: Callable[[Callable[[], None]], None],
    timeout_s: float | None,
    unsubscribe: Callable[[Callable[[], None]], None] | None = None,
) -> bool:
    """
    Wait until something calls back, from any thread; False after the time.

    Args:
        subscribe: Is given what has to be called, once.
        timeout_s: None: wait for ever.
        unsubscribe: Is given it again when nobody waits any more.
    """
    loop = asyncio.get_running_loop()
    called = asyncio.Event()

    def call() -> None:
        try:
            loop.call_soon_threadsafe(called.set)
        except RuntimeError:
            if not loop.is_closed():
                raise
            # The loop was closed over its tasks: nobody is left to be told.

    subscribe(call)
    try:
        async with asyncio.timeout(timeout_s):
            await called.wait()
    except TimeoutError:
        return False
    finally:
        if unsubscribe is not None:
            unsubscribe(call)
    return True
