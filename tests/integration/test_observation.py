"""Observing a flow from another process: right numbers, read-only memory, and a flow that does not care."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import mmap
import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import msgspec
import numpy as np
import pytest

from steadyflow import (
    AudioFormat,
    DataFlowCoordinator,
    ObservationFailed,
    Output,
    PipelineConfig,
    Source,
    _native,
    observable_flows,
    observe,
)
from steadyflow.errors import (
    ConfigurationError,
    CorruptedSegment,
    FlowFailed,
    FlowNotRunning,
    StateError,
    SystemShortage,
    UnknownName,
)
from steadyflow.events import DataFlowStopped, ObservationUnavailable
from steadyflow.observation import Observation
from steadyflow.runtime.channel import Abort, Channel, Observed, Refused
from steadyflow.runtime.flow_description import DeviceDescription, FlowDescription, PipelineDescription
from steadyflow.runtime.observers import MAX_OBSERVERS
from steadyflow.runtime.wiring import Place
from steadyflow.testing import Collect

MONO = AudioFormat(48_000, 1)
SAMPLES = np.zeros((32, 1), np.float32)
LIMIT_S = 30
PIPELINE = "faucet.out->basin.data"


class Faucet(Source):
    """Sends as many blocks as its pipeline is asked for, one for each call of `let`."""

    out = Output(MONO)

    def __init__(self) -> None:
        self.wanted = threading.Semaphore(0)
        self.ended = False
        self.broken = False

    def let(self, blocks: int) -> None:
        for _ in range(blocks):
            self.wanted.release()

    def produce(self):
        while not self.ended:
            if self.broken:
                raise RuntimeError("the tap is off")
            if self.wanted.acquire(blocking=False):
                self.out.send(SAMPLES)
                yield
            else:
                yield _native.monotonic_ns() + 1_000_000


@pytest.fixture(autouse=True)
def runtime_folder(tmp_path, monkeypatch):
    """The sockets of this test only."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "steadyflow"


@contextlib.contextmanager
def running(name="flow"):
    with DataFlowCoordinator(name) as flow:
        faucet = flow.add(Faucet(), name="faucet")
        basin = flow.add(Collect(), name="basin", worker="other")
        flow.connect(faucet.out, basin.data, buffer_size=8, max_latency_ms=50.0, priority="high")
        flow.start()
        yield flow, faucet


def until(condition):
    """Wait for something that another thread or process is about to do."""
    deadline = _native.monotonic_ns() + LIMIT_S * 1_000_000_000
    while not condition():
        assert _native.monotonic_ns() < deadline, "it did not happen"
        os.sched_yield()


def sockets(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def another_process(code, **options):
    """Start a program that observes; it can say `tell(text)`, and wait for a line from here by `hear()`."""
    head = """
        import os, sys, steadyflow
        def tell(text): print(text, flush=True)
        def hear(): return sys.stdin.readline().strip()
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


# --- what is seen ---------------------------------------------------------------------------------------------------------


def test_another_process_sees_the_right_numbers():
    with (
        running("notes") as (flow, faucet),
        another_process(f"""
            with steadyflow.observe("notes") as observation:
                pipeline = observation.pipelines[{PIPELINE!r}]
                tell(pipeline.statistics().delivered)
                hear()
                metrics = pipeline.statistics()
                tell((metrics.sent, metrics.delivered, metrics.in_flight, metrics.bytes, metrics.latency_p50_ms > 0))
                tell((observation.ended, repr(observation)))
                hear()
                tell((observation.ended, pipeline.statistics().sent, repr(pipeline)))
        """) as other,
    ):
        assert other.stdout.readline() == "0\n"
        faucet.let(100)
        until(lambda: flow.get_flow_metrics(PIPELINE).delivered == 100)
        other.stdin.write("go on\n")
        other.stdin.flush()
        assert eval(other.stdout.readline()) == (100, 100, 0, 100 * SAMPLES.nbytes, True)
        shown = f"<Observation of 'notes' (pid {os.getpid()}): running, 1 pipelines>"
        assert eval(other.stdout.readline()) == (False, shown)
        faucet.let(3)
        until(lambda: flow.get_flow_metrics(PIPELINE).delivered == 103)
        report = flow.stop()
        other.communicate("go on\n")
    assert report.pipelines[PIPELINE].sent == 103
    assert other.returncode == 0


def test_what_was_counted_last_can_be_read_after_the_end():
    with running() as (flow, faucet):
        observation = observe("flow")
        assert not observation.ended
        faucet.let(7)
        until(lambda: flow.get_flow_metrics(PIPELINE).delivered == 7)
        flow.stop()
        until(lambda: observation.ended)
    metrics = observation.pipelines[PIPELINE].statistics()
    later = observation.pipelines[PIPELINE].statistics()

    assert (metrics.sent, metrics.delivered) == (7, 7)
    assert later == metrics  # the throughput too: its clock stands still
    observation.close()
    observation.close()
    assert observation.ended
    with pytest.raises(StateError, match="this observation has been closed"):
        observation.pipelines[PIPELINE].statistics()


@pytest.mark.parametrize(("how", "failed"), [("ended", False), ("broken", True)])
def test_a_flow_that_ends_by_itself_ends_its_observations(runtime_folder, how, failed):
    """Although its own program waits for nothing, and asks for nothing."""
    with running() as (flow, faucet), observe() as observation:
        faucet.let(3)
        until(lambda: flow.get_flow_metrics(PIPELINE).delivered == 3)
        assert not observation.ended
        setattr(faucet, how, True)
        assert observation.wait(LIMIT_S)
        assert observable_flows() == []
        assert sockets(runtime_folder) == []
        assert observation.pipelines[PIPELINE].statistics().delivered == 3

        stopped = [each for each in flow.report().events if isinstance(each, DataFlowStopped)]
        assert [each.failed for each in stopped] == [failed]
        until(lambda: flow.report().duration_s == flow.report().duration_s)  # the clock stands still
        with contextlib.suppress(FlowFailed):
            flow.stop()


def test_the_description():
    with running("describe me") as (flow, _), observe() as observation:
        pid = flow.register_pipeline("app", "ears", PipelineConfig(buffer_size=4), format=MONO)
        flow.send_data(pid, SAMPLES)
        description = observation.description
        (pipeline,) = description.pipelines
        with observe() as later:
            assert list(later.pipelines) == [PIPELINE, pid]
            assert later.pipelines[pid].statistics().in_flight == 1
            assert later.description.segments == 2

    assert (description.flow, description.pid) == ("describe me", os.getpid())
    assert 0 < description.started_ns <= _native.monotonic_ns()
    assert (pipeline.id, pipeline.source, pipeline.target) == (PIPELINE, "faucet.out", "basin.data")
    assert (pipeline.buffer_size, pipeline.max_latency_ms, pipeline.priority) == (8, 50.0, "high")
    assert pipeline.format == str(MONO)
    assert pipeline.rule.startswith("Wait(")
    assert {worker.name: (worker.pid, worker.state, worker.modules) for worker in description.workers} == {
        "main": (os.getpid(), "running", {"faucet": "Faucet"}),
        "other": (os.getpid(), "running", {"basin": "Collect"}),
    }


# --- read only ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def received():
    """The descriptor that an observer gets, in the hands of somebody who wants to write."""
    with running() as (flow, _):
        (found,) = observable_flows()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(found.path))
            channel = Channel(connection)
            assert isinstance(channel.receive(), Observed)
            (descriptor,) = channel.take_descriptors()
            yield descriptor
            os.close(descriptor)
        assert flow.get_flow_metrics(PIPELINE).sent == 0


def test_the_system_refuses_every_way_to_write(received):
    size = os.fstat(received).st_size
    with pytest.raises(PermissionError):
        mmap.mmap(received, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    for write in (
        lambda: os.pwrite(received, b"x", 0),
        lambda: os.ftruncate(received, 0),
        lambda: os.posix_fallocate(received, 0, 2 * size),
    ):
        with pytest.raises(OSError) as refusal:
            write()
        assert refusal.value.errno in (errno.EBADF, errno.EINVAL, errno.EPERM)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    arguments = (None, ctypes.c_size_t(size), mmap.PROT_READ, mmap.MAP_SHARED, received, ctypes.c_long(0))
    address = ctypes.c_void_p(libc.mmap(*arguments))
    assert libc.mprotect(address, ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_WRITE) == -1
    assert ctypes.get_errno() == errno.EACCES
    libc.munmap(address, ctypes.c_size_t(size))


def test_what_would_write_is_a_state_error(received):
    owner = os.dup(received)
    segment = _native.Segment.attach(owner, False)
    with observe() as observation:
        offset = observation.description.pipelines[0].rings[0].offset
    ring = _native.Ring(segment, offset, PIPELINE)
    output, inbox_segment = _native.OutputCore(), _native.Segment.create(4096)
    inbox_segment.create_bell(64)
    inbox = _native.Inbox(inbox_segment, 64, 0, _native.AbortFlag())
    spec = _native.PayloadSpec(1, "<f4", 1, False, False, 32, [], 4096)
    target = _native.Target(PIPELINE, spec, None, None, None, None, None, None, 0)
    segment.attach_bell(64, *os.pipe())

    assert not segment.writable
    assert ring.segment is segment
    assert ring.counters()["sent"] == 0
    assert ring.histograms()["latency"][1] == 0
    for write in (
        lambda: ring.set_rule(1, 0, 0),
        ring.set_ended,
        ring.set_abandoned,
        lambda: ring.reap(0),
        lambda: ring.abandon(4),
        lambda: _native.create_ring(segment, offset, 8, 10, 1, 0, 0, 0, 0),
        lambda: _native.create_pool(segment, 64, 1, 64),
        lambda: segment.create_bell(64),
        lambda: _native.ring_bell(segment, 64, 0),
        lambda: _native.release_process(segment, 64, 0, PIPELINE),
        lambda: _native.take_over(segment, 64, [offset], [PIPELINE]),
        lambda: output.set_pool(segment, 64, PIPELINE),
        lambda: output.set_bell(segment, 64),
        lambda: output.add_fused(target, segment, offset, inbox),
        lambda: _native.Inbox(segment, 64, 0, _native.AbortFlag()),
        lambda: inbox.add_input(segment, offset, 64, segment, 64, 0, 0, target, None, None),
        lambda: inbox.add_input(segment, offset, 64, None, 0, 0, 0, target, None, None),
    ):
        with pytest.raises((StateError, CorruptedSegment)) as refusal:
            write()
        # A pool is looked for before it is written to, and there is none at that place.
        assert "read-only" in str(refusal.value) or "no buffer pool" in str(refusal.value)


def test_rings_are_refused_by_both_of_their_ends(received):
    segment = _native.Segment.attach(os.dup(received), False)
    mine = _native.Segment.create(1 << 20)
    mine.create_bell(64)
    _native.create_pool(mine, 128, 16, 64)
    with observe() as observation:
        offset = observation.description.pipelines[0].rings[0].offset
    output = _native.OutputCore()
    output.set_pool(mine, 128, PIPELINE)

    with pytest.raises(StateError, match="send into a ring: this mapping is read-only"):
        output.add_ring(PIPELINE, segment, offset, mine, 64, 0)


def test_a_damaged_place_names_the_pipeline():
    with running() as (_, _), observe() as observation:
        segment = _native.Segment.create(4096)
        with pytest.raises(CorruptedSegment, match=r"^pipeline 'a->b': no ring at offset 64$") as damage:
            _native.Ring(segment, 64, "a->b")
        assert (damage.value.pipeline, damage.value.problem) == ("a->b", "no ring at offset 64")
        assert observation.pipelines


def test_nobody_can_open_it_anew_for_writing():
    """In a process that is not root, who may open whatever it likes."""
    code = """
        import tempfile
        from steadyflow.runtime import channel, execution, flow_description, observers, open_ends, socket_folder
        os.environ["XDG_RUNTIME_DIR"] = folder = tempfile.mkdtemp()
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        with steadyflow.DataFlowCoordinator("mine") as flow:
            audio = steadyflow.AudioFormat(48_000, 1)
            flow.register_pipeline("app", "ears", steadyflow.PipelineConfig(buffer_size=4), format=audio)
            flow.start()
            with steadyflow.observe("mine"):
                for name in os.listdir("/proc/self/fd"):
                    link = f"/proc/self/fd/{name}"
                    if os.path.islink(link) and "memfd:steadyflow" in os.readlink(link):
                        try:
                            os.open(link, os.O_RDWR)
                        except PermissionError:
                            tell("refused")
                        else:
                            tell("opened")
        os.rmdir(folder)
    """
    with another_process(code) as other:
        said = other.communicate()[0].split()
    assert set(said) == {"refused"}
    assert other.returncode == 0


# --- the flow does not care -----------------------------------------------------------------------------------------------


def test_a_killed_observer_harms_nothing():
    with running() as (flow, faucet):
        with another_process(f"""
            observation = steadyflow.observe("flow")
            tell(observation.pipelines[{PIPELINE!r}].statistics().sent)
            hear()
        """) as other:
            other.stdout.readline()
            faucet.let(10)
            other.send_signal(signal.SIGKILL)
            other.wait(LIMIT_S)
        faucet.let(10)
        until(lambda: flow.get_flow_metrics(PIPELINE).delivered == 20)
        with observe() as again:
            assert again.pipelines[PIPELINE].statistics().delivered == 20
        assert flow.stop().pipelines[PIPELINE].delivered == 20


def test_as_many_observers_as_there_are_places():
    with running() as (_, _):
        observations = [observe() for _ in range(MAX_OBSERVERS)]
        with pytest.raises(ObservationFailed, match=f"has {MAX_OBSERVERS} observers"):
            observe()
        # Whoever goes makes room.
        observations.pop().close()
        observations.append(observe())
        assert all(not each.ended for each in observations)
        for each in observations:
            each.close()


def test_whoever_talks_or_only_connects_is_sent_away(runtime_folder):
    with running() as (flow, faucet):
        (name,) = sockets(runtime_folder)
        with contextlib.ExitStack() as clients:
            for number in range(2 * MAX_OBSERVERS):
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(str(runtime_folder / name))  # waits while so many others do
                if number % 2:
                    client.sendall(b"\xff" * 1000)
                else:
                    client.close()
            faucet.let(5)
            until(lambda: flow.get_flow_metrics(PIPELINE).delivered == 5)
        with observe() as observation:
            assert observation.pipelines[PIPELINE].statistics().delivered == 5


def test_a_flow_that_cannot_be_described_says_so_to_everybody(runtime_folder):
    """Its name is no text that can be sent: a defect, as any in the description would be."""
    with running("half a \ud83c") as (flow, faucet):
        (found,) = observable_flows()
        for _ in range(3):
            with pytest.raises(ObservationFailed, match="the flow cannot be handed out: UnicodeEncodeError: "):
                observe(path=found.path)
        faucet.let(5)
        until(lambda: flow.get_flow_metrics(PIPELINE).delivered == 5)
        assert len(sockets(runtime_folder)) == 1


def test_a_defect_of_the_description_passes(monkeypatch):
    def fail(*_):
        raise KeyError("pitch")

    with running() as (_, _):
        with monkeypatch.context() as broken:
            broken.setattr("steadyflow.runtime.flow_description.describe_flow", fail)
            with pytest.raises(ObservationFailed, match="the flow cannot be handed out: KeyError: 'pitch'"):
                observe()
        with observe() as observation:
            assert list(observation.pipelines) == [PIPELINE]


def test_a_flow_of_more_segments_than_can_be_sent(monkeypatch):
    monkeypatch.setattr("steadyflow.runtime.observers.MAX_DESCRIPTORS", 1)
    with running() as (flow, _):
        observe().close()
        flow.register_pipeline("app", "ears", PipelineConfig(buffer_size=4), format=MONO)
        with pytest.raises(ObservationFailed, match="its memory lies in 2 segments"):
            observe()


LONG = "n" * 500_000


def test_an_answer_larger_than_a_socket_holds():
    with running() as (flow, _):
        pid = flow.register_pipeline("app", LONG, PipelineConfig(buffer_size=4), format=MONO)
        with observe() as observation:
            assert observation.pipelines[pid].description.target == LONG


def is_hung_up(connection):
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))


def test_whoever_does_not_read_a_large_answer_is_sent_away(runtime_folder, monkeypatch):
    monkeypatch.setattr("steadyflow.runtime.observers._SEND_TIMEOUT_S", 0.05)
    with running() as (flow, _), contextlib.ExitStack() as clients:
        flow.register_pipeline("app", LONG, PipelineConfig(buffer_size=4), format=MONO)
        (name,) = sockets(runtime_folder)
        for number in range(6):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(LIMIT_S)
            client.connect(str(runtime_folder / name))
            if number % 2:
                client.recv(100_000)
                client.close()  # in the middle of it
            else:
                until(lambda client=client: is_hung_up(client))
        monkeypatch.setattr("steadyflow.runtime.observers._SEND_TIMEOUT_S", LIMIT_S)
        with observe(timeout_s=LIMIT_S) as observation:
            assert len(observation.pipelines) == 2


def test_somebody_else_is_refused(runtime_folder):
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    code = """
        import socket
        from steadyflow.runtime.channel import Channel
        connection = socket.socket(socket.AF_UNIX)
        os.setresuid(65534, 65534, 65534)
        try:
            connection.connect(hear())
        except PermissionError:
            tell("no way in")
        else:
            tell(repr(Channel(connection).receive()))
    """
    with running() as (_, _):
        (name,) = sockets(runtime_folder)

        def ask():
            with another_process(code) as other:
                return other.communicate(f"{runtime_folder / name}\n")[0]

        assert ask() == "no way in\n"
        # Where the modes of folder and socket let him through, his user does not.
        for folder in (runtime_folder, *runtime_folder.parents):
            if folder.stat().st_uid == 0 and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o055)
        (runtime_folder / name).chmod(0o666)
        assert "only user 0 may observe this flow" in ask()


def test_the_end_of_the_process_ends_the_observation(runtime_folder):
    with another_process("""
        flow = steadyflow.DataFlowCoordinator("short")
        flow.register_pipeline("app", "ears", steadyflow.PipelineConfig(buffer_size=4), format=steadyflow.AudioFormat(48_000, 1))
        flow.start()
        tell("started")
        if hear() == "killed": os.kill(os.getpid(), 9)
    """) as other:
        assert other.stdout.readline() == "started\n"
        with observe("short") as observation:
            other.communicate("killed\n")
            until(lambda: observation.ended)
            assert observation.pipelines["app->ears"].statistics().sent == 0
    assert len(sockets(runtime_folder)) == 1  # nobody was left to remove it
    assert observable_flows() == []
    with pytest.raises(FlowNotRunning, match="expected a running flow"):
        observe(path=runtime_folder / sockets(runtime_folder)[0])
    with running() as (_, _):
        assert [name.partition("-")[0] for name in sockets(runtime_folder)] == ["flow"]


def test_a_program_that_ends_without_closing_leaves_no_socket(runtime_folder):
    with another_process("""
        flow = steadyflow.DataFlowCoordinator("left open")
        flow.start()
        tell(len(steadyflow.observable_flows()))
    """) as other:
        assert other.communicate() == ("1\n", None)
    assert other.returncode == 0
    assert sockets(runtime_folder) == []


def test_a_flow_that_nobody_refers_to_any_more_leaves_no_socket(runtime_folder):
    flow = DataFlowCoordinator("dropped")
    flow.start()
    assert len(sockets(runtime_folder)) == 1
    gone = weakref.ref(flow)
    del flow
    gc.collect()

    assert gone() is None
    assert sockets(runtime_folder) == []


def test_a_forked_child_has_no_part_in_it(runtime_folder):
    with running() as (flow, _):
        observation = observe()
        reader, writer = os.pipe()
        began, begins = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.write(begins, b"x")
            select.select([reader], [], [], LIMIT_S)
            os._exit(0)
        os.close(reader)
        try:
            os.read(began, 1)
            links = [str(link.readlink()) for link in Path(f"/proc/{child}/fd").iterdir()]
            flow.stop()
            # The child, which lives on, holds neither the listening socket nor a connection open.
            until(lambda: observation.ended)
            assert observable_flows() == []
            assert sockets(runtime_folder) == []
            assert not [link for link in links if "eventfd" in link]
        finally:
            for descriptor in (writer, began, begins):
                os.close(descriptor)
            os.waitpid(child, 0)
            observation.close()


# --- where the socket is --------------------------------------------------------------------------------------------------


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_folder_and_socket_are_for_this_user_alone(runtime_folder):
    before = os.umask(0)
    try:
        with running() as (flow, _):
            (found,) = observable_flows()
            assert (mode(runtime_folder), mode(found.path)) == (0o700, 0o600)
            assert found.path.parent == runtime_folder
            flow.stop()
            assert not runtime_folder.exists()
    finally:
        os.umask(before)


@pytest.mark.parametrize("runtime", [None, "", "not/absolute"])
def test_without_a_runtime_folder(tmp_path, monkeypatch, runtime):
    if runtime is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    of_system = Path(f"/run/user/{os.geteuid()}")
    expected = of_system / "steadyflow" if of_system.is_dir() else tmp_path / f"steadyflow-{os.geteuid()}"
    with running() as (_, _):
        found = next(one for one in observable_flows() if one.pid == os.getpid())
        assert found.path.parent == expected
        assert mode(expected) == 0o700


def refused(folder):
    with running() as (flow, faucet):
        faucet.let(1)
        until(lambda: flow.get_flow_metrics(PIPELINE).delivered == 1)
        (event,) = [each for each in flow.report().events if isinstance(each, ObservationUnavailable)]
        assert event.flow == "flow"
        assert str(folder) in event.reason
        return event.reason


def test_a_folder_that_others_may_enter_is_refused(runtime_folder):
    runtime_folder.mkdir(mode=0o700)
    runtime_folder.chmod(0o770)
    assert "that nobody else may enter, got one of user" in refused(runtime_folder)
    assert "mode 0770" in refused(runtime_folder)
    with pytest.raises(SystemShortage, match="expected a folder of user"):
        observable_flows()


def test_a_folder_of_somebody_else_is_refused(runtime_folder):
    if os.geteuid() != 0:
        pytest.skip("only root can give folders away")
    runtime_folder.mkdir(mode=0o700)
    os.chown(runtime_folder, 65534, 65534)
    assert "got one of user 65534" in refused(runtime_folder)


def test_a_link_in_place_of_the_folder_is_refused(runtime_folder, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    runtime_folder.symlink_to(tmp_path / "elsewhere")
    assert "expected a folder for the sockets of flows" in refused(runtime_folder)
    assert sockets(tmp_path / "elsewhere") == []


def test_a_runtime_folder_that_is_not_there_is_said_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert "No such file or directory" in refused(tmp_path / "missing")
    assert observable_flows() == []
    with pytest.raises(FlowNotRunning, match="expected a running flow of this user, got none"):
        observe()


def test_a_folder_without_room_is_refused(runtime_folder, monkeypatch):
    """As of a file system that is full or read-only: the name is taken by what is no socket that can be removed."""
    runtime_folder.mkdir(mode=0o700)
    for number in ("", ".2"):
        (runtime_folder / f"flow-{os.getpid()}{number}.sock").mkdir()
    monkeypatch.setattr("steadyflow.runtime.socket_folder._MAX_SOCKETS_OF_A_NAME", 2)
    assert "the socket of the flow cannot be made" in refused(runtime_folder)


def test_what_is_not_ours_to_remove_is_left_alone(runtime_folder):
    """Only a socket that nobody listens to is what a dead flow has left."""
    runtime_folder.mkdir(mode=0o700)
    dead = "9999999999"  # no process has this number
    (runtime_folder / f"folder-{dead}.sock").mkdir()
    (runtime_folder / f"file-{dead}.sock").write_text("precious")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, socket.socket(socket.AF_UNIX) as left:
        other.bind(str(runtime_folder / f"datagrams-{dead}.sock"))
        left.bind(str(runtime_folder / f"left-{dead}.sock"))
        with running() as (_, _):
            names = [name.partition("-")[0] for name in sockets(runtime_folder)]
            assert names == ["datagrams", "file", "flow", "folder"]
            assert {one.flow for one in observable_flows()} == {"datagrams", "flow"}
            observe("flow").close()
            with pytest.raises(ObservationFailed, match="expected the socket of a running flow"):
                observe("datagrams")


def test_a_socket_that_cannot_be_removed_does_not_keep_a_flow_from_stopping(runtime_folder):
    with running() as (flow, _):
        (name,) = sockets(runtime_folder)
        (runtime_folder / name).unlink()
        (runtime_folder / name).mkdir()
        flow.stop()
        assert sockets(runtime_folder) == [name]


def test_a_folder_that_another_flow_removes_in_that_moment(runtime_folder, monkeypatch):
    removals = []

    def remove(folder):
        if not removals:
            removals.append(folder.path.rmdir())

    monkeypatch.setattr("steadyflow.runtime.socket_folder.SocketFolder._remove_stale", remove)
    with running() as (_, _), observe() as observation:
        assert removals == [None]
        assert not observation.ended
    assert not runtime_folder.exists()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..", "_"),
        (".hidden", "hidden"),
        ("Übung 1 / take\n", "_bung_1_take_"),
        ("a\0b", "a_b"),
        ("x" * 500, "x" * 48),
        ("demo-5", "demo-5"),
        ("demo-5.3", "demo-5.3"),
    ],
)
def test_names_of_flows_as_names_of_files(runtime_folder, name, file):
    with running(name) as (_, _):
        assert sockets(runtime_folder) == [f"{file}-{os.getpid()}.sock"]
        (found,) = observable_flows()
        assert (found.flow, found.pid) == (file, os.getpid())
        with observe(name, pid=os.getpid()) as observation:
            assert observation.description.flow == name
    assert sockets(runtime_folder) == []


def test_flows_of_the_same_name(runtime_folder):
    with running("twin") as (_, _), running("twin") as (_, faucet), running("twin-1") as (_, _):
        pid = os.getpid()
        assert sockets(runtime_folder) == [f"twin-1-{pid}.sock", f"twin-{pid}.2.sock", f"twin-{pid}.sock"]
        with pytest.raises(ConfigurationError, match="expected to know which flow is meant") as several:
            observe("twin")
        assert f"twin-{pid}.2.sock" in str(several.value)
        faucet.let(4)
        with observe(path=runtime_folder / f"twin-{pid}.2.sock") as second:
            until(lambda: second.pipelines[PIPELINE].statistics().delivered == 4)
        with observe("twin-1") as other:
            assert other.description.flow == "twin-1"


def test_a_path_longer_than_the_address_of_a_socket(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with running("n" * 200) as (_, _):
        (found,) = observable_flows()
        assert len(os.fsencode(found.path)) > 250
        observe().close()
        observe(path=str(found.path)).close()


# --- what observe() answers -----------------------------------------------------------------------------------------------


def test_names_that_no_flow_has():
    with running("notes") as (_, _):
        with pytest.raises(UnknownName, match="observe: unknown flow 'nots'; did you mean 'notes'"):
            observe("nots")
        with pytest.raises(UnknownName, match=f"unknown pid 1. Known: {os.getpid()}"):
            observe("notes", pid=1)
        with pytest.raises(ConfigurationError, match="either path, or flow and pid"):
            observe("notes", path="/tmp/x.sock")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"flow": 5}, "observe: expected the name of a flow, got 5"),
        ({"path": 5}, "observe: expected the path of a file, got 5"),
        ({"path": ""}, "observe: expected the path of a file, got ''"),
        ({"timeout_s": "5"}, "observe: expected timeout_s to be seconds, from 0 to 1e9, got '5'"),
        ({"timeout_s": -1}, "observe: expected timeout_s to be seconds, from 0 to 1e9, got -1"),
        ({"timeout_s": float("nan")}, "got nan"),
    ],
)
def test_arguments_that_make_no_sense(arguments, said):
    with pytest.raises(ConfigurationError, match=said):
        observe(**arguments)


def test_a_time_that_makes_no_sense():
    with running() as (_, _), observe() as observation:
        for timeout_s in ("5", -1):
            with pytest.raises(ConfigurationError, match="wait: expected timeout_s to be seconds"):
                observation.wait(timeout_s)
        assert not observation.wait(0)


@pytest.fixture
def impostor(tmp_path):
    """Serve one client with something; returns the path of the socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        path = tmp_path / "impostor.sock"
        listener.bind(str(path))
        listener.listen(1)
        threads = []

        def serve(answer):
            def run():
                connection, _ = listener.accept()
                with connection:
                    answer(connection)

            threads.append(threading.Thread(target=run))
            threads[-1].start()
            return path

        yield serve
        for thread in threads:
            thread.join()


def description(**changes):
    """A description of no flow."""
    pipeline = PipelineDescription(
        id="a->b",
        source="a",
        target="b",
        format="bytes",
        buffer_size=1,
        max_latency_ms=None,
        priority="normal",
        rule="Wait()",
        opened_ns=0,
        ended_ns=0,
        rings=(Place(0, 64),),
    )
    pipeline = msgspec.structs.replace(pipeline, **changes)
    return FlowDescription(flow="f", pid=1, started_ns=0, segments=1, pipelines=(pipeline,), workers=(), devices=())


def observed(description):
    return Observed("0.0.7", msgspec.Raw(msgspec.msgpack.encode(description)))


def segment_descriptor():
    segment = _native.Segment.create(4096)
    return os.dup(segment.descriptor)


def segment_of_another_layout():
    segment = _native.Segment.create(4096)
    os.pwrite(segment.descriptor, struct.pack("@I", 77), 8)
    return os.dup(segment.descriptor)


def answer_with(message, descriptors=list):
    def answer(connection):
        given = descriptors()
        Channel(connection).send(message, given)
        for descriptor in given:
            os.close(descriptor)

    return answer


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda connection: connection.sendall(b"\0\0\0\4what"), "expected a message, got something else"),
        (lambda connection: connection.sendall(struct.pack("!I", 1 << 31)), "expected a message of at most"),
        (answer_with(Refused("not today")), "not today"),
        (answer_with(Abort()), "expected a description of the flow, got Abort"),
        (answer_with(observed(description())), "expected 1 descriptors, got 0"),
        (answer_with(observed(description()), lambda: [os.memfd_create("x")]), "sealed against shrinking"),
        (
            answer_with(observed(description()), lambda: [segment_of_another_layout()]),
            "expected layout version 5, got 77",
        ),
        (answer_with(observed(description(rings=())), lambda: [segment_descriptor()]), "that cannot be"),
        (answer_with(observed(description(rings=(Place(7, 64),))), lambda: [segment_descriptor()]), "that cannot be"),
        (answer_with(observed(description(buffer_size=0)), lambda: [segment_descriptor()]), "that cannot be"),
        (answer_with(observed({"flow": "of later"})), "missing required field.*runs steadyflow 0.0.7, this program 0"),
    ],
)
def test_answers_that_make_no_sense(impostor, answer, problem):
    with pytest.raises(ObservationFailed, match=problem):
        observe(path=impostor(answer))


def test_a_flow_that_ends_before_it_answers(impostor):
    with pytest.raises(FlowNotRunning, match="it ended before it had answered"):
        observe(path=impostor(lambda connection: None))


def test_a_description_of_memory_that_holds_something_else(impostor):
    answer = answer_with(observed(description()), lambda: [segment_descriptor()])
    with pytest.raises(CorruptedSegment, match="pipeline 'a->b': no ring at offset 64"):
        observe(path=impostor(answer))


def test_a_flow_that_does_not_answer(impostor):
    answered = threading.Event()
    path = impostor(lambda connection: answered.wait(LIMIT_S))
    with pytest.raises(ObservationFailed, match=r"expected an answer within 0\.01 s"):
        observe(path=path, timeout_s=0.01)
    answered.set()


def test_a_path_to_something_else(tmp_path):
    with pytest.raises(FlowNotRunning, match="No such file"):
        observe(path=tmp_path / "missing.sock")
    (tmp_path / "file").write_text("no socket")
    with pytest.raises(FlowNotRunning, match="Connection refused"):
        observe(path=tmp_path / "file")
    with pytest.raises(ObservationFailed, match="expected the socket of a running flow"):
        observe(path=tmp_path / "file" / "below.sock")


def test_a_device_that_does_not_lie_in_the_memory_is_refused():
    for place in (Place(1, 0), Place(-1, 0), Place(0, 1 << 40), Place(0, 3)):
        device = DeviceDescription(module="mic", sample_rate_hz=48_000, captures=True, plays=False, account=place)
        told = FlowDescription(flow="f", pid=1, started_ns=0, segments=1, pipelines=(), workers=(), devices=(device,))
        ours, theirs = socket.socketpair()
        channel = Channel(theirs)
        with ours, pytest.raises((ObservationFailed, CorruptedSegment)):
            Observation(told, [_native.Segment.create(1 << 16)], channel)
        channel.close()
