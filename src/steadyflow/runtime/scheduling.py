"""
Real-time scheduling of a worker process: what to ask for, and what was granted. Linux.

In steps, each of which says what it got: SCHED_FIFO from the system itself; else RealtimeKit, which gives SCHED_RR to users
without privilege; else the flow runs at normal priority and says how to allow more.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from steadyflow.platform.capabilities import Capabilities
from steadyflow.platform.rtkit import RealtimeKitRefusal, realtime_kit

SchedulingPolicy: TypeAlias = Literal["other", "fifo", "rr"]
MemoryLock: TypeAlias = Literal["nothing", "segments", "present", "everything"]

CRITICAL_PRIORITY: Final = 4
HIGH_PRIORITY: Final = 3
NORMAL_PRIORITY: Final = 2
LOW_PRIORITY: Final = 1
"""
Real-time priorities (1 to 99) of a worker by the priority of its most critical input.

All are above everything that has none. All are below the threads that feed the devices, which Python code must never keep
from running: by default 5 for the clients of JACK (its server: 10) and for PulseAudio, up to 20 where RealtimeKit gives
them, and 83 or 88 for PipeWire.
"""

PRIORITIES: Final = (CRITICAL_PRIORITY, HIGH_PRIORITY, NORMAL_PRIORITY, LOW_PRIORITY)
"""By the rank of a pipeline's priority, from 0."""

RUNAWAY_LIMIT_US: Final = 500_000
"""
A real-time thread that computes for so long, in µs of processor time, without a blocking call is lowered.

The kernel counts (RLIMIT_RTTIME), so that it holds whatever Python or a library is doing.
"""

RTKIT_MARGIN: Final = 0.75
"""The part of RealtimeKit's limit after which a thread is lowered; at the limit itself the kernel kills the process."""

HOW_TO_ALLOW: Final = "allow it with a line '@audio - rtprio 95' in /etc/security/limits.d/audio.conf, join the group audio, and log in again"


class Refusal(msgspec.Struct, frozen=True):
    """
    Something that a real-time worker asked the system for and did not get.

    Args:
        what: ``"SCHED_FIFO"``, ``"RealtimeKit"``, ``"memory lock"``, ``"CPU latency"`` or ``"runaway guard"``.
        reason: Why not.
    """

    what: str
    reason: str


class Scheduling(msgspec.Struct, frozen=True, kw_only=True):
    """
    How the system runs a worker: what was asked for with ``realtime=True``, and what was granted.

    Args:
        policy: Of the thread that runs the modules: ``"fifo"``, ``"rr"``, or ``"other"``, the normal one.
        priority: From 1 to 99 with a real-time policy; 0 without.
        granted_by: ``"system"``: by the privilege or the limits of the user; ``"rtkit"``; None without a real-time policy.
        memory_locked: What is never swapped out: ``"everything"``; ``"present"``: what was there when the flow began;
            ``"segments"``: the memory of the pipelines; or ``"nothing"``.
        runaway_limit_us: After so much processor time without a blocking call the thread is lowered; 0: never.
        cpu_latency_us: Processors wake up within so many µs while the worker runs; None: not asked for, or refused.
        refusals: What was refused, in the order in which it was asked for.
    """

    policy: SchedulingPolicy = "other"
    priority: int = 0
    granted_by: Literal["system", "rtkit"] | None = None
    memory_locked: MemoryLock = "nothing"
    runaway_limit_us: int = 0
    cpu_latency_us: int | None = None
    refusals: tuple[Refusal, ...] = ()

    @property
    def realtime(self) -> bool:
        """Whether a real-time policy was granted."""
        return self.granted_by is not None

    @property
    def notice(self) -> str | None:
        """Why there is no real-time policy though one was asked for, and how to allow it; else None."""
        if self.realtime or not self.refusals:
            return None
        if any(refusal.what == "runaway guard" for refusal in self.refusals):
            return next(refusal.reason for refusal in reversed(self.refusals) if refusal.what == "runaway guard")
        asked = ("SCHED_FIFO", "RealtimeKit")
        return "; ".join([*(refusal.reason for refusal in self.refusals if refusal.what in asked), HOW_TO_ALLOW])

    def revoked(self, reason: str) -> Scheduling:
        """Return what is left after the thread was lowered for a reason."""
        return msgspec.structs.replace(
            self,
            policy="other",
            priority=0,
            granted_by=None,
            refusals=(*self.refusals, Refusal("runaway guard", reason)),
        )


# --- what to ask for ------------------------------------------------------------------------------------------------


def wanted_priority(input_ranks: Iterable[int], output_ranks: Iterable[int] = ()) -> int:
    """
    Return the real-time priority of a worker.

    Args:
        input_ranks: Of the pipelines that end in it, 0 (critical) to 3 (low). The most critical one decides.
        output_ranks: Of those that begin in it, which decide where none ends in it.
    """
    ranks = list(input_ranks) or list(output_ranks)
    return PRIORITIES[min(ranks)] if ranks else NORMAL_PRIORITY


def fifo_attempts(wanted: int, limit: int) -> tuple[int, ...]:
    """
    Return the priorities to ask for, one after the other until one is granted.

    Args:
        wanted: The best.
        limit: RLIMIT_RTPRIO, up to which a user without the privilege is granted any; -1: no limit.
    """
    return (wanted, limit) if 0 < limit < wanted else (wanted,)


class Terms(NamedTuple):
    """What is asked of RealtimeKit, and the RLIMIT_RTTIME that it wants to see, in µs."""

    priority: int
    soft_us: int
    hard_us: int


def rtkit_terms(wanted: int, max_priority: int, rttime_max_us: int) -> Terms | None:
    """Return what is asked of RealtimeKit within its limits; None where they leave nothing."""
    if max_priority < 1 or rttime_max_us < 2:
        return None
    soft_us = max(1, min(int(rttime_max_us * RTKIT_MARGIN), RUNAWAY_LIMIT_US))
    return Terms(min(wanted, max_priority), soft_us, rttime_max_us)


def runaway_limits(soft_us: int, hard_us: int) -> tuple[int, int]:
    """
    Return the RLIMIT_RTTIME, soft and hard, of a worker that the system itself has granted real-time scheduling.

    Args:
        soft_us: The one that it was born with, in µs; -1: no limit.
        hard_us: Likewise.
    """
    soft_us = RUNAWAY_LIMIT_US if soft_us < 0 else min(soft_us, RUNAWAY_LIMIT_US)
    if 0 <= hard_us <= soft_us:
        # At the hard limit the kernel kills; it can only be lowered, so the warning has to come before it.
        soft_us = max(1, int(hard_us * RTKIT_MARGIN))
    return soft_us, hard_us


def known_refusals(capabilities: Capabilities | None) -> dict[str, str]:
    """
    Return which ways to real-time scheduling need not be tried, and why: by name, ``"SCHED_FIFO"`` and ``"RealtimeKit"``.

    Args:
        capabilities: What is known of the system; None: nothing is, so everything is tried.
    """
    if capabilities is None:
        return {}
    ways = {"SCHED_FIFO": capabilities.realtime, "RealtimeKit": capabilities.rtkit}
    return {name: attempt.reason for name, attempt in ways.items() if not attempt.allowed}


# --- asking ---------------------------------------------------------------------------------------------------------


def request_realtime(wanted: int, known: Mapping[str, str] = MappingProxyType({})) -> Scheduling:
    """
    Give the calling process's main thread, which must be the caller, a real-time policy with reset on fork.

    May block for some seconds, where RealtimeKit is asked. Sets RLIMIT_RTTIME of the process, if it was granted.

    Args:
        wanted: The priority, 1 to 99; a lower one is taken where no more is allowed.
        known: What need not be tried; see `known_refusals`.
    """
    refused = known.get("SCHED_FIFO") or _request_fifo(wanted)
    if refused is None:
        limits = runaway_limits(*resource.getrlimit(resource.RLIMIT_RTTIME))
        resource.setrlimit(resource.RLIMIT_RTTIME, limits)
        return _granted("system", limits[0], ())
    refusals = [Refusal("SCHED_FIFO", refused)]
    if "RealtimeKit" in known:
        return Scheduling(refusals=(*refusals, Refusal("RealtimeKit", known["RealtimeKit"])))
    try:
        soft_us = _request_from_rtkit(wanted)
    except RealtimeKitRefusal as refusal:
        refusals.append(Refusal("RealtimeKit", f"RealtimeKit does not give it: {refusal}"))
        return Scheduling(refusals=tuple(refusals))
    return _granted("rtkit", soft_us, tuple(refusals))


def _request_fifo(wanted: int) -> str | None:
    """Return None if SCHED_FIFO was granted; otherwise why not."""
    for priority in fifo_attempts(wanted, resource.getrlimit(resource.RLIMIT_RTPRIO)[0]):
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
        except PermissionError:
            continue
        except OSError as error:
            return f"the system refused SCHED_FIFO: {error.strerror}"
        return None
    return "the system does not allow SCHED_FIFO for this user"


def _request_from_rtkit(wanted: int) -> int:
    """Return the soft RLIMIT_RTTIME that was set, in µs; raises RealtimeKitRefusal."""
    born_with = resource.getrlimit(resource.RLIMIT_RTTIME)
    with realtime_kit() as kit:
        terms = rtkit_terms(wanted, kit.max_priority, kit.rttime_max_us)
        if terms is None:
            raise RealtimeKitRefusal(f"its highest priority is {kit.max_priority}")
        hard_us = terms.hard_us if born_with[1] < 0 else min(terms.hard_us, born_with[1])
        soft_us = min(terms.soft_us, max(1, int(hard_us * RTKIT_MARGIN)))
        resource.setrlimit(resource.RLIMIT_RTTIME, (soft_us, hard_us))
        kit.promote(os.getpid(), terms.priority)
    return soft_us


def _granted(by: Literal["system", "rtkit"], runaway_limit_us: int, refusals: tuple[Refusal, ...]) -> Scheduling:
    # What the kernel says, not what was asked for: RealtimeKit may be set up for another policy.
    policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    return Scheduling(
        policy="fifo" if policy == os.SCHED_FIFO else "rr",
        priority=os.sched_getparam(0).sched_priority,
        granted_by=by,
        runaway_limit_us=runaway_limit_us,
        refusals=refusals,
    )
