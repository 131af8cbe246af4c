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


def override_settings(overrides: object) -> list[Setting]:
    """
    Return the overrides of `load_flow` as settings.

    Raises:
        ConfigurationError: They are no mapping from text.
    """
    given = {} if overrides is None else overrides
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ConfigurationError(
            f"load_flow: expected overrides to be a mapping from keys as text to values, such as "
            f'{{"pipelines.0.buffer_size": 8}}, got {overrides!r}.'
        )
    return [Setting(key, value, f"override {key}") for key, value in given.items()]


def apply_settings(document: TomlDocument, settings: Iterable[Setting]) -> None:
    """
    Replace values of a flow file. The last part of a key may be new; what is around it must be there, except for the
    tables that a file may leave out, which are made.

    Args:
        document: The file.
        settings: What replaces what; later ones see what earlier ones did.

    Raises:
        UnknownName: No such table, module or pipeline; offers the nearest.
        ConfigurationError: It is no key, or leads into something that is no table.
    """
    for key, value, source in settings:
        try:
            parts = parse_key(key)
        except ConfigurationError as error:
            raise located(error, f"{document.path}, {source}") from None
        document.replace(_resolve(document, parts, source), value, source)


def _resolve(document: TomlDocument, key: Key, source: str) -> Key:
    """Return the key as the document has it: entries of arrays by number. Makes optional tables on the way."""
    where = f"{document.path}, {source}"
    here: Any = document.content
    resolved: Key = ()
    for part in map(str, key[:-1]):
        step = _step(here, part, resolved, where)
        if isinstance(here, dict) and part not in here:
            if not _may_be_made(part, resolved):
                known = sorted({*here, *_optional_tables(resolved)})
                raise UnknownName(_KINDS.get(resolved, "key"), part, known, where=where)
            document.replace((*resolved, part), {}, source)
        here, resolved = here[step], (*resolved, step)
    return (*resolved, _step(here, str(key[-1]), resolved, where))


def _step(here: object, part: str, around: Key, where: str) -> str | int:
    if isinstance(here, list):
        return _entry(here, part, around, where)
    if not isinstance(here, dict):
        raise ConfigurationError(f"{where}: expected {show_key(around)} to be a table, but it is {here!r}.")
    return part


def _may_be_made(part: str, around: Key) -> bool:
    # Which tables a constructor takes is known once its module has been imported; then what is misspelt is found.
    return part in _optional_tables(around) or (around[:1] == ("modules",) and around[2:3] == ("arguments",))


def _optional_tables(around: Key) -> tuple[str, ...]:
    """Return the tables that a file may leave out there."""
    match around:
        case ():
            return ("flow",)
        case ("modules", _):
            return ("arguments",)
        case ("pipelines", int()):
            return ("backpressure_strategy", "conversion", "validation")
    return ()


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
