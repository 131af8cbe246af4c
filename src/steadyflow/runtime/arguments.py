"""
Constructor arguments that travel to a process.

A module of a process worker is constructed twice: here, and again in the worker, with the same arguments. They travel
as MessagePack: what MessagePack has as itself, everything else as ``[tag, ...]``. Types come out exactly as they
went in. Nothing is pickled; what is not written below is refused, and the message says where it is.

Two arguments that hold the same object get one copy each.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import io
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from msgspec.structs import force_setattr

from steadyflow.errors import ArgumentRefused, ConfigurationError
from steadyflow.formats import Format, class_path, format_from_wire, format_to_wire, resolve_class

Resolve: TypeAlias = Callable[[str], type]
Place: TypeAlias = tuple[str, ...]

# Deep enough for any configuration; also ends the walk through a list that contains itself.
_MAX_DEPTH: Final = 64

_ADVICE: Final = (
    "Pass plain data (numbers, text, lists, dicts, paths, enums, arrays, formats, Structs, dataclasses) and make the "
    'object itself in setup(), which runs in the worker; or use placement="thread".'
)


def encode_arguments(
    args: Sequence[object], kwargs: Mapping[str, object], *, owner: str, names: Sequence[str] = ()
) -> bytes:
    """
    Encode the arguments of a constructor.

    Args:
        args: The positional arguments.
        kwargs: The keyword arguments.
        owner: The module that they construct, for the message.
        names: The names of the positional parameters, for the message; see `parameter_names`.

    Raises:
        ArgumentRefused: Something cannot travel; the message names the owner, the argument, the place within it, its
            type, and what to do.
    """
    writer = _Writer(owner)
    labels = [f"argument `{name}`" for name in names] + [f"argument {i + 1}" for i in range(len(names), len(args))]
    positional = [writer.write(value, (label,)) for value, label in zip(args, labels, strict=False)]
    by_name = {name: writer.write(value, (f"argument `{name}`",)) for name, value in kwargs.items()}
    return msgspec.msgpack.encode((positional, by_name))


def decode_arguments(payload: bytes, resolve: Resolve = resolve_class) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """
    Undo `encode_arguments`.

    Args:
        payload: What `encode_arguments` returned; trust it like code, since it names classes to import.
        resolve: Finds a class by its path, ``"module:Name"``; classes of the main script are in ``"__main__"``.

    Returns:
        The positional and the keyword arguments.

    Raises:
        ArgumentRefused: The bytes are not encoded arguments.
        ConfigurationError: A class cannot be found.
    """
    try:
        positional, by_name = msgspec.msgpack.decode(payload, type=tuple[list[Any], dict[str, Any]])
    except msgspec.DecodeError as error:
        raise ArgumentRefused(f"expected encoded constructor arguments, got something else: {error}") from None
    reader = _Reader(resolve)
    return tuple(reader.read_all(positional)), {name: reader.read(value) for name, value in by_name.items()}


def parameter_names(cls: type) -> tuple[str, ...]:
    """Return the names of the positional parameters of a class's constructor, without ``self``."""
    constructor = getattr(cls, "__init__", None)
    code = getattr(constructor, "__code__", None)
    return () if code is None else tuple(code.co_varnames[1 : code.co_argcount])


# --- writing ------------------------------------------------------------------------------------------------------


class _Writer:
    """Turns arguments into MessagePack's own types; remembers whose they are, for the message."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    def write(self, value: object, place: Place) -> object:
        if len(place) > _MAX_DEPTH:
            raise self.refusal(place[:4], f"is nested deeper than {_MAX_DEPTH} levels, or contains itself")
        if value is None or type(value) in _PLAIN:
            return value
        # By exact type: an instance of a subclass would come out as one of its base class.
        leaf = _leaf_writers().get(type(value))
        if leaf is not None:
            return leaf(value)
        try:
            return self._write_compound(value, place)
        except ArgumentRefused:
            raise
        except ConfigurationError as error:
            raise self.refusal(place, f"cannot travel to a process: {error}") from None

    def _write_compound(self, value: Any, place: Place) -> object:
        kind = type(value)
        if kind is list or kind is tuple:
            return [kind.__name__, *self._write_all(value, place)]
        if kind is set or kind is frozenset:
            return [kind.__name__, *(self.write(member, (*place, "[a member]")) for member in value)]
        if kind is dict:
            return ["dict", *self._write_pairs(value, place)]
        if kind is datetime.datetime or kind is datetime.time:
            naive = value.replace(tzinfo=None, fold=0).isoformat()
            return [kind.__name__, naive, value.fold, self._write_zone(value.tzinfo, place)]
        if kind is np.ndarray or isinstance(value, np.generic):
            return self._write_array(value, place)
        if isinstance(value, enum.Enum):
            named = value.name in kind.__members__  # a mix of flags has no name of its own
            return ["enum", class_path(kind), named, value.name if named else value.value]
        if isinstance(value, Format):
            return ["format", format_to_wire(value)]
        if isinstance(value, msgspec.Struct):
            return self._write_fields("struct", value, value.__struct_fields__, place)
        if not isinstance(value, type) and hasattr(kind, "__dataclass_fields__"):
            return self._write_fields("dataclass", value, self._dataclass_fields(value, place), place)
        raise self.refusal(place, f"is {_describe(value)}, which cannot travel to a process")

    def _write_all(self, values: Sequence[object], place: Place) -> list[object]:
        return [self.write(value, (*place, f"[{i}]")) for i, value in enumerate(values)]

    def _write_pairs(self, pairs: Mapping[object, object], place: Place) -> Iterator[object]:
        for key, value in pairs.items():
            yield self.write(key, (*place, f"[key {key!r:.40}]"))
            yield self.write(value, (*place, f"[{key!r:.40}]"))

    def _write_fields(self, tag: str, value: object, names: Iterable[str], place: Place) -> list[object]:
        fields = {name: self.write(getattr(value, name), (*place, f".{name}")) for name in names}
        return [tag, class_path(type(value)), fields]

    def _dataclass_fields(self, value: Any, place: Place) -> Iterator[str]:
        for name, field in value.__dataclass_fields__.items():
            kind = field._field_type.name  # the public fields() hides the one kind that matters here
            if kind == "_FIELD_INITVAR":
                raise self.refusal((*place, f".{name}"), "is an InitVar, whose value the dataclass does not keep")
            if kind == "_FIELD":
                yield name

    def _write_zone(self, zone: datetime.tzinfo | None, place: Place) -> object:
        if zone is None:
            return None
        if type(zone) is datetime.timezone:
            return ["timezone", *self._write_all(zone.__getinitargs__(), place)]  # type: ignore[attr-defined]
        key = getattr(zone, "key", None)
        if key is None or type(zone).__module__ != "zoneinfo":
            raise self.refusal((*place, ".tzinfo"), f"is {_describe(zone)}, which cannot travel to a process")
        return ["zoneinfo", key]

    def _write_array(self, value: np.ndarray[Any, Any] | np.generic, place: Place) -> object:
        # "T": text of any length, which numpy keeps outside of the array and can only pickle.
        if value.dtype.hasobject or value.dtype.kind == "T":
            raise self.refusal(place, f"is an array of type {value.dtype}, which holds Python objects")
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)  # numpy's file format keeps byte order, memory order and records
        return ["array" if isinstance(value, np.ndarray) else "scalar", file.getvalue()]

    def refusal(self, place: Place, problem: str) -> ArgumentRefused:
        argument, *items = place
        label = f"{argument}, item {''.join(items)}," if items else argument
        return ArgumentRefused(f"{self.owner}: {label} {problem}. {_ADVICE}")


def _describe(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    kind = type(value)
    if kind.__name__ in ("function", "builtin_function_or_method", "method"):
        return f"the {kind.__name__} {getattr(value, '__qualname__', '')}"
    return (
        f"of type {kind.__qualname__}"
        if kind.__module__ == "builtins"
        else f"of type {kind.__module__}.{kind.__qualname__}"
    )


_PLAIN: Final = frozenset({bool, float, bytes})


@functools.cache
def _leaf_writers() -> dict[type, Callable[[Any], object]]:
    import pathlib  # here, since `import steadyflow` does not need it

    return {
        int: _write_int,
        str: _write_str,
        bytearray: lambda value: ["bytearray", bytes(value)],
        type(pathlib.Path()): lambda value: ["path", _write_str(str(value))],
        datetime.date: lambda value: ["date", value.isoformat()],
        datetime.timedelta: lambda value: ["timedelta", value.days, value.seconds, value.microseconds],
        uuid.UUID: lambda value: ["uuid", value.bytes],
        decimal.Decimal: lambda value: ["decimal", str(value)],
    }


def _write_int(value: int) -> object:
    return value if -(1 << 63) <= value < 1 << 64 else ["int", hex(value)]


def _write_str(value: str) -> object:
    try:
        value.encode()
    except UnicodeEncodeError:  # lone surrogates, such as os.fsdecode makes for odd file names
        return ["str", value.encode("utf-8", "surrogatepass")]
    return value


# --- reading ------------------------------------------------------------------------------------------------------


class _Reader:
    """Undoes `_Writer`."""

    def __init__(self, resolve: Resolve) -> None:
        self.resolve = resolve

    def read(self, value: Any) -> Any:
        if type(value) is not list:
            return value
        tag, *content = value
        match tag:
            case "list":
                return self.read_all(content)
            case "tuple":
                return tuple(self.read_all(content))
            case "set":
                return set(self.read_all(content))
            case "frozenset":
                return frozenset(self.read_all(content))
            case "dict":
                items = self.read_all(content)
                return dict(zip(items[::2], items[1::2], strict=True))
            case "path":
                return _path(self.read(content[0]))
            case "datetime":
                naive = datetime.datetime.fromisoformat(content[0])
                return naive.replace(fold=content[1], tzinfo=self.read(content[2]))
            case "time":
                return datetime.time.fromisoformat(content[0]).replace(fold=content[1], tzinfo=self.read(content[2]))
            case "timezone":
                return datetime.timezone(*self.read_all(content))
            case "enum":
                return self._read_enum(*content)
            case "format":
                return format_from_wire(content[0], self.resolve)
            case "struct":
                return self._read_struct(*content)
            case "dataclass":
                return self._read_dataclass(*content)
            case _ if tag in _LEAF_READERS:
                return _LEAF_READERS[tag](*content)
        raise ArgumentRefused(f"expected encoded constructor arguments, got the unknown tag {tag!r}.")

    def read_all(self, values: Iterable[Any]) -> list[Any]:
        return [self.read(value) for value in values]

    def _read_enum(self, path: str, named: bool, key: Any) -> Any:
        cls: Any = self.resolve(path)
        return cls[key] if named else cls(key)

    def _read_struct(self, path: str, fields: dict[str, Any]) -> Any:
        values = {name: self.read(value) for name, value in fields.items()}
        made = self.resolve(path)(**values)
        for name, value in values.items():  # exactly what was sent, also where __post_init__ changes it
            force_setattr(made, name, value)
        return made

    def _read_dataclass(self, path: str, fields: dict[str, Any]) -> Any:
        cls: Any = self.resolve(path)
        values = {name: self.read(value) for name, value in fields.items()}
        made = cls(**{name: value for name, value in values.items() if cls.__dataclass_fields__[name].init})
        for name, value in values.items():  # as above, and also where the dataclass is frozen
            object.__setattr__(made, name, value)
        return made


def _path(text: str) -> object:
    import pathlib

    return pathlib.Path(text)


def _zone(key: str) -> datetime.tzinfo:
    import zoneinfo

    return zoneinfo.ZoneInfo(key)


_LEAF_READERS: Final[dict[str, Callable[..., object]]] = {
    "int": lambda text: int(text, 16),
    "str": lambda raw: raw.decode("utf-8", "surrogatepass"),
    "bytearray": bytearray,
    "date": datetime.date.fromisoformat,
    "timedelta": datetime.timedelta,
    "zoneinfo": _zone,
    "uuid": lambda raw: uuid.UUID(bytes=raw),
    "decimal": decimal.Decimal,
    "array": lambda raw: np.load(io.BytesIO(raw), allow_pickle=False),
    "scalar": lambda raw: np.load(io.BytesIO(raw), allow_pickle=False)[()],
}
