"""Spools in flows: everything arrives in order, whatever the consumer, the disk and the flow do."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import threading
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from tests.integration.changing_flows import wait_until

from steadyflow import (
    ArrayFormat,
    AudioFormat,
    BlockFlag,
    BytesFormat,
    DataFlowCoordinator,
    DropOldest,
    Fail,
    FlowData,
    FlowFailed,
    Input,
    Latest,
    Module,
    Output,
    PipelineConfig,
    Source,
    StructFormat,
    Wait,
)
from steadyflow.errors import ConfigurationError, SpoolUnavailable, UnknownName
from steadyflow.events import SpillFailed, SpillLeft, SpillRestored
from steadyflow.spooling import Spool, SpooledBlock, SpoolStore
from steadyflow.testing import Collect, ScriptedSource

NUMBER = ArrayFormat("int64", (1,))
MONO = AudioFormat(48_000, 1, max_block_frames=256)
ROOMY = 1 << 30
LIMIT_S = 30


class Score(msgspec.Struct, frozen=True):
    points: int


class Gated(Module):
    """Keeps what comes, block by block, as often as it is let."""

    data = Input()
    blocking = True

    def __init__(self):
        self.blocks = []
        self.entered = 0
        self.turns = threading.Semaphore(0)
        self.open = threading.Event()

    def process(self, data):
        self.entered += 1
        if not self.open.is_set():
            assert self.turns.acquire(timeout=LIMIT_S)
        self.blocks.append((int(data.samples.flat[0]), data.flags, data.first_frame, data.timestamp_ns))

    def let(self, count=None):
        """Let it take so many blocks; None: all that come."""
        if count is None:
            self.open.set()
            count = 1
        for _ in range(count):
            self.turns.release()

    @property
    def numbers(self):
        return [number for number, *_ in self.blocks]

    @property
    def flagged(self):
        return [number for number, flags, *_ in self.blocks if flags & BlockFlag.DISCONTINUITY]


class Slow(Module):
    """A consumer of a process that gives up a moment for each block."""

    data = Input(NUMBER)
    out = Output(NUMBER)
    blocking = True

    def process(self, data):
        threading.Event().wait(0.001)
        return data


class Fed(Source):
    """Sends numbers, so many as it is told to, and ends when it is told that."""

    out = Output(NUMBER)
    blocking = True

    def __init__(self, begin=0):
        self.begin = begin
        self.orders = threading.Semaphore(0)
        self.ending = False
        self.sent = begin

    def feed(self, count):
        for _ in range(count):
            self.orders.release()

    def end(self):
        self.ending = True
        self.orders.release()

    def produce(self):
        while True:
            while not self.orders.acquire(timeout=0.01):
                yield
            if self.ending:
                return
            self.out.send(number(self.sent))
            self.sent += 1
            yield


def number(value):
    return np.array([value], np.int64)


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder / "blocks.spool"


class Run:
    """A flow of a source that is fed by hand, a spool, and a consumer that takes what it is let."""

    def __init__(self, path, *, begin=0, buffer_size=4, rule=None, **options):
        self.flow = DataFlowCoordinator("spooled")
        self.source = self.flow.add(Fed(begin), name="source")
        self.spool = self.flow.add(Spool(path, **{"max_bytes": ROOMY} | options), name="spool")
        self.consumer = self.flow.add(Gated(), name="consumer")
        self.into = self.flow.connect(self.source.out, self.spool.data, buffer_size=8)
        self.behind = self.flow.connect(
            self.spool.out, self.consumer.data, buffer_size=buffer_size, backpressure_strategy=rule or Wait()
        )
        self.counts = self.spool.counts

    def __enter__(self):
        self.flow.__enter__()
        self.flow.start()
        return self

    def __exit__(self, *problem):
        self.consumer.let()
        self.flow.__exit__(*problem)

    def feed(self, count, until=None):
        """Feed blocks, and wait until the spool has taken them."""
        sent = self.source.sent + count
        self.source.feed(count)
        self.wait_until(until or (lambda: self.delivered == sent - self.source.begin))

    def fill(self):
        """Fill the consumer and the pipeline before it, so that what comes has no room: blocks 0 to 4."""
        self.feed(1)
        self.wait_until(lambda: self.consumer.entered == 1)
        self.feed(4)
        assert self.counts().passed == 5

    @property
    def delivered(self):
        return self.flow.get_flow_metrics(self.into.id).delivered

    def wait_until(self, condition):
        try:
            wait_until(condition, LIMIT_S)
        except AssertionError as error:
            raise AssertionError(f"{self.counts()}, {self.delivered} taken") from error

    def end(self):
        self.source.end()
        self.consumer.let()
        report = self.flow.wait(LIMIT_S) and self.flow.stop()
        assert report
        self.assert_accounted(report)
        return report

    def assert_accounted(self, report):
        for name, metrics in report.pipelines.items():
            assert metrics.in_flight == 0, name
            assert metrics.sent == metrics.delivered + metrics.dropped_total, name
        counts = self.counts()
        come = counts.leftover + report.pipelines[self.into.id].delivered
        assert come == counts.passed + counts.restored + counts.dropped_blocks + counts.depth_blocks

    def events(self, kind):
        self.flow.events.drain()
        return [event for event in self.flow.events.history if isinstance(event, kind)]


# --- order ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["thread", "process"])
@pytest.mark.parametrize("slow", ["thread", "process"])
def test_all_that_a_fast_source_sends_comes_to_a_slow_consumer_in_order(path, placement, slow):
    count = 1500
    with DataFlowCoordinator("spooled") as flow:
        source = flow.add(ScriptedSource([number(each) for each in range(count)], NUMBER))
        spool = flow.add(Spool(path, max_bytes=ROOMY, then="wait"), placement=placement)
        consumer = flow.add(Slow(), placement=slow)
        collect = flow.add(Collect())
        flow.connect(source.out, spool.data, buffer_size=32)
        flow.connect(spool.out, consumer.data, buffer_size=4)
        flow.connect(consumer.out, collect.data, buffer_size=32)
        report = flow.run()
    assert [int(value[0]) for value in collect.values] == list(range(count))
    assert not any(arrival.flags for arrival in collect.arrivals)
    assert all(metrics.sent == metrics.delivered for metrics in report.pipelines.values())
    if placement == "thread":
        counts = spool.counts()
        assert counts.passed + counts.restored == count
        assert counts.stored == counts.restored > 0
        assert (counts.dropped_blocks, counts.depth_blocks) == (0, 0)
    assert os.listdir(path.parent) == [path.name]


def test_what_has_room_does_not_touch_the_disk(path):
    with Run(path) as run:
        run.consumer.let()
        for _ in range(50):
            run.feed(1)
            run.wait_until(lambda: len(run.consumer.blocks) == run.source.sent)
        counts = run.counts()
        assert (counts.passed, counts.stored) == (50, 0)
        assert not run.spool._store.is_dirty
        run.end()


def test_a_consumer_that_stalls_gets_everything_when_it_goes_on(path):
    with Run(path) as run:
        run.fill()
        run.feed(995)
        counts = run.counts()
        assert (counts.passed, counts.stored, counts.depth_blocks) == (5, 995, 995)
        run.consumer.let(300)
        run.wait_until(lambda: len(run.consumer.blocks) == 300)
        run.feed(10)
        run.consumer.let()
        # While nothing comes any more.
        run.wait_until(lambda: len(run.consumer.blocks) == 1010)
        assert run.counts().depth_blocks == 0
        # And then it passes blocks on again.
        run.feed(1)
        run.wait_until(lambda: len(run.consumer.blocks) == 1011)
        assert run.counts().passed == counts.passed + 1
        run.end()
        assert run.consumer.numbers == list(range(1011))
        assert run.consumer.flagged == []


@pytest.mark.parametrize("rule", [Wait(), Wait(10), DropOldest(), Fail(), Latest()], ids=repr)
def test_no_rule_behind_it_has_anything_to_do(path, rule):
    with Run(path, rule=rule) as run:
        run.feed(100)
        run.consumer.let()
        report = run.end()
        if rule != Latest():
            assert run.consumer.numbers == list(range(100))
            assert report.pipelines[run.behind.id].dropped_total == 0
        else:
            assert run.counts().stored == 0, "such a pipeline has always room"


def test_memory_is_bounded_whatever_waits(path):
    payload = np.zeros(4096, np.uint8)
    fmt = ArrayFormat("uint8", (4096,))
    with DataFlowCoordinator() as flow:
        spool = flow.add(Spool(path, max_bytes=ROOMY, then="wait"))
        pipe_in = flow.register_pipeline("application", "spool.data", PipelineConfig(buffer_size=8), fmt)
        consumer = flow.add(Gated())
        flow.connect(spool.out, consumer.data, buffer_size=4)
        flow.start()
        into = flow.pipeline(pipe_in)
        before = 0
        for index in range(12_000):
            into.send(payload)
            if index == 2000:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown_kib < 16_000, "10,000 blocks have 40 MB"
        consumer.let()
        flow.stop(0)


# --- what a block carries ---------------------------------------------------------------------------------------------------


def sent_through(path, fmt, script, **options):
    """Send a script through a spool whose consumer begins when everything is stored."""
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(script, fmt))
        spool = flow.add(Spool(path, **{"max_bytes": ROOMY} | options))
        collect = flow.add(Collect())
        flow.connect(source.out, spool.data, buffer_size=64)
        behind = flow.connect(spool.out, collect.data, buffer_size=1)
        behind.pause()
        flow.start()
        wait_until(lambda: spool.counts().stored + spool.counts().passed + spool.counts().dropped_blocks >= len(script))
        behind.resume()
        assert flow.wait(LIMIT_S)
        flow.stop()
        assert spool.counts().restored >= len(script) - 2
    return collect


def scripted(index, data):
    return FlowData(
        data,
        timestamp_ns=1000 + index,
        first_frame=(1 << 40) + 17 * index,
        flags=[0, BlockFlag.GAP, BlockFlag.CORRUPTED | BlockFlag.DISCONTINUITY][index % 3],
        metadata={"index": index, "text": "x"} if index % 2 else None,
    )


@pytest.mark.parametrize(
    ("fmt", "made"),
    [
        (MONO, lambda index: np.full((1 + index, 1), index, np.float32)),
        (AudioFormat(48_000, 2, layout="planar"), lambda index: np.full((2, 1 + index), index, np.float32)),
        (AudioFormat(48_000, 2, sample_type="s24"), lambda index: np.full((1 + index, 2, 3), index, np.uint8)),
        (ArrayFormat("float64", (3, 2)), lambda index: np.full((3, 2), index, np.float64)),
        (ArrayFormat("int16", (4096,)), lambda index: np.full(4096, index, np.int16)),
        (BytesFormat(100), lambda index: b"%d" % index),
        (StructFormat(Score), Score),
    ],
    ids=lambda value: str(value) if not callable(value) else "",
)
def test_a_block_comes_out_as_it_went_in(path, fmt, made):
    script = [scripted(index, made(index)) for index in range(12)]
    collect = sent_through(path, fmt, script)
    assert len(collect.values) == 12
    for value, arrival, sent in zip(collect.values, collect.arrivals, script, strict=True):
        assert np.array_equal(value, sent.data) if isinstance(value, np.ndarray) else value == sent.data
        assert getattr(value, "shape", None) == getattr(sent.data, "shape", None)
        assert arrival.timestamp_ns == sent.timestamp_ns
        assert arrival.first_frame == sent.first_frame
        assert arrival.flags == sent.flags
        assert arrival.metadata == (sent.metadata or {})
    assert [arrival.sequence for arrival in collect.arrivals] == list(range(12))


# --- limits -----------------------------------------------------------------------------------------------------------------


def test_where_the_limit_is_reached_the_oldest_goes(path):
    with Run(path, max_blocks=10, then="drop_oldest") as run:
        run.fill()
        run.feed(95)
        counts = run.counts()
        assert (counts.stored, counts.depth_blocks, counts.dropped_blocks) == (95, 10, 85)
        run.end()
        assert run.consumer.numbers == [0, 1, 2, 3, 4, *range(90, 100)]
        assert run.consumer.flagged == [90]


def test_where_the_limit_is_reached_the_newest_goes(path):
    with Run(path, max_blocks=10, then="drop_newest") as run:
        run.fill()
        run.feed(95)
        counts = run.counts()
        assert (counts.stored, counts.depth_blocks, counts.dropped_blocks) == (10, 10, 85)
        run.consumer.let(8)
        run.wait_until(lambda: run.counts().depth_blocks < 6)
        run.feed(2)
        run.end()
        assert run.consumer.numbers == [*range(15), 100, 101]
        assert run.consumer.flagged == [100]


def test_where_the_limit_is_reached_it_waits(path):
    with Run(path, max_blocks=10, then="wait") as run:
        run.fill()
        run.feed(95, until=lambda: run.flow.get_flow_metrics(run.into.id).in_flight == 9)
        counts = run.counts()
        assert (counts.depth_blocks, counts.dropped_blocks) == (10, 0)
        run.consumer.let()
        run.wait_until(lambda: len(run.consumer.blocks) == 100)
        run.end()
        assert run.consumer.numbers == list(range(100))
        assert run.consumer.flagged == []


@pytest.mark.parametrize(("then", "left"), [("drop_oldest", [99]), ("drop_newest", [])])
def test_blocks_that_can_never_be_stored_are_dropped(path, then, left):
    with Run(path, max_bytes=10, then=then) as run:
        run.fill()
        run.feed(95)
        assert run.counts().depth_blocks == len(left)
        run.end()
        assert run.consumer.numbers == [0, 1, 2, 3, 4, *left]
        assert run.consumer.flagged == left
        assert run.counts().dropped_blocks == 95 - len(left)


def test_a_block_that_can_never_be_stored_drops_none_that_can(path):
    fmt = BytesFormat(1000)
    with DataFlowCoordinator() as flow:
        spool = flow.add(Spool(path, max_bytes=700, then="drop_oldest"))
        pipe = flow.pipeline(flow.register_pipeline("application", "spool.data", PipelineConfig(buffer_size=16), fmt))
        collect = flow.add(Collect())
        behind = flow.connect(spool.out, collect.data, buffer_size=1)
        behind.pause()
        flow.start()
        script = [b"1", b"2", b"3", b"4", b"5", bytes(1000), b"6", b"7"]
        for block in script:
            pipe.send(block)
            wait_until(lambda: not flow.get_flow_metrics(pipe.id).in_flight)
        pipe.end()
        behind.resume()
        assert flow.wait(LIMIT_S)
        flow.stop()
    # The large one waits in memory, and is what each newer one replaces.
    assert collect.values == [b"1", b"2", b"3", b"4", b"5", b"6", b"7"]
    assert [arrival.flags for arrival in collect.arrivals] == [0, 0, 0, 0, 0, BlockFlag.DISCONTINUITY, 0]
    assert spool.counts().dropped_blocks == 1


def test_blocks_that_can_never_be_stored_wait_for_room(path):
    with Run(path, max_bytes=10, then="wait") as run:
        run.fill()
        run.source.feed(95)
        run.consumer.let()
        run.wait_until(lambda: len(run.consumer.blocks) == 100)
        run.end()
        assert run.consumer.numbers == list(range(100))
        assert run.counts().stored == 0


@pytest.mark.parametrize("then", ["drop_oldest", "drop_newest"])
def test_a_control_block_is_never_dropped(path, then):
    fmt = BytesFormat(8)
    script = [FlowData(b"%d" % each, flags=BlockFlag.CONTROL if each in (5, 15) else 0) for each in range(20)]
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(script, fmt))
        spool = flow.add(Spool(path, max_bytes=ROOMY, max_blocks=3, then=then))
        collect = flow.add(Collect())
        into = flow.connect(source.out, spool.data, buffer_size=2)
        behind = flow.connect(spool.out, collect.data, buffer_size=1)
        behind.pause()
        flow.start()
        wait_until(lambda: flow.get_flow_metrics(into.id).in_flight >= 3)
        behind.resume()
        assert flow.wait(LIMIT_S)
        flow.stop()
    values = [int(value) for value in collect.values]
    assert {5, 15} <= set(values)
    assert values == sorted(values)
    assert len(values) + spool.counts().dropped_blocks == 20


@pytest.mark.parametrize(
    "limit", [{"max_buffer_bytes": 20}, {"backpressure_strategy": DropOldest(), "max_buffer_bytes": 20}]
)
def test_room_is_that_of_all_limits(path, limit):
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource([bytes([each] * (1 + each % 12)) for each in range(200)], BytesFormat(12)))
        spool = flow.add(Spool(path, max_bytes=ROOMY))
        collect = flow.add(Collect())
        flow.connect(source.out, spool.data, buffer_size=16)
        behind = flow.connect(spool.out, collect.data, buffer_size=16, **limit)
        behind.pause()
        flow.start()
        wait_until(lambda: spool.counts().stored + spool.counts().passed >= 200)
        behind.resume()
        assert flow.wait(LIMIT_S)
        flow.stop()
    assert [value[0] for value in collect.values] == list(range(200))


def test_what_is_dropped_is_counted_in_frames_too(path):
    script = [np.zeros((10 + index, 1), np.float32) for index in range(10)]
    with DataFlowCoordinator() as flow:
        spool = flow.add(Spool(path, max_bytes=1, then="drop_newest"))
        pipe = flow.pipeline(flow.register_pipeline("application", "spool.data", PipelineConfig(buffer_size=16), MONO))
        collect = flow.add(Collect())
        behind = flow.connect(spool.out, collect.data, buffer_size=1)
        behind.pause()
        flow.start()
        for block in script:
            pipe.send(block)
        wait_until(lambda: flow.get_flow_metrics(pipe.id).delivered >= len(script))
        pipe.end()
        behind.resume()
        assert flow.wait(LIMIT_S)
        flow.stop()
    counts = spool.counts()
    assert counts.dropped_blocks + counts.passed == 10
    came = sum(len(value) for value in collect.values)
    assert counts.dropped_frames == sum(len(block) for block in script) - came > 0


# --- the end, and another run -------------------------------------------------------------------------------------------------


def test_a_flow_that_is_stopped_leaves_the_rest_to_the_next_run(path):
    with Run(path) as run:
        run.feed(500)
        report = run.flow.stop(0)
        run.consumer.let()
        left = run.counts()
        (told,) = run.events(SpillLeft)
        assert (told.module, told.path, told.blocks, told.lost) == ("spool", str(path), left.depth_blocks, 0)
        assert left.depth_blocks >= 490
        come = report.pipelines[run.into.id].delivered
        assert come == left.passed + left.restored + left.depth_blocks
    with Run(path, begin=1000) as run:
        assert run.counts().leftover == left.depth_blocks
        run.feed(3)
        run.end()
        numbers = run.consumer.numbers
        assert numbers == [*range(500 - left.depth_blocks, 500), 1000, 1001, 1002]
        assert run.consumer.flagged == [1000]
        assert run.events(SpillLeft) == []
    with Run(path) as run:
        assert run.counts().leftover == 0
        run.end()


def run_and_spool(flow, source, spool, consumer, count):
    """Start a flow that spools so many blocks, which are in the spool when this returns."""
    into = flow.connect(source.out, spool.data, buffer_size=8)
    flow.connect(spool.out, consumer.data, buffer_size=4)
    flow.start()
    source.feed(count)
    wait_until(lambda: flow.get_flow_metrics(into.id).delivered >= count)


def test_a_spool_in_a_process_tells_what_it_leaves(path):
    with DataFlowCoordinator() as flow:
        source = flow.add(Fed())
        spool = flow.add(Spool(path, max_bytes=ROOMY), name="spool", placement="process")
        consumer = flow.add(Gated())
        run_and_spool(flow, source, spool, consumer, 300)
        consumer.let(1)
        wait_until(lambda: len(consumer.blocks) >= 1)
        with contextlib.suppress(FlowFailed):
            flow.stop(0)
        consumer.let()
        (left,) = [event for event in flow.events.history if isinstance(event, SpillLeft)]
        assert left.module == "spool"
        assert left.blocks >= 290
        assert spool.counts().stored == 0, "that is another instance"
    with SpoolStore(path, format=NUMBER, max_bytes=ROOMY) as store:
        assert store.depth_blocks == left.blocks


def test_a_failed_consumer_leaves_the_rest_to_the_next_run(path):
    class Fragile(Gated):
        def process(self, data):
            super().process(data)
            if len(self.blocks) == 100:
                raise ValueError("tripped")

    with DataFlowCoordinator() as flow:
        source = flow.add(Fed())
        spool = flow.add(Spool(path, max_bytes=ROOMY), name="spool")
        consumer = flow.add(Fragile())
        run_and_spool(flow, source, spool, consumer, 400)
        consumer.let()
        with pytest.raises(FlowFailed):
            flow.wait(LIMIT_S)
            flow.stop()
        left = spool.counts().depth_blocks
        assert left >= 290
    with Run(path) as run:
        run.end()
        assert run.consumer.numbers == list(range(400 - left, 400))


def test_what_a_killed_worker_has_stored_comes_in_the_next_run(path):
    with DataFlowCoordinator() as flow:
        source = flow.add(Fed())
        spool = flow.add(Spool(path, max_bytes=ROOMY), name="spool", placement="process")
        consumer = flow.add(Gated())
        run_and_spool(flow, source, spool, consumer, 1000)
        os.kill(flow.workers["spool"].pid, signal.SIGKILL)
        consumer.let()
        with pytest.raises(FlowFailed):
            flow.wait(LIMIT_S)
            flow.stop()
        taken = consumer.numbers
    with Run(path, begin=2000) as run:
        run.feed(1)
        run.end()
        came = run.consumer.numbers
        assert came[-1] == 2000
        left = came[:-1]
        assert left == list(range(left[0], left[-1] + 1))
        assert left[0] <= taken[-1] + 1, "repeated rather than lost"
        assert left[-1] >= 1000 - 66, "but for what was not committed"


def test_structs_of_another_shape_are_passed_over(path):
    with SpoolStore(path, format=StructFormat(Score), max_bytes=ROOMY) as store:
        for payload in (msgspec.msgpack.encode(Score(1)), msgspec.msgpack.encode({"points": "many"}), b"\xc1"):
            store.append(SpooledBlock(payload))
        store.append(SpooledBlock(msgspec.msgpack.encode(Score(2)), metadata=b"\xc1"))
        store.append(SpooledBlock(msgspec.msgpack.encode(Score(3))))
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource([Score(4)], StructFormat(Score)))
        spool = flow.add(Spool(path, max_bytes=ROOMY))
        collect = flow.add(Collect())
        flow.connect(source.out, spool.data, buffer_size=4)
        flow.connect(spool.out, collect.data, buffer_size=4)
        flow.run()
    assert collect.values == [Score(1), Score(3), Score(4)]
    assert [arrival.flags for arrival in collect.arrivals] == [0, BlockFlag.DISCONTINUITY, BlockFlag.DISCONTINUITY]
    assert spool.counts().dropped_blocks == 3


def test_the_next_run_has_to_be_of_the_same_format(path):
    sent_through(path, MONO, [np.zeros((8, 1), np.float32)] * 3)
    with pytest.raises(FlowFailed) as failed:
        sent_through(path, AudioFormat(44_100, 1), [np.zeros((8, 1), np.float32)])
    assert "got a spool of" in str(failed.value)


def test_two_spools_need_two_files(path):
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource([number(1)], NUMBER))
        for name in ("one", "two"):
            spool = flow.add(Spool(path, max_bytes=ROOMY), name=name)
            flow.connect(source.out, spool.data, buffer_size=4)
        with pytest.raises(FlowFailed, match="locked"):
            flow.run()


# --- a disk that fails -----------------------------------------------------------------------------------------------------------


def fail_the_disk(run):
    """Take the folder away, and wait until that was noticed."""
    shutil.rmtree(run.spool._path.parent)
    run.wait_until(lambda: run.events(SpillFailed))


def mend_the_disk(run):
    run.spool._path.parent.mkdir()
    run.wait_until(lambda: run.events(SpillRestored))


@pytest.mark.parametrize("then", ["drop_oldest", "drop_newest", "wait"])
def test_a_folder_that_is_removed_is_told_once_and_made_again(path, then):
    with Run(path, then=then) as run:
        run.feed(200)
        stored = run.counts().stored
        run.source.feed(1)
        fail_the_disk(run)
        (failed,) = run.events(SpillFailed)
        assert (failed.module, failed.path, failed.then) == ("spool", str(path), then)
        assert "Do not move or remove the file" in failed.reason
        # What is there can be taken; what comes is treated as the rule says.
        if then == "wait":
            run.source.feed(30)
        else:
            run.feed(30 - 1)
            run.wait_until(lambda: run.counts().dropped_blocks >= 20)
        run.consumer.let()
        run.wait_until(lambda: run.counts().depth_blocks == 0)
        mend_the_disk(run)
        (restored,) = run.events(SpillRestored)
        assert restored.lasted_s > 0
        assert restored.dropped == run.counts().dropped_blocks
        assert len(run.events(SpillFailed)) == 1
        run.wait_until(lambda: run.delivered == run.source.sent)
        run.consumer.open.clear()
        run.feed(50)
        run.wait_until(lambda: run.counts().stored > stored)
        assert path.exists()
        run.end()
        numbers = run.consumer.numbers
        assert numbers == sorted(set(numbers))
        assert numbers[:199] == list(range(199))
        jumps = [after for before, after in pairwise(numbers) if after != before + 1]
        assert run.consumer.flagged == jumps
        assert len(numbers) + run.counts().dropped_blocks == run.source.sent
        if then == "wait":
            assert jumps == []


def test_what_cannot_be_read_any_more_is_given_up(path):
    with Run(path) as run:
        run.feed(5000)
        run.wait_until(lambda: not run.spool._store.is_dirty)
        store = run.spool._store
        depth = run.counts().depth_blocks

        def refuse():
            raise SpoolUnavailable("the disk is broken", reason="io")

        store._read_ahead = refuse
        run.consumer.let()
        run.wait_until(lambda: run.events(SpillRestored))
        assert 0 < run.counts().dropped_blocks < depth
        assert run.spool._store is not store
        run.feed(10)
        run.end()
        numbers = run.consumer.numbers
        assert numbers[-10:] == list(range(5000, 5010))
        assert run.consumer.flagged == [after for before, after in pairwise(numbers) if after != before + 1] != []


def test_a_disk_that_is_missing_at_the_start_is_an_error(tmp_path):
    with pytest.raises(FlowFailed) as failed, Run(tmp_path / "missing" / "blocks.spool"):
        pass
    assert "Make the folder, or choose another one." in str(failed.value)


# --- what is refused ----------------------------------------------------------------------------------------------------------


def test_arguments():
    for options in ({"max_bytes": 0}, {"max_bytes": 1, "max_blocks": 0}, {"max_bytes": "1"}):
        with pytest.raises(ConfigurationError):
            Spool("a.spool", **options)
    with pytest.raises(UnknownName, match="did you mean 'drop_oldest'"):
        Spool("a.spool", max_bytes=1, then="drop_oldes")
    with pytest.raises(ConfigurationError):
        Spool("", max_bytes=1)
    assert repr(Spool("a.spool", max_bytes=1)) == "<Spool 'a.spool': 0 blocks wait, then drop_oldest>"
