"""Flushing and pausing from outside: whoever feeds the pipeline, whoever consumes it, and whoever waits for it."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steadyflow import (
    AudioFormat,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    EndOfStream,
    FlowFailed,
    Input,
    Latest,
    Module,
    Output,
    PipelineClosed,
    PipelineConfig,
    ReceiveTimeout,
    Source,
    Wait,
)
from steadyflow.errors import StateError
from steadyflow.events import PipelinePaused, PipelineResumed
from steadyflow.testing import Collect, ScriptedSource

LIMIT_S = 30
MONO = AudioFormat(48_000, 1, max_block_frames=2000)
PLACEMENTS = ("thread", "process")


def numbered(count, begin=0, frames=4):
    return [np.full((frames, 1), number, np.float32) for number in range(begin, begin + count)]


def value_of(block):
    return int(block.samples[0, 0])


def until(condition):
    """Look until it holds; other threads run meanwhile."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        os.sched_yield()


class Numbers(Source):
    """Sends numbered blocks, as a process can make it again."""

    out = Output(MONO)

    def __init__(self, count):
        self.count = count

    def produce(self):
        for number in range(self.count):
            self.out.send(np.full((4, 1), number, np.float32))
            yield


class Pass(Module):
    audio = Input(MONO)
    out = Output(like="audio")

    def process(self, audio):
        return audio


class Background:
    """A call in a thread of its own."""

    def __init__(self, function, *arguments):
        self.answer = self.problem = None
        self.thread = threading.Thread(target=self._run, args=(function, arguments), daemon=True)
        self.thread.start()

    def _run(self, function, arguments):
        try:
            self.answer = function(*arguments)
        except BaseException as problem:
            self.problem = problem

    def result(self):
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive(), "still waits"
        if self.problem is not None:
            raise self.problem
        return self.answer


@pytest.fixture
def flow():
    with DataFlowCoordinator("switched") as made:
        yield made


def opened(flow, buffer_size=4, rule=None, name="app"):
    config = PipelineConfig(buffer_size=buffer_size, backpressure_strategy=rule or Wait())
    return flow.pipeline(flow.register_pipeline(name, f"{name}-end", config, format=MONO))


def received(pipe, count):
    return [value_of(pipe.receive(LIMIT_S)) for _ in range(count)]


# --- flush ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("producer", PLACEMENTS)
@pytest.mark.parametrize("consumer", ["app", *PLACEMENTS])
def test_a_pipeline_is_flushed_from_outside(flow, producer, consumer):
    """The source waits for room; the flush makes some, and it goes on."""
    numbers = flow.add(Numbers(10), name="numbers", placement=producer)
    if consumer == "app":
        pipe = last = flow.connect(numbers.out, "app", buffer_size=4)
    else:
        through = flow.add(Pass(), name="through", placement=consumer, worker="apart")
        pipe = flow.connect(numbers.out, through.audio, buffer_size=4)
        last = flow.connect(through.out, "app", buffer_size=16)
        pipe.pause()
    flow.start()
    until(lambda: pipe.statistics().fill == 4 and pipe.statistics().backpressure_events)
    assert pipe.flush() == 4
    until(lambda: pipe.statistics().fill == 4 and pipe.statistics().sent == 8)
    pipe.resume()

    assert received(last, 6) == [4, 5, 6, 7, 8, 9]
    with pytest.raises(EndOfStream):
        last.receive(LIMIT_S)
    report = flow.stop()
    metrics = report.pipelines[pipe.id]
    assert (metrics.sent, metrics.delivered, metrics.dropped) == (10, 6, {"flushed": 4})
    assert metrics.health_score == 100


def test_a_flushed_pipeline_ends(flow):
    numbers = flow.add(Numbers(3), name="numbers")
    pipe = flow.connect(numbers.out, "app", buffer_size=4)
    flow.start()
    assert flow.wait(LIMIT_S)
    assert pipe.flush() == 3
    with pytest.raises(EndOfStream):
        pipe.receive(LIMIT_S)
    assert pipe.flush() == 0


def test_what_a_consumer_has_in_hand_is_delivered(flow):
    held, go_on = threading.Event(), threading.Event()

    class Holds(Module):
        audio = Input(MONO)

        def __init__(self):
            self.seen = []

        def process(self, audio):
            self.seen.append(value_of(audio))
            held.set()
            go_on.wait(LIMIT_S)

    numbers = flow.add(Numbers(5), name="numbers")
    holds = flow.add(Holds(), name="holds", worker="apart")
    pipe = flow.connect(numbers.out, holds.audio, buffer_size=8)
    flow.start()
    assert held.wait(LIMIT_S)
    until(lambda: pipe.statistics().fill == 4)
    assert pipe.flush() == 4
    go_on.set()
    assert flow.wait(LIMIT_S)
    assert flow.stop().pipelines[pipe.id].dropped == {"flushed": 4}
    assert holds.seen == [0]


def test_nothing_waits_in_a_fused_pipeline_or_before_the_start(flow):
    numbers = flow.add(Numbers(3), name="numbers")
    collect = flow.add(Collect(), name="collect")
    pipe = flow.connect(numbers.out, collect.data, buffer_size=4)
    assert pipe.flush() == 0
    flow.start()
    assert pipe.flush() == 0
    assert flow.wait(LIMIT_S)
    assert flow.stop().pipelines[pipe.id].delivered == 3


def test_a_closed_pipeline_is_neither_flushed_nor_paused():
    for started in (False, True):
        with DataFlowCoordinator() as flow:
            app = opened(flow)
            numbers = flow.add(Numbers(1), name="numbers")
            fed = flow.connect(numbers.out, "sink", buffer_size=4)
            if started:
                flow.start()
        for pipe in (app, fed):
            for call in (pipe.flush, pipe.pause, pipe.resume):
                with pytest.raises(PipelineClosed, match="has been closed"):
                    call()
            assert not pipe.paused


def test_a_forked_child_switches_nothing(flow):
    pipe = opened(flow)
    pipe.send(numbered(1)[0])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for call in (pipe.flush, pipe.pause, pipe.resume):
                with pytest.raises(PipelineClosed, match="was forked"):
                    call()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert not pipe.paused
    assert received(pipe, 1) == [0]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(1, 9),
    st.sampled_from([Wait(), DropOldest(), DropNewest(), Latest()]),
    st.integers(1, 400),
    st.sampled_from([4, 1500]),
    st.booleans(),
)
def test_every_block_has_one_fate_whoever_flushes(buffer_size, rule, count, frames, pauses):
    """A thread sends, one receives, one flushes (and pauses) all the time."""
    with DataFlowCoordinator() as flow:
        pipe = opened(flow, buffer_size, rule)
        sent = numbered(count, frames=frames)
        got, flushed = [], 0

        def send():
            for samples in sent:
                pipe.send(samples)
            pipe.end()

        def receive():
            while True:
                try:
                    got.append(value_of(pipe.receive(LIMIT_S)))
                except EndOfStream:
                    return

        calls = [Background(send), Background(receive)]
        while any(call.thread.is_alive() for call in calls):
            if pauses:
                pipe.pause()
            flushed += pipe.flush()
            if pauses:
                pipe.resume()
        for call in calls:
            call.result()
        metrics = pipe.statistics()

    assert got == sorted(set(got)), "in order, and none twice"
    assert set(got) <= set(range(count))
    assert metrics.delivered == len(got)
    assert metrics.dropped.get("flushed", 0) == flushed
    assert metrics.sent == count == metrics.delivered + metrics.dropped_total
    assert metrics.in_flight == metrics.fill == 0
    if rule == Wait():
        assert metrics.dropped_total == flushed


# --- pause ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("consumer", PLACEMENTS)
def test_a_paused_pipeline_lets_nothing_out(flow, consumer):
    numbers = flow.add(Numbers(10), name="numbers")
    through = flow.add(Pass(), name="through", placement=consumer, worker="apart")
    last = flow.add(Collect(), name="last")
    pipe = flow.connect(numbers.out, through.audio, buffer_size=4)
    flow.connect(through.out, last.data, buffer_size=4)
    pipe.pause()
    assert pipe.paused
    assert "paused" in repr(pipe)
    flow.start()
    assert pipe.paused
    until(lambda: pipe.statistics().fill == 4 and pipe.statistics().backpressure_events)
    assert not flow.wait(0.05)
    assert (pipe.statistics().sent, pipe.statistics().delivered) == (4, 0)
    pipe.resume()
    assert not pipe.paused
    assert flow.wait(LIMIT_S)
    report = flow.stop()
    assert [int(value[0, 0]) for value in last.values] == list(range(10))
    assert report.pipelines[pipe.id].dropped == {}
    assert [type(event) for event in report.events if isinstance(event, PipelinePaused | PipelineResumed)] == [
        PipelinePaused,
        PipelineResumed,
    ]


def test_a_pause_in_the_middle(flow):
    numbers = flow.add(Numbers(1000), name="numbers")
    pipe = flow.connect(numbers.out, "app", buffer_size=4)
    flow.start()
    got = []
    for pause in range(20):
        got += received(pipe, 5)
        pipe.pause()
        with pytest.raises(ReceiveTimeout):
            pipe.receive(timeout_s=0)
        waits = Background(received, pipe, 1)
        if pause % 2:
            until(lambda: pipe.statistics().fill == 4)
        assert waits.thread.is_alive()
        pipe.resume()
        got += waits.result()
    assert got == list(range(120))


def test_the_end_is_not_known_during_a_pause(flow):
    numbers = flow.add(Numbers(2), name="numbers")
    pipe = flow.connect(numbers.out, "app", buffer_size=4)
    pipe.pause()
    flow.start()
    assert flow.wait(LIMIT_S)
    with pytest.raises(ReceiveTimeout):
        pipe.receive(timeout_s=0)
    pipe.resume()
    assert received(pipe, 2) == [0, 1]
    with pytest.raises(EndOfStream):
        pipe.receive(timeout_s=0)
    pipe.pause()
    with pytest.raises(ReceiveTimeout):
        pipe.receive(timeout_s=0)


@pytest.mark.parametrize(
    ("rule", "left", "dropped"),
    [
        (DropOldest(), [6, 7, 8, 9], {"oldest": 6}),
        (DropNewest(), [0, 1, 2, 3], {"newest": 6}),
        (Latest(), [9], {"superseded": 9}),
    ],
    ids=str,
)
def test_the_rule_decides_what_happens_meanwhile(flow, rule, left, dropped):
    numbers = flow.add(Numbers(10), name="numbers")
    last = flow.add(Collect(), name="last", worker="apart")
    pipe = flow.connect(numbers.out, last.data, buffer_size=4, backpressure_strategy=rule)
    pipe.pause()
    flow.start()
    until(lambda: pipe.statistics().sent == 10)
    pipe.resume()
    assert flow.wait(LIMIT_S)
    assert flow.stop().pipelines[pipe.id].dropped == dropped
    assert [int(value[0, 0]) for value in last.values] == left


def test_pause_flush_resume_lets_out_what_comes_afterwards(flow):
    pipe = opened(flow, 8)
    for samples in numbered(5):
        pipe.send(samples)
    pipe.pause()
    assert pipe.flush() == 5
    for samples in numbered(2, 10):
        pipe.send(samples)
    pipe.resume()
    assert received(pipe, 2) == [10, 11]


def test_the_other_inputs_of_a_worker_go_on(flow):
    class Two(Module):
        one = Input(MONO)
        two = Input(MONO)

        def __init__(self):
            self.seen = Counter()

        def process_one(self, one):
            self.seen["one"] += 1

        def process_two(self, two):
            self.seen["two"] += 1

    module = flow.add(Two(), name="two", worker="apart")
    pipes = []
    for number, port in enumerate((module.one, module.two)):
        source = flow.add(Numbers(20), name=f"numbers-{number}")
        pipes.append(flow.connect(source.out, port, buffer_size=32, priority="critical" if number == 0 else "low"))
    pipes[0].pause()
    flow.start()
    until(lambda: module.seen["two"] == 20)
    assert module.seen["one"] == 0
    pipes[0].resume()
    assert flow.wait(LIMIT_S)
    flow.stop()
    assert module.seen == {"one": 20, "two": 20}


@pytest.mark.parametrize("ordered", [False, True])
def test_replicas_are_paused_and_flushed_like_one(flow, ordered):
    """Their input is one ring with several consumers; what they send is several rings of one pipeline."""
    numbers = flow.add(Numbers(12), name="numbers")
    through = flow.add(Pass(), name="through", placement="process", replicas=2, ordered=ordered)
    into = flow.connect(numbers.out, through.audio, buffer_size=4)
    out = flow.connect(through.out, "app", buffer_size=16)
    into.pause()
    out.pause()
    flow.start()
    until(lambda: into.statistics().fill == 4 and into.statistics().backpressure_events)
    assert into.flush() == 4
    until(lambda: into.statistics().fill == 4)
    assert (into.statistics().delivered, out.statistics().sent) == (0, 0)
    into.resume()
    until(lambda: out.statistics().fill == 8)
    with pytest.raises(ReceiveTimeout):
        out.receive(timeout_s=0)
    assert out.flush() == 8
    out.resume()
    with pytest.raises(EndOfStream):
        out.receive(LIMIT_S)
    report = flow.stop()
    assert report.pipelines[into.id].dropped == {"flushed": 4}
    assert report.pipelines[out.id].dropped == {"flushed": 8}


def test_pausing_and_resuming_twice_is_once(flow):
    pipe = opened(flow)
    for call in (pipe.pause, pipe.pause, pipe.resume, pipe.resume):
        call()
    switched = [event for event in flow.report().events if isinstance(event, PipelinePaused | PipelineResumed)]
    assert [(type(event), event.pipeline, event.flow) for event in switched] == [
        (PipelinePaused, pipe.id, "switched"),
        (PipelineResumed, pipe.id, "switched"),
    ]


@pytest.mark.parametrize("consumer", PLACEMENTS)
def test_a_stop_resumes_and_drains(flow, consumer):
    numbers = flow.add(Numbers(1_000_000), name="numbers")
    through = flow.add(Pass(), name="through", placement=consumer, worker="apart")
    last = flow.add(Collect(), name="last")
    pipe = flow.connect(numbers.out, through.audio, buffer_size=4)
    flow.connect(through.out, last.data, buffer_size=4)
    pipe.pause()
    flow.start()
    until(lambda: pipe.statistics().fill == 4)
    report = flow.stop(drain_timeout_s=LIMIT_S)
    assert report.pipelines[pipe.id].dropped == {}
    assert [int(value[0, 0]) for value in last.values] == list(range(report.pipelines[pipe.id].sent))
    assert not pipe.paused
    assert any(isinstance(event, PipelineResumed) for event in report.events)
    with pytest.raises(StateError, match="expected a flow that goes on, to pause a pipeline; the flow was stopped"):
        pipe.pause()
    pipe.resume()


def test_a_run_with_a_limit_ends_over_a_pause(flow):
    numbers = flow.add(Numbers(3), name="numbers")
    last = flow.add(Collect(), name="last", worker="apart")
    pipe = flow.connect(numbers.out, last.data, buffer_size=4)
    pipe.pause()
    report = flow.run(duration_s=0.05)
    assert (len(last.values), report.pipelines[pipe.id].delivered) == (3, 3)


def test_a_failure_ends_a_flow_over_a_pause(flow):
    class Breaks(Module):
        audio = Input(MONO)

        def process(self, audio):
            raise ValueError("broken")

    numbers = flow.add(Numbers(3), name="numbers")
    breaks = flow.add(Breaks(), name="breaks", worker="one")
    last = flow.add(Collect(), name="last", worker="two")
    flow.connect(numbers.out, breaks.audio, buffer_size=4)
    pipe = flow.connect(numbers.out, last.data, buffer_size=4)
    pipe.pause()
    with pytest.raises(FlowFailed, match="broken"):
        flow.run()
    assert not pipe.paused


def test_a_stopped_flow_leaves_nobody_waiting_for_an_open_pipeline(flow):
    pipe = opened(flow)
    flow.add(ScriptedSource([], MONO), name="source")
    pipe.send(numbered(1)[0])
    pipe.pause()
    flow.start()
    flow.stop()
    assert not pipe.paused
    assert received(pipe, 1) == [0]
    with pytest.raises(EndOfStream):
        pipe.receive(LIMIT_S)


def test_a_fused_pipeline_cannot_be_paused(flow):
    numbers = flow.add(Numbers(3), name="numbers")
    last = flow.add(Collect(), name="last")
    pipe = flow.connect(numbers.out, last.data, buffer_size=4)
    message = r"numbers.out->last.data: expected a pipeline between two workers.*worker='name'"
    pipe.pause()  # what will be fused is settled by the start
    with pytest.raises(StateError, match=message):
        flow.start()
    pipe.resume()
    flow.start()
    with pytest.raises(StateError, match=message):
        pipe.pause()
    assert not pipe.paused
    assert flow.wait(LIMIT_S)
    assert flow.stop().pipelines[pipe.id].delivered == 3


def test_a_pause_makes_no_block_late(flow):
    """What waited is behind in time by the whole pause; but nothing was slow."""
    app = flow.add(Pass(), name="through", worker="apart")
    pipe = flow.pipeline(
        flow.register_pipeline("app", app.audio, PipelineConfig(buffer_size=8, max_latency_ms=10_000), format=MONO)
    )
    received_by_app = opened(flow, 8, name="other")
    for one in (pipe, received_by_app):
        one.pause()
    flow.start()
    for samples in numbered(5):
        pipe.send(samples)
        received_by_app.send(samples)
    began = time.monotonic()
    waits = Background(received, received_by_app, 5)
    until(lambda: time.monotonic() - began >= 0.3)
    for one in (pipe, received_by_app):
        one.resume()
    waits.result()
    until(lambda: pipe.statistics().delivered == 5)
    for one in (pipe, received_by_app):
        metrics = one.statistics()
        assert metrics.latency_max_ms >= 300
        # Every block is at most as late by the clock that counts as after the pause.
        assert metrics.overhead_max_ms <= metrics.latency_max_ms - 299
        assert metrics.late == 0


def test_no_wake_up_is_lost(flow):
    """A consumer that sleeps is woken by the resume alone, also when the next block never comes."""
    pipe = opened(flow, 4)
    for number in range(300):
        pipe.pause()
        pipe.send(numbered(1, number)[0])
        waits = Background(received, pipe, 1)
        pipe.resume()
        assert waits.result() == [number]
