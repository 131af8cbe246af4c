"""From what TOML has to the types of Python: by msgspec, with the place and the near miss in every error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import inspect as types

from steadyflow.errors import ConfigurationError, UnknownName
from steadyflow.toml.document import TomlDocument
from steadyflow.toml.keys import Key
from steadyflow.toml.problems import Problems

_WITH_FIELDS: Final = (types.StructType, types.DataclassType, types.TypedDictType)
_WITH_ITEMS: Final = (
    types.ListType,
    types.SetType,
    types.FrozenSetType,
    types.VarTupleType,
    types.CollectionType,
)
# TOML has no bytes, and text in base64 is not what a person writes; the fields of a tuple have no keys in a file.
_LEFT_ALONE: Final = (types.BytesType, types.ByteArrayType, types.MemoryViewType, types.NamedTupleType)

# What msgspec says: "Expected `int | null`, got `str` - at `$.format.channels`"
_PLACE: Final = re.compile(r" - at `\$(?P<steps>[^`]*)`$")
_STEP: Final = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]")
_EXPECTED: Final = re.compile(r"Expected `(?P<kinds>[^`]*)`(?P<more>.*?)(?:, got `[^`]*`)?$")
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_WORDS: Final = {
    "array": "an array",
    "bool": "true or false",
    "datetime": "a date and time",
    "float": "a number",
    "int": "an integer",
    "object": "a table",
    "str": "text",
}


def converted(value: object, kind: Any, document: TomlDocument, key: Key) -> Any:
    """
    Convert a value of a TOML file: tables to Structs and dataclasses, text to enumerations and paths, and so on.

    Args:
        value: What the file says.
        kind: The type that is wanted.
        document: The file.
        key: Where in it.

    Returns:
        The converted value. What msgspec cannot convert to, such as a class of the user's, is returned as it is.

    Raises:
        UnknownName: A table has a key, or text has a value, that the type does not know; offers the nearest.
        ConfigurationError: Something else came; names file, line, key and value.
        SeveralProblems: Several unknown keys.
    """
    try:
        info = types.type_info(kind)
    except (TypeError, NameError, AttributeError):
        return value
    if not _is_known(info):
        return value
    problems = Problems()
    for unknown, names in _unknown_keys(value, info, key):
        problems.add(UnknownName("key", unknown[-1], names, where=document.where(*unknown)))
    problems.raise_if_any(document.where(*key))
    try:
        return msgspec.convert(value, kind, dec_hook=_convert_leaf)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), value, info, document, key) from None
    except Exception as error:  # a Struct's own check may raise anything
        problem = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"{document.where(*key)}: {value!r} was refused by {kind!r}: {problem}.") from error


def _convert_leaf(kind: type, value: Any) -> Any:
    return kind(value) if isinstance(value, str) else value


def _is_known(info: types.Type, around: tuple[type, ...] = ()) -> bool:
    """Whether a file can say all of a type; else the value is left alone."""
    if isinstance(info, types.CustomType):
        return info.cls is np.dtype or info.cls.__module__.partition(".")[0] == "pathlib"
    if isinstance(info, _LEFT_ALONE):
        return False
    if isinstance(info, _WITH_FIELDS):
        cls: Any = info.cls
        return cls in around or all(_is_known(field.type, (*around, cls)) for field in info.fields)
    return all(_is_known(inner, around) for inner in _inner_types(info))


def _inner_types(info: types.Type) -> Iterator[types.Type]:
    if isinstance(info, types.UnionType):
        yield from info.types
    elif isinstance(info, types.TupleType):
        yield from info.item_types
    elif isinstance(info, types.DictType):
        yield from (info.key_type, info.value_type)
    elif isinstance(info, types.Metadata):
        yield info.type
    elif isinstance(info, _WITH_ITEMS):
        yield info.item_type


def _unknown_keys(value: object, info: types.Type, key: Key) -> Iterator[tuple[Key, list[str]]]:
    """Yield the keys of tables that their types have no fields for, and the names of those."""
    if isinstance(value, dict):
        tables = [each for each in _alternatives(info) if isinstance(each, _WITH_FIELDS)]
        if len(tables) == 1:  # which one of several is meant, msgspec finds out by their tags
            known = [field.encode_name for field in tables[0].fields]
            tag = getattr(tables[0], "tag_field", None)
            yield from (((*key, name), known) for name in value if name not in known and name != tag)
    for step, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        below = _type_below(info, step)
        if below is not None:
            yield from _unknown_keys(inner, below, (*key, step))


def _alternatives(info: types.Type) -> Iterator[types.Type]:
    if isinstance(info, types.UnionType):
        for each in info.types:
            yield from _alternatives(each)
    elif isinstance(info, types.Metadata):
        yield from _alternatives(info.type)
    else:
        yield info


def _type_below(info: types.Type, step: str | int) -> types.Type | None:
    """Return the type of a field, a value of a dict, or an entry of an array."""
    for each in _alternatives(info):
        if isinstance(step, int):
            if isinstance(each, _WITH_ITEMS):
                return each.item_type
            if isinstance(each, types.TupleType) and step < len(each.item_types):
                return each.item_types[step]
        elif isinstance(each, types.DictType):
            return each.value_type
        elif isinstance(each, _WITH_FIELDS):
            return next((field.type for field in each.fields if field.encode_name == step), None)
    return None


def _refusal(message: str, value: Any, info: types.Type, document: TomlDocument, key: Key) -> ConfigurationError:
    """Say what msgspec said, with the key as the file writes it, the value that came, and the near miss."""
    kind: types.Type | None = info
    place = _PLACE.search(message)
    # "[...]" is some value of a dict; what is below it cannot be found.
    for step in _STEP.finditer(place["steps"].partition("[...]")[0]) if place else ():
        part: str | int = step["name"] or int(step["index"])
        value, key = value[part], (*key, part)
        kind = None if kind is None else _type_below(kind, part)
    if place:
        message = message[: place.start()]
    where = document.where(*key)
    if missing := _MISSING.fullmatch(message):
        return ConfigurationError(f"{where}: {missing['name']} is missing.")
    allowed = [] if kind is None else list(_allowed_values(kind))
    if message.startswith("Invalid enum value") and allowed:
        return UnknownName("value", value, allowed, where=where)
    expected = _EXPECTED.fullmatch(message)
    if expected is None:
        return ConfigurationError(f"{where}: {message.rstrip('.')}. Got {value!r}.")
    kinds = [_WORDS.get(each, each) for each in expected["kinds"].split(" | ") if each != "null"]
    return ConfigurationError(f"{where}: expected {' or '.join(kinds)}{expected['more']}, got {value!r}.")


def _allowed_values(kind: types.Type) -> Iterator[str]:
    for each in _alternatives(kind):
        if isinstance(each, types.LiteralType):
            yield from map(str, each.values)
        elif isinstance(each, types.EnumType):
            yield from (str(member.value) for member in each.cls)
