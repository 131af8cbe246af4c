"""
A block as a message of an MCAP file: its bytes, and the description of its format.

The layout is public (docs/recordings.md), so that other languages can read recordings: a change of it is a new
`MESSAGE_ENCODING`.
"""

from __future__ import annotations

import struct
import sys
from types import ModuleType
from typing import Any, Final, NamedTuple

import msgspec

from steadyflow.errors import ConfigurationError
from steadyflow.formats import AnyFormat, Format, StructFormat, format_from_wire, format_to_wire

MESSAGE_ENCODING: Final = "steadyflow.block.1"
SCHEMA_NAME: Final = "steadyflow.Block"
SCHEMA_ENCODING: Final = "text/plain"
SCHEMA_TEXT: Final = """\
One block of a pipeline, little-endian, without padding:
  offset  type    field
       0  uint64  sequence: the number of the block in its pipeline; a missing number was dropped
       8  int64   timestamp_ns: when its first frame was captured, CLOCK_MONOTONIC
      16  uint64  first_frame: the index of that frame in its stream
      24  uint32  frames: 0 where the payload has none
      28  uint16  flags: 1 DISCONTINUITY, 2 GAP, 4 CORRUPTED, 8 REPEATED, 16 END_OF_STREAM
      30  uint16  metadata_bytes
      32  bytes   payload, up to the metadata: samples, array elements, MessagePack, or bytes, as the channel's format says
     end  bytes   metadata: the last metadata_bytes, a MessagePack map, or nothing
log_time is when the block was sent, CLOCK_MONOTONIC; sequence of the message counts the recorded blocks from 0.
The channel's metadata hold the format as JSON, and unix_offset_ns: what makes a Unix time of a CLOCK_MONOTONIC one.
"""

_HEADER: Final = struct.Struct("<QqQIHH")


class Parts(NamedTuple):
    """A recorded block, taken apart: stamps, payload and metadata, both still encoded."""

    sequence: int
    timestamp_ns: int
    first_frame: int
    frames: int
    flags: int
    payload: memoryview
    metadata: bytes


def pack(
    sequence: int, timestamp_ns: int, first_frame: int, frames: int, flags: int, payload: bytes, metadata: bytes
) -> bytes:
    """Put a block together as it stands in the file."""
    header = _HEADER.pack(sequence, timestamp_ns, first_frame, frames, flags, len(metadata))
    return b"".join((header, payload, metadata))


def unpack(data: memoryview) -> Parts:
    """
    Take a message apart; the payload is a view of `data`.

    Raises:
        ValueError: It is shorter than it says.
    """
    if len(data) < _HEADER.size:
        raise ValueError(f"expected a block of at least {_HEADER.size} bytes, got {len(data)}")
    sequence, timestamp_ns, first_frame, frames, flags, metadata_bytes = _HEADER.unpack_from(data)
    end = len(data) - metadata_bytes
    if end < _HEADER.size:
        raise ValueError(f"expected {metadata_bytes} bytes of metadata, got {len(data) - _HEADER.size}")
    return Parts(sequence, timestamp_ns, first_frame, frames, flags, data[_HEADER.size : end], bytes(data[end:]))


# --- the format of a channel ----------------------------------------------------------------------------------------


def describe_format(fmt: Format) -> str:
    """Describe a format as JSON. The class of a StructFormat is only named, and need not be found again."""
    if isinstance(fmt, StructFormat):
        module = fmt.type.__module__
        path = f"{'__main__' if module == '__mp_main__' else module}:{fmt.type.__qualname__}"
        wire: dict[str, Any] = {"kind": "struct", "type": path, "max_bytes": fmt.max_bytes}
    else:
        wire = format_to_wire(fmt)
    return msgspec.json.encode(wire).decode()


def read_description(text: str) -> dict[str, Any]:
    """
    Undo `describe_format`, up to the class of a StructFormat.

    Raises:
        ValueError: The text describes no format.
    """
    try:
        wire = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{text[:80]!r} describes no format: {error}") from None
    if wire.get("kind") == "struct" and not isinstance(wire.get("type"), str):
        raise ValueError(f"{text[:80]!r} names no class")
    # For the check, a class that certainly is there takes the place of the one that is named.
    fmt = build_format(wire, msgspec.Struct)
    if isinstance(fmt, AnyFormat) or not fmt.is_resolved:
        raise ValueError(f"{fmt} is no complete format")
    return wire


def build_format(wire: dict[str, Any], cls: type) -> Format:
    """
    Make a format of its description.

    Args:
        wire: What `read_description` returned.
        cls: The class of a StructFormat; others have none.

    Raises:
        ValueError: It describes no format; a `ConfigurationError` is one, too.
    """
    try:
        return format_from_wire(wire, lambda path: cls)
    except (TypeError, AttributeError) as error:  # fields of other types than a format ever had
        raise ValueError(f"{wire} describes no format: {error}") from None


def loaded_class(path: str, *, where: str) -> type:
    """
    Find the class that a recording names, among what this program has imported already.

    A recording is data: reading one imports nothing, whatever name stands in it.

    Raises:
        ConfigurationError: The module is not loaded, or has no such class.
    """
    module, _, name = path.partition(":")
    if module != "__main__" and module not in sys.modules:
        raise ConfigurationError(
            f"{where}: its blocks are objects of the class {name!r} of module {module!r}, which is not loaded, and a "
            f"recording imports nothing. Import it first, give format=StructFormat(YourClass), or give "
            f"format=BytesFormat() for the encoded objects."
        )
    # What is there, and nothing that an attribute would bring: modules may import on demand.
    found: object = (
        sys.modules.get("__mp_main__", sys.modules["__main__"]) if module == "__main__" else sys.modules[module]
    )
    for part in name.split("."):
        found = vars(found).get(part) if isinstance(found, type | ModuleType) else None
    if not isinstance(found, type):
        raise ConfigurationError(
            f"{where}: cannot find the class {path!r} in what is loaded. Give format=StructFormat(YourClass), or "
            f"format=BytesFormat() for the encoded objects."
        )
    return found
