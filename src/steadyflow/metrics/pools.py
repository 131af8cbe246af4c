"""What is known of the buffers of an output, and of how well they meet what is asked of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from steadyflow._native import Segment, pool_bytes, pool_state
from steadyflow.metrics.earlier import Counted


class PoolMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """
    The buffers that an output's blocks are written into.

    Memory is asked of them for each block that is sent, for each large block that a consumer is given where it lies (a
    view), and for each loan. Who keeps too many views is given copies, and a loan that cannot be sent as it lay is copied:
    those are the misses.

    Args:
        buffers: How many there are.
        buffer_bytes: The size of each: the size class of the output.
        mapped_bytes: What they take with all that is kept about them.
        held: How many are kept alive by views or a loan at this moment.
        waiting: How many blocks wait in the pipeline in which the most do.
        oldest_ms: For how long the oldest of those that are held has been out.
        peak_views: The most views that a consumer had at once, lately.
        views: How many each consumer may keep, of the pipeline that allows the most.
        asked: How often memory was asked of them.
        misses: How often there was none.
    """

    buffers: int
    buffer_bytes: int
    mapped_bytes: int
    held: int
    waiting: int
    oldest_ms: float
    peak_views: int
    views: int
    asked: int
    misses: int

    @property
    def hit_rate(self) -> float:
        """The share of what was asked that they could give; 1 before anything was."""
        return hit_rate(self.asked, self.misses)

    @property
    def overhead(self) -> float:
        """What is kept about the buffers, as a share of what is in them."""
        payload = self.buffers * self.buffer_bytes
        return (self.mapped_bytes - payload) / payload


class PoolChange(msgspec.Struct, frozen=True, kw_only=True):
    """
    What was tuned, or would be, and why. Print it.

    Args:
        pipeline: The pipeline whose consumers may keep more or fewer views.
        views_before: How many each might keep.
        views_after: How many each may keep.
        bytes_before: What the output's buffers took for that.
        bytes_after: What they take.
        reason: Why, with the numbers.
        refused: Why it was left as it is; None: it was done.
    """

    pipeline: str
    views_before: int
    views_after: int
    bytes_before: int
    bytes_after: int
    reason: str
    refused: str | None = None

    def __str__(self) -> str:
        size = f"{self.bytes_before / 1e6:.2f} -> {self.bytes_after / 1e6:.2f} MB"
        left = "" if self.refused is None else f"; left as it is: {self.refused}"
        return f"{self.pipeline}: {self.views_before} -> {self.views_after} views, {size}, because {self.reason}{left}"


class PoolCounts:
    """
    What the pipelines of an output have counted so far.

    Args:
        pipelines: What is read of each, by id.
    """

    def __init__(self, pipelines: Mapping[str, Sequence[Counted]]) -> None:
        readings = {name: [ring.counters() for ring in rings] for name, rings in pipelines.items()}
        self.sent = max((sum(one["sent"] for one in each) for each in readings.values()), default=0)
        self.views = {name: sum(one["views"] for one in each) for name, each in readings.items()}
        self.copies = {name: sum(one["kept_copies"] for one in each) for name, each in readings.items()}
        self.loan_copies = max((sum(one["loan_copies"] for one in each) for each in readings.values()), default=0)
        self.waiting = max((sum(one["fill"] for one in each) for each in readings.values()), default=0)

    @property
    def misses(self) -> int:
        """How often there was no memory where it was asked for."""
        return int(sum(self.copies.values()) + self.loan_copies)

    @property
    def asked(self) -> int:
        """How often it was asked for."""
        return int(self.sent + sum(self.views.values()) + sum(self.copies.values()))


def read_pool_metrics(
    pipelines: Mapping[str, Sequence[Counted]],
    places: Iterable[tuple[Segment, int]],
    *,
    peak_views: int,
    views: int,
    now_ns: int,
) -> PoolMetrics:
    """
    Read what is known of the buffers of an output. Does not disturb it; any thread.

    Args:
        pipelines: What its pipelines count, by id.
        places: Where its buffers lie.
        peak_views: The most views that a consumer had lately.
        views: How many it may keep.
        now_ns: The time, for the ages.
    """
    states = [pool_state(*place, now_ns) for place in places]
    counts = PoolCounts(pipelines)
    return PoolMetrics(
        buffers=sum(count for count, *_ in states),
        buffer_bytes=max(capacity for _, capacity, *_ in states),
        mapped_bytes=sum(pool_bytes(count, capacity) for count, capacity, *_ in states),
        held=sum(held for *_, held, _ in states),
        waiting=counts.waiting,
        oldest_ms=max(oldest_ns for *_, oldest_ns in states) / 1e6,
        peak_views=peak_views,
        views=views,
        asked=counts.asked,
        misses=counts.misses,
    )


def hit_rate(asked: int, misses: int) -> float:
    """Return the share of what was asked that was given."""
    return 1.0 if asked == 0 else (asked - misses) / asked
