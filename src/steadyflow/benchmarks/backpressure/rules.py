"""
The rules that are measured.

A new rule is one line of `RULES`: its name, how it is made, and whether the source that it is given is live.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import steadyflow
from steadyflow.benchmarks.backpressure.load import Load

__all__ = ["RULES", "Context", "Entry"]


@dataclass(frozen=True)
class Context:
    """
    What a rule may depend on.

    Args:
        folder: Empty, and gone after the run.
        live: Whether nothing slows the source.
        load: The load; `load.room` is how many blocks may wait.
    """

    folder: Path
    live: bool
    load: Load


class Entry(NamedTuple):
    """
    A rule.

    Args:
        make: Makes it.
        live: Whether nothing slows the source; False for rules that let it wait.
        note: What a reader must know to compare it.
    """

    make: Callable[[Context], steadyflow.Rule]
    live: bool = True
    note: str = ""


RULES: Final[Mapping[str, Entry]] = {
    "DropOldest": Entry(lambda _: steadyflow.DropOldest()),
    "DropNewest": Entry(lambda _: steadyflow.DropNewest()),
    "DropByPriority": Entry(lambda _: steadyflow.DropByPriority(), note="the only input of its consumer"),
    "Sample": Entry(lambda _: steadyflow.Sample(4), note="one of four, always"),
    "Latest": Entry(lambda _: steadyflow.Latest(), note="where blocks come in bursts of 1 ms, the newest of each"),
    "Fail": Entry(lambda _: steadyflow.Fail(), note="the producer gets the block back, and drops it"),
    "Wait": Entry(lambda _: steadyflow.Wait(), live=False, note="the source waits, and makes fewer blocks"),
    "Throttle": Entry(
        lambda _: steadyflow.Throttle(), live=False, note="the source is paced to what its consumer takes"
    ),
    "Grow": Entry(lambda at: steadyflow.Grow(8 * at.load.room), note="up to eight times the room"),
    "Spill": Entry(
        lambda at: steadyflow.Spill(str(at.folder / "blocks.sqlite"), max_bytes=1 << 28),
        note="on disk, by a module before the consumer; the room is that of two pipelines",
    ),
    "Adaptive": Entry(lambda _: steadyflow.Adaptive()),
}
"""By name. The first one is what the targets and peers are seen beside: the default of a live source."""
