"""Sending and receiving: rules on a full pipeline, stamps, the memory of blocks, and what a pipeline does not carry."""

import contextlib
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time

import msgspec
import numpy as np
import pytest

from steadyflow import (
    AnyFormat,
    ArrayFormat,
    AudioFormat,
    Block,
    BlockFlag,
    BytesFormat,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    EndOfStream,
    Fail,
    FlowData,
    FlowFailed,
    Input,
    Latest,
    Module,
    Output,
    PipelineClosed,
    PipelineConfig,
    PipelineFull,
    ReceiveTimeout,
    SendTimeout,
    Source,
    StructFormat,
    Wait,
)
from steadyflow.errors import BlockTooLarge, ConfigurationError, DataError, FormatMismatch, MetadataTooLarge
from steadyflow.testing import Collect, ScriptedSource

LIMIT_S = 20  # nothing here takes long; a hang must fail its own test
MONO = AudioFormat(48_000, 1)
STEREO = AudioFormat(48_000, 2)
LARGE = AudioFormat(48_000, 1, max_block_frames=2048)


def block(value, frames=4, channels=1):
    return np.full((frames, channels), value, np.float32)


def value_of(received):
    return float(received.samples.flat[0])


@pytest.fixture
def flow():
    with DataFlowCoordinator("ends") as flow:
        yield flow


@pytest.fixture
def opened(flow):
    """Make a pipeline with two open ends."""

    def make(rule=None, *, size=4, fmt=MONO, name="app"):
        config = PipelineConfig(size, backpressure_strategy=rule)
        return flow.pipeline(flow.register_pipeline(name, "reader", config, fmt))

    return make


@pytest.fixture
def background():
    """Call something in a thread; the answer, or what it raised, comes from `Call.result`."""
    calls = []

    def start(function, *arguments):
        calls.append(Call(function, arguments))
        return calls[-1]

    yield start
    for call in calls:
        call.thread.join(LIMIT_S)
        assert not call.thread.is_alive(), f"{call.function} still waits"


class Call:
    def __init__(self, function, arguments):
        self.function = function
        self.answer = None
        self.problem = None
        self.thread = threading.Thread(target=self._run, args=arguments, daemon=True)
        self.thread.start()

    def _run(self, *arguments):
        try:
            self.answer = self.function(*arguments)
        except BaseException as problem:
            self.problem = problem

    @property
    def returned(self):
        return not self.thread.is_alive()

    def result(self):
        self.thread.join(LIMIT_S)
        assert self.returned, f"{self.function} still waits"
        if self.problem is not None:
            raise self.problem
        return self.answer


def until(condition):
    """Look until it holds; other threads run meanwhile."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        os.sched_yield()


def waiting(pipe):
    """Tell whether a send has waited for room for a moment."""
    return pipe.statistics().blocked_ms > 0 or pipe.statistics().backpressure_events > 0


def drain(pipe):
    """Return the values of everything that waits."""
    values = []
    with contextlib.suppress(ReceiveTimeout, EndOfStream):
        while True:
            values.append(value_of(pipe.receive(timeout_s=0)))
    return values


def identity_holds(metrics):
    return metrics.sent == metrics.delivered + metrics.dropped_total + metrics.in_flight


# --- rules on a full pipeline -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "size", "answers", "left", "dropped"),
    [
        (DropOldest(), 3, [True] * 6, [3, 4, 5], {"oldest": 3}),
        (DropOldest(), 1, [True] * 6, [5], {"oldest": 5}),
        (DropNewest(), 3, [True] * 3 + [False] * 3, [0, 1, 2], {"newest": 3}),
        (Latest(), 1, [True] * 6, [5], {"superseded": 5}),
        (Latest(), 8, [True] * 6, [5], {"superseded": 5}),
        (Wait(timeout_ms=1, then="drop_newest"), 3, [True] * 3 + [False] * 3, [0, 1, 2], {"newest": 3}),
        (Wait(timeout_ms=1, then="drop_oldest"), 3, [True] * 6, [3, 4, 5], {"oldest": 3}),
        (Wait(), 6, [True] * 6, [0, 1, 2, 3, 4, 5], {}),
    ],
    ids=repr,
)
def test_what_a_full_pipeline_does(opened, rule, size, answers, left, dropped):
    pipe = opened(rule, size=size)
    assert [pipe.send(block(number)) for number in range(6)] == answers
    metrics = pipe.statistics()
    assert (metrics.sent, metrics.fill, metrics.in_flight) == (6, len(left), len(left))
    assert metrics.dropped == dropped
    assert drain(pipe) == left
    metrics = pipe.statistics()
    assert metrics.delivered == len(left)
    assert identity_holds(metrics)


@pytest.mark.parametrize("rule", [Fail(), Wait(timeout_ms=1)], ids=repr)
def test_a_refused_block_was_never_sent(opened, rule):
    pipe = opened(rule, size=2)
    for number in range(2):
        pipe.send(block(number))
    problem, message = (
        (PipelineFull, r"app->reader: .* the rule is Fail\(\)")
        if rule == Fail()
        else (
            SendTimeout,
            "app->reader: expected room within 1 ms",
        )
    )
    for _ in range(3):
        with pytest.raises(problem, match=message):
            pipe.send(block(9))
    assert (pipe.statistics().sent, pipe.statistics().dropped_total) == (2, 0)
    assert drain(pipe) == [0, 1]
    pipe.send(block(2))
    received = pipe.receive(timeout_s=0)
    assert (received.sequence, received.first_frame, value_of(received)) == (2, 8, 2)


def test_a_time_out_is_also_the_builtin_one(opened):
    pipe = opened(Wait(timeout_ms=1), size=1)
    pipe.send(block(0))
    with pytest.raises(TimeoutError):
        pipe.send(block(1))
    pipe.receive(timeout_s=0)
    with pytest.raises(TimeoutError):
        pipe.receive(timeout_s=0)


def test_a_wait_lasts_as_long_as_its_rule_says(opened):
    pipe = opened(Wait(timeout_ms=40), size=1)
    pipe.send(block(0))
    began = time.monotonic()
    with pytest.raises(SendTimeout):
        pipe.send(block(1))
    assert time.monotonic() - began >= 0.04
    assert pipe.statistics().blocked_ms >= 39


def test_a_send_that_waits_goes_on_when_there_is_room(opened, background):
    pipe = opened(Wait(), size=2)
    pipe.send(block(0))
    pipe.send(block(1))
    call = background(pipe.send, block(2))
    until(lambda: waiting(pipe))
    assert not call.returned
    assert value_of(pipe.receive(timeout_s=LIMIT_S)) == 0
    assert call.result() is True
    assert drain(pipe) == [1, 2]
    assert pipe.statistics().backpressure_events == 1


@pytest.mark.parametrize(
    ("rule", "answer", "left"),
    [
        (DropOldest(), True, [1, 9]),
        (DropNewest(), False, [0, 1]),
        (Latest(), True, [9]),
        (Fail(), PipelineFull, [0, 1]),
        (Wait(timeout_ms=1, then="drop_oldest"), True, [1, 9]),
        (Wait(timeout_ms=1, then="drop_newest"), False, [0, 1]),
        (Wait(timeout_ms=1), SendTimeout, [0, 1]),
    ],
    ids=repr,
)
def test_a_send_that_waits_follows_a_switched_rule_at_once(flow, opened, background, rule, answer, left):
    pipe = opened(Wait(), size=2)
    for number in range(2):
        pipe.send(block(number))
    call = background(pipe.send, block(9))
    until(lambda: waiting(pipe))
    assert not call.returned
    flow.handle_backpressure(pipe, rule)
    assert pipe.rule == rule
    if isinstance(answer, type):
        with pytest.raises(answer):
            call.result()
    else:
        assert call.result() is answer
    assert drain(pipe) == left
    assert flow.report().events[-1].after == repr(rule)


def test_several_sends_that_wait_all_follow_a_switched_rule(flow, opened, background):
    pipe = opened(Wait(), size=1)
    pipe.send(block(0))
    calls = [background(pipe.send, block(number)) for number in range(1, 5)]
    until(lambda: waiting(pipe))
    flow.handle_backpressure(pipe, DropNewest())
    assert [call.result() for call in calls] == [False] * 4
    assert pipe.statistics().dropped == {"newest": 4}


def test_rules_are_switched_back_and_forth(flow, opened):
    pipe = opened(Latest(), size=3)
    for number in range(3):
        pipe.send(block(number))
    flow.handle_backpressure(pipe.id, DropOldest())
    for number in range(3, 7):
        pipe.send(block(number))
    flow.handle_backpressure(pipe.id, Latest())
    pipe.send(block(7))
    flow.handle_backpressure(pipe.id, DropNewest())
    assert [pipe.send(block(number)) for number in range(8, 12)] == [True, True, False, False]
    assert drain(pipe) == [7, 8, 9]
    metrics = pipe.statistics()
    assert metrics.dropped == {"superseded": 5, "oldest": 2, "newest": 2}
    assert (metrics.sent, metrics.delivered, metrics.in_flight) == (12, 3, 0)


def test_what_is_no_rule_is_refused(flow, opened):
    pipe = opened(Wait())
    for rule in ("drop_oldest", DropOldest, None):
        with pytest.raises(ConfigurationError, match="expected a rule"):
            flow.handle_backpressure(pipe, rule)
    assert pipe.rule == Wait()


def test_flush_and_end_do_not_wait_for_a_send_that_does(opened, background):
    pipe = opened(Wait(), size=1)
    pipe.send(block(0))
    call = background(pipe.send, block(1))
    until(lambda: waiting(pipe))
    assert background(pipe.flush).result() == 1
    assert call.result() is True
    stuck = background(pipe.send, block(2))
    until(lambda: pipe.statistics().backpressure_events == 2)
    background(pipe.end).result()
    with pytest.raises(PipelineClosed, match="the stream was ended"):
        stuck.result()
    assert drain(pipe) == [1]
    assert pipe.statistics().dropped == {"flushed": 1}


def test_flush_counts_what_it_drops(opened):
    pipe = opened(Wait(), size=5)
    for number in range(4):
        pipe.send(block(number))
    pipe.receive(timeout_s=0)
    assert pipe.flush() == 3
    assert pipe.flush() == 0
    pipe.send(block(4))
    assert drain(pipe) == [4]
    metrics = pipe.statistics()
    assert (metrics.dropped, metrics.health_score) == ({"flushed": 3}, 100)


def test_the_default_waits_for_what_can_wait_and_drops_of_what_is_live(flow):
    quiet, live = (flow.add(ScriptedSource([], MONO, live=live)) for live in (False, True))
    links = [flow.connect(each.out, name, buffer_size=2) for each, name in ((quiet, "a"), (live, "b"))]
    work = flow.add(Pass(), name="work")
    links.append(flow.connect(live.out, work.audio, buffer_size=2))
    links.append(flow.connect(work.out, "c", buffer_size=2))
    flow.run()
    assert [link.rule for link in links] == [Wait(), DropOldest(), DropOldest(), DropOldest()]


class Pass(Module):
    audio = Input(MONO)
    out = Output(MONO)

    def process(self, audio):
        self.out.send(audio)


# --- one output, several pipelines; several pipelines, one input ------------------------------------------------------


def test_one_output_into_pipelines_of_different_rules(flow):
    take = flow.add(ScriptedSource([block(number) for number in range(10)], MONO), name="take")
    rules = {"oldest": DropOldest(), "newest": DropNewest(), "latest": Latest(), "timed": Wait(1, "drop_newest")}
    links = {
        name: flow.connect(take.out, name, buffer_size=3, backpressure_strategy=rule) for name, rule in rules.items()
    }
    report = flow.run()
    assert {name: drain(link) for name, link in links.items()} == {
        "oldest": [7, 8, 9],
        "newest": [0, 1, 2],
        "latest": [9],
        "timed": [0, 1, 2],
    }
    for metrics in report.pipelines.values():
        assert metrics.sent == 10
        assert identity_holds(metrics)


def test_a_waiting_branch_holds_its_siblings_back(flow):
    take = flow.add(ScriptedSource([block(number) for number in range(6)], MONO), name="take")
    slow = flow.connect(take.out, "slow", buffer_size=1)
    lossy = flow.connect(take.out, "lossy", buffer_size=6, backpressure_strategy=DropOldest())
    flow.start()
    received = []
    for _ in range(6):
        assert lossy.statistics().sent <= len(received) + 2
        received.append(value_of(slow.receive(timeout_s=LIMIT_S)))
    assert flow.wait(LIMIT_S)
    assert received == drain(lossy) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "sibling", [DropOldest(), DropNewest(), Latest(), Wait(timeout_ms=1, then="drop_oldest")], ids=repr
)
@pytest.mark.parametrize("refusing", [Fail(), Wait(timeout_ms=1)], ids=repr)
@pytest.mark.parametrize("first", [True, False])
def test_nothing_happens_to_a_sibling_when_a_rule_refuses(flow, sibling, refusing, first):
    refused = []

    class Once(Source):
        out = Output(MONO)

        def produce(self):
            self.out.send(block(0))
            self.out.send(block(1))
            yield
            try:
                self.out.send(block(2))
            except (PipelineFull, SendTimeout) as problem:
                refused.append(problem)

    once = flow.add(Once(), name="once")
    rules = {"sibling": sibling, "refusing": refusing}
    for name in rules if first else reversed(rules):
        flow.connect(once.out, name, buffer_size=2, backpressure_strategy=rules[name])
    report = flow.run()
    assert len(refused) == 1
    assert "once.out->refusing" in str(refused[0])
    values = [1] if sibling == Latest() else [0, 1]
    assert drain(flow.pipeline("once.out->sibling")) == values
    assert drain(flow.pipeline("once.out->refusing")) == [0, 1]
    metrics = report.pipelines["once.out->sibling"]
    assert metrics.sent == 2
    assert metrics.dropped_total == 2 - len(values)


def test_send_tells_whether_all_pipelines_took_the_block(flow):
    answers = []

    class Tells(Source):
        out = Output(MONO)

        def produce(self):
            answers.extend(self.out.send(block(number)) for number in range(3))
            yield

    tells = flow.add(Tells())
    flow.connect(tells.out, "wide", buffer_size=9)
    flow.connect(tells.out, "narrow", buffer_size=1, backpressure_strategy=DropNewest())
    flow.run()
    assert answers == [True, False, False]


def test_a_module_to_several_sinks_in_threads(flow):
    take = flow.add(ScriptedSource([block(number) for number in range(50)], MONO), name="take")
    work = flow.add(Pass(), name="work")
    sinks = [flow.add(Collect(), name=f"sink-{number}", worker=f"worker-{number % 2}") for number in range(4)]
    flow.connect(take.out, work.audio, buffer_size=2)
    for number, sink in enumerate(sinks):
        flow.connect(work.out, sink.data, buffer_size=number + 1)
    report = flow.run()
    for sink in sinks:
        assert [float(value[0, 0]) for value in sink.values] == list(range(50))
    assert all(metrics.delivered == 50 and not metrics.dropped for metrics in report.pipelines.values())


@pytest.mark.parametrize("workers", [(None, None, None), ("a", "b", "c")], ids=["fused", "apart"])
def test_several_pipelines_into_one_input_keep_the_order_of_each(flow, workers):
    seen = flow.add(Collect(), name="seen", worker=workers[2])
    for number in range(2):
        script = [block(100 * number + each) for each in range(30)]
        source = flow.add(ScriptedSource(script, MONO), name=f"take-{number}", worker=workers[number])
        flow.connect(source.out, seen.data, buffer_size=3)
    flow.run()
    values = [float(value[0, 0]) for value in seen.values]
    assert [value for value in values if value < 100] == list(range(30))
    assert [value for value in values if value >= 100] == list(range(100, 130))
    assert sorted(arrival.sequence for arrival in seen.arrivals) == sorted([*range(30)] * 2)


def test_a_module_is_never_called_twice_at_once(flow):
    """A thread of the user's own may not call a module of the same worker directly; it is told, not served."""
    problems, threads = [], set()

    class Notes(Module):
        audio = Input(MONO)

        def process(self, audio):
            threads.add(threading.get_ident())

    class Spawns(Source):
        out = Output(MONO)

        def produce(self):
            call = Call(self.out.send, (block(0),))
            call.thread.join(LIMIT_S)
            problems.append(call.problem)
            self.out.send(block(1))
            yield

    spawns, notes = flow.add(Spawns(), name="spawns"), flow.add(Notes(), name="notes")
    flow.connect(spawns.out, notes.audio, buffer_size=1)
    flow.run()
    assert len(threads) == 1
    assert "spawns.out: expected to be sent from its worker's thread" in str(problems[0])


def test_a_thread_of_the_users_own_may_send_to_another_worker(flow):
    class Spawns(Source):
        out = Output(MONO)

        def produce(self):
            calls = [Call(self.out.send, (block(number),)) for number in range(8)]
            for call in calls:
                call.thread.join(LIMIT_S)
            yield

    seen = flow.add(Collect(), worker="other")
    flow.connect(flow.add(Spawns()).out, seen.data, buffer_size=2)
    flow.run()
    assert sorted(float(value[0, 0]) for value in seen.values) == list(range(8))
    assert [arrival.sequence for arrival in seen.arrivals] == list(range(8))


# --- waiting inside of a worker ---------------------------------------------------------------------------------------


def test_a_module_that_waits_in_send_is_not_entered_again(flow):
    """While a module waits for room, its worker serves others; none of them may come back to it by a fused call."""
    second = threading.Event()
    most = []

    class Late(Source):
        out = Output(MONO)

        def produce(self):
            assert second.wait(LIMIT_S)
            for number in range(100, 105):
                self.out.send(block(number))
                yield

    class Waits(Module):
        audio = Input(MONO)
        out = Output(MONO)

        def __init__(self):
            self.calls = self.inside = 0

        def process(self, audio):
            self.calls += 1
            self.inside += 1
            most.append(self.inside)
            if self.calls == 2:
                second.set()
                until(lambda: by_way.statistics().fill == 1)  # the other module of this worker has something to do
            self.out.send(audio)
            self.inside -= 1

    early = flow.add(ScriptedSource([block(number) for number in range(5)], MONO), worker="early")
    late = flow.add(Late(), worker="late")
    relay, waits = flow.add(Pass(), worker="shared"), flow.add(Waits(), worker="shared")
    flow.connect(early.out, waits.audio, buffer_size=1)
    by_way = flow.connect(late.out, relay.audio, buffer_size=1)
    flow.connect(relay.out, waits.audio, buffer_size=1)
    reader = flow.connect(waits.out, "reader", buffer_size=1)
    flow.start()
    until(lambda: reader.statistics().backpressure_events)
    values = []
    with contextlib.suppress(EndOfStream):
        while True:
            values.append(value_of(reader.receive(timeout_s=LIMIT_S)))
    assert max(most) == 1
    assert [value for value in values if value < 100] == [0, 1, 2, 3, 4]
    assert [value for value in values if value >= 100] == [100, 101, 102, 103, 104]


def test_a_chain_that_comes_back_to_a_worker_never_stands_still(flow):
    """
    The chain first (a) -> middle (b) -> last (a) -> reader: while last waits, its worker must not begin with first.

    First would wait for middle, middle for last, and last could not go on although the reader made room.
    """
    second = threading.Event()

    class Feeds(Source):
        out = Output(MONO)

        def produce(self):
            for number in range(20):
                if number == 2:
                    assert second.wait(LIMIT_S)
                self.out.send(block(number))
                yield

    class Last(Pass):
        def process(self, audio):
            if audio.sequence == 1:
                second.set()
                until(lambda: links[0].statistics().fill == 1)
            self.out.send(audio)

    feeds = flow.add(Feeds(), worker="feeds")
    first, middle, last = flow.add(Pass(), worker="a"), flow.add(Pass(), worker="b"), flow.add(Last(), worker="a")
    ends = [(feeds.out, first.audio), (first.out, middle.audio), (middle.out, last.audio), (last.out, "reader")]
    links = [flow.connect(*each, buffer_size=1) for each in ends]
    flow.start()
    until(lambda: links[3].statistics().backpressure_events)
    grace = time.monotonic() + 0.5  # for the wrong way to go as far as it can; nothing happens on the right one
    while not links[1].statistics().backpressure_events and time.monotonic() < grace:
        os.sched_yield()
    values = []
    try:
        with contextlib.suppress(EndOfStream, ReceiveTimeout):
            while True:
                values.append(value_of(links[3].receive(timeout_s=2)))
        assert values == list(range(20))
    finally:
        flow.stop(drain_timeout_s=0.1)


def test_chains_that_cross_in_two_workers_never_stand_still(flow):
    """
    Above-0 (a) -> below-1 (b) -> reader-1, and above-1 (b) -> below-0 (a) -> reader-0.

    While both of below wait for their readers, neither worker may begin with its above: each would then wait for the
    other's below, and neither below could go on although the readers made room.
    """
    begun = [threading.Event(), threading.Event()]

    class Feeds(Source):
        out = Output(MONO)

        def __init__(self, side):
            self.side = side

        def produce(self):
            self.out.send(block(0))
            assert begun[self.side].wait(LIMIT_S)
            for number in range(1, 20):
                self.out.send(block(number))
                yield

    class Trigger(Source):
        out = Output(MONO)

        def produce(self):
            until(lambda: all(reader.statistics().fill == 1 for reader in readers))
            self.out.send(block(1000))
            yield

    class Below(Pass):
        def __init__(self, side):
            self.side = side

        def process(self, audio):
            if value_of(audio) == 1000:
                begun[self.side].set()
                until(lambda: fed[self.side].statistics().fill == 1)
            self.out.send(audio)

    sources = [flow.add(Feeds(side), worker=f"feeds-{side}") for side in (0, 1)]
    above = [flow.add(Pass(), worker=worker) for worker in "ab"]
    below = [flow.add(Below(side), worker=worker) for side, worker in enumerate("ab")]
    trigger = flow.add(Trigger(), worker="trigger")
    fed = [flow.connect(sources[side].out, above[side].audio, buffer_size=1) for side in (0, 1)]
    crossing = [flow.connect(above[side].out, below[1 - side].audio, buffer_size=1) for side in (0, 1)]
    readers = [flow.connect(below[side].out, f"reader-{side}", buffer_size=1) for side in (0, 1)]
    for each in below:
        flow.connect(trigger.out, each.audio, buffer_size=1)
    flow.start()
    until(lambda: all(reader.statistics().backpressure_events for reader in readers))
    grace = time.monotonic() + 0.5  # for the wrong way to go as far as it can; nothing happens on the right one
    while not all(link.statistics().backpressure_events for link in crossing) and time.monotonic() < grace:
        os.sched_yield()

    def read_all(reader):
        values = []
        with contextlib.suppress(EndOfStream, ReceiveTimeout):
            while True:
                values.append(value_of(reader.receive(timeout_s=2)))
        return values

    calls = [Call(read_all, (reader,)) for reader in readers]
    try:
        assert [[value for value in call.result() if value < 1000] for call in calls] == [list(range(20))] * 2
    finally:
        flow.stop(drain_timeout_s=0.1)


# --- stamps, flags, metadata ------------------------------------------------------------------------------------------


def test_a_plain_array_is_stamped_with_the_time_and_its_place(opened):
    pipe = opened()
    before = time.monotonic_ns()
    for frames in (4, 2, 7):
        pipe.send(block(0, frames))
    after = time.monotonic_ns()
    received = [pipe.receive(timeout_s=0) for _ in range(3)]
    assert [each.sequence for each in received] == [0, 1, 2]
    assert [each.first_frame for each in received] == [0, 4, 6]
    assert [each.frames for each in received] == [4, 2, 7]
    assert before <= received[0].timestamp_ns <= received[1].timestamp_ns <= received[2].timestamp_ns <= after
    assert all(each.sent_ns == each.timestamp_ns for each in received)
    assert all((each.flags, each.metadata) == (0, {}) for each in received)


def test_own_stamps_arrive_and_the_count_goes_on_from_them(opened):
    pipe = opened()
    flags = BlockFlag.DISCONTINUITY | BlockFlag.GAP
    pipe.send(FlowData(block(0), timestamp_ns=5, first_frame=1000, flags=flags))
    pipe.send(block(1))
    first, second = pipe.receive(timeout_s=0), pipe.receive(timeout_s=0)
    assert (first.timestamp_ns, first.first_frame, first.flags) == (5, 1000, 3)
    assert (second.first_frame, second.flags) == (1004, 0)
    assert second.timestamp_ns == second.sent_ns


def test_a_dropped_block_keeps_its_place_in_the_stream(opened):
    pipe = opened(DropNewest(), size=1)
    for number in range(3):
        pipe.send(block(number))
    assert pipe.receive(timeout_s=0).first_frame == 0
    pipe.send(block(3))
    received = pipe.receive(timeout_s=0)
    assert (received.sequence, received.first_frame) == (3, 12)


def test_a_block_that_is_not_carried_takes_no_place(opened):
    pipe = opened()
    pipe.send(block(0))
    for wrong in (block(0, 5000), block(0, channels=2), "text"):
        with pytest.raises(DataError):
            pipe.send(wrong)
    pipe.send(block(1))
    received = [pipe.receive(timeout_s=0) for _ in range(2)]
    assert [(each.sequence, each.first_frame) for each in received] == [(0, 0), (1, 4)]
    assert pipe.statistics().sent == 2


@pytest.mark.parametrize("frames", [4, 2048], ids=["small", "large"])
def test_metadata_arrive_as_they_were(opened, frames):
    metadata = {"take": 3, "gain": -1.5, "ok": True, "name": "Ä", "raw": b"\x00\xff", "none": None}
    pipe = opened(fmt=LARGE)
    pipe.send(FlowData(block(0, frames), metadata=metadata))
    pipe.send(block(0, frames))
    received = pipe.receive(timeout_s=0)
    assert received.metadata == metadata
    assert [type(each) for each in received.metadata.values()] == [int, float, bool, str, bytes, type(None)]
    assert pipe.receive(timeout_s=0).metadata == {}


def test_metadata_have_a_limit(opened):
    pipe = opened()
    pipe.send(FlowData(block(0), metadata={"raw": b"x" * 249}))
    with pytest.raises(MetadataTooLarge, match="expected up to 256 encoded bytes, got 257"):
        pipe.send(FlowData(block(0), metadata={"raw": b"x" * 250}))
    with pytest.raises(DataError, match="metadata"):
        pipe.send(FlowData(block(0), metadata={"raw": [1]}))
    assert pipe.statistics().sent == 1


def test_the_largest_block_has_room_for_the_largest_metadata(opened):
    pipe = opened(fmt=LARGE)
    raw = bytes(range(249))
    pipe.send(FlowData(block(7, 2048), metadata={"raw": raw}))
    received = pipe.receive(timeout_s=0)
    assert received.metadata == {"raw": raw}
    assert (received.samples == 7).all()


def test_results_inherit_the_stamps_of_what_they_were_made_from(flow):
    class Doubles(Module):
        audio = Input(MONO)
        out = Output(MONO)

        def process(self, audio):
            return audio.samples * np.float32(2)

    class Shortens(Module):
        audio = Input(MONO)
        out = Output(MONO)

        def process(self, audio):
            return audio.samples[:1]

    flags = BlockFlag.GAP | BlockFlag.CORRUPTED
    script = [FlowData(block(1), timestamp_ns=100 + n, first_frame=1000 + 4 * n, flags=flags) for n in range(2)]
    take = flow.add(ScriptedSource(script, MONO))
    doubles, shortens = flow.add(Doubles()), flow.add(Shortens())
    flow.connect(take.out, doubles.audio, buffer_size=2)
    flow.connect(doubles.out, shortens.audio, buffer_size=2)
    same, shorter = flow.connect(doubles.out, "same", buffer_size=2), flow.connect(shortens.out, "short", buffer_size=2)
    flow.run()
    received = [same.receive(timeout_s=0) for _ in range(2)]
    assert [(each.timestamp_ns, each.first_frame, each.flags) for each in received] == [(100, 1000, 6), (101, 1004, 6)]
    received = [shorter.receive(timeout_s=0) for _ in range(2)]
    # A module that changes the length has a stream of its own.
    assert [(each.timestamp_ns, each.first_frame, each.frames) for each in received] == [(100, 0, 1), (101, 1, 1)]


def test_windows_have_the_time_of_their_own_first_frame(flow):
    """The clock of a device drifts from the nominal rate; the stamps of windows follow the blocks, not the rate."""
    seen = []

    class Windowed(Module):
        audio = Input(MONO, window_frames=64, hop_frames=32)

        def process(self, audio):
            seen.append((audio.first_frame, audio.timestamp_ns, audio.frames))

    drifting_ns = 700_000  # a block of 32 frames lasts 666,667 ns by the nominal rate
    script = [FlowData(block(0, 32), timestamp_ns=n * drifting_ns, first_frame=n * 32) for n in range(100)]
    flow.connect(flow.add(ScriptedSource(script, MONO)).out, flow.add(Windowed()).audio, buffer_size=1)
    flow.run()
    assert seen == [(n * 32, n * drifting_ns, 64) for n in range(99)]


# --- the end of a stream ----------------------------------------------------------------------------------------------


def test_what_was_sent_comes_before_the_end(opened):
    pipe = opened()
    for number in range(3):
        pipe.send(block(number))
    pipe.end()
    pipe.end()
    assert [value_of(pipe.receive(timeout_s=0)) for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(EndOfStream, match="app->reader"):
            pipe.receive()
    with pytest.raises(PipelineClosed, match="the stream was ended"):
        pipe.send(block(3))


def test_the_flag_ends_the_stream(opened):
    pipe = opened()
    pipe.send(block(0))
    pipe.send(FlowData(block(1), flags=BlockFlag.END_OF_STREAM))
    with pytest.raises(PipelineClosed):
        pipe.send(block(2))
    assert [pipe.receive(timeout_s=0).flags for _ in range(2)] == [0, BlockFlag.END_OF_STREAM]
    with pytest.raises(EndOfStream):
        pipe.receive()


def test_the_flag_ends_a_module_downstream(flow):
    seen = flow.add(Collect(), name="seen")
    pipe = flow.pipeline(flow.register_pipeline("app", seen.data, PipelineConfig(2), MONO))
    flow.start()
    pipe.send(FlowData(block(1), flags=BlockFlag.END_OF_STREAM))
    assert flow.wait(LIMIT_S)
    assert [arrival.flags for arrival in seen.arrivals] == [BlockFlag.END_OF_STREAM]


def test_a_receive_that_waits_sees_the_end(opened, background):
    pipe = opened()
    call = background(pipe.receive)
    pipe.end()
    with pytest.raises(EndOfStream):
        call.result()


def test_an_open_end_of_a_flow_that_ended_still_gives_what_came(flow):
    take = flow.add(ScriptedSource([block(number) for number in range(3)], MONO))
    link = flow.connect(take.out, "reader", buffer_size=4)
    report = flow.run()
    assert report.pipelines[link.id].in_flight == 3
    assert drain(link) == [0, 1, 2]
    with pytest.raises(EndOfStream):
        link.receive()
    assert flow.report().pipelines[link.id].delivered == 3


# --- waiting ends and the end of a flow -------------------------------------------------------------------------------


def test_close_while_a_send_waits():
    with contextlib.ExitStack() as stack:
        flow = stack.enter_context(DataFlowCoordinator("closing"))
        pipe = flow.pipeline(flow.register_pipeline("app", "reader", PipelineConfig(1), MONO))
        pipe.send(block(0))
        calls = [Call(pipe.send, (block(number),)) for number in range(1, 4)]
        until(lambda: waiting(pipe))
    for call in calls:
        with pytest.raises(PipelineClosed):
            call.result()
    assert pipe.statistics().sent == 1


def test_close_while_receives_wait():
    """Several times: a receive may be about to wait, or wait, when the mapping goes."""
    for _ in range(10):
        with DataFlowCoordinator("closing") as flow:
            pipe = flow.pipeline(flow.register_pipeline("app", "reader", PipelineConfig(1), MONO))
            calls = [Call(pipe.receive, ()) for _ in range(3)]
        for call in calls:
            with pytest.raises(PipelineClosed):
                call.result()


def test_stopping_a_flow_ends_a_send_into_it(flow, background):
    held, go = threading.Event(), threading.Event()

    class Slow(Module):
        audio = Input(MONO)

        def process(self, audio):
            held.set()
            go.wait(LIMIT_S)

    pipe = flow.pipeline(flow.register_pipeline("app", flow.add(Slow(), name="slow").audio, PipelineConfig(1)))
    flow.start()
    pipe.send(block(0))
    assert held.wait(LIMIT_S)
    pipe.send(block(1))
    call = background(pipe.send, block(2))
    until(lambda: waiting(pipe))
    stop = background(flow.stop)
    with pytest.raises(PipelineClosed, match="the flow was stopped"):
        call.result()
    go.set()
    report = stop.result()
    assert report.pipelines[pipe.id].delivered == 2


def test_a_daemon_thread_may_receive_while_the_program_ends(tmp_path):
    script = tmp_path / "daemon.py"
    script.write_text(
        textwrap.dedent("""
            import threading
            import numpy as np
            from steadyflow import *
            fmt = AudioFormat(48_000, 1)
            flow = DataFlowCoordinator()
            pipes = [flow.pipeline(flow.register_pipeline(f"app-{n}", "r", PipelineConfig(1), fmt)) for n in range(3)]
            pipes[2].send(np.zeros((4, 1), np.float32))
            begun = threading.Barrier(4)
            def polling():
                begun.wait()
                while True:
                    try: pipes[0].receive(timeout_s=0.001)
                    except ReceiveTimeout: pass
            def receiving():
                begun.wait()
                pipes[1].receive()
            def sending():
                begun.wait()
                pipes[2].send(np.zeros((4, 1), np.float32))
            def quiet(function):
                def run():
                    try: function()
                    except PipelineClosed: pass
                return run
            for function in (polling, receiving, sending):
                threading.Thread(target=quiet(function), daemon=True).start()
            begun.wait()
            import asyncio, email, xml.dom.minidom  # so that the end takes as long as a real program's
            print("end")
        """)
    )
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, script],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


# --- receiving --------------------------------------------------------------------------------------------------------


def test_a_receive_that_waits_gets_the_next_block(opened, background):
    pipe = opened()
    call = background(pipe.receive, LIMIT_S)
    pipe.send(block(5))
    assert value_of(call.result()) == 5


@pytest.mark.parametrize("timeout_s", [0, 0.0, 0.001, np.float64(0.001)])
def test_nothing_in_time(opened, timeout_s):
    pipe = opened()
    with pytest.raises(ReceiveTimeout, match=f"app->reader: expected a block within {timeout_s} s, got none"):
        pipe.receive(timeout_s=timeout_s)
    assert pipe.statistics().delivered == 0


@pytest.mark.parametrize("timeout_s", [-1, "1", float("nan"), [], float("-inf")])
def test_an_impossible_time_is_refused(opened, timeout_s):
    with pytest.raises(ConfigurationError, match="receive: expected timeout_s"):
        opened().receive(timeout_s=timeout_s)


def test_several_threads_share_what_comes(opened, background):
    pipe = opened(Wait(), size=3)

    def receive_all():
        values = []
        with contextlib.suppress(EndOfStream):
            while True:
                values.append(value_of(pipe.receive()))
        return values

    readers = [background(receive_all) for _ in range(4)]
    for number in range(400):
        pipe.send(block(number))
    pipe.end()
    parts = [reader.result() for reader in readers]
    assert all(part == sorted(part) for part in parts)
    assert sorted(value for part in parts for value in part) == list(range(400))
    assert pipe.statistics().delivered == 400


def test_a_second_receiver_has_its_own_time(opened, background):
    pipe = opened()
    waits = background(pipe.receive)
    with pytest.raises(ReceiveTimeout):
        pipe.receive(timeout_s=0.01)
    # Whichever of the two was first: one gets the block.
    pipe.send(block(3))
    assert value_of(waits.result()) == 3


def received_from_three_senders(pipe, background):
    def send_all(base):
        return [pipe.send(block(base + number)) for number in range(50)]

    senders = [background(send_all, base) for base in (0, 100, 200)]
    received = [pipe.receive(timeout_s=LIMIT_S) for _ in range(150)]
    assert all(all(sender.result()) for sender in senders)
    return received


def test_blocks_of_several_threads_have_places_of_their_own(opened, background):
    received = received_from_three_senders(opened(Wait(), size=2), background)
    assert [each.first_frame for each in received] == [4 * number for number in range(150)]


def test_several_threads_may_send(opened, background):
    received = received_from_three_senders(opened(Wait(), size=2), background)
    assert [each.sequence for each in received] == list(range(150))
    values = [value_of(each) for each in received]
    for base in (0, 100, 200):
        assert [value for value in values if base <= value < base + 100] == list(range(base, base + 50))


# --- the memory of blocks ---------------------------------------------------------------------------------------------


def test_small_blocks_are_the_receivers_own(opened):
    pipe = opened(fmt=LARGE, size=2)
    sent = block(1, 1024)  # 4 KiB
    pipe.send(sent)
    sent[:] = 9
    received = pipe.receive(timeout_s=0).samples
    assert received.flags.writeable
    assert received.flags.owndata
    received += 1
    pipe.send(block(5, 1024))
    assert (received == 2).all()
    assert (pipe.receive(timeout_s=0).samples == 5).all()


def test_large_blocks_are_views_that_cannot_be_changed(opened):
    pipe = opened(fmt=LARGE, size=2)
    sent = block(1, 1025)
    pipe.send(sent)
    sent[:] = 9
    received = pipe.receive(timeout_s=0)
    assert not received.samples.flags.writeable
    assert not received.samples.flags.owndata
    assert received.samples is received.samples is received.data
    with pytest.raises(ValueError, match="read-only"):
        received.samples[0] = 2
    with pytest.raises(ValueError, match="WRITEABLE"):
        received.samples.flags.writeable = True
    assert (received.samples == 1).all()


def test_views_stay_valid_whatever_is_sent_afterwards(opened):
    pipe = opened(fmt=LARGE, size=2)
    kept = []
    for number in range(20):
        pipe.send(block(number, 2048))
        kept.append(pipe.receive(timeout_s=0).samples)
    assert [float(each.min()) for each in kept] == [float(each.max()) for each in kept] == list(range(20))
    assert sum(not each.flags.writeable for each in kept) == 2  # buffer_size of them; then come copies
    assert pipe.statistics().kept_copies == 18


def test_a_view_that_is_given_back_makes_room_for_another(opened):
    pipe = opened(fmt=LARGE, size=2)
    for number in range(20):
        pipe.send(block(number, 2048))
        kept = pipe.receive(timeout_s=0).samples
        assert not kept.flags.writeable
        assert (kept == number).all()
    assert pipe.statistics().kept_copies == 0


def test_part_of_a_view_keeps_it():
    with DataFlowCoordinator() as flow:
        pipe = flow.pipeline(flow.register_pipeline("app", "reader", PipelineConfig(1), LARGE))
        pipe.send(np.arange(2048, dtype=np.float32)[:, np.newaxis])
        part = pipe.receive(timeout_s=0).samples[100:103, 0]
        for number in range(5):
            pipe.send(block(number, 2048))
            pipe.receive(timeout_s=0)
    gc.collect()
    assert part.tolist() == [100, 101, 102]


def test_views_outlive_the_flow():
    with DataFlowCoordinator() as flow:
        pipe = flow.pipeline(flow.register_pipeline("app", "reader", PipelineConfig(3), LARGE))
        seen = []

        class Keeps(Module):
            audio = Input(LARGE)

            def process(self, audio):
                seen.append(audio)

        take = flow.add(ScriptedSource([block(number, 2048) for number in range(6)], LARGE))
        flow.connect(take.out, flow.add(Keeps(), worker="own").audio, buffer_size=3)
        for number in range(3):
            pipe.send(FlowData(block(number, 2048), metadata={"number": number}))
        kept = [pipe.receive(timeout_s=0) for _ in range(3)]
        flow.run()
    del flow, pipe, take
    gc.collect()
    assert [(float(each.samples.min()), float(each.samples.max())) for each in kept] == [(0, 0), (1, 1), (2, 2)]
    assert [each.metadata for each in kept] == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert [float(each.samples.mean()) for each in seen] == [0, 1, 2, 3, 4, 5]


def test_the_mapping_goes_with_the_last_view():
    def mappings():
        gc.collect()
        with open("/proc/self/maps") as maps:  # noqa: PTH123 - not a file of anybody's
            return sum("memfd:" in line for line in maps)

    before = mappings()
    with DataFlowCoordinator() as flow:
        pipe = flow.pipeline(flow.register_pipeline("app", "reader", PipelineConfig(1), LARGE))
        pipe.send(block(1, 2048))
        kept = pipe.receive(timeout_s=0)
    assert mappings() == before + 1
    samples = kept.samples
    del kept
    assert mappings() == before + 1
    assert samples.sum() == 2048
    del samples
    assert mappings() == before


def test_an_array_of_a_module_is_copied_once_into_all_pipelines(flow):
    class Reuses(Source):
        out = Output(LARGE)

        def produce(self):
            samples = block(0, 2048)
            for number in range(4):
                samples[:] = number
                self.out.send(samples)
                yield

    reuses = flow.add(Reuses())
    links = [flow.connect(reuses.out, name, buffer_size=4) for name in ("a", "b")]
    flow.run()
    views = [[link.receive(timeout_s=0).samples for _ in range(4)] for link in links]
    assert [[float(view[7, 0]) for view in each] for each in views] == [[0, 1, 2, 3]] * 2
    for one, other in zip(*views, strict=True):
        assert np.shares_memory(one, other)


# --- what a pipeline carries ------------------------------------------------------------------------------------------


class Point(msgspec.Struct):
    x: int
    name: str = ""
    curve: np.ndarray | None = None


class Other(msgspec.Struct):
    x: int


def packed(value, frames=5, channels=2):
    return np.full((frames, channels, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("fmt", "data"),
    [
        *(
            (AudioFormat(8000, 2, kind), np.arange(10).reshape(5, 2).astype(kind_of))
            for kind, kind_of in [("f32", "f4"), ("f64", "f8"), ("s16", "i2"), ("s32", "i4"), ("u8", "u1")]
        ),
        (AudioFormat(8000, 2, "s24"), packed(200)),
        (AudioFormat(8000, 2, "s24", "planar"), packed(3, 2, 5)),
        (AudioFormat(8000, 2, layout="planar"), np.arange(10, dtype=np.float32).reshape(2, 5)),
        (ArrayFormat("c16", (2, 3)), np.arange(6).reshape(2, 3) * 1j),
        (ArrayFormat("?", (7,)), np.arange(7) % 2 == 0),
        (ArrayFormat("i8", (1, 2, 1, 3)), np.arange(6).reshape(1, 2, 1, 3)),
        (ArrayFormat("f8", (1000,)), np.arange(1000) / 7),
    ],
    ids=str,
)
def test_arrays_come_out_as_they_went_in(opened, fmt, data):
    pipe = opened(fmt=fmt)
    pipe.send(data)
    pipe.send(FlowData(data, fmt))
    for _ in range(2):
        received = pipe.receive(timeout_s=0)
        assert received.data.dtype == data.dtype
        np.testing.assert_array_equal(received.samples, data)
        assert received.format == fmt
        assert received.frames == (5 if isinstance(fmt, AudioFormat) else 0)


def test_one_channel_may_be_sent_flat_and_comes_in_its_shape(opened):
    interleaved, planar = opened(), opened(fmt=AudioFormat(48_000, 1, layout="planar"), name="planar")
    for pipe, shape in ((interleaved, (5, 1)), (planar, (1, 5))):
        pipe.send(np.arange(5, dtype=np.float32))
        received = pipe.receive(timeout_s=0)
        assert received.samples.shape == shape
        assert received.frames == 5
        assert received.samples.ravel().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "strided",
    [
        np.arange(20, dtype=np.float32).reshape(10, 2)[::2],
        np.arange(20, dtype=np.float32).reshape(5, 4)[:, 1:3],
        np.arange(10, dtype=np.float32).reshape(2, 5).T,
        np.arange(10, dtype=np.float32).reshape(5, 2)[::-1],
        np.broadcast_to(np.float32(3), (5, 2)),
    ],
    ids=["step", "columns", "transposed", "reversed", "broadcast"],
)
def test_arrays_that_are_not_contiguous_come_out_whole(opened, strided):
    pipe = opened(fmt=STEREO)
    pipe.send(strided)
    received = pipe.receive(timeout_s=0).samples
    np.testing.assert_array_equal(received, strided)
    assert received.flags.c_contiguous


def test_an_array_that_cannot_be_written_is_sent(opened):
    pipe = opened()
    frozen = block(3)
    frozen.flags.writeable = False
    pipe.send(frozen)
    assert drain(pipe) == [3]


def test_an_array_that_is_not_aligned_is_sent(opened):
    pipe = opened()
    odd = np.frombuffer(b"x" + block(4).tobytes(), np.uint8)[1:].view(np.float32).reshape(4, 1)
    assert not odd.flags.aligned
    pipe.send(odd)
    assert drain(pipe) == [4]


def test_structs_with_arrays(opened):
    pipe = opened(fmt=StructFormat(Point))
    curve = np.arange(6, dtype=">i2").reshape(2, 3)
    sent = Point(1, "one", curve)
    pipe.send(sent)
    pipe.send(Point(2))
    received = pipe.receive(timeout_s=0)
    assert received.data is received.data
    assert (received.data.x, received.data.name) == (1, "one")
    assert received.data.curve.dtype == curve.dtype
    np.testing.assert_array_equal(received.data.curve, curve)
    with pytest.raises(AttributeError, match="no samples"):
        received.samples
    assert pipe.receive(timeout_s=0).data == Point(2)


@pytest.mark.parametrize("data", [b"", b"12", bytearray(b"34"), memoryview(b"5678")[::2], b"x" * 65_536], ids=len)
def test_bytes(opened, data):
    pipe = opened(fmt=BytesFormat())
    pipe.send(data)
    received = pipe.receive(timeout_s=0)
    assert type(received.data) is bytes
    assert received.data == bytes(data)
    assert received.frames == 0


@pytest.mark.parametrize(
    ("data", "problem", "expected", "got"),
    [
        (np.zeros((4, 2), np.float64), FormatMismatch, "dtype float32", "float64"),
        (np.zeros((4, 2), ">f4"), FormatMismatch, "float32", ">f4"),
        (np.zeros((4, 2), object), FormatMismatch, "dtype float32", "object"),
        (np.zeros((4, 3), np.float32), FormatMismatch, "2 channels", "3 channels"),
        (np.zeros((2, 4), np.float32), FormatMismatch, r"\(frames, 2\)", r"\(2, 4\)"),
        (np.zeros(8, np.float32), FormatMismatch, r"\(frames, 2\)", r"\(8,\)"),
        (np.zeros((4, 2, 1), np.float32), FormatMismatch, r"\(frames, 2\)", r"\(4, 2, 1\)"),
        (np.float32(1), FormatMismatch, "a numpy array", "float32"),
        (np.zeros((0, 2), np.float32), FormatMismatch, "at least one frame", "empty"),
        (np.zeros((4097, 2), np.float32), BlockTooLarge, "at most 4096 frames", "4097"),
        ([[0.0, 0.0]], FormatMismatch, "a numpy array", "list"),
        (b"1234", FormatMismatch, "a numpy array", "bytes"),
        (None, FormatMismatch, "a numpy array", "NoneType"),
        (FlowData(np.zeros((4, 2), np.int16)), FormatMismatch, "dtype float32", "int16"),
        (FlowData(np.zeros((4, 2), np.float32), AudioFormat(44_100, 2)), FormatMismatch, "48000", "44100"),
        (FlowData(np.zeros((4, 2), np.float32), AudioFormat(48_000, 1)), FormatMismatch, "channels 2", "1"),
        (FlowData(np.zeros((4, 2), np.float32), BytesFormat()), FormatMismatch, "audio 48000 Hz", "bytes"),
        (Block(np.zeros((4, 2), np.float32), AudioFormat(44_100, 2)), FormatMismatch, "48000", "44100"),
        (FlowData(FlowData(np.zeros((4, 2), np.float32))), FormatMismatch, "a numpy array", "FlowData"),
    ],
    ids=lambda value: "" if isinstance(value, (str, type)) else None,
)
def test_audio_of_another_kind_is_refused_with_what_was_expected_and_what_came(opened, data, problem, expected, got):
    pipe = opened(fmt=STEREO)
    with pytest.raises(problem, match=rf"app->reader: expected .*{expected}.*; ?got .*{got}"):
        pipe.send(data)
    assert pipe.statistics().sent == 0


@pytest.mark.parametrize(
    ("fmt", "data", "problem", "message"),
    [
        (ArrayFormat("f4", (2, 3)), np.zeros((3, 2), "f4"), FormatMismatch, r"shape \(2, 3\); got \(3, 2\)"),
        (ArrayFormat("f4", (2, 3)), np.zeros((2, 3), "f8"), FormatMismatch, "dtype float32; got float64"),
        (ArrayFormat("f4", (6,)), [0.0] * 6, FormatMismatch, "a numpy array.*; got list"),
        (AudioFormat(8000, 2, "s24"), packed(1)[:, :, :2], FormatMismatch, r"\(frames, 2, 3\); got \(5, 2, 2\)"),
        (AudioFormat(8000, 1, "s24"), packed(1, 5, 1)[:, 0, 0], FormatMismatch, r"\(frames, 1, 3\); got \(5,\)"),
        (AudioFormat(8000, 2, layout="planar"), block(1, 5, 2), FormatMismatch, "2 channels.*; got 5 channels"),
        (StructFormat(Point), Other(1), FormatMismatch, "instance of Point, got Other"),
        (StructFormat(Point), {"x": 1}, FormatMismatch, "instance of Point, got dict"),
        (StructFormat(Point), Point(1, curve=np.array([{}])), DataError, "Point cannot be encoded"),
        (StructFormat(Point), Point(1 << 70), DataError, "Point cannot be encoded"),
        (StructFormat(Point, max_bytes=10), Point(1, "x" * 20), BlockTooLarge, "expected up to 10 bytes, got"),
        (BytesFormat(max_bytes=10), b"x" * 11, BlockTooLarge, "expected up to 10 bytes, got 11"),
        (BytesFormat(), "text", FormatMismatch, "expected bytes.* got str"),
    ],
    ids=lambda value: "" if not isinstance(value, str) else None,
)
def test_other_payloads_of_another_kind_are_refused(opened, fmt, data, problem, message):
    pipe = opened(fmt=fmt)
    with pytest.raises(problem, match=f"app->reader: .*{message}"):
        pipe.send(data)
    assert pipe.statistics().sent == 0
    with pytest.raises(ValueError, match="app->reader"):  # a FlowError that one would also expect
        pipe.send(data)


def test_a_wrong_result_of_a_module_names_the_port_and_the_module(flow):
    class Wrong(Module):
        audio = Input(MONO)
        out = Output(MONO)

        def process(self, audio):
            return audio.samples.astype(np.float64)

    wrong = flow.add(Wrong(), name="wrong")
    flow.connect(flow.add(ScriptedSource([block(0)], MONO)).out, wrong.audio, buffer_size=2)
    flow.connect(wrong.out, "reader", buffer_size=2)
    with pytest.raises(FlowFailed) as caught:
        flow.run()
    (failure,) = caught.value.exceptions
    assert (failure.module, failure.block_sequence) == ("wrong", 0)
    assert "wrong.out: expected dtype float32; got float64" in str(failure)


def test_a_block_may_be_declared_in_part(opened):
    pipe = opened(fmt=STEREO)
    for fmt in (AudioFormat(), AudioFormat(48_000), AudioFormat(channels=2), AnyFormat(), None, STEREO):
        pipe.send(FlowData(block(0, channels=2), fmt))
        pipe.receive(timeout_s=0)
    pipe.send(FlowData(block(0, channels=2), AudioFormat(48_000, 2, max_block_frames=9)))


# --- passing a block on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [4, 2048], ids=["small", "large"])
def test_a_block_is_passed_on_with_its_stamps_but_not_its_end(opened, frames):
    first, second = opened(fmt=LARGE), opened(fmt=LARGE, name="second")
    flags = BlockFlag.DISCONTINUITY | BlockFlag.REPEATED | BlockFlag.END_OF_STREAM
    first.send(FlowData(block(3, frames), timestamp_ns=77, first_frame=88, flags=flags, metadata={"take": 1}))
    received = first.receive(timeout_s=0)
    assert received.flags == flags
    second.send(received)
    assert received.metadata == {"take": 1}
    second.send(received)  # now decoded
    for number in range(2):
        passed = second.receive(timeout_s=0)
        assert passed is not received
        assert (passed.timestamp_ns, passed.first_frame, passed.sequence) == (77, 88, number)
        assert (passed.flags, passed.metadata) == (BlockFlag.DISCONTINUITY, {"take": 1})
        assert (passed.samples == 3).all()
    second.send(block(0))
    assert second.receive(timeout_s=0).first_frame == 88 + frames


def test_what_was_changed_in_a_block_is_passed_on(opened):
    first, second = opened(), opened(name="second")
    first.send(FlowData(block(3), metadata={"take": 1}))
    received = first.receive(timeout_s=0)
    received.samples[:] = 4
    received.metadata["take"] = 2
    second.send(received)
    passed = second.receive(timeout_s=0)
    assert (value_of(passed), passed.metadata) == (4, {"take": 2})


def test_a_struct_or_bytes_is_passed_on(opened):
    for fmt, data in ((StructFormat(Point), Point(1, "one")), (BytesFormat(), b"one")):
        first, second = (
            opened(fmt=fmt, name=f"a-{type(data).__name__}"),
            opened(fmt=fmt, name=f"b-{type(data).__name__}"),
        )
        first.send(FlowData(data, timestamp_ns=5))
        received = first.receive(timeout_s=0)
        second.send(received)
        assert received.data == data
        second.send(received)
        for _ in range(2):
            passed = second.receive(timeout_s=0)
            assert (passed.data, passed.timestamp_ns) == (data, 5)


def test_a_block_made_by_hand_is_sent_as_it_says(opened):
    pipe = opened()
    pipe.send(Block(block(2), MONO, timestamp_ns=9, first_frame=10, sequence=11, flags=2, metadata={"a": 1}))
    received = pipe.receive(timeout_s=0)
    assert (received.timestamp_ns, received.first_frame, received.sequence) == (9, 10, 0)
    assert (received.flags, received.metadata) == (BlockFlag.GAP, {"a": 1})


def test_a_block_goes_through_a_chain_of_modules_as_it_came(flow):
    script = [
        FlowData(block(number), timestamp_ns=number, first_frame=100 * number, metadata={"n": number})
        for number in range(5)
    ]
    take, seen = flow.add(ScriptedSource(script, MONO)), flow.add(Collect(), worker="last")
    stages = [flow.add(Pass(), worker=worker) for worker in (None, None, "own", "own")]
    for output, target in zip(
        [take.out, *(s.out for s in stages)], [*(s.audio for s in stages), seen.data], strict=True
    ):
        flow.connect(output, target, buffer_size=2)
    flow.run()
    assert [float(value[0, 0]) for value in seen.values] == [0, 1, 2, 3, 4]
    assert [(a.timestamp_ns, a.first_frame, a.metadata) for a in seen.arrivals] == [
        (number, 100 * number, {"n": number}) for number in range(5)
    ]
