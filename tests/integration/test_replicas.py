"""Replicas: several processes that compete for the blocks of one module, and the order of what they send."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import warnings
from collections import Counter

import numpy as np
import pytest

from steadyflow import (
    Aligned,
    ArrayFormat,
    AudioFormat,
    BlockFlag,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    EndOfStream,
    FlowFailed,
    Input,
    Module,
    Output,
    PipelineConfig,
    ReceiveTimeout,
    Source,
    load_flow,
    module,
)
from steadyflow.errors import ConfigurationError, DuplicateName, LimitExceeded, ModuleFailed, WorkerDied
from steadyflow.events import DataFlowStarted, ModuleEnded, PipelineFailure
from steadyflow.testing import Collect, ScriptedSource

MONO = AudioFormat(48_000, 1)
LARGE = ArrayFormat(np.float64, (4096,))
LIMIT_S = 40  # how long a test may wait for what has to come; it never waits for time to pass


def numbered(blocks):
    """Return blocks that hold their own number."""
    return [np.full((2, 1), number, np.float32) for number in range(blocks)]


def number_of(block):
    return int(block.samples[0, 0])


def numbers(collect):
    return [int(value[0, 0]) for value in collect.values]


def received_to_the_end(pipeline):
    received = []
    while True:
        try:
            received.append(number_of(pipeline.receive(LIMIT_S)))
        except EndOfStream:
            return received


def until(condition):
    """Look until it holds; other threads and processes run meanwhile."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        os.sched_yield()


def assert_accounted(report):
    for name, metrics in report.pipelines.items():
        assert metrics.in_flight == 0, name
        assert metrics.sent == metrics.delivered + metrics.dropped_total, name


# --- a gate at which replicas wait for the test -----------------------------------------------------------------------


class Visitor:
    """A replica at the gate, with a block in its hands."""

    def __init__(self, connection):
        self._connection = connection
        self.number, self.pid, self.flags = json.loads(connection.makefile().readline())

    def let_through(self, answer="1"):
        """Answer: how many results it sends, or "!" to make it fail."""
        self._connection.sendall(answer.encode())
        self._connection.close()

    def close(self):
        self._connection.close()


class Gate:
    def __init__(self, path):
        self.path = str(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(LIMIT_S)
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._visitors = {}

    def visitor(self, number):
        """Wait until a replica has this block in its hands."""
        while number not in self._visitors:
            connection, _ = self._listener.accept()
            visitor = Visitor(connection)
            self._visitors[visitor.number] = visitor
        return self._visitors.pop(number)

    def close(self):
        for visitor in self._visitors.values():
            visitor.close()
        self._listener.close()


@pytest.fixture
def gate(tmp_path):
    made = Gate(tmp_path / "gate")
    yield made
    made.close()


class Guarded(Module):
    """Works on each block until the test lets it go on."""

    audio = Input(MONO)
    out = Output(like="audio")

    def __init__(self, path):
        self.path = path

    def process(self, audio):
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(self.path)
            waiting.sendall(json.dumps([number_of(audio), os.getpid(), int(audio.flags)]).encode() + b"\n")
            answer = waiting.recv(1).decode()
        if answer == "!":
            raise ValueError("the test said so")
        for _ in range(int(answer or 0)):
            self.out.send(audio)


# --- modules that run in processes ------------------------------------------------------------------------------------


class Pass(Module):
    audio = Input(MONO)
    out = Output(like="audio")

    def process(self, audio):
        return audio


class Uneven(Module):
    """Works much longer on some blocks than on others; sends none, one or several blocks for each."""

    audio = Input(MONO)
    out = Output(like="audio")

    def process(self, audio):
        number = number_of(audio)
        sum(range(50_000 if number % 7 == 0 else 100))
        for _ in range(number % 3):
            self.out.send(audio)


class OddAndEven(Module):
    audio = Input(MONO)
    odd, even, all = Output(MONO), Output(MONO), Output(MONO)

    def process(self, audio):
        (self.odd if number_of(audio) % 2 else self.even).send(audio)
        self.all.send(audio)


class SaysGoodbye(Pass):
    """Sends one more block at its end."""

    def finish(self):
        self.out.send(np.full((2, 1), 1_000, np.float32))


class LeftAndRight(Module):
    """Has two inputs that have nothing to do with each other."""

    left, right = Input(MONO), Input(MONO)
    out = Output(MONO)

    def process_left(self, left):
        return left

    def process_right(self, right):
        return right.samples + np.float32(100)


class Enlarge(Module):
    """Sends blocks that are views of shared memory where they arrive."""

    audio = Input(MONO)
    out = Output(LARGE)

    def process(self, audio):
        return np.full(4096, number_of(audio), np.float64)


class Endless(Source):
    """Sends until it is stopped."""

    out = Output(MONO)

    def produce(self):
        number = 0
        while True:
            self.out.send(np.full((2, 1), number, np.float32))
            number += 1
            yield


class Windowed(Pass):
    audio = Input(MONO, window_frames=4)


class Nothing(Module):
    pass


@module(input=MONO, output=MONO)
def halve(audio):
    return audio.samples * np.float32(0.5)


def described(flow, replicated, blocks=6, *, buffer_size=8, **options):
    """Add a source of numbered blocks and a replicated module behind it."""
    source = flow.add(ScriptedSource(numbered(blocks), MONO), name="source")
    work = flow.add(replicated, name="work", placement="process", **options)
    flow.connect(source.out, work.audio, buffer_size=buffer_size)
    return work


# --- who gets what ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
def test_replicas_work_at_the_same_time_and_each_block_is_delivered_once(gate, ordered):
    with DataFlowCoordinator() as flow:
        work = described(flow, Guarded(gate.path), replicas=3, ordered=ordered)
        out = flow.pipeline(flow.register_pipeline(work.out, "app", PipelineConfig(buffer_size=8)))
        flow.start()
        visitors = [gate.visitor(number) for number in range(3)]
        # One process for each, and all three have a block in hand.
        assert {visitor.pid for visitor in visitors} == {flow.workers[f"work-{number}"].pid for number in (1, 2, 3)}
        for visitor in visitors:
            visitor.let_through()
        for number in range(3, 6):
            gate.visitor(number).let_through()
        assert sorted(received_to_the_end(out)) == list(range(6))
        assert flow.wait(LIMIT_S)
        report = flow.report()
    assert_accounted(report)
    assert report.modules["work"].calls == 6
    assert report.modules["work"].worker == "work-1..3"
    assert report.modules["work"].state == "ended"
    assert [event.module for event in report.events if isinstance(event, ModuleEnded)] == ["source", "work"]
    (started,) = [event for event in report.events if isinstance(event, DataFlowStarted)]
    assert sorted(started.workers) == ["main", "work-1", "work-2", "work-3"]


def test_what_is_ready_waits_for_what_comes_before(gate):
    with DataFlowCoordinator() as flow:
        work = described(flow, Guarded(gate.path), replicas=3, ordered=True)
        out = flow.pipeline(flow.register_pipeline(work.out, "app", PipelineConfig(buffer_size=9)))
        flow.start()
        first = gate.visitor(0)
        gate.visitor(2).let_through()
        gate.visitor(1).let_through("2")
        # A replica takes its next block only after it has sent what it made of the one before.
        third, fourth = gate.visitor(3), gate.visitor(4)
        assert out.statistics().sent == 3
        assert out.statistics().fill == 3
        with pytest.raises(ReceiveTimeout):
            out.receive(0)
        fourth.let_through("1")
        gate.visitor(5).let_through("1")
        first.let_through("0")  # nothing comes of it, and the others need not wait any longer
        assert [number_of(out.receive(LIMIT_S)) for _ in range(3)] == [1, 1, 2]
        third.let_through("1")
        assert received_to_the_end(out) == [3, 4, 5]
        flow.stop()


def test_blocks_come_as_they_are_ready_where_no_order_is_asked_for(gate):
    with DataFlowCoordinator() as flow:
        work = described(flow, Guarded(gate.path), blocks=3, replicas=2)
        out = flow.pipeline(flow.register_pipeline(work.out, "app", PipelineConfig(buffer_size=8)))
        flow.start()
        first = gate.visitor(0)
        gate.visitor(1).let_through()
        assert number_of(out.receive(LIMIT_S)) == 1
        gate.visitor(2).let_through()
        assert number_of(out.receive(LIMIT_S)) == 2
        first.let_through()
        assert received_to_the_end(out) == [0]
        flow.stop()


@pytest.mark.parametrize("placement", ["thread", "process"])
@pytest.mark.parametrize("lane_blocks", [1, 16])
def test_uneven_work_comes_out_in_order(placement, lane_blocks):
    with DataFlowCoordinator() as flow:
        work = described(flow, Uneven(), blocks=300, replicas=3, ordered=True)
        after = flow.add(Pass(), name="after", placement=placement)
        collect = flow.add(Collect(), name="collect")
        flow.connect(work.out, after.audio, buffer_size=3 * lane_blocks)
        flow.connect(after.out, collect.data, buffer_size=8)
        report = flow.run()
    assert numbers(collect) == [number for number in range(300) for _ in range(number % 3)]
    assert_accounted(report)
    assert report.modules["work"].calls == 300
    assert report.pipelines["work.out->after.audio"].sent == len(collect.values)


def test_every_output_and_every_branch_is_in_order():
    with DataFlowCoordinator() as flow:
        work = described(flow, OddAndEven(), blocks=100, replicas=2, ordered=True)
        collects = {name: flow.add(Collect(), name=name) for name in ("odd", "even", "all", "again", "elsewhere")}
        flow.connect(work.odd, collects["odd"].data, buffer_size=4)
        flow.connect(work.even, collects["even"].data, buffer_size=4)
        flow.connect(work.all, collects["all"].data, buffer_size=2)
        flow.connect(work.all, collects["again"].data, buffer_size=5)
        apart = flow.add(Pass(), name="apart", placement="process")
        flow.connect(work.all, apart.audio, buffer_size=3)
        flow.connect(apart.out, collects["elsewhere"].data, buffer_size=8)
        assert_accounted(flow.run())
    assert numbers(collects["odd"]) == list(range(1, 100, 2))
    assert numbers(collects["even"]) == list(range(0, 100, 2))
    for name in ("all", "again", "elsewhere"):
        assert numbers(collects[name]) == list(range(100)), name


def test_what_is_sent_at_the_end_comes_last():
    with DataFlowCoordinator() as flow:
        work = described(flow, SaysGoodbye(), blocks=50, replicas=3, ordered=True)
        collect = flow.add(Collect(), name="collect")
        flow.connect(work.out, collect.data, buffer_size=6)
        flow.run()
    assert numbers(collect) == [*range(50), 1_000, 1_000, 1_000]


def test_the_application_sends_before_the_flow_starts():
    with DataFlowCoordinator() as flow:
        work = flow.add(Pass(), name="work", placement="process", replicas=2, ordered=True)
        into = flow.pipeline(flow.register_pipeline("app", work.audio, PipelineConfig(buffer_size=64), MONO))
        out = flow.pipeline(flow.register_pipeline(work.out, "heard", PipelineConfig(buffer_size=64)))
        blocks = numbered(60)
        for block in blocks[:20]:
            assert into.send(block)
        flow.start()
        for block in blocks[20:]:
            assert into.send(block)
        into.end()
        assert received_to_the_end(out) == list(range(60))
        assert flow.wait(LIMIT_S)
        assert_accounted(flow.report())


def test_replicas_behind_replicas_and_behind_an_order():
    with DataFlowCoordinator() as flow:
        work = described(flow, Pass(), blocks=200, replicas=2)
        again = flow.add(Pass(), name="again", placement="process", replicas=3)
        collect = flow.add(Collect(), name="collect")
        flow.connect(work.out, again.audio, buffer_size=4)
        flow.connect(again.out, collect.data, buffer_size=6)
        report = flow.run()
    assert sorted(numbers(collect)) == list(range(200))
    assert_accounted(report)
    assert report.modules["again"].calls == 200

    with DataFlowCoordinator() as flow:
        work = described(flow, Uneven(), blocks=200, replicas=2, ordered=True)
        bridge = flow.add(Pass(), name="bridge")
        again = flow.add(Pass(), name="again", placement="process", replicas=2, ordered=True)
        beside = flow.add(Pass(), name="beside", placement="process", replicas=2)
        collect, rest = flow.add(Collect(), name="collect"), flow.add(Collect(), name="rest")
        flow.connect(work.out, bridge.audio, buffer_size=4)
        flow.connect(bridge.out, again.audio, buffer_size=4)
        flow.connect(again.out, collect.data, buffer_size=4)
        flow.connect(work.out, beside.audio, buffer_size=4)
        flow.connect(beside.out, rest.data, buffer_size=4)
        assert_accounted(flow.run())
    expected = [number for number in range(200) for _ in range(number % 3)]
    assert numbers(collect) == expected
    assert Counter(numbers(rest)) == Counter(expected)


def test_two_inputs_are_competed_for_apart():
    with DataFlowCoordinator() as flow:
        first = flow.add(ScriptedSource(numbered(50), MONO), name="first")
        second = flow.add(ScriptedSource(numbered(50), MONO), name="second", worker="other")
        work = flow.add(LeftAndRight(), name="work", placement="process", replicas=2)
        collect = flow.add(Collect(), name="collect")
        flow.connect(first.out, work.left, buffer_size=4, priority="high")
        flow.connect(second.out, work.right, buffer_size=4, priority="low")
        flow.connect(work.out, collect.data, buffer_size=4)
        report = flow.run()
    assert sorted(numbers(collect)) == sorted([*range(50), *range(100, 150)])
    assert_accounted(report)
    assert report.modules["work"].calls == 100


def test_one_replica_is_none():
    with DataFlowCoordinator() as flow:
        work = described(flow, halve, replicas=1, ordered=True)
        collect = flow.add(Collect(), name="collect")
        flow.connect(work.out, collect.data, buffer_size=1)
        report = flow.run()
        assert sorted(flow.workers) == ["main", "work"]
    assert [float(value[0, 0]) for value in collect.values] == [number / 2 for number in range(6)]
    assert report.modules["work"].worker == "work"


def test_every_replica_may_ask_for_realtime():
    with DataFlowCoordinator() as flow, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the system may refuse
        work = described(flow, Pass(), replicas=2, ordered=True, realtime=True)
        collect = flow.add(Collect(), name="collect")
        flow.connect(work.out, collect.data, buffer_size=4)
        flow.run()
        workers = [flow.workers["work-1"], flow.workers["work-2"]]
        assert all(worker.realtime or worker.realtime_refusal for worker in workers)
    assert numbers(collect) == list(range(6))


def test_as_many_replicas_as_there_can_be():
    with DataFlowCoordinator() as flow:
        work = described(flow, Uneven(), blocks=300, replicas=15, ordered=True)
        collect = flow.add(Collect(), name="collect")
        flow.connect(work.out, collect.data, buffer_size=15)
        report = flow.run()
        assert len(flow.workers) == 16
    assert numbers(collect) == [number for number in range(300) for _ in range(number % 3)]
    assert report.modules["work"].worker == "work-1..15"


# --- rules, room, reports ---------------------------------------------------------------------------------------------


def test_dropping_keeps_the_order_and_the_accounts():
    with DataFlowCoordinator() as flow:
        work = described(flow, Uneven(), blocks=500, replicas=3, ordered=True, buffer_size=4)
        collect = flow.add(Collect(), name="collect", worker="slow")
        flow.handle_backpressure("source.out->work.audio", DropOldest())
        out = flow.connect(work.out, collect.data, buffer_size=3, backpressure_strategy=DropOldest())
        report = flow.run()
    received = numbers(collect)
    assert received == sorted(received)
    assert_accounted(report)
    assert report.pipelines[out.id].delivered == len(received)
    assert report.pipelines["source.out->work.audio"].delivered == report.modules["work"].calls


def test_a_pipeline_of_replicas_shares_its_room(gate):
    with DataFlowCoordinator() as flow:
        work = described(flow, Guarded(gate.path), blocks=8, replicas=2)
        out = flow.pipeline(flow.register_pipeline(work.out, "app", PipelineConfig(buffer_size=3)))
        flow.start()
        pids = [flow.workers["work-1"].pid, flow.workers["work-2"].pid]
        first, second = sorted((gate.visitor(0), gate.visitor(1)), key=lambda visitor: pids.index(visitor.pid))
        # Room for two blocks of the first replica, and for one of the second.
        first.let_through("2")
        third = gate.visitor(2)
        second.let_through("1")
        fourth = gate.visitor(3)
        assert [third.pid, fourth.pid] == pids
        metrics = out.statistics()
        assert (metrics.sent, metrics.fill, metrics.peak_fill, metrics.in_flight) == (3, 3, 3, 3)
        assert repr(out) == f"<Pipeline work.out->app: {out.format}, 3 of 3>"
        # One more from each waits for room, until the rule says otherwise.
        third.let_through("1")
        fourth.let_through("1")
        until(lambda: out.statistics().backpressure_events == 2)
        flow.handle_backpressure(out.id, DropNewest())
        for number in range(4, 8):
            gate.visitor(number).let_through("0")
        assert flow.wait(LIMIT_S)
        assert len(received_to_the_end(out)) == 3
        metrics = flow.report().pipelines[out.id]
    assert (metrics.sent, metrics.delivered, metrics.dropped) == (5, 3, {"newest": 2})
    assert metrics.blocked_ms > 0


def test_flushing_and_pausing_reach_every_lane():
    with DataFlowCoordinator() as flow:
        work = described(flow, Pass(), blocks=20, replicas=3, ordered=True)
        out = flow.pipeline(flow.register_pipeline(work.out, "app", PipelineConfig(buffer_size=60)))
        into = flow.pipeline("source.out->work.audio")
        out.pause()
        into.pause()
        flow.start()
        until(lambda: into.statistics().backpressure_events)
        assert into.statistics().fill == 8
        assert out.statistics().sent == 0
        into.resume()
        until(lambda: out.statistics().fill == 20)
        assert out.paused
        assert repr(out).endswith("20 of 60, paused>")
        with pytest.raises(ReceiveTimeout):
            out.receive(0)
        out.resume()
        assert [number_of(out.receive(LIMIT_S)) for _ in range(3)] == [0, 1, 2]
        assert out.flush() == 17
        assert received_to_the_end(out) == []
        assert flow.wait(LIMIT_S)
        report = flow.report()
    assert_accounted(report)
    assert report.pipelines[out.id].dropped == {"flushed": 17}


def test_metrics_add_up_and_outlive_the_flow():
    with DataFlowCoordinator() as flow:
        work = described(flow, Uneven(), blocks=90, replicas=3)
        collect = flow.add(Collect(), name="collect", worker="apart")
        out = flow.connect(work.out, collect.data, buffer_size=6)
        report = flow.run()
    metrics = report.pipelines[out.id]
    assert metrics.sent == metrics.delivered == len(collect.values) == 90
    assert metrics.bytes == 90 * 8
    assert 1 <= metrics.peak_fill <= 6
    assert metrics.latency_max_ms >= metrics.latency_p999_ms >= metrics.latency_p50_ms > 0
    assert metrics.average_latency_ms > 0
    assert metrics.busy_max_ms > 0
    after = flow.get_flow_metrics(out)
    assert (after.sent, after.delivered, after.latency_max_ms) == (90, 90, metrics.latency_max_ms)


def test_views_of_several_lanes_are_kept_up_to_the_buffer_size():
    with DataFlowCoordinator() as flow:
        work = described(flow, Enlarge(), blocks=12, replicas=2, ordered=True)
        out = flow.pipeline(flow.register_pipeline(work.out, "app", PipelineConfig(buffer_size=4)))
        flow.start()
        kept = []
        while True:
            try:
                kept.append(out.receive(LIMIT_S).data)
            except EndOfStream:
                break
        copies = sum(array.flags.writeable for array in kept)
        assert out.statistics().kept_copies == copies >= 12 - 4
        flow.stop()
    assert [int(array[-1]) for array in kept] == list(range(12))


# --- ends and failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
def test_a_flow_that_is_stopped_drains(ordered):
    with DataFlowCoordinator() as flow:
        source = flow.add(Endless(), name="source", worker="source")
        work = flow.add(Pass(), name="work", placement="process", replicas=3, ordered=ordered)
        collect = flow.add(Collect(), name="collect")
        flow.connect(source.out, work.audio, buffer_size=4)
        out = flow.connect(work.out, collect.data, buffer_size=4)
        flow.start()
        until(lambda: out.statistics().delivered >= 50)
        report = flow.stop(LIMIT_S)
    assert_accounted(report)
    received = numbers(collect)
    assert sorted(received) == list(range(len(received)))
    if ordered:
        assert received == sorted(received)
    assert report.pipelines["source.out->work.audio"].delivered == len(received)


@pytest.mark.parametrize("ordered", [False, True])
def test_a_replica_that_is_killed_ends_the_flow_and_another_repeats_its_block(gate, ordered, monkeypatch):
    monkeypatch.setattr("steadyflow.runtime.execution._FAILED_DRAIN_TIMEOUT_S", LIMIT_S)
    with DataFlowCoordinator() as flow:
        work = described(flow, Guarded(gate.path), blocks=6, replicas=2, ordered=ordered)
        out = flow.pipeline(flow.register_pipeline(work.out, "app", PipelineConfig(buffer_size=16)))
        flow.start()
        victim, survivor = gate.visitor(0), gate.visitor(1)
        (dead,) = [worker for worker in flow.workers.values() if worker.pid == victim.pid and worker.name != "main"]
        os.kill(victim.pid, signal.SIGKILL)
        victim.close()
        until(lambda: any(isinstance(event, PipelineFailure) for event in flow.report().events))
        survivor.let_through()
        repeated = gate.visitor(0)
        assert repeated.pid == survivor.pid
        assert repeated.flags & BlockFlag.REPEATED
        repeated.let_through()
        for number in range(2, 6):
            gate.visitor(number).let_through()
        received = received_to_the_end(out)
        # What overtook the repeated block is not held up by it; the rest is in order.
        assert sorted(received) == list(range(6))
        assert [number for number in received if number] == list(range(1, 6))
        with pytest.raises(FlowFailed) as caught:
            flow.stop()
        report = caught.value.report
    (problem,) = caught.value.exceptions
    assert isinstance(problem, WorkerDied)
    assert problem.worker == dead.name
    assert dead.name in str(problem)
    assert_accounted(report)
    assert report.pipelines["source.out->work.audio"].repeated == 1
    assert report.modules["work"].state == "failed"
    assert report.modules["work"].calls == 6


def test_nobody_waits_for_ever_when_all_replicas_are_killed(gate):
    with DataFlowCoordinator() as flow:
        source = flow.add(Endless(), name="source")
        work = flow.add(Guarded(gate.path), name="work", placement="process", replicas=2, ordered=True)
        flow.connect(source.out, work.audio, buffer_size=2)
        out = flow.pipeline(flow.register_pipeline(work.out, "app", PipelineConfig(buffer_size=8)))
        flow.start()
        visitors = [gate.visitor(0), gate.visitor(1)]
        for visitor in visitors:
            os.kill(visitor.pid, signal.SIGKILL)
        assert received_to_the_end(out) == []
        assert flow.wait(LIMIT_S)
        with pytest.raises(FlowFailed) as caught:
            flow.stop()
        for visitor in visitors:
            visitor.close()
    assert sorted(problem.worker for problem in caught.value.exceptions) == ["work-1", "work-2"]
    assert_accounted(caught.value.report)
    into = caught.value.report.pipelines["source.out->work.audio"]
    assert into.delivered == 0
    assert set(into.dropped) == {"failed"}


@pytest.mark.parametrize("ordered", [False, True])
def test_an_exception_in_one_replica(gate, ordered):
    with DataFlowCoordinator() as flow:
        work = described(flow, Guarded(gate.path), blocks=2, replicas=2, ordered=ordered)
        out = flow.pipeline(flow.register_pipeline(work.out, "app", PipelineConfig(buffer_size=8)))
        flow.start()
        first, second = gate.visitor(0), gate.visitor(1)
        (broken,) = [worker.name for worker in flow.workers.values() if worker.pid == first.pid]
        second.let_through()
        first.let_through("!")
        assert received_to_the_end(out) == [1]
        with pytest.raises(FlowFailed) as caught:
            flow.stop()
    (problem,) = caught.value.exceptions
    assert isinstance(problem, ModuleFailed)
    assert (problem.module, problem.worker, problem.block_sequence) == ("work", broken, 0)
    assert_accounted(caught.value.report)
    assert caught.value.report.pipelines["source.out->work.audio"].dropped == {"failed": 1}
    assert caught.value.report.modules["work"].state == "failed"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options", "problem"),
    [
        (Pass, {"placement": "thread"}, "replicas=2 needs placement='process'.*interpreter lock"),
        (Pass, {"worker": "dsp"}, "expected no worker= beside replicas=2, got 'dsp'.*'work-1' to 'work-2'"),
        (Endless, {}, "a source cannot have replicas.*Replicate a module behind it"),
        (Nothing, {}, "has no input"),
        (Windowed, {}, "input 'audio' collects windows"),
        (Pass, {"replicas": 0}, "expected replicas to be an integer from 1 to 15, got 0"),
        (Pass, {"replicas": 16}, "expected replicas to be an integer from 1 to 15, got 16"),
        (Pass, {"replicas": 2.0}, r"expected replicas to be an integer from 1 to 15, got 2\.0"),
        (Pass, {"replicas": True}, "expected replicas to be an integer from 1 to 15, got True"),
    ],
)
def test_modules_that_cannot_have_replicas(make, options, problem):
    with DataFlowCoordinator() as flow:
        with pytest.raises(ConfigurationError, match=f"module 'work'.*{problem}"):
            flow.add(make(), name="work", **{"placement": "process", "replicas": 2} | options)
        assert not flow.modules


def refused(flow, problem):
    with pytest.raises(ConfigurationError, match=problem):
        flow.start()


class Windowed(Module):
    audio = Input(MONO, window_frames=4)

    def process(self, audio):
        pass


class Together(Module):
    left = Input(MONO)
    right = Input(MONO)
    aligned = Aligned("left", "right")

    def process(self, left, right):
        pass


def test_what_needs_an_order_is_refused_where_replicas_overtake_each_other():
    with DataFlowCoordinator() as flow:
        work = described(flow, Pass(), replicas=2)
        flow.connect(work.out, flow.add(Windowed(), name="after").audio, buffer_size=2)
        refused(flow, r"input 'audio' collects windows.*'work' overtake each other\. Give them ordered=True")
    with DataFlowCoordinator() as flow:
        work = described(flow, Pass(), replicas=2)
        after = flow.add(Together(), name="after")
        flow.connect(work.out, after.left, buffer_size=2)
        flow.connect(work.out, after.right, buffer_size=2)
        refused(flow, r"input 'left' is aligned with others.*'work' overtake each other\. Give them ordered=True")


def test_an_order_needs_one_input_from_one_producer():
    with DataFlowCoordinator() as flow:
        flow.add(Pass(), name="work", placement="process", replicas=2, ordered=True)
        refused(flow, r"module 'work' with ordered=True: expected one pipeline into it.*got 0\. Use ordered=False")
    with DataFlowCoordinator() as flow:
        work = described(flow, Pass(), replicas=2, ordered=True)
        other = flow.add(ScriptedSource([], MONO), name="other")
        flow.connect(other.out, work.audio, buffer_size=2)
        refused(flow, r"got 2, source\.out->work\.audio, other\.out->work\.audio")
    with DataFlowCoordinator() as flow:
        work = described(flow, Pass(), replicas=2)
        again = flow.add(Pass(), name="again", placement="process", replicas=2, ordered=True)
        flow.connect(work.out, again.audio, buffer_size=2)
        refused(flow, r"module 'again'.*work\.out->again\.audio comes from 2 replicas\. Put a module without")


def test_a_pipeline_needs_room_for_a_block_of_each_replica():
    with DataFlowCoordinator() as flow:
        work = described(flow, Pass(), replicas=3)
        collect = flow.add(Collect(), name="collect")
        flow.connect(work.out, collect.data, buffer_size=2)
        refused(flow, r"work\.out->collect\.data: expected a buffer_size of at least 3.*got 2")


@pytest.mark.parametrize(
    "limit", [{"max_buffer_bytes": MONO.max_payload_bytes}, {"max_buffer_ms": MONO.max_block_frames / 48}]
)
def test_where_replicas_share_a_limit_each_has_room_for_a_block(limit):
    """Half or a third of a limit that holds one block holds none, and nothing would ever come."""
    with DataFlowCoordinator() as flow:
        longest = [np.full((MONO.max_block_frames, 1), number, np.float32) for number in range(6)]
        source = flow.add(ScriptedSource(longest, MONO), name="source")
        work = flow.add(Pass(), name="work", placement="process", replicas=3)
        keep = flow.add(Collect(), name="keep")
        flow.connect(source.out, work.audio, buffer_size=8)
        flow.connect(work.out, keep.data, buffer_size=8, **limit)
        flow.start()
        assert flow.wait(LIMIT_S)
        report = flow.stop()
    assert sorted(numbers(keep)) == list(range(6))
    assert_accounted(report)


def test_a_loop_cannot_have_replicas():
    with DataFlowCoordinator() as flow:
        work = described(flow, Pass(), replicas=2)
        flow.connect(work.out, work.audio, buffer_size=2, backpressure_strategy=DropOldest())
        refused(flow, "module 'work': is in a loop")
    with DataFlowCoordinator() as flow:
        work = described(flow, Pass(), replicas=2)
        back = flow.add(Pass(), name="back")
        flow.connect(work.out, back.audio, buffer_size=2)
        flow.connect(back.out, work.audio, buffer_size=2, backpressure_strategy=DropOldest())
        refused(flow, "module 'work': is in a loop")


def test_a_replica_has_its_worker_for_itself():
    with DataFlowCoordinator() as flow:
        flow.add(Pass(), placement="process", replicas=3)
        # What is named by the flow itself keeps out of the way.
        flow.add(Pass())
        assert list(flow.modules) == ["pass", "pass-4"]
        for options in ({"name": "pass-2", "placement": "process"}, {"worker": "pass-1"}):
            with pytest.raises(DuplicateName, match=r"worker 'pass-\d', which is one of module 'pass'"):
                flow.add(Pass(), **options)
        flow.add(Pass(), name="other-2", placement="process")
        with pytest.raises(DuplicateName, match="worker 'other-2', which is one of module 'other-2'"):
            flow.add(Pass(), name="other", placement="process", replicas=2)


FLOW_FILE = """
[modules.tone]
use = "steadyflow.audio:Tone"
arguments = { frequency_hz = 440, duration_s = 0.5, realtime_pace = false, block_frames = 480 }

[modules.meter]
use = "steadyflow.audio:LevelMeter"
placement = "process"
replicas = 2
ordered = true

[modules.levels]
use = "steadyflow.testing:Collect"

[[pipelines]]
from = "tone"
to = "meter"
buffer_size = 8

[[pipelines]]
from = "meter"
to = "levels"
buffer_size = 8
"""


def test_a_flow_file_asks_for_replicas(tmp_path):
    path = tmp_path / "levels.toml"
    path.write_text(FLOW_FILE)
    with load_flow(path) as flow:
        (group,) = [group for group in json.loads(flow.graph("json"))["workers"] if group["placement"] == "process"]
        assert (group["name"], group["ordered"], len(group["modules"])) == ("meter-1..2", True, 1)
        assert "meter-1..2 (process, ordered)" in flow.graph("mermaid")
        report = flow.run()
        stamps = [each.timestamp_ns for each in flow.modules["levels"].arrivals]
    assert len(stamps) == 50
    assert stamps == sorted(set(stamps))
    assert report.modules["meter"].worker == "meter-1..2"
    path.write_text(FLOW_FILE.replace("ordered = true", "worker = 'dsp'"))
    with pytest.raises(
        ConfigurationError, match=r"levels\.toml, line 6, modules\.meter: module 'meter': expected no worker"
    ):
        load_flow(path)


def test_too_many_processes_in_all():
    with DataFlowCoordinator() as flow:
        described(flow, Pass(), replicas=15)
        flow.add(Pass(), name="more", placement="process")
        with pytest.raises(LimitExceeded, match=r"15 process workers; this one has 16\..*fewer replicas"):
            flow.start()
