"""Names of notes, and the notes in sequences of pitches."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyflow.audio import Note, Pitch, demo_recording, find_notes, match_notes, name_note, note_frequency_hz
from steadyflow.audio.notes import note_key
from steadyflow.errors import ConfigurationError

HOP_NS = 10_000_000


def pitches(*parts, start_ns=1_000_000_000):
    """Pitches every 10 ms from (note or Hz or None, count) parts."""
    values = [
        note_frequency_hz(value) if isinstance(value, str) else value for value, count in parts for _ in range(count)
    ]
    return [
        Pitch(value, None if value is None else name_note(value)[0], 0.0, 0.0 if value is None else 0.95, stamp)
        for stamp, value in enumerate_stamps(values, start_ns)
    ]


def enumerate_stamps(values, start_ns):
    return [(start_ns + index * HOP_NS, value) for index, value in enumerate(values)]


def heard(*parts, **options):
    return [(note.note, round(note.duration_s, 3)) for note in find_notes(pitches(*parts), **options)]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frequency_hz", "note", "cents"),
    [
        (440.0, "A4", 0.0),
        (261.6256, "C4", 0.0),
        (277.1826, "C#4", 0.0),
        (246.9417, "B3", 0.0),
        (27.5, "A0", 0.0),
        (4186.009, "C8", 0.0),
        (8.1758, "C-1", 0.0),
        (445.0, "A4", 19.56),
        (435.0, "A4", -19.78),
    ],
)
def test_frequencies_have_names(frequency_hz, note, cents):
    name, distance = name_note(frequency_hz)
    assert name == note
    assert distance == pytest.approx(cents, abs=0.02)


@given(st.floats(10.0, 20_000.0))
def test_the_name_and_the_cents_lead_back_to_the_frequency(frequency_hz):
    note, cents = name_note(frequency_hz)
    assert -50.0 <= cents <= 50.0
    assert note_frequency_hz(note) * 2 ** (cents / 1200) == pytest.approx(frequency_hz)
    assert note.isascii()


@pytest.mark.parametrize("note", ["", "H4", "Bb3", "A", "A#", "C#x", "E#4", "4", "a4"])
def test_a_wrong_name_is_refused(note):
    with pytest.raises(ConfigurationError, match="name of a note"):
        note_frequency_hz(note)


@pytest.mark.parametrize("frequency_hz", [0.0, -440.0, math.inf, math.nan])
def test_a_frequency_without_a_name_is_refused(frequency_hz):
    with pytest.raises(ConfigurationError, match="positive frequency"):
        name_note(frequency_hz)


def test_keys_are_those_of_midi():
    assert note_key("C4") == 60
    assert note_key("C-1") == 0
    assert note_key("G9") == 127


# --- notes in pitches ---------------------------------------------------------------------------------------------------


def test_nothing_holds_no_notes():
    assert find_notes([]) == []
    assert heard((None, 50)) == []
    assert heard(("A4", 1)) == []


def test_a_note_has_its_onset_and_duration():
    (note,) = find_notes(pitches((None, 10), ("C#4", 20), (None, 10)))
    assert note.note == "C#4"
    assert note.frequency_hz == pytest.approx(277.1826)
    assert note.cents == pytest.approx(0.0, abs=0.01)
    # A pitch stands for the 10 ms around it.
    assert note.timestamp_ns == 1_000_000_000 + 10 * HOP_NS - HOP_NS // 2
    assert note.duration_s == pytest.approx(0.2)


def test_notes_follow_each_other_without_a_hole():
    assert heard(("E5", 20), ("D#5", 20), ("E5", 20)) == [("E5", 0.2), ("D#5", 0.2), ("E5", 0.2)]


@pytest.mark.parametrize("slip", ["A3", "A5", "E6", "A2"])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_flicker_of_octaves_and_twelfths_is_repaired(slip, count):
    assert heard(("A4", 15), (slip, count), ("A4", 15)) == [("A4", round(0.3 + count / 100, 3))]


def test_alternating_octaves_are_one_note():
    parts = [(note, 1) for _ in range(15) for note in ("A4", "A5")]
    assert heard(("A4", 5), *parts) == [("A4", 0.35)]


@pytest.mark.parametrize("slip", ["E3", "E5"])
def test_an_attack_in_another_octave_belongs_to_the_note(slip):
    assert heard(("C4", 20), (slip, 7), ("E4", 20), ("G4", 20)) == [("C4", 0.2), ("E4", 0.27), ("G4", 0.2)]


def test_a_release_in_another_octave_belongs_to_the_note():
    assert heard(("E4", 20), ("E5", 7), (None, 10)) == [("E4", 0.27)]


def test_a_leap_of_an_octave_that_lasts_is_heard():
    assert heard(("E4", 20), ("E5", 20), ("E4", 20)) == [("E4", 0.2), ("E5", 0.2), ("E4", 0.2)]


@pytest.mark.parametrize("glitch", [None, "F#4", "D7"])
@pytest.mark.parametrize("count", [1, 3])
def test_short_glitches_and_holes_are_filled(glitch, count):
    assert heard(("A4", 15), (glitch, count), ("A4", 15)) == [("A4", round(0.3 + count / 100, 3))]


def test_a_repeated_note_is_heard_twice_if_there_is_a_hole():
    assert heard(("A4", 15), (None, 5), ("A4", 15)) == [("A4", 0.15), ("A4", 0.15)]


def test_what_is_too_short_is_no_note():
    assert heard((None, 10), ("A4", 5), (None, 10)) == []
    assert heard((None, 10), ("A4", 5), (None, 10), shortest_s=0.03) == [("A4", 0.05)]


def test_a_run_through_notes_too_short_to_count_is_not_a_note():
    assert heard(("C4", 20), ("C#4", 2), ("D4", 2), ("D#4", 2), ("E4", 20)) == [("C4", 0.2), ("E4", 0.2)]


def test_a_vibrato_is_one_note():
    wobble = [(440.0 * 2 ** (0.5 * math.sin(index * 0.35) / 12), 1) for index in range(100)]
    assert heard(*wobble) == [("A4", 1.0)]


def test_a_note_between_two_keys_is_one_note():
    between = [(440.0 * 2 ** ((0.5 + 0.05 * (-1) ** index) / 12), 1) for index in range(60)]
    assert [duration_s for _, duration_s in heard(*between)] == [0.6]


def test_the_name_is_that_of_the_median():
    (note,) = find_notes(pitches((455.0, 5), (442.0, 30)))
    assert note.frequency_hz == pytest.approx(442.0)
    assert note.cents == pytest.approx(7.85, abs=0.01)


def test_a_negative_shortest_note_is_refused():
    with pytest.raises(ConfigurationError, match="shortest_s"):
        find_notes([], shortest_s=-1)


values = st.one_of(st.none(), st.floats(50.0, 2000.0), st.sampled_from([220.0, 440.0, 880.0]))


@given(st.lists(values, max_size=120))
def test_notes_are_in_order_and_do_not_overlap(sequence):
    notes = find_notes(pitches(*[(value, 1) for value in sequence]))
    for earlier, later in pairwise(notes):
        assert earlier.timestamp_ns + earlier.duration_s * 1e9 <= later.timestamp_ns + 1
    for note in notes:
        assert note.duration_s >= 0.06 - 1e-9
        assert note.timestamp_ns >= 1_000_000_000 - HOP_NS
        assert note.timestamp_ns + note.duration_s * 1e9 <= 1_000_000_000 + len(sequence) * HOP_NS


# --- expected and heard -------------------------------------------------------------------------------------------------


def note(name, start_s):
    return Note(name, note_frequency_hz(name), 0.0, round(start_s * 1e9), 0.2)


def test_expected_notes_find_what_was_heard():
    expected = [note("C4", 0.0), note("D4", 0.2), note("E4", 0.4)]
    found = [note("C4", 0.02), note("E4", 0.38)]
    assert match_notes(expected, found) == [found[0], None, found[1]]


def test_a_heard_note_counts_once():
    found = [note("C4", 0.03)]
    assert match_notes([note("C4", 0.0), note("C4", 0.05)], found) == [found[0], None]


def test_a_note_at_another_time_does_not_count():
    assert match_notes([note("C4", 0.0)], [note("C4", 0.5)]) == [None]


def test_the_demo_recording_says_what_it_holds():
    recording = demo_recording()
    assert recording.path.is_file()
    assert recording.path.stat().st_size < 300_000
    assert len(recording.notes) == 35
    assert recording.notes[0] == note("E5", 0.2)
    assert [true.note for true in recording.notes[:9]] == ["E5", "D#5", "E5", "D#5", "E5", "B4", "D5", "C5", "A4"]
    assert (recording.path.parent / "LICENSE").is_file()
