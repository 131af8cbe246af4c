"""
The cheapest chain of conversions from one format to another.

Uniform-cost search (Dijkstra, "A note on two problems in connexion with graphs", 1959): formats are the nodes, and whatever a
converter offers is an edge.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import msgspec

from steadyflow.channel_layouts import usual_layout
from steadyflow.conversion import ConversionOptions, ConversionStep
from steadyflow.errors import ConfigurationError, FormatClash
from steadyflow.formats import AudioFormat, CarrierFormat, Format
from steadyflow.transform.converter import Converter, filled, same_kind

_MOST_STEPS = 8
_MOST_FORMATS = 10_000  # a converter may offer ever new formats


def cheapest_chain(
    source: Format, goal: Format, converters: Iterable[Converter], options: ConversionOptions, *, where: str
) -> tuple[ConversionStep, ...]:
    """
    Find the cheapest chain from one format to another.

    Args:
        source: What there is, nothing left open.
        goal: What is wanted, nothing left open.
        converters: Those that may be used.
        options: What the user has chosen.
        where: The pipeline or call, for the message.

    Returns:
        The steps in their order; none where source and goal carry the same.

    Raises:
        FormatClash: No chain leads there, or several of the same cost do; says what is missing, or names them.
    """
    known = tuple(converters)
    named, source, goal = goal, _canonical(source), _canonical(goal)
    # What users' converters start from is led to only where nothing else leads on: a function for mono must not make another
    # conversion go through mono.
    found, reached = _search(source, goal, _held(goal), known, options, where)
    if found is None:
        starts = tuple(_starts(known, source))
        found, reached = _search(source, goal, (*_held(goal), *starts), known, options, where)
    if found is None:
        raise _impossible(source, goal, known, reached, where)
    return _named(found, named)


def _search(
    source: Format,
    goal: Format,
    goals: Sequence[Format],
    known: Sequence[Converter],
    options: ConversionOptions,
    where: str,
) -> tuple[tuple[ConversionStep, ...] | None, Iterable[Format]]:
    """Return the cheapest chain, if there is one, and the formats that were reached."""
    number = count()  # so that the queue never compares formats
    queue: list[tuple[int, int, Format, tuple[ConversionStep, ...]]] = [(0, next(number), source, ())]
    settled: dict[Format, int] = {}
    found: tuple[ConversionStep, ...] | None = None
    found_cost = 0
    while queue:
        cost, _, fmt, chain = heapq.heappop(queue)
        if found is not None and cost > found_cost:
            break
        if same_kind(fmt, goal):
            if found is not None and chain != found:
                raise _ambiguous(source, goal, found, chain, where)
            found, found_cost = chain, cost
            continue
        # Another chain of the same cost goes on, too: it may make the whole one ambiguous.
        if settled.setdefault(fmt, cost) < cost or len(chain) == _MOST_STEPS:
            continue
        if len(settled) > _MOST_FORMATS:
            break
        for step in _offered(known, fmt, goals, options):
            if settled.get(step.target, cost + step.cost) >= cost + step.cost:
                heapq.heappush(queue, (cost + step.cost, next(number), step.target, (*chain, step)))
    return found, settled


def _canonical(fmt: Format) -> Format:
    """Return the format without a name of channels that goes without saying, so that the same is one node."""
    if isinstance(fmt, CarrierFormat) and fmt.audio is not None:
        return msgspec.structs.replace(fmt, audio=_canonical(fmt.audio))
    if isinstance(fmt, AudioFormat) and fmt.channels is not None and fmt.channel_layout == usual_layout(fmt.channels):
        return msgspec.structs.replace(fmt, channel_layout=None)
    return fmt


def _named(chain: tuple[ConversionStep, ...], goal: Format) -> tuple[ConversionStep, ...]:
    """Return the chain with what comes out of it called as it was asked for."""
    if not chain:
        return chain
    last, target = chain[-1], chain[-1].target
    if isinstance(target, AudioFormat) and isinstance(goal, AudioFormat):
        target = msgspec.structs.replace(target, channel_layout=goal.channel_layout)
    elif isinstance(target, CarrierFormat) and isinstance(goal, CarrierFormat):
        held = msgspec.structs.replace(target.held, channel_layout=goal.held.channel_layout)
        target = msgspec.structs.replace(target, audio=held)
    return (*chain[:-1], msgspec.structs.replace(last, target=target))


def _starts(converters: Sequence[Converter], source: Format) -> Iterator[Format]:
    """Return what registered converters start from, so that others can lead there."""
    for converter in converters:
        for start in converter.starts:
            completed = filled(start, source)
            if completed is not None and completed.is_resolved:
                yield _canonical(completed)


def _held(goal: Format) -> tuple[Format, ...]:
    """Return the goal, and the audio that it holds, which others can lead to."""
    return (goal, goal.held) if isinstance(goal, CarrierFormat) else (goal,)


def _offered(
    converters: Sequence[Converter], fmt: Format, goals: Sequence[Format], options: ConversionOptions
) -> Iterator[ConversionStep]:
    for converter in converters:
        for step in converter.offers(fmt, goals, options):
            if step.cost < 1:
                raise ConfigurationError(
                    f"converter {converter.name!r}: expected a cost of at least 1, got {step.cost}: a chain that costs nothing "
                    f"may go round for ever."
                )
            yield step


def _ambiguous(
    source: Format, goal: Format, one: Sequence[ConversionStep], other: Sequence[ConversionStep], where: str
) -> FormatClash:
    def named(chain: Sequence[ConversionStep]) -> str:
        return " then ".join(f"{step.converter} ({step.does})" for step in chain)

    return FormatClash(
        f"{where}: expected one cheapest conversion from {source} to {goal}, got two of the same cost: {named(one)}; and "
        f"{named(other)}. Give one of the registered converters another cost, or unregister one."
    )


def _impossible(
    source: Format, goal: Format, converters: Sequence[Converter], reached: Iterable[Format], where: str
) -> FormatClash:
    names = ", ".join(converter.name for converter in converters)
    return FormatClash(
        f"{where}: nothing converts {source} to {goal}: {_missing(source, goal, tuple(reached))} The converters are {names}; "
        f"steadyflow.transform.register_function(function, source, target) adds one."
    )


def _missing(source: Format, goal: Format, reached: Sequence[Format]) -> str:
    """Say what could not be done."""
    audio = [fmt for fmt in reached if isinstance(fmt, AudioFormat)]
    source = source.held if isinstance(source, CarrierFormat) else source
    goal = goal.held if isinstance(goal, CarrierFormat) else goal
    if not isinstance(source, AudioFormat) or not isinstance(goal, AudioFormat):
        return "no converter between these kinds of data is registered."
    if not any(fmt.channels == goal.channels and fmt.positions == goal.positions for fmt in audio):
        return (
            f"{source.channels} {source.positions} channels do not become {goal.channels} {goal.positions} ones by "
            f"themselves. Name the channel_layout on both ends, or give mix=, a row for each of the {goal.channels}."
        )
    return "each of its fields can be converted, but not all of them together."
