"""Changing a flow that runs: what is added, taken away and replaced, what becomes of it, and what is refused."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from tests.integration.changing_flows import FORMAT, Pass, Ticks, is_gapless, numbers, wait_until

from steadyflow import (
    Aligned,
    AudioFormat,
    BytesFormat,
    DataFlowCoordinator,
    DropOldest,
    EndOfStream,
    FormatClash,
    Input,
    Module,
    Output,
    PipelineClosed,
    PipelineConfig,
    Source,
    StateError,
    audio,
    events,
    module,
)
from steadyflow.errors import BudgetRefused, ConfigurationError, ModuleFailed, UnknownName
from steadyflow.testing import Collect, ManualClock

PLACEMENTS = pytest.mark.parametrize("placement", ["thread", "process"])


class Marked(Pass):
    """Marks what it passes on, and says when it ends."""

    def __init__(self, mark=""):
        super().__init__()
        self.mark = mark

    def process(self, block):
        return bytes(block.data) + self.mark.encode()

    def finish(self):
        self.out.send(b"end" + self.mark.encode())


class Wide(Module):
    data = Input(FORMAT)
    out = Output(BytesFormat(max_bytes=128))

    def process(self, block):
        return bytes(block.data)


class Broken(Module):
    data = Input(FORMAT)

    def setup(self):
        raise OSError("no model there")

    def process(self, block):
        raise AssertionError("it was never set up")


class Stuck(Module):
    """Waits in the middle of its first block."""

    data = Input(FORMAT)
    blocking = True

    def __init__(self):
        self.entered = threading.Event()
        self.leave = threading.Event()

    def process(self, block):
        self.entered.set()
        self.leave.wait(30)


class Mix(Module):
    left = Input(AudioFormat())
    right = Input(AudioFormat())
    out = Output(like="left")
    aligned = Aligned("left", "right")

    def process(self, left, right):
        return left.samples + right.samples


def delivered(flow, pipeline):
    return flow.get_flow_metrics(pipeline).delivered


@pytest.fixture
def flow():
    with DataFlowCoordinator("changed") as flow:
        yield flow


def started(flow, placement="thread", **options):
    flow.add(Ticks(**options), name="ticks", placement=placement)
    first = flow.add(Collect(), name="first")
    flow.connect("ticks.out", first.data, buffer_size=8)
    flow.start()
    wait_until(lambda: delivered(flow, "ticks.out->first.data") > 5)
    return first


# --- what is added ----------------------------------------------------------------------------------------------------


@PLACEMENTS
def test_what_is_connected_gets_every_block_from_then_on(flow, placement):
    first = started(flow, placement)
    late = flow.add(Collect(), name="late")
    assert flow.registry.state_of("late") == "added"
    pipeline = flow.connect("ticks.out", late.data, buffer_size=8)
    assert flow.registry.state_of("late") == "running"
    wait_until(lambda: delivered(flow, pipeline) > 20)
    report = flow.stop()
    assert is_gapless(numbers(late.values))
    assert numbers(late.values)[0] > 0
    assert is_gapless(numbers(first.values))
    assert late.values[-1] == first.values[-1]
    assert report.modules["late"].worker == "late"
    assert report.pipelines[pipeline.id].sent == len(late.values)


def test_several_changes_are_one(flow):
    flow.add(audio.Tone(440, block_frames=64), name="tone")
    flow.connect("tone.out", flow.add(Collect(), name="first").data, buffer_size=8)
    flow.start()
    with flow.changes():
        mix, after = flow.add(Mix(), name="mix"), flow.add(Collect(), name="after")
        flow.connect("tone.out", mix.left, buffer_size=8)
        flow.connect("tone.out", mix.right, buffer_size=8)
        flow.connect(mix.out, after.data, buffer_size=8)
        assert "mix" not in flow.workers
    wait_until(lambda: delivered(flow, "mix.out->after.data") > 10)
    flow.stop()
    assert after.values[0].shape == (64, 1)


def test_one_that_fails_leaves_all_of_them_undone(flow):
    first = started(flow)
    before = list(flow.pipelines)
    with pytest.raises(UnknownName), flow.changes():
        late = flow.add(Collect(), name="late")
        flow.connect("ticks.out", late.data, buffer_size=8)
        flow.connect("ticks.ouch", late.data, buffer_size=8)
    assert list(flow.pipelines) == before
    assert flow.registry.state_of("late") == "added"
    flow.connect("ticks.out", late.data, buffer_size=8)
    wait_until(lambda: delivered(flow, "ticks.out->late.data") > 5)
    flow.stop()
    assert is_gapless(numbers(first.values))


def test_changes_are_not_made_inside_of_others(flow):
    started(flow)
    with flow.changes(), pytest.raises(StateError, match="before another one begins"), flow.changes():
        raise AssertionError("it was entered")


def test_before_the_start_changes_make_no_difference(flow):
    with flow.changes():
        flow.add(Ticks(last=3), name="ticks")
        collect = flow.add(Collect(), name="collect")
        flow.connect("ticks.out", collect.data, buffer_size=8)
    flow.run()
    assert numbers(collect.values) == [0, 1, 2]


@PLACEMENTS
def test_a_module_whose_setup_fails_changes_nothing(flow, placement):
    first = started(flow)
    broken = flow.add(Broken(), name="broken", placement=placement)
    with pytest.raises(ModuleFailed, match="no model there"):
        flow.connect("ticks.out", broken.data, buffer_size=8)
    assert list(flow.pipelines) == ["ticks.out->first.data"]
    assert "broken" not in flow.workers
    assert flow.registry.state_of("broken") == "failed"
    before = len(first.values)
    wait_until(lambda: delivered(flow, "ticks.out->first.data") > before + 20)
    flow.stop()
    assert is_gapless(numbers(first.values))


def test_the_application_can_join_at_both_ends(flow):
    first = started(flow)
    sending = flow.pipeline(flow.register_pipeline("app", "first", PipelineConfig(buffer_size=4), FORMAT))
    sending.send(b"-1")
    receiving = flow.pipeline(flow.register_pipeline("ticks", "listener", PipelineConfig(buffer_size=500)))
    got = [int(receiving.receive(5).data) for _ in range(10)]
    assert is_gapless(got)
    wait_until(lambda: b"-1" in first.values)
    flow.disconnect(sending)
    with pytest.raises(PipelineClosed, match="disconnected"):
        sending.send(b"-2")
    flow.disconnect(receiving)
    with pytest.raises(EndOfStream):
        while True:
            got.append(int(receiving.receive(5).data))
    assert is_gapless(got)
    wait_until(lambda: delivered(flow, "ticks.out->first.data") > 5)
    flow.stop()


def test_a_source_that_is_added_loses_nothing(flow):
    first = started(flow)
    more = flow.add(Ticks(first=10**6, last=10**6 + 50), name="more")
    flow.connect(more.out, first.data, buffer_size=8)
    wait_until(lambda: flow.registry.state_of("more") == "ended")
    flow.stop()
    values = numbers(first.values)
    assert [value for value in values if value >= 10**6] == list(range(10**6, 10**6 + 50))
    assert is_gapless([value for value in values if value < 10**6])


def test_a_pipeline_is_recorded_while_it_flows(flow, tmp_path):
    from steadyflow.recording import replay

    started(flow)
    link = flow.record("ticks.out->first.data", tmp_path / "take.mcap")
    wait_until(lambda: delivered(flow, link) > 20)
    flow.stop()
    with DataFlowCoordinator("again") as again:
        again.add(replay(tmp_path / "take.mcap"), name="take")
        collect = again.add(Collect(), name="collect")
        again.connect("take", collect.data, buffer_size=8)
        again.run()
    assert is_gapless(numbers(collect.values))


# --- what is taken away -----------------------------------------------------------------------------------------------


@PLACEMENTS
def test_what_is_in_a_pipeline_comes_before_it_is_taken_away(flow, placement):
    flow.add(Ticks(), name="ticks", placement=placement)
    slow = flow.add(Collect(), name="slow", worker="slow")
    pipeline = flow.connect("ticks.out", slow.data, buffer_size=50, backpressure_strategy=DropOldest())
    flow.start()
    pipeline.pause()
    wait_until(lambda: flow.get_flow_metrics(pipeline).fill > 20)
    flow.disconnect(pipeline)
    report = flow.report()
    account = report.pipelines[pipeline.id]
    assert account.sent == account.delivered + account.dropped.get("oldest", 0)
    assert account.delivered == len(slow.values) >= 20
    assert pipeline.id not in flow.pipelines
    assert flow.registry.state_of("slow") == "running"
    told = [event for event in report.events if isinstance(event, events.PipelineDisconnected)]
    assert [(event.sent, event.delivered) for event in told] == [(account.sent, account.delivered)]
    with pytest.raises(PipelineClosed, match="disconnected"):
        pipeline.pause()


def test_what_waits_can_be_discarded(flow):
    flow.add(Ticks(), name="ticks", worker="ticks")
    stuck = flow.add(Stuck(), name="stuck")
    pipeline = flow.connect("ticks.out", stuck.data, buffer_size=8)
    flow.start()
    assert stuck.entered.wait(10)
    wait_until(lambda: flow.get_flow_metrics(pipeline).fill == 8)
    threading.Timer(0.1, stuck.leave.set).start()
    flow.disconnect(pipeline, discard=True)
    account = flow.report().pipelines[pipeline.id]
    assert account.sent == account.delivered + account.dropped["flushed"]
    assert account.dropped["flushed"] >= 8


def test_what_does_not_drain_in_time_is_dropped(flow):
    first = started(flow)
    stuck = flow.add(Stuck(), name="stuck")
    pipeline = flow.connect("ticks.out", stuck.data, buffer_size=8, backpressure_strategy=DropOldest())
    assert stuck.entered.wait(10)
    wait_until(lambda: flow.get_flow_metrics(pipeline).fill == 8)
    with pytest.raises(StateError, match="between two blocks"):
        flow.disconnect(pipeline)
    assert pipeline.id in flow.pipelines
    stuck.leave.set()
    flow.disconnect(pipeline)
    before = delivered(flow, "ticks.out->first.data")
    wait_until(lambda: delivered(flow, "ticks.out->first.data") > before)
    flow.stop()
    assert is_gapless(numbers(first.values))


def test_a_fused_pipeline_is_taken_away_too(flow):
    first = started(flow)
    flow.disconnect("ticks.out->first.data")
    came = len(first.values)
    again = flow.connect("ticks.out", first.data, buffer_size=8)
    wait_until(lambda: delivered(flow, again) > 10)
    flow.stop()
    values = numbers(first.values)
    assert is_gapless(values[:came])
    assert is_gapless(values[came:])


def test_a_module_that_nothing_leads_into_ends_with_the_others(flow):
    flow.add(Ticks(last=300), name="ticks")
    first, second = flow.add(Collect(), name="first"), flow.add(Collect(), name="second")
    for each in (first, second):
        flow.connect("ticks.out", each.data, buffer_size=8)
    flow.start()
    flow.disconnect("ticks.out->second.data")
    assert flow.wait(30)
    report = flow.stop()
    assert len(first.values) == 300
    assert {report.modules[name].state for name in ("first", "second")} == {"ended"}


def test_conversions_give_all_they_have(flow):
    flow.add(audio.Tone(440, block_frames=480), name="tone")
    flow.connect("tone.out", flow.add(Collect(), name="first").data, buffer_size=8)
    flow.start()
    low = flow.add(_low(), name="low")
    pipeline = flow.connect("tone.out", low.audio, buffer_size=8, transformation_required=True)
    wait_until(lambda: delivered(flow, pipeline) > 20)
    flow.disconnect(pipeline)
    sent = flow.report().pipelines[pipeline.id].sent
    assert sum(low.frames) == sent * 160
    flow.stop()


def _low():
    @module(input=AudioFormat(16_000, 1))
    def low(audio):
        low_module.frames.append(len(audio.samples))

    low_module = low()
    low_module.frames = []
    return low_module


def test_before_the_start_a_pipeline_is_just_forgotten(flow):
    flow.add(Ticks(last=3), name="ticks")
    collect = flow.add(Collect(), name="collect")
    pipeline = flow.connect("ticks.out", collect.data, buffer_size=8)
    flow.disconnect(pipeline)
    assert not flow.pipelines
    flow.connect("ticks.out", collect.data, buffer_size=4)
    flow.run()
    assert numbers(collect.values) == [0, 1, 2]


def test_the_memory_of_what_is_taken_away_is_given_back(flow):
    started(flow)
    late = flow.add(Collect(), name="late")
    for _ in range(50):
        flow.disconnect(flow.connect("ticks.out", late.data, buffer_size=8))
    assert len(flow._execution.segments) <= 3


# --- what is replaced -------------------------------------------------------------------------------------------------


@PLACEMENTS
@pytest.mark.parametrize("before", ["thread", "process"])
def test_what_the_new_module_sends_comes_after_all_of_the_old_one(flow, before, placement):
    flow.add(Ticks(), name="ticks", placement=before)
    flow.add(Marked("a"), name="mark", placement=before)
    last = flow.add(Collect(), name="last")
    flow.connect("ticks.out", "mark.data", buffer_size=8)
    link = flow.connect("mark.out", last.data, buffer_size=8)
    flow.start()
    wait_until(lambda: delivered(flow, link) > 10)
    new = Marked("b")
    assert flow.replace("mark", new, placement=placement) is new
    assert flow.modules["mark"] is new
    came = delivered(flow, link)
    wait_until(lambda: delivered(flow, link) > came + 10)
    report = flow.stop()
    values = [value.decode() for value in last.values]
    end = values.index("enda")
    assert values[-1] == "endb"
    assert is_gapless([int(value.removesuffix("a")) for value in values[:end]])
    kept = [*(value[:-1] for value in values[:end]), *(value[:-1] for value in values[end + 1 : -1])]
    assert is_gapless(numbers(kept))
    assert report.pipelines[link.id].sent == report.pipelines[link.id].delivered == len(values)
    assert flow.registry.state_of("mark") == "ended"
    assert [each.module for each in report.events if isinstance(each, events.ModuleReplaced)] == ["mark"]


def test_a_source_is_replaced_when_it_has_ended(flow):
    first = started(flow)
    flow.replace("ticks", Ticks(first=10**6))
    wait_until(lambda: int(first.values[-1]) > 10**6 + 5)
    flow.stop()
    values = numbers(first.values)
    new = values.index(10**6)
    assert is_gapless(values[:new])
    assert is_gapless(values[new:])


def test_open_ends_go_on_where_a_module_is_replaced(flow):
    flow.add(Marked("a"), name="mark", worker="old")
    sending = flow.pipeline(flow.register_pipeline("app", "mark", PipelineConfig(buffer_size=8), FORMAT))
    receiving = flow.pipeline(flow.register_pipeline("mark", "listener", PipelineConfig(buffer_size=8)))
    flow.start()
    sending.send(b"1")
    flow.replace("mark", Marked("b"))
    sending.send(b"2")
    got = [bytes(receiving.receive(5).data) for _ in range(3)]
    assert got == [b"1a", b"enda", b"2b"]
    assert receiving.statistics().delivered == 3
    sending.end()
    assert flow.wait(10)


def test_a_replacement_that_cannot_be_set_up_changes_nothing(flow):
    first = started(flow)
    broken = flow.add(Collect(), name="other")
    flow.connect("ticks.out", broken.data, buffer_size=8)
    with pytest.raises(ModuleFailed, match="no model there"):
        flow.replace("other", Broken())
    assert flow.modules["other"] is broken
    before = len(broken.values)
    wait_until(lambda: len(broken.values) > before + 10)
    flow.stop()
    assert is_gapless(numbers(broken.values))
    assert is_gapless(numbers(first.values))


class Other(Module):
    something = Input(FORMAT)

    def process(self, block):
        raise AssertionError


@pytest.mark.parametrize(
    ("by", "error", "text"),
    [
        (Wide, FormatClash, r"expected .*64.*, as the module sends that is replaced, got .*128"),
        (Other, ConfigurationError, r"expected input data in Other, because it is connected; got something"),
        (Ticks, ConfigurationError, "expected no source in the place"),
        (str, ConfigurationError, "expected a Module, got str"),
    ],
)
def test_what_cannot_take_the_place_is_refused(flow, by, error, text):
    flow.add(Ticks(), name="ticks")
    flow.add(Pass(), name="pass")
    last = flow.add(Collect(), name="last")
    flow.connect("ticks.out", "pass.data", buffer_size=8)
    link = flow.connect("pass.out", last.data, buffer_size=8)
    flow.start()
    with pytest.raises(error, match=text):
        flow.replace("pass", by())
    came = delivered(flow, link)
    wait_until(lambda: delivered(flow, link) > came + 5)
    flow.stop()
    assert is_gapless(numbers(last.values))


def test_the_one_that_is_there_takes_no_place_of_its_own(flow):
    first = started(flow)
    with pytest.raises(ConfigurationError, match="in the flow already"):
        flow.replace("first", first)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_flow_that_has_not_begun_or_has_ended_is_not_changed(flow):
    with pytest.raises(StateError, match="expected a running flow"):
        flow.replace("ticks", Ticks())
    started(flow)
    flow.stop()
    for change in (
        lambda: flow.add(Collect()),
        lambda: flow.connect("ticks.out", "first.data", buffer_size=8),
        lambda: flow.disconnect("ticks.out->first.data"),
        flow.changes,
    ):
        with pytest.raises(StateError, match="is stopped"):
            change()


def test_a_module_that_has_ended_gets_no_pipeline(flow):
    flow.add(Ticks(), name="ticks")
    short = flow.add(Ticks(last=3), name="short")
    first = flow.add(Collect(), name="first")
    flow.connect(short.out, first.data, buffer_size=8)
    flow.connect("ticks.out", flow.add(Collect(), name="other").data, buffer_size=8)
    flow.start()
    wait_until(lambda: flow.registry.state_of("first") == "ended")
    with pytest.raises(StateError, match="'first': expected a module that runs; it has ended"):
        flow.connect("ticks.out", first.data, buffer_size=8)


def test_a_worker_does_not_wait_for_itself(flow):
    refused = []

    class Eager(Module):
        data = Input(FORMAT)

        def process(self, block):
            if not refused:
                with pytest.raises(StateError, match="would wait for itself") as error:
                    flow.disconnect("ticks.out->eager.data")
                refused.append(error.value)

    flow.add(Ticks(last=5), name="ticks")
    flow.connect("ticks.out", flow.add(Eager(), name="eager").data, buffer_size=8)
    flow.run()
    assert refused


def test_a_subscriber_may_change_the_flow(flow):
    late = Collect()

    def connect(_event):
        flow.add(late, name="late")
        flow.connect("ticks.out", late.data, buffer_size=8)

    flow.events.subscribe(events.DataFlowStarted, connect)
    started(flow)
    wait_until(lambda: len(late.values) > 5)
    flow.stop()


def test_a_worker_that_runs_is_not_shared(flow):
    started(flow)
    with pytest.raises(StateError, match="'main' does"):
        flow.add(Collect(), worker="main")
    with pytest.raises(ConfigurationError, match="expected no depends_on"):
        flow.add(Collect(), depends_on=("ticks",))


def test_a_freewheeling_flow_is_not_changed(flow):
    flow.add(Ticks(), name="ticks")
    flow.connect("ticks.out", flow.add(Collect(), name="first").data, buffer_size=8)
    flow.start(clock=ManualClock())
    late = flow.add(Collect(), name="late")
    with pytest.raises(StateError, match="this one freewheels"):
        flow.connect("ticks.out", late.data, buffer_size=8)


def test_replicas_and_aligned_inputs_are_left_alone(flow):
    flow.add(Ticks(), name="ticks")
    flow.add(Pass(), name="pass", placement="process", replicas=2)
    flow.connect("ticks.out", "pass.data", buffer_size=8)
    flow.connect("pass.out", flow.add(Collect(), name="last").data, buffer_size=8)
    flow.add(audio.Tone(440), name="tone")
    mix = flow.add(Mix(), name="mix")
    flow.connect("tone.out", mix.left, buffer_size=8)
    flow.connect("tone.out", mix.right, buffer_size=8)
    flow.start()
    with pytest.raises(ConfigurationError, match="expected no replicas"):
        flow.disconnect("ticks.out->pass.data")
    with pytest.raises(ConfigurationError, match="which waits for all of them"):
        flow.disconnect("tone.out->mix.left")
    flow.stop()


def test_a_budget_that_a_new_pipeline_breaks_is_refused(flow):
    class Slow(Pass):
        latency_ms = 20.0

    flow.add(Ticks(), name="ticks")
    last = flow.add(Collect(), name="last")
    flow.connect("ticks.out", last.data, buffer_size=8)
    flow.path_budget("ticks", "last", 5)
    flow.start()
    with pytest.raises(BudgetRefused), flow.changes():
        slow = flow.add(Slow(), name="slow")
        flow.connect("ticks.out", slow.data, buffer_size=8)
        flow.connect(slow.out, last.data, buffer_size=8)
    assert list(flow.pipelines) == ["ticks.out->last.data"]
    flow.stop()


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_after_a_change_is_accounted_for(flow):
    started(flow)
    late = flow.add(Pass(), name="late", placement="process")
    pipeline = flow.connect("ticks.out", late.data, buffer_size=8)
    wait_until(lambda: delivered(flow, pipeline) > 5)
    os.kill(flow.workers["late"].pid, signal.SIGKILL)
    assert flow.wait(20)
    with pytest.raises(ExceptionGroup):
        flow.stop()
    account = flow.report().pipelines[pipeline.id]
    assert account.sent == account.delivered + account.dropped_total
    assert account.in_flight == 0


def test_stopping_ends_what_a_change_waits_for(flow):
    flow.add(Ticks(), name="ticks", worker="ticks")
    stuck = flow.add(Stuck(), name="stuck")
    flow.connect("ticks.out", stuck.data, buffer_size=8)
    flow.start()
    assert stuck.entered.wait(10)
    problems = []

    def disconnect():
        try:
            flow.disconnect("ticks.out->stuck.data")
        except StateError as problem:
            problems.append(problem)

    changing = threading.Thread(target=disconnect)
    changing.start()
    flow._execution.stop(0.2)
    stuck.leave.set()
    changing.join(20)
    assert not changing.is_alive()


def test_large_blocks_flow_where_a_pipeline_was_added(flow):
    class Large(Source):
        out = Output(AudioFormat(48_000, 2, max_block_frames=4_800))
        live = False

        def produce(self):
            number = 0
            while True:
                with self.out.loan(4_800) as samples:
                    samples[:] = number
                number += 1
                yield time.monotonic_ns() + 1_000_000

    flow.add(Large(), name="large")
    first, late = flow.add(Collect(), name="first"), flow.add(Collect(), name="late")
    flow.connect("large.out", first.data, buffer_size=4)
    flow.start()
    pipeline = flow.connect("large.out", late.data, buffer_size=4)
    wait_until(lambda: delivered(flow, pipeline) > 20)
    flow.stop()
    assert is_gapless([int(np.unique(block).item()) for block in late.values])


def test_what_fails_in_the_middle_of_a_change_has_changed_nothing(flow):
    """As where a worker finds no memory: the steps before are rolled back, and a later change is whole."""
    first = started(flow)
    late = flow.add(Collect(), name="late")
    loop = flow.workers["main"]._loop
    add_ring = loop._add_ring

    def fail(pipeline):
        add_ring(pipeline)
        raise MemoryError("no memory left")

    loop._add_ring = fail
    with pytest.raises(StateError, match="no memory left"):
        flow.connect("ticks.out", late.data, buffer_size=8)
    loop._add_ring = add_ring
    came = delivered(flow, "ticks.out->first.data")
    wait_until(lambda: delivered(flow, "ticks.out->first.data") > came + 10)
    again = flow.add(Collect(), name="again")
    pipeline = flow.connect("ticks.out", again.data, buffer_size=8)
    wait_until(lambda: delivered(flow, pipeline) > 10)
    report = flow.stop()
    assert is_gapless(numbers(first.values))
    assert is_gapless(numbers(again.values))
    assert list(report.pipelines) == ["ticks.out->first.data", pipeline.id]


def test_a_pipeline_was_never_fuller_than_it_can_be(flow):
    flow.add(Ticks(), name="ticks", worker="ticks")
    slow = flow.add(Pass(delay_s=0.002), name="slow", worker="slow")
    link = flow.connect("ticks.out", slow.data, buffer_size=8)
    flow.start()
    for _ in range(4):
        wait_until(lambda: link.statistics().fill == 8)
        flow.replace("slow", Pass(delay_s=0.002))
    assert link.statistics().peak_fill == 8
    flow.stop()
