"""Sample type, channels and layout: the native kernel gives the same bits as numpy, whatever comes."""

import sys
import threading

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tests.sample_reference import converted

from steadyflow import AudioFormat
from steadyflow._native import SampleConverter
from steadyflow.payload import native_spec

unhurried = settings(
    deadline=None, derandomize=True, database=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow]
)

TYPES = ["u8", "s16", "s24", "s32", "f32", "f64"]
EXTREMES = np.array(
    [0.0, -0.0, 1.0, -1.0, 1.5, -1.5, 1e30, -1e30, 1e-30, np.inf, -np.inf, np.nan]
    + [
        (at + 0.5) / 2.0**bits
        for bits in (7, 15, 23, 31)
        for at in (0, 1, -1, -2, 2**bits - 1, 2**bits - 2, -(2**bits))
    ]
)

types = st.sampled_from(TYPES)
layouts = st.sampled_from(["interleaved", "planar"])


def noise(seed, fmt, frames):
    """Return samples of a format that have every kind of value."""
    random = np.random.default_rng(seed)
    shape = fmt.block_shape(frames)
    if fmt.sample_type in ("f32", "f64"):
        values = random.uniform(-1.2, 1.2, shape)
        chosen = random.random(shape) < 0.3
        values[chosen] = random.choice(EXTREMES, int(chosen.sum()))
        with np.errstate(over="ignore"):
            return values.astype(fmt.dtype)
    return random.integers(0, 256, (*shape, fmt.dtype.itemsize), np.uint8).view(fmt.dtype).reshape(shape)


def kernel(source, target, matrix=None, dither=False, **swaps):
    flat = [each for row in matrix or () for each in row]
    return SampleConverter(native_spec(source), native_spec(target), flat, dither, **swaps)


def same_bits(one, other):
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    if one.dtype.kind == "f":  # which NaN it is, is nobody's business
        assert (np.isnan(one) == np.isnan(other)).all()
        one, other = np.nan_to_num(one), np.nan_to_num(other)
    assert one.tobytes() == other.tobytes()


@unhurried
@given(types, types, layouts, layouts, st.integers(1, 9), st.integers(1, 1500), st.integers(0, 2**32))
def test_every_type_becomes_every_other(in_type, out_type, in_layout, out_layout, channels, frames, seed):
    source = AudioFormat(48_000, channels, in_type, in_layout)
    target = AudioFormat(48_000, channels, out_type, out_layout)
    samples = noise(seed, source, frames)
    converter = kernel(source, target)
    expected, clipped, wrong = converted(samples, source, target)
    same_bits(converter.convert(samples), expected)
    assert (converter.clipped, converter.not_a_number) == (clipped, wrong)


@unhurried
@given(types, types, layouts, layouts, st.integers(1, 8), st.integers(1, 8), st.integers(1, 700), st.integers(0, 2**32))
def test_channels_are_mixed_in_their_order(in_type, out_type, in_layout, out_layout, ins, outs, frames, seed):
    source = AudioFormat(48_000, ins, in_type, in_layout)
    target = AudioFormat(48_000, outs, out_type, out_layout)
    random = np.random.default_rng(seed)
    matrix = np.where(random.random((outs, ins)) < 0.4, 0.0, random.uniform(-1, 1, (outs, ins)))
    samples = noise(seed, source, frames)
    converter = kernel(source, target, matrix.tolist())
    expected, clipped, wrong = converted(samples, source, target, matrix.tolist())
    same_bits(converter.convert(samples), expected)
    assert (converter.clipped, converter.not_a_number) == (clipped, wrong)


@unhurried
@given(
    types,
    st.sampled_from(["u8", "s16", "s24"]),
    st.integers(1, 5),
    st.integers(1, 900),
    st.integers(0, 2**62),
    st.integers(0, 99),
)
def test_dither_is_that_of_the_index_of_a_sample(in_type, out_type, channels, frames, first_frame, seed):
    source, target = AudioFormat(48_000, channels, in_type), AudioFormat(48_000, channels, out_type)
    samples = noise(seed, source, frames)
    expected, clipped, wrong = converted(samples, source, target, dither=True, first_frame=first_frame)
    converter = kernel(source, target, dither=True)
    same_bits(converter.convert(samples, first_frame), expected)
    assert (converter.clipped, converter.not_a_number) == (clipped, wrong)
    cut = frames // 2
    if cut:
        parts = [converter.convert(samples[:cut], first_frame), converter.convert(samples[cut:], first_frame + cut)]
        same_bits(np.concatenate(parts), expected)


@unhurried
@given(
    st.sampled_from([each for each in TYPES if each != "u8"]),
    types,
    st.integers(1, 4),
    st.integers(1, 700),
    st.integers(0, 99),
)
def test_the_other_byte_order_is_read_and_written(in_type, out_type, channels, frames, seed):
    source, target = AudioFormat(48_000, channels, in_type), AudioFormat(48_000, channels, out_type)
    samples = noise(seed, source, frames)
    expected = kernel(source, target).convert(samples)
    turned = np.ascontiguousarray(samples[..., ::-1]) if in_type == "s24" else samples.byteswap()
    same_bits(kernel(source, target, from_swapped=True).convert(turned), expected)
    if out_type == "u8":
        return
    written = kernel(source, target, to_swapped=True).convert(samples)
    back = written[..., ::-1] if out_type == "s24" else written.byteswap()
    same_bits(np.ascontiguousarray(back), expected)


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [(a, b) for a in TYPES for b in ("f64", "s32") if a not in ("f64", b) and (a, b) != ("f32", "s32")],
)
def test_to_a_wider_type_and_back_is_the_same(narrow, wide):
    one, other = AudioFormat(48_000, 2, narrow), AudioFormat(48_000, 2, wide)
    samples = noise(1, one, 1000)
    if narrow == "f32":
        samples = np.nan_to_num(samples)
    same_bits(kernel(other, one).convert(kernel(one, other).convert(samples)), samples)


def test_every_s16_keeps_its_value_through_f32():
    samples = np.arange(-(2**15), 2**15, dtype=np.int16)[:, None]
    one, other = (
        AudioFormat(48_000, 1, "s16", max_block_frames=1 << 16),
        AudioFormat(48_000, 1, max_block_frames=1 << 16),
    )
    floats = kernel(one, other).convert(samples)
    assert floats[0, 0] == -1.0
    assert floats[-1, 0] == 1 - 2.0**-15
    assert floats[2**15, 0] == 0.0
    same_bits(kernel(other, one).convert(floats), samples)


def test_what_is_no_block_of_the_format_is_refused():
    converter = kernel(AudioFormat(48_000, 2), AudioFormat(48_000, 2, "s16"))
    good = np.zeros((8, 2), np.float32)
    assert converter.convert(good) is not None
    for wrong in (
        good.astype(np.float64),
        np.zeros((8, 3), np.float32),
        np.zeros((0, 2), np.float32),
        np.zeros(16, np.float32),
        good[::2],
        good.astype(">f4" if sys.byteorder == "little" else "<f4"),
        [[0.0, 0.0]],
        None,
    ):
        assert converter.convert(wrong) is None


def test_large_blocks_are_converted_without_the_interpreter_lock():
    fmt = AudioFormat(48_000, 2, max_block_frames=1 << 22)
    samples = np.zeros((1 << 22, 2), np.float32)
    converter = kernel(fmt, AudioFormat(48_000, 2, "s16", max_block_frames=1 << 22))
    ran, go = [], threading.Event()
    other = threading.Thread(target=lambda: (go.wait(), ran.append(True)))
    other.start()
    old = sys.getswitchinterval()
    sys.setswitchinterval(100)  # from here on, the lock changes hands only where somebody lets go of it
    try:
        go.set()
        assert not ran
        for _ in range(200):  # the other one gets the lock where this one lets go of it, if the machine has time for it
            converter.convert(samples)
            if ran:
                break
        assert ran
    finally:
        sys.setswitchinterval(old)
        other.join()
