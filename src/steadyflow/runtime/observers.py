"""
The observers of a running flow: a socket where another process of the same user gets a description of it, and its memory
to read.

Whatever an observer does, the flow goes on: it is served by a thread that does nothing else, a bounded number of observers
at a bounded pace, each within a bounded time.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from steadyflow._native import Segment
from steadyflow.errors import LimitExceeded, SystemShortage
from steadyflow.runtime.channel import MAX_DESCRIPTORS, Channel, ChannelBroken, Observed, Refused
from steadyflow.runtime.failure_text import in_one_line
from steadyflow.runtime.flow_description import FlowDescription
from steadyflow.runtime.socket_folder import listen
from steadyflow.version import __version__

MAX_OBSERVERS: Final = 16

_SEND_TIMEOUT_S: Final = 1.0
_PAUSE_MS: Final = 20  # after each observer: however many ask, the flow's interpreter lock is rarely asked for
_CLOSE_TIMEOUT_S: Final = 2.0

Describe = Callable[[], tuple[FlowDescription, list[Segment]]]


class Observers:
    """
    The socket of one flow and those who are connected to it; serves them from now on, in a thread of its own.

    Args:
        flow: The name of the flow.
        describe: A bound method that returns the flow's description and the segments it speaks of. Any thread. It is
            not kept alive by this.

    Raises:
        SystemShortage: The socket cannot be made; says why.
    """

    def __init__(self, flow: str, describe: Describe) -> None:
        self._describe = weakref.WeakMethod(describe)
        self._folder, self._listener, self._file = listen(flow, MAX_OBSERVERS)
        self._listener.setblocking(False)
        self._connections: dict[int, socket.socket] = {}
        self._closing = False
        self._ending = threading.RLock()  # recursive: the garbage collector may end this in the middle of its end
        self._thread = threading.Thread(target=self._serve, name="steadyflow-observers", daemon=True)
        with contextlib.ExitStack() as undo:
            undo.callback(self._folder.close)
            undo.callback(self._folder.remove, self._file)
            undo.callback(self._listener.close)
            try:
                self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                undo.callback(os.close, self._wake)
                self._thread.start()
            except (OSError, RuntimeError) as error:
                raise SystemShortage(f"nobody can observe flow {flow!r}: {error}") from error
            undo.pop_all()

    @property
    def path(self) -> Path:
        """Where the socket is."""
        return self._folder.path / self._file

    def close(self) -> None:
        """Remove the socket and end every observation. Idempotent; blocks while an observer is being served."""
        self.request_end()
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_TIMEOUT_S)

    def request_end(self) -> None:
        """The same without waiting for it."""
        if self._closing:
            return  # also in a forked child, where nobody may be left to give the lock back
        with self._ending:
            if not self._closing:
                self._folder.remove(self._file)
                os.eventfd_write(self._wake, 1)
                self._closing = True  # last: from here on the thread closes what is used above

    def forget(self) -> None:
        """Let go of the descriptors in a forked child, where the thread does not run; the socket is the parent's."""
        if self._closing:
            return
        self._closing = True
        self._listener.close()
        for connection in self._connections.values():
            connection.close()
        self._folder.close()
        os.close(self._wake)

    def _serve(self) -> None:
        try:
            while not self._closing:
                ready = self._wait(None, self._listener.fileno(), *self._connections)
                for descriptor in ready & self._connections.keys():
                    # Observers have nothing to say: this one is gone, or none of ours.
                    _hang_up(self._connections.pop(descriptor))
                if self._listener.fileno() in ready:
                    self._admit()
                    self._wait(_PAUSE_MS)
        finally:
            self.request_end()
            self._release()

    def _wait(self, timeout_ms: int | None, *descriptors: int) -> set[int]:
        poll = select.poll()
        for descriptor in (self._wake, *descriptors):
            poll.register(descriptor, select.POLLIN)
        return {descriptor for descriptor, _ in poll.poll(timeout_ms)}

    def _admit(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it was given up meanwhile; or there is no descriptor left, and it waits
        connection.settimeout(_SEND_TIMEOUT_S)
        channel = Channel(connection)
        try:
            refusal = self._answer(channel)
            if refusal is None:
                self._connections[connection.fileno()] = connection
                return
            channel.send(Refused(refusal))
        except ChannelBroken:
            pass  # gone, or it does not read: its own loss
        _hang_up(connection)

    def _answer(self, channel: Channel) -> str | None:
        """Hand the flow out; or return why not."""
        describe = self._describe()
        if channel.peer_uid() != os.geteuid():
            return f"only user {os.geteuid()} may observe this flow"
        if len(self._connections) >= MAX_OBSERVERS:
            return f"the flow has {MAX_OBSERVERS} observers, which is as many as it serves"
        if describe is None:
            return "the flow has been given up"
        try:
            self._hand_out(channel, *describe())
        except ChannelBroken:
            raise
        except (
            Exception
        ) as problem:  # a defect of ours, or no descriptor left: the next observer is served all the same
            return f"the flow cannot be handed out: {in_one_line(problem)}"
        return None

    def _hand_out(self, channel: Channel, description: FlowDescription, segments: list[Segment]) -> None:
        if len(segments) > MAX_DESCRIPTORS:
            raise LimitExceeded(
                f"its memory lies in {len(segments)} segments, one for each pipeline with an open source; an observer can "
                f"be given {MAX_DESCRIPTORS}"
            )
        encoded = msgspec.Raw(msgspec.msgpack.encode(description))
        descriptors: list[int] = []
        try:
            for segment in segments:
                # Opened anew, so that nobody can write through it, or map it for writing.
                path = f"/proc/self/fd/{segment.descriptor}"
                descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            channel.send(Observed(__version__, encoded), descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _release(self) -> None:
        _hang_up(self._listener)
        for connection in self._connections.values():
            _hang_up(connection)
        self._connections.clear()
        self._folder.close()
        os.close(self._wake)


def _hang_up(connection: socket.socket) -> None:
    """Close a socket for good: closing alone would leave it open where a forked child has it as well."""
    with contextlib.suppress(OSError):  # the other side was faster
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
