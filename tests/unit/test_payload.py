"""What users send, right and wrong: every message names the pipeline, what was expected, and what came."""

import msgspec
import numpy as np
import pytest

from steadyflow.data import Block, BlockFlag, FlowData, decode_metadata
from steadyflow.errors import BlockTooLarge, ConfigurationError, DataError, FormatMismatch, MetadataTooLarge
from steadyflow.formats import AnyFormat, ArrayFormat, AudioFormat, BytesFormat, StructFormat
from steadyflow.payload import Preparer, native_spec

STEREO = AudioFormat(48_000, 2, max_block_frames=8)
MONO = AudioFormat(48_000, 1, max_block_frames=8)
PLANAR = AudioFormat(48_000, 2, layout="planar", max_block_frames=8)
PACKED = AudioFormat(48_000, 2, sample_type="s24", max_block_frames=8)
PACKED_PLANAR = AudioFormat(48_000, 2, sample_type="s24", layout="planar", max_block_frames=8)
SPECTRUM = ArrayFormat(np.complex64, (3, 5))


class Level(msgspec.Struct):
    rms_db: float


class Peak(msgspec.Struct):
    rms_db: float


def prepared(fmt, data):
    return Preparer("take.out->pitch.audio", fmt)(data)


def refused(kind, fmt, data):
    """Return the message; all of them begin with the name."""
    with pytest.raises(kind) as caught:
        prepared(fmt, data)
    message = str(caught.value)
    assert message.startswith("take.out->pitch.audio: expected ")
    assert "; got " in message or ", got " in message
    return message


# --- what is right ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fmt", "shape"),
    [
        (STEREO, (5, 2)),
        (STEREO, (8, 2)),
        (MONO, (5, 1)),
        (MONO, (5,)),
        (PLANAR, (2, 5)),
        (PACKED, (5, 2, 3)),
        (PACKED_PLANAR, (2, 5, 3)),
        (SPECTRUM, (3, 5)),
    ],
)
def test_strided_arrays_become_contiguous(fmt, shape):
    whole = np.arange(np.prod(shape) * 2).reshape(*shape, 2).astype(fmt.dtype)
    strided = whole[..., 0]
    assert not strided.flags.c_contiguous
    payload, timestamp_ns, first_frame, flags, metadata = prepared(fmt, strided)
    assert payload.flags.c_contiguous
    np.testing.assert_array_equal(payload, strided)
    assert (timestamp_ns, first_frame, flags, metadata) == (None, None, 0, None)


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array[::2],
        lambda array: array[::-1],
        np.asfortranarray,
        lambda array: np.broadcast_to(array[:1], (4, 2)),
    ],
    ids=["every second", "backwards", "fortran", "broadcast"],
)
def test_views_of_all_kinds(view):
    array = view(np.arange(16, dtype=np.float32).reshape(8, 2))
    payload = prepared(STEREO, array)[0]
    np.testing.assert_array_equal(payload, array)
    assert payload.flags.c_contiguous


def test_flow_data_keeps_its_stamps():
    samples = np.ones((4, 2), np.float32)
    data = FlowData(
        samples, STEREO, timestamp_ns=7, first_frame=8, flags=BlockFlag.DISCONTINUITY, metadata={"take": 1, "of": "x"}
    )
    payload, timestamp_ns, first_frame, flags, metadata = prepared(STEREO, data)
    assert payload is samples, "nothing is copied on the way"
    assert (timestamp_ns, first_frame, flags) == (7, 8, BlockFlag.DISCONTINUITY)
    assert decode_metadata(metadata) == {"take": 1, "of": "x"}


def test_stamps_that_nobody_gave_are_left_to_the_pipeline():
    assert prepared(STEREO, FlowData(np.ones((4, 2), np.float32)))[1:] == (None, None, 0, None)


def test_a_block_that_is_passed_on_begins_anew_on_the_next_pipeline():
    flags = BlockFlag.REPEATED | BlockFlag.END_OF_STREAM | BlockFlag.GAP | BlockFlag.CORRUPTED
    block = Block(
        np.ones((4, 2), np.float32),
        STEREO,
        timestamp_ns=7,
        first_frame=8,
        sequence=9,
        flags=flags,
        metadata={"take": 1},
    )
    payload, timestamp_ns, first_frame, flags, metadata = prepared(STEREO, block)
    np.testing.assert_array_equal(payload, block.samples)
    assert (timestamp_ns, first_frame) == (7, 8)
    assert flags == BlockFlag.GAP | BlockFlag.CORRUPTED
    assert decode_metadata(metadata) == {"take": 1}


def test_what_is_encoded():
    assert msgspec.msgpack.decode(prepared(StructFormat(Level), Level(-3.0))[0], type=Level) == Level(-3.0)
    for data in (b"abc", bytearray(b"abc"), memoryview(b"abc")):
        assert prepared(BytesFormat(8), data)[0] == b"abc"
    assert prepared(BytesFormat(8), FlowData(b"abc", timestamp_ns=5))[:2] == (b"abc", 5)


@pytest.mark.parametrize(
    "declared",
    [
        None,
        AnyFormat(),
        AudioFormat(),
        AudioFormat(48_000),
        AudioFormat(48_000, 2),
        AudioFormat(48_000, 2, max_block_frames=1 << 20),  # the block itself is checked
    ],
    ids=str,
)
def test_declarations_that_agree(declared):
    samples = np.ones((4, 2), np.float32)
    assert prepared(STEREO, FlowData(samples, declared))[0] is samples


def test_declarations_of_other_kinds_that_agree():
    assert prepared(BytesFormat(8), FlowData(b"abc", BytesFormat(1000)))[0] == b"abc"
    assert prepared(StructFormat(Level), FlowData(Level(0.0), StructFormat(Level, max_bytes=100)))[0]
    assert prepared(SPECTRUM, FlowData(np.zeros((3, 5), np.complex64), ArrayFormat("complex64", [3, 5])))


# --- what is wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fmt", "data", "expected", "got"),
    [
        (STEREO, np.zeros((4, 2), np.float64), "dtype float32", "float64"),
        (STEREO, np.zeros((4, 2), np.int16), "dtype float32", "int16"),
        (STEREO, np.zeros((4, 2), ">f4"), "dtype float32", ">f4"),
        (STEREO, np.zeros((4, 2), object), "dtype float32", "object"),
        (STEREO, np.zeros((4, 1), np.float32), "2 channels, shape (frames, 2)", "1 channels, shape (4, 1)"),
        (STEREO, np.zeros((2, 4), np.float32), "2 channels, shape (frames, 2)", "4 channels, shape (2, 4)"),
        (STEREO, np.zeros(4, np.float32), "shape (frames, 2)", "(4,)"),
        (STEREO, np.zeros((4, 2, 1), np.float32), "shape (frames, 2)", "(4, 2, 1)"),
        (STEREO, np.float32(0), "a numpy array, dtype float32, shape (frames, 2)", "float32"),
        (MONO, np.zeros((1, 1, 1), np.float32), "shape (frames, 1)", "(1, 1, 1)"),
        (PLANAR, np.zeros((4, 2), np.float32), "2 channels, shape (2, frames)", "4 channels, shape (4, 2)"),
        (PACKED, np.zeros((4, 2), np.uint8), "shape (frames, 2, 3)", "(4, 2)"),
        (PACKED, np.zeros((4, 2, 4), np.uint8), "shape (frames, 2, 3)", "(4, 2, 4)"),
        (
            PACKED_PLANAR,
            np.zeros((4, 2, 3), np.uint8),
            "2 channels, shape (2, frames, 3)",
            "4 channels, shape (4, 2, 3)",
        ),
        (STEREO, np.zeros((0, 2), np.float32), "at least one frame", "an empty array"),
        (MONO, np.zeros(0, np.float32), "at least one frame", "an empty array"),
        (SPECTRUM, np.zeros((3, 5), np.complex128), "dtype complex64", "complex128"),
        (SPECTRUM, np.zeros((5, 3), np.complex64), "shape (3, 5)", "(5, 3)"),
        (SPECTRUM, np.zeros(15, np.complex64), "shape (3, 5)", "(15,)"),
    ],
)
def test_arrays_that_do_not_fit(fmt, data, expected, got):
    message = refused(FormatMismatch, fmt, data)
    assert f"expected {expected}; got {got}" in message
    if isinstance(data, np.ndarray):
        assert f"The pipeline carries {fmt}; the array has dtype {data.dtype} and shape {data.shape}." in message


@pytest.mark.parametrize("data", [[[0.0, 0.0]], "text", None, 5, b"bytes", Level(0.0)], ids=repr)
@pytest.mark.parametrize("fmt", [STEREO, SPECTRUM], ids=str)
def test_nothing_is_converted_unasked(fmt, data):
    message = refused(FormatMismatch, fmt, data)
    assert f"; got {type(data).__name__}. " in message
    assert "numpy.asarray" in message


@pytest.mark.parametrize("frames", [9, 100])
def test_a_block_of_too_many_frames(frames):
    message = refused(BlockTooLarge, STEREO, np.zeros((frames, 2), np.float32))
    assert f"expected at most 8 frames in a block; got {frames}" in message
    assert f"max_block_frames={frames}" in message, "what to do"


def test_too_many_bytes():
    assert "8" in refused(BlockTooLarge, BytesFormat(8), b"123456789")
    assert "16" in refused(BlockTooLarge, StructFormat(Text, max_bytes=16), Text("x" * 100))


class Text(msgspec.Struct):
    text: str


@pytest.mark.parametrize("data", [Peak(0.0), {"rms_db": 0.0}, None, Level], ids=repr)
def test_what_is_not_the_struct(data):
    assert "Level" in refused(FormatMismatch, StructFormat(Level), data)


@pytest.mark.parametrize("data", ["text", 5, None, [1, 2]], ids=repr)
def test_what_is_not_bytes(data):
    assert "bytes" in refused(FormatMismatch, BytesFormat(8), data)


@pytest.mark.parametrize(
    ("declared", "expected", "got"),
    [
        (AudioFormat(44_100, 2), "sample_rate_hz 48000", "44100"),
        (AudioFormat(48_000, 1), "channels 2", "1"),
        (AudioFormat(48_000, 2, sample_type="s16"), "sample_type f32", "s16"),
        (AudioFormat(48_000, 2, layout="planar"), "layout interleaved", "planar"),
        (AudioFormat(44_100, 1), "sample_rate_hz 48000, channels 2", "44100, 1"),
        (AudioFormat(None, 1), "channels 2", "1"),
    ],
    ids=str,
)
def test_a_declaration_that_differs(declared, expected, got):
    """What it says about itself counts, even where the array would fit: a rate cannot be seen."""
    message = refused(FormatMismatch, STEREO, FlowData(np.zeros((4, 2), np.float32), declared))
    assert f"expected {expected}; got {got}. " in message
    assert f"The pipeline carries {STEREO}, the data is {declared}." in message


@pytest.mark.parametrize(
    ("fmt", "declared"),
    [
        (STEREO, BytesFormat()),
        (SPECTRUM, STEREO),
        (SPECTRUM, ArrayFormat(np.complex64, (5, 3))),
        (SPECTRUM, ArrayFormat(np.complex128, (3, 5))),
        (StructFormat(Level), StructFormat(Peak)),
        (BytesFormat(), StructFormat(Level)),
    ],
    ids=str,
)
def test_a_declaration_of_something_else(fmt, declared):
    message = refused(FormatMismatch, fmt, FlowData(b"", declared))
    assert f"expected {fmt}; got data of {declared}." in message


def test_a_block_of_another_format():
    block = Block(np.zeros((4, 2), np.float32), AudioFormat(44_100, 2))
    assert "expected sample_rate_hz 48000; got 44100" in refused(FormatMismatch, STEREO, block)


def test_metadata_that_does_not_fit():
    data = FlowData(np.zeros((4, 2), np.float32), metadata={"note": "x" * 300})
    with pytest.raises(MetadataTooLarge, match=r"expected up to 256 encoded bytes, got 3\d\d"):
        prepared(STEREO, data)
    with pytest.raises(DataError, match="metadata"):
        prepared(STEREO, FlowData(np.zeros((4, 2), np.float32), metadata={"note": [1]}))


# --- what the native side is told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [STEREO, PLANAR, PACKED, SPECTRUM, StructFormat(Level), BytesFormat(8)], ids=str)
def test_every_complete_format_can_be_described(fmt):
    assert native_spec(fmt) is not None


def test_what_is_not_known_cannot_be_described():
    with pytest.raises(ConfigurationError, match="needs a real format"):
        native_spec(AnyFormat())
