"""Opening the files of recordings: nothing but files, without waiting, and none is replaced while somebody uses it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from steadyflow.errors import FileUnreadable, FileUnwritable

_OTHERS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Without waiting for the other end of a pipe, where one has taken the place of a file since it was looked at.
_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK


def open_to_read(path: Path) -> int:
    """
    Open a file for reading and return its descriptor; while it is open, no `Recorder` replaces it.

    Raises:
        FileUnreadable: No such file, or something else than a file.
    """
    if other := _other_at(path):
        raise FileUnreadable(f"{path}: expected a file, got {other}. Check the path.")
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    except OSError as error:
        raise FileUnreadable(f"{path}: {error.strerror or error}. Check the path.") from None
    if other := _other_than_file(os.fstat(descriptor)):
        os.close(descriptor)
        raise FileUnreadable(f"{path}: expected a file, got {other}. Check the path.")
    with contextlib.suppress(OSError):  # it is being recorded at this moment, or the file system knows no locks
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor


def create(path: Path) -> BinaryIO:
    """
    Create a file, or replace one that nobody records or reads; the lock goes with the process.

    Raises:
        FileUnwritable: It cannot be created there, is in use, or is something else than a file.
    """
    if other := _other_at(path):
        raise _no_place(path, other)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | _FLAGS, 0o666)
    except OSError as error:
        raise FileUnwritable(
            f"{path}: expected a place where a file can be written, got: {error.strerror}. Choose another folder, or "
            f"change its permissions."
        ) from error
    try:
        _take_over(descriptor, path)
    except FileUnwritable:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "wb")


def _take_over(descriptor: int, path: Path) -> None:
    """Make sure that this is a file of our own, and empty it."""
    if other := _other_than_file(os.fstat(descriptor)):
        raise _no_place(path, other)
    if _is_used(descriptor):
        raise FileUnwritable(
            f"{path}: expected a file of its own, but this one is being recorded or replayed. Choose another name."
        )
    try:
        os.ftruncate(descriptor, 0)
    except OSError as error:
        raise FileUnwritable(
            f"{path}: expected a file that can be replaced, got one that cannot be emptied: {error.strerror}. Choose "
            f"another name."
        ) from error


def _is_used(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    return False


def _no_place(path: Path, other: str) -> FileUnwritable:
    return FileUnwritable(f"{path}: expected a file, or none yet, got {other}. Choose another name.")


def _other_at(path: Path) -> str:
    """
    Say what stands there in place of a file; nothing for a file, or if that cannot be told.

    Looked at first: a device may do something when it is opened, and a socket cannot be opened at all.
    """
    try:
        return _other_than_file(path.stat())
    except OSError:
        return ""  # opening it says why


def _other_than_file(status: os.stat_result) -> str:
    return "" if stat.S_ISREG(status.st_mode) else _OTHERS.get(stat.S_IFMT(status.st_mode), "something else")
