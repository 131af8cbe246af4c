"""Recordings against plain lists: what goes in comes out, wherever the file is cut or flipped."""

from __future__ import annotations

import json
import os
import random
import struct
import tempfile
import tracemalloc
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.recorded import BEGINNING, Reading, channel_record, chunk_record, make_blocks, plain, read, record, write

from steadyflow import ArrayFormat, AudioFormat, Block, BytesFormat, FlowError, StructFormat
from steadyflow.data import METADATA_MAX_BYTES, encode_metadata
from steadyflow.errors import MetadataTooLarge
from steadyflow.recording import Recording
from steadyflow.recording.message import build_format, describe_format, read_description

stamps = st.integers(0, (1 << 63) - 1)
sample_types = st.sampled_from(["f32", "f64", "s16", "s24", "s32", "u8"])
values = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.binary(max_size=9)
)


def fits(metadata):
    try:
        return len(encode_metadata(metadata)) <= METADATA_MAX_BYTES
    except MetadataTooLarge:
        return False


metadata = st.dictionaries(st.text(max_size=5), values, max_size=3).filter(fits)
formats = st.one_of(
    st.builds(
        AudioFormat,
        st.integers(1, 768_000),
        st.integers(1, 5),
        sample_types,
        st.sampled_from(["interleaved", "planar"]),
        st.just(64),
    ),
    st.builds(
        ArrayFormat,
        st.sampled_from(["bool", "int8", "uint64", "float16", "float64", "complex128"]),
        st.lists(st.integers(1, 4), min_size=1, max_size=3),
    ),
    st.just(StructFormat(Reading)),
    st.builds(BytesFormat, st.just(200)),
)


@st.composite
def payloads(draw, fmt):
    # Whatever bits there are: numpy compares the bytes.
    random_bytes = random.Random(draw(st.integers(0, 1 << 32))).randbytes
    if isinstance(fmt, AudioFormat):
        shape = fmt.block_shape(draw(st.integers(1, 64)))
        return np.frombuffer(random_bytes(int(np.prod(shape)) * fmt.dtype.itemsize), fmt.dtype).reshape(shape)
    if isinstance(fmt, ArrayFormat):
        count = int(np.prod(fmt.shape))
        if fmt.dtype == bool:
            return np.frombuffer(random_bytes(count), np.uint8).reshape(fmt.shape) > 127
        return np.frombuffer(random_bytes(count * fmt.dtype.itemsize), fmt.dtype).reshape(fmt.shape)
    if isinstance(fmt, StructFormat):
        numbers = np.frombuffer(random_bytes(8 * draw(st.integers(0, 4))), np.uint64)
        return Reading(draw(st.integers(-(1 << 63), (1 << 63) - 1)), numbers)
    return draw(st.binary(max_size=200))


@st.composite
def streams(draw):
    fmt = draw(formats)
    blocks = [
        Block(
            draw(payloads(fmt)),
            fmt,
            timestamp_ns=draw(stamps),
            first_frame=draw(stamps),
            sequence=draw(stamps),
            flags=draw(st.integers(0, 31)),
            metadata=draw(metadata) or None,
            sent_ns=draw(stamps),
        )
        for _ in range(draw(st.integers(0, 12)))
    ]
    return fmt, blocks


# Files are made and read in a folder of their own for each example.
examples = settings(max_examples=150, deadline=None)


@examples
@given(streams(), st.sampled_from(["none", "zstd", "lz4"]), st.sampled_from([1e-6, 0.5, 3600.0]))
def test_what_is_recorded_comes_back(stream, compression, chunk_s):
    fmt, blocks = stream
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "take.mcap"
        write(path, fmt, blocks, compression=compression, chunk_s=chunk_s)

        assert read(path) == [plain(block) for block in blocks]
        with Recording(path) as recording:
            assert recording.format == fmt
            assert len(recording) == len(blocks)
            assert recording.info.complete


@examples
@given(
    st.lists(st.integers(0, 300), max_size=25),
    st.integers(0, 5000),
    st.none() | st.integers(0, 5000),
    st.sampled_from([0.01, 0.2, 1.0]),
)
def test_a_range_is_what_a_list_says(steps_ms, start_ms, stop_ms, chunk_s):
    times_ms = np.cumsum(steps_ms).tolist()
    blocks = [Block(b"%d" % time_ms, BytesFormat(), sent_ns=7 + time_ms * 1_000_000) for time_ms in times_ms]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "take.mcap"
        write(path, BytesFormat(), blocks, chunk_s=chunk_s)

        with Recording(path) as recording:
            found = [
                block.data for block in recording.blocks(start_ms / 1000, None if stop_ms is None else stop_ms / 1000)
            ]
            duration_s = recording.duration_s

    since = [time_ms - times_ms[0] for time_ms in times_ms]
    chosen = [start_ms <= each and (stop_ms is None or each < stop_ms) for each in since]
    assert found == [block.data for block, is_in in zip(blocks, chosen, strict=True) if is_in]
    assert duration_s == pytest.approx(since[-1] / 1000 if since else 0.0)


# What numpy takes for a type may be a small language.
dtypes = st.sampled_from(["<f4", ">f4", "f4,f4", "O", "(1f4,f4", "2f4", "M8[s]", "U5", "float"]) | st.text(
    "()[]{}<>=,0123fiuOVUS:|'\" "
)
plain_json = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | dtypes
any_json = st.recursive(
    plain_json,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = {
    "array": {"dtype": dtypes, "shape": st.lists(st.integers(-1, 5), max_size=3)},
    "struct": {"type": st.sampled_from(["a:B", ""]), "max_bytes": st.integers(-1, 1 << 40)},
    "bytes": {"max_bytes": st.integers(-1, 1 << 40)},
    "audio": {
        "sample_rate_hz": st.integers(-1, 48_000),
        "channels": st.integers(-1, 70_000),
        "sample_type": sample_types,
        "layout": st.sampled_from(["planar", "interleaved"]),
        "max_block_frames": st.integers(-1, 1 << 40),
    },
    "any": {},
    "tape": {},
}


@st.composite
def descriptions(draw):
    """The fields of a kind; here and there one is missing, something else, or too many."""
    kind = draw(st.sampled_from(list(FIELDS)))
    wire = {"kind": kind} | {name: draw(values) for name, values in FIELDS[kind].items()}
    for name in draw(st.sets(st.sampled_from([*wire, "other"]), max_size=2)):
        if draw(st.booleans()):
            wire[name] = draw(any_json)
        else:
            wire.pop(name, None)
    return wire


@settings(max_examples=1000, deadline=None)
@given(descriptions() | any_json)
def test_a_description_is_a_format_or_none(wire):
    """Whatever stands in a channel."""
    try:
        described = read_description(json.dumps(wire))
    except ValueError:
        return
    fmt = build_format(described, Reading)
    assert read_description(describe_format(fmt))["kind"] == wire["kind"]
    assert fmt.max_payload_bytes <= 1 << 30


compressors = st.one_of(
    st.just((b"", bytes)),
    st.builds(lambda level: (b"zstd", zstandard.ZstdCompressor(level=level).compress), st.integers(1, 5)),
    st.builds(
        lambda block_size, linked, checked: (
            b"lz4",
            lambda data: lz4.frame.compress(
                data, block_size=block_size, block_linked=linked, content_checksum=checked, block_checksum=checked
            ),
        ),
        st.sampled_from([lz4.frame.BLOCKSIZE_MAX64KB, lz4.frame.BLOCKSIZE_MAX4MB]),
        st.booleans(),
        st.booleans(),
    ),
)


@settings(max_examples=60, deadline=None)
@given(compressors, st.lists(st.tuples(st.integers(0, 1_500_000), st.booleans()), min_size=1, max_size=4))
def test_a_chunk_of_another_program_is_what_was_compressed(compressor, parts):
    """In whatever steps it comes out: parts that can be compressed, and parts that cannot."""
    name, compress = compressor
    payload = b"".join(random.Random(size).randbytes(size) if noisy else bytes(size) for size, noisy in parts)
    stamps = struct.pack("<QqQIHH", 0, 0, 0, 0, 0, 0)
    message = record(5, struct.pack("<HIQQ", 1, 0, 1, 1) + stamps + payload)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "take.mcap"
        path.write_bytes(BEGINNING + chunk_record(channel_record(1) + message, name=name, compress=compress))

        with Recording(path) as recording:
            [block] = recording
            assert recording.info.problem.endswith(f"the file ends, at offset {recording.info.size_bytes}")

    assert block.data == payload


# --- cut and flipped ----------------------------------------------------------------------------------------------


class Scratch:
    """A file in memory: thousands of changed copies of a recording cost a disk too much."""

    def __init__(self):
        self.descriptor = os.memfd_create("take.mcap")
        self.path = Path(f"/proc/self/fd/{self.descriptor}")

    def fill(self, data):
        os.ftruncate(self.descriptor, len(data))
        os.pwrite(self.descriptor, data, 0)


@pytest.fixture
def scratch():
    made = Scratch()
    yield made
    os.close(made.descriptor)


SMALL = {
    "audio": AudioFormat(48_000, 1, "s16"),
    "structs": StructFormat(Reading),
}


@pytest.fixture(params=SMALL)
def small(request, scratch):
    """A recording of several chunks, as short as can be: its bytes and what is in it."""
    fmt = SMALL[request.param]
    blocks = make_blocks(fmt, 7)
    write(scratch.path, fmt, blocks, chunk_s=0.015)
    return scratch.path.read_bytes(), [plain(block) for block in blocks]


def what_can_be_read(path):
    """Blocks, and what was wrong: an error or a notice. Any other exception is a failure of the test."""
    blocks = []
    try:
        with Recording(path) as recording:
            blocks.extend(plain(block) for block in recording)
            assert recording.info.problem or len(recording) == len(blocks)
            return blocks, recording.info.problem
    except FlowError as error:
        assert str(path) in str(error)
        assert "at offset" in str(error)
        return blocks, str(error)


def test_a_file_that_is_cut_off_anywhere_holds_what_was_before(small, scratch):
    data, expected = small
    with Recording(scratch.path) as recording:
        ends = [
            (place.offset + place.record_bytes, len(list(recording._messages(place))))
            for place in recording._file.chunks
        ]
    assert len(ends) > 2

    for length in range(len(data)):
        scratch.fill(data[:length])

        blocks, problem = what_can_be_read(scratch.path)

        assert blocks == expected[: sum(count for end, count in ends if end <= length)]
        assert problem


@pytest.mark.parametrize("finished", [True, False])
def test_a_flipped_bit_invents_nothing(small, scratch, finished):
    data, expected = small
    data = data if finished else data[:-60]
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position * 5 + finished) % 8
        scratch.fill(flipped)

        blocks, problem = what_can_be_read(scratch.path)

        assert blocks == expected[: len(blocks)]
        assert problem or blocks == expected


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 1 << 32), st.booleans())
def test_foreign_bytes_invent_nothing(seed, finished):
    """Pieces replaced, doubled, moved and taken away; several at once."""
    chance = random.Random(seed)
    fmt = AudioFormat(48_000, 1, "s16")
    expected = [plain(block) for block in make_blocks(fmt, 7)]
    scratch = Scratch()
    try:
        compression = chance.choice(["none", "zstd", "lz4"])
        write(scratch.path, fmt, make_blocks(fmt, 7), chunk_s=0.015, compression=compression)
        data = bytearray(scratch.path.read_bytes()[: None if finished else -40])
        for _ in range(chance.randint(1, 3)):
            damage(data, chance)
        scratch.fill(data)

        blocks, problem = what_can_be_read(scratch.path)
    finally:
        os.close(scratch.descriptor)

    assert blocks == expected[: len(blocks)]
    assert problem or blocks == expected


def damage(data, chance):
    begin = chance.randrange(len(data))
    end = min(len(data), begin + chance.choice([1, 4, 8, 100]))
    piece = data[begin:end]
    match chance.randrange(5):
        case 0:
            data[begin:end] = chance.randbytes(end - begin)
        case 1:
            data[begin:end] = b"\xff" * (end - begin)
        case 2:
            del data[begin:end]
        case 3:
            data[begin:begin] = piece
        case 4:
            to = chance.randrange(len(data))
            data[to : to + len(piece)] = piece


def test_lengths_are_checked_before_they_are_used(scratch):
    """Any 8 bytes may be taken for a length somewhere: none of them is allocated."""
    path = scratch.path
    fmt = AudioFormat(48_000, 1, "s16")
    write(path, fmt, make_blocks(fmt, 4), compression="zstd")
    data = path.read_bytes()
    what_can_be_read(path)  # everything is imported

    tracemalloc.start()
    try:
        for position in range(len(data) - 8):
            length = (1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)[position % 5]
            scratch.fill(data[:position] + length.to_bytes(8, "little") + data[position + 8 :])
            what_can_be_read(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 10_000_000
