"""The tables of a file that are about pipelines, and what these are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from steadyflow.errors import UnknownName
from steadyflow.toml.document import TomlDocument
from steadyflow.toml.keys import Key

PIPELINE_ENDS: Final = ("from", "to", "name")
"""What an entry of ``[[pipelines]]`` says beside its settings."""


def find_table(document: TomlDocument, pipeline: str | None) -> Key:
    """
    Find the settings of a pipeline.

    Args:
        document: The file.
        pipeline: Which table: ``[NAME]``, ``[pipelines.NAME]``, or an entry of ``[[pipelines]]``, see `find_entry`.
            None: ``[pipeline]`` or, where there is none, the top level.

    Raises:
        UnknownName: There is no such table; offers the nearest.
    """
    content = document.content
    if pipeline is None:
        return ("pipeline",) if "pipeline" in content else ()
    keys: dict[str, Key] = {name: (name,) for name, table in content.items() if isinstance(table, dict)}
    keys.pop("pipelines", None)
    listed = content.get("pipelines")
    if isinstance(listed, dict):
        keys |= {name: ("pipelines", name) for name, table in listed.items() if isinstance(table, dict)}
    entries = listed if isinstance(listed, list) else []
    entry = find_entry(entries, pipeline)
    if entry is not None:
        return ("pipelines", entry)
    if pipeline not in keys:
        raise UnknownName("pipeline", pipeline, [*keys, *entry_labels(entries)], where=document.path)
    return keys[pipeline]


def find_entry(entries: Sequence[object], label: str) -> int | None:
    """
    Find an entry of ``[[pipelines]]``.

    Args:
        entries: All of them.
        label: Its name, or ``from->to``. A port that one of them leaves out, because it is the only one, may be there
            in the other: ``take.out->pitch.audio`` is ``take->pitch``.

    Returns:
        Its number; None if it is none of them, or could be several.
    """
    tables = [(index, each) for index, each in enumerate(entries) if isinstance(each, dict)]
    named = [index for index, each in tables if each.get("name") == label]
    exact = [index for index, each in tables if _ends_of(each) == label]
    alike = [index for index, each in tables if _are_alike(_ends_of(each), label)]
    found = named or exact or alike
    return found[0] if len(found) == 1 else None


def entry_labels(entries: Sequence[object]) -> list[str]:
    """Return what each entry of ``[[pipelines]]`` is called: its name or, without one, ``from->to``."""
    return [str(each.get("name") or _ends_of(each)) for each in entries if isinstance(each, dict)]


def _ends_of(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('from')}->{entry.get('to')}"


def _are_alike(written: str, label: str) -> bool:
    ends, others = written.split("->"), label.split("->")
    return len(ends) == len(others) and all(
        one == other or (("." in one) != ("." in other) and one.partition(".")[0] == other.partition(".")[0])
        for one, other in zip(ends, others, strict=True)
    )
