"""Messages from the coordinator to a worker process or an observer, and back: msgpack with a length in front, over a socket."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from array import array
from typing import Any, Final, TypeAlias

import msgspec

from steadyflow.conversion import StepReport
from steadyflow.errors import FlowError, LimitExceeded
from steadyflow.report import AlignedInputReport
from steadyflow.runtime.changes import Change
from steadyflow.runtime.scheduling import Scheduling

ModuleDid: TypeAlias = tuple[int, int, str, dict[str, AlignedInputReport], dict[str, tuple[StepReport, ...]]]
"""Calls, busy ns, state, what became of aligned inputs, and what was converted for a module, by pipeline."""

ModuleReports: TypeAlias = dict[str, ModuleDid]
"""What the modules of a worker did, by name."""


class Setup(msgspec.Struct, frozen=True, tag="setup"):
    """To the worker, with the descriptors of segments and bells (two each): everything it needs to build its ends."""

    flow: str
    segments: list[int]
    bells: list[tuple[int, int]]
    wiring: dict[str, Any]
    sys_path: list[str]
    argv: list[str]
    main_path: str | None
    main_package: str | None


class Start(msgspec.Struct, frozen=True, tag="start"):
    """To the worker: every worker is set up; sources may produce."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """To the worker: stop the sources and drain."""


class Hold(msgspec.Struct, frozen=True, tag="hold"):
    """To the worker: a source produces nothing, or goes on."""

    module: str
    held: bool


class LetDown(msgspec.Struct, frozen=True, tag="let_down"):
    """To the worker: nobody depends on its modules any more."""


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """To the worker: give up what waits, and end."""


class Changed(msgspec.Struct, frozen=True, tag="changed"):
    """From the worker: a change was made; or, with a problem, nothing was changed."""

    number: int
    problem: str | None


class Withdraw(msgspec.Struct, frozen=True, tag="withdraw"):
    """To the worker: a change is not wanted any more, unless it has begun; `Changed` comes in either case."""

    number: int


class InputLeft(msgspec.Struct, frozen=True, tag="input_left"):
    """From the worker: all that came from a pipeline which was taken away has been taken."""

    pipeline: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """From the worker: setup has succeeded."""

    scheduling: Scheduling


class Revoked(msgspec.Struct, frozen=True, tag="revoked"):
    """From the worker: it kept a core to itself, and has no real-time priority any more."""

    module: str | None
    reason: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """
    From the worker: a module raised; without a module, the worker itself failed.

    With a pipeline, neither is to blame: its shared memory is damaged.
    """

    module: str | None
    problem: str
    text: str
    block_sequence: int | None
    pipeline: str | None = None
    explanation: str = ""


class Lost(msgspec.Struct, frozen=True, tag="lost"):
    """From the worker, last: a module has lost its device; another process may find it again."""

    module: str
    problem: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """From the worker, last: what its modules did, and how many of its events had no room."""

    modules: ModuleReports
    lost_events: int = 0


class Observed(msgspec.Struct, frozen=True, tag="observed"):
    """
    To an observer, with the descriptors of the segments, to be read only: the flow as it is.

    The description is left encoded, so that one of another version is known for what it is.
    """

    version: str
    description: msgspec.Raw


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """To an observer, and nothing follows: why it is not served."""

    reason: str


Message: TypeAlias = (
    Setup
    | Start
    | Stop
    | Hold
    | LetDown
    | Change
    | Withdraw
    | Abort
    | Ready
    | Changed
    | InputLeft
    | Revoked
    | Failed
    | Lost
    | Done
    | Observed
    | Refused
)

_LENGTH: Final = struct.Struct("!I")
_DESCRIPTOR_BYTES: Final = array("i").itemsize
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid
_MAX_MESSAGE_BYTES: Final = 1 << 30
_LONGEST_POLL_MS: Final = (1 << 31) - 1

MAX_DESCRIPTORS: Final = 250
"""How many descriptors can come with one message; the system's limit is 253."""


class ChannelBroken(FlowError):
    """The other side is gone, does not answer in time, or sends something that is no message."""


class ChannelClosed(ChannelBroken):
    """The other side is gone."""


class Channel:
    """
    One end of the conversation. `send` may be called from any thread; `receive` from one.

    Args:
        connection: A connected stream socket; taken over.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock = threading.Lock()
        self._decoder = msgspec.msgpack.Decoder(Message)
        self._descriptors: list[int] = []

    def send(self, message: Message, descriptors: list[int] | None = None) -> None:
        """
        Send a message, and descriptors with it. May block while the other side does not read.

        Raises:
            ChannelBroken: The other side is gone.
            LimitExceeded: More descriptors than one message can carry.
        """
        if descriptors and len(descriptors) > MAX_DESCRIPTORS:
            raise LimitExceeded(
                f"one worker can be given at most {MAX_DESCRIPTORS} descriptors, this one needs {len(descriptors)}: "
                f"two for each worker that it exchanges blocks with, five for each pipeline with an open source. Divide "
                f"its modules among several workers."
            )
        payload = msgspec.msgpack.encode(message)
        head = _LENGTH.pack(len(payload))
        try:
            with self._lock:
                if descriptors:
                    socket.send_fds(self._socket, [head], descriptors)
                    head = b""
                # In one call, so that Ctrl-C finds no half of a short message.
                self._socket.sendall(head + payload)
        except OSError as error:
            raise ChannelBroken(f"the other side is gone: {error}") from error

    def receive(self, timeout_s: float | None = None) -> Message:
        """
        Wait for the next message. Blocks.

        Args:
            timeout_s: How long, until all of it has come; None: as long as it takes.

        Raises:
            ChannelBroken: The other side is gone, too slow, or sent something that is no message.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        head = self._read(_LENGTH.size, deadline, take_descriptors=True)
        (length,) = _LENGTH.unpack(head)
        if length > _MAX_MESSAGE_BYTES:
            raise ChannelBroken(f"expected a message of at most {_MAX_MESSAGE_BYTES} bytes, got one of {length}")
        try:
            message: Message = self._decoder.decode(self._read(length, deadline))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ChannelBroken(f"expected a message, got something else: {error}") from error
        return message

    def take_descriptors(self) -> list[int]:
        """Return the descriptors that came with messages so far; they are the caller's now."""
        descriptors, self._descriptors = self._descriptors, []
        return descriptors

    def peer_uid(self) -> int:
        """Return the user at the other end, as the kernel knows it."""
        option = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        uid: int = _CREDENTIALS.unpack(option)[1]
        return uid

    def is_closed_by_peer(self, timeout_s: float | None = 0.0) -> bool:
        """Wait until the other side has ended the conversation, or said something; tell whether it has. Takes nothing."""
        return self._has_something_to_read(timeout_s)

    def finish_reading(self) -> None:
        """Let `receive` give what has come, and then report the other side as gone. Any thread."""
        with contextlib.suppress(OSError):  # the other side may have closed the conversation itself
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the socket, and what nobody took."""
        for descriptor in self.take_descriptors():
            os.close(descriptor)
        self._socket.close()

    def _read(self, count: int, deadline: float | None, *, take_descriptors: bool = False) -> bytes:
        parts = bytearray()
        try:
            while len(parts) < count:
                self._wait_until(deadline)
                if take_descriptors:
                    piece = self._receive_with_descriptors(count - len(parts))
                else:
                    piece = self._socket.recv(min(count - len(parts), 1 << 20))
                if not piece:
                    raise ChannelClosed("the other side has closed the conversation")
                parts += piece
        except OSError as error:
            raise ChannelClosed(f"the other side is gone: {error}") from error
        return bytes(parts)

    def _wait_until(self, deadline: float | None) -> None:
        # Not a time-out of the socket, which would begin anew with every piece.
        if deadline is not None and not self._has_something_to_read(max(0.0, deadline - time.monotonic())):
            raise ChannelBroken("the other side did not finish in time")

    def _has_something_to_read(self, timeout_s: float | None) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else min(1000 * timeout_s, _LONGEST_POLL_MS)))

    def _receive_with_descriptors(self, count: int) -> bytes:
        # Not socket.recv_fds, which drops the flags that it is given: a process started at that moment would inherit them.
        room = socket.CMSG_SPACE(MAX_DESCRIPTORS * _DESCRIPTOR_BYTES)
        piece, ancillary, _, _ = self._socket.recvmsg(count, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors = array("i")
                descriptors.frombytes(data[: len(data) // _DESCRIPTOR_BYTES * _DESCRIPTOR_BYTES])
                self._descriptors.extend(descriptors)
        return piece
