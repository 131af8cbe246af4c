"""
The records of an MCAP file: how they follow each other, and how large they may be.

What is read is bounded before it is read: a length in a file says what stands there, and not how much memory there is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

MAGIC: Final = b"\x89MCAP0\r\n"

# Kinds of records.
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
CHUNK_INDEX, STATISTICS, DATA_END = 0x08, 0x0B, 0x0F
KNOWN: Final = range(0x01, 0x10)

RECORD: Final = struct.Struct("<BQ")  # kind, bytes that follow
MESSAGE_INDEX_HEAD: Final = struct.Struct("<HI")  # channel, bytes that follow
CHUNK_INDEX_HEAD: Final = struct.Struct("<QQQQ")  # first and last time, offset and bytes of the chunk's record
FOOTER_CONTENT: Final = struct.Struct("<QQI")  # where summary and its offsets begin, CRC
TAIL_BYTES: Final = RECORD.size + FOOTER_CONTENT.size + len(MAGIC)

# One record that is taken apart as a whole: a header, a channel, statistics. Statistics of 65,536 channels, which is
# all there can be, have 655 kB.
MOST_RECORD_BYTES: Final = 1 << 20
# All channels of a file that are kept: one has about 1 kB in it, and up to twenty times that in memory.
MOST_CHANNEL_BYTES: Final = 1 << 22
# A chunk, compressed or not: the largest payload, behind what a writer had in the chunk before, with room to spare.
MOST_CHUNK_BYTES: Final = (1 << 30) + (1 << 27)


class Damage(Exception):
    """Something in the file is not what it should be; becomes a `FileUnreadable`, or the end of an unfinished file."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(f"{what}, at offset {offset}")


def check_length(length: int, offset: int) -> None:
    """
    Refuse a record that is too large to be taken apart as a whole.

    Raises:
        Damage: It has more than `MOST_RECORD_BYTES`.
    """
    if length > MOST_RECORD_BYTES:
        raise Damage(offset, f"expected a record of up to {MOST_RECORD_BYTES} bytes, got one of {length}")


def records_in(data: memoryview, offset: int) -> Iterator[tuple[int, int, int]]:
    """
    Take records apart that stand one after the other.

    Args:
        data: The records.
        offset: What to name where one is damaged.

    Yields:
        Kind of a record, and where its content begins and ends in `data`.

    Raises:
        Damage: One ends outside.
    """
    at, size = 0, len(data)
    while at < size:
        begin = at + RECORD.size
        if begin > size:
            raise Damage(offset, "the beginning of a record, and nothing behind it")
        kind, length = RECORD.unpack_from(data, at)
        at = begin + length
        if at > size:
            raise Damage(offset, f"a record of {length} bytes that ends outside")
        yield kind, begin, at
