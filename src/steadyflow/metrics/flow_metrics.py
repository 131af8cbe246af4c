"""What a pipeline did, as one frozen record, read from the data plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from steadyflow._native import Ring
from steadyflow.metrics.health import Health, health_of, health_score, lost_blocks
from steadyflow.metrics.histogram import Histogram


class FlowMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """
    The metrics of one pipeline since it was made. Counts are blocks; times are milliseconds.

    ``sent = delivered + dropped_total + in_flight`` holds always. *latency* is started - sent; *overhead* is started -
    max(sent, consumer became free), the part that steadyflow adds; *wait* is awake - sent, *gil* the time from awake
    to having the interpreter lock, *busy* the module's own work. ``kept_copies`` are large blocks that were copied because
    the consumer kept ``buffer_size`` views already; ``loan_copies`` those that were written in a loan and copied.

    Of a pipeline that replicas send into, everything is added up; ``peak_fill`` is then the sum of their own peaks, which
    may have been at different times.
    """

    sent: int
    delivered: int
    dropped: Mapping[str, int]
    dropped_total: int
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
    fill: int
    peak_fill: int
    kept_copies: int
    loan_copies: int
    rescued: int
    health_score: float
    pipeline_health: Health


def read_flow_metrics(rings: Sequence[Ring], *, buffer_size: int, seconds: float) -> FlowMetrics:
    """
    Read the metrics of a pipeline. Does not disturb it; any thread; allocates.

    Args:
        rings: The pipeline in the data plane: one ring, or one for each replica that sends; they are added up.
        buffer_size: Its configured size, in blocks.
        seconds: How long it has been running, for the throughput.
    """
    readings = [ring.counters() for ring in rings]
    counters = {name: sum(reading[name] for reading in readings) for name in _COUNTERS}
    histograms = _merged([ring.histograms() for ring in rings])
    sent, delivered = counters["sent"], counters["delivered"]
    dropped = {reason: sum(reading["dropped"][reason] for reading in readings) for reason in readings[0]["dropped"]}
    dropped_total = sum(dropped.values())
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
    return FlowMetrics(
        sent=sent,
        delivered=delivered,
        dropped={reason: count for reason, count in dropped.items() if count},
        dropped_total=dropped_total,
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
        fill=counters["fill"],
        peak_fill=counters["peak_fill"],
        kept_copies=counters["kept_copies"],
        loan_copies=counters["loan_copies"],
        rescued=counters["rescued"],
        health_score=score,
        pipeline_health=health_of(score, sent),
        **times,
    )


def _merged(readings: Sequence[dict[str, Any]]) -> dict[str, Histogram]:
    merged = {}
    for name in readings[0]:
        counts, sums_ns, most_ns = zip(*(reading[name] for reading in readings), strict=True)
        merged[name] = Histogram(sum(counts[1:], counts[0]), sum(sums_ns), max(most_ns))
    return merged


_COUNTERS = (
    "sent",
    "delivered",
    "repeated",
    "fill",
    "peak_fill",
    "bytes",
    "full_events",
    "blocked_ns",
    "late",
    "corrupted",
    "kept_copies",
    "loan_copies",
    "rescued",
)
_TAIL = (("p50", 50.0), ("p95", 95.0), ("p99", 99.0), ("p999", 99.9))
_SHORT = (("p50", 50.0), ("p99", 99.0))
_PERCENTILES = {"latency": _TAIL, "overhead": _TAIL, "wait": _SHORT, "gil": _SHORT, "busy": _SHORT}
