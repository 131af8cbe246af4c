"""
Two processes share the work of one module, and what they find comes out in the order of the recording.

For each block of the bundled recording, a spectrum is computed that is much finer than the block is long, and the strongest
frequency in it reported. No block has to do with another, so they can be worked on at the same time.

Prints::

    one process:    139 blocks per second
    two replicas:   262 blocks per second, 1.88 times as fast
    in the order of the recording: True; the same as from one process: True
"""

from __future__ import annotations

import msgspec
import numpy as np

from steadyflow import AudioFormat, Block, DataFlowCoordinator, Input, Module, Output, StructFormat, audio, testing

RATE_HZ = 44_100
SPECTRUM_FRAMES = 1 << 17


class Strongest(msgspec.Struct):
    """The strongest frequency of a block, and the index of the block's first frame."""

    first_frame: int
    frequency_hz: float


class FineSpectrum(Module):
    """Looks for the strongest frequency. Remembers nothing from block to block, so it may have replicas."""

    audio = Input(AudioFormat(sample_rate_hz=RATE_HZ, channels=1))
    strongest = Output(StructFormat(Strongest))

    def process(self, audio: Block) -> Strongest:
        """Find the strongest frequency of a block."""
        samples = audio.samples[:, 0] * np.hanning(audio.frames)
        spectrum = np.abs(np.fft.rfft(samples, SPECTRUM_FRAMES))
        return Strongest(audio.first_frame, float(spectrum.argmax()) * RATE_HZ / SPECTRUM_FRAMES)


def analyse(replicas: int) -> tuple[list[Strongest], float]:
    """Analyse the recording; returns what was found, as it came, and how many blocks that was in a second."""
    with DataFlowCoordinator("analysis") as flow:
        take = flow.add(
            audio.FileSource(audio.demo_recording().path, block_frames=2048, realtime_pace=False), name="take"
        )
        spectrum = flow.add(FineSpectrum(), name="spectrum", placement="process", replicas=replicas, ordered=True)
        found = flow.add(testing.Collect(), name="found")
        flow.connect(take.out, spectrum.audio, buffer_size=8)
        flow.connect(spectrum.strongest, found.data, buffer_size=8)
        report = flow.run()
    return found.values, len(found.values) / report.duration_s


alone, alone_rate = analyse(replicas=1)
shared, shared_rate = analyse(replicas=2)
frames = [each.first_frame for each in shared]

print(f"one process:  {alone_rate:5.0f} blocks per second")
print(f"two replicas: {shared_rate:5.0f} blocks per second, {shared_rate / alone_rate:.2f} times as fast")
print(f"in the order of the recording: {frames == sorted(frames)}; the same as from one process: {shared == alone}")
