"""
The SQLite file of a spool: opened by one user at a time, checked before anything in it is used, and its errors in our words.

One connection with an exclusive lock, in write-ahead mode. ``synchronous=NORMAL``: a commit is a write into the system's cache, so it
outlives a kill of the process; the disk is waited for only when the log is carried over into the file, once for some megabytes. What
a power failure or a crash of the system takes are the last commits; the file stays whole. ``FULL`` would wait for the disk at each
commit, ten times a second, to save what the flow could not have delivered by then anyway; ``OFF`` could leave a file that is damaged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
from pathlib import Path
from typing import Final

import msgspec

from steadyflow.errors import FileUnreadable, FormatClash, LimitExceeded, SpoolFailure, SpoolUnavailable
from steadyflow.formats import Format
from steadyflow.recording.message import describe_format

APPLICATION_ID: Final = 0x53465370
"""``SFSp``: what a file of ours says in the header that SQLite keeps for it; ``file`` shows it."""

VERSION: Final = 1
"""Of the layout, in ``user_version``."""

_SCHEMA: Final = {
    "spool": "CREATE TABLE spool (format TEXT NOT NULL)",
    "block": (
        "CREATE TABLE block (position INTEGER PRIMARY KEY, timestamp_ns INTEGER NOT NULL, first_frame INTEGER NOT NULL, "
        "frames INTEGER NOT NULL, flags INTEGER NOT NULL, checksum INTEGER NOT NULL, payload BLOB NOT NULL, metadata BLOB NOT NULL)"
    ),
}
_PAGE_BYTES: Final = 4096  # of 8,192, two blocks of 4 KiB do not fit into one, and half of the file is empty
_LOG_PAGES: Final = 1024  # 4 MiB; then the log is carried over, and begun anew
_ROOM_BYTES: Final = 1 << 16  # beside its payload, what a row or a statement has
_MOST_FORMAT_BYTES: Final = 1 << 16
_CHECKED_WHOLE_BYTES: Final = 64 << 20

_FULL: Final = (sqlite3.SQLITE_FULL,)
_LOCKED: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_FORBIDDEN: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)

_ADVICE: Final[dict[SpoolFailure, str]] = {
    "directory": "Make the folder, or choose another one.",
    "permission": "Change the permissions, or choose another folder.",
    "full": "Make room on the disk, or choose another folder.",
    "locked": "End the other flow, or choose another file.",
    "damaged": "Move the file away, and a new one is made.",
    "removed": "Do not move or remove the file of a flow that runs.",
    "io": "Look for the disk's errors in the system's log, or choose another folder.",
}


def unavailable(
    path: Path, expected: str, error: Exception | str, reason: SpoolFailure | None = None
) -> SpoolUnavailable:
    """Say what is wrong with the file of a spool, and what to do; the reason is that of SQLite's error unless given."""
    reason = reason or _reason_of(error)
    return SpoolUnavailable(f"{path}: expected {expected}, got: {error}. {_ADVICE[reason]}", reason=reason)


def _reason_of(error: Exception | str) -> SpoolFailure:
    # The low byte says what it is, the others where it happened; errors of the binding itself have no code.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _FULL:
        return "full"
    if code in _LOCKED:
        return "locked"
    if code in _FORBIDDEN:
        return "permission"
    if code in _DAMAGED:
        return "damaged"
    return "io"


def open_database(path: Path, fmt: Format) -> sqlite3.Connection:
    """
    Open the file of a spool, or make one, mode 0600. May block on the disk: a file of up to 64 MiB is read as a whole.

    Args:
        path: Where; absolute.
        fmt: What its blocks are, complete.

    Returns:
        A connection that begins no transactions by itself; for one thread at a time.

    Raises:
        SpoolUnavailable: The folder is missing, nothing can be written there, the disk is full, another one uses the file, or it
            is damaged.
        FileUnreadable: It is something else than a spool, or one of another version.
        FormatClash: Its blocks are of another format.
        LimitExceeded: The format allows blocks that SQLite does not take.
    """
    is_new = _prepare_place(path)
    try:
        database = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise unavailable(path, "a file that can be opened", error) from error
    try:
        _check_limits(path, fmt, database)
        database.execute("PRAGMA trusted_schema=OFF")
        database.execute("PRAGMA locking_mode=EXCLUSIVE")  # before the first look: so there is no file of shared memory
        if is_new:
            _create(database, fmt)
        else:
            _check(path, database, fmt)
        _tune(database)
    except sqlite3.Error as error:
        database.close()
        raise unavailable(path, "a spool that can be used", error) from error
    except BaseException:
        database.close()
        raise
    return database


def _prepare_place(path: Path) -> bool:
    """Make an empty file where there is none; True if there is an empty one."""
    try:
        status = path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise unavailable(path, "a place for a file", error.strerror or "", "directory") from error
    else:
        if not stat.S_ISREG(status.st_mode):  # looked at first: opening a pipe waits for its other end
            raise FileUnreadable(
                f"{path}: expected the file of a spool, or none yet, got something else than a file. Choose another name."
            )
        if not os.access(path, os.R_OK | os.W_OK):
            raise unavailable(path, "a file that can be written", "one that cannot", "permission")
        return status.st_size == 0
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileNotFoundError as error:
        raise unavailable(path, "a folder that is there", error.strerror or "", "directory") from error
    except FileExistsError:
        return False  # somebody was quicker; one of the two gets the lock
    except OSError as error:
        reason: SpoolFailure = "full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "permission"
        raise unavailable(path, "a folder in which a file can be made", error.strerror or "", reason) from error
    return True


def _check_limits(path: Path, fmt: Format, database: sqlite3.Connection) -> None:
    most = database.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
    needed = fmt.max_payload_bytes + _ROOM_BYTES
    if needed > most:
        raise LimitExceeded(
            f"{path}: a block of {fmt} may have {fmt.max_payload_bytes:,} bytes; a spool takes up to {most - _ROOM_BYTES:,}. Use smaller "
            f"blocks."
        )
    # Whatever a damaged file says, nothing longer is read into memory.
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, needed)


def _create(database: sqlite3.Connection, fmt: Format) -> None:
    database.execute(f"PRAGMA page_size={_PAGE_BYTES}")
    database.execute("BEGIN IMMEDIATE")
    database.execute(f"PRAGMA application_id={APPLICATION_ID}")
    database.execute(f"PRAGMA user_version={VERSION}")
    for statement in _SCHEMA.values():
        database.execute(statement)
    database.execute("INSERT INTO spool VALUES (?)", (describe_format(fmt),))
    database.execute("COMMIT")


def _check(path: Path, database: sqlite3.Connection, fmt: Format) -> None:
    """Refuse what is no spool, before a statement could run that somebody else has put into the file."""
    try:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        raise FileUnreadable(
            f"{path}: expected the file of a spool, got something else: {error}. Choose another name."
        ) from error
    if application != APPLICATION_ID:
        raise FileUnreadable(f"{path}: expected the file of a spool, got another database. Choose another name.")
    if version != VERSION:
        raise FileUnreadable(
            f"{path}: expected a spool of version {VERSION}, got version {version}. Let the steadyflow that made it deliver what is left, "
            f"or move the file away."
        )
    if dict(database.execute("SELECT name, sql FROM sqlite_master LIMIT 10")) != _SCHEMA:
        raise unavailable(path, "the tables of a spool", "others", "damaged")
    if path.stat().st_size <= _CHECKED_WHOLE_BYTES:
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise unavailable(path, "a spool that is whole", verdict, "damaged")
    formats = database.execute(
        "SELECT format FROM spool WHERE typeof(format) = 'text' AND length(format) < ? LIMIT 2", (_MOST_FORMAT_BYTES,)
    )
    mine = describe_format(fmt)
    theirs = [text for (text,) in formats]
    if len(theirs) != 1:
        raise unavailable(path, "a spool that says its format", f"{len(theirs)} formats", "damaged")
    if _plain(theirs[0]) != _plain(mine):
        raise FormatClash(
            f"{path}: expected blocks of {mine}, got a spool of {theirs[0]}. Let a flow of that format deliver what is left, or choose "
            f"another file."
        )


def _plain(text: str) -> object:
    with contextlib.suppress(msgspec.DecodeError, RecursionError):
        return msgspec.json.decode(text)
    return text


def _tune(database: sqlite3.Connection) -> None:
    (mode,) = database.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError(f"the journal mode {mode!r} in place of a write-ahead log")
    database.execute("PRAGMA synchronous=NORMAL")
    # Some builds write zeros over all that was deleted, which doubles what goes to the disk; here it is written over soon anyway.
    database.execute("PRAGMA secure_delete=FAST")
    database.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
    database.execute(
        f"PRAGMA journal_size_limit={2 * _LOG_PAGES * _PAGE_BYTES}"
    )  # a large block makes it longer, for a while
    # Now, and not with the first block: that this file can be written, and is nobody else's.
    database.execute("BEGIN IMMEDIATE")
    database.execute(f"PRAGMA user_version={VERSION}")
    database.execute("COMMIT")
