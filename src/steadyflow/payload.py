"""
From what users send to what the data plane takes.

An array of exactly the declared type and shape never comes here: the native side takes it as it is. Everything else
does: `FlowData`, a `Block` that is passed on, structs, bytes, arrays that are not contiguous, and every mistake.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np

from steadyflow._native import Block, PayloadSpec
from steadyflow.codec import codec_for, kind_of
from steadyflow.data import BlockFlag, FlowData, encode_metadata
from steadyflow.errors import BlockTooLarge, ConfigurationError, FormatMismatch
from steadyflow.formats import AnyFormat, ArrayFormat, AudioFormat, CarrierFormat, Format

Prepared: TypeAlias = tuple[object, int | None, int | None, int, bytes | None]

_BYTES: Final = 0
_AUDIO: Final = 1
_ARRAY: Final = 2

# A block that is passed on starts anew on the next pipeline: it is neither repeated there nor its end.
_OWN_TO_PIPELINE: Final = int(BlockFlag.REPEATED | BlockFlag.END_OF_STREAM)


def native_spec(fmt: Format) -> PayloadSpec:
    """Describe a resolved format to the data plane."""
    if isinstance(fmt, AudioFormat):
        assert fmt.channels is not None
        return PayloadSpec(
            _AUDIO,
            fmt.dtype.str,
            fmt.channels,
            fmt.layout == "planar",
            fmt.sample_type == "s24",
            fmt.max_block_frames,
            [],
            fmt.max_payload_bytes,
        )
    if isinstance(fmt, ArrayFormat):
        return PayloadSpec(_ARRAY, fmt.dtype.str, 1, False, False, 0, list(fmt.shape), fmt.max_payload_bytes)
    if isinstance(fmt, AnyFormat):
        raise ConfigurationError("AnyFormat describes nothing that could be allocated; a pipeline needs a real format.")
    if isinstance(fmt, CarrierFormat) and not fmt.is_bytes:
        raise ConfigurationError(
            f"{fmt} is an object of one process, which no pipeline carries. Send an array, and let the input that wants the object "
            f"declare it."
        )
    return PayloadSpec(_BYTES, "u1", 1, False, False, 0, [], fmt.max_payload_bytes)


class Preparer:
    """
    Prepares what the native side did not take as it is; one for each output.

    Args:
        name: The pipeline or output, for the messages.
        fmt: Its resolved format.
    """

    __slots__ = ("_codec", "_format", "_name")

    def __init__(self, name: str, fmt: Format) -> None:
        self._name = name
        self._format = fmt
        self._codec = codec_for(fmt, where=name)

    def __call__(self, data: object) -> Prepared:
        """
        Return the payload, ready for the data plane, with its stamps. May allocate; the sender's thread.

        Returns:
            (array or bytes, timestamp_ns or None, first_frame or None, flags, encoded metadata or None).

        Raises:
            FormatMismatch: Type, shape, rate or channels are not the pipeline's.
            BlockTooLarge: More frames or bytes than the format allows.
            MetadataTooLarge: More metadata than a block has room for.
        """
        if isinstance(data, FlowData):
            self._check_declared(data.format)
            metadata = encode_metadata(data.metadata) if data.metadata else None
            return self.payload(data.data), data.timestamp_ns, data.first_frame, data.flags, metadata
        if isinstance(data, Block):
            self._check_declared(data.format)
            metadata = encode_metadata(data.metadata) if data.metadata else None
            flags = data.flags & ~_OWN_TO_PIPELINE
            return self.payload(data.data), data.timestamp_ns, data.first_frame, flags, metadata
        return self.payload(data), None, None, 0, None

    def _check_declared(self, declared: Format | None) -> None:
        """Compare what the sender says about the data with what the pipeline carries."""
        if declared is None or isinstance(declared, AnyFormat) or declared == self._format:
            return
        mine = self._format
        if isinstance(declared, AudioFormat) and isinstance(mine, AudioFormat):
            fields = ("sample_rate_hz", "channels", "sample_type", "layout", "channel_layout")
            # The size of the block is checked on the block itself.
            different = [
                name
                for name in fields
                if getattr(declared, name) is not None and getattr(declared, name) != _said(mine, name)
            ]
            if not different:
                return
            what = ", ".join(f"{name} {getattr(mine, name)}" for name in different)
            got = ", ".join(f"{getattr(declared, name)}" for name in different)
            raise FormatMismatch(
                f"{self._name}: expected {what}; got {got}. The pipeline carries {mine}, the data is {declared}. "
                f"Convert the data, or declare this format where the pipeline is made."
            )
        if isinstance(declared, CarrierFormat) and isinstance(mine, CarrierFormat):
            same = (declared.carrier, declared.big_endian) == (mine.carrier, mine.big_endian)
            if same and (declared.audio is None or declared.audio.filled_from(mine.held).same_samples(mine.held)):
                return
        elif type(declared) is type(mine) and not isinstance(mine, ArrayFormat):
            if getattr(declared, "type", None) is getattr(mine, "type", None):
                return
        raise FormatMismatch(f"{self._name}: expected {mine}; got data of {declared}.")

    def payload(self, data: object) -> object:
        """
        Return bare data as the data plane takes it: an array, contiguous and aligned, or encoded bytes.

        Raises:
            FormatMismatch: See `__call__`.
            BlockTooLarge: Likewise.
        """
        if self._codec is not None:
            return self._codec.encode(data)
        fmt = self._format
        if not isinstance(data, np.ndarray):
            raise FormatMismatch(
                f"{self._name}: expected a numpy array, {_expected(fmt)}; got {kind_of(data)}. "
                f"Nothing is converted unasked: use numpy.asarray(data, dtype=...)."
            )
        if isinstance(fmt, AudioFormat):
            self._check_audio(fmt, data)
        elif isinstance(fmt, ArrayFormat):
            if data.dtype != fmt.dtype:
                raise self._mismatch(data, f"dtype {fmt.dtype}", f"{data.dtype}")
            if data.shape != fmt.shape:
                raise self._mismatch(data, f"shape {fmt.shape}", f"{data.shape}")
        return np.require(data, requirements=("C", "A"))  # right, but strided or not aligned

    def _check_audio(self, fmt: AudioFormat, data: np.ndarray[Any, Any]) -> None:
        if data.dtype != fmt.dtype:
            raise self._mismatch(data, f"dtype {fmt.dtype}", f"{data.dtype}")
        packed = fmt.sample_type == "s24"
        if data.ndim == 1 and fmt.channels == 1 and not packed:
            frames = data.shape[0]
        else:
            frame_axis, channel_axis = (1, 0) if fmt.layout == "planar" else (0, 1)
            if data.ndim != (3 if packed else 2) or (packed and data.shape[2] != 3):
                raise self._mismatch(data, f"shape {_audio_shape(fmt)}", f"{data.shape}")
            if data.shape[channel_axis] != fmt.channels:
                raise self._mismatch(
                    data,
                    f"{fmt.channels} channels, shape {_audio_shape(fmt)}",
                    f"{data.shape[channel_axis]} channels, shape {data.shape}",
                )
            frames = data.shape[frame_axis]
        if frames == 0:
            raise self._mismatch(data, "at least one frame", "an empty array")
        if frames > fmt.max_block_frames:
            raise BlockTooLarge(
                f"{self._name}: expected at most {fmt.max_block_frames} frames in a block; got {frames}. "
                f"Send smaller blocks, or declare max_block_frames={frames} in the format."
            )

    def _mismatch(self, data: np.ndarray[Any, Any], expected: str, got: str) -> FormatMismatch:
        return FormatMismatch(
            f"{self._name}: expected {expected}; got {got}. The pipeline carries {self._format}; "
            f"the array has dtype {data.dtype} and shape {data.shape}."
        )


def _said(fmt: AudioFormat, name: str) -> object:
    """Return a field of a format; of its channels, what they are where nobody named them."""
    return fmt.positions if name == "channel_layout" else getattr(fmt, name)


def _audio_shape(fmt: AudioFormat) -> str:
    shape = f"({fmt.channels}, frames" if fmt.layout == "planar" else f"(frames, {fmt.channels}"
    return shape + (", 3)" if fmt.sample_type == "s24" else ")")


def _expected(fmt: Format) -> str:
    if isinstance(fmt, AudioFormat):
        return f"dtype {fmt.dtype}, shape {_audio_shape(fmt)}"
    return str(fmt)
