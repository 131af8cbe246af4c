"""
Frames for JavaScript: a header, the samples where a typed array can map them without a copy, and the fields.

Little-endian throughout; typed_array.mjs, beside this file, reads and writes the same::

    0   u32  "SFA1"                     16  u32  frames                 48              samples
    4   u8   version, 1                 20  u32  bytes of the fields    48 + samples    fields, JSON
    5   u8   sample type                24  u64  first frame
    6   u8   layout                     32  i64  timestamp in ns
    7   u8   0                          40  u64  sequence
    8   u32  sample rate in Hz
    12  u16  channels
    14  u16  flags
"""

from __future__ import annotations

import base64
import math
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from steadyflow._native import Block
from steadyflow.data import MetadataValue, encode_metadata
from steadyflow.errors import DataError, TransformError
from steadyflow.formats import AudioFormat, CarrierFormat, Layout, SampleType
from steadyflow.transform.carriers.carrier import as_bytes, check_same, told_format

if TYPE_CHECKING:
    import numpy.typing as npt

HEADER: Final = struct.Struct("<4sBBBBIHHIIQqQ")
MAGIC: Final = b"SFA1"
VERSION: Final = 1
_TYPES: Final[tuple[SampleType, ...]] = ("f32", "f64", "s16", "s32", "u8")
_LAYOUTS: Final[tuple[Layout, ...]] = ("interleaved", "planar")
_MOST_FIELD_BYTES: Final = 4096  # of 256 encoded bytes, as text
_SWAP: Final = sys.byteorder == "big"


class TypedArray:
    """Bytes that a browser maps to a ``Float32Array``, ``Float64Array``, ``Int16Array``, ``Int32Array`` or ``Uint8Array``."""

    has_stamps = True

    @staticmethod
    def in_place(_fmt: CarrierFormat) -> tuple[bool, bool]:
        """Return whether both ways need no copy; see `Carrier`."""
        return not _SWAP, False

    def __init__(self, _fmt: CarrierFormat) -> None:
        pass

    def describe(self, data: Any) -> AudioFormat:
        """Return what the header tells; see `Carrier`."""
        return _header(as_bytes(data, "typed_array"))[0]

    def decode(self, data: Any, fmt: AudioFormat, block: Block) -> Block:
        """Return a view of the samples, with the stamps and fields of the frame; see `Carrier`."""
        view = as_bytes(data, "typed_array")
        told, frames, field_bytes, first_frame, timestamp_ns, sequence, flags = _header(view)
        check_same(told, fmt, "typed_array")
        end = HEADER.size + frames * fmt.frame_bytes
        if view.nbytes != end + field_bytes:
            raise TransformError(
                f"typed_array: expected {end + field_bytes} bytes, as the header says, got {view.nbytes}: it was cut off, or "
                f"something follows it."
            )
        samples = np.frombuffer(view[HEADER.size : end], fmt.dtype).reshape(fmt.block_shape(frames))
        return Block(
            samples.byteswap() if _SWAP else samples,
            fmt,
            timestamp_ns=timestamp_ns,
            first_frame=first_frame,
            sequence=sequence,
            flags=flags | block.flags,
            sent_ns=block.sent_ns,
            metadata=_fields(view[end:]) if field_bytes else None,
        )

    def encode(self, samples: npt.NDArray[Any], fmt: AudioFormat, block: Block) -> bytes:
        """Return a frame; see `Carrier`."""
        fields = (
            msgspec.json.encode({name: _to_json(value) for name, value in block.metadata.items()})
            if block.has_metadata
            else b""
        )
        assert fmt.sample_rate_hz is not None
        assert fmt.channels is not None
        header = HEADER.pack(
            MAGIC,
            VERSION,
            _TYPES.index(fmt.sample_type),
            _LAYOUTS.index(fmt.layout),
            0,
            fmt.sample_rate_hz,
            fmt.channels,
            block.flags,
            block.frames,
            len(fields),
            block.first_frame,
            block.timestamp_ns,
            block.sequence,
        )
        return b"".join((header, (samples.byteswap() if _SWAP else samples).tobytes(), fields))


def _header(view: memoryview) -> tuple[AudioFormat, int, int, int, int, int, int]:
    """Return the format, frames, bytes of the fields, first frame, timestamp, sequence and flags of a frame."""
    if view.nbytes < HEADER.size:
        raise TransformError(f"typed_array: expected a header of {HEADER.size} bytes, got {view.nbytes} bytes.")
    magic, version, sample_type, layout, _, rate, channels, flags, frames, field_bytes, first, time_ns, sequence = (
        HEADER.unpack_from(view)
    )
    if magic != MAGIC or version != VERSION:
        raise TransformError(
            f"typed_array: expected a frame that begins with {MAGIC!r} and version {VERSION}, got {magic!r} and {version}."
        )
    if sample_type >= len(_TYPES) or layout >= len(_LAYOUTS) or not frames or field_bytes > _MOST_FIELD_BYTES:
        raise TransformError(
            f"typed_array: expected a sample type below {len(_TYPES)}, a layout below {len(_LAYOUTS)}, at least one frame and up to "
            f"{_MOST_FIELD_BYTES} bytes of fields; got {sample_type}, {layout}, {frames} and {field_bytes}."
        )
    fmt = told_format("typed_array", rate, channels, _TYPES[sample_type], _LAYOUTS[layout])
    return fmt, frames, field_bytes, first, time_ns, sequence, flags


def _to_json(value: MetadataValue) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _fields(view: memoryview) -> dict[str, MetadataValue]:
    """Read fields that anybody may have written."""
    try:
        raw = msgspec.json.decode(view, type=dict[str, Any])
        fields = {name: _from_json(value) for name, value in raw.items()}
        encode_metadata(fields)  # of the types and the size that any block may have
    except (msgspec.MsgspecError, ValueError, DataError, RecursionError) as problem:
        raise TransformError(f"typed_array: expected fields as JSON, got {bytes(view[:32])!r}: {problem}") from None
    return fields


def _from_json(value: Any) -> MetadataValue:
    if isinstance(value, dict) and len(value) == 1:
        ((kind, text),) = value.items()
        if isinstance(text, str) and kind == "base64":
            return base64.b64decode(text, validate=True)
        if isinstance(text, str) and kind == "float":
            return float(text)
    return value  # type: ignore[no-any-return]
