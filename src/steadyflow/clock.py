"""Where the time comes from; nothing else in steadyflow asks the system for it, so a test can bring its own."""

from __future__ import annotations

from typing import Final, Protocol

from steadyflow._native import ManualTime, monotonic_ns
from steadyflow.arguments import checked_seconds
from steadyflow.formats import checked_integer

_FIRST_NS: Final = 1_000_000_000
_LATEST_NS: Final = 1 << 62
_LOOK_UP_S: Final = 0.1


class Clock(Protocol):
    """A source of time that never goes backwards."""

    def monotonic_ns(self) -> int:
        """Return the time in nanoseconds since an arbitrary moment. Does not block."""
        ...


class SystemClock:
    """
    The clock that the calling thread goes by, which is the one of the stamps of the data plane.

    CLOCK_MONOTONIC, the same in all processes; in the workers of a freewheeling flow its `ManualClock`.
    """

    __slots__ = ()

    # The function itself, so that a call costs no Python frame.
    monotonic_ns = staticmethod(monotonic_ns)


class ManualClock:
    """
    The clock of a freewheeling flow: it stands still while modules work, and jumps to the next moment at which one has something to do.

    The workers of the flow take turns by it, one at a time and always in the same order, so whatever happens in the flow happens
    at the same time in each run: stamps, latencies, late and dropped blocks, events. One flow at a time.

    ::

        clock = ManualClock()
        flow.start(clock=clock)
        clock.sleep(0.5)                  # the flow runs for half a second of its time
        assert flow.report().pipelines["mic.out->pitch.audio"].received == 187
        flow.stop()

    Args:
        start_ns: The time at which it begins.

    Raises:
        ConfigurationError: That is no time.
    """

    __slots__ = ("__weakref__", "turns")

    def __init__(self, start_ns: int = _FIRST_NS) -> None:
        self.turns: Final = ManualTime(checked_integer("ManualClock", "start_ns", start_ns, _LATEST_NS))
        """Who works now; for the runtime."""

    def monotonic_ns(self) -> int:
        """Return its time in ns. Any thread, never blocks."""
        return self.turns.now_ns

    def sleep(self, seconds: float) -> None:
        """
        Let its time go on.

        In a module: as if it computed for so long, or waited for something outside of the flow; others go on meanwhile. Elsewhere: lets the
        flow run for so long, and returns when everything has been done that is due by then, however long that takes. A module
        that never comes back is waited for; Ctrl-C ends that.

        Raises:
            ConfigurationError: `seconds` is no time.
        """
        moment_ns = self.turns.now_ns + round(checked_seconds("ManualClock.sleep", "seconds", seconds) * 1e9)
        if self.turns.is_seated:
            self.turns.sleep_until(moment_ns)
            return
        self.turns.set_limit(moment_ns)
        while not self.turns.wait_until_still(_LOOK_UP_S):
            pass

    def __repr__(self) -> str:
        return f"<ManualClock: {self.turns.now_ns / 1e9:.9f} s>"
