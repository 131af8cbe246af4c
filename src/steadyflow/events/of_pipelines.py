"""What happens in a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from steadyflow.events.event import Delivery, FlowEvent
from steadyflow.metrics.flow_metrics import WorstBlock


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineRegistered(FlowEvent):
    """A pipeline was made; of a flow that runs, blocks flow on it. Published by the coordinator."""

    pipeline: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineDisconnected(FlowEvent):
    """A pipeline was taken away while the flow runs, with what became of its blocks. Published by the coordinator."""

    delivery: ClassVar[Delivery] = "high"

    pipeline: str
    sent: int
    delivered: int
    dropped: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelinePaused(FlowEvent):
    """Nothing comes out of a pipeline until it is resumed. Published by `Pipeline.pause`."""

    delivery: ClassVar[Delivery] = "high"

    pipeline: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineResumed(FlowEvent):
    """What waits in a pipeline comes out again. Published by `Pipeline.resume`, and when the flow stops."""

    delivery: ClassVar[Delivery] = "high"

    pipeline: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewsExhausted(FlowEvent):
    """
    A consumer keeps `limit` views of large blocks of a pipeline; from now on it is given copies while it keeps so many.

    Published once for each pipeline, by the consumer's worker. The module is the one that keeps them, or the open end's name.
    """

    delivery: ClassVar[Delivery] = "high"

    pipeline: str
    module: str
    limit: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockRejected(FlowEvent):
    """
    A block was dropped before its module saw it: it could not be converted, or did not pass a check, and its pipeline says to go on.

    Published by the worker that drops it, for the first one, and at most once a second.

    Args:
        pipeline: The pipeline.
        module: The module that would have got it.
        block_sequence: The number of the block.
        reason: What was expected, and what came.
        rejected: How many were dropped so far, by that worker.
    """

    delivery: ClassVar[Delivery] = "high"

    pipeline: str
    module: str
    block_sequence: int
    reason: str
    rejected: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetExceeded(FlowEvent):
    """
    Three of the last ten blocks of a pipeline took longer than their deadline, from their sending to the end of the work.

    Published by the coordinator, which looks every 50 ms, while it happens; also where a consumer hangs and finishes nothing.
    Only for pipelines with ``max_latency_ms`` or an `AudioPipelineConfig` on which somebody waits for the blocks: below a
    paced source or the application.

    Args:
        pipeline: Its id.
        share: The largest share of its deadline that one of the ten took; 1.0 is all of it.
        limit: The share that was allowed.
        deadline_ms: What the shares are of: ``max_latency_ms``, or the length of the latest block.
        worst: The block that took longest so far, and where its time went; None: none has been finished.
    """

    delivery: ClassVar[Delivery] = "high"

    pipeline: str
    share: float
    limit: float
    deadline_ms: float
    worst: WorstBlock | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetRestored(FlowEvent):
    """
    Ten blocks in a row kept their deadline again. Published as `BudgetExceeded`, which it ends.

    Args:
        pipeline: Its id.
        share: The largest share of its deadline that one of the ten took.
        limit: The share that is allowed.
    """

    delivery: ClassVar[Delivery] = "high"

    pipeline: str
    share: float
    limit: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsumerSharesLock(FlowEvent):
    """
    The consumer of a critical pipeline is in a thread, and waits for the interpreter lock for more than a tenth of a block.

    Published once for each pipeline, by the coordinator, which looks after 200 blocks and then every second.

    Args:
        pipeline: Its id.
        module: The consumer.
        worker: The thread that it runs in.
        gil_p99_ms: How long it waits for the lock, at the 99th percentile.
        period_ms: How long a block lasts.
        advice: What to do about it.
    """

    delivery: ClassVar[Delivery] = "high"

    pipeline: str
    module: str
    worker: str
    gil_p99_ms: float
    period_ms: float
    advice: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolHitRateLow(FlowEvent):
    """
    The buffers of an output could not give a tenth of what was asked of them in a second: too many views are kept, or loans.

    Published by the coordinator, which looks every second, and for one output at most every ten seconds.
    """

    delivery: ClassVar[Delivery] = "normal"

    output: str
    hit_rate: float
    asked: int
    misses: int
    advice: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolTuned(FlowEvent):
    """The consumers of a pipeline may keep more or fewer views, and its output has other buffers for that. Published by `tune_pools`."""

    pipeline: str
    views_before: int
    views_after: int
    bytes_before: int
    bytes_after: int
    reason: str
