"""Rules that cannot be carried out where they are: refused at the start, where nothing starts, and when they are switched."""

from __future__ import annotations

import numpy as np
import pytest

from steadyflow import (
    Adaptive,
    AudioFormat,
    BytesFormat,
    DataFlowCoordinator,
    DropOldest,
    Grow,
    Input,
    Module,
    PipelineConfig,
    Sample,
    Spill,
    Throttle,
    Wait,
)
from steadyflow.errors import ConfigurationError
from steadyflow.runtime.layout import ChosenRule, check_rule
from steadyflow.testing import Collect, ScriptedSource

MONO = AudioFormat(48_000, 1, max_block_frames=480)
BLOCK_BYTES = 480 * 4


class Ladder(Module):
    data = Input(MONO)
    quality_levels = ("full", "fast")

    def process(self, data):
        return None

    def set_quality(self, level):
        return None


@pytest.fixture
def flow():
    with DataFlowCoordinator("ruled") as flow:
        yield flow


def linked(flow, rule, *, live=False, consumer=Collect, **options):
    """A source and a consumer with this rule between them."""
    source = flow.add(ScriptedSource([np.zeros((4, 1), np.float32)], MONO, live=live), name="source")
    target = flow.add(consumer(), name="target")
    return flow.connect(source.out, target.data, buffer_size=8, backpressure_strategy=rule, **options)


REFUSED = [
    (Throttle(), {"live": True}, "expected no live source above a pipeline that slows its sources down"),
    (Throttle(5), {"live": True}, r"got Throttle\(blocks_per_second=5\)\. Use DropOldest\(\), Sample\(\) or Adaptive"),
    (Adaptive(lower_quality=True), {}, r"expected a module with quality_levels, .* 'target' has none"),
    (Grow(7), {}, "expected max_blocks of at least buffer_size=8, with which it begins, got Grow"),
    (
        Grow(8, max_bytes=BLOCK_BYTES - 1),
        {},
        f"max_bytes of at least one block, which may have {BLOCK_BYTES} bytes; got",
    ),
    (Grow(8, max_ms=9.9), {}, "expected max_ms of at least one block, which may last 10 ms; got"),
    (Adaptive(drain_ms=21), {"max_latency_ms": 20}, "expected drain_ms of at most max_latency_ms=20, .* Leave it out"),
]
ALLOWED = [
    (Throttle(), {}),
    (Adaptive(), {"live": True}),
    (Adaptive(lower_quality=False), {}),
    (Adaptive(lower_quality=True), {"consumer": Ladder}),
    (Grow(8), {"live": True}),
    (Grow(8, max_bytes=BLOCK_BYTES), {}),
    (Grow(8, max_ms=10), {}),
    (Adaptive(drain_ms=20), {"max_latency_ms": 20}),
]


@pytest.mark.parametrize(("rule", "options", "text"), REFUSED)
def test_the_start_refuses_what_cannot_be_carried_out(flow, rule, options, text):
    linked(flow, rule, **options)
    with pytest.raises(ConfigurationError, match=text) as caught:
        flow.start()
    assert "source.out->target.data" in str(caught.value)


@pytest.mark.parametrize(("rule", "options"), ALLOWED)
def test_the_start_lets_pass_what_can_be(flow, rule, options):
    pipeline = linked(flow, rule, **options)
    flow.run()
    assert pipeline.rule == rule


@pytest.mark.parametrize(("rule", "options", "text"), REFUSED)
def test_a_rule_that_cannot_be_carried_out_is_not_switched_to(flow, rule, options, text):
    pipeline = linked(flow, DropOldest(), **options)
    flow.start()
    with pytest.raises(ConfigurationError, match=text):
        flow.handle_backpressure(pipeline.id, rule)
    assert pipeline.rule == DropOldest()


@pytest.mark.parametrize(
    ("rule", "text"),
    [(Adaptive(lower_quality=True), "'sink' has none"), (Grow(7), "max_blocks"), (Grow(8, max_bytes=9), "max_bytes")],
)
def test_between_two_open_ends_it_is_refused_at_once(flow, rule, text):
    config = PipelineConfig(8, backpressure_strategy=rule)
    with pytest.raises(ConfigurationError, match=text):
        flow.register_pipeline("app", "sink", config, format=MONO)
    assert flow.register_pipeline("app", "sink", PipelineConfig(8), format=MONO) == "app->sink"
    with pytest.raises(ConfigurationError, match=text):
        flow.handle_backpressure("app->sink", rule)


def test_a_limit_of_bytes_is_not_judged_before_it_is_known_what_flows(flow):
    source = flow.add(ScriptedSource([], MONO), name="source")
    pipeline = flow.connect(source.out, flow.add(Collect(), name="target").data, buffer_size=8)
    pipeline.format = None
    check_rule(pipeline, ChosenRule(Grow(8, max_bytes=1), live=False), ())


def test_what_has_no_duration_has_no_limit_in_ms(flow):
    source = flow.add(ScriptedSource([b"1"], BytesFormat(16)), name="source")
    flow.connect(
        source.out, flow.add(Collect(), name="target").data, buffer_size=8, backpressure_strategy=Grow(16, max_ms=100)
    )
    with pytest.raises(
        ConfigurationError, match=r"expected audio where a limit is in ms; .* Use max_bytes or max_blocks"
    ):
        flow.start()


def test_a_file_has_room_for_one_block(flow, tmp_path):
    rule = Spill(tmp_path / "small.spool", max_bytes=BLOCK_BYTES + 63)
    linked(flow, rule)
    with pytest.raises(ConfigurationError, match=f"which takes up to {BLOCK_BYTES + 64} bytes on disk; got Spill"):
        flow.start()


@pytest.mark.parametrize("rule", [Sample(4), Throttle(1000.0)])
def test_a_rule_that_holds_with_room_needs_some(flow, rule):
    """Both ends are in the worker ``main``, where a pipeline would be a call."""
    blocks = [np.zeros((4, 1), np.float32)] * 40
    source, target = flow.add(ScriptedSource(blocks, MONO), name="source"), flow.add(Collect(), name="target")
    pipeline = flow.connect(source.out, target.data, buffer_size=8, backpressure_strategy=rule)
    metrics = flow.run().pipelines[pipeline.id]
    if isinstance(rule, Sample):
        assert (metrics.delivered, metrics.dropped) == (10, {"sampled": 30})
    else:
        assert metrics.paced_ms > 20


@pytest.mark.parametrize("rule", [Sample(4), Throttle()])
def test_a_call_is_not_switched_to_such_a_rule(flow, rule):
    pipeline = linked(flow, DropOldest())
    flow.start()
    with pytest.raises(ConfigurationError, match=r"a block is passed on by a call; .* give one of them another worker"):
        flow.handle_backpressure(pipeline, rule)
    assert pipeline.rule == DropOldest()


@pytest.mark.parametrize("then", ["drop_newest", "drop_oldest"])
def test_what_happens_after_a_time_needs_one(then):
    with pytest.raises(ConfigurationError, match=f"expected timeout_ms with then='{then}'"):
        Wait(then=then)
