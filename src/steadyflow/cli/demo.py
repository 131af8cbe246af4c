"""
``steadyflow demo``: a recording goes in, notes come out.

::

    FileSource ─┬─> PitchDetector (a process of its own) ──> the open end "screen"
                ├─> LevelMeter ───────────────────────────> the open end "screen"
                └─> BandMeter (16 kHz, mono, windows) ─────> the open end "screen"

The application is the screen: it receives pitches, levels and bands while the flow runs, and never slows it down.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steadyflow import (
    AudioFormat,
    ConversionOptions,
    DataFlowCoordinator,
    DropOldest,
    Pipeline,
    PipelineConfig,
    Wait,
    audio,
)
from steadyflow.cli.listening import Listening
from steadyflow.cli.outcome import Outcome
from steadyflow.cli.screens import Screen, make_screen
from steadyflow.errors import EndOfStream, FlowFailed, PipelineClosed, ReceiveTimeout

if TYPE_CHECKING:
    from rich.table import Table

# Short enough that the level moves while the pitch keeps it waiting.
_LOOK_UP_S: Final = 0.05

BLOCK_FRAMES: Final = 480


@dataclass
class Performance(Outcome):
    """
    What came out of one run.

    Args:
        path: The file that was played.
        recording: What is known about it; None for a file of the user's.
    """

    path: Path
    recording: audio.Recording | None = None
    pitches: list[audio.Pitch] = field(default_factory=list)
    began_ns: int | None = None

    @property
    def notes(self) -> list[audio.Note]:
        """The notes that were heard, stamped from the beginning of the file on."""
        import msgspec

        began_ns = self.began_ns or 0
        return [
            msgspec.structs.replace(note, timestamp_ns=note.timestamp_ns - began_ns)
            for note in audio.find_notes(self.pitches)
        ]


def demo(file: Path | None, *, fast: bool, as_json: bool) -> int:
    """
    Play a file, and print its notes and the report; blocks for as long as the file is, unless `fast`.

    Args:
        file: An audio file; None: the bundled recording.
        fast: As fast as possible, instead of at the pace of the music.
        as_json: One JSON document instead of tables.

    Returns:
        The exit code: 0; 1 if the flow failed; 130 after Ctrl-C. What was heard until then is printed in any case.

    Raises:
        FlowError: The flow could not start, such as for a file that is no audio.
    """
    if file is None:
        recording = audio.demo_recording()
        performance = Performance(recording.path, recording)
    else:
        performance = Performance(file)
    listening = Listening()
    play(performance, listening, make_screen(listening, live=not as_json and sys.stdout.isatty()), fast=fast)
    if performance.report is not None:
        if as_json:
            print(json.dumps(to_json_value(performance), indent=2))
        else:
            show(performance)
    return performance.conclude()


# --- playing ------------------------------------------------------------------------------------------------------


def play(performance: Performance, listening: Listening, screen: Screen, *, fast: bool) -> None:
    """
    Run the flow, and note down what comes out; blocks. A failure, and Ctrl-C, end it early and are noted down too.

    Raises:
        FlowError: The flow could not start.
    """
    with DataFlowCoordinator("demo") as flow:
        source = audio.FileSource(performance.path, block_frames=BLOCK_FRAMES, realtime_pace=not fast)
        recording = flow.add(source, name="recording")
        pitch = flow.add(audio.PitchDetector(), name="pitch", placement="process")
        meter = flow.add(audio.LevelMeter(), name="meter")
        bands = flow.add(audio.BandMeter(), name="bands")
        # The budget is the length of a block: one that starts later is overtaken by the next.
        flow.connect(recording.out, pitch.audio, buffer_size=32, max_latency_ms=10.0, priority="critical")
        flow.connect(recording.out, meter.audio, buffer_size=32)
        # Whatever the file is, this end takes one channel at 16 kHz.
        flow.connect(
            recording.out, bands.audio, buffer_size=32, transformation_required=True, conversion=_to_mono(source)
        )
        # No pitch may be lost, or notes fall apart; two seconds and a half of them wait for a busy screen.
        to_screen = PipelineConfig(buffer_size=256, backpressure_strategy=Wait())
        pitches = flow.pipeline(flow.register_pipeline(pitch.pitch, "screen", to_screen))
        # Of level and bands only the newest matter; at full speed they are part of what is shown, so nothing is lost there.
        newest = PipelineConfig(buffer_size=64, backpressure_strategy=Wait() if fast else DropOldest())
        levels = flow.pipeline(flow.register_pipeline(meter.level, "screen", newest))
        spectra = flow.pipeline(flow.register_pipeline(bands.bands, "screen", newest))
        started = False
        try:
            title = performance.recording.title if performance.recording else str(performance.path)
            with screen.watching(flow, f"Playing: {title}"):
                flow.start()
                started = True
                for value in _arrivals(flow, pitches, levels, spectra):
                    if isinstance(value, audio.Level):
                        # A file's first block is stamped with the beginning of the music.
                        listening.began_ns = performance.began_ns = performance.began_ns or value.timestamp_ns
                        listening.level = value
                        screen.refresh()
                    elif isinstance(value, audio.Bands):
                        listening.bands = value
                    else:
                        performance.pitches.append(value)
                        listening.pitch = value
                flow.stop()
        except KeyboardInterrupt:
            performance.interrupted = True
            if not started:
                return
            performance.stop(flow)
            late = _arrivals(flow, pitches, levels, spectra)
            performance.pitches.extend(value for value in late if isinstance(value, audio.Pitch))
        except FlowFailed as failure:
            performance.failure = failure
            if not performance.pitches:
                # Nothing to report but the failure.
                return
        performance.report = flow.report()


def _to_mono(source: audio.FileSource) -> ConversionOptions | None:
    """Say how channels become one, where a file has more than stereo and does not say which they are: by their mean."""
    fmt = source.resolve_formats({})["out"]
    channels = fmt.channels if isinstance(fmt, AudioFormat) else None
    return None if channels is None or channels <= 2 else ConversionOptions(mix=((1 / channels,) * channels,))


def _arrivals(flow: DataFlowCoordinator, *open_ends: Pipeline) -> Iterator[Any]:
    """Yield what comes out of the open ends, as it comes, until all have ended, or the flow has."""
    left = list(open_ends)
    over = False
    while left:
        # One can wait at one end only; the others are looked at in between.
        for pipeline in list(left):
            waits = pipeline is left[0] and not over
            try:
                yield pipeline.receive(_LOOK_UP_S if waits else 0).data
                while not waits:
                    yield pipeline.receive(0).data
            except ReceiveTimeout:
                if over:
                    left.remove(pipeline)
                elif waits:
                    # A worker that had to be ended by force does not end its streams.
                    over = flow.wait(0)
            except (EndOfStream, PipelineClosed):
                left.remove(pipeline)


# --- what is printed ----------------------------------------------------------------------------------------------


def to_json_value(performance: Performance) -> dict[str, Any]:
    """Return what a run yielded as builtin types."""
    assert performance.report is not None
    notes = performance.notes
    value: dict[str, Any] = {
        "file": str(performance.path),
        "title": performance.recording.title if performance.recording else None,
        "interrupted": performance.interrupted,
        "problems": performance.problems,
        "notes": [
            {**_note_value(note), "frequency_hz": round(note.frequency_hz, 3), "cents": round(note.cents, 2)}
            for note in notes
        ],
        "expected": None,
        "heard": None,
        "report": performance.report.to_dict(),
    }
    if performance.recording is not None:
        matches = audio.match_notes(performance.recording.notes, notes)
        value["expected"] = [
            {**_note_value(true), "heard": match is not None}
            for true, match in zip(performance.recording.notes, matches, strict=True)
        ]
        value["heard"] = sum(match is not None for match in matches)
    return value


def _note_value(note: audio.Note) -> dict[str, Any]:
    return {
        "note": note.note,
        "onset_s": round(note.timestamp_ns / 1e9, 4),
        "duration_s": round(note.duration_s, 4),
    }


def show(performance: Performance) -> None:
    """Print the notes, how many of the true ones they are, and the report."""
    from rich.console import Console

    console = Console()
    notes = performance.notes
    if notes:
        console.print(_notes_table(notes))
    else:
        print("No notes were found.")
    if performance.interrupted:
        print("\nInterrupted: what was heard until then.")
    elif performance.recording is not None:
        print(f"\n{_verdict(performance.recording, notes)}")
    print(f"\n{performance.report}")


def _notes_table(notes: Sequence[audio.Note]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("note")
    for column in ("onset s", "duration s", "cents"):
        table.add_column(column, justify="right")
    for note in notes:
        table.add_row(note.note, f"{note.timestamp_ns / 1e9:.2f}", f"{note.duration_s:.2f}", f"{note.cents:+.0f}")
    return table


def _verdict(recording: audio.Recording, notes: Sequence[audio.Note]) -> str:
    matches = audio.match_notes(recording.notes, notes)
    count = sum(match is not None for match in matches)
    lines = [f"Heard {count} of the {len(matches)} notes of: {recording.title}."]
    missed = [true for true, match in zip(recording.notes, matches, strict=True) if match is None]
    if missed:
        lines.append(f"Not heard: {', '.join(_at(note) for note in missed)}.")
    found = {id(match) for match in matches}
    besides = [note for note in notes if id(note) not in found]
    if besides:
        lines.append(f"Heard besides: {', '.join(_at(note) for note in besides)}.")
    return "\n".join(lines)


def _at(note: audio.Note) -> str:
    return f"{note.note} at {note.timestamp_ns / 1e9:.2f} s"
