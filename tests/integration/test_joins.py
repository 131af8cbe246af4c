"""Joins in real flows: unequal blocks, threads and processes, live sources, ends of streams, and what cannot be joined."""

from __future__ import annotations

import threading
import time

import msgspec
import numpy as np
import pytest

from steadyflow import (
    Aligned,
    AudioFormat,
    BlockFlag,
    DataFlowCoordinator,
    DropOldest,
    FlowData,
    FlowFailed,
    FormatClash,
    Input,
    Module,
    Output,
    PipelineConfig,
    Source,
    StructFormat,
    Wait,
)
from steadyflow.errors import ConfigurationError
from steadyflow.testing import Collect, ScriptedSource

RATE_HZ = 48_000
MONO = AudioFormat(RATE_HZ, 1)
LIMIT_S = 50  # how long a test may wait for what has to come
PLACEMENTS = [{}, {"worker": "own"}, {"placement": "process"}]


class Pairs(Module):
    """Sends both blocks side by side, so that a test sees what was given together."""

    mic = Input(AudioFormat(channels=1))
    reference = Input(AudioFormat(channels=1))
    out = Output(AudioFormat(RATE_HZ, 2))
    aligned = Aligned("mic", "reference")

    def process(self, mic, reference):
        assert (mic.first_frame, mic.frames) == (reference.first_frame, reference.frames)
        return np.concatenate([mic.samples, reference.samples], axis=1)


class PairsByTime(Pairs):
    aligned = Aligned("mic", "reference", by="time")


class ImpatientPairs(Pairs):
    aligned = Aligned("mic", "reference", max_wait_ms=20)


class NarrowPairs(Pairs):
    aligned = Aligned("mic", "reference", max_hold_frames=1000)


class Difference(Module):
    """As in the tutorial."""

    mic = Input(AudioFormat(channels=1))
    reference = Input(AudioFormat(channels=1))
    out = Output(like="mic")
    aligned = Aligned("mic", "reference")

    def process(self, mic, reference):
        return mic.samples - reference.samples


class Pass(Module):
    audio = Input(MONO)
    out = Output(like="audio")

    def process(self, audio):
        return audio


def numbered(frames, block_frames, start=1):
    """Return blocks in which every frame holds its number."""
    ramp = np.arange(start, start + frames, dtype=np.float32)[:, None]
    return [ramp[at : at + block_frames] for at in range(0, frames, block_frames)]


def connect(flow, join, mic, reference, collect, **options):
    options = {"buffer_size": 4} | options
    flow.connect(mic.out, join.mic, **options)
    flow.connect(reference.out, join.reference, **options)
    flow.connect(join.out, collect.data, buffer_size=4)


def run(flow):
    flow.start()
    assert flow.wait(LIMIT_S), "the flow does not end"
    return flow.stop()


def pairs_of(collect):
    return np.concatenate(collect.values)


@pytest.fixture
def flow():
    with DataFlowCoordinator("joins") as flow:
        yield flow


# --- every input by itself --------------------------------------------------------------------------------------------


class Apart(Module):
    """Two inputs that have nothing to do with each other."""

    left = Input(MONO)
    right = Input(MONO)
    lefts = Output(MONO)
    rights = Output(MONO)

    def process_left(self, left):
        self.lefts.send(left)

    def process_right(self, right):
        self.rights.send(right)


@pytest.mark.parametrize("where", PLACEMENTS)
def test_inputs_from_different_workers_go_to_their_own_methods_in_order(flow, where):
    left = flow.add(ScriptedSource(numbered(1000, 10), MONO), name="left", worker="a")
    right = flow.add(ScriptedSource(numbered(900, 7, start=5000), MONO), name="right", placement="process")
    apart = flow.add(Apart, name="apart", **where)
    lefts, rights = flow.add(Collect(), name="lefts"), flow.add(Collect(), name="rights")
    flow.connect(left.out, apart.left, buffer_size=2)
    flow.connect(right.out, apart.right, buffer_size=2)
    flow.connect(apart.lefts, lefts.data, buffer_size=2)
    flow.connect(apart.rights, rights.data, buffer_size=2)
    report = run(flow)
    np.testing.assert_array_equal(pairs_of(lefts)[:, 0], np.arange(1, 1001))
    np.testing.assert_array_equal(pairs_of(rights)[:, 0], np.arange(5000, 5900))
    assert report.modules["apart"].calls == len(lefts.values) + len(rights.values) == 100 + 129


# --- joined ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sources", PLACEMENTS)
@pytest.mark.parametrize("where", PLACEMENTS)
def test_unequal_blocks_are_joined_frame_by_frame(flow, where, sources):
    mic = flow.add(ScriptedSource(numbered(5000, 480), MONO), name="mic")
    reference = flow.add(ScriptedSource(numbered(5000, 100), MONO), name="reference", **sources)
    join = flow.add(Pairs, name="join", **where)
    collect = flow.add(Collect())
    connect(flow, join, mic, reference, collect)
    report = run(flow)
    pairs = pairs_of(collect)
    np.testing.assert_array_equal(pairs[:, 0], np.arange(1, 5001))
    np.testing.assert_array_equal(pairs[:, 1], np.arange(1, 5001))
    firsts = [arrival.first_frame for arrival in collect.arrivals]
    assert firsts == [0, *np.cumsum([len(block) for block in collect.values])[:-1]]
    assert all(arrival.flags == 0 for arrival in collect.arrivals)
    assert set(report.modules["join"].aligned) == {"mic", "reference"}
    for told in report.modules["join"].aligned.values():
        assert (told.delivered_frames, told.silent_frames, told.late_frames) == (5000, 0, 0)
    assert report.modules["mic"].aligned == {}
    assert all(metrics.dropped_total == metrics.in_flight == 0 for metrics in report.pipelines.values())


def test_an_output_like_an_input_has_room_for_what_is_given(flow):
    """Blocks of 100 wait for one of 300; together they would be too long for a block of the other format."""
    short, long = AudioFormat(RATE_HZ, 1, max_block_frames=100), AudioFormat(RATE_HZ, 1, max_block_frames=300)
    mic = flow.add(ScriptedSource(numbered(900, 100), short), name="mic")
    reference = flow.add(ScriptedSource(numbered(900, 300, start=0), long), name="reference")
    join, collect = flow.add(Difference), flow.add(Collect())
    connect(flow, join, mic, reference, collect)
    run(flow)
    np.testing.assert_array_equal(pairs_of(collect), np.ones((900, 1)))
    assert max(len(block) for block in collect.values) == 100


def test_results_inherit_the_stamp_of_the_first_input_and_the_flags_of_all(flow):
    def stamped(blocks, stamp_ns, **marks):
        return [
            FlowData(block, timestamp_ns=stamp_ns + 1000 * number, flags=marks.get(f"at_{number}", 0))
            for number, block in enumerate(blocks)
        ]

    mic = flow.add(ScriptedSource(stamped(numbered(40, 10), 10**9, at_1=BlockFlag.CORRUPTED), MONO), name="mic")
    other = stamped(numbered(40, 10), 2 * 10**9, at_2=BlockFlag.DISCONTINUITY, at_3=BlockFlag.END_OF_STREAM)
    reference = flow.add(ScriptedSource(other, MONO), name="reference")
    join, collect = flow.add(Difference), flow.add(Collect())
    connect(flow, join, mic, reference, collect)
    run(flow)
    assert [(arrival.timestamp_ns, arrival.first_frame, arrival.flags) for arrival in collect.arrivals] == [
        (10**9, 0, 0),
        (10**9 + 1000, 10, BlockFlag.CORRUPTED),
        (10**9 + 2000, 20, BlockFlag.DISCONTINUITY),
        (10**9 + 3000, 30, 0),
    ]


def test_one_source_may_feed_all_inputs(flow):
    source = flow.add(ScriptedSource(numbered(1000, 64), MONO), name="source")
    relay = flow.add(Pass, name="relay", placement="process")
    join, collect = flow.add(Pairs, name="join"), flow.add(Collect())
    flow.connect(source.out, relay.audio, buffer_size=4)
    flow.connect(relay.out, join.mic, buffer_size=4)
    flow.connect(source.out, join.reference, buffer_size=4)
    flow.connect(join.out, collect.data, buffer_size=4)
    run(flow)
    np.testing.assert_array_equal(pairs_of(collect), np.repeat(np.arange(1, 1001)[:, None], 2, axis=1))


class Three(Module):
    """Three inputs of different formats, and one that is processed alone."""

    left = Input(AudioFormat(RATE_HZ, 2, "s16", "planar"))
    middle = Input(AudioFormat(RATE_HZ, 1, "s24"))
    right = Input(AudioFormat(RATE_HZ, 1, "u8"))
    gain = Input(MONO)
    out = Output(AudioFormat(RATE_HZ, 4))
    aligned = Aligned("left", "middle", "right", max_wait_ms=60_000)

    def setup(self):
        self.gains = []

    def process_gain(self, gain):
        self.gains.append(gain.frames)

    def process(self, left, middle, right):
        packed = middle.samples.astype(np.int32)
        values = packed[..., 0] | packed[..., 1] << 8 | packed[..., 2] << 16
        return np.concatenate([left.samples.T, values, right.samples], axis=1).astype(np.float32)


def test_all_formats_and_more_inputs(flow):
    count = np.arange(200)
    planar = np.stack([count, -count]).astype(np.int16)
    packed = np.stack([(count + 70_000) >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)[:, None, :]
    octets = count.astype(np.uint8)[:, None]
    formats = {name: port.format for name, port in vars(Three).items() if isinstance(port, Input)}
    left = ScriptedSource([planar[:, at : at + 13] for at in range(0, 200, 13)], formats["left"])
    middle = ScriptedSource([packed[at : at + 50] for at in range(0, 150, 50)], formats["middle"])
    right = ScriptedSource([octets[at : at + 17] for at in range(0, 200, 17)], formats["right"])
    join, collect = flow.add(Three, name="join", placement="process"), flow.add(Collect())
    for name, source in (("left", left), ("middle", middle), ("right", right)):
        flow.connect(flow.add(source, name=name).out, getattr(join, name), buffer_size=2)
    flow.connect(flow.add(ScriptedSource(numbered(5, 5), MONO), name="gain").out, join.gain, buffer_size=2)
    flow.connect(join.out, collect.data, buffer_size=2)
    run(flow)
    expected = np.stack([count, -count, np.where(count < 150, count + 70_000, 0), count], axis=1)
    np.testing.assert_array_equal(pairs_of(collect), expected)
    assert {arrival.flags for arrival in collect.arrivals if arrival.first_frame >= 150} == {BlockFlag.GAP}


def test_by_time_streams_that_were_counted_apart_are_joined(flow):
    def stamped(blocks, first_ns):
        at, made = 0, []
        for block in blocks:
            made.append(FlowData(block, timestamp_ns=first_ns + at * 10**9 // RATE_HZ))
            at += len(block)
        return made

    mic = flow.add(ScriptedSource(stamped(numbered(1000, 64), 10**9), MONO), name="mic")
    late = stamped(numbered(700, 100, start=301), 10**9 + 300 * 10**9 // RATE_HZ)
    reference = flow.add(ScriptedSource(late, MONO), name="reference")
    join, collect = flow.add(PairsByTime, name="join", placement="process"), flow.add(Collect())
    connect(flow, join, mic, reference, collect)
    report = run(flow)
    expected = np.repeat(np.arange(1, 1001)[:, None], 2, axis=1)
    expected[:300, 1] = 0
    np.testing.assert_array_equal(pairs_of(collect), expected)
    assert report.modules["join"].aligned["reference"].offset_frames == 300
    assert report.modules["join"].aligned["reference"].silent_frames == 300


# --- what is missing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", PLACEMENTS)
def test_when_one_stream_ends_the_rest_of_the_other_comes_with_silence(flow, where):
    mic = flow.add(ScriptedSource(numbered(1000, 64), MONO), name="mic")
    reference = flow.add(ScriptedSource(numbered(300, 50), MONO), name="reference")
    join, collect = flow.add(Pairs, name="join", **where), flow.add(Collect())
    connect(flow, join, mic, reference, collect)
    report = run(flow)
    pairs = pairs_of(collect)
    np.testing.assert_array_equal(pairs[:, 0], np.arange(1, 1001))
    np.testing.assert_array_equal(pairs[:, 1], [*range(1, 301), *[0] * 700])
    for arrival in collect.arrivals:
        assert arrival.flags == (BlockFlag.GAP if arrival.first_frame >= 300 else 0)
    assert report.modules["join"].aligned["reference"].silent_frames == 700


class Gate(Source):
    """Sends nothing until the test says so; or until the flow stops, when its turn comes."""

    out = Output(MONO)

    def __init__(self, opened, blocks):
        self.opened = opened
        self.blocks = blocks

    def produce(self):
        while not self.opened.wait(0.001):
            yield
        for block in self.blocks:
            self.out.send(block)
            yield


class Told(Collect):
    """Tells a test when so many frames have come."""

    def __init__(self, frames, event):
        super().__init__()
        self.frames = frames
        self.event = event

    def process(self, data):
        super().process(data)
        self.frames -= data.frames
        if self.frames <= 0:
            self.event.set()


@pytest.mark.parametrize("where", PLACEMENTS)
def test_what_is_late_is_silence_and_is_dropped_when_it_comes(flow, where):
    """The reference begins when everything of the microphone has been processed without it."""
    opened = threading.Event()
    mic = flow.add(ScriptedSource(numbered(1000, 100), MONO), name="mic")
    reference = flow.add(Gate(opened, numbered(1200, 300)), name="reference", worker="gate")
    join, told = (
        flow.add(ImpatientPairs, name="join", **where),
        flow.add(Told(1000, opened), name="told", worker="told"),
    )
    connect(flow, join, mic, reference, told)
    report = run(flow)
    pairs = pairs_of(told)
    np.testing.assert_array_equal(pairs[:, 0], [*range(1, 1001), *[0] * 200])
    np.testing.assert_array_equal(pairs[:, 1], [*[0] * 1000, *range(1001, 1201)])
    assert [arrival.flags for arrival in told.arrivals if arrival.first_frame == 1000] == [
        BlockFlag.GAP | BlockFlag.DISCONTINUITY
    ]
    aligned = report.modules["join"].aligned
    assert (aligned["reference"].late_frames, aligned["reference"].silent_frames) == (1000, 1000)
    assert (aligned["mic"].late_frames, aligned["mic"].silent_frames) == (0, 200)


def test_what_a_source_lost_is_stated(flow):
    """A jump of the frame number, as a pipeline makes it that drops blocks."""
    blocks = numbered(1000, 100)
    kept = [FlowData(block, first_frame=number * 100) for number, block in enumerate(blocks) if number not in (3, 4, 7)]
    mic = flow.add(ScriptedSource(kept, MONO), name="mic")
    reference = flow.add(ScriptedSource(numbered(1000, 64), MONO), name="reference")
    join, collect = flow.add(Pairs, name="join"), flow.add(Collect())
    connect(flow, join, mic, reference, collect)
    run(flow)
    pairs = pairs_of(collect)
    lost = np.isin((np.arange(1000) // 100), (3, 4, 7))
    np.testing.assert_array_equal(pairs[:, 0], np.where(lost, 0, np.arange(1, 1001)))
    np.testing.assert_array_equal(pairs[:, 1], np.arange(1, 1001))
    for arrival, block in zip(collect.arrivals, collect.values, strict=True):
        assert lost[arrival.first_frame : arrival.first_frame + len(block)].all() == bool(arrival.flags & BlockFlag.GAP)


@pytest.mark.parametrize("where", PLACEMENTS)
def test_a_live_source_that_drops_is_joined_with_one_that_waits(flow, where):
    """Whatever is dropped on the way, every pair is of the same frame, and all of the other stream is there."""
    frames = 200_000
    mic = flow.add(ScriptedSource(numbered(frames, 480), MONO, live=True), name="mic", worker="device")
    reference = flow.add(ScriptedSource(numbered(frames, 441), MONO), name="reference")
    join, collect = flow.add(Pairs, name="join", **where), flow.add(Collect(), worker="sink")
    flow.connect(mic.out, join.mic, buffer_size=2, backpressure_strategy=DropOldest())
    flow.connect(reference.out, join.reference, buffer_size=2)
    flow.connect(join.out, collect.data, buffer_size=2, backpressure_strategy=Wait())
    report = run(flow)
    pairs = pairs_of(collect)
    np.testing.assert_array_equal(pairs[:, 1], np.arange(1, frames + 1))
    np.testing.assert_array_equal(pairs[pairs[:, 0] != 0, 0], pairs[pairs[:, 0] != 0, 1])
    metrics = report.pipelines["mic.out->join.mic"]
    told = report.modules["join"].aligned["mic"]
    assert told.silent_frames == (pairs[:, 0] == 0).sum()
    assert told.late_frames == 0
    assert told.delivered_frames + told.silent_frames == frames
    assert metrics.sent == metrics.delivered + metrics.dropped_total
    assert (told.silent_frames == 0) == (metrics.dropped_total == 0)


# --- what is too much -----------------------------------------------------------------------------------------------


def wait_until_held(flow, pipeline):
    """Wait until `NarrowPairs` holds ten blocks of 100 frames, and four wait behind them; it takes no more."""
    limit = time.monotonic() + LIMIT_S
    # While blocks move, delivered and fill are not of one moment; at last nothing moves.
    while (metrics := pipeline.statistics()).delivered < 10 or metrics.fill != 4 or metrics.in_flight != 4:
        assert not flow.wait(0.001), "the flow must not end"
        assert time.monotonic() < limit, metrics
    assert not flow.wait(0.02), "the flow must not end"
    metrics = pipeline.statistics()
    assert (metrics.delivered, metrics.fill) == (10, 4)


@pytest.mark.parametrize("where", PLACEMENTS)
def test_an_input_that_is_ahead_makes_its_source_wait(flow, where):
    """The reference begins only when the pipeline of the microphone has become full, and its source waits."""
    opened = threading.Event()
    mic = flow.add(ScriptedSource(numbered(20_000, 100), MONO), name="mic", worker="mic")
    reference = flow.add(Gate(opened, numbered(20_000, 400)), name="reference", worker="gate")
    join, collect = flow.add(NarrowPairs, name="join", **where), flow.add(Collect(), worker="sink")
    connect(flow, join, mic, reference, collect)
    flow.start()
    pipeline = flow.pipeline("mic.out->join.mic")
    wait_until_held(flow, pipeline)
    opened.set()
    assert flow.wait(LIMIT_S)
    flow.stop()
    np.testing.assert_array_equal(pairs_of(collect), np.repeat(np.arange(1, 20_001)[:, None], 2, axis=1))


def test_the_end_of_one_stream_is_seen_while_the_source_of_the_other_waits(flow):
    """Join and source share a worker, which is inside of the source's send when the other stream ends."""
    opened = threading.Event()
    mic = flow.add(ScriptedSource(numbered(3000, 100), MONO), name="mic", worker="shared")
    reference = flow.add(Gate(opened, []), name="reference", worker="gate")
    join, collect = flow.add(NarrowPairs, name="join", worker="shared"), flow.add(Collect(), worker="sink")
    connect(flow, join, mic, reference, collect)
    flow.start()
    pipeline = flow.pipeline("mic.out->join.mic")
    wait_until_held(flow, pipeline)
    opened.set()
    assert flow.wait(LIMIT_S), "nobody saw the end"
    flow.stop()
    np.testing.assert_array_equal(pairs_of(collect)[:, 0], np.arange(1, 3001))


def test_an_input_that_cannot_wait_for_another_says_so(flow):
    """Both sources are in one worker: one that waits would keep the other from producing what it waits for."""
    mic = flow.add(ScriptedSource(numbered(20_000, 100), MONO), name="mic")
    reference = flow.add(ScriptedSource(numbered(2000, 10), MONO), name="reference")
    join, collect = flow.add(NarrowPairs, name="join"), flow.add(Collect())
    connect(flow, join, mic, reference, collect)
    with pytest.raises(FlowFailed) as failed:
        run(flow)
    text = str(failed.value.exceptions[0])
    assert "module 'join' failed" in text
    assert (
        "LimitExceeded: Aligned('mic', 'reference', by='frame', max_hold_frames=1000): expected 'reference' to be"
        in text
    )
    assert "Give what feeds them workers of their own" in text


def test_with_workers_of_their_own_it_can(flow):
    mic = flow.add(ScriptedSource(numbered(20_000, 100), MONO), name="mic", worker="mic")
    reference = flow.add(ScriptedSource(numbered(20_000, 10), MONO), name="reference")
    join, collect = flow.add(NarrowPairs, name="join"), flow.add(Collect())
    connect(flow, join, mic, reference, collect)
    run(flow)
    np.testing.assert_array_equal(pairs_of(collect), np.repeat(np.arange(1, 20_001)[:, None], 2, axis=1))


# --- failures -------------------------------------------------------------------------------------------------------


class Breaks(Pairs):
    """Raises where the reference is missing."""

    aligned = Aligned("mic", "reference", max_wait_ms=1)

    def process(self, mic, reference):
        if reference.flags & BlockFlag.GAP:
            raise ValueError("no reference")


@pytest.mark.parametrize("where", PLACEMENTS)
@pytest.mark.parametrize("ends", [False, True], ids=["after a wait", "after the end"])
def test_a_failure_without_a_block_in_hand_is_reported(flow, where, ends):
    opened = threading.Event()
    mic = flow.add(ScriptedSource(numbered(100, 100), MONO), name="mic")
    if ends:
        reference = flow.add(ScriptedSource([], MONO), name="reference")
    else:
        reference = flow.add(Gate(opened, []), name="reference", worker="gate")
    join, collect = flow.add(Breaks, name="join", **where), flow.add(Collect())
    connect(flow, join, mic, reference, collect)
    with pytest.raises(FlowFailed, match="ValueError: no reference") as failed:
        run(flow)
    assert failed.value.report.modules["join"].state == "failed"


def test_a_stopped_flow_drains_its_joins(flow):
    opened = threading.Event()
    mic = flow.add(ScriptedSource(numbered(1000, 100), MONO), name="mic")
    reference = flow.add(Gate(opened, []), name="reference", worker="gate")
    join, collect = flow.add(Pairs, name="join"), flow.add(Collect())
    connect(flow, join, mic, reference, collect)
    flow.start()
    pipeline = flow.pipeline("mic.out->join.mic")
    while pipeline.statistics().delivered < 10:
        assert not flow.wait(0.001), "the flow must not end"
    report = flow.stop()
    np.testing.assert_array_equal(pairs_of(collect)[:, 0], np.arange(1, 1001))
    assert report.modules["join"].state == "ended"


# --- what cannot be joined ------------------------------------------------------------------------------------------


def refused(flow, error=ConfigurationError):
    with pytest.raises(error) as caught:
        flow.start()
    return str(caught.value)


def test_different_rates_are_refused_at_the_start(flow):
    mic = flow.add(ScriptedSource([], MONO), name="mic")
    reference = flow.add(ScriptedSource([], AudioFormat(44_100, 1)), name="reference")
    join, collect = flow.add(Difference, name="join"), flow.add(Collect())
    connect(flow, join, mic, reference, collect)
    text = refused(flow, FormatClash)
    assert "join: expected one sample rate on all inputs of Aligned('mic', 'reference', by='frame')" in text
    assert "got mic 48000 Hz, reference 44100 Hz" in text


def test_an_input_that_nothing_feeds_is_refused(flow):
    mic = flow.add(ScriptedSource([], MONO), name="mic")
    join = flow.add(Difference, name="join")
    flow.connect(mic.out, join.mic, buffer_size=4)
    assert "join.reference of Aligned('mic', 'reference', by='frame'): expected one pipeline, got none" in refused(flow)


def test_two_streams_in_one_input_are_refused(flow):
    sources = [flow.add(ScriptedSource([], MONO), name=name) for name in ("one", "two", "three")]
    join = flow.add(Difference, name="join")
    for source, port in zip(sources, (join.mic, join.reference, join.reference), strict=True):
        flow.connect(source.out, port, buffer_size=4)
    assert "expected one pipeline, got two.out->join.reference, three.out->join.reference" in refused(flow)


class Word(msgspec.Struct):
    text: str


class OpenInputs(Module):
    first = Input()
    second = Input()
    aligned = Aligned("first", "second")

    def process(self, first, second):
        pass


def test_what_is_no_audio_is_refused(flow):
    mic = flow.add(ScriptedSource([], MONO), name="mic")
    words = flow.add(ScriptedSource([], StructFormat(Word)), name="words")
    join = flow.add(OpenInputs, name="join")
    flow.connect(mic.out, join.first, buffer_size=4)
    flow.connect(words.out, join.second, buffer_size=4)
    assert "join.second of Aligned('first', 'second', by='frame'): expected audio, got struct" in refused(flow)


def test_what_comes_of_an_input_cannot_be_joined_with_it(flow):
    mic = flow.add(ScriptedSource([], MONO), name="mic")
    join, relay = flow.add(Difference, name="join"), flow.add(Pass, name="relay")
    flow.connect(mic.out, join.mic, buffer_size=4)
    flow.connect(join.out, relay.audio, buffer_size=4)
    flow.connect(relay.out, join.reference, buffer_size=4, backpressure_strategy=DropOldest())
    assert "join.reference of Aligned" in (text := refused(flow))
    assert "would wait for what is made of it, because 'relay' is fed by 'join'" in text


def test_the_application_may_feed_and_hear_a_join(flow):
    config = PipelineConfig(buffer_size=8)
    join = flow.add(Difference, name="join")
    ids = [
        flow.register_pipeline(name, port, config, format=MONO)
        for name, port in (("a", join.mic), ("b", join.reference))
    ]
    heard = flow.pipeline(flow.register_pipeline(join.out, "heard", config))
    flow.start()
    for pipeline_id, block in zip(ids, (numbered(10, 10)[0], numbered(10, 10, start=0)[0]), strict=True):
        flow.send_data(pipeline_id, block)
    np.testing.assert_array_equal(heard.receive(LIMIT_S).samples, np.ones((10, 1)))
