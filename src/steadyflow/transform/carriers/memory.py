"""What lies in memory that Python knows: the buffer protocol, and `array.array`."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steadyflow._native import Block
from steadyflow.errors import TransformError
from steadyflow.formats import AudioFormat, CarrierFormat
from steadyflow.transform.carriers.carrier import shaped

if TYPE_CHECKING:
    import numpy.typing as npt

_TYPE_CODES: Final = {"f32": "f", "f64": "d", "s16": "h", "s32": "i", "u8": "B"}


class BufferProtocol:
    """Views of what has Python's buffer protocol; what is encoded is a `memoryview` of samples, with type and shape."""

    has_stamps = False

    @staticmethod
    def in_place(_fmt: CarrierFormat) -> tuple[bool, bool]:
        """Return whether both ways need no copy; see `Carrier`."""
        return True, True

    def __init__(self, _fmt: CarrierFormat) -> None:
        pass

    def describe(self, _data: Any) -> None:
        """It does not tell its rate."""

    def decode(self, data: Any, fmt: AudioFormat, block: Block) -> Block:
        """Return a view; see `Carrier`. Of bytes without a type, too. What is not contiguous is copied."""
        return block.derived(np.ascontiguousarray(shaped(_viewed(data, fmt, "buffer"), fmt, "buffer")), fmt)

    def encode(self, samples: npt.NDArray[Any], _fmt: AudioFormat, _block: Block) -> memoryview:
        """Return a view; see `Carrier`."""
        return samples.data


class PythonArray:
    """`array.array` of interleaved samples."""

    has_stamps = False

    @staticmethod
    def in_place(_fmt: CarrierFormat) -> tuple[bool, bool]:
        """Return whether both ways need no copy; see `Carrier`."""
        return True, False

    def __init__(self, _fmt: CarrierFormat) -> None:
        pass

    def describe(self, _data: Any) -> None:
        """It does not tell its rate."""

    def decode(self, data: Any, fmt: AudioFormat, block: Block) -> Block:
        """Return a view; see `Carrier`."""
        if not isinstance(data, array):
            raise TransformError(f"array: expected an array.array, got {type(data).__qualname__}.")
        return block.derived(shaped(_viewed(data, fmt, "array"), fmt, "array"), fmt)

    def encode(self, samples: npt.NDArray[Any], fmt: AudioFormat, _block: Block) -> array[Any]:
        """Return a copy; see `Carrier`."""
        made: array[Any] = array(_TYPE_CODES[fmt.sample_type])
        made.frombytes(samples.tobytes())
        return made


def _viewed(data: Any, fmt: AudioFormat, carrier: str) -> npt.NDArray[Any]:
    try:
        view = memoryview(data)
    except TypeError as problem:
        raise TransformError(
            f"{carrier}: expected something with the buffer protocol, got {type(data).__qualname__}."
        ) from problem
    if view.format in ("B", "b", "c") and view.ndim == 1 and fmt.dtype.itemsize > 1:
        if view.nbytes % fmt.dtype.itemsize or not view.c_contiguous:
            raise TransformError(
                f"{carrier}: expected whole samples of {fmt.dtype.itemsize} bytes, got {view.nbytes} bytes."
            )
        return np.frombuffer(view, fmt.dtype)
    return np.asarray(view)
