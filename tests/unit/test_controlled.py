"""A pipeline as flow control sees it: real rings, looked at by hand, by a clock of the test."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from steadyflow import (
    AudioFormat,
    AudioPipelineConfig,
    BytesFormat,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    Grow,
    Latest,
    PipelineConfig,
    Sample,
    Wait,
)
from steadyflow._native import monotonic_ns
from steadyflow.backpressure.detection import BlockedShare, Watermarks
from steadyflow.runtime.controlled import Controlled, detectors_for, read
from steadyflow.spooling import SpoolCounts

MS = 1_000_000
MONO = AudioFormat(48_000, 1, max_block_frames=480)
BLOCK = np.zeros((480, 1), np.float32)


@pytest.fixture
def flow():
    with DataFlowCoordinator("looked at") as flow:
        yield flow


class Looks:
    """Looks at a pipeline every 10 ms of a clock of its own, an hour ahead, so that what waits has waited for long."""

    def __init__(self, pipeline, *, ahead_ns=3_600_000 * MS, **options):
        self.controlled = Controlled(pipeline, **options)
        self.now_ns = monotonic_ns() + ahead_ns

    def __call__(self, count=1, every_ms=10):
        """Look so many times; return what has changed, with how many ms after the first look."""
        begun_ns, changes = self.now_ns, []
        for _ in range(count):
            change = self.controlled.look(self.now_ns)
            if change is not None:
                changes.append(((self.now_ns - begun_ns) // MS, change))
            self.now_ns += every_ms * MS
        return changes


def between(flow, config, fmt=MONO):
    """A pipeline between two open ends, which is there before the flow starts."""
    return flow.pipeline(flow.register_pipeline("app", "sink", config, format=fmt))


def send(pipeline, count, block=BLOCK):
    return [pipeline.send(block) for _ in range(count)]


def until(condition):
    """Look until it holds; other threads run meanwhile."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        os.sched_yield()


def take(pipeline, count):
    for _ in range(count):
        pipeline.receive(timeout_s=10)


# --- what a look finds --------------------------------------------------------------------------------------------------


def test_a_look_finds_what_was_sent_taken_and_dropped(flow):
    pipeline = between(flow, PipelineConfig(4, backpressure_strategy=DropNewest()))
    send(pipeline, 6)
    take(pipeline, 1)
    at_ns = monotonic_ns()
    reading = read(pipeline.rings, pipeline, at_ns)
    assert (reading.sent, reading.delivered, reading.dropped, reading.waiting) == (6, 1, 2, 3)
    assert (reading.at_ns, reading.fill, reading.blocked_ns) == (at_ns, 0.75, 0)
    assert reading.full_events > 0
    assert 0 < reading.sojourn_ns <= at_ns
    assert read(pipeline.rings, pipeline, at_ns + 5).sojourn_ns == reading.sojourn_ns + 5


def test_nothing_that_waits_has_not_waited(flow):
    pipeline = between(flow, PipelineConfig(4))
    assert read(pipeline.rings, pipeline, monotonic_ns()).sojourn_ns == 0
    send(pipeline, 1)
    assert read(pipeline.rings, pipeline, 5).sojourn_ns == 0  # a clock that is behind


@pytest.mark.parametrize(
    ("config", "fill"),
    [
        (PipelineConfig(8), 2 / 8),
        (PipelineConfig(8, max_buffer_bytes=4 * BLOCK.nbytes), 2 / 4),
        (AudioPipelineConfig(8, max_buffer_ms=25), 20 / 25),
        (AudioPipelineConfig(8, max_buffer_ms=30, max_buffer_bytes=4 * BLOCK.nbytes), 20 / 30),
        (PipelineConfig(2, max_buffer_bytes=4 * BLOCK.nbytes), 1.0),
    ],
    ids=["blocks", "bytes", "ms", "ms of both", "blocks of both"],
)
def test_the_tightest_limit_says_how_full_it_is(flow, config, fill):
    pipeline = between(flow, config)
    send(pipeline, 2)
    assert read(pipeline.rings, pipeline, monotonic_ns()).fill == pytest.approx(fill)


def test_what_is_looked_for_goes_by_room_and_budget(flow):
    def names(config):
        pipeline = between(DataFlowCoordinator(f"of {config!r}"), config)
        return detectors_for(pipeline).note(read(pipeline.rings, pipeline, 1)).reason

    assert "room is taken" not in names(PipelineConfig(2))
    assert "waited for room" in names(PipelineConfig(2))
    assert "room is taken" in names(PipelineConfig(3))
    assert "no block waits" not in names(PipelineConfig(3))
    assert "no block waits" in names(PipelineConfig(3, max_latency_ms=5))
    assert "no block waits" in names(PipelineConfig(2, max_latency_ms=1e-3))


# --- under pressure, and no more ----------------------------------------------------------------------------------------


def test_pressure_is_told_once_and_its_end_after_it_has_stayed_away_for_a_while(flow):
    pipeline = between(flow, PipelineConfig(8, backpressure_strategy=DropOldest()))
    looks = Looks(pipeline)
    assert looks(5) == []
    send(pipeline, 12)
    ((at_ms, change),) = looks(5)
    assert at_ms == 0  # it became full
    assert change.congested
    assert change.verdict.detector == "watermarks"
    assert (change.lasted_ns, change.dropped, change.dropped_frames) == (0, 0, 0)
    send(pipeline, 3)
    assert looks(2) == []
    take(pipeline, 8)
    ((at_ms, change),) = looks(40)
    assert not change.congested
    assert 100 <= at_ms < 200
    assert change.lasted_ns == 70 * MS + at_ms * MS
    assert (change.dropped, change.dropped_frames) == (3, 3 * 480)
    assert looks(40) == []


def test_what_a_spool_before_it_has_dropped_and_keeps_is_told_with_its_end(flow):
    pipeline = between(flow, PipelineConfig(8, backpressure_strategy=DropOldest()))
    nothing = dict.fromkeys(SpoolCounts.__struct_fields__, 0)
    before = SpoolCounts(**nothing | {"dropped_blocks": 2, "dropped_frames": 960, "depth_blocks": 40})
    after = SpoolCounts(**nothing | {"dropped_blocks": 7, "dropped_frames": 3360, "depth_blocks": 30})
    counts = [before]
    pipeline.spool_before = lambda: counts[0]
    looks = Looks(pipeline)
    looks(5)
    send(pipeline, 10)
    (_, change), *_ = looks(5)
    assert change.congested
    assert looks.controlled.backlog == 48
    assert looks.controlled.reading.dropped == 2 + 2
    assert looks.controlled.reading.sent == 10 + 2
    counts[0] = after
    looks()
    assert looks.controlled.reading.dropped == 2 + 7
    take(pipeline, 8)
    ((_, change),) = looks(60)
    assert not change.congested
    assert (change.dropped, change.dropped_frames) == (5, 2400)
    assert looks.controlled.backlog == 30


def test_pressure_that_comes_back_at_once_is_the_same(flow):
    pipeline = between(flow, PipelineConfig(8, backpressure_strategy=DropOldest()))
    looks = Looks(pipeline)
    changes = looks()
    for _ in range(10):
        send(pipeline, 9)
        changes += looks(5)
        take(pipeline, 8)
        changes += looks(10)
    assert [change.congested for _, change in changes] == [True]
    assert [change.congested for _, change in looks(40)] == [False]


def test_senders_that_wait_are_found_at_once_after_a_long_time_without_any(flow):
    pipeline = between(flow, PipelineConfig(2, backpressure_strategy=Wait()))
    looks = Looks(pipeline)
    looks(500)
    send(pipeline, 2)
    sender = threading.Thread(target=send, args=(pipeline, 1))
    sender.start()
    try:
        until(lambda: read(pipeline.rings, pipeline, 0).blocked_ns > 25 * MS)
        ((_, change),) = looks()
        assert change.verdict.detector == "blocked_share"
        assert looks.controlled.blocked_share == 1.0
    finally:
        take(pipeline, 3)
        sender.join(30)


def test_a_budget_is_watched_too(flow):
    pipeline = between(flow, PipelineConfig(64, max_latency_ms=10))
    looks = Looks(pipeline)
    looks()
    send(pipeline, 1)
    changes = looks(10)
    assert [(change.congested, change.verdict.detector) for _, change in changes] == [(True, "standing_delay")]
    take(pipeline, 1)
    assert [change.congested for _, change in looks(40)] == [False]


@pytest.mark.parametrize("rule", [Latest(), Sample(2)], ids=repr)
def test_a_rule_that_loses_blocks_on_purpose_is_no_pressure(flow, rule):
    pipeline = between(flow, PipelineConfig(4, backpressure_strategy=rule))
    looks = Looks(pipeline)
    looks()
    send(pipeline, 50)
    assert looks(20) == []
    assert looks.controlled.lost_share == 0  # of the latest look
    assert looks.controlled.reading.dropped > 0


def test_pressure_ends_where_its_rule_is_switched_to_one_that_loses_on_purpose(flow):
    pipeline = between(flow, PipelineConfig(4, backpressure_strategy=DropOldest()))
    looks = Looks(pipeline)
    looks()
    send(pipeline, 6)
    assert [change.congested for _, change in looks(5)] == [True]
    send(pipeline, 2)
    flow.handle_backpressure(pipeline.id, Latest())
    ((_, change),) = looks(5)
    assert not change.congested
    assert "on purpose" in change.verdict.reason
    assert change.dropped == 2
    assert looks.controlled.pressure().state == "OK"


def test_a_paused_pipeline_is_not_looked_at(flow):
    pipeline = between(flow, PipelineConfig(4, backpressure_strategy=DropOldest()))
    looks = Looks(pipeline)
    looks()
    pipeline.pause()
    send(pipeline, 9)
    assert looks(20) == []
    assert looks.controlled.reading is None
    assert looks.controlled.pressure().credits == 2
    pipeline.resume()
    assert [change.congested for _, change in looks(5)] == [True]


def test_the_time_of_a_pause_says_nothing_of_how_fast_its_consumer_is(flow):
    pipeline = between(flow, PipelineConfig(64))
    looks = Looks(pipeline)
    send(pipeline, 40)
    for _ in range(15):
        take(pipeline, 1)
        looks()
    assert looks.controlled.service.hz == pytest.approx(100)
    pipeline.pause()
    looks(100)
    pipeline.resume()
    for _ in range(15):
        take(pipeline, 1)
        looks()
    assert looks.controlled.service.hz == pytest.approx(100)


def test_a_pipeline_without_rings_is_not_looked_at():
    with DataFlowCoordinator("closed") as flow:
        pipeline = between(flow, PipelineConfig(4))
        looks = Looks(pipeline)
        looks()
    assert looks(3) == []
    assert looks.controlled.reading is None
    assert looks.controlled.pressure().room_blocks == 4


def test_another_detector_may_look(flow):
    pipeline = between(flow, PipelineConfig(8, backpressure_strategy=DropOldest()))
    looks = Looks(pipeline, detector=Watermarks(high=0.3, low=0.1, looks=1))
    looks()
    send(pipeline, 3)
    assert [change.congested for _, change in looks()] == [True]
    assert Looks(pipeline, detector=BlockedShare())(5) == []


def test_what_is_flushed_is_not_more_than_all(flow):
    pipeline = between(flow, PipelineConfig(8))
    looks = Looks(pipeline)
    send(pipeline, 7)
    looks()
    send(pipeline, 1)
    assert pipeline.flush() == 8
    looks()
    assert looks.controlled.lost_share == 1.0


# --- what is known of it ------------------------------------------------------------------------------------------------


def test_what_is_known_of_it(flow):
    pipeline = between(flow, PipelineConfig(8, backpressure_strategy=DropOldest()))
    looks = Looks(pipeline)
    before = looks.controlled.pressure()
    assert (before.state, before.ok_s, before.low_s, before.high_s) == ("OK", 0, 0, 0)
    assert (before.credits, before.room_blocks, before.service_hz, before.pace_hz) == (4, 8, 0, 0)
    assert before.strategy == "DropOldest()"
    looks(11)
    send(pipeline, 7)
    looks(11)
    now = looks.controlled.pressure()
    assert now.state == "HIGH"
    assert now.ok_s == pytest.approx(0.11)
    assert now.high_s == pytest.approx(0.1)
    assert now.credits == 0
    take(pipeline, 4)
    looks()
    assert looks.controlled.pressure().credits == 1
    looks.controlled.strategy, looks.controlled.pace_hz = "paced", 30.0
    assert looks.controlled.pressure().strategy == "paced"
    assert looks.controlled.pressure().pace_hz == 30


def test_pressure_that_is_not_relieved_yet_is_low(flow):
    pipeline = between(flow, PipelineConfig(8, backpressure_strategy=DropOldest()))
    looks = Looks(pipeline)
    looks()
    send(pipeline, 9)
    looks()
    take(pipeline, 8)
    looks()
    assert looks.controlled.pressure().state == "LOW"
    looks(40)
    assert looks.controlled.pressure().state == "OK"


def test_frames_are_a_time_where_they_are_audio(flow):
    assert Controlled(between(flow, PipelineConfig(8))).dropped_ms(480) == 10
    other = flow.pipeline(flow.register_pipeline("app", "other", PipelineConfig(8), format=BytesFormat(64)))
    assert Controlled(other).dropped_ms(480) == 0


def test_its_room_is_that_of_its_rings(flow):
    pipeline = between(flow, PipelineConfig(2, backpressure_strategy=Grow(16)))
    controlled = Controlled(pipeline)
    pipeline.set_room(8)
    assert controlled.pressure().room_blocks == pipeline.buffer_size == 8
    assert Controlled(pipeline).pressure().credits == 4
    flow.handle_backpressure(pipeline.id, Wait())
