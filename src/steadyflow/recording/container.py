"""
Reading MCAP files that may be unfinished, damaged or made to deceive.

The readers of the library `mcap` trust what they read: a length is allocated, a short read is taken for a whole one, and a
record of an unknown kind is skipped. Here nothing is used before it was checked: lengths against the file, chunks against
their checksum and the index, records against what they are when written again. What is kept in memory is less than what
stands in the file, but for one chunk. The file is

    magic · header · (chunk · its message indexes)... · end of data · summary with an index of the chunks · footer · magic

A file whose recorder was killed has no summary. Then all chunks are read once, and what is whole up to the first place that
is not is the recording.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from steadyflow.errors import FileUnreadable, MissingExtra, StateError
from steadyflow.recording.chunk import CHUNK_HEAD, Chunk, ChunkPlace, ChunkPlaces, Message, check_number
from steadyflow.recording.opening import open_to_read
from steadyflow.recording.records import (
    CHANNEL,
    CHUNK,
    CHUNK_INDEX,
    CHUNK_INDEX_HEAD,
    DATA_END,
    FOOTER,
    FOOTER_CONTENT,
    HEADER,
    KNOWN,
    MAGIC,
    MESSAGE,
    MESSAGE_INDEX,
    MESSAGE_INDEX_HEAD,
    MOST_CHANNEL_BYTES,
    MOST_CHUNK_BYTES,
    RECORD,
    STATISTICS,
    TAIL_BYTES,
    Damage,
    check_length,
)

_STEP_BYTES: Final = 1 << 20


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

    chunks: ChunkPlaces
    """Where its chunks stand, in their order."""

    channels: dict[int, Any]
    """Its channels of the encoding, by their ids."""

    counts: dict[int, int]
    """How many messages each channel has, by ids: as the index says, or counted where there is none."""

    def __init__(self, path: Path, encoding: str) -> None:
        self._mcap = load_mcap("reading a recording")
        self._path = path
        self._encoding = encoding
        self._forget()
        self._descriptor = open_to_read(path)
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
        Read the messages of a chunk, of all channels. Holds the chunk in memory until it is done, and nothing else.

        Raises:
            FileUnreadable: The chunk is damaged; nothing of it was returned.
        """
        try:
            chunk = self._chunk(place)
        except Damage as damage:
            raise FileUnreadable(
                f"{self._path}: {damage}. What stands before it was read; the rest can be read from a later start."
            ) from None
        yield from chunk.messages()

    # --- the whole file -----------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self.chunks = ChunkPlaces()
        self.channels = {}
        self.counts = {}
        self._channel_bytes = 0

    def _open(self) -> None:
        self.size_bytes = os.fstat(self._descriptor).st_size
        magic = self._read(0, min(len(MAGIC), self.size_bytes))
        if magic != MAGIC:
            raise Damage(0, f"expected the file to begin with {MAGIC!r}, got {magic!r}")
        kind, length = self._head(len(MAGIC))
        if kind != HEADER:
            raise Damage(len(MAGIC), f"expected a header, got a record of kind {kind}")
        self._parse("Header", self._content(len(MAGIC), length), len(MAGIC))
        self.problem = self._read_summary()
        if self.problem:
            self._forget()
            self._scan(len(MAGIC) + RECORD.size + length)
        if not self.channels or (self.problem and not self.chunks):
            raise Damage(self.size_bytes, self.problem or f"nothing was recorded as {self._encoding!r}")

    def _read_summary(self) -> str:
        """Read the index from the end of the file; returns why that is impossible, or nothing."""
        if self.size_bytes < len(MAGIC) + TAIL_BYTES:
            return "it is not finished"
        footer = self.size_bytes - TAIL_BYTES
        tail = self._read(footer, TAIL_BYTES)
        if not tail.endswith(MAGIC) or RECORD.unpack_from(tail) != (FOOTER, FOOTER_CONTENT.size):
            return "it is not finished"
        start, _, crc = FOOTER_CONTENT.unpack_from(tail, RECORD.size)
        if not len(MAGIC) <= start <= footer:
            return "it has no index" if start == 0 else f"its index is damaged, at offset {footer}"
        try:
            # 0: a writer that computes none.
            if crc and crc != zlib.crc32(tail[: RECORD.size + 16], self._checksum(start, footer)):
                return f"its index is damaged, at offset {start}"
            return self._take_summary(start, footer)
        except Damage as damage:
            return f"its index is damaged: {damage}"

    def _take_summary(self, start: int, end: int) -> str:
        """Read the records of the summary one by one: an index of many chunks is long."""
        statistics: Any = None
        offset, data_end = start, len(MAGIC)
        while offset < end:
            kind, length = self._head(offset)
            if kind == CHANNEL:
                self._take_channel(self._content(offset, length), offset)
            elif kind == STATISTICS:
                statistics = self._parse("Statistics", self._content(offset, length), offset)
            elif kind == CHUNK_INDEX:
                data_end = self._take_chunk_index(offset, length, data_end, start)
            offset += RECORD.size + length
        if offset != end:
            raise Damage(end, "a record that ends outside of it")
        if statistics is None or statistics.chunk_count != len(self.chunks):
            return "it has no index"
        self.counts = statistics.channel_message_counts
        messages = sum(self.counts.values())  # none, where a writer does not count by channels
        if messages != statistics.message_count or bool(messages) != bool(self.chunks) or messages > sys.maxsize:
            return "it has no index"
        return ""

    def _take_chunk_index(self, offset: int, length: int, begin: int, end: int) -> int:
        """Take the place of a chunk, which has to stand between these offsets; returns where it ends."""
        content = self._content(offset, length)
        if length < CHUNK_INDEX_HEAD.size:
            raise Damage(offset, "an index of a chunk that is too short")
        start_ns, end_ns, first, record_bytes = CHUNK_INDEX_HEAD.unpack_from(content)
        if not (begin <= first and record_bytes > RECORD.size + CHUNK_HEAD.size and first + record_bytes <= end):
            raise Damage(offset, "an index of a chunk that cannot be")
        self.chunks.append(ChunkPlace(first, record_bytes, start_ns, end_ns))
        return int(first + record_bytes)

    def _scan(self, offset: int) -> None:
        """Read all chunks once, up to the end of the data or of what is whole."""
        expected: dict[int, int] = {}
        try:
            while True:
                kind, length = self._head(offset)
                if kind in (DATA_END, FOOTER):
                    return
                self._take_record(kind, offset, length, expected)
                offset += RECORD.size + length
        except Damage as damage:
            self.problem = f"{self.problem or 'it is not finished'}: it can be read up to here: {damage}"

    def _take_record(self, kind: int, offset: int, length: int, expected: dict[int, int]) -> None:
        if kind == CHUNK:
            self._take_chunk(offset, RECORD.size + length, expected)
        elif kind == CHANNEL:
            self._take_channel(self._content(offset, length), offset)
        elif kind == MESSAGE:
            raise Damage(offset, "a message outside of a chunk, so without a checksum")
        elif kind == MESSAGE_INDEX:
            # It is not used; but a chunk that passes for one would be missed.
            _, listed = MESSAGE_INDEX_HEAD.unpack(self._read(offset + RECORD.size, MESSAGE_INDEX_HEAD.size))
            if listed + MESSAGE_INDEX_HEAD.size != length:
                raise Damage(offset, "an index of messages that does not have its length")

    def _take_chunk(self, offset: int, record_bytes: int, expected: dict[int, int]) -> None:
        start_ns, end_ns, *_ = CHUNK_HEAD.unpack(self._read(offset + RECORD.size, CHUNK_HEAD.size))
        place = ChunkPlace(offset, record_bytes, start_ns, end_ns)
        chunk = self._chunk(place)
        for content in chunk.channels():
            self._take_channel(content, offset)
        counts: dict[int, int] = {}
        for channel, number in chunk.numbers():
            if channel in self.channels:
                check_number(expected, channel, number, offset)
            counts[channel] = counts.get(channel, 0) + 1
        for id, count in counts.items():
            self.counts[id] = self.counts.get(id, 0) + count
        self.chunks.append(place)

    def _take_channel(self, content: bytes | memoryview, offset: int) -> None:
        """Keep a channel, if it is of the encoding that was asked for and new."""
        channel = self._parse("Channel", content, offset)
        if channel.message_encoding != self._encoding or channel.id in self.channels:
            return
        self._channel_bytes += len(content)
        if self._channel_bytes > MOST_CHANNEL_BYTES:
            raise Damage(offset, f"expected up to {MOST_CHANNEL_BYTES} bytes of channels in a file, got more")
        self.channels[channel.id] = channel

    def _chunk(self, place: ChunkPlace) -> Chunk:
        kind, length = self._head(place.offset)
        if kind != CHUNK or RECORD.size + length != place.record_bytes:
            raise Damage(place.offset, "expected the chunk that the index names")
        if length > MOST_CHUNK_BYTES:
            raise Damage(place.offset, f"expected a chunk of up to {MOST_CHUNK_BYTES} bytes, got one of {length}")
        return Chunk(place, memoryview(self._read(place.offset + RECORD.size, length)))

    # --- records ----------------------------------------------------------------------------------------------------------

    def _head(self, offset: int) -> tuple[int, int]:
        """Read kind and length of a record that the file holds whole."""
        kind, length = RECORD.unpack(self._read(offset, RECORD.size))
        if kind not in KNOWN:
            raise Damage(offset, f"no kind of record has the number {kind}")
        if offset + RECORD.size + length > self.size_bytes:
            raise Damage(offset, f"the file ends inside of a record of {length} bytes")
        return kind, length

    def _content(self, offset: int, length: int) -> bytes:
        """Read what stands in a record that is taken apart as a whole."""
        check_length(length, offset)
        return self._read(offset + RECORD.size, length)

    def _parse(self, kind: str, content: bytes | memoryview, offset: int) -> Any:
        """Read a record with the library, and see whether it is, written again, what stands in the file."""
        check_length(len(content), offset)
        streams = self._mcap.data_stream
        content = bytes(content)
        try:
            record = getattr(self._mcap.records, kind).read(streams.ReadDataStream(io.BytesIO(content)))
            again = streams.RecordBuilder()
            record.write(again)
            same = content.startswith(again.end()[RECORD.size :])  # later versions may append fields
        except (ValueError, struct.error, self._mcap.exceptions.McapError) as error:
            raise Damage(offset, f"a {kind} record that cannot be read ({error})") from None
        if not same:
            raise Damage(offset, f"a {kind} record that is shorter than it says")
        return record

    def _checksum(self, start: int, end: int) -> int:
        crc = 0
        for offset in range(start, end, _STEP_BYTES):
            crc = zlib.crc32(self._read(offset, min(_STEP_BYTES, end - offset)), crc)
        return crc

    def _read(self, offset: int, count: int) -> bytes:
        """Read exactly so many bytes. The caller has bounded them, also by the size of the file."""
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
