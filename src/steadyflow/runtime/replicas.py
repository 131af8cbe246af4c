"""Replicas: which modules may run several times at once, and what that asks of the pipelines around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steadyflow.audio_config import regulates
from steadyflow.errors import ConfigurationError, concerning
from steadyflow.module import Source, aligned_inputs, input_ports, is_asynchronous

if TYPE_CHECKING:
    from steadyflow.pipeline import Pipeline
    from steadyflow.runtime.placed import Placed


def check_replicated(placed: Placed) -> None:
    """
    Check that a module can have replicas. What it remembers from block to block cannot be seen, and is not looked for.

    Raises:
        ConfigurationError: It cannot; says why, and what to do instead.
    """
    where = f"module {placed.name!r}"
    if placed.placement != "process":
        raise ConfigurationError(
            f"{where}: replicas={placed.replicas} needs placement='process', got {placed.placement!r}. Threads share one "
            f"interpreter lock, so several of them compute no faster than one."
        )
    if placed.worker is not None:
        raise ConfigurationError(
            f"{where}: expected no worker= beside replicas={placed.replicas}, got {placed.worker!r}. Each replica has a "
            f"worker of its own, {placed.workers[0]!r} to {placed.workers[-1]!r}."
        )
    if isinstance(placed.module, Source):
        raise ConfigurationError(
            f"{where}: a source cannot have replicas: each would produce the whole stream. Replicate a module behind it."
        )
    if is_asynchronous(placed.module):
        raise ConfigurationError(
            f"{where}: cannot have replicas, because it is asynchronous: it mostly waits, and replicas are for what computes. "
            f"Let a plain module compute, and replicate that."
        )
    aligned = aligned_inputs(placed.module)
    if aligned is not None:
        raise ConfigurationError(
            f"{where}: cannot have replicas, because {aligned!r} puts together what comes at different times, and each "
            f"replica gets only some of it. Align in a module in front of it."
        )
    ports = input_ports(placed.module)
    if not ports:
        raise ConfigurationError(f"{where}: has no input, so its replicas have no blocks to compete for.")
    for name, port in ports.items():
        if port.declaration.window_frames is not None:
            raise ConfigurationError(
                f"{where}: cannot have replicas, because input {name!r} collects windows: they span blocks, and each "
                f"replica gets only some of the blocks. Collect windows in a module in front of it, and send those."
            )


def check_around_replicas(
    modules: Mapping[str, Placed], pipelines: Sequence[Pipeline], order: Sequence[Sequence[str]]
) -> None:
    """
    Check the pipelines of the modules that have replicas.

    Raises:
        ConfigurationError: A module with replicas is in a loop; a pipeline has no room for a block of each replica; an
            order cannot be restored, because there is not one that the input has; or is needed and not restored.
    """
    loops = {name for group in order for name in group if len(group) > 1}
    loops |= {pipeline.source[0] for pipeline in pipelines if pipeline.source[0] == pipeline.target[0]}
    for placed in (placed for placed in modules.values() if placed.replicas > 1):
        with concerning(module=placed.name):
            if placed.name in loops:
                raise ConfigurationError(
                    f"module {placed.name!r}: is in a loop, so it cannot have replicas: what comes back would reach any of "
                    f"them. Replicate a part of its work that is outside of the loop."
                )
            for pipeline in (pipeline for pipeline in pipelines if pipeline.source[0] == placed.name):
                with concerning(pipeline=pipeline.id):
                    _check_output(placed, pipeline, modules)
            _check_around(placed, pipelines)
            if placed.ordered:
                _check_order(placed, modules, [pipeline for pipeline in pipelines if pipeline.target[0] == placed.name])


def _check_around(placed: Placed, pipelines: Sequence[Pipeline]) -> None:
    """Refuse what needs one consumer that sees the whole stream, in its order."""
    for pipeline in pipelines:
        if placed.name in (pipeline.source[0], pipeline.target[0]) and regulates(pipeline.config):
            with concerning(pipeline=pipeline.id):
                raise ConfigurationError(
                    f"{pipeline.id}: late={pipeline.config.late!r}, target_fill_ms and preroll_ms need one sender and one "
                    f"receiver; {placed.name!r} has {placed.replicas} replicas, each of which sees a part of the stream. Give "
                    f"them to a pipeline before or behind, or use one instance."
                )


def _check_output(placed: Placed, pipeline: Pipeline, modules: Mapping[str, Placed]) -> None:
    if pipeline.config.buffer_size < placed.replicas:
        raise ConfigurationError(
            f"{pipeline.id}: expected a buffer_size of at least {placed.replicas}, one block for each replica of "
            f"{placed.name!r}, which share it; got {pipeline.config.buffer_size}."
        )
    if not placed.ordered:
        _check_needs_no_order(pipeline, modules)


def _check_needs_no_order(pipeline: Pipeline, modules: Mapping[str, Placed]) -> None:
    name, port = pipeline.target
    if name not in modules:
        return
    module = modules[name].module
    aligned = aligned_inputs(module)
    is_aligned = aligned is not None and port in aligned.names
    if is_aligned or input_ports(module)[port].declaration.window_frames is not None:
        does = "is aligned with others" if is_aligned else "collects windows"
        raise ConfigurationError(
            f"{pipeline.id}: input {port!r} {does}, which needs blocks in their order, but the replicas of "
            f"{pipeline.source[0]!r} overtake each other. Give them ordered=True."
        )


def _check_order(placed: Placed, modules: Mapping[str, Placed], inputs: Sequence[Pipeline]) -> None:
    where = f"module {placed.name!r} with ordered=True"
    if len(inputs) != 1:
        raise ConfigurationError(
            f"{where}: expected one pipeline into it, whose order is restored; got {len(inputs)}"
            f"{''.join(f', {pipeline.id}' for pipeline in inputs)}. Use ordered=False, or bring them together before it."
        )
    producer = modules.get(inputs[0].source[0])
    if producer is not None and producer.replicas > 1:
        raise ConfigurationError(
            f"{where}: expected its input to come from one producer; {inputs[0].id} comes from {producer.replicas} "
            f"replicas. Put a module without replicas between them, which has one order to restore."
        )
