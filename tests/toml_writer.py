"""Writes TOML in every style that the language has, and knows on which line it wrote what."""

from __future__ import annotations

import random
import re


def quoted(text):
    """Return a basic string."""
    escaped = (
        f"\\u{ord(each):04X}" if ord(each) < 32 or ord(each) == 127 else f"\\{each}" if each in '"\\' else each
        for each in text
    )
    return f'"{"".join(escaped)}"'


def plain_key(text):
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else quoted(text)


def write_inline(value):
    """Return a value on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(map(write_inline, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{plain_key(name)} = {write_inline(each)}' for name, each in value.items())}}}"
    return repr(value)


def write_simply(content):
    """Return a document of one line for each table at the top."""
    return "".join(f"{plain_key(name)} = {write_inline(value)}\n" for name, value in content.items())


class TomlWriter:
    """
    Args:
        seed: Decides on the style: comments, quotes, dotted keys, headers, inline tables, arrays over several lines.

    Attributes:
        text: What was written.
        lines: The line of every key.
    """

    def __init__(self, seed):
        self._random = random.Random(seed)
        self.text = ""
        self.lines = {}

    def write(self, content):
        self._section((), content)
        return self

    def _maybe(self):
        return self._random.random() < 0.5

    def _note(self, key):
        self.lines.setdefault(key, self.text.count("\n") + 1)

    def _end_line(self):
        self.text += self._random.choice(["\n", "  # ] } = \"'''\n", "\r\n", "\n\n# [[no.table]]\n\t\n"])

    def _key(self, names):
        return self._random.choice([".", " . "]).join(self._name(name) for name in names)

    def _name(self, name):
        styles = [quoted(name)]
        if plain_key(name) == name:
            styles.append(name)
        if re.fullmatch(r"[^'\x00-\x08\x0a-\x1f\x7f]*", name):
            styles.append(f"'{name}'")
        return self._random.choice(styles)

    def _section(self, path, table):
        sections = {
            name: value
            for name, value in table.items()
            if self._maybe()
            and (
                isinstance(value, dict)
                or (isinstance(value, list) and value and all(isinstance(each, dict) for each in value))
            )
        }
        for name, value in table.items():
            if name not in sections:
                self._pair(path, (name,), value)
                self._end_line()
        for name, value in sections.items():
            self._subsection((*path, name), value)

    def _subsection(self, path, value):
        names = [part for part in path if isinstance(part, str)]
        if isinstance(value, dict):
            self._parents(path)
            self.lines[path] = self.text.count("\n") + 1
            self.text += f"[ {self._key(names)} ]"
            self._end_line()
            self._section(path, value)
            return
        for index, entry in enumerate(value):
            self._parents(path)
            self._note(path)
            self._note((*path, index))
            self.text += f"[[{self._key(names)}]]"
            self._end_line()
            self._section((*path, index), entry)

    def _parents(self, path):
        for length in range(1, len(path)):
            self._note(path[:length])

    def _pair(self, path, names, value):
        if isinstance(value, dict) and value and self._maybe():
            for number, (name, inner) in enumerate(value.items()):
                if number:
                    self._end_line()
                self._pair(path, (*names, name), inner)
            return
        for length in range(1, len(names) + 1):
            self._note((*path, *names[:length]))
        self.text += f"{self._key(names)}{self._random.choice(['=', ' = '])}"
        self._value((*path, *names), value)

    def _value(self, key, value):
        if isinstance(value, dict):
            self.text += "{"
            for number, (name, inner) in enumerate(value.items()):
                self.text += ", " if number else " "
                self._note((*key, name))
                self.text += f"{self._name(name)} = "
                self._value((*key, name), inner)
            self.text += "}"
        elif isinstance(value, list):
            self.text += "["
            for number, inner in enumerate(value):
                if number:
                    self.text += self._random.choice([",", " ,", ", # ]\n"])
                if self._maybe():
                    self._end_line()
                self._note((*key, number))
                self._value((*key, number), inner)
            self.text += self._random.choice(["]", "\n]", ",]" if value else "]"])
        elif isinstance(value, str):
            self.text += self._string(value)
        else:
            self.text += write_inline(value)

    def _string(self, value):
        styles = [
            quoted(value),
            f'"""\n{quoted(value)[1:-1]}"""',
            f'"""\\\n  {quoted(value)[1:-1]}"""'
            if value.strip(" \t") == value and value and value[0].isprintable()
            else quoted(value),
        ]
        if re.fullmatch(r"[^'\x00-\x08\x0a-\x1f\x7f]*", value):
            styles += [f"'{value}'", f"'''{value}'''", f"'''\n{value}'''"]
        return self._random.choice(styles)
