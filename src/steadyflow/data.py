"""
What flows: a block with its stamps, its flags and a little metadata.

A user sends a plain array, or a `FlowData` where the stamps matter; a module receives a `Block`.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Mapping
from typing import Any, Final, SupportsIndex, TypeAlias

import msgspec

from steadyflow._native import Block as Block
from steadyflow.errors import DataError, MetadataTooLarge
from steadyflow.formats import Format

METADATA_MAX_BYTES: Final = 256

MetadataValue: TypeAlias = str | bytes | int | float | bool | None


class BlockFlag(enum.IntFlag):
    """What is special about a block."""

    DISCONTINUITY = 1
    """Something is missing between the block before and this one."""
    GAP = 2
    """The payload is filler for something that was lost."""
    CORRUPTED = 4
    """The payload's checksum does not match."""
    REPEATED = 8
    """The block may have been delivered before: a worker died while it had it."""
    END_OF_STREAM = 16
    """No block follows."""
    CONTROL = 32
    """No rule drops it, however full its pipeline is: it says something that the stream would be wrong without."""


class FlowData:
    """
    What a user sends, where more than the bare data matters.

    Args:
        data: The payload: an array of the pipeline's shape and type, a Struct, or bytes.
        format: The format of the data, to be checked against the pipeline's; None: it is the pipeline's.
        timestamp_ns: When the first frame was captured, on the monotonic clock; None: the time of sending.
        first_frame: The index of the first frame in its stream; None: the one after the block before.
        flags: `BlockFlag` values.
        metadata: Up to 256 encoded bytes; string keys; values str, bytes, int, float, bool or None.

    Raises:
        DataError: A stamp or the flags are negative, too large, or not an integer.
    """

    __slots__ = ("data", "first_frame", "flags", "format", "metadata", "timestamp_ns")

    def __init__(
        self,
        data: object,
        format: Format | None = None,
        *,
        timestamp_ns: int | None = None,
        first_frame: int | None = None,
        flags: int = 0,
        metadata: Mapping[str, MetadataValue] | None = None,
    ) -> None:
        self.data = data
        self.format = format
        self.timestamp_ns = None if timestamp_ns is None else _stamp("timestamp_ns", timestamp_ns)
        self.first_frame = None if first_frame is None else _stamp("first_frame", first_frame)
        self.flags = _stamp("flags", flags, bits=16)
        self.metadata = metadata

    def __repr__(self) -> str:
        shape = getattr(self.data, "shape", None)
        data = type(self.data).__name__ if shape is None else f"{type(self.data).__name__}{shape}"
        flags = f", flags={BlockFlag(self.flags)!r}" if self.flags else ""
        return f"FlowData({data}, {self.format}, timestamp_ns={self.timestamp_ns}{flags})"


def _stamp(name: str, value: SupportsIndex, *, bits: int = 63) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 1 << bits:
        raise DataError(f"FlowData: expected {name} to be an integer from 0 to 2**{bits} - 1, got {value!r}.")
    return number


def possible_time(timestamp_ns: int) -> int:
    """Return a computed timestamp, or the nearest that a block can have: the one of a damaged block may be anything."""
    return max(-(1 << 63), min(timestamp_ns, (1 << 63) - 1))


# --- metadata -----------------------------------------------------------------------------------------------------

# Exact types: a subclass (numpy.float64 is one of float) would come out as something else than went in.
_METADATA_TYPES: Final = frozenset({str, bytes, int, float, bool, type(None)})
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, Any])  # msgspec has no union of str and bytes


def encode_metadata(metadata: Mapping[str, MetadataValue]) -> bytes:
    """
    Encode the metadata of a block. Does not block; allocates the result.

    Args:
        metadata: String keys; values str, bytes, int (64 bits), float, bool or None.

    Returns:
        Up to `METADATA_MAX_BYTES` bytes; none at all for no metadata.

    Raises:
        MetadataTooLarge: The metadata does not fit.
        DataError: A key or a value has another type.
    """
    if not metadata:
        return b""
    for key, value in metadata.items():
        if type(key) is not str:
            raise DataError(f"metadata: expected keys of type str, got {key!r} of type {type(key).__qualname__}.")
        if type(value) not in _METADATA_TYPES:
            raise DataError(
                f"metadata[{key!r}]: expected str, bytes, int, float, bool or None, got {type(value).__qualname__}. "
                f"Convert it first, for example with float(value); larger things belong into a StructFormat."
            )
    try:
        payload = _encoder.encode(dict(metadata))
    except (OverflowError, UnicodeEncodeError) as error:
        raise DataError(f"metadata {metadata!r} cannot be encoded: {error}") from None
    if len(payload) > METADATA_MAX_BYTES:
        raise MetadataTooLarge(
            f"metadata: expected up to {METADATA_MAX_BYTES} encoded bytes, got {len(payload)} "
            f"(keys {', '.join(metadata)}). Send what is larger on a pipeline of its own."
        )
    return payload


def decode_metadata(payload: bytes, pipeline: str | None = None) -> dict[str, MetadataValue]:
    """
    Undo `encode_metadata`.

    Args:
        payload: The encoded metadata.
        pipeline: Where it came through, for the message of an error.

    Raises:
        DataError: The bytes are not encoded metadata.
    """
    if not payload:
        return {}
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        where = f"{pipeline}: " if pipeline else ""
        raise DataError(f"{where}expected encoded metadata, got {bytes(payload)[:32]!r}: {error}") from None
