"""fork() in the middle of a flow: the parent goes on as if nothing had happened, and the child has no part in it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

LIMIT_S = 50  # how long a script may take before it counts as hanging

_PRELUDE = """\
import gc, multiprocessing, os, signal, subprocess, sys, threading, time
import numpy as np
from steadyflow import *
from steadyflow import _native
from steadyflow.testing import Collect, ScriptedSource

MONO = AudioFormat(48_000, 1)
LARGE = AudioFormat(48_000, 1, max_block_frames=2048)

def block(value, frames=2048):
    return np.full((frames, 1), value, np.float32)

def fork(work):
    # The child's answer and its exit code.
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            answer = repr(work())
        except BaseException as problem:
            answer = f"{type(problem).__name__}: {problem}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        answer = answers.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), answer

def held(flow, pipe):
    place = flow._opened[pipe.id]
    return _native.held_buffers(place.segment, place.pool)

def open_pipe(flow, size=4, fmt=LARGE, names=("app", "reader"), rule=None):
    return flow.pipeline(flow.register_pipeline(*names, PipelineConfig(size, backpressure_strategy=rule), fmt))

def say(*words):
    print(*words, flush=True)
"""


@pytest.fixture
def run(tmp_path):
    """Run a script to its end; it must not write to stderr. Returns the lines that it said."""

    def run(text, *, code=0, errors=""):
        path = tmp_path / "script.py"
        path.write_text(_PRELUDE + textwrap.dedent(text))
        done = subprocess.run(
            # Python 3.12 warns of what is tested here: forking while threads run.
            [sys.executable, "-W", "ignore:This process:DeprecationWarning", path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert errors in done.stderr
        assert errors or not done.stderr
        return done.stdout.splitlines()

    return run


# --- the parent is unharmed ---------------------------------------------------------------------------------------------------

CHILDREN = {
    "leaves at once": "os._exit(0)",
    "exits": "sys.exit(0)",
    "lets go of everything": "del kept[:], received; flow = pipe = link = source = remote = None; gc.collect(); os._exit(0)",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "uses every end": """
        for use in (
            lambda: pipe.send(block(-1)), lambda: pipe.receive(0), lambda: link.receive(0), lambda: pipe.end(),
            lambda: pipe.flush(), lambda: pipe.loan(4), lambda: flow.stop(), lambda: flow.close(), lambda: flow.report(),
            lambda: flow.workers["remote"].kill(), lambda: flow.workers["remote"].stop(),
            lambda: flow.handle_backpressure(pipe, DropOldest()), lambda: flow.wait(), lambda: source.out.send(block(-1)),
            lambda: source.out.end(),
        ):
            try:
                use()
            except FlowError:
                pass
        os._exit(0)
    """,
}


@pytest.mark.parametrize("child", CHILDREN.values(), ids=CHILDREN)
def test_every_block_arrives_in_the_parent(run, child):
    """Thread and process workers, an end that waits in another thread, kept views: all while children come and go."""
    lines = run(
        f"""
class Numbers(Source):
    out = Output(LARGE)

    def produce(self):
        for number in range(600):
            self.out.send(block(number, 1100))
            yield

class Remote(Module):
    audio = Input(LARGE)
    out = Output(like="audio")

    def process(self, audio):
        return audio

with DataFlowCoordinator("parent") as flow:
    source = flow.add(Numbers(), name="source")
    remote = flow.add(Remote(), name="remote", placement="process")
    flow.connect(source.out, remote.audio, buffer_size=4)
    link = flow.connect(remote.out, "collector", buffer_size=4)
    pipe = open_pipe(flow, 4, names=("app", "reader"))
    collected, forked = [], []

    def collect():
        try:
            while True:
                received = link.receive(20)
                assert (received.samples == received.samples[0]).all()
                collected.append(int(received.samples[0, 0]))
        except EndOfStream:
            pass

    flow.start()
    collector = threading.Thread(target=collect)
    collector.start()
    kept, sent = [], 0
    while len(forked) < 12:
        pipe.send(block(sent))
        received = pipe.receive(0)
        if len(kept) < 3:
            kept.append((sent, received.samples))
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
{textwrap.indent(textwrap.dedent(child), " " * 12)}
        forked.append(pid)
        if len(forked) % 3 == 0:
            os.waitpid(forked[-1], 0)
        sent += 1
    for number in range(sent, sent + 20):
        pipe.send(block(number))
        received = pipe.receive(0)
        assert received.sequence == number
        assert (received.samples == number).all()
    del received
    assert all((samples == value).all() for value, samples in kept)
    say(len(kept), held(flow, pipe))
    del kept
    say(held(flow, pipe))
    collector.join(20)
    report = flow.stop()
    say(collected == list(range(600)), [metrics.in_flight for metrics in report.pipelines.values()])
    say({{name: module.state for name, module in report.modules.items()}})
"""
    )
    assert lines == ["3 3", "0", "True [0, 0, 0]", "{'source': 'ended', 'remote': 'ended'}"]


@pytest.mark.parametrize("how", ["process", "pool"])
def test_multiprocessing_forks(run, how):
    work = {
        "process": """
            process = context.Process(target=child, args=(received,))
            process.start()
            process.join(20)
            assert process.exitcode == 0, process.exitcode
        """,
        "pool": """
            with context.Pool(2) as pool:
                assert pool.map(abs, range(-20, 0)) == list(range(20, 0, -1))
                pool.close()
                pool.join()
        """,
    }[how]
    lines = run(
        f"""
def child(received):
    assert (received.samples == received.sequence).all()
    try:
        pipe.send(block(0))
    except PipelineClosed:
        del received
        gc.collect()
        sys.exit(0)

context = multiprocessing.get_context("fork")
if __name__ == "__main__":
    with DataFlowCoordinator() as flow:
        pipe = open_pipe(flow, 2)
        for number in range(6):
            pipe.send(block(number))
            received = pipe.receive(0)
{textwrap.indent(textwrap.dedent(work), " " * 12)}
            assert held(flow, pipe) == 1
            assert (received.samples == number).all()
        say(flow.pipeline(pipe).statistics().delivered)
"""
    )
    assert lines == ["6"]


def test_wake_ups_of_the_parent_are_not_taken(run):
    """Children that live on hold no end of any bell: a paced receiver in the parent is woken for each block."""
    lines = run(
        """
with DataFlowCoordinator() as flow:
    pipe = open_pipe(flow, 4, MONO)
    got = []
    stop = threading.Event()

    def receive():
        for _ in range(300):
            got.append(pipe.receive(20).sequence)

    receiver = threading.Thread(target=receive)
    receiver.start()
    reader, writer = os.pipe()
    for _ in range(3):
        if os.fork() == 0:
            signal.alarm(40)
            os.close(writer)
            try:
                pipe.receive(0)
            except PipelineClosed:
                os.read(reader, 1)  # until the parent is done
            os._exit(0)
    for number in range(300):
        while len(got) < number:
            time.sleep(0)  # let the receiver fall asleep between two blocks
        pipe.send(block(number, 4))
    receiver.join(20)
    say(got == list(range(300)))
    os.close(writer)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
"""
    )
    assert lines == ["True"]


def test_many_forks_while_other_threads_work(run):
    """Whatever another thread has in its hands at the moment of the fork: both sides go on."""
    lines = run(
        """
with DataFlowCoordinator() as flow:
    pipes = [open_pipe(flow, 4, names=(f"app{number}", f"reader{number}"), rule=DropOldest()) for number in range(3)]
    stop = threading.Event()
    counts = [0, 0, 0]

    def work(number):
        pipe = pipes[number]
        kept = []
        while not stop.is_set():
            with pipe.loan(2048) as samples:
                samples[:] = counts[number]
            kept = [*kept[-2:], pipe.receive(20).samples]
            assert (kept[-1] == counts[number]).all()
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    answers = set()
    for _ in range(60):
        def child():
            with DataFlowCoordinator() as own:
                pipe = open_pipe(own, 2)
                with pipe.loan(2048) as samples:
                    samples[:] = 3
                assert (pipe.receive(0).samples == 3).all()
            gc.collect()
            for inherited in pipes:
                try:
                    inherited.send(block(0))
                    return "sent"
                except PipelineClosed:
                    pass
            return "refused"
        answers.add(fork(child))
    stop.set()
    for thread in threads:
        thread.join(20)
    say(answers, min(counts) > 0)
    for pipe, count in zip(pipes, counts):
        assert pipe.statistics().delivered == count == pipe.statistics().sent
        assert pipe.statistics().loan_copies == 0
"""
    )
    assert lines == ["{(0, \"'refused'\")} True"]


# --- the child is detached ------------------------------------------------------------------------------------------------------

REFUSED = {
    "pipe.send(block(0))": "PipelineClosed: app->reader: this process was forked",
    "pipe.receive(0)": "PipelineClosed: app->reader: this process was forked",
    "pipe.loan(4)": "PipelineClosed: app->reader: this process was forked",
    "pipe.flush()": "PipelineClosed: app->reader: this process was forked",
    "pipe.end()": "PipelineClosed: app->reader: this process was forked",
    "pipe.statistics()": "PipelineClosed: app->reader: this process was forked",
    "link.receive(0)": "PipelineClosed: source.out->collector: this process was forked",
    "bound_send(block(0))": "PipelineClosed: app->reader: this process was forked",
    "bound_receive(0)": "PipelineClosed: receive: this process was forked",
    "bound_loan(4)": "PipelineClosed: app->reader: this process was forked",
    "entered.__exit__(None, None, None)": "PipelineClosed: app->reader: this process was forked",
    "source.out.send(block(0, 4))": "PipelineClosed: source.out: this process was forked",
    "source.out.loan(4)": "PipelineClosed: source.out: this process was forked",
    "pipe.pause()": "PipelineClosed: app->reader: this process was forked",
    "flow.run()": "StateError: flow 'parent': cannot start here: this process was forked",
    "flow.start()": "StateError: flow 'parent': cannot start here: this process was forked",
    "flow.wait()": "StateError: flow 'parent': cannot wait here: this process was forked",
    "flow.stop()": "StateError: flow 'parent': cannot stop here: this process was forked",
    "flow.report()": "StateError: flow 'parent': cannot report here: this process was forked",
    "flow.close()": "None",
    "flow.add(Collect())": "StateError: flow 'parent': cannot add a module here: this process was forked",
    "flow.connect('a', 'b', buffer_size=1)": "StateError: flow 'parent': cannot register a pipeline here",
    "flow.send_data(pipe, block(0))": "PipelineClosed: app->reader: this process was forked",
    "flow.get_flow_metrics(pipe)": "PipelineClosed: app->reader: this process was forked",
    "flow.handle_backpressure(pipe, Fail())": "StateError: flow 'parent': cannot switch a rule here",
    "flow.workers['main'].state": "'running'",
    "flow": "<DataFlowCoordinator 'parent': forked, 1 modules, 2 pipelines>",
    "pipe": "<Pipeline app->reader: audio 48000 Hz, 1 channel, f32, interleaved>",
    "ring.counters()": "StateError: this process was forked",
    "ring.histograms()": "StateError: this process was forked",
    "ring.flush()": "StateError: this process was forked",
    "ring.pause()": "StateError: this process was forked",
    "ring.set_ended()": "StateError: this process was forked",
    "ring.reap(0)": "StateError: this process was forked",
    "inbox.serve(0, 1)": "PipelineClosed: serve: this process was forked",
    "segment.descriptor": "StateError: this process was forked",
    "segment.bell_descriptors(place.producer_bell)": "StateError: this process was forked",
    "_native.Ring(segment, place.ring, pipe.id)": "StateError: this process was forked",
    "_native.ring_bell(segment, place.producer_bell, 0)": "StateError: this process was forked",
    "_native.held_buffers(segment, place.pool)": "StateError: this process was forked",
    "_native.release_process(segment, place.pool, 0, pipe.id)": "StateError: this process was forked",
}


def test_every_end_refuses(run):
    lines = run(
        f"""
class Endless(Source):
    out = Output(MONO)

    def produce(self):
        while True:
            self.out.send(block(1, 4))
            yield

with DataFlowCoordinator("parent") as flow:
    source = flow.add(Endless(), name="source")
    link = flow.connect(source.out, "collector", buffer_size=4, backpressure_strategy=DropOldest())
    pipe = open_pipe(flow)
    flow.start()
    link.receive(20)
    place = flow._opened[pipe.id]
    segment, ring, inbox = place.segment, pipe._rings[0], pipe._inbox
    bound_send, bound_receive, bound_loan = pipe.send, pipe.receive, pipe.loan
    entered = pipe.loan(4)
    entered.__enter__()
    for action in {list(REFUSED)!r}:
        code, answer = fork(lambda: eval(action))
        say(code, answer)
    link.receive(20)
    pipe.send(block(1))
    assert pipe.receive(0).sequence == 0
"""
    )
    assert len(lines) == len(REFUSED)
    for (action, expected), line in zip(REFUSED.items(), lines, strict=True):
        assert line.startswith(f"0 {expected}"), f"{action}: {line}"
        if "Closed" in line or "StateError" in line:
            assert "a flow of its own here" in line


def test_what_the_child_saw_stays_as_it_was(run):
    """A view that a child inherits is its own copy from then on, whatever becomes of the buffer in the parent."""
    lines = run(
        """
with DataFlowCoordinator() as flow:
    pipe = open_pipe(flow, 2)
    ready, child_ready = os.pipe(), os.pipe()
    pipe.send(block(1))
    pipe.send(block(2))
    views = [pipe.receive(0), pipe.receive(0).samples[5:90]]
    loan = pipe.loan(2048)
    lent = loan.__enter__()
    lent[:] = 3
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        os.read(ready[0], 1)  # until the parent has used every buffer again
        right = (views[0].samples == 1).all() and (views[1] == 2).all() and (lent == 3).all()
        lent[:] = 9
        views.clear()
        gc.collect()
        os._exit(7 if right else 1)
    del views
    loan.__exit__(None, None, None)
    del lent
    for number in range(20):
        if number:
            pipe.send(block(100 + number))
        assert (pipe.receive(0).samples == (3 if number == 0 else 100 + number)).all()
    os.write(ready[1], b"x")
    say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), held(flow, pipe), pipe.statistics().loan_copies)
"""
    )
    assert lines == ["7 0 0"]


def test_the_child_has_no_memory_and_no_descriptor_of_the_flow(run):
    lines = run(
        """
class Remote(Module):
    audio = Input(LARGE)
    def process(self, audio): pass

def descriptors():
    folder = "/proc/self/fd/"
    # The one that lists the folder is gone by then.
    return [os.readlink(folder + name) for name in os.listdir(folder) if os.path.islink(folder + name)]

def of_flows():
    with open("/proc/self/maps") as maps:
        shared = sum("memfd:steadyflow" in line for line in maps)
    return shared, sum("socket:" in each or "memfd" in each for each in descriptors())

with DataFlowCoordinator() as flow:
    pipes = sum("pipe:" in each for each in descriptors())
    remote = flow.add(Remote(), name="remote", placement="process")
    pipe = open_pipe(flow, 4, names=("app", "remote.audio"))
    flow.start()
    say(of_flows()[0] > 0, of_flows()[1] > 0)
    # The pipe on which the child answers is open in it, with both ends.
    say(*fork(lambda: (of_flows(), sum("pipe:" in each for each in descriptors()) - pipes)))
    for close_fds in (True, False):
        listing = subprocess.run(
            [sys.executable, "-c", "import os; print(*[os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')"
             " if n not in '012' and os.path.islink(f'/proc/self/fd/{n}')])"],
            close_fds=close_fds, capture_output=True, text=True)
        say(listing.stdout.count("memfd"), listing.stdout.count("socket"), listing.stdout.count("pipe"))
    flow.stop()
"""
    )
    assert lines == ["True True", "0 ((0, 0), 2)", "0 0 0", "0 0 0"]


def test_a_child_has_flows_of_its_own(run):
    """Also with workers, also grandchildren, and also where the parent's flow was only described so far."""
    lines = run(
        """
class Twice(Module):
    audio = Input(MONO)
    out = Output(like="audio")

    def process(self, audio):
        return audio.samples * 2

def run_flow(described=None):
    with described or DataFlowCoordinator("own") as flow:
        if described is None:
            describe(flow)
        report = flow.run()
        return [int(each[0, 0]) for each in flow.modules["collect"].values], report.pipelines["twice.out->collect.data"].delivered

def describe(flow):
    source = flow.add(ScriptedSource([block(number, 4) for number in range(3)], MONO), name="source")
    twice = flow.add(Twice(), name="twice", placement="process")
    collect = flow.add(Collect(), name="collect")
    flow.connect(source.out, twice.audio, buffer_size=2)
    flow.connect(twice.out, collect.data, buffer_size=2)

described = DataFlowCoordinator("described")
describe(described)
with DataFlowCoordinator("parent") as flow:
    pipe = open_pipe(flow)
    pipe.send(block(1))
    say(*fork(run_flow))
    say(*fork(lambda: fork(run_flow)))
    say(*fork(lambda: run_flow(described)))
    say(run_flow(described))
    say(run_flow())
    say(pipe.receive(0).sequence)
"""
    )
    own = "([0, 2, 4], 3)"
    assert lines == [f"0 {own}", f"0 (0, {own!r})", f"0 {own}", own, own, "0"]


@pytest.mark.parametrize("ending", ["sys.exit(5)", "raise SystemExit(5)"])
def test_a_child_ends_as_any_program(run, ending):
    """With all that Python does at its end; it waits for nobody."""
    lines = run(
        f"""
flow = DataFlowCoordinator()
pipe = open_pipe(flow)
pipe.send(block(1))
received = pipe.receive(0)
waits = threading.Thread(target=lambda: say(pipe.receive(20).sequence))
waits.start()
while not threading.active_count() == 2:
    pass
began = time.monotonic()
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    {ending}
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
say(code, held(flow, pipe))
pipe.send(block(2))
waits.join(20)
flow.close()
"""
    )
    assert lines == ["5 1", "1"]


# --- modules that fork ------------------------------------------------------------------------------------------------------------

_FORKING = """
class Forks(Module):
    audio = Input(LARGE)
    out = Output(like="audio")

    def process(self, audio):
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            {child}
        os.waitpid(child, 0)
        return audio

    def teardown(self):
        say("teardown")

with DataFlowCoordinator() as flow:
    source = flow.add(ScriptedSource([block(number, 1100) for number in range(5)], LARGE), worker="source")
    forks = flow.add(Forks(), name="forks", placement={placement!r}, worker="forks")
    collect = flow.add(Collect(), name="collect")
    flow.connect(source.out, forks.audio, buffer_size=2)
    flow.connect(forks.out, collect.data, buffer_size=2)
    report = flow.run()
    say([int(each[0, 0]) for each in collect.values])
    say([(metrics.sent, metrics.delivered, metrics.in_flight) for metrics in report.pipelines.values()])
    say({{name: module.state for name, module in report.modules.items()}})
"""


@pytest.mark.parametrize("placement", ["thread", "process"])
@pytest.mark.parametrize(
    ("child", "complaint"),
    [
        ("os._exit(0)", ""),
        ("self.out.send(audio)", "this process was forked"),
        ("return audio", "this process was forked"),
        ("raise ValueError('mine')", "mine"),
    ],
)
def test_a_module_that_forks(run, placement, child, complaint):
    """A child that comes back from process() ends with a complaint, and disturbs nobody: no result, no end, no teardown."""
    lines = run(_FORKING.format(child=child, placement=placement), errors=complaint)
    assert lines == [
        "teardown",
        "[0, 1, 2, 3, 4]",
        "[(5, 5, 0), (5, 5, 0)]",
        "{'scriptedsource': 'ended', 'forks': 'ended', 'collect': 'ended'}",
    ]


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_a_source_that_forks(run, placement):
    lines = run(
        f"""
class Forks(Source):
    out = Output(LARGE)

    def produce(self):
        try:
            for number in range(4):
                child = os.fork()
                if child:
                    os.waitpid(child, 0)
                else:
                    signal.alarm(30)
                self.out.send(block(number, 1100))
                yield
        finally:
            say("closed")

with DataFlowCoordinator() as flow:
    forks = flow.add(Forks(), name="forks", placement={placement!r})
    collect = flow.add(Collect(), name="collect", worker="collect")
    flow.connect(forks.out, collect.data, buffer_size=2)
    flow.run()
    say([int(each[0, 0]) for each in collect.values])
""",
        errors="this process was forked",
    )
    # Each child unwinds its own generator, as Python does; but it reaches no consumer.
    assert lines == ["closed"] * 5 + ["[0, 1, 2, 3]"]


def test_a_worker_process_whose_module_uses_a_pool(run):
    lines = run(
        """
class Pools(Module):
    audio = Input(LARGE)
    out = Output(like="audio")

    def setup(self):
        self.pool = multiprocessing.get_context("fork").Pool(2)

    def process(self, audio):
        assert self.pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
        return audio

    def teardown(self):
        self.pool.close()
        self.pool.join()

if __name__ == "__main__":
    with DataFlowCoordinator() as flow:
        source = flow.add(ScriptedSource([block(number) for number in range(8)], LARGE))
        pools = flow.add(Pools(), name="pools", placement="process")
        collect = flow.add(Collect())
        flow.connect(source.out, pools.audio, buffer_size=2)
        flow.connect(pools.out, collect.data, buffer_size=2)
        flow.run()
        say([int(each[0, 0]) for each in collect.values])
"""
    )
    assert lines == ["[0, 1, 2, 3, 4, 5, 6, 7]"]
