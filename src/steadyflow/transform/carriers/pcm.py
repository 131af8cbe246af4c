"""PCM: interleaved samples as bytes, without a header, in either byte order."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from steadyflow._native import Block, SampleConverter
from steadyflow.errors import TransformError
from steadyflow.formats import AudioFormat, CarrierFormat
from steadyflow.payload import native_spec
from steadyflow.transform.carriers.carrier import as_bytes
from steadyflow.transform.conforming import in_pieces, unlimited

if TYPE_CHECKING:
    import numpy.typing as npt


class Pcm:
    """Views of bytes, where they have this machine's order; else one pass that turns them round."""

    has_stamps = False

    def __init__(self, fmt: CarrierFormat) -> None:
        self._swapped = _is_swapped(fmt)

    @staticmethod
    def in_place(fmt: CarrierFormat) -> tuple[bool, bool]:
        """Return whether both ways need no copy; see `Carrier`."""
        return not _is_swapped(fmt), False

    def describe(self, _data: Any) -> None:
        """It tells nothing."""

    def decode(self, data: Any, fmt: AudioFormat, block: Block) -> Block:
        """Return the samples; see `Carrier`."""
        view = as_bytes(data, "pcm")
        if not view.nbytes or view.nbytes % fmt.frame_bytes:
            raise TransformError(
                f"pcm: expected whole frames of {fmt.frame_bytes} bytes ({fmt.channels} x {fmt.sample_type}), at least one; got "
                f"{view.nbytes} bytes. Check sample type and channels, or cut the bytes between frames."
            )
        samples = np.frombuffer(view, fmt.dtype).reshape(fmt.block_shape(view.nbytes // fmt.frame_bytes))
        return block.derived(self._turned(samples, fmt, backwards=False), fmt)

    def encode(self, samples: npt.NDArray[Any], fmt: AudioFormat, _block: Block) -> bytes:
        """Return a copy; see `Carrier`."""
        return self._turned(samples, fmt, backwards=True).tobytes()

    def _turned(self, samples: npt.NDArray[Any], fmt: AudioFormat, *, backwards: bool) -> npt.NDArray[Any]:
        if not self._swapped:
            return samples
        spec = native_spec(unlimited(fmt))
        return in_pieces(SampleConverter(spec, spec, [], False, not backwards, backwards).convert, samples)


def _is_swapped(fmt: CarrierFormat) -> bool:
    return fmt.big_endian != (sys.byteorder == "big") and fmt.held.sample_type != "u8"
