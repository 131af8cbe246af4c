"""What reached Python is judged by the numbers in it: beside a model that looks at every frame by itself."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from steadyflow.benchmarks.device.blocks import BlockLog, judge
from steadyflow.benchmarks.device.probe import MODULUS

PERIOD_FRAMES = 16
PERIOD_NS = 1_000_000
BEGAN_NS = 5_000_000_000


def played(first_position, cycles):
    """Return what the probe says: of each cycle, its first position and when it was played."""
    numbers = np.arange(cycles)
    return np.stack([first_position + numbers * PERIOD_FRAMES, BEGAN_NS + numbers * PERIOD_NS], axis=1)


def number(position):
    return position % MODULUS + 1


@given(
    # From anywhere, also where the numbers come round.
    began=st.sampled_from([0, 1000, MODULUS - 100, 3 * MODULUS - 5 * PERIOD_FRAMES]),
    cycles=st.integers(2, 12),
    blocks=st.lists(
        st.tuples(
            st.integers(0, 11 * PERIOD_FRAMES),  # where it begins
            st.integers(1, 3 * PERIOD_FRAMES),  # how long it is
            st.integers(0, 5 * PERIOD_NS),  # how late it is
        ),
        max_size=15,
    ),
    window=st.tuples(st.integers(0, 1), st.integers(2, 12)),
)
def test_lost_and_repeated_frames_are_those_of_the_model(began, cycles, blocks, window):
    table = played(began, cycles)
    first, last = (began + PERIOD_FRAMES * min(edge, cycles) for edge in window)
    noted, seen, latencies = [], Counter(), []
    for offset, frames, late_ns in blocks:
        end = min(offset + frames, cycles * PERIOD_FRAMES)
        if offset >= end:
            continue
        begin_position, last_position = began + offset, began + end - 1
        played_ns = BEGAN_NS + (end - 1) // PERIOD_FRAMES * PERIOD_NS
        noted.append((number(begin_position), number(last_position), end - offset, played_ns + late_ns))
        inside = [position for position in range(begin_position, last_position + 1) if first <= position < last]
        seen.update(inside)
        if inside:
            latencies.append(late_ns)
    reached = judge(np.array(noted, np.int64).reshape(-1, 4), table, first, last)
    assert reached.lost_frames == sum(1 for position in range(first, last) if not seen[position])
    assert reached.repeated_frames == sum(count - 1 for count in seen.values())
    assert reached.latencies_ns.tolist() == latencies
    assert reached.blocks == len(latencies)


def test_silence_from_before_the_probe_is_no_block():
    noted = np.array([(0, 0, 16, BEGAN_NS), (0, 8, 16, BEGAN_NS), (number(0), number(15), 16, BEGAN_NS)], np.int64)
    assert judge(noted, played(0, 2), 0, 16).blocks == 1


def test_what_is_behind_a_hole_in_a_block_is_lost():
    # Eight frames from 0 on, of which the last one is number 15: what is in between is not known.
    reached = judge(np.array([(number(0), number(15), 8, BEGAN_NS)], np.int64), played(0, 1), 0, 16)
    assert reached.lost_frames == 8


def test_a_log_remembers_as_many_blocks_as_it_has_room_for(tmp_path):
    log = BlockLog(2)
    for first in (0, 4, 8):
        log.note(np.arange(first + 1, first + 5, dtype=np.float32).reshape(-1, 1))
    log.save(tmp_path / "blocks.npy")
    noted = np.load(tmp_path / "blocks.npy")
    assert noted[:, :3].tolist() == [[1, 4, 4], [5, 8, 4]]
    assert 0 < noted[0, 3] <= noted[1, 3]
