"""What is to be seen of a flow: workers with their modules, open ends, and pipelines. Plain data, without a style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from steadyflow.backpressure.rules.tables import rule_to_table
from steadyflow.formats import (
    AnyFormat,
    ArrayFormat,
    AudioFormat,
    BytesFormat,
    CarrierFormat,
    Format,
    StructFormat,
    agree,
)
from steadyflow.module import Module, input_ports, output_ports
from steadyflow.pipeline import Pipeline
from steadyflow.runtime.format_resolution import FoundFormats
from steadyflow.runtime.layout import chosen_rules, plan_workers, topological
from steadyflow.runtime.path_delays import delays_of_module, delays_of_pipeline
from steadyflow.runtime.placed import Placed, Placement


class ModuleNode(msgspec.Struct, frozen=True, kw_only=True):
    """
    A module.

    Args:
        name: Its name in the flow.
        class_name: The name of its class.
        inputs: Its inputs, in the order of their declaration.
        outputs: Its outputs.
        delay_ms: How much it delays sound, as far as that is known.
    """

    name: str
    class_name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    delay_ms: float = 0.0

    @property
    def kind(self) -> str:
        """What it is: its class, and what it delays."""
        return f"{self.class_name}, +{self.delay_ms:.1f} ms" if self.delay_ms else self.class_name


class WorkerGroup(msgspec.Struct, frozen=True, kw_only=True):
    """
    A worker; or those of a module with replicas, as one.

    Args:
        name: Its name; ``pitch-1..4`` for four replicas.
        placement: A thread or a process.
        realtime: Whether it asks for real-time scheduling.
        modules: What it runs, upstream first.
        ordered: Whether what the replicas send is put into order.
    """

    name: str
    placement: Placement
    realtime: bool
    modules: tuple[ModuleNode, ...]
    ordered: bool = False

    @property
    def kind(self) -> str:
        """What it is: ``process``, ``real-time process``, ``process, ordered``."""
        kind = f"real-time {self.placement}" if self.realtime else self.placement
        return f"{kind}, ordered" if self.ordered else kind


class PipelineEdge(msgspec.Struct, frozen=True, kw_only=True):
    """
    A pipeline.

    Args:
        id: Its id.
        source: Module and output, or an open end and "".
        target: Module and input, or an open end and "".
        format: What flows, as far as it is known before the start; None: anything.
        buffer_size: How many blocks may wait.
        max_latency_ms: Its budget; None: none.
        priority: Its priority.
        rule: Its rule, as a file writes it; where none was given, the default.
        delay_ms: How much later sound comes out by windows, conversions and what is to be filled, as far as that is known.
    """

    id: str
    source: tuple[str, str]
    target: tuple[str, str]
    format: str | None
    buffer_size: int
    max_latency_ms: float | None
    priority: str
    rule: Mapping[str, Any]
    delay_ms: float = 0.0

    def describe(self) -> tuple[str, str, str]:
        """Return what it is in three lines: what flows; room, budget and priority; the rule."""
        room = [f"{self.buffer_size} block{'' if self.buffer_size == 1 else 's'}"]
        if self.max_latency_ms is not None:
            room.append(f"≤ {self.max_latency_ms:g} ms")
        if self.delay_ms:
            room.append(f"+{self.delay_ms:.1f} ms")
        if self.priority != "normal":
            room.append(self.priority)
        kind, *options = self.rule.items()
        rule = [str(kind[1]), *(f"{name} = {value}" for name, value in options)]
        return self.format or "any format", ", ".join(room), ", ".join(rule)


class FlowGraph(msgspec.Struct, frozen=True, kw_only=True):
    """
    A flow.

    Args:
        name: Its name.
        workers: All workers, upstream first.
        open_ends: The names under which the application sends and receives.
        pipelines: All pipelines.
    """

    name: str
    workers: tuple[WorkerGroup, ...]
    open_ends: tuple[str, ...]
    pipelines: tuple[PipelineEdge, ...]


def flow_graph(
    name: str, modules: Mapping[str, Placed], pipelines: Sequence[Pipeline], found: FoundFormats | None = None
) -> FlowGraph:
    """
    Return what is to be seen of a flow. Pure: nothing is started, set up, or read from a file.

    Args:
        name: Its name.
        modules: Its modules.
        pipelines: Its pipelines.
        found: The formats, where they are known; else delays that depend on them are not shown.

    Raises:
        ConfigurationError: One worker is asked to be a thread and a process.
    """
    rules = chosen_rules(modules, pipelines)
    known = found or FoundFormats({}, {}, {}, {})
    ends = [
        end[0]
        for pipeline in pipelines
        for end, is_open in ((pipeline.source, pipeline.source_open), (pipeline.target, pipeline.target_open))
        if is_open
    ]
    return FlowGraph(
        name=name,
        workers=tuple(
            WorkerGroup(
                name=worker.modules[0].shown_workers,
                placement=worker.placement,
                realtime=worker.realtime is not None,
                modules=tuple(_node(placed, known) for placed in worker.modules),
                ordered=worker.modules[0].ordered,
            )
            for worker in plan_workers(modules, topological(modules, pipelines))
            if worker.replica == 0
        ),
        open_ends=tuple(dict.fromkeys(ends)),
        pipelines=tuple(
            PipelineEdge(
                id=pipeline.id,
                source=pipeline.source,
                target=pipeline.target,
                format=_describe_format(_known_format(modules, pipeline)),
                buffer_size=pipeline.config.buffer_size,
                max_latency_ms=pipeline.config.max_latency_ms,
                priority=pipeline.config.priority.value,
                rule=rule_to_table(rules[pipeline.id].rule),
                delay_ms=sum(each.ms for each in delays_of_pipeline(pipeline, modules, known)),
            )
            for pipeline in pipelines
        ),
    )


def _node(placed: Placed, found: FoundFormats) -> ModuleNode:
    module = placed.module
    return ModuleNode(
        name=placed.name,
        class_name=type(module).__name__,
        inputs=tuple(input_ports(module)),
        outputs=tuple(output_ports(module)),
        delay_ms=sum(each.ms for each in delays_of_module(placed.name, module, found)),
    )


def _known_format(modules: Mapping[str, Placed], pipeline: Pipeline) -> Format:
    """Return what flows, as far as the pipeline or its ends say it."""
    if pipeline.format is not None:
        return pipeline.format
    produced: Format = AnyFormat()
    accepted: Format = AnyFormat()
    if not pipeline.source_open:
        produced = _declared_output(modules[pipeline.source[0]].module, pipeline.source[1])
    if pipeline.config.transformation_required:
        return produced
    if not pipeline.target_open:
        accepted = input_ports(modules[pipeline.target[0]].module)[pipeline.target[1]].declaration.format
    return agree(produced, accepted, where=pipeline.id)


def _declared_output(module: Module, name: str) -> Format:
    declaration = output_ports(module)[name].declaration
    return declaration.format if declaration.like is None else input_ports(module)[declaration.like].declaration.format


def _describe_format(fmt: Format) -> str | None:
    """Return what is known, without what goes without saying."""
    match fmt:
        case AudioFormat():
            parts = ["audio"]
            if fmt.sample_rate_hz is not None:
                parts.append(f"{fmt.sample_rate_hz} Hz")
            if fmt.channels is not None:
                parts.append(f"{fmt.channels} channel{'' if fmt.channels == 1 else 's'}")
            parts += [part for part in (fmt.sample_type, fmt.layout) if part not in ("f32", "interleaved")]
            return ", ".join(parts)
        case ArrayFormat():
            return f"{fmt.dtype} array {'×'.join(map(str, fmt.shape))}"
        case StructFormat():
            return fmt.type.__name__
        case BytesFormat():
            return "bytes"
        case CarrierFormat():
            return fmt.carrier if fmt.audio is None else f"{fmt.carrier}, {_describe_format(fmt.audio)}"
        case AnyFormat():
            return None
