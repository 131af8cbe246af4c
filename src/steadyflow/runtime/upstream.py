"""
Which sends have to be slowed down, so that less comes through a pipeline; and how fast each may be.

A source is paced where it sends into the first ring below it: what is handed over by a call waits with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from steadyflow.pipeline import Pipeline

_LEAST_CHANGE: Final = 0.02  # of a pace: less is not worth a store
_LONGEST_NS: Final = 60_000_000_000  # what the data plane takes for a pace


def first_rings_above(pipeline: Pipeline, pipelines: Iterable[Pipeline]) -> list[Pipeline]:
    """
    Return the pipelines with a ring through which comes what comes through this one, and above which no other has one.

    Args:
        pipeline: One with a ring.
        pipelines: All of the flow.
    """
    into: dict[str, list[Pipeline]] = {}
    for each in pipelines:
        into.setdefault(each.target[0], []).append(each)
    first: list[Pipeline] = []
    seen: set[str] = set()

    def visit(link: Pipeline) -> None:
        if link.id in seen:
            return
        seen.add(link.id)
        above = [] if link.source_open else _rings_into(link.source[0], into)
        if not above:
            first.append(link)
        for each in above:
            visit(each)

    visit(pipeline)
    return first


def _rings_into(module: str, into: Mapping[str, Sequence[Pipeline]]) -> list[Pipeline]:
    """Return the pipelines with rings that lead into a module, or into one that hands its blocks over to it by a call."""
    found: list[Pipeline] = []
    queue, seen = [module], {module}
    for name in queue:
        for link in into.get(name, ()):
            if link.has_ring:
                found.append(link)
            elif link.source[0] not in seen:
                seen.add(link.source[0])
                queue.append(link.source[0])
    return found


class Paces:
    """The paces that are in force. One thread at a time."""

    def __init__(self) -> None:
        self._wanted: dict[str, dict[str, float]] = {}  # by the pipeline that is paced, and that for whose sake
        self._links: dict[str, Pipeline] = {}

    def want(
        self, pipeline: Pipeline, hz: float | None, first: Iterable[Pipeline], ratios: Mapping[str, float | None]
    ) -> None:
        """
        Let no more come through a pipeline in a second; None: as it comes.

        Args:
            pipeline: The pipeline.
            hz: The rate.
            first: Where it is paced, see `first_rings_above`.
            ratios: How many blocks come through each of those for one through the pipeline, where that is known: a module may make more
                blocks of one, or fewer.
        """
        for wanted in self._wanted.values():
            wanted.pop(pipeline.id, None)  # the flow may have been changed, so that something else is first now
        if hz is None:
            return
        for link in first:
            self._links[link.id] = link
            self._wanted.setdefault(link.id, {})[pipeline.id] = hz * (ratios.get(link.id) or 1.0)

    def apply(self) -> None:
        """Let the slowest of what is wanted hold."""
        for name, wanted in self._wanted.items():
            # Each ring has a sender of its own. Another one may have taken its place since the last time.
            link = self._links[name]
            rings = link.filling
            pace_ns = round(min(len(rings) * 1e9 / min(wanted.values()), _LONGEST_NS)) if wanted else 0
            if any(abs(ring.pace_ns - pace_ns) > _LEAST_CHANGE * pace_ns for ring in rings):
                link.set_pace(pace_ns)

    def clear(self) -> None:
        """Let everything come as it comes."""
        for wanted in self._wanted.values():
            wanted.clear()
        self.apply()

    def forget(self, pipeline: Pipeline) -> None:
        """Let everything come again that was slowed down for the sake of a pipeline, or in it."""
        for wanted in self._wanted.values():
            wanted.pop(pipeline.id, None)
        self._wanted.get(pipeline.id, {}).clear()
        self.apply()
        for kept in (self._wanted, self._links):
            kept.pop(pipeline.id, None)
