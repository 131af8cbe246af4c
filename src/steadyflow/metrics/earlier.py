"""What rings of a pipeline have counted that are there no more, because a module at one of its ends was replaced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Counted(Protocol):
    """What metrics are read from: a ring, or what is left of one."""

    def counters(self) -> dict[str, Any]:
        """Return the account and the counters."""

    def histograms(self) -> dict[str, Any]:
        """Return, by name, counts, sum and largest."""

    def recent_cycles(self) -> list[tuple[int, int, list[float]]]:
        """Return, for each consumer, its cycles, the length of its latest block in ns, and its latest shares."""

    def worst_cycle(self) -> tuple[int, int, int, int, int, int, int] | None:
        """Return the block that took longest."""


class EarlierRings:
    """
    Keeps what rings have counted, added up, so that their memory can be given back. Read as a ring is.

    Args:
        rings: The rings, on which nothing moves any more.
    """

    def __init__(self, rings: Sequence[Counted]) -> None:
        first, *others = (ring.counters() for ring in rings)
        self._counters = {name: _sum([first[name], *(each[name] for each in others)]) for name in first}
        for name in ("fill", "fill_bytes", "fill_frames"):  # which say how it is, and not what has been
            self._counters[name] = 0
        self._counters["peak_fill"] = max(ring.counters()["peak_fill"] for ring in rings)
        readings = [ring.histograms() for ring in rings]
        self._histograms = {name: added_up(each[name] for each in readings) for name in readings[0]}
        cycles = [cycle for ring in rings if (cycle := ring.worst_cycle()) is not None]
        self._worst = max(cycles, key=lambda cycle: cycle[-1] - cycle[1], default=None)

    def counters(self) -> dict[str, Any]:
        """See `Ring`."""
        return self._counters

    def histograms(self) -> dict[str, Any]:
        """See `Ring`."""
        return self._histograms

    def recent_cycles(self) -> list[tuple[int, int, list[float]]]:
        """Nothing is recent here."""
        return []

    def worst_cycle(self) -> tuple[int, int, int, int, int, int, int] | None:
        """See `Ring`."""
        return self._worst


def _sum(values: Sequence[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: sum(each[name] for each in values) for name in values[0]}
    return sum(values)


def added_up(readings: Iterable[tuple[Any, int, int]]) -> tuple[Any, int, int]:
    """Return one histogram of several: counts, sum and largest."""
    counts, sums, largest = zip(*readings, strict=True)
    return sum(counts[1:], counts[0]), sum(sums), max(largest)
