"""Where a pipeline gets other rings while it runs, nothing that began in the earlier ones is forgotten: ends, pauses, losses, rooms."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import numpy as np
import pytest
from tests.integration.changing_flows import FORMAT, Gate, Pass, Ticks, numbers, wait_until

from steadyflow import (
    AudioFormat,
    AudioPipelineConfig,
    BlockFlag,
    DataFlowCoordinator,
    DropByPriority,
    FlowFailed,
    Grow,
    Input,
    Module,
    Output,
    PipelineConfig,
    StateError,
)
from steadyflow.errors import ConfigurationError
from steadyflow.runtime import rewiring
from steadyflow.testing import Collect

LIMIT_S = 60
MONO = AudioFormat(1_000, 1, max_block_frames=10)

pytestmark = pytest.mark.timeout(3 * LIMIT_S)


@pytest.fixture
def flow():
    with DataFlowCoordinator("following") as made:
        yield made


def lay_out_again(flow, pipeline):
    flow._changing._rewiring.lay_out_again(pipeline)


def from_the_application(flow, target, buffer_size=16):
    return flow.pipeline(flow.register_pipeline("app", target, PipelineConfig(buffer_size), format=FORMAT))


@pytest.mark.parametrize("change", ["grow", "replace"])
def test_what_has_ended_ends_in_other_rings_too(flow, change):
    gate = flow.add(Gate(), name="gate", worker="gate")
    pipe = from_the_application(flow, gate.data)
    flow.start()
    for number in range(10):
        pipe.send(b"%d" % number)
    pipe.end()
    wait_until(lambda: gate.values)
    if change == "grow":
        threading.Timer(0.2, gate.opened.set).start()  # the change waits for it to come out of its block
        lay_out_again(flow, pipe)
    else:
        second = Gate()
        second.opened.set()
        threading.Timer(0.2, gate.opened.set).start()
        flow.replace("gate", second)
    assert flow.wait(LIMIT_S)
    flow.stop()
    assert numbers(gate.values) == list(range(10))


def test_a_pipeline_that_stops_while_it_gets_other_rings_ends(flow):
    gate = flow.add(Gate(), name="gate", worker="gate")
    pipe = from_the_application(flow, gate.data)
    flow.start()
    for number in range(3):
        pipe.send(b"%d" % number)
    wait_until(lambda: gate.values)

    def change():
        with contextlib.suppress(StateError):  # it may come too late
            lay_out_again(flow, pipe)

    changing = threading.Thread(target=change)
    changing.start()
    stopping = threading.Thread(target=flow.stop)
    stopping.start()
    wait_until(lambda: not flow._execution.goes_on)
    gate.opened.set()
    changing.join(LIMIT_S)
    stopping.join(LIMIT_S)
    assert numbers(gate.values) == [0, 1, 2]
    assert pipe.statistics().dropped == {}


def test_a_paused_pipeline_goes_on_after_changes_that_were_given_up(flow, monkeypatch):
    monkeypatch.setattr(rewiring, "ANSWER_TIMEOUT_S", 0.1)
    source, collect = flow.add(Ticks(last=300), worker="source"), flow.add(Collect(), worker="end")
    pipeline = flow.connect(source.out, collect.data, buffer_size=8)
    pipeline.pause()
    flow.start()
    wait_until(lambda: pipeline.statistics().in_flight == 8)  # so the next send waits
    for _ in range(2):
        with pytest.raises(StateError, match="cannot be changed"):
            lay_out_again(flow, pipeline)
    pipeline.resume()
    wait_until(lambda: pipeline.statistics().delivered > 20)
    lay_out_again(flow, pipeline)
    assert flow.wait(LIMIT_S)
    flow.stop()
    assert numbers(collect.values) == list(range(300))


def test_what_was_opened_while_the_flow_runs_may_get_other_rings_again_and_again(flow):
    flow.add(Ticks(), name="source")
    end = flow.add(Pass(), name="end", placement="process")
    flow.connect("source.out", flow.add(Collect(), name="other").data, buffer_size=8)
    flow.connect("source.out", end.data, buffer_size=8)
    flow.start()
    extra = flow.add(Pass(), name="extra", placement="process")
    pipe = from_the_application(flow, extra.data)
    for count in range(1, 4):
        lay_out_again(flow, pipe)
        pipe.send(b"1")
        wait_until(lambda count=count: pipe.statistics().delivered == count)
    os.kill(flow.workers["extra"].pid, signal.SIGKILL)
    with pytest.raises(FlowFailed):
        flow.wait(LIMIT_S)
        flow.stop()


def test_a_loss_is_told_behind_a_ring_that_nothing_came_from(flow):
    collect = flow.add(Collect(), worker="end")
    pipe = from_the_application(flow, collect.data)
    flow.start()
    pipe.send(b"0")
    wait_until(lambda: pipe.statistics().delivered == 1)
    pipe.pause()
    for _ in range(2):
        pipe.send(b"1")
        lay_out_again(flow, pipe)
        pipe.flush()
    pipe.resume()
    pipe.send(b"2")
    pipe.end()
    assert flow.wait(LIMIT_S)
    flow.stop()
    assert numbers(collect.values) == [0, 2]
    assert [bool(arrival.flags & BlockFlag.DISCONTINUITY) for arrival in collect.arrivals] == [False, True]
    assert [arrival.sequence for arrival in collect.arrivals] == [0, 3]


class Gated(Module):
    """Hears nothing until it is told to."""

    audio = Input(MONO)
    word = Input(FORMAT)
    out = Output(MONO)

    def setup(self):
        self.audio.hold()

    def process_audio(self, block):
        return block.samples.copy()

    def process_word(self, block):
        self.audio.release()


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_what_an_input_keeps_stays_where_its_pipeline_gets_other_rings(flow, placement):
    gated = flow.add(Gated(), name="gated", placement=placement)
    config = AudioPipelineConfig(16, preroll_ms=40)
    pipe = flow.pipeline(flow.register_pipeline("app", gated.audio, config, MONO))
    word = from_the_application(flow, gated.word)
    back = flow.connect(gated.out, "back", buffer_size=64)
    flow.start()
    for value in range(12):
        pipe.send(np.full((10, 1), value, np.float32))
        if value in (5, 9):
            lay_out_again(flow, pipe)
    wait_until(lambda: pipe.statistics().dropped == {"unwanted": 8})
    word.send(b"go")
    assert [back.receive(timeout_s=LIMIT_S).samples[0, 0] for _ in range(4)] == [8, 9, 10, 11]
    pipe.send(np.full((10, 1), 12, np.float32))
    assert back.receive(timeout_s=LIMIT_S).samples[0, 0] == 12
    wait_until(lambda: not pipe.is_draining)
    pipe.end()
    word.end()
    assert flow.wait(LIMIT_S)
    metrics = flow.stop().pipelines[pipe.id]
    assert (metrics.sent, metrics.delivered, metrics.dropped) == (13, 5, {"unwanted": 8})


def test_a_jitter_buffer_still_fills_where_its_pipeline_gets_other_rings(flow):
    class Hears(Gated):
        def setup(self):
            pass

    hears = flow.add(Hears(), name="hears", worker="hears")
    config = AudioPipelineConfig(16, target_fill_ms=40)
    pipe = flow.pipeline(flow.register_pipeline("app", hears.audio, config, MONO))
    back = flow.connect(hears.out, "back", buffer_size=64)
    flow.start()
    for value in range(2):
        pipe.send(np.full((10, 1), value, np.float32))
    lay_out_again(flow, pipe)
    pipe.send(np.full((10, 1), 2, np.float32))
    wait_until(lambda: sum(ring.look()[3] for ring in pipe.rings) == 0)  # it has taken in what there is
    assert pipe.statistics().delivered == 0
    pipe.send(np.full((10, 1), 3, np.float32))
    assert [back.receive(timeout_s=LIMIT_S).samples[0, 0] for _ in range(4)] == [0, 1, 2, 3]
    flow.stop()


def test_room_that_is_shared_with_inputs_from_elsewhere_stays_where_it_is(flow):
    class Both(Module):
        one = Input(FORMAT)
        two = Input(FORMAT)

        def process_one(self, block):
            pass

        process_two = process_one

    first, second = flow.add(Ticks(), worker="first"), flow.add(Ticks(), worker="second")
    both, other = flow.add(Both(), worker="both"), flow.add(Collect(), worker="other")
    shared = flow.connect(first.out, both.one, buffer_size=8, backpressure_strategy=DropByPriority())
    flow.connect(second.out, both.two, buffer_size=8, backpressure_strategy=DropByPriority())
    beside = flow.connect(first.out, other.data, buffer_size=8)
    flow.start()
    wait_until(lambda: shared.statistics().delivered > 5)
    with pytest.raises(ConfigurationError, match="shares its room with"):
        lay_out_again(flow, beside)
    flow.handle_backpressure(beside, Grow(64))
    came = shared.statistics().delivered
    wait_until(lambda: shared.statistics().delivered > came + 20)
    flow.stop()
