"""Recordings that come with steadyflow, with the notes that they hold. How they were made: see LICENSE here."""

from __future__ import annotations

from pathlib import Path

import msgspec

from steadyflow.audio.notes import Note, note_frequency_hz


class Recording(msgspec.Struct, frozen=True):
    """
    A recording whose notes are known.

    Attributes:
        title: What it is.
        path: The audio file.
        notes: Its notes in order; their stamps count from the beginning of the file.
    """

    title: str
    path: Path
    notes: tuple[Note, ...]


class _NoteEntry(msgspec.Struct):
    name: str
    start_s: float
    duration_s: float


class _RecordingEntry(msgspec.Struct):
    title: str
    file: str
    notes: list[_NoteEntry]


def demo_recording() -> Recording:
    """Return the recording that the demo plays: the first bars of "Für Elise", one voice, piano. Reads a small file."""
    folder = Path(__file__).parent
    entry = msgspec.json.decode((folder / "fuer-elise.json").read_bytes(), type=_RecordingEntry)
    notes = tuple(
        Note(note.name, note_frequency_hz(note.name), 0.0, round(note.start_s * 1e9), note.duration_s)
        for note in entry.notes
    )
    return Recording(entry.title, folder / entry.file, notes)
