"""The links of aligned inputs, looked at before the start: whether they can be aligned, and which may be held back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from steadyflow.errors import ConfigurationError, FormatClash, concerning
from steadyflow.formats import AudioFormat, Format
from steadyflow.module import Module, Source, aligned_inputs
from steadyflow.pipeline import Pipeline
from steadyflow.runtime.placed import Placed
from steadyflow.runtime.standstill import Workplace, inputs_stopped_with

_APPLICATION: Final = ""  # no worker has this name


def check_aligned(
    name: str, module: Module, formats: Mapping[str, Format], pipelines: Sequence[Pipeline], loop: Sequence[str]
) -> None:
    """
    Check that the aligned inputs of a module, if it has any, can be aligned.

    Args:
        name: The module's name in the flow.
        module: The module.
        formats: What comes to its connected inputs.
        pipelines: All that end at the module.
        loop: The module, and those it is in a loop with.

    Raises:
        ConfigurationError: An input is fed by no pipeline or by several, by what is made of it, or by something else
            than audio.
        FormatClash: Their sample rates differ; names the inputs and the rates.
    """
    aligned = aligned_inputs(module)
    if aligned is None:
        return
    rates: dict[str, int] = {}
    for port in aligned.names:
        where = f"{name}.{port} of {aligned!r}"
        links = [pipeline for pipeline in pipelines if pipeline.target[1] == port]
        if len(links) != 1:
            got = ", ".join(pipeline.id for pipeline in links) or "none"
            raise ConfigurationError(
                f"{where}: expected one pipeline, got {got}. Each aligned input needs one stream, whose frames are counted."
            )
        fmt = formats.get(port)
        with concerning(pipeline=links[0].id):
            _check_link(links[0], where, fmt, loop)
        if isinstance(fmt, AudioFormat) and fmt.sample_rate_hz is not None:
            rates[port] = fmt.sample_rate_hz
    if len(set(rates.values())) > 1:
        got = ", ".join(f"{port} {rate} Hz" for port, rate in rates.items())
        raise FormatClash(
            f"{name}: expected one sample rate on all inputs of {aligned!r}; got {got}. "
            f"Put a module that converts in front of one of them."
        )


def _check_link(link: Pipeline, where: str, fmt: Format | None, loop: Sequence[str]) -> None:
    source, (name, port) = link.source[0], link.target
    if source == name or (len(loop) > 1 and source in loop):
        raise ConfigurationError(
            f"{link.id}: {where} would wait for what is made of it, because {source!r} is fed by {name!r}. "
            f"Give that input its own method, process_{port}(self, {port}), and leave it out of Aligned."
        )
    if fmt is not None and not isinstance(fmt, AudioFormat) and fmt.is_resolved:
        raise ConfigurationError(f"{where}: expected audio, got {fmt} from {link.id}.")


def stopped_inputs(
    modules: Mapping[str, Placed],
    pipelines: Sequence[Pipeline],
    worker_of: Mapping[str, str],
    order: Mapping[str, int],
) -> dict[str, dict[str, list[str]]]:
    """
    Return, for each module with aligned inputs, which of them get nothing more when another one is held back.

    Goes by the rules that are in force at the start.
    """
    joins = {
        name: aligned for name, placed in modules.items() if (aligned := aligned_inputs(placed.module)) is not None
    }
    if not joins:
        return {}
    places = {
        name: Workplace(worker_of[name], order[name], isinstance(placed.module, Source))
        for name, placed in modules.items()
    }
    places |= {
        pipeline.source[0]: Workplace(_APPLICATION, 0, produces=True) for pipeline in pipelines if pipeline.source_open
    }
    linked = [pipeline for pipeline in pipelines if not pipeline.target_open]
    edges = [(pipeline.source[0], pipeline.target[0]) for pipeline in linked]
    waiting = {
        edge
        for edge, pipeline in zip(edges, linked, strict=True)
        if pipeline.rule is not None and pipeline.rule.to_native(pipeline.live).waits_for_ever
    }
    feeders = {pipeline.target: pipeline.source[0] for pipeline in linked}
    return {
        name: inputs_stopped_with(name, {port: feeders[name, port] for port in aligned.names}, edges, waiting, places)
        for name, aligned in joins.items()
    }
