"""
Record what a flow hears, and let it be heard again: from then on without the source.

A pitch that was found wrong once can be looked into as often as it takes: the same blocks, with the same stamps.

    python examples/record_and_replay.py
"""

import tempfile
from pathlib import Path

from steadyflow import DataFlowCoordinator, audio, testing
from steadyflow.recording import Recording, replay


def listen(source, tape=None):
    """Run a flow that finds the notes of a source; with a tape, record the source."""
    with DataFlowCoordinator("listen") as flow:
        take = flow.add(source, name="take")
        pitch = flow.add(audio.PitchDetector(), name="pitch")
        heard = flow.add(testing.Collect(), name="heard")
        into = flow.connect(take.out, pitch.audio, buffer_size=32)
        flow.connect(pitch.pitch, heard.data, buffer_size=32)
        if tape is not None:
            flow.record(into, tape)
        flow.run()
    return [note.note for note in audio.find_notes(heard.values)]


with tempfile.TemporaryDirectory() as folder:
    tape = Path(folder) / "take.mcap"

    first = listen(audio.FileSource(audio.demo_recording().path, realtime_pace=False), tape)
    print("heard:   ", *first[:12])

    with Recording(tape) as recording:
        print(f"recorded: {len(recording)} blocks of {recording.format}")
        loudest = max(recording.blocks(start_s=0.0), key=lambda block: float(abs(block.samples).max()))
        print(f"loudest:  block {loudest.sequence}, at {loudest.first_frame / recording.format.sample_rate_hz:.2f} s")

    second = listen(replay(tape, pace="fast"))
    print("replayed:", *second[:12])
    assert second == first
