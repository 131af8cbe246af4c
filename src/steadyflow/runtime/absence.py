"""The time from the loss of a device to its return, and how often it is looked for meanwhile."""

from __future__ import annotations

from typing import Final

from steadyflow._native import monotonic_ns

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
"""How long one waits before looking for a lost device, the first time and at most."""


class Absence:
    """
    A device that is away.

    Args:
        module: Whose it is.
        problem: What keeps it away; changes with each attempt.
    """

    def __init__(self, module: str, problem: str) -> None:
        self.module = module
        self.problem = problem
        self.began_ns = monotonic_ns()
        self.attempts = 0

    @property
    def seconds(self) -> float:
        """How long it has been away, by the clock of the calling thread."""
        return (monotonic_ns() - self.began_ns) / 1e9

    @property
    def pause_s(self) -> float:
        """How long to wait before the next attempt: twice as long as before each."""
        return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self.attempts, 16)))
