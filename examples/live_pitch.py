"""
A tuner: the note that a microphone hears, how many cents it is off, and its frequency.

The estimates are made in a process of their own, with real-time scheduling where the system grants it, so that nothing
in this program makes them late. What the device or a pipeline lost is told at the end.

Run it: python examples/live_pitch.py
        python examples/live_pitch.py --device USB --seconds 10
        python examples/live_pitch.py --json > notes.jsonl

Ctrl-C ends it. It needs a microphone and the extra audio: pip install 'steadyflow[audio]'
"""

from __future__ import annotations

import argparse
import json
import sys

from steadyflow import Block, DataFlowCoordinator, FlowError, FlowFailed, FlowReport, Input, Module, StructFormat
from steadyflow.audio import Microphone, Pitch, PitchDetector
from steadyflow.events import DeviceLost

STEADY = 5  # so many estimates in a row, 50 ms, make a note: less may be a slip in its attack
REDRAW_NS = 40_000_000


class Tuner(Module):
    """
    Shows pitches: in one line that moves, or a line for each new note.

    Port ``pitch``: the estimates of a `PitchDetector`.

    Args:
        style: ``"moving"``, ``"lines"`` or ``"json"``.
    """

    pitch = Input(StructFormat(Pitch))
    blocking = True  # a terminal may keep it waiting: it gets a thread of its own

    def __init__(self, style: str) -> None:
        self._style = style
        self._began_ns = 0
        self._drawn_ns = 0
        self._note: str | None = None
        self._candidate: str | None = None
        self._seen = 0

    def process(self, pitch: Block) -> None:
        """Show an estimate, or wait for more of the same note."""
        heard: Pitch = pitch.data
        self._began_ns = self._began_ns or heard.timestamp_ns
        self._seen = self._seen + 1 if heard.note == self._candidate else 1
        self._candidate = heard.note
        is_new = self._seen == STEADY and heard.note != self._note
        if self._seen >= STEADY:
            self._note = heard.note
        if self._style == "moving":
            if heard.timestamp_ns - self._drawn_ns >= REDRAW_NS:
                self._drawn_ns = heard.timestamp_ns
                print(f"\r{moving_line(heard, self._note)}", end="", flush=True)
        elif is_new and heard.frequency_hz is not None:
            self._tell(heard, heard.frequency_hz)

    def finish(self) -> None:
        """Leave the line that moved."""
        if self._style == "moving" and self._drawn_ns:
            print()

    def _tell(self, heard: Pitch, frequency_hz: float) -> None:
        at_s = (heard.timestamp_ns - self._began_ns) / 1e9
        if self._style == "json":
            line = {"at_s": round(at_s, 3), "note": heard.note, "cents": round(heard.cents, 1)}
            print(json.dumps({**line, "frequency_hz": round(frequency_hz, 2)}), flush=True)
        else:
            print(f"{at_s:8.2f} s  {heard.note:<4} {heard.cents:+4.0f} cents  {frequency_hz:8.2f} Hz", flush=True)


def moving_line(heard: Pitch, note: str | None) -> str:
    """Return a note, where in its semitone it is, and its frequency; of always the same length."""
    scale = list("|----:----|----:----|")  # a place for each 5 cents
    if heard.frequency_hz is None or heard.note != note:
        return f"{'-':<4} {''.join(scale)}{'':24}"
    scale[round((heard.cents + 50) / 5)] = "O"
    return f"{heard.note:<4} {''.join(scale)}  {heard.cents:+4.0f} cents {heard.frequency_hz:8.2f} Hz"


def summary(report: FlowReport) -> list[str]:
    """Say what was lost, and what was late."""
    lines = []
    for name, device in report.devices.items():
        if device.device is not None and device.capture is not None:
            lost = f"{device.capture.lost_frames} frames lost, {device.capture.xruns} xruns"
            lines.append(f"{name} ({device.device[0]}): {device.capture.blocks} blocks, {lost}")
    for name, pipeline in report.pipelines.items():
        counts = f"{pipeline.delivered} delivered, {pipeline.dropped_total} dropped, {pipeline.late} late"
        lines.append(f"{name}: {counts}, p99 {pipeline.latency_p99_ms:.2f} ms")
    lines += [f"lost for a while: {event.problem}" for event in report.events if isinstance(event, DeviceLost)]
    return lines


def listen(options: argparse.Namespace) -> FlowReport:
    """Run the flow until the time is over, or Ctrl-C; what was heard by then is shown."""
    style = "json" if options.json else "moving" if sys.stdout.isatty() else "lines"
    with DataFlowCoordinator("live-pitch") as flow:
        microphone = flow.add(Microphone(options.device, sample_rate_hz=options.rate), name="microphone")
        pitch = flow.add(PitchDetector(), name="pitch", placement="process", realtime=True)
        tuner = flow.add(Tuner(style), name="tuner")
        # A block that starts more than 10 ms late is counted: by then there is a newer pitch to show.
        flow.connect(microphone.out, pitch.audio, buffer_size=64, max_latency_ms=10.0, priority="critical")
        flow.connect(pitch.pitch, tuner.pitch, buffer_size=256)
        try:
            return flow.run(options.seconds)
        except KeyboardInterrupt:
            return flow.report()  # it has been stopped, and has drained


def main() -> int:
    """Return the exit code: 0, 1 where it failed, and 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        description="Show the notes that a microphone hears, until Ctrl-C.",
        epilog="example: %(prog)s --device USB --seconds 10; `steadyflow devices` shows what there is",
    )
    parser.add_argument("--device", type=device, help="number, name or a part of the name; else the default one")
    parser.add_argument("--rate", type=int, metavar="HZ", help="frames per second; else the device's own")
    parser.add_argument("--seconds", type=float, help="stop after this time")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object for each note; the rest goes to stderr"
    )
    options = parser.parse_args()
    try:
        report = listen(options)
    except FlowFailed as failed:
        for problem in failed.exceptions:
            print(f"live_pitch: {getattr(problem, 'explanation', '') or problem}", file=sys.stderr)
        return 1
    except FlowError as error:
        print(f"live_pitch: {error}", file=sys.stderr)
        return 1
    print(*summary(report), sep="\n", file=sys.stderr if options.json else sys.stdout)
    return 0


def device(text: str) -> int | str:
    """Return a device as the flow takes it: a number is one, not a name."""
    return int(text) if text.isdigit() else text


if __name__ == "__main__":
    sys.exit(main())
