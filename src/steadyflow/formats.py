"""
What flows, described: a format says everything about the payload of a block before the first one comes.

A flow knows all its formats when it starts; that is why nothing has to be allocated, guessed or pickled afterwards.
An `AudioFormat` may leave its rate and channels open (None); `agree` fills them from the other end of a pipeline.
"""

from __future__ import annotations

import importlib
import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec.structs import force_setattr

from steadyflow.channel_layouts import CHANNEL_LAYOUTS, DISCRETE, POSITIONS, ChannelLayout, usual_layout
from steadyflow.errors import ConfigurationError, FormatClash, LimitExceeded, UnknownName

if TYPE_CHECKING:
    import numpy.typing as npt

SampleType: TypeAlias = Literal["f32", "f64", "s16", "s24", "s32", "u8"]
Layout: TypeAlias = Literal["interleaved", "planar"]
StructClass: TypeAlias = type[msgspec.Struct]

MAX_PAYLOAD_BYTES: Final = 1 << 30
MAX_WINDOW_FRAMES: Final = 1 << 24

# Packed s24 has no numpy type: it travels as bytes, with a last axis of 3.
_SAMPLE_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "s16": np.dtype(np.int16),
    "s24": np.dtype(np.uint8),
    "s32": np.dtype(np.int32),
    "u8": np.dtype(np.uint8),
}
_LAYOUTS: Final = ("interleaved", "planar")

SAMPLE_BITS: Final[dict[str, int]] = {"u8": 8, "s16": 16, "s24": 24, "f32": 24, "s32": 32, "f64": 53}
"""How many bits of a sample a type keeps."""


class AudioFormat(msgspec.Struct, frozen=True):
    """
    Blocks of audio samples.

    Args:
        sample_rate_hz: Frames per second, 1 to 768,000; None takes the other end's.
        channels: 1 to 1,024; None takes the other end's.
        sample_type: ``"f32"``, ``"f64"``, ``"s16"``, ``"s24"`` (packed), ``"s32"`` or ``"u8"``.
        layout: ``"interleaved"``: shape (frames, channels); ``"planar"``: shape (channels, frames).
        max_block_frames: The longest block that an output sends; says nothing on an input.
        channel_layout: ``"mono"``, ``"stereo"``, ``"2.1"``, ``"quad"``, ``"5.1"``, ``"7.1"`` or ``"discrete"``; says how many
            channels there are. None: nobody said it; see `positions`.

    Raises:
        UnknownName: There is no such sample type or layout.
        ConfigurationError: A value is impossible, or the layout has another number of channels.
    """

    sample_rate_hz: int | None = None
    channels: int | None = None
    sample_type: SampleType = "f32"
    layout: Layout = "interleaved"
    max_block_frames: int = 4096
    channel_layout: ChannelLayout | None = None

    def __post_init__(self) -> None:
        if self.sample_rate_hz is not None:
            _force_integer(self, "sample_rate_hz", 768_000)
        if self.channel_layout is not None:
            _force_channels(self, self.channel_layout)
        if self.channels is not None:
            _force_integer(self, "channels", 1024)
        _force_integer(self, "max_block_frames", 1 << 24)
        if self.sample_type not in _SAMPLE_DTYPES:
            raise UnknownName("sample type", self.sample_type, _SAMPLE_DTYPES, where="AudioFormat")
        if self.layout not in _LAYOUTS:
            raise UnknownName("layout", self.layout, _LAYOUTS, where="AudioFormat")
        if self.is_resolved:
            _check_payload(self)

    @property
    def is_resolved(self) -> bool:
        """Whether rate and channels are known, so that blocks can be allocated."""
        return self.sample_rate_hz is not None and self.channels is not None

    @property
    def positions(self) -> str | None:
        """The layout of the channels: as named, or mono and stereo of one and two, discrete of more; None if their number is open."""
        if self.channel_layout is None and self.channels is not None:
            return usual_layout(self.channels)
        return self.channel_layout

    @property
    def max_payload_bytes(self) -> int:
        """The size of the longest block, in bytes."""
        return self.frame_bytes * self.max_block_frames

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of the samples; uint8 for packed s24."""
        return _SAMPLE_DTYPES[self.sample_type]

    @property
    def frame_bytes(self) -> int:
        """The size of one frame (one sample of each channel), in bytes."""
        sample_bytes = 3 if self.sample_type == "s24" else self.dtype.itemsize
        return sample_bytes * self._known_channels()

    def block_shape(self, frames: int) -> tuple[int, ...]:
        """
        Return the shape of the array of a block.

        Args:
            frames: The length of the block.

        Returns:
            (frames, channels) where interleaved, (channels, frames) where planar; s24 has a last axis of 3.
        """
        channels = self._known_channels()
        shape = (frames, channels) if self.layout == "interleaved" else (channels, frames)
        return (*shape, 3) if self.sample_type == "s24" else shape

    def same_samples(self, other: AudioFormat) -> bool:
        """
        Tell whether blocks of both are the same to whoever works on them; the greatest length of a block does not matter.

        Args:
            other: The other one; nothing is left open in either.
        """
        return (
            self.sample_rate_hz == other.sample_rate_hz
            and self.channels == other.channels
            and self.sample_type == other.sample_type
            and self.layout == other.layout
            and self.positions == other.positions
        )

    def filled_from(self, other: AudioFormat) -> AudioFormat:
        """
        Return the same format with what is open in it taken from another one.

        Args:
            other: Whose rate, channels and, if their number is the same, names of channels are taken.
        """
        channels = self.channels if self.channels is not None else other.channels
        keeps_names = self.channel_layout is None and channels == other.channels
        return msgspec.structs.replace(
            self,
            sample_rate_hz=self.sample_rate_hz if self.sample_rate_hz is not None else other.sample_rate_hz,
            channels=channels,
            channel_layout=other.channel_layout if keeps_names else self.channel_layout,
        )

    def _known_channels(self) -> int:
        if self.channels is None:
            raise ConfigurationError(f"{self} has no number of channels yet. Give AudioFormat(channels=...).")
        return self.channels

    def __str__(self) -> str:
        rate = "any rate" if self.sample_rate_hz is None else f"{self.sample_rate_hz} Hz"
        if self.channels is None:
            channels = "any channels"
        else:
            channels = f"{self.channels} channel{'' if self.channels == 1 else 's'}"
        if self.channel_layout is not None:
            channels += f" ({self.channel_layout})"
        return f"audio {rate}, {channels}, {self.sample_type}, {self.layout}"


class ArrayFormat(msgspec.Struct, frozen=True):
    """
    Arrays of one type and one shape, such as features or spectra.

    Args:
        dtype: Boolean, integer, float or complex, in this machine's byte order; anything that `numpy.dtype` takes.
        shape: The fixed shape; every axis at least 1.

    Raises:
        ConfigurationError: The type is not numeric or the shape is not fixed.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    if TYPE_CHECKING:  # what the constructor takes is wider than what the attributes hold

        def __init__(self, dtype: npt.DTypeLike, shape: Sequence[int] | int) -> None: ...

    def __post_init__(self) -> None:
        try:
            dtype = np.dtype(self.dtype)
        except (TypeError, ValueError, SyntaxError) as error:  # numpy reads text as a small language
            raise ConfigurationError(f"ArrayFormat: expected a numpy type, got {self.dtype!r}: {error}") from None
        if dtype.kind not in "biufc" or not dtype.isnative:
            raise ConfigurationError(
                f"ArrayFormat: expected a boolean, integer, float or complex type in this machine's byte order, "
                f"got {dtype}. Use StructFormat for records and text."
            )
        try:
            given: Any = self.shape  # not checked yet
            shape = tuple(operator.index(axis) for axis in ((given,) if isinstance(given, int) else given))
        except TypeError:
            raise ConfigurationError(f"ArrayFormat: expected a shape of integers, got {self.shape!r}.") from None
        if not shape or len(shape) > 32 or min(shape) < 1:
            raise ConfigurationError(f"ArrayFormat: expected 1 to 32 axes, each at least 1, got the shape {shape}.")
        force_setattr(self, "dtype", dtype)
        force_setattr(self, "shape", shape)
        _check_payload(self)

    @property
    def is_resolved(self) -> bool:
        """Always true."""
        return True

    @property
    def max_payload_bytes(self) -> int:
        """The size of every block, in bytes."""
        return self.dtype.itemsize * math.prod(self.shape)

    def __str__(self) -> str:
        return f"array {self.dtype} {self.shape}"


class StructFormat(msgspec.Struct, frozen=True):
    """
    Objects of one `msgspec.Struct` class, which may have numpy fields; they travel as MessagePack.

    Args:
        type: The class.
        max_bytes: The largest encoded object, in bytes.

    Raises:
        ConfigurationError: The type is not a Struct class.
    """

    type: StructClass
    max_bytes: int = 65_536

    def __post_init__(self) -> None:
        given: Any = self.type  # not checked yet
        if not (isinstance(given, type) and issubclass(given, msgspec.Struct)):
            raise ConfigurationError(
                f"StructFormat: expected a class derived from msgspec.Struct, got {given!r}. "
                f"Declare it as: class Level(msgspec.Struct): rms_db: float"
            )
        _force_integer(self, "max_bytes", MAX_PAYLOAD_BYTES)

    @property
    def is_resolved(self) -> bool:
        """Always true."""
        return True

    @property
    def max_payload_bytes(self) -> int:
        """The largest encoded object, in bytes."""
        return self.max_bytes

    def __str__(self) -> str:
        return f"struct {self.type.__qualname__}, up to {self.max_bytes} bytes"


class BytesFormat(msgspec.Struct, frozen=True):
    """
    Byte strings of any content.

    Args:
        max_bytes: The longest one.

    Raises:
        ConfigurationError: The length is impossible.
    """

    max_bytes: int = 65_536

    def __post_init__(self) -> None:
        _force_integer(self, "max_bytes", MAX_PAYLOAD_BYTES)

    @property
    def is_resolved(self) -> bool:
        """Always true."""
        return True

    @property
    def max_payload_bytes(self) -> int:
        """The longest byte string."""
        return self.max_bytes

    def __str__(self) -> str:
        return f"bytes, up to {self.max_bytes}"


CARRIERS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "dlpack": (("f32", "f64", "s16", "s32", "u8"), ("interleaved", "planar")),
    "buffer": (("f32", "f64", "s16", "s24", "s32", "u8"), ("interleaved", "planar")),
    "array": (("f32", "f64", "s16", "s32", "u8"), ("interleaved",)),
    "pcm": (("f32", "f64", "s16", "s24", "s32", "u8"), ("interleaved",)),
    "wav": (("f32", "f64", "s16", "s24", "s32", "u8"), ("interleaved",)),
    "flac": (("s16", "s24"), ("interleaved",)),
    "arrow": (("f32", "f64", "s16", "s32", "u8"), ("planar",)),
    "typed_array": (("f32", "f64", "s16", "s32", "u8"), ("interleaved", "planar")),
}
"""What audio may be carried in besides arrays of numpy: by name, the sample types and layouts that fit."""

BYTE_CARRIERS: Final = frozenset({"pcm", "wav", "flac", "typed_array"})
"""Those that are bytes, and so may travel as they are."""

_CARRIER_HEADER_BYTES: Final = 65_536


class CarrierFormat(msgspec.Struct, frozen=True):
    """
    Audio in something else than an array of numpy, which `steadyflow.transform` converts from and to.

    Args:
        carrier: ``"dlpack"`` (torch and friends), ``"buffer"`` (whatever has Python's buffer protocol), ``"array"``
            (`array.array`), ``"pcm"`` (bytes without a header), ``"wav"`` or ``"flac"`` (the bytes of a file), ``"arrow"`` (a
            `pyarrow.RecordBatch`, a column for each channel), ``"typed_array"`` (bytes that JavaScript maps to a typed array).
        audio: What it holds; None: what comes, in the nearest sample type that fits. Where the data itself says what it holds, and
            is converted whole, it may stay open.
        big_endian: Of PCM: the highest byte first. Samples of this machine's order otherwise, which is the lowest first.

    Raises:
        UnknownName: There is no such carrier.
        ConfigurationError: It cannot hold such samples.
    """

    carrier: str
    audio: AudioFormat | None = None
    big_endian: bool = False

    def __post_init__(self) -> None:
        if self.carrier not in CARRIERS:
            raise UnknownName("carrier", self.carrier, CARRIERS, where="CarrierFormat")
        if self.big_endian and self.carrier != "pcm":
            raise ConfigurationError(f"CarrierFormat: expected big_endian of pcm only, got {self.carrier}.")
        if self.audio is None:
            return
        given: object = self.audio  # not checked yet
        if not isinstance(given, AudioFormat):
            raise ConfigurationError(f"CarrierFormat: expected audio to be an AudioFormat or None, got {given!r}.")
        types, layouts = CARRIERS[self.carrier]
        if self.audio.sample_type not in types:
            raise ConfigurationError(
                f"CarrierFormat: expected samples that {self.carrier} holds, {', '.join(types)}; got {self.audio.sample_type}. "
                f"Say AudioFormat(..., sample_type={types[0]!r})."
            )
        if self.audio.layout not in layouts:
            if self.audio.layout != "interleaved":
                raise ConfigurationError(
                    f"CarrierFormat: expected samples as {self.carrier} holds them, {' or '.join(layouts)}; got "
                    f"{self.audio.layout}."
                )
            # Nobody said it, and there is only one.
            force_setattr(self, "audio", msgspec.structs.replace(self.audio, layout=layouts[0]))

    @property
    def is_resolved(self) -> bool:
        """Whether it is known what it holds."""
        return self.audio is not None and self.audio.is_resolved

    @property
    def layout(self) -> Layout:
        """How the samples lie that it holds."""
        return self.held.layout

    @property
    def held(self) -> AudioFormat:
        """
        What it holds.

        Raises:
            ConfigurationError: Nobody said it.
        """
        if self.audio is None:
            raise ConfigurationError(
                f"{self} does not say what it holds. Give CarrierFormat({self.carrier!r}, AudioFormat(...))."
            )
        return self.audio

    def holding(self, audio: AudioFormat) -> CarrierFormat:
        """Return the same carrier with other audio, in the nearest sample type and layout that it holds."""
        types, layouts = CARRIERS[self.carrier]
        wide_enough = [each for each in types if SAMPLE_BITS[each] >= SAMPLE_BITS[audio.sample_type]]
        nearest = min(wide_enough or types, key=lambda each: abs(SAMPLE_BITS[each] - SAMPLE_BITS[audio.sample_type]))
        return msgspec.structs.replace(
            self,
            audio=msgspec.structs.replace(
                audio,
                sample_type=audio.sample_type if audio.sample_type in types else nearest,
                layout=audio.layout if audio.layout in layouts else layouts[0],
            ),
        )

    @property
    def is_bytes(self) -> bool:
        """Whether the data is bytes, which may flow as they are."""
        return self.carrier in BYTE_CARRIERS

    @property
    def max_payload_bytes(self) -> int:
        """The size of the longest block: its samples and what stands around them."""
        return self.held.max_payload_bytes + _CARRIER_HEADER_BYTES

    def __str__(self) -> str:
        order = " big-endian" if self.big_endian else ""
        return f"{self.carrier}{order} of {self.audio or 'any audio'}"


class AnyFormat(msgspec.Struct, frozen=True):
    """Whatever the other end of the pipeline says."""

    @property
    def is_resolved(self) -> bool:
        """Always false: there is nothing to allocate yet."""
        return False

    @property
    def max_payload_bytes(self) -> int:
        """
        Not known.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError("AnyFormat has no size. Declare a format on the other end of the pipeline.")

    def __str__(self) -> str:
        return "any format"


Format: TypeAlias = AudioFormat | ArrayFormat | StructFormat | BytesFormat | CarrierFormat | AnyFormat


def agree(produced: Format, accepted: Format, *, where: str) -> Format:
    """
    Find what flows on a pipeline.

    What one end leaves open is taken from the other. Sizes (`max_block_frames`, `max_bytes`) are the output's: it is
    the output that sends.

    Args:
        produced: The format of the output.
        accepted: The format of the input.
        where: The pipeline, for the message.

    Returns:
        The format of both ends; unresolved if both leave the same thing open.

    Raises:
        FormatClash: The ends want different things.
    """
    if isinstance(accepted, AnyFormat):
        return produced
    if isinstance(produced, AnyFormat):
        return accepted
    if type(produced) is not type(accepted):
        raise _clash(produced, accepted, where, "kind")
    if isinstance(produced, AudioFormat) and isinstance(accepted, AudioFormat):
        return _agree_on_audio(produced, accepted, where)
    if isinstance(produced, CarrierFormat) and isinstance(accepted, CarrierFormat):
        if (produced.carrier, produced.big_endian) != (accepted.carrier, accepted.big_endian):
            raise _clash(produced, accepted, where, "carrier")
        if produced.audio is None or accepted.audio is None:
            return produced if accepted.audio is None else accepted
        return msgspec.structs.replace(produced, audio=_agree_on_audio(produced.audio, accepted.audio, where))
    for field in ("dtype", "shape", "type"):
        if getattr(produced, field, None) != getattr(accepted, field, None):
            raise _clash(produced, accepted, where, field)
    return produced


def _agree_on_audio(produced: AudioFormat, accepted: AudioFormat, where: str) -> AudioFormat:
    open_fields: dict[str, Any] = {}
    for field in ("sample_rate_hz", "channels", "sample_type", "layout", "channel_layout"):
        ours, theirs = getattr(produced, field), getattr(accepted, field)
        if ours is None:
            if theirs is not None:
                open_fields[field] = theirs
        elif theirs is not None and ours != theirs:
            raise _clash(produced, accepted, where, field)
    return msgspec.structs.replace(produced, **open_fields) if open_fields else produced


def _clash(produced: Format, accepted: Format, where: str, field: str) -> FormatClash:
    return FormatClash(
        f"{where}: the output produces {produced}, but the input accepts {accepted}; the {field} differs. "
        f"Declare the same on both ends, or let the pipeline convert: transformation_required=True."
    )


# --- to and from builtin types ------------------------------------------------------------------------------------


def format_to_wire(fmt: Format) -> dict[str, Any]:
    """
    Describe a format by builtin types only, for messages between processes.

    Raises:
        ConfigurationError: The class of a StructFormat cannot be found again by its name.
    """
    match fmt:
        case AudioFormat():
            return {"kind": "audio", **_audio_to_wire(fmt)}
        case ArrayFormat():
            return {"kind": "array", "dtype": fmt.dtype.str, "shape": list(fmt.shape)}
        case StructFormat():
            return {"kind": "struct", "type": class_path(fmt.type), "max_bytes": fmt.max_bytes}
        case BytesFormat():
            return {"kind": "bytes", "max_bytes": fmt.max_bytes}
        case CarrierFormat():
            return {
                "kind": "carrier",
                "carrier": fmt.carrier,
                "audio": None if fmt.audio is None else _audio_to_wire(fmt.audio),
                "big_endian": fmt.big_endian,
            }
        case AnyFormat():
            return {"kind": "any"}


def _audio_to_wire(fmt: AudioFormat) -> dict[str, Any]:
    fields = msgspec.structs.asdict(fmt)
    if fmt.channel_layout is None:  # so that who knows no names understands what has none
        del fields["channel_layout"]
    return fields


def format_from_wire(wire: Mapping[str, Any], resolve: Callable[[str], type] | None = None) -> Format:
    """
    Undo `format_to_wire`.

    Args:
        wire: What `format_to_wire` returned.
        resolve: Finds the class of a StructFormat by its path; `resolve_class` unless given.

    Raises:
        ConfigurationError: The description is not one of a format, or its class cannot be found.
    """
    fields = dict(wire)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise UnknownName("kind of format", kind, _KINDS)
    if kind == "struct":
        fields["type"] = (resolve or resolve_class)(fields.get("type", ""))
    try:
        if kind == "carrier":
            fields["audio"] = None if fields["audio"] is None else AudioFormat(**fields["audio"])
        return _KINDS[kind](**fields)
    except (TypeError, KeyError) as error:
        raise ConfigurationError(f"expected the description of a format, got {dict(wire)}: {error}") from None


_KINDS: Final[dict[str, Callable[..., Format]]] = {
    "audio": AudioFormat,
    "array": ArrayFormat,
    "struct": StructFormat,
    "bytes": BytesFormat,
    "carrier": CarrierFormat,
    "any": AnyFormat,
}


def class_path(cls: type) -> str:
    """
    Return the path by which another process finds a class: ``"package.module:Outer.Name"``.

    The main script is ``__main__`` in the process that started it and ``__mp_main__`` in its workers; both are
    written as ``__main__``.

    Raises:
        ConfigurationError: Nothing is found under that path, or something else.
    """
    module, name = cls.__module__, cls.__qualname__
    try:
        found = _attribute(sys.modules[module], name)
    except (KeyError, AttributeError):
        found = None
    if found is not cls:
        raise ConfigurationError(
            f"class {name} cannot be found as {module}:{name}, so no other process could find it either. "
            f"Define it at the top level of a module, under its own name."
        )
    return f"{'__main__' if module == '__mp_main__' else module}:{name}"


def resolve_class(path: str) -> type:
    """
    Find a class by the path that `class_path` returned. Imports its module: trust the path like code.

    Raises:
        ConfigurationError: There is no such module or class.
    """
    module_name, _, name = path.partition(":")
    try:
        if module_name == "__main__":
            # In a worker, __main__ is the worker's own program; the user's is loaded as __mp_main__.
            module = sys.modules.get("__mp_main__") or sys.modules["__main__"]
        else:
            module = importlib.import_module(module_name)
        found = _attribute(module, name)
    except (ImportError, AttributeError, KeyError, ValueError) as error:
        raise ConfigurationError(f"cannot find the class {path!r}: {error}") from error
    if not isinstance(found, type):
        raise ConfigurationError(f"expected a class at {path!r}, got {found!r}.")
    return found


def _attribute(module: object, qualname: str) -> object:
    for part in qualname.split("."):
        module = getattr(module, part)
    return module


# --- validation ---------------------------------------------------------------------------------------------------


def checked_integer(owner: str, name: str, value: object, most: int) -> int:
    """
    Return a value as an int from 1 to `most`; numpy's integers are welcome, floats and booleans are not.

    Raises:
        ConfigurationError: It is something else; the message names the owner and the value.
    """
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if not 1 <= number <= most:
        raise ConfigurationError(f"{owner}: expected {name} to be an integer from 1 to {most:,}, got {value!r}.")
    return number


def _force_integer(fmt: msgspec.Struct, field: str, most: int) -> None:
    force_setattr(fmt, field, checked_integer(type(fmt).__name__, field, getattr(fmt, field), most))


def _force_channels(fmt: AudioFormat, channel_layout: str) -> None:
    """Let the name of a layout say how many channels there are."""
    if channel_layout not in CHANNEL_LAYOUTS:
        raise UnknownName("channel layout", channel_layout, CHANNEL_LAYOUTS, where="AudioFormat")
    if channel_layout == DISCRETE:
        return
    places = POSITIONS[channel_layout]
    if fmt.channels is None:
        force_setattr(fmt, "channels", len(places))
    elif fmt.channels != len(places):
        raise ConfigurationError(
            f"AudioFormat: expected {len(places)} channels, because channel_layout={channel_layout!r} has {', '.join(places)}; got "
            f"channels={fmt.channels!r}. Leave channels out, or name another layout."
        )


def _check_payload(fmt: AudioFormat | ArrayFormat) -> None:
    if fmt.max_payload_bytes > MAX_PAYLOAD_BYTES:
        raise LimitExceeded(
            f"a block of {fmt} may have {fmt.max_payload_bytes:,} bytes; at most {MAX_PAYLOAD_BYTES:,} are possible. "
            f"Use smaller blocks."
        )
