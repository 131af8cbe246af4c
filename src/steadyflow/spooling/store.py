"""`SpoolStore`: a queue of blocks in a file, which survives a restart."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections import deque
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from steadyflow._native import monotonic_ns
from steadyflow.arguments import checked_path
from steadyflow.backpressure.rules.spill import BLOCK_OVERHEAD_BYTES, MAX_SPILLED
from steadyflow.data import METADATA_MAX_BYTES
from steadyflow.errors import (
    BlockTooLarge,
    ConfigurationError,
    FileUnreadable,
    FlowError,
    FormatClash,
    SpoolFailure,
    SpoolUnavailable,
    StateError,
)
from steadyflow.formats import AnyFormat, Format, checked_integer
from steadyflow.spooling.database import open_database, unavailable

COMMIT_NS: Final = 100_000_000
"""For how long a change may wait to be committed."""

COMMIT_BLOCKS: Final = 64
"""How many blocks may wait to be committed, and how many that were forgotten."""

COMMIT_BYTES: Final = 1 << 20
"""How many bytes may wait to be committed; one block may be longer."""

RETRY_NS: Final = 1_000_000_000
"""How long after a failure the disk is tried again."""

_MOST_BLOCKS: Final = 1 << 40
_MOST_POSITION: Final = 1 << 62
_READ_AHEAD_BYTES: Final = 1 << 18
_GIVE_BACK_BYTES: Final = 16 << 20
_GIVE_BACK_AT_END_BYTES: Final = 1 << 20
_MOST_FRAMES: Final = (1 << 32) - 1
_MOST_FLAGS: Final = (1 << 16) - 1
_MOST_FIRST_FRAME: Final = (1 << 64) - 1

_INSERT: Final = "INSERT INTO block VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_READ: Final = "SELECT * FROM block WHERE position > ? AND position <= ? ORDER BY position"
_FORGET: Final = "DELETE FROM block WHERE position <= ?"
_COUNT: Final = (
    "SELECT count(*), min(position), max(position), sum(length(payload) + length(metadata)), "
    "sum(CASE typeof(frames) WHEN 'integer' THEN max(min(frames, ?), 0) ELSE 0 END) FROM block"
)


class SpooledBlock(NamedTuple):
    """
    A block as it lies in a spool.

    Attributes:
        payload: As it travels: samples, array elements, MessagePack, or bytes.
        frames: How long it is; 0 where it has none.
        timestamp_ns: When its first frame was captured, on the monotonic clock.
        first_frame: The index of that frame in its stream.
        flags: `BlockFlag` values.
        metadata: Encoded; empty if there is none.
    """

    payload: bytes
    frames: int = 0
    timestamp_ns: int = 0
    first_frame: int = 0
    flags: int = 0
    metadata: bytes = b""

    @property
    def size_bytes(self) -> int:
        """What it takes of a spool's limit."""
        return len(self.payload) + len(self.metadata) + BLOCK_OVERHEAD_BYTES


class SpoolStore:
    """
    A queue of blocks in an SQLite file of mode 0600; what is in it is there again after a restart, in its order.

    Blocks are committed together: at latest by the first call 100 ms after the first of them, and before more than 64 blocks or 1 MiB
    wait. Until then they are in memory, from which they can be taken. So a kill of the process loses at most those that were appended
    since the last commit, and repeats at most those that were forgotten since then: in between a block is repeated rather than lost. After
    a power failure the same holds from the last time on that the system has written the log to the disk; the file stays whole.

    What was forgotten makes room in the file for what comes, so the file has about `max_bytes` at most, and 8 MiB of log beside it.
    It is made small again once it is empty. One user at a time; one thread at a time. Every call may block on the disk, and allocates.

    Args:
        path: The file; made where there is none, in a folder that exists.
        format: What the blocks are, complete.
        max_bytes: How much it holds: payloads and metadata, and 64 bytes for each block.
        max_blocks: How many blocks it holds; None: as many as fit.

    Raises:
        ConfigurationError: An argument is impossible, or the format is not complete.
        SpoolUnavailable: The folder is missing, nothing can be written there, the disk is full, another one uses the file, or it is
            damaged; its `reason` says which.
        FileUnreadable: The file is no spool, or one of another version.
        FormatClash: The file holds blocks of another format.
        LimitExceeded: The format allows blocks that SQLite does not take.
    """

    problem: SpoolUnavailable | None = None
    """Why nothing can be appended at this moment; it is tried again after a second. What is in the store can be taken all the same."""

    damaged_blocks: int = 0
    """How many blocks were passed over because what was read is not what was written."""

    lost_blocks: int = 0
    """How many blocks could not be written when it was closed."""

    def __init__(
        self, path: str | os.PathLike[str], *, format: Format, max_bytes: int, max_blocks: int | None = None
    ) -> None:
        self.path: Path = checked_path("SpoolStore", path).absolute()
        if isinstance(format, AnyFormat) or not format.is_resolved:
            raise ConfigurationError(
                f"SpoolStore: expected a complete format such as AudioFormat(48_000, 1), got {format}."
            )
        self._format = format
        self._max_bytes = checked_integer("SpoolStore", "max_bytes", max_bytes, MAX_SPILLED)
        self._max_blocks = (
            _MOST_BLOCKS
            if max_blocks is None
            else checked_integer("SpoolStore", "max_blocks", max_blocks, _MOST_BLOCKS)
        )
        self._retry_ns = 0
        self._closed = False
        self._load()

    def _load(self) -> None:
        """Open the file, and count what is in it."""
        self._dirty_since_ns: int | None = None
        # The queue has three parts, from its head: what was read ahead, what lies in the file only, and what is not there yet.
        self._ahead: deque[tuple[int, SpooledBlock]] = deque()
        self._pending: deque[tuple[int, SpooledBlock]] = deque()
        self._ahead_bytes = self._pending_bytes = 0
        self._database = open_database(self.path, self._format)
        try:
            status = self.path.stat()
            self._identity = status.st_dev, status.st_ino
            found = self._database.execute(_COUNT, (_MOST_FRAMES,)).fetchone()
        except (OSError, sqlite3.Error) as error:
            self._database.close()
            raise unavailable(self.path, "a spool that can be read", error) from error
        self._blocks, first, last, size, frames = (number or 0 for number in found)
        if first < 0 or last > _MOST_POSITION:
            self._database.close()
            raise unavailable(
                self.path, "blocks that are numbered from 1", f"numbers from {first} to {last}", "damaged"
            )
        self._bytes = size + self._blocks * BLOCK_OVERHEAD_BYTES
        self._frames = frames
        self._read_to = 0
        self._written_to = self._last = last
        self._forgotten_to = self._deleted_to = 0

    # --- the queue --------------------------------------------------------------------------------------------------------------

    def append(self, block: SpooledBlock) -> bool:
        """
        Put a block behind all others; False where it has no room, and nothing has changed.

        Raises:
            BlockTooLarge: It is larger than its format allows, or its metadata are.
            SpoolUnavailable: The disk takes nothing; the block was not appended, and those before it can be taken.
            StateError: The store was closed.
        """
        self._require_open()
        if len(block.payload) > self._format.max_payload_bytes or len(block.metadata) > METADATA_MAX_BYTES:
            raise BlockTooLarge(
                f"{self.path}: expected a payload of up to {self._format.max_payload_bytes} bytes and {METADATA_MAX_BYTES} bytes of "
                f"metadata, got {len(block.payload)} and {len(block.metadata)}."
            )
        size = block.size_bytes
        if self._blocks >= self._max_blocks or self._bytes + size > self._max_bytes:
            return False
        now_ns = monotonic_ns()
        if self.problem is not None and now_ns < self._retry_ns:
            raise self.problem.with_traceback(None)
        is_too_much = len(self._pending) >= COMMIT_BLOCKS or (
            self._pending and self._pending_bytes + size > COMMIT_BYTES
        )
        if self.problem is not None or is_too_much or self._is_due(now_ns):
            self.flush()
        self._last += 1
        self._pending.append((self._last, block))
        self._pending_bytes += size
        self._blocks += 1
        self._bytes += size
        self._frames += block.frames
        self._note_change(now_ns)
        return True

    def take(self) -> SpooledBlock | None:
        """
        Return the oldest block; it stays until it is forgotten, and until then is what comes. None: there is none.

        Raises:
            SpoolUnavailable: The file cannot be read.
            StateError: The store was closed.
        """
        self._require_open()
        if not self._ahead and self._read_to < self._written_to:
            self._read_ahead()
        if self._ahead:
            return self._ahead[0][1]
        if len(self._pending) < self._blocks:
            self._give_up_missing()
        return self._pending[0][1] if self._pending else None

    def forget(self) -> None:
        """
        Let go of the block that `take` has returned; the next one is the oldest then.

        Where that cannot be written down now, it is in the store again after a restart; `problem` says why.

        Raises:
            StateError: Nothing was taken, or the store was closed.
        """
        self._require_open()
        if self._ahead:
            position, block = self._ahead.popleft()
            self._ahead_bytes -= block.size_bytes
        elif self._pending and self._read_to >= self._written_to:
            position, block = self._pending.popleft()
            self._pending_bytes -= block.size_bytes
        else:
            raise StateError(f"{self.path}: expected a block that was taken, to be forgotten; call take() first.")
        self._count_out(block.size_bytes, block.frames)
        self._forgotten_to = position
        now_ns = monotonic_ns()
        self._note_change(now_ns)
        if self._deleted_to <= position - COMMIT_BLOCKS or self._is_due(now_ns):
            self._try_to_flush(now_ns)

    def clear(self) -> None:
        """
        Let go of all blocks, whether they can be read or not.

        Raises:
            SpoolUnavailable: The disk takes nothing, so they are there again after a restart.
            StateError: The store was closed.
        """
        self._require_open()
        self._ahead.clear()
        self._pending.clear()
        self._ahead_bytes = self._pending_bytes = 0
        self._read_to = self._forgotten_to = self._last
        self._blocks = self._bytes = self._frames = 0
        self._note_change(monotonic_ns())
        self.flush()

    def could_hold(self, block: SpooledBlock) -> bool:
        """Tell whether the block had room if the store were empty."""
        return block.size_bytes <= self._max_bytes

    @property
    def depth_blocks(self) -> int:
        """How many blocks it holds."""
        return self._blocks

    @property
    def depth_bytes(self) -> int:
        """How much of `max_bytes` they take."""
        return self._bytes

    @property
    def depth_frames(self) -> int:
        """How long they are together."""
        return self._frames

    # --- the file -----------------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """
        Commit what was appended and forgotten.

        Raises:
            SpoolUnavailable: The disk takes nothing, or the file is no longer there; what was to be written stays in memory.
            StateError: The store was closed.
        """
        self._require_open()
        if self._dirty_since_ns is None and self.problem is None:
            return
        try:
            if self.problem is None:
                self._check_place()
                self._write()
            elif self._blocks:
                self._check_place()
                self._carry_over()
                self._write()
            else:
                self._begin_anew()
        except SpoolUnavailable as problem:
            self.problem = problem
            self._retry_ns = monotonic_ns() + RETRY_NS
            raise
        self.problem = None
        self._dirty_since_ns = None
        if not self._blocks:
            self._give_back(_GIVE_BACK_BYTES)

    def flush_if_due(self) -> None:
        """
        Commit what has waited for 100 ms, and, after a failure, try again once a second. To be called now and then.

        Raises:
            SpoolUnavailable: As `flush`.
            StateError: The store was closed.
        """
        self._require_open()
        now_ns = monotonic_ns()
        if now_ns >= self._retry_ns if self.problem is not None else self._is_due(now_ns):
            self.flush()

    @property
    def unwritten_blocks(self) -> int:
        """How many blocks wait to be committed: what a kill would lose now."""
        return len(self._pending)

    @property
    def is_dirty(self) -> bool:
        """Whether something waits to be committed."""
        return self._dirty_since_ns is not None

    def close(self) -> None:
        """
        Commit what waits, and close the file. Idempotent.

        Raises:
            SpoolUnavailable: What waited could not be written, or the file is no longer there; says how many blocks are lost, as
                `lost_blocks` does. The file was closed.
        """
        if self._closed:
            return
        try:
            if self._blocks:
                self._check_place()
            if self._dirty_since_ns is not None:
                self.flush()
        except SpoolUnavailable as problem:
            self.lost_blocks = self._blocks if problem.reason == "removed" else len(self._pending)
            if self.lost_blocks:  # else some that were forgotten come again, which is no loss
                raise SpoolUnavailable(
                    f"{problem} {self.lost_blocks} blocks are lost.", reason=problem.reason
                ) from problem
        else:
            if not self._blocks:
                self._give_back(_GIVE_BACK_AT_END_BYTES)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is: what was not committed is lost. Idempotent; never raises."""
        self._closed = True
        with contextlib.suppress(sqlite3.Error):
            self._database.close()

    # --- inside -------------------------------------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._closed:
            raise StateError(f"{self.path}: expected an open spool; this one was closed.")

    def _is_due(self, now_ns: int) -> bool:
        return self._dirty_since_ns is not None and now_ns - self._dirty_since_ns >= COMMIT_NS

    def _note_change(self, now_ns: int) -> None:
        if self._dirty_since_ns is None:
            self._dirty_since_ns = now_ns

    def _count_out(self, size: int, frames: int) -> None:
        self._blocks -= 1
        self._bytes -= size
        self._frames -= frames
        if not self._blocks:  # of damaged rows they were a guess
            self._bytes = self._frames = 0

    def _try_to_flush(self, now_ns: int) -> None:
        """Commit; where that fails, `problem` says so, and whoever takes is not kept from it."""
        if self.problem is None or now_ns >= self._retry_ns:
            with contextlib.suppress(SpoolUnavailable):
                self.flush()

    def _check_place(self) -> None:
        """Refuse to write into a file that nobody will find again: SQLite would not notice."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise unavailable(
                self.path, "the file of the spool where it was", error.strerror or "", "removed"
            ) from error
        if (status.st_dev, status.st_ino) != self._identity:
            raise unavailable(self.path, "the file of the spool where it was", "another file", "removed")

    def _write(self) -> None:
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            if self._forgotten_to > self._deleted_to:
                database.execute(_FORGET, (self._forgotten_to,))
            if self._pending:
                database.executemany(_INSERT, [_row(position, block) for position, block in self._pending])
            database.execute("COMMIT")
        except (sqlite3.Error, OSError, MemoryError) as error:
            self._roll_back()
            raise unavailable(self.path, "to write to the spool", error) from error
        self._deleted_to = max(self._deleted_to, self._forgotten_to)
        if not self._pending:
            return
        if self._read_to >= self._written_to and self._ahead_bytes + self._pending_bytes <= _READ_AHEAD_BYTES:
            # It is the head of the queue, and short: it need not be read again.
            self._ahead += self._pending
            self._ahead_bytes += self._pending_bytes
            self._read_to = self._pending[-1][0]
        self._written_to = self._pending[-1][0]
        self._pending.clear()
        self._pending_bytes = 0

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
        self._carry_over()

    def _carry_over(self) -> None:
        """Make what room there can be on a full disk: a log that was carried over into the file is begun anew."""
        with contextlib.suppress(sqlite3.Error):
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _begin_anew(self) -> None:
        """Make another file where there was trouble with this one, of which nothing is needed any more: so its room is given back."""
        self._database.close()
        try:
            status = self.path.stat()
            if (status.st_dev, status.st_ino) == self._identity:
                self.path.unlink()
                self.path.with_name(f"{self.path.name}-wal").unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise unavailable(self.path, "a file that can be replaced", error.strerror or "", "permission") from error
        try:
            self._load()
        except (FileUnreadable, FormatClash) as error:
            raise SpoolUnavailable(str(error), reason="removed") from error
        if self._blocks:
            self._database.close()
            self._blocks = self._bytes = self._frames = 0
            self._read_to = self._written_to
            raise unavailable(self.path, "no file where the spool was, or an empty one", "one with blocks", "removed")

    def _read_ahead(self) -> None:
        """Read the next blocks of the file, until there are enough or no more; those that are not what was written are passed over."""
        try:
            rows = self._database.execute(_READ, (max(self._read_to, self._forgotten_to), self._written_to))
            with contextlib.closing(rows):
                for row in rows:
                    self._read_to = row[0]
                    block = self._checked(row)
                    if block is None:
                        self._pass_over(row)
                        continue
                    self._ahead.append((row[0], block))
                    self._ahead_bytes += block.size_bytes
                    if self._ahead_bytes >= _READ_AHEAD_BYTES or len(self._ahead) >= COMMIT_BLOCKS:
                        return
        except (sqlite3.Error, OverflowError, UnicodeDecodeError, MemoryError) as error:
            # A row that is too long to be read is no row of ours.
            reason: SpoolFailure | None = (
                "damaged" if isinstance(error, (sqlite3.DataError, UnicodeDecodeError)) else None
            )
            raise unavailable(self.path, "a spool that can be read", error, reason) from error
        self._read_to = self._written_to

    def _pass_over(self, row: tuple[Any, ...]) -> None:
        self.damaged_blocks += 1
        if not self._ahead:  # else it goes with the next one that is forgotten
            self._forgotten_to = row[0]
            self._note_change(monotonic_ns())
        sizes = sum(len(part) for part in row[6:8] if isinstance(part, bytes))
        frames = row[3] if isinstance(row[3], int) else 0
        self._count_out(sizes + BLOCK_OVERHEAD_BYTES, max(min(frames, _MOST_FRAMES), 0))

    def _give_up_missing(self) -> None:
        """Bring the counts back to what there is, where the file had fewer rows than it said."""
        self.damaged_blocks += self._blocks - len(self._pending)
        self._blocks = len(self._pending)
        self._bytes = self._pending_bytes
        self._frames = sum(block.frames for _, block in self._pending)

    def _checked(self, row: tuple[Any, ...]) -> SpooledBlock | None:
        """Return the block of a row; None where its fields are not what they should be, or the checksum is not theirs."""
        _, timestamp_ns, first_frame, frames, flags, checksum, payload, metadata = row
        numbers = (timestamp_ns, first_frame, frames, flags, checksum)
        if (
            not all(isinstance(number, int) for number in numbers)
            or type(payload) is not bytes
            or type(metadata) is not bytes
        ):
            return None
        if not (0 <= frames <= _MOST_FRAMES and 0 <= flags <= _MOST_FLAGS and len(metadata) <= METADATA_MAX_BYTES):
            return None
        if len(payload) > self._format.max_payload_bytes:
            return None
        block = SpooledBlock(payload, frames, timestamp_ns, first_frame & _MOST_FIRST_FRAME, flags, metadata)
        return block if _checksum(block) == checksum else None

    def _give_back(self, at_least_bytes: int) -> None:
        """Make the file of an empty store small again, if it is as large as that; what fails here is tried again another time."""
        with contextlib.suppress(sqlite3.Error, OSError):
            if self.path.stat().st_size >= at_least_bytes:
                self._database.execute("VACUUM")
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        try:
            self.close()
        except FlowError:
            if problem[0] is None:
                raise

    def __repr__(self) -> str:
        return f"<SpoolStore {str(self.path)!r} of {self._format}: {self._blocks} blocks, {self._bytes} of {self._max_bytes} bytes>"


def _row(position: int, block: SpooledBlock) -> tuple[object, ...]:
    first_frame = block.first_frame
    if first_frame >= 1 << 63:  # SQLite has signed numbers only
        first_frame -= 1 << 64
    return (
        position,
        block.timestamp_ns,
        first_frame,
        block.frames,
        block.flags,
        _checksum(block),
        block.payload,
        block.metadata,
    )


def _checksum(block: SpooledBlock) -> int:
    stamps = b"%d %d %d %d" % (block.frames, block.timestamp_ns, block.first_frame, block.flags)
    return zlib.crc32(block.metadata, zlib.crc32(block.payload, zlib.crc32(stamps)))
