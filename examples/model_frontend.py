"""
What a model of sound gets: 16 kHz, mono, windows of 32 ms every 10 ms, whatever the recording is.

The module declares what it speaks, and its pipeline converts; the plan says how, the report what it cost. The module draws what it
hears: a column for each half of a second, low sounds at the left.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from steadyflow import AudioFormat, Block, DataFlowCoordinator, Input, Module, audio

BANDS = 24
SHADES = " .:-=+*#%@"


class Listener(Module):
    """Keeps how strong each band of each window is."""

    audio = Input(AudioFormat(16_000, 1), window_frames=512, hop_frames=160)

    def __init__(self) -> None:
        self.windows: list[np.ndarray] = []

    def process(self, audio: Block) -> None:
        """Take a window of 512 frames."""
        spectrum = np.abs(np.fft.rfft(audio.samples[:, 0] * np.hanning(512)))
        # Narrow bands below, wide ones above, as ears have them.
        edges = np.geomspace(2, len(spectrum) - 1, BANDS + 1).astype(int)
        self.windows.append(np.array([spectrum[low : high + 1].max() for low, high in pairwise(edges)]))


def main() -> None:
    """Run the bundled recording through the flow, and draw it."""
    listener = Listener()
    with DataFlowCoordinator("frontend") as flow:
        song = flow.add(audio.FileSource(audio.demo_recording().path, realtime_pace=False), name="song")
        flow.add(listener, name="listener")
        pipe = flow.connect(song.out, listener.audio, buffer_size=16, transformation_required=True)
        report = flow.run()
    print(pipe.conversion)
    print()
    for begin in range(0, len(listener.windows) - 49, 50):
        strength = 20 * np.log10(np.mean(listener.windows[begin : begin + 50], axis=0) + 1e-6)
        shades = np.clip((strength + 30) / 60 * len(SHADES), 0, len(SHADES) - 1).astype(int)
        print(f"{begin / 100:5.1f} s  {''.join(SHADES[shade] for shade in shades)}")
    print()
    for step in report.conversions[pipe.id]:
        print(f"{step.step}: {step.calls} blocks, {step.ns_per_frame:.0f} ns per frame")


if __name__ == "__main__":
    main()
