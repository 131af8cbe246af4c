"""
Sound in and out of flows, and what listens to it.

In the order data flows:

- `FileSource`, `DemoSource`, `Tone`, `Microphone`: where audio comes from
- `LevelMeter` (sends `Level`), `BandMeter` (sends `Bands`), `PitchDetector` (sends `Pitch`): what is measured
- `Converter`: from one format to another, where a pipeline cannot convert
- `DriftCorrector`: between two devices, whose clocks are never the same
- `FileSink`, `Speaker`: where it goes
- `Duplex`: both at once, on one clock
- `DeviceReport` (of `CaptureReport`, `PlaybackReport`): what happened at a device
- `find_notes`, `match_notes`, `name_note`, `note_frequency_hz`, `Note`: from pitches to notes
- `demo_recording`: a short recording with known notes
- `list_devices` (gives `Device`): what there is to capture from and play to
"""

from steadyflow.audio.bands import BandMeter as BandMeter
from steadyflow.audio.bands import Bands as Bands
from steadyflow.audio.converter import Converter as Converter
from steadyflow.audio.demo_source import DemoSource as DemoSource
from steadyflow.audio.devices import list_devices as list_devices
from steadyflow.audio.drift_corrector import DriftCorrector as DriftCorrector
from steadyflow.audio.driver import Device as Device
from steadyflow.audio.duplex import Duplex as Duplex
from steadyflow.audio.files import FileSink as FileSink
from steadyflow.audio.files import FileSource as FileSource
from steadyflow.audio.level import Level as Level
from steadyflow.audio.level import LevelMeter as LevelMeter
from steadyflow.audio.microphone import Microphone as Microphone
from steadyflow.audio.notes import Note as Note
from steadyflow.audio.notes import find_notes as find_notes
from steadyflow.audio.notes import match_notes as match_notes
from steadyflow.audio.notes import name_note as name_note
from steadyflow.audio.notes import note_frequency_hz as note_frequency_hz
from steadyflow.audio.pitch import Pitch as Pitch
from steadyflow.audio.pitch import PitchDetector as PitchDetector
from steadyflow.audio.recordings import Recording as Recording
from steadyflow.audio.recordings import demo_recording as demo_recording
from steadyflow.audio.speaker import Speaker as Speaker
from steadyflow.audio.tone import Tone as Tone
from steadyflow.metrics.devices import CaptureReport as CaptureReport
from steadyflow.metrics.devices import DeviceReport as DeviceReport
from steadyflow.metrics.devices import PlaybackReport as PlaybackReport

__all__ = [
    "BandMeter",
    "Bands",
    "CaptureReport",
    "Converter",
    "DemoSource",
    "Device",
    "DeviceReport",
    "DriftCorrector",
    "Duplex",
    "FileSink",
    "FileSource",
    "Level",
    "LevelMeter",
    "Microphone",
    "Note",
    "Pitch",
    "PitchDetector",
    "PlaybackReport",
    "Recording",
    "Speaker",
    "Tone",
    "demo_recording",
    "find_notes",
    "list_devices",
    "match_notes",
    "name_note",
    "note_frequency_hz",
]
