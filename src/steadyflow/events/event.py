"""What an event is: a frozen dataclass that says when it happened, and how soon it has to be told."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, TypeAlias, get_args

import msgspec

from steadyflow._native import monotonic_ns
from steadyflow.errors import ConfigurationError

Delivery: TypeAlias = Literal["critical", "high", "normal"]
"""How soon an event reaches those who subscribed to its type."""

LIMITS_MS: Final[Mapping[Delivery, float]] = MappingProxyType({"critical": 1.0, "high": 5.0, "normal": 100.0})
"""Within how many ms, by class."""

_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})
_checked: set[type] = set()


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowEvent:
    """
    Something of note.

    Events of your own are made in the same way::

        @dataclass(frozen=True, kw_only=True)
        class SpeakerChanged(FlowEvent):
            delivery: ClassVar[Delivery] = "high"
            speaker: str

    Args:
        flow: The name of the flow; where it is left empty, the bus fills it in.
        timestamp_ns: When, on the monotonic clock.

    Attributes:
        delivery: How soon it has to be told: ``"critical"``, ``"high"`` or ``"normal"``.
    """

    delivery: ClassVar[Delivery] = "normal"

    flow: str = ""
    timestamp_ns: int = dataclasses.field(default_factory=monotonic_ns)


def is_own(event: FlowEvent) -> bool:
    """Tell whether an event is one of those that this package publishes."""
    return type(event).__module__.startswith("steadyflow.events.")


def check_event_class(where: str, kind: object) -> None:
    """
    Check that something is a class of events.

    Raises:
        ConfigurationError: It is none, is not frozen, or of a class of delivery that there is not.
    """
    if isinstance(kind, type) and kind in _checked:
        return
    if not isinstance(kind, type) or not issubclass(kind, FlowEvent):
        raise ConfigurationError(f"{where}: expected a class of events, such as FlowEvent or DeviceLost, got {kind!r}.")
    # A subclass that is no dataclass of its own has the parameters of its base.
    parameters: Any = vars(kind).get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise ConfigurationError(
            f"{where}: expected {kind.__qualname__} to be a frozen dataclass; write @dataclass(frozen=True, kw_only=True) above it."
        )
    delivery: object = kind.delivery
    check_delivery(f"{where}: {kind.__qualname__}.delivery", delivery)
    _checked.add(kind)


def check_delivery(where: str, delivery: object) -> None:
    """
    Check the name of a class of delivery.

    Raises:
        ConfigurationError: There is none of that name.
    """
    if delivery not in get_args(Delivery):
        raise ConfigurationError(f"{where}: expected one of {', '.join(map(repr, LIMITS_MS))}, got {delivery!r}.")


def check_event(event: FlowEvent) -> None:
    """
    Check that an event can be given to several readers, and sent to another process: that nothing in it can change.

    Raises:
        ConfigurationError: It is no event, or a field can be changed or encoded by nobody; names the field.
    """
    check_event_class("publish", type(event))
    for field in dataclasses.fields(event):
        _check_value(f"{type(event).__qualname__}.{field.name}", getattr(event, field.name))


def _check_value(name: str, value: object) -> None:
    kind = type(value)
    if kind is int:
        number: Any = value
        if not -(1 << 63) <= number < 1 << 64:
            raise ConfigurationError(f"publish: expected {name} to be an integer of 64 bits, got {value!r:.60}.")
        return
    if kind in _PLAIN:
        return
    if isinstance(value, enum.Enum):
        _check_value(f"{name}.value", value.value)
        return
    if kind is tuple:
        items: Any = value
        for number, item in enumerate(items):
            _check_value(f"{name}[{number}]", item)
    elif isinstance(value, msgspec.Struct) and kind.__struct_config__.frozen:  # type: ignore[attr-defined]
        for field in kind.__struct_fields__:  # type: ignore[attr-defined]
            _check_value(f"{name}.{field}", getattr(value, field))
    elif dataclasses.is_dataclass(kind) and getattr(kind, "__dataclass_params__").frozen:  # noqa: B009  (unknown to type checkers)
        for each in dataclasses.fields(kind):
            _check_value(f"{name}.{each.name}", getattr(value, each.name))
    else:
        raise ConfigurationError(
            f"publish: expected {name} to be something that cannot change and can be encoded: None, bool, int, float, str, bytes, an "
            f"Enum, a tuple of those, or a frozen dataclass or Struct of those; got {value!r}."
        )
