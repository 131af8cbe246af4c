"""The pitch detector, block by block: windows, hops, stamps, gaps; and the notes of the demo recording."""

import math

import numpy as np
import pytest

from steadyflow.audio import Pitch, PitchDetector, demo_recording, find_notes, match_notes
from steadyflow.codec import codec_for
from steadyflow.data import Block, BlockFlag
from steadyflow.errors import ConfigurationError
from steadyflow.formats import AudioFormat, StructFormat

START_NS = 5_000_000_000


class Recorder:
    """Stands in for an output port."""

    def __init__(self):
        self.sent = []

    def send(self, data):
        self.sent.append(data)
        return True


def detector(rate_hz=48_000, channels=1, **options):
    made = PitchDetector(**options)
    made.audio.format = AudioFormat(rate_hz, channels)
    vars(made)["pitch"] = Recorder()
    made.setup()
    return made


def blocks(samples, rate_hz=48_000, block_frames=480):
    samples = np.asarray(samples, np.float32)
    if samples.ndim == 1:
        samples = samples[:, np.newaxis]
    for first in range(0, len(samples), block_frames):
        yield Block(
            samples[first : first + block_frames],
            AudioFormat(rate_hz, samples.shape[1]),
            timestamp_ns=START_NS + first * 1_000_000_000 // rate_hz,
            first_frame=first,
        )


def listen(samples, rate_hz=48_000, block_frames=480, **options):
    samples = np.asarray(samples, np.float32)
    made = detector(rate_hz, samples.shape[1] if samples.ndim == 2 else 1, **options)
    for block in blocks(samples, rate_hz, block_frames):
        made.process(block)
    return [data.data for data in made.pitch.sent]


def sine(frequency_hz, seconds=0.5, rate_hz=48_000, peak=0.5):
    return peak * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate_hz)) / rate_hz)


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("frequency_hz", [50.0, 220.0, 987.77, 1999.0])
def test_a_tone_is_heard_at_any_rate(rate_hz, frequency_hz):
    pitches = listen(sine(frequency_hz, rate_hz=rate_hz), rate_hz)
    assert pitches
    for pitch in pitches:
        assert abs(1200 * math.log2(pitch.frequency_hz / frequency_hz)) < 2
        assert pitch.clarity > 0.95


def test_the_note_is_named():
    pitch = listen(sine(440.0 * 2 ** (10 / 1200)))[0]
    assert pitch.note == "A4"
    assert pitch.cents == pytest.approx(10.0, abs=0.1)
    assert listen(sine(277.18))[0].note == "C#4"


def test_there_are_a_hundred_estimates_a_second():
    stamps = [pitch.timestamp_ns for pitch in listen(sine(440.0, seconds=2.0))]
    assert len(stamps) == 196  # the first one needs a whole window
    assert set(np.diff(stamps)) == {10_000_000}


@pytest.mark.parametrize("block_frames", [1, 37, 128, 480, 2048, 4096, 24_000])
def test_the_length_of_the_blocks_does_not_matter(block_frames):
    samples = np.concatenate([sine(440.0, 0.25), sine(660.0, 0.25)])
    expected = listen(samples)
    pitches = listen(samples, block_frames=block_frames)
    assert [pitch.frequency_hz for pitch in pitches] == [pitch.frequency_hz for pitch in expected]
    # Stamps of blocks are whole nanoseconds.
    assert (
        np.ptp([ours.timestamp_ns - theirs.timestamp_ns for ours, theirs in zip(pitches, expected, strict=True)]) <= 2
    )


def test_the_stamp_is_that_of_the_middle_of_the_window():
    assert listen(sine(440.0))[0].timestamp_ns == START_NS + 1024 * 1_000_000_000 // 48_000


def test_a_step_is_heard_when_it_happens():
    pitches = listen(np.concatenate([sine(440.0, 0.5), sine(660.0, 0.5)]))
    change_ns = next(pitch.timestamp_ns for pitch in pitches if pitch.note == "E5")
    assert abs(change_ns - (START_NS + 500_000_000)) <= 25_000_000


def test_channels_are_averaged():
    both = np.stack([sine(440.0), sine(440.0)], axis=1)
    assert listen(both)[0].note == "A4"
    opposite = np.stack([sine(440.0), -sine(440.0)], axis=1)
    assert listen(opposite)[0].note is None


def test_silence_and_noise_are_unvoiced():
    random = np.random.default_rng(4)
    for samples in (np.zeros(24_000), 0.1 * random.standard_normal(24_000), sine(440.0, peak=0.0005)):
        pitches = listen(samples)
        assert len(pitches) == 46
        assert {(pitch.frequency_hz, pitch.note, pitch.cents) for pitch in pitches} == {(None, None, 0.0)}


def test_not_a_number_spoils_only_the_windows_that_hold_it():
    samples = sine(440.0, 1.0)
    samples[24_000] = math.nan
    pitches = listen(samples)
    unvoiced = [pitch.timestamp_ns for pitch in pitches if pitch.note is None]
    assert 1 <= len(unvoiced) <= 5
    assert all(abs(stamp - START_NS - 500_000_000) < 30_000_000 for stamp in unvoiced)


def test_a_window_never_spans_a_gap():
    made = detector()
    before, after = list(blocks(sine(440.0, 1.0)))[:10], list(blocks(sine(440.0, 1.0)))[31:41]
    for block in before + after:
        made.process(block)
    stamps = [data.data.timestamp_ns for data in made.pitch.sent]
    # The windows before end with the frames before the gap, the first one after begins with the frame after it.
    last_before, first_after = START_NS + 80_000_000, START_NS + 310_000_000 + 1024 * 1_000_000_000 // 48_000
    assert max(stamp for stamp in stamps if stamp < START_NS + 200_000_000) <= last_before
    assert min(stamp for stamp in stamps if stamp > START_NS + 200_000_000) == first_after
    assert {data.data.note for data in made.pitch.sent} == {"A4"}


@pytest.mark.parametrize("flag", [BlockFlag.DISCONTINUITY, BlockFlag.GAP])
def test_a_flagged_block_begins_a_new_window(flag):
    made = detector()
    first = next(iter(blocks(sine(440.0, 0.04), block_frames=1920)))
    made.process(first)
    made.process(Block(first.samples, first.format, timestamp_ns=START_NS, first_frame=1920, flags=int(flag)))
    assert made.pitch.sent == []


def test_blocks_without_stamps_are_no_error():
    made = detector()
    made.process(Block(np.zeros((480, 1), np.float32), AudioFormat(48_000, 1)))
    made.process(Block(np.zeros((4096, 1), np.float32), AudioFormat(48_000, 1)))
    assert all(data.timestamp_ns >= 0 for data in made.pitch.sent)


def test_a_high_range_has_short_windows():
    pitches = listen(sine(1500.0, seconds=0.1), lowest_hz=1000)
    assert {pitch.note for pitch in pitches} == {"F#6"}
    assert len(pitches) >= 45


@pytest.mark.parametrize(
    "options",
    [{"lowest_hz": 0}, {"lowest_hz": "low"}, {"lowest_hz": 500, "highest_hz": 400}, {"highest_hz": math.inf}],
)
def test_an_impossible_range_is_refused(options):
    with pytest.raises(ConfigurationError, match="PitchDetector"):
        PitchDetector(**options)


def test_a_rate_too_low_for_the_range_is_refused():
    with pytest.raises(ConfigurationError, match="a quarter of the sample rate"):
        detector(rate_hz=160)


def test_an_unconnected_detector_is_refused():
    with pytest.raises(ConfigurationError, match="not connected"):
        PitchDetector().setup()


def test_a_pitch_fits_its_format():
    fmt = PitchDetector().pitch.format
    assert isinstance(fmt, StructFormat)
    codec = codec_for(fmt)
    for pitch in (Pitch(1999.999, "C#-1", -49.99, 0.999, (1 << 63) - 1), Pitch(None, None, 0.0, 0.0, 0)):
        assert codec.decode(codec.encode(pitch)) == pitch


@pytest.mark.parametrize("block_frames", [128, 480])
def test_every_note_of_the_demo_recording_is_heard(block_frames):
    soundfile = pytest.importorskip("soundfile")
    recording = demo_recording()
    samples, rate_hz = soundfile.read(recording.path, dtype="float32")
    notes = find_notes(listen(samples, rate_hz, block_frames))
    expected = [
        type(note)(note.note, note.frequency_hz, note.cents, note.timestamp_ns + START_NS, note.duration_s)
        for note in recording.notes
    ]
    assert [note.note for note in notes] == [note.note for note in expected]
    assert match_notes(expected, notes) == notes
