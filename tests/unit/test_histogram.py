"""Percentiles of a log-linear histogram, against the values themselves."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from steadyflow._native import bucket_bounds
from steadyflow.metrics.histogram import Histogram

# What one example takes depends on what else this machine does.
unhurried = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])

BOUNDS = bucket_bounds()


def histogram(values):
    """Fill a histogram as the data plane does."""
    counts = np.zeros(len(BOUNDS) - 1, np.uint64)
    for value in values:
        counts[np.searchsorted(BOUNDS, value, side="right") - 1] += 1
    return Histogram(counts, sum(values), max(values, default=0))


def exact(values, percent):
    """Return the smallest value that `percent` % do not exceed."""
    return sorted(values)[max(1, int(np.ceil(len(values) * percent / 100))) - 1]


durations = st.lists(st.integers(0, 10**11), min_size=1, max_size=60)


def test_the_buckets_are_narrow_and_cover_everything_that_happens():
    assert BOUNDS[0] == 0
    assert int(BOUNDS[-1]) > 60 * 10**9, "a minute"
    widths = np.diff(BOUNDS.astype(np.float64))
    assert (widths > 0).all()
    wide = widths > 1  # of the others each holds one integer
    assert (widths[wide] / BOUNDS[:-1][wide] <= 0.032).all()


@unhurried
@given(durations, st.sampled_from([0.0, 1.0, 50.0, 95.0, 99.0, 99.9, 100.0]))
def test_percentiles_are_right_to_within_a_bucket(values, percent):
    found_ns = histogram(values).percentile_ms(percent) * 1e6
    assert found_ns == pytest.approx(exact(values, percent), rel=0.017, abs=0.51)
    assert found_ns <= max(values) * (1 + 1e-12)


@unhurried
@given(durations)
def test_percentiles_rise(values):
    reading = histogram(values)
    rising = [reading.percentile_ms(percent) for percent in (0, 10, 50, 95, 99, 99.9, 100)]
    assert rising == sorted(rising)


@unhurried
@given(durations)
def test_mean_maximum_and_count_are_exact(values):
    reading = histogram(values)
    assert reading.count == len(values)
    assert reading.max_ms == max(values) / 1e6
    assert reading.mean_ms == pytest.approx(sum(values) / len(values) / 1e6)


def test_one_value():
    reading = histogram([1_000_000])
    assert {reading.percentile_ms(percent) for percent in (1, 50, 100)} == {reading.percentile_ms(50)}
    assert reading.percentile_ms(50) == pytest.approx(1.0, rel=0.017)


def test_without_values_everything_is_0():
    reading = histogram([])
    assert (reading.count, reading.mean_ms, reading.max_ms, reading.percentile_ms(99)) == (0, 0, 0, 0)
