"""What the level meter says about signals of known level."""

import math

import numpy as np
import pytest

from steadyflow.audio import Level, LevelMeter
from steadyflow.data import Block
from steadyflow.formats import AudioFormat

SINE = np.sin(2 * np.pi * np.arange(480) / 48)[:, np.newaxis].astype(np.float32)


def measure(samples, timestamp_ns=5):
    samples = np.asarray(samples, np.float32)
    return LevelMeter().process(Block(samples, AudioFormat(48_000, samples.shape[1]), timestamp_ns=timestamp_ns))


@pytest.mark.parametrize(
    ("samples", "rms_db", "peak_db"),
    [
        (SINE, -3.01, 0.0),
        (SINE * 0.5, -9.03, -6.02),
        (SINE * 2.0, 3.01, 6.02),
        (np.ones((480, 1)), 0.0, 0.0),
        (-np.ones((480, 1)), 0.0, 0.0),
        (np.hstack([SINE, 0 * SINE]), -6.02, 0.0),
        (np.zeros((480, 1)), -120.0, -120.0),
        (np.full((480, 2), 1e-9), -120.0, -120.0),
        (np.ones((1, 1)), 0.0, 0.0),
    ],
)
def test_levels_are_in_db_of_full_scale(samples, rms_db, peak_db):
    level = measure(samples)
    assert level.rms_db == pytest.approx(rms_db, abs=0.01)
    assert level.peak_db == pytest.approx(peak_db, abs=0.01)


def test_a_level_has_the_stamp_of_its_block():
    assert measure(SINE, timestamp_ns=123_456) == Level(pytest.approx(-3.01, abs=0.01), 0.0, 123_456)


def test_not_a_number_is_not_hidden():
    assert math.isnan(measure([[0.5], [math.nan]]).rms_db)


def test_a_level_fits_its_format():
    from steadyflow.codec import codec_for

    fmt = LevelMeter().level.format
    level = Level(-120.0, -120.0, (1 << 63) - 1)
    codec = codec_for(fmt)
    assert codec.decode(codec.encode(level)) == level
