"""
How much later sound comes out at one module than it went in at another, because of what lies between: filters, windows, buffers that
are to be filled. Not what waiting and work add; that is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from steadyflow.audio_config import AudioPipelineConfig
from steadyflow.errors import BudgetRefused, ConfigurationError, concerning
from steadyflow.formats import AudioFormat, Format
from steadyflow.module import Module, input_ports
from steadyflow.pipeline import Pipeline
from steadyflow.runtime.format_resolution import FoundFormats
from steadyflow.runtime.placed import Placed


class Delay(msgspec.Struct, frozen=True):
    """
    One part of the delay of a path.

    Attributes:
        place: The module or pipeline.
        what: What delays there.
        ms: For how long.
    """

    place: str
    what: str
    ms: float


class PathDelay(msgspec.Struct, frozen=True):
    """
    The longest way from one module to another. Print it to see what adds up.

    Attributes:
        modules: The modules on the way.
        parts: What delays, in the order of the way; what does not is left out.
    """

    modules: tuple[str, ...]
    parts: tuple[Delay, ...]

    @property
    def total_ms(self) -> float:
        """The sum of all parts."""
        return sum(part.ms for part in self.parts)

    def __str__(self) -> str:
        rows = [(part.place, part.what, f"{part.ms:.1f} ms") for part in self.parts]
        rows.append(("total", "", f"{self.total_ms:.1f} ms"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            f"  {place.ljust(widths[0])}  {what.ljust(widths[1])}  {ms.rjust(widths[2])}".rstrip()
            for place, what, ms in rows
        ]
        return "\n".join([" -> ".join(self.modules), *lines])


class PathBudget(NamedTuple):
    """
    What a path may take.

    Args:
        source: The module that it begins at.
        sink: The module that it ends at.
        max_ms: How much later sound may come out.
    """

    source: str
    sink: str
    max_ms: float


def check_path_budgets(
    budgets: Iterable[PathBudget],
    modules: Mapping[str, Placed],
    pipelines: Sequence[Pipeline],
    order: Sequence[Sequence[str]],
    found: FoundFormats,
) -> None:
    """
    Refuse paths that cannot be as short as they have to be.

    Raises:
        BudgetRefused: One cannot; prints the chain.
        ConfigurationError: There is no way from the one to the other.
    """
    for budget in budgets:
        path = longest_path(budget.source, budget.sink, modules, pipelines, order, found)
        if path.total_ms > budget.max_ms:
            with concerning(module=budget.sink):
                raise BudgetRefused(
                    f"path_budget: expected at most {budget.max_ms:g} ms from {budget.source!r} to {budget.sink!r}, got at least "
                    f"{path.total_ms:.1f} ms, before anything waits or works:\n{path}\nTake shorter windows, or another quality of "
                    f"conversion, or allow more."
                )


def longest_path(
    source: str,
    sink: str,
    modules: Mapping[str, Placed],
    pipelines: Sequence[Pipeline],
    order: Sequence[Sequence[str]],
    found: FoundFormats,
) -> PathDelay:
    """
    Return the way on which sound is delayed most; a loop is gone through once.

    Args:
        source: Where it begins.
        sink: Where it ends.
        modules: All modules.
        pipelines: All pipelines.
        order: The modules upstream first; those of one loop together.
        found: The formats.

    Raises:
        ConfigurationError: There is no way.
    """
    ways: dict[str, PathDelay] = {source: PathDelay((source,), delays_of_module(source, modules[source].module, found))}
    links = [link for link in pipelines if link.source[0] in modules and link.target[0] in modules]
    names = [name for group in order for name in group]
    links.sort(key=lambda link: names.index(link.source[0]))
    # Upstream first, until nothing gets longer: one round is enough where there is no loop.
    changed = True
    while changed:
        changed = False
        for link in links:
            name, target = link.source[0], link.target[0]
            way = ways.get(name)
            if way is None or name == sink or target in way.modules:
                continue
            more = (*delays_of_pipeline(link, modules, found), *delays_of_module(target, modules[target].module, found))
            longer = PathDelay((*way.modules, target), way.parts + more)
            if target not in ways or longer.total_ms > ways[target].total_ms:
                ways[target] = longer
                changed = True
    if sink not in ways:
        raise ConfigurationError(f"expected pipelines that lead from {source!r} to {sink!r}, got none.")
    return ways[sink]


def delays_of_module(name: str, module: Module, found: FoundFormats) -> tuple[Delay, ...]:
    """Return what a module says that it delays."""
    parts = []
    if module.latency_ms:
        parts.append(Delay(name, "latency_ms", module.latency_ms))
    if module.latency_frames:
        rate = _rate_hz(name, found)
        # Unknown before the formats are: in a picture of what is merely described.
        if rate is not None:
            what = f"latency_frames: {module.latency_frames} at {rate} Hz"
            parts.append(Delay(name, what, 1000 * module.latency_frames / rate))
        elif found.pipelines:
            raise ConfigurationError(
                f"module {name!r}: expected audio of a known rate for latency_frames={module.latency_frames}, got none. Say latency_ms."
            )
    return tuple(parts)


def delays_of_pipeline(pipeline: Pipeline, modules: Mapping[str, Placed], found: FoundFormats) -> tuple[Delay, ...]:
    """Return what delays on the way between two modules, or to the application."""
    parts = []
    config = pipeline.config
    if isinstance(config, AudioPipelineConfig) and config.target_fill_ms:
        parts.append(Delay(pipeline.id, "target_fill_ms", config.target_fill_ms))
    plan = found.conversions.get(pipeline.id)
    for step in () if plan is None else plan.steps:
        if step.delay_frames and isinstance(step.target, AudioFormat):
            ms = 1000 * step.delay_frames / (step.target.sample_rate_hz or 1)
            parts.append(Delay(pipeline.id, f"{step.converter}: {step.does}", ms))
    if pipeline.target_open:
        return tuple(parts)
    declared = input_ports(modules[pipeline.target[0]].module)[pipeline.target[1]].declaration
    rate = _rate_of(found.inputs.get(pipeline.target, declared.format))
    if declared.window_frames is not None and rate is not None:
        what = f"window of {declared.window_frames} frames at {rate} Hz"
        parts.append(Delay(pipeline.id, what, 1000 * declared.window_frames / rate))
    return tuple(parts)


def _rate_hz(module: str, found: FoundFormats) -> int | None:
    """Return the rate of what comes to a module; of a source, of what it sends."""
    for formats in (found.inputs, found.outputs):
        for (name, _), fmt in formats.items():
            rate = _rate_of(fmt)
            if name == module and rate is not None:
                return rate
    return None


def _rate_of(fmt: Format | None) -> int | None:
    return fmt.sample_rate_hz if isinstance(fmt, AudioFormat) else None
