"""Events as bytes, on their way from a worker process to the coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from steadyflow.errors import ConfigurationError, DataError
from steadyflow.events.event import FlowEvent

MAX_EVENT_BYTES: Final = 4096
"""How long an event from a process may be."""

# How a script is called in the processes that its modules run in.
_MAIN_THERE: Final = "__mp_main__"
_MAIN_HERE: Final = "__main__"


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    """
    What travels.

    Args:
        kind: Module and name of the event's class.
        event: Its fields.
        lost: How many events of this worker had no room so far.
    """

    kind: str
    event: msgspec.Raw
    lost: int


_encoder: Final = msgspec.msgpack.Encoder()
_decoders: Final[dict[type, msgspec.msgpack.Decoder[Any]]] = {}
_decoder: Final = msgspec.msgpack.Decoder(_Envelope)


def encode_event(event: FlowEvent, lost: int) -> bytes:
    """
    Encode an event.

    Raises:
        ConfigurationError: It is too long, or of a class that cannot be decoded again.
    """
    _decoder_of(type(event))
    encoded = _encoder.encode(_Envelope(_name(type(event)), msgspec.Raw(_encoder.encode(event)), lost))
    if len(encoded) > MAX_EVENT_BYTES:
        raise ConfigurationError(
            f"publish: expected a {type(event).__qualname__} of at most {MAX_EVENT_BYTES} bytes from a process, got {len(encoded)}. "
            f"Send what is long through a pipeline."
        )
    return encoded


def decode_event(encoded: bytes) -> tuple[FlowEvent, int]:
    """
    Decode what `encode_event` has made; return how many were lost before, too.

    The class is one of those that this process has loaded: nothing is imported for a name that comes from elsewhere.

    Raises:
        DataError: It is damaged, or of a class that is not loaded here.
    """
    try:
        envelope = _decoder.decode(encoded)
        kind = _classes().get(envelope.kind)
        if kind is None:
            raise DataError(
                f"expected an event of a class that the program has loaded, got {envelope.kind!r}. Import its module where the flow is "
                f"made."
            )
        event: FlowEvent = _decoder_of(kind).decode(envelope.event)
    except (msgspec.MsgspecError, ConfigurationError, UnicodeDecodeError, RecursionError) as damage:
        raise DataError(f"expected an event, got something else: {damage}") from damage
    return event, envelope.lost


def _decoder_of(kind: type[FlowEvent]) -> msgspec.msgpack.Decoder[Any]:
    found = _decoders.get(kind)
    if found is None:
        try:
            found = _decoders[kind] = msgspec.msgpack.Decoder(kind)
        except Exception as problem:
            raise ConfigurationError(
                f"publish: expected the fields of {kind.__qualname__} to be of types that msgspec can decode, because it comes from a "
                f"process: {problem}"
            ) from problem
    return found


def _name(kind: type) -> str:
    module = _MAIN_HERE if kind.__module__ == _MAIN_THERE else kind.__module__
    return f"{module}:{kind.__qualname__}"


def _classes() -> dict[str, type[FlowEvent]]:
    # Looked for each time: they are few, and so are events.
    return {_name(kind): kind for kind in _descendants(FlowEvent)}


def _descendants(kind: type[Any]) -> Iterator[type[Any]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)
