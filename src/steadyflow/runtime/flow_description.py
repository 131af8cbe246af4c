"""What an observer is told of a flow: plain records, and where the counters lie in the segments that come with them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from steadyflow._native import Segment
from steadyflow.module import Module
from steadyflow.pipeline import Pipeline
from steadyflow.runtime.wiring import Place

if TYPE_CHECKING:
    from steadyflow.runtime.workers import Worker


class PipelineDescription(msgspec.Struct, frozen=True, kw_only=True):
    """
    One pipeline, as it was when the observer asked.

    Args:
        id: Its id.
        source: Where it comes from: ``"module.port"``, or the name of an open end.
        target: Where it goes to, likewise.
        format: What flows, in words.
        buffer_size: How many blocks may wait.
        max_latency_ms: Its budget; None: none.
        priority: ``"critical"``, ``"high"``, ``"normal"`` or ``"low"``.
        rule: The rule that was in force, as it is written: ``"DropOldest()"``.
        opened_ns: When its counting began, on the monotonic clock.
        ended_ns: When it ended; 0: not yet.
        rings: Rings and statistics, in the segments that came with the description: one, or one for each replica of the
            module that sends.
    """

    id: str
    source: str
    target: str
    format: str
    buffer_size: int
    max_latency_ms: float | None
    priority: str
    rule: str
    opened_ns: int
    ended_ns: int
    rings: tuple[Place, ...]


class WorkerDescription(msgspec.Struct, frozen=True, kw_only=True):
    """
    One worker, as it was when the observer asked.

    Args:
        name: Its name.
        state: ``"running"``, ``"ended"`` ...
        pid: Its process; None: not started.
        realtime: Whether the system granted real-time scheduling.
        modules: The modules that it runs: name and class.
    """

    name: str
    state: str
    pid: int | None
    realtime: bool
    modules: dict[str, str]


class FlowDescription(msgspec.Struct, frozen=True, kw_only=True):
    """
    A flow, as it was when the observer asked.

    Args:
        flow: Its name.
        pid: The process of its coordinator.
        started_ns: When its sources began to produce, on the monotonic clock, which is the same in all processes;
            0: not yet.
        segments: How many segments come with this.
        pipelines: All that count already.
        workers: All of them.
    """

    flow: str
    pid: int
    started_ns: int
    segments: int
    pipelines: tuple[PipelineDescription, ...]
    workers: tuple[WorkerDescription, ...]


def describe_flow(
    flow: str,
    started_ns: int,
    pipelines: Sequence[Pipeline],
    workers: Mapping[str, Worker],
    modules: Mapping[str, Module],
) -> tuple[FlowDescription, list[Segment]]:
    """Describe a flow of this process, and return the segments that its counters lie in. Any thread."""
    described, segments = _describe_pipelines(pipelines)
    description = FlowDescription(
        flow=flow,
        pid=os.getpid(),
        started_ns=started_ns,
        segments=len(segments),
        pipelines=described,
        workers=tuple(_describe_worker(worker, modules) for worker in workers.values()),
    )
    return description, segments


def _describe_pipelines(pipelines: Sequence[Pipeline]) -> tuple[tuple[PipelineDescription, ...], list[Segment]]:
    segments: dict[int, Segment] = {}
    described = []
    for pipeline in pipelines:
        rings = pipeline.rings  # closing the flow takes them away
        if not rings:
            continue
        places = []
        for ring in rings:
            segments.setdefault(ring.segment.descriptor, ring.segment)
            places.append(Place(list(segments).index(ring.segment.descriptor), ring.offset))
        described.append(
            PipelineDescription(
                id=pipeline.id,
                source=".".join(filter(None, pipeline.source)),
                target=".".join(filter(None, pipeline.target)),
                format=str(pipeline.format),
                buffer_size=pipeline.buffer_size,
                max_latency_ms=pipeline.config.max_latency_ms,
                priority=str(pipeline.config.priority),
                rule=repr(pipeline.rule),
                opened_ns=pipeline._opened_ns,
                ended_ns=pipeline._ended_ns,
                rings=tuple(places),
            )
        )
    return tuple(described), list(segments.values())


def _describe_worker(worker: Worker, modules: Mapping[str, Module]) -> WorkerDescription:
    return WorkerDescription(
        name=worker.name,
        state=worker.state,
        pid=worker.pid,
        realtime=worker.realtime,
        modules={wiring.name: type(modules[wiring.name]).__name__ for wiring in worker.wiring.modules},
    )
