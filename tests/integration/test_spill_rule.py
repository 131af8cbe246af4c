"""What finds no room waits on disk, by the rule of a pipeline: a spool stands before it, and what it does is told at the pipeline."""

from __future__ import annotations

import threading
import time

import pytest
from tests.integration.changing_flows import wait_until

from steadyflow import BytesFormat, DataFlowCoordinator, DropOldest, Input, Module, Output, Source, Spill
from steadyflow.events import SpillFailed, StrategyChanged

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
    held.opened.set()
    assert flow.wait(LIMIT_S)
    report = flow.stop()
    dropped = report.pipelines[pipeline.id].pressure.spill_dropped
    assert len(held.values) + dropped == BLOCKS
    assert held.values == sorted(held.values)
    assert str(report).count(f"its spool dropped {dropped} blocks, and 0 wait on disk") == 1


def test_where_there_is_no_folder_the_rule_behind_it_holds_and_its_losses_are_told(flow, tmp_path):
    held, pipeline = link(flow, Spill(tmp_path / "missing" / "late.spool", 10_000_000, then="drop_oldest"))
    flow.start()
    wait_until(lambda: any(isinstance(event, SpillFailed) for event in flow.events.history), LIMIT_S)
    wait_until(lambda: pipeline.statistics().pressure.spill_dropped > BLOCKS // 2, LIMIT_S)
    held.opened.set()
    assert flow.wait(LIMIT_S)
    report = flow.stop()
    dropped = report.pipelines[pipeline.id].pressure.spill_dropped
    assert len(held.values) + dropped == BLOCKS
    assert held.values == sorted(held.values)
    assert held.values[-1] == BLOCKS - 1
    assert f"its spool dropped {dropped} blocks" in str(report)


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
