"""Formats: what they accept, what they tell, how two ends agree, and how they travel."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyflow.errors import ConfigurationError, FormatClash, LimitExceeded, UnknownName
from steadyflow.formats import (
    AnyFormat,
    ArrayFormat,
    AudioFormat,
    BytesFormat,
    StructFormat,
    agree,
    class_path,
    format_from_wire,
    format_to_wire,
    resolve_class,
)


class Level(msgspec.Struct):
    rms_db: float


class Outer:
    class Inner(msgspec.Struct):
        value: int


audio_formats = st.builds(
    AudioFormat,
    sample_rate_hz=st.none() | st.integers(1, 768_000),
    channels=st.none() | st.integers(1, 64),
    sample_type=st.sampled_from(["f32", "f64", "s16", "s24", "s32", "u8"]),
    layout=st.sampled_from(["interleaved", "planar"]),
    max_block_frames=st.integers(1, 100_000),
)
formats = st.one_of(
    audio_formats,
    st.builds(
        ArrayFormat,
        st.sampled_from(["?", "u1", "i2", "f4", "f8", "c16"]),
        st.lists(st.integers(1, 50), min_size=1, max_size=3),
    ),
    st.builds(StructFormat, st.sampled_from([Level, Outer.Inner]), st.integers(1, 1 << 30)),
    st.builds(BytesFormat, st.integers(1, 1 << 30)),
    st.just(AnyFormat()),
)


# --- audio ---


@pytest.mark.parametrize(
    ("sample_type", "dtype", "frame_bytes", "shape"),
    [
        ("f32", np.float32, 8, (5, 2)),
        ("f64", np.float64, 16, (5, 2)),
        ("s16", np.int16, 4, (5, 2)),
        ("s24", np.uint8, 6, (5, 2, 3)),
        ("s32", np.int32, 8, (5, 2)),
        ("u8", np.uint8, 2, (5, 2)),
    ],
)
def test_audio_sizes_and_shapes(sample_type, dtype, frame_bytes, shape):
    fmt = AudioFormat(48_000, 2, sample_type, max_block_frames=10)
    assert fmt.dtype == dtype
    assert fmt.frame_bytes == frame_bytes
    assert fmt.max_payload_bytes == 10 * frame_bytes
    assert fmt.block_shape(5) == shape
    assert np.zeros(fmt.block_shape(5), fmt.dtype).nbytes == 5 * frame_bytes


def test_planar_audio_has_channels_first():
    assert AudioFormat(48_000, 2, layout="planar").block_shape(5) == (2, 5)


def test_audio_is_unresolved_while_something_is_open():
    assert AudioFormat(48_000, 2).is_resolved
    assert not AudioFormat(48_000).is_resolved
    assert not AudioFormat(channels=2).is_resolved
    with pytest.raises(ConfigurationError, match="no number of channels yet"):
        AudioFormat(48_000).block_shape(1)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"sample_rate_hz": 0}, "sample_rate_hz to be an integer from 1 to 768,000, got 0"),
        ({"sample_rate_hz": 44_100.0}, "got 44100.0"),
        ({"sample_rate_hz": True}, "got True"),
        ({"channels": 1025}, "channels to be an integer from 1 to 1,024, got 1025"),
        ({"max_block_frames": -1}, "max_block_frames"),
        ({"sample_type": "f23"}, "unknown sample type 'f23'; did you mean 'f32'"),
        ({"layout": "interleave"}, "did you mean 'interleaved'"),
    ],
)
def test_impossible_audio_is_refused(fields, text):
    with pytest.raises(ConfigurationError, match=text):
        AudioFormat(**fields)


def test_blocks_beyond_the_limit_are_refused():
    with pytest.raises(LimitExceeded, match="Use smaller blocks"):
        AudioFormat(48_000, 1024, "f64", max_block_frames=1 << 24)
    with pytest.raises(LimitExceeded):
        ArrayFormat("f8", (1 << 20, 1 << 20))


def test_numpy_integers_become_plain_ones():
    fmt = AudioFormat(np.int64(48_000), np.uint8(2))
    assert type(fmt.sample_rate_hz) is int
    assert fmt == AudioFormat(48_000, 2)


# --- the others ---


def test_array_format_normalises_its_arguments():
    fmt = ArrayFormat(np.float32, [3, np.int64(4)])
    assert fmt == ArrayFormat("f4", (3, 4))
    assert fmt.shape == (3, 4)
    assert fmt.max_payload_bytes == 48
    assert ArrayFormat("f4", 7).shape == (7,)


@pytest.mark.parametrize(
    "dtype", ["O", "U3", "M8[ns]", ">f4", [("a", "f4")], "no such type", "(1f4,f4", "99999999999f4"]
)
def test_array_format_takes_only_native_numbers(dtype):
    with pytest.raises(ConfigurationError, match="ArrayFormat: expected"):
        ArrayFormat(dtype, (1,))


@pytest.mark.parametrize("shape", [(), (0,), (2, -1), (1.5,), "ab", None])
def test_array_format_takes_only_fixed_shapes(shape):
    with pytest.raises(ConfigurationError, match="ArrayFormat: expected"):
        ArrayFormat("f4", shape)


@pytest.mark.parametrize("kind", [dict, Level(1.0), "Level", list[int]])
def test_struct_format_takes_only_struct_classes(kind):
    with pytest.raises(ConfigurationError, match=r"expected a class derived from msgspec\.Struct"):
        StructFormat(kind)


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, (1 << 30) + 1])
def test_impossible_sizes_are_refused(max_bytes):
    with pytest.raises(ConfigurationError, match="expected max_bytes"):
        BytesFormat(max_bytes)
    with pytest.raises(ConfigurationError, match="expected max_bytes"):
        StructFormat(Level, max_bytes)


def test_any_format_has_no_size():
    assert not AnyFormat().is_resolved
    with pytest.raises(ConfigurationError, match="has no size"):
        _ = AnyFormat().max_payload_bytes


@pytest.mark.parametrize(
    ("fmt", "text"),
    [
        (AudioFormat(48_000, 2), "audio 48000 Hz, 2 channels, f32, interleaved"),
        (AudioFormat(16_000, 1, "s16", "planar"), "audio 16000 Hz, 1 channel, s16, planar"),
        (AudioFormat(), "audio any rate, any channels, f32, interleaved"),
        (ArrayFormat("f4", (3, 4)), "array float32 (3, 4)"),
        (StructFormat(Level), "struct Level, up to 65536 bytes"),
        (BytesFormat(10), "bytes, up to 10"),
        (AnyFormat(), "any format"),
    ],
)
def test_formats_read_well(fmt, text):
    assert str(fmt) == text


@given(formats)
def test_formats_are_frozen_and_hashable(fmt):
    assert len({fmt, format_from_wire(format_to_wire(fmt))}) == 1
    with pytest.raises(AttributeError):
        fmt.max_bytes = 1


@given(formats)
def test_a_resolved_format_has_a_size(fmt):
    if fmt.is_resolved:
        assert fmt.max_payload_bytes >= 1


# --- agreement ---


@given(formats)
def test_any_format_agrees_with_everything(fmt):
    assert agree(fmt, AnyFormat(), where="a->b") == fmt
    assert agree(AnyFormat(), fmt, where="a->b") == fmt


@given(formats)
def test_equal_formats_agree(fmt):
    assert agree(fmt, fmt, where="a->b") == fmt


def test_each_end_fills_what_the_other_leaves_open():
    produced = AudioFormat(48_000, None, max_block_frames=128)
    assert agree(produced, AudioFormat(None, 2), where="a->b") == AudioFormat(48_000, 2, max_block_frames=128)
    assert agree(AudioFormat(), AudioFormat(), where="a->b") == AudioFormat()


def test_sizes_are_the_outputs():
    assert agree(BytesFormat(10), BytesFormat(20), where="a->b") == BytesFormat(10)
    assert agree(StructFormat(Level, 10), StructFormat(Level, 20), where="a->b") == StructFormat(Level, 10)


@pytest.mark.parametrize(
    ("produced", "accepted", "field"),
    [
        (AudioFormat(48_000, 2), AudioFormat(16_000, 2), "sample_rate_hz"),
        (AudioFormat(48_000, 2), AudioFormat(48_000, 1), "channels"),
        (AudioFormat(48_000, 2), AudioFormat(sample_type="s16"), "sample_type"),
        (AudioFormat(48_000, 2), AudioFormat(layout="planar"), "layout"),
        (ArrayFormat("f4", (3,)), ArrayFormat("f8", (3,)), "dtype"),
        (ArrayFormat("f4", (3,)), ArrayFormat("f4", (4,)), "shape"),
        (StructFormat(Level), StructFormat(Outer.Inner), "type"),
        (StructFormat(Level), BytesFormat(), "kind"),
    ],
)
def test_a_clash_names_both_formats_and_the_place(produced, accepted, field):
    with pytest.raises(FormatClash) as caught:
        agree(produced, accepted, where="take.out->pitch.audio")
    message = str(caught.value)
    assert message.startswith("take.out->pitch.audio: ")
    assert str(produced) in message
    assert str(accepted) in message
    assert f"the {field} differs" in message


# --- on the wire ---


@given(formats)
def test_formats_survive_the_wire(fmt):
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(format_to_wire(fmt)))
    assert format_from_wire(wire) == fmt


def test_the_wire_finds_classes_through_resolve():
    wire = format_to_wire(StructFormat(Level))
    assert wire["type"] == f"{__name__}:Level"
    assert format_from_wire(wire, lambda path: Outer.Inner) == StructFormat(Outer.Inner)


@pytest.mark.parametrize("wire", [{}, {"kind": "vido"}, {"kind": "audio", "rate": 1}, {"kind": "array"}])
def test_a_strange_wire_is_refused(wire):
    with pytest.raises(ConfigurationError):
        format_from_wire(wire)


def test_a_misspelt_kind_gets_the_near_miss():
    with pytest.raises(UnknownName, match="did you mean 'audio'"):
        format_from_wire({"kind": "adio"})


def test_class_paths_lead_back():
    assert resolve_class(class_path(Outer.Inner)) is Outer.Inner


def test_a_class_that_no_other_process_would_find_is_refused():
    class Local(msgspec.Struct):
        pass

    with pytest.raises(ConfigurationError, match="Define it at the top level"):
        class_path(Local)


def test_main_is_written_as_main_and_found_as_mp_main(monkeypatch):
    import sys
    import types

    main = types.ModuleType("__mp_main__")
    main.Thing = type("Thing", (), {"__module__": "__mp_main__", "__qualname__": "Thing"})
    monkeypatch.setitem(sys.modules, "__mp_main__", main)
    assert class_path(main.Thing) == "__main__:Thing"
    assert resolve_class("__main__:Thing") is main.Thing


@pytest.mark.parametrize(
    "path", ["no_such_module:X", "msgspec:Strukt", "msgspec:encode", "msgspec", "", ":", "math:pi"]
)
def test_a_path_that_leads_nowhere_is_refused(path):
    with pytest.raises(ConfigurationError):
        resolve_class(path)
