"""Which modules have to be ready before others, and what that means for their workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from steadyflow.errors import ConfigurationError, CycleRefused, UnknownName, concerning
from steadyflow.runtime.graph import find_cycle, strongly_connected
from steadyflow.runtime.placed import Placed


def check_no_cycle(depends_on: Mapping[str, Sequence[str]]) -> None:
    """
    Check what modules are said to depend on; names that there are not yet may still come.

    Raises:
        CycleRefused: One would wait for itself; prints the cycle.
    """
    cycle = find_cycle([(name, needed) for name, all_needed in depends_on.items() for needed in all_needed])
    if cycle is not None:
        around = " -> ".join([cycle[0][0], *(needed for _, needed in cycle)])
        raise CycleRefused(
            f"module {cycle[0][0]!r}: expected dependencies that end somewhere, got {around}: each would wait for the next one to be "
            f"ready. Take one of them away."
        )


def setup_order(modules: Mapping[str, Placed], flow_order: Iterable[str]) -> tuple[str, ...]:
    """
    Return the modules in the order in which they are set up: after those that they depend on, and else upstream first.

    Raises:
        UnknownName: One depends on a module that there is not; offers the nearest.
        CycleRefused: See `check_no_cycle`.
    """
    for name, placed in modules.items():
        for needed in placed.depends_on:
            if needed not in modules:
                with concerning(module=name):
                    raise UnknownName("module", needed, modules, where=f"module {name!r}, depends_on")
    check_no_cycle({name: placed.depends_on for name, placed in modules.items()})
    edges = [(needed, name) for name, placed in modules.items() for needed in placed.depends_on]
    return tuple(name for group in strongly_connected(flow_order, edges) for name in group)


def awaited_workers(modules: Mapping[str, Placed]) -> dict[str, set[str]]:
    """
    Return, for each worker, those that have to be ready before it is launched.

    Raises:
        ConfigurationError: Two workers would wait for each other, although no module does.
    """
    awaited: dict[str, set[str]] = {worker: set() for placed in modules.values() for worker in placed.workers}
    for placed in modules.values():
        for needed in placed.depends_on:
            for worker in placed.workers:
                awaited[worker] |= set(modules[needed].workers) - {worker}
    cycle = find_cycle([(worker, needed) for worker, all_needed in awaited.items() for needed in all_needed])
    if cycle is not None:
        around = " -> ".join([cycle[0][0], *(needed for _, needed in cycle)])
        raise ConfigurationError(
            f"worker {cycle[0][0]!r}: expected workers of which one can be set up first, got {around}, by what their modules depend on. "
            f"Give some of those modules another worker: add(..., worker='name')."
        )
    return awaited
