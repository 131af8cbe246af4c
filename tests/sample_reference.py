"""What the native kernel does, in numpy: sample type, channels and layout, in the same order of operations."""

from __future__ import annotations

import numpy as np

BITS = {"u8": 8, "s16": 16, "s24": 24, "s32": 32}
WIDE_IN = ("s32", "f64")
WIDE_OUT = ("s24", "s32", "f64")


def numbers(samples, fmt, dtype):
    """Return the samples of a block as (channels, frames) numbers between -1 and 1."""
    if fmt.sample_type == "s24":
        low, middle, high = (samples[..., at].astype(np.int32) for at in range(3))
        values = ((low | middle << 8 | high << 16) << 8) >> 8
    elif fmt.sample_type == "u8":
        values = samples.astype(np.int32) - 128
    else:
        values = samples
    values = values if fmt.layout == "planar" else values.T
    scale = dtype(1 if fmt.sample_type in ("f32", "f64") else 2.0 ** (1 - BITS[fmt.sample_type]))
    return values.astype(dtype) * scale


def triangular(first_frame, frames, channels, dtype):
    """Return the noise of the samples of a stream, (channels, frames)."""
    index = (np.uint64(first_frame) + np.arange(frames, dtype=np.uint64)) * np.uint64(channels)
    index = index[None, :] + np.arange(channels, dtype=np.uint64)[:, None]
    bits = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ bits >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ bits >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    one, other = (
        (bits >> np.uint64(40)).astype(np.int64),
        (bits >> np.uint64(16) & np.uint64(0xFFFFFF)).astype(np.int64),
    )
    return (one - other).astype(dtype) * dtype(2.0**-24)


def converted(samples, source, target, matrix=None, *, dither=False, first_frame=0):
    """Return the samples in the other format, and how many were clipped, and were no numbers."""
    wide = source.sample_type in WIDE_IN or target.sample_type in WIDE_OUT
    dtype = np.float64 if wide else np.float32
    with np.errstate(all="ignore"):
        values = numbers(samples.reshape(shape_of(samples, source)), source, dtype)
        if matrix is not None:
            mixed = np.zeros((len(matrix), values.shape[1]), dtype)
            for row, out in zip(matrix, mixed, strict=True):
                terms = [dtype(each) * values[at] for at, each in enumerate(row) if each]
                for at, term in enumerate(terms):
                    out[:] = term if at == 0 else out + term
            values = mixed
        return stored(values, target, dtype, dither=dither, first_frame=first_frame)


def stored(values, target, dtype, *, dither, first_frame):
    clipped = wrong = 0
    if target.sample_type in BITS:
        scale = dtype(2.0 ** (BITS[target.sample_type] - 1))
        scaled = values * scale
        wrong = int(np.isnan(scaled).sum())
        scaled = np.where(np.isnan(scaled), dtype(0), scaled)
        if dither:
            scaled = scaled + triangular(first_frame, values.shape[1], values.shape[0], dtype)
        rounded = np.rint(scaled)
        limited = np.clip(rounded, -scale, scale - dtype(1))
        clipped = int((rounded != limited).sum())
        values = limited.astype(np.int64)
    values = values if target.layout == "planar" else values.T
    if target.sample_type == "u8":
        values = (values + 128).astype(np.uint8)
    elif target.sample_type == "s24":
        values = np.stack([values & 255, values >> 8 & 255, values >> 16 & 255], axis=-1).astype(np.uint8)
    else:
        values = values.astype(target.dtype)
    return np.ascontiguousarray(values), clipped, wrong


def shape_of(samples, fmt):
    """Return the shape of a block, also for one channel without a second axis."""
    if samples.ndim == 1:
        return fmt.block_shape(samples.shape[0])
    return samples.shape
