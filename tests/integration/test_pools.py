"""The buffers of outputs: what is asked of them, what is told, and how they are tuned while blocks flow."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from tests.integration.changing_flows import wait_until

from steadyflow import (
    AudioFormat,
    DataFlowCoordinator,
    Input,
    Module,
    Output,
    PipelineConfig,
    Source,
    StateError,
    events,
)
from steadyflow.metrics.pools import PoolMetrics
from steadyflow.metrics.view_demand import Window
from steadyflow.runtime.pool_watch import WINDOW_NS

FRAMES = 8_192
FORMAT = AudioFormat(48_000, 1, max_block_frames=FRAMES)
BLOCK_BYTES = FRAMES * 4
PLACEMENTS = pytest.mark.parametrize("placement", ["thread", "process"])


class Ramps(Source):
    """Blocks full of their number, as fast as they are taken up to a rate."""

    out = Output(FORMAT)
    live = False

    def produce(self):
        number = 0
        while True:
            self.out.send(np.full((FRAMES, 1), number, np.float32))
            number += 1
            yield time.monotonic_ns() + 500_000


class Keeps(Module):
    """Keeps the last few blocks, and looks whether they are what they were."""

    audio = Input(FORMAT)

    def __init__(self, most):
        self.most = most

    def setup(self):
        self.kept = []
        self.next = 0

    def process(self, block):
        assert block.samples[0, 0] == self.next
        self.next += 1
        self.kept = [*self.kept, block.samples][-self.most :]
        first = self.next - len(self.kept)
        assert [int(samples[-1, 0]) for samples in self.kept] == list(range(first, self.next))


@pytest.fixture
def flow():
    with DataFlowCoordinator("pools") as flow:
        yield flow


def running(flow, most, placement, buffer_size=4):
    flow.add(Ramps(), name="ramps", worker="ramps")
    flow.add(Keeps(most), name="keeps", placement=placement, worker="keeps")
    link = flow.connect("ramps.out", "keeps.audio", buffer_size=buffer_size)
    flow.start()
    return link


def window(flow, link, at_least=100):
    """Let some blocks pass, and then end the window of the one who looks, as if a second had passed."""
    before = link.statistics().delivered
    wait_until(lambda: link.statistics().delivered >= before + at_least)
    pools = flow._execution.pools
    return pools.look(flow.name, pools._looked_ns + WINDOW_NS)


def test_what_is_known_of_the_buffers_of_an_open_source(flow):
    pipe = flow.pipeline(flow.register_pipeline("app", "reader", PipelineConfig(buffer_size=4), FORMAT))
    assert flow.pools["app"].asked == 0
    assert flow.pools["app"].hit_rate == 1
    kept = []
    for number in range(6):
        with pipe.loan(FRAMES) as samples:
            samples[:] = number
        kept.append(pipe.receive(5).samples)
    pool = flow.pools["app"]
    assert (pool.held, pool.peak_views, pool.views) == (4, 4, 4)
    assert (pool.asked, pool.misses) == (6 + 6, 2)
    assert pool.hit_rate == pytest.approx(10 / 12)
    assert pool.oldest_ms > 0
    assert 0 < pool.overhead < 0.03
    assert pool.buffer_bytes >= BLOCK_BYTES
    assert [int(samples[0, 0]) for samples in kept] == list(range(6))
    kept.clear()
    assert flow.pools["app"].held == 0
    assert flow.pools["app"].oldest_ms == 0


def test_a_low_hit_rate_is_told_once_in_a_while(flow):
    link = running(flow, 12, "thread")
    told = [*window(flow, link), *window(flow, link)]
    assert [type(event) for event in told] == [events.PoolHitRateLow]
    assert told[0].output == "ramps.out"
    assert told[0].hit_rate < 0.9
    assert "flow.tune_pools()" in told[0].advice


@PLACEMENTS
def test_a_consumer_that_keeps_much_is_given_more(flow, placement):
    link = running(flow, 14, placement)
    window(flow, link)
    window(flow, link)
    (change,) = flow.tune_pools()
    assert (change.pipeline, change.views_before, change.views_after, change.refused) == (link.id, 4, 8, None)
    assert change.bytes_after - change.bytes_before >= 4 * BLOCK_BYTES
    assert "kept 4 already" in str(change)
    for _ in range(4):
        window(flow, link)
    assert [each.views_after for each in flow.tune_pools()] == [16]
    window(flow, link)
    before = link.statistics().kept_copies
    window(flow, link)
    assert link.statistics().kept_copies == before
    assert flow.pools["ramps.out"].views == 16
    report = flow.stop()
    assert report.modules["keeps"].state == "ended"
    metrics = report.pipelines[link.id]
    assert (metrics.delivered, metrics.dropped_total) == (metrics.sent, 0)
    assert [event.views_after for event in report.events if isinstance(event, events.PoolTuned)] == [8, 16]


@PLACEMENTS
def test_what_nobody_needs_is_given_back(flow, placement):
    link = running(flow, 1, placement, buffer_size=64)
    before = flow.pools["ramps.out"]
    for _ in range(10):
        window(flow, link, at_least=30)
    (change,) = flow.tune_pools()
    assert change.views_before == 64
    assert change.views_after <= 4
    after = flow.pools["ramps.out"]
    assert before.mapped_bytes - after.mapped_bytes >= 60 * BLOCK_BYTES
    assert flow.tune_pools() == []
    segment = flow._execution.segments[0]
    wait_until(lambda: not link.is_draining)
    taken = _resident_bytes(segment)
    window(flow, link)
    assert taken - _resident_bytes(segment) >= 60 * BLOCK_BYTES
    report = flow.stop()
    metrics = report.pipelines[link.id]
    assert (metrics.delivered, metrics.dropped_total) == (metrics.sent, 0)


def _resident_bytes(segment):
    return os.fstat(segment.descriptor).st_blocks * 512


def test_what_cannot_be_tuned_is_left_with_the_reason(flow):
    flow.add(Ramps(), name="ramps", worker="ramps")
    flow.add(Keeps(1), name="keeps", placement="process", replicas=2)
    link = flow.connect("ramps.out", "keeps.audio", buffer_size=64)
    with pytest.raises(StateError, match="expected a running flow"):
        flow.tune_pools()
    flow.start()
    watch = flow._execution.pools
    demand = watch._demand_of(link)
    for _ in range(10):
        demand.note(Window(100, 0, 1))
    (change,) = flow.tune_pools()
    assert "expected no replicas" in change.refused
    assert "left as it is" in str(change)
    assert link.kept_views is None
    flow._execution.give_up()


def test_a_flow_tunes_itself_where_it_is_told_to():
    with DataFlowCoordinator("pools", tune_pools=True) as flow:
        link = running(flow, 6, "thread")
        wait_until(lambda: flow.pools["ramps.out"].views >= 8)
        wait_until(lambda: not link.is_draining)
        report = flow.stop()
    assert any(isinstance(event, events.PoolTuned) for event in report.events)


def test_the_application_at_both_ends_is_tuned_too(flow):
    flow.add(Keeps(6), name="keeps", worker="keeps")
    pipe = flow.pipeline(flow.register_pipeline("app", "keeps", PipelineConfig(buffer_size=4), FORMAT))
    flow.start()
    sent = 0

    def send(count):
        nonlocal sent
        for _ in range(count):
            pipe.send(np.full((FRAMES, 1), sent, np.float32))
            sent += 1

    pools = flow._execution.pools
    for _ in range(2):
        send(50)
        wait_until(lambda: pipe.statistics().delivered == sent)
        pools.look(flow.name, pools._looked_ns + WINDOW_NS)
    (change,) = flow.tune_pools()
    assert change.views_after == 8
    send(50)
    wait_until(lambda: pipe.statistics().delivered == sent)
    assert pipe.statistics().sent == sent


def test_shares_are_of_what_was_asked():
    pool = PoolMetrics(
        buffers=10,
        buffer_bytes=100,
        mapped_bytes=1_100,
        held=0,
        waiting=0,
        oldest_ms=0,
        peak_views=0,
        views=4,
        asked=0,
        misses=0,
    )
    assert (pool.hit_rate, pool.overhead) == (1, pytest.approx(0.1))
