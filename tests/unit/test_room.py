"""Whether an output has room: that of the fullest pipeline, whatever its rule; and waiting for it without stopping a loop."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from steadyflow import (
    ArrayFormat,
    BlockFlag,
    BytesFormat,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    Fail,
    FlowData,
    Input,
    Latest,
    Module,
    Output,
    PipelineConfig,
    Wait,
)
from steadyflow.errors import PipelineClosed, StateError
from steadyflow.module import name_in_flow
from steadyflow.testing import Collect

NUMBER = ArrayFormat("int64", (1,))
LIMIT_S = 30


def number(value):
    return np.array([value], np.int64)


@pytest.fixture
def flow():
    with DataFlowCoordinator("room") as flow:
        yield flow


@pytest.mark.parametrize("rule", [Wait(), DropOldest(), DropNewest(), Fail()], ids=repr)
def test_there_is_room_until_the_buffer_is_full_whatever_the_rule(flow, rule):
    config = PipelineConfig(buffer_size=2, backpressure_strategy=rule)
    pipe = flow.pipeline(flow.register_pipeline("here", "there", config, NUMBER))
    output = pipe._output
    for value in (1, 2):
        assert output.has_room()
        assert output.seek_room() == 0
        pipe.send(number(value))
    assert not output.has_room()
    assert output.seek_room() > 0
    pipe.receive(LIMIT_S)
    assert output.has_room()


def test_room_is_that_for_a_block_of_its_size(flow):
    config = PipelineConfig(buffer_size=8, max_buffer_bytes=100)
    pipe = flow.pipeline(flow.register_pipeline("here", "there", config, BytesFormat(100)))
    output = pipe._output
    assert output.has_room(100)
    pipe.send(bytes(60))
    assert output.has_room(40)
    assert not output.has_room(41)
    assert output.seek_room(41) > 0
    pipe.receive(LIMIT_S)
    assert output.seek_room(41) == 0


def test_what_keeps_the_newest_has_always_room(flow):
    config = PipelineConfig(buffer_size=1, backpressure_strategy=Latest())
    pipe = flow.pipeline(flow.register_pipeline("here", "there", config, NUMBER))
    for value in range(3):
        assert pipe._output.has_room()
        pipe.send(number(value))


def test_a_closed_output_says_what_a_send_would(flow):
    pipe = flow.pipeline(flow.register_pipeline("here", "there", PipelineConfig(buffer_size=2), NUMBER))
    pipe.end()
    with pytest.raises(PipelineClosed, match="the stream was ended"):
        assert pipe._output.has_room()


class Ahead(Module):
    """Waits for room before it sends, and passes on what it was not given at that moment."""

    data = Input(NUMBER)
    out = Output(NUMBER)

    async def setup(self):
        self.waits = []

    async def process(self, data):
        if not self.out.has_room():
            waiting = asyncio.ensure_future(self.out.wait_for_room())
            await asyncio.sleep(0)
            self.waits.append(waiting.done())
            await waiting
        assert self.out.has_room()
        self.out.pass_on(FlowData(data.samples, flags=BlockFlag.GAP if data.samples[0] == 1 else 0))


def test_a_module_waits_for_room_and_passes_on_what_inherits_nothing(flow):
    module = flow.add(Ahead(), name="ahead")
    into = flow.pipeline(flow.register_pipeline("application", "ahead.data", PipelineConfig(buffer_size=64), NUMBER))
    collect = flow.add(Collect())
    behind = flow.connect(module.out, collect.data, buffer_size=2, backpressure_strategy=Fail())
    behind.pause()
    flow.start()
    assert name_in_flow(module) == "ahead"
    for value in range(50):
        into.send(FlowData(number(value), flags=BlockFlag.DISCONTINUITY))
    into.end()
    while not module.waits:
        assert not flow.wait(0.001)
    behind.resume()
    assert flow.wait(LIMIT_S)
    flow.stop()
    assert [int(value[0]) for value in collect.values] == list(range(50))
    assert [arrival.flags for arrival in collect.arrivals] == [0, BlockFlag.GAP] + 48 * [0]
    assert not module.waits[0]  # later on, room may come at any moment


def test_only_an_asynchronous_module_waits_for_room():
    async def wait():
        await Ahead().out.wait_for_room()

    with pytest.raises(StateError, match="expected a running asynchronous module"):
        asyncio.run(wait())
