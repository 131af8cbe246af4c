"""Where the time comes from; nothing else in steadyflow asks the system for it, so a test can bring its own."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time that never goes backwards."""

    def monotonic_ns(self) -> int:
        """Return the time in nanoseconds since an arbitrary moment. Does not block."""
        ...


class SystemClock:
    """The clock of this system (CLOCK_MONOTONIC): the same in all processes, and in the stamps of the data plane."""

    __slots__ = ()

    # The function itself, so that a call costs no Python frame.
    monotonic_ns = staticmethod(time.monotonic_ns)
