"""Payloads that travel as bytes: structs with and without arrays, and bytes."""

import contextlib
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steadyflow.codec import codec_for
from steadyflow.errors import BlockTooLarge, ConfigurationError, DataError, FormatMismatch
from steadyflow.formats import AnyFormat, ArrayFormat, AudioFormat, BytesFormat, StructFormat
from steadyflow.payload import Preparer


class Note(msgspec.Struct):
    name: str | None
    frequency_hz: float | None = None
    tags: list[str] = []


class Spectrum(msgspec.Struct):
    bins: npt.NDArray[np.float32]
    extra: Any = None
    peak: np.float32 | None = None


class Odd(msgspec.Struct):
    field: "NoSuchType"  # noqa: F821


notes = codec_for(StructFormat(Note))
spectra = codec_for(StructFormat(Spectrum, max_bytes=1 << 20))


def test_audio_and_arrays_need_no_codec():
    assert codec_for(AudioFormat()) is None
    assert codec_for(ArrayFormat("f4", 3)) is None
    assert codec_for(AnyFormat()) is None


@given(st.builds(Note, name=st.none() | st.text(), frequency_hz=st.none() | st.floats(allow_nan=False)))
def test_structs_survive_the_way(note):
    assert notes.decode(notes.encode(note)) == note


@given(
    hnp.arrays(
        dtype=st.one_of(
            hnp.boolean_dtypes(),
            hnp.integer_dtypes(endianness="?"),
            hnp.floating_dtypes(),
            hnp.complex_number_dtypes(),
            hnp.datetime64_dtypes(),
            hnp.unicode_string_dtypes(),
        ),
        shape=hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    )
)
def test_arrays_inside_survive_the_way(array):
    decoded = spectra.decode(spectra.encode(Spectrum(array))).bins
    assert decoded.dtype == array.dtype
    assert decoded.shape == array.shape
    assert decoded.tobytes() == array.tobytes()
    assert decoded.flags.writeable
    assert decoded.flags.aligned


def test_arrays_that_are_not_contiguous_survive_too():
    array = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-3]
    np.testing.assert_array_equal(spectra.decode(spectra.encode(Spectrum(array))).bins, array)


def test_arrays_survive_where_anything_may_be():
    decoded = spectra.decode(spectra.encode(Spectrum(np.ones(2), extra=[np.arange(3), {"x": np.zeros(1)}])))
    np.testing.assert_array_equal(decoded.extra[0], [0, 1, 2])


def test_a_decoded_array_shares_no_memory_with_the_payload():
    payload = bytearray(spectra.encode(Spectrum(np.ones(2, np.float32))))
    decoded = spectra.decode(memoryview(payload))
    payload[:] = bytes(len(payload))
    np.testing.assert_array_equal(decoded.bins, [1, 1])


def test_numpy_scalars_fit_where_numbers_are_declared():
    decoded = notes.decode(notes.encode(Note("a", np.float32(440.0))))
    assert type(decoded.frequency_hz) is float
    decoded = spectra.decode(spectra.encode(Spectrum(np.ones(1), peak=np.float32(0.1))))
    assert type(decoded.peak) is np.float32
    assert decoded.peak == np.float32(0.1)


def test_another_type_is_refused_by_name():
    with pytest.raises(FormatMismatch, match="a->b: expected an instance of Note, got dict"):
        codec_for(StructFormat(Note), where="a->b").encode({"name": "x"})


def test_too_large_is_refused_with_both_sizes():
    with pytest.raises(BlockTooLarge, match="expected up to 10 bytes, got"):
        codec_for(StructFormat(Note, max_bytes=10)).encode(Note("x" * 20))
    with pytest.raises(BlockTooLarge, match="expected up to 10 bytes, got 11"):
        codec_for(BytesFormat(10)).encode(b"x" * 11)


@pytest.mark.parametrize(
    "extra", [object(), np.array([object()]), np.zeros(2, [("a", "f4")]), np.complex64(1), 1 << 70, "\ud800"]
)
def test_what_cannot_be_encoded_is_refused(extra):
    with pytest.raises(DataError, match="Spectrum cannot be encoded"):
        spectra.encode(Spectrum(np.ones(1), extra=extra))


def test_a_class_with_unknown_fields_is_refused_at_once():
    with pytest.raises(ConfigurationError, match="cannot be decoded"):
        codec_for(StructFormat(Odd))


def as_extension(dtype, shape, raw, code=1):
    packed = msgspec.msgpack.encode((dtype, shape, raw))
    return msgspec.msgpack.encode({"bins": msgspec.msgpack.Ext(code, packed)})


def test_the_hostile_payloads_below_are_refused_for_their_own_reason():
    np.testing.assert_array_equal(spectra.decode(as_extension("<f4", (2,), bytes(8))).bins, [0, 0])


@pytest.mark.parametrize(
    "payload",
    [
        as_extension("|O", (1,), bytes(8)),
        as_extension("f4,f4", (1,), bytes(8)),
        as_extension("<f4", (3,), bytes(8)),
        as_extension("<f4", (-1, -2), bytes(8)),
        as_extension("<f3", (1,), bytes(3)),
        as_extension("<f4", (0, 1 << 62, 1 << 62), b""),
        as_extension("<f4", (0,) * 100, b""),
        as_extension("<M8[zz]", (1,), bytes(8)),
        as_extension("<U99999999", (1 << 40,), b""),
        as_extension("<f4", (2,), bytes(8), code=7),
        msgspec.msgpack.encode({"bins": msgspec.msgpack.Ext(1, b"")}),
        msgspec.msgpack.encode({"bins": [1.0]}),
        b"",
        b"\x91" * 100_000,
    ],
)
def test_hostile_payloads_are_refused(payload):
    with pytest.raises(DataError, match="expected struct Spectrum"):
        spectra.decode(payload)


@given(st.binary())
def test_any_bytes_decode_or_are_refused(payload):
    with contextlib.suppress(DataError):
        spectra.decode(payload)


@given(st.binary(max_size=50))
def test_bytes_survive_the_way(data):
    codec = codec_for(BytesFormat(50))
    for given_as in (data, bytearray(data), memoryview(data)):
        payload = codec.encode(given_as)
        assert type(payload) is bytes
        assert codec.decode(memoryview(payload)) == data


def test_text_is_not_bytes():
    with pytest.raises(FormatMismatch, match="expected bytes, bytearray or memoryview, got str"):
        codec_for(BytesFormat()).encode("x")


@pytest.mark.parametrize("fmt", [BytesFormat(), StructFormat(Note), AudioFormat(48_000, 1)], ids=repr)
def test_a_coroutine_is_told_to_be_awaited(fmt):
    async def make():
        return b"x"

    forgotten = make()
    with pytest.raises(FormatMismatch, match="got a coroutine, which nothing has awaited: await it, in an async def"):
        Preparer("m.out", fmt)(forgotten)
    forgotten.close()
