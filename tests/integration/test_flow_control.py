"""Flow control in real flows: what is told, what is done about it, and that it ends where the load does."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.integration.changing_flows import Gate, Pass, Ticks, numbers, wait_until

from steadyflow import (
    Adaptive,
    AudioFormat,
    BlockFlag,
    BytesFormat,
    DataFlowCoordinator,
    DropByPriority,
    DropNewest,
    DropOldest,
    Grow,
    Input,
    Module,
    Output,
    PipelineConfig,
    Source,
    Spill,
    Throttle,
    Wait,
)
from steadyflow.events import (
    BackpressureDetected,
    BackpressureRelieved,
    QualityChanged,
    StandstillDetected,
    StrategyAssessed,
    StrategyChanged,
)
from steadyflow.runtime import backpressure_controller
from steadyflow.testing import Collect

PLACEMENTS = ("thread", "process")
LIMIT_S = 90  # until something comes on a machine that is busy with other things
FORMAT = BytesFormat(max_bytes=64)
LARGE = BytesFormat(max_bytes=8192)
PAGE = os.sysconf("SC_PAGE_SIZE")

pytestmark = pytest.mark.timeout(3 * LIMIT_S)


class Dial:
    """How long something takes, in a file, so that it can be changed in a process, too."""

    def __init__(self, path, seconds=None):
        path = Path(path)
        if seconds is not None:
            path.write_bytes(np.float64(seconds).tobytes())
        self.path = str(path)
        self.seconds = np.memmap(path, np.float64, "r+")

    def turn(self, seconds):
        self.seconds[0] = seconds

    def sleep(self):
        time.sleep(float(self.seconds[0]))


class Slow(Module):
    """Takes as long for each block as its dial says; at its lower level, a twentieth of that."""

    data = Input(FORMAT)
    quality_levels = ("full", "fast")

    def __init__(self, path):
        self.path = path

    def setup(self):
        self.dial = Dial(self.path)
        self.share = 1.0

    def set_quality(self, level):
        self.share = {"full": 1.0, "fast": 0.05}[level]

    def process(self, block):
        time.sleep(self.share * float(self.dial.seconds[0]))


class Live(Source):
    """Sends numbers as often as its dial says."""

    out = Output(FORMAT)
    live = True

    def __init__(self, path):
        self.path = path

    def setup(self):
        self.dial = Dial(self.path)

    def produce(self):
        number = 0
        due_ns = time.monotonic_ns()
        while True:
            self.out.send(b"%d" % number)
            number += 1
            due_ns = max(due_ns + int(float(self.dial.seconds[0]) * 1e9), time.monotonic_ns() - 5_000_000)
            yield due_ns


class Waits(Module):
    """Takes nothing before it may."""

    data = Input(FORMAT)

    def __init__(self, gate):
        self.gate = gate

    def process(self, block):
        self.gate.wait(LIMIT_S)


@pytest.fixture
def flow():
    with DataFlowCoordinator("controlled") as made:
        yield made


def told(flow, kind, pipeline=None):
    return [
        event
        for event in flow.events.history
        if isinstance(event, kind) and (pipeline is None or event.pipeline == pipeline.id)
    ]


def wait_for(flow, kind, pipeline=None, *, count=1):
    wait_until(lambda: len(told(flow, kind, pipeline)) >= count, LIMIT_S)
    return told(flow, kind, pipeline)


# --- what is told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_pressure_and_its_end_are_told_with_who_is_slow(flow, tmp_path, placement):
    work, pause = Dial(tmp_path / "work", 0.02), Dial(tmp_path / "pause", 0.001)
    source = flow.add(Live(pause.path), name="live")
    slow = flow.add(Slow(work.path), name="slow", placement=placement, worker="apart")
    pipeline = flow.connect(source.out, slow.data, buffer_size=8, backpressure_strategy=DropOldest())
    flow.start()

    detected = wait_for(flow, BackpressureDetected, pipeline)[0]
    assert (detected.culprit, detected.stalled) == ("slow", ())
    assert detected.reason
    assert dict(detected.numbers)
    assert pipeline.statistics().pressure.state != "OK"

    work.turn(0.0)
    pause.turn(0.02)
    relieved = wait_for(flow, BackpressureRelieved, pipeline)[0]
    assert relieved.lasted_s > 0
    assert relieved.dropped > 0
    assert relieved.dropped_ms == 0  # it is no audio
    dropped = pipeline.statistics().dropped
    assert set(dropped) == {"oldest"}
    assert relieved.dropped <= dropped["oldest"]


@pytest.mark.parametrize("rule", ["Grow", "Spill"])
def test_relief_is_told_when_a_backlog_becomes_less_and_not_while_its_room_grows(flow, tmp_path, rule):
    work, pause = Dial(tmp_path / "work", 0.004), Dial(tmp_path / "pause", 0.001)
    source = flow.add(Live(pause.path), name="live")
    slow = flow.add(Slow(work.path), name="slow", worker="apart")
    chosen = Grow(5_000) if rule == "Grow" else Spill(tmp_path / "late.spool", 10_000_000)
    pipeline = flow.connect(source.out, slow.data, buffer_size=8, backpressure_strategy=chosen)
    flow.start()

    def backlog():
        metrics = pipeline.statistics()
        return metrics.fill + metrics.pressure.spilled_blocks

    wait_until(lambda: backlog() > 700, LIMIT_S)
    assert not told(flow, BackpressureRelieved, pipeline)
    assert len(told(flow, BackpressureDetected, pipeline)) == 1
    pause.turn(0.02)
    relieved = wait_for(flow, BackpressureRelieved, pipeline)[0]
    assert backlog() > 300, "it has not drained yet"
    assert relieved.dropped == 0
    assert relieved.waiting > 300
    if rule == "Spill":  # its pipeline stays full until then; with `Grow`, there may be much room by now
        assert re.search(r"^\d+ blocks wait, \d+ of them on disk, \d+ fewer than \d+ ms ago", relieved.reason)
        assert pipeline.statistics().pressure.state == "LOW"
    pause.turn(0.001)
    wait_for(flow, BackpressureDetected, pipeline, count=2)


def test_the_culprit_is_the_one_that_does_not_wait_for_another(flow, tmp_path):
    """The live source overruns a module that is fast, because what comes after it is slow."""
    work, pause = Dial(tmp_path / "work", 0.02), Dial(tmp_path / "pause", 0.001)
    source = flow.add(Live(pause.path), name="live")
    quick = flow.add(Pass(), name="quick", worker="quick")
    slow = flow.add(Slow(work.path), name="slow", worker="slow")
    first = flow.connect(source.out, quick.data, buffer_size=8, backpressure_strategy=DropOldest())
    second = flow.connect(quick.out, slow.data, buffer_size=8, backpressure_strategy=Wait())
    flow.start()
    assert wait_for(flow, BackpressureDetected, second)[0].culprit == "slow"
    assert wait_for(flow, BackpressureDetected, first)[0].culprit == "slow"


def test_a_branch_that_waits_names_what_it_stalls(flow):
    source = flow.add(Ticks(), name="ticks")
    gate, free = flow.add(Gate(), name="gate", worker="gate"), flow.add(Collect(), name="free", worker="free")
    shut = flow.connect(source.out, gate.data, buffer_size=4, backpressure_strategy=Wait())
    other = flow.connect(source.out, free.data, buffer_size=64, backpressure_strategy=Wait())
    flow.start()
    detected = wait_for(flow, BackpressureDetected, shut)[0]
    assert (detected.culprit, detected.stalled) == ("gate", (other.id,))
    gate.opened.set()
    wait_until(lambda: len(free.values) > 100, LIMIT_S)
    wait_for(flow, BackpressureRelieved, shut)


# --- following the load -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_lower_quality_under_load_and_the_best_again_afterwards(flow, tmp_path, placement):
    work, pause = Dial(tmp_path / "work", 0.02), Dial(tmp_path / "pause", 0.01)
    source = flow.add(Live(pause.path), name="live", placement=placement)
    slow = flow.add(Slow(work.path), name="slow", placement=placement, worker="slow")
    rule = Adaptive(drain_ms=40.0, lower_quality=True)
    pipeline = flow.connect(source.out, slow.data, buffer_size=32, backpressure_strategy=rule)
    flow.start()

    down = wait_for(flow, QualityChanged)[0]
    assert (down.module, down.pipeline, down.before, down.after) == ("slow", pipeline.id, "full", "fast")
    assert down.reason
    climbs = told(flow, StrategyChanged, pipeline)
    assert [(move.before, move.after) for move in climbs if "room for" not in move.after][:2] == [
        ("normal", "less room"),
        ("less room", "quality fast"),
    ]
    for move in climbs:
        assert move.reason
        assert move.expected
        assert move.numbers
    assessed = wait_for(flow, StrategyAssessed, pipeline, count=2)
    assert [judged.strategy for judged in assessed[:2]] == ["less room", "quality fast"]
    assert all(judged.reason and dict(judged.numbers)["target_ms"] == 40.0 for judged in assessed)

    pause.turn(0.2)
    up = wait_for(flow, QualityChanged, count=2)[1]
    assert (up.before, up.after) == ("fast", "full")
    wait_until(lambda: pipeline.statistics().pressure.strategy == "normal", LIMIT_S)
    assert pipeline.buffer_size == 32
    report = flow.stop()
    account = report.pipelines[pipeline.id]
    assert account.sent == account.delivered + account.dropped_total


def test_a_source_that_can_wait_is_given_what_is_taken(flow, tmp_path):
    """No queue between stands full, nothing is lost, and the source is told to wait, and not only the one next to the consumer."""
    work = Dial(tmp_path / "work", 0.002)
    source = flow.add(Ticks(last=2_000, period_ns=0), name="ticks")
    relay = flow.add(Pass(), name="relay", worker="relay")
    slow = flow.add(Slow(work.path), name="slow", worker="slow")
    keep = flow.add(Collect(), name="keep", worker="keep")
    first = flow.connect(source.out, relay.data, buffer_size=64, backpressure_strategy=Wait())
    second = flow.connect(relay.out, slow.data, buffer_size=64, backpressure_strategy=Wait())
    flow.connect(relay.out, keep.data, buffer_size=64, backpressure_strategy=Wait())
    flow.start()

    wait_until(lambda: first.statistics().paced_ms > 0, LIMIT_S)
    quiet = 0

    def stays_below():
        """Look until twenty looks, one after the other, found room in both."""
        nonlocal quiet
        quiet = quiet + 1 if max(first.statistics().fill, second.statistics().fill) < 60 else 0
        return quiet >= 20

    wait_until(stays_below, LIMIT_S)
    pressure = second.statistics().pressure
    assert pressure.strategy == "paced by credits"
    assert pressure.pace_hz > 0
    assert flow.wait(LIMIT_S)
    report = flow.stop()
    assert numbers(keep.values) == list(range(2_000))
    for account in report.pipelines.values():
        assert (account.sent, account.delivered, account.dropped) == (2_000, 2_000, {})


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_no_more_comes_through_than_was_asked_for(flow, placement):
    """Also at first, and at any time: a sender that was late catches up by four blocks, and no more."""
    rate_hz, count = 500.0, 600
    source = flow.add(Ticks(last=count, period_ns=0), name="ticks", placement=placement)
    keep = flow.add(Collect(), name="keep", worker="keep")
    pipeline = flow.connect(
        source.out, keep.data, buffer_size=64, backpressure_strategy=Throttle(blocks_per_second=rate_hz)
    )
    flow.start()
    assert flow.wait(LIMIT_S)
    flow.stop()
    assert numbers(keep.values) == list(range(count))
    sent_s = [arrival.timestamp_ns / 1e9 for arrival in keep.arrivals]
    for begin in range(0, count, 100):
        for place in range(begin, count):
            most = (sent_s[place] - sent_s[begin]) * rate_hz + 6
            assert place - begin <= most, (
                f"{place - begin} blocks from block {begin} on, where {most:.1f} may have come"
            )
    assert (count - 1) / (sent_s[-1] - sent_s[0]) > rate_hz / 3
    assert pipeline.statistics().paced_ms > 0


def test_what_the_application_sends_is_throttled_too(flow):
    pipeline = flow.pipeline(
        flow.register_pipeline(
            "app", "end", PipelineConfig(64, backpressure_strategy=Throttle(blocks_per_second=1000.0)), format=FORMAT
        )
    )
    flow.start()
    wait_until(lambda: pipeline.statistics().pressure is not None)
    began = time.monotonic()
    for number in range(60):
        pipeline.send(b"%d" % number)
        pipeline.receive(LIMIT_S)
    assert time.monotonic() - began >= 50 / 1000.0
    pipeline.end()


# --- room -------------------------------------------------------------------------------------------------------------


class LargeBlocks(Live):
    out = Output(LARGE)

    def produce(self):
        for number in range(200):
            self.out.send((b"%d" % number).ljust(8000))
            yield time.monotonic_ns() + 5_000_000
        while True:  # it goes on, so that it is seen that room is given back
            self.out.send(b"-1")
            yield time.monotonic_ns() + 20_000_000


def allocated_bytes(flow):
    segments = [segment for layout in flow._execution.layouts for segment in layout.segments.values()]
    return sum(os.fstat(segment.descriptor).st_blocks * 512 for segment in segments)


def test_room_is_given_and_taken_back_and_so_is_memory(flow, tmp_path):
    source = flow.add(LargeBlocks(Dial(tmp_path / "pause", 0.0).path), name="live")
    gate = flow.add(Gate(), name="gate", worker="gate")
    pipeline = flow.connect(source.out, gate.data, buffer_size=64, backpressure_strategy=Grow(256))
    flow.start()
    before = allocated_bytes(flow)
    wait_until(lambda: pipeline.statistics().sent >= 200, LIMIT_S)
    most = pipeline.statistics()
    assert most.dropped == {}
    assert most.pressure.room_blocks == 256
    assert allocated_bytes(flow) - before > 100 * 8192
    grown = told(flow, StrategyChanged, pipeline)
    assert [(move.before, move.after) for move in grown] == [
        ("room for 64 blocks", "room for 128 blocks"),
        ("room for 128 blocks", "room for 256 blocks"),
    ]
    assert all(dict(move.numbers)["fill_share"] >= 0.5 and move.expected for move in grown)

    gate.opened.set()
    wait_until(lambda: pipeline.statistics().pressure.room_blocks == 64, LIMIT_S)
    wait_until(lambda: allocated_bytes(flow) - before < 16 * 8192, LIMIT_S)
    flow.stop()
    assert [int(value) for value in gate.values if value != b"-1"] == list(range(200))


def test_a_pipeline_that_was_not_made_to_grow_gets_the_memory_for_it(flow, tmp_path):
    source = flow.add(LargeBlocks(Dial(tmp_path / "pause", 0.0).path), name="live")
    gate = flow.add(Gate(), name="gate", worker="gate")
    pipeline = flow.connect(source.out, gate.data, buffer_size=256, backpressure_strategy=DropOldest())
    pipeline.pause()  # the gate is told between two blocks, so it may not have one in hand
    flow.start()
    flow.handle_backpressure(pipeline, Grow(1024))
    wait_until(lambda: pipeline.growth_blocks > 0, LIMIT_S)
    pipeline.resume()
    gate.opened.set()
    wait_until(lambda: pipeline.statistics().sent >= 200, LIMIT_S)
    assert pipeline.statistics().dropped == {}
    flow.stop()
    assert [int(value) for value in gate.values if value != b"-1"] == list(range(200))


def test_a_pipeline_that_gets_other_memory_while_it_is_paused_and_empty_goes_on_when_it_is_resumed(flow, tmp_path):
    source = flow.add(LargeBlocks(Dial(tmp_path / "pause", 0.0).path), name="live")
    gate = flow.add(Gate(), name="gate", worker="gate")
    gate.opened.set()
    pipeline = flow.connect(source.out, gate.data, buffer_size=256, backpressure_strategy=DropOldest())
    pipeline.pause()
    flow.start()
    wait_until(lambda: pipeline.statistics().sent > 0, LIMIT_S)
    flow.handle_backpressure(pipeline, Grow(1024))
    wait_until(lambda: pipeline.growth_blocks > 0, LIMIT_S)
    pipeline.flush()
    assert set(pipeline.statistics().dropped) == {"flushed"}  # and the look keeps what drained rings have counted
    pipeline.resume()
    wait_until(lambda: pipeline.statistics().delivered > 0, LIMIT_S)
    flow.stop()


def test_what_waits_in_earlier_memory_stays_whole_while_another_pipeline_of_its_output_has_drained(flow, tmp_path):
    source = flow.add(LargeBlocks(Dial(tmp_path / "pause", 0.0).path), name="live")
    quick, gate = flow.add(Gate(), name="quick", worker="quick"), flow.add(Gate(), name="gate", worker="gate")
    growing = flow.connect(source.out, quick.data, buffer_size=256, backpressure_strategy=DropOldest())
    waiting = flow.connect(source.out, gate.data, buffer_size=256, backpressure_strategy=DropOldest())
    quick.opened.set()
    gate.opened.set()
    waiting.pause()
    flow.start()
    wait_until(lambda: waiting.statistics().sent > 20, LIMIT_S)
    flow.handle_backpressure(growing, Grow(1024))
    wait_until(lambda: growing.growth_blocks > 0 and not growing.is_draining, LIMIT_S)
    flow._execution.pools.look(flow.name, time.monotonic_ns() + 2_000_000_000)  # the look that gives memory back
    waiting.resume()
    wait_until(lambda: waiting.statistics().delivered > 30, LIMIT_S)
    flow.stop()
    assert [int(value.rstrip(b"\0")) for value in gate.values[:30]] == list(range(30))


def test_what_becomes_full_is_looked_at_at_once(flow, monkeypatch):
    monkeypatch.setattr(backpressure_controller, "LOOK_NS", 3_600_000_000_000)  # it sleeps until something wakes it
    gate = flow.add(Gate(), name="gate", worker="gate")
    config = PipelineConfig(8, backpressure_strategy=DropNewest())
    pipeline = flow.pipeline(flow.register_pipeline("app", gate.data, config, format=FORMAT))
    flow.start()
    flow._execution.flow_control.look()  # from here on it rings
    for _ in range(20):
        pipeline.send(b"")
    wait_until(lambda: told(flow, BackpressureDetected, pipeline), LIMIT_S)
    gate.opened.set()
    flow.stop()


def test_room_grows_up_to_a_limit_in_ms(flow):
    class Quiet(Source):
        out = Output(AudioFormat(48_000, 1, max_block_frames=48))
        live = True

        def produce(self):
            while True:
                self.out.send(np.zeros((48, 1), np.float32))
                yield time.monotonic_ns() + 1_000_000

    class Held(Gate):
        data = Input(AudioFormat(48_000, 1))

    source, gate = flow.add(Quiet(), worker="source"), flow.add(Held(), worker="gate")
    pipeline = flow.connect(source.out, gate.data, buffer_size=8, backpressure_strategy=Grow(512, max_ms=40.0))
    flow.start()
    wait_until(lambda: pipeline.buffer_size > 40, LIMIT_S)
    wait_until(lambda: pipeline.statistics().dropped_total > 50, LIMIT_S)
    assert pipeline.statistics().in_flight <= 40 + 1  # blocks of 1 ms, and the one in hand
    gate.opened.set()
    flow.stop()


def test_numbers_go_on_where_a_pipeline_gets_other_rings(flow):
    source, collect = flow.add(Ticks(), name="source", worker="source"), flow.add(Collect(), name="end")
    pipeline = flow.connect(source.out, collect.data, buffer_size=8)
    flow.start()
    wait_until(lambda: pipeline.statistics().delivered > 20, LIMIT_S)
    flow.handle_backpressure(pipeline, Grow(1024))
    wait_until(lambda: pipeline.growth_blocks > 0 and not pipeline.is_draining, LIMIT_S)
    flow.replace("source", Ticks())
    before = pipeline.statistics().delivered
    wait_until(lambda: pipeline.statistics().delivered > before + 20, LIMIT_S)
    flow.stop()
    assert [arrival.sequence for arrival in collect.arrivals] == list(range(len(collect.arrivals)))
    assert not any(arrival.flags & BlockFlag.DISCONTINUITY for arrival in collect.arrivals)


def test_a_pipeline_that_cannot_grow_says_so_and_goes_on(flow, tmp_path):
    """Rings of replicas do not change places: there are no more slots, and no more buffers to take back afterwards either."""
    source = flow.add(Live(Dial(tmp_path / "pause", 0.001).path), name="live")
    work = Dial(tmp_path / "work", 0.05)
    slow = flow.add(Slow(work.path), name="slow", placement="process", replicas=2)
    pipeline = flow.connect(source.out, slow.data, buffer_size=8, backpressure_strategy=DropOldest())
    flow.start()
    wait_until(lambda: pipeline.statistics().dropped_total > 0, LIMIT_S)
    flow.handle_backpressure(pipeline, Grow(64))
    wait_until(lambda: len(told(flow, StrategyChanged, pipeline)) >= 2, LIMIT_S)
    switched, limited = told(flow, StrategyChanged, pipeline)[:2]
    assert switched.after.startswith("Grow(")
    assert (limited.before, limited.after) == ("room for 8 blocks", "room for 8 blocks")
    assert "no more than 8 blocks" in limited.reason
    flow.handle_backpressure(pipeline, DropOldest())
    before = pipeline.statistics().sent
    wait_until(lambda: pipeline.statistics().sent > before + 100, LIMIT_S)
    assert pipeline.statistics().pressure.room_blocks == 8
    flow.stop()


def test_what_takes_the_place_of_a_grown_pipeline_begins_small_and_may_grow(flow, tmp_path):
    source = flow.add(LargeBlocks(Dial(tmp_path / "pause", 0.0).path), name="live")
    gate = flow.add(Gate(), name="gate", worker="gate")
    pipeline = flow.connect(source.out, gate.data, buffer_size=32, backpressure_strategy=Grow(512))
    flow.start()
    wait_until(lambda: pipeline.buffer_size >= 128, LIMIT_S)
    gate.opened.set()
    second = Gate()
    flow.replace("gate", second)
    assert pipeline.buffer_size == 32
    wait_until(lambda: pipeline.buffer_size >= 64, LIMIT_S)  # the second one takes nothing yet
    assert sum(ring.buffer_size for ring in pipeline.rings) == pipeline.buffer_size
    second.opened.set()
    wait_until(lambda: pipeline.buffer_size == 32, LIMIT_S)
    report = flow.stop()
    assert report.pipelines[pipeline.id].dropped == {}


class Ready(Source):
    """Sends whenever it may."""

    out = Output(FORMAT)
    live = False

    def produce(self):
        while True:
            self.out.send(b"")
            yield


def test_a_consumer_that_becomes_fast_is_slowed_down_no_more(flow, tmp_path):
    dial = Dial(tmp_path / "dial", 0.02)
    flow.add(Ready(), name="source", worker="source")
    slow = flow.add(Slow(str(tmp_path / "dial")), name="slow", worker="slow")
    pipeline = flow.connect(flow.modules["source"].out, slow.data, buffer_size=64)
    flow.start()
    wait_until(lambda: (pressure := pipeline.statistics().pressure) is not None and pressure.pace_hz > 0, LIMIT_S)
    dial.turn(0.0)
    wait_until(lambda: pipeline.statistics().pressure.service_hz > 2000, LIMIT_S)
    before = pipeline.statistics().sent
    wait_until(lambda: pipeline.statistics().sent > before + 20_000, LIMIT_S)  # at the pace until then: minutes


def rate_of_what_comes(collect, count):
    """Return at what rate, in Hz, so many more blocks come to a module, by their stamps, after the first few."""
    first = len(collect.arrivals) + 50
    wait_until(lambda: len(collect.arrivals) > first + count, LIMIT_S)
    came = [arrival.timestamp_ns for arrival in collect.arrivals[first : first + count + 1]]
    return count * 1e9 / (came[-1] - came[0])


def test_a_rate_holds_whatever_was_counted_before(flow):
    """Of what is connected later, and of what gets another source, which counts anew."""
    rate_hz = 100.0
    source, passing = Ticks(), Pass()
    flow.add(source, name="source", worker="source")
    flow.add(passing, name="pass", worker="pass")
    flow.add(Collect(), name="first", worker="first")
    above = flow.connect(source.out, passing.data, buffer_size=8)
    flow.connect(passing.out, flow.modules["first"].data, buffer_size=8)
    flow.start()
    wait_until(lambda: above.statistics().sent > 2000)
    late = flow.add(Collect(), name="late", worker="late")
    flow.connect(passing.out, late.data, buffer_size=64, backpressure_strategy=Throttle(rate_hz))
    assert rate_of_what_comes(late, 100) < 1.3 * rate_hz
    flow.replace("source", Ticks())
    assert rate_of_what_comes(late, 100) < 1.3 * rate_hz


def test_another_pace_does_not_wait_for_the_one_before(flow):
    source = Ticks()
    flow.add(source, name="source", worker="source")
    collect = flow.add(Collect(), name="end", worker="end")
    pipeline = flow.connect(source.out, collect.data, buffer_size=8, backpressure_strategy=Throttle(0.01))
    flow.start()
    wait_until(lambda: pipeline.statistics().paced_ms > 0)
    flow.handle_backpressure(pipeline.id, Throttle(1000.0))
    wait_until(lambda: pipeline.statistics().sent > 20, 30)  # the pace before is a minute


def test_room_is_waited_for_from_when_a_block_is_due(flow):
    pipeline = flow.pipeline(
        flow.register_pipeline("app", "end", PipelineConfig(1, backpressure_strategy=Wait(900)), format=FORMAT)
    )
    flow.start()
    pipeline.set_pace(1_000_000_000)
    for _ in range(4):  # which are made up for
        pipeline.send(b"")
        pipeline.receive(timeout_s=LIMIT_S)
    pipeline.send(b"")
    taking = threading.Timer(1.3, lambda: pipeline.receive(timeout_s=LIMIT_S))
    taking.start()
    assert pipeline.send(b"")
    taking.join()


def test_buffers_that_are_shared_do_not_run_out_where_a_room_shrinks(flow):
    gate = threading.Event()
    source = Ticks()
    flow.add(source, name="source", worker="source")
    ends = {name: flow.add(Waits(gate), name=name, worker=name) for name in ("grown", "beside")}
    rule = Grow(256, then="drop_newest")
    grown = flow.connect(source.out, ends["grown"].data, buffer_size=4, backpressure_strategy=rule)
    beside = flow.connect(source.out, ends["beside"].data, buffer_size=8, backpressure_strategy=DropOldest())
    flow.start()
    wait_until(lambda: grown.statistics().fill == 256, LIMIT_S)
    flow.handle_backpressure(grown.id, DropNewest())
    wait_until(lambda: grown.buffer_size == 4, LIMIT_S)
    before = beside.statistics().sent
    wait_until(lambda: beside.statistics().sent > before + 1000, LIMIT_S)
    gate.set()
    flow.stop()


def test_the_pace_holds_in_what_takes_the_place_of_a_pipeline(flow):
    rate_hz = 200.0
    source = flow.add(Ticks(period_ns=0), name="ticks")
    flow.add(Collect(), name="keep", worker="keep")
    rule = Throttle(blocks_per_second=rate_hz)
    pipeline = flow.connect(source.out, "keep.data", buffer_size=64, backpressure_strategy=rule)
    flow.start()
    wait_until(lambda: pipeline.statistics().sent > 20, LIMIT_S)
    second = Collect()
    flow.replace("keep", second)
    wait_until(lambda: len(second.arrivals) > 60, LIMIT_S)
    flow.stop()
    sent_s = [arrival.timestamp_ns / 1e9 for arrival in second.arrivals]
    for place, at_s in enumerate(sent_s):
        assert place <= (at_s - sent_s[0]) * rate_hz + 6


class Bursts(Source):
    """Sends as many numbers as it is asked for, as soon as it is."""

    out = Output(FORMAT)

    def __init__(self):
        self.wanted = 0

    def produce(self):
        sent = 0
        while True:
            while sent < self.wanted:
                self.out.send(b"%d" % sent)
                sent += 1
            yield time.monotonic_ns() + 1_000_000


class TwoGates(Module):
    urgent = Input(FORMAT)
    rest = Input(FORMAT)

    def __init__(self):
        self.opened = threading.Event()
        self.values = {"urgent": [], "rest": []}

    def process_urgent(self, block):
        self.values["urgent"].append(int(bytes(block.data)))
        assert self.opened.wait(LIMIT_S)

    def process_rest(self, block):
        self.values["rest"].append(int(bytes(block.data)))
        assert self.opened.wait(LIMIT_S)


def test_the_important_input_loses_nothing_while_the_other_has_something_to_give(flow):
    urgent, rest = flow.add(Bursts(), name="urgent", worker="u"), flow.add(Bursts(), name="rest", worker="r")
    gate = flow.add(TwoGates(), name="gate", worker="gate")
    rule = DropByPriority()
    critical = flow.connect(urgent.out, gate.urgent, buffer_size=16, priority="critical", backpressure_strategy=rule)
    low = flow.connect(rest.out, gate.rest, buffer_size=16, priority="low", backpressure_strategy=rule)
    flow.start()
    rest.wanted = 17  # one is in hand
    wait_until(lambda: low.statistics().sent == 17, LIMIT_S)
    urgent.wanted = 32
    wait_until(lambda: critical.statistics().sent == 32, LIMIT_S)
    assert critical.statistics().dropped == {}
    assert low.statistics().dropped == {"outranked": 16}
    urgent.wanted = 40  # now the other has nothing left
    wait_until(lambda: critical.statistics().sent == 40, LIMIT_S)
    assert critical.statistics().dropped == {"oldest": 8}
    gate.opened.set()
    wait_until(lambda: critical.statistics().delivered == 32, LIMIT_S)
    flow.stop()
    assert gate.values == {"urgent": list(range(8, 40)), "rest": [0]}


# --- what waits for itself ---------------------------------------------------------------------------------------------


class Mixer(Module):
    """Passes on what comes from outside and what comes back."""

    data = Input(FORMAT)
    back = Input(FORMAT)
    out = Output(FORMAT)

    def process_data(self, block):
        self.out.send(bytes(block.data))

    def process_back(self, block):
        self.out.send(bytes(block.data))


class Doubling(Module):
    data = Input(FORMAT)
    out = Output(FORMAT)

    def process(self, block):
        self.out.send(bytes(block.data))
        self.out.send(bytes(block.data))


def test_a_loop_that_waits_for_itself_is_named_and_goes_on_when_it_does_not(flow):
    source = flow.add(Ticks(), name="ticks")
    mixer, doubling = flow.add(Mixer(), name="mixer", worker="m"), flow.add(Doubling(), name="doubling", worker="d")
    flow.connect(source.out, mixer.data, buffer_size=4, backpressure_strategy=Wait())
    there = flow.connect(mixer.out, doubling.data, buffer_size=4, backpressure_strategy=Wait())
    back = flow.connect(doubling.out, mixer.back, buffer_size=4, backpressure_strategy=DropOldest())
    flow.start()
    wait_until(lambda: back.statistics().delivered > 10, LIMIT_S)
    assert told(flow, StandstillDetected) == []

    flow.handle_backpressure(back, Wait())
    circle = wait_for(flow, StandstillDetected)[0]
    assert set(circle.modules) == {"mixer", "doubling"}
    assert set(circle.pipelines) == {there.id, back.id}
    assert "DropOldest()" in circle.reason

    before = back.statistics().delivered
    flow.handle_backpressure(back, DropOldest())
    wait_until(lambda: back.statistics().delivered > before + 100, LIMIT_S)
    assert len(told(flow, StandstillDetected)) == 1


class Forks(Source):
    """Sends many blocks to the left before it sends one to the right."""

    left = Output(FORMAT)
    right = Output(FORMAT)

    def produce(self):
        number = 0
        while True:
            for _ in range(20):
                self.left.send(b"%d" % number)
                number += 1
            self.right.send(b"%d" % number)
            yield


class Signals(Module):
    """Says that a block has come, and passes it on."""

    data = Input(FORMAT)
    out = Output(FORMAT)

    def __init__(self):
        self.came = threading.Event()

    def process(self, block):
        self.came.set()
        return bytes(block.data)


class JoinByHand(Module):
    """Takes nothing from the left before the right has something."""

    left = Input(FORMAT)
    right = Input(FORMAT)

    def wait_for(self, came):
        self.came = came

    def process_left(self, block):
        assert self.came.wait(LIMIT_S)

    def process_right(self, block):
        pass


def test_a_join_by_hand_that_waits_for_what_waits_for_it_is_named(flow):
    source = flow.add(Forks(), name="forks", worker="f")
    signals, join = flow.add(Signals(), name="signals", worker="s"), flow.add(JoinByHand(), name="join", worker="j")
    join.wait_for(signals.came)
    left = flow.connect(source.left, join.left, buffer_size=4, backpressure_strategy=Wait())
    flow.connect(source.right, signals.data, buffer_size=4, backpressure_strategy=Wait())
    right = flow.connect(signals.out, join.right, buffer_size=4, backpressure_strategy=Wait())
    flow.start()
    circle = wait_for(flow, StandstillDetected)[0]
    assert circle.modules == ("forks", "join", "signals")
    assert circle.pipelines == (left.id, right.id)
    flow.handle_backpressure(left, DropOldest())
    wait_until(lambda: right.statistics().delivered > 20, LIMIT_S)


# --- memory -----------------------------------------------------------------------------------------------------------


class Microphone(Source):
    """A thousand blocks of one frame every ten milliseconds, until its dial says otherwise."""

    out = Output(AudioFormat(48_000, 1, max_block_frames=1))
    live = True

    def __init__(self, path):
        self.path = path

    def setup(self):
        self.dial = Dial(self.path)

    def produce(self):
        frame = np.zeros((1, 1), np.float32)
        send = self.out.send
        while True:
            began_ns = time.monotonic_ns()
            for _ in range(int(self.dial.seconds[0])):
                send(frame)
            yield began_ns + 10_000_000


class SlowEars(Module):
    data = Input(AudioFormat(48_000, 1, max_block_frames=1))

    def process(self, block):
        time.sleep(0.005)


def resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


@pytest.mark.parametrize("rule", [DropOldest(), Adaptive(), Grow(512)], ids=["DropOldest", "Adaptive", "Grow"])
def test_memory_does_not_grow_however_much_comes(flow, tmp_path, rule):
    burst = Dial(tmp_path / "burst", 1000)
    source = flow.add(Microphone(burst.path), name="mic", placement="process")
    ears = flow.add(SlowEars(), name="ears", placement="process")
    pipeline = flow.connect(source.out, ears.data, buffer_size=64, backpressure_strategy=rule)
    flow.start()
    pids = [os.getpid(), *(flow.workers[name].pid for name in ("mic", "ears"))]

    began = time.monotonic()
    wait_until(lambda: pipeline.statistics().sent > 100_000, LIMIT_S)
    wait_for(flow, BackpressureDetected, pipeline)
    before = [resident_bytes(pid) for pid in pids]
    wait_until(lambda: pipeline.statistics().sent > 400_000, LIMIT_S)
    after = [resident_bytes(pid) for pid in pids]
    print(f"{pipeline.statistics().sent / (time.monotonic() - began):.0f} blocks/s, {before} bytes, then {after}")
    assert all(now - then < 2 << 20 for then, now in zip(before, after, strict=True))

    burst.turn(1)
    wait_for(flow, BackpressureRelieved, pipeline)
    wait_until(lambda: pipeline.statistics().fill <= 2, LIMIT_S)
    account = flow.stop().pipelines[pipeline.id]
    assert account.sent == account.delivered + account.dropped_total
    assert account.dropped_total_ms == pytest.approx(account.dropped_total * 1000 / 48_000)
