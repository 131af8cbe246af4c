"""The load of every run, ours and theirs: a calm, an overload, a calm again; a consumer that takes half of the overload."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from steadyflow.benchmarks.blocks import BUFFER_BLOCKS
from steadyflow.benchmarks.harness import Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PHASES", "STEP_NS", "Burst", "Load", "Phase"]

Phase = Literal["before", "overload", "after"]

PHASES: Final[tuple[Phase, ...]] = ("before", "overload", "after")

STEP_NS: Final = 1_000_000
"""What Python can pace: where blocks come faster than each millisecond, those of one are sent, and taken, in a row."""


class Burst(NamedTuple):
    """So many blocks, not before that time of the monotonic clock."""

    due_ns: int
    blocks: int
    phase: Phase


@dataclass(frozen=True)
class Load:
    """
    How fast blocks come, and for how long.

    Args:
        blocks_per_s: In the overload. The consumer takes half as many, and in the calm half of that comes.
        calm_s: How long it is calm before, and after.
        overload_s: How long the overload lasts.
    """

    blocks_per_s: int
    calm_s: float
    overload_s: float

    @property
    def room(self) -> int:
        """How many blocks may wait: 64, as in the other benchmarks, and more where 20 ms of blocks are more."""
        return max(BUFFER_BLOCKS, self.blocks_per_s // 50)

    @property
    def service_ns(self) -> int:
        """How long the consumer needs for a block."""
        return round(2e9 / self.blocks_per_s)

    @property
    def most_blocks(self) -> int:
        """How many blocks a producer that waits for nobody sends."""
        return int(self.blocks_per_s * (self.overload_s + self.calm_s / 2)) + 16

    def rate(self, phase: Phase) -> float:
        """Return the blocks per second that come in a phase."""
        return self.blocks_per_s if phase == "overload" else self.blocks_per_s / 4

    def seconds(self, phase: Phase) -> float:
        """Return how long a phase lasts."""
        return self.overload_s if phase == "overload" else self.calm_s

    def to_workload(self) -> Workload:
        """Return it as the harness tells it: those blocks count that come in the overload."""
        blocks = max(1, round(self.blocks_per_s * self.overload_s))
        calm = max(1, round(self.rate("before") * self.calm_s))
        return Workload(blocks, warm_up_blocks=calm, interval_ns=round(1e9 / self.blocks_per_s))

    def bursts(self, *, live: bool) -> Iterator[Burst]:
        """
        Yield what comes when; whoever iterates waits until it is due, and sends it.

        A live producer that is late catches up, since nothing slows what it stands for. Another one goes on from where it is: what it
        could not send while it had to wait was never made.
        """
        step_ns = max(STEP_NS, round(1e9 / self.blocks_per_s))
        due_ns = begin_ns = time.monotonic_ns()
        for phase in PHASES:
            end_ns = begin_ns + round(self.seconds(phase) * 1e9)
            owed = 0.0
            while due_ns < end_ns:
                owed += self.rate(phase) * step_ns / 1e9
                yield Burst(due_ns, int(owed), phase)
                owed -= int(owed)
                due_ns += step_ns
                if not live:
                    due_ns = max(due_ns, time.monotonic_ns())
            begin_ns = end_ns
