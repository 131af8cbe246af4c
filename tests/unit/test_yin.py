"""The pitch estimator against synthesised tones whose frequency is known exactly."""

import math

import numpy as np
import pytest

from steadyflow.audio.yin import Yin
from steadyflow.errors import ConfigurationError

RATES = (8_000, 16_000, 22_050, 44_100, 48_000, 96_000)
KINDS = ("sine", "sawtooth", "square", "weak fundamental", "missing fundamental", "random")


def partials(kind, count, random):
    if kind == "random":
        return random.uniform(0.0, 1.0, min(count, 12))
    numbers = np.arange(1, count + 1)
    amplitudes = 1.0 / numbers
    if kind == "sine":
        amplitudes[1:] = 0.0
    elif kind == "square":
        amplitudes[1::2] = 0.0
    elif kind == "weak fundamental":
        amplitudes[0] = 0.1
    elif kind == "missing fundamental":
        amplitudes[0] = 0.0
    return amplitudes


def tone(frequency_hz, rate_hz, frames, kind="sine", seed=0, peak=0.5):
    """A periodic sound with partials up to 0.45 of the rate, of random phases."""
    random = np.random.default_rng(seed)
    amplitudes = partials(kind, max(min(int(0.45 * rate_hz / frequency_hz), 60), 1), random)
    time_s = np.arange(frames) / rate_hz
    sound = np.zeros(frames)
    for number, amplitude in enumerate(amplitudes, 1):
        sound += amplitude * np.sin(2 * np.pi * (number * frequency_hz * time_s + random.uniform()))
    return (sound / np.abs(sound).max() * peak).astype(np.float32)


def cents(heard_hz, true_hz):
    return 1200 * math.log2(heard_hz / true_hz)


def frequencies(kind, rate_hz, count=40):
    # A tone without a fundamental needs some partials above it.
    highest_hz = min(2000.0, 0.1 * rate_hz) if "fundamental" in kind or kind == "random" else 2000.0
    return np.geomspace(50.0, highest_hz, count)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate_hz", RATES)
def test_clean_tones_are_heard_within_two_cents(rate_hz, kind):
    yin = Yin(rate_hz)
    for seed, true_hz in enumerate(frequencies(kind, rate_hz)):
        estimate = yin.estimate(tone(true_hz, rate_hz, yin.window_frames, kind, seed))
        if estimate.frequency_hz is None and kind == "random":
            continue  # a draw with almost no fundamental and one strong partial is honestly ambiguous
        assert estimate.frequency_hz is not None, true_hz
        assert abs(cents(estimate.frequency_hz, true_hz)) < 2, true_hz
        assert estimate.clarity > 0.9


@pytest.mark.parametrize("kind", ["sine", "sawtooth"])
@pytest.mark.parametrize(("noise_db", "most_cents"), [(-30, 2), (-20, 4), (-10, 20), (-5, 45)])
def test_noise_costs_accuracy_but_no_octaves(noise_db, most_cents, kind):
    yin = Yin(48_000)
    random = np.random.default_rng(1)
    for seed, true_hz in enumerate(np.geomspace(55.0, 2000.0, 60)):
        sound = tone(true_hz, 48_000, yin.window_frames, kind, seed)
        noise = random.standard_normal(len(sound)) * np.sqrt(np.mean(sound**2)) * 10 ** (noise_db / 20)
        estimate = yin.estimate(sound + noise)
        assert estimate.frequency_hz is not None
        assert abs(cents(estimate.frequency_hz, true_hz)) < most_cents, true_hz


def test_the_octave_below_is_not_taken_for_the_note():
    """Two periods repeat as well as one; the dip at one must win, in spite of noise."""
    yin = Yin(44_100)
    random = np.random.default_rng(2)
    for _ in range(50):
        sound = tone(440.0, 44_100, yin.window_frames, "sawtooth") + 0.01 * random.standard_normal(yin.window_frames)
        assert abs(cents(yin.estimate(sound).frequency_hz, 440.0)) < 2


def test_noise_alone_has_no_pitch():
    yin = Yin(48_000)
    random = np.random.default_rng(3)
    estimates = [yin.estimate(0.1 * random.standard_normal(yin.window_frames)) for _ in range(50)]
    assert all(estimate.frequency_hz is None for estimate in estimates)
    assert all(0.0 <= estimate.clarity < 0.6 for estimate in estimates)


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(2048),
        np.full(2048, 0.7),
        np.linspace(-1.0, 1.0, 2048),
        1e-4 * np.sin(np.arange(2048) * 0.05),
        np.full(2048, np.nan),
        np.where(np.arange(2048) == 7, np.inf, 0.1),
        np.where(np.arange(2048) == 1024, 1.0, 0.0),
        np.where(np.arange(2048) < 1024, 0.0, 1.0),
    ],
    ids=["zeros", "constant", "ramp", "below -60 dB", "nan", "infinite", "impulse", "step"],
)
def test_what_is_not_a_tone_has_no_pitch(sound):
    estimate = Yin(48_000).estimate(sound)
    assert estimate.frequency_hz is None
    assert 0.0 <= estimate.clarity <= 1.0


def test_a_constant_offset_does_not_matter():
    yin = Yin(48_000)
    sound = tone(220.0, 48_000, yin.window_frames)
    assert yin.estimate(sound + 0.4).frequency_hz == pytest.approx(yin.estimate(sound).frequency_hz, rel=1e-5)


@pytest.mark.parametrize("true_hz", [35.0, 2500.0, 3900.0])
def test_a_tone_out_of_range_is_not_moved_into_it(true_hz):
    yin = Yin(48_000)
    assert yin.estimate(tone(true_hz, 48_000, yin.window_frames)).frequency_hz is None


def test_the_ends_of_the_range_belong_to_it():
    yin = Yin(48_000, lowest_hz=100, highest_hz=1000)
    for true_hz in (100.0, 1000.0):
        assert abs(cents(yin.estimate(tone(true_hz, 48_000, yin.window_frames)).frequency_hz, true_hz)) < 2


def test_an_estimate_belongs_to_the_middle_of_the_window():
    """For a steady glide, the frequency heard is the one in the middle, whatever the pitch."""
    yin = Yin(48_000)
    middle = (yin.window_frames - 1) / 2
    for middle_hz in (100.0, 400.0, 1600.0):
        index = np.arange(yin.window_frames) - middle
        slope = middle_hz * 0.05 / yin.window_frames  # 5 % over the window
        phase = 2 * np.pi * (middle_hz * index + slope * index**2 / 2) / 48_000
        assert abs(cents(yin.estimate(np.sin(phase)).frequency_hz, middle_hz)) < 4


def test_the_window_is_two_periods_of_the_lowest_note():
    assert Yin(48_000).window_frames == 2048
    assert Yin(44_100).window_frames == 1882
    assert Yin(48_000, lowest_hz=100).window_frames == 1024


@pytest.mark.parametrize(
    "arguments",
    [
        {"lowest_hz": 0},
        {"lowest_hz": -50},
        {"lowest_hz": 500, "highest_hz": 400},
        {"highest_hz": 12_001},
        {"highest_hz": math.nan},
    ],
)
def test_an_impossible_range_is_refused(arguments):
    with pytest.raises(ConfigurationError, match="a quarter of the sample rate"):
        Yin(48_000, **arguments)
