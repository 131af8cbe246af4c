"""The way to something in a TOML file: names of tables and numbers of entries."""

from __future__ import annotations

import json
import re
from typing import Any, Final, TypeAlias

from steadyflow.errors import ConfigurationError

Key: TypeAlias = tuple[str | int, ...]

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_PART: Final = rf"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|{_BARE.pattern})"""
DOTTED_KEY: Final = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")


def show_key(key: Key) -> str:
    """Write a key as TOML does: ``modules.take.use``, ``pipelines.0."a name"``; entries are counted from 0."""
    return ".".join(str(part) if _BARE.fullmatch(str(part)) else _quoted(str(part)) for part in key)


def _quoted(name: str) -> str:
    # What JSON writes is a string of TOML, too, but for one character.
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


def parse_key(text: str) -> Key:
    """
    Read a dotted key as TOML writes it. Numbers stay text: they may be names.

    Raises:
        ConfigurationError: It is no key.
    """
    import tomllib

    parts: list[str] = []
    try:
        value: Any = tomllib.loads(f"{text} = 0") if DOTTED_KEY.fullmatch(text) else {}
    except tomllib.TOMLDecodeError:  # an impossible character between quotes
        value = {}
    while isinstance(value, dict):
        if len(value) != 1:
            raise ConfigurationError(
                f"expected a key such as modules.take.use, with quotes around names of other characters than letters, "
                f'digits, _ and -, as in pipelines."take.out->pitch.audio".buffer_size; got {text!r}.'
            )
        ((name, value),) = value.items()
        parts.append(name)
    return tuple(parts)
