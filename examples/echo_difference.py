"""
Take a loudspeaker's echo out of a microphone: two streams, joined frame by frame.

A recording is played. The room, in a process of its own, hears it late, softened and with some noise, in blocks of
another length. `EchoDifference` gets the same frames of both (`Aligned`), learns what the room does, and subtracts it.

Prints::

    microphone: -38.4 dB, echo and noise
    difference: -60.0 dB, once the echo is known
    microphone: 427520 frames joined, 250 missing
    speaker: 427770 frames joined, 0 missing
"""

import numpy as np

from steadyflow import (
    Aligned,
    AudioFormat,
    Block,
    BlockFlag,
    DataFlowCoordinator,
    Input,
    Module,
    Output,
    audio,
    testing,
)

TAPS = 64


class Room(Module):
    """What a microphone hears of a loudspeaker: a direct sound, some reflections, and noise at -60 dB."""

    speaker = Input(AudioFormat(channels=1), window_frames=256)
    microphone = Output(like="speaker")

    def setup(self):
        self.random = np.random.default_rng(1)
        self.response = np.zeros(TAPS)
        self.response[[20, 27, 33, 46, 60]] = 0.2, -0.11, 0.07, 0.04, -0.02
        self.past = np.zeros(TAPS - 1)

    def process(self, speaker: Block):
        heard = np.concatenate([self.past, speaker.samples[:, 0]])
        self.past = heard[1 - TAPS :]
        echo = np.convolve(heard, self.response, "valid")
        return (echo + self.random.normal(0, 1e-3, speaker.frames)).astype(np.float32)


class EchoDifference(Module):
    """Subtracts what follows from the loudspeaker: a Wiener filter over all that was heard so far."""

    microphone = Input(AudioFormat(channels=1))
    speaker = Input(AudioFormat(channels=1))
    out = Output(like="microphone")
    aligned = Aligned("microphone", "speaker", by="frame")

    def setup(self):
        self.past = np.zeros(TAPS - 1)
        self.power = np.eye(1, TAPS)[0]
        self.match = np.zeros(TAPS)
        self.lags = np.abs(np.subtract.outer(np.arange(TAPS), np.arange(TAPS)))

    def process(self, microphone: Block, speaker: Block):
        if (microphone.flags | speaker.flags) & BlockFlag.GAP:
            return None  # at the end, the room is a few frames short: there is nothing to learn from
        heard, played = microphone.samples[:, 0], np.concatenate([self.past, speaker.samples[:, 0]])
        self.past = played[1 - TAPS :]
        left = heard - np.convolve(played, np.linalg.solve(self.power[self.lags], self.match), "valid")
        self.power += np.correlate(played, speaker.samples[:, 0], "valid")[::-1]
        self.match += np.correlate(played, heard, "valid")[::-1]
        return left.astype(np.float32)


def level_db(blocks, rate_hz):
    """The level of all but the first second, in which the difference is still learning."""
    samples = np.concatenate(blocks)[rate_hz:]
    return 10 * np.log10(np.mean(samples**2))


with DataFlowCoordinator("echo") as flow:
    song = flow.add(audio.FileSource(audio.demo_recording().path, realtime_pace=False), name="song")
    room = flow.add(Room(), name="room", placement="process")
    difference = flow.add(EchoDifference(), name="difference")
    heard, left = flow.add(testing.Collect(), name="heard"), flow.add(testing.Collect(), name="left")
    flow.connect(song.out, room.speaker, buffer_size=16)
    flow.connect(song.out, difference.speaker, buffer_size=16)
    flow.connect(room.microphone, difference.microphone, buffer_size=16)
    flow.connect(room.microphone, heard.data, buffer_size=16)
    flow.connect(difference.out, left.data, buffer_size=16)
    report = flow.run()

rate_hz = song.out.format.sample_rate_hz
print(f"microphone: {level_db(heard.values, rate_hz):.1f} dB, echo and noise")
print(f"difference: {level_db(left.values, rate_hz):.1f} dB, once the echo is known")
for name, joined in report.modules["difference"].aligned.items():
    print(f"{name}: {joined.delivered_frames} frames joined, {joined.silent_frames} missing")
