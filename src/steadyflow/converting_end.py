"""An open end that gives the application what a conversion makes of the blocks that come."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING

from steadyflow._native import Inbox, monotonic_ns
from steadyflow.conversion import StepReport
from steadyflow.data import Block
from steadyflow.errors import ConfigurationError, EndOfStream, ReceiveTimeout

if TYPE_CHECKING:
    from steadyflow.awaiting import Receiver
    from steadyflow.transform.stream import StreamConversion

_LONGEST_S = 1e9


class ConvertingEnd:
    """
    Receives from an inbox, converts, and keeps what is more than was asked for until the next call.

    Several threads may call, or several tasks of one event loop: what is converted depends on what came before, so they take turns.

    Args:
        name: The pipeline, for messages.
        inbox: Where the blocks come.
        stream: What is made of them.
    """

    def __init__(self, name: str, inbox: Inbox, stream: StreamConversion) -> None:
        self._name = name
        self._inbox = inbox
        self._stream = stream
        self._made: deque[Block] = deque()
        self._ended = False
        self._forgets = False
        self._turn = threading.Lock()
        self._task_turn = asyncio.Lock()

    def receive(self, timeout_s: float | None = None) -> Block:
        """
        Receive the next block that comes out of the conversion; as `Pipeline.receive`.

        Raises:
            TransformError: What came cannot be converted, and the pipeline does not say to go on without it. It is lost; the next
                call goes on behind it.
        """
        wait_s = _seconds(timeout_s)
        deadline_ns = monotonic_ns() + round(wait_s * 1e9)
        if not self._turn.acquire(timeout=min(wait_s, threading.TIMEOUT_MAX)):
            raise self._nothing_within(timeout_s)
        try:
            self._forget_if_told()
            while not self._made:
                try:
                    block = self._inbox.receive(max(deadline_ns - monotonic_ns(), 0) / 1e9)
                except ReceiveTimeout:
                    raise self._nothing_within(timeout_s) from None
                except EndOfStream:
                    if not self._finish():
                        raise
                else:
                    self._made.extend(self._stream.push(block))
            return self._made.popleft()
        finally:
            self._turn.release()

    async def receive_async(self, receiver: Receiver, timeout_s: float | None, entered_ns: int) -> Block:
        """Do the same in a task of an event loop, by its receiver of the same inbox."""
        left_s = _seconds(timeout_s) - (monotonic_ns() - entered_ns) / 1e9
        try:
            async with asyncio.timeout(max(left_s, 0)):
                await self._task_turn.acquire()
        except TimeoutError:
            raise self._nothing_within(timeout_s) from None
        try:
            self._forget_if_told()
            while not self._made:
                try:
                    block = await receiver.receive(timeout_s, entered_ns)
                except EndOfStream:
                    if not self._finish():
                        raise
                else:
                    self._made.extend(self._stream.push(block))
            return self._made.popleft()
        finally:
            self._task_turn.release()

    def reports(self) -> tuple[StepReport, ...]:
        """Return what each step of the conversion has done. Any thread."""
        return self._stream.conversion.reports()

    def forget(self) -> None:
        """Drop what is kept, and what the conversion remembers, before the next block is given. Any thread."""
        self._forgets = True

    def _forget_if_told(self) -> None:
        if self._forgets:
            self._forgets = False
            self._made.clear()
            deque(self._stream.flush(), maxlen=0)

    def _finish(self) -> bool:
        """Convert what is left, once; False if that is nothing."""
        if not self._ended:
            self._ended = True
            self._made.extend(self._stream.flush())
        return bool(self._made)

    def _nothing_within(self, timeout_s: float | None) -> ReceiveTimeout:
        return ReceiveTimeout(f"{self._name}: expected a block within {timeout_s} s, got none")


def _seconds(timeout_s: object) -> float:
    if timeout_s is None:
        return _LONGEST_S
    seconds = float(timeout_s) if isinstance(timeout_s, (int, float)) and not isinstance(timeout_s, bool) else -1.0
    if not seconds >= 0:
        raise ConfigurationError(
            f"receive: expected timeout_s to be a number of seconds >= 0, or None; got {timeout_s!r}"
        )
    return min(seconds, _LONGEST_S)
