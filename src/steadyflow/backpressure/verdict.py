"""What a detector says of a pipeline."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["OK", "LOW", "HIGH"]

LEVELS: tuple[Level, ...] = ("OK", "LOW", "HIGH")
"""From the best to the worst."""


class Verdict(NamedTuple):
    """
    What a detector says of a pipeline at a look.

    Args:
        detector: Which one: ``"watermarks"``, ``"standing_delay"``, ``"time_to_full"``, ``"blocked_share"``, ``"growing_queue"``,
            ``"backlog"``, ``"any_of"`` or ``"all_of"``.
        congested: Whether the pipeline gets more than its consumer takes; it stays so until it is relieved.
        level: What this look alone shows. A high one may still pass by; after a low one the pipeline may still be congested.
        reason: Why, in words, with the numbers.
        numbers: What it was found by, as names, which end with their unit, and values.
    """

    detector: str
    congested: bool
    level: Level
    reason: str
    numbers: tuple[tuple[str, float], ...]
