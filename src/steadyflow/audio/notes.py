"""
Names of notes, and the notes in a sequence of pitches.

Equal temperament with A4 = 440 Hz. Names are ASCII with sharps: ``"C4"`` is middle C, ``"C#4"`` the semitone above.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from steadyflow.errors import ConfigurationError

if TYPE_CHECKING:
    from steadyflow.audio.pitch import Pitch

A4_HZ = 440.0

_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_A4_KEY = 69

# A pitch belongs to the note before it within this distance. More than half a semitone, so that a vibrato, or a note
# tuned between two keys, is not cut to pieces; less than a semitone, so that a step to the next key is seen.
_SAME_NOTE_SEMITONES = 0.7

# Pitch estimates err by octaves and by the twelfth (a third of the period), mostly in the attack of a note. Such a leap
# beside a longer note is believed only if it lasts longer than this.
_HARMONIC_SLIPS_SEMITONES = (12, 19, 24)
_LONGEST_SLIP_S = 0.09

# A hole in a note without pitch that is shorter than this is filled; at a longer one, a new note begins.
_LONGEST_HOLE_S = 0.035


class Note(msgspec.Struct, frozen=True):
    """
    A note that was heard.

    Attributes:
        note: Its name, such as ``"C#4"``.
        frequency_hz: The median of its pitches.
        cents: How far that is from the name's own frequency, -50 to 50.
        timestamp_ns: When it began, on the clock of the pitches.
        duration_s: How long it sounded.
    """

    note: str
    frequency_hz: float
    cents: float
    timestamp_ns: int
    duration_s: float


def name_note(frequency_hz: float) -> tuple[str, float]:
    """
    Name the note nearest to a frequency. Does not block.

    Args:
        frequency_hz: A positive frequency.

    Returns:
        The name, such as ``"A4"``, and the distance from it in cents, -50 to 50.

    Raises:
        ConfigurationError: The frequency is not a positive number.
    """
    if not 0 < frequency_hz < math.inf:
        raise ConfigurationError(f"expected a positive frequency in Hz, got {frequency_hz!r}.")
    key = _key(frequency_hz)
    nearest = round(key)
    return f"{_NAMES[nearest % 12]}{nearest // 12 - 1}", 100 * (key - nearest)


def note_key(note: str) -> int:
    """
    Return the number of a note's key, as in MIDI: one per semitone, middle C is 60. Does not block.

    Args:
        note: Its name, such as ``"C#4"``.

    Raises:
        ConfigurationError: The name is not one of a note.
    """
    letters = note[:2] if note[1:2] == "#" else note[:1]
    try:
        return _NAMES.index(letters) + 12 * (int(note[len(letters) :]) + 1)
    except ValueError:
        raise ConfigurationError(
            f"expected the name of a note, such as 'A4' or 'C#4' (sharps), got {note!r}."
        ) from None


def note_frequency_hz(note: str) -> float:
    """
    Return the frequency of a note. Does not block.

    Args:
        note: Its name, such as ``"C#4"``.

    Raises:
        ConfigurationError: The name is not one of a note.
    """
    return _frequency_hz(note_key(note))


def find_notes(pitches: Iterable[Pitch], *, shortest_s: float = 0.06) -> list[Note]:
    """
    Turn pitches into the notes that a listener would write down.

    One voice. Slips of the estimator (octaves or a twelfth off, for up to 90 ms), short holes (35 ms) and glitches
    shorter than a note are repaired; a vibrato remains one note. A repeated note is told from a held one only if there
    is a hole between them. Does not block; for use after the fact, not per block.

    Args:
        pitches: In order of their stamps, evenly spaced, unvoiced ones included.
        shortest_s: Notes shorter than this are glitches.

    Returns:
        The notes in order of their beginning.

    Raises:
        ConfigurationError: `shortest_s` is negative.
    """
    if not shortest_s >= 0:
        raise ConfigurationError(f"find_notes: expected shortest_s >= 0, got {shortest_s!r}")
    pitches = list(pitches)
    if not pitches:
        return []
    spacing_s = _spacing_s(pitches)
    runs = _runs(pitches)
    # Before short runs are thrown away: a note in pieces looks like several that are too short to count.
    runs = _rejoin(_absorb_slips(runs, spacing_s), spacing_s)
    runs = [run for run in runs if len(run) * spacing_s >= shortest_s]
    # What a glitch had separated.
    runs = _rejoin(runs, spacing_s)
    return [_note(run, spacing_s) for run in runs]


def match_notes(expected: Sequence[Note], heard: Sequence[Note], *, tolerance_s: float = 0.1) -> list[Note | None]:
    """
    Say which of the expected notes were heard.

    A note counts as heard if one of the same name began within the tolerance; each heard note counts once.

    Args:
        expected: The true notes, in order.
        heard: What `find_notes` found, with stamps on the same clock.
        tolerance_s: How far apart the two may begin.

    Returns:
        For each expected note, the heard one or None.
    """
    left = list(heard)
    found: list[Note | None] = []
    for true in expected:
        near = [
            note
            for note in left
            if note.note == true.note and abs(note.timestamp_ns - true.timestamp_ns) <= tolerance_s * 1e9
        ]
        nearest = min(near, key=lambda note: abs(note.timestamp_ns - true.timestamp_ns), default=None)
        if nearest is not None:
            left.remove(nearest)
        found.append(nearest)
    return found


# --- runs: pitches that belong to one note -------------------------------------------------------------------------


class _Run:
    """Pitches in a row that belong to one note: keys (fractional) and stamps."""

    __slots__ = ("end_ns", "keys", "start_ns")

    def __init__(self, key: float, timestamp_ns: int) -> None:
        self.keys = [key]
        self.start_ns = timestamp_ns
        self.end_ns = timestamp_ns

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def key(self) -> float:
        return _median(self.keys)

    def take(self, later: _Run) -> None:
        """Continue this run by a later one of the same note."""
        self.keys += later.keys
        self.end_ns = later.end_ns

    def cover(self, slip: _Run) -> None:
        """Extend this run over the time of a slip."""
        self.keys += [self.key] * len(slip)
        self.start_ns = min(self.start_ns, slip.start_ns)
        self.end_ns = max(self.end_ns, slip.end_ns)


def _runs(pitches: Sequence[Pitch]) -> list[_Run]:
    """Cut the sequence where the pitch jumps or is missing."""
    runs: list[_Run] = []
    open_run = False
    for pitch in pitches:
        if pitch.frequency_hz is None:
            open_run = False
            continue
        key = _key(pitch.frequency_hz)
        # The last few keys, so that a long note may drift.
        if open_run and abs(key - _median(runs[-1].keys[-9:])) <= _SAME_NOTE_SEMITONES:
            runs[-1].keys.append(key)
            runs[-1].end_ns = pitch.timestamp_ns
        else:
            runs.append(_Run(key, pitch.timestamp_ns))
        open_run = True
    return runs


def _absorb_slips(runs: Sequence[_Run], spacing_s: float) -> list[_Run]:
    """Give the time of each slip to the longer run right before it or right after it whose harmonic it is."""
    kept: list[_Run] = []
    for index, run in enumerate(runs):
        later = runs[index + 1] if index + 1 < len(runs) else None
        if kept and _is_slip(run, kept[-1], spacing_s) and _hole_s(kept[-1], run, spacing_s) <= _LONGEST_HOLE_S:
            kept[-1].cover(run)
        elif later and _is_slip(run, later, spacing_s) and _hole_s(run, later, spacing_s) <= _LONGEST_HOLE_S:
            later.cover(run)
        else:
            kept.append(run)
    return kept


def _is_slip(run: _Run, note: _Run, spacing_s: float) -> bool:
    """Whether `run` is `note`, misjudged for a short time as one of its harmonics or subharmonics."""
    distance = abs(run.key - note.key)
    return len(run) * spacing_s <= min(_LONGEST_SLIP_S, len(note) * spacing_s) and any(
        abs(distance - slip) <= _SAME_NOTE_SEMITONES for slip in _HARMONIC_SLIPS_SEMITONES
    )


def _rejoin(runs: Sequence[_Run], spacing_s: float) -> list[_Run]:
    """Put together the pieces of a note, over short holes and over one glitch in between."""
    joined: list[_Run] = []
    for run in runs:
        over_glitch = len(joined) > 1 and len(joined[-1]) * spacing_s <= _LONGEST_HOLE_S
        if joined and _continues(joined[-1], run, spacing_s):
            joined[-1].take(run)
        elif over_glitch and _continues(joined[-2], run, spacing_s):
            del joined[-1]
            joined[-1].take(run)
        else:
            joined.append(run)
    return joined


def _continues(earlier: _Run, later: _Run, spacing_s: float) -> bool:
    same = abs(earlier.key - later.key) <= _SAME_NOTE_SEMITONES
    return same and _hole_s(earlier, later, spacing_s) <= _LONGEST_HOLE_S


def _hole_s(one: _Run, other: _Run, spacing_s: float) -> float:
    """The time between two runs in which neither has a pitch."""
    return (other.start_ns - one.end_ns) / 1e9 - spacing_s


def _note(run: _Run, spacing_s: float) -> Note:
    frequency_hz = _frequency_hz(run.key)
    note, cents = name_note(frequency_hz)
    # A pitch stands for the time around it, half a spacing to each side.
    half_ns = round(spacing_s * 0.5e9)
    return Note(note, frequency_hz, cents, run.start_ns - half_ns, (run.end_ns - run.start_ns) / 1e9 + spacing_s)


def _spacing_s(pitches: Sequence[Pitch]) -> float:
    gaps = [later.timestamp_ns - earlier.timestamp_ns for earlier, later in pairwise(pitches)]
    return _median(gaps) / 1e9 if gaps else 0.0


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _key(frequency_hz: float) -> float:
    return _A4_KEY + 12 * math.log2(frequency_hz / A4_HZ)


def _frequency_hz(key: float) -> float:
    return float(A4_HZ * 2.0 ** ((key - _A4_KEY) / 12))
