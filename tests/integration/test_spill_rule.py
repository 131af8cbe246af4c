"""What finds no room waits on disk, by the rule of a pipeline: a spool stands before it, and what it does is told at the pipeline."""

from __future__ import annotations

import threading
import time

import pytest
from tests.integration.changing_flows import wait_until

from steadyflow import (
    BytesFormat,
    DataFlowCoordinator,
    DropOldest,
    Fail,
    Grow,
    Input,
    Module,
    Output,
    Source,
    Spill,
    Wait,
)
from steadyflow.errors import ConfigurationError
from steadyflow.events import PipelineDisconnected, SpillFailed, SpillFull, SpillLeft, StrategyChanged
from steadyflow.testing import Collect

LIMIT_S = 60
BLOCKS = 2_000


class Numbers(Source):
    """Sends at once, as a device would: it waits for nobody."""

    out = Output(BytesFormat(64))

    def produce(self):
        for number in range(BLOCKS):
            self.out.send(b"%d" % number)
            yield time.monotonic_ns() + 100_000


class Held(Module):
    """Takes nothing before it is opened; then everything."""

    data = Input(BytesFormat(64))

    def __init__(self):
        self.opened = threading.Event()
        self.values = []

    def process(self, block):
        assert self.opened.wait(LIMIT_S)
        self.values.append(int(bytes(block.data)))


@pytest.fixture
def flow():
    with DataFlowCoordinator("spilling") as made:
        yield made


def link(flow, rule):
    source, held = flow.add(Numbers(), name="numbers"), flow.add(Held(), name="held", worker="held")
    return held, flow.connect(source.out, held.data, buffer_size=4, backpressure_strategy=rule)


def taken_to_the_end(flow, held, pipeline):
    """Let everything be taken: what came and what the spool says it dropped is all. Returns the report, and how much was dropped."""
    held.opened.set()
    assert flow.wait(LIMIT_S)
    report = flow.stop()
    dropped = report.pipelines[pipeline.id].pressure.spill_dropped
    assert len(held.values) + dropped == BLOCKS
    assert held.values == sorted(held.values)
    return report, dropped


def test_what_finds_no_room_waits_on_disk_and_comes_in_order(flow, tmp_path):
    held, pipeline = link(flow, Spill(tmp_path / "late.spool", 10_000_000))
    flow.start()
    wait_until(lambda: pipeline.statistics().pressure.spilled_blocks > BLOCKS - 100, LIMIT_S)
    held.opened.set()
    assert flow.wait(LIMIT_S)
    report = flow.stop()
    assert held.values == list(range(BLOCKS))
    assert report.pipelines[pipeline.id].pressure.spill_dropped == 0
    assert "spool dropped" not in str(report)


def test_what_a_full_spool_drops_is_told_at_its_pipeline_alone(flow, tmp_path):
    held, pipeline = link(flow, Spill(tmp_path / "late.spool", 10_000_000, max_blocks=500))
    flow.start()
    wait_until(lambda: pipeline.statistics().pressure.spill_dropped > BLOCKS - 700, LIMIT_S)
    report, dropped = taken_to_the_end(flow, held, pipeline)
    full = [event for event in flow.events.history if isinstance(event, SpillFull)]
    assert [(event.blocks, event.then) for event in full] == [(500, "drop_oldest")]
    assert str(report).count(f"its spool dropped {dropped} blocks, and 0 wait on disk") == 1


def missing(folder):
    return folder / "missing" / "late.spool"


def not_a_folder(folder):
    (folder / "file").write_text("")
    return folder / "file" / "late.spool"


@pytest.mark.parametrize("place", [missing, not_a_folder])
def test_where_the_file_cannot_be_used_the_rule_behind_it_holds_and_its_losses_are_told(flow, tmp_path, place):
    held, pipeline = link(flow, Spill(place(tmp_path), 10_000_000, then="drop_oldest"))
    flow.start()
    wait_until(lambda: any(isinstance(event, SpillFailed) for event in flow.events.history), LIMIT_S)
    wait_until(lambda: pipeline.statistics().pressure.spill_dropped > BLOCKS // 2, LIMIT_S)
    report, dropped = taken_to_the_end(flow, held, pipeline)
    assert held.values[-1] == BLOCKS - 1
    assert f"its spool dropped {dropped} blocks" in str(report)


def test_a_full_disk_is_told_and_the_rule_behind_it_holds(flow, small_disk):
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(bytes(2 << 20))
    held, pipeline = link(flow, Spill(small_disk / "late.spool", 10_000_000, then="drop_newest"))
    flow.start()
    wait_until(lambda: pipeline.statistics().pressure.spill_dropped > BLOCKS // 2, LIMIT_S)
    (failed, *_) = [event for event in flow.events.history if isinstance(event, SpillFailed)]
    assert failed.then == "drop_newest"
    assert "full" in failed.reason
    taken_to_the_end(flow, held, pipeline)


def test_the_rule_can_be_switched_to_another_one_and_back(flow, tmp_path):
    spill = Spill(tmp_path / "late.spool", 10_000_000)
    held, pipeline = link(flow, spill)
    flow.start()
    for rule in (DropOldest(), spill):
        flow.handle_backpressure(pipeline, rule)
        assert pipeline.rule is rule
    wait_until(lambda: pipeline.statistics().pressure.spilled_blocks > 0, LIMIT_S)
    held.opened.set()
    assert flow.wait(LIMIT_S)
    flow.stop()
    assert held.values == sorted(set(held.values))
    assert [event for event in flow.events.history if isinstance(event, StrategyChanged)]


@pytest.mark.parametrize("refusing", [Fail(), Wait(5.0, then="fail"), Grow(64, then="fail")])
def test_a_rule_that_refuses_blocks_is_refused_because_a_spool_would_be_the_sender(flow, tmp_path, refusing):
    spill = Spill(tmp_path / "late.spool", 10_000_000)
    held, pipeline = link(flow, spill)
    flow.start()
    with pytest.raises(
        ConfigurationError, match=r"^numbers.out->held.data: expected a rule that takes a block.*a spool sends into it"
    ):
        flow.handle_backpressure(pipeline, refusing)
    assert pipeline.rule is spill
    held.opened.set()
    assert flow.wait(LIMIT_S)
    flow.stop()
    assert held.values == list(range(BLOCKS))


class InTwoParts(Numbers):
    """Sends one half, and the other one when it is told to."""

    def __init__(self):
        self.goes_on = False

    def produce(self):
        for number in range(BLOCKS):
            while number == BLOCKS // 2 and not self.goes_on:
                yield time.monotonic_ns() + 1_000_000
            self.out.send(b"%d" % number)
            yield time.monotonic_ns() + 100_000


def test_what_is_on_disk_stays_there_where_its_pipeline_is_taken_away(flow, tmp_path):
    rule = Spill(tmp_path / "late.spool", 10_000_000)
    source, held = flow.add(InTwoParts(), name="numbers"), flow.add(Held(), name="held", worker="held")
    other = flow.connect(source.out, flow.add(Collect(), worker="other").data, buffer_size=BLOCKS)
    pipeline = flow.connect(source.out, held.data, buffer_size=4, backpressure_strategy=rule)
    flow.start()
    wait_until(lambda: other.statistics().sent == BLOCKS // 2, LIMIT_S)
    held.opened.set()
    wait_until(lambda: held.values, LIMIT_S)
    flow.disconnect(pipeline, discard=True)
    (left,) = [event for event in flow.events.history if isinstance(event, SpillLeft)]
    assert left.blocks > 0
    assert not [each for each in flow.pipelines if "spool" in each]
    again = flow.connect(source.out, held.data, buffer_size=4, backpressure_strategy=rule)
    source.goes_on = True
    assert flow.wait(LIMIT_S)
    report = flow.stop()
    dropped = sum(event.dropped for event in flow.events.history if isinstance(event, PipelineDisconnected))
    assert len(held.values) == BLOCKS - dropped
    assert held.values == sorted(set(held.values))
    assert held.values[-BLOCKS // 2 :] == list(range(BLOCKS // 2, BLOCKS))
    assert report.pipelines[other.id].delivered == BLOCKS
    assert report.pipelines[again.id].dropped == {}


def test_a_spool_that_is_empty_leaves_no_file_open_and_nothing_behind(flow, tmp_path):
    rule = Spill(tmp_path / "late.spool", 10_000_000)
    held, pipeline = link(flow, rule)
    flow.disconnect(pipeline)
    assert list(flow.modules) == ["numbers", "held"]
    pipeline = flow.connect("numbers.out", "held.data", buffer_size=4, backpressure_strategy=rule)
    held.opened.set()
    flow.start()
    wait_until(lambda: len(held.values) > 10, LIMIT_S)
    flow.disconnect(pipeline)
    assert not any(isinstance(event, SpillLeft) for event in flow.events.history)
    assert flow.wait(LIMIT_S)
    flow.stop()
    assert held.values == list(range(len(held.values)))
