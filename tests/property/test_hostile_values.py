"""Whatever a damaged segment holds, what reads it goes on or names the pipeline: payloads, metadata, counters, stamps."""

from __future__ import annotations

import os

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings

from steadyflow import _native
from steadyflow.aligned import Aligned
from steadyflow.codec import StructCodec
from steadyflow.data import Block, decode_metadata, encode_metadata
from steadyflow.errors import CorruptedSegment, DataError
from steadyflow.formats import AudioFormat, StructFormat
from steadyflow.metrics.flow_metrics import FlowMetrics, read_flow_metrics
from steadyflow.report import FlowReport
from steadyflow.runtime.alignment import Alignment
from steadyflow.transform import Conversion, make_plan
from steadyflow.transform.windows import WindowStage

unhurried = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])

PIPELINE = "far.out->near.in"
MONO = AudioFormat(48_000, 1, max_block_frames=64)


# --- payloads and metadata ------------------------------------------------------------------------------------------------


class Inner(msgspec.Struct):
    number: int
    history: list[float]


class Everything(msgspec.Struct):
    samples: np.ndarray
    level: np.float32 = np.float32(0.5)
    small: np.int8 = np.int8(3)
    inner: Inner | None = None
    words: dict[str, str] = {}
    rest: tuple[int, ...] = ()


CODEC = StructCodec(StructFormat(Everything), where=PIPELINE)
PAYLOAD = CODEC.encode(Everything(np.arange(6.0).reshape(2, 3), inner=Inner(1, [0.5]), words={"a": "ü"}, rest=(1, 2)))
METADATA = encode_metadata({"number": 5, "name": "ü", "bytes": b"x", "share": 0.5, "none": None, "yes": True})


@st.composite
def mutated(draw, original):
    """The bytes of something valid, after a few of them were flipped, replaced, cut off or put in."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "replace", "cut", "insert"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "replace":
            data[at : at + 4] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "cut":
            del data[at:]
        else:
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
    return bytes(data)


def with_array(name, shape, raw=b"", **fields):
    array = msgspec.msgpack.Ext(1, msgspec.msgpack.encode((name, shape, raw)))
    return msgspec.msgpack.encode({"samples": array} | fields)


def decoded(payload):
    """Decode a payload that may be anything; None: it was refused."""
    try:
        value = CODEC.decode(payload)
    except DataError as error:
        assert str(error).startswith(PIPELINE)
        return None
    assert isinstance(value, Everything)
    value.samples.tolist()  # whatever it holds can be looked at
    return value


@settings(unhurried, max_examples=1500)
@given(st.binary(max_size=200) | mutated(PAYLOAD))
def test_payloads_that_are_anything(payload):
    decoded(payload)


@pytest.mark.parametrize(
    "payload",
    [
        with_array("<f8", (0, 2**63)),
        with_array("<f8", (0, 2**64 - 1)),
        with_array("<f8", (2**62, 2**62, 0)),
        with_array("<f8", (0,) * 100),
        with_array("<f8", (-1,)),
        with_array("<f8", (-1, -1), bytes(8)),
        with_array("<U0", (2**40,)),
        with_array("|S0", (5,)),
        with_array("<U1", (1,), b"\xff\xff\xff\xff"),
        with_array(">U1", (1,), b"\x00\x11\x00\x00"),
        with_array("<f3", (1,), bytes(3)),
        with_array("<M8[0s]", (1,), bytes(8)),
        with_array("|O8", (1,), bytes(8)),
        with_array("<f8", (1,), bytes(8), small=300),
        with_array("<f8", (1,), bytes(8), small=2**63),
        with_array("<f8", (1,), bytes(8), small=float("inf")),
        with_array("<f8", (1,), bytes(8), level=1e60),
        with_array("<f8", (1,), bytes(8), level="loud"),
        b"\x81\xa7samples\xc9\xff\xff\xff\xff\x01",  # 4 GiB are announced
        b"\x81\xa4rest\xdd\xff\xff\xff\xff",
        b"\x81\xa5words\xdf\xff\xff\xff\xff",
        b"\x91" * 100_000,
    ],
)
def test_payloads_that_no_sender_makes(payload):
    assert decoded(payload) is None


def test_payloads_as_they_are_sent():
    value = decoded(PAYLOAD)
    assert value.samples.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (value.level, type(value.small), value.inner.history) == (np.float32(0.5), np.int8, [0.5])
    text = np.array(["a", "\U0010ffff"])
    assert CODEC.decode(CODEC.encode(Everything(text))).samples.tolist() == text.tolist()


@settings(unhurried, max_examples=1500)
@given(st.binary(max_size=200) | mutated(METADATA))
@example(b"\x81\xa1k\xdd\xff\xff\xff\xff")
@example(b"\x81\xa1k\xdf\xff\xff\xff\xff")
@example(b"\x81\xa1k\xd6\xff\xff\xff\xff\xff")
@example(b"\x81\xa1k" + b"\x91" * 10_000)
def test_metadata_that_is_anything(payload):
    try:
        metadata = decode_metadata(payload, PIPELINE)
    except DataError as error:
        assert str(error).startswith(PIPELINE)
    else:
        assert all(isinstance(key, str) for key in metadata)


# --- counters and histograms ------------------------------------------------------------------------------------------------

BUFFER_SIZE = 4
SLOTS = BUFFER_SIZE + 2
CONSUMERS = 2


@pytest.fixture(scope="module")
def memory():
    """A ring as it is made, where it is, and its bytes."""
    segment = _native.Segment.create(1 << 20)
    _native.create_ring(segment, 64, BUFFER_SIZE, SLOTS, CONSUMERS, 0, 0, 0, 0)
    ring = _native.Ring(segment, 64, PIPELINE)
    size = _native.ring_bytes(SLOTS, CONSUMERS)
    return segment, ring, os.pread(segment.descriptor, size, 64)


def read(ring):
    metrics = read_flow_metrics([ring, ring], buffer_size=BUFFER_SIZE, seconds=1.0)
    assert isinstance(metrics, FlowMetrics)
    assert 0 <= metrics.health_score <= 100
    assert all(np.isfinite(each) for each in msgspec.structs.asdict(metrics).values() if isinstance(each, float))
    report = FlowReport(name="flow", duration_s=1.0, pipelines={PIPELINE: metrics}, modules={}, events=())
    assert PIPELINE in str(report)
    report.to_dict()


@settings(unhurried, max_examples=300)
@given(st.sampled_from([b"\xff", b"\x7f", b"\x80", b"\x01"]) | st.binary(min_size=1, max_size=64), st.data())
def test_metrics_of_counters_that_hold_anything(memory, pattern, data):
    segment, ring, original = memory
    begin = data.draw(st.integers(0, len(original) - 1))
    size = data.draw(st.sampled_from([1, 8, 64, 4096, len(original)]))
    new = (pattern * (size // len(pattern) + 1))[: min(size, len(original) - begin)]
    os.pwrite(segment.descriptor, new, 64 + begin)
    try:
        read(ring)
        # And by somebody who comes only now.
        try:
            read(_native.Ring(segment, 64, PIPELINE))
        except CorruptedSegment as damage:
            assert damage.pipeline == PIPELINE
    finally:
        os.pwrite(segment.descriptor, original, 64)


# --- stamps -----------------------------------------------------------------------------------------------------------------

timestamps = st.sampled_from([0, 1, -1, 2**62, 2**63 - 1, -(2**63)]) | st.integers(-(2**63), 2**63 - 1)
first_frames = st.sampled_from([0, 64, 2**62, 2**63, 2**64 - 1, 2**64 - 33]) | st.integers(0, 2**64 - 1)
flags = st.sampled_from([0, 1, 2, 4, 8, 31, 0xFFFF])
stamps = st.lists(st.tuples(timestamps, first_frames, flags, st.booleans()), min_size=1, max_size=8)


def block(timestamp_ns, first_frame, flags, frames=32):
    samples = np.zeros((frames, 1), np.float32)
    return Block(samples, MONO, timestamp_ns=timestamp_ns, first_frame=first_frame, flags=flags)


@settings(unhurried, max_examples=500)
@given(stamps, st.integers(1, 80), st.integers(1, 100))
def test_windows_of_stamps_that_are_anything(blocks, window, hop):
    got = []
    windows = WindowStage(MONO, window, hop)
    for timestamp_ns, first_frame, flag, follows in blocks:
        first = got[-1].first_frame + window if follows and got else first_frame
        got += windows.push(block(timestamp_ns, first, flag))
    assert all(each.frames == window for each in got)


@settings(unhurried, max_examples=200)
@given(stamps, st.sampled_from([(48_000, 16_000), (16_000, 48_000), (44_100, 48_000)]))
def test_resampling_of_stamps_that_are_anything(blocks, rates):
    source_hz, target_hz = rates
    fmt = AudioFormat(source_hz, 1, max_block_frames=64)
    work = Conversion(make_plan(fmt, AudioFormat(target_hz, 1)))
    made = []
    for timestamp_ns, first_frame, flag, follows in blocks:
        first = made[-1].first_frame if follows and made else first_frame
        made += work.push(block(timestamp_ns, min(first, 2**64 - 1), flag))
    made += work.flush()
    assert sum(each.frames for each in made) > 0


@settings(unhurried, max_examples=500)
@given(stamps, st.sampled_from(["frame", "time"]), st.sampled_from([None, 5.0]))
def test_joins_of_stamps_that_are_anything(blocks, by, max_wait_ms):
    got = []
    alignment = Alignment(
        Aligned("a", "b", by=by, max_wait_ms=max_wait_ms),
        {"a": MONO, "b": MONO},
        lambda *pair: got.append(pair),
        None,
        _native.ModuleContext(),
        {},
        lambda name, held: None,
    )
    for number, (timestamp_ns, first_frame, flag, to_first) in enumerate(blocks):
        alignment.push("a" if to_first else "b", block(timestamp_ns, first_frame, flag), number)
    if max_wait_ms is not None:
        alignment.expire(1 << 62)
    alignment.end("a")
    alignment.end("b")
    assert sum(each[0].frames for each in got) <= 2 * 32 * len(blocks)
    reports = alignment.reports()
    assert sum(report.delivered_frames + report.late_frames for report in reports.values()) == 32 * len(blocks)
