"""How many blocks may wait, where that follows the load. Pure functions of readings."""

from __future__ import annotations

from typing import Final

from steadyflow.backpressure.reading import Reading

LEAST_CHANGE: Final = 0.25
"""A room is changed by more than that share, or not at all (as Flink does with its buffers)."""
LEAST_ROOM: Final = 2
"""With room for one block alone, a consumer waits whenever its sender is a little late."""
GROW_AT: Final = 0.5
"""The share of its room at which a pipeline gets more."""
SHRINK_BELOW: Final = 0.25
"""The share below which it has to stay for a while to be given less."""
SHRINK_NS: Final = 5_000_000_000


def drained_within(service_hz: float, drain_ms: float, room: int, most: int) -> int | None:
    """
    Return the room of which a consumer takes everything within a time; None: about as much as there is.

    Args:
        service_hz: How many blocks it takes in a second.
        drain_ms: The time.
        room: How many blocks may wait now.
        most: How many may wait at most.
    """
    wanted = min(max(round(service_hz * drain_ms / 1000), LEAST_ROOM), most)
    return wanted if abs(wanted - room) > LEAST_CHANGE * room else None


def divided(buffer_size: int, lanes: int) -> list[int]:
    """Divide the blocks that may wait in a pipeline among its lanes; none gets more than one block more than another."""
    each, more = divmod(buffer_size, lanes)
    return [each + (lane < more) for lane in range(lanes)]


class GrowingRoom:
    """
    Twice as much before it is full, and half of that where it was not needed for 5 s.

    Args:
        least: What it begins with, in blocks.
        most: What it may become.
    """

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most
        self._small_since_ns: int | None = None

    def note(self, reading: Reading, room: int) -> int | None:
        """Take in a look at a pipeline with so much room; return what it should have; None: that."""
        fill = reading.waiting / room  # in blocks: more of them are no help where bytes or ms are the limit
        if fill >= GROW_AT:
            self._small_since_ns = None
            return min(2 * room, self._most) if room < self._most else None
        if fill >= SHRINK_BELOW or room <= self._least:
            self._small_since_ns = None
            return None
        if self._small_since_ns is None:
            self._small_since_ns = reading.at_ns
        if reading.at_ns - self._small_since_ns < SHRINK_NS:
            return None
        self._small_since_ns = None
        return max(room // 2, self._least)
