"""
Transformation: any module's format to any other's, planned, exact and without needless copies.

::

    from steadyflow import AudioFormat
    from steadyflow.transform import DataTransformer, convert

    plan = DataTransformer().plan(AudioFormat(48_000, 2, "s16"), AudioFormat(16_000, 1))
    print(plan)                                  # its steps, what each costs, and how far it delays
    mono = convert(samples, AudioFormat(48_000, 2, "s16"), AudioFormat(16_000, 1))

In a flow, `PipelineConfig(transformation_required=True)` lets a pipeline do the same on its consumer's side.

The layout, in the order in which a conversion comes about:

    converter                  what a converter is
    samples, mixing            sample type, channels and memory layout, in one pass; the published coefficients
    rate                       sample rate
    windows, fields            block size; the stamps of what waits in between
    carriers                   DLPack, buffer protocol, PCM, WAV, FLAC, Arrow, typed arrays of JavaScript
    planner                    the cheapest chain
    transformer, stream        a plan at work, and in a flow
    variable_rate              a rate that moves, against drift
"""

from steadyflow.conversion import ConversionOptions, ConversionPlan, ConversionStep, StepReport
from steadyflow.transform.converter import Converter, FunctionConverter, Stage
from steadyflow.transform.transformer import (
    Conversion,
    DataTransformer,
    convert,
    make_plan,
    register,
    register_function,
    unregister,
)

__all__ = [
    "Conversion",
    "ConversionOptions",
    "ConversionPlan",
    "ConversionStep",
    "Converter",
    "DataTransformer",
    "FunctionConverter",
    "Stage",
    "StepReport",
    "convert",
    "make_plan",
    "register",
    "register_function",
    "unregister",
]
