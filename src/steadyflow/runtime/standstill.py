"""
What comes to a stop when a module waits in ``send`` for ever. Pure functions over names.

A join may hold one input back for another. If what feeds the other would then wait, too, it would wait for itself.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from steadyflow.runtime.graph import Edge, upstream_of


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
