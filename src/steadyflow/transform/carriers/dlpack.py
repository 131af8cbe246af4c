"""DLPack: the arrays of torch, jax, cupy and others, without importing any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from steadyflow._native import Block
from steadyflow.errors import TransformError
from steadyflow.formats import AudioFormat, CarrierFormat
from steadyflow.transform.carriers.carrier import shaped

if TYPE_CHECKING:
    import numpy.typing as npt


class DLPack:
    """
    Views of what has ``__dlpack__``, on the processor; of shape (frames, channels) or (channels, frames), or frames alone.

    What is encoded is an array of numpy, which torch.from_dlpack and its like take without a copy.
    """

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
        """Return a view; see `Carrier`. What is not contiguous is copied."""
        try:
            samples = np.from_dlpack(data)
        except (AttributeError, TypeError, BufferError, RuntimeError) as problem:
            raise TransformError(
                f"dlpack: expected an array on the processor that has __dlpack__, got {type(data).__qualname__}: {problem}"
            ) from problem
        return block.derived(np.ascontiguousarray(shaped(samples, fmt, "dlpack")), fmt)

    def encode(self, samples: npt.NDArray[Any], _fmt: AudioFormat, _block: Block) -> npt.NDArray[Any]:
        """Return the array; a copy where it may only be read, which DLPack before 1.0 cannot say."""
        return samples if samples.flags.writeable else samples.copy()
