"""Apache Arrow: a record batch with a column for each channel, and the rate in the metadata of its schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steadyflow._native import Block
from steadyflow.errors import MissingExtra, TransformError
from steadyflow.formats import AudioFormat, CarrierFormat
from steadyflow.transform.carriers.carrier import check_same, told_format

if TYPE_CHECKING:
    import numpy.typing as npt

_MOST_DIGITS: Final = 6
_RATE: Final = b"sample_rate_hz"
_TYPES: Final = {"float": "f32", "double": "f64", "int16": "s16", "int32": "s32", "uint8": "u8"}


class Arrow:
    """Columns that lie where the planar samples lie, on the way out; on the way in, where they become one array, a copy."""

    has_stamps = False

    @staticmethod
    def in_place(_fmt: CarrierFormat) -> tuple[bool, bool]:
        """Return whether both ways need no copy; see `Carrier`."""
        return False, True

    def __init__(self, _fmt: CarrierFormat) -> None:
        try:
            import pyarrow
        except ImportError as missing:
            raise MissingExtra("arrow", "the carrier 'arrow'") from missing
        self._pyarrow = pyarrow

    def describe(self, data: Any) -> AudioFormat | None:
        """Return what schema and metadata tell; see `Carrier`."""
        batch = self._checked(data)
        rate = (batch.schema.metadata or {}).get(_RATE, b"")
        types = {_TYPES.get(str(field.type), str(field.type)) for field in batch.schema}
        if len(types) != 1 or not types <= {*_TYPES.values()}:
            raise TransformError(
                f"arrow: expected columns of one type among {', '.join(_TYPES)}, got {', '.join(sorted(types)) or 'no column'}."
            )
        if not rate.isdigit() or len(rate) > _MOST_DIGITS:
            return None
        return told_format("arrow", int(rate), batch.num_columns, types.pop(), "planar")

    def decode(self, data: Any, fmt: AudioFormat, block: Block) -> Block:
        """Return the samples; see `Carrier`."""
        batch = self._checked(data)
        told = self.describe(batch)
        if told is not None:
            check_same(told, fmt, "arrow")
        if batch.num_columns != fmt.channels or not batch.num_rows:
            raise TransformError(
                f"arrow: expected {fmt.channels} columns of at least one row, got {batch.num_columns} of {batch.num_rows}."
            )
        if any(column.null_count for column in batch.columns):
            raise TransformError("arrow: expected a sample in every row, got rows without one (null).")
        samples = np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns])
        if samples.dtype != fmt.dtype:
            raise TransformError(f"arrow: expected samples of type {fmt.dtype}, got {samples.dtype}.")
        return block.derived(samples, fmt)

    def encode(self, samples: npt.NDArray[Any], fmt: AudioFormat, _block: Block) -> Any:
        """Return a batch; see `Carrier`."""
        names = [f"channel_{number}" for number in range(len(samples))]
        batch = self._pyarrow.RecordBatch.from_arrays([self._pyarrow.array(row) for row in samples], names=names)
        return batch.replace_schema_metadata({_RATE: str(fmt.sample_rate_hz).encode()})

    def _checked(self, data: Any) -> Any:
        if not isinstance(data, self._pyarrow.RecordBatch):
            raise TransformError(f"arrow: expected a pyarrow.RecordBatch, got {type(data).__qualname__}.")
        return data
