"""
Which memory of a real-time worker is kept from being swapped out, within RLIMIT_MEMLOCK.

Memory that will be mapped is locked only where no limit binds: below a limit that is used up, every further mapping fails,
and with it the module that allocates. Where everything does not fit, the memory of the pipelines does more than a part of
the rest, because every block goes through it.

Pages are locked from their first use on (MCL_ONFAULT), but for those of the pipelines, which are filled at once. Without,
a worker would fill what is reserved and never used, such as stacks of threads and the pools of numeric libraries: some
hundred MiB for each worker. What is used after the first blocks is there and stays.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from steadyflow._native import Segment, lock_memory, may_lock
from steadyflow.runtime.scheduling import MemoryLock


def plan_memory_lock(
    limit_bytes: int | None, mapped_bytes: int, stack_bytes: int, segment_bytes: Sequence[int]
) -> MemoryLock:
    """
    Choose what to lock.

    Args:
        limit_bytes: RLIMIT_MEMLOCK; None where none binds this process.
        mapped_bytes: All that the process has mapped, used or not: that is what counts against the limit.
        stack_bytes: How large the main thread's stack may grow. What is locked grows with it, and a process whose locked
            stack may not grow is killed.
        segment_bytes: The sizes of the flow's segments.
    """
    if limit_bytes is None:
        return "everything"
    if mapped_bytes + stack_bytes <= limit_bytes:
        return "present"
    return "segments" if segment_bytes and min(segment_bytes) <= limit_bytes else "nothing"


def lock_worker_memory(segments: Sequence[Segment]) -> tuple[MemoryLock, str | None]:
    """
    Lock what may be locked. Before the flow runs; may block while pages are filled.

    Returns:
        What was locked, and what was refused, with the reason, or None.
    """
    limit_bytes = _binding_limit_bytes()
    planned = plan_memory_lock(limit_bytes, _mapped_bytes(), _stack_bytes(), [segment.bytes for segment in segments])
    limited = None if limit_bytes is None else f"RLIMIT_MEMLOCK allows {limit_bytes >> 10} KiB"
    # The pipelines first: of them the pages are filled.
    locked, error = _lock_segments(segments) if planned != "nothing" else (0, 0)
    if planned in ("everything", "present"):
        failed = lock_memory(planned == "everything")
        if not failed:
            return planned, limited
        limited = f"the system refused mlockall: {os.strerror(failed)}"
    if locked == len(segments) and locked:
        return "segments", limited
    return "nothing", limited if not error else f"{limited or 'no limit'}, and mlock failed: {os.strerror(error)}"


def _lock_segments(segments: Sequence[Segment]) -> tuple[int, int]:
    """Return how many could be locked, and the last error."""
    locked = error = 0
    for segment in segments:
        failed = segment.lock()
        locked += not failed
        error = failed or error
    return locked, error


def _binding_limit_bytes() -> int | None:
    limit_bytes = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    # A privilege may lift it; whether this process has it, also inside of a container, shows only when it is tried.
    if limit_bytes < 0 or may_lock(limit_bytes + resource.getpagesize()):
        return None
    return limit_bytes


def _mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def _stack_bytes() -> int:
    limit_bytes = resource.getrlimit(resource.RLIMIT_STACK)[0]
    # Where it has no limit, none is kept free for it: 1 GiB is more than any interpreter needs.
    return limit_bytes if limit_bytes >= 0 else 1 << 30
