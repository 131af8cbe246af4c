"""
The guard against a real-time worker that keeps a core to itself.

The kernel counts the processor time since the last blocking call; at the soft limit of RLIMIT_RTTIME a native handler
lowers the thread to normal priority, whatever runs in it, and writes to a pipe. A thread of normal priority reads it, as
soon as the interpreter lets it, and tells.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from steadyflow._native import Inbox, guard_against_runaway, last_revocation


def watch_for_runaway(inbox: Inbox, tell: Callable[[int | None, int], None]) -> str | None:
    """
    Lower the calling thread when it runs away, and tell so. Once for each process.

    Args:
        inbox: The worker's.
        tell: Called in a thread of its own with the `order` of the module that was running, or None; and 0, or the errno
            with which lowering failed.

    Returns:
        None, or why there is no guard.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # nothing may hold up a signal handler
    error = guard_against_runaway(writer, inbox)
    if error:
        os.close(reader)
        os.close(writer)
        return os.strerror(error)

    def watch() -> None:
        if os.read(reader, 1):
            tell(*last_revocation())

    threading.Thread(target=watch, name="steadyflow-runaway", daemon=True).start()
    return None


def running_module(order: int | None, orders: Sequence[tuple[str, int]]) -> str | None:
    """
    Name the module that ran away, where that is known.

    Args:
        order: Its place in the flow, as the handler found it; None: no call of a module was noted.
        orders: The worker's modules and their places.
    """
    if len(orders) == 1:
        return orders[0][0]
    names = [name for name, each in orders if each == order]
    return names[0] if len(names) == 1 else None
