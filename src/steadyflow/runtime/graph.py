"""The flow as a graph: order, loops. Pure functions over names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

Edge: TypeAlias = tuple[str, str]


def strongly_connected(nodes: Iterable[str], edges: Iterable[Edge]) -> list[list[str]]:
    """
    Group nodes that reach each other, upstream groups first; inside a group, in the order of `nodes`.

    Tarjan's algorithm (Depth-first search and linear graph algorithms, 1972), without recursion.
    """
    order = list(nodes)
    successors: dict[str, list[str]] = {node: [] for node in order}
    for source, target in edges:
        successors[source].append(target)
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    on_stack: set[str] = set()
    stack: list[str] = []
    groups: list[list[str]] = []
    # Visited in reverse, so that among unordered nodes the result keeps the order in which they were added.
    for root in reversed(order):
        if root in index:
            continue
        work = [(root, iter(reversed(successors[root])))]
        index[root] = lowest[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, remaining = work[-1]
            child = next(remaining, None)
            if child is None:
                work.pop()
                if work:
                    parent = work[-1][0]
                    lowest[parent] = min(lowest[parent], lowest[node])
                if lowest[node] == index[node]:
                    group = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        group.append(member)
                        if member == node:
                            break
                    groups.append(group)
            elif child not in index:
                index[child] = lowest[child] = len(index)
                stack.append(child)
                on_stack.add(child)
                work.append((child, iter(reversed(successors[child]))))
            elif child in on_stack:
                lowest[node] = min(lowest[node], index[child])
    position = {node: number for number, node in enumerate(order)}
    return [sorted(group, key=position.__getitem__) for group in reversed(groups)]


def find_cycle(edges: Sequence[Edge]) -> list[Edge] | None:
    """Return the edges of one cycle in order, or None."""
    successors: dict[str, list[str]] = {}
    for source, target in edges:
        successors.setdefault(source, []).append(target)
        successors.setdefault(target, [])
    for group in strongly_connected(successors, edges):
        members = set(group)
        start = group[0]
        if len(group) == 1 and start not in successors[start]:
            continue
        # Breadth first inside the group: the shortest way from the start back to itself.
        came_from: dict[str, str] = {}
        queue = [start]
        for node in queue:
            for child in successors[node]:
                if child == start:
                    path = [(node, start)]
                    while node != start:
                        path.append((came_from[node], node))
                        node = came_from[node]
                    return path[::-1]
                if child in members and child not in came_from:
                    came_from[child] = node
                    queue.append(child)
    return None


def upstream_of(edges: Iterable[Edge]) -> Mapping[str, set[str]]:
    """Return, for each node that something flows into, all nodes further up."""
    direct: dict[str, set[str]] = {}
    for source, target in edges:
        direct.setdefault(target, set()).add(source)
    reached: dict[str, set[str]] = {}
    for node, sources in direct.items():
        seen: set[str] = set()
        queue = list(sources)
        while queue:
            source = queue.pop()
            if source not in seen:
                seen.add(source)
                queue.extend(direct.get(source, ()))
        reached[node] = seen
    return reached
