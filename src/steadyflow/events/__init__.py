"""What happened in a flow, as frozen records with the time at which it happened."""

from __future__ import annotations

import msgspec

from steadyflow._native import monotonic_ns
from steadyflow.metrics.flow_metrics import WorstBlock


class FlowEvent(msgspec.Struct, frozen=True, kw_only=True):
    """
    Something of note.

    Args:
        flow: The name of the flow.
        timestamp_ns: When, on the monotonic clock.
    """

    flow: str
    timestamp_ns: int = msgspec.field(default_factory=monotonic_ns)


class PipelineRegistered(FlowEvent, frozen=True, kw_only=True):
    """A pipeline was made. Published by the coordinator."""

    pipeline: str


class DataFlowStarted(FlowEvent, frozen=True, kw_only=True):
    """All workers are set up, and the sources may produce. Published by the coordinator."""

    workers: tuple[str, ...]


class RuleSwitched(FlowEvent, frozen=True, kw_only=True):
    """The rule of a pipeline was switched while it runs. Published by `handle_backpressure`."""

    pipeline: str
    rule: str


class PipelinePaused(FlowEvent, frozen=True, kw_only=True):
    """Nothing comes out of a pipeline until it is resumed. Published by `Pipeline.pause`."""

    pipeline: str


class PipelineResumed(FlowEvent, frozen=True, kw_only=True):
    """What waits in a pipeline comes out again. Published by `Pipeline.resume`, and when the flow stops."""

    pipeline: str


class ViewsExhausted(FlowEvent, frozen=True, kw_only=True):
    """
    A consumer keeps `limit` views of large blocks of a pipeline; from now on it is given copies while it keeps so many.

    Published once for each pipeline. The module is the one that keeps them, or the open end's name.
    """

    pipeline: str
    module: str
    limit: int


class BlockRejected(FlowEvent, frozen=True, kw_only=True):
    """
    A block was dropped before its module saw it: it could not be converted, or did not pass a check, and its pipeline says to go on.

    Published for the first one, and at most once a second.

    Args:
        pipeline: The pipeline.
        module: The module that would have got it.
        block_sequence: The number of the block.
        reason: What was expected, and what came.
        rejected: How many were dropped so far, by that worker.
    """

    pipeline: str
    module: str
    block_sequence: int
    reason: str
    rejected: int


class BudgetExceeded(FlowEvent, frozen=True, kw_only=True):
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

    pipeline: str
    share: float
    limit: float
    deadline_ms: float
    worst: WorstBlock | None


class BudgetRestored(FlowEvent, frozen=True, kw_only=True):
    """
    Ten blocks in a row kept their deadline again. Published as `BudgetExceeded`, which it ends.

    Args:
        pipeline: Its id.
        share: The largest share of its deadline that one of the ten took.
        limit: The share that is allowed.
    """

    pipeline: str
    share: float
    limit: float


class ConsumerSharesLock(FlowEvent, frozen=True, kw_only=True):
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

    pipeline: str
    module: str
    worker: str
    gil_p99_ms: float
    period_ms: float
    advice: str


class ModuleEnded(FlowEvent, frozen=True, kw_only=True):
    """All inputs of a module have ended, or its source has; it has finished. Published by its worker."""

    module: str


class PipelineFailure(FlowEvent, frozen=True, kw_only=True):
    """A module or its worker failed; its pipelines end. Published when the coordinator hears of it."""

    module: str | None
    worker: str
    problem: str


class DeviceLost(FlowEvent, frozen=True, kw_only=True):
    """
    A device went away, or its process; it is looked for until it is back, and the flow goes on meanwhile.

    Published by the coordinator when the worker has ended.
    """

    module: str
    worker: str
    problem: str


class DeviceXrun(FlowEvent, frozen=True, kw_only=True):
    """
    A device missed deadlines: its driver said so, frames were lost, or nothing waited when it wanted more.

    Published by the coordinator within 50 ms of the first; what follows within a second is told together.

    Args:
        module: The module of the device.
        capture_xruns: How often the driver missed frames that came in.
        playback_xruns: How often it was given frames too late.
        lost_frames: What it captured and nobody got, as its clock tells.
        underruns: How often the pipeline that it plays from was empty.
    """

    module: str
    capture_xruns: int
    playback_xruns: int
    lost_frames: int
    underruns: int


class DeviceRecovered(FlowEvent, frozen=True, kw_only=True):
    """
    A device that was lost is there again, after `away_s` and as many `attempts`; what it captured between is missing.

    The first block after it is flagged ``DISCONTINUITY``, and numbered as if the time had passed. Published by the coordinator.
    """

    module: str
    worker: str
    away_s: float
    attempts: int


class RealtimeRefused(FlowEvent, frozen=True, kw_only=True):
    """The system does not allow a worker to run with real-time priority; the flow runs without it."""

    worker: str
    reason: str


class RealtimeRevoked(FlowEvent, frozen=True, kw_only=True):
    """
    A real-time worker kept a core to itself and was given normal priority, with which it goes on.

    The module is the one that computed for so long, where that is known.
    """

    worker: str
    module: str | None
    reason: str


class ObservationUnavailable(FlowEvent, frozen=True, kw_only=True):
    """Other processes cannot observe this flow, because its socket could not be made; the flow runs all the same."""

    reason: str


class WorkerUnresponsive(FlowEvent, frozen=True, kw_only=True):
    """A worker had not ended by its deadline; a process was killed, a thread was left behind."""

    worker: str


class DataFlowStopped(FlowEvent, frozen=True, kw_only=True):
    """All workers have ended. Published by the coordinator."""

    failed: bool
