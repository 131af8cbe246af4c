"""A described flow, checked as its start would, as far as nothing has to be set up for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steadyflow.errors import FileUnreadable, SystemShortage
from steadyflow.formats import Format
from steadyflow.module import Module, input_ports, output_ports
from steadyflow.pipeline import Pipeline
from steadyflow.runtime.dependencies import awaited_workers, setup_order
from steadyflow.runtime.format_resolution import FoundFormats, ask, check_complete, find_formats
from steadyflow.runtime.layout import (
    check_audio_limits,
    check_cycles,
    check_device_rules,
    check_rules,
    chosen_rules,
    plan_workers,
    topological,
)
from steadyflow.runtime.path_delays import PathBudget, check_path_budgets
from steadyflow.runtime.placed import Placed
from steadyflow.runtime.replicas import check_around_replicas


def check_description(
    modules: Mapping[str, Placed], pipelines: Sequence[Pipeline], budgets: Sequence[PathBudget] = ()
) -> FoundFormats | None:
    """
    Check formats, joins, replicas, loops, workers, dependencies and the budgets of paths. Changes nothing; may block on the disk.

    Sources are asked for their formats. One whose file is not there, or whose extra is not installed, is taken at its
    declaration: the description may be right, and the file come later.

    Returns:
        The formats, as far as they are known; None where what a conversion needs is not installed.

    Raises:
        ConfigurationError: The start would refuse it; the error's `subject` is the module or pipeline it is about.
    """
    linked = [pipeline for pipeline in pipelines if not (pipeline.source_open and pipeline.target_open)]
    order = topological(modules, linked)
    check_around_replicas(modules, linked, order)
    silent: list[Module] = []

    def resolve(module: Module, inputs: Mapping[str, Format]) -> Mapping[str, Format]:
        try:
            return ask(module, inputs)
        except (FileUnreadable, SystemShortage):
            silent.append(module)
            return _declared(module, inputs)

    try:
        found = find_formats(modules, linked, order, resolve)
    except SystemShortage:  # of what a conversion needs: it may be there where the flow runs
        found = None
    if found is not None and not silent:
        check_complete(linked, found)
    if found is not None:
        check_audio_limits(linked, found.pipelines)
        check_path_budgets(budgets, modules, linked, order, found)
    rules = chosen_rules(modules, linked)
    check_rules(modules, linked, rules)
    check_device_rules(modules, linked, rules)
    check_cycles(modules, linked, rules)
    plan_workers(modules, order)
    setup_order(modules, [name for group in order for name in group])
    awaited_workers(modules)
    return found


def _declared(module: Module, inputs: Mapping[str, Format]) -> Mapping[str, Format]:
    """Return what the outputs send by their declarations alone."""
    accepted = {name: inputs.get(name, port.declaration.format) for name, port in input_ports(module).items()}
    declarations = {name: port.declaration for name, port in output_ports(module).items()}
    return {name: each.format if each.like is None else accepted[each.like] for name, each in declarations.items()}
