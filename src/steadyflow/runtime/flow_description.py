"""What an observer is told of a flow: plain records, and where the counters lie in the segments that come with them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from steadyflow._native import Segment
from steadyflow.metrics.devices import stream_rate_hz
from steadyflow.module import Module, input_ports, output_ports
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


class DeviceDescription(msgspec.Struct, frozen=True, kw_only=True):
    """
    The device of a module.

    Args:
        module: The module.
        sample_rate_hz: Of its stream.
        captures: Whether it captures.
        plays: Whether it plays.
        account: Where its callback counts, in the segments that came with the description.
    """

    module: str
    sample_rate_hz: int
    captures: bool
    plays: bool
    account: Place


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
        devices: The devices of its modules.
    """

    flow: str
    pid: int
    started_ns: int
    segments: int
    pipelines: tuple[PipelineDescription, ...]
    workers: tuple[WorkerDescription, ...]
    devices: tuple[DeviceDescription, ...]


def describe_flow(
    flow: str,
    started_ns: int,
    pipelines: Sequence[Pipeline],
    workers: Mapping[str, Worker],
    modules: Mapping[str, Module],
    devices: Mapping[str, tuple[Segment, int]],
) -> tuple[FlowDescription, list[Segment]]:
    """Describe a flow of this process, and return the segments that its counters lie in. Any thread."""
    segments: dict[int, Segment] = {}  # by descriptor, in the order in which they are sent
    described = _describe_pipelines(pipelines, segments)
    described_devices = tuple(
        _describe_device(name, modules[name], *place, segments) for name, place in devices.items()
    )
    description = FlowDescription(
        flow=flow,
        pid=os.getpid(),
        started_ns=started_ns,
        segments=len(segments),
        pipelines=described,
        workers=tuple(_describe_worker(worker, modules) for worker in workers.values()),
        devices=described_devices,
    )
    return description, list(segments.values())


def _place(segment: Segment, offset: int, segments: dict[int, Segment]) -> Place:
    segments.setdefault(segment.descriptor, segment)
    return Place(list(segments).index(segment.descriptor), offset)


def _describe_device(
    name: str, module: Module, segment: Segment, offset: int, segments: dict[int, Segment]
) -> DeviceDescription:
    return DeviceDescription(
        module=name,
        sample_rate_hz=stream_rate_hz(module),
        captures=bool(output_ports(module)),
        plays=bool(input_ports(module)),
        account=_place(segment, offset, segments),
    )


def _describe_pipelines(pipelines: Sequence[Pipeline], segments: dict[int, Segment]) -> tuple[PipelineDescription, ...]:
    described = []
    for pipeline in pipelines:
        rings = pipeline.rings  # closing the flow takes them away
        if not rings:
            continue
        places = [_place(ring.segment, ring.offset, segments) for ring in rings]
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
    return tuple(described)


def _describe_worker(worker: Worker, modules: Mapping[str, Module]) -> WorkerDescription:
    return WorkerDescription(
        name=worker.name,
        state=worker.state,
        pid=worker.pid,
        realtime=worker.realtime,
        modules={wiring.name: type(modules[wiring.name]).__name__ for wiring in worker.wiring.modules},
    )
