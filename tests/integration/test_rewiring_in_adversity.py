"""Changing a flow that runs while others send, read, pause, stop it or die: nothing is lost, and what fails has changed nothing."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from tests.integration.changing_flows import FORMAT, Pass, Ticks, is_gapless, numbers, wait_until

from steadyflow import (
    AudioFormat,
    DataFlowCoordinator,
    DropOldest,
    FlowFailed,
    Input,
    Module,
    Output,
    PipelineConfig,
    Source,
    StateError,
    events,
)
from steadyflow.errors import ConfigurationError, ModuleFailed
from steadyflow.runtime import rewiring
from steadyflow.testing import Collect

MONO = AudioFormat(48_000, 1)


class Gate(Module):
    """Stays in its first block until it is let go."""

    data = Input(FORMAT)
    out = Output(FORMAT)
    blocking = True

    def __init__(self):
        self.entered = threading.Event()
        self.leave = threading.Event()

    def process(self, block):
        self.entered.set()
        assert self.leave.wait(30)
        return bytes(block.data)


class GatedSetup(Pass):
    """Stays in its setup until it is let go."""

    def __init__(self):
        super().__init__()
        self.entered = threading.Event()
        self.leave = threading.Event()

    def setup(self):
        self.entered.set()
        assert self.leave.wait(30)


class Sink(Module):
    data = Input(FORMAT)
    more = Input(FORMAT)

    def process_data(self, block):
        pass

    def process_more(self, block):
        pass


class Broken(Source):
    out = Output(FORMAT)

    def setup(self):
        raise OSError("no model there")

    def produce(self):
        yield


def beside(call):
    """Call in a thread; return it, and what it raised."""
    raised = []

    def run():
        try:
            call()
        except Exception as problem:
            raised.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


@pytest.fixture
def flow():
    with DataFlowCoordinator("adversity") as flow:
        yield flow


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(rewiring, "ANSWER_TIMEOUT_S", 0.2)


@pytest.fixture
def quick_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def chain(flow, middle, sink=None, **options):
    """Make ticks, a module, and what collects."""
    flow.add(Ticks(), name="ticks")
    flow.add(middle, name="middle", **options)
    last = sink or Collect()
    flow.add(last, name="last", worker="last")
    into = flow.connect("ticks.out", "middle.data", buffer_size=64)
    link = flow.connect("middle.out", "last.data", buffer_size=64)
    return into, link, last


# --- others send and read ---------------------------------------------------------------------------------------------


def test_what_another_thread_sends_meanwhile_arrives(flow, quick_switches):
    last = flow.add(Collect(), name="last")
    pipe = flow.pipeline(flow.register_pipeline("app", "last", PipelineConfig(buffer_size=64), FORMAT))
    flow.start()
    ending = threading.Event()
    sent = 0

    def send():
        nonlocal sent
        while not ending.is_set():
            sent += pipe.send(b"%d" % sent)

    sending = threading.Thread(target=send)
    sending.start()
    collected = [last, *(flow.replace("last", Collect()) for _ in range(30))]
    ending.set()
    sending.join()
    pipe.end()
    assert flow.wait(20)
    flow.stop()
    came = [int(value) for each in collected for value in each.values]
    assert came == list(range(sent))
    assert pipe.statistics().sent == pipe.statistics().delivered == sent


def test_accounts_are_right_while_a_module_drains(flow):
    _, link, last = chain(flow, Pass(delay_s=0.002), worker="slow")
    flow.start()
    ending = threading.Event()
    reading, problems = beside(lambda: [flow.report() for _ in iter(ending.is_set, True)])
    for _ in range(5):
        flow.replace("middle", Pass(delay_s=0.002))
    ending.set()
    reading.join()
    assert problems == []
    report = flow.stop()
    metrics = report.pipelines[link.id]
    assert is_gapless(numbers(last.values))
    assert metrics.sent == metrics.delivered == len(last.values)


def test_what_a_sink_does_is_in_order_too(flow):
    done = []

    class Notes(Module):
        data = Input(FORMAT)

        def process(self, block):
            time.sleep(0.002)
            done.append(int(block.data))

    flow.add(Ticks(), name="ticks", worker="ticks")
    flow.add(Notes(), name="notes", worker="notes")
    flow.connect("ticks.out", "notes.data", buffer_size=32)
    flow.start()
    wait_until(lambda: len(done) > 20)
    flow.replace("notes", Notes())
    came = len(done)
    wait_until(lambda: len(done) > came + 20)
    flow.stop()
    assert is_gapless(done)


def test_windows_go_on_behind_a_module_that_is_replaced(flow):
    frames = []

    class Ramp(Source):
        out = Output(MONO)
        live = False

        def produce(self):
            for first in range(0, 20_000, 100):
                self.out.send(np.arange(first, first + 100, dtype=np.float32)[:, None])
                yield time.monotonic_ns() + 1_000_000

    class Relay(Module):
        audio = Input(MONO)
        out = Output(MONO)

        def process(self, block):
            return block.samples.copy()

    class Windows(Module):
        audio = Input(MONO, window_frames=1024, hop_frames=1024, pad_last=True)

        def process(self, block):
            frames.extend(block.samples[:, 0].astype(int).tolist())

    flow.add(Ramp(), name="ramp", worker="ramp")
    flow.add(Relay(), name="relay")
    flow.add(Windows(), name="windows")
    flow.connect("ramp.out", "relay.audio", buffer_size=64)
    link = flow.connect("relay.out", "windows.audio", buffer_size=64)
    flow.start()
    wait_until(lambda: link.statistics().delivered > 30)
    flow.replace("relay", Relay())
    assert flow.wait(20)
    flow.stop()
    assert frames[:20_000] == list(range(20_000))


def test_an_input_that_was_taken_away_is_held_in_vain(flow):
    class Silence(Source):
        out = Output(MONO)
        live = False

        def produce(self):
            while True:
                self.out.send(np.zeros((480, 1), np.float32))
                yield time.monotonic_ns() + 1_000_000

    class Listens(Module):
        audio = Input(MONO)
        go = Input(FORMAT)

        def process_audio(self, block):
            pass

        def process_go(self, block):
            self.audio.hold()
            self.audio.release()

    flow.add(Silence(), name="silence")
    flow.add(Ticks(), name="ticks")
    listens = flow.add(Listens(), name="listens", worker="listens")
    going = flow.connect("ticks.out", listens.go, buffer_size=8)
    flow.connect("silence.out", flow.add(Collect(), name="other").data, buffer_size=8)
    link = flow.connect("silence.out", listens.audio, buffer_size=64, preroll_ms=100)
    flow.start()
    for _ in range(2):
        flow.disconnect(link)
        came = going.statistics().delivered
        wait_until(lambda came=came: going.statistics().delivered > came + 5)
        link = flow.connect("silence.out", listens.audio, buffer_size=64, preroll_ms=100)
        wait_until(lambda link=link: link.statistics().delivered > 5)
    assert len(listens.audio.keepers) == 1
    flow.stop()


# --- others pause, switch rules, and stop -------------------------------------------------------------------------------


def test_nothing_is_paused_in_the_middle_of_a_replacement(flow):
    into, link, _ = chain(flow, Pass(), worker="middle")
    flow.start()
    coming = GatedSetup()
    replacing, problems = beside(lambda: flow.replace("middle", coming))
    assert coming.entered.wait(10)
    with pytest.raises(StateError, match="is being replaced"):
        into.pause()
    coming.leave.set()
    replacing.join()
    assert problems == []
    into.pause()
    with pytest.raises(StateError, match="expected no paused pipeline"):
        flow.replace("middle", Pass())
    into.resume()
    came = link.statistics().delivered
    wait_until(lambda: link.statistics().delivered > came + 10)
    flow.stop()


def test_a_rule_that_is_switched_meanwhile_is_in_force(flow):
    into, _, _ = chain(flow, Pass(), worker="middle")
    flow.start()
    coming = GatedSetup()
    coming.delay_s = 0.05
    replacing, problems = beside(lambda: flow.replace("middle", coming))
    assert coming.entered.wait(10)
    flow.handle_backpressure(into, DropOldest())
    coming.leave.set()
    replacing.join()
    assert problems == []
    wait_until(lambda: into.statistics().dropped.get("oldest", 0) > 0)
    flow.stop()


def test_what_is_paused_is_given_nothing(flow):
    _, _, _ = chain(flow, Pass(), worker="middle")
    more = flow.add(Ticks(), name="more")
    flow.start()
    flow.pause("middle")
    with pytest.raises(StateError, match=r"flow\.resume\('middle'\)"):
        flow.connect(more.out, "middle.data", buffer_size=8)
    with pytest.raises(StateError, match=r"flow\.resume\('middle'\)"):
        flow.replace("middle", Pass())
    flow.resume("middle")
    flow.pause()
    with pytest.raises(StateError, match=r"flow\.resume\(\)"):
        flow.connect(more.out, "middle.data", buffer_size=8)
    flow.resume()
    flow.connect(more.out, "middle.data", buffer_size=8)
    flow.stop()


def test_a_stop_in_the_middle_of_a_replacement_drains(flow):
    flow.add(Ticks(period_ns=5_000_000), name="ticks", worker="ticks")
    flow.add(Ticks(last=1), name="one", worker="one")
    gate = flow.add(Gate(), name="gate")
    flow.add(Sink(), name="sink", worker="sink")
    link = flow.connect("ticks.out", "sink.data", buffer_size=256)
    flow.connect("one.out", gate.data, buffer_size=8)
    flow.connect("gate.out", "sink.more", buffer_size=8)
    flow.start()
    assert gate.entered.wait(10)
    replacing, problems = beside(lambda: flow.replace("sink", Sink()))
    wait_until(lambda: "sink-2" in flow.workers and len(link.rings) >= 1)
    wait_until(lambda: link.statistics().sent > 10)
    threading.Timer(0.3, gate.leave.set).start()
    report = flow.stop(drain_timeout_s=10)
    replacing.join()
    assert all(isinstance(problem, StateError) for problem in problems)
    metrics = report.pipelines[link.id]
    assert metrics.dropped_total == metrics.in_flight == 0
    assert metrics.delivered == metrics.sent


# --- somebody hangs ---------------------------------------------------------------------------------------------------


def test_a_pipeline_that_could_not_be_taken_away_is_as_it_was(flow, impatient):
    gate = Gate()
    flow.add(Ticks(last=10), name="ticks")
    flow.add(gate, name="middle")
    last = flow.add(Collect(), name="last", worker="last")
    flow.connect("ticks.out", "middle.data", buffer_size=64)
    link = flow.connect("middle.out", last.data, buffer_size=64)
    flow.start()
    assert gate.entered.wait(10)
    with pytest.raises(StateError, match="between two blocks"):
        flow.disconnect(link)
    gate.leave.set()
    assert flow.wait(10)
    assert numbers(last.values) == list(range(10))


def test_a_source_that_does_not_yield_keeps_its_place(flow, impatient):
    class Stubborn(Source):
        out = Output(FORMAT)
        live = False

        def __init__(self):
            self.entered = threading.Event()
            self.leave = threading.Event()

        def produce(self):
            self.out.send(b"0")
            self.entered.set()
            assert self.leave.wait(30)
            self.out.send(b"1")
            yield

    stubborn = flow.add(Stubborn(), name="source", worker="source")
    last = flow.add(Collect(), name="last")
    flow.connect("source.out", last.data, buffer_size=8)
    flow.start()
    assert stubborn.entered.wait(10)
    with pytest.raises(StateError, match="between two blocks"):
        flow.replace("source", Ticks())
    assert flow.modules["source"] is stubborn
    assert list(flow.workers) == ["source", "main"]
    stubborn.leave.set()
    assert flow.wait(10)
    assert numbers(last.values) == [0, 1]


def test_what_has_begun_is_waited_for(flow, impatient):
    """Both ends are in one worker, so what goes ends in the middle of the change, and takes its time for that."""

    class Slow(Pass):
        def finish(self):
            time.sleep(1.5)

    flow.add(Ticks(), name="ticks")
    flow.add(Slow(), name="middle")
    last = flow.add(Collect(), name="last", worker="last")
    into = flow.connect("ticks.out", "middle.data", buffer_size=8)
    flow.connect("middle.out", last.data, buffer_size=8)
    flow.start()
    wait_until(lambda: len(last.values) > 5)
    flow.replace("middle", Pass())
    came = len(last.values)
    wait_until(lambda: len(last.values) > came + 20)
    flow.stop()
    assert is_gapless(numbers(last.values))
    assert into.statistics().dropped == {}


def test_a_module_that_never_comes_back_is_left_behind(flow, impatient):
    gate = Gate()
    *_, last = chain(flow, gate)
    flow.start()
    assert gate.entered.wait(10)
    flow.replace("middle", Pass(), drain_timeout_s=0.1)
    wait_until(lambda: len(last.values) > 20)
    told = [event for event in flow.report().events if isinstance(event, events.WorkerUnresponsive)]
    assert [event.worker for event in told] == ["middle"]
    gate.leave.set()
    flow.stop()
    assert is_gapless(numbers(last.values))


def test_a_module_that_never_comes_back_is_left_behind_by_all_who_feed_it(flow, impatient):
    """One of them sends now and then, the other one waits for room: what fills its pipeline is dropped."""

    class Both(Module):
        one = Input(FORMAT)
        two = Input(FORMAT)
        blocking = True

        def __init__(self):
            self.entered = threading.Event()
            self.leave = threading.Event()
            self.heard = []

        def process_one(self, block):
            self.entered.set()
            assert self.leave.wait(30)

        def process_two(self, block):
            self.heard.append(int(bytes(block.data)))

    flow.add(Ticks(), name="quick", worker="quick")
    flow.add(Ticks(period_ns=20_000_000), name="a_slow_one", worker="a_slow_one")
    hangs, comes = Both(), Both()
    comes.leave.set()
    flow.add(hangs, name="both", worker="both")
    flow.connect("a_slow_one.out", hangs.one, buffer_size=500)
    full = flow.connect("quick.out", hangs.two, buffer_size=4)
    flow.start()
    assert hangs.entered.wait(10)
    wait_until(lambda: full.statistics().in_flight >= 4)
    flow.replace("both", comes, drain_timeout_s=0.2)
    wait_until(lambda: len(comes.heard) > 20)
    hangs.leave.set()
    report = flow.stop()
    dropped = report.pipelines[full.id].dropped
    assert set(dropped) == {"flushed"}
    assert is_gapless(comes.heard)


# --- somebody dies ----------------------------------------------------------------------------------------------------


def test_a_consumer_that_dies_behind_a_replaced_module_is_told_of(flow):
    _, link, _ = chain(flow, Pass())
    flow.add(Sink(), name="sink", placement="process")
    flow.connect("middle.out", "sink.data", buffer_size=8)
    flow.start()
    flow.replace("middle", Pass())
    os.kill(flow.workers["sink"].pid, signal.SIGKILL)
    assert flow.wait(20)
    with pytest.raises(FlowFailed, match="killed by SIGKILL"):
        flow.stop()
    assert link.statistics().in_flight == 0


# --- nothing is left behind -------------------------------------------------------------------------------------------


def test_changes_leave_nothing_behind(flow):
    flow.add(Ticks(), name="ticks")
    flow.add(Sink(), name="sink", placement="process")
    flow.connect("ticks.out", "sink.data", buffer_size=8)
    flow.start()
    child, own = flow.workers["sink"].pid, os.getpid()

    def descriptors(pid):
        return len(os.listdir(f"/proc/{pid}/fd"))

    def failing_changes(count, first):
        for number in range(first, first + count):
            broken = flow.add(Broken(), name=f"broken-{number}")
            with pytest.raises(ModuleFailed):
                flow.connect(broken.out, "sink.more", buffer_size=8)

    failing_changes(2, 0)
    before = descriptors(child), descriptors(own)
    failing_changes(10, 2)
    wait_until(lambda: descriptors(child) <= before[0])
    gc.collect()  # what failed refers to itself, through its traceback
    wait_until(lambda: descriptors(own) <= before[1] + 3)  # ten would have left thirty
    flow.stop()


def test_modules_that_were_replaced_are_forgotten(flow):
    chain(flow, Pass(), worker="middle")
    flow.start()
    calls = flow.report().modules["middle"].calls
    gone = []
    for _ in range(4):
        gone.append(weakref.ref(flow.modules["middle"]))
        wait_until(lambda calls=calls: flow.report().modules["middle"].calls > calls + 5)
        flow.replace("middle", Pass())
        calls = flow.report().modules["middle"].calls
    gc.collect()
    assert [each() for each in gone] == [None] * 4
    assert len(flow.workers) == 3
    wait_until(lambda: flow.report().modules["middle"].calls > calls)
    flow.stop()


def test_many_pipelines_and_then_a_process(flow):
    flow.add(Ticks(), name="ticks")
    flow.connect("ticks.out", flow.add(Collect(), name="first").data, buffer_size=2)
    flow.start()
    for number in range(260):
        pipeline = flow.register_pipeline(f"app-{number}", "first.data", PipelineConfig(buffer_size=2), FORMAT)
        assert flow.send_data(pipeline, b"0")
    late = flow.add(Pass(), name="late", placement="process")
    link = flow.connect("ticks.out", late.data, buffer_size=8)
    wait_until(lambda: link.statistics().delivered > 5)
    flow.stop()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_loop_is_left_alone(flow):
    class Echo(Module):
        data = Input(FORMAT)
        back = Input(FORMAT)
        out = Output(FORMAT)

        def process_data(self, block):
            return bytes(block.data)

        def process_back(self, block):
            pass

    flow.add(Ticks(), name="ticks")
    flow.add(Echo(), name="echo", worker="echo")
    flow.add(Pass(), name="middle", worker="middle")
    flow.connect("ticks.out", "echo.data", buffer_size=8)
    flow.connect("echo.out", "middle.data", buffer_size=8)
    flow.connect("middle.out", "echo.back", buffer_size=8, backpressure_strategy=DropOldest())
    flow.start()
    with pytest.raises(ConfigurationError, match="would wait for its own end"):
        flow.replace("echo", Echo())
    flow.stop()


def test_a_worker_that_a_change_has_brought_up_is_not_shared(flow):
    flow.add(Ticks(), name="ticks")
    flow.connect("ticks.out", flow.add(Collect(), name="first").data, buffer_size=8)
    flow.start()
    one, other = flow.add(Collect(), name="one", worker="w"), flow.add(Collect(), name="other", worker="w")
    flow.connect("ticks.out", one.data, buffer_size=8)
    with pytest.raises(StateError, match="which another module has brought up"):
        flow.connect("ticks.out", other.data, buffer_size=8)
    assert flow.workers["w"].wiring.modules[0].name == "one"
    third, fourth = flow.add(Collect(), name="third", worker="v"), flow.add(Collect(), name="fourth", worker="v")
    with flow.changes():
        flow.connect("ticks.out", third.data, buffer_size=8)
        flow.connect("ticks.out", fourth.data, buffer_size=8)
    wait_until(lambda: len(third.values) > 5 and len(fourth.values) > 5)
    flow.stop()
