"""The samples, stamps and pace of `Tone`."""

import numpy as np
import pytest

from steadyflow.audio import Tone
from steadyflow.data import BlockFlag
from steadyflow.errors import ConfigurationError
from steadyflow.formats import AudioFormat


class Recorder:
    """Stands in for an output port."""

    def __init__(self):
        self.sent = []

    def send(self, data):
        self.sent.append(data)
        return True


class StoppedClock:
    def monotonic_ns(self):
        return 7_000


def play(tone, blocks=None):
    """Run a tone to its end, or for some blocks; returns what it sent and yielded."""
    tone._clock = StoppedClock()
    vars(tone)["out"] = recorder = Recorder()
    yields = []
    for deadline_ns in tone.produce():
        if len(recorder.sent) == blocks:
            break
        yields.append(deadline_ns)
    return recorder.sent, yields


def test_a_tone_is_one_sine_over_all_its_blocks():
    sent, _ = play(Tone(1000, duration_s=0.1, block_frames=100))
    samples = np.concatenate([data.data for data in sent])
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(4800) / 48_000)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples[:, 0], expected, atol=1e-6)


def test_all_channels_are_the_same():
    (data,), _ = play(Tone(440, 44_100, channels=3, duration_s=0.01))
    assert data.data.shape == (441, 3)
    assert (data.data == data.data[:, :1]).all()


def test_the_format_is_known_before_the_start():
    tone = Tone(440, 44_100, 2, block_frames=256)
    assert tone.resolve_formats({}) == {"out": AudioFormat(44_100, 2, max_block_frames=256)}


def test_stamps_count_frames_from_the_start_and_the_last_block_is_flagged():
    sent, _ = play(Tone(440, duration_s=0.025))
    assert [len(data.data) for data in sent] == [480, 480, 240]
    assert [data.first_frame for data in sent] == [0, 480, 960]
    assert [data.timestamp_ns for data in sent] == [7_000, 10_007_000, 20_007_000]
    assert [data.flags for data in sent] == [0, 0, BlockFlag.END_OF_STREAM]


def test_the_pace_is_counted_from_the_start():
    sent, yields = play(Tone(440, 44_100, duration_s=1.0, block_frames=128))
    assert len(yields) == len(sent) - 1  # nothing to wait for after the last block
    assert yields == [data.timestamp_ns for data in sent[1:]]
    assert yields[-1] == 7_000 + 128 * (len(sent) - 1) * 1_000_000_000 // 44_100


def test_a_tone_is_paced_unless_told_otherwise():
    assert Tone(440).paced
    tone = Tone(440, duration_s=0.1, realtime_pace=False)
    assert not tone.paced
    assert not tone.live
    assert set(play(tone)[1]) == {None}


def test_a_tone_without_a_duration_goes_on():
    sent, _ = play(Tone(440), blocks=1000)
    assert len(sent) == 1000
    assert not any(data.flags for data in sent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frequency_hz": 0}, "frequency_hz"),
        ({"frequency_hz": 24_001}, "up to 24000"),
        ({"frequency_hz": "440"}, "frequency_hz"),
        ({"frequency_hz": float("nan")}, "frequency_hz"),
        ({"frequency_hz": 440, "sample_rate_hz": 0}, "sample_rate_hz"),
        ({"frequency_hz": 440, "channels": 0}, "channels"),
        ({"frequency_hz": 440, "duration_s": 0}, "duration_s"),
        ({"frequency_hz": 440, "duration_s": float("inf")}, "duration_s"),
        ({"frequency_hz": 440, "block_frames": 0}, "block_frames"),
        ({"frequency_hz": 440, "block_frames": 1.5}, "block_frames"),
        ({"frequency_hz": 440, "realtime_pace": 1}, "realtime_pace"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Tone(**arguments)


def test_a_tone_says_what_it_is():
    assert repr(Tone(440, duration_s=2)) == "<Tone 440 Hz, 2 s, audio 48000 Hz, 1 channel, f32, interleaved>"
    assert "without end" in repr(Tone(440))
