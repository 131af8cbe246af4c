"""Workers with ``realtime=True``: what the system grants, what it refuses, and what becomes of one that runs away."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.servers.system_bus import rtkit_bus, system_bus

from steadyflow import (
    AudioFormat,
    DataFlowCoordinator,
    Input,
    Module,
    Output,
    PipelineConfig,
    Realtime,
    StructFormat,
    audio,
)
from steadyflow.errors import InsufficientMemory
from steadyflow.events import ModuleEnded, RealtimeRefused, RealtimeRevoked
from steadyflow.platform import Attempt, pretended, probe_capabilities
from steadyflow.runtime.cpu_latency import DEVICE
from steadyflow.runtime.scheduling import PRIORITIES, RUNAWAY_LIMIT_US
from steadyflow.testing import Collect, ScriptedSource

__all__ = ["rtkit_bus", "system_bus"]  # fixtures

MONO = AudioFormat(48_000, 1)
LIMIT_S = 20  # how long a test may wait for what has to come; it never waits for time to pass
BLOCK = np.zeros((4, 1), np.float32)

_PROBE = "import os; os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(4))"


@pytest.fixture(scope="module")
def realtime_allowed():
    if subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, check=False).returncode:
        pytest.skip("this system does not allow SCHED_FIFO")


# --- modules, which run in processes ----------------------------------------------------------------------------------


class Pass(Module):
    audio = Input(MONO)
    out = Output(like="audio")

    def process(self, audio):
        return audio


class Compute(Module):
    """Computes at the second block until its thread has no real-time priority any more: in Python, or in native code."""

    audio = Input(MONO)
    out = Output(like="audio")

    def __init__(self, natively=False):
        self.natively = natively
        self.count = 0

    def process(self, audio):
        self.count += 1
        began = time.process_time()
        while self.count == 2 and self.policy() != os.SCHED_OTHER and time.process_time() - began < LIMIT_S:
            if self.natively:
                sum(range(10_000_000))  # keeps the interpreter lock
        return audio

    def policy(self):
        return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


class Collections(msgspec.Struct):
    idle: int
    inside: int
    automatic: bool


class MakesGarbage(Module):
    """Says when garbage was collected: while it was called, or between two blocks."""

    audio = Input(MONO)
    told = Output(StructFormat(Collections))

    def setup(self):
        self.counted = Collections(0, 0, automatic=False)
        self.called = False
        gc.callbacks.append(self.collected)

    def collected(self, phase, info):
        if phase == "start":
            if self.called:
                self.counted.inside += 1
            else:
                self.counted.idle += 1

    def process(self, audio):
        self.called = True
        for _ in range(100):
            cycle = []
            cycle.append(cycle)
        self.counted.automatic = gc.get_threshold()[0] < 10_000
        self.called = False
        return self.counted

    def teardown(self):
        gc.callbacks.remove(self.collected)


class MakesGarbageAwaiting(MakesGarbage):
    async def process(self, audio):
        await asyncio.sleep(0)
        return super().process(audio)


# --- where it is granted ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_flow(priority="normal", realtime=True):
    """Run a flow with a real-time worker that waits for blocks from here; yields that worker and both ends."""
    with DataFlowCoordinator() as flow:
        fast = flow.add(Pass(), name="fast", placement="process", realtime=realtime)
        there = flow.register_pipeline("in", fast.audio, PipelineConfig(buffer_size=2, priority=priority), MONO)
        back = flow.register_pipeline(fast.out, "out", PipelineConfig(buffer_size=2, priority="low"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that it was refused
            flow.start()
        yield flow.workers["fast"], flow.pipeline(there), flow.pipeline(back)


def finite_flow(module, blocks=5):
    """Describe a flow with a real-time worker that ends by itself."""
    flow = DataFlowCoordinator()
    source, collect = flow.add(ScriptedSource([BLOCK] * blocks, MONO)), flow.add(Collect())
    module = flow.add(module, name="fast", placement="process", realtime=True)
    flow.connect(source.out, module.audio, buffer_size=2)
    flow.connect(module.out, collect.data, buffer_size=2, priority="low")
    return flow, collect


@pytest.mark.parametrize(("rank", "priority"), list(enumerate(["critical", "high", "normal", "low"])))
def test_granted_by_the_priority_of_the_most_critical_input(realtime_allowed, rank, priority):
    with open_flow(priority) as (worker, _, _):
        # What the kernel says, from outside.
        assert os.sched_getscheduler(worker.pid) == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        assert os.sched_getparam(worker.pid).sched_priority == PRIORITIES[rank]
        others = [int(task) for task in os.listdir(f"/proc/{worker.pid}/task") if int(task) != worker.pid]
        assert others
        assert {os.sched_getscheduler(task) for task in others} == {os.SCHED_OTHER}, "the thread of the modules alone"
        assert resource.prlimit(worker.pid, resource.RLIMIT_RTTIME)[0] == RUNAWAY_LIMIT_US
        # What we say.
        assert worker.realtime
        assert worker.realtime_refusal is None
        assert (worker.scheduling.policy, worker.scheduling.priority) == ("fifo", PRIORITIES[rank])
        assert worker.scheduling.granted_by == "system"
        assert worker.scheduling.runaway_limit_us == RUNAWAY_LIMIT_US


def test_memory_is_locked_as_far_as_it_is_said(realtime_allowed):
    with open_flow() as (worker, _, _):
        status = Path(f"/proc/{worker.pid}/status").read_text()
        locked_kib, mapped_kib = (int(status.partition(f"{key}:")[2].split()[0]) for key in ("VmLck", "VmSize"))
        refused = [refusal for refusal in worker.scheduling.refusals if refusal.what == "memory lock"]
        match worker.scheduling.memory_locked:
            case "everything":
                assert locked_kib > mapped_kib / 2
                assert not refused
            case "present":
                assert locked_kib > mapped_kib / 2
                assert "RLIMIT_MEMLOCK" in refused[0].reason
            case "segments":
                assert 0 < locked_kib < mapped_kib / 2
                assert "RLIMIT_MEMLOCK" in refused[0].reason
            case "nothing":
                assert locked_kib == 0
                assert refused


def test_processors_are_kept_awake_while_the_worker_runs(realtime_allowed):
    if not os.access(DEVICE, os.W_OK):
        pytest.skip(f"{DEVICE} cannot be written here")
    with open_flow(realtime=Realtime(cpu_latency_us=50)) as (worker, _, _):
        assert worker.scheduling.cpu_latency_us == 50
        descriptors = Path(f"/proc/{worker.pid}/fd")
        assert DEVICE in {descriptor.readlink() for descriptor in descriptors.iterdir()}


def test_a_worker_that_spins_before_it_sleeps_takes_every_block():
    with open_flow(realtime=Realtime(spin_us=2000)) as (_, there, back):
        for number in range(200):
            there.send(np.full((4, 1), number, np.float32))
            assert back.receive(timeout_s=LIMIT_S).data[0, 0] == number


# --- a runaway ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("natively", [False, True])
def test_a_module_that_computes_for_ever_loses_its_priority_and_the_flow_goes_on(realtime_allowed, natively):
    flow, collect = finite_flow(Compute(natively))
    with flow:
        report = flow.run()
        worker = flow.workers["fast"]
        assert not worker.realtime
        assert worker.scheduling.policy == "other"
        assert worker.scheduling.refusals[-1].what == "runaway guard"
    assert len(collect.values) == 5
    (revoked,) = [event for event in report.events if isinstance(event, RealtimeRevoked)]
    assert (revoked.worker, revoked.module) == ("fast", "fast")
    assert revoked.reason == "it computed for 500 ms without a blocking call"
    assert not any(isinstance(event, RealtimeRefused) for event in report.events)
    assert [event.module for event in report.events if isinstance(event, ModuleEnded)].count("fast") == 1


def test_the_runaway_is_found_among_several_modules(realtime_allowed):
    with DataFlowCoordinator() as flow:
        source, collect = flow.add(ScriptedSource([BLOCK] * 3, MONO)), flow.add(Collect())
        placed = {"placement": "process", "worker": "fast", "realtime": True}
        before, hog = flow.add(Pass(), name="before", **placed), flow.add(Compute(), name="hog", **placed)
        flow.connect(source.out, before.audio, buffer_size=2)
        flow.connect(before.out, hog.audio, buffer_size=2)
        flow.connect(hog.out, collect.data, buffer_size=2)
        report = flow.run()
    (revoked,) = [event for event in report.events if isinstance(event, RealtimeRevoked)]
    assert (revoked.worker, revoked.module) == ("fast", "hog")
    assert len(collect.values) == 3


# --- garbage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [MakesGarbage, MakesGarbageAwaiting])
def test_garbage_is_collected_between_blocks_only(cls):
    with DataFlowCoordinator() as flow:
        module = flow.add(cls(), name="fast", placement="process", realtime=True)
        there = flow.pipeline(flow.register_pipeline("in", module.audio, PipelineConfig(buffer_size=2), MONO))
        back = flow.pipeline(
            flow.register_pipeline(module.told, "out", PipelineConfig(buffer_size=2), StructFormat(Collections))
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # granted or not, it is the same
            flow.start()
        deadline = time.monotonic() + LIMIT_S
        told = Collections(0, 0, automatic=True)
        while told.idle < 5 and time.monotonic() < deadline:
            there.send(BLOCK)
            told = back.receive(timeout_s=LIMIT_S).data
        assert told.idle >= 5
        assert told.inside == 0
        assert not told.automatic


# --- where it is refused ------------------------------------------------------------------------------------------------

NOBODY = 65534

_FLOW = """\
import json, resource, sys, os
import msgspec
import numpy as np
from steadyflow import *
from steadyflow.events import RealtimeRefused, RealtimeRevoked
from steadyflow.testing import Collect, ScriptedSource

MONO = AudioFormat(48_000, 1)

class Pass(Module):
    audio = Input(MONO)
    out = Output(like="audio")
    policy = None

    def process(self, audio):
        while RUN_AWAY and os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK != os.SCHED_OTHER:
            pass
        return audio

RUN_AWAY = "run away" in sys.argv

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20 if hard < 0 else min(hard, 8 << 20), hard))
    flow = DataFlowCoordinator("polite")
    source = flow.add(ScriptedSource([np.zeros((4, 1), np.float32)] * 3, MONO))
    first = flow.add(Pass(), name="first", placement="process", realtime=True)
    second = flow.add(Pass(), name="second", placement="process", realtime=True)
    collect = flow.add(Collect())
    flow.connect(source.out, first.audio, buffer_size=2, priority="critical")
    flow.connect(first.out, second.audio, buffer_size=2, priority="high")
    flow.connect(second.out, collect.data, buffer_size=2)
    flow.start()
    granted = msgspec.to_builtins({name: flow.workers[name].scheduling for name in ("first", "second")})
    flow.wait()
    report = flow.stop()
    flow.close()
    events = [type(event).__name__ for event in report.events]
    print(json.dumps({
        "blocks": len(collect.values), "uid": os.getuid(), "workers": granted,
        "refused": events.count("RealtimeRefused"), "revoked": events.count("RealtimeRevoked"),
    }))
"""


@pytest.fixture
def as_nobody():
    """Return what runs the flow above as a user without privileges."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become somebody else, by setpriv of util-linux")
    # Nobody, but one who may read the interpreter, wherever it lies.
    kept = "-all,+dac_override,+dac_read_search"
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    become += [f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}"]
    probe = subprocess.run([*become, sys.executable, "-c", "import steadyflow"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip(f"the user nobody may not run this interpreter: {probe.stderr.decode()}")
    with tempfile.TemporaryDirectory(prefix="steadyflow-nobody-") as folder:
        Path(folder).chmod(0o755)
        script = Path(folder) / "flow.py"
        script.write_text(_FLOW)
        script.chmod(0o644)

        def run(*arguments, **environment):
            surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "DBUS_"))}
            surroundings |= {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder}/no-bus", **environment}
            done = subprocess.run(
                [*become, sys.executable, script, *arguments],
                capture_output=True,
                text=True,
                timeout=50,
                check=False,
                cwd=folder,
                env=surroundings,
            )
            assert done.returncode == 0, done.stderr
            told = json.loads(done.stdout)
            assert (told["uid"], told["blocks"]) == (NOBODY, 3)
            return told, done.stderr

        yield run


def test_refused_the_flow_runs_and_says_so_once(as_nobody):
    told, complaints = as_nobody()
    assert told["refused"] == 2, "an event for each worker"
    said = (
        "flow 'polite': workers 'first', 'second' run without real-time priority: the system does not allow SCHED_FIFO"
    )
    assert complaints.count("without real-time priority") == complaints.count(said) == 1
    assert "RealtimeKit does not give it: the D-Bus system bus cannot be reached" in complaints
    assert "/etc/security/limits.d" in complaints
    for worker in told["workers"].values():
        assert worker["policy"] == "other"
        assert worker["memory_locked"] == "segments"
        assert [refusal["what"] for refusal in worker["refusals"]] == ["SCHED_FIFO", "RealtimeKit", "memory lock"]


def test_granted_by_rtkit(as_nobody, rtkit_bus):
    rtkit_bus.start_polkit("yes")
    rtkit_bus.start_rtkit()
    told, complaints = as_nobody(**rtkit_bus.environment)
    for worker, priority in [("first", PRIORITIES[0]), ("second", PRIORITIES[1])]:
        scheduling = told["workers"][worker]
        assert (scheduling["policy"], scheduling["priority"]) == ("rr", priority)
        assert scheduling["granted_by"] == "rtkit"
        assert scheduling["runaway_limit_us"] == 150_000
        assert scheduling["refusals"][0]["what"] == "SCHED_FIFO"
    assert told["refused"] == told["revoked"] == 0
    assert "real-time" not in complaints


def test_rtkit_gives_no_more_than_its_limit(as_nobody, rtkit_bus):
    rtkit_bus.start_polkit("yes")
    rtkit_bus.start_rtkit("--max-realtime-priority=3", "--our-realtime-priority=4", "--rttime-usec-max=100000")
    told, _ = as_nobody(**rtkit_bus.environment)
    assert told["workers"]["first"]["priority"] == 3
    assert told["workers"]["first"]["runaway_limit_us"] == 75_000


def test_a_runaway_under_rtkit_is_lowered_and_not_killed(as_nobody, rtkit_bus):
    rtkit_bus.start_polkit("yes")
    rtkit_bus.start_rtkit()
    told, _ = as_nobody("run away", **rtkit_bus.environment)
    assert told["revoked"] == 2
    assert told["refused"] == 0


def test_rtkit_may_refuse_this_user(as_nobody, rtkit_bus):
    rtkit_bus.start_polkit("no")
    rtkit_bus.start_rtkit()
    told, complaints = as_nobody(**rtkit_bus.environment)
    assert told["refused"] == 2
    assert "RealtimeKit does not give it: it answered org.freedesktop.DBus.Error.AccessDenied" in complaints


def test_a_bus_without_rtkit(as_nobody, system_bus):
    _, complaints = as_nobody(**system_bus.environment)
    assert "RealtimeKit does not give it: it answered org.freedesktop.DBus.Error.ServiceUnknown" in complaints


# --- what is known of the system --------------------------------------------------------------------------------------


class Counts(Module):
    audio = Input(AudioFormat(48_000, 1))

    def process(self, audio):
        pass


def test_what_is_known_to_be_refused_is_not_asked_for():
    """The record of the system decides, where there is one: here it says that nobody gives real-time scheduling."""
    refused = replace(
        probe_capabilities(),
        realtime=Attempt(allowed=False, reason="the administrator does not want it"),
        rtkit=Attempt(allowed=False, reason="there is no RealtimeKit on board"),
    )
    with pretended(refused), DataFlowCoordinator("known") as flow:
        flow.add(audio.Tone(440, duration_s=0.05), name="tone")
        flow.add(Counts(), name="counts", placement="process", realtime=True)
        flow.connect("tone.out", "counts.audio", buffer_size=8)
        with pytest.warns(RuntimeWarning, match="the administrator does not want it; there is no RealtimeKit on board"):
            flow.start()
        flow.wait(20)
        assert not flow.workers["counts"].realtime
        flow.stop()


def test_without_shared_memory_nothing_is_begun():
    none = replace(probe_capabilities(), shared_memory=Attempt(allowed=False, reason="memfd_create is forbidden"))
    with pretended(none), DataFlowCoordinator("known") as flow:
        flow.add(audio.Tone(440, duration_s=0.05), name="tone")
        flow.add(Counts(), name="counts", placement="process")
        flow.connect("tone.out", "counts.audio", buffer_size=8)
        with pytest.raises(InsufficientMemory, match="this system gives none: memfd_create is forbidden"):
            flow.start()
