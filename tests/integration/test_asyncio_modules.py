"""Asynchronous modules: they share an event loop, each takes one block at a time, and nothing stops the loop."""

from __future__ import annotations

import asyncio
import os
import threading
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from tests.watched_loop import turns_until

from steadyflow import (
    ArrayFormat,
    AudioFormat,
    BytesFormat,
    DataFlowCoordinator,
    DropOldest,
    FlowData,
    FlowFailed,
    Input,
    Module,
    Output,
    PipelineConfig,
    Source,
    StructFormat,
    Wait,
    _native,
    module,
)
from steadyflow.errors import ConfigurationError, DuplicateName, ModuleFailed
from steadyflow.testing import Collect

NUMBER = ArrayFormat("int64", (1,))
MONO = AudioFormat(48_000, 1)
PLACEMENTS = ("thread", "process")
LIMIT_S = 30  # how long a test may wait for what has to come; it never waits for time to pass


def number(value):
    return np.array([value], np.int64)


def values(collect):
    return [int(array[0]) for array in collect.values]


def assert_accounted(report):
    for name, metrics in report.pipelines.items():
        assert metrics.in_flight == 0, name
        assert metrics.sent == metrics.delivered + metrics.dropped_total, name


# --- modules that also run in processes -------------------------------------------------------------------------------


class Watched(Module):
    """Fails if the thread of its event loop ever waited in native code."""

    async def setup(self):
        await asyncio.sleep(0)
        self.waits = _native.waits_of_this_thread()
        self.loop = asyncio.get_running_loop()

    async def teardown(self):
        await asyncio.sleep(0)
        assert asyncio.get_running_loop() is self.loop
        assert _native.waits_of_this_thread() == self.waits, "the thread of the loop waited in native code"


class Count(Watched, Source):
    """Sends numbers; all of them, or for ever."""

    out = Output(NUMBER)

    def __init__(self, blocks=None):
        self.blocks = blocks

    async def produce(self):
        sent = 0
        while self.blocks is None or sent < self.blocks:
            await self.out.send_async(number(sent))
            sent += 1
            yield


class Square(Watched):
    data = Input(NUMBER)
    out = Output(NUMBER)

    async def process(self, data):
        await asyncio.sleep(0)
        return data.samples**2


class Repeat(Watched):
    """Sends by hand, several blocks for one, and a last one of its own."""

    data = Input(NUMBER)
    out = Output(NUMBER)

    async def process(self, data):
        await self.out.send_async(data)
        await self.out.send_async(data.samples + 100)

    async def finish(self):
        await self.out.send_async(number(-1))


class Fragile(Watched):
    """Raises at block 2, after it has awaited something; or in another place."""

    data = Input(NUMBER)
    out = Output(NUMBER)

    def __init__(self, where="process", kind="value"):
        self.where = where
        self.kind = kind

    def trip(self, where):
        if where == self.where:
            raise {"value": ValueError, "exit": SystemExit, "cancelled": asyncio.CancelledError}[self.kind]("tripped")

    async def setup(self):
        await super().setup()
        self.trip("setup")

    async def process(self, data):
        await asyncio.sleep(0)
        if data.sequence == 2:
            self.trip("process")
        return data

    async def finish(self):
        await asyncio.sleep(0)
        self.trip("finish")

    async def teardown(self):
        await super().teardown()
        self.trip("teardown")


class Where(msgspec.Struct):
    pid: int
    thread: str


class Locate(Watched):
    data = Input(NUMBER)
    place = Output(StructFormat(Where))

    async def process(self, data):
        return Where(os.getpid(), threading.current_thread().name)


class Endless(Source):
    """Awaits something that never comes, and says that it was cancelled."""

    out = Output(NUMBER)

    async def produce(self):
        await self.out.send_async(number(0))
        try:
            await asyncio.get_running_loop().create_future()
            yield
        except asyncio.CancelledError:
            await self.out.send_async(number(1))
            raise

    async def finish(self):
        await self.out.send_async(number(2))


# --- running ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_chain_of_asynchronous_modules(placement):
    worker = "loop"
    with DataFlowCoordinator("chain") as flow:
        count = flow.add(Count(300), placement=placement, worker=worker)
        square = flow.add(Square(), placement=placement, worker=worker)
        repeat = flow.add(Repeat(), placement=placement, worker=worker)
        collect = flow.add(Collect())
        for output, input in ((count.out, square.data), (square.out, repeat.data), (repeat.out, collect.data)):
            flow.connect(output, input, buffer_size=3)
        report = flow.run()

    expected = [value for index in range(300) for value in (index**2, index**2 + 100)]
    assert values(collect) == [*expected, -1]
    assert_accounted(report)
    assert [report.modules[name].state for name in report.modules] == ["ended"] * 4
    assert report.modules["square"].calls == 300
    assert report.pipelines["square.out->repeat.data"].busy_p50_ms > 0


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_where_they_run(placement):
    with DataFlowCoordinator("where") as flow:
        count = flow.add(Count(1), name="count", placement=placement)
        locate = flow.add(Locate(), name="locate", placement=placement)
        other = flow.add(Locate(), name="other", placement=placement, worker="mine")
        collect, collect_other = flow.add(Collect()), flow.add(Collect())
        flow.connect(count.out, locate.data, buffer_size=1)
        flow.connect(count.out, other.data, buffer_size=1)
        flow.connect(locate.place, collect.data, buffer_size=1)
        flow.connect(other.place, collect_other.data, buffer_size=1)
        report = flow.run()

    (place,), (other_place,) = collect.values, collect_other.values
    if placement == "thread":
        assert (place.thread, other_place.thread) == ("steadyflow-asyncio", "steadyflow-mine")
        assert report.modules["count"].worker == report.modules["locate"].worker == "asyncio"
        assert place.pid == os.getpid()
    else:
        assert len({place.pid, other_place.pid, os.getpid()}) == 3
        assert [report.modules[name].worker for name in ("count", "locate", "other")] == ["count", "locate", "mine"]


def test_a_function():
    @module(input=NUMBER, output=NUMBER)
    async def double(data):
        await asyncio.sleep(0)
        return data.samples * 2

    with DataFlowCoordinator("function") as flow:
        count, doubled, collect = flow.add(Count(5)), flow.add(double()), flow.add(Collect())
        flow.connect(count.out, doubled.data, buffer_size=1)
        flow.connect(doubled.out, collect.data, buffer_size=1)
        flow.run()

    assert values(collect) == [0, 2, 4, 6, 8]


def test_plain_methods_of_an_asynchronous_module():
    class Mixed(Module):
        one = Input(NUMBER)
        two = Input(NUMBER)
        out = Output(NUMBER)

        def setup(self):
            self.sum = 0

        async def process_one(self, one):
            await asyncio.sleep(0)
            self.sum += int(one.samples[0])

        def process_two(self, two):
            self.sum += 10 * int(two.samples[0])

        def finish(self):
            self.out.send(number(self.sum))

    with DataFlowCoordinator("mixed") as flow:
        first, second = flow.add(Count(4), name="first"), flow.add(Count(4), name="second")
        mixed, collect = flow.add(Mixed()), flow.add(Collect())
        flow.connect(first.out, mixed.one, buffer_size=2)
        flow.connect(second.out, mixed.two, buffer_size=2)
        flow.connect(mixed.out, collect.data, buffer_size=2)
        flow.run()

    assert values(collect) == [66]


@pytest.mark.parametrize("plain", [False, True])
def test_windows(plain):
    class Spans(Module):
        audio = Input(MONO, window_frames=4, hop_frames=2)
        other = Input(NUMBER)
        out = Output(MONO)

        async def process_audio(self, audio):
            await asyncio.sleep(0)
            return audio.samples[:1]

        async def process_other(self, other):
            return

    if plain:
        Spans.process_audio = lambda self, audio: audio.samples[:1]

    with DataFlowCoordinator("windows") as flow:
        spans = flow.add(Spans())
        flow.register_pipeline("app", spans.audio, PipelineConfig(buffer_size=8), MONO)
        target = flow.connect(spans.out, "app-too", buffer_size=32)
        pipe = flow.pipeline("app->spans.audio")
        flow.start()
        for first in range(0, 20, 5):
            samples = np.arange(first, first + 5, dtype=np.float32)[:, None]
            pipe.send(FlowData(samples, timestamp_ns=first * 1000, first_frame=first))
        pipe.end()
        assert flow.wait(LIMIT_S)
        received = [target.receive(LIMIT_S) for _ in range(9)]

    assert [int(block.samples[0, 0]) for block in received] == list(range(0, 18, 2))
    assert [block.timestamp_ns for block in received][:2] == [0, round(2e9 / 48_000)]


def test_a_result_that_cannot_be_sent():
    class Two(Module):
        data = Input(NUMBER)
        one = Output(NUMBER)
        two = Output(NUMBER)

        async def process(self, data):
            return data

    with DataFlowCoordinator("two") as flow:
        count, two = flow.add(Count(1)), flow.add(Two())
        flow.connect(count.out, two.data, buffer_size=1)
        with pytest.raises(
            FlowFailed, match=r"expected process\(\) to return None, because the module has not exactly"
        ):
            flow.run()


# --- one at a time, and meanwhile the others --------------------------------------------------------------------------


def test_modules_of_one_worker_take_turns_while_they_await():
    """The first module's block is done only after the second module has had one: who runs them one by one waits for ever."""
    answered = {}

    class Ask(Module):
        data = Input(NUMBER)

        async def process(self, data):
            asked = answered[int(data.samples[0])] = asyncio.Event()
            await asyncio.wait_for(asked.wait(), LIMIT_S)

    class Answer(Module):
        data = Input(NUMBER)

        async def process(self, data):
            await turns_until(lambda: int(data.samples[0]) in answered)
            answered[int(data.samples[0])].set()

    with DataFlowCoordinator("turns") as flow:
        count, ask, answer = flow.add(Count(50)), flow.add(Ask()), flow.add(Answer())
        flow.connect(count.out, ask.data, buffer_size=2)
        flow.connect(count.out, answer.data, buffer_size=2)
        report = flow.run()

    assert len(answered) == 50
    assert {report.modules[name].worker for name in report.modules} == {"asyncio"}


def test_a_module_never_has_two_blocks_at_once():
    class Exclusive(Module):
        one = Input(NUMBER)
        two = Input(NUMBER)

        def setup(self):
            self.inside = self.most = self.calls = 0

        async def process_one(self, one):
            self.inside += 1
            self.calls += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0)
            self.inside -= 1

        process_two = process_one

        async def finish(self):
            assert self.inside == 0

    with DataFlowCoordinator("exclusive") as flow:
        first, second, exclusive = flow.add(Count(100)), flow.add(Count(100)), flow.add(Exclusive())
        flow.connect(first.out, exclusive.one, buffer_size=8)
        flow.connect(second.out, exclusive.two, buffer_size=8)
        flow.run()

    assert (exclusive.calls, exclusive.most) == (200, 1)


def test_a_block_is_delivered_when_its_call_has_ended():
    gate = {}

    class Gate(Module):
        data = Input(NUMBER)
        out = Output(NUMBER)

        async def setup(self):
            gate["loop"], gate["open"] = asyncio.get_running_loop(), asyncio.Event()

        async def process(self, data):
            await self.out.send_async(data)
            await gate["open"].wait()

    with DataFlowCoordinator("gate") as flow:
        module = flow.add(Gate(), name="gate")
        flow.register_pipeline("app", module.data, PipelineConfig(buffer_size=4), NUMBER)
        begun = flow.connect(module.out, "seen", buffer_size=4)
        pipe = flow.pipeline("app->gate.data")
        flow.start()
        for index in range(3):
            pipe.send(number(index))
        begun.receive(LIMIT_S)

        metrics = pipe.statistics()
        assert (metrics.delivered, metrics.in_flight, metrics.fill) == (0, 3, 2)

        gate["loop"].call_soon_threadsafe(gate["open"].set)
        pipe.end()
        assert flow.wait(LIMIT_S)
        assert pipe.statistics().delivered == 3
        assert flow.report().modules["gate"].calls == 3


def test_each_module_passes_its_own_stamps_on():
    """While one awaits, the worker begins the blocks of another."""

    class Pass(Module):
        data = Input(NUMBER)
        out = Output(NUMBER)

        async def process(self, data):
            for _ in range(int(data.samples[0]) % 5):
                await asyncio.sleep(0)
            return data.samples + 0

    with DataFlowCoordinator("stamps") as flow:
        pipes = {}
        for name in ("one", "two", "three"):
            module = flow.add(Pass(), name=name)
            flow.register_pipeline(f"to-{name}", module.data, PipelineConfig(buffer_size=64), NUMBER)
            pipes[name] = (
                flow.pipeline(f"to-{name}->{name}.data"),
                flow.connect(module.out, f"from-{name}", buffer_size=64),
            )
        for stamp, (source, _) in enumerate(pipes.values()):
            for index in range(50):
                source.send(FlowData(number(index), timestamp_ns=1000 * stamp + index, first_frame=index))
        flow.start()
        for stamp, (source, target) in enumerate(pipes.values()):
            source.end()
            received = [target.receive(LIMIT_S) for _ in range(50)]
            assert [block.timestamp_ns for block in received] == [1000 * stamp + index for index in range(50)]
        assert flow.wait(LIMIT_S)


def test_the_most_urgent_block_is_taken_first():
    """All wait before the worker begins; the least urgent was sent first."""
    order = []

    class Note(Module):
        data = Input(NUMBER)

        def __init__(self, priority):
            self.priority = priority

        async def process(self, data):
            order.append(self.priority)
            await asyncio.sleep(0)

    priorities = ["low", "normal", "high", "critical"]
    with DataFlowCoordinator("urgent") as flow:
        for priority in priorities:
            module = flow.add(Note(priority), name=priority)
            flow.register_pipeline(
                f"to-{priority}", module.data, PipelineConfig(buffer_size=4, priority=priority), NUMBER
            )
        for priority in priorities:
            flow.send_data(f"to-{priority}->{priority}.data", number(0))
        for pipe in flow.pipelines.values():
            pipe.end()
        flow.run()

    assert order == ["critical", "high", "normal", "low"]


# --- sending ----------------------------------------------------------------------------------------------------------


def test_sending_waits_for_room_by_the_rule_and_the_others_go_on():
    """The consumer is let go by another module of the same worker."""
    let_go = threading.Event()

    class Slow(Module):
        data = Input(NUMBER)

        def process(self, data):
            if not let_go.wait(LIMIT_S):
                raise TimeoutError("the loop stood still")

    class LetGo(Module):
        data = Input(NUMBER)

        async def process(self, data):
            for _ in range(20):
                await asyncio.sleep(0)
            let_go.set()

    with DataFlowCoordinator("room") as flow:
        count, slow, release = flow.add(Count(50)), flow.add(Slow()), flow.add(LetGo())
        flow.connect(count.out, slow.data, buffer_size=2)
        single = flow.add(Count(1), name="single")
        flow.connect(single.out, release.data, buffer_size=1)
        report = flow.run()

    metrics = report.pipelines["count.out->slow.data"]
    assert metrics.delivered == 50
    assert metrics.blocked_ms > 0


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_plain_send_that_would_wait_is_refused(placement):
    with DataFlowCoordinator("plain send") as flow:
        hasty = flow.add(Hasty(), placement=placement)
        pipe = flow.connect(hasty.out, "nobody", buffer_size=3)
        flow.start()
        assert flow.wait(LIMIT_S)
        received = [int(pipe.receive(LIMIT_S).samples[0]) for _ in range(3)]
        with pytest.raises(FlowFailed) as failed:
            flow.stop()

    assert received == [0, 1, 2]
    assert "hasty.out->nobody: expected room for one block, but the pipeline is full" in str(failed.value.exceptions[0])
    assert "await self.<output>.send_async(...)" in str(failed.value.exceptions[0])


class Hasty(Source):
    """Sends without waiting; what has room is sent."""

    out = Output(NUMBER)

    async def produce(self):
        for index in range(4):
            self.out.send(number(index))
        yield


def test_a_thread_of_a_module_may_wait_in_send():
    class Helped(Source):
        out = Output(NUMBER)

        async def produce(self):
            for index in range(30):
                await asyncio.to_thread(self.out.send, number(index))
                yield

    with DataFlowCoordinator("helped") as flow:
        helped, collect = flow.add(Helped()), flow.add(Collect())
        flow.connect(helped.out, collect.data, buffer_size=1)
        flow.run()

    assert values(collect) == list(range(30))


def test_an_output_that_nobody_listens_to():
    with DataFlowCoordinator("unheard") as flow:
        flow.add(Count(10))
        assert flow.run().modules["count"].state == "ended"


def test_a_loop_of_modules():
    """It ends when everything from outside has ended; what still goes around is dropped, and not given to it any more."""

    class Around(Module):
        first = Input(NUMBER)
        again = Input(NUMBER)
        out = Output(NUMBER)
        back = Output(NUMBER)

        async def process_first(self, first):
            await self.back.send_async(first)

        async def process_again(self, again):
            await self.out.send_async(again)

    with DataFlowCoordinator("around") as flow:
        count, around, collect = flow.add(Count(20)), flow.add(Around()), flow.add(Collect())
        flow.connect(count.out, around.first, buffer_size=4)
        flow.connect(around.back, around.again, buffer_size=32, backpressure_strategy=DropOldest())
        flow.connect(around.out, collect.data, buffer_size=4)
        report = flow.run()

    assert values(collect) == sorted(values(collect))
    assert_accounted(report)


# --- sources ----------------------------------------------------------------------------------------------------------


def test_a_source_goes_on_when_it_wants_to():
    class Paced(Source):
        out = Output(NUMBER)
        paced = True

        async def produce(self):
            due_ns = _native.monotonic_ns()
            for _ in range(5):
                due_ns += 2_000_000
                yield due_ns
                await self.out.send_async(number(_native.monotonic_ns() - due_ns))

    with DataFlowCoordinator("paced") as flow:
        paced, collect = flow.add(Paced()), flow.add(Collect())
        flow.connect(paced.out, collect.data, buffer_size=8)
        flow.run()

    assert len(collect.values) == 5
    assert min(values(collect)) >= 0, "never before its time"


@pytest.mark.parametrize(
    ("produce", "text"),
    [
        (lambda self: 5, "expected produce() to be an asynchronous generator, with a yield after each send; got 5"),
        (None, "expected produce() to yield None or a time in ns, got 'soon'"),
    ],
)
def test_impossible_sources_fail(produce, text):
    class Wrong(Source):
        out = Output(NUMBER)

        async def produce(self):
            yield "soon"

    if produce is not None:
        Wrong.produce = produce
    with DataFlowCoordinator("wrong") as flow:
        flow.add(Wrong())
        with pytest.raises(FlowFailed) as failed:
            flow.run()

    assert text in str(failed.value.exceptions[0])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_stopped_source_is_cancelled_where_it_awaits(placement):
    """It says so, finishes, and what it sent still drains; nobody waits until the drain's time is over."""
    with DataFlowCoordinator("stopped") as flow:
        endless, square = flow.add(Endless(), placement=placement), flow.add(Square(), placement=placement)
        flow.connect(endless.out, square.data, buffer_size=4)
        pipe = flow.connect(square.out, "app", buffer_size=4)
        flow.start()
        first = pipe.receive(LIMIT_S)
        stopping = threading.Thread(target=flow.stop, args=(LIMIT_S,))
        stopping.start()
        rest = [pipe.receive(LIMIT_S) for _ in range(2)]
        stopping.join()
        report = flow.report()

    assert [int(block.samples[0]) for block in (first, *rest)] == [0, 1, 4]
    assert [report.modules[name].state for name in ("endless", "square")] == ["stopped", "ended"]


def test_a_stopped_source_that_is_at_its_yield_is_closed():
    closed = []

    class Closing(Source):
        out = Output(NUMBER)

        async def produce(self):
            try:
                for index in range(1 << 30):
                    await self.out.send_async(number(index))
                    yield
            finally:
                await asyncio.sleep(0)
                closed.append(True)

    with DataFlowCoordinator("closing") as flow:
        closing, collect = flow.add(Closing()), flow.add(Collect())
        pipe = flow.connect(closing.out, collect.data, buffer_size=4)
        flow.start()
        while pipe.statistics().delivered == 0:
            threading.Event().wait(0.001)
        report = flow.stop()

    assert closed == [True]
    assert report.modules["closing"].state == "stopped"
    assert_accounted(report)
    assert all(after - before == 1 for before, after in pairwise(values(collect)))


def test_a_source_that_refuses_to_be_cancelled_stops_at_its_next_yield():
    class Stubborn(Source):
        out = Output(NUMBER)

        async def produce(self):
            sent = 0
            while True:
                try:
                    await asyncio.sleep(LIMIT_S if sent else 0)
                except asyncio.CancelledError:
                    pass
                await self.out.send_async(number(sent))
                sent += 1
                yield

    with DataFlowCoordinator("stubborn") as flow:
        stubborn, collect = flow.add(Stubborn()), flow.add(Collect())
        pipe = flow.connect(stubborn.out, collect.data, buffer_size=4)
        flow.start()
        while pipe.statistics().delivered == 0:
            threading.Event().wait(0.001)
        report = flow.stop()

    assert values(collect) == [0, 1]
    assert report.modules["stubborn"].state == "stopped"


# --- failures ---------------------------------------------------------------------------------------------------------


def run_failing(fragile, placement="thread", blocks=6):
    with DataFlowCoordinator("failing") as flow:
        count = flow.add(Count(blocks))
        fragile = flow.add(fragile, name="fragile", placement=placement)
        collect = flow.add(Collect(), name="collect")
        flow.connect(count.out, fragile.data, buffer_size=8)
        flow.connect(fragile.out, collect.data, buffer_size=8)
        with pytest.raises(FlowFailed) as failed:
            flow.run()
    return failed.value, collect


@pytest.mark.parametrize("kind", ["value", "exit", "cancelled"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_failure_in_process(placement, kind):
    failed, collect = run_failing(Fragile("process", kind), placement)

    (problem,) = failed.exceptions
    assert isinstance(problem, ModuleFailed)
    assert (problem.module, problem.block_sequence) == ("fragile", 2)
    assert "tripped" in str(problem)
    assert "in trip" in problem.traceback_text
    assert failed.report.modules["fragile"].state == "failed"
    metrics = failed.report.pipelines["count.out->fragile.data"]
    assert metrics.delivered == 2
    assert metrics.dropped["failed"] >= 1
    assert_accounted(failed.report)
    if placement == "thread":
        assert values(collect) == [0, 1]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("where", ["setup", "finish", "teardown"])
def test_a_failure_elsewhere(placement, where):
    failed, _ = run_failing(Fragile(where), placement)

    (problem,) = failed.exceptions
    assert isinstance(problem, ModuleFailed)
    assert (problem.module, problem.block_sequence) == ("fragile", None)
    assert "tripped" in str(problem)


def test_a_failure_in_produce():
    class Broken(Source):
        out = Output(NUMBER)

        async def produce(self):
            await self.out.send_async(number(1))
            yield
            raise OSError("unplugged")

    with DataFlowCoordinator("broken") as flow:
        broken, collect = flow.add(Broken()), flow.add(Collect())
        flow.connect(broken.out, collect.data, buffer_size=8)
        with pytest.raises(FlowFailed, match="unplugged"):
            flow.run()

    assert values(collect) == [1]


def test_a_failed_module_is_torn_down_and_the_others_drain():
    torn_down = []

    class Tripping(Module):
        data = Input(NUMBER)

        async def process(self, data):
            await asyncio.sleep(0)
            raise ValueError("tripped")

        async def teardown(self):
            torn_down.append(True)

    with DataFlowCoordinator("others") as flow:
        count, tripping, square, collect = (
            flow.add(Count(100)),
            flow.add(Tripping()),
            flow.add(Square()),
            flow.add(Collect()),
        )
        flow.connect(count.out, tripping.data, buffer_size=4)
        flow.connect(count.out, square.data, buffer_size=4)
        flow.connect(square.out, collect.data, buffer_size=4)
        with pytest.raises(FlowFailed) as failed:
            flow.run()

    assert torn_down == [True]
    assert failed.value.report.modules["square"].state == "ended"
    assert_accounted(failed.value.report)
    assert values(collect) == [index**2 for index in range(len(collect.values))]


# --- aborting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_what_awaits_for_ever_is_cancelled_when_the_drain_is_over(placement):
    with DataFlowCoordinator("forever") as flow:
        count, waiting = flow.add(Count(3), placement=placement), flow.add(Forever(), placement=placement)
        pipe = flow.connect(count.out, waiting.data, buffer_size=4)
        begun = flow.connect(waiting.out, "app", buffer_size=4)
        flow.start()
        begun.receive(LIMIT_S)
        report = flow.stop(drain_timeout_s=0.01)

    assert report.modules["forever"].state == "stopped"
    metrics = report.pipelines[pipe.id]
    assert metrics.dropped == {"stopped": metrics.sent}, "also the block that it had in hand"
    assert metrics.delivered == 0
    assert_accounted(report)


class Forever(Module):
    data = Input(NUMBER)
    out = Output(NUMBER)

    async def process(self, data):
        await self.out.send_async(data)
        await asyncio.get_running_loop().create_future()


def test_a_send_that_waits_for_ever_is_given_up():
    with DataFlowCoordinator("full") as flow:
        count = flow.add(Count())
        pipe = flow.connect(count.out, "nobody", buffer_size=2, backpressure_strategy=Wait())
        flow.start()
        while pipe.statistics().fill < 2:
            threading.Event().wait(0.001)
        report = flow.stop(drain_timeout_s=0.01)

    assert report.modules["count"].state == "stopped"


def test_background_tasks_of_a_module_end_with_it():
    ended = []

    class Background(Module):
        data = Input(NUMBER)

        async def setup(self):
            self.turns = 0
            self.task = asyncio.create_task(self.turn())

        async def turn(self):
            try:
                while True:
                    self.turns += 1
                    await asyncio.sleep(0)
            finally:
                ended.append(self.turns)

        async def process(self, data):
            await asyncio.sleep(0)

    with DataFlowCoordinator("background") as flow:
        count, background = flow.add(Count(10)), flow.add(Background())
        flow.connect(count.out, background.data, buffer_size=1)
        flow.run()

    assert len(ended) == 1
    assert ended[0] >= 10


def test_a_defect_of_the_runtime_reaches_the_flow(monkeypatch):
    """Not only what modules raise: whatever breaks in the loop itself."""
    from steadyflow.runtime.event_loop import EventLoop

    def broken(self):
        raise MemoryError("no room for a task")

    with DataFlowCoordinator("defect") as flow:
        count, square = flow.add(Count(10)), flow.add(Square())
        flow.connect(count.out, square.data, buffer_size=1)
        monkeypatch.setattr(EventLoop, "_deal", broken)
        with pytest.raises(FlowFailed, match="no room for a task"):
            flow.run()


# --- description ------------------------------------------------------------------------------------------------------


def test_plain_and_asynchronous_modules_do_not_share_a_worker():
    with DataFlowCoordinator("mixed") as flow:
        count, collect = flow.add(Count(1), worker="both"), flow.add(Collect(), worker="both")
        flow.connect(count.out, collect.data, buffer_size=1)
        with pytest.raises(
            ConfigurationError, match="worker 'both': expected only asynchronous modules or none; module"
        ):
            flow.start()


def test_no_module_is_called_like_the_worker():
    with DataFlowCoordinator("named") as flow, pytest.raises(DuplicateName, match="the flow's own worker thread"):
        flow.add(Count(1), name="asyncio")


def test_a_module_that_blocks_gets_an_event_loop_of_its_own():
    class Heavy(Locate):
        blocking = True

    with DataFlowCoordinator("heavy") as flow:
        count, heavy, collect = flow.add(Count(1)), flow.add(Heavy(), name="heavy"), flow.add(Collect())
        flow.connect(count.out, heavy.data, buffer_size=1)
        flow.connect(heavy.place, collect.data, buffer_size=1)
        flow.run()

    assert [place.thread for place in collect.values] == ["steadyflow-heavy"]


def test_blocks_of_any_format():
    class Shout(Module):
        text = Input(BytesFormat(64))
        out = Output(BytesFormat(64))

        async def process(self, text):
            await asyncio.sleep(0)
            return text.data.upper()

    with DataFlowCoordinator("text") as flow:
        shout = flow.add(Shout())
        flow.register_pipeline("app", shout.text, PipelineConfig(buffer_size=4), BytesFormat(64))
        answer = flow.connect(shout.out, "heard", buffer_size=4)
        flow.start()
        flow.send_data("app->shout.text", b"hello")
        assert answer.receive(LIMIT_S).data == b"HELLO"
