"""
The garbage collector of a real-time worker: it runs when the worker has nothing to do, not in the middle of a block.

Young objects first, older ones when the younger were collected often enough, as Python does by itself. What setup has made
is never looked at again. A worker that is never idle collects all the same, before memory grows without bound: automatic
collection is not turned off, but begins much later than usual.
"""

from __future__ import annotations

import gc
from typing import Final

from steadyflow._native import monotonic_ns

YOUNG_OBJECTS: Final = 700
"""So many more containers than were freed since the last collection are a reason for one."""

YOUNGER_COLLECTIONS: Final = 10
"""So many collections of a generation are a reason to collect the next older one."""

NEVER_IDLE_OBJECTS: Final = 50_000
"""So many more containers than were freed are collected even in the middle of a block: some MiB of memory."""

FULL_COLLECTION_SHARE: Final = 0.01
"""The oldest generation, which may take longest, takes no larger part of the time than this."""


class IdleCollection:
    """Collects a little whenever it is called. The worker's thread."""

    def __init__(self) -> None:
        self._next_full_ns = 0

    def begin(self) -> None:
        """Take over from the interpreter. After setup, before the first block."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(NEVER_IDLE_OBJECTS, YOUNGER_COLLECTIONS, YOUNGER_COLLECTIONS)

    def __call__(self) -> None:
        """Collect the youngest generation, and at most one older one, if there is a reason."""
        young, middle, old = gc.get_count()
        if young < YOUNG_OBJECTS:
            return
        generation = 0
        if middle >= YOUNGER_COLLECTIONS:
            generation = 2 if old >= YOUNGER_COLLECTIONS and monotonic_ns() >= self._next_full_ns else 1
        began_ns = monotonic_ns()
        gc.collect(generation)
        if generation == 2:
            ended_ns = monotonic_ns()
            self._next_full_ns = ended_ns + int((ended_ns - began_ns) / FULL_COLLECTION_SHARE)
