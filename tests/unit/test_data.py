"""What a user sends, and the metadata that goes along."""

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyflow.data import METADATA_MAX_BYTES, Block, BlockFlag, FlowData, decode_metadata, encode_metadata
from steadyflow.errors import DataError, MetadataTooLarge
from steadyflow.formats import AudioFormat

values = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary()


def test_flow_data_keeps_what_it_is_given():
    samples = np.zeros((4, 2), np.float32)
    data = FlowData(samples, AudioFormat(48_000, 2), timestamp_ns=np.int64(5), first_frame=8, flags=BlockFlag.GAP)
    assert data.data is samples
    assert data.format == AudioFormat(48_000, 2)
    assert (data.timestamp_ns, data.first_frame, data.flags, data.metadata) == (5, 8, 2, None)
    assert type(data.timestamp_ns) is int


def test_flow_data_reads_well():
    text = repr(FlowData(np.zeros((4, 2)), flags=BlockFlag.GAP | BlockFlag.REPEATED, timestamp_ns=7))
    assert "ndarray(4, 2)" in text
    assert "GAP" in text
    assert "bytes" in repr(FlowData(b"x"))


@pytest.mark.parametrize("stamp", [{"timestamp_ns": -1}, {"first_frame": 1.5}, {"flags": "gap"}, {"flags": 1 << 16}])
def test_impossible_stamps_are_refused(stamp):
    with pytest.raises(DataError, match=f"expected {next(iter(stamp))} to be an integer"):
        FlowData(b"", **stamp)


def test_flow_data_has_no_other_attributes():
    with pytest.raises(AttributeError):
        FlowData(b"").timestamp = 1


def test_block_is_the_native_one():
    assert Block.__module__ == "steadyflow._native"


def is_same(left, right):
    return type(left) is type(right) and (left == right or (math.isnan(left) and math.isnan(right)))


@given(st.dictionaries(st.text(max_size=8), values, max_size=4))
def test_metadata_survives_the_way(metadata):
    try:
        payload = encode_metadata(metadata)
    except MetadataTooLarge:
        return
    assert len(payload) <= METADATA_MAX_BYTES
    decoded = decode_metadata(payload)
    assert decoded.keys() == metadata.keys()
    assert all(is_same(decoded[key], metadata[key]) for key in metadata)


def test_no_metadata_takes_no_room():
    assert encode_metadata({}) == b""
    assert decode_metadata(b"") == {}


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({1: "x"}, "expected keys of type str, got 1"),
        ({"x": [1]}, r"metadata\['x'\]: expected str, .* got list"),
        ({"x": np.float64(1)}, "float64"),
        ({"x": 1 << 70}, "cannot be encoded"),
        ({"x": "\ud800"}, "cannot be encoded"),
    ],
)
def test_other_metadata_is_refused(metadata, text):
    with pytest.raises(DataError, match=text):
        encode_metadata(metadata)


def test_too_much_metadata_is_refused_with_its_keys():
    with pytest.raises(MetadataTooLarge, match=r"up to 256 encoded bytes, got 3\d\d \(keys note\)"):
        encode_metadata({"note": "x" * 300})


@given(st.binary())
def test_any_bytes_decode_or_are_refused(payload):
    with contextlib.suppress(DataError):
        assert isinstance(decode_metadata(payload), dict)


def test_a_block_shows_what_travels():
    block = Block(b"raw", metadata={"take": 1}, sent_ns=7)
    assert (block.payload, block.data, block.sent_ns) == (b"raw", b"raw", 7)
    assert block.encoded_metadata == encode_metadata({"take": 1})
    assert decode_metadata(block.encoded_metadata) == block.metadata
    assert Block(b"").encoded_metadata == b""
    samples = np.zeros((4, 2))
    assert Block(samples).payload is samples


def test_metadata_of_a_block_that_cannot_travel():
    with pytest.raises(DataError, match="expected str, bytes"):
        Block(b"", metadata={"at": object()}).encoded_metadata
