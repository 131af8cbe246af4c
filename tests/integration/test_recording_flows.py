"""Recordings in flows: a pipeline is recorded beside its work, and plays again as it was."""

from __future__ import annotations

import os
import signal
import time

import msgspec
import numpy as np
import pytest
from tests.recorded import plain, recorder_for

from steadyflow import (
    AudioFormat,
    Block,
    BlockFlag,
    BytesFormat,
    DataFlowCoordinator,
    DropOldest,
    FlowData,
    FlowFailed,
    PipelineConfig,
    StructFormat,
    Wait,
    audio,
)
from steadyflow.errors import ConfigurationError, FileUnreadable, FileUnwritable, StateError, UnknownName, WorkerDied
from steadyflow.module import Output, Source
from steadyflow.recording import Recorder, Recording, replay
from steadyflow.testing import Collect, ScriptedSource

LIMIT_S = 30
MONO = AudioFormat(48_000, 1)
PLACEMENTS = ("thread", "process")


class Score(msgspec.Struct, frozen=True):
    """A payload whose class a worker process finds by its name."""

    points: int


class Endless(Source):
    """Sends a number in each block until it is stopped."""

    out = Output(MONO)

    def produce(self):
        number = 0
        while True:
            self.out.send(np.full((4, 1), number, np.float32))
            number += 1
            yield


@pytest.fixture
def path(tmp_path):
    return tmp_path / "take.mcap"


def numbered(count):
    return [np.full((4, 1), number, np.float32) for number in range(count)]


# --- a recording beside the work ----------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_recorded_song_is_heard_as_the_song_was(tmp_path, placement):
    song, pitches = tmp_path / "song.mcap", tmp_path / "pitches.mcap"
    with DataFlowCoordinator() as flow:
        take = flow.add(audio.FileSource(audio.demo_recording().path, realtime_pace=False), name="take")
        pitch = flow.add(audio.PitchDetector(), name="pitch", placement=placement)
        heard = flow.add(Collect(), name="heard")
        into = flow.connect(take.out, pitch.audio, buffer_size=32)
        out = flow.connect(pitch.pitch, heard.data, buffer_size=32)
        kept = [flow.record(into, song, placement=placement), flow.record(out.id, pitches)]
        report = flow.run()

    assert [pipe.id for pipe in kept] == ["take.out->recorder.data", "pitch.pitch->recorder-2.data"]
    assert [report.pipelines[pipe.id].delivered for pipe in kept] == [report.pipelines[p.id].sent for p in (into, out)]
    assert all(pipe.config.priority == "low" and pipe.rule == Wait() for pipe in kept)
    with Recording(song) as recording:
        assert (recording.pipeline, len(recording)) == (into.id, report.pipelines[into.id].sent)
        assert recording.format == AudioFormat(44_100, 1, max_block_frames=480)
        # What the source sent, and when it says it was captured.
        blocks = list(recording)
    assert [block.first_frame for block in blocks] == [480 * number for number in range(len(blocks))]
    assert [block.sequence for block in blocks] == list(range(len(blocks)))
    assert blocks[-1].flags == BlockFlag.END_OF_STREAM
    assert blocks[1].timestamp_ns - blocks[0].timestamp_ns == 480 * 1_000_000_000 // 44_100

    with DataFlowCoordinator() as flow:
        again = flow.add(replay(song, pace="fast"), name="again", placement=placement)
        pitch = flow.add(audio.PitchDetector(), name="pitch")
        heard_again = flow.add(Collect(), name="heard")
        flow.connect(again.out, pitch.audio, buffer_size=32)
        flow.connect(pitch.pitch, heard_again.data, buffer_size=32)
        flow.run()

    def sound(pitch):
        return pitch.frequency_hz, pitch.note, pitch.cents, pitch.clarity

    assert len(heard.values) > 900
    assert [sound(each) for each in heard_again.values] == [sound(each) for each in heard.values]
    with Recording(pitches) as recording:
        assert [block.data for block in recording] == heard.values
        assert [block.timestamp_ns for block in recording] == [arrival.timestamp_ns for arrival in heard.arrivals]


def test_what_the_application_receives_can_be_recorded(path):
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(5), MONO), name="source")
        pipe = flow.connect(source.out, "app", buffer_size=8)
        flow.record(pipe, path, name="tape", placement="process", buffer_size=4)
        flow.start()
        received = [pipe.receive(LIMIT_S) for _ in range(5)]
        flow.stop()

    with Recording(path) as recording:
        assert [plain(block) for block in recording] == [plain(block) for block in received]
        assert recording.pipeline == "source.out->app"


def test_everything_that_a_sender_says_is_recorded(path):
    script = [
        FlowData(b"one", timestamp_ns=5, first_frame=6, flags=BlockFlag.GAP, metadata={"take": 1, "who": "me"}),
        FlowData(b"two", timestamp_ns=7, metadata={"raw": b"\x00"}),
        FlowData(b"end", flags=BlockFlag.END_OF_STREAM),
    ]
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(script, BytesFormat(16)), name="source")
        first = flow.add(Collect(), name="first")
        flow.record(flow.connect(source.out, first.data, buffer_size=4), path)
        flow.run()
    with DataFlowCoordinator() as flow:
        again = flow.add(replay(path, pace="fast", timestamps="recorded"), name="again")
        second = flow.add(Collect(), name="second")
        flow.connect(again.out, second.data, buffer_size=4)
        flow.run()

    assert second.values == first.values == [b"one", b"two", b"end"]
    assert [arrival._replace(sequence=0) for arrival in second.arrivals] == [
        arrival._replace(sequence=0) for arrival in first.arrivals
    ]


def test_a_live_source_is_not_slowed_down(path):
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(5), MONO, live=True), name="source")
        collect = flow.add(Collect(), name="collect")
        kept = flow.record(flow.connect(source.out, collect.data, buffer_size=8), path)
        chosen = flow.record("source.out->collect.data", path.with_name("all.mcap"), backpressure_strategy=Wait())
        flow.run()
    assert (kept.rule, chosen.rule) == (DropOldest(), Wait())


def test_blocks_that_did_not_reach_the_file_are_seen_in_it(path):
    """Their numbers are missing: the recorder's pipeline counts them as any other one."""
    with DataFlowCoordinator() as flow:
        recorder = flow.add(Recorder(path), name="tape")
        pid = flow.register_pipeline(
            "app", recorder.data, PipelineConfig(buffer_size=2, backpressure_strategy=DropOldest()), format=MONO
        )
        for block in numbered(5):
            flow.send_data(pid, block)
        flow.start()
        flow.pipeline(pid).end()
        assert flow.wait(LIMIT_S)
        report = flow.stop()

    assert report.pipelines[pid].dropped == {"oldest": 3}
    with Recording(path) as recording:
        assert [block.sequence for block in recording] == [3, 4]


# --- replays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_structs_play_again_in_a_process(path, placement):
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource([Score(1), Score(2)], StructFormat(Score)), name="source")
        flow.record(flow.connect(source.out, "app", buffer_size=4), path)
        flow.start()
        flow.wait(LIMIT_S)
        flow.stop()
    for options in ({}, {"format": StructFormat(Score)}):
        with DataFlowCoordinator() as flow:
            again = flow.add(replay(path, pace="fast", **options), name="again", placement=placement)
            collect = flow.add(Collect(), name="collect")
            flow.connect(again.out, collect.data, buffer_size=4)
            flow.run()
        assert collect.values == [Score(1), Score(2)]
    with DataFlowCoordinator() as flow:
        again = flow.add(replay(path, pace="fast", format=BytesFormat()), name="again", placement=placement)
        collect = flow.add(Collect(), name="collect")
        flow.connect(again.out, collect.data, buffer_size=4)
        flow.run()
    assert [msgspec.msgpack.decode(value) for value in collect.values] == [{"points": 1}, {"points": 2}]


def test_an_exact_replay_is_paced(path):
    with DataFlowCoordinator() as flow:
        tone = flow.add(audio.Tone(440.0, duration_s=0.05), name="tone")
        collect = flow.add(Collect(), name="collect")
        flow.record(flow.connect(tone.out, collect.data, buffer_size=8), path)
        flow.run()
    with Recording(path) as recording:
        sent_ns = [block.sent_ns for block in recording]
    with DataFlowCoordinator() as flow:
        again = flow.add(replay(path), name="again")
        second = flow.add(Collect(), name="second")
        pipe = flow.connect(again.out, second.data, buffer_size=8, max_latency_ms=1000.0)
        flow.start()
        assert flow.wait(LIMIT_S)
        report = flow.stop()

    assert [value.tobytes() for value in second.values] == [value.tobytes() for value in collect.values]
    # Not before their time; how long after it is the machine's business.
    assert report.duration_s >= (sent_ns[-1] - sent_ns[0]) / 1e9
    first, *_, last = second.arrivals
    assert (
        last.timestamp_ns - first.timestamp_ns == collect.arrivals[-1].timestamp_ns - collect.arrivals[0].timestamp_ns
    )
    assert report.pipelines[pipe.id].delivered == len(sent_ns)


def test_a_damaged_recording_plays_up_to_the_damage(path):
    with DataFlowCoordinator() as flow:
        recorder = flow.add(Recorder(path, chunk_s=1e-6), name="tape")
        source = flow.add(ScriptedSource(numbered(30), MONO), name="source")
        flow.connect(source.out, recorder.data, buffer_size=8)
        flow.run()
    with Recording(path) as recording:
        *_, place = recording._file.chunks
    data = bytearray(path.read_bytes())
    data[place.offset + 70] ^= 16
    path.write_bytes(data)

    with DataFlowCoordinator() as flow:
        again = flow.add(replay(path, pace="fast"), name="again")
        collect = flow.add(Collect(), name="collect")
        flow.connect(again.out, collect.data, buffer_size=8)
        with pytest.raises(FlowFailed, match=f"take.mcap: a chunk .* at offset {place.offset}") as failed:
            flow.run()
    assert isinstance(failed.value.exceptions[0].__cause__, FileUnreadable)
    assert 0 < len(collect.values) < 30
    assert [value[0, 0] for value in collect.values] == list(range(len(collect.values)))


def test_a_time_that_never_comes_is_waited_for(path):
    """A recording may say anything: the source waits beside everything else, and stops when it is told to."""
    stamps = (0, 10, (1 << 63) - 1)
    recorder = recorder_for(path, MONO)
    for number, sent_ns in enumerate(stamps):
        recorder.process(Block(numbered(3)[number], MONO, sent_ns=sent_ns))
    recorder.finish()
    with DataFlowCoordinator() as flow:
        again = flow.add(replay(path, timestamps="recorded"), name="again")
        pipe = flow.connect(again.out, "app", buffer_size=8)
        flow.start()
        assert [pipe.receive(LIMIT_S).data[0, 0] for _ in range(2)] == [0, 1]
        report = flow.stop()
    assert report.pipelines[pipe.id].sent == 2


def test_a_recording_that_is_not_there_is_told_before_the_start(path):
    with DataFlowCoordinator() as flow:
        again = flow.add(replay(path), name="again")
        collect = flow.add(Collect(), name="collect")
        flow.connect(again.out, collect.data, buffer_size=8)
        with pytest.raises(FileUnreadable, match="No such file"):
            flow.start()


# --- mistakes -----------------------------------------------------------------------------------------------------


def test_a_recording_is_not_replayed_onto_itself(path):
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(5), MONO), name="source")
        flow.record(flow.connect(source.out, "app", buffer_size=8), path)
        flow.start()
        flow.wait(LIMIT_S)
        flow.stop()
    for placement in PLACEMENTS:
        with DataFlowCoordinator() as flow:
            again = flow.add(replay(path, pace="fast"), name="again", placement=placement)
            collect = flow.add(Collect(), name="collect")
            flow.record(flow.connect(again.out, collect.data, buffer_size=8), path)
            with pytest.raises(FlowFailed, match="being recorded or replayed") as failed:
                flow.run()
            assert any(isinstance(each.__cause__, FileUnwritable) for each in failed.value.exceptions)
    with Recording(path) as recording:
        assert len(recording) == 5


def test_what_the_application_sends_is_recorded_otherwise(path):
    with DataFlowCoordinator() as flow:
        collect = flow.add(Collect(), name="collect")
        pid = flow.register_pipeline("app", collect.data, PipelineConfig(buffer_size=4), format=MONO)
        with pytest.raises(
            ConfigurationError, match=r"app->collect.data: expected a pipeline from a module.*Add a Recorder"
        ):
            flow.record(pid, path)
        # The way that the message names.
        recorder = flow.add(Recorder(path, pipeline=pid), name="tape")
        tape = flow.register_pipeline("app-tape", recorder.data, PipelineConfig(buffer_size=4), format=MONO)
        flow.start()
        for block in numbered(3):
            flow.send_data(pid, block)
            flow.send_data(tape, block)
        flow.stop()
    with Recording(path) as recording:
        assert (recording.pipeline, len(recording)) == (pid, 3)


def test_mistakes_leave_the_flow_as_it_was(path):
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource([], MONO), name="source")
        collect = flow.add(Collect(), name="collect")
        pipe = flow.connect(source.out, collect.data, buffer_size=4)
        with pytest.raises(UnknownName, match=r"did you mean 'source.out->collect.data'"):
            flow.record("source.out->collect.dat", path)
        with pytest.raises(UnknownName, match=r"'max_latency'.*did you mean 'max_latency_ms'"):
            flow.record(pipe, path, max_latency=5)
        with pytest.raises(ConfigurationError, match="buffer_size"):
            flow.record(pipe, path, buffer_size=0)
        with pytest.raises(ConfigurationError, match="expected the path of a file"):
            flow.record(pipe, "")
        assert list(flow.modules) == ["source", "collect"]
        assert list(flow.pipelines) == [pipe.id]
        flow.run()
        with pytest.raises(StateError, match="to record a pipeline"):
            flow.record(pipe, path)


# --- a recorder that is killed ------------------------------------------------------------------------------------


def test_a_killed_recorder_leaves_what_it_had_written(path):
    with DataFlowCoordinator() as flow:
        source = flow.add(Endless(), name="source")
        recorder = flow.add(Recorder(path, chunk_s=0.001), name="tape", placement="process")
        pipe = flow.connect(source.out, recorder.data, buffer_size=8)
        flow.start()
        deadline = time.monotonic() + LIMIT_S
        while pipe.statistics().delivered < 500:
            assert time.monotonic() < deadline
            os.sched_yield()
        os.kill(flow.workers["tape"].pid, signal.SIGKILL)
        assert flow.wait(LIMIT_S)
        with pytest.raises(FlowFailed) as failed:
            flow.stop()
        delivered = pipe.statistics().delivered
    assert isinstance(failed.value.exceptions[0], WorkerDied)

    with Recording(path) as recording:
        assert not recording.info.complete
        blocks = list(recording)
    assert 0 < len(blocks) <= delivered + 1
    assert [block.sequence for block in blocks] == list(range(len(blocks)))
    assert [block.data[0, 0] for block in blocks] == list(range(len(blocks)))
    with DataFlowCoordinator() as flow:
        again = flow.add(replay(path, pace="fast"), name="again")
        collect = flow.add(Collect(), name="collect")
        flow.connect(again.out, collect.data, buffer_size=8)
        flow.run()
    assert len(collect.values) == len(blocks)
