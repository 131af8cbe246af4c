"""What flows on every pipeline of a described flow, found before the start from the sources down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from steadyflow.errors import ConfigurationError, FlowError, FormatClash, UnknownName, concerning, located
from steadyflow.formats import AnyFormat, Format, agree
from steadyflow.module import Module, input_ports, is_device_driven, output_ports
from steadyflow.pipeline import Pipeline
from steadyflow.runtime.aligned_links import check_aligned
from steadyflow.runtime.graph import strongly_connected
from steadyflow.runtime.placed import Placed

Resolve: TypeAlias = Callable[[Module, Mapping[str, Format]], Mapping[str, Format]]
"""From a module, and the formats of its connected inputs, to those of its outputs."""


class FoundFormats(NamedTuple):
    """
    The formats of a flow.

    Args:
        inputs: Of what comes to each connected input, by module and port.
        outputs: Of what each output sends.
        pipelines: Of what flows, by id; None: nothing says it.
    """

    inputs: dict[tuple[str, str], Format]
    outputs: dict[tuple[str, str], Format]
    pipelines: dict[str, Format | None]


def ask(module: Module, inputs: Mapping[str, Format]) -> Mapping[str, Format]:
    """Let a module say what its outputs send. A `Resolve`; may block on the disk."""
    return module.resolve_formats(inputs)


def find_formats(
    modules: Mapping[str, Placed],
    pipelines: Sequence[Pipeline],
    order: Sequence[Sequence[str]],
    resolve: Resolve = ask,
) -> FoundFormats:
    """
    Find what flows on every pipeline. Changes nothing.

    Args:
        modules: All modules, by name.
        pipelines: All with a module at one end or both.
        order: The modules upstream first; those of one loop together.
        resolve: What asks a module.

    Raises:
        FormatClash: Two ends do not agree; names the pipeline and both formats. Aligned inputs have different rates.
        ConfigurationError: Aligned inputs cannot be aligned; a module answers with what is no format.
        UnknownName: A module answers for an output that it does not have.
        FileUnreadable: A source's file tells nothing.
    """
    found = FoundFormats({}, {}, {pipeline.id: pipeline.format for pipeline in pipelines})
    loops = {name: group for group in order for name in group}
    devices = [name for name in loops if is_device_driven(modules[name].module)]
    for name in _asking_order(modules, pipelines, order):
        with concerning(module=name):
            inputs = {} if name in devices else _find_inputs(modules, pipelines, name, loops[name], found)
            _ask(modules[name].module, name, inputs, resolve, found)
    for name in devices:
        with concerning(module=name):
            _find_inputs(modules, pipelines, name, loops[name], found)
    for pipeline in (pipeline for pipeline in pipelines if pipeline.target_open):
        fmt, wanted = _produced(modules, pipeline, found), found.pipelines[pipeline.id]
        if fmt is not None:
            # An open target that was registered with a format accepts only that.
            with concerning(pipeline=pipeline.id):
                found.pipelines[pipeline.id] = fmt if wanted is None else agree(fmt, wanted, where=pipeline.id)
    return found


def _asking_order(
    modules: Mapping[str, Placed], pipelines: Sequence[Pipeline], order: Sequence[Sequence[str]]
) -> list[str]:
    """
    Return the modules in the order in which they are asked what they send: upstream first.

    What a device captures does not depend on what it is to play, so the way through it and back to it is no loop here.
    """
    names = [name for group in order for name in group]
    edges = [
        (pipeline.source[0], pipeline.target[0])
        for pipeline in pipelines
        if not pipeline.source_open
        and not pipeline.target_open
        and not is_device_driven(modules[pipeline.target[0]].module)
    ]
    return [name for group in strongly_connected(names, edges) for name in group]


def _find_inputs(
    modules: Mapping[str, Placed],
    pipelines: Sequence[Pipeline],
    name: str,
    loop: Sequence[str],
    found: FoundFormats,
) -> dict[str, Format]:
    """Find what comes to the connected inputs of a module."""
    module = modules[name].module
    into = [each for each in pipelines if each.target[0] == name]
    inputs: dict[str, Format] = {}
    for pipeline in into:
        fmt, port = _produced(modules, pipeline, found), input_ports(module)[pipeline.target[1]]
        if fmt is None:
            continue
        with concerning(pipeline=pipeline.id):
            agreed, wanted = agree(fmt, port.declaration.format, where=pipeline.id), pipeline.format
            if wanted is not None:  # as it was registered
                agreed = agree(agreed, wanted, where=pipeline.id)
            found.pipelines[pipeline.id] = agreed
            known = inputs.setdefault(port.name, agreed)
            if known != agreed and not isinstance(port.declaration.format, AnyFormat):
                raise FormatClash(
                    f"{pipeline.id}: all pipelines into {name}.{port.name} must carry the same format; another one "
                    f"carries {known}, this one {agreed}."
                )
    check_aligned(name, module, inputs, into, loop)
    found.inputs.update({(name, port): fmt for port, fmt in inputs.items()})
    return inputs


def _ask(module: Module, name: str, inputs: Mapping[str, Format], resolve: Resolve, found: FoundFormats) -> None:
    """Ask a module what its outputs send."""
    try:
        outputs = resolve(module, inputs)
    except FlowError as error:
        located(error, f"module {name!r}")
        raise
    _check_answer(module, outputs, f"module {name!r}: resolve_formats")
    found.outputs.update({(name, port): fmt for port, fmt in outputs.items()})


def _check_answer(module: Module, outputs: object, where: str) -> None:
    known = output_ports(module)
    if not isinstance(outputs, Mapping):
        raise ConfigurationError(f"{where}: expected the format of each output, by name; got {outputs!r}.")
    for port, fmt in outputs.items():
        if port not in known:
            raise UnknownName("output", port, known, where=where)
        if not isinstance(fmt, Format):
            raise ConfigurationError(
                f"{where}: expected a format such as AudioFormat(48_000, 1) of {port!r}, got {fmt!r}."
            )


def _produced(modules: Mapping[str, Placed], pipeline: Pipeline, found: FoundFormats) -> Format | None:
    if pipeline.source_open:
        return pipeline.format
    name, port = pipeline.source
    # Of a module that comes later, in a loop, there is only the declaration.
    return found.outputs.get((name, port), output_ports(modules[name].module)[port].declaration.format)


def check_complete(pipelines: Sequence[Pipeline], found: FoundFormats) -> None:
    """
    Check that it is known what flows on every pipeline.

    Raises:
        ConfigurationError: An output is connected, but nothing says what it sends.
    """
    for pipeline in pipelines:
        fmt = found.pipelines[pipeline.id]
        if fmt is None or not fmt.is_resolved or isinstance(fmt, AnyFormat):
            with concerning(pipeline=pipeline.id):
                raise ConfigurationError(
                    f"{pipeline.id}: expected to know what flows before the start; {'.'.join(pipeline.source)} sends "
                    f"{fmt or 'an unknown format'}. Declare the format of that output completely."
                )


def resolve_formats(
    modules: Mapping[str, Placed], pipelines: Sequence[Pipeline], order: Sequence[Sequence[str]]
) -> None:
    """
    Find what flows on every pipeline, and tell ports and pipelines.

    Raises:
        FormatClash: See `find_formats`.
        ConfigurationError: The same; or an output is connected, but nothing says what it sends.
        FileUnreadable: A source's file tells nothing.
    """
    found = find_formats(modules, pipelines, order)
    check_complete(pipelines, found)
    for (name, port), fmt in found.inputs.items():
        input_ports(modules[name].module)[port].format = fmt
    for (name, port), fmt in found.outputs.items():
        output_ports(modules[name].module)[port].format = fmt
    for pipeline in pipelines:
        pipeline.format = found.pipelines[pipeline.id]
