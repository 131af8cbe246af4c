"""`Alignment` by example, with explicit times; the whole of it is in tests/property/test_alignment_model.py."""

import numpy as np
import pytest

from steadyflow.aligned import Aligned
from steadyflow.data import Block, BlockFlag
from steadyflow.errors import ConfigurationError, LimitExceeded
from steadyflow.formats import AudioFormat
from steadyflow.runtime.alignment import Alignment

RATE_HZ = 1000
MS = 1_000_000
MONO = AudioFormat(RATE_HZ, 1, max_block_frames=100)


class Join:
    """Two aligned inputs, what they were given, and who is held back."""

    def __init__(self, *names, by="frame", stops=None, formats=None, output=None, process=None, **limits):
        self.names = names or ("mic", "reference")
        self.got = []
        self.stamps = []
        self.held = []
        self.alignment = Alignment(
            Aligned(*self.names, by=by, **limits),
            dict.fromkeys(self.names, MONO) | (formats or {}),
            process or (lambda *blocks: self.got.append(blocks)),
            output,
            self,
            stops or {},
            lambda name, held: self.held.append((name, held)),
        )

    def set_stamps(self, *stamps):
        self.stamps.append(stamps)

    def push(self, name, first_frame, frames, *, flags=0, at_ms=0, stamp_ms=None, fmt=MONO):
        values = np.arange(first_frame, first_frame + frames, dtype=np.float32)[:, None]
        stamp_ns = round((first_frame if stamp_ms is None else stamp_ms) * MS)
        block = Block(values.astype(fmt.dtype), fmt, timestamp_ns=stamp_ns, first_frame=first_frame, flags=int(flags))
        self.alignment.push(name, block, at_ms * MS)

    def ranges(self):
        """Return first frame, length, and the flags of each block, of each range; and forget them."""
        told = [
            (blocks[0].first_frame, blocks[0].frames, *(int(block.flags) for block in blocks)) for blocks in self.got
        ]
        self.got.clear()
        return told


GAP = int(BlockFlag.GAP)
DISCONTINUITY = int(BlockFlag.DISCONTINUITY)


def test_blocks_of_different_lengths_meet_at_what_they_have_in_common():
    join = Join()
    join.push("mic", 0, 30)
    assert join.ranges() == []
    join.push("reference", 0, 20)
    join.push("reference", 20, 20)
    join.push("mic", 30, 5)
    assert join.ranges() == [(0, 20, 0, 0), (20, 10, 0, 0), (30, 5, 0, 0)]


def test_what_waits_in_many_blocks_is_given_at_once_but_never_more_than_a_block_may_hold():
    join = Join(formats={"reference": AudioFormat(RATE_HZ, 1, max_block_frames=60)})
    for first in range(0, 100, 10):
        join.push("mic", first, 10)
    join.push("reference", 0, 60)
    join.push("reference", 60, 40)
    mic = [blocks[0].samples[:, 0] for blocks in join.got]
    assert join.ranges() == [(0, 60, 0, 0), (60, 40, 0, 0)]
    np.testing.assert_array_equal(np.concatenate(mic), np.arange(100))


def test_a_block_that_fits_is_passed_on_without_a_copy():
    join = Join()
    join.push("mic", 0, 10)
    samples = np.zeros((10, 1), np.float32)
    join.alignment.push("reference", Block(samples, MONO, first_frame=0), 0)
    assert np.shares_memory(join.got[0][1].samples, samples)


def test_a_view_that_waits_is_copied_so_that_its_pipeline_gets_its_memory_back():
    join = Join()
    samples = np.arange(10, dtype=np.float32)[:, None]
    samples.flags.writeable = False
    join.alignment.push("mic", Block(samples, MONO, first_frame=0), 0)
    join.push("reference", 0, 10)
    assert not np.shares_memory(join.got[0][0].samples, samples)
    np.testing.assert_array_equal(join.got[0][0].samples, samples)


def test_what_was_lost_is_silence_at_once():
    join = Join()
    join.push("mic", 0, 10)
    join.push("reference", 0, 4)
    join.push("reference", 8, 4, flags=BlockFlag.DISCONTINUITY)
    silent = join.got[1][1]
    assert join.ranges() == [(0, 4, 0, 0), (4, 4, 0, GAP), (8, 2, 0, DISCONTINUITY)]
    assert not silent.samples.any()
    assert silent.timestamp_ns == 4 * MS
    assert join.stamps == [(0, 0, 4, 0), (4 * MS, 4, 4, GAP), (8 * MS, 8, 2, DISCONTINUITY)]
    report = join.alignment.reports()["reference"]
    assert (report.delivered_frames, report.silent_frames, report.late_frames) == (6, 4, 0)


def test_frames_that_no_input_has_are_passed_over():
    join = Join()
    for name in ("mic", "reference"):
        join.push(name, 0, 10)
        join.push(name, 10_000_000, 10)
    assert join.ranges() == [(0, 10, 0, 0), (10_000_000, 10, DISCONTINUITY, DISCONTINUITY)]


def test_a_stream_that_begins_later_is_silent_before():
    join = Join()
    join.push("mic", 5, 10)
    join.push("reference", 0, 10)
    assert join.ranges() == [(0, 5, GAP, 0), (5, 5, 0, 0)]
    assert join.stamps[0] == (0, 0, 5, GAP)


def test_after_the_end_of_one_the_rest_of_the_other_comes_with_silence():
    join = Join()
    join.push("mic", 0, 30)
    join.push("reference", 0, 10, flags=BlockFlag.END_OF_STREAM)
    join.alignment.end("reference")
    join.push("mic", 30, 10)
    join.alignment.end("mic")
    assert join.ranges() == [(0, 10, 0, 0), (10, 20, 0, GAP), (30, 10, 0, GAP)]


def test_a_stream_that_never_was_is_silence():
    join = Join()
    join.push("reference", 7, 10, stamp_ms=50)
    join.alignment.end("mic")
    mic, reference = join.got[0]
    assert join.ranges() == [(7, 10, GAP, 0)]
    assert mic.timestamp_ns == reference.timestamp_ns == 50 * MS


def test_unsigned_silence_is_in_the_middle():
    u8 = AudioFormat(RATE_HZ, 1, "u8", max_block_frames=100)
    join = Join(formats={"reference": u8})
    join.push("mic", 0, 3)
    join.alignment.end("reference")
    assert join.got[0][1].samples.tolist() == [[128]] * 3


# --- waiting --------------------------------------------------------------------------------------------------------


def test_nothing_waits_for_a_time_unless_asked():
    join = Join()
    join.push("mic", 0, 10, at_ms=5)
    assert join.alignment.deadline_ns is None


def test_frames_wait_so_long_and_what_comes_later_is_dropped():
    join = Join(max_wait_ms=20)
    join.push("mic", 0, 10, at_ms=100)
    join.push("mic", 10, 10, at_ms=110)
    assert join.alignment.deadline_ns == 120 * MS
    join.alignment.expire(119 * MS)
    assert join.ranges() == []
    join.alignment.expire(120 * MS)
    assert join.ranges() == [(0, 10, 0, GAP)]
    assert join.alignment.deadline_ns == 130 * MS
    join.push("reference", 0, 6, at_ms=121)
    join.push("reference", 6, 8, at_ms=121)
    assert join.ranges() == [(10, 4, 0, DISCONTINUITY)]
    report = join.alignment.reports()["reference"]
    assert (report.delivered_frames, report.silent_frames, report.late_frames) == (4, 10, 10)
    assert join.alignment.deadline_ns == 130 * MS


def test_nothing_is_due_where_nothing_waits():
    join = Join(max_wait_ms=20)
    assert join.alignment.deadline_ns is None
    join.push("mic", 0, 10)
    join.push("reference", 0, 10)
    assert join.alignment.deadline_ns is None


def test_a_silent_third_input_delays_the_others_by_the_wait_and_no_more():
    join = Join("mic", "reference", "third", max_wait_ms=20)
    join.push("mic", 0, 10, at_ms=0)
    join.push("reference", 0, 10, at_ms=15)
    join.alignment.expire(20 * MS)
    assert join.ranges() == [(0, 10, 0, 0, GAP)]


def test_frames_behind_a_gap_wait_no_longer_than_others():
    join = Join("mic", "reference", "third", max_wait_ms=20)
    for name in join.names:
        join.push(name, 0, 10, at_ms=0)
    join.push("mic", 20, 10, at_ms=5)
    join.push("reference", 10, 5, at_ms=10)
    join.alignment.expire(25 * MS)
    # Up to the end of what is due: also what came after it, and the gap that nobody fills.
    assert join.ranges() == [
        (0, 10, 0, 0, 0),
        (10, 5, GAP, 0, GAP),
        (20, 10, DISCONTINUITY, DISCONTINUITY | GAP, DISCONTINUITY | GAP),
    ]


# --- what is too much -----------------------------------------------------------------------------------------------


def test_an_input_that_is_too_far_ahead_is_held_back_until_there_is_room():
    join = Join(max_hold_frames=20)
    join.push("mic", 0, 10)
    assert join.held == []
    join.push("mic", 10, 15)
    assert join.held == [("mic", True)]
    join.push("reference", 0, 5)
    assert join.held == [("mic", True)]
    join.push("reference", 5, 1)
    assert join.held == [("mic", True), ("mic", False)]


def test_ten_seconds_are_held_unless_another_limit_is_set():
    join = Join()
    for first in range(0, 10 * RATE_HZ, 100):
        assert join.held == []
        join.push("mic", first, 100)
    assert join.held == [("mic", True)]


def test_an_end_lets_go_on_what_was_held_back():
    join = Join(max_hold_frames=20)
    join.push("mic", 0, 25)
    join.alignment.end("reference")
    assert join.held == [("mic", True), ("mic", False)]


def test_where_holding_back_would_stop_the_other_input_too_the_module_fails():
    join = Join(max_hold_frames=20, stops={"mic": ["reference"]})
    with pytest.raises(LimitExceeded, match="expected 'reference' to be less than 20 frames behind 'mic', got 25"):
        join.push("mic", 0, 25)
    join = Join(max_hold_frames=20, stops={"mic": ["reference"]})
    join.push("reference", 0, 25)
    assert join.held == [("reference", True)]


def test_only_what_is_waited_for_counts():
    join = Join("mic", "reference", "third", max_hold_frames=20, stops={"mic": ["reference"]})
    join.push("reference", 0, 15)
    join.push("mic", 0, 25)
    assert join.held == [("mic", True)]
    join.push("third", 0, 100)
    with pytest.raises(LimitExceeded, match="'reference'"):
        join.push("mic", 25, 25)


def test_a_block_never_mixes_frames_of_which_different_things_are_to_be_said():
    join = Join()
    for first, flags in ((0, 0), (10, 0), (20, BlockFlag.CORRUPTED), (30, BlockFlag.CORRUPTED), (40, DISCONTINUITY)):
        join.push("mic", first, 10, flags=flags)
    join.push("mic", 50, 10)
    join.push("reference", 0, 60)
    assert join.ranges() == [(0, 20, 0, 0), (20, 20, BlockFlag.CORRUPTED, 0), (40, 20, DISCONTINUITY, 0)]


def test_with_a_wait_the_oldest_goes_on_instead():
    join = Join(max_hold_frames=20, max_wait_ms=1000, stops={"mic": ["reference"]})
    join.push("mic", 0, 15)
    join.push("mic", 15, 15)
    assert join.held == []
    assert join.ranges() == [(0, 15, 0, GAP)]


# --- by time --------------------------------------------------------------------------------------------------------


def test_streams_that_were_counted_apart_meet_by_their_stamps():
    join = Join(by="time")
    join.push("mic", 1000, 10, stamp_ms=5003)
    join.push("reference", 20, 20, stamp_ms=5000)
    mic, reference = join.got[1]
    assert join.ranges() == [(0, 3, GAP, 0), (3, 10, 0, 0)]
    assert (mic.samples[0, 0], reference.samples[0, 0]) == (1000, 23)
    assert mic.timestamp_ns == reference.timestamp_ns == 5003 * MS
    offsets = {name: report.offset_frames for name, report in join.alignment.reports().items()}
    assert offsets == {"mic": -997, "reference": -20}


def test_the_nearest_frame_is_meant():
    join = Join(by="time")
    join.push("mic", 0, 10, stamp_ms=100)
    join.push("reference", 0, 10, stamp_ms=102.4)
    assert join.ranges()[1] == (2, 8, 0, 0)


def test_jitter_and_drift_move_nothing_and_are_told():
    join = Join(by="time")
    for first, jitter_ms in ((0, 0), (10, 3), (20, -4), (30, 7)):
        join.push("mic", first, 10, stamp_ms=first + jitter_ms)
        join.push("reference", first, 10, stamp_ms=first)
    assert join.ranges() == [(0, 10, 0, 0), (10, 10, 0, 0), (20, 10, 0, 0), (30, 10, 0, 0)]
    assert join.alignment.reports()["mic"].drift_frames == 7
    assert join.alignment.reports()["reference"].drift_frames == 0


def test_what_the_numbers_say_is_missing_is_believed_before_the_stamps():
    join = Join(by="time")
    join.push("mic", 0, 10)
    join.push("mic", 20, 10, stamp_ms=23)
    join.push("reference", 0, 30)
    assert join.ranges() == [(0, 10, 0, 0), (10, 10, GAP, 0), (20, 10, 0, 0)]


def test_where_the_numbers_say_nothing_the_stamps_do():
    join = Join(by="time")
    join.push("mic", 0, 10)
    join.push("mic", 10, 10, stamp_ms=25, flags=BlockFlag.DISCONTINUITY)
    join.push("reference", 0, 35)
    assert join.ranges() == [(0, 10, 0, 0), (10, 15, GAP, 0), (25, 10, DISCONTINUITY, 0)]


def test_a_stream_that_counts_from_the_beginning_again_is_placed_anew():
    join = Join(by="time")
    join.push("mic", 500, 10, stamp_ms=0)
    join.push("reference", 0, 30)
    join.push("mic", 0, 10, stamp_ms=20)
    assert join.ranges() == [(0, 10, 0, 0), (10, 10, GAP, 0), (20, 10, 0, 0)]


def test_a_repeated_block_is_dropped_and_places_nothing_anew():
    join = Join(by="time")
    join.push("mic", 0, 10)
    join.push("mic", 10, 10, stamp_ms=13)
    join.push("mic", 10, 10, stamp_ms=13, flags=BlockFlag.REPEATED)
    join.push("mic", 20, 10)
    join.push("reference", 0, 30)
    assert join.ranges() == [(0, 20, 0, 0), (20, 10, DISCONTINUITY, 0)]
    assert join.alignment.reports()["mic"].late_frames == 10


def test_frames_from_before_the_first_one_given_are_late():
    join = Join(by="time", max_wait_ms=20)
    join.push("mic", 0, 10, stamp_ms=100, at_ms=0)
    join.alignment.expire(20 * MS)
    join.push("reference", 0, 30, stamp_ms=90, at_ms=21)
    join.push("mic", 10, 10, stamp_ms=110, at_ms=22)
    assert join.ranges() == [(0, 10, 0, GAP), (10, 10, 0, DISCONTINUITY)]
    assert join.alignment.reports()["reference"].late_frames == 20


def test_by_frame_a_stream_that_counts_from_the_beginning_again_is_late_until_it_has_caught_up():
    join = Join()
    join.push("mic", 0, 20)
    join.push("mic", 0, 10)
    join.push("mic", 10, 15)
    join.push("reference", 0, 25)
    assert join.ranges() == [(0, 20, 0, 0), (20, 5, DISCONTINUITY, 0)]
    assert join.alignment.reports()["mic"].late_frames == 20


# --- results --------------------------------------------------------------------------------------------------------


class Recorder:
    def __init__(self):
        self.sent = []

    def send(self, data):
        self.sent.append(data)
        return True


def test_results_go_to_the_only_output_and_none_is_no_result():
    output = Recorder()
    join = Join(output=output, process=lambda mic, reference: mic.first_frame or None)
    for first in (0, 10, 20):
        join.push("mic", first, 10)
        join.push("reference", first, 10)
    assert output.sent == [10, 20]


def test_a_result_that_has_nowhere_to_go():
    join = Join(process=lambda mic, reference: mic.samples)
    join.push("mic", 0, 10)
    with pytest.raises(ConfigurationError, match=r"expected process\(\) to return None.*got ndarray"):
        join.push("reference", 0, 10)
