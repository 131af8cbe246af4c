"""
Chunks: the checksummed parts that a recording is made of.

A chunk is checked as a whole before anything of it is used, and nothing is kept of it but its bytes: a small file may
unpack to millions of messages, and an object for each would be many times what they have.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

from steadyflow.recording.records import CHANNEL, MESSAGE, MOST_CHUNK_BYTES, SCHEMA, Damage, records_in

CHUNK_HEAD: Final = struct.Struct("<QQQII")  # first and last time, bytes and CRC when uncompressed, length of a name
_MESSAGE_HEAD: Final = struct.Struct("<HIQQ")  # channel, number, log time, publish time
_LOG_TIME: Final = struct.Struct("<6xQ")  # of a message
_NUMBER: Final = struct.Struct("<HI")  # channel and number of a message

_STEP_BYTES: Final = 1 << 20
_FEED_BYTES: Final = 1 << 18
_MOST_WINDOW_BYTES: Final = 1 << 27


class ChunkPlace(NamedTuple):
    """Where a chunk stands, with the bytes of its whole record, and the times of its first and last message in ns."""

    offset: int
    record_bytes: int
    start_ns: int
    end_ns: int


class ChunkPlaces:
    """The places of a file's chunks, in its order; 32 bytes for each, so fewer than in the file."""

    def __init__(self) -> None:
        self._numbers = array("Q")

    def append(self, place: ChunkPlace) -> None:
        """Add the place of the next chunk."""
        self._numbers.extend(place)

    def __len__(self) -> int:
        return len(self._numbers) // 4

    def __iter__(self) -> Iterator[ChunkPlace]:
        return map(self._at, range(len(self)))

    def __reversed__(self) -> Iterator[ChunkPlace]:
        return map(self._at, reversed(range(len(self))))

    def _at(self, index: int) -> ChunkPlace:
        return ChunkPlace(*self._numbers[4 * index : 4 * index + 4])


class Message(NamedTuple):
    """One message: its channel, its number there, when it was logged and published, and its data."""

    channel: int
    number: int
    log_ns: int
    sent_ns: int
    data: memoryview


class Chunk:
    """
    A chunk, uncompressed and checked: its records can be read as often as it takes, and cannot fail.

    Needs memory for what stands in the file and, where that is compressed, for what comes out. Any thread.

    Args:
        place: Where it stands, and which times its messages have to have.
        content: The content of its record.

    Raises:
        Damage: Head, length, compression, checksum, records or times are not what they should be.
    """

    def __init__(self, place: ChunkPlace, content: memoryview) -> None:
        self._data = _uncompressed(content, place)
        self._check(place)

    def channels(self) -> Iterator[memoryview]:
        """Read the contents of the records of channels."""
        data = self._data
        return (data[begin:end] for kind, begin, end in records_in(data, 0) if kind == CHANNEL)

    def numbers(self) -> Iterator[tuple[int, int]]:
        """Read the channel and the number of each message."""
        data = self._data
        return (_NUMBER.unpack_from(data, begin) for kind, begin, _ in records_in(data, 0) if kind == MESSAGE)

    def messages(self) -> Iterator[Message]:
        """Read the messages of all channels, one after the other; their data are views of the chunk."""
        data = self._data
        for kind, begin, end in records_in(data, 0):
            if kind == MESSAGE:
                channel, number, log_ns, sent_ns = _MESSAGE_HEAD.unpack_from(data, begin)
                yield Message(channel, number, log_ns, sent_ns, data[begin + _MESSAGE_HEAD.size : end])

    def _check(self, place: ChunkPlace) -> None:
        data = self._data
        first_ns = last_ns = None
        for kind, begin, end in records_in(data, place.offset):
            if kind == MESSAGE:
                if end - begin < _MESSAGE_HEAD.size:
                    raise Damage(place.offset, "a message that is too short")
                (log_ns,) = _LOG_TIME.unpack_from(data, begin)
                if first_ns is None or log_ns < first_ns:
                    first_ns = log_ns
                if last_ns is None or log_ns > last_ns:
                    last_ns = log_ns
            elif kind not in (CHANNEL, SCHEMA):
                raise Damage(place.offset, f"a chunk with a record of kind {kind}, which belongs outside")
        if (first_ns or 0, last_ns or 0) != (place.start_ns, place.end_ns):
            raise Damage(place.offset, "a chunk whose messages have other times than it says")


def check_number(expected: dict[int, int], channel: int, number: int, offset: int) -> None:
    """
    Compare the number of a message with the one before it, on the same channel.

    Args:
        expected: The next number of each channel; is kept up to date.
        channel: The channel of the message.
        number: Its number.
        offset: Where its chunk stands.

    Raises:
        Damage: Messages are missing in between.
    """
    if number != expected.get(channel, number):
        raise Damage(offset, f"expected block {expected[channel]} of the recording, got block {number}")
    expected[channel] = (number + 1) & 0xFFFF_FFFF  # the field has 32 bits


# --- compression ------------------------------------------------------------------------------------------------------


def _uncompressed(content: memoryview, place: ChunkPlace) -> memoryview:
    if len(content) < CHUNK_HEAD.size:
        raise Damage(place.offset, "a chunk that is too short")
    start_ns, end_ns, size, crc, name_bytes = CHUNK_HEAD.unpack_from(content)
    data_at = CHUNK_HEAD.size + name_bytes + 8
    if (start_ns, end_ns) != (place.start_ns, place.end_ns) or data_at > len(content) or size > MOST_CHUNK_BYTES:
        raise Damage(place.offset, "a chunk with a head that cannot be")
    name = bytes(content[CHUNK_HEAD.size : data_at - 8])
    if int.from_bytes(content[data_at - 8 : data_at], "little") != len(content) - data_at:
        raise Damage(place.offset, "a chunk that does not have its length")
    data = _decompress(name, content[data_at:], size, place.offset)
    # 0: a writer that computes none.
    if len(data) != size or crc not in (0, zlib.crc32(data)):
        raise Damage(place.offset, "a chunk whose checksum does not match")
    return data


def _decompress(name: bytes, data: memoryview, size: int, offset: int) -> memoryview:
    """Undo the compression of a chunk, and never make more of it than it says, but for one step."""
    if name == b"":
        return data
    if name not in (b"zstd", b"lz4"):
        raise Damage(offset, f"expected a chunk compressed with zstd, lz4 or not at all, got {name[:20]!r}")
    # Grows with what comes out: what is allocated is what the data holds, not what a damaged size promises.
    out = bytearray()
    try:
        for part in _zstd_parts(data) if name == b"zstd" else _lz4_parts(data):
            out += part
            if len(out) > size:
                break
    except (RuntimeError, EOFError, ValueError, MemoryError) as error:
        raise Damage(offset, f"a chunk that cannot be decompressed ({error})") from None
    return memoryview(out).toreadonly()


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
    # Fed piece by piece: at each step it copies all that it was given and has not used yet.
    for begin in range(0, len(data), _FEED_BYTES):
        part = reader.decompress(data[begin : begin + _FEED_BYTES], max_length=_STEP_BYTES)
        while part or not (reader.eof or reader.needs_input):
            yield part
            part = b"" if reader.eof else reader.decompress(b"", max_length=_STEP_BYTES)
        if reader.eof:
            return
