"""What flows on every pipeline of a described flow, found before the start from the sources down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from steadyflow.conversion import ConversionPlan
from steadyflow.errors import ConfigurationError, FlowError, FormatClash, UnknownName, concerning, located
from steadyflow.formats import AnyFormat, AudioFormat, Format, agree
from steadyflow.module import Input, Module, aligned_inputs, input_ports, is_device_driven, output_ports
from steadyflow.pipeline import Pipeline
from steadyflow.runtime.aligned_links import check_aligned
from steadyflow.runtime.graph import strongly_connected
from steadyflow.runtime.placed import Placed
from steadyflow.validation import check_validation

Resolve: TypeAlias = Callable[[Module, Mapping[str, Format]], Mapping[str, Format]]
"""From a module, and the formats of its connected inputs, to those of its outputs."""


class FoundFormats(NamedTuple):
    """
    The formats of a flow.

    Args:
        inputs: Of what comes to each connected input, by module and port.
        outputs: Of what each output sends.
        pipelines: Of what flows, by id; None: nothing says it.
        conversions: What is done with it at the target, by id, where the ends do not agree.
    """

    inputs: dict[tuple[str, str], Format]
    outputs: dict[tuple[str, str], Format]
    pipelines: dict[str, Format | None]
    conversions: dict[str, ConversionPlan]


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
    found = FoundFormats({}, {}, {pipeline.id: pipeline.format for pipeline in pipelines}, {})
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
                carried = fmt if wanted is None else agree(fmt, wanted, where=pipeline.id)
                if pipeline.accepted is not None:
                    carried = _delivered(pipeline, carried, Input(pipeline.accepted), found)[0]
                found.pipelines[pipeline.id] = carried
                _check_place(modules, pipeline, carried, found)
    for pipeline in pipelines:
        _check_carried(pipeline, found)
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
            accepted, wanted = port.declaration.format, pipeline.format
            if pipeline.config.transformation_required:
                carried = fmt if wanted is None else agree(fmt, wanted, where=pipeline.id)
                carried, delivered = _delivered(pipeline, carried, port.declaration, found)
            else:
                carried = agree(fmt, accepted, where=pipeline.id)
                if wanted is not None:  # as it was registered
                    carried = agree(carried, wanted, where=pipeline.id)
                delivered = carried
            found.pipelines[pipeline.id] = carried
            inputs[port.name] = _same(pipeline, inputs.get(port.name, delivered), delivered, accepted)
            _check_place(modules, pipeline, carried, found)
    check_aligned(name, module, inputs, into, loop)
    found.inputs.update({(name, port): fmt for port, fmt in inputs.items()})
    return inputs


def _delivered(pipeline: Pipeline, carried: Format, declared: Input, found: FoundFormats) -> tuple[Format, Format]:
    """Return what flows on a pipeline that may convert, and what comes out of it before it is collected into windows."""
    from steadyflow.transform.transformer import check_mix, make_plan

    options, accepted = pipeline.config.conversion, declared.format
    try:
        agreed = agree(carried, accepted, where=pipeline.id)
    except FormatClash:
        if not carried.is_resolved:
            raise
    else:
        if options is not None:
            check_mix(agreed, agreed, options, pipeline.id)  # there is nothing to mix
        return agreed, agreed
    plan = make_plan(
        carried,
        accepted,
        options,
        window_frames=declared.window_frames,
        hop_frames=declared.hop_frames,
        pad_last=declared.pad_last,
        where=pipeline.id,
    )
    if not plan.steps:
        return carried, carried
    found.conversions[pipeline.id] = plan
    return carried, plan.steps[-1].target


def _same(pipeline: Pipeline, known: Format, delivered: Format, accepted: Format) -> Format:
    """Return what comes to an input that several pipelines may lead into; of audio, with room for the longest of their blocks."""
    if known == delivered or isinstance(accepted, AnyFormat):
        return known
    if isinstance(known, AudioFormat) and isinstance(delivered, AudioFormat) and known.same_samples(delivered):
        return max(known, delivered, key=lambda fmt: fmt.max_block_frames)
    advice = (
        "Declare the format of the input completely, so that both become that."
        if pipeline.config.transformation_required
        else "Let this one convert: transformation_required=True."
    )
    raise FormatClash(
        f"{pipeline.id}: all pipelines into {'.'.join(pipeline.target)} must carry the same format; another one "
        f"carries {known}, this one {delivered}. {advice}"
    )


def _check_place(modules: Mapping[str, Placed], pipeline: Pipeline, carried: Format, found: FoundFormats) -> None:
    """
    Refuse checks and conversions where they have no place, or get the blocks in another order than they were made in.

    Raises:
        ConfigurationError: They stand before a device; one remembers, and is beside a module with replicas; one delays more than a
            join waits; or what is no audio is to be checked.
    """
    check_validation(pipeline.id, carried, pipeline.config.validation)
    plan = found.conversions.get(pipeline.id)
    source, target = modules.get(pipeline.source[0]), modules.get(pipeline.target[0])
    if target is not None and is_device_driven(target.module):
        if pipeline.config.validation is not None:
            raise ConfigurationError(
                f"{pipeline.id}: expected no validation= of a pipeline into a device, which takes what flows as it is. Check the "
                f"pipeline to the module before it."
            )
        if plan is not None:
            raise ConfigurationError(
                f"{pipeline.id}: expected {plan.target}, as the device takes it, got {plan.source}: nothing may stand between a device "
                f"and its pipeline. Put audio.Converter(AudioFormat(...)) before it."
            )
    if plan is None:
        return
    for step in plan.steps:
        replicated = [each for each in (source, target) if each is not None and each.replicas > 1]
        disordered = [each for each in replicated if each is target or not each.ordered]
        if step.remembers and disordered:
            raise ConfigurationError(
                f"{pipeline.id}: expected all blocks in their order, because {step.converter} goes on from block to block; each of the "
                f"{disordered[0].replicas} replicas of {disordered[0].name!r} sees or makes only some of them. Let a module without "
                f"replicas convert before them."
            )
    aligned = None if target is None else aligned_inputs(target.module)
    if aligned is not None and pipeline.target[1] in aligned.names and aligned.max_wait_ms is not None:
        if plan.delay_ms > aligned.max_wait_ms:
            raise ConfigurationError(
                f"{pipeline.id}: expected {aligned!r} to wait longer than the conversion delays, {plan.delay_ms:.1f} ms, got "
                f"max_wait_ms={aligned.max_wait_ms:g}: its frames would always be late. Raise it, or take a lower quality."
            )


def _check_carried(pipeline: Pipeline, found: FoundFormats) -> None:
    """Refuse a pipeline that was labelled before its source was asked, in a loop, with what that does not send."""
    sent, carried = found.outputs.get(pipeline.source), found.pipelines[pipeline.id]
    if not pipeline.config.transformation_required or not isinstance(sent, AudioFormat) or not sent.is_resolved:
        return
    if isinstance(carried, AudioFormat) and not carried.filled_from(sent).same_samples(sent):
        with concerning(pipeline=pipeline.id):
            raise FormatClash(
                f"{pipeline.id}: in a loop, expected {carried}, got {sent} from {'.'.join(pipeline.source)}. Declare the format of "
                f"that output completely, instead of like=, so that it is known before the loop is closed."
            )


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
) -> FoundFormats:
    """
    Find what flows on every pipeline, and tell ports and pipelines; return it.

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
        pipeline.conversion = found.conversions.get(pipeline.id)
    return found
