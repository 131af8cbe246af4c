"""Two devices with two clocks: offline, for minutes, and nothing piles up or runs dry."""

from __future__ import annotations

import numpy as np
import pytest

from steadyflow import DataFlowCoordinator
from steadyflow.audio import DriftCorrector, Microphone, Speaker
from steadyflow.errors import ConfigurationError
from steadyflow.testing import ScriptedDevice

RATE_HZ = 48_000
TARGET_MS = 20.0


def sine(seconds):
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def played(ppm, seconds, corrector=None):
    """Play what a device captures whose clock is so much faster; return what was heard, and the report."""
    source = ScriptedDevice([sine(seconds)], drift_ppm=ppm, name="source")
    target = ScriptedDevice(output_channels=1, name="target")
    with DataFlowCoordinator("two clocks") as flow:
        output = flow.add(Microphone(source), name="mic").out
        speaker = flow.add(Speaker(target), name="speaker")
        if corrector is not None:
            flow.add(corrector, name="corrector")
            flow.connect(output, corrector.audio, buffer_size=32)
            output = corrector.out
        pipe = flow.connect(output, speaker.audio, buffer_size=15, target_fill_ms=TARGET_MS)
        report = flow.run(freewheel=True)
        return target.played[:, 0], report, report.pipelines[pipe.id]


@pytest.mark.parametrize("ppm", [600.0, -600.0])
def test_without_correction_it_piles_up_or_runs_dry(ppm):
    _, report, metrics = played(ppm, 60)
    assert metrics.dropped_total + report.devices["speaker"].playback.underruns > 0


@pytest.mark.parametrize("ppm", [600.0, -600.0, 30.0, 0.0])
def test_with_correction_it_stays_the_same(ppm):
    corrector = DriftCorrector(target_fill_ms=TARGET_MS)
    heard, report, metrics = played(ppm, 120, corrector)
    assert metrics.dropped_total == 0
    assert report.devices["speaker"].playback.underruns <= 1  # at the end, when nothing comes any more
    assert corrector.ppm == pytest.approx(ppm, abs=40)
    # It still is the tone that it was: after it has settled, nothing but the sine, and no step in it.
    tail = heard[-30 * RATE_HZ : -2 * RATE_HZ]
    assert np.abs(np.diff(tail)).max() < 0.5 * 2 * np.pi * 440 / RATE_HZ * 1.01


@pytest.mark.parametrize("options", [{"target_fill_ms": 0}, {"max_ppm": -5}, {"max_ppm": 1e6}])
def test_what_is_impossible_is_refused(options):
    with pytest.raises(ConfigurationError, match="DriftCorrector: expected"):
        DriftCorrector(**options)
