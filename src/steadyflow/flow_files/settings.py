"""Values that replace those of a flow file: ``modules.take.arguments.path=x.wav``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from steadyflow.errors import ConfigurationError, UnknownName, located
from steadyflow.toml import Key, TomlDocument, parse_key, show_key
from steadyflow.toml.keys import DOTTED_KEY
from steadyflow.toml.pipelines import entry_labels, find_entry

_KINDS: Final[Mapping[Key, str]] = {(): "table", ("modules",): "module"}


class Setting(NamedTuple):
    """
    A value that replaces one of the file.

    Args:
        key: Where, such as ``pipelines.0.buffer_size``; a pipeline may also be called by its name, or by ``from->to``.
        value: What it is from now on.
        source: Who says so, for messages, such as ``--set pipelines.0.buffer_size``.
    """

    key: str
    value: object
    source: str

    @classmethod
    def parse(cls, text: str, option: str) -> Setting:
        """
        Read ``KEY=VALUE``.

        Args:
            text: VALUE is TOML (``8``, ``true``, ``"x"``, ``[1, 2]``); what is none is text (``x.wav``).
            option: The option of the command line that said it.

        Raises:
            ConfigurationError: It does not begin with a key and ``=``.
        """
        import tomllib

        key = DOTTED_KEY.match(text)
        rest = text[key.end() :].lstrip() if key else ""
        if key is None or not rest.startswith("="):
            raise ConfigurationError(
                f"{option}: expected KEY=VALUE such as modules.take.arguments.path=x.wav, or "
                f"'pipelines.\"take.out->pitch.audio\".buffer_size=8', got {text!r}."
            )
        value: object = rest[1:].strip()
        try:
            content = tomllib.loads(f"value = {value}")
        except (ValueError, RecursionError):
            content = {}
        if len(content) == 1:  # several lines may be more than one value, and are text
            value = content["value"]
        return cls(key[0], value, f"{option} {key[0]}")


def apply_settings(document: TomlDocument, settings: Iterable[Setting]) -> None:
    """
    Replace values of a flow file. The last part of a key may be new; what is around it must be there, except for the
    tables that a file may leave out.

    Args:
        document: The file.
        settings: What replaces what; later ones see what earlier ones did.

    Raises:
        UnknownName: No such table, module or pipeline; offers the nearest.
        ConfigurationError: It is no key, or leads into something that is no table.
    """
    for key, value, source in settings:
        where = f"{document.path}, {source}"
        try:
            parts = parse_key(key)
        except ConfigurationError as error:
            raise located(error, where) from None
        document.replace(_resolve(document.content, parts, where), value, source)


def _resolve(content: dict[str, Any], key: Key, where: str) -> Key:
    """Return the key as the content has it: entries of arrays by number. Makes optional tables on the way."""
    here: Any = content
    resolved: Key = ()
    for part in map(str, key[:-1]):
        step = _step(here, part, resolved, where)
        if isinstance(here, dict) and part not in here:
            if part != _optional_table(resolved):
                known = sorted({*here, _optional_table(resolved)} - {""})
                raise UnknownName(_KINDS.get(resolved, "key"), part, known, where=where)
            here[part] = {}
        here, resolved = here[step], (*resolved, step)
    return (*resolved, _step(here, str(key[-1]), resolved, where))


def _step(here: object, part: str, around: Key, where: str) -> str | int:
    if isinstance(here, list):
        return _entry(here, part, around, where)
    if not isinstance(here, dict):
        raise ConfigurationError(f"{where}: expected {show_key(around)} to be a table, but it is {here!r}.")
    return part


def _optional_table(around: Key) -> str:
    """Return the table that a file may leave out there."""
    if around and around[0] == "modules" and len(around) == 2:
        return "arguments"
    return "" if around else "flow"


def _entry(entries: list[Any], part: str, array: Key, where: str) -> int:
    """Return the number of an entry of an array."""
    numbers = [str(index) for index in range(len(entries))]
    if part in numbers:
        return int(part)
    if array != ("pipelines",):
        raise UnknownName("entry", part, numbers, where=where)
    found = find_entry(entries, part)
    if found is None:
        raise UnknownName("pipeline", part, entry_labels(entries), where=where)
    return found
