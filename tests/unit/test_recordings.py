"""What the recorder writes, what a recording says, and which mistakes are told."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import resource
import signal
import struct
import sys
import zlib

import mcap.reader
import mcap.writer
import msgspec
import numpy as np
import pytest
from tests.recorded import FORMATS, Reading, make_blocks, plain, read, recorder_for, records_of, write

from steadyflow import ArrayFormat, AudioFormat, Block, BlockFlag, BytesFormat, StructFormat
from steadyflow.errors import (
    ConfigurationError,
    DataError,
    FileUnreadable,
    FileUnwritable,
    FormatClash,
    FormatMismatch,
    MissingExtra,
    StateError,
    UnknownName,
)
from steadyflow.recording import Recorder, Recording, Replay, replay
from steadyflow.recording.message import MESSAGE_ENCODING, SCHEMA_TEXT

MONO = AudioFormat(48_000, 1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "take.mcap"


# --- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_blocks_come_back_as_they_were(path, fmt, compression):
    blocks = make_blocks(fmt, 20)

    write(path, fmt, blocks, compression=compression)

    assert read(path) == [plain(block) for block in blocks]
    with Recording(path) as recording:
        assert recording.format == fmt
        assert len(recording) == 20
        assert recording.duration_s == pytest.approx(0.19)
        assert recording.pipeline == "recorded"
        assert recording.info.complete


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if isinstance(fmt, AudioFormat | ArrayFormat)], ids=str)
def test_arrays_are_the_readers_own(path, fmt):
    write(path, fmt, make_blocks(fmt, 2))

    arrays = [block.data for block in Recording(path)]

    assert len(arrays) == 2
    for array in arrays:
        assert array.flags.writeable
        assert array.flags.aligned
        assert array.flags.c_contiguous


def test_the_bytes_are_those_of_the_page(path):
    """docs/recordings.md promises these bytes to readers in other languages; the library mcap stands for one."""
    block = Block(
        np.array([[1], [-2]], np.int16),
        fmt := AudioFormat(48_000, 1, "s16"),
        timestamp_ns=11,
        first_frame=12,
        sequence=13,
        flags=BlockFlag.GAP | BlockFlag.CORRUPTED,
        metadata={"a": 1},
        sent_ns=14,
    )
    write(path, fmt, [block], pipeline="take.out->rec.data")

    with path.open("rb") as file:
        [(schema, channel, message)] = mcap.reader.make_reader(file, validate_crcs=True).iter_messages()

    assert (schema.name, schema.encoding, schema.data.decode()) == ("steadyflow.Block", "text/plain", SCHEMA_TEXT)
    assert (channel.topic, channel.message_encoding) == ("take.out->rec.data", "steadyflow.block.1")
    assert json.loads(channel.metadata["format"]) == {
        "kind": "audio",
        "sample_rate_hz": 48000,
        "channels": 1,
        "sample_type": "s16",
        "layout": "interleaved",
        "max_block_frames": 4096,
    }
    assert (message.sequence, message.log_time, message.publish_time) == (0, 14, 14)
    assert message.data == struct.pack("<QqQIHH", 13, 11, 12, 2, 6, 4) + b"\x01\x00\xfe\xff" + b"\x81\xa1a\x01"


def test_struct_payloads_are_the_bytes_that_travel(path):
    fmt = StructFormat(Reading)
    write(path, fmt, make_blocks(fmt, 3))

    raw = read(path, format=BytesFormat())

    assert msgspec.msgpack.decode(raw[1].payload)["number"] == 1
    assert [each._replace(payload=b"") for each in raw] == [each._replace(payload=b"") for each in read(path)]


def test_times_in_the_index_never_go_back(path):
    """Several threads may send into one pipeline, each with its own look at the clock."""
    first, second = make_blocks(MONO, 2)

    write(path, MONO, [second, first])

    with path.open("rb") as file:
        messages = [each for _, _, each in mcap.reader.make_reader(file).iter_messages(log_time_order=False)]
    assert [message.log_time for message in messages] == [second.sent_ns, second.sent_ns]
    assert [each.sent_ns for each in read(path)] == [second.sent_ns, first.sent_ns]


def test_a_chunk_is_completed_when_its_time_is_over(path):
    recorder = recorder_for(path, MONO, chunk_s=0.1)
    for block in make_blocks(MONO, 20):
        recorder.process(block)

    # 10 ms apart: the 11th block completes the first chunk. The recorder is still open, as if it had been killed.
    assert len(read(path)) == 11
    recorder.finish()
    assert len(read(path)) == 20


def test_a_chunk_is_completed_when_it_is_large(path):
    fmt = AudioFormat(48_000, 1, max_block_frames=65_536)
    blocks = [Block(np.full((65_536, 1), number, np.float32), fmt, sent_ns=1) for number in range(9)]

    write(path, fmt, blocks)

    assert sum(kind == 6 for kind, _, _ in records_of(path.read_bytes())) == 3
    assert [each.payload[:4] for each in read(path)] == [np.float32(number).tobytes() for number in range(9)]


def test_a_chunk_is_in_the_file_when_it_is_complete(path):
    """All of it: the recorder is still open, as if it had been killed."""
    fmt = BytesFormat(1 << 20)
    recorder = recorder_for(path, fmt)
    recorder.process(Block(bytes(500_000), fmt, sent_ns=1))
    recorder.process(Block(bytes(600_001), fmt, sent_ns=2))
    assert [len(each.payload) for each in read(path)] == [500_000, 600_001]

    # The next chunk counts anew, in bytes and in time.
    for sent_ns in (900_000_000, 1_800_000_000):
        recorder.process(Block(bytes(500_000), fmt, sent_ns=sent_ns))
    assert len(read(path)) == 2
    recorder.process(Block(b"", fmt, sent_ns=1_900_000_000))
    assert len(read(path)) == 5
    recorder.finish()


def test_a_silent_source_completes_no_chunk(path):
    """docs/recordings.md says so: a block completes a chunk, and no clock."""
    recorder = recorder_for(path, BytesFormat(), chunk_s=1e-6)
    recorder.process(Block(b"before", BytesFormat(), sent_ns=1))
    with pytest.raises(FileUnreadable, match="the file ends"):
        Recording(path)
    recorder.process(Block(b"after", BytesFormat(), sent_ns=10**12))
    assert [each.payload for each in read(path)] == [b"before", b"after"]
    recorder.finish()


def test_an_empty_recording_knows_its_format(path):
    write(path, MONO, [])

    with Recording(path) as recording:
        assert (len(recording), recording.duration_s, list(recording)) == (0, 0.0, [])
        assert recording.format == MONO
        assert recording.info.recorded_at is None


def test_a_recording_of_one_block(path):
    write(path, MONO, make_blocks(MONO, 1))

    with Recording(path) as recording:
        assert (len(recording), recording.duration_s) == (1, 0.0)


def test_a_recording_says_when_it_was_made(path):
    import datetime

    from steadyflow._native import monotonic_ns

    before = datetime.datetime.now(datetime.UTC)
    write(path, MONO, make_blocks(MONO, 3, start_ns=monotonic_ns()))
    after = datetime.datetime.now(datetime.UTC)

    info = Recording(path).info
    slack = datetime.timedelta(seconds=1)
    assert before - slack <= info.recorded_at <= after + slack
    assert info.recorded_with == "0.1.0"
    assert info.size_bytes == path.stat().st_size
    assert info.format["kind"] == "audio"


def test_a_file_is_replaced(path):
    write(path, MONO, make_blocks(MONO, 50))
    write(path, MONO, make_blocks(MONO, 2))

    assert len(read(path)) == 2


def test_what_was_not_made_by_a_pipeline_can_be_recorded_too(path):
    fmt = StructFormat(Reading)
    write(path, fmt, [Block(Reading(5, np.arange(2)), fmt)])
    assert next(iter(Recording(path))).data.number == 5

    blocks = [Block(np.ones((4, 2), np.float32)[::2], stereo := AudioFormat(48_000, 2), metadata={"k": b"v"})]
    write(path, stereo, blocks)
    assert read(path) == [plain(block) for block in blocks]


def test_the_recorder_reads_well(path):
    recorder = recorder_for(path, MONO)
    recorder.process(*make_blocks(MONO, 1))
    assert repr(recorder) == f"<Recorder {str(path)!r}: 1 blocks>"
    recorder.teardown()
    recorder.teardown()
    assert repr(Recording(path)) == f"<Recording {str(path)!r} of recorded: 1 blocks, {MONO}>"


# --- seeking ------------------------------------------------------------------------------------------------------


def test_a_range_reads_only_its_chunks(path, monkeypatch):
    write(path, MONO, make_blocks(MONO, 100), chunk_s=0.1)
    with Recording(path) as recording:
        chunks = list(recording._file.chunks)
        assert len(chunks) == len(recording._file.chunks) == 10
        assert list(reversed(recording._file.chunks)) == chunks[::-1]
        read_chunks = []
        monkeypatch.setattr(
            recording._file,
            "messages",
            lambda place, real=recording._file.messages: read_chunks.append(place) or real(place),
        )
        blocks = list(recording.blocks(0.505, 0.535))

    assert [block.sequence - 3 for block in blocks] == [51, 52, 53]
    # The first one tells when the recording began.
    assert [chunks.index(place) for place in read_chunks] == [0, 4]


@pytest.mark.parametrize(
    ("start_s", "stop_s", "expected"),
    [
        (0.0, None, range(10)),
        (0.05, None, range(5, 10)),
        (0.0, 0.05, range(5)),
        (0.0501, 0.09, range(6, 9)),
        (7.0, None, []),
        (0.0, 0.0, []),
    ],
)
def test_ranges(path, start_s, stop_s, expected):
    write(path, MONO, make_blocks(MONO, 10))

    assert [block.sequence - 3 for block in Recording(path).blocks(start_s, stop_s)] == list(expected)


@pytest.mark.parametrize("time_s", [-1, float("nan"), "1", None, True, 1e10])
def test_impossible_times_are_refused(path, time_s):
    write(path, MONO, [])
    with pytest.raises(ConfigurationError, match=r"expected start_s to be seconds"):
        Recording(path).blocks(time_s)


# --- formats and classes ------------------------------------------------------------------------------------------


def struct_class(module, name="Reading"):
    """A class that says it is from somewhere else."""
    return msgspec.defstruct(name, [("number", int), ("values", np.ndarray)], module=module)


def test_a_class_that_is_not_loaded_is_not_imported(path):
    fmt = StructFormat(struct_class("antigravity"))
    write(path, fmt, [Block(fmt.type(number, np.zeros(1)), fmt) for number in range(3)])

    with Recording(path) as recording:
        assert (len(recording), recording.format_text) == (3, "struct antigravity:Reading")
        with pytest.raises(ConfigurationError, match="'Reading' of module 'antigravity', which is not loaded"):
            recording.blocks()
    assert "antigravity" not in sys.modules
    with Recording(path, format=StructFormat(Reading)) as recording:
        assert [block.data.number for block in recording] == [0, 1, 2]
    with Recording(path, format=BytesFormat()) as recording:
        assert [type(block.data) for block in recording] == [bytes] * 3


@pytest.mark.parametrize("name", ["f2py.crackfortran", "testing.nothing", "ndarray.nothing"])
def test_a_name_in_a_recording_makes_no_module_load_another(path, name):
    """numpy is loaded, and imports its parts when somebody asks for them."""
    write(path, StructFormat(struct_class("numpy", name)), [])
    before = set(sys.modules)
    with pytest.raises(ConfigurationError, match=f"cannot find the class 'numpy:{name}'"):
        Recording(path).blocks()
    assert {module for module in sys.modules if module.startswith(("numpy", "unittest"))} <= before


def test_a_class_that_is_gone_is_named(path):
    write(path, StructFormat(struct_class("tests.recorded", "Lost")), [])
    with pytest.raises(ConfigurationError, match=r"cannot find the class 'tests.recorded:Lost'.*format=StructFormat"):
        Recording(path).blocks()


def test_a_class_of_the_main_script_is_named_so(path):
    write(path, StructFormat(struct_class("__mp_main__")), [])
    assert Recording(path).info.format["type"] == "__main__:Reading"
    with pytest.raises(ConfigurationError, match="__main__:Reading"):
        Recording(path).blocks()


def test_another_class_takes_the_objects(path):
    class Number(msgspec.Struct):
        number: int

    fmt = StructFormat(Reading, max_bytes=100)
    write(path, fmt, make_blocks(fmt, 2))

    with Recording(path, format=StructFormat(Number)) as recording:
        assert recording.format == StructFormat(Number, max_bytes=100)
        assert [block.data for block in recording] == [Number(0), Number(1)]


def test_objects_that_do_not_fit_the_class_are_told(path):
    class Other(msgspec.Struct):
        name: str

    write(path, StructFormat(Reading), make_blocks(StructFormat(Reading), 1))
    with pytest.raises(DataError, match=r"take.mcap: block 0: .*missing required field `name`"):
        list(Recording(path, format=StructFormat(Other)))


def test_what_is_no_struct_has_no_class(path):
    write(path, MONO, [])
    with pytest.raises(FormatClash, match="expected a recording of structs, got one of audio 48000 Hz"):
        Recording(path, format=StructFormat(Reading))
    for make in (Recording, Replay):
        with pytest.raises(ConfigurationError, match=f"{make.__name__}: expected format to be a StructFormat"):
            make(path, format=MONO)


# --- several pipelines in one file --------------------------------------------------------------------------------


def merged(path, sources):
    """What `mcap merge` does: the messages of several files in one, by their times."""
    with path.open("wb") as file:
        writer = mcap.writer.Writer(file, chunk_size=200)
        writer.start()
        messages = []
        for source in sources:
            with source.open("rb") as one:
                reader = mcap.reader.make_reader(one)
                for channel in reader.get_summary().channels.values():
                    id = writer.register_channel(channel.topic, channel.message_encoding, 0, channel.metadata)
                messages += [(id, each) for _, _, each in reader.iter_messages()]
        other = writer.register_channel("notes", "json", 0)
        for id, each in sorted(messages, key=lambda item: item[1].log_time):
            writer.add_message(other, each.log_time, b"{}", each.log_time)
            writer.add_message(id, each.log_time, each.data, each.publish_time, each.sequence)
        writer.finish()


def test_one_of_several_pipelines_is_chosen(path, tmp_path):
    one, two = tmp_path / "one.mcap", tmp_path / "two.mcap"
    write(one, MONO, make_blocks(MONO, 5), pipeline="one")
    write(two, BytesFormat(), make_blocks(BytesFormat(), 7, start_ns=5_020_000_000), pipeline="two")
    merged(path, [one, two])

    with pytest.raises(ConfigurationError, match="because it holds 2: 'one', 'two'"):
        Recording(path)
    with pytest.raises(UnknownName, match="did you mean 'two'"):
        Recording(path, pipeline="twoo")
    for source, name in ((one, "one"), (two, "two")):
        with Recording(path, pipeline=name) as recording, Recording(source) as alone:
            assert (len(recording), recording.duration_s) == (len(alone), alone.duration_s)
            assert [plain(block) for block in recording] == [plain(block) for block in alone]
            assert [plain(block) for block in recording.blocks(0.02)] == [plain(block) for block in alone.blocks(0.02)]
    # Without its index, the same.
    path.write_bytes(path.read_bytes()[:-60])
    assert read(path, pipeline="two") == read(two)


def test_two_recordings_of_one_pipeline_are_not_mixed(path, tmp_path):
    one, two = tmp_path / "one.mcap", tmp_path / "two.mcap"
    write(one, MONO, make_blocks(MONO, 5))
    write(two, MONO, make_blocks(MONO, 5))
    merged(path, [one, two])

    with pytest.raises(FileUnreadable, match="expected one recording of each pipeline, got two of 'recorded'"):
        Recording(path)


# --- files that are something else --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"expected the file to begin with .*, got b'', at offset 0"),
        (b"RIFF....WAVE", r"begin with .*MCAP0.*at offset 0"),
        (b"\x89MCAP0\r\n", r"the file ends, at offset 8"),
        (b"\x89MCAP0\r\n\x04\0\0\0\0\0\0\0\0", r"expected a header, got a record of kind 4, at offset 8"),
        (b"\x89MCAP0\r\n\x01\x07\0\0\0\0\0\0\0\x08\0\0\0abc", r"a Header record that .*at offset 8"),
        (
            b"\x89MCAP0\r\n\x01\xff\xff\xff\xff\xff\xff\xff\x7f",
            r"the file ends inside of a record of \d+ bytes, at offset 8",
        ),
        (b"\x89MCAP0\r\n\x01\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", r"the file ends, at offset 25"),
    ],
)
def test_files_that_are_no_recordings(path, content, message):
    path.write_bytes(content)
    with pytest.raises(FileUnreadable, match=message) as raised:
        Recording(path)
    assert str(path) in str(raised.value)


def test_recordings_of_others_hold_no_blocks(path):
    with path.open("wb") as file:
        writer = mcap.writer.Writer(file)
        writer.start()
        writer.add_message(writer.register_channel("chat", "json", 0), 1, b"{}", 1)
        writer.finish()
    with pytest.raises(FileUnreadable, match=f"nothing was recorded as '{MESSAGE_ENCODING}'"):
        Recording(path)


def crafted(path, *, metadata=None, data=b"", log_time=1, publish_time=1, sequences=(0,), **options):
    """A file with a right checksum and a wrong content."""
    with path.open("wb") as file:
        writer = mcap.writer.Writer(file, **options)
        writer.start()
        wire = {"format": '{"kind": "bytes", "max_bytes": 64}'} if metadata is None else metadata
        channel = writer.register_channel("x", MESSAGE_ENCODING, 0, wire)
        for sequence in sequences:
            writer.add_message(channel, log_time, data, publish_time, sequence)
        writer.finish()


STAMPS = struct.Struct("<QqQIHH")


@pytest.mark.parametrize(
    "wire",
    [
        "",
        "[]",
        "nonsense",
        "[" * 100_000,
        '{"kind": "struct"}',
        '{"kind": "struct", "type": 5}',
        '{"kind": "struct", "type": "x:y", "max_bytes": "a"}',
        '{"kind": "tape"}',
        '{"kind": "any"}',
        '{"kind": "array", "dtype": "O", "shape": [1]}',
        '{"kind": "array", "dtype": {"names": 5}, "shape": [1]}',
        '{"kind": "array", "dtype": "<f4", "shape": [1000000000, 1000000000]}',
        '{"kind": "audio", "sample_rate_hz": null}',
        '{"kind": "audio", "sample_rate_hz": 48000, "channels": [1]}',
        '{"kind": "audio", "sample_rate_hz": 48000, "channels": 1, "layout": {}}',
        '{"kind": "bytes", "more": 1}',
    ],
)
def test_formats_that_are_none_are_refused(path, wire):
    crafted(path, metadata={"format": wire})
    with pytest.raises(FileUnreadable, match=r"take\.mcap: expected the format of x"):
        Recording(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": b"short"}, "at least 32 bytes, got 5"),
        ({"data": STAMPS.pack(0, 0, 0, 0, 0, 9) + b"12345678"}, "expected 9 bytes of metadata, got 8"),
        ({"data": STAMPS.pack(0, -1, 0, 0, 0, 0)}, "a stamp that no block can have"),
        ({"data": STAMPS.pack(0, 0, 1 << 63, 0, 0, 0)}, "a stamp that no block can have"),
        ({"data": STAMPS.pack(0, 0, 0, 0, 0, 0), "publish_time": 1 << 63}, "a stamp that no block can have"),
        (
            {
                "data": STAMPS.pack(0, 0, 0, 3, 0, 0) + b"12345678",
                "metadata": {"format": '{"kind": "audio", "sample_rate_hz": 8000, "channels": 1}'},
            },
            "expected 12 bytes of audio 8000 Hz.*, got 8",
        ),
        (
            {
                "data": STAMPS.pack(0, 0, 0, 0, 0, 0),
                "metadata": {"format": '{"kind": "audio", "sample_rate_hz": 8000, "channels": 1}'},
            },
            "expected 0 bytes of audio .*, got 0",
        ),
    ],
)
def test_blocks_that_are_none_are_refused(path, fields, message):
    crafted(path, **fields)
    with pytest.raises(FileUnreadable, match=rf"block 0: .*{message}, at offset \d+"):
        list(Recording(path))


def test_metadata_that_are_none_are_refused(path):
    crafted(path, data=STAMPS.pack(0, 0, 0, 0, 0, 2) + b"\xc1\xc1")
    with pytest.raises(DataError, match=r"take\.mcap: block 0: expected encoded metadata"):
        list(Recording(path))


def test_missing_blocks_are_told(path):
    crafted(path, data=STAMPS.pack(0, 0, 0, 0, 0, 0), sequences=(0, 1, 3))
    with Recording(path) as recording:
        blocks = recording.blocks()
        assert [next(blocks), next(blocks)]
        with pytest.raises(FileUnreadable, match="expected block 2 of the recording, got block 3"):
            next(blocks)


def test_the_number_of_a_block_begins_anew(path):
    crafted(path, data=STAMPS.pack(0, 0, 0, 0, 0, 0), sequences=(0xFFFF_FFFE, 0xFFFF_FFFF, 0, 1))
    assert len(read(path)) == 4


def test_a_count_that_is_not_there_is_told(path, monkeypatch):
    crafted(path, data=STAMPS.pack(0, 0, 0, 0, 0, 0))
    for use in (list, lambda recording: recording.duration_s):
        with Recording(path) as recording:
            monkeypatch.setattr(recording, "_messages", lambda place: iter(()))
            with pytest.raises(FileUnreadable, match="expected 1 blocks of x, as its index says; got 0 up to the end"):
                use(recording)


def with_counts(path, messages, of_the_channel):
    """Let the index of a file of 4 messages say something else."""
    crafted(path, data=STAMPS.pack(0, 0, 0, 0, 0, 0), sequences=range(4), chunk_size=100)

    def change(summary, start):
        content = next(offset + 1 for kind, offset, _ in records_of(bytes(8) + bytes(summary) + bytes(8)) if kind == 11)
        assert struct.unpack_from("<Q", summary, content) == (4,)
        assert struct.unpack_from("<IHQ", summary, content + 42) == (10, 1, 4)
        struct.pack_into("<Q", summary, content, messages)
        struct.pack_into("<Q", summary, content + 48, of_the_channel)
        return bytes(summary)

    path.write_bytes(rewritten_index(path.read_bytes(), change))


@pytest.mark.parametrize("claimed", [3, 5, sys.maxsize])
def test_a_count_that_is_wrong_is_told(path, claimed):
    with_counts(path, claimed, claimed)
    with Recording(path) as recording:
        assert len(recording) == claimed
        assert len(list(recording.blocks(1.0))) == 0
        blocks = recording.blocks()
        assert len([next(blocks) for _ in range(4)]) == 4
        with pytest.raises(FileUnreadable, match=f"expected {claimed} blocks of x, as its index says; got 4 up to"):
            next(blocks)


@pytest.mark.parametrize(("messages", "of_the_channel"), [(4, 0), (4, 5), (0, 0), ((1 << 64) - 1, (1 << 64) - 1)])
def test_counts_that_cannot_be_are_not_used(path, messages, of_the_channel, caplog):
    with_counts(path, messages, of_the_channel)
    assert len(read(path)) == 4
    assert "it has no index" in caplog.text


@pytest.mark.parametrize("options", [{"index_types": mcap.writer.IndexType.NONE}, {"use_statistics": False}])
def test_files_without_an_index_are_read_from_the_beginning(path, options, caplog):
    crafted(path, data=STAMPS.pack(0, 0, 0, 0, 0, 0), sequences=range(5), **options)
    assert len(read(path)) == 5
    assert "it has no index" in caplog.text


def test_messages_without_a_checksum_are_refused(path):
    crafted(path, data=STAMPS.pack(0, 0, 0, 0, 0, 0), use_chunking=False)
    with pytest.raises(FileUnreadable, match="a message outside of a chunk"):
        list(Recording(path))


# --- files that end early -----------------------------------------------------------------------------------------


def test_an_unfinished_file_says_so(path, caplog):
    write(path, MONO, make_blocks(MONO, 30), chunk_s=0.1)
    data = path.read_bytes()
    last = [offset for kind, offset, _ in records_of(data) if kind == 6][-1]
    path.write_bytes(data[: last + 50])

    with caplog.at_level(logging.WARNING), Recording(path) as recording:
        assert len(recording) == 22
        assert recording.duration_s == pytest.approx(0.21)
        assert not recording.info.complete
        assert re.fullmatch(
            rf"it is not finished: .* the file ends inside of a record of \d+ bytes, at offset {last}",
            recording.info.problem,
        )
    assert f"{path}: it is not finished" in caplog.text


def test_zeros_at_the_end_of_a_file_are_no_blocks(path):
    """What some file systems leave after a power failure."""
    write(path, MONO, make_blocks(MONO, 30), chunk_s=0.1)
    data = path.read_bytes()
    cut = [offset for kind, offset, _ in records_of(data) if kind == 6][-1]
    path.write_bytes(data[:cut] + bytes(5000))

    with Recording(path) as recording:
        assert len(list(recording)) == len(recording) == 22
        assert f"no kind of record has the number 0, at offset {cut}" in recording.info.problem


def test_a_damaged_chunk_ends_an_unfinished_file(path):
    write(path, MONO, make_blocks(MONO, 30), chunk_s=0.1)
    data = bytearray(path.read_bytes()[:-60])
    second = [offset for kind, offset, _ in records_of(bytes(data)) if kind == 6][1]
    data[second + 100] ^= 1
    path.write_bytes(data)

    with Recording(path) as recording:
        assert len(list(recording)) == len(recording) == 11
        assert f"a chunk whose checksum does not match, at offset {second}" in recording.info.problem


def test_a_damaged_chunk_is_an_error_where_the_file_is_whole(path):
    blocks = make_blocks(MONO, 30)
    write(path, MONO, blocks, chunk_s=0.1)
    data = bytearray(path.read_bytes())
    second = [offset for kind, offset, _ in records_of(bytes(data)) if kind == 6][1]
    data[second + 100] ^= 1
    path.write_bytes(data)

    with Recording(path) as recording:
        with pytest.raises(FileUnreadable, match=f"a chunk whose checksum does not match, at offset {second}"):
            list(recording)
        assert len(list(recording.blocks(0.215))) == 8
    read_before = []
    with Recording(path) as recording, pytest.raises(FileUnreadable):
        read_before.extend(plain(block) for block in recording)
    assert read_before == [plain(block) for block in blocks[:11]]


def test_a_closed_recording_is_not_read(path):
    write(path, MONO, make_blocks(MONO, 30), chunk_s=0.1)
    recording = Recording(path)
    blocks = recording.blocks()
    assert next(blocks).sequence == 3
    recording.close()
    recording.close()
    assert len([next(blocks) for _ in range(10)]) == 10  # the chunk had been read
    with pytest.raises(StateError, match="the recording has been closed"):
        next(blocks)


def test_a_disk_that_cannot_be_read(path, monkeypatch):
    write(path, MONO, make_blocks(MONO, 30), chunk_s=0.1)
    with Recording(path) as recording:
        assert recording.duration_s > 0

        def fail(descriptor, count, offset):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "pread", fail)
        with pytest.raises(FileUnreadable, match=r"the system cannot read it: Input/output error, at offset \d+"):
            list(recording)


def test_a_file_that_shrinks_while_it_is_read(path):
    write(path, MONO, make_blocks(MONO, 30), chunk_s=0.1)
    with Recording(path) as recording:
        os.truncate(path, 700)
        with pytest.raises(FileUnreadable, match="the file ends, at offset 700"):
            list(recording)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_chunk_is_never_more_than_it_says(path, compression, monkeypatch):
    """A small file may unpack to any size: what comes out is bounded while it comes out."""
    from steadyflow.recording import chunk

    kind = mcap.writer.CompressionType[compression.upper()]
    crafted(path, data=STAMPS.pack(0, 0, 0, 0, 0, 0) + bytes(50_000_000), chunk_size=1 << 30, compression=kind)
    content = bytearray(path.read_bytes())
    place = next(offset for kind, offset, _ in records_of(bytes(content)) if kind == 6)
    content[place + 9 + 16 : place + 9 + 24] = (1_000_000).to_bytes(8, "little")
    path.write_bytes(content)
    taken = []
    parts = getattr(chunk, f"_{compression}_parts")
    monkeypatch.setattr(
        chunk, f"_{compression}_parts", lambda data: (taken.append(len(part)) or part for part in parts(data))
    )

    with pytest.raises(FileUnreadable, match="a chunk whose checksum does not match"):
        list(Recording(path))
    assert 1_000_000 < sum(taken) <= 1_000_000 + (1 << 20)


def test_unknown_compressions_are_named(path):
    crafted(path, data=STAMPS.pack(0, 0, 0, 0, 0, 0), compression=mcap.writer.CompressionType.LZ4)
    path.write_bytes(path.read_bytes().replace(b"lz4", b"lz5"))
    with pytest.raises(FileUnreadable, match="compressed with zstd, lz4 or not at all, got b'lz5'"):
        list(Recording(path))


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_damaged_compression_is_told(path, compression):
    kind = mcap.writer.CompressionType[compression.upper()]
    crafted(path, data=STAMPS.pack(0, 0, 0, 0, 0, 0) + b"some text", compression=kind)
    content = bytearray(path.read_bytes())
    end = next(end for kind, _, end in records_of(bytes(content)) if kind == 6)
    content[end - 20 : end] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(FileUnreadable, match=r"a chunk (that cannot be decompressed|whose checksum)"):
        list(Recording(path))


def rewritten_index(data, change):
    """The file with another summary, and a right checksum for it."""
    footer = len(data) - 37
    start, offsets, _ = struct.unpack_from("<QQI", data, footer + 9)
    summary = change(bytearray(data[start:footer]), start)
    tail = struct.pack("<BQQQ", 2, 20, start, offsets)
    crc = zlib.crc32(tail, zlib.crc32(summary))
    return data[:start] + summary + tail + struct.pack("<I", crc) + data[-8:]


@pytest.mark.parametrize("value", [0, 1 << 62, (1 << 64) - 1])
@pytest.mark.parametrize("field", [16, 24])
def test_an_index_that_points_elsewhere_is_not_used(path, field, value, caplog):
    write(path, MONO, make_blocks(MONO, 30), chunk_s=0.1)

    def change(summary, start):
        offset = next(offset for kind, offset, _ in records_of(bytes(8) + bytes(summary) + bytes(8)) if kind == 8) - 8
        struct.pack_into("<Q", summary, offset + 9 + field, value)
        return bytes(summary)

    path.write_bytes(rewritten_index(path.read_bytes(), change))
    assert len(read(path)) == 30
    assert "an index of a chunk that cannot be" in caplog.text


@pytest.mark.parametrize("order", [lambda places: places[::-1], lambda places: places[:1] * len(places)])
def test_an_index_that_goes_back_is_not_used(path, order, caplog):
    """Blocks would come twice, or in another order."""
    blocks = make_blocks(MONO, 30)
    write(path, MONO, blocks, chunk_s=0.1)

    def change(summary, start):
        found = records_of(bytes(8) + bytes(summary) + bytes(8))
        places = [bytes(summary[begin - 8 : end - 8]) for kind, begin, end in found if kind == 8]
        begin, end = (summary.index(places[0]), summary.index(places[-1]) + len(places[-1]))
        assert len(places) == 3
        return bytes(summary[:begin]) + b"".join(order(places)) + bytes(summary[end:])

    path.write_bytes(rewritten_index(path.read_bytes(), change))
    assert read(path) == [plain(block) for block in blocks]
    assert "an index of a chunk that cannot be" in caplog.text


def test_an_index_that_ends_early_is_not_used(path, caplog):
    write(path, MONO, make_blocks(MONO, 30), chunk_s=0.1)
    data = path.read_bytes()

    path.write_bytes(rewritten_index(data, lambda summary, start: bytes(summary[:-3])))
    assert len(read(path)) == 30
    path.write_bytes(rewritten_index(data, lambda summary, start: bytes(summary) + b"\x0e\x05"))
    assert len(read(path)) == 30
    path.write_bytes(rewritten_index(data, lambda summary, start: bytes(summary) + b"\x0e\x05" + bytes(8)))
    assert len(read(path)) == 30
    path.write_bytes(rewritten_index(data, lambda summary, start: bytes(summary) + b"\x08\x05" + bytes(12)))
    assert len(read(path)) == 30
    assert "an index of a chunk that is too short" in caplog.text
    assert "its index is damaged" in caplog.text


# --- what cannot be written ---------------------------------------------------------------------------------------


def test_two_recorders_do_not_share_a_file(path):
    first = recorder_for(path, MONO)
    first.process(*make_blocks(MONO, 1))
    with pytest.raises(FileUnwritable, match="this one is being recorded or replayed"):
        recorder_for(path, MONO)
    first.finish()
    assert len(read(path)) == 1


def test_a_file_is_not_recorded_over_while_it_is_replayed(path):
    write(path, MONO, make_blocks(MONO, 3))
    source = replay(path)
    source.resolve_formats({})
    with pytest.raises(FileUnwritable, match="this one is being recorded or replayed"):
        recorder_for(path, MONO)
    source.teardown()
    recorder_for(path, MONO).finish()


def test_a_file_system_without_locks(path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write(path, MONO, make_blocks(MONO, 3))
    assert len(read(path)) == 3


@pytest.fixture
def small_files():
    """The system refuses to let files grow beyond 100 kB; as a full disk, but for the text of the error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signalled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, signalled)


def test_a_full_disk_leaves_what_was_written(path, small_files):
    fmt = AudioFormat(48_000, 1, max_block_frames=1000)
    blocks = [
        Block(np.full((1000, 1), number, np.float32), fmt, sent_ns=number * 10_000_000, sequence=number)
        for number in range(100)
    ]
    recorder = recorder_for(path, fmt, chunk_s=0.05)
    with pytest.raises(FileUnwritable, match=r"take.mcap: File too large, at block \d+"):
        for block in blocks:
            recorder.process(block)
    recorder.teardown()

    kept = read(path)
    assert 10 < len(kept) < 25
    assert kept == [plain(block) for block in blocks[: len(kept)]]


def test_a_disk_that_is_full_at_the_end(path, small_files):
    fmt = BytesFormat(200_000)
    recorder = recorder_for(path, fmt)
    recorder.process(Block(bytes(150_000), fmt))
    with pytest.raises(FileUnwritable, match="File too large, at block 1"):
        recorder.finish()
    recorder.teardown()


def test_a_disk_that_is_full_at_the_beginning(path, monkeypatch):
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb")
    monkeypatch.setattr("steadyflow.recording.recorder.create", lambda path: full)
    with pytest.raises(FileUnwritable, match="No space left on device, at block 0"):
        recorder_for(path, MONO)


def test_a_recorder_takes_one_pipeline(path):
    recorder = recorder_for(path, MONO)
    with pytest.raises(FormatMismatch, match=r"expected blocks of audio 48000 Hz.*, got bytes.*its own Recorder"):
        recorder.process(Block(b"", BytesFormat()))
    recorder.process(Block(np.zeros((1, 1), np.float32), AudioFormat(48_000, 1)))  # equal is the same
    recorder.finish()


def test_a_recorder_that_is_not_connected(path):
    with pytest.raises(ConfigurationError, match="its input is not connected"):
        Recorder(path).setup()
    assert not path.exists()


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recorder(""), "Recorder: expected the path"),
        (lambda: Recorder("x", pipeline=""), "expected pipeline to be a name"),
        (lambda: Recorder("x", pipeline=5), "expected pipeline to be a name"),
        (lambda: Recorder("x", pipeline="x" * 65_537), r"up to 65,536 bytes in UTF-8, got 'x{79}\.$"),
        (lambda: Recorder("x", pipeline="half a \ud800"), r"expected pipeline to be a name.*got 'half a \\ud800'"),
        (lambda: Recorder("a\0b"), "Recorder: expected the path"),
        (lambda: Recorder("x", chunk_s=0), "expected chunk_s above 0"),
        (lambda: Recorder("x", compression="lz"), "unknown compression 'lz'; did you mean 'lz4'"),
        (lambda: replay(5), "Replay: expected the path"),
        (lambda: replay("x", pace="exactly"), "unknown pace 'exactly'; did you mean 'exact'"),
        (lambda: replay("x", timestamps="now"), "unknown timestamps 'now'"),
        (lambda: replay("x", start_s=-1), "expected start_s to be seconds"),
        (lambda: replay("x", duration_s="1"), "expected duration_s to be seconds"),
        (lambda: Recording(b"x"), "Recording: expected the path"),
    ],
)
def test_impossible_arguments(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_without_mcap_the_extra_is_named(path, monkeypatch):
    write(path, MONO, [])
    monkeypatch.setitem(sys.modules, "mcap.writer", None)
    for make in (Recorder, Replay, Recording):
        with pytest.raises(MissingExtra, match=r"pip install 'steadyflow\[recording\]'"):
            make(path)


# --- replaying, by the times that the source asks for ---------------------------------------------------------------


class ManualClock:
    def __init__(self, now_ns):
        self.now_ns = now_ns

    def monotonic_ns(self):
        return self.now_ns


def replayed(source, now_ns=1_000_000_000_000):
    """What a source sends, and when it wants to go on: (FlowData, due time before it) without a flow."""
    source._clock = ManualClock(now_ns)
    sent = []

    class Out:
        format = source.resolve_formats({})["out"]

        def send(self, data):
            sent.append(data)
            return True

    vars(source)["out"] = Out()
    source.setup()
    due = [None, *source.produce()]
    source.teardown()
    return sent, due


def test_the_exact_pace_keeps_the_distances(path):
    blocks = make_blocks(MONO, 4, step_ns=7_000_003)
    write(path, MONO, [blocks[0], blocks[1], blocks[3]])

    sent, due = replayed(source := replay(path))

    now = 1_000_000_000_000
    assert source.paced
    assert due == [None, now + 7_000_003, now + 21_000_009]
    assert [data.timestamp_ns for data in sent] == [now - 1_000, now + 7_000_003 - 1_000, now + 21_000_009 - 1_000]
    assert [data.first_frame for data in sent] == [0, 4, 12]
    assert [data.flags for data in sent] == [0, 1, 0]
    assert [data.metadata or None for data in sent] == [None, {"number": 1}, {"number": 3}]


def test_the_exact_pace_never_goes_back(path):
    one, two, three = make_blocks(MONO, 3)
    write(path, MONO, [one, three, two])

    _, due = replayed(replay(path))

    assert due == [None, 1_000_020_000_000, 1_000_020_000_000]


def test_the_fast_pace_does_not_wait(path):
    write(path, MONO, make_blocks(MONO, 4))

    sent, due = replayed(source := replay(path, pace="fast"))

    assert not source.paced
    assert due == [None] * 4
    # Stamps keep their distances, and run ahead of the clock.
    assert [data.timestamp_ns - sent[0].timestamp_ns for data in sent] == [0, 10_000_000, 20_000_000, 30_000_000]


def test_recorded_timestamps_on_request(path):
    blocks = make_blocks(MONO, 4)
    write(path, MONO, blocks)

    sent, _ = replayed(replay(path, timestamps="recorded"))

    assert [data.timestamp_ns for data in sent] == [block.timestamp_ns for block in blocks]


def test_stamps_of_another_clock_cannot_be_shifted(path):
    write(path, MONO, [Block(np.zeros((1, 1), np.float32), MONO, timestamp_ns=5, sent_ns=10**15, sequence=7)])

    with pytest.raises(DataError, match=r"block 7 is stamped 5 ns.*timestamps='recorded'"):
        replayed(replay(path))
    sent, _ = replayed(replay(path, timestamps="recorded"))
    assert sent[0].timestamp_ns == 5


def test_a_replay_of_a_part_begins_at_once(path):
    write(path, MONO, make_blocks(MONO, 100), chunk_s=0.1)

    sent, due = replayed(replay(path, start_s=0.5, duration_s=0.03))

    now = 1_000_000_000_000
    assert [data.first_frame // 4 for data in sent] == [50, 51, 52]
    assert due == [None, now + 10_000_000, now + 20_000_000]
    assert sent[0].timestamp_ns == now - 1_000


def test_a_replay_of_nothing_ends(path):
    write(path, MONO, make_blocks(MONO, 3))
    assert replayed(replay(path, start_s=10)) == ([], [None])


def test_a_replay_reads_well(path):
    write(path, MONO, [])
    assert repr(replay(path)) == f"<Replay {str(path)!r}, exact pace>"
    assert "fast pace" in repr(replay(path, pace="fast"))


def test_arrays_replay_with_their_format(path):
    fmt = ArrayFormat("int32", (2, 2))
    write(path, fmt, make_blocks(fmt, 2))

    sent, _ = replayed(replay(path))

    assert [data.data.tolist() for data in sent] == [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]
