"""Where modules run: threads, processes, fused chains; in which order, and how a stream ends."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest

from steadyflow import (
    AudioFormat,
    Block,
    BlockFlag,
    DataFlowCoordinator,
    EndOfStream,
    FlowData,
    FlowFailed,
    Input,
    Module,
    Output,
    PipelineConfig,
    Source,
    StructFormat,
    Wait,
    module,
)
from steadyflow.errors import ConfigurationError, LimitExceeded, StateError
from steadyflow.events import DataFlowStarted, DataFlowStopped, ModuleEnded, RealtimeRefused
from steadyflow.testing import Collect, ScriptedSource

MONO = AudioFormat(48_000, 1)
PLACEMENTS = ("thread", "process")
LIMIT_S = 20  # how long a test may wait for what has to come; it never waits for time to pass


def numbered(blocks, frames=4):
    """Return blocks that hold their own number."""
    return [np.full((frames, 1), number, np.float32) for number in range(blocks)]


def numbers(collect):
    return [int(block[0, 0]) for block in collect.values]


def assert_accounted(report):
    for name, metrics in report.pipelines.items():
        assert metrics.in_flight == 0, name
        assert metrics.sent == metrics.delivered + metrics.dropped_total, name


# --- modules that also run in processes -------------------------------------------------------------------------------


class Whereabouts(msgspec.Struct):
    pid: int
    thread: str
    calls: int


class Locate(Module):
    """Says where it runs, and how many blocks all instances of its process have seen."""

    audio = Input(MONO)
    place = Output(StructFormat(Whereabouts))

    seen = 0

    def process(self, audio):
        type(self).seen += 1
        return Whereabouts(os.getpid(), threading.current_thread().name, type(self).seen)


class BlockingLocate(Locate):
    blocking = True


class Pass(Module):
    """Adds a number to every sample."""

    audio = Input(MONO)
    out = Output(like="audio")

    def __init__(self, offset=0):
        self.offset = offset

    def process(self, audio):
        return audio if self.offset == 0 else audio.samples + np.float32(self.offset)


class BlockingPass(Pass):
    blocking = True


class SetUpTime(Module):
    """Sends, with the first block, when its own setup had finished."""

    audio = Input(MONO)
    done = Output(StructFormat(Whereabouts))

    def setup(self):
        self.done_ns = time.monotonic_ns()

    def process(self, audio):
        return Whereabouts(os.getpid(), "", self.done_ns)


class Overlapping(Module):
    audio = Input(MONO, window_frames=6, hop_frames=4)
    out = Output(like="audio")

    def process(self, audio):
        return audio.samples


class Sparse(Module):
    """Its hop is longer than its window, so it never sees some frames."""

    audio = Input(MONO, window_frames=4, hop_frames=10)
    out = Output(like="audio")

    def process(self, audio):
        return audio.samples


class Total(Module):
    """Sends nothing but a sum, when its input has ended."""

    audio = Input(MONO)
    out = Output(MONO)

    def setup(self):
        self.total = 0.0

    def process(self, audio):
        self.total += float(audio.samples[0, 0])

    def finish(self):
        self.out.send(np.full((1, 1), self.total, np.float32))


class Policy(Module):
    """Says under which scheduling policy it runs."""

    audio = Input(MONO)
    policy = Output(StructFormat(Whereabouts))

    def process(self, audio):
        return Whereabouts(os.getpid(), "", os.sched_getscheduler(0))


@module(input=MONO, output=MONO)
def doubled(audio):
    return audio.samples * 2


# --- modules for threads ------------------------------------------------------------------------------------------------


class Diary(Module):
    """Writes down what happens to it, and in which thread."""

    audio = Input(MONO)
    out = Output(like="audio")

    def __init__(self, pages, name):
        self.pages = pages
        self.name = name

    def write(self, what):
        self.pages.append((self.name, what, threading.current_thread().name))

    def setup(self):
        self.write("setup")

    def process(self, audio):
        self.write("process")
        return audio

    def finish(self):
        self.write("finish")

    def teardown(self):
        self.write("teardown")


class Prioritised(Module):
    """Takes blocks by urgency; holds its worker with the first one."""

    gate = Input(MONO)
    critical = Input(MONO)
    high = Input(MONO)
    normal = Input(MONO)
    low = Input(MONO)

    def __init__(self):
        self.held = threading.Event()
        self.go = threading.Event()
        self.log = []

    def process_gate(self, gate):
        self.held.set()
        assert self.go.wait(LIMIT_S)

    def process_critical(self, critical):
        self.log.append("critical")

    def process_high(self, high):
        self.log.append("high")

    def process_normal(self, normal):
        self.log.append(("normal", int(normal.samples[0, 0])))

    def process_low(self, low):
        self.log.append("low")


# --- placement ------------------------------------------------------------------------------------------------------------


def test_threads_by_default_one_for_all_and_one_for_each_that_blocks():
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(2), MONO), name="source")
        found = {}
        for name, located, worker in [
            ("first", Locate(), None),
            ("second", Locate(), None),
            ("slow", BlockingLocate(), None),
            ("named", Locate(), "side"),
            ("beside", BlockingLocate(), "side"),
        ]:
            flow.add(located, name=name, worker=worker)
            flow.connect(source.out, located.audio, buffer_size=4)
            found[name] = flow.add(Collect(), name=f"at-{name}")
            flow.connect(located.place, found[name].data, buffer_size=4)
        report = flow.run()
    workers = {name: module.worker for name, module in report.modules.items() if not name.startswith("at-")}
    assert workers == {
        "source": "main",
        "first": "main",
        "second": "main",
        "slow": "slow",
        "named": "side",
        "beside": "side",
    }
    for name, collect in found.items():
        assert len(collect.values) == 2
        assert {place.thread for place in collect.values} == {f"steadyflow-{workers[name]}"}
        assert {place.pid for place in collect.values} == {os.getpid()}


def test_a_module_that_blocks_stops_nobody_else():
    held, go = threading.Event(), threading.Event()

    class Stuck(Module):
        audio = Input(MONO)
        blocking = True

        def process(self, audio):
            held.set()
            assert go.wait(LIMIT_S)

    class LetGo(Module):
        """Frees the stuck one, once everything has come through here."""

        audio = Input(MONO)

        def process(self, audio):
            if audio.sequence == 9:
                assert held.wait(LIMIT_S)
                go.set()

    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(10), MONO))
        flow.connect(source.out, flow.add(Stuck()).audio, buffer_size=10)
        flow.connect(source.out, flow.add(LetGo()).audio, buffer_size=1)
        report = flow.run()
    assert_accounted(report)
    assert [metrics.delivered for metrics in report.pipelines.values()] == [10, 10]


def test_a_process_worker_has_its_own_interpreter():
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(3), MONO))
        collects = []
        for name, worker in [("one", "shared"), ("two", "shared"), ("three", None)]:
            located = flow.add(Locate(), name=name, placement="process", worker=worker)
            collect = flow.add(Collect())
            flow.connect(source.out, located.audio, buffer_size=4)
            flow.connect(located.place, collect.data, buffer_size=4)
            collects.append(collect)
        before = Locate.seen
        flow.start()
        pids = {name: worker.pid for name, worker in flow.workers.items()}
        assert flow.wait(LIMIT_S)
        report = flow.stop()
    one, two, three = ([place.pid for place in collect.values] for collect in collects)
    assert one == two == [pids["shared"]] * 3
    assert three == [pids["three"]] * 3
    assert len({os.getpid(), pids["shared"], pids["three"]}) == 3
    assert pids["main"] == os.getpid()
    # The two of one process share its classes; the third one does not, and nothing comes back to this process.
    assert max(place.calls for collect in collects[:2] for place in collect.values) == 6
    assert [place.calls for place in collects[2].values] == [1, 2, 3]
    assert Locate.seen == before
    assert_accounted(report)
    assert {report.modules[name].calls for name in ("one", "two", "three")} == {3}


def test_a_worker_is_a_thread_or_a_process():
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource([], MONO), name="source")
        for name, placement in [("here", "thread"), ("there", "process")]:
            passing = flow.add(Pass(), name=name, placement=placement, worker="both")
            flow.connect(source.out, passing.audio, buffer_size=1)
        with pytest.raises(
            ConfigurationError, match=r"'both': expected one placement.*'here' wants a thread.*'there' a process"
        ):
            flow.start()


def test_only_so_many_process_workers():
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource([], MONO))
        for number in range(16):
            passing = flow.add(Pass(), name=f"pass-{number}", placement="process")
            flow.connect(source.out, passing.audio, buffer_size=1)
        with pytest.raises(LimitExceeded, match="15 process workers; this one has 16"):
            flow.start()


def test_a_function_in_a_process():
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(5), MONO))
        double = flow.add(doubled, placement="process")
        collect = flow.add(Collect())
        flow.connect(source.out, double.audio, buffer_size=4)
        flow.connect(double.out, collect.data, buffer_size=4)
        flow.run()
    assert numbers(collect) == [0, 2, 4, 6, 8]


def test_a_script_needs_no_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""\
            import numpy as np
            from steadyflow import *
            from steadyflow.testing import Collect, ScriptedSource

            MONO = AudioFormat(48_000, 1)
            print("defining")

            class Negate(Module):
                audio = Input(MONO)
                out = Output(like="audio")

                def process(self, audio):
                    return -audio.samples

            @module(input=MONO, output=MONO)
            def tenfold(audio):
                return audio.samples * 10

            with DataFlowCoordinator("script") as flow:
                source = flow.add(ScriptedSource([np.ones((2, 1), np.float32)] * 3, MONO))
                negate, tenfold_, collect = flow.add(Negate(), placement="process"), flow.add(tenfold, placement="process"), flow.add(Collect())
                flow.connect(source.out, negate.audio, buffer_size=2)
                flow.connect(negate.out, tenfold_.audio, buffer_size=2)
                flow.connect(tenfold_.out, collect.data, buffer_size=2)
                flow.run()
            print([float(block[0, 0]) for block in collect.values])
            """)
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=50, check=False, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stderr) == (0, "")
    written = done.stdout.replace("[-10.0, -10.0, -10.0]\n", "", 1)
    # Each worker has run the script up to its first coordinator; two may write at once.
    assert written.replace("\n", "") == "defining" * 3


def test_the_attributes_of_workers():
    with DataFlowCoordinator() as flow:
        pipe = flow.pipeline(flow.register_pipeline("app", "there", PipelineConfig(buffer_size=2), format=MONO))
        there = flow.add(Pass(), name="remote", placement="process")
        source = flow.add(ScriptedSource([], MONO))
        flow.connect(source.out, there.audio, buffer_size=1)
        assert dict(flow.workers) == {}
        flow.start()
        assert set(flow.workers) == {"main", "remote"}
        remote, main = flow.workers["remote"], flow.workers["main"]
        assert remote.state in ("running", "ended")
        assert (main.pid, remote.pid == os.getpid()) == (os.getpid(), False)
        assert not main.realtime
        assert not remote.realtime
        assert str(remote.pid) in repr(remote)
        assert "remote" in repr(remote)
        with pytest.raises(TypeError):
            flow.workers["other"] = main
        pipe.end()
        assert flow.wait(LIMIT_S)
        report = flow.stop()
        assert {worker.state for worker in flow.workers.values()} == {"ended"}
        assert not Path(f"/proc/{remote.pid}").exists()
    started, *_ = [event for event in report.events if isinstance(event, DataFlowStarted)]
    assert set(started.workers) == {"main", "remote"}
    assert isinstance(report.events[-1], DataFlowStopped)
    assert not report.events[-1].failed


# --- fused chains -----------------------------------------------------------------------------------------------------------


def test_a_fused_chain_is_called_depth_first_in_order_of_connection():
    log = []

    class Note(Diary):
        def process(self, audio):
            log.append((self.name, int(audio.samples[0, 0])))
            return audio

    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(2), MONO))
        upper, lower, after, join = (
            flow.add(Note([], name), name=name) for name in ("upper", "lower", "after", "join")
        )
        flow.connect(source.out, upper.audio, buffer_size=1)
        flow.connect(source.out, lower.audio, buffer_size=1)
        flow.connect(upper.out, after.audio, buffer_size=1)
        flow.connect(after.out, join.audio, buffer_size=1)
        flow.connect(lower.out, join.audio, buffer_size=1)
        report = flow.run()
    once = ["upper", "after", "join", "lower", "join"]
    assert log == [(name, 0) for name in once] + [(name, 1) for name in once]
    assert_accounted(report)
    assert [metrics.delivered for metrics in report.pipelines.values()] == [2, 2, 2, 2, 2]
    assert report.modules["join"].calls == 4


def test_everyone_gets_a_private_copy():
    class Scribble(Module):
        audio = Input(MONO)
        out = Output(like="audio")

        def process(self, audio):
            audio.samples[:] = -1
            self.out.send(audio.samples)
            audio.samples[:] = -2

    script = numbered(3)
    with DataFlowCoordinator() as flow:
        source, scribble = flow.add(ScriptedSource(script, MONO)), flow.add(Scribble())
        scribbled, sibling = flow.add(Collect()), flow.add(Collect())
        flow.connect(source.out, scribble.audio, buffer_size=1)
        flow.connect(source.out, sibling.data, buffer_size=1)
        flow.connect(scribble.out, scribbled.data, buffer_size=1)
        flow.run()
    assert numbers(scribbled) == [-1, -1, -1]
    assert numbers(sibling) == [0, 1, 2]
    assert [int(block[0, 0]) for block in script] == [0, 1, 2]


def test_a_thread_of_its_own_cannot_send_into_a_fused_pipeline():
    """A call from there would run the next module in two threads at once."""
    problems, threads = [], set()

    class Threaded(Source):
        out = Output(MONO)

        def attempt(self):
            try:
                self.out.send(np.ones((4, 1), np.float32))
            except StateError as error:
                problems.append(str(error))

        def produce(self):
            self.out.send(np.zeros((4, 1), np.float32))
            own = threading.Thread(target=self.attempt)
            own.start()
            own.join()
            yield

    class Listen(Module):
        audio = Input(MONO)

        def process(self, audio):
            threads.add(threading.current_thread().name)

    with DataFlowCoordinator() as flow:
        source, listen = flow.add(Threaded(), name="source"), flow.add(Listen())
        flow.connect(source.out, listen.audio, buffer_size=1)
        report = flow.run()
    assert threads == {"steadyflow-main"}
    (problem,) = problems
    assert problem.startswith("source.out: expected to be sent from its worker's thread")
    assert "give that module another worker" in problem
    assert [metrics.sent for metrics in report.pipelines.values()] == [1]


def test_a_thread_of_its_own_may_send_to_another_worker():
    class Threaded(Source):
        out = Output(MONO)

        def produce(self):
            threads = [threading.Thread(target=self.send_all) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            yield

        def send_all(self):
            for block in numbered(50):
                self.out.send(block)

    with DataFlowCoordinator() as flow:
        source, collect = flow.add(Threaded()), flow.add(Collect(), worker="other")
        flow.connect(source.out, collect.data, buffer_size=2)
        report = flow.run()
    assert_accounted(report)
    assert sorted(numbers(collect)) == sorted([*range(50)] * 3)
    assert [arrival.sequence for arrival in collect.arrivals] == [*range(150)]


# --- windows -----------------------------------------------------------------------------------------------------------------


def ramp(sizes, broken=()):
    """Return blocks of a ramp whose samples say which frame they are; before the broken ones 100 frames are missing."""
    blocks, frame = [], 0
    for index, size in enumerate(sizes):
        flags = 0
        if index in broken:
            frame += 100
            flags = BlockFlag.DISCONTINUITY
        samples = np.arange(frame, frame + size, dtype=np.float32)[:, None]
        blocks.append(FlowData(samples, timestamp_ns=1_000_000 + frame * 1000, first_frame=frame, flags=flags))
        frame += size
    return blocks


def sliced(blocks, window, hop):
    """Return the first frames of all windows, by slicing the unbroken stretches."""
    stretches = []
    for block in blocks:
        if not stretches or block.flags:
            stretches.append([])
        stretches[-1].extend(block.data[:, 0].astype(int))
    return [
        stretch[start]
        for stretch in stretches
        for start in range(0, len(stretch), hop)
        if start + window <= len(stretch)
    ]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", [Overlapping, Sparse])
def test_windows_are_sample_exact_and_never_span_a_discontinuity(kind, placement):
    blocks = ramp([3, 9, 1, 1, 5, 14, 2, 30, 7, 3, 3, 3], broken=(4, 8))
    window, hop = kind.audio.window_frames, kind.audio.hop_frames
    with DataFlowCoordinator() as flow:
        source, windowed = flow.add(ScriptedSource(blocks, MONO)), flow.add(kind(), placement=placement)
        collect = flow.add(Collect())
        flow.connect(source.out, windowed.audio, buffer_size=4)
        flow.connect(windowed.out, collect.data, buffer_size=4)
        flow.run()
    starts = sliced(blocks, window, hop)
    assert len(starts) > 5
    assert [arrival.first_frame for arrival in collect.arrivals] == starts
    for start, samples in zip(starts, collect.values, strict=True):
        np.testing.assert_array_equal(samples[:, 0], np.arange(start, start + window))
    broken = [bool(arrival.flags & BlockFlag.DISCONTINUITY) for arrival in collect.arrivals]
    assert sum(broken) == 2
    first_after = [later > earlier + 100 for earlier, later in pairwise([-1, *starts])]
    assert broken == first_after


def test_the_stamps_of_windows_stay_with_those_of_the_blocks():
    """The clock of a device is never exactly the nominal one; a window's stamp must not drift away from it."""
    arrived = []

    class Watch(Module):
        audio = Input(MONO, window_frames=64, hop_frames=32)

        def process(self, audio):
            arrived.append((audio.first_frame, audio.timestamp_ns))

    block_ns = 666_733  # for 32 frames: 100 ppm slow
    script = [
        FlowData(np.zeros((32, 1), np.float32), timestamp_ns=index * block_ns, first_frame=index * 32)
        for index in range(3000)
    ]
    with DataFlowCoordinator() as flow:
        source, watch = flow.add(ScriptedSource(script, MONO)), flow.add(Watch())
        flow.connect(source.out, watch.audio, buffer_size=1)
        flow.run()
    assert arrived == [(index * 32, index * block_ns) for index in range(2999)]


# --- the order in which a worker serves its inputs ----------------------------------------------------------------------------


@pytest.fixture
def prioritised():
    """Start a module whose worker is held, with a pipeline from here into each of its inputs."""
    with DataFlowCoordinator() as flow:
        sink = flow.add(Prioritised(), name="sink", worker="held")
        pipes = {}
        for name, priority, size in [
            ("gate", "low", 1),
            ("low", "low", 512),
            ("normal", "normal", 512),
            ("critical", "critical", 512),
            ("high", "high", 512),
        ]:
            config = PipelineConfig(buffer_size=size, priority=priority)
            pipes[name] = flow.pipeline(flow.register_pipeline(f"app-{name}", f"sink.{name}", config, MONO))
        config = PipelineConfig(buffer_size=512, priority="normal")
        pipes["normal again"] = flow.pipeline(flow.register_pipeline("app-again", "sink.normal", config, MONO))
        flow.start()
        pipes["gate"].send(np.zeros((4, 1), np.float32))
        assert sink.held.wait(LIMIT_S)

        def run():
            for pipe in pipes.values():
                pipe.end()
            sink.go.set()
            assert flow.wait(LIMIT_S)
            return sink.log, flow.stop()

        try:
            yield pipes, run
        finally:
            sink.go.set()


def test_the_most_urgent_first_then_the_oldest(prioritised):
    pipes, run = prioritised
    for number in range(3):
        pipes["low"].send(np.zeros((4, 1), np.float32))
        pipes["normal" if number % 2 else "normal again"].send(np.full((4, 1), number, np.float32))
        pipes["high"].send(np.zeros((4, 1), np.float32))
        pipes["critical"].send(np.zeros((4, 1), np.float32))
    log, report = run()
    normal = [("normal", 0), ("normal", 1), ("normal", 2)]
    assert log == ["critical"] * 3 + ["high"] * 3 + normal + ["low"] * 3
    assert_accounted(report)
    assert sum(metrics.rescued for metrics in report.pipelines.values()) == 0


def test_who_starves_is_rescued_and_counted(prioritised):
    pipes, run = prioritised
    for _ in range(400):
        pipes["high"].send(np.zeros((4, 1), np.float32))
    for _ in range(3):
        pipes["low"].send(np.zeros((4, 1), np.float32))
    log, report = run()
    assert log.count("low") == 3
    at = [index for index, name in enumerate(log) if name == "low"]
    assert at[-1] < 400, "every one of them came before the last urgent one"
    assert all(later - earlier > 16 for earlier, later in pairwise([0, *at])), "but only now and then"
    assert report.pipelines["app-low->sink.low"].rescued == 3
    assert report.pipelines["app-high->sink.high"].rescued == 0


def test_nothing_is_rescued_from_critical_blocks(prioritised):
    pipes, run = prioritised
    for _ in range(400):
        pipes["critical"].send(np.zeros((4, 1), np.float32))
    pipes["low"].send(np.zeros((4, 1), np.float32))
    log, report = run()
    assert log == ["critical"] * 400 + ["low"]
    assert report.pipelines["app-low->sink.low"].rescued == 0


# --- between workers -----------------------------------------------------------------------------------------------------------


def test_a_module_that_can_go_on_is_never_buried_under_one_that_cannot():
    """
    A chain of four modules in two workers, up and down: upper (left), middle (right), lower (left), last (right).

    While lower waits for room, its worker must not begin with upper, which will wait for middle, which waits for lower.
    """
    holds, go = threading.Event(), threading.Event()

    class Middle(Pass):
        """Holds its worker, and so the last module, until lower waits and upper might have begun."""

        def process(self, audio):
            self.out.send(audio)
            if audio.sequence == 0:
                holds.set()
                assert go.wait(LIMIT_S)
                self.out.send(audio)
                self.out.send(audio)

    class Twice(Pass):
        def process(self, audio):
            self.out.send(audio)
            self.out.send(audio)

    with DataFlowCoordinator() as flow:
        rule = Wait(timeout_ms=1500)
        upper, middle = flow.add(Pass(), name="upper", worker="left"), flow.add(Middle(), name="middle", worker="right")
        lower, last = flow.add(Twice(), name="lower", worker="left"), flow.add(Collect(), name="last", worker="right")
        into_upper = flow.pipeline(flow.register_pipeline("app", "upper", PipelineConfig(buffer_size=8), MONO))
        into_middle = flow.connect(upper.out, middle.audio, buffer_size=1, backpressure_strategy=rule)
        flow.connect(middle.out, lower.audio, buffer_size=1, backpressure_strategy=rule)
        into_last = flow.connect(lower.out, last.data, buffer_size=1, backpressure_strategy=rule)
        flow.start()
        into_upper.send(np.zeros((4, 1), np.float32))
        assert holds.wait(LIMIT_S)
        while not into_last.statistics().backpressure_events:
            os.sched_yield()
        for _ in range(3):
            into_upper.send(np.zeros((4, 1), np.float32))
        into_upper.end()
        # That upper begins would be the mistake, so its absence can only be awaited for a while.
        patience = time.monotonic() + 0.2
        while time.monotonic() < patience and not into_middle.statistics().backpressure_events:
            os.sched_yield()
        go.set()
        assert flow.wait(LIMIT_S)
        report = flow.stop()
    assert_accounted(report)
    assert len(last.values) == 2 * (3 + 3)


@pytest.mark.parametrize("placements", [("thread", "thread"), ("thread", "process"), ("process", "process")])
def test_a_chain_that_zigzags_between_two_workers_cannot_deadlock(placements):
    """Every pipeline waits and holds one block; a worker that waits for room serves its other modules meanwhile."""
    blocks = 500
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(blocks), MONO), name="source")
        collect = flow.add(Collect(), name="collect")
        rule = {"buffer_size": 1, "backpressure_strategy": Wait(timeout_ms=2000)}
        previous = source.out
        for index in range(6):
            name, placement = f"pass-{index}", placements[index % 2]
            passing = flow.add(Pass(1), name=name, placement=placement, worker=f"worker-{index % 2}")
            flow.connect(previous, passing.audio, **rule)
            previous = passing.out
        flow.connect(previous, collect.data, **rule)
        # A short cut beside the long way.
        flow.connect(source.out, "collect.data", **rule)
        report = flow.run()
    assert_accounted(report)
    assert report.pipelines["pass-5.out->collect.data"].delivered == blocks
    assert sorted(numbers(collect)) == sorted([*range(blocks), *range(6, blocks + 6)])


def test_two_workers_that_wait_for_each_other_go_on():
    """There and back: while the one waits for the other, it takes what comes back."""
    blocks = 1000
    with DataFlowCoordinator() as flow:
        source, collect = flow.add(ScriptedSource(numbered(blocks), MONO)), flow.add(Collect())
        remote = flow.add(Pass(1), placement="process")
        rule = {"buffer_size": 1, "backpressure_strategy": Wait(timeout_ms=20_000)}
        flow.connect(source.out, remote.audio, **rule)
        flow.connect(remote.out, collect.data, **rule)
        report = flow.run()
    assert_accounted(report)
    assert numbers(collect) == [*range(1, blocks + 1)]


def test_fan_out_and_fan_in_across_placements():
    blocks = 200
    with DataFlowCoordinator() as flow:
        source, collect = flow.add(ScriptedSource(numbered(blocks), MONO)), flow.add(Collect())
        for branch, placed, placement in [
            (1, Pass, "thread"),  # fused
            (2, BlockingPass, "thread"),
            (3, Pass, "process"),
            (4, Pass, "process"),
        ]:
            passing = flow.add(placed(1000 * branch), name=f"branch-{branch}", placement=placement)
            flow.connect(source.out, passing.audio, buffer_size=3)
            flow.connect(passing.out, collect.data, buffer_size=3)
        report = flow.run()
    assert_accounted(report)
    arrived = numbers(collect)
    assert len(arrived) == 4 * blocks
    for branch in (1, 2, 3, 4):
        mine = [number - 1000 * branch for number in arrived if number // 1000 == branch]
        assert mine == [*range(blocks)], "order holds on each way"
    # Nobody died, so nothing was delivered twice.
    assert not any(arrival.flags & BlockFlag.REPEATED for arrival in collect.arrivals)
    assert {metrics.repeated for metrics in report.pipelines.values()} == {0}


def test_a_loop_ends_when_what_feeds_it_has_ended():
    class Echo(Module):
        audio, back = Input(MONO), Input(MONO)
        out = Output(MONO)

        def __init__(self):
            self.came_back = 0

        def process_audio(self, audio):
            self.out.send(audio)

        def process_back(self, back):
            self.came_back += 1

    with DataFlowCoordinator() as flow:
        source, echo, passing = flow.add(ScriptedSource(numbered(5), MONO)), flow.add(Echo()), flow.add(Pass())
        flow.connect(source.out, echo.audio, buffer_size=2)
        flow.connect(echo.out, passing.audio, buffer_size=8)
        flow.connect(passing.out, echo.back, buffer_size=8, backpressure_strategy=Wait(1000, then="drop_oldest"))
        report = flow.run()
    assert_accounted(report)
    assert {part.state for part in report.modules.values()} == {"ended"}


# --- beginning and end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [(None, None, None), ("a", "b", "c")])
def test_everything_happens_once_and_in_order(workers):
    pages = []
    with DataFlowCoordinator() as flow:
        previous = flow.add(ScriptedSource(numbered(3), MONO), name="source").out
        for name, worker in zip("xyz", workers, strict=True):
            diary = flow.add(Diary(pages, name), name=name, worker=worker)
            flow.connect(previous, diary.audio, buffer_size=1)
            previous = diary.out
        report = flow.run()
    for name in "xyz":
        mine = [what for writer, what, _ in pages if writer == name]
        assert mine == ["setup", "process", "process", "process", "finish", "teardown"]
        assert len({thread for writer, _, thread in pages if writer == name}) == 1
    finished = [writer for writer, what, _ in pages if what == "finish"]
    assert finished == ["x", "y", "z"], "the stream ends from above"
    assert {what for _, what, _ in pages[:3]} == {"setup"}
    ended = [event.module for event in report.events if isinstance(event, ModuleEnded)]
    assert sorted(ended) == ["source", "x", "y", "z"]
    assert {part.state for part in report.modules.values()} == {"ended"}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_what_finish_sends_comes_before_the_end(placement):
    with DataFlowCoordinator() as flow:
        source, total = flow.add(ScriptedSource(numbered(5), MONO)), flow.add(Total(), placement=placement)
        after, collect = flow.add(Pass(100)), flow.add(Collect())
        flow.connect(source.out, total.audio, buffer_size=2)
        flow.connect(total.out, after.audio, buffer_size=2)
        flow.connect(after.out, collect.data, buffer_size=2)
        flow.run()
    assert numbers(collect) == [0 + 1 + 2 + 3 + 4 + 100]


def test_a_stopped_source_finishes_too():
    pages = []

    class Endless(Source):
        out = Output(MONO)

        def produce(self):
            pages.append("produce")
            try:
                while True:
                    self.out.send(np.zeros((4, 1), np.float32))
                    yield
            finally:
                pages.append("closed")

        def finish(self):
            self.out.send(np.ones((4, 1), np.float32))
            pages.append("finish")

        def teardown(self):
            pages.append("teardown")

    with DataFlowCoordinator() as flow:
        source = flow.add(Endless(), name="source")
        pipe = flow.connect(source.out, "app", buffer_size=2)
        flow.start()
        first = pipe.receive(LIMIT_S)
        last = []

        def drain():
            last.extend(iter_blocks(pipe))

        reader = threading.Thread(target=drain)
        reader.start()
        report = flow.stop()
        reader.join(LIMIT_S)
        metrics = pipe.statistics()
    assert float(first.samples[0, 0]) == 0
    assert float(last[-1].samples[0, 0]) == 1, "what finish() sends comes last"
    assert pages == ["produce", "closed", "finish", "teardown"]
    assert report.modules["source"].state == "stopped"
    assert (metrics.delivered, metrics.in_flight) == (metrics.sent, 0)


def iter_blocks(pipe):
    """Receive until the end of the stream."""
    while True:
        try:
            yield pipe.receive(LIMIT_S)
        except EndOfStream:
            return


def test_no_block_comes_after_teardown():
    """A module with two inputs, one of which has ended because its source failed."""
    log = []

    class BrokenTeardown(Source):
        out = Output(MONO)

        def produce(self):
            self.out.send(np.zeros((4, 1), np.float32))
            yield

        def teardown(self):
            raise OSError("broken teardown")

    class LastWords(Source):
        out = Output(MONO)

        def produce(self):
            for _ in range(5):
                self.out.send(np.zeros((4, 1), np.float32))
                yield

        def finish(self):
            self.out.send(np.zeros((4, 1), np.float32))

    class Two(Module):
        left, right = Input(MONO), Input(MONO)

        def process_left(self, left):
            log.append("left")

        def process_right(self, right):
            log.append("right")

        def finish(self):
            log.append("finish")

        def teardown(self):
            log.append("teardown")

    with DataFlowCoordinator() as flow:
        broken, words, two = flow.add(BrokenTeardown()), flow.add(LastWords()), flow.add(Two())
        flow.connect(broken.out, two.left, buffer_size=1)
        flow.connect(words.out, two.right, buffer_size=1)
        with pytest.raises(FlowFailed, match="broken teardown"):
            flow.run()
    assert log[-2:] == ["finish", "teardown"]
    assert set(log[:-2]) == {"left", "right"}


def test_no_source_produces_before_everyone_is_set_up():
    produced = []

    class Stamp(Source):
        out = Output(MONO)

        def produce(self):
            produced.append(time.monotonic_ns())
            self.out.send(np.zeros((4, 1), np.float32))
            yield

    class SlowSetup(SetUpTime):
        """Takes as long as it takes until all others have been launched."""

        blocking = True

        def setup(self):
            others = [flow.workers[name] for name in ("main", "remote")]
            while any(worker.state == "starting" for worker in others):
                os.sched_yield()
            super().setup()

    with DataFlowCoordinator() as flow:
        source = flow.add(Stamp())
        collect = flow.add(Collect(), name="collect")
        for name, placed, placement in [
            ("here", SetUpTime(), "thread"),
            ("slow", SlowSetup(), "thread"),
            ("remote", SetUpTime(), "process"),
        ]:
            flow.add(placed, name=name, placement=placement)
            flow.connect(source.out, placed.audio, buffer_size=1)
            flow.connect(placed.done, collect.data, buffer_size=1)
        flow.run()
    set_up = [message.calls for message in collect.values]  # the clock is the same in all processes
    assert len(set_up) == 3
    assert max(set_up) < produced[0]


# --- sources -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [True, False])
def test_a_source_that_waits_for_its_time_costs_nothing(alone):
    spent, late = [], []

    class Paced(Source):
        out = Output(MONO)
        live = True

        def produce(self):
            for _ in range(3):
                due = time.monotonic_ns() + 80_000_000
                before = time.thread_time_ns()
                yield due
                spent.append(time.thread_time_ns() - before)
                late.append(time.monotonic_ns() >= due)

    with DataFlowCoordinator() as flow:
        flow.connect(flow.add(Paced()).out, "app", buffer_size=1)
        if not alone:  # a worker that also has blocks to wait for
            flow.connect(flow.add(Pass(), worker="main").out, "other", buffer_size=1)
            pipe = flow.pipeline(flow.register_pipeline("in", "pass", PipelineConfig(buffer_size=1), MONO))
            pipe.end()
        flow.run()
    assert late == [True, True, True], "never before its time"
    # Spinning would cost all of the 240 ms. CPU time, not time on the wall: no other load makes this fail.
    assert sum(spent) < 60_000_000


def test_sources_of_one_worker_take_turns():
    turns = []

    class Eager(Source):
        out = Output(MONO)

        def __init__(self, name):
            self.name = name

        def produce(self):
            for block in numbered(20):
                turns.append(self.name)
                self.out.send(block)
                yield

    with DataFlowCoordinator() as flow:
        for name in "abc":
            flow.connect(flow.add(Eager(name), name=name).out, flow.add(Collect()).data, buffer_size=1)
        flow.run()
    assert turns == [*"abc"] * 20


def test_a_source_that_never_rests_leaves_room_for_one_with_a_time():
    on_time = []

    class Busy(Source):
        out = Output(MONO)

        def produce(self):
            for _ in range(10_000):
                if len(on_time) == 5:
                    return
                self.out.send(np.zeros((4, 1), np.float32))
                yield
            pytest.fail("the other source never came to its turn")

    class Timed(Source):
        out = Output(MONO)

        def produce(self):
            for _ in range(5):
                due = time.monotonic_ns()
                yield due
                on_time.append(time.monotonic_ns() >= due)

    with DataFlowCoordinator() as flow:
        flow.connect(flow.add(Busy()).out, flow.add(Collect()).data, buffer_size=1)
        flow.connect(flow.add(Timed()).out, flow.add(Collect()).data, buffer_size=1)
        report = flow.run()
    assert on_time == [True] * 5
    assert {part.state for part in report.modules.values()} == {"ended"}


def test_a_source_in_a_process_paces_and_stops():
    with DataFlowCoordinator() as flow:
        source = flow.add(Metronome(), name="source", placement="process")
        collect = flow.add(Collect())
        flow.connect(source.out, collect.data, buffer_size=4)
        pipe = flow.connect(source.out, "app", buffer_size=4, backpressure_strategy=Wait(20_000))
        flow.start()
        blocks = [pipe.receive(LIMIT_S) for _ in range(5)]
        assert [block.sequence for block in blocks] == [0, 1, 2, 3, 4]
        assert all(later.timestamp_ns - earlier.timestamp_ns >= 1_000_000 for earlier, later in pairwise(blocks))
        report = flow.stop()
        # What the application has not received is still there to be received.
        left = [*iter_blocks(pipe)]
    assert report.modules["source"].state == "stopped"
    assert report.pipelines["source.out->collect.data"].delivered == len(collect.values) == 5 + len(left)


class Metronome(Source):
    """Sends until it is stopped, every millisecond."""

    out = Output(MONO)

    def produce(self):
        due = time.monotonic_ns()
        while True:
            self.out.send(FlowData(np.zeros((4, 1), np.float32), timestamp_ns=due))
            due = max(due + 1_000_000, time.monotonic_ns() + 1_000_000)
            yield due


# --- real-time scheduling --------------------------------------------------------------------------------------------------------


def test_a_thread_is_never_elevated():
    with (
        DataFlowCoordinator() as flow,
        pytest.raises(ConfigurationError, match="realtime=True needs placement='process'"),
    ):
        flow.add(Pass(), realtime=True)


_REALTIME_PROBE = """\
import os
os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
"""


def test_real_time_scheduling_where_the_system_grants_it():
    probe = subprocess.run([sys.executable, "-c", _REALTIME_PROBE], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("this system does not allow SCHED_FIFO")
    with DataFlowCoordinator() as flow:
        source, collect = flow.add(ScriptedSource(numbered(1), MONO)), flow.add(Collect())
        policy = flow.add(Policy(), name="policy", placement="process", realtime=True)
        flow.connect(source.out, policy.audio, buffer_size=1)
        flow.connect(policy.policy, collect.data, buffer_size=1)
        report = flow.run()
        assert flow.workers["policy"].realtime
        assert not flow.workers["main"].realtime
    assert [message.calls for message in collect.values] == [os.SCHED_FIFO | os.SCHED_RESET_ON_FORK]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "only the worker was elevated"
    assert not any(isinstance(event, RealtimeRefused) for event in report.events)


# Takes from itself, and so from its workers, the right to real-time scheduling.
_REFUSED = """\
import ctypes, resource, sys
import numpy as np
from steadyflow import *
from steadyflow.events import RealtimeRefused
from steadyflow.testing import Collect, ScriptedSource

CAP_SYS_NICE, PR_CAPBSET_DROP = 23, 24
ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_NICE, 0, 0, 0)
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
MONO = AudioFormat(48_000, 1)

class Pass(Module):
    audio = Input(MONO)
    out = Output(like="audio")

    def process(self, audio):
        return audio

flow = DataFlowCoordinator("polite")
source = flow.add(ScriptedSource([np.zeros((4, 1), np.float32)] * 3, MONO))
passing, collect = flow.add(Pass(), name="fast", placement="process", realtime=True), flow.add(Collect())
flow.connect(source.out, passing.audio, buffer_size=2)
flow.connect(passing.out, collect.data, buffer_size=2)
try:
    report = flow.run()
    print("ran", len(collect.values), [type(e).__name__ for e in report.events].count("RealtimeRefused"), flow.workers["fast"].realtime)
except RuntimeWarning as warning:
    print("raised", warning, flow.workers["fast"].state)
flow.close()
"""


@pytest.mark.parametrize("warnings_are", ["default", "error"])
def test_real_time_scheduling_refused_politely(warnings_are, tmp_path):
    script = tmp_path / "refused.py"
    script.write_text(_REFUSED)
    done = subprocess.run(
        [sys.executable, "-W", warnings_are, script], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    reason = "flow 'polite': worker 'fast' runs without real-time priority: the system does not allow SCHED_FIFO"
    if warnings_are == "default":
        assert done.stdout == "ran 3 1 False\n"
        assert done.stderr.count(reason) == 1
        assert "/etc/security/limits.d" in done.stderr
    else:
        assert done.stdout.startswith(f"raised {reason}")
        assert done.stdout.rstrip().endswith(("ended", "failed"))
        assert done.stderr == ""


def test_the_refusal_points_at_the_users_own_line(tmp_path):
    script = tmp_path / "refused.py"
    script.write_text(_REFUSED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50, check=False)
    assert "refused.py" in done.stderr.splitlines()[0]


def test_blocks_are_blocks_everywhere():
    """A module sees the same class in a fused pipeline, in another thread, and in windows."""
    kinds = set()

    class Kind(Module):
        audio = Input(MONO)

        def process(self, audio):
            kinds.add((type(audio), audio.format))

    class WindowKind(Kind):
        audio = Input(MONO, window_frames=2)

    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(1), MONO))
        for number, (placed, worker) in enumerate([(Kind(), None), (Kind(), "other"), (WindowKind(), None)]):
            flow.connect(source.out, flow.add(placed, name=f"kind-{number}", worker=worker).audio, buffer_size=1)
        flow.run()
    assert kinds == {(Block, MONO)}
