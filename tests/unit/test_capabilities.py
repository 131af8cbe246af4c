"""What `probe_capabilities` says is true, whatever this system allows, and nothing is left behind."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from steadyflow.platform import (
    Attempt,
    Capabilities,
    Library,
    capabilities,
    capabilities_here,
    here,
    libraries,
    pretended,
    probe_capabilities,
)

GIBIBYTE = 1 << 30
NO_LIBRARIES = dict.fromkeys(
    ("soundfile", "soxr", "sounddevice", "portaudio", "portaudio_backends"), Library(None, "not asked")
)


@pytest.fixture
def quick(monkeypatch):
    """Leave out the child process."""
    monkeypatch.setattr(capabilities, "_libraries", lambda: NO_LIBRARIES)
    monkeypatch.setattr(capabilities, "_rtkit", lambda: (Attempt(allowed=False, reason="not asked"), 0))


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


def test_describes_this_system():
    found = probe_capabilities()

    assert found.system == os.uname().sysname
    assert found.kernel == os.uname().release
    assert found.machine == os.uname().machine
    assert found.python.endswith(".".join(map(str, sys.version_info[:3])))
    assert found.cores == len(os.sched_getaffinity(0))
    assert 1 <= found.cores <= found.cores_total
    assert found.memory_total_bytes >= found.memory_available_bytes > 0
    assert 0 < found.clock_read_ns < 1_000_000
    for library in (found.soundfile, found.soxr, found.sounddevice, found.portaudio):
        assert library.loads == (not library.reason)


def test_needs_what_the_tests_themselves_run_on(quick):
    found = probe_capabilities()

    assert found.shared_memory == Attempt(allowed=True)
    assert found.futex == Attempt(allowed=True)


def test_is_frozen_and_can_be_written_as_json(quick):
    found = probe_capabilities()

    with pytest.raises(dataclasses.FrozenInstanceError):
        found.cores = 99
    assert json.loads(json.dumps(dataclasses.asdict(found)))["cores"] == found.cores
    assert isinstance(found, Capabilities)


def test_leaves_nothing_behind(quick):
    def traces():
        return (
            sorted(os.listdir("/proc/self/fd")),
            os.sched_getscheduler(0),
            threading.active_count(),
            [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmLck")],
            resource.getrlimit(resource.RLIMIT_MEMLOCK),
        )

    probe_capabilities()
    before = traces()
    probe_capabilities()

    assert traces() == before


def test_loads_no_audio_library_into_this_process():
    code = (
        "import sys; from steadyflow.platform import probe_capabilities; probe_capabilities();"
        "sys.exit(any(name in sys.modules for name in ('soundfile', 'soxr', 'sounddevice')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- memory and processors, from a made-up /proc and /sys -----------------------------------------------------------


@pytest.fixture
def machine(tmp_path):
    write(tmp_path, "proc/meminfo", "MemTotal:        8388608 kB\nMemFree:  1 kB\nMemAvailable:    4194304 kB\nBogus")
    return tmp_path


def test_memory_without_groups(machine, quick):
    found = probe_capabilities(machine)

    assert found.memory_total_bytes == 8 * GIBIBYTE
    assert found.memory_available_bytes == 4 * GIBIBYTE
    assert found.memory_limit_bytes is None
    assert found.cpu_quota_cores is None
    assert found.clock_source is None


def test_memory_of_a_system_that_says_nothing(tmp_path, quick):
    found = probe_capabilities(tmp_path)

    assert found.memory_total_bytes is None
    assert found.memory_available_bytes is None


def test_the_tightest_of_nested_groups_counts(machine, quick):
    write(machine, "proc/self/cgroup", "0::/user.slice/session")
    write(machine, "sys/fs/cgroup/user.slice/session/memory.max", "max")
    write(machine, "sys/fs/cgroup/user.slice/session/cpu.max", "150000 100000")
    write(machine, "sys/fs/cgroup/user.slice/memory.max", str(2 * GIBIBYTE))
    write(machine, "sys/fs/cgroup/user.slice/memory.current", str(GIBIBYTE))
    write(machine, "sys/fs/cgroup/user.slice/cpu.max", "max 100000")
    write(machine, "sys/fs/cgroup/memory.max", str(3 * GIBIBYTE))

    found = probe_capabilities(machine)

    assert found.memory_limit_bytes == 2 * GIBIBYTE
    assert found.memory_available_bytes == GIBIBYTE
    assert found.cpu_quota_cores == 1.5


def test_groups_of_version_1(machine, quick):
    write(machine, "proc/self/cgroup", "7:memory:/box\n4:cpu,cpuacct:/box\n1:name=systemd:/box")
    write(machine, "sys/fs/cgroup/memory/box/memory.limit_in_bytes", str(GIBIBYTE))
    write(machine, "sys/fs/cgroup/memory/box/memory.usage_in_bytes", str(2 * GIBIBYTE))
    write(machine, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")
    write(machine, "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "50000")
    write(machine, "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000")
    write(machine, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1")
    write(machine, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000")

    found = probe_capabilities(machine)

    assert found.memory_limit_bytes == GIBIBYTE
    assert found.memory_available_bytes == 0, "more in use than allowed is no room, not a negative amount"
    assert found.cpu_quota_cores == 0.5


def test_a_group_outside_of_our_view_has_no_limit(machine, quick):
    write(machine, "proc/self/cgroup", "0::/../../other")

    assert probe_capabilities(machine).memory_limit_bytes is None


def test_clock_source(machine, quick):
    write(machine, "sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc")

    assert probe_capabilities(machine).clock_source == "tsc"


# --- refusals -------------------------------------------------------------------------------------------------------


def refuse(*_arguments, **_options):
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_shared_memory_refused(quick, monkeypatch):
    monkeypatch.setattr(os, "memfd_create", refuse)

    assert probe_capabilities().shared_memory == Attempt(allowed=False, reason="Operation not permitted (EPERM)")


def test_no_room_for_shared_memory_closes_its_descriptor(quick, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = sorted(os.listdir("/proc/self/fd"))

    assert "ENOSPC" in probe_capabilities().shared_memory.reason
    assert sorted(os.listdir("/proc/self/fd")) == before


class Libc:
    """A C library in which every call fails in one way."""

    def __init__(self, code):
        self.code = code

    def _fail(self, *_arguments):
        ctypes.set_errno(self.code)
        return -1

    syscall = mlock = munlock = _fail


def test_futex_and_locking_refused(quick, monkeypatch):
    monkeypatch.setattr(capabilities, "_libc", lambda: Libc(errno.EPERM))

    found = probe_capabilities()

    assert found.futex == Attempt(allowed=False, reason="Operation not permitted (EPERM)")
    assert found.locked_memory == Attempt(allowed=False, reason="Operation not permitted (EPERM)")


def test_futex_of_an_unknown_architecture():
    assert "pdp11" in capabilities._futex("pdp11").reason


def test_other_systems_are_named(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")

    assert "darwin" in capabilities._shared_memory().reason
    assert "darwin" in capabilities._futex("arm64").reason
    attempt, priority, limit = capabilities.probe_realtime()
    assert "darwin" in attempt.reason
    assert (priority, limit) == (0, None)


@pytest.fixture
def limits(monkeypatch):
    """Set the limits that the system is seen to have."""
    seen = {resource.RLIMIT_RTPRIO: 0, resource.RLIMIT_MEMLOCK: 65536}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (seen[which], seen[which]))
    return seen


def test_realtime_refused(quick, limits, monkeypatch):
    monkeypatch.setattr(os, "sched_setscheduler", refuse)

    found = probe_capabilities()

    assert found.realtime == Attempt(allowed=False, reason="Operation not permitted (EPERM)")
    assert found.realtime_priority == 0
    assert found.realtime_priority_limit == 0


def test_realtime_up_to_the_limit(quick, limits, monkeypatch):
    limits[resource.RLIMIT_RTPRIO] = 20
    asked = []

    def as_limited(_thread, policy, parameters):
        asked.append((policy & ~os.SCHED_RESET_ON_FORK, parameters.sched_priority))
        if parameters.sched_priority > 20:
            refuse()

    monkeypatch.setattr(os, "sched_setscheduler", as_limited)

    found = probe_capabilities()

    assert found.realtime.allowed
    assert found.realtime_priority == 20
    assert asked == [(os.SCHED_FIFO, 99), (os.SCHED_FIFO, 20), (os.SCHED_OTHER, 0)]


def test_realtime_without_limit(quick, limits):
    limits[resource.RLIMIT_RTPRIO] = resource.RLIM_INFINITY

    assert probe_capabilities().realtime_priority_limit is None


@pytest.mark.parametrize(
    ("limit_bytes", "lockable_bytes", "expected"),
    [
        (resource.RLIM_INFINITY, 1 << 40, (True, None)),
        (65536, 65536, (True, 65536)),
        (65536, 1 << 40, (True, None)),  # the limit does not bind a privileged user
        (1 << 30, 1 << 40, (True, 1 << 30)),  # too much to try
        (0, 0, (False, 0)),
    ],
)
def test_locked_memory(quick, limits, monkeypatch, limit_bytes, lockable_bytes, expected):
    limits[resource.RLIMIT_MEMLOCK] = limit_bytes
    monkeypatch.setattr(capabilities, "_lock", lambda size_bytes: Attempt(allowed=size_bytes <= lockable_bytes))

    found = probe_capabilities()

    assert (found.locked_memory.allowed, found.locked_memory_limit_bytes) == expected


# --- audio libraries ------------------------------------------------------------------------------------------------


def test_libraries_are_looked_at_in_a_child(monkeypatch):
    found = capabilities._libraries()

    assert set(found) == {"soundfile", "soxr", "sounddevice", "portaudio", "portaudio_backends"}
    assert found == {
        name: Library(answer.get("version"), answer.get("reason", ""))
        for name, answer in libraries.look_at_libraries().items()
    }


def test_a_child_without_an_answer(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/true")
    assert "gave no answer" in capabilities._libraries()["soundfile"].reason

    monkeypatch.setattr(sys, "executable", "/does/not/exist")
    assert "No such file" in capabilities._libraries()["portaudio"].reason

    monkeypatch.setattr(sys, "executable", "")
    assert "own path" in capabilities._libraries()["sounddevice"].reason


def test_a_child_that_hangs(monkeypatch):
    def hang(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)

    assert capabilities._libraries()["soundfile"] == Library(None, "loading did not end within 30 s")


def test_portaudio_names_its_backends(monkeypatch):
    class SoundDevice:
        @staticmethod
        def query_hostapis():
            return [{"name": "ALSA"}, {"name": "JACK Audio Connection Kit"}]

    monkeypatch.setattr(libraries.importlib, "import_module", lambda _name: SoundDevice)
    assert libraries.portaudio_backends() == "ALSA, JACK Audio Connection Kit"


def test_each_library_is_loaded_or_its_error_kept(monkeypatch):
    class Loaded:
        __version__ = "1.0"
        __libsndfile_version__ = "1.2.2"
        __libsoxr_version__ = "libsoxr-0.1.3"

        def __init__(self, name):
            if name == "sounddevice":
                raise OSError

    class PortAudio:
        class Pa_GetVersionText:
            restype = None

            def __new__(cls):
                return b"PortAudio V19.6.0-devel, revision 396fe4b6699ae929d3a685b3ef8a7e97396139a4"

    monkeypatch.setattr(libraries.importlib, "import_module", Loaded)
    monkeypatch.setattr(libraries.ctypes, "CDLL", lambda _name: PortAudio)

    assert libraries.look_at_libraries() == {
        "soundfile": {"version": "1.0, libsndfile 1.2.2"},
        "soxr": {"version": "1.0, libsoxr-0.1.3"},
        "sounddevice": {"reason": "OSError"},
        "portaudio": {"version": "V19.6.0-devel"},
        "portaudio_backends": {"reason": "OSError"},
    }


@pytest.mark.parametrize(
    ("text", "cores"), [("", ()), ("2-3,6", (2, 3, 6)), ("5", (5,)), ("nonsense,1-", ()), ("0-1", (0, 1))]
)
def test_isolated_cores(quick, tmp_path, text, cores):
    write(tmp_path, "sys/devices/system/cpu/isolated", text)
    assert probe_capabilities(tmp_path).isolated_cores == cores


def test_what_wakes_is_tried(quick):
    found = probe_capabilities()
    assert found.wake_up_pipe == found.eventfd == Attempt(allowed=True)


def test_what_wakes_may_be_refused(quick, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(os, "pipe2", refuse)
    monkeypatch.setattr(os, "eventfd", refuse)
    found = probe_capabilities()
    refused = Attempt(allowed=False, reason="Too many open files (EMFILE)")
    assert found.wake_up_pipe == found.eventfd == refused


def test_a_process_asks_once_and_a_test_says_what_it_is_to_be(quick, monkeypatch):
    asked = []
    monkeypatch.setattr(here, "_known", [])
    monkeypatch.setattr(here, "probe_capabilities", lambda: asked.append(1) or probe_capabilities())
    first = capabilities_here()
    assert capabilities_here() is first
    other = dataclasses.replace(first, cores=99)
    with pretended(other):
        assert capabilities_here() is other
    assert capabilities_here() is first
    assert asked == [1]
