"""Budgets in running flows: late blocks, jitter buffer, pre-roll, gaps, alerts; with real threads and processes."""

import asyncio
import threading
import time

import numpy as np
import pytest

from steadyflow import (
    AudioDataPipeline,
    AudioFormat,
    AudioPipelineConfig,
    BlockFlag,
    BytesFormat,
    DataFlowCoordinator,
    DropOldest,
    FlowData,
    Input,
    Module,
    Output,
    PipelineConfig,
    ReceiveTimeout,
    Source,
    StateError,
)
from steadyflow.errors import ConfigurationError
from steadyflow.events import BudgetExceeded, BudgetRestored, ConsumerSharesLock
from steadyflow.testing import Collect

LIMIT_S = 20
FORMAT = AudioFormat(8_000, 1, max_block_frames=80)  # 10 ms
TEN_MS = np.ones((80, 1), np.float32)


def block(value, frames=80):
    return np.full((frames, 1), value, np.float32)


def wait_for(condition, what):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {LIMIT_S} s"
        time.sleep(0.002)


@pytest.fixture
def flow():
    with DataFlowCoordinator("budgets") as flow:
        yield flow


def opened(flow, **options):
    config = AudioPipelineConfig(**{"buffer_size": 16, "backpressure_strategy": DropOldest()} | options)
    pipe = flow.pipeline(flow.register_pipeline("app", "reader", config, FORMAT))
    assert isinstance(pipe, AudioDataPipeline)
    return pipe


def check_identity(metrics):
    assert metrics.sent == metrics.delivered + metrics.dropped_total + metrics.in_flight


def events(flow, kind):
    return [event for event in flow.report().events if isinstance(event, kind)]


# --- late -------------------------------------------------------------------------------------------------------------


def send_then_age(pipe, values, age_s):
    """Send blocks, and let them become so old at least."""
    for value in values:
        pipe.send(block(value))
    time.sleep(age_s)  # their age is what this is about


def test_late_blocks_are_dropped_before_anybody_sees_them(flow):
    pipe = opened(flow, max_latency_ms=30, late="drop")
    pipe.send(block(0))
    assert pipe.receive(timeout_s=0).samples[0, 0] == 0
    send_then_age(pipe, [1, 2, 3], 0.05)
    pipe.send(block(4))
    got = pipe.receive(timeout_s=LIMIT_S)
    assert got.samples[0, 0] == 4
    assert got.flags & BlockFlag.DISCONTINUITY
    assert got.sequence == 4
    pipe.send(block(5))
    assert not pipe.receive(timeout_s=LIMIT_S).flags
    metrics = pipe.statistics()
    assert metrics.dropped == {"late": 3}
    assert (metrics.delivered, metrics.late, metrics.concealed_blocks, metrics.in_flight) == (3, 0, 0, 0)
    assert metrics.missed_deadlines == 3
    assert metrics.worst_block is not None
    assert metrics.worst_block.sequence == 1
    assert metrics.worst_block.wait_ms >= 50
    check_identity(metrics)


def test_late_blocks_of_any_format_are_dropped(flow):
    config = PipelineConfig(8, max_latency_ms=30, late="drop")
    pipe = flow.pipeline(flow.register_pipeline("app", "reader", config, BytesFormat()))
    pipe.send(b"old")
    time.sleep(0.05)
    pipe.send(b"new")
    assert pipe.receive(timeout_s=LIMIT_S).data == b"new"
    assert pipe.statistics().dropped == {"late": 1}


def test_late_blocks_are_concealed_by_the_last_one_fading(flow):
    pipe = opened(flow, max_latency_ms=30, late="conceal")
    pipe.send(block(1))
    assert pipe.receive(timeout_s=0).samples.all()
    send_then_age(pipe, [7, 7, 7], 0.05)
    pipe.send(block(2))
    heard = [pipe.receive(timeout_s=LIMIT_S) for _ in range(4)]
    assert [each.flags for each in heard] == [BlockFlag.GAP] * 3 + [0]
    assert [each.first_frame for each in heard] == [80, 160, 240, 320]
    faded = np.concatenate([each.samples[:, 0] for each in heard[:3]])
    # 20 ms are 160 frames.
    expected = np.clip(1 - np.arange(240) / 160, 0, None)
    np.testing.assert_allclose(faded, expected, atol=1e-6)
    assert heard[3].samples[0, 0] == 2
    metrics = pipe.statistics()
    assert metrics.dropped == {"late": 3}
    assert (metrics.concealed_blocks, metrics.concealed_frames, metrics.delivered) == (3, 240, 2)
    check_identity(metrics)


def test_frames_that_are_missing_are_made_up_and_longer_gaps_are_left(flow):
    pipe = opened(flow, late="conceal")
    for first_frame in (0, 280, 280 + 80 + 8_001):
        pipe.send(FlowData(block(1), FORMAT, first_frame=first_frame, timestamp_ns=10**9 + first_frame * 125_000))
    heard = [pipe.receive(timeout_s=0) for _ in range(5)]
    assert [(each.first_frame, each.frames) for each in heard] == [(0, 80), (80, 80), (160, 80), (240, 40), (280, 80)]
    assert [bool(each.flags & BlockFlag.GAP) for each in heard] == [False, True, True, True, False]
    assert [each.timestamp_ns for each in heard] == [10**9 + each.first_frame * 125_000 for each in heard]
    assert pipe.receive(timeout_s=0).first_frame == 8_361
    metrics = pipe.statistics()
    assert (metrics.delivered, metrics.concealed_blocks, metrics.concealed_frames) == (3, 3, 200)


class Heard(Module):
    """Passes on the position and the flags of each block; the first takes a while."""

    audio = Input(FORMAT)
    out = Output(AudioFormat(8_000, 1, max_block_frames=80))

    def __init__(self, first_takes_s: float = 0.0) -> None:
        self.first_takes_s = first_takes_s

    def process(self, audio):
        time.sleep(self.first_takes_s)
        self.first_takes_s = 0.0
        return audio.samples


class AsyncHeard(Module):
    """The same in an event loop."""

    audio = Input(FORMAT)
    out = Output(AudioFormat(8_000, 1, max_block_frames=80))

    def __init__(self, first_takes_s: float = 0.0) -> None:
        self.first_takes_s = first_takes_s

    async def process(self, audio):
        await asyncio.sleep(self.first_takes_s)
        self.first_takes_s = 0.0
        return audio.samples


@pytest.mark.parametrize(
    ("kind", "placement"),
    [(Heard, "thread"), (Heard, "process"), (AsyncHeard, "thread")],
    ids=["thread", "process", "asyncio"],
)
@pytest.mark.parametrize("late", ["drop", "conceal"])
def test_modules_in_any_worker_get_no_late_block(flow, kind, placement, late):
    heard = flow.add(kind(0.2), name="heard", placement=placement)
    config = AudioPipelineConfig(32, max_latency_ms=100, late=late)
    pipe = flow.pipeline(flow.register_pipeline("app", heard.audio, config, FORMAT))
    back = flow.connect(heard.out, "back", buffer_size=64)
    flow.start()
    for value in range(1, 9):
        pipe.send(block(value))
    first = back.receive(timeout_s=LIMIT_S)  # while the module slept, the others became late
    pipe.send(block(9))
    pipe.end()
    rest = [back.receive(timeout_s=LIMIT_S) for _ in range(1 if late == "drop" else 8)]
    assert first.samples[0, 0] == 1
    assert rest[-1].samples[0, 0] == 9
    flow.wait(LIMIT_S)
    metrics = pipe.statistics()
    assert metrics.dropped == {"late": 7}
    assert metrics.delivered == 2
    if late == "drop":
        assert rest[0].flags & BlockFlag.DISCONTINUITY
    else:
        assert metrics.concealed_blocks == 7
        assert all(each.flags & BlockFlag.GAP for each in rest[:-1])
    check_identity(metrics)


class Unpaced(Source):
    out = Output(FORMAT)

    def produce(self):
        for _ in range(40):
            self.out.send(TEN_MS)
            yield


def test_a_file_that_nobody_waits_for_is_never_late(flow):
    source, slow = flow.add(Unpaced()), flow.add(Heard(0.1), name="slow", worker="slow")
    link = flow.connect(source.out, slow.audio, buffer_size=64, max_latency_ms=1, late="drop")
    metrics = flow.run().pipelines[link.id]
    assert (metrics.delivered, metrics.dropped, metrics.missed_deadlines, metrics.load_max) == (40, {}, 0, 0)


# --- jitter buffer ----------------------------------------------------------------------------------------------------


def test_a_jitter_buffer_fills_before_anything_comes_and_again_when_it_ran_dry(flow):
    pipe = opened(flow, target_fill_ms=30)
    for _ in range(2):
        for value in (1, 2):
            pipe.send(block(value))
            with pytest.raises(ReceiveTimeout):
                pipe.receive(timeout_s=0)
        pipe.send(block(3))
        assert [pipe.receive(timeout_s=0).samples[0, 0] for _ in range(3)] == [1, 2, 3]
        with pytest.raises(ReceiveTimeout):
            pipe.receive(timeout_s=0)
    pipe.send(block(4))
    pipe.end()  # what will never be more is enough
    assert pipe.receive(timeout_s=LIMIT_S).samples[0, 0] == 4
    check_identity(pipe.statistics())


@pytest.mark.parametrize("worker", [None, "own"], ids=["one worker", "two workers"])
def test_a_module_behind_a_jitter_buffer_gets_everything_at_the_end(flow, worker):
    source, seen = flow.add(Unpaced()), flow.add(Collect(), worker=worker, name="seen")
    flow.connect(source.out, seen.data, buffer_size=8, target_fill_ms=70)
    assert flow.run().modules["seen"].calls == 40


# --- pre-roll ---------------------------------------------------------------------------------------------------------


class Gated(Module):
    """Wants its input only between two loud blocks; what opens it comes by another input."""

    audio = Input(FORMAT)
    gate = Input(FORMAT)
    out = Output(FORMAT)

    def setup(self):
        self.audio.hold()

    def process_audio(self, audio):
        return audio.samples

    def process_gate(self, gate):
        if gate.samples[0, 0]:
            self.audio.release()
        else:
            self.audio.hold()


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_what_came_before_is_heard_first_when_the_gate_opens(flow, placement):
    gated = flow.add(Gated(), name="gated", placement=placement)
    config = AudioPipelineConfig(16, max_latency_ms=100, late="drop", preroll_ms=30)
    pipe = flow.pipeline(flow.register_pipeline("app", gated.audio, config, FORMAT))
    gate = flow.pipeline(flow.register_pipeline("gate", gated.gate, PipelineConfig(4), FORMAT))
    back = flow.connect(gated.out, "back", buffer_size=64)
    flow.start()
    for value in range(1, 11):
        pipe.send(block(value))
    wait_for(lambda: pipe.statistics().dropped == {"unwanted": 7}, "seven blocks that nobody wants")
    time.sleep(0.15)  # longer than the limit: what is kept is old, and that makes it not late
    gate.send(block(1))
    assert [back.receive(timeout_s=LIMIT_S).samples[0, 0] for _ in range(3)] == [8, 9, 10]
    pipe.send(block(11))
    assert back.receive(timeout_s=LIMIT_S).samples[0, 0] == 11
    gate.send(block(0))
    wait_for(lambda: gate.statistics().delivered == 2, "closed gate")
    for value in (12, 13):
        pipe.send(block(value))
    pipe.end()  # a held input ends all the same, and nobody wants what is left
    gate.end()
    assert flow.wait(LIMIT_S)
    metrics = pipe.statistics()
    assert metrics.dropped == {"unwanted": 9}
    assert (metrics.delivered, metrics.late, metrics.health_score) == (4, 0, 100)
    check_identity(metrics)


def test_the_application_holds_its_own_end(flow):
    pipe = opened(flow, preroll_ms=20)
    pipe.hold()
    for value in range(5):
        pipe.send(block(value))
    with pytest.raises(ReceiveTimeout):
        pipe.receive(timeout_s=0)
    receiving = threading.Thread(target=lambda: got.append(pipe.receive(timeout_s=LIMIT_S)))
    got = []
    receiving.start()
    pipe.release()  # wakes whoever waits
    receiving.join(LIMIT_S)
    assert got[0].samples[0, 0] == 3
    assert got[0].flags & BlockFlag.DISCONTINUITY
    assert pipe.receive(timeout_s=0).samples[0, 0] == 4
    assert pipe.statistics().dropped == {"unwanted": 3}


def test_what_cannot_be_held_says_so(flow):
    pipe = opened(flow, target_fill_ms=20)
    pipe.hold()  # it keeps blocks back anyway; as a pre-roll of nothing
    pipe.release()
    plain = flow.pipeline(flow.register_pipeline("other", "reader2", AudioPipelineConfig(4), FORMAT))
    with pytest.raises(StateError, match="preroll_ms in its settings"):
        plain.hold()
    with pytest.raises(StateError, match=r"connect this input with preroll_ms="):
        Heard().audio.hold()


def test_replicas_are_refused_where_one_consumer_has_to_see_everything(flow):
    heard = flow.add(Heard(), name="heard", placement="process", replicas=2)
    flow.register_pipeline("app", heard.audio, AudioPipelineConfig(8, target_fill_ms=20), FORMAT)
    with pytest.raises(ConfigurationError, match=r"app->heard.audio: .*'heard' has 2 replicas"):
        flow.start()


# --- alerts -----------------------------------------------------------------------------------------------------------


class Slow(Module):
    """Works for a time that a block says, in ms."""

    audio = Input(FORMAT)

    def process(self, audio):
        time.sleep(float(audio.samples[0, 0]) / 1000)


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_an_exceeded_budget_is_told_while_it_happens_and_so_is_its_end(flow, placement):
    slow = flow.add(Slow(), name="slow", placement=placement)
    pipe = flow.pipeline(flow.register_pipeline("app", slow.audio, PipelineConfig(64, max_latency_ms=500), FORMAT))
    flow.start()

    def send_until(value, kind):
        def done():
            if pipe.statistics().in_flight == 0:
                pipe.send(block(value))
            return events(flow, kind)

        wait_for(done, kind.__name__)

    send_until(510, BudgetExceeded)
    (told,) = events(flow, BudgetExceeded)
    assert (told.pipeline, told.limit, told.deadline_ms) == (pipe.id, 1.0, 500.0)
    assert told.share > 1
    assert told.worst is not None
    assert told.worst.busy_ms >= 500
    assert not events(flow, BudgetRestored)
    send_until(0, BudgetRestored)
    report = flow.stop()
    assert len([each for each in report.events if isinstance(each, BudgetExceeded)]) == 1
    metrics = report.pipelines[pipe.id]
    assert metrics.missed_deadlines >= 3
    assert metrics.load_max > 50  # of 10 ms
    assert metrics.period_ms == 10.0
    assert f"{pipe.id}: {metrics.missed_deadlines} deadlines missed" in str(report)


def test_a_consumer_that_hangs_is_told_of_before_it_has_finished_anything(flow):
    released = threading.Event()

    class Hangs(Module):
        audio = Input(FORMAT)

        def process(self, audio):
            released.wait(LIMIT_S)

    hangs = flow.add(Hangs(), name="hangs")
    flow.register_pipeline("app", hangs.audio, PipelineConfig(4, max_latency_ms=20), FORMAT)
    flow.start()
    flow.pipeline("app->hangs.audio").send(TEN_MS)
    wait_for(lambda: events(flow, BudgetExceeded), "alert")
    assert flow.get_flow_metrics("app->hangs.audio").delivered == 0
    assert events(flow, BudgetExceeded)[0].worst is None
    released.set()


def test_without_a_budget_nobody_is_told(flow):
    slow = flow.add(Slow(), name="slow")
    pipe = flow.pipeline(flow.register_pipeline("app", slow.audio, PipelineConfig(64), FORMAT))
    flow.start()
    for _ in range(12):
        pipe.send(block(15))
    pipe.end()
    flow.wait(LIMIT_S)
    assert pipe.statistics().missed_deadlines == 12
    assert not events(flow, BudgetExceeded)


def test_the_threads_that_watch_end_with_the_flow(flow):
    slow = flow.add(Slow(), name="slow")
    pipe = flow.pipeline(flow.register_pipeline("app", slow.audio, PipelineConfig(8, max_latency_ms=50), FORMAT))
    flow.start()
    assert "steadyflow-watch" in {thread.name for thread in threading.enumerate()}
    pipe.end()
    flow.wait(LIMIT_S)
    assert "steadyflow-watch" not in {thread.name for thread in threading.enumerate()}


# --- the interpreter lock ---------------------------------------------------------------------------------------------


def compute_until(stopped):
    while not stopped.is_set():
        sum(range(2000))


@pytest.mark.parametrize("priority", ["critical", "normal"])
def test_a_critical_consumer_that_waits_for_the_lock_is_told_of_once(flow, priority):
    slow = flow.add(Slow(), name="slow")
    config = PipelineConfig(64, priority=priority)
    pipe = flow.pipeline(flow.register_pipeline("app", slow.audio, config, FORMAT))
    flow.start()
    stopped = threading.Event()
    computing = [threading.Thread(target=compute_until, args=(stopped,), daemon=True)]
    for thread in computing:
        thread.start()
    try:
        sent = 0
        # How many of them wait for long is chance, so it goes on until one in a hundred has. Reading all statistics would
        # give the lock up in between, and shift that chance.
        while sent < 260 or (priority == "critical" and not events(flow, ConsumerSharesLock)):
            pipe.send(block(0))
            sent += 1
            assert sent < 10_000, "no warning"
            wait_for(lambda: pipe.rings[0].in_flight == 0, "finished block")
    finally:
        stopped.set()
        for thread in computing:
            thread.join(LIMIT_S)
    report = flow.stop()
    told = [each for each in report.events if isinstance(each, ConsumerSharesLock)]
    assert len(told) == (priority == "critical")
    for event in told:
        assert (event.pipeline, event.module, event.period_ms) == (pipe.id, "slow", 10.0)
        assert event.gil_p99_ms > 1
        assert "placement='process'" in event.advice
