"""What blocks said of their frames, asked for by position: against a model that keeps everything."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from steadyflow import AudioFormat, Block
from steadyflow._native import StampTrail

FORMAT = AudioFormat(48_000, 1)
NS_PER_FRAME = 1e9 / 48_000
LASTING = 2 | 4 | 8

blocks = st.lists(
    st.tuples(st.integers(1, 300), st.integers(-(10**12), 10**12), st.integers(0, 31)), min_size=1, max_size=20
)


def block_of(frames, timestamp_ns, flags):
    return Block(np.zeros((frames, 1), np.float32), FORMAT, timestamp_ns=timestamp_ns, flags=flags)


@settings(deadline=None, derandomize=True, database=None, max_examples=200)
@given(blocks, st.integers(0, 1 << 40), st.lists(st.floats(0, 1), max_size=20))
def test_positions_have_the_time_and_the_faults_of_their_blocks(said, first, places):
    trail = StampTrail(NS_PER_FRAME)
    kept, at = [], first
    for frames, timestamp_ns, flags in said:
        trail.add(block_of(frames, timestamp_ns, flags), at)
        kept.append((at, at + frames, timestamp_ns, flags))
        at += frames
    for place in sorted(places):
        begin = first + place * (at - first)
        end = begin + 100
        start, _, timestamp_ns, _ = max((each for each in kept if each[0] <= begin), key=lambda each: each[0])
        assert trail.timestamp_ns(begin) == timestamp_ns + round((begin - start) * NS_PER_FRAME)
        expected = 0
        for start, stop, _, flags in kept:
            if start < end and stop > begin:
                expected |= flags & LASTING
        assert trail.flags(begin, end) == expected
    assert 1 <= len(trail) <= len(said)


@pytest.mark.parametrize(("timestamp_ns", "limit"), [((1 << 63) - 10, (1 << 63) - 1), (-(1 << 63), -(1 << 63))])
def test_a_time_that_no_block_can_have_is_the_nearest_that_one_can(timestamp_ns, limit):
    trail = StampTrail(1e9)
    trail.add(block_of(10, timestamp_ns, 0), 1000)
    assert trail.timestamp_ns(1000 + (5 if timestamp_ns > 0 else -5)) == limit
    assert trail.timestamp_ns(1e300 if timestamp_ns > 0 else -1e300) == limit


def test_what_was_cleared_is_asked_for_no_more():
    trail = StampTrail(1.0)
    trail.add(block_of(10, 7, 2), 0)
    trail.clear()
    assert len(trail) == 0
    assert trail.flags(0, 10) == 0
    with pytest.raises(RuntimeError, match="no block has come"):
        trail.timestamp_ns(0)
    trail.add(block_of(10, 8, 0), 0)
    assert trail.timestamp_ns(3) == 11
