"""
How a payload that is not an array becomes bytes and an object again.

Structs travel as MessagePack. A numpy array inside one is an extension (its type, its shape, its bytes); whatever
comes out is checked before it becomes an array, and objects are never unpickled.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Coroutine
from typing import Any, Final, Protocol

import msgspec
import numpy as np

from steadyflow.errors import BlockTooLarge, ConfigurationError, DataError, FormatMismatch
from steadyflow.formats import BytesFormat, CarrierFormat, Format, StructFormat


class Codec(Protocol):
    """Turns the payloads of one format into bytes and back. Does not block; allocates. Safe in any thread."""

    def encode(self, obj: object) -> bytes:
        """
        Encode a payload.

        Raises:
            FormatMismatch: The object is not one of this format.
            BlockTooLarge: It has more bytes than the format allows.
            DataError: Something in it cannot be encoded.
        """
        ...

    def decode(self, payload: bytes | memoryview) -> object:
        """
        Decode a payload; what is returned shares no memory with it.

        Raises:
            DataError: The bytes are not a payload of this format.
        """
        ...


def codec_for(fmt: Format, *, where: str = "") -> Codec | None:
    """
    Return the codec of a format.

    Args:
        fmt: The format.
        where: The pipeline, for the messages of errors.

    Returns:
        The codec; None for audio and arrays, which the data plane carries as they are.

    Raises:
        ConfigurationError: The class of a StructFormat has fields that cannot be decoded.
    """
    match fmt:
        case StructFormat():
            return StructCodec(fmt, where=where)
        case BytesFormat():
            return BytesCodec(fmt, where=where)
        case CarrierFormat() if fmt.is_bytes:
            return BytesCodec(BytesFormat(fmt.max_payload_bytes), where=where)
    return None


class StructCodec:
    """The codec of a `StructFormat`."""

    __slots__ = ("_decode", "_encode", "_format", "_prefix")

    def __init__(self, fmt: StructFormat, *, where: str = "") -> None:
        self._format = fmt
        self._prefix = f"{where}: " if where else ""
        self._encode = msgspec.msgpack.Encoder(enc_hook=_pack_numpy).encode
        try:
            self._decode = msgspec.msgpack.Decoder(fmt.type, dec_hook=_as_numpy, ext_hook=_unpack_numpy).decode
        except (TypeError, NameError) as error:
            raise ConfigurationError(
                f"{self._prefix}{fmt} cannot be decoded: {error}. Use fields that msgspec knows, and numpy's."
            ) from error

    def encode(self, obj: object) -> bytes:
        """Encode an instance of the format's class; see `Codec.encode`."""
        if not isinstance(obj, self._format.type):
            raise FormatMismatch(
                f"{self._prefix}expected an instance of {self._format.type.__qualname__}, "
                f"got {kind_of(obj)}. Send {self._format.type.__qualname__}(...)."
            )
        try:
            payload = self._encode(obj)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise DataError(f"{self._prefix}{type(obj).__qualname__} cannot be encoded: {error}") from error
        _check_size(payload, self._format.max_bytes, self._prefix)
        return payload

    def decode(self, payload: bytes | memoryview) -> object:
        """Decode an instance of the format's class; see `Codec.decode`."""
        try:
            return self._decode(payload)
        except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"{self._prefix}expected {self._format}, got something else: {error}") from error


class BytesCodec:
    """The codec of a `BytesFormat`."""

    __slots__ = ("_format", "_prefix")

    def __init__(self, fmt: BytesFormat, *, where: str = "") -> None:
        self._format = fmt
        self._prefix = f"{where}: " if where else ""

    def encode(self, obj: object) -> bytes:
        """Copy a bytes-like object; see `Codec.encode`."""
        if not isinstance(obj, (bytes, bytearray, memoryview)):
            raise FormatMismatch(f"{self._prefix}expected bytes, bytearray or memoryview, got {kind_of(obj)}.")
        payload = bytes(obj)
        _check_size(payload, self._format.max_bytes, self._prefix)
        return payload

    def decode(self, payload: bytes | memoryview) -> bytes:
        """Copy the bytes; see `Codec.decode`."""
        return bytes(payload)


def kind_of(data: object) -> str:
    """Name the type of what cannot be sent, for the message; says what was forgotten where it is a coroutine."""
    kind = type(data).__qualname__
    if isinstance(data, Coroutine):
        return f"a {kind}, which nothing has awaited: await it, in an async def process"
    return kind


def _check_size(payload: bytes, max_bytes: int, prefix: str) -> None:
    if len(payload) > max_bytes:
        raise BlockTooLarge(
            f"{prefix}expected up to {max_bytes:,} bytes, got {len(payload):,}. "
            f"Declare a larger max_bytes in the format, or send less."
        )


# --- numpy inside of structs --------------------------------------------------------------------------------------

_ARRAY: Final = 1  # the number of our MessagePack extension

# Numbers, times and text of fixed size; neither objects nor records, whose description would not be complete. And nothing of
# size 0, of which any number of elements fits into no bytes at all.
_DTYPE: Final = re.compile(r"[<>|][biufcmMSU][1-9][0-9]{0,7}(\[([1-9][0-9]{0,5})?[A-Za-z]{1,2}\])?")
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[str, tuple[int, ...], memoryview]).decode


def _pack_numpy(obj: object) -> object:
    """Encode what msgspec does not know: arrays, and numpy's scalars as the builtin of the same value."""
    if isinstance(obj, np.ndarray):
        if not _DTYPE.fullmatch(obj.dtype.str):
            raise TypeError(f"arrays of type {obj.dtype} cannot be sent; use numbers, times or text of fixed size")
        return msgspec.msgpack.Ext(_ARRAY, _pack((obj.dtype.str, obj.shape, obj.tobytes())))
    if isinstance(obj, np.generic):
        value = obj.item()
        if isinstance(value, (bool, int, float, str, bytes)):
            return value
    raise TypeError(f"objects of type {type(obj).__module__}.{type(obj).__qualname__} cannot be sent")


def _unpack_numpy(code: int, data: memoryview) -> object:
    """Rebuild an array from bytes that may be anything."""
    if code != _ARRAY:
        raise ValueError(f"unknown extension {code}")
    name, shape, raw = _unpack(data)
    if not _DTYPE.fullmatch(name):
        raise ValueError(f"arrays of type {name[:40]!r} are refused")
    dtype = np.dtype(name)
    if any(axis < 0 for axis in shape) or math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"an array of type {dtype} and shape {shape} does not have {len(raw)} bytes")
    if dtype.kind == "U" and np.frombuffer(raw, f"{name[0]}u4").max(initial=0) > sys.maxunicode:
        raise ValueError(f"an array of type {dtype} holds what is no character")
    # A copy: aligned, writable, and the receiver's own.
    return np.ndarray(shape, dtype, raw).copy()


def _as_numpy(kind: Any, obj: object) -> object:
    """Give a field that is declared as one of numpy's scalars its type back; msgspec checks all others itself."""
    if isinstance(kind, type) and issubclass(kind, np.generic) and isinstance(obj, (bool, int, float, str, bytes)):
        try:
            with np.errstate(over="raise"):
                return kind(obj)
        except (OverflowError, FloatingPointError) as error:
            raise ValueError(f"{obj!r} does not fit into {kind.__name__}") from error
    return obj
