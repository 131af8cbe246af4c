"""Recordings for tests: written by the Recorder itself, outside of a flow, and blocks as values that can be compared."""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

import msgspec
import numpy as np

from steadyflow import ArrayFormat, AudioFormat, Block, BytesFormat, StructFormat
from steadyflow.codec import codec_for
from steadyflow.recording import Recorder, Recording
from steadyflow.recording.message import MESSAGE_ENCODING


class Reading(msgspec.Struct):
    """A payload of the tests."""

    number: int
    values: np.ndarray


class Plain(NamedTuple):
    """All that is recorded of a block, comparable: the payload by its bytes."""

    payload: bytes
    frames: int
    timestamp_ns: int
    first_frame: int
    sequence: int
    flags: int
    metadata: dict[str, Any]
    sent_ns: int


def plain(block):
    codec = codec_for(block.format)
    payload = block.data.tobytes() if codec is None else codec.encode(block.data)
    return Plain(
        payload,
        block.frames,
        block.timestamp_ns,
        block.first_frame,
        block.sequence,
        block.flags,
        block.metadata,
        block.sent_ns,
    )


def recorder_for(path, fmt, **options):
    """A recorder that is set up as a flow would do it."""
    recorder = Recorder(path, **options)
    recorder.data.format = fmt
    recorder.setup()
    return recorder


def write(path, fmt, blocks, **options):
    recorder = recorder_for(path, fmt, **options)
    for block in blocks:
        recorder.process(block)
    recorder.finish()


def read(path, **options):
    with Recording(path, **options) as recording:
        return [plain(block) for block in recording]


def make_blocks(fmt, count, *, step_ns=10_000_000, start_ns=5_000_000_000):
    """Blocks of any format, each another one."""
    blocks = []
    for number in range(count):
        if isinstance(fmt, AudioFormat):
            frames = min(fmt.max_block_frames, 3 + number % 3)
            shape = fmt.block_shape(frames)
            data = np.arange(np.prod(shape)).astype(fmt.dtype).reshape(shape) + fmt.dtype.type(number % 50)
        elif isinstance(fmt, ArrayFormat):
            data = np.full(fmt.shape, number, fmt.dtype)
        elif isinstance(fmt, StructFormat):
            data = Reading(number, np.arange(number % 4))
        else:
            data = bytes([number % 256]) * (number % 7)
        blocks.append(
            Block(
                data,
                fmt,
                timestamp_ns=start_ns + number * step_ns - 1_000,
                first_frame=number * 4,
                sequence=number + 3,
                flags=number % 3,
                metadata={"number": number} if number % 2 else None,
                sent_ns=start_ns + number * step_ns,
            )
        )
    return blocks


FORMATS = [
    *(
        AudioFormat(48_000, 2, kind, layout)
        for kind in ("f32", "f64", "s16", "s24", "s32", "u8")
        for layout in ("interleaved", "planar")
    ),
    AudioFormat(8_000, 1),
    ArrayFormat("complex64", (2, 3)),
    ArrayFormat("bool", (5,)),
    StructFormat(Reading),
    BytesFormat(64),
]


def records_of(data):
    """Kind, offset and end of each record of an MCAP file."""
    offset, found = 8, []
    while offset + 9 <= len(data) - 8:
        kind, length = struct.unpack_from("<BQ", data, offset)
        found.append((kind, offset, offset + 9 + length))
        offset += 9 + length
    return found


# --- files made by hand -----------------------------------------------------------------------------------------------

BEGINNING = b"\x89MCAP0\r\n" + struct.pack("<BQII", 1, 8, 0, 0)
"""Magic and an empty header."""


def record(kind, content):
    return struct.pack("<BQ", kind, len(content)) + content


def text(value):
    return struct.pack("<I", len(value)) + value


def channel_record(id, *, topic=b"x", encoding=MESSAGE_ENCODING, metadata=None):
    fields = {b"format": b'{"kind": "bytes", "max_bytes": 64}'} if metadata is None else metadata
    pairs = b"".join(text(key) + text(value) for key, value in fields.items())
    return record(4, struct.pack("<HH", id, 0) + text(topic) + text(encoding.encode()) + text(pairs))


def tiny_messages(count, data_bytes=0):
    """So many messages of channel 1, numbered, all sent at 1 ns, with zeros."""
    fields = [("kind", "u1"), ("length", "<u8"), ("channel", "<u2"), ("number", "<u4"), ("log", "<u8"), ("sent", "<u8")]
    messages = np.zeros(count, [*fields, ("data", "u1", (data_bytes,))])
    messages["kind"], messages["length"], messages["channel"] = 5, 22 + data_bytes, 1
    messages["number"] = np.arange(count)
    messages["log"] = messages["sent"] = 1
    return messages.tobytes()


def chunk_record(data, *, name=b"", compress=bytes, time_ns=1):
    """A chunk with the right checksum, whatever stands in it."""
    head = struct.pack("<QQQI", time_ns, time_ns, len(data), zlib.crc32(data))
    compressed = compress(data)
    return record(6, head + text(name) + struct.pack("<Q", len(compressed)) + compressed)
