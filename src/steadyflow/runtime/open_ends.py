"""Open ends: what an application needs to send into a pipeline before any flow runs, and to receive from one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import NamedTuple

from steadyflow._native import (
    AbortFlag,
    Ring,
    Segment,
    create_pool,
    create_ring,
    monotonic_ns,
    ring_bytes,
)
from steadyflow.audio_config import check_audio_config, cycle_rules, intake_rules
from steadyflow.backpressure.rules import Wait
from steadyflow.events import BlockRejected, FlowEvent, ViewsExhausted
from steadyflow.formats import Format
from steadyflow.metrics.pools import PoolMetrics, read_pool_metrics
from steadyflow.pipeline import Lane, Pipeline, make_receiver, make_sender
from steadyflow.runtime.layout import ChosenRule, RingShape, SegmentPlan, buffers_for, check_rule, max_latency_ns

_FIRST_BIT = 0


class OpenPlace(NamedTuple):
    """Where a pipeline with an open source lies: it has a segment of its own, so it is there before the flow starts."""

    segment: Segment
    ring: int
    pool: int
    producer_bell: int
    consumer_bell: int


def views_exhausted(pipeline: Pipeline, flow: str, publish: Callable[[FlowEvent], None]) -> Callable[[int], None]:
    """
    Return what an open target calls when the application keeps as many views as it may: it publishes the event.

    It refers to the owner of the method `publish` weakly: the garbage collector does not see through native objects.
    """
    pipeline_id, name = pipeline.id, pipeline.target[0]
    publisher = weakref.WeakMethod(publish)

    def tell(limit: int) -> None:
        publish_now = publisher()
        if publish_now is not None:
            publish_now(ViewsExhausted(flow=flow, pipeline=pipeline_id, module=name, limit=limit))

    return tell


def block_rejected(
    pipeline: Pipeline, flow: str, publish: Callable[[FlowEvent], None]
) -> Callable[[int, str, int], None]:
    """Return what an open target calls when a block could not be converted and was dropped; as `views_exhausted`."""
    pipeline_id, name = pipeline.id, pipeline.target[0]
    publisher = weakref.WeakMethod(publish)

    def tell(sequence: int, reason: str, rejected: int) -> None:
        publish_now = publisher()
        if publish_now is not None:
            publish_now(
                BlockRejected(
                    flow=flow,
                    pipeline=pipeline_id,
                    module=name,
                    block_sequence=sequence,
                    reason=reason,
                    rejected=rejected,
                )
            )

    return tell


def open_source(
    pipeline: Pipeline,
    fmt: Format,
    abort: AbortFlag,
    consumers: int,
    flow: str,
    publish: Callable[[FlowEvent], None],
) -> OpenPlace:
    """
    Allocate a pipeline with an open source and make its sending end; with an open target, its receiving end too.

    Args:
        pipeline: The pipeline.
        fmt: What flows on it.
        abort: What makes everything in this process give up.
        consumers: How many replicas of a module compete for the blocks; 1 where it has none.
        flow: The name of the flow.
        publish: A method that takes events.

    Raises:
        ConfigurationError: The pipeline has limits of audio that do not go with the format, or a rule that cannot be carried out.
        InsufficientMemory: The system has too little; says how much is needed.
    """
    rule = pipeline.rule or Wait()
    if pipeline.target_open:  # the start has nothing to do with it
        check_rule(pipeline, ChosenRule(rule, live=False), ())
    check_audio_config(pipeline.id, pipeline.config, fmt)
    shape = RingShape.of(pipeline, consumers)
    buffers = buffers_for([shape], fmt)
    plan = SegmentPlan()
    producer_bell, consumer_bell = plan.bell(), plan.bell()
    ring, pool = plan.reserve(ring_bytes(shape.slots, consumers)), plan.pool(buffers)
    segment = Segment.create(plan.bytes, plan.holes)
    segment.create_bell(producer_bell)
    segment.create_bell(consumer_bell)
    create_ring(
        segment, ring, shape.buffer_size, shape.slots, consumers, 0, *rule.to_native(pipeline.live), shape.views
    )
    create_pool(segment, pool, *buffers)
    pipeline.attach(
        [Ring(segment, ring, pipeline.id)],
        fmt,
        [(segment, producer_bell)],
        [(segment, consumer_bell, _FIRST_BIT)],
        shape.growth,
    )
    pipeline.set_rule(rule)
    sender = make_sender(pipeline.id, fmt, abort, segment, pool, producer_bell)
    sender.add_ring(pipeline.id, segment, ring, segment, consumer_bell, _FIRST_BIT)
    pipeline.open_source(sender)
    if pipeline.target_open:
        lane = Lane(segment, ring, pool, segment, producer_bell)
        limit_ns = max_latency_ns(pipeline)
        pipeline.open_target(
            make_receiver(
                pipeline,
                fmt,
                abort,
                (segment, consumer_bell),
                [lane],
                None,
                limit_ns,
                intake_rules(pipeline.config, fmt, limit_ns),
                cycle_rules(pipeline.config, fmt, limit_ns),
                views_exhausted(pipeline, flow, publish),
            ),
            block_rejected(pipeline, flow, publish),
        )
    return OpenPlace(segment, ring, pool, producer_bell, consumer_bell)


def open_pools(opened: Mapping[str, OpenPlace], pipelines: Mapping[str, Pipeline]) -> dict[str, PoolMetrics]:
    """Return what is known of the buffers of open sources, by their names."""
    return {
        pipelines[name].source[0]: read_pool_metrics(
            {name: pipelines[name].counted},
            [(place.segment, place.pool)],
            peak_views=max(ring.counters()["peak_views"] for ring in pipelines[name].rings),
            views=max(ring.views for ring in pipelines[name].rings),
            now_ns=monotonic_ns(),
        )
        for name, place in opened.items()
        if pipelines[name].rings
    }
