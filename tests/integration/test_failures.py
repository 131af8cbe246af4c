"""What happens when something fails: who is told, what still arrives, and that nothing stays behind."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from steadyflow import (
    ArrayFormat,
    AudioFormat,
    BytesFormat,
    DataFlowCoordinator,
    FlowError,
    FlowFailed,
    Input,
    Module,
    Output,
    PipelineClosed,
    PipelineConfig,
    Source,
    Wait,
)
from steadyflow.audio import FileSink
from steadyflow.errors import InsufficientMemory, ModuleFailed, StateError, WorkerDied
from steadyflow.events import DataFlowStarted, DataFlowStopped, PipelineFailure, WorkerUnresponsive
from steadyflow.report import FlowReport
from steadyflow.testing import Collect, ScriptedSource

MONO = AudioFormat(48_000, 1)
SILENCE = np.zeros((4, 1), np.float32)
PLACEMENTS = ("thread", "process")
LIMIT_S = 20  # how long a test may wait for what has to come; it never waits for time to pass


def children(pid=None):
    """Return the pids of the children of a process; of this one unless given."""
    parent, found = os.getpid() if pid is None else pid, set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may end while it is looked at
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.add(int(stat.parent.name))
    return found


def descriptors():
    """Return what each open descriptor of this process is."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists the folder
            found[link.name] = str(link.readlink())
    return found


def mapped_segments():
    return Path("/proc/self/maps").read_text().count("memfd:steadyflow")


def flow_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("steadyflow")]


@pytest.fixture(autouse=True)
def nothing_stays_behind(tmp_path, monkeypatch):
    """Whatever fails: no process, thread, descriptor, mapping or file of a flow is left."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(folder))

    def state():
        gc.collect()
        shared = [path for path in Path("/dev/shm").iterdir() if path.name.startswith("steadyflow")]
        return children(), descriptors(), mapped_segments(), flow_threads(), shared, list(folder.iterdir())

    before = state()
    yield
    assert state() == before


def assert_accounted(report):
    assert isinstance(report, FlowReport)
    for name, metrics in report.pipelines.items():
        assert metrics.in_flight == 0, name
        assert metrics.sent == metrics.delivered + metrics.dropped_total, name


def numbered(blocks):
    return [np.full((4, 1), number, np.float32) for number in range(blocks)]


def numbers(collect):
    return [int(block[0, 0]) for block in collect.values]


@pytest.fixture
def ended_by():
    """Watch processes, also those of others, and wait for their end without asking again and again."""
    handles = []

    def watch(pid):
        handle = os.pidfd_open(pid)
        handles.append(handle)

        def ended(timeout_s=LIMIT_S):
            return bool(select.select([handle], [], [], timeout_s)[0])

        return ended

    yield watch
    for handle in handles:
        os.close(handle)


# --- modules that fail ------------------------------------------------------------------------------------------------


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


KINDS = {
    "error": (ValueError, "ValueError: no peak"),
    "exit": (SystemExit, "SystemExit: enough"),
    "interrupt": (KeyboardInterrupt, "KeyboardInterrupt"),
    "surrogate": (ValueError, "ValueError: bad name"),
    "unspeakable": (Unspeakable, "Unspeakable"),
    "empty": (ValueError, "ValueError"),
    "lines": (ValueError, "ValueError: first"),
}


def break_down(kind):
    """Raise what a module of a user may raise; the name of this function must be in the traceback."""
    match kind:
        case "error":
            raise ValueError("no peak")
        case "exit":
            sys.exit("enough")
        case "interrupt":
            raise KeyboardInterrupt
        case "surrogate":
            raise ValueError("bad name \udc80")
        case "unspeakable":
            raise Unspeakable
        case "empty":
            raise ValueError
        case "lines":
            raise ValueError("first\nsecond\n")


class Fragile(Module):
    """Breaks in one of its methods; in process(), at block 2."""

    audio = Input(MONO)
    out = Output(like="audio")

    def __init__(self, where, kind="error"):
        self.where = where
        self.kind = kind

    def setup(self):
        if self.where == "setup":
            break_down(self.kind)

    def process(self, audio):
        if self.where == "process" and audio.sequence == 2:
            break_down(self.kind)
        return audio

    def finish(self):
        if self.where == "finish":
            break_down(self.kind)

    def teardown(self):
        if self.where == "teardown":
            break_down(self.kind)


class FragileSource(Source):
    """Sends two blocks, and breaks in one of its methods."""

    out = Output(MONO)

    def __init__(self, where, kind="error"):
        self.where = where
        self.kind = kind

    def setup(self):
        if self.where == "setup":
            break_down(self.kind)

    def produce(self):
        for block in numbered(2):
            self.out.send(block)
            yield
        if self.where == "produce":
            break_down(self.kind)

    def finish(self):
        if self.where == "finish":
            break_down(self.kind)

    def teardown(self):
        if self.where == "teardown":
            break_down(self.kind)


class OnlyAtHome(Module):
    """Can be made in the process that it was made for, and nowhere else."""

    audio = Input(MONO)

    def __init__(self, home, kind):
        if os.getpid() != home:
            break_down(kind)

    def process(self, audio):
        raise NotImplementedError


class WrongShape(Module):
    audio = Input(MONO)
    out = Output(MONO)

    def process(self, audio):
        return np.zeros((2, 4), np.float64)


class TwoOutputs(Module):
    audio = Input(MONO)
    left, right = Output(MONO), Output(MONO)

    def process(self, audio):
        return audio.samples


class NoOutput(Module):
    audio = Input(MONO)

    def process(self, audio):
        return "done"


class WindowedTwoOutputs(TwoOutputs):
    audio = Input(MONO, window_frames=2)


class WrongYield(Source):
    out = Output(MONO)

    def __init__(self, value):
        self.value = value

    def produce(self):
        self.out.send(SILENCE)
        yield self.value


class Endless(Source):
    """Sends until it is stopped."""

    out = Output(MONO)

    def produce(self):
        while True:
            self.out.send(SILENCE)
            yield time.monotonic_ns() + 200_000


class Pass(Module):
    audio = Input(MONO)
    out = Output(like="audio")

    def process(self, audio):
        return audio


class Large(Module):
    """Sends blocks that are views of shared memory where they arrive."""

    audio = Input(MONO)
    out = Output(ArrayFormat(np.float64, (4096,)))

    def process(self, audio):
        return np.full(4096, audio.sequence, np.float64)


class Exit(Module):
    """Ends its whole process at block 2, without a word."""

    audio = Input(MONO)
    out = Output(MONO)

    def __init__(self, code):
        self.code = code

    def process(self, audio):
        if audio.sequence == 2:
            os._exit(self.code)
        return audio


class KillOneself(Module):
    audio = Input(MONO)

    def process(self, audio):
        if audio.sequence == 2:
            os.kill(os.getpid(), signal.SIGKILL)


class NeverReady(Module):
    """Its setup waits for what never comes."""

    audio = Input(MONO)

    def setup(self):
        while True:
            signal.pause()

    def process(self, audio):
        raise NotImplementedError


class NeverDone(Module):
    """Says when it has a block in hand, and keeps it."""

    audio = Input(MONO)
    out = Output(MONO)

    def process(self, audio):
        self.out.send(audio)
        while True:
            signal.pause()


# --- an exception in a module ---------------------------------------------------------------------------------------------


def failed_run(flow):
    with pytest.raises(FlowFailed) as caught:
        flow.run()
    failed = caught.value
    assert_accounted(failed.report)
    assert flow.report().pipelines == failed.report.pipelines
    assert [event.failed for event in failed.report.events if isinstance(event, DataFlowStopped)] == [True]
    return failed


def check_one_failure(failed, module, placement, where, kind):
    (problem,) = failed.exceptions
    assert isinstance(problem, ModuleFailed)
    kind_of, text = KINDS[kind]
    assert problem.module == module
    assert problem.worker == (module if placement == "process" else "main")
    assert problem.block_sequence == (2 if where == "process" else None)
    assert text in str(problem).splitlines()[0]
    assert text in str(failed)
    assert "break_down" in problem.traceback_text, "the traceback, also from another process"
    assert __file__ in problem.traceback_text
    assert problem.traceback_text.rstrip() in str(problem)
    if placement == "process":
        str(problem).encode()  # can be printed, whatever the message was
    cause = problem.__cause__
    if placement == "thread":
        # sys.exit() and Ctrl-C are no Exceptions; the group holds an Exception that has them as its cause.
        assert type(cause if issubclass(kind_of, Exception) else cause.__cause__) is kind_of
    else:
        assert cause is None
    assert failed.report.modules[module].state == "failed"
    failures = [event for event in failed.report.events if isinstance(event, PipelineFailure)]
    assert [(event.module, event.worker) for event in failures] == [(module, problem.worker)]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("process", "error"),
        ("process", "exit"),
        ("process", "interrupt"),
        ("process", "surrogate"),
        ("process", "unspeakable"),
        ("process", "empty"),
        ("process", "lines"),
        ("setup", "error"),
        ("setup", "exit"),
        ("setup", "surrogate"),
        ("finish", "error"),
        ("finish", "exit"),
        ("teardown", "error"),
        ("teardown", "exit"),
        ("teardown", "surrogate"),
    ],
)
def test_a_module_that_breaks(where, kind, placement):
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(5), MONO), name="source")
        fragile = flow.add(Fragile(where, kind), name="fragile", placement=placement)
        after, beside = flow.add(Collect(), name="after"), flow.add(Collect(), name="beside", worker="beside")
        flow.connect(source.out, fragile.audio, buffer_size=1)
        flow.connect(fragile.out, after.data, buffer_size=1)
        flow.connect(source.out, beside.data, buffer_size=1)
        failed = failed_run(flow)
    check_one_failure(failed, "fragile", placement, where, kind)
    pipelines = failed.report.pipelines
    started = any(isinstance(event, DataFlowStarted) for event in failed.report.events)
    if where == "setup":
        assert not started, "nothing was produced"
        assert {metrics.sent for metrics in pipelines.values()} == {0}
        return
    assert started
    # What it had sent was delivered, and who is not concerned has got everything.
    reached = 2 if where == "process" else pipelines["source.out->fragile.audio"].sent
    assert numbers(after) == [*range(reached)]
    assert pipelines["source.out->fragile.audio"].delivered == reached
    assert set(pipelines["source.out->fragile.audio"].dropped) <= {"failed"}
    assert pipelines["source.out->beside.data"].dropped == {}
    assert numbers(beside) == [*range(pipelines["source.out->beside.data"].sent)]
    assert failed.report.modules["after"].state == "ended"
    if where != "process":
        assert reached == 5, "the stream had come to its end by then"


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_an_error_that_says_what_to_do_is_told_without_its_traceback(tmp_path, placement):
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(5), MONO), name="source")
        sink = flow.add(FileSink(tmp_path / "missing" / "take.wav"), name="sink", placement=placement)
        flow.connect(source.out, sink.audio, buffer_size=1)
        (problem,) = failed_run(flow).exceptions
    assert problem.problem.startswith("steadyflow.errors.FileUnwritable: ")
    assert problem.explanation == problem.problem.removeprefix("steadyflow.errors.FileUnwritable: ")
    assert "Traceback" not in problem.explanation
    assert "Traceback" in problem.traceback_text


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    ("where", "kind"),
    [("produce", "error"), ("produce", "exit"), ("setup", "exit"), ("finish", "error"), ("teardown", "error")],
)
def test_a_source_that_breaks(where, kind, placement):
    with DataFlowCoordinator() as flow:
        source = flow.add(FragileSource(where, kind), name="fragile", placement=placement)
        collect = flow.add(Collect(), name="collect")
        flow.connect(source.out, collect.data, buffer_size=1)
        failed = failed_run(flow)
    check_one_failure(failed, "fragile", placement, where, kind)
    assert numbers(collect) == ([] if where == "setup" else [0, 1]), "what it had sent before has arrived"


def test_a_failure_in_a_thread_can_be_printed():
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(5), MONO))
        fragile = flow.add(Fragile("process", "surrogate"))
        flow.connect(source.out, fragile.audio, buffer_size=1)
        failed = failed_run(flow)
    str(failed.exceptions[0]).encode()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_an_exit_that_cannot_be_printed(placement):
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(5), MONO))
        fragile = flow.add(UnspeakableExit(), placement=placement)
        flow.connect(source.out, fragile.audio, buffer_size=1)
        with pytest.raises(FlowFailed):
            flow.run()


class UnspeakableExit(Module):
    audio = Input(MONO)

    def process(self, audio):
        class Farewell(SystemExit):
            def __str__(self):
                raise RuntimeError("no words")

        raise Farewell


def test_everyone_who_broke_is_named():
    held = threading.Barrier(2, timeout=LIMIT_S)

    class Together(Module):
        audio = Input(MONO)

        def process(self, audio):
            held.wait()
            raise ValueError("both")

    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(3), MONO))
        for name in ("one", "two"):
            flow.connect(source.out, flow.add(Together(), name=name, worker=name).audio, buffer_size=4)
        failed = failed_run(flow)
    # The second one had raised before it could hear of the first, but the run may be judged in between.
    assert {problem.module for problem in failed.exceptions} <= {"one", "two"}
    assert {name for name, part in failed.report.modules.items() if part.state == "failed"} <= {"one", "two"}
    assert failed.exceptions


def test_a_failed_run_is_an_exception_group():
    with DataFlowCoordinator("group") as flow:
        source, fragile = flow.add(ScriptedSource(numbered(5), MONO)), flow.add(Fragile("process"), name="fragile")
        flow.connect(source.out, fragile.audio, buffer_size=1)
        found = []
        try:
            flow.run()
        except* ModuleFailed as group:
            found.append(group)
        (group,) = found
        assert isinstance(group, FlowFailed)
        assert group.report.modules["fragile"].state == "failed"
        assert isinstance(group, FlowError)
        # Asked again, the flow gives the same answer.
        with pytest.raises(FlowFailed, match="flow 'group' failed: module 'fragile'"):
            flow.stop()


def test_a_failure_is_a_note_on_what_is_on_its_way_out():
    with pytest.raises(KeyError) as caught, DataFlowCoordinator() as flow:
        source, fragile = flow.add(ScriptedSource(numbered(5), MONO)), flow.add(Fragile("process"))
        flow.connect(source.out, fragile.audio, buffer_size=1)
        flow.start()
        assert flow.wait(LIMIT_S)
        raise KeyError("something else")
    assert any("no peak" in note for note in caught.value.__notes__)


# --- wrong results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (WrongShape, r"FormatMismatch: wrong\.out: expected dtype float32; got float64"),
        (TwoOutputs, r"source\.out->wrong\.audio: expected process\(\) to return None.*got numpy\.ndarray.*send\("),
        (NoOutput, r"source\.out->wrong\.audio: expected process\(\) to return None.*got str"),
        (WindowedTwoOutputs, r"expected process\(\) to return None.*got ndarray.*send\("),
    ],
)
def test_a_result_that_nobody_can_take(kind, message, placement):
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(1), MONO), name="source")
        wrong = flow.add(kind(), name="wrong", placement=placement)
        collect = flow.add(Collect())
        flow.connect(source.out, wrong.audio, buffer_size=1)
        for output in type(wrong)._steadyflow_outputs:
            flow.connect(f"wrong.{output}", collect.data, buffer_size=1)
        with pytest.raises(FlowFailed, match=message) as caught:
            flow.run()
    (problem,) = caught.value.exceptions
    assert isinstance(problem, ModuleFailed)
    assert (problem.module, problem.block_sequence) == ("wrong", 0)
    assert caught.value.report.pipelines["source.out->wrong.audio"].dropped == {"failed": 1}
    assert_accounted(caught.value.report)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("value", ["later", 0.5])
def test_a_source_that_yields_no_time(value, placement):
    with DataFlowCoordinator() as flow:
        source = flow.add(WrongYield(value), name="source", placement=placement)
        flow.connect(source.out, flow.add(Collect()).data, buffer_size=1)
        with pytest.raises(FlowFailed, match=rf"expected produce\(\) to yield None or a time in ns, got {value!r}"):
            flow.run()


# --- workers that cannot start ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["error", "surrogate", "unspeakable"])
def test_a_module_that_cannot_be_made_in_its_process(kind):
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(1), MONO))
        picky = flow.add(OnlyAtHome(os.getpid(), kind), name="picky", placement="process")
        flow.connect(source.out, picky.audio, buffer_size=1)
        failed = failed_run(flow)
    (problem,) = failed.exceptions
    assert f"worker 'picky' could not be built: {KINDS[kind][1]}" in str(problem) or kind == "unspeakable"
    assert "worker 'picky' could not be built" in str(problem)
    assert "break_down" in str(problem), "with the traceback from the other process"
    assert not any(isinstance(event, DataFlowStarted) for event in failed.report.events)


def test_a_constructor_that_exits_in_its_process():
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(1), MONO))
        picky = flow.add(OnlyAtHome(os.getpid(), "exit"), name="picky", placement="process")
        flow.connect(source.out, picky.audio, buffer_size=1)
        with pytest.raises(FlowFailed, match="could not be built: SystemExit: enough"):
            flow.run()


def started_flow_with_processes(flow, count):
    source = flow.add(ScriptedSource(numbered(1), MONO))
    for number in range(count):
        passing = flow.add(Pass(), name=f"remote-{number}", placement="process")
        flow.connect(source.out, passing.audio, buffer_size=1)
    flow.start()


def test_a_process_that_cannot_be_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with DataFlowCoordinator() as flow:
        with pytest.raises(FlowFailed, match=r"worker 'remote-0': its process could not be started.*nonexistent"):
            started_flow_with_processes(flow, 1)
        with pytest.raises(StateError, match="expected a flow that has not been started"):
            flow.start()


def test_a_second_process_that_cannot_be_started(monkeypatch):
    real, started = subprocess.Popen, []

    def once(*args, **kwargs):
        if started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(real(*args, **kwargs))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", once)
    with DataFlowCoordinator() as flow:
        with pytest.raises(
            FlowFailed, match=r"worker 'remote-1': its process could not be started.*temporarily unavailable"
        ):
            started_flow_with_processes(flow, 2)
        assert started[0].returncode is not None, "the first one was ended, and its end waited for"


def test_an_interpreter_that_is_none(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DataFlowCoordinator() as flow, pytest.raises(FlowFailed) as caught:
        started_flow_with_processes(flow, 1)
    (problem,) = caught.value.exceptions
    assert isinstance(problem, WorkerDied)
    assert (problem.worker, problem.exit_code, problem.signal) == ("remote-0", 1, None)


def test_a_worker_killed_while_it_sets_up():
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(1), MONO))
        never = flow.add(NeverReady(), name="never", placement="process")
        flow.connect(source.out, never.audio, buffer_size=1)
        killed = []

        def kill():
            while "never" not in flow.workers or flow.workers["never"].pid is None:
                os.sched_yield()
            killed.append(flow.workers["never"].pid)
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(FlowFailed) as caught:
            flow.start()
        killer.join(LIMIT_S)
    (problem,) = caught.value.exceptions
    assert isinstance(problem, WorkerDied)
    assert (problem.worker, problem.pid, problem.signal) == ("never", killed[0], signal.SIGKILL)


# --- workers that die -------------------------------------------------------------------------------------------------------


def test_a_worker_killed_in_the_middle_of_a_run(capsys):
    with DataFlowCoordinator() as flow:
        source = flow.add(Endless(), name="source")
        remote = flow.add(Pass(), name="remote", placement="process")
        collect = flow.add(Collect(), name="collect")
        flow.connect(source.out, remote.audio, buffer_size=8)
        flow.connect(remote.out, collect.data, buffer_size=8)
        pipe = flow.connect(remote.out, "app", buffer_size=64)
        flow.start()
        for _ in range(20):
            pipe.receive(LIMIT_S)
        pid = flow.workers["remote"].pid
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        assert flow.wait(LIMIT_S)
        with pytest.raises(FlowFailed) as caught:
            flow.stop()
        took = time.monotonic() - began
        with capsys.disabled():
            print(f" [a killed worker ended the run in {took * 1000:.0f} ms]", end="")
        assert took < 10
        assert flow.workers["remote"].state == "died"
        assert not Path(f"/proc/{pid}").exists()
        while pipe.statistics().in_flight:
            pipe.receive(LIMIT_S)  # what the application had not yet received is still there
        metrics = pipe.statistics()
    (problem,) = caught.value.exceptions
    assert isinstance(problem, WorkerDied)
    assert (problem.worker, problem.pid, problem.signal, problem.exit_code) == ("remote", pid, signal.SIGKILL, None)
    assert f"'remote' (pid {pid}) was killed by SIGKILL" in str(caught.value)
    report = caught.value.report
    for name in ("source.out->remote.audio", "remote.out->collect.data"):
        assert report.pipelines[name].in_flight == 0
        assert report.pipelines[name].sent == report.pipelines[name].delivered + report.pipelines[name].dropped_total
    assert metrics.sent == metrics.delivered + metrics.dropped_total
    assert report.pipelines["remote.out->collect.data"].dropped == {}, "what it had sent was delivered"
    assert report.pipelines["source.out->remote.audio"].sent >= 20
    states = {name: part.state for name, part in report.modules.items()}
    assert states == {"source": "stopped", "remote": "failed", "collect": "ended"}


def test_a_killed_worker_that_was_a_source():
    with DataFlowCoordinator() as flow:
        source = flow.add(Endless(), name="source", placement="process")
        large = flow.add(Large(), name="large", placement="process")
        collect = flow.add(Collect(), name="collect")
        flow.connect(source.out, large.audio, buffer_size=4)
        flow.connect(large.out, collect.data, buffer_size=4)
        pipe = flow.connect(source.out, "app", buffer_size=64)
        flow.start()
        for _ in range(20):
            pipe.receive(LIMIT_S)
        os.kill(flow.workers["source"].pid, signal.SIGTERM)
        assert flow.wait(LIMIT_S)
        with pytest.raises(FlowFailed, match=r"worker 'source' .* was killed by SIGTERM") as caught:
            flow.stop()
    report = caught.value.report
    assert report.modules["large"].state == "ended", "the stream ends, so everything below it drains"
    for name in ("source.out->large.audio", "large.out->collect.data"):
        assert report.pipelines[name].dropped == {}
        assert report.pipelines[name].delivered == report.pipelines[name].sent
    for number, value in enumerate(collect.values):
        np.testing.assert_array_equal(value, np.full(4096, number))


def test_two_workers_killed_at_once():
    with DataFlowCoordinator() as flow:
        source = flow.add(Endless(), name="source")
        pipes = []
        for name in ("one", "two"):
            remote = flow.add(Pass(), name=name, placement="process")
            flow.connect(source.out, remote.audio, buffer_size=4)
            pipes.append(flow.connect(remote.out, f"app-{name}", buffer_size=64))
        flow.start()
        for pipe in pipes:
            pipe.receive(LIMIT_S)
        pids = {name: flow.workers[name].pid for name in ("one", "two")}
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        assert flow.wait(LIMIT_S)
        with pytest.raises(FlowFailed) as caught:
            flow.stop()
    assert {(problem.worker, problem.pid) for problem in caught.value.exceptions} == set(pids.items())


@pytest.mark.parametrize("code", [0, 7])
def test_a_worker_that_ends_without_a_word(code):
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(9), MONO), name="source")
        leaving = flow.add(Exit(code), name="leaving", placement="process")
        collect = flow.add(Collect())
        flow.connect(source.out, leaving.audio, buffer_size=2)
        flow.connect(leaving.out, collect.data, buffer_size=2)
        failed = failed_run(flow)
    (problem,) = failed.exceptions
    assert isinstance(problem, WorkerDied)
    assert (problem.worker, problem.exit_code, problem.signal) == ("leaving", code, None)
    assert f"exited with code {code} while the flow was running" in str(problem)
    assert numbers(collect) == [0, 1]
    metrics = failed.report.pipelines["source.out->leaving.audio"]
    assert metrics.delivered == 2
    assert set(metrics.dropped) == {"failed"}


def test_the_accounts_of_a_fused_pipeline_after_a_kill():
    """Its counters were written by the dead; a block that was in its hands has a fate all the same."""
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(9), MONO), name="source")
        passing = flow.add(Pass(), name="passing", placement="process", worker="both")
        last = flow.add(KillOneself(), name="last", placement="process", worker="both")
        flow.connect(source.out, passing.audio, buffer_size=9)
        flow.connect(passing.out, last.audio, buffer_size=9)
        failed = failed_run(flow)
    metrics = failed.report.pipelines["passing.out->last.audio"]
    assert (metrics.sent, metrics.delivered, metrics.dropped) == (3, 2, {"failed": 1})
    assert {name for name, part in failed.report.modules.items() if part.state == "failed"} == {"passing", "last"}


def test_a_send_that_waits_for_a_dead_worker_goes_on():
    with DataFlowCoordinator() as flow:
        config = PipelineConfig(buffer_size=1, backpressure_strategy=Wait())
        never = flow.add(NeverDone(), name="never", placement="process")
        pipe = flow.pipeline(flow.register_pipeline("app", "never.audio", config, MONO))
        taken = flow.connect(never.out, "taken", buffer_size=1)
        flow.start()
        outcome = []

        def send():
            try:
                while True:
                    pipe.send(SILENCE)
            except PipelineClosed as error:
                outcome.append(str(error))

        sender = threading.Thread(target=send)
        sender.start()
        taken.receive(LIMIT_S)
        while not pipe.statistics().backpressure_events:
            os.sched_yield()
        os.kill(flow.workers["never"].pid, signal.SIGKILL)
        sender.join(LIMIT_S)
        assert not sender.is_alive()
        assert flow.wait(LIMIT_S)
        with pytest.raises(FlowFailed, match="SIGKILL") as caught:
            flow.stop()
        assert pipe.statistics().in_flight == 0
    (message,) = outcome
    assert message.startswith("app->never.audio: the flow failed: worker 'never'")
    assert caught.value.report.pipelines["app->never.audio"].delivered == 0


# --- stopping what does not want to stop ----------------------------------------------------------------------------------------


class Held(Module):
    audio = Input(MONO)

    def __init__(self, held, go):
        self.held = held
        self.go = go

    def process(self, audio):
        self.held.set()
        assert self.go.wait(LIMIT_S)


@pytest.fixture
def held_flow():
    """Run a flow whose consumer holds the first of nine blocks."""
    held, go = threading.Event(), threading.Event()
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource(numbered(9), MONO), name="source")
        slow = flow.add(Held(held, go), name="slow", worker="slow")
        flow.connect(source.out, slow.audio, buffer_size=16)
        flow.start()
        assert held.wait(LIMIT_S)
        # Everything has been sent once the source's own worker has ended.
        while not flow.workers["main"].ended:
            os.sched_yield()
        worker = flow.workers["slow"]
        try:
            yield flow, go, worker
        finally:
            go.set()
            assert worker.join(LIMIT_S)


def test_what_has_not_drained_by_the_deadline_counts_as_stopped(held_flow):
    flow, _go, worker = held_flow
    report = flow.stop(drain_timeout_s=0.05)
    assert report.pipelines["source.out->slow.audio"].dropped == {"stopped": 9}
    assert_accounted(report)
    unresponsive = [event.worker for event in report.events if isinstance(event, WorkerUnresponsive)]
    assert unresponsive == ["slow"]
    assert not worker.ended, "a thread cannot be ended by force"
    assert report.modules["source"].state == "ended"


def test_a_thread_that_was_left_behind_is_no_new_failure(held_flow):
    flow, go, worker = held_flow
    first = flow.stop(drain_timeout_s=0.05)
    go.set()
    assert worker.join(LIMIT_S)
    assert worker.ended
    second = flow.stop()
    assert second.pipelines["source.out->slow.audio"].dropped == first.pipelines["source.out->slow.audio"].dropped
    assert_accounted(second)


def test_a_flow_closes_over_a_thread_that_was_left_behind(held_flow):
    flow, go, worker = held_flow
    flow.stop(drain_timeout_s=0.05)
    flow.close()
    with pytest.raises(StateError, match="closed"):
        flow.add(Pass())
    go.set()
    assert worker.join(LIMIT_S), "it finds its memory as it was, and ends"


def test_what_can_drain_in_time_does(held_flow):
    flow, go, _worker = held_flow
    go.set()
    report = flow.stop()
    assert report.pipelines["source.out->slow.audio"].delivered == 9
    assert {part.state for part in report.modules.values()} == {"ended"}


@pytest.mark.parametrize("how", ["pause", "stopped"])
def test_a_process_that_does_not_stop_is_killed(how):
    """One module waits for ever; the other's process was stopped (SIGSTOP) and hears nothing."""
    with DataFlowCoordinator() as flow:
        placed = NeverDone() if how == "pause" else Pass()
        remote = flow.add(placed, name="remote", placement="process")
        pipe = flow.pipeline(flow.register_pipeline("app", "remote", PipelineConfig(buffer_size=4), MONO))
        taken = flow.connect(remote.out, "taken", buffer_size=8)
        flow.start()
        pipe.send(SILENCE)
        taken.receive(LIMIT_S)
        pid = flow.workers["remote"].pid
        if how == "stopped":
            os.kill(pid, signal.SIGSTOP)
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        for _ in range(3):
            pipe.send(SILENCE)
        report = flow.stop(drain_timeout_s=0.05)
        assert not Path(f"/proc/{pid}").exists()
        assert flow.workers["remote"].ended
    metrics = report.pipelines["app->remote.audio"]
    assert metrics.sent == 4
    assert metrics.in_flight == 0
    # Whether the first one, whose result has come, was also finished by then, is not known.
    assert set(metrics.dropped) == {"stopped"}
    assert metrics.delivered <= (0 if how == "pause" else 1)
    assert [event.worker for event in report.events if isinstance(event, WorkerUnresponsive)] == ["remote"]


# --- the coordinator dies, or is interrupted --------------------------------------------------------------------------------------

_PRELUDE = """\
import os, signal, sys, threading, time
import numpy as np
from steadyflow import *
from steadyflow.testing import Collect

MONO = AudioFormat(48_000, 1)

class Endless(Source):
    out = Output(MONO)

    def produce(self):
        for number in range(10**9):
            self.out.send(np.zeros((4, 1), np.float32))
            yield time.monotonic_ns() + 200_000

class Pass(Module):
    audio = Input(MONO)
    out = Output(like="audio")

    def process(self, audio):
        return audio

def say(*words):
    print(*words, flush=True)
"""


@pytest.fixture
def script(tmp_path):
    """Start a script of its own; its stdin stays open until the test has ended."""
    running = []

    def start(text):
        path = tmp_path / "script.py"
        path.write_text(_PRELUDE + textwrap.dedent(text))
        process = subprocess.Popen(
            [sys.executable, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=LIMIT_S)


@pytest.mark.parametrize("forked", [False, True])
def test_workers_end_with_a_killed_coordinator(script, ended_by, forked):
    fork = """
    child = os.fork()
    if child == 0:
        sys.stdin.read()  # until the test has ended; holds whatever descriptors a fork inherits
        os._exit(0)
    """
    process = script(
        f"""
flow = DataFlowCoordinator()
source, remote = flow.add(Endless()), flow.add(Pass(), name="remote", placement="process")
other = flow.add(Endless(), name="other", placement="process")
flow.connect(source.out, remote.audio, buffer_size=8)
pipe = flow.connect(remote.out, "app", buffer_size=8)
flow.connect(other.out, "nobody", buffer_size=8)
flow.start()
pipe.receive(20)
if {forked}:
{fork}
say(flow.workers["remote"].pid, flow.workers["other"].pid)
signal.pause()
"""
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2, process.stderr.read()
    watched = [ended_by(pid) for pid in pids]
    assert set(pids) <= children(process.pid)
    process.kill()
    process.wait(LIMIT_S)
    assert [ended(10) for ended in watched] == [True, True]
    with DataFlowCoordinator("next") as flow:
        flow.start()  # removes the socket that the killed one could not


def test_ctrl_c_drains_and_leaves_nothing(script, ended_by):
    process = script(
        """
class Tell(Module):
    audio = Input(MONO)

    def process(self, audio):
        if audio.sequence == 9:
            say(flow.workers["remote"].pid)

    def finish(self):
        say("finished")

flow = DataFlowCoordinator()
source, remote = flow.add(Endless(), name="source"), flow.add(Pass(), name="remote", placement="process")
tell = flow.add(Tell(), name="tell")
flow.connect(source.out, remote.audio, buffer_size=8)
flow.connect(remote.out, tell.audio, buffer_size=8)
try:
    flow.run()
except KeyboardInterrupt:
    for name, metrics in flow.report().pipelines.items():
        say(name, metrics.sent > 9, metrics.delivered == metrics.sent)
    say(*sorted(f"{name}:{part.state}" for name, part in flow.report().modules.items()))
    flow.close()
    say(threading.active_count(), len(os.listdir("/proc/self/fd")) < 12)
    raise
"""
    )
    pid = int(process.stdout.readline())
    ended = ended_by(pid)
    process.send_signal(signal.SIGINT)
    assert ended()
    out, err = process.communicate(timeout=LIMIT_S)
    assert out.splitlines() == [
        "finished",
        "source.out->remote.audio True True",
        "remote.out->tell.audio True True",
        "remote:ended source:stopped tell:ended",
        "1 True",
    ]
    assert process.returncode == -signal.SIGINT, err
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") == 1, "and nothing from the worker"


def test_ctrl_c_while_workers_are_set_up(script, ended_by):
    process = script(
        """
class NeverReady(Pass):
    def setup(self):
        say(os.getpid())
        while True:
            signal.pause()

with DataFlowCoordinator() as flow:
    source, remote = flow.add(Endless()), flow.add(NeverReady(), placement="process")
    flow.connect(source.out, remote.audio, buffer_size=8)
    flow.run()
"""
    )
    ended = ended_by(int(process.stdout.readline()))
    process.send_signal(signal.SIGINT)
    assert ended()
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == -signal.SIGINT, err
    assert err.count("Traceback") == 1


def test_a_program_that_forgets_to_stop_ends_anyway(script, ended_by):
    process = script(
        """
flow = DataFlowCoordinator()
source, remote = flow.add(Endless()), flow.add(Pass(), name="remote", placement="process")
flow.connect(source.out, remote.audio, buffer_size=8)
pipe = flow.connect(remote.out, "app", buffer_size=8)
flow.start()
pipe.receive(20)
say(flow.workers["remote"].pid)
sys.stdin.readline()
"""
    )
    ended = ended_by(int(process.stdout.readline()))
    out, err = process.communicate("\n", timeout=LIMIT_S)
    assert (process.returncode, out, err) == (0, "", "")
    assert ended()


def test_a_program_may_end_while_a_thread_receives(script):
    """The interpreter ends threads that come back to it then by force; nothing native may be in the middle of anything."""
    process = script(
        """
flow = DataFlowCoordinator()
pipe = flow.pipeline(flow.register_pipeline("a", "b", PipelineConfig(buffer_size=1), format=MONO))
receiving = threading.Event()

def receive():
    while True:
        try:
            receiving.set()
            pipe.receive(timeout_s=0.002)
        except ReceiveTimeout:
            pass

threading.Thread(target=receive, daemon=True).start()
receiving.wait(20)
import asyncio, email, xml.dom.minidom  # to end takes as long as with a real program
"""
    )
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    assert "Fatal" not in err


# --- memory ---------------------------------------------------------------------------------------------------------------------

_LITTLE_MEMORY = """
import resource

def limited(limit, bytes):
    resource.setrlimit(limit, (bytes, resource.getrlimit(limit)[1]))

# The size of any file, so of shared memory too; or what this process may map in addition to what it has.
if LIMIT == "file":
    limited(resource.RLIMIT_FSIZE, 1 << 20)
else:
    limited(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) << 12) + (32 << 20))

flow = DataFlowCoordinator()
try:
    if END == "open":
        flow.register_pipeline("app", "other", PipelineConfig(buffer_size=1000), format=BytesFormat(65_536))
    else:
        class Big(Pass):
            out = Output(AudioFormat(48_000, 1, max_block_frames=16_384))

        source, big = flow.add(Endless()), flow.add(Big(), placement="process")
        flow.connect(source.out, big.audio, buffer_size=4)
        flow.connect(big.out, "app", buffer_size=500)
        flow.start()
except MemoryError as error:
    say(type(error).__name__)
    say(error)
flow.close()
"""


@pytest.mark.parametrize("end", ["open", "module"])
@pytest.mark.parametrize("limit", ["file", "address space"])
def test_too_little_memory_says_how_much_is_needed(script, limit, end):
    process = script(f"LIMIT, END = {limit!r}, {end!r}\n{_LITTLE_MEMORY}")
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    name, message = out.splitlines()
    assert name == InsufficientMemory.__name__
    needed = int(message.partition("needed ")[2].partition(" bytes")[0])
    assert needed > 65_536 * 1000
    assert "use smaller buffer_size" in message


def test_a_flow_that_got_no_memory_leaves_others_alone():
    """The failed flow is closed; one beside it runs on."""
    with DataFlowCoordinator("good") as good, DataFlowCoordinator("greedy") as greedy:
        pipe = good.pipeline(good.register_pipeline("a", "b", PipelineConfig(buffer_size=2), BytesFormat(16)))
        with pytest.raises(InsufficientMemory, match=r"needed \d{12,} bytes"):
            _without_allocating(greedy)
        greedy.close()
        pipe.send(b"still here")
        assert pipe.receive(LIMIT_S).data == b"still here"


def _without_allocating(flow):
    # Far more than any file may have, so that nothing at all is allocated on the way to the error.
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30 if hard == resource.RLIM_INFINITY else min(hard, 1 << 30), hard))
    try:
        flow.register_pipeline("a", "b", PipelineConfig(buffer_size=65_536), BytesFormat(1 << 30))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- nothing is leaked ------------------------------------------------------------------------------------------------------------


def test_flows_that_have_ended_give_everything_back():
    """Many times what the other tests look for once."""

    def one(placement):
        with DataFlowCoordinator() as flow:
            source = flow.add(ScriptedSource(numbered(1), MONO))
            passing, collect = flow.add(Pass(), placement=placement), flow.add(Collect(), worker="other")
            flow.connect(source.out, passing.audio, buffer_size=2)
            flow.connect(passing.out, collect.data, buffer_size=2)
            flow.run()

    before = len(descriptors()), mapped_segments(), len(children())
    for placement in ["thread"] * 20 + ["process"] * 2:
        one(placement)
    gc.collect()
    assert (len(descriptors()), mapped_segments(), len(children())) == before
