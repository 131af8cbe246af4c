"""
What this system allows a flow to do.

Everything is *tried*, not looked up in a table: a container, a security module or a group policy may refuse what the
kernel's version promises. Each try is undone before it returns: no thread, descriptor, mapping, lock or priority is
left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import resource
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROBED_LOCK_BYTES = 64 << 20
"""A larger limit on locked memory is believed; trying it would take the memory for a moment."""

CHILD_TIMEOUT_S = 30.0

_FUTEX_SYSCALL = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}
_FUTEX_WAIT = 0
# What version 1 of control groups writes for "no limit" is the largest multiple of the page size.
_NO_CGROUP_LIMIT_BYTES = 1 << 60


@dataclass(frozen=True, slots=True)
class Attempt:
    """Something that was tried: whether the system allowed it, and what it said if it did not."""

    allowed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Library:
    """A library that an extra needs: its version if it loads, and otherwise why not."""

    version: str | None
    reason: str = ""

    @property
    def loads(self) -> bool:
        """Whether the library can be used."""
        return self.version is not None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """
    What this system allowed when it was asked; `probe_capabilities` makes one.

    Args:
        system: The kernel's name, such as ``"Linux"``.
        kernel: The kernel's release.
        machine: The processor's architecture.
        python: Implementation and version, such as ``"CPython 3.11.2"``.
        cores: Cores that this process may run on.
        cores_total: Cores of the machine.
        cpu_quota_cores: How many cores' worth of time the control group grants, or None without a quota.
        isolated_cores: Cores that the kernel gives to nobody who does not ask for them (``isolcpus=``).
        memory_total_bytes: Memory of the machine, or None if unknown.
        memory_available_bytes: What can be had now without swapping, within the limit; None if unknown.
        memory_limit_bytes: The tightest limit of the control groups around this process, or None.
        shared_memory: An anonymous, allocated, sealed and mapped memory file (memfd), which holds all pipelines.
        wake_up_pipe: A pipe, whose reader is woken by a write: what a waiting worker sleeps on.
        futex: The system call by which Python's own locks wait; a worker does not, see docs/decisions/0002-waking-by-pipe.md.
        eventfd: A counter that can be waited for, which ends the thread that serves observers.
        realtime: Real-time scheduling (SCHED_FIFO) for a thread of this process.
        realtime_priority: The highest real-time priority that was granted; 0 for none.
        realtime_priority_limit: RLIMIT_RTPRIO; None means no limit.
        rtkit: RealtimeKit, which grants real-time scheduling (SCHED_RR) to users who have no right to it themselves.
        rtkit_priority: The highest real-time priority that it grants; 0 for none.
        locked_memory: Keeping memory from being swapped out.
        locked_memory_limit_bytes: How much of it in all; None means no limit.
        clock_source: What the kernel reads the time from, or None if it does not say.
        clock_read_ns: What one reading of the clock costs from Python, in nanoseconds.
        soundfile: Reading and writing audio files.
        soxr: Changing sample rates.
        sounddevice: Microphones and loudspeakers, from Python.
        portaudio: The library that sounddevice stands on.
        portaudio_backends: The audio systems that it was built for, such as ``"ALSA"``; none where sounddevice does not load.
    """

    system: str
    kernel: str
    machine: str
    python: str
    cores: int
    cores_total: int
    cpu_quota_cores: float | None
    isolated_cores: tuple[int, ...]
    memory_total_bytes: int | None
    memory_available_bytes: int | None
    memory_limit_bytes: int | None
    shared_memory: Attempt
    wake_up_pipe: Attempt
    futex: Attempt
    eventfd: Attempt
    realtime: Attempt
    realtime_priority: int
    realtime_priority_limit: int | None
    rtkit: Attempt
    rtkit_priority: int
    locked_memory: Attempt
    locked_memory_limit_bytes: int | None
    clock_source: str | None
    clock_read_ns: int
    soundfile: Library
    soxr: Library
    sounddevice: Library
    portaudio: Library
    portaudio_backends: tuple[str, ...]


def probe_capabilities(root: Path = Path("/")) -> Capabilities:
    """
    Try everything and describe it.

    Blocks for about half a second, most of it in the child process that loads the audio libraries; any thread.

    Args:
        root: Where ``proc`` and ``sys`` are found.
    """
    names = os.uname()
    total_bytes, available_bytes, limit_bytes = _memory(root)
    realtime, priority, priority_limit = probe_realtime()
    rtkit, rtkit_priority = _rtkit()
    locked, locked_limit_bytes = _locked_memory()
    libraries = _libraries()
    return Capabilities(
        system=names.sysname,
        kernel=names.release,
        machine=names.machine,
        python=f"{'CPython' if sys.implementation.name == 'cpython' else sys.implementation.name} "
        f"{'.'.join(map(str, sys.version_info[:3]))}",
        cores=_cores(),
        cores_total=os.cpu_count() or 1,
        cpu_quota_cores=_cpu_quota_cores(root),
        isolated_cores=_isolated_cores(root),
        memory_total_bytes=total_bytes,
        memory_available_bytes=available_bytes,
        memory_limit_bytes=limit_bytes,
        shared_memory=_shared_memory(),
        wake_up_pipe=_wake_up_pipe(),
        futex=_futex(names.machine),
        eventfd=_eventfd(),
        realtime=realtime,
        realtime_priority=priority,
        realtime_priority_limit=priority_limit,
        rtkit=rtkit,
        rtkit_priority=rtkit_priority,
        locked_memory=locked,
        locked_memory_limit_bytes=locked_limit_bytes,
        clock_source=_text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
        clock_read_ns=_clock_read_ns(),
        soundfile=libraries["soundfile"],
        soxr=libraries["soxr"],
        sounddevice=libraries["sounddevice"],
        portaudio=libraries["portaudio"],
        portaudio_backends=tuple(filter(None, (libraries["portaudio_backends"].version or "").split(", "))),
    )


# --- processors and memory ---------------------------------------------------------------------------------------


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _isolated_cores(root: Path) -> tuple[int, ...]:
    """Read a list such as ``2-3,6``."""
    cores: list[int] = []
    for part in (_text(root / "sys/devices/system/cpu/isolated") or "").split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if first.isdigit() and last.isdigit():
            cores += range(int(first), int(last) + 1)
    return tuple(cores)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def _cgroup_folders(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of this process's control groups, innermost first, and whether each is of version 2."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, group = line.split(":", 2)
        unified = number == "0" and not controllers
        if not unified and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("" if unified else controllers)
        folder = top / group.strip("/")
        # The limits of the outer groups hold too. A group outside of our view ("/../..") has no folder here.
        while folder.is_relative_to(top):
            if folder.is_dir():
                yield folder, unified
            folder = folder.parent


def _cpu_quota_cores(root: Path) -> float | None:
    quotas: list[float] = []
    for folder, unified in _cgroup_folders(root, "cpu"):
        if unified:
            granted, _, period = (_text(folder / "cpu.max") or "max").partition(" ")
            if granted.isdigit() and period.isdigit():
                quotas.append(int(granted) / int(period))
        else:
            quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
            if quota_us and period_us and quota_us > 0:
                quotas.append(quota_us / period_us)
    return min(quotas, default=None)


def _memory(root: Path) -> tuple[int | None, int | None, int | None]:
    """Return (total, available, limit) in bytes."""
    of_machine: dict[str, int] = {}
    for line in (_text(root / "proc/meminfo") or "").splitlines():
        name, _, amount = line.partition(":")
        kibibytes = amount.split()
        if kibibytes and kibibytes[0].isdigit():
            of_machine[name] = int(kibibytes[0]) * 1024
    available = [of_machine["MemAvailable"]] if "MemAvailable" in of_machine else []
    limits: list[int] = []
    for folder, unified in _cgroup_folders(root, "memory"):
        limit_bytes = _number(folder / ("memory.max" if unified else "memory.limit_in_bytes"))
        if limit_bytes is None or limit_bytes >= _NO_CGROUP_LIMIT_BYTES:
            continue
        limits.append(limit_bytes)
        used_bytes = _number(folder / ("memory.current" if unified else "memory.usage_in_bytes")) or 0
        available.append(max(0, limit_bytes - used_bytes))
    return of_machine.get("MemTotal"), min(available, default=None), min(limits, default=None)


# --- what the data plane stands on -------------------------------------------------------------------------------


def _shared_memory() -> Attempt:
    """Do what a segment does, with one page: create, allocate, seal, map, write."""
    if sys.platform != "linux":
        return Attempt(allowed=False, reason=f"memfd_create is a call of Linux, this is {sys.platform}")
    import fcntl

    descriptor = -1
    try:
        descriptor = os.memfd_create("steadyflow-probe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.posix_fallocate(descriptor, 0, mmap.PAGESIZE)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        with mmap.mmap(descriptor, mmap.PAGESIZE) as page:
            page[0] = 1
    except OSError as error:
        return _refused(error.errno or 0)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return Attempt(allowed=True)


def _wake_up_pipe() -> Attempt:
    """Wait for a byte that was written before."""
    descriptors: tuple[int, ...] = ()
    try:
        descriptors = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.write(descriptors[1], b"!")
        poll = select.poll()
        poll.register(descriptors[0], select.POLLIN)
        woken = bool(poll.poll(1000))
    except OSError as error:
        return _refused(error.errno or 0)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return Attempt(allowed=woken, reason="" if woken else "a byte that was written did not arrive")


def _eventfd() -> Attempt:
    if sys.platform != "linux":
        return Attempt(allowed=False, reason=f"eventfd is a call of Linux, this is {sys.platform}")
    try:
        os.close(os.eventfd(0, os.EFD_CLOEXEC))
    except OSError as error:
        return _refused(error.errno or 0)
    return Attempt(allowed=True)


def _futex(machine: str) -> Attempt:
    """Wait on a word that holds something else than expected: the kernel refuses at once, if it knows the call."""
    if sys.platform != "linux":
        return Attempt(allowed=False, reason=f"futex is a call of Linux, this is {sys.platform}")
    number = _FUTEX_SYSCALL.get(machine)
    if number is None:
        return Attempt(allowed=False, reason=f"the number of the futex call on {machine} is not known here")
    word = ctypes.c_uint32(1)
    ctypes.set_errno(0)
    result = _libc().syscall(number, ctypes.byref(word), _FUTEX_WAIT, ctypes.c_uint32(0), None, None, 0)
    code = ctypes.get_errno()
    return Attempt(allowed=True) if result == -1 and code == errno.EAGAIN else _refused(code)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _refused(code: int) -> Attempt:
    return Attempt(allowed=False, reason=f"{os.strerror(code)} ({errno.errorcode.get(code, code)})")


def _clock_read_ns() -> int:
    """Return the cheapest of several rounds: what others did meanwhile is not the clock's cost."""
    readings = 1000
    rounds_ns: list[int] = []
    for _ in range(5):
        began_ns = time.monotonic_ns()
        for _ in range(readings):
            time.monotonic_ns()
        rounds_ns.append(time.monotonic_ns() - began_ns)
    return min(rounds_ns) // readings


# --- what helps to be on time ------------------------------------------------------------------------------------


def probe_realtime() -> tuple[Attempt, int, int | None]:
    """Return (attempt, highest priority granted, RLIMIT_RTPRIO), tried by a thread that ends with its priority."""
    if sys.platform != "linux":
        return Attempt(allowed=False, reason=f"SCHED_FIFO is asked for on Linux only, this is {sys.platform}"), 0, None
    soft, _ = resource.getrlimit(resource.RLIMIT_RTPRIO)
    limit = None if soft == resource.RLIM_INFINITY else soft
    highest = os.sched_get_priority_max(os.SCHED_FIFO)
    outcome = Attempt(allowed=False)
    granted = 0

    def try_priorities() -> None:
        nonlocal outcome, granted
        # With the privilege every priority is granted; without it, those up to the limit.
        for priority in (highest, min(limit or 0, highest - 1)):
            if priority < 1:
                continue
            try:
                # 0 is the calling thread; what it starts meanwhile must not inherit the priority.
                os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
                os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
            except OSError as error:
                outcome = _refused(error.errno or 0)
            else:
                outcome, granted = Attempt(allowed=True), priority
                return

    thread = threading.Thread(target=try_priorities, name="steadyflow-realtime-probe")
    thread.start()
    thread.join()
    return outcome, granted, limit


def _rtkit() -> tuple[Attempt, int]:
    """Return (attempt, highest priority granted), tried by a child process, because the limits that it wants are for good."""
    told = _told_by_child("steadyflow.platform.rtkit")
    if isinstance(told, str):
        return Attempt(allowed=False, reason=told), 0
    return Attempt(allowed=not told["reason"], reason=told["reason"]), told["priority"]


def _locked_memory() -> tuple[Attempt, int | None]:
    """Return (attempt with one page, limit in bytes); a limit that does not bind this user is None."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    attempt = _lock(mmap.PAGESIZE)
    if soft == resource.RLIM_INFINITY:
        return attempt, None
    if attempt.allowed and soft <= PROBED_LOCK_BYTES and _lock(soft + mmap.PAGESIZE).allowed:
        return attempt, None
    return attempt, soft


def _lock(size_bytes: int) -> Attempt:
    libc = _libc()
    with contextlib.closing(mmap.mmap(-1, size_bytes)) as memory:
        # The array keeps the mapping open, so it has to go first.
        array = (ctypes.c_char * size_bytes).from_buffer(memory)
        address, length = ctypes.c_void_p(ctypes.addressof(array)), ctypes.c_size_t(size_bytes)
        failed = libc.mlock(address, length)
        code = ctypes.get_errno()
        if not failed:
            libc.munlock(address, length)
        del array
    return _refused(code) if failed else Attempt(allowed=True)


# --- audio libraries ---------------------------------------------------------------------------------------------


def _libraries() -> dict[str, Library]:
    names = ("soundfile", "soxr", "sounddevice", "portaudio", "portaudio_backends")
    found = _told_by_child("steadyflow.platform.libraries")
    if isinstance(found, str):
        return dict.fromkeys(names, Library(None, found))
    return {name: Library(found[name].get("version"), found[name].get("reason", "")) for name in names}


def _told_by_child(module: str) -> dict[str, Any] | str:
    """Return what a module of ours prints as JSON when it is run by itself, or why it printed nothing."""
    if not sys.executable:
        return "this interpreter does not know its own path, so none was tried"
    command = [sys.executable, "-m", module]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=False
        )
        # The last line: an audio library may greet on the same stream.
        told: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except subprocess.TimeoutExpired:
        return f"loading did not end within {CHILD_TIMEOUT_S:g} s"
    except (OSError, ValueError) as error:
        return f"`{' '.join(command)}` gave no answer: {error}"
    return told
