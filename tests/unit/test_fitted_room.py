"""The room of a pipeline that follows the load: sized to what its consumer takes, and not with every measurement anew."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from steadyflow import Adaptive
from steadyflow.backpressure.reading import Reading
from steadyflow.platform.machine_load import MachineLoad
from steadyflow.runtime.treatments import Adapting

MS = 1_000_000


class Pipe(SimpleNamespace):
    def set_room(self, blocks):
        self.buffer_size = blocks


class Idle:
    """Hands that have nothing to do."""

    def less_important(self, pipeline):
        return ()

    def let_others_yield(self, pipeline, *, yields):
        assert not yields

    def load(self):
        return MachineLoad(None, None)


@pytest.fixture
def rooms():
    """Return what lets the room follow a consumer's speed, looked at every 600 ms, and gives the rooms that there were."""
    pipe = Pipe(id="a->b", live=True, buffer_size=256, config=SimpleNamespace(buffer_size=256, max_latency_ms=50.0))
    controlled = SimpleNamespace(
        pipeline=pipe, reading=None, service=SimpleNamespace(hz=None), lost_share=0.0, pace_hz=None, strategy=""
    )
    adapting = Adapting(controlled, Idle(), Adaptive(), may_pace=False, qualities=(), best="")
    now_ns = 0

    controlled.strategy = "normal"

    def look(service_hz, sojourn_ms, after_ms):
        nonlocal now_ns
        now_ns += after_ms * MS
        controlled.service.hz = service_hz
        controlled.reading = Reading(now_ns, 1000, 500, 0, 200, 0.8, round(sojourn_ms * MS), 0, 0)
        list(adapting.note("flow"))
        return pipe.buffer_size

    while controlled.strategy != "less room":
        look(1_000.0, 40.0, 10)
    for _ in range(12):  # it has helped: the next step is not taken
        look(1_000.0, 15.0, 10)
    assert controlled.strategy == "less room"
    return lambda *speeds_hz: [look(speed_hz, 15.0, 600) for speed_hz in speeds_hz]


def test_a_room_is_what_is_taken_in_time(rooms):
    """Three quarters of 25 ms: blocks wait for no longer than that."""
    assert rooms(1_000.0, 2_000.0, 500.0) == [19, 38, 9]


def test_one_block_more_or_less_is_no_reason(rooms):
    assert rooms(160.0, 110.0, 160.0, 110.0, 160.0) == [3] * 5
    assert rooms(210.0, 320.0, 210.0) == [3, 6, 4]


def test_two_blocks_have_room_however_slow_it_is(rooms):
    assert rooms(20.0, 110.0) == [2, 2]


def test_a_busy_machine_is_named_where_a_step_is_taken():
    class Busy(Idle):
        def load(self):
            return MachineLoad(cpu_pressure_share=0.9, runnable_per_core=5.0)

    told = {}
    for hands in (Idle(), Busy()):
        pipe = Pipe(id="a->b", live=True, buffer_size=256, config=SimpleNamespace(buffer_size=256, max_latency_ms=50.0))
        controlled = SimpleNamespace(
            pipeline=pipe, reading=None, service=SimpleNamespace(hz=1_000.0), lost_share=0.0, pace_hz=None, strategy=""
        )
        adapting = Adapting(controlled, hands, Adaptive(), may_pace=False, qualities=(), best="")
        for number in range(1, 100):
            controlled.reading = Reading(number * 10 * MS, 1000, 500, 0, 200, 0.8, 40 * MS, 0, 0)
            if news := list(adapting.note("flow")):
                told[type(hands)] = news[0]
                break
    assert "while the machine is busy" not in told[Idle].reason
    assert "while the machine is busy with other things, too" in told[Busy].reason
    assert dict(told[Busy].numbers)["cpu_pressure_share"] == 0.9
