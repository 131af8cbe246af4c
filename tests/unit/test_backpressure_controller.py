"""Flow control driven by hand: real pipelines, which are there before a flow starts, looked at by a clock of the test."""

from __future__ import annotations

import logging
import os
import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from steadyflow import (
    Adaptive,
    AudioFormat,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    Fail,
    Grow,
    Input,
    Latest,
    Module,
    Output,
    PipelineConfig,
    Sample,
    Source,
    Throttle,
    Wait,
)
from steadyflow._native import Segment, monotonic_ns
from steadyflow.errors import FlowError, InsufficientMemory, StateError
from steadyflow.events import (
    BackpressureDetected,
    BackpressureRelieved,
    QualityChanged,
    StandstillDetected,
    StrategyAssessed,
    StrategyChanged,
)
from steadyflow.runtime.backpressure_controller import BackpressureController
from steadyflow.runtime.controlled import Controlled
from steadyflow.testing import Collect

MS = 1_000_000
MONO = AudioFormat(48_000, 1, max_block_frames=480)
BLOCK = np.zeros((480, 1), np.float32)
LIMIT_S = 30


class Asked:
    """What is controlled, for a flow that does not run yet: keeps what is asked of it."""

    def __init__(self, levels=()):
        self.levels = levels
        self.level = levels[0] if levels else ""
        self.refusal = None
        self.shortage = False
        self.in_use = False
        self.more = []
        self.given_back = []
        self.set_to = []

    def quality_levels(self, module):
        return self.levels

    def set_quality(self, module, level):
        self.set_to.append((module, level))
        if self.refusal is not None:
            raise self.refusal
        before, self.level = self.level, level
        return before

    def allow_buffers(self, pipeline, before, after):
        if self.shortage:
            raise InsufficientMemory("the system has too little")
        self.more.append((pipeline.id, after - before))

    def give_back_buffers(self, pipeline):
        self.given_back.append(pipeline.id)
        return not self.in_use


class Control:
    """A controller whose looks are 10 ms apart, by a clock that is an hour ahead: what waits has waited for long."""

    def __init__(self, flow, *, run=None, clock=None):
        self.flow = flow
        self.run = run or Asked()
        self.now_ns = monotonic_ns() + 3_600_000 * MS
        self.events = []
        self.gone = set()
        self.failures = []
        segment = Segment.create(4096)
        segment.create_bell(0)
        self.controller = BackpressureController(
            "held by hand", self.run, self.pipelines, (segment, 0), self.events.append, clock or (lambda: self.now_ns)
        )

    def pipelines(self):
        if self.failures:
            raise self.failures.pop()
        return [each for each in self.flow.pipelines.values() if each.id not in self.gone]

    def looks(self, count=1):
        """Look so many times; return what was published."""
        before = len(self.events)
        for _ in range(count):
            self.controller.look()
            self.now_ns += 10 * MS
        return self.events[before:]

    def until(self, kind, most=2000):
        """Look until something of a kind is published; return it."""
        for _ in range(most):
            for event in self.looks():
                if isinstance(event, kind):
                    return event
        raise AssertionError(f"no {kind.__name__} in {most} looks: {self.events}")

    def climb(self, pipeline, to, most=2000):
        """Look until a pipeline is at a step."""
        for _ in range(most):
            pressure = self.controller.pressure(pipeline)
            if pressure is not None and pressure.strategy == to:
                return
            self.looks()
        raise AssertionError(f"never at {to!r}: {self.events}")


class Ladder(Module):
    """Takes nothing before the start; it is told how to work."""

    a = Input(MONO)
    b = Input(MONO)
    quality_levels = ("full", "half", "fast")

    def process_a(self, block):
        return None

    def process_b(self, block):
        return None

    def set_quality(self, level):
        return None


class WideLadder(Ladder):
    c = Input(MONO)

    def process_c(self, block):
        return None


@pytest.fixture
def flow():
    with DataFlowCoordinator("by hand") as flow:
        yield flow


def between(flow, rule, buffer_size=8, *, source="app", target="sink", **options):
    config = PipelineConfig(buffer_size, backpressure_strategy=rule, **options)
    return flow.pipeline(flow.register_pipeline(source, target, config, format=MONO))


def send(pipeline, count):
    for _ in range(count):
        pipeline.send(BLOCK)


def take(pipeline, count):
    for _ in range(count):
        pipeline.receive(timeout_s=LIMIT_S)


def waiting(pipeline):
    return sum(ring.look()[3] for ring in pipeline.rings)


def blocked_ns(pipeline):
    return sum(ring.look()[7] for ring in pipeline.rings)


def pace_ms(pipeline):
    return [ring.pace_ns / MS for ring in pipeline.rings]


def until(condition):
    """Look until it holds; other threads run meanwhile."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        os.sched_yield()


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def work(control, pipeline, per_look, count):
    """Let a consumer take so many blocks between two looks, and as many come, so that it is known how fast it is."""
    for _ in range(count):
        take(pipeline, per_look)
        send(pipeline, per_look)
        control.looks()


class Sender:
    """Sends into a full pipeline whose rule waits, until there is room."""

    def __init__(self, pipeline):
        self._thread = threading.Thread(target=send, args=(pipeline, 1), daemon=True)
        self._thread.start()
        until(lambda: blocked_ns(pipeline) > 0)

    def join(self):
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


# --- what is told -------------------------------------------------------------------------------------------------------


def test_pressure_is_told_once_and_so_is_its_end(flow):
    pipeline = between(flow, DropOldest())
    control = Control(flow)
    assert control.looks(3) == []
    send(pipeline, 12)
    (detected,) = control.looks(30)
    assert detected == BackpressureDetected(
        timestamp_ns=detected.timestamp_ns,
        flow="held by hand",
        pipeline="app->sink",
        detector="watermarks",
        reason="it became full since the last look; 100% of its room is taken",
        numbers=(("fill_share", 1.0), ("high_share", 0.8), ("low_share", 0.5), ("full_events_count", 1.0)),
        culprit="sink",
        stalled=(),
    )
    send(pipeline, 2)
    control.looks()
    take(pipeline, 8)
    (relieved,) = control.looks(60)
    assert isinstance(relieved, BackpressureRelieved)
    assert (relieved.dropped, relieved.dropped_ms) == (2, 20)
    assert 0.31 + 0.1 <= relieved.lasted_s <= 0.31 + 0.2
    assert control.looks(60) == []


def test_who_cannot_keep_up_is_the_first_that_does_not_wait_for_another(flow):
    first = between(flow, Wait(), 4, source="app", target="middle")
    second = between(flow, Wait(), 4, source="middle", target="end")
    control = Control(flow, clock=monotonic_ns)
    control.looks()
    send(second, 4)
    sender = Sender(second)
    send(first, 4)
    until(lambda: control.looks() and "app->middle" in {event.pipeline for event in control.events})
    detected = {event.pipeline: event for event in of(BackpressureDetected, control.events)}
    assert detected["app->middle"].culprit == "end"
    take(second, 5)
    sender.join()


def test_who_waits_for_nobody_is_to_blame_also_where_it_feeds_others(flow):
    first = between(flow, DropOldest(), 4, source="app", target="middle")
    between(flow, Wait(), 4, source="middle", target="end")
    control = Control(flow)
    control.looks()
    send(first, 5)
    assert control.until(BackpressureDetected).culprit == "middle"


def test_who_waits_for_itself_is_named_too(flow):
    one, other = (between(flow, Wait(), 4, source=a, target=b) for a, b in (("a", "b"), ("b", "a")))
    control = Control(flow)
    control.looks()
    senders = []
    for pipeline in (one, other):
        send(pipeline, 4)
        senders.append(Sender(pipeline))
    before_ns = [blocked_ns(one), blocked_ns(other)]
    until(lambda: blocked_ns(one) - before_ns[0] > 5 * MS and blocked_ns(other) - before_ns[1] > 5 * MS)
    detected = of(BackpressureDetected, control.looks())
    assert {event.pipeline: event.culprit for event in detected} == {"a->b": "a", "b->a": "b"}
    for pipeline, sender in zip((one, other), senders, strict=True):
        take(pipeline, 5)
        sender.join()


class Numbers(Source):
    """Sends on both of its outputs for as long as the flow runs."""

    left = Output(MONO)
    right = Output(MONO)

    def produce(self):
        while True:
            self.left.send(BLOCK)
            self.right.send(BLOCK)
            yield


class Stuck(Module):
    """Waits in the middle of its first block."""

    data = Input(MONO)
    blocking = True

    def __init__(self):
        self.leave = threading.Event()

    def process(self, data):
        self.leave.wait(LIMIT_S)


def test_what_else_the_sender_feeds_is_named_where_it_has_to_wait(flow):
    flow.add(Numbers(), name="source", worker="one")
    stuck = flow.add(Stuck(), name="stuck", worker="two")
    fast = flow.add(Collect(), name="fast", worker="three")
    flow.connect("source.left", stuck.data, buffer_size=4, backpressure_strategy=Wait())
    flow.connect("source.right", fast.data, buffer_size=4)
    control = Control(flow, clock=monotonic_ns)
    flow.start()
    try:
        until(lambda: control.looks() and of(BackpressureDetected, control.events))
        event = of(BackpressureDetected, control.events)[0]
        assert event.pipeline == "source.left->stuck.data"
        assert event.culprit == "stuck"
        assert event.stalled == ("source.right->fast.data",)
    finally:
        stuck.leave.set()
    flow.stop()


# --- what is known ------------------------------------------------------------------------------------------------------


def test_what_was_never_looked_at_is_not_known(flow):
    pipeline = between(flow, DropOldest())
    control = Control(flow)
    assert control.controller.pressure(pipeline) is None
    control.looks()
    assert control.controller.pressure(pipeline).state == "OK"
    control.gone.add(pipeline.id)
    control.looks()
    assert control.controller.pressure(pipeline) is None


def test_another_pipeline_of_the_same_name_is_another(flow):
    pipeline = between(flow, DropOldest())
    control = Control(flow)
    control.looks()
    with DataFlowCoordinator("other") as other_flow:
        other = between(other_flow, Throttle(50))
        assert control.controller.pressure(other) is None
        control.flow = other_flow
        control.looks()
        assert control.controller.pressure(other).strategy == "Throttle(blocks_per_second=50)"
        assert pace_ms(other) == [20]
        assert control.controller.pressure(pipeline) is None


def test_what_is_forgotten_is_slowed_down_no_more(flow):
    pipeline = between(flow, Throttle(50))
    control = Control(flow)
    control.looks()
    assert pace_ms(pipeline) == [20]
    control.controller.forget(pipeline)
    control.controller.forget(pipeline)
    assert pace_ms(pipeline) == [0]
    assert control.controller.pressure(pipeline) is None


# --- rules that slow sources down ---------------------------------------------------------------------------------------


def test_a_rate_that_was_asked_for_holds_from_the_first_look_until_the_rule_is_switched(flow):
    pipeline = between(flow, Throttle(50))
    control = Control(flow)
    assert control.looks() == []
    assert pace_ms(pipeline) == [20]
    assert control.controller.pressure(pipeline).pace_hz == 50
    flow.handle_backpressure(pipeline.id, Throttle(100))
    control.looks()
    assert pace_ms(pipeline) == [10]
    flow.handle_backpressure(pipeline.id, DropOldest())
    control.looks()
    assert pace_ms(pipeline) == [0]
    assert control.controller.pressure(pipeline).pace_hz == 0


def test_a_paused_pipeline_is_paced_as_before(flow):
    pipeline = between(flow, Throttle(50))
    control = Control(flow)
    control.looks()
    pipeline.pause()
    control.looks()
    assert pace_ms(pipeline) == [20]


def test_throttle_finds_what_is_taken(flow):
    pipeline = between(flow, Throttle(), 20)
    control = Control(flow)
    send(pipeline, 8)
    work(control, pipeline, 1, 20)
    assert pace_ms(pipeline) == [0]
    send(pipeline, 12)
    control.looks()
    assert pace_ms(pipeline) == [pytest.approx(10, rel=0.1)]
    assert control.controller.pressure(pipeline).strategy == "Throttle(blocks_per_second=None)"
    before_ms = pace_ms(pipeline)[0]
    control.looks(10)
    assert pace_ms(pipeline) == [pytest.approx(before_ms / 0.85, rel=0.01)]


def test_a_full_queue_that_waits_for_ever_is_paced_by_credits(flow):
    pipeline = between(flow, Wait(), 20)
    control = Control(flow)
    send(pipeline, 10)
    work(control, pipeline, 1, 20)
    assert control.controller.pressure(pipeline).strategy == "Wait(timeout_ms=None, then='fail')"
    send(pipeline, 10)
    control.looks()
    pressure = control.controller.pressure(pipeline)
    assert pressure.strategy == "paced by credits"
    assert pressure.pace_hz == pytest.approx(0.1 * pressure.service_hz)
    assert pressure.service_hz == pytest.approx(100, rel=0.1)
    assert pace_ms(pipeline) == [pytest.approx(1000 / pressure.pace_hz)]
    take(pipeline, 20)
    control.looks(30)
    pressure = control.controller.pressure(pipeline)
    assert (pressure.strategy, pressure.pace_hz) == ("Wait(timeout_ms=None, then='fail')", 0)
    assert pace_ms(pipeline) == [0]
    begun, ended = [event for event in control.events if isinstance(event, StrategyChanged)]
    assert (begun.before, begun.after) == ("Wait(timeout_ms=None, then='fail')", "paced by credits")
    assert "stands full, with 20 blocks for a consumer that takes" in begun.reason
    assert (dict(begun.numbers)["fill_share"], dict(begun.numbers)["waiting_count"]) == (1.0, 20.0)
    assert (ended.before, ended.after) == (begun.after, begun.before)
    assert "nearly empty" in ended.reason


def test_a_pipeline_that_breaks_while_something_is_done_for_it_does_not_keep_others_from_being_looked_at(flow):
    class Damaged(Asked):
        def allow_buffers(self, pipeline, before, after):
            raise FlowError("damaged")

    grows, full = between(flow, Grow(64), 4), between(flow, DropOldest(), 4, target="other")
    control = Control(flow, run=Damaged())
    control.looks()
    send(grows, 4)
    send(full, 8)
    told = control.looks(2)
    assert {event.pipeline for event in told if isinstance(event, BackpressureDetected)} == {grows.id, full.id}
    assert grows.buffer_size == 4


def test_credits_end_with_the_rule(flow):
    pipeline = between(flow, Wait(), 20)
    control = Control(flow)
    send(pipeline, 10)
    work(control, pipeline, 1, 20)
    send(pipeline, 10)
    control.looks()
    flow.handle_backpressure(pipeline.id, DropOldest())
    control.looks()
    assert control.controller.pressure(pipeline).strategy == "DropOldest()"
    assert pace_ms(pipeline) == [0]


@pytest.mark.parametrize("rule", [DropOldest(), DropNewest(), Fail(), Latest(), Sample(2), Wait(50)], ids=repr)
def test_other_rules_are_left_to_the_data_plane(flow, rule):
    pipeline = between(flow, rule, 8)
    control = Control(flow)
    send(pipeline, 4)
    control.looks(5)
    for _ in range(20):
        if waiting(pipeline):
            take(pipeline, 1)
        pipeline.send(BLOCK)
        control.looks()
    assert of(StrategyChanged, control.events) == []
    assert pace_ms(pipeline) == [0]
    assert pipeline.buffer_size == 8
    assert control.run.more == []


def test_a_pipeline_whose_rule_is_not_known_yet_is_left_alone(flow):
    pipeline = between(flow, Wait())
    pipeline.rule = None
    control = Control(flow)
    control.looks(2)
    assert pace_ms(pipeline) == [0]
    flow.handle_backpressure(pipeline.id, Throttle(50))
    control.looks()
    assert pace_ms(pipeline) == [20]


def test_nothing_is_slowed_down_below_a_live_source(flow):
    pipeline = between(flow, Wait(), 20)
    pipeline.live = True  # as the start says
    control = Control(flow)
    send(pipeline, 10)
    work(control, pipeline, 1, 20)
    send(pipeline, 10)
    control.looks(10)
    assert pace_ms(pipeline) == [0]


# --- a room that grows --------------------------------------------------------------------------------------------------


def test_a_room_grows_before_it_is_full_and_shrinks_where_it_is_not_needed(flow):
    pipeline = between(flow, Grow(12), 4)
    control = Control(flow)
    assert control.looks() == []
    send(pipeline, 2)
    (changed,) = of(StrategyChanged, control.looks())
    assert (changed.before, changed.after) == ("room for 4 blocks", "room for 8 blocks")
    assert changed.reason == "50% of its room is taken"
    assert dict(changed.numbers) == {"fill_share": 0.5, "waiting_count": 2}
    assert changed.expected == "that nothing has to wait or go"
    assert pipeline.buffer_size == pipeline.rings[0].buffer_size == 8
    assert control.controller.pressure(pipeline).room_blocks == 8
    send(pipeline, 2)
    assert of(StrategyChanged, control.looks())[0].after == "room for 12 blocks"
    assert control.run.more == [(pipeline.id, 4), (pipeline.id, 4)]
    take(pipeline, 4)
    assert of(StrategyChanged, control.looks(490)) == []
    (changed,) = of(StrategyChanged, control.looks(20))
    assert (changed.before, changed.after) == ("room for 12 blocks", "room for 6 blocks")
    assert changed.reason == "0% of its room is taken, and was not more for 5 s"
    assert changed.expected == "that memory is given back"
    assert control.until(StrategyChanged).after == "room for 4 blocks"
    assert control.run.more[2:] == [(pipeline.id, -6), (pipeline.id, -2)]
    assert of(StrategyChanged, control.looks(1200)) == []


def test_memory_is_given_back_when_the_sender_has_seen_that_it_may_not_be_used(flow):
    pipeline = between(flow, Grow(8), 4)
    control = Control(flow)
    send(pipeline, 2)
    control.looks()
    take(pipeline, 2)
    control.until(StrategyChanged)
    assert pipeline.buffer_size == 4
    control.looks(300)
    assert control.run.given_back == []
    control.run.in_use = True
    for _ in range(2):
        send(pipeline, 1)
        take(pipeline, 1)
    control.looks(300)
    assert len(control.run.given_back) == 3  # tries once a second
    control.run.in_use = False
    control.looks(300)
    assert len(control.run.given_back) == 4


def test_memory_of_an_output_is_given_back_when_its_sender_has_seen_all_that_may_not_be_used(flow):
    """The pipelines of an output share its buffers: what is no longer usable for one of them, the sender may be writing for another."""
    first, second = between(flow, Grow(8), 4), between(flow, Grow(8), 4, target="other")
    assert first.source == second.source
    control = Control(flow)
    control.run.in_use = True
    for pipeline in (first, second):
        send(pipeline, 2)
        control.looks()
        take(pipeline, 2)
        control.looks(700)
        assert pipeline.buffer_size == 4
        control.run.given_back.clear()
        for _ in range(2 if pipeline is first else 1):
            send(pipeline, 1)
            take(pipeline, 1)
        control.looks(300)
        assert (len(control.run.given_back) > 0) == (pipeline is first)
    send(second, 1)
    take(second, 1)
    control.run.in_use = False
    control.looks(300)
    assert sorted(control.run.given_back) == sorted([first.id, second.id])


def test_what_grows_again_keeps_its_memory(flow):
    pipeline = between(flow, Grow(8), 4)
    control = Control(flow)
    send(pipeline, 2)
    control.looks()
    take(pipeline, 2)
    control.until(StrategyChanged)
    send(pipeline, 2)
    control.looks()
    take(pipeline, 2)
    control.looks(300)
    assert control.run.given_back == []


def test_a_shortage_of_memory_is_told_once_and_ends_the_growth_and_not_the_shrinking(flow):
    pipeline = between(flow, Grow(64), 4)
    control = Control(flow)
    send(pipeline, 2)
    control.looks()
    control.run.shortage = True
    send(pipeline, 2)
    (told,) = of(StrategyChanged, control.looks(20))
    assert (told.before, told.after) == ("room for 8 blocks", "room for 8 blocks")
    assert told.reason == "no more memory for it: the system has too little"
    assert pipeline.buffer_size == 8
    control.run.shortage = False
    assert of(StrategyChanged, control.looks(20)) == []
    take(pipeline, 4)
    assert control.until(StrategyChanged).after == "room for 4 blocks"


def test_a_room_is_what_it_was_when_the_rule_is_switched(flow):
    pipeline = between(flow, Grow(16), 4)
    control = Control(flow)
    send(pipeline, 4)
    control.looks(3)
    assert pipeline.buffer_size == 16
    flow.handle_backpressure(pipeline.id, DropOldest())
    control.looks()
    assert pipeline.buffer_size == pipeline.rings[0].buffer_size == 4
    assert control.run.more[-1] == (pipeline.id, -12)
    before = pipeline.statistics().sent
    send(pipeline, 5)
    assert pipeline.statistics().sent == before + 5
    assert waiting(pipeline) == 4


def test_buffers_stay_in_use_as_long_as_more_blocks_wait_than_there_is_room_for(flow):
    """Other pipelines share them: they would find none that is free."""
    pipeline = between(flow, Grow(16, then="drop_newest"), 4)
    control = Control(flow)
    send(pipeline, 4)
    control.looks(3)
    send(pipeline, 4)
    flow.handle_backpressure(pipeline.id, DropNewest())
    control.looks(300)
    assert pipeline.buffer_size == pipeline.rings[0].buffer_size == 4
    assert waiting(pipeline) == 8
    assert sum(more for _, more in control.run.more) == 12
    take(pipeline, 4)
    control.looks(300)
    assert control.run.more[-1] == (pipeline.id, -12)
    assert control.run.given_back == []
    take(pipeline, 4)
    send(pipeline, 2)
    control.looks(300)
    assert control.run.given_back == [pipeline.id]
    assert sum(more for _, more in control.run.more) == 0


def test_a_room_that_has_not_grown_is_left_as_it_is_when_the_rule_is_switched(flow):
    pipeline = between(flow, Grow(16), 4)
    control = Control(flow)
    control.looks()
    flow.handle_backpressure(pipeline.id, Wait(5))
    control.looks()
    assert pipeline.buffer_size == 4
    assert control.run.more == []


def test_a_room_cannot_grow_beyond_its_slots(flow):
    """A rule that was switched to finds the memory as it was laid out for another one."""
    pipeline = between(flow, DropOldest(), 4)
    flow.handle_backpressure(pipeline.id, Grow(64))
    control = Control(flow)
    send(pipeline, 4)
    (told,) = of(StrategyChanged, control.looks(120))
    assert (told.before, told.after) == ("room for 4 blocks", "room for 4 blocks")
    assert "memory" in told.reason
    assert pipeline.buffer_size == 4
    assert control.run.more == []


def test_a_pipeline_that_is_gone_needs_no_room_back(flow):
    pipeline = between(flow, Grow(8), 4)
    control = Control(flow)
    send(pipeline, 2)
    control.looks()
    pipeline.detach("it was taken away")
    control.looks()
    assert control.run.more == [(pipeline.id, 4)]
    assert control.controller.pressure(pipeline) is None


# --- a rule that follows the load ---------------------------------------------------------------------------------------


def into_ladder(flow, rule, port="a", **options):
    if "ladder" not in flow.modules:
        flow.add(Ladder(), name="ladder")
    return between(flow, rule, source=f"app_{port}", target=f"ladder.{port}", **options)


def names(events):
    return [(event.before, event.after) for event in of(StrategyChanged, events)]


def test_steps_are_taken_while_there_is_pressure_and_taken_back_when_there_is_none(flow):
    pipeline = into_ladder(flow, Adaptive())
    control = Control(flow, run=Asked(("full", "half", "fast")))
    control.looks()
    send(pipeline, 1)
    events = control.looks(200)
    steps = ["normal", "less room", "throttle", "quality half", "quality fast"]
    assert names(events) == list(pairwise(steps))
    assert control.controller.pressure(pipeline).strategy == "quality fast"
    assessed = of(StrategyAssessed, events)
    assert [(each.strategy, each.helped) for each in assessed] == [(step, False) for step in steps[1:]]
    until(lambda: len(of(QualityChanged, control.events)) == 2)
    changed = of(QualityChanged, control.events)
    assert {(each.module, each.pipeline, each.after) for each in changed} == {
        ("ladder", pipeline.id, "half"),
        ("ladder", pipeline.id, "fast"),
    }
    assert all("the oldest block has waited for" in each.reason for each in changed)
    pipeline.flush()
    for step in steps[-2::-1]:
        control.climb(pipeline, step)
    until(lambda: len(of(QualityChanged, control.events)) == 4)
    assert control.run.set_to[-1] == ("ladder", "full")


@pytest.mark.parametrize("levels", [(), ("full", "fast")])
def test_the_quality_stays_where_it_may_not_be_lowered_or_cannot(flow, levels):
    pipeline = into_ladder(flow, Adaptive(lower_quality=False if levels else None))
    control = Control(flow, run=Asked(levels))
    control.looks()
    send(pipeline, 1)
    assert names(control.looks(300)) == [("normal", "less room"), ("less room", "throttle")]


def test_below_a_live_source_the_last_step_is_dropping(flow):
    pipeline = between(flow, Adaptive())
    pipeline.live = True
    control = Control(flow)
    control.looks()
    send(pipeline, 1)
    assert names(control.looks(300)) == [("normal", "less room"), ("less room", "shed")]


@pytest.mark.parametrize("refusal", [StateError("it is busy"), FlowError("it does not")], ids=repr)
def test_that_a_module_does_not_change_its_quality_is_told(flow, refusal):
    pipeline = into_ladder(flow, Adaptive())
    control = Control(flow, run=Asked(("full", "fast")))
    control.run.refusal = refusal
    control.looks()
    send(pipeline, 1)
    control.climb(pipeline, "quality fast")
    until(
        lambda: any(
            event.strategy == "quality fast" and not event.helped for event in of(StrategyAssessed, control.events)
        )
    )
    told = next(event for event in of(StrategyAssessed, control.events) if event.strategy == "quality fast")
    assert told.reason == str(refusal)
    assert of(QualityChanged, control.events) == []


def test_of_levels_that_are_asked_for_while_a_module_is_busy_the_last_one_counts(flow):
    pipeline = into_ladder(flow, Adaptive())
    free, asked = threading.Event(), threading.Event()

    class Busy(Asked):
        def set_quality(self, module, level):
            asked.set()
            assert free.wait(LIMIT_S)
            return super().set_quality(module, level)

    control = Control(flow, run=Busy(("full", "half", "fast")))
    control.controller.set_quality(pipeline, "half", "")
    assert asked.wait(LIMIT_S)
    for level in ("fast", "half", "fast"):
        control.controller.set_quality(pipeline, level, "")
    free.set()
    until(lambda: not any(thread.name == "steadyflow-quality" for thread in threading.enumerate()))
    assert [level for _, level in control.run.set_to] == ["half", "fast"]
    control.controller.set_quality(pipeline, "fast", "")
    until(lambda: not any(thread.name == "steadyflow-quality" for thread in threading.enumerate()))
    assert [each.after for each in of(QualityChanged, control.events)] == ["half", "fast"]


def test_all_steps_are_undone_when_the_rule_is_switched(flow):
    pipeline = into_ladder(flow, Adaptive())
    control = Control(flow, run=Asked(("full", "fast")))
    control.looks()
    send(pipeline, 1)
    control.climb(pipeline, "quality fast")
    until(lambda: len(of(QualityChanged, control.events)) == 1)
    flow.handle_backpressure(pipeline.id, DropOldest())
    control.looks()
    until(lambda: len(of(QualityChanged, control.events)) == 2)
    assert of(QualityChanged, control.events)[-1].after == "full"
    assert control.controller.pressure(pipeline).strategy == "DropOldest()"
    assert pipeline.buffer_size == 8


def slow_consumer(control, pipeline):
    """Let it be known that a hundred blocks a second are taken, while half of the room is in use."""
    send(pipeline, 4)
    work(control, pipeline, 1, 25)


def test_the_room_is_sized_to_what_the_consumer_takes_in_time(flow):
    pipeline = between(flow, Adaptive(drain_ms=80), 32)
    control = Control(flow)
    slow_consumer(control, pipeline)
    sized = [each for each in of(StrategyChanged, control.events) if each.before.startswith("room")]
    assert (sized[0].before, sized[0].after) == ("room for 32 blocks", "room for 6 blocks")
    assert sized[0].reason == "its consumer takes 100 blocks/s, and what waits is to be taken within 60.0 ms"
    assert sized[0].expected == "that no block waits for more than 60.0 ms"
    assert pipeline.rings[0].buffer_size == 6
    take(pipeline, waiting(pipeline))
    control.climb(pipeline, "normal")
    assert pipeline.buffer_size == pipeline.rings[0].buffer_size == 32


def test_the_room_is_changed_at_most_twice_a_second(flow):
    pipeline = between(flow, Adaptive(drain_ms=80), 32)
    control = Control(flow)
    slow_consumer(control, pipeline)
    control.looks(400)
    sized = [each for each in of(StrategyChanged, control.events) if each.before.startswith("room")]
    assert [each.after for each in sized] == ["room for 6 blocks"]


def test_a_smaller_share_of_the_time_is_left_at_the_last_step(flow):
    pipeline = between(flow, Adaptive(drain_ms=160), 32)
    pipeline.live = True
    control = Control(flow)
    slow_consumer(control, pipeline)
    control.climb(pipeline, "shed")
    control.looks(60)
    assert pipeline.buffer_size == 4


@pytest.mark.parametrize(
    ("options", "rule", "target_ms"),
    [({}, Adaptive(), 20), ({"max_latency_ms": 5}, Adaptive(), 2.5), ({"max_latency_ms": 20}, Adaptive(drain_ms=7), 7)],
)
def test_how_soon_what_waits_is_to_be_taken_goes_by_the_rule_or_half_of_the_budget(flow, options, rule, target_ms):
    pipeline = between(flow, rule, **options)
    control = Control(flow)
    control.looks()
    send(pipeline, 1)
    assert dict(control.until(StrategyChanged).numbers)["target_ms"] == target_ms


def test_a_throttled_step_paces_and_its_end_does_not(flow):
    pipeline = between(flow, Adaptive(drain_ms=400), 32)
    control = Control(flow)
    send(pipeline, 20)
    work(control, pipeline, 1, 25)
    control.climb(pipeline, "throttle")
    control.looks()
    assert pace_ms(pipeline)[0] > 0
    assert control.controller.pressure(pipeline).pace_hz > 0
    assert control.controller.pressure(pipeline).strategy == "throttle"
    take(pipeline, waiting(pipeline))
    control.climb(pipeline, "less room")
    assert pace_ms(pipeline) == [0]
    assert control.controller.pressure(pipeline).pace_hz == 0


def two_inputs(flow, other_rule=DropOldest()):  # noqa: B008
    """One that follows the load, and one that is less important."""
    important = into_ladder(flow, Adaptive(), "a", priority="high")
    return important, into_ladder(flow, other_rule, "b", priority="low")


def test_less_important_inputs_yield_and_come_back(flow):
    important, other = two_inputs(flow)
    control = Control(flow)
    control.looks()
    send(important, 1)
    send(other, 4)
    assert waiting(other) == 4
    control.climb(important, "drop by priority")
    send(other, 1)
    assert waiting(other) == 1
    important.flush()
    control.climb(important, "throttle")
    send(other, 4)
    assert waiting(other) == 5
    assert other.rule == DropOldest()


def test_they_come_back_when_nobody_needs_it_any_more(flow):
    flow.add(WideLadder(), name="ladder")
    first = into_ladder(flow, Adaptive(), "a", priority="high")
    second = into_ladder(flow, Adaptive(), "c", priority="high")
    other = into_ladder(flow, DropOldest(), "b", priority="low")
    control = Control(flow)
    control.looks()
    send(first, 1)
    send(second, 1)
    control.climb(first, "drop by priority")
    control.climb(second, "drop by priority")
    for important, left in ((first, 1), (second, 3)):
        flow.handle_backpressure(important.id, DropOldest())
        control.looks()
        send(other, 3)
        assert waiting(other) == left
        other.flush()


def test_they_come_back_also_where_the_rule_is_switched(flow):
    important, other = two_inputs(flow)
    control = Control(flow)
    control.looks()
    send(important, 1)
    control.climb(important, "drop by priority")
    flow.handle_backpressure(important.id, DropOldest())
    control.looks()
    send(other, 4)
    assert waiting(other) == 4


def test_they_come_back_also_where_what_they_yield_to_is_gone(flow):
    important, other = two_inputs(flow)
    control = Control(flow, run=Asked(("full", "fast")))
    control.looks()
    send(important, 1)
    control.climb(important, "drop by priority")
    until(lambda: control.run.level == "fast")
    control.gone.add(important.id)
    control.looks()
    send(other, 4)
    assert waiting(other) == 4
    until(lambda: control.run.level == "full")


def test_a_module_that_is_gone_is_told_nothing(flow):
    important, _ = two_inputs(flow)
    control = Control(flow, run=Asked(("full", "fast")))
    control.looks()
    send(important, 1)
    control.climb(important, "quality fast")
    until(lambda: control.run.level == "fast")
    control.run.levels = ()
    control.gone.add(important.id)
    control.looks()
    until(lambda: not any(thread.name == "steadyflow-quality" for thread in threading.enumerate()))
    assert control.run.set_to == [("ladder", "fast")]


@pytest.mark.parametrize("rule", [Wait(), Fail(), Wait(50)], ids=repr)
def test_an_input_that_may_lose_nothing_does_not_yield(flow, rule):
    important, _ = two_inputs(flow, rule)
    control = Control(flow)
    control.looks()
    send(important, 1)
    assert names(control.looks(300)) == [("normal", "less room"), ("less room", "throttle")]


def test_an_input_that_is_as_important_does_not_yield(flow):
    important = into_ladder(flow, Adaptive(), "a", priority="low")
    into_ladder(flow, DropOldest(), "b", priority="low")
    control = Control(flow)
    control.looks()
    send(important, 1)
    assert ("throttle", "drop by priority") not in names(control.looks(300))


def test_a_paused_pipeline_stays_at_its_step(flow):
    pipeline = between(flow, Adaptive())
    control = Control(flow)
    control.looks()
    send(pipeline, 1)
    control.climb(pipeline, "less room")
    pipeline.pause()
    assert of(StrategyChanged, control.looks(300)) == []
    assert control.controller.pressure(pipeline).strategy == "less room"


def test_what_is_known_of_the_machine_holds_for_a_tenth_of_a_second(flow):
    control = Control(flow)
    load = control.controller.load()
    assert control.controller.load() is load
    control.now_ns += 100 * MS
    assert control.controller.load() is not load


# --- standstill ---------------------------------------------------------------------------------------------------------


def test_a_standstill_is_named_once(flow):
    one, other = (between(flow, Wait(), 2, source=a, target=b) for a, b in (("a", "b"), ("b", "a")))
    control = Control(flow, clock=monotonic_ns)
    for pipeline in (one, other):
        send(pipeline, 2)
    senders = [Sender(one), Sender(other)]

    def told():
        control.looks()
        return of(StandstillDetected, control.events)

    until(told)
    (event,) = told()
    assert (event.modules, event.pipelines) == (("a", "b"), ("a->b", "b->a"))
    assert "handle_backpressure" in event.reason
    looked_ns = blocked_ns(one)
    until(lambda: told() and blocked_ns(one) - looked_ns > 100 * MS)
    assert len(told()) == 1
    for pipeline, sender in zip((one, other), senders, strict=True):
        take(pipeline, 3)
        sender.join()


def test_what_is_only_slow_is_no_standstill(flow):
    """It takes a block from time to time."""
    one, other = (between(flow, Wait(), 2, source=a, target=b) for a, b in (("a", "b"), ("b", "a")))
    control = Control(flow)
    for pipeline in (one, other):
        send(pipeline, 2)
    senders = [Sender(one), Sender(other)]
    for _ in range(8):
        for _ in range(10):
            before_ns = [blocked_ns(one), blocked_ns(other)]
            until(lambda: min(blocked_ns(one) - before_ns[0], blocked_ns(other) - before_ns[1]) > 10 * MS)  # noqa: B023
            control.looks()
        take(one, 1)
        senders[0].join()
        senders[0] = Sender(one)
    assert of(StandstillDetected, control.events) == []
    for pipeline, sender in zip((one, other), senders, strict=True):
        take(pipeline, 3)
        sender.join()


# --- its thread ---------------------------------------------------------------------------------------------------------


def test_it_looks_by_itself_from_its_start_to_its_end(flow):
    pipeline = between(flow, Throttle(1e6))
    control = Control(flow, clock=monotonic_ns)
    control.controller.start()
    assert pace_ms(pipeline) == [0.001]
    send(pipeline, 8)
    until(lambda: of(BackpressureDetected, control.events))
    take(pipeline, 8)
    until(lambda: of(BackpressureRelieved, control.events))
    control.controller.end(LIMIT_S)
    control.controller.end(LIMIT_S)
    assert not any(thread.name == "steadyflow-flow-control" for thread in threading.enumerate())
    control.events.clear()
    send(pipeline, 8)
    assert control.looks(5) == []


def test_a_look_that_fails_is_not_the_last(flow, caplog):
    pipeline = between(flow, DropOldest())
    control = Control(flow, clock=monotonic_ns)
    control.controller.start()
    with caplog.at_level(logging.DEBUG, "steadyflow.backpressure"):
        control.failures = [FlowError("it is being closed")] * 2
        until(lambda: not control.failures)
        send(pipeline, 9)
        until(lambda: of(BackpressureDetected, control.events))
    control.controller.end(LIMIT_S)
    assert "a look at its pipelines failed" in caplog.text


@pytest.mark.parametrize(
    ("rule", "buffer_size", "heeds"),
    [
        (DropOldest(), 8, True),
        (DropOldest(), 3, True),
        (DropOldest(), 2, False),
        (Wait(), 1, False),
        (Sample(2), 8, False),
    ],
)
def test_it_is_woken_where_it_says_something_that_a_pipeline_is_full(flow, rule, buffer_size, heeds):
    pipeline = between(flow, rule, buffer_size)
    controlled = Controlled(pipeline)
    assert controlled.heeds_alarms is heeds


def test_nothing_is_slowed_down_where_the_flow_stops(flow):
    pipeline = between(flow, Throttle(50))
    control = Control(flow)
    control.looks()
    assert pace_ms(pipeline) == [20]
    control.controller.let_go()
    assert pace_ms(pipeline) == [0]
    control.looks(3)
    assert pace_ms(pipeline) == [0]


def test_nothing_stays_slowed_down_where_flow_control_fails(flow, caplog):
    pipeline = between(flow, Throttle(10), 4)
    control = Control(flow)
    control.controller.start()
    assert pace_ms(pipeline) == [100]
    control.failures.append(ZeroDivisionError("of a look"))
    until(lambda: pace_ms(pipeline) == [0])
    control.controller.end(LIMIT_S)
    assert "flow control has ended" in caplog.text
