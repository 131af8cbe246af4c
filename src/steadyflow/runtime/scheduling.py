"""Real-time scheduling of a worker process. Linux; where the system refuses, the flow runs and says how to allow it."""

from __future__ import annotations

import os
from typing import Final

# Below the audio server's own (JACK 10, PipeWire 88 of 99 by default in its real-time module), above everything normal.
FIFO_PRIORITY: Final = 70


def request_realtime() -> str | None:
    """
    Give the calling process's main thread the policy SCHED_FIFO, with reset on fork.

    Returns:
        None if it was granted; otherwise why not, and what to do.
    """
    if not hasattr(os, "sched_setscheduler"):
        return "this system has no SCHED_FIFO"
    wanted = FIFO_PRIORITY
    while wanted > 0:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(wanted))
        except PermissionError:
            limit = _rtprio_limit()
            if 0 < limit < wanted:
                wanted = limit
                continue
            return (
                "the system does not allow SCHED_FIFO for this user; allow it with a line "
                "'@audio - rtprio 95' in /etc/security/limits.d/audio.conf, join the group audio, and log in again"
            )
        except OSError as error:
            return f"the system refused SCHED_FIFO: {error.strerror}"
        return None
    return "the limit of real-time priority is 0"


def _rtprio_limit() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
