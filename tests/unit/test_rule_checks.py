"""Rules that cannot be carried out where they are: refused at the start, where nothing starts, and when they are switched."""

from __future__ import annotations

import numpy as np
import pytest

from steadyflow import (
    Adaptive,
    AudioFormat,
    DataFlowCoordinator,
    DropOldest,
    Grow,
    Input,
    Module,
    PipelineConfig,
    Throttle,
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


def linked(flow, rule, *, live=False, consumer=Collect, buffer_size=8):
    """A source and a consumer with this rule between them."""
    source = flow.add(ScriptedSource([np.zeros((4, 1), np.float32)], MONO, live=live), name="source")
    target = flow.add(consumer(), name="target")
    return flow.connect(source.out, target.data, buffer_size=buffer_size, backpressure_strategy=rule)


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
]
ALLOWED = [
    (Throttle(), {}),
    (Adaptive(), {"live": True}),
    (Adaptive(lower_quality=False), {}),
    (Adaptive(lower_quality=True), {"consumer": Ladder}),
    (Grow(8), {"live": True}),
    (Grow(8, max_bytes=BLOCK_BYTES), {}),
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
