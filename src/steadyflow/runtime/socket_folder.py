"""
The folder in which the flows of one user can be found: one socket for each, that only this user can connect to.

It is ``$XDG_RUNTIME_DIR/steadyflow``; without that variable ``/run/user/<uid>/steadyflow``, or else a folder of this user
under the temporary directory. Everything is done relative to the opened folder: what was checked is what is used, and a
long path does not meet the limit of 107 bytes for the address of a socket.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import struct
import tempfile
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple, Self

from steadyflow.errors import SystemShortage

_NAME: Final = re.compile(r"(?P<flow>.+)-(?P<pid>[0-9]{1,10})(\.[0-9]{1,4})?\.sock")
_MAX_FLOW_CHARACTERS: Final = 48
_MAX_SOCKETS_OF_A_NAME: Final = 1000
_MAX_ATTEMPTS: Final = 10


class SocketName(NamedTuple):
    """
    What the name of a socket says.

    Args:
        file: The name of the file.
        flow: The flow, as file names have it.
        pid: The process of its coordinator.
    """

    file: str
    flow: str
    pid: int


def folder_of_sockets() -> Path:
    """Return where the folder of this user's sockets is, or would be."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    # What is not absolute is to be ignored, says the specification of base directories.
    if not runtime.is_absolute():
        runtime = Path(f"/run/user/{os.geteuid()}")
        if not runtime.is_dir():
            return Path(tempfile.gettempdir()) / f"steadyflow-{os.geteuid()}"
    return runtime / "steadyflow"


def flow_in_file_names(flow: str) -> str:
    """Return the name of a flow as the names of files have it: other characters than letters, digits, _, - and . replaced."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", flow)[:_MAX_FLOW_CHARACTERS].lstrip(".") or "_"


class SocketFolder:
    """
    The folder of this user's sockets, open until `close`.

    Args:
        create: Make it if it is not there.

    Raises:
        SystemShortage: It is not there, belongs to somebody else, is a link, or others may enter it.
    """

    def __init__(self, *, create: bool) -> None:
        self.path = folder_of_sockets()
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    self.path.mkdir(0o700)
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise SystemShortage(
                f"{self.path}: expected a folder for the sockets of flows: {error.strerror}"
            ) from error
        status = os.fstat(self._descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            self.close()
            raise SystemShortage(
                f"{self.path}: expected a folder of user {os.geteuid()} that nobody else may enter, got one of user "
                f"{status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}. Remove it, or set XDG_RUNTIME_DIR."
            )

    def close(self) -> None:
        """Let go of the folder. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def listen(self, flow: str, backlog: int) -> tuple[socket.socket, str]:
        """
        Make the socket of a flow of this process, after removing those of processes that are gone.

        Returns:
            The listening socket, and the name of its file.

        Raises:
            OSError: The system refuses.
        """
        self._remove_stale()
        stem = f"{flow_in_file_names(flow)}-{os.getpid()}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            for number in count(1):
                file = f"{stem}.sock" if number == 1 else f"{stem}.{number}.sock"
                try:
                    listener.bind(self._address(file))
                    break
                except OSError:
                    if number == _MAX_SOCKETS_OF_A_NAME or not self._has(file):
                        raise
            # Before listen(), so that nobody connects earlier.
            os.chmod(file, 0o600, dir_fd=self._descriptor)
            listener.listen(backlog)
        except BaseException:
            listener.close()
            raise
        return listener, file

    def remove(self, file: str) -> None:
        """Remove a socket's file, and the folder with the last one, as far as they are there and can be removed."""
        with contextlib.suppress(OSError):  # what stays, the next flow finds dead
            os.unlink(file, dir_fd=self._descriptor)
        with contextlib.suppress(OSError):  # others are in it, or it is not ours any more
            self.path.rmdir()

    def names(self) -> list[SocketName]:
        """Return the sockets that are there, in the order of their names; nobody may be listening to some."""
        with os.scandir(self._descriptor) as entries:
            matches = [match for entry in entries if (match := _NAME.fullmatch(entry.name))]
        return sorted(SocketName(match[0], match["flow"], int(match["pid"])) for match in matches)

    def is_served(self, file: str) -> bool:
        """Tell whether somebody may be listening to a socket: False only if surely nobody does. Does not wait."""
        try:
            _connect(self._address(file), 0.0).close()
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # So many are waiting that there is no room for one more; or it is not for us to know, and to remove.
            return True
        return True

    def _remove_stale(self) -> None:
        for name in self.names():
            # Not of a living one: it may be about to listen. Of a dead one, since one of another container seems dead here.
            if not _is_alive(name.pid) and self._is_socket(name.file) and not self.is_served(name.file):
                with contextlib.suppress(OSError):  # somebody else was faster; or it is not ours to remove
                    os.unlink(name.file, dir_fd=self._descriptor)

    def _is_socket(self, file: str) -> bool:
        try:
            return stat.S_ISSOCK(os.stat(file, dir_fd=self._descriptor, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def _has(self, file: str) -> bool:
        try:
            os.stat(file, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _address(self, file: str) -> str:
        return _address(self._descriptor, file)


def listen(flow: str, backlog: int) -> tuple[SocketFolder, socket.socket, str]:
    """
    Make the socket of a flow of this process, that only this user can connect to.

    Returns:
        The folder, the listening socket, and the name of its file.

    Raises:
        SystemShortage: It cannot be made; says why.
    """
    for _ in range(_MAX_ATTEMPTS):
        folder = SocketFolder(create=True)
        try:
            return folder, *folder.listen(flow, backlog)
        except FileNotFoundError:
            folder.close()  # the flow that was in it has just removed it
        except OSError as error:
            folder.close()
            raise SystemShortage(f"{folder.path}: the socket of the flow cannot be made: {error.strerror}") from error
    raise SystemShortage(f"{folder.path}: the socket of the flow cannot be made: others keep removing the folder")


def connect(path: Path, timeout_s: float) -> socket.socket:
    """
    Connect to a socket, however long its path is.

    Raises:
        OSError: Nobody listens, or there is no room for one more within the time.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _connect(_address(folder, path.name), timeout_s)
    finally:
        os.close(folder)


def _address(folder: int, file: str) -> str:
    return f"/proc/self/fd/{folder}/{file}"


def _connect(address: str, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if timeout_s:
            # A socket of Python's with a timeout would not wait here: where many are waiting already, it is refused at once.
            limit = struct.pack("@ll", int(timeout_s), max(1, int(timeout_s % 1 * 1e6)))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        else:
            connection.setblocking(False)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # a number that no process has, in the name of a file
        return False
    except PermissionError:
        return True
    return True
