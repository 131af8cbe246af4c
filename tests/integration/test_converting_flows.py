"""Pipelines that convert, in real flows: wherever the consumer runs, it gets what a conversion in one piece gives."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from steadyflow import (
    Aligned,
    AudioFormat,
    BlockFlag,
    BytesFormat,
    CarrierFormat,
    ConversionOptions,
    DataFlowCoordinator,
    FlowData,
    FlowFailed,
    FormatClash,
    Input,
    Module,
    Output,
    PipelineConfig,
    Source,
    TransformError,
    Wait,
    load_flow,
)
from steadyflow.audio import Converter, FileSource, Speaker
from steadyflow.errors import ConfigurationError, EndOfStream
from steadyflow.events import BlockRejected
from steadyflow.testing import Collect, ScriptedDevice, ScriptedSource
from steadyflow.transform import convert, make_plan
from steadyflow.validation import Validation

S16_STEREO = AudioFormat(48_000, 2, "s16", max_block_frames=512)
SPEECH = AudioFormat(16_000, 1)
LIMIT_S = 50
PLACEMENTS = [{}, {"worker": "own"}, {"placement": "process"}]


def recording(frames=48_000, channels=2):
    time = np.arange(frames)[:, None] / 48_000 * np.arange(1, channels + 1)
    return (np.sin(2 * np.pi * 330 * time) * 20_000).astype(np.int16)


def cut(samples, size=480, **stamps):
    return [FlowData(samples[at : at + size], **stamps) for at in range(0, len(samples), size)]


class Take(Source):
    """Declares what it sends, and sends nothing."""

    out = Output(S16_STEREO)

    def produce(self):
        yield


class FourTracks(Take):
    out = Output(AudioFormat(48_000, 4))


class Speech(Module):
    """Passes on what a speech model would get."""

    audio = Input(SPEECH)
    out = Output(like="audio")

    def process(self, audio):
        return audio


class AwaitedSpeech(Module):
    audio = Input(SPEECH)
    out = Output(like="audio")

    async def process(self, audio):
        await asyncio.sleep(0)
        return audio


class Windowed(Module):
    audio = Input(SPEECH, window_frames=512, hop_frames=160, pad_last=True)
    out = Output(AudioFormat(16_000, 1, max_block_frames=512))

    def process(self, audio):
        self.out.send(FlowData(audio.samples, metadata=dict(audio.metadata) or None, timestamp_ns=audio.timestamp_ns))


class Frames(Module):
    """Takes what a browser would get."""

    data = Input(CarrierFormat("typed_array", SPEECH))

    def __init__(self):
        self.got = []

    def process(self, data):
        self.got.append(data.data)


def flow_of(module, samples, config=None, **placement):
    """Run a recording through a module; return what came out of it, and the report."""
    config = config or PipelineConfig(buffer_size=16, transformation_required=True)
    with DataFlowCoordinator("converting") as flow:
        take = flow.add(ScriptedSource(cut(samples), S16_STEREO), name="take")
        model = flow.add(module, name="model", **placement)
        out = flow.add(Collect(), name="out")
        pid = flow.register_pipeline(take.out, model.audio, config)
        flow.connect(model.out, out.data, buffer_size=16)
        report = flow.run()
        return out, report, flow.pipeline(pid)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_model_gets_what_it_declares(placement):
    samples = recording()
    out, report, pipeline = flow_of(Speech(), samples, **placement)
    np.testing.assert_array_equal(np.concatenate(out.values), convert(samples, S16_STEREO, SPEECH))
    assert pipeline.format == S16_STEREO
    assert pipeline.conversion.target.sample_rate_hz == 16_000
    assert "48000 Hz -> 16000 Hz" in str(pipeline.conversion)
    position = 0
    first_ns = out.arrivals[0].timestamp_ns
    for value, arrival in zip(out.values, out.arrivals, strict=True):
        assert arrival.first_frame == position
        position += len(value)
    assert len({arrival.timestamp_ns for arrival in out.arrivals}) == len(out.arrivals)
    assert first_ns > 0
    steps = report.conversions["take.out->model.audio"]
    assert [step.calls for step in steps] == [100, 100]
    assert [step.frames for step in steps] == [48_000, 16_000]
    assert "rate: 48000 Hz -> 16000 Hz, HQ" in str(report)
    assert report.to_dict()["conversions"]["take.out->model.audio"][0]["frames"] == 48_000


def test_an_asynchronous_module_gets_it_too():
    samples = recording()
    out, report, _ = flow_of(AwaitedSpeech(), samples)
    np.testing.assert_array_equal(np.concatenate(out.values), convert(samples, S16_STEREO, SPEECH))
    assert report.modules["model"].state == "ended"


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_windows_follow_the_conversion(placement):
    samples = recording(24_000)
    out, _, _ = flow_of(Windowed(), samples, **placement)
    whole = convert(samples, S16_STEREO, SPEECH)
    for number, (value, arrival) in enumerate(zip(out.values, out.arrivals, strict=True)):
        padded = arrival.metadata.get("padded_frames", 0)
        expected = whole[number * 160 : number * 160 + 512]
        np.testing.assert_array_equal(value[: 512 - padded], expected)
        assert not value[512 - padded :].any()
    assert padded > 0
    assert len(out.values) == -(-(len(whole) - 512) // 160) + 1


def test_the_application_receives_what_it_asked_for():
    samples = recording()
    with DataFlowCoordinator("open end") as flow:
        take = flow.add(ScriptedSource(cut(samples), S16_STEREO), name="take")
        pid = flow.register_pipeline(
            take.out, "app", PipelineConfig(buffer_size=16, transformation_required=True), format=SPEECH
        )
        pipe = flow.pipeline(pid)
        flow.start()
        got = []
        with pytest.raises(EndOfStream):
            while True:
                got.append(pipe.receive(timeout_s=LIMIT_S))
        with pytest.raises(EndOfStream):
            pipe.receive(timeout_s=LIMIT_S)
        flow.wait()
    np.testing.assert_array_equal(
        np.concatenate([block.samples for block in got]), convert(samples, S16_STEREO, SPEECH)
    )
    assert all(block.format.sample_rate_hz == 16_000 for block in got)


def test_a_task_receives_what_it_asked_for():
    samples = recording()

    async def receive():
        async with DataFlowCoordinator("open end") as flow:
            take = flow.add(ScriptedSource(cut(samples), S16_STEREO), name="take")
            pid = flow.register_pipeline(
                take.out, "app", PipelineConfig(buffer_size=16, transformation_required=True), format=SPEECH
            )
            await flow.start_async()
            return [block.samples async for block in flow.pipeline(pid)]

    got = asyncio.run(asyncio.wait_for(receive(), LIMIT_S))
    np.testing.assert_array_equal(np.concatenate(got), convert(samples, S16_STEREO, SPEECH))


def test_what_the_application_sends_is_converted():
    samples = recording()
    with DataFlowCoordinator("open source") as flow:
        model, out = flow.add(Speech(), name="model"), flow.add(Collect(), name="out")
        pid = flow.register_pipeline(
            "app", model.audio, PipelineConfig(buffer_size=200, transformation_required=True), format=S16_STEREO
        )
        flow.connect(model.out, out.data, buffer_size=16)
        for block in cut(samples):
            flow.send_data(pid, block)
        flow.start()
        flow.pipeline(pid).end()
        flow.wait()
    np.testing.assert_array_equal(np.concatenate(out.values), convert(samples, S16_STEREO, SPEECH))


def test_one_take_is_many_things_to_many():
    """Each consumer converts for itself; the one that takes what is sent pays nothing."""
    samples = recording()
    with DataFlowCoordinator("fan-out") as flow:
        take = flow.add(ScriptedSource(cut(samples), S16_STEREO), name="take")
        outs = {}
        for name, fmt in (
            ("speech", SPEECH),
            ("planar", AudioFormat(48_000, 2, layout="planar")),
            ("same", S16_STEREO),
        ):
            converter = flow.add(Through(fmt), name=name)
            outs[name] = flow.add(Collect(), name=f"{name}-out")
            flow.connect(take.out, converter.audio, buffer_size=16, transformation_required=True)
            flow.connect(converter.out, outs[name].data, buffer_size=16)
        report = flow.run()
        assert flow.pipeline("take.out->same.audio").conversion is None
    np.testing.assert_array_equal(np.concatenate(outs["speech"].values), convert(samples, S16_STEREO, SPEECH))
    np.testing.assert_array_equal(np.concatenate(outs["planar"].values, axis=1), samples.T / np.float32(32768))
    np.testing.assert_array_equal(np.concatenate(outs["same"].values), samples)
    assert set(report.conversions) == {"take.out->speech.audio", "take.out->planar.audio"}


def Through(fmt):
    class Made(Module):
        audio = Input(fmt)
        out = Output(like="audio")

        def process(self, audio):
            return audio

    return Made()


def test_two_takes_of_different_rates_meet_in_one_input():
    one, other = recording(48_000), recording(24_000)
    with DataFlowCoordinator("fan-in") as flow:
        model, out = flow.add(Speech(), name="model"), flow.add(Collect(), name="out")
        for name, samples, fmt in (("one", one, S16_STEREO), ("other", other, AudioFormat(24_000, 2, "s16"))):
            take = flow.add(ScriptedSource(cut(samples), fmt), name=name)
            flow.connect(take.out, model.audio, buffer_size=16, transformation_required=True)
        flow.connect(model.out, out.data, buffer_size=16)
        report = flow.run()
    assert sum(len(value) for value in out.values) == 2 * 16_000
    assert set(report.conversions) == {"one.out->model.audio", "other.out->model.audio"}


def test_a_browser_gets_frames_that_it_can_map():
    samples = recording(4_800)
    frames = Frames()
    with DataFlowCoordinator("browser") as flow:
        take = flow.add(ScriptedSource(cut(samples), S16_STEREO), name="take")
        flow.add(frames, name="browser")
        flow.connect(take.out, frames.data, buffer_size=16, transformation_required=True)
        flow.run()
    whole = np.concatenate([convert(each, CarrierFormat("typed_array"), SPEECH) for each in frames.got])
    np.testing.assert_array_equal(whole, convert(samples, S16_STEREO, SPEECH))


def test_a_pipeline_converts_only_where_it_may():
    with DataFlowCoordinator("refused") as flow:
        take, model = flow.add(Take()), flow.add(Speech())
        with pytest.raises(FormatClash, match="let the pipeline convert: transformation_required=True"):
            flow.connect(take.out, model.audio, buffer_size=16)


def test_what_is_impossible_is_refused_when_it_is_connected():
    with DataFlowCoordinator("refused") as flow:
        take, model = flow.add(FourTracks()), flow.add(Speech())
        with pytest.raises(FormatClash, match="4 discrete channels do not become 1 mono ones"):
            flow.connect(take.out, model.audio, buffer_size=16, transformation_required=True)
        flow.connect(
            take.out,
            model.audio,
            buffer_size=16,
            transformation_required=True,
            conversion=ConversionOptions(mix=((0.25, 0.25, 0.25, 0.25),)),
        )


class Shared(Speech):
    """As `Speech`, in replicas."""


def test_a_resampler_needs_the_whole_stream():
    with DataFlowCoordinator("replicas") as flow:
        take = flow.add(ScriptedSource([], S16_STEREO), name="take")
        model = flow.add(Shared(), name="model", placement="process", replicas=2)
        flow.connect(take.out, model.audio, buffer_size=16, transformation_required=True)
        with pytest.raises(ConfigurationError, match=r"rate goes on from block to block.*2 replicas of 'model'"):
            flow.start()


def test_replicas_may_convert_what_needs_no_memory():
    samples = recording(4_800, channels=1)
    fmt = AudioFormat(16_000, 1, "s16", max_block_frames=512)
    with DataFlowCoordinator("replicas") as flow:
        take = flow.add(ScriptedSource(cut(samples), fmt), name="take")
        model = flow.add(Shared(), name="model", placement="process", replicas=2, ordered=True)
        out = flow.add(Collect(), name="out")
        flow.connect(take.out, model.audio, buffer_size=16, transformation_required=True)
        flow.connect(model.out, out.data, buffer_size=16)
        report = flow.run()
    np.testing.assert_array_equal(np.concatenate(out.values), samples / np.float32(32768))
    (step,) = report.conversions["take.out->model.audio"]
    assert (step.calls, step.frames) == (10, 4_800)


def test_a_module_is_a_place_for_a_conversion(tmp_path):
    """Of a file, whose last block says that it is the last one."""
    import soundfile

    samples = recording()
    soundfile.write(tmp_path / "take.wav", samples, 48_000)
    with DataFlowCoordinator("module") as flow:
        take = flow.add(FileSource(tmp_path / "take.wav", realtime_pace=False), name="take")
        between, out = flow.add(Converter(SPEECH), name="between"), flow.add(Collect(), name="out")
        flow.connect(
            take.out,
            between.audio,
            buffer_size=16,
            transformation_required=True,
            conversion=ConversionOptions(quality="VHQ"),
        )
        flow.connect(between.out, out.data, buffer_size=16)
        report = flow.run()
    expected = convert(samples, S16_STEREO, SPEECH, ConversionOptions(quality="VHQ"))
    np.testing.assert_array_equal(np.concatenate(out.values), expected)
    assert [bool(each.flags & BlockFlag.END_OF_STREAM) for each in out.arrivals[-2:]] == [False, False]
    assert "take.out->between.audio" in report.conversions


@pytest.mark.parametrize("placement", [{}, {"placement": "process"}])
def test_the_end_is_said_by_the_last_block_that_comes_out(placement, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "take.wav", recording(4_800), 48_000)
    with DataFlowCoordinator("end") as flow:
        take = flow.add(FileSource(tmp_path / "take.wav", realtime_pace=False), name="take")
        model, out = flow.add(Ends(), name="model", **placement), flow.add(Collect(), name="out")
        flow.connect(take.out, model.audio, buffer_size=16, transformation_required=True)
        flow.connect(model.out, out.data, buffer_size=16)
        flow.run()
    assert out.values[-1] == b"end"
    assert set(out.values[:-1]) == {b"more"}


class Ends(Module):
    """Tells which of its blocks says that it is the last one."""

    audio = Input(SPEECH)
    out = Output(BytesFormat(10))

    def process(self, audio):
        return b"end" if audio.flags & BlockFlag.END_OF_STREAM else b"more"


@pytest.mark.parametrize("argument", ["f32", CarrierFormat("wav")])
def test_a_converter_says_what_it_needs(argument):
    with pytest.raises(ConfigurationError, match="Converter: expected"):
        Converter(argument)


def test_a_device_takes_what_flows_as_it_is():
    for options, message in (
        ({"transformation_required": True}, r"Put audio.Converter\(AudioFormat"),
        ({"validation": Validation()}, "expected no validation= of a pipeline into a device"),
    ):
        with DataFlowCoordinator("device") as flow:
            sent = AudioFormat(48_000, 2) if "validation" in options else S16_STEREO
            take = flow.add(ScriptedSource([], sent), name="take")
            speaker = flow.add(Speaker(ScriptedDevice()), name="speaker")
            flow.connect(take.out, speaker.audio, buffer_size=4, **options)
            with pytest.raises((ConfigurationError, FormatClash), match=message):
                flow.run(freewheel=True)


def test_pcm_in_pieces_is_a_stream():
    """Bytes do not say where they begin; no piece is resampled by itself."""
    samples = recording()
    carried = CarrierFormat("pcm", S16_STEREO)
    pieces = [samples[at : at + 480].tobytes() for at in range(0, len(samples), 480)]
    with DataFlowCoordinator("pcm") as flow:
        take = flow.add(ScriptedSource(pieces, carried), name="take")
        model, out = flow.add(Windowed(), name="model"), flow.add(Collect(), name="out")
        flow.connect(take.out, model.audio, buffer_size=16, transformation_required=True)
        flow.connect(model.out, out.data, buffer_size=16)
        flow.run()
    whole = convert(samples, S16_STEREO, SPEECH)
    for number, value in enumerate(out.values[:-1]):
        np.testing.assert_array_equal(value, whole[number * 160 : number * 160 + 512])


def test_a_join_waits_longer_than_its_inputs_are_delayed():
    class Pair(Module):
        one = Input(SPEECH)
        other = Input(SPEECH)
        aligned = Aligned("one", "other", max_wait_ms=1)

        def process(self, one, other): ...

    with DataFlowCoordinator("join") as flow:
        take, pair = flow.add(Take(), name="take"), flow.add(Pair(), name="pair")
        for port in (pair.one, pair.other):
            flow.connect(take.out, port, buffer_size=16, transformation_required=True)
        with pytest.raises(ConfigurationError, match="to wait longer than the conversion delays"):
            flow.start()


def test_unordered_replicas_do_not_feed_a_resampler_of_the_application():
    with DataFlowCoordinator("replicas") as flow:
        take = flow.add(ScriptedSource([], AudioFormat(16_000, 1)), name="take")
        model = flow.add(Shared(), name="model", placement="process", replicas=2)
        flow.connect(take.out, model.audio, buffer_size=16)
        flow.register_pipeline(
            model.out, "app", PipelineConfig(buffer_size=16, transformation_required=True), format=AudioFormat(8_000, 1)
        )
        with pytest.raises(ConfigurationError, match="replicas of 'model'"):
            flow.start()


def test_a_matrix_that_would_mix_nothing_is_refused():
    with DataFlowCoordinator("mix") as flow:
        take, model = flow.add(ScriptedSource([], SPEECH), name="take"), flow.add(Speech(), name="model")
        options = ConversionOptions(mix=((0.5,),))
        flow.connect(take.out, model.audio, buffer_size=4, transformation_required=True, conversion=options)
        with pytest.raises(ConfigurationError, match="because mix= says how they are mixed"):
            flow.start()


def test_only_audio_is_checked():
    with DataFlowCoordinator("bytes") as flow:
        take, out = flow.add(ScriptedSource([b"x"], BytesFormat()), name="take"), flow.add(Collect(), name="out")
        flow.connect(take.out, out.data, buffer_size=4, validation=Validation())
        with pytest.raises(
            ConfigurationError, match=r"take.out->out.data: expected audio, which is all that is checked"
        ):
            flow.start()
        with pytest.raises(ConfigurationError, match="expected audio, which is all that is checked"):
            flow.register_pipeline(
                "a", "b", PipelineConfig(buffer_size=4, validation=Validation()), format=BytesFormat()
            )


# --- checks -------------------------------------------------------------------------------------------------------------


def damaged(count=20):
    """Return blocks of f32, of which every fifth has something that is no number."""
    blocks = [np.full((160, 1), number / 100, np.float32) for number in range(count)]
    for number in range(4, count, 5):
        blocks[number][7] = np.nan
    return blocks


def checked(validation, blocks, **placement):
    with DataFlowCoordinator("checked") as flow:
        take = flow.add(ScriptedSource(blocks, AudioFormat(16_000, 1, max_block_frames=160)), name="take")
        model, out = flow.add(Speech(), name="model", **placement), flow.add(Collect(), name="out")
        flow.connect(take.out, model.audio, buffer_size=16, validation=validation, backpressure_strategy=Wait())
        flow.connect(model.out, out.data, buffer_size=16)
        report = flow.run()
        return out, report, [event for event in report.events if isinstance(event, BlockRejected)]


LOOSE = {"max_dc": None, "max_stuck_ms": None}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_blocks_that_are_rejected_are_counted_and_told_and_the_flow_goes_on(placement):
    out, report, events = checked(Validation(on_invalid="reject", **LOOSE), damaged(), **placement)
    assert len(out.values) == 16
    assert [arrival.first_frame // 160 for arrival in out.arrivals if arrival.flags & BlockFlag.DISCONTINUITY] == [
        5,
        10,
        15,
    ]
    (step,) = report.conversions["take.out->model.audio"]
    assert (step.calls, step.invalid, step.rejected) == (20, 4, 4)
    assert (events[0].pipeline, events[0].module, events[0].block_sequence) == ("take.out->model.audio", "model", 4)
    assert "1 samples that are no finite numbers" in events[0].reason
    assert report.pipelines["take.out->model.audio"].delivered == 20  # the pipeline itself has lost none


def test_blocks_are_repaired():
    out, report, events = checked(Validation(on_invalid="repair", **LOOSE), damaged())
    assert len(out.values) == 20
    assert not any(np.isnan(value).any() for value in out.values)
    (step,) = report.conversions["take.out->model.audio"]
    assert (step.invalid, step.repaired, step.rejected) == (4, 4, 0)
    assert not events


def test_blocks_pass_and_are_counted():
    out, report, _ = checked(Validation(**LOOSE), damaged())
    assert sum(np.isnan(value).any() for value in out.values) == 4
    (step,) = report.conversions["take.out->model.audio"]
    assert (step.invalid, step.repaired) == (4, 0)


def test_a_block_may_end_the_module():
    with pytest.raises(FlowFailed, match="validation: expected audio") as failed:
        checked(Validation(on_invalid="fail", **LOOSE), damaged())
    assert failed.value.report.modules["model"].state == "failed"


def test_what_cannot_be_converted_ends_the_module_unless_its_pipeline_says_otherwise():
    def run(on_error):
        good = convert(np.zeros((100, 1), np.float32), SPEECH, CarrierFormat("typed_array"))
        carried = CarrierFormat("typed_array", SPEECH)
        with DataFlowCoordinator("network") as flow:
            take = flow.add(ScriptedSource([good, good[:-2], good], carried), name="take")
            model, out = flow.add(Speech(), name="model"), flow.add(Collect(), name="out")
            options = ConversionOptions(on_error=on_error)
            flow.connect(take.out, model.audio, buffer_size=16, transformation_required=True, conversion=options)
            flow.connect(model.out, out.data, buffer_size=16)
            return out, flow.run()

    out, report = run("drop")
    assert [len(value) for value in out.values] == [100, 100]
    assert report.conversions["take.out->model.audio"][0].rejected == 1
    with pytest.raises(FlowFailed, match="typed_array: expected 448 bytes, as the header says, got 446"):
        run("fail")


def received(validation):
    """Return what the application receives of damaged blocks, and what was told of the others."""
    with DataFlowCoordinator("open end") as flow:
        config = PipelineConfig(buffer_size=16, validation=validation)
        pid = flow.register_pipeline("here", "there", config, format=AudioFormat(16_000, 1))
        for block in damaged(6):
            flow.send_data(pid, block)
        pipe = flow.pipeline(pid)
        pipe.end()
        flow.start()
        got = []
        while True:
            try:
                got.append(pipe.receive(LIMIT_S))
            except TransformError as problem:
                got.append(problem)
            except EndOfStream:
                report = flow.report()
                return got, [event for event in report.events if isinstance(event, BlockRejected)], report


def test_an_open_target_goes_on_behind_what_it_rejects():
    got, events, report = received(Validation(on_invalid="reject", **LOOSE))
    assert report.pipelines["here->there"].delivered == 6
    assert [block.sequence for block in got] == [0, 1, 2, 3, 5]
    assert got[4].flags & BlockFlag.DISCONTINUITY
    assert [event.block_sequence for event in events] == [4]


def test_an_open_target_may_raise():
    got, events, _ = received(Validation(on_invalid="fail", **LOOSE))
    assert [getattr(each, "sequence", None) for each in got] == [0, 1, 2, 3, None, 5]
    assert "block 4 has 1 samples" in str(got[4])
    assert not events


def test_a_check_that_fails_is_not_overruled():
    with pytest.raises(FlowFailed, match="validation: expected audio"), DataFlowCoordinator("both") as flow:
        take = flow.add(ScriptedSource(damaged(), AudioFormat(16_000, 1, max_block_frames=160)), name="take")
        model = flow.add(Through(AudioFormat(16_000, 2)), name="model")
        flow.connect(
            take.out,
            model.audio,
            buffer_size=16,
            transformation_required=True,
            validation=Validation(on_invalid="fail", **LOOSE),
            conversion=ConversionOptions(on_error="drop"),
        )
        flow.run()


def test_flush_drops_what_is_kept_for_the_application():
    with DataFlowCoordinator("barge-in") as flow:
        take = ManyWindows()
        flow.add(take, name="take")
        pid = flow.register_pipeline(
            take.out, "app", PipelineConfig(buffer_size=16, transformation_required=True), format=AudioFormat(16_000, 1)
        )
        pipe = flow.pipeline(pid)
        flow.start()
        first = pipe.receive(LIMIT_S)
        assert take.sent.wait(LIMIT_S)
        pipe.flush()
        take.more.set()
        rest = []
        with pytest.raises(EndOfStream):
            while True:
                rest.append(pipe.receive(LIMIT_S))
    assert first.frames <= 1024
    assert {float(value) for block in rest for value in np.unique(block.samples)} <= {0.0}


class ManyWindows(Source):
    """Sends a long block that is not silent and, when told, one that is."""

    out = Output(AudioFormat(16_000, 1, "s16", max_block_frames=1024))

    def __init__(self):
        self.more = threading.Event()
        self.sent = threading.Event()

    def produce(self):
        for _ in range(4):
            self.out.send(np.full((1024, 1), 1000, np.int16))
        self.sent.set()
        yield
        while not self.more.is_set():
            yield
        self.out.send(np.zeros((512, 1), np.int16))


# --- settings -----------------------------------------------------------------------------------------------------------


def test_options_need_the_word_that_allows_them():
    with pytest.raises(ConfigurationError, match="expected transformation_required=True beside conversion="):
        PipelineConfig(buffer_size=4, conversion=ConversionOptions())
    for wrong in ({"transformation_required": "yes"}, {"conversion": "VHQ"}, {"validation": "full"}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            PipelineConfig(buffer_size=4, **wrong)


def test_a_flow_file_says_it(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "take.wav", recording(4_800), 48_000)
    (tmp_path / "flow.toml").write_text(
        f"""
        [modules.take]
        use = "steadyflow.audio:FileSource"
        arguments = {{ path = "{tmp_path / "take.wav"}", realtime_pace = false }}
        [modules.model]
        use = "tests.integration.test_converting_flows:Speech"
        [modules.out]
        use = "steadyflow.testing:Collect"
        [[pipelines]]
        from = "take.out"
        to = "model.audio"
        buffer_size = 8
        transformation_required = true
        conversion = {{ quality = "VHQ", mix = [[1.0, 0.0]] }}
        validation = {{ mode = "sample", on_invalid = "repair" }}
        [[pipelines]]
        from = "model.out"
        to = "out.data"
        buffer_size = 8
        """,
        encoding="utf-8",
    )
    with load_flow(tmp_path / "flow.toml") as flow:
        flow.run()
        config = flow.pipeline("take.out->model.audio").config
        got = np.concatenate(flow.modules["out"].values)
    assert config.conversion == ConversionOptions(quality="VHQ", mix=((1.0, 0.0),))
    assert config.validation == Validation(mode="sample", on_invalid="repair")
    samples = recording(4_800)[:, :1] / np.float32(32768)
    expected = convert(samples, AudioFormat(48_000, 1), SPEECH, ConversionOptions(quality="VHQ"))
    np.testing.assert_array_equal(got, expected)


def test_transform_data_converts_whole():
    samples = recording()
    with DataFlowCoordinator("transform") as flow:
        np.testing.assert_array_equal(
            flow.transform_data(samples, S16_STEREO, SPEECH), convert(samples, S16_STEREO, SPEECH)
        )
        assert flow.transform_data(samples, S16_STEREO, S16_STEREO) is samples
        with pytest.raises(ConfigurationError, match="transform_data: expected from_format to be a format"):
            flow.transform_data(samples, "s16", SPEECH)


def test_the_plan_of_a_pipeline_is_what_is_planned_by_hand():
    _, _, pipeline = flow_of(Windowed(), recording(4_800))
    assert pipeline.conversion == make_plan(S16_STEREO, SPEECH, window_frames=512, hop_frames=160, pad_last=True)
    assert "512 frames, hop 160, the last one padded" in str(pipeline.conversion)
