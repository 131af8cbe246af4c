"""A TOML file: what it says, and where it says so."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Final, Self

from steadyflow.errors import ConfigurationError, FileUnreadable, FlowError, located
from steadyflow.toml.keys import Key, show_key
from steadyflow.toml.positions import find_lines

_MOST_BYTES: Final = 16 << 20


class TomlDocument:
    """
    What a TOML file says, and where.

    Args:
        path: The file, for messages.
        text: What is in it.

    Attributes:
        path: The same.
        content: The tables, as tomllib returns them; `replace` changes them.

    Raises:
        ConfigurationError: It is not TOML; names line and column.
    """

    def __init__(self, path: str, text: str) -> None:
        import tomllib  # only who has a file pays for it

        self.path = path
        try:
            self.content: dict[str, Any] = tomllib.loads(text)
            self._lines = dict(find_lines(text))
        except RecursionError:
            raise ConfigurationError(f"{path}: expected TOML, got brackets nested too deeply.") from None
        except ValueError as error:  # TOMLDecodeError, and what Python says of a number of 5,000 digits
            raise ConfigurationError(f"{path}: expected TOML: {error}.") from None
        self._replaced: dict[Key, str] = {}

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """
        Read a file. May block on the disk.

        Raises:
            FileUnreadable: It cannot be read.
            ConfigurationError: It is not TOML, or not UTF-8; names the line.
        """
        given: Any = path  # not checked yet
        name = os.fspath(given) if isinstance(given, (str, os.PathLike)) else given
        if not isinstance(name, str) or not name or "\0" in name:
            raise ConfigurationError(f"expected the path of a TOML file, got {path!r}.")
        try:
            with open(name, "rb") as file:  # noqa: PTH123 - pathlib is not imported for one open()
                data = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise FileUnreadable(f"{name}: cannot be read: {error.strerror or error}.") from error
        if len(data) > _MOST_BYTES:
            raise ConfigurationError(f"{name}: expected a TOML file of at most {_MOST_BYTES >> 20} MiB, got more.")
        try:
            return cls(name, data.decode("utf-8"))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ConfigurationError(
                f"{name}, line {line}: expected TOML, which is UTF-8, got the byte 0x{data[error.start]:02x}. "
                f"Save the file as UTF-8."
            ) from None

    def table(self, key: Key) -> dict[str, Any]:
        """
        Return a table.

        Args:
            key: Where it is; what is around it must be there.

        Raises:
            ConfigurationError: Something else is there.
        """
        found: Any = self.content
        for part in key:
            found = found[part]
        if not isinstance(found, dict):
            raise ConfigurationError(f"{self.where(*key)}: expected a table, got {found!r}.")
        return found

    def where(self, *key: str | int) -> str:
        """
        Say where a key is: ``flow.toml, line 3, modules.take.use``.

        The line is that of the nearest table around it where the key itself is not in the file; of what `replace` set,
        there is what it was told instead of a line.
        """
        for length in range(len(key), 0, -1):
            near = key[:length]
            if near in self._replaced:
                source = self._replaced[near]
                return f"{self.path}, {source}" if near == key else f"{self.path}, {source}, {show_key(key)}"
            if near in self._lines:
                return f"{self.path}, line {self._lines[near]}, {show_key(key)}"
        return f"{self.path}, {show_key(key)}" if key else self.path

    @contextlib.contextmanager
    def place(self, *key: str | int) -> Iterator[None]:
        """Put the place of a key before the message of an error that is raised inside."""
        try:
            yield
        except FlowError as error:
            located(error, self.where(*key))
            raise

    def replace(self, key: Key, value: object, source: str) -> None:
        """
        Set a value from outside of the file.

        Args:
            key: Where; the table or array around it must be there.
            value: What it is from now on; later changes of tables and arrays in it are not those of the caller.
            source: Who says so, for messages: ``--set modules.take.placement``.
        """
        around: Any = self.content
        for part in key[:-1]:
            around = around[part]
        around[key[-1]] = _copied(value)
        for known in [*self._lines, *self._replaced]:
            if known[: len(key)] == key:
                self._lines.pop(known, None)
                self._replaced.pop(known, None)
        self._replaced[key] = source


def _copied(value: object) -> object:
    """Copy tables and arrays, which may be changed; what they hold is shared."""
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value
