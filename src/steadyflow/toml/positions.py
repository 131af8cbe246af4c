"""
The line of every key of a TOML file.

Python's tomllib tells no positions, and the libraries that keep a file's style (tomlkit) do not either. Since tomllib
has accepted the text before, this scanner need not judge it: it only has to find where keys and values begin and end.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from typing import Final

from steadyflow.toml.keys import DOTTED_KEY, Key, parse_key

_GAP: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
# In that order: three quotes are not an empty string and a third one. A long string may end in up to five quotes.
_STRINGS: Final = (
    re.compile(r'"""(?:\\.|[^\\])*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)
_BARE_VALUE: Final = re.compile(r"[^,\]}#\r\n]+")


def find_lines(text: str) -> Mapping[Key, int]:
    """
    Return the line, from 1 on, of every table, key and entry of an array.

    Args:
        text: TOML that tomllib accepts.
    """
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self._lines: dict[Key, int] = {}
        self._lengths: dict[Key, int] = {}  # of the arrays of tables

    def scan(self) -> Mapping[Key, int]:
        table: Key = ()
        self._skip_gap()
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._scan_header()
            else:
                self._scan_pair(table)
            self._skip_gap()
        return self._lines

    def _scan_header(self) -> Key:
        is_array = self._text.startswith("[[", self._at)
        line = self._line()
        self._at += 2 if is_array else 1
        self._skip_gap()
        *parents, name = self._scan_key()
        self._skip_gap()
        self._at += 2 if is_array else 1
        table: Key = ()
        for part in parents:
            table = self._latest((*table, part))
            self._lines.setdefault(table, line)
        table = (*table, name)
        if is_array:
            self._lines.setdefault(table, line)
            index = self._lengths.get(table, 0)
            self._lengths[table] = index + 1
            table = (*table, index)
        self._lines[table] = line  # also where a table below it came first
        return table

    def _latest(self, table: Key) -> Key:
        length = self._lengths.get(table)
        return table if length is None else (*table, length - 1)

    def _scan_pair(self, table: Key) -> None:
        line = self._line()
        for part in self._scan_key():
            table = (*table, part)
            self._lines.setdefault(table, line)
        self._skip_gap()
        self._at += 1  # the equals sign
        self._scan_value(table)

    def _scan_key(self) -> Key:
        return parse_key(self._take(DOTTED_KEY))

    def _scan_value(self, key: Key) -> None:
        self._skip_gap()
        opening = self._text[self._at]
        if opening == "[":
            self._scan_array(key)
        elif opening == "{":
            self._scan_inline_table(key)
        elif opening in "\"'":
            string = next(each for each in _STRINGS if each.match(self._text, self._at))
            self._take(string)
        else:
            self._take(_BARE_VALUE)

    def _scan_array(self, key: Key) -> None:
        self._at += 1
        index = 0
        while not self._closes("]"):
            self._lines[*key, index] = self._line()
            self._scan_value((*key, index))
            index += 1

    def _scan_inline_table(self, key: Key) -> None:
        self._at += 1
        while not self._closes("}"):
            self._scan_pair(key)

    def _closes(self, bracket: str) -> bool:
        """Go to the next entry; whether there is none."""
        self._skip_gap()
        if self._text.startswith(",", self._at):
            self._at += 1
            self._skip_gap()
        if self._text.startswith(bracket, self._at):
            self._at += 1
            return True
        return False

    def _skip_gap(self) -> None:
        self._take(_GAP)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match is not None, f"tomllib accepted this: {self._text[self._at : self._at + 40]!r}"
        self._at = match.end()
        return match[0]

    def _line(self) -> int:
        return bisect_right(self._line_ends, self._at) + 1
