"""Where the time comes from; nothing else in steadyflow asks the system for it, so a test can bring its own."""

from __future__ import annotations

from typing import Final, Protocol

from steadyflow._native import ManualTime, monotonic_ns
from steadyflow.arguments import checked_seconds
from steadyflow.errors import StateError
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
    at the same time in each run: stamps, latencies, late and dropped blocks, events. One flow after the other may go by it; the
    next one begins where the last one has ended.

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

    __slots__ = ("__weakref__", "_owner", "_turns")

    def __init__(self, start_ns: int = _FIRST_NS) -> None:
        self._turns = ManualTime(checked_integer("ManualClock", "start_ns", start_ns, _LATEST_NS))
        self._owner: str | None = None

    def monotonic_ns(self) -> int:
        """Return its time in ns. Any thread, never blocks."""
        return self._turns.now_ns

    def begin_run(self, flow: str) -> ManualTime:
        """
        Return who works when, for one run of a flow; time stands still. For the runtime.

        Raises:
            StateError: Another flow goes by it.
        """
        if self._owner is not None:
            raise StateError(
                f"flow {flow!r}: expected a clock that no other flow goes by; flow {self._owner!r} runs by this one. Give it one of "
                f"its own."
            )
        self._owner = flow
        self._turns = ManualTime(self._turns.now_ns)
        return self._turns

    def end_run(self) -> None:
        """Let another flow go by it. For the runtime."""
        self._owner = None

    def sleep(self, seconds: float) -> None:
        """
        Let its time go on.

        In a module: as if it computed for so long, or waited for something outside of the flow; others go on meanwhile. Elsewhere: lets the
        flow run for so long, and returns when everything has been done that is due by then, however long that takes. A module
        that never comes back is waited for; Ctrl-C ends that.

        Raises:
            ConfigurationError: `seconds` is no time.
        """
        turns = self._turns
        moment_ns = turns.now_ns + round(checked_seconds("ManualClock.sleep", "seconds", seconds) * 1e9)
        if turns.is_seated:
            turns.sleep_until(moment_ns)
            return
        turns.go_on_until(moment_ns)
        try:
            while not turns.wait_until(moment_ns, _LOOK_UP_S):
                pass
        except BaseException:
            turns.stand_still()
            raise

    def __repr__(self) -> str:
        return f"<ManualClock: {self._turns.now_ns / 1e9:.9f} s>"
