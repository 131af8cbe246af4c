"""What a carrier is, and the converter that uses them all."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from steadyflow._native import Block
from steadyflow.conversion import ConversionOptions, ConversionStep
from steadyflow.data import BlockFlag
from steadyflow.errors import ConfigurationError, TransformError
from steadyflow.formats import CARRIERS, AudioFormat, CarrierFormat, Format, Layout
from steadyflow.transform.conforming import Conforming
from steadyflow.transform.converter import Stage

if TYPE_CHECKING:
    import numpy.typing as npt

_CALL_NS: Final = 2000
_BYTES_PER_NS: Final = 8
# Where each is; loaded when it is used.
_MODULES: Final = {
    "dlpack": "dlpack:DLPack",
    "buffer": "memory:BufferProtocol",
    "array": "memory:PythonArray",
    "pcm": "pcm:Pcm",
    "wav": "sound_file:Wav",
    "flac": "sound_file:Flac",
    "arrow": "arrow:Arrow",
    "typed_array": "typed_array:TypedArray",
}


class Carrier(Protocol):
    """
    Knows one kind of data that holds audio. One thread at a time; may allocate; does not wait.

    Attributes:
        has_stamps: Whether the data says itself when and where in its stream it begins.
    """

    has_stamps: bool

    @staticmethod
    def in_place(fmt: CarrierFormat) -> tuple[bool, bool]:
        """Return whether the samples that are decoded lie where they lay, and the data that is encoded."""
        ...

    def describe(self, data: Any) -> AudioFormat | None:
        """
        Return the format that the data itself tells; None where it tells too little.

        Raises:
            TransformError: It is no such data.
        """
        ...

    def decode(self, data: Any, fmt: AudioFormat, block: Block) -> Block:
        """
        Return a block of the samples, with the stamps of `block` unless the data has its own.

        Raises:
            TransformError: It is no such data, or of another format.
        """
        ...

    def encode(self, samples: npt.NDArray[Any], fmt: AudioFormat, block: Block) -> Any:
        """Return data that holds the samples of a block."""
        ...


def carrier_of(fmt: CarrierFormat) -> Carrier:
    """
    Return what knows a kind of data.

    Raises:
        MissingExtra: It needs a library that is not installed.
    """
    made: Carrier = _class_of(fmt)(fmt)
    return made


def _class_of(fmt: CarrierFormat) -> Any:
    module, _, name = _MODULES[fmt.carrier].partition(":")
    return getattr(importlib.import_module(f"steadyflow.transform.carriers.{module}"), name)


class CarrierConverter:
    """Converts between arrays of numpy and everything else that holds audio."""

    name = "carrier"
    starts: Sequence[Format] = ()

    def offers(self, fmt: Format, goals: Sequence[Format], _options: ConversionOptions) -> Iterator[ConversionStep]:
        """Return the way out of a carrier, or into each one that is wanted and holds such samples."""
        if isinstance(fmt, CarrierFormat):
            yield self._step(fmt, fmt.held, fmt, "decoded")
        if not isinstance(fmt, AudioFormat):
            return
        for goal in goals:
            if isinstance(goal, CarrierFormat):
                types, layouts = CARRIERS[goal.carrier]
                if fmt.sample_type in types and fmt.layout in layouts and fmt.same_samples(goal.held.filled_from(fmt)):
                    yield self._step(fmt, msgspec.structs.replace(goal, audio=fmt), goal, "encoded")

    def _step(self, source: Format, target: Format, carrier: CarrierFormat, does: str) -> ConversionStep:
        decodes, encodes = _class_of(carrier).in_place(carrier)
        in_place = decodes if does == "decoded" else encodes
        audio = source if isinstance(source, AudioFormat) else target
        assert isinstance(audio, AudioFormat)
        work = 0 if in_place else 2 * audio.frame_bytes * (audio.sample_rate_hz or 1) // _BYTES_PER_NS
        return ConversionStep(
            converter=self.name,
            source=source,
            target=target,
            does=f"{carrier.carrier} {does}",
            cost_class="free" if in_place else "copy",
            cost=_CALL_NS + work,
        )

    def delay_frames(self, _step: ConversionStep, _options: ConversionOptions) -> int:
        """Return 0: each block is one for itself."""
        return 0

    def stage(self, step: ConversionStep, _options: ConversionOptions) -> Stage:
        """Set a carrier to work."""
        if isinstance(step.source, CarrierFormat):
            return _Decoding(carrier_of(step.source), step.source.held)
        assert isinstance(step.target, CarrierFormat)
        return EncodingStage(carrier_of(step.target), step.target)


class _Decoding:
    """Decodes, and counts the frames of what does not say itself where it begins."""

    def __init__(self, carrier: Carrier, fmt: AudioFormat) -> None:
        self._carrier = carrier
        self._format = fmt
        self._next_frame = 0
        self._next_sequence: int | None = None

    def push(self, block: Block) -> tuple[Block, ...]:
        decoded = self._carrier.decode(block.data, self._format, block)
        if self._carrier.has_stamps:
            return (decoded,)
        missing = self._next_sequence is not None and block.sequence != self._next_sequence
        self._next_sequence = block.sequence + 1
        first_frame = max(block.first_frame, self._next_frame)
        self._next_frame = first_frame + decoded.frames
        return (
            Block(
                decoded.payload,
                self._format,
                timestamp_ns=block.timestamp_ns,
                first_frame=first_frame,
                sequence=block.sequence,
                flags=block.flags | (BlockFlag.DISCONTINUITY if missing else 0),
                metadata=block.metadata or None,
                sent_ns=block.sent_ns,
            ),
        )

    def flush(self) -> tuple[Block, ...]:
        self._next_frame, self._next_sequence = 0, None
        return ()


class EncodingStage:
    """Makes data of each block."""

    def __init__(self, carrier: Carrier, target: CarrierFormat) -> None:
        self._carrier = carrier
        self._target = target
        self._conforming = Conforming(f"{target.carrier} encoded", target.held)

    def push(self, block: Block) -> tuple[Block, ...]:
        """Encode a block; see `Stage`."""
        samples = self._conforming(block.payload)
        return (block.derived(self._carrier.encode(samples, self._target.held, block), self._target),)

    def flush(self) -> tuple[Block, ...]:
        """Nothing is ever left."""
        return ()


# --- for the carriers ---------------------------------------------------------------------------------------------------


def shaped(samples: npt.NDArray[Any], fmt: AudioFormat, carrier: str) -> npt.NDArray[Any]:
    """
    Return samples in the shape of a block; a view.

    Raises:
        TransformError: They are of another type, or no whole frames.
    """
    if samples.ndim == 0 or samples.dtype != fmt.dtype:
        raise TransformError(
            f"{carrier}: expected samples of type {fmt.dtype}, got {samples.dtype}{'' if samples.ndim else ', a single one'}."
        )
    frame = fmt.frame_bytes // fmt.dtype.itemsize
    if samples.ndim == 1:
        if not samples.size or samples.size % frame:
            raise TransformError(
                f"{carrier}: expected whole frames of {frame} values, at least one; got {samples.size} values. Check the "
                f"number of channels."
            )
        return samples.reshape(fmt.block_shape(samples.size // frame))
    frames = samples.shape[min(1 if fmt.layout == "planar" else 0, samples.ndim - 1)]
    expected = fmt.block_shape(frames)
    if samples.shape != expected or not frames:
        raise TransformError(f"{carrier}: expected {fmt}, shape {expected}; got shape {samples.shape}.")
    return samples


def as_bytes(data: Any, carrier: str) -> memoryview:
    """
    Return data as bytes, without copying.

    Raises:
        TransformError: It is something else.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TransformError(f"{carrier}: expected bytes, bytearray or memoryview, got {type(data).__qualname__}.")
    view = memoryview(data)
    if not view.c_contiguous:
        raise TransformError(f"{carrier}: expected bytes in one piece, got a memoryview of strides {view.strides}.")
    return view.cast("B")


def told_format(
    carrier: str, rate_hz: int, channels: int, sample_type: str, layout: Layout = "interleaved"
) -> AudioFormat:
    """
    Return the format that data tells about itself.

    Raises:
        TransformError: There is no such audio.
    """
    try:
        return AudioFormat(rate_hz, channels, sample_type, layout)  # type: ignore[arg-type]
    except ConfigurationError as impossible:
        raise TransformError(f"{carrier}: expected a possible format in the header: {impossible}") from None


def check_same(told: AudioFormat, fmt: AudioFormat, carrier: str) -> None:
    """
    Compare what data tells about itself with what it was said to be.

    Raises:
        TransformError: It is something else.
    """
    names = ("sample_rate_hz", "channels", "sample_type", "layout")
    different = [name for name in names if getattr(told, name) != getattr(fmt, name)]
    if different:
        expected = ", ".join(f"{name} {getattr(fmt, name)}" for name in different)
        got = ", ".join(f"{getattr(told, name)}" for name in different)
        raise TransformError(f"{carrier}: expected {expected}; got {got}. Declare what the data holds.")
