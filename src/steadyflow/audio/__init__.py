"""
Sound in and out of flows, and what listens to it.

In the order data flows:

- `FileSource`, `DemoSource`, `Tone`: where audio comes from
- `LevelMeter` (sends `Level`), `PitchDetector` (sends `Pitch`): what is measured
- `FileSink`: where it goes
- `find_notes`, `match_notes`, `name_note`, `note_frequency_hz`, `Note`: from pitches to notes
- `demo_recording`: a short recording with known notes
"""

from steadyflow.audio.demo_source import DemoSource as DemoSource
from steadyflow.audio.files import FileSink as FileSink
from steadyflow.audio.files import FileSource as FileSource
from steadyflow.audio.level import Level as Level
from steadyflow.audio.level import LevelMeter as LevelMeter
from steadyflow.audio.notes import Note as Note
from steadyflow.audio.notes import find_notes as find_notes
from steadyflow.audio.notes import match_notes as match_notes
from steadyflow.audio.notes import name_note as name_note
from steadyflow.audio.notes import note_frequency_hz as note_frequency_hz
from steadyflow.audio.pitch import Pitch as Pitch
from steadyflow.audio.pitch import PitchDetector as PitchDetector
from steadyflow.audio.recordings import Recording as Recording
from steadyflow.audio.recordings import demo_recording as demo_recording
from steadyflow.audio.tone import Tone as Tone

__all__ = [
    "DemoSource",
    "FileSink",
    "FileSource",
    "Level",
    "LevelMeter",
    "Note",
    "Pitch",
    "PitchDetector",
    "Recording",
    "Tone",
    "demo_recording",
    "find_notes",
    "match_notes",
    "name_note",
    "note_frequency_hz",
]
