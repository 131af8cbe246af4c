"""
Reading MCAP files that may be unfinished, damaged or made to deceive.

The readers of the library `mcap` trust what they read: a length is allocated, a short read is taken for a whole one, and a
record of an unknown kind is skipped. Here nothing is used before it was checked: lengths against the file, chunks against
their checksum and the index, records against what they are when written again. The file is

    magic · header · (chunk · its message indexes)... · end of data · summary with an index of the chunks · footer · magic

A file whose recorder was killed has no summary. Then all chunks are read once, and what is whole up to the first place that
is not is the recording.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import stat
import struct
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from steadyflow.errors import FileUnreadable, MissingExtra, StateError

MAGIC: Final = b"\x89MCAP0\r\n"

# Kinds of records.
_HEADER, _FOOTER, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX = 0x01, 0x02, 0x04, 0x05, 0x06, 0x07
_CHUNK_INDEX, _STATISTICS, _DATA_END = 0x08, 0x0B, 0x0F
_KNOWN: Final = range(0x01, 0x10)

_RECORD: Final = struct.Struct("<BQ")  # kind, bytes that follow
_CHUNK_HEAD: Final = struct.Struct("<QQQII")  # first and last time, bytes and CRC when uncompressed, length of a name
_MESSAGE_HEAD: Final = struct.Struct("<HIQQ")  # channel, number, log time, publish time
_INDEX_HEAD: Final = struct.Struct("<HI")  # channel, bytes that follow
_FOOTER_CONTENT: Final = struct.Struct("<QQI")  # where summary and its offsets begin, CRC
_TAIL_BYTES: Final = _RECORD.size + _FOOTER_CONTENT.size + len(MAGIC)

# The largest payload, and the largest chunk that a writer would still begin another block in.
_MOST_CHUNK_BYTES: Final = (1 << 30) + (1 << 27)
_STEP_BYTES: Final = 1 << 20
_MOST_WINDOW_BYTES: Final = 1 << 27


class Damage(Exception):
    """Something in the file is not what it should be; becomes a `FileUnreadable`, or the end of an unfinished file."""

    def __init__(self, offset: int, what: str) -> None:
        self.offset = offset
        super().__init__(f"{what}, at offset {offset}")


class ChunkPlace(NamedTuple):
    """Where a chunk stands, with the bytes of its whole record, and the times of its first and last message in ns."""

    offset: int
    record_bytes: int
    start_ns: int
    end_ns: int


class Message(NamedTuple):
    """One message: its channel, its number there, when it was logged and published, and its data."""

    channel: int
    number: int
    log_ns: int
    sent_ns: int
    data: memoryview


def load_mcap(needed_for: str) -> Any:
    """
    Import mcap.

    Args:
        needed_for: Who asks, for the message.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        import mcap.data_stream
        import mcap.exceptions
        import mcap.records
        import mcap.writer
    except ImportError:
        raise MissingExtra("recording", needed_for) from None
    return mcap


class Container:
    """
    An MCAP file, open for reading.

    Reads with `pread`, so several threads may use it. May block on the disk.

    Args:
        path: The file.
        encoding: Channels of other message encodings are left out.

    Raises:
        FileUnreadable: No such file, no MCAP file, or nothing in it can be read; names file and offset.
        MissingExtra: mcap is not installed.
    """

    size_bytes: int
    """The size of the file when it was opened."""

    problem: str
    """Why the file ends before its end, or why its index is not used; empty if all is well."""

    def __init__(self, path: Path, encoding: str) -> None:
        self._mcap = load_mcap("reading a recording")
        self._path = path
        self._encoding = encoding
        self.chunks: list[ChunkPlace] = []
        self.channels: dict[int, Any] = {}
        self.counts: dict[int, int] = {}
        self._descriptor = _opened(path)
        # Also when it is forgotten, without a word: a source that was never torn down has opened it.
        self._closing = weakref.finalize(self, os.close, self._descriptor)
        try:
            self._open()
        except Damage as damage:
            raise FileUnreadable(f"{path}: expected a recording (MCAP); {damage}.") from None

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._closing()

    def messages(self, place: ChunkPlace) -> Iterator[Message]:
        """
        Read the messages of a chunk, of all channels that were asked for.

        Raises:
            FileUnreadable: The chunk is damaged; nothing of it was returned.
        """
        try:
            yield from self._messages(place)[1]
        except Damage as damage:
            raise FileUnreadable(
                f"{self._path}: {damage}. What stands before it was read; the rest can be read from a later start."
            ) from None

    # --- the whole file -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self.size_bytes = os.fstat(self._descriptor).st_size
        magic = self._read(0, min(len(MAGIC), self.size_bytes))
        if magic != MAGIC:
            raise Damage(0, f"expected the file to begin with {MAGIC!r}, got {magic!r}")
        kind, length = self._head(len(MAGIC))
        if kind != _HEADER:
            raise Damage(len(MAGIC), f"expected a header, got a record of kind {kind}")
        self._parse("Header", self._content(len(MAGIC), length), len(MAGIC))
        self.problem = self._read_summary()
        if self.problem:
            self.chunks, self.channels, self.counts = [], {}, {}
            self._scan(len(MAGIC) + _RECORD.size + length)
        if not self.channels or (self.problem and not self.chunks):
            raise Damage(self.size_bytes, self.problem or f"nothing was recorded as {self._encoding!r}")

    def _read_summary(self) -> str:
        """Read the index from the end of the file; returns why that is impossible, or nothing."""
        if self.size_bytes < len(MAGIC) + _TAIL_BYTES:
            return "it is not finished"
        footer = self.size_bytes - _TAIL_BYTES
        tail = self._read(footer, _TAIL_BYTES)
        if not tail.endswith(MAGIC) or _RECORD.unpack_from(tail) != (_FOOTER, _FOOTER_CONTENT.size):
            return "it is not finished"
        start, _, crc = _FOOTER_CONTENT.unpack_from(tail, _RECORD.size)
        if not len(MAGIC) <= start <= footer:
            return "it has no index" if start == 0 else f"its index is damaged, at offset {footer}"
        try:
            summary = self._read(start, footer - start)
            if crc not in (0, zlib.crc32(tail[: _RECORD.size + 16], zlib.crc32(summary))):
                return f"its index is damaged, at offset {start}"
            return self._take_summary(summary, start)
        except Damage as damage:
            return f"its index is damaged: {damage}"

    def _take_summary(self, summary: bytes, start: int) -> str:
        statistics: Any = None
        for kind, content, offset in self._inside(summary, start):
            if kind == _CHANNEL:
                self._take_channel(content, offset)
            elif kind == _STATISTICS:
                statistics = self._parse("Statistics", content, offset)
            elif kind == _CHUNK_INDEX:
                index = self._parse("ChunkIndex", content, offset)
                first, length = index.chunk_start_offset, index.chunk_length
                if not (first >= len(MAGIC) and length > _RECORD.size + _CHUNK_HEAD.size and first + length <= start):
                    raise Damage(offset, "an index of a chunk that cannot be")
                self.chunks.append(ChunkPlace(first, length, index.message_start_time, index.message_end_time))
        if (
            statistics is None
            or statistics.chunk_count != len(self.chunks)
            or bool(statistics.message_count) != bool(self.chunks)
        ):
            return "it has no index"
        self.counts = {id: statistics.channel_message_counts.get(id, 0) for id in self.channels}
        return ""

    def _scan(self, offset: int) -> None:
        """Read all chunks once, up to the end of the data or of what is whole."""
        expected: dict[int, int] = {}
        try:
            while True:
                kind, length = self._head(offset)
                if kind in (_DATA_END, _FOOTER):
                    return
                self._take_record(kind, offset, length, expected)
                offset += _RECORD.size + length
        except Damage as damage:
            self.problem = f"{self.problem or 'it is not finished'}: it can be read up to here: {damage}"

    def _take_record(self, kind: int, offset: int, length: int, expected: dict[int, int]) -> None:
        if kind == _CHUNK:
            self._take_chunk(offset, _RECORD.size + length, expected)
        elif kind == _CHANNEL:
            self._take_channel(self._content(offset, length), offset)
        elif kind == _MESSAGE:
            raise Damage(offset, "a message outside of a chunk, so without a checksum")
        elif kind == _MESSAGE_INDEX:
            # It is not used; but a chunk that passes for one would be missed.
            _, listed = _INDEX_HEAD.unpack(self._read(offset + _RECORD.size, _INDEX_HEAD.size))
            if listed + _INDEX_HEAD.size != length:
                raise Damage(offset, "an index of messages that does not have its length")

    def _take_chunk(self, offset: int, record_bytes: int, expected: dict[int, int]) -> None:
        start_ns, end_ns, *_ = _CHUNK_HEAD.unpack(self._read(offset + _RECORD.size, _CHUNK_HEAD.size))
        place = ChunkPlace(offset, record_bytes, start_ns, end_ns)
        channels, messages = self._messages(place)
        counts: dict[int, int] = {}
        for message in messages:
            check_number(expected, message, offset)
            counts[message.channel] = counts.get(message.channel, 0) + 1
        for id, channel in channels.items():
            self.channels.setdefault(id, channel)
        for id, count in counts.items():
            self.counts[id] = self.counts.get(id, 0) + count
        self.chunks.append(place)

    def _take_channel(self, content: bytes, offset: int) -> None:
        channel = self._parse("Channel", content, offset)
        if channel.message_encoding == self._encoding:
            self.channels[channel.id] = channel

    # --- one chunk ------------------------------------------------------------------------------------------------------

    def _messages(self, place: ChunkPlace) -> tuple[dict[int, Any], list[Message]]:
        """Read a chunk whole: the channels that it declares, and the messages of those and of the known ones."""
        kind, length = self._head(place.offset)
        if kind != _CHUNK or _RECORD.size + length != place.record_bytes:
            raise Damage(place.offset, "expected the chunk that the index names")
        data = self._uncompressed(memoryview(self._content(place.offset, length)), place)
        channels: dict[int, Any] = {}
        messages: list[Message] = []
        first_ns = last_ns = None
        for kind, content, _ in self._inside(memoryview(data), 0):
            if kind == _CHANNEL:
                channel = self._parse("Channel", content, place.offset)
                if channel.message_encoding == self._encoding:
                    channels[channel.id] = channel
            elif kind == _MESSAGE:
                if len(content) < _MESSAGE_HEAD.size:
                    raise Damage(place.offset, "a message that is too short")
                id, number, log_ns, sent_ns = _MESSAGE_HEAD.unpack_from(content)
                first_ns = log_ns if first_ns is None else min(first_ns, log_ns)
                last_ns = log_ns if last_ns is None else max(last_ns, log_ns)
                if id in channels or id in self.channels:
                    messages.append(Message(id, number, log_ns, sent_ns, content[_MESSAGE_HEAD.size :]))
        if (first_ns or 0, last_ns or 0) != (place.start_ns, place.end_ns):
            raise Damage(place.offset, "a chunk whose messages have other times than it says")
        return channels, messages

    def _uncompressed(self, content: memoryview, place: ChunkPlace) -> bytes | memoryview:
        if len(content) < _CHUNK_HEAD.size:
            raise Damage(place.offset, "a chunk that is too short")
        start_ns, end_ns, size, crc, name_bytes = _CHUNK_HEAD.unpack_from(content)
        data_at = _CHUNK_HEAD.size + name_bytes + 8
        if (start_ns, end_ns) != (place.start_ns, place.end_ns) or data_at > len(content) or size > _MOST_CHUNK_BYTES:
            raise Damage(place.offset, "a chunk with a head that cannot be")
        name = bytes(content[_CHUNK_HEAD.size : data_at - 8])
        if int.from_bytes(content[data_at - 8 : data_at], "little") != len(content) - data_at:
            raise Damage(place.offset, "a chunk that does not have its length")
        data = decompress(name, content[data_at:], size, place.offset)
        # 0: a writer that computes none.
        if len(data) != size or crc not in (0, zlib.crc32(data)):
            raise Damage(place.offset, "a chunk whose checksum does not match")
        return data

    # --- records ----------------------------------------------------------------------------------------------------------

    def _head(self, offset: int) -> tuple[int, int]:
        """Read kind and length of a record that the file holds whole."""
        kind, length = _RECORD.unpack(self._read(offset, _RECORD.size))
        if kind not in _KNOWN:
            raise Damage(offset, f"no kind of record has the number {kind}")
        if offset + _RECORD.size + length > self.size_bytes:
            raise Damage(offset, f"the file ends inside of a record of {length} bytes")
        return kind, length

    def _content(self, offset: int, length: int) -> bytes:
        return self._read(offset + _RECORD.size, length)

    def _inside(self, data: Any, offset: int) -> Iterator[tuple[int, Any, int]]:
        """Take records apart that stand one after the other: kind, content and offset of each."""
        at = 0
        while at < len(data):
            if len(data) - at < _RECORD.size:
                raise Damage(offset + at, "the beginning of a record, and nothing behind it")
            kind, length = _RECORD.unpack_from(data, at)
            end = at + _RECORD.size + length
            if end > len(data):
                raise Damage(offset + at, f"a record of {length} bytes that ends outside")
            yield kind, data[at + _RECORD.size : end], offset + at
            at = end

    def _parse(self, kind: str, content: bytes | memoryview, offset: int) -> Any:
        """Read a record with the library, and see whether it is, written again, what stands in the file."""
        streams = self._mcap.data_stream
        content = bytes(content)
        try:
            record = getattr(self._mcap.records, kind).read(streams.ReadDataStream(io.BytesIO(content)))
            again = streams.RecordBuilder()
            record.write(again)
            same = content.startswith(again.end()[_RECORD.size :])  # later versions may append fields
        except (ValueError, struct.error, self._mcap.exceptions.McapError) as error:
            raise Damage(offset, f"a {kind} record that cannot be read ({error})") from None
        if not same:
            raise Damage(offset, f"a {kind} record that is shorter than it says")
        return record

    def _read(self, offset: int, count: int) -> bytes:
        """Read exactly so many bytes. The caller has compared them with the size of the file, or they are few."""
        if not self._closing.alive:
            raise StateError(f"{self._path}: the recording has been closed; nothing can be read from it any more.")
        parts = []
        while count:
            try:
                part = os.pread(self._descriptor, count, offset)
            except OSError as error:
                raise Damage(offset, f"the system cannot read it: {error.strerror or error}") from None
            if not part:
                raise Damage(offset, "the file ends")
            parts.append(part)
            offset += len(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _opened(path: Path) -> int:
    """Open a file for reading and return its descriptor; while it is open, no `Recorder` replaces it."""
    try:
        # Without waiting, as a pipe would let it do for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise FileUnreadable(f"{path}: {error.strerror or error}. Check the path.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileUnreadable(f"{path}: expected a file, got a folder, a pipe or a device.")
    with contextlib.suppress(OSError):  # it is being recorded at this moment, or the file system knows no locks
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor


def check_number(expected: dict[int, int], message: Message, offset: int) -> None:
    """
    Compare the number of a message with the one before it, on the same channel.

    Args:
        expected: The next number of each channel; is kept up to date.
        message: The message.
        offset: Where its chunk stands.

    Raises:
        Damage: Messages are missing in between.
    """
    number = expected.get(message.channel, message.number)
    if message.number != number:
        raise Damage(offset, f"expected block {number} of the recording, got block {message.number}")
    expected[message.channel] = (number + 1) & 0xFFFF_FFFF  # the field has 32 bits


def decompress(name: bytes, data: memoryview, size: int, offset: int) -> bytes | memoryview:
    """
    Undo the compression of a chunk, and never make more of it than it says.

    Args:
        name: The compression: ``b""``, ``b"zstd"`` or ``b"lz4"``.
        data: What stands in the file.
        size: The bytes that have to come out.
        offset: Where the chunk stands.

    Raises:
        Damage: An unknown compression, or data that is not compressed so.
    """
    if name == b"":
        return data
    if name not in (b"zstd", b"lz4"):
        raise Damage(offset, f"expected a chunk compressed with zstd, lz4 or not at all, got {name[:20]!r}")
    parts: list[bytes] = []
    left = size + 1  # one more shows that there is too much
    try:
        # In steps: what is allocated is what the data holds, not what a damaged size promises.
        for part in _zstd_parts(data) if name == b"zstd" else _lz4_parts(data):
            parts.append(part)
            left -= len(part)
            if left <= 0:
                break
    except (RuntimeError, EOFError, ValueError, MemoryError) as error:
        raise Damage(offset, f"a chunk that cannot be decompressed ({error})") from None
    return b"".join(parts)


def _zstd_parts(data: memoryview) -> Iterator[bytes]:
    import zstandard

    try:
        reader = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES).stream_reader(data)
        while part := reader.read(_STEP_BYTES):
            yield part
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


def _lz4_parts(data: memoryview) -> Iterator[bytes]:
    import lz4.frame

    reader = lz4.frame.LZ4FrameDecompressor()
    part = reader.decompress(data, max_length=_STEP_BYTES)
    while part or not (reader.eof or reader.needs_input):
        yield part
        part = b"" if reader.eof else reader.decompress(b"", max_length=_STEP_BYTES)
