"""Blocks that somebody keeps: how many, for how long, in which thread they go, and who is told when they are too many."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import queue
import signal
import threading
import weakref

import msgspec
import numpy as np
import pytest

from steadyflow import (
    ArrayFormat,
    AudioFormat,
    Block,
    BytesFormat,
    DataFlowCoordinator,
    FlowData,
    FlowFailed,
    Input,
    Module,
    Output,
    PipelineConfig,
    Source,
    StructFormat,
    _native,
)
from steadyflow.errors import CorruptedSegment
from steadyflow.events import ViewsExhausted
from steadyflow.testing import Collect, ScriptedSource

LIMIT_S = 20
LARGE = AudioFormat(48_000, 1, max_block_frames=2048)


def block(value, frames=2048):
    return np.full((frames, 1), value, np.float32)


@pytest.fixture
def flow():
    with DataFlowCoordinator("kept") as flow:
        yield flow


@pytest.fixture
def opened(flow):
    def make(size=4, fmt=LARGE, name="app"):
        return flow.pipeline(flow.register_pipeline(name, "reader", PipelineConfig(size), fmt))

    return make


@pytest.fixture
def eager_collector():
    """The garbage collector at every allocation: wherever it can come between, it does."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


def is_view(samples):
    return not samples.flags.owndata


def held_of(flow, pipe):
    """How many buffers of an open source are held by views, by the shared memory itself."""
    place = flow._opened[pipe.id]
    return _native.held_buffers(place.segment, place.pool)


def exhausted(flow):
    return [
        (event.pipeline, event.module, event.limit)
        for event in flow.report().events
        if isinstance(event, ViewsExhausted)
    ]


# --- too many views --------------------------------------------------------------------------------------------------------


class Keeps(Module):
    """Keeps every block that comes, and lets all go where it is told to."""

    audio = Input(LARGE)

    def __init__(self):
        self.kept = []

    def process(self, audio):
        self.kept.append(audio.samples)


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_a_module_that_keeps_too_many_is_named_once(flow, placement):
    source = flow.add(ScriptedSource([block(number) for number in range(10)], LARGE), worker="source")
    keeps = flow.add(Keeps(), name="keeps", placement=placement)
    modest = flow.add(Collect(), name="modest")
    link = flow.connect(source.out, keeps.audio, buffer_size=3)
    flow.connect(source.out, modest.data, buffer_size=3)
    report = flow.run()
    assert exhausted(flow) == [(link.id, "keeps", 3)]
    assert report.pipelines[link.id].kept_copies == 7
    assert report.pipelines[link.id].delivered == 10
    if placement == "thread":
        assert [float(each[0, 0]) for each in keeps.kept] == [*range(10)]
        assert [is_view(each) for each in keeps.kept] == [True] * 3 + [False] * 7
        assert all(each.flags.writeable for each in keeps.kept[3:])


def test_each_pipeline_has_a_quota_and_an_event_of_its_own(flow):
    source = flow.add(ScriptedSource([block(number) for number in range(6)], LARGE), worker="source")
    first, second = flow.add(Keeps(), name="first"), flow.add(Keeps(), name="second")
    links = [
        flow.connect(source.out, first.audio, buffer_size=2),
        flow.connect(source.out, second.audio, buffer_size=4),
    ]
    flow.run()
    assert sorted(exhausted(flow)) == [(links[0].id, "first", 2), (links[1].id, "second", 4)]
    assert [sum(is_view(each) for each in keeps.kept) for keeps in (first, second)] == [2, 4]


def test_an_open_end_that_keeps_too_many_is_named(flow, opened):
    pipe = opened(2)
    source = flow.add(ScriptedSource([block(number) for number in range(3)], LARGE))
    other = flow.connect(source.out, "collector", buffer_size=3)
    kept = []
    for number in range(4):
        pipe.send(block(number))
        kept.append(pipe.receive(timeout_s=0).samples)
        assert exhausted(flow) == ([] if number < 2 else [(pipe.id, "reader", 2)])
    flow.run()
    kept.extend(other.receive(timeout_s=0).samples for _ in range(3))
    assert exhausted(flow) == [(pipe.id, "reader", 2)], "three views are within the quota of the other pipeline"


def test_a_started_open_end_that_keeps_too_many_is_named(flow):
    source = flow.add(ScriptedSource([block(number) for number in range(5)], LARGE))
    link = flow.connect(source.out, "collector", buffer_size=2)
    flow.start()
    kept = [link.receive(LIMIT_S).samples for _ in range(5)]
    assert exhausted(flow) == [(link.id, "collector", 2)]
    assert [is_view(each) for each in kept] == [True] * 2 + [False] * 3
    flow.stop()


def test_no_event_for_what_is_copied_anyway(flow):
    small, bytes_in = AudioFormat(48_000, 1, max_block_frames=1024), BytesFormat(100_000)
    for fmt, data in ((small, block(1, 1024)), (bytes_in, b"x" * 100_000)):
        name = fmt.__class__.__name__.lower()
        pipe = flow.pipeline(flow.register_pipeline(f"from-{name}", f"to-{name}", PipelineConfig(2), fmt))
        kept = []
        for _ in range(10):
            pipe.send(data)
            kept.append(pipe.receive(timeout_s=0).data)
        assert pipe.statistics().kept_copies == 0
    assert exhausted(flow) == []


def test_views_within_the_quota_are_given_again_once_others_go(opened):
    pipe = opened(2)
    for _ in range(3):
        kept = []
        for number in range(4):
            pipe.send(block(number))
            kept.append(pipe.receive(timeout_s=0).samples)
        assert [is_view(each) for each in kept] == [True, True, False, False]


def test_ports_have_no_memory_for_views_that_nobody_can_get(flow):
    """Bytes and structs are never viewed, however large: their ports need no buffers for that."""
    sizes = {}
    for name, fmt in {"bytes": BytesFormat(65_536), "arrays": ArrayFormat("u1", (65_536,))}.items():
        pipe = flow.pipeline(flow.register_pipeline(f"from-{name}", f"to-{name}", PipelineConfig(8), fmt))
        sizes[name] = flow._opened[pipe.id].segment.bytes
    assert sizes["bytes"] < 12 * 66_000 < 19 * 65_000 < sizes["arrays"]


# --- how long, and by whom --------------------------------------------------------------------------------------------------


def test_views_hold_their_buffers_exactly(flow, opened):
    pipe = opened(3)
    kept = []
    for number in range(3):
        pipe.send(block(number))
        kept.append(pipe.receive(timeout_s=0))
        assert held_of(flow, pipe) == number + 1
    part = kept[1].samples[7:9]
    again = np.frombuffer(memoryview(kept[2].samples), np.float32)
    del kept[1]
    assert held_of(flow, pipe) == 3
    kept.clear()
    assert held_of(flow, pipe) == 2
    assert part.ravel().tolist() == [1, 1]
    assert again.sum() == 2 * 2048
    del part
    assert held_of(flow, pipe) == 1
    del again
    assert held_of(flow, pipe) == 0


USES = {
    "slice": lambda samples: samples[::2, 0],
    "transposed": lambda samples: samples.T,
    "reshaped": lambda samples: samples.reshape(2, -1),
    "memoryview": memoryview,
    "frombuffer": lambda samples: np.frombuffer(samples, np.int32),
    "base of a subclass": lambda samples: samples.view(np.recarray),
    "masked": np.ma.masked_array,
    "iterator": iter,
    "ctypes": lambda samples: samples.ctypes,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_whatever_uses_the_memory_keeps_it(flow, opened, use):
    pipe = opened(1)
    pipe.send(block(1))
    kept = use(pipe.receive(timeout_s=0).samples)
    assert held_of(flow, pipe) == 1
    del kept
    gc.collect()
    assert held_of(flow, pipe) == 0


@pytest.mark.parametrize(
    ("fmt", "shape"),
    [
        (AudioFormat(8000, 3, "f64", "planar", 1000), (3, 777)),
        (AudioFormat(8000, 2, "s24", "interleaved", 1000), (1000, 2, 3)),
        (AudioFormat(8000, 2, "s24", "planar", 1000), (2, 999, 3)),
        (AudioFormat(8000, 1024, "u8", "interleaved", 64), (5, 1024)),
        (ArrayFormat("c16", (7, 1, 50)), (7, 1, 50)),
        (ArrayFormat("?", (5001,)), (5001,)),
        (ArrayFormat("i8", (2,) * 10), (2,) * 10),
    ],
    ids=str,
)
def test_views_of_every_format(flow, fmt, shape):
    pipe = flow.pipeline(flow.register_pipeline("app", "reader", PipelineConfig(1), fmt))
    for number in range(5):
        sent = (np.arange(np.prod(shape)) * (number + 1)).reshape(shape).astype(fmt.dtype)
        pipe.send(FlowData(sent, metadata={"number": number}))
        view = pipe.receive(timeout_s=0)
        pipe.send(sent)
        copied = pipe.receive(timeout_s=0)
        assert is_view(view.data)
        assert not is_view(copied.data)
        for received in (view, copied):
            assert received.data.flags.c_contiguous
            assert received.data.dtype == sent.dtype
            assert np.array_equal(received.data, sent)
        assert view.metadata == {"number": number}
        del view, received
    assert held_of(flow, pipe) == 0
    assert pipe.statistics().kept_copies == 5


def test_copies_of_a_view_are_private(flow, opened):
    pipe = opened(2)
    pipe.send(block(1))
    view = pipe.receive(timeout_s=0).samples
    copies = [view.copy(), copy.copy(view), copy.deepcopy(view), np.array(view), pickle.loads(pickle.dumps(view, 4))]
    in_band = pickle.loads(pickle.dumps(view, protocol=5))
    buffers = []
    pickled = pickle.dumps(view, protocol=5, buffer_callback=buffers.append)
    out_of_band = pickle.loads(pickled, buffers=[bytes(buffer) for buffer in buffers])
    del view, buffers
    assert held_of(flow, pipe) == 0
    for each in copies:
        assert each.flags.writeable
        each += 1
        assert (each == 2).all()
    assert (in_band == 1).all()
    assert (out_of_band == 1).all()


def test_weak_references_to_views_keep_nothing(flow, opened):
    pipe = opened(1)
    pipe.send(block(1))
    gone = []
    received = pipe.receive(timeout_s=0)
    reference = weakref.ref(received.samples, gone.append)
    weakref.finalize(received.samples, gone.append, "finalized")
    assert held_of(flow, pipe) == 1
    del received
    assert reference() is None
    assert len(gone) == 2
    assert held_of(flow, pipe) == 0


def test_a_kept_view_travels_on(flow):
    """From one pipeline to another, also back into its own: what is sent is what the view showed."""
    first = flow.pipeline(flow.register_pipeline("a", "b", PipelineConfig(2), LARGE))
    second = flow.pipeline(flow.register_pipeline("c", "d", PipelineConfig(2), LARGE))
    first.send(block(3))
    kept = first.receive(timeout_s=0)
    for pipe in (first, second, first):
        pipe.send(kept)
        pipe.send(kept.samples[:100])
        whole, part = pipe.receive(timeout_s=0), pipe.receive(timeout_s=0)
        assert (whole.samples == 3).all()
        assert part.samples.shape == (100, 1)
        assert (part.samples == 3).all()
        assert not np.shares_memory(whole.samples, kept.samples)
    assert (kept.samples == 3).all()


@pytest.mark.parametrize("ended", ["stopped", "closed", "died"])
def test_views_stay_after_their_worker_has_ended(ended):
    with DataFlowCoordinator() as flow:
        keeps = flow.add(Keeps(), name="keeps")
        dies = flow.add(Dies(), placement="process")
        source = flow.add(ScriptedSource([block(number) for number in range(4)], LARGE), worker="source")
        link = flow.connect(source.out, keeps.audio, buffer_size=4)
        pipe = flow.pipeline(flow.register_pipeline("app", "dies.data", PipelineConfig(2), LARGE))
        flow.start()
        if ended == "died":
            pipe.send(block(9))
            with pytest.raises(FlowFailed):
                flow.wait(LIMIT_S) and flow.stop()
        else:
            pipe.end()
            assert flow.wait(LIMIT_S)
            flow.stop()
        assert [float(each.mean()) for each in keeps.kept] == [*range(len(keeps.kept))]
        if ended == "closed":
            flow.close()
    del flow, source, link, pipe, dies
    gc.collect()
    assert [float(each.mean()) for each in keeps.kept] == [*range(len(keeps.kept))]
    assert all(is_view(each) for each in keeps.kept)
    keeps.kept.clear()


class Dies(Module):
    data = Input(LARGE)

    def process(self, data):
        os.kill(os.getpid(), signal.SIGKILL)


def test_holds_of_a_killed_worker_are_given_back(flow):
    """Views that a consumer kept, and the loan that a producer had: both are in the column of the dead process."""
    lends = flow.add(LendsAndDies(), name="lends", placement="process")
    link = flow.connect(lends.out, "app", buffer_size=2)
    flow.start()
    kept = link.receive(LIMIT_S)
    with pytest.raises(FlowFailed, match="killed by SIGKILL"):
        assert flow.wait(LIMIT_S)
        flow.stop()
    pool = flow._execution.layouts[0].wirings[link.id].lanes[0].pool
    segment = flow._execution.layouts[0].segments[pool.segment]
    assert _native.held_buffers(segment, pool.offset) == 1
    assert (kept.samples == 1).all()
    del kept
    assert _native.held_buffers(segment, pool.offset) == 0


class LendsAndDies(Source):
    out = Output(LARGE)

    def produce(self):
        with self.out.loan(2048) as samples:
            samples[:] = 1
        with self.out.loan(2048) as samples:
            samples[:] = 2
            os.kill(os.getpid(), signal.SIGKILL)
        yield


# --- threads and the garbage collector ------------------------------------------------------------------------------------------


def test_views_go_in_whatever_thread_drops_them_last(flow, opened):
    pipe = opened(4)
    handed: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
    seen = []

    def use():
        while (received := handed.get()) is not None:
            seen.append(float(received.samples.mean()))
            del received

    user = threading.Thread(target=use)
    user.start()
    for number in range(100):
        pipe.send(block(number))
        handed.put(pipe.receive(timeout_s=0))
    handed.put(None)
    user.join(LIMIT_S)
    assert seen == [*range(100)]
    assert held_of(flow, pipe) == 0


class Node:
    def __init__(self, value):
        self.value = value
        self.itself = self


def test_views_in_cycles_are_collected_in_another_thread(flow, opened):
    pipe = opened(4)
    gc.disable()
    try:
        for number in range(4):
            pipe.send(block(number))
            Node(pipe.receive(timeout_s=0).samples)
        assert held_of(flow, pipe) == 4
        collector = threading.Thread(target=gc.collect)
        collector.start()
        collector.join(LIMIT_S)
    finally:
        gc.enable()
    assert held_of(flow, pipe) == 0


class Payload(msgspec.Struct):
    samples: np.ndarray
    extra: object = None


def test_blocks_in_cycles_through_themselves_are_collected(flow, opened):
    """A decoded payload and metadata are Python objects, which may lead back to their block."""
    structs = flow.pipeline(flow.register_pipeline("s", "t", PipelineConfig(2), StructFormat(Payload)))
    views = opened(2)
    watched = []

    class Watched:
        pass

    def watch():
        watched.append(weakref.ref(thing := Watched()))
        return thing

    structs.send(Payload(np.zeros(3)))
    views.send(FlowData(block(1), metadata={"number": 1}))
    views.send(block(2))
    struct, stamped, plain = structs.receive(timeout_s=0), views.receive(timeout_s=0), views.receive(timeout_s=0)
    struct.data.extra = [struct, watch()]
    stamped.metadata["self"] = [stamped, watch()]
    plain.metadata["self"] = [plain, watch()]
    made = Block([watch()])
    made.data.append(made)
    del struct, stamped, plain, made
    gc.collect()
    assert [reference() for reference in watched] == [None] * 4
    assert held_of(flow, views) == 0


def test_blocks_that_are_used_again_are_whole(eager_collector):
    """Blocks share a list of free memory: what was collected is no part of the next one."""
    for number in range(500):
        made = Block(np.full(3, number), metadata={"number": number})
        other = Block(b"data")
        made.metadata["cycle"] = made
        assert other.data == b"data"
        assert other.metadata == {}
        assert made.data.tolist() == [number] * 3
        del made, other


class CollectsAlways(Module):
    """Provokes the collector in the middle of process(), with garbage that holds views."""

    audio = Input(LARGE)
    out = Output(LARGE)

    def __init__(self):
        self.last = None

    def process(self, audio):
        Node(audio.samples)
        Node(audio)
        self.last = audio.samples[1:]
        gc.collect()
        assert (self.last == audio.samples[0, 0]).all()
        with self.out.loan(audio.frames) as samples:
            samples[:] = audio.samples
            Node(samples.shape)
            gc.collect()


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_the_collector_may_run_at_any_time(flow, placement, eager_collector):
    source = flow.add(ScriptedSource([block(number) for number in range(30)], LARGE), worker="source")
    collects = flow.add(CollectsAlways(), name="collects", placement=placement)
    end = flow.add(Collect(), worker="end")
    flow.connect(source.out, collects.audio, buffer_size=2)
    flow.connect(collects.out, end.data, buffer_size=2)
    report = flow.run()
    assert [float(each.mean()) for each in end.values] == [*range(30)]
    assert report.pipelines["collects.out->collect.data"].loan_copies == 0


def test_blocks_move_while_views_come_and_go_in_other_threads(eager_collector):
    with DataFlowCoordinator() as flow:
        pipe = flow.pipeline(flow.register_pipeline("app", "reader", PipelineConfig(4), LARGE))
        kept: list[tuple[float, object]] = []
        lock = threading.Lock()
        stop = threading.Event()

        def churn():
            while not stop.is_set():
                with lock:
                    taken, kept[:] = kept[::2], kept[1::2]
                for value, samples in taken:
                    assert (samples == value).all()
                Node(taken)

        churners = [threading.Thread(target=churn) for _ in range(2)]
        for churner in churners:
            churner.start()
        try:
            for number in range(400):
                pipe.send(block(number))
                received = pipe.receive(timeout_s=LIMIT_S)
                assert received.samples[0, 0] == number
                with lock:
                    kept.append((number, received.samples))
        finally:
            stop.set()
            for churner in churners:
                churner.join(LIMIT_S)
        assert all((samples == value).all() for value, samples in kept)
        kept.clear()
        received = None
        gc.collect()
        assert held_of(flow, pipe) == 0


# --- what goes wrong in the middle ------------------------------------------------------------------------------------------------


def test_an_event_that_cannot_be_published_costs_one_block_and_no_buffer(flow, opened, monkeypatch):
    """The callback runs while the block is claimed: if it raises, the block is counted as failed and nothing leaks."""
    pipe = opened(2)
    kept = []
    for number in range(3):
        pipe.send(block(number))
        if number < 2:
            kept.append(pipe.receive(timeout_s=0).samples)

    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("steadyflow.runtime.open_ends.ViewsExhausted", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pipe.receive(timeout_s=0)
    metrics = pipe.statistics()
    assert metrics.dropped == {"failed": 1}
    assert metrics.in_flight == 0
    assert held_of(flow, pipe) == 2
    pipe.send(block(7))
    assert (pipe.receive(timeout_s=0).samples == 7).all(), "told once: it does not raise again"
    kept.clear()
    assert held_of(flow, pipe) == 0


def test_without_memory_nothing_stays_claimed(opened, flow):
    """Allocations fail one after the other in the middle of a receive; each time the block is counted, and nothing is held."""
    testcapi = pytest.importorskip("_testcapi")
    pipe = opened(2)
    failures = 0
    for start in range(12):
        pipe.send(FlowData(block(start), metadata={"number": start}))
        received = None
        try:
            testcapi.set_nomemory(start, start + 1)
            received = pipe.receive(0)
        except MemoryError:
            pass
        finally:
            testcapi.remove_mem_hooks()
        if received is None:
            failures += 1
        else:
            assert received.metadata == {"number": start}
            assert (received.samples == start).all()
        del received
        assert held_of(flow, pipe) == 0
        assert pipe.statistics().in_flight == 0
    metrics = pipe.statistics()
    assert metrics.dropped_total == failures > 0
    assert metrics.delivered == 12 - failures
    pipe.send(block(5))
    assert (pipe.receive(timeout_s=0).samples == 5).all()


def test_a_damaged_size_holds_nothing(flow, opened):
    pipe = opened(2)
    pipe.send(block(1))
    place = flow._opened[pipe.id]
    damage(place, b"\x01\x00\x00\x00")
    with pytest.raises(CorruptedSegment):
        pipe.receive(timeout_s=0)
    assert held_of(flow, pipe) == 0
    assert pipe.statistics().in_flight == 0


def damage(place, frames):
    """Overwrite the number of frames in the header of the first slot."""
    stats_bytes = _native.ring_bytes(0, 1)
    with open(f"/proc/self/fd/{place.segment.descriptor}", "r+b", buffering=0) as memory:  # noqa: PTH123
        memory.seek(place.ring + stats_bytes + 24 + 24 + 8)
        memory.write(frames)
