"""
What comes to a stop when a module waits in ``send`` for ever. Pure functions over names.

A join may hold one input back for another. If what feeds the other would then wait, too, it would wait for itself.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from steadyflow.runtime.graph import Edge, find_cycle, upstream_of


class Workplace(NamedTuple):
    """
    Where something runs that sends.

    Args:
        worker: The name of its worker.
        order: Its place in the flow, upstream first.
        produces: Whether it is a source, or the application: it goes on only where its worker does not wait.
    """

    worker: str
    order: int
    produces: bool = False


def stopped_by(sender: str, waiting: Iterable[Edge], places: Mapping[str, Workplace]) -> set[str]:
    """
    Return everything that stops when `sender` waits in ``send`` for ever, itself included.

    While it waits, its worker steps no source, and serves only what comes later in the flow. Whoever sends to something
    that is not served waits, too, once the pipeline between them is full.

    Args:
        sender: Who waits.
        waiting: Source and target of each pipeline whose rule may wait for ever.
        places: Where each module and each open source runs.
    """
    senders: dict[str, list[str]] = {}
    for source, target in waiting:
        senders.setdefault(target, []).append(source)
    stopped: set[str] = set()
    queue = [sender]
    for waiter in queue:
        worker, order, _ = places[waiter]
        for name, place in places.items():
            # The waiter itself is one of them.
            is_stopped = place.worker == worker and (place.produces or place.order <= order)
            if is_stopped and name not in stopped:
                stopped.add(name)
                queue += [feeder for feeder in senders.get(name, ()) if feeder not in queue]
    return stopped


def inputs_stopped_with(
    module: str,
    feeders: Mapping[str, str],
    edges: Sequence[Edge],
    waiting: Container[Edge],
    places: Mapping[str, Workplace],
) -> dict[str, list[str]]:
    """
    Return, for each aligned input, the others that get nothing more when it is held back.

    Args:
        module: Whose inputs.
        feeders: For each aligned input, who sends there.
        edges: Source and target of each pipeline.
        waiting: Those whose rule may wait for ever.
        places: Where each module and each open source runs.
    """
    above = upstream_of(edges)
    stops: dict[str, list[str]] = {}
    for held, sender in feeders.items():
        stopped: set[str] = set()
        if (sender, module) in waiting:
            stopped = stopped_by(sender, [edge for edge in edges if edge in waiting], places)
        stops[held] = [
            name
            for name, feeder in feeders.items()
            if name != held and (module in stopped or not stopped.isdisjoint({feeder, *above.get(feeder, ())}))
        ]
    return stops


class Circle(NamedTuple):
    """
    What waits for itself.

    Args:
        modules: Those that wait, each for the next one.
        pipelines: What they wait at.
        reason: Why, and what to do about it.
    """

    modules: tuple[str, ...]
    pipelines: tuple[str, ...]
    reason: str


Link: TypeAlias = tuple[str, str, str]
"""The id of a pipeline, and the names of who sends and who takes."""


def waits_in_a_circle(full: Sequence[Link], empty: Sequence[Link], edges: Sequence[Edge]) -> Circle | None:
    """
    Return who waits for whom, where that comes back to where it began; None: whoever waits, waits for somebody who is only slow.

    Args:
        full: The pipelines at which somebody waits for room, and of which nothing has been taken for a while.
        empty: Those that are empty.
        edges: Source and target of each pipeline.
    """
    cycle = find_cycle([(source, target) for _, source, target in full])
    if cycle is not None:
        names = tuple(next(name for name, *ends in full if tuple(ends) == edge) for edge in cycle)
        loop = " -> ".join([cycle[0][0], *(target for _, target in cycle)])
        return Circle(
            tuple(source for source, _ in cycle),
            names,
            f"{loop} wait for each other: every pipeline between them is full, and its rule waits. Give one of them a rule that does not "
            f"wait, such as DropOldest(), with handle_backpressure().",
        )
    above = upstream_of(edges)
    waiting = {source for _, source, _ in full}
    for name, source, join in full:
        # It takes nothing from here, while another input of it is empty, and whoever could fill that waits for this one.
        for other, feeder, target in empty:
            if target == join and other != name and _waits_for(feeder, source, waiting, above):
                return Circle(
                    (source, join, feeder),
                    (name, other),
                    f"{join!r} takes nothing from {name}, which is full, while {other} is empty, because {feeder!r} gets nothing: what feeds "
                    f"it waits for room in {name}. Give {name} more room, or a rule that does not wait.",
                )
    return None


def _waits_for(feeder: str, sender: str, waiting: Container[str], above: Mapping[str, set[str]]) -> bool:
    """Tell whether what feeds a module waits for the sender: it is the same one, or further up, and cannot send."""
    feeders = {feeder, *above.get(feeder, ())}
    senders = {sender, *above.get(sender, ())}
    return any(each in waiting for each in feeders & senders)
