"""Files that were made to deceive: what is read of them is bounded before it is read, and by more than their size."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib

import lz4.frame
import pytest
import zstandard
from tests.recorded import BEGINNING, channel_record, chunk_record, make_blocks, read, record, tiny_messages, write
from tests.uncovered import uncovered_environment

from steadyflow import BytesFormat
from steadyflow.errors import FileUnreadable
from steadyflow.recording import Recording
from steadyflow.recording.chunk import ChunkPlace, ChunkPlaces

MIB = 1 << 20
COMPRESSIONS = {b"": bytes, b"zstd": zstandard.compress, b"lz4": lz4.frame.compress}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "take.mcap"


@pytest.fixture
def bounded():
    """A call that may need 8 MiB of memory, whatever it returns or raises."""

    def call(function):
        tracemalloc.start()
        try:
            return function()
        finally:
            _, peak_bytes = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak_bytes < 8 * MIB

    return call


# --- many things in one chunk -------------------------------------------------------------------------------------

READ_ALL = """
import sys
from steadyflow.errors import FileUnreadable
from steadyflow.recording import Recording

def memory(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

small, large = sys.argv[1:]
for path in (small, large):
    before = memory("VmRSS")
    with Recording(path) as recording:
        assert len(recording._file.chunks) == 1
        try:
            blocks = sum(1 for _ in recording)
        except FileUnreadable as error:
            assert "expected a block of at least 32 bytes, got 0" in str(error)
            blocks = 0
        print(len(recording), blocks, memory("VmHWM") - before)
"""


@pytest.mark.parametrize(("name", "data_bytes"), [(b"", 0), (b"zstd", 32)])
def test_a_chunk_of_tiny_messages_needs_its_own_size(path, name, data_bytes):
    """An object for each would be many times 64 MiB. In a process of its own, where nothing was freed before."""
    count = 64 * MIB // (31 + data_bytes)
    small = path.with_name("small.mcap")
    for file, messages in ((small, 10), (path, count)):
        data = channel_record(1) + tiny_messages(messages, data_bytes)
        file.write_bytes(BEGINNING + chunk_record(data, name=name, compress=COMPRESSIONS[name]))

    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, small, path],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env=uncovered_environment(),
    )

    messages, blocks, grown_bytes = map(int, done.stdout.splitlines()[1].split())
    assert (messages, blocks) == (count, count if data_bytes else 0)
    assert 32 * MIB < grown_bytes < 64 * 1.5 * MIB


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_one_chunk_at_a_time_is_in_memory(path, name):
    """Large ones, of larger blocks: 16 MiB each, and as much again where noise was compressed."""
    noise = random.Random(1).randbytes(MIB)
    path.write_bytes(BEGINNING)
    with path.open("ab") as file:
        for chunk in range(3):
            data = channel_record(1) + b"".join(
                record(5, struct.pack("<HIQQ", 1, 16 * chunk + number, 1, 1) + bytes(32) + noise)
                for number in range(16)
            )
            file.write(chunk_record(data, name=name, compress=COMPRESSIONS[name]))
    del data

    tracemalloc.start()
    try:
        with Recording(path) as recording:
            assert sum(len(block.data) for block in recording) == 48 * MIB
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 16 * MIB < peak_bytes < (22 if name == b"" else 40) * MIB


def test_places_of_chunks_need_less_than_their_index():
    places = ChunkPlaces()
    tracemalloc.start()
    try:
        for number in range(10_000):
            places.append(ChunkPlace(number, 1, 1 << 63, (1 << 64) - 1))
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held_bytes < 10_000 * 64
    assert list(places)[9_999] == next(reversed(places)) == (9_999, 1, 1 << 63, (1 << 64) - 1)


@pytest.mark.parametrize("kind", [0, 1, 6, 8, 15, 200])
def test_a_chunk_holds_channels_and_messages_only(path, kind):
    whole = chunk_record(channel_record(1) + tiny_messages(2, 32))
    at = len(BEGINNING) + len(whole)
    path.write_bytes(BEGINNING + whole + chunk_record(tiny_messages(1, 32) + record(kind, b"")))
    with Recording(path) as recording:
        assert len(list(recording)) == 2
        assert recording.info.problem.endswith(
            f"a chunk with a record of kind {kind}, which belongs outside, at offset {at}"
        )


@pytest.mark.parametrize(
    ("data", "time_ns", "problem"),
    [
        (record(5, bytes(21)), 1, "a message that is too short"),
        (tiny_messages(1)[:-1], 1, "a record of 22 bytes that ends outside"),
        (tiny_messages(1)[:5], 1, "the beginning of a record, and nothing behind it"),
        (tiny_messages(2)[31:], 1, "expected block 3 of the recording, got block 1"),
        (b"", 5, "a chunk whose messages have other times than it says"),
    ],
)
def test_a_chunk_with_a_right_checksum_may_be_wrong(path, data, time_ns, problem):
    """Nothing of it is returned, not even the block that is as it should be."""
    whole = chunk_record(channel_record(1) + tiny_messages(2, 32))
    at = len(BEGINNING) + len(whole)
    path.write_bytes(BEGINNING + whole + chunk_record(tiny_messages(3, 32)[2 * 63 :] + data, time_ns=time_ns))
    with Recording(path) as recording:
        assert len(recording) == len(list(recording)) == 2
        assert recording.info.problem.endswith(f"{problem}, at offset {at}")


def test_blocks_before_their_channel_count_as_they_are_read(path):
    """The standard forbids it, and whoever reads such a file finds what it says that it has."""
    first = chunk_record(tiny_messages(2, 32))
    second = chunk_record(channel_record(1) + tiny_messages(3, 32)[2 * 63 :])
    path.write_bytes(BEGINNING + first + second)
    with Recording(path) as recording:
        assert len(recording) == len(list(recording)) == 3


# --- records that are too large -----------------------------------------------------------------------------------


def sparse(path, *parts):
    """Write parts one after the other; a number stands for so many zeros, which take no place on the disk."""
    with path.open("wb") as file:
        for part in parts:
            if isinstance(part, int):
                file.seek(part, os.SEEK_CUR)
            else:
                file.write(part)
        file.truncate()


LARGE = 3 << 30


def head(kind):
    return struct.pack("<BQ", kind, LARGE)


def test_a_large_header_is_refused(path, bounded):
    sparse(path, BEGINNING[:8], head(1), LARGE, bytes(100))
    with pytest.raises(FileUnreadable, match=f"a record of up to 1048576 bytes, got one of {LARGE}, at offset 8"):
        bounded(lambda: Recording(path))


@pytest.mark.parametrize(
    ("kind", "problem"),
    [(4, "expected a record of up to 1048576 bytes"), (6, "expected a chunk of up to 1207959552 bytes")],
)
def test_a_large_record_ends_an_unfinished_file(path, bounded, kind, problem):
    whole = BEGINNING + chunk_record(channel_record(1) + tiny_messages(2, 32))
    sparse(path, whole, head(kind), bytes(32), LARGE)

    recording = bounded(lambda: Recording(path))

    assert len(list(recording)) == 2
    assert recording.info.problem.endswith(f"{problem}, got one of {LARGE}, at offset {len(whole)}")


@pytest.mark.parametrize("kind", [3, 7, 9, 12])
def test_what_is_not_used_may_be_large(path, bounded, kind):
    """Schemas, attachments and what is said about them are stepped over."""
    content = struct.pack("<HI", 1, LARGE - 6)
    sparse(
        path,
        BEGINNING,
        head(kind),
        content,
        LARGE - 6,
        chunk_record(channel_record(1) + tiny_messages(2, 32)),
        record(15, b""),
    )
    assert len(bounded(lambda: Recording(path))) == 2


def test_a_large_channel_in_a_chunk_is_refused(path):
    whole = BEGINNING + chunk_record(channel_record(1) + tiny_messages(2, 32))
    large = channel_record(2, metadata={b"format": bytes(MIB)})
    path.write_bytes(whole + chunk_record(large, name=b"zstd", compress=zstandard.compress, time_ns=0))
    with Recording(path) as recording:
        assert recording.pipeline == "x"
        assert f"expected a record of up to 1048576 bytes, got one of {len(large) - 9}" in recording.info.problem


def test_many_channels_are_refused(path):
    channels = b"".join(
        channel_record(id, topic=b"%d" % id, metadata={b"format": bytes(900_000)}) for id in range(2, 9)
    )
    chunk = chunk_record(channel_record(1) + tiny_messages(2, 32))
    path.write_bytes(BEGINNING + chunk + channels + chunk)
    with Recording(path, pipeline="x") as recording:
        assert len(recording) == 2
        assert "expected up to 4194304 bytes of channels in a file, got more" in recording.info.problem
    # The same one again and again, as other programs write it into each chunk, and those of others, are not kept.
    again = channel_record(1, metadata={b"format": bytes(900_000)}) * 7
    others = b"".join(channel_record(id, encoding="json", metadata={b"": bytes(900_000)}) for id in range(2, 9))
    path.write_bytes(BEGINNING + chunk + again + others + record(15, b""))
    with Recording(path) as recording:
        assert recording.info.problem == "it is not finished"
        assert len(recording) == 2


def test_a_summary_of_zeros_is_not_read(path, bounded):
    blocks = make_blocks(BytesFormat(), 4)
    write(path, BytesFormat(), blocks)
    data = path.read_bytes()
    start = struct.unpack_from("<Q", data, len(data) - 28)[0]
    sparse(path, data[:start], LARGE, record(2, struct.pack("<QQI", start, 0, 0)), data[-8:])

    recording = bounded(lambda: Recording(path))

    assert len(list(recording)) == 4
    assert recording.info.problem == f"its index is damaged: no kind of record has the number 0, at offset {start}"


@pytest.mark.parametrize("kind", [4, 8, 11])
def test_a_summary_with_a_large_record_is_not_read(path, bounded, kind):
    write(path, BytesFormat(), make_blocks(BytesFormat(), 4))
    data = path.read_bytes()
    start = struct.unpack_from("<Q", data, len(data) - 28)[0]
    sparse(path, data[:start], head(kind), LARGE, record(2, struct.pack("<QQI", start, 0, 0)), data[-8:])

    recording = bounded(lambda: Recording(path))

    assert len(list(recording)) == 4
    assert (
        f"its index is damaged: expected a record of up to 1048576 bytes, got one of {LARGE}" in recording.info.problem
    )


def test_the_checksum_of_a_large_summary_is_made_in_pieces(path, bounded):
    """A schema of 64 MiB in the summary is allowed: another pipeline of the file may have it."""
    write(path, BytesFormat(), make_blocks(BytesFormat(), 4))
    data = path.read_bytes()
    footer = len(data) - 37
    start = struct.unpack_from("<Q", data, len(data) - 28)[0]
    summary = struct.pack("<BQ", 3, 64 * MIB) + bytes(64 * MIB) + data[start:footer]
    tail = struct.pack("<BQQQ", 2, 20, start, 0)
    crc = zlib.crc32(tail, zlib.crc32(summary))
    path.write_bytes(data[:start] + summary + tail + struct.pack("<I", crc) + data[-8:])
    del summary

    recording = bounded(lambda: Recording(path))

    assert recording.info.complete
    assert len(read(path)) == 4
