"""What the constructors of the modules that come with steadyflow accept; the same words for the same mistake."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np

from steadyflow.errors import ConfigurationError

MAX_BLOCK_FRAMES: Final = 1 << 20


_MAX_DURATION_US: Final = 1 << 40  # 12 days


def checked_number(owner: str, name: str, value: object, *, above: float, most: float) -> float:
    """
    Return a number above one limit and up to another as a float; numpy's numbers are welcome.

    Raises:
        ConfigurationError: It is something else; the message names the owner and the value.
    """
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not above < value <= most:  # type: ignore[operator]
        raise ConfigurationError(f"{owner}: expected {name} above {above:g} and up to {most:g}, got {value!r}.")
    return float(value)  # type: ignore[arg-type]


def checked_seconds(owner: str, name: str, value: object) -> float:
    """
    Return a time from 0 s up to a billion as a float.

    Raises:
        ConfigurationError: It is something else.
    """
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1e9:  # type: ignore[operator]
        raise ConfigurationError(f"{owner}: expected {name} to be seconds, from 0 to 1e9, got {value!r}.")
    return float(value)  # type: ignore[arg-type]


def checked_switch(owner: str, name: str, value: object) -> bool:
    """
    Return True or False.

    Raises:
        ConfigurationError: It is something else.
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{owner}: expected {name} to be True or False, got {value!r}.")
    return value


def checked_path(owner: str, path: object) -> Path:
    """
    Return the path of a file.

    Raises:
        ConfigurationError: It is empty, of bytes, or something else; or it has a NUL, which no path can have.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigurationError(f"{owner}: expected the path of a file, got {path!r}.")
    return Path(text)


def check_duration(owner: str, name: str, value: object, advice: str) -> None:
    """
    Check a time in ms, above 0; `advice` ends the message.

    Raises:
        ConfigurationError: It is no number, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value * 1000 <= _MAX_DURATION_US:
        raise ConfigurationError(
            f"{owner}: expected {name} to be a number of milliseconds above 0 (and below 12 days), "
            f"got {value!r}.{advice}"
        )
