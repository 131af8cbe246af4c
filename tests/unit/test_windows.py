"""Windows: any chunking of a stream gives the same ones as slicing it."""

from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from steadyflow import _native
from steadyflow.data import Block, BlockFlag
from steadyflow.errors import ConfigurationError
from steadyflow.formats import AudioFormat
from steadyflow.runtime.input_stages import InputStages
from steadyflow.transform import Conversion, make_plan
from steadyflow.transform.stream import StreamConversion
from steadyflow.transform.windows import WindowStage

# What one example takes depends on what else this machine does.
unhurried = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])

MONO = AudioFormat(48_000, 1, max_block_frames=64)
BREAKS = (BlockFlag.DISCONTINUITY, BlockFlag.GAP, None)  # None: no flag, but frames are missing


def made(fmt=MONO, window=4, hop=2, *, keep=None, output=None, process=None):
    keep = [] if keep is None else keep
    conversion = Conversion(make_plan(fmt, fmt, window_frames=window, hop_frames=hop))
    stream = StreamConversion(conversion, lambda *_: None)
    return InputStages(stream, process or keep.append, output, _native.ModuleContext())


def ramp(first, frames, fmt=MONO):
    """Return samples that say which frame and channel they are."""
    values = np.arange(first, first + frames)[:, None] * 10 + np.arange(fmt.channels)
    values = values.astype(fmt.dtype)
    return values.T.copy() if fmt.layout == "planar" else values


def chunked(first, sizes, fmt=MONO, ns_per_frame=1000, flags=0):
    """Return blocks of these sizes, the first one with flags."""
    blocks = []
    for size in sizes:
        blocks.append(
            Block(ramp(first, size, fmt), fmt, timestamp_ns=first * ns_per_frame, first_frame=first, flags=flags)
        )
        first += size
        flags = 0
    return blocks


sizes = st.lists(st.integers(1, 64), max_size=12)
formats = st.sampled_from(
    [
        MONO,
        AudioFormat(48_000, 3, max_block_frames=64),
        AudioFormat(48_000, 3, layout="planar", max_block_frames=64),
        AudioFormat(16_000, 2, sample_type="s16", max_block_frames=64),
    ]
)


@unhurried
@given(sizes, st.integers(1, 80), st.integers(1, 100), formats)
def test_an_asynchronous_module_gets_the_same_windows(chunks, window, hop, fmt):
    got, expected, sent = [], [], []

    class Out:
        async def send_async(self, result):
            sent.append(result)

    async def keep(block):
        got.append(block)
        return len(got)

    plain, awaited = made(fmt, window, hop, keep=expected), made(fmt, window, hop, output=Out(), process=keep)
    for block in chunked(0, chunks, fmt):
        plain.push(block)
        with pytest.raises(StopIteration):
            awaited.push_async(block).send(None)  # nothing in here waits
    assert [block.first_frame for block in got] == [block.first_frame for block in expected]
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)
    assert sent == [*range(1, len(got) + 1)]


@unhurried
@given(sizes, st.integers(1, 80), st.integers(1, 100), formats)
def test_any_chunking_gives_what_slicing_gives(chunks, window, hop, fmt):
    got = []
    windows = made(fmt, window, hop, keep=got)
    for block in chunked(0, chunks, fmt):
        windows.push(block)
    starts = [start for start in range(0, sum(chunks), hop) if start + window <= sum(chunks)]
    assert [block.first_frame for block in got] == starts
    assert [block.sequence for block in got] == [*range(len(starts))]
    for start, block in zip(starts, got, strict=True):
        np.testing.assert_array_equal(block.samples, ramp(start, window, fmt))
        assert block.frames == window
        assert block.format is fmt
        assert block.flags == 0


@unhurried
@given(
    st.lists(st.tuples(sizes, st.sampled_from(BREAKS)), min_size=1, max_size=4), st.integers(1, 40), st.integers(1, 60)
)
def test_a_window_never_spans_what_is_missing(stretches, window, hop):
    got, starts, first = [], [], 0
    windows = made(window=window, hop=hop, keep=got)
    for index, (chunks, how) in enumerate(stretches):
        if index:
            first += 1000  # so the samples tell, too
        for block in chunked(first, chunks, flags=0 if how is None or not index else how):
            windows.push(block)
        starts += [first + at for at in range(0, sum(chunks), hop) if at + window <= sum(chunks)]
        first += sum(chunks)
    assert [block.first_frame for block in got] == starts
    for block in got:
        np.testing.assert_array_equal(block.samples, ramp(block.first_frame, window))


@unhurried
@given(sizes, st.integers(1, 80), st.integers(1, 100), st.integers(0, 10**6))
def test_a_stamp_is_that_of_the_block_that_the_window_begins_in(chunks, window, hop, drift_ns):
    """Blocks come from a device whose clock is not the nominal one; within a block, the nominal one counts."""
    got = []
    windows = made(AudioFormat(1000, 1, max_block_frames=64), window, hop, keep=got)
    fmt, first, begins = AudioFormat(1000, 1, max_block_frames=64), 0, []
    for index, size in enumerate(chunks):
        timestamp_ns = 5_000_000 + first * 1_000_000 + index * drift_ns
        begins.append((first, timestamp_ns))
        windows.push(Block(ramp(first, size, fmt), fmt, timestamp_ns=timestamp_ns, first_frame=first))
        first += size
    for block in got:
        begin, timestamp_ns = max(each for each in begins if each[0] <= block.first_frame)
        assert block.timestamp_ns == timestamp_ns + (block.first_frame - begin) * 1_000_000


def test_flags_are_told_once_by_the_first_window_that_has_the_block():
    got = []
    windows = made(window=4, hop=2, keep=got)
    for block in chunked(0, [6]) + chunked(100, [3, 3, 4], flags=BlockFlag.DISCONTINUITY):
        windows.push(block)
    assert [(block.first_frame, block.flags) for block in got] == [
        (0, 0),
        (2, 0),
        (100, BlockFlag.DISCONTINUITY),
        (102, 0),
        (104, 0),
        (106, 0),
    ]


def test_a_damaged_block_is_told_too():
    got = []
    windows = made(window=4, hop=4, keep=got)
    for block in [*chunked(0, [4]), *chunked(4, [4], flags=BlockFlag.CORRUPTED), *chunked(8, [4])]:
        windows.push(block)
    assert [block.flags for block in got] == [0, BlockFlag.CORRUPTED, 0]


def test_a_stream_need_not_begin_at_frame_0():
    got = []
    windows = made(window=4, hop=4, keep=got)
    for block in chunked(5, [3, 6]):
        windows.push(block)
    assert [block.first_frame for block in got] == [5, 9]


def test_what_is_left_at_the_end_is_not_processed():
    got = []
    windows = made(window=4, hop=2, keep=got)
    for block in chunked(0, [7]):
        windows.push(block)
    assert [block.first_frame for block in got] == [0, 2]


def test_a_window_is_the_users_to_change():
    got = []

    def scribble(block):
        got.append(block.samples.copy())
        block.samples[:] = -1

    windows = made(window=4, hop=1, process=scribble)
    for block in chunked(0, [4, 4]):
        windows.push(block)
    for start, samples in enumerate(got):
        np.testing.assert_array_equal(samples, ramp(start, 4))
    assert len(got) == 5


class Recorder:
    def __init__(self):
        self.sent = []

    def send(self, data):
        self.sent.append(data)
        return True


def test_results_go_to_the_only_output_and_none_is_no_result():
    output = Recorder()
    windows = made(window=2, hop=2, output=output, process=lambda block: block.first_frame or None)
    for block in chunked(0, [6]):
        windows.push(block)
    assert output.sent == [2, 4]


def test_a_result_that_has_nowhere_to_go():
    windows = made(window=2, process=lambda block: block.samples)
    with pytest.raises(
        ConfigurationError, match=r"expected process\(\) to return None.*got ndarray.*self\.<output>\.send"
    ):
        windows.push(chunked(0, [2])[0])


def test_memory_is_not_taken_block_by_block():
    """One buffer for all: it is moved within, however long the stream is."""
    stage = WindowStage(MONO, 64, 63)
    buffer = stage._samples
    for block in chunked(0, [64] * 100):
        assert 1 <= len(list(stage.push(block))) <= 2
    assert stage._samples is buffer
    assert len(stage._trail) <= 3


def test_windows_are_made_one_by_one_as_they_are_asked_for():
    stage = WindowStage(AudioFormat(48_000, 1, max_block_frames=4096), 48, 1)
    block = Block(np.zeros((4096, 1), np.float32), MONO)
    first = next(iter(stage.push(block)))
    assert first.first_frame == 0
    assert stage._sequence == 1


def test_hops_are_even():
    got = []
    windows = made(window=3, hop=7, keep=got)
    for block in chunked(0, [1] * 50):
        windows.push(block)
    assert {later.first_frame - earlier.first_frame for earlier, later in pairwise(got)} == {7}
