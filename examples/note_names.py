"""A module for notes.toml: prints the notes that were heard. Run by itself, it runs that flow."""

from pathlib import Path

from steadyflow import Input, Module, StructFormat, audio, load_flow


class NoteNames(Module):
    """
    Prints the names of the notes when the stream has ended.

    Port ``pitch``: the estimates of an `audio.PitchDetector`.
    """

    pitch = Input(StructFormat(audio.Pitch))

    def __init__(self):
        self.pitches = []

    def process(self, pitch):
        self.pitches.append(pitch.data)

    def finish(self):
        print(*[note.note for note in audio.find_notes(self.pitches)])


if __name__ == "__main__":
    with load_flow(Path(__file__).with_name("notes.toml")) as flow:
        print(flow.run())
