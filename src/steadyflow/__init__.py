"""
steadyflow: real-time data flow for Python audio.

The layout, in the order in which data flows:

    errors, clock, arguments           who caused what; the one clock; what constructors accept
    channel_layouts, data, formats     what flows, and how it is described
    codec, libsndfile                  how it becomes bytes, and comes from files
    conversion, transform              how one format becomes another
    _native, payload, pipeline, config how it is carried and linked
    audio_pipeline, audio_config       the same for audio, with limits in ms
    converting_end                     an open end that converts
    realtime, aligned, module          who works on it
    events, metrics, report            what is known about it
    backpressure                       what is done where it comes too fast
    lifecycle, registry                where each module is, and what it can do
    runtime                            where it runs: layout, workers, processes
    recording, spooling                what went through a pipeline, or waits for one, in a file
    diagrams                           what it looks like
    description, pausing               what it consists of, and what of it stands still
    coordinator                        who owns it all
    observation                        who looks at it from another process
    toml, flow_files                   the same, described in a file
    audio, testing, cli, benchmarks    what comes with it; loaded when asked for
"""

from __future__ import annotations

import typing

from steadyflow.aligned import Aligned
from steadyflow.audio_config import AudioPipelineConfig
from steadyflow.audio_pipeline import AudioDataPipeline
from steadyflow.backpressure.rules import (
    Adaptive,
    DropByPriority,
    DropNewest,
    DropOldest,
    Fail,
    Grow,
    Latest,
    Rule,
    Sample,
    Spill,
    Throttle,
    Wait,
)
from steadyflow.config import PipelineConfig, PipelinePriority
from steadyflow.conversion import ConversionOptions
from steadyflow.coordinator import DataFlowCoordinator
from steadyflow.data import Block, BlockFlag, FlowData
from steadyflow.errors import (
    EndOfStream,
    FlowError,
    FlowFailed,
    FormatClash,
    ObservationFailed,
    PipelineClosed,
    PipelineFull,
    ReceiveTimeout,
    SendTimeout,
    StateError,
    TransformError,
)
from steadyflow.flow_files import load_flow
from steadyflow.formats import AnyFormat, ArrayFormat, AudioFormat, BytesFormat, CarrierFormat, Format, StructFormat
from steadyflow.metrics.flow_metrics import FlowMetrics
from steadyflow.module import Input, Module, Output, Source, module
from steadyflow.observation import ObservableFlow, Observation, ObservedPipeline, observable_flows, observe
from steadyflow.pipeline import Pipeline
from steadyflow.realtime import Realtime
from steadyflow.report import FlowReport
from steadyflow.version import __version__ as __version__

if typing.TYPE_CHECKING:
    from steadyflow import audio, events, recording, testing, transform

__all__ = [
    "Adaptive",
    "Aligned",
    "AnyFormat",
    "ArrayFormat",
    "AudioDataPipeline",
    "AudioFormat",
    "AudioPipelineConfig",
    "Block",
    "BlockFlag",
    "BytesFormat",
    "CarrierFormat",
    "ConversionOptions",
    "DataFlowCoordinator",
    "DropByPriority",
    "DropNewest",
    "DropOldest",
    "EndOfStream",
    "Fail",
    "FlowData",
    "FlowError",
    "FlowFailed",
    "FlowMetrics",
    "FlowReport",
    "Format",
    "FormatClash",
    "Grow",
    "Input",
    "Latest",
    "Module",
    "ObservableFlow",
    "Observation",
    "ObservationFailed",
    "ObservedPipeline",
    "Output",
    "Pipeline",
    "PipelineClosed",
    "PipelineConfig",
    "PipelineFull",
    "PipelinePriority",
    "Realtime",
    "ReceiveTimeout",
    "Rule",
    "Sample",
    "SendTimeout",
    "Source",
    "Spill",
    "StateError",
    "StructFormat",
    "Throttle",
    "TransformError",
    "Wait",
    "audio",
    "events",
    "load_flow",
    "module",
    "observable_flows",
    "observe",
    "recording",
    "testing",
    "transform",
]

_LAZY = frozenset({"audio", "events", "recording", "testing", "transform"})


def __getattr__(name: str) -> typing.Any:
    if name in _LAZY:
        import importlib

        return importlib.import_module(f"steadyflow.{name}")
    raise AttributeError(f"module 'steadyflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
