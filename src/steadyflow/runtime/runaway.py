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


class RunawayWatch:
    """
    Lowers the thread that makes it when it runs away, and tells so. One for each process.

    Args:
        inbox: The worker's.
        tell: Called in a thread of its own with the `order` of the module that was running, or None; and 0, or the errno
            with which lowering failed.

    Raises:
        OSError: The system refused.
    """

    def __init__(self, inbox: Inbox, tell: Callable[[int | None, int], None]) -> None:
        self._tell = tell
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)  # nothing may hold up a signal handler
        error = guard_against_runaway(writer, inbox)
        if error:
            os.close(self._reader)
            os.close(writer)
            raise OSError(error, os.strerror(error))
        self._thread = threading.Thread(target=self._watch, name="steadyflow-runaway", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Let it be told what has happened, before the process ends. May block until it is."""
        if last_revocation() is not None:
            self._thread.join()

    def _watch(self) -> None:
        os.read(self._reader, 1)
        happened = last_revocation()
        assert happened is not None  # it is what the byte says
        self._tell(*happened)


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
