"""The drift of two devices' clocks, found again in observations that were made with a known one."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyflow.metrics.drift import ClockRate, drift_ppm

BEGAN_NS = 40_000 * 10**9


def observe(rate, rate_hz, deviation_ppm, *, seconds, period_s, jitter_ns=0, seed=0, began_ns=BEGAN_NS):
    """Observe a device that moves a period of frames at a time, read late by as much as `jitter_ns`."""
    late = random.Random(seed)
    for cycle in range(round(seconds / period_s)):
        frames = round(cycle * period_s * rate_hz)
        true_ns = round(frames / (rate_hz * (1 + deviation_ppm / 1e6)) * 1e9)
        rate.observe(frames, began_ns + true_ns + late.randrange(jitter_ns + 1))


@given(st.floats(-500, 500), st.sampled_from([8_000, 44_100, 48_000, 96_000]), st.sampled_from([0.0025, 0.01, 0.1]))
def test_without_jitter_it_is_exact(deviation_ppm, rate_hz, period_s):
    rate = ClockRate(rate_hz)
    observe(rate, rate_hz, deviation_ppm, seconds=20, period_s=period_s)
    assert rate.deviation_ppm == pytest.approx(deviation_ppm, abs=0.5)


@pytest.mark.parametrize("deviation_ppm", [-80.0, 0.0, 35.0])
@pytest.mark.parametrize("seed", range(4))
def test_callbacks_that_are_late_move_it_little(deviation_ppm, seed):
    rate = ClockRate(48_000)
    observe(rate, 48_000, deviation_ppm, seconds=60, period_s=0.01, jitter_ns=1_000_000, seed=seed)
    assert rate.deviation_ppm == pytest.approx(deviation_ppm, abs=10)


@given(st.floats(-200, 200), st.floats(-200, 200))
def test_the_drift_is_between_the_two(captured_ppm, played_ppm):
    captured, played = ClockRate(48_000), ClockRate(44_100)
    assert drift_ppm(captured, played) is None
    observe(captured, 48_000, captured_ppm, seconds=10, period_s=0.01)
    assert drift_ppm(captured, played) is None
    observe(played, 44_100, played_ppm, seconds=10, period_s=0.023, began_ns=BEGAN_NS + 3 * 10**9)
    assert drift_ppm(captured, played) == pytest.approx(captured_ppm - played_ppm, abs=1)


def test_it_is_not_known_before_a_second_has_passed():
    rate = ClockRate(48_000)
    assert rate.deviation_ppm is None
    observe(rate, 48_000, 100, seconds=0.9, period_s=0.01)
    assert rate.deviation_ppm is None


@pytest.mark.parametrize("back", ["frames", "time"])
def test_a_device_that_begins_anew_is_observed_anew(back):
    rate = ClockRate(48_000)
    observe(rate, 48_000, 400, seconds=20, period_s=0.01)
    rate.observe(0 if back == "frames" else 10**9, BEGAN_NS + (60 * 10**9 if back == "frames" else 0))
    assert rate.deviation_ppm is None
    rate = ClockRate(48_000)
    observe(rate, 48_000, 400, seconds=20, period_s=0.01)
    observe(rate, 48_000, -50, seconds=20, period_s=0.01, began_ns=BEGAN_NS + 60 * 10**9)
    assert rate.deviation_ppm == pytest.approx(-50, abs=1)


def test_it_follows_what_changes_and_keeps_little():
    rate = ClockRate(48_000)
    for second in range(3_000):
        ppm = 0 if second < 1_500 else 100
        rate.observe(second * 48_000 + max(0, second - 1_500) * 48_000 * ppm // 10**6, BEGAN_NS + second * 10**9)
    assert rate.deviation_ppm == pytest.approx(100, abs=10)
    assert len(rate._points) <= 128
