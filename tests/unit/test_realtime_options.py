"""What may be asked of a real-time worker beyond its scheduling."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyflow import Realtime
from steadyflow.errors import ConfigurationError
from steadyflow.realtime import checked_realtime, together
from steadyflow.runtime.cpu_latency import request_cpu_latency

OPTIONS = st.builds(Realtime, st.integers(0, 10_000), st.none() | st.integers(0, 1_000_000))


def test_true_asks_for_nothing_more():
    assert checked_realtime("m", value=True) == Realtime() == Realtime(spin_us=0, cpu_latency_us=None)
    assert checked_realtime("m", value=False) is None
    assert checked_realtime("m", Realtime(5)) == Realtime(5)


@pytest.mark.parametrize("value", [1, 0, None, "yes", Realtime])
def test_what_is_neither_a_switch_nor_options_is_refused(value):
    with pytest.raises(
        ConfigurationError, match=r"^m: expected realtime to be True, False or Realtime\(\.\.\.\), got "
    ):
        checked_realtime("m", value)


@pytest.mark.parametrize("value", [-1, 10_001, 1.5, "5", True])
def test_a_spin_out_of_range_is_refused(value):
    with pytest.raises(
        ConfigurationError, match=r"^Realtime: expected spin_us to be an integer from 0 to 10000, in µs, got "
    ):
        Realtime(spin_us=value)


@pytest.mark.parametrize("value", [-1, 1_000_001, 0.5, "0", False])
def test_a_latency_out_of_range_is_refused(value):
    with pytest.raises(
        ConfigurationError, match=r"^Realtime: expected cpu_latency_us to be an integer from 0 to 1000000"
    ):
        Realtime(cpu_latency_us=value)


@given(OPTIONS, OPTIONS)
def test_what_shares_a_worker_gets_the_longer_spin_and_the_shorter_latency(one, other):
    both = together(one, other)
    assert both == together(other, one)
    assert both.spin_us == max(one.spin_us, other.spin_us)
    asked = {one.cpu_latency_us, other.cpu_latency_us} - {None}
    assert both.cpu_latency_us == (min(asked) if asked else None)
    assert together(one, None) == together(None, one) == one


def test_nothing_and_nothing_is_nothing():
    assert together(None, None) is None


@given(OPTIONS)
def test_options_travel(options):
    assert msgspec.convert(msgspec.to_builtins(options), Realtime) == options


def test_the_request_is_a_number_of_four_bytes_in_a_file_that_stays_open(tmp_path):
    device = tmp_path / "cpu_dma_latency"
    device.touch()
    assert request_cpu_latency(20, device) is None
    assert device.read_bytes() == (20).to_bytes(4, "little")


def test_a_refused_request_says_why(tmp_path):
    assert request_cpu_latency(20, tmp_path / "none") == f"{tmp_path}/none: No such file or directory"
