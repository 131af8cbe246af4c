"""Data as the steps of a conversion take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np

from steadyflow.errors import BlockTooLarge, FormatMismatch, TransformError
from steadyflow.formats import MAX_PAYLOAD_BYTES, AudioFormat
from steadyflow.payload import Preparer

_MOST_FRAMES: Final = 1 << 24
_PIECE_FRAMES: Final = 1 << 16


def unlimited(fmt: AudioFormat) -> AudioFormat:
    """Return the format for blocks of any length that a block may have."""
    return msgspec.structs.replace(fmt, max_block_frames=min(_MOST_FRAMES, MAX_PAYLOAD_BYTES // fmt.frame_bytes))


class Conforming:
    """
    Makes an array of exactly a format of what comes: contiguous, with an axis for the channels. Does not wait.

    Args:
        step: Who asks, for messages.
        fmt: The format; nothing is left open in it.
    """

    __slots__ = ("_axis", "_channels", "_dtype", "_format", "_most_samples", "_ndim", "_payload")

    def __init__(self, step: str, fmt: AudioFormat) -> None:
        self._format = fmt
        whole = unlimited(fmt)
        self._payload = Preparer(step, whole).payload
        self._most_samples = whole.max_block_frames * (fmt.channels or 1)
        self._dtype = fmt.dtype
        self._channels = fmt.channels
        self._axis = 0 if fmt.layout == "planar" else 1
        self._ndim = 3 if fmt.sample_type == "s24" else 2

    def __call__(self, data: object) -> np.ndarray[Any, Any]:
        """
        Return the samples; themselves, where they are as they should be.

        Raises:
            TransformError: They are of another format; says the step, what was expected, and what came.
        """
        if (
            type(data) is np.ndarray
            and data.ndim == self._ndim == 2
            and data.dtype == self._dtype
            and data.shape[self._axis] == self._channels
            and 0 < data.size <= self._most_samples
            and data.flags.carray
        ):
            return data
        try:
            samples = np.asarray(self._payload(np.asarray(data) if isinstance(data, np.ndarray) else data))
        except (FormatMismatch, BlockTooLarge) as mismatch:
            raise TransformError(str(mismatch)) from mismatch
        return samples if samples.ndim > 1 else samples.reshape(self._format.block_shape(len(samples)))


def in_pieces(
    convert: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any] | None], samples: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Convert interleaved samples of any length by what takes blocks of a length that blocks may have."""
    parts = [
        convert(np.ascontiguousarray(samples[at : at + _PIECE_FRAMES])) for at in range(0, len(samples), _PIECE_FRAMES)
    ]
    known = [part for part in parts if part is not None]
    assert len(known) == len(parts)
    return known[0] if len(known) == 1 else np.concatenate(known)
