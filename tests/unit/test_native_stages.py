"""Stages that are native: what the garbage collector sees of them, hostile blocks, and what is left after a failure."""

import gc
import weakref

import msgspec
import numpy as np
import pytest
import soxr

from steadyflow import (
    AudioFormat,
    Block,
    BlockFlag,
    ConversionOptions,
    DataFlowCoordinator,
    FlowData,
    Output,
    PipelineConfig,
    Source,
    StructFormat,
    audio,
)
from steadyflow._native import RateStage, SampleStage, StageMeter
from steadyflow.errors import ConfigurationError, DataError, EndOfStream, StateError, TransformError
from steadyflow.payload import native_spec
from steadyflow.transform import Conversion, convert, make_plan, register_function, unregister
from steadyflow.transform.conforming import Conforming
from steadyflow.transform.fields import Fields
from steadyflow.transform.windows import WindowStage

SOURCE = AudioFormat(48_000, 1)
TARGET = AudioFormat(16_000, 1)
END = BlockFlag.END_OF_STREAM
CONVERTING = PipelineConfig(buffer_size=8, transformation_required=True)


def noise(frames, seed=1):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (frames, 1)).astype(np.float32)


def block_at(first_frame, frames=480, **said):
    return Block(noise(frames), SOURCE, first_frame=first_frame, **said)


def rate_stage(fields=None, resample=None, conform=None, target=TARGET):
    stream = soxr.ResampleStream(48_000, 16_000, 1, quality="QQ")
    return RateStage(
        resample or stream.resample_chunk,
        stream.clear,
        native_spec(SOURCE),
        target,
        target.max_block_frames,
        48_000,
        16_000,
        conform or Conforming("rate", SOURCE),
        fields or Fields("rate"),
    )


def received(pipe):
    """Return all that comes out of an open end."""
    blocks = []
    while True:
        try:
            blocks.append(pipe.receive(10))
        except EndOfStream:
            return blocks


class Broken(Exception):
    pass


class BreakingFields(Fields):
    """Breaks, when it is told to."""

    breaks = False

    def take(self, end, more=None):
        if self.breaks:
            raise Broken
        return super().take(end, more)


# --- the garbage collector ------------------------------------------------------------------------------------------------


def test_a_flow_is_collected_although_a_conversion_leads_back_to_it():
    def run():
        flow = DataFlowCoordinator("kept")

        def loud(samples):
            assert flow.name == "kept"
            return samples * np.float32(2)

        discrete = AudioFormat(16_000, 1, channel_layout="discrete")
        register_function(loud, TARGET, discrete, name="loud")
        try:
            with flow:
                tone = flow.add(audio.Tone(440, duration_s=0.1, realtime_pace=False))
                pipe = flow.pipeline(flow.register_pipeline(tone.out, "app", CONVERTING, format=discrete))
                flow.start()
                assert len(received(pipe)) > 0
                assert pipe.conversion is not None
        finally:
            unregister("loud")
        return weakref.ref(flow)

    flow = run()
    gc.collect()
    assert flow() is None


def test_stages_that_lead_back_to_themselves_are_collected():
    class Leading:
        """What a stage is given, and leads back to it."""

        def __init__(self):
            self.stage = None

        def __call__(self, payload):
            return payload

    alive = []
    for make in (
        lambda conform: rate_stage(conform=conform),
        lambda conform: SampleStage(native_spec(SOURCE), native_spec(SOURCE), [], False, SOURCE, conform),
    ):
        leading = Leading()
        leading.stage = StageMeter(make(leading), counts_frames=True, holds_end=False)
        alive.append(weakref.ref(leading))
        del leading
    gc.collect()
    assert [each() for each in alive] == [None, None]


def test_a_block_with_fields_is_seen_by_the_garbage_collector():
    stage = rate_stage()
    (made,) = (*stage.push(block_at(0, metadata={"a": 1})), *stage.flush())[:1]
    assert made.metadata == {"a": 1}
    assert gc.is_tracked(made)


# --- what blocks may be ---------------------------------------------------------------------------------------------------


class Chord(msgspec.Struct):
    pitches_hz: tuple[float, ...]


class Chords(Source):
    out = Output(StructFormat(Chord))
    live = False

    def produce(self):
        for number in range(5):
            self.out.send(FlowData(Chord((440.0,)), flags=END if number == 4 else 0))
            yield


def test_the_last_block_of_a_stream_is_decoded_as_the_others_are():
    seen = []

    def play(chord):
        seen.append(type(chord))
        return np.zeros((480, 1), np.float32)

    register_function(play, StructFormat(Chord), AudioFormat(48_000, 1), name="play")
    try:
        with DataFlowCoordinator("chords") as flow:
            source = flow.add(Chords())
            pipe = flow.pipeline(flow.register_pipeline(source.out, "app", CONVERTING, format=TARGET))
            flow.start()
            assert sum(block.frames for block in received(pipe)) == 5 * 160
        assert seen == [Chord] * 5
        # And where the block itself says that it is the last one.
        conversion = Conversion(make_plan(StructFormat(Chord), TARGET))
        del seen[:]
        made = [*conversion.push(Block(Chord((1.0,)), StructFormat(Chord), flags=END)), *conversion.flush()]
        assert seen == [Chord]
        assert [bool(block.flags & END) for block in made][-1:] == [True]
    finally:
        unregister("play")


def test_no_frame_follows_the_last_number_that_there_is():
    stage = rate_stage()
    last = (1 << 64) - 480
    made = [*stage.push(block_at(last, timestamp_ns=7)), *stage.push(block_at(0, timestamp_ns=1_000))]
    made += [*stage.push(block_at(480, timestamp_ns=10_001_000)), *stage.flush()]
    from_zero = [block for block in made if block.first_frame < 1000]
    assert from_zero[0].timestamp_ns == 1_000
    assert max(block.timestamp_ns for block in made) < 10**9


@pytest.mark.parametrize("first_frame", [0, (1 << 53) + 1, (1 << 62) + 100])
def test_windows_have_exact_times_however_far_a_stream_has_come(first_frame):
    stage = WindowStage(SOURCE, 160, 160)
    made = []
    for number in range(4):
        said = {"timestamp_ns": 1_000 + number * 10_000_000, "metadata": {"n": number}}
        made += stage.push(block_at(first_frame + number * 480, **said))
    assert [block.timestamp_ns for block in made[:4]] == [1_000, 3_334_333, 6_667_667, 10_001_000]
    assert [block.first_frame - first_frame for block in made] == list(range(0, 1920, 160))
    assert [block.metadata.get("n") for block in made] == [0, None, None, 1, None, None, 2, None, None, 3, None, None]


def test_a_block_that_was_rejected_leaves_nothing_behind():
    class Damaged(Fields):
        def add(self, block, first_frame):
            raise TransformError("damaged")

    stage = rate_stage(Damaged("rate"))
    with pytest.raises(TransformError, match="damaged"):
        stage.push(block_at(0, flags=BlockFlag.CORRUPTED, metadata={"a": 1}))
    made = [*stage.push(block_at(0)), *stage.flush()]
    assert sum(block.frames for block in made) == 160
    assert {int(block.flags) for block in made} == {0}


def test_samples_that_lie_askew_are_taken_and_too_many_are_refused():
    askew = np.frombuffer(b"\0" + noise(480).tobytes(), np.float32, offset=1, count=480).reshape(480, 1)
    assert not askew.flags.aligned
    straight = convert(noise(480), SOURCE, TARGET)
    assert np.array_equal(convert(askew, SOURCE, TARGET), straight)
    assert np.array_equal(
        convert(askew, SOURCE, AudioFormat(48_000, 1, "s16")),
        convert(noise(480), SOURCE, AudioFormat(48_000, 1, "s16")),
    )
    long = Block(np.zeros(((1 << 24) + 1, 1), np.float32), SOURCE)
    for goal in (TARGET, AudioFormat(48_000, 1, "s16")):
        with pytest.raises(TransformError, match="expected at most 16777216 frames"):
            Conversion(make_plan(SOURCE, goal)).push(long)


def test_a_conform_that_does_not_conform_is_refused():
    wrong = np.zeros((4, 2), np.float32)
    spec = native_spec(SOURCE)
    for stage in (
        SampleStage(spec, spec, [], False, SOURCE, lambda payload: payload),
        rate_stage(conform=lambda payload: payload),
    ):
        with pytest.raises(TransformError, match="expected"):
            stage.push(Block(wrong, SOURCE))


# --- failures -------------------------------------------------------------------------------------------------------------


def test_a_stream_goes_on_after_its_end_could_not_be_given():
    fields = BreakingFields("rate")
    stage = rate_stage(fields)
    stage.push(block_at(0, metadata={"a": 1}))
    fields.breaks = True
    with pytest.raises(Broken):
        stage.push(block_at(10_000))
    fields.breaks = False
    made = [*stage.push(block_at(10_000)), *stage.push(block_at(10_480)), *stage.flush()]
    assert sum(block.frames for block in made) == 320


def test_one_call_at_a_time():
    class Returning(Fields):
        comes_back = True

        def take(self, end, more=None):
            if self.comes_back:
                stage.push(block_at(480))

    fields = Returning("rate")
    stage = rate_stage(fields)
    with pytest.raises(StateError, match="one call at a time"):
        stage.push(block_at(0, metadata={"a": 1}))
    fields.comes_back = False
    stage.push(block_at(0))  # and it is out again


@pytest.mark.parametrize("numbers", [(0, 48_000, 16_000), (160, 0, 16_000), (160, 48_000, 0)])
def test_rates_and_lengths_have_to_be_possible(numbers):
    most, in_hz, out_hz = numbers
    spec = native_spec(SOURCE)
    with pytest.raises(ConfigurationError, match="above 0"):
        RateStage(print, print, spec, TARGET, most, in_hz, out_hz, print, Fields("rate"))


# --- the meter ------------------------------------------------------------------------------------------------------------


class Scripted:
    """A stage that returns what it is told to, or raises it."""

    def __init__(self, result):
        self.result = result
        self.seen = []

    def push(self, block):
        self.seen.append(block)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def test_the_meter_counts_calls_frames_and_time():
    made = [block_at(0), block_at(480, 20)]
    for result in (made, tuple(made), iter(made)):
        stage = Scripted(result)
        meter = StageMeter(stage, counts_frames=True, holds_end=False)
        assert list(meter.push(block_at(0))) == made
        assert (meter.calls, meter.frames, meter.rejected) == (1, 500, 0)
        assert meter.busy_ns > 0
    meter = StageMeter(Scripted(made), counts_frames=False, holds_end=False)
    meter.push(block_at(0))
    assert (meter.calls, meter.frames) == (1, 0)


@pytest.mark.parametrize(
    ("problem", "rejected"), [(TransformError("no"), 1), (DataError("no"), 0), (KeyError("no"), 0)]
)
def test_the_meter_tells_rejections_from_failures(problem, rejected):
    meter = StageMeter(Scripted(problem), counts_frames=True, holds_end=False)
    with pytest.raises(type(problem), match="no"):
        meter.push(block_at(0))
    assert (meter.calls, meter.rejected, meter.frames) == (1, rejected, 0)


@pytest.mark.parametrize("result", [3, None, [1], (block_at(0), "no")])
def test_the_meter_takes_blocks_only(result):
    meter = StageMeter(Scripted(result), counts_frames=True, holds_end=False)
    with pytest.raises(TypeError, match=r"expected a (sequence of blocks|Block)"):
        meter.push(block_at(0))
    with pytest.raises(TypeError, match="expected a Block, got int"):
        meter.push(3)


def test_the_meter_holds_the_end_back():
    for holds in (True, False):
        stage = Scripted(())
        meter = StageMeter(stage, counts_frames=True, holds_end=holds)
        meter.push(block_at(0, flags=END | BlockFlag.GAP))
        assert int(stage.seen[0].flags) == (BlockFlag.GAP if holds else END | BlockFlag.GAP)
        assert meter.end_held is holds


def test_the_end_of_what_is_converted_whole_stays_said():
    options = ConversionOptions(quality="QQ")
    made = convert(block_at(0, flags=END), SOURCE, TARGET, options)
    assert made.flags & END
    assert not convert(block_at(0), SOURCE, TARGET, options).flags & END
