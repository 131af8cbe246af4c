"""Which sends are slowed down so that less comes through a pipeline, and how far: in flows that run."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from steadyflow import AudioFormat, DataFlowCoordinator, Input, Module, Output, PipelineConfig
from steadyflow.runtime.upstream import Paces, first_rings_above

MONO = AudioFormat(48_000, 1, max_block_frames=480)
MS = 1_000_000


class Pass(Module):
    audio = Input(MONO)
    out = Output(like="audio")

    def process(self, audio):
        return audio


class Join(Module):
    left = Input(MONO)
    right = Input(MONO)
    out = Output(like="left")

    def process_left(self, block):
        return block

    def process_right(self, block):
        return None


@pytest.fixture
def flow():
    with DataFlowCoordinator("paced") as flow:
        yield flow


def chain(flow, *names, worker=str, **options):
    """Modules one after the other, each in its own worker unless told otherwise, between "app" and "sink"."""
    for name in names:
        flow.add(Pass(), name=name, worker=worker(name), **options)
    ends = ["app", *names, "sink"]
    for source, target in pairwise(ends):
        link(flow, source, target)


def link(flow, source, target, buffer_size=8):
    return flow.register_pipeline(source, target, PipelineConfig(buffer_size), format=MONO)


def above(flow, name):
    every = list(flow.pipelines.values())
    (pipeline,) = [each for each in every if each.id == name]
    return [each.id for each in first_rings_above(pipeline, every)]


def test_the_first_ring_is_the_one_into_which_the_application_sends(flow):
    chain(flow, "a", "b")
    flow.start()
    for name in ("app->a.audio", "a.out->b.audio", "b.out->sink"):
        assert above(flow, name) == ["app->a.audio"]


def test_what_is_handed_over_by_a_call_is_gone_through(flow):
    chain(flow, "a", "b", "c", worker=lambda name: "together" if name in "bc" else name)
    flow.start()
    assert not flow.pipeline("b.out->c.audio").has_ring
    assert above(flow, "c.out->sink") == ["app->a.audio"]
    assert above(flow, "a.out->b.audio") == ["app->a.audio"]


def test_where_nothing_above_has_a_ring_it_is_the_first_itself(flow):
    chain(flow, "a", "b")
    every = list(flow.pipelines.values())
    assert [each.id for each in first_rings_above(every[0], every)] == ["app->a.audio"]
    flow.start()


def test_all_ways_are_found_and_each_once(flow):
    flow.add(Join(), name="join", worker="join")
    for name in ("a", "b"):
        flow.add(Pass(), name=name, worker=name)
        link(flow, "app", name)
    link(flow, "a.out", "join.left")
    link(flow, "b.out", "join.right")
    link(flow, "join.out", "sink")
    flow.start()
    assert above(flow, "join.out->sink") == ["app->a.audio", "app->b.audio"]
    assert above(flow, "a.out->join.left") == ["app->a.audio"]


def test_two_ways_from_one_sender_are_one(flow):
    flow.add(Join(), name="join", worker="join")
    flow.add(Pass(), name="a", worker="a")
    link(flow, "app", "a")
    link(flow, "a.out", "join.left")
    link(flow, "a.out", "join.right")
    link(flow, "join.out", "sink")
    flow.start()
    assert above(flow, "join.out->sink") == ["app->a.audio"]


def pace_ms(pipeline):
    return [ring.pace_ns / MS for ring in pipeline.filling]


def test_the_slowest_of_what_is_wanted_holds(flow):
    chain(flow, "a")
    flow.start()
    first, last = flow.pipeline("app->a.audio"), flow.pipeline("a.out->sink")
    paces = Paces()
    paces.apply()
    assert pace_ms(first) == [0]
    paces.want(first, 100, [first], {})
    paces.want(last, 50, [first], {})
    assert pace_ms(first) == [0]
    paces.apply()
    assert pace_ms(first) == [20]
    paces.want(last, None, [first], {})
    paces.apply()
    assert pace_ms(first) == [10]
    paces.want(first, None, [first], {})
    paces.apply()
    assert pace_ms(first) == pace_ms(last) == [0]


def test_a_module_that_makes_more_blocks_of_one_is_taken_into_account(flow):
    chain(flow, "a")
    flow.start()
    first, last = flow.pipeline("app->a.audio"), flow.pipeline("a.out->sink")
    paces = Paces()
    for ratios, expected_ms in (({first.id: 0.25}, 40), ({first.id: 4}, 2.5), ({first.id: None}, 10), ({}, 10)):
        paces.want(last, 100, [first], ratios)
        paces.apply()
        assert pace_ms(first) == [expected_ms]
    paces.want(first, 100, [first], {first.id: 1.0})
    paces.apply()
    assert pace_ms(first) == [10]


def test_a_little_more_or_less_is_left_alone(flow):
    pipeline = flow.pipeline(link(flow, "app", "sink"))
    paces = Paces()
    for hz, expected_ms in ((100, 10), (101.5, 10), (98.5, 10), (105, 1000 / 105)):
        paces.want(pipeline, hz, [pipeline], {})
        paces.apply()
        assert pace_ms(pipeline) == [pytest.approx(expected_ms, rel=1e-6)]


@pytest.mark.parametrize("hz", [1e-3, 1e-12, 5e-324])
def test_the_slowest_pace_is_a_block_a_minute(flow, hz):
    pipeline = flow.pipeline(link(flow, "app", "sink"))
    paces = Paces()
    paces.want(pipeline, hz, [pipeline], {})
    paces.apply()
    assert pace_ms(pipeline) == [60_000]


def test_replicas_share_a_pace(flow):
    chain(flow, "a", replicas=2, placement="process", worker=lambda _: None)
    flow.start()
    last = flow.pipeline("a.out->sink")
    paces = Paces()
    paces.want(last, 100, [last], {})
    paces.apply()
    assert pace_ms(last) == [20, 20]


def test_a_flow_that_is_changed_is_paced_where_it_is_first_then(flow):
    chain(flow, "a")
    flow.start()
    first, last = flow.pipeline("app->a.audio"), flow.pipeline("a.out->sink")
    paces = Paces()
    paces.want(last, 100, [first], {})
    paces.apply()
    paces.want(last, 100, [last], {})
    paces.apply()
    assert (pace_ms(first), pace_ms(last)) == ([0], [10])


def test_rings_that_come_later_are_paced_too(flow):
    chain(flow, "a")
    flow.start()
    first = flow.pipeline("app->a.audio")
    paces = Paces()
    paces.want(first, 100, [first], {})
    paces.apply()
    flow.replace("a", Pass())
    assert pace_ms(first) == [10]
    paces.apply()
    assert pace_ms(first) == [10]
    first.send(np.zeros((4, 1), np.float32))


def test_what_is_forgotten_comes_as_it_comes(flow):
    chain(flow, "a")
    flow.start()
    first, last = flow.pipeline("app->a.audio"), flow.pipeline("a.out->sink")
    paces = Paces()
    paces.want(last, 50, [first], {})
    paces.want(first, 100, [first], {})
    paces.apply()
    paces.forget(last)
    assert pace_ms(first) == [10]
    paces.forget(first)
    assert pace_ms(first) == [0]
    paces.apply()


def test_what_is_forgotten_is_slowed_down_for_nobody(flow):
    """It may be looked at anew, because another module takes its blocks, when what it was slowed down for is over."""
    chain(flow, "a")
    flow.start()
    first, last = flow.pipeline("app->a.audio"), flow.pipeline("a.out->sink")
    paces = Paces()
    paces.want(last, 50, [first], {})
    paces.apply()
    paces.forget(first)
    assert pace_ms(first) == [0]


def test_in_the_end_everything_comes_as_it_comes(flow):
    chain(flow, "a")
    flow.start()
    first, last = flow.pipeline("app->a.audio"), flow.pipeline("a.out->sink")
    paces = Paces()
    paces.want(last, 50, [first], {})
    paces.want(last, 50, [first, last], {})
    paces.apply()
    assert (pace_ms(first), pace_ms(last)) == ([20], [20])
    paces.clear()
    assert (pace_ms(first), pace_ms(last)) == ([0], [0])
