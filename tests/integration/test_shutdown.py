"""The end of a program, in any order: nothing hangs, nothing stays, and the exit code is the program's own."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from steadyflow import DataFlowCoordinator

LIMIT_S = 50  # how long a program may take to end before it counts as hanging

_PRELUDE = """\
import atexit, gc, os, signal, sys, threading, time
import numpy as np
from steadyflow import *
from steadyflow.testing import Collect, ScriptedSource

MONO = AudioFormat(48_000, 1)
LARGE = AudioFormat(48_000, 1, max_block_frames=2048)

def block(value, frames=2048):
    return np.full((frames, 1), value, np.float32)

def say(*words):
    print(*words, flush=True)

class Endless(Source):
    out = Output(LARGE)

    def produce(self):
        for number in range(10**9):
            self.out.send(block(number, 1100))
            yield time.monotonic_ns() + 200_000

class Remote(Module):
    audio = Input(LARGE)
    out = Output(like="audio")

    def process(self, audio):
        return audio

def started(name="flow"):
    # A running flow with a process worker, two thread workers, and both kinds of open ends.
    flow = DataFlowCoordinator(name)
    source, remote = flow.add(Endless(), name="source"), flow.add(Remote(), name="remote", placement="process")
    flow.connect(source.out, remote.audio, buffer_size=4)
    out = flow.connect(remote.out, "app", buffer_size=4, backpressure_strategy=DropOldest())
    pipe = flow.pipeline(flow.register_pipeline("from", "to", PipelineConfig(2), LARGE))
    flow.start()
    say(flow.workers["remote"].pid)
    out.receive(20)
    return flow, out, pipe
"""


class Program:
    """A script that has been started, and whatever it started."""

    def __init__(self, process, folder, errors):
        self.process = process
        self.folder = folder
        self.errors = errors
        self.workers = []

    def watch_worker(self):
        """Note the process that the next line names."""
        pid = self.process.stdout.readline()
        assert pid, self.errors.read_text()
        self.workers.append(os.pidfd_open(int(pid)))

    def end(self):
        """Wait for its end; returns exit code, output and errors. Nothing of it may be left by then, or soon."""
        out = self.process.stdout.read()
        self.process.wait(LIMIT_S)
        err = self.errors.read_text()
        for worker in self.workers:
            assert select.select([worker], [], [], LIMIT_S)[0], "a worker lives on"
        with DataFlowCoordinator("next") as flow:
            flow.start()  # removes the socket of one that was killed
        assert list(self.folder.iterdir()) == []
        assert [path.name for path in Path("/dev/shm").iterdir() if path.name.startswith("steadyflow")] == []
        return self.process.returncode, out.splitlines(), err


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Start scripts; files that they leave behind would be in `folder`."""
    started = []
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))

    def start(text, *, before_import=""):
        path, errors = tmp_path / "script.py", tmp_path / "errors"
        path.write_text(textwrap.dedent(before_import) + _PRELUDE + textwrap.dedent(text))
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, path],
                env={**os.environ, "TMPDIR": str(folder), "XDG_RUNTIME_DIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        started.append(Program(process, folder, errors))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait(LIMIT_S)
        each.process.stdout.close()
        for worker in each.workers:
            os.close(worker)


# --- ways to end, and ways to have left the flow --------------------------------------------------------------------------------

ENDINGS = {
    "the last line": ("", 0, ""),
    "sys.exit": ("sys.exit(3)", 3, ""),
    "a message": ("sys.exit('enough')", 1, "enough\n"),
    "an exception": ("raise ValueError('mine')", 1, "ValueError: mine"),
    "os._exit": ("os._exit(4)", 4, ""),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(20)", -signal.SIGINT, "KeyboardInterrupt"),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(20)", -signal.SIGTERM, ""),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
    "abort": ("os.abort()", -signal.SIGABRT, ""),
}

LEFT = {
    "running": "flow, out, pipe = started()",
    "in a cycle": "flow, out, pipe = started(); flow.itself = [flow, out]; kept = [flow]; kept.append(kept); del flow, out, pipe",
    "out of reach": "flow, out, pipe = started(); del flow, out, pipe; gc.collect()",
    "stopped": "flow, out, pipe = started(); flow.stop(0.1)",
    "closed": "flow, out, pipe = started(); flow.close()",
    "with views and a loan": """
flow, out, pipe = started()
kept = [out.receive(20) for _ in range(6)]
kept += [pipe.loan(2048)]
samples = kept[-1].__enter__()
part = samples[3:]
kept.append(kept)
""",
    "inside of with": """
stack = __import__("contextlib").ExitStack()
flow, out, pipe = started()
stack.enter_context(flow)
""",
}


@pytest.mark.parametrize(
    ("left", "ending"),
    [
        *(("running", ending) for ending in ENDINGS),
        *((left, ending) for left in LEFT if left != "running" for ending in ("sys.exit", "an exception")),
    ],
)
def test_the_end_of_a_program(program, left, ending):
    last_line, code, error = ENDINGS[ending]
    one = program(f"{LEFT[left]}\n{last_line}\n")
    one.watch_worker()
    got, out, err = one.end()
    assert got == code, err
    assert out == []
    assert (error in err) if error else (err == ""), err
    assert err.count("Traceback") == (error in ("ValueError: mine", "KeyboardInterrupt"))


def test_several_flows_and_one_that_was_never_started(program):
    one = program(
        """
flows = [started(name) for name in ("a", "b")]
described = DataFlowCoordinator("described")
described.add(Remote(), placement="process")
pipe = described.pipeline(described.register_pipeline("x", "y", PipelineConfig(2), LARGE))
pipe.send(block(1))
sys.exit(7)
"""
    )
    one.watch_worker()
    one.watch_worker()
    assert one.end() == (7, [], "")


# --- threads that wait, work, or fail -----------------------------------------------------------------------------------------------

WAITS = {
    "receive": "pipe.receive()",
    "receive with a limit": "pipe.receive(10_000)",
    "receive again and again": "[pipe.receive(0.001) for _ in iter(int, 1)]",
    "send": "[pipe.send(block(0)) for _ in iter(int, 1)]",
    "the end of a loan": "[lend(pipe) for _ in iter(int, 1)]",
    "wait": "flow.wait()",
    "run": "run_another()",
    "start": "start_another()",
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("threads", [1, 3])
def test_daemon_threads_in_the_middle_of_a_call(program, wait, threads):
    one = program(
        f"""
flow, out, pipe = started()

def lend(pipe):
    with pipe.loan(2048) as samples:
        samples[:] = 0

def run_another():
    with DataFlowCoordinator("another") as another:
        source = another.add(Endless(), name="source")
        another.connect(source.out, another.add(Collect()).data, buffer_size=2)
        another.run()

class NeverReady(Module):
    audio = Input(LARGE)

    def setup(self):
        time.sleep(1000)

    def process(self, audio): pass

def start_another():
    another = DataFlowCoordinator("another")
    another.add(NeverReady())
    another.start()

def work():
    entered.release()
    try:
        {wait}
    except (FlowError, RuntimeError):
        pass  # the flow was closed, or no thread can be started any more

entered = threading.Semaphore(0)
for _ in range({threads}):
    threading.Thread(target=work, daemon=True).start()
for _ in range({threads}):
    entered.acquire()
for _ in range(20):
    out.receive(20)  # let them get into their calls
sys.exit(3)
"""
    )
    one.watch_worker()
    code, out, err = one.end()
    assert (code, out) == (3, []), err
    assert "Fatal" not in err


WORKS = {
    "computes": "while True: sum(range(100))",
    "sleeps": "while True: time.sleep(0.0005)",
    "sends": "while True: self.out.send(audio)",
    "lends": """
        while True:
            with self.out.loan(8) as samples:
                samples[:] = 0
""",
    "fails": "raise ValueError('mine')",
    "keeps": """
        kept.append(audio)
""",
    "exits": "sys.exit(9)",
}


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_a_module_that_is_at_work(program, work):
    """A thread that is inside of a module when the interpreter goes: it is not unwound through native code."""
    one = program(
        f"""
entered = threading.Event()
kept = []

class Works(Module):
    audio = Input(LARGE)
    out = Output(like="audio")

    def process(self, audio):
        entered.set()
        {work}

flow = DataFlowCoordinator()
source, works = flow.add(Endless(), worker="source"), flow.add(Works(), worker="works")
last = flow.add(Collect(), worker="works")
flow.connect(source.out, works.audio, buffer_size=4, backpressure_strategy=DropOldest())
flow.connect(works.out, last.data, buffer_size=4)
flow.connect(works.out, "nobody", buffer_size=4, backpressure_strategy=DropOldest())
flow.start()
assert entered.wait(20)
sys.exit(3)
"""
    )
    code, out, err = one.end()
    assert (code, out, err) == (3, [], "")


def test_an_exception_in_an_application_thread_ends_nothing_else(program):
    one = program(
        """
flow, out, pipe = started()

def breaks():
    kept = out.receive(20)
    with pipe.loan(2048) as samples:
        samples[:] = 0
        raise ValueError("mine")

thread = threading.Thread(target=breaks)
thread.start()
thread.join(20)
out.receive(20)
assert pipe.statistics().sent == 0
report = flow.stop(0.1)
flow.close()
say(flow.modules["remote"] is not None, len(report.modules))
"""
    )
    one.watch_worker()
    code, out, err = one.end()
    assert (code, out) == (0, ["True 2"])
    assert err.count("Traceback") == 1
    assert "ValueError: mine" in err


def test_a_flow_in_a_thread_outlives_the_main_thread(program):
    """Python waits for threads that are no daemons, and so does steadyflow: the flow runs to its end."""
    one = program(
        """
class AfterMain(Source):
    out = Output(MONO)

    def produce(self):
        while main.is_alive():
            yield time.monotonic_ns() + 1_000_000
        for number in range(50):
            self.out.send(block(number, 4))
            yield

def run():
    with DataFlowCoordinator() as flow:
        collect = flow.add(Collect(), worker="collect")
        flow.connect(flow.add(AfterMain()).out, collect.data, buffer_size=2)
        flow.start()  # from Python 3.12 on, no thread starts after the main one has ended
        started.set()
        flow.wait(20)
        say(len(collect.values), flow.stop().pipelines["aftermain.out->collect.data"].delivered)

main = threading.main_thread()
started = threading.Event()
threading.Thread(target=run).start()
started.wait(20)
raise ValueError("mine")
"""
    )
    code, out, err = one.end()
    assert (code, out) == (1, ["50 50"])
    assert err.count("Traceback") == 1


# --- functions that are called at the end -----------------------------------------------------------------------------------------


def test_what_is_registered_after_us_finds_the_flow_alive(program):
    one = program(
        """
flow, out, pipe = started()

@atexit.register
def last_words():
    pipe.send(block(1))
    say(pipe.receive(0).sequence, out.receive(20).frames)
    with DataFlowCoordinator() as another:
        p = another.pipeline(another.register_pipeline("a", "b", PipelineConfig(1), MONO))
        p.send(block(1, 4))
        say(p.receive(0).sequence)
    say(flow.stop(0.1).pipelines["from->to"].delivered)
    flow.close()

sys.exit(2)
"""
    )
    one.watch_worker()
    assert one.end() == (2, ["0 1100", "0", "1"], "")


def test_what_was_registered_before_us_finds_the_flow_closed(program):
    one = program(
        """
flow, out, pipe = started()
sys.exit(2)
""",
        before_import="""
import atexit

def last_words():
    for use in (lambda: pipe.send(block(1)), lambda: pipe.receive(0), lambda: pipe.loan(4), lambda: flow.run()):
        try:
            use()
        except FlowError as error:
            say(type(error).__name__)
    flow.close()
    say(flow, flow.report().pipelines["from->to"].sent)
    with DataFlowCoordinator("late") as late:
        late.connect(late.add(Remote(), placement="process").out, late.add(Collect()).data, buffer_size=2)
        try:
            late.start()
        except (FlowError, RuntimeError) as error:
            say("refused")

if __name__ == "__main__":  # and not in the worker
    atexit.register(last_words)
""",
    )
    one.watch_worker()
    assert one.end() == (
        2,
        [
            "PipelineClosed",
            "PipelineClosed",
            "PipelineClosed",
            "StateError",
            "<DataFlowCoordinator 'flow': closed, 2 modules, 3 pipelines> 0",
            "refused",
        ],
        "",
    )


def test_objects_that_use_the_flow_when_they_go(program):
    one = program(
        """
flow, out, pipe = started()

class Late:
    def __init__(self, view):
        self.view = view
        self.use = pipe.send, out.receive, pipe.loan, flow.close
        self.block = block(1)

    def __del__(self):
        assert self.view.shape == (1100, 1)
        assert (self.view == self.view[0]).all()
        for use, arguments in zip(self.use, [(self.block,), (0,), (4,), ()]):
            try:
                use(*arguments)
            except Exception:
                pass  # what it says depends on how much of the interpreter is left

late = Late(out.receive(20).samples)
late.itself = late
sys.late = Late(out.receive(20).samples)
sys.exit(2)
"""
    )
    one.watch_worker()
    code, out, err = one.end()
    assert (code, out) == (2, []), err
    assert "assert" not in err


@pytest.mark.parametrize("when", ["before the flow is closed", "while the flow is closed"])
def test_ctrl_c_at_the_end(program, when):
    """It may come before anything was told to end: processes go with the program, and threads stay where they are."""
    one = program(
        f"""
class Stuck(Module):
    audio = Input(LARGE)

    def process(self, audio):
        entered.set()
        while True:
            time.sleep(0.01)

def interrupt():
    while not flow._abort.is_set():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)

entered = threading.Event()
other, _, pipe = started("other")
flow = DataFlowCoordinator("stuck")
flow.connect(flow.add(Endless(), worker="source").out, flow.add(Stuck(), worker="stuck").audio, buffer_size=2)
flow.start()
assert entered.wait(20)
threading.Thread(target=pipe.receive, daemon=True).start()
if {when == "while the flow is closed"}:
    threading.Thread(target=interrupt, daemon=True).start()
else:
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.exit(3)
"""
    )
    one.watch_worker()
    code, out, err = one.end()
    assert (code, out) == (3, []), err
    assert "Fatal" not in err


def test_a_program_that_ends_while_workers_are_set_up(program, tmp_path):
    one = program(
        f"""
class NeverReady(Remote):
    def __init__(self, path):
        self.path = path

    def setup(self):
        with open(self.path, "w") as told:
            told.write(str(os.getpid()))
        time.sleep(1000)

flow = DataFlowCoordinator()
path = {str(tmp_path / "told")!r}
os.mkfifo(path)
flow.add(NeverReady(path), name="remote", placement="process")
threading.Thread(target=flow.start, daemon=True).start()
with open(path) as told:
    say(told.read())
sys.exit(3)
"""
    )
    one.watch_worker()
    code, out, err = one.end()
    assert (code, out) == (3, []), err
