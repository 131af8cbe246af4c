"""
Render the recording that `steadyflow demo` plays, with the notes that it holds.

A developer's tool: the results are in the repository, so nobody else needs to run it. It writes the MIDI file of the
melody itself, has fluidsynth play it with the FluidR3 soundfont, and stores one channel as FLAC beside a JSON file with
the true notes::

    apt-get install fluidsynth fluid-soundfont-gm
    python tools/render_recording.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from steadyflow.audio.notes import note_key

RECORDINGS = Path(__file__).resolve().parent.parent / "src" / "steadyflow" / "audio" / "recordings"
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")

SAMPLE_RATE_HZ = 44_100
TICKS_PER_QUARTER = 480
SIXTEENTH_TICKS = TICKS_PER_QUARTER // 4
SIXTEENTH_S = 0.2
LEAD_IN_S = 0.2
FADE_OUT_S = 0.3
LENGTH_S = 9.7
PEAK = 0.35
INSTRUMENT = 0  # General MIDI, counted from 0: acoustic grand piano

# L. van Beethoven, "Für Elise" (1810), the right hand of the first bars: names and lengths in sixteenths; "-" rests.
MELODY = """
    E5 1  D#5 1
    E5 1  D#5 1  E5 1  B4 1  D5 1  C5 1
    A4 2  - 1  C4 1  E4 1  A4 1
    B4 2  - 1  E4 1  G#4 1  B4 1
    C5 2  - 1  E4 1  E5 1  D#5 1
    E5 1  D#5 1  E5 1  B4 1  D5 1  C5 1
    A4 2  - 1  C4 1  E4 1  A4 1
    B4 2  - 1  E4 1  C5 1  B4 1
    A4 3
"""


class Event(NamedTuple):
    """A note of the melody, or a rest: where it begins and how long it is, in sixteenths."""

    note: str
    start: int
    length: int


def read_melody(text: str) -> list[Event]:
    """Place the notes of a melody one after the other; rests only take time."""
    words = text.split()
    events = []
    now = 0
    for note, length in zip(words[::2], map(int, words[1::2]), strict=True):
        if note != "-":
            events.append(Event(note, now, length))
        now += length
    return events


def midi_file(events: list[Event]) -> bytes:
    """Write the melody as a Standard MIDI File of one track."""
    microseconds_per_quarter = round(4 * SIXTEENTH_S * 1e6)
    track = b"\x00\xff\x51\x03" + microseconds_per_quarter.to_bytes(3, "big")  # tempo
    track += bytes((0x00, 0xC0, INSTRUMENT))
    now = 0
    lead_in = round(LEAD_IN_S / SIXTEENTH_S * SIXTEENTH_TICKS)
    for event in events:
        begin = lead_in + event.start * SIXTEENTH_TICKS
        # Legato: a note ends where the next one begins.
        end = begin + event.length * SIXTEENTH_TICKS
        # Some weight on the first note of a bar, which begins with the third sixteenth.
        velocity = 92 if event.start % 6 == 2 else 80
        track += delta_time(begin - now) + bytes((0x90, note_key(event.note), velocity))
        track += delta_time(end - begin) + bytes((0x80, note_key(event.note), 64))
        now = end
    tail = round((LENGTH_S / SIXTEENTH_S) * SIXTEENTH_TICKS) - now
    track += delta_time(tail) + b"\xff\x2f\x00"  # end of track
    header = b"MThd" + (6).to_bytes(4, "big") + b"".join(n.to_bytes(2, "big") for n in (0, 1, TICKS_PER_QUARTER))
    return header + b"MTrk" + len(track).to_bytes(4, "big") + track


def delta_time(ticks: int) -> bytes:
    """Write a number as MIDI does: seven bits a byte, the highest bit set on all but the last."""
    groups = [ticks & 0x7F]
    while ticks := ticks >> 7:
        groups.append(ticks & 0x7F | 0x80)
    return bytes(reversed(groups))


def render(midi: bytes, soundfont: Path) -> np.ndarray:
    """Play a MIDI file with fluidsynth, dry; returns one channel, shape (frames,), scaled to the peak."""
    with tempfile.TemporaryDirectory() as folder:
        score, sound = Path(folder) / "melody.mid", Path(folder) / "melody.wav"
        score.write_bytes(midi)
        options = [
            "-ni",
            "-q",
            "-R",
            "0",
            "-C",
            "0",
            "-g",
            "0.6",
            "-r",
            str(SAMPLE_RATE_HZ),
            "-O",
            "float",
            "-T",
            "wav",
        ]
        subprocess.run(["fluidsynth", *options, "-F", str(sound), str(soundfont), str(score)], check=True)
        samples = soundfile.read(sound, always_2d=True)[0].mean(axis=1)
    samples = samples[: round(LENGTH_S * SAMPLE_RATE_HZ)]
    fade = np.linspace(1.0, 0.0, round(FADE_OUT_S * SAMPLE_RATE_HZ))
    samples[-len(fade) :] *= fade
    return samples * (PEAK / np.abs(samples).max())


def main() -> None:
    """Render the melody and write the two files."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--soundfont", type=Path, default=SOUNDFONT)
    parser.add_argument("--into", type=Path, default=RECORDINGS, help="folder for the two files")
    arguments = parser.parse_args()

    events = read_melody(MELODY)
    sound = arguments.into / "fuer-elise.flac"
    soundfile.write(
        sound, render(midi_file(events), arguments.soundfont), SAMPLE_RATE_HZ, subtype="PCM_16", compression_level=1.0
    )
    notes = [
        {
            "name": event.note,
            "start_s": round(LEAD_IN_S + event.start * SIXTEENTH_S, 3),
            "duration_s": round(event.length * SIXTEENTH_S, 3),
        }
        for event in events
    ]
    title = json.dumps("L. van Beethoven, Für Elise (1810), first bars, one voice; piano", ensure_ascii=False)
    # One note per line.
    lines = ",\n    ".join(json.dumps(note) for note in notes)
    text = f'{{\n  "title": {title},\n  "file": "{sound.name}",\n  "notes": [\n    {lines}\n  ]\n}}\n'
    sound.with_suffix(".json").write_text(text, encoding="utf-8")
    print(f"{sound}: {sound.stat().st_size} bytes, {len(notes)} notes")


if __name__ == "__main__":
    main()
