"""What a pipeline did, as one frozen record, read from the data plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from steadyflow.metrics.earlier import Counted, added_up
from steadyflow.metrics.health import Health, health_of, health_score, lost_blocks
from steadyflow.metrics.histogram import Histogram
from steadyflow.metrics.pressure import Pressure


class WorstBlock(msgspec.Struct, frozen=True, kw_only=True):
    """
    The block that took longest from its sending to the end of the work on it, and where its time went.

    All stamps are on the monotonic clock. They are those of one block: a consumer that dies leaves the record before.

    Args:
        sequence: Its number on the pipeline.
        sent_ns: When it was sent.
        due_from_ns: What its deadline was counted from: the same, or the end of a pause in which it waited.
        awake_ns: When its consumer was awake.
        gil_ns: When that had the interpreter lock.
        started_ns: When the module was called.
        finished_ns: When it had returned; of an open target, when the block was handed over.
    """

    sequence: int
    sent_ns: int
    due_from_ns: int
    awake_ns: int
    gil_ns: int
    started_ns: int
    finished_ns: int

    @property
    def total_ms(self) -> float:
        """From its sending, or the end of a pause, to its end, in ms."""
        return max(self.finished_ns - self.due_from_ns, 0) / 1e6

    @property
    def wait_ms(self) -> float:
        """How long it waited until its consumer was awake, in ms."""
        return max(self.awake_ns - self.due_from_ns, 0) / 1e6

    @property
    def gil_ms(self) -> float:
        """How long its consumer waited for the interpreter lock, in ms."""
        return max(self.gil_ns - self.awake_ns, 0) / 1e6

    @property
    def busy_ms(self) -> float:
        """How long the module worked on it, in ms."""
        return max(self.finished_ns - self.started_ns, 0) / 1e6

    def __str__(self) -> str:
        return (
            f"block {self.sequence} took {self.total_ms:.3f} ms: {self.wait_ms:.3f} waiting, {self.gil_ms:.3f} for the "
            f"interpreter lock, {self.busy_ms:.3f} in the module"
        )


class FlowMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """
    The metrics of one pipeline since it was made. Counts are blocks; times are milliseconds.

    ``sent = delivered + dropped_total + in_flight`` holds always. *latency* is started - sent; *overhead* is started -
    max(sent, consumer became free), the part that steadyflow adds; *wait* is awake - sent, *gil* the time from awake
    to having the interpreter lock, *busy* the module's own work. ``kept_copies`` are large blocks that were copied because
    the consumer kept ``buffer_size`` views already; ``loan_copies`` those that were written in a loan and copied.

    Where somebody waits for the blocks (below a paced source or the application), each is a *cycle* with a deadline: sent +
    ``max_latency_ms`` or, without one, as long as the block lasts; ``missed_deadlines`` finished later. *load* is the share of
    the block's own length from awake to finished, as audio servers tell it: 1.0 is all there is; ``wait_load``, ``gil_load``
    and ``busy_load`` are the shares of the three parts, of a block of ``period_ms``, the length of the latest one. All of them
    are 0 where nobody waits, or what flows is no audio. ``concealed_blocks`` and ``concealed_frames`` were made up in place of
    late or missing ones; they are no blocks of the account.

    ``dropped_ms`` is how much audio was dropped, by reason; nothing where it is no audio. ``blocked_ms`` is for how long senders waited for
    room, ``paced_ms`` for how long because they were slowed down. *pressure* is what flow control knows; None where it does not look:
    before the start, where a call hands the blocks over, in a flow that freewheels, and from another process.

    Of a pipeline that replicas send into, everything is added up; ``peak_fill`` is then the sum of their own peaks, which
    may have been at different times.
    """

    sent: int
    delivered: int
    dropped: Mapping[str, int]
    dropped_total: int
    dropped_ms: Mapping[str, float] = {}
    dropped_total_ms: float = 0.0
    in_flight: int
    late: int
    repeated: int
    corrupted: int
    retried: int
    bytes: int
    throughput_ops_per_second: float
    average_latency_ms: float
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    latency_p999_ms: float
    latency_max_ms: float
    overhead_p50_ms: float
    overhead_p95_ms: float
    overhead_p99_ms: float
    overhead_p999_ms: float
    overhead_max_ms: float
    wait_p50_ms: float
    wait_p99_ms: float
    wait_max_ms: float
    gil_p50_ms: float
    gil_p99_ms: float
    gil_max_ms: float
    busy_p50_ms: float
    busy_p99_ms: float
    busy_max_ms: float
    error_rate_percentage: float
    backpressure_events: int
    blocked_ms: float
    paced_ms: float = 0.0
    fill: int
    peak_fill: int
    kept_copies: int
    loan_copies: int
    rescued: int
    concealed_blocks: int
    concealed_frames: int
    missed_deadlines: int
    period_ms: float
    load_p50: float
    load_p99: float
    load_max: float
    wait_load_p99: float
    gil_load_p99: float
    busy_load_p99: float
    worst_block: WorstBlock | None
    health_score: float
    pipeline_health: Health
    pressure: Pressure | None = None


def read_flow_metrics(
    rings: Sequence[Counted],
    *,
    buffer_size: int,
    seconds: float,
    in_turn: bool = False,
    rate_hz: int = 0,
    pressure: Pressure | None = None,
) -> FlowMetrics:
    """
    Read the metrics of a pipeline. Does not disturb it; any thread; allocates.

    Args:
        rings: The pipeline in the data plane: one ring, or one for each replica that sends, and what is left of earlier ones;
            they are added up.
        buffer_size: Its configured size, in blocks.
        seconds: How long it has been running, for the throughput.
        in_turn: Whether the rings came one after the other, and were not beside each other.
        rate_hz: Frames per second of the audio that flows; 0: it is none.
        pressure: What flow control knows of it.
    """
    readings = [ring.counters() for ring in rings]
    counters = {name: sum(reading[name] for reading in readings) for name in _COUNTERS}
    if in_turn:
        counters["peak_fill"] = max(reading["peak_fill"] for reading in readings)
    histograms = _merged([ring.histograms() for ring in rings])
    sent, delivered = counters["sent"], counters["delivered"]
    dropped = {reason: sum(reading["dropped"][reason] for reading in readings) for reason in readings[0]["dropped"]}
    dropped_total = sum(dropped.values())
    lost_frames = {reason: sum(each["dropped_frames"][reason] for each in readings) for reason in dropped}
    dropped_ms = {reason: frames * 1000 / rate_hz for reason, frames in lost_frames.items() if frames and rate_hz}
    lost = lost_blocks(dropped)
    score = health_score(
        sent=sent,
        delivered=delivered,
        lost=lost,
        late=counters["late"],
        corrupted=counters["corrupted"],
        fill=counters["fill"] / buffer_size,
    )
    times: dict[str, float] = {}
    for name, percents in _PERCENTILES.items():
        for label, percent in percents:
            times[f"{name}_{label}_ms"] = histograms[name].percentile_ms(percent)
        times[f"{name}_max_ms"] = histograms[name].max_ms
    period_ms = max(period_ns for ring in rings for _, period_ns, _ in ring.recent_cycles()) / 1e6
    load = histograms["load"]
    shares = {f"{name}_load_p99": times[f"{name}_p99_ms"] / period_ms if period_ms else 0.0 for name in _PARTS}
    return FlowMetrics(
        sent=sent,
        delivered=delivered,
        dropped={reason: count for reason, count in dropped.items() if count},
        dropped_total=dropped_total,
        dropped_ms=dropped_ms,
        dropped_total_ms=sum(dropped_ms.values()),
        in_flight=sent - delivered - dropped_total,
        late=counters["late"],
        repeated=counters["repeated"],
        corrupted=counters["corrupted"],
        retried=0,
        bytes=counters["bytes"],
        throughput_ops_per_second=delivered / seconds if seconds > 0 else 0.0,
        average_latency_ms=histograms["latency"].mean_ms,
        error_rate_percentage=100 * (lost + counters["corrupted"]) / sent if sent else 0.0,
        backpressure_events=counters["full_events"],
        blocked_ms=counters["blocked_ns"] / 1e6,
        paced_ms=counters["paced_ns"] / 1e6,
        fill=counters["fill"],
        peak_fill=counters["peak_fill"],
        kept_copies=counters["kept_copies"],
        loan_copies=counters["loan_copies"],
        rescued=counters["rescued"],
        concealed_blocks=counters["concealed_blocks"],
        concealed_frames=counters["concealed_frames"],
        missed_deadlines=counters["missed_deadlines"],
        period_ms=period_ms,
        load_p50=load.percentile(50) / 1e6,
        load_p99=load.percentile(99) / 1e6,
        load_max=load.largest / 1e6,
        worst_block=read_worst_block(rings),
        health_score=score,
        pipeline_health=health_of(score, sent),
        pressure=pressure,
        **times,
        **shares,
    )


def read_worst_block(rings: Sequence[Counted]) -> WorstBlock | None:
    """Read which block of a pipeline took longest; None before the first. Does not disturb it; any thread; allocates."""
    seen = [WorstBlock(**dict(zip(_STAMPS, cycle, strict=True))) for ring in rings if (cycle := ring.worst_cycle())]
    return max(seen, key=lambda block: block.total_ms, default=None)


def _merged(readings: Sequence[dict[str, Any]]) -> dict[str, Histogram]:
    return {name: Histogram(*added_up(reading[name] for reading in readings)) for name in readings[0]}


_COUNTERS = (
    "sent",
    "delivered",
    "repeated",
    "fill",
    "peak_fill",
    "bytes",
    "full_events",
    "blocked_ns",
    "paced_ns",
    "late",
    "corrupted",
    "kept_copies",
    "loan_copies",
    "rescued",
    "concealed_blocks",
    "concealed_frames",
    "missed_deadlines",
)
_PARTS = ("wait", "gil", "busy")
_STAMPS = WorstBlock.__struct_fields__
_TAIL = (("p50", 50.0), ("p95", 95.0), ("p99", 99.0), ("p999", 99.9))
_SHORT = (("p50", 50.0), ("p99", 99.0))
_PERCENTILES = {"latency": _TAIL, "overhead": _TAIL, "wait": _SHORT, "gil": _SHORT, "busy": _SHORT}
