"""The flow as a graph, against the slowest possible reference: who reaches whom."""

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from steadyflow.runtime.graph import find_cycle, strongly_connected, upstream_of

# What one example takes depends on what else this machine does.
unhurried = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def graphs(draw):
    """Return nodes in some order, and edges between them; also loops and edges drawn twice."""
    nodes = draw(st.permutations("abcdefgh"[: draw(st.integers(1, 8))]))
    edges = draw(st.lists(st.tuples(st.sampled_from(nodes), st.sampled_from(nodes)), max_size=16))
    return list(nodes), edges


@st.composite
def acyclic(draw):
    nodes, edges = draw(graphs())
    place = {node: index for index, node in enumerate(sorted(nodes))}
    return nodes, [(source, target) for source, target in edges if place[source] < place[target]]


def reach(nodes, edges):
    """Return, for each node, everything that something from it comes to, in one step or more."""
    reached = {node: {target for source, target in edges if source == node} for node in nodes}
    for _ in nodes:
        for node in nodes:
            reached[node] |= {further for target in reached[node] for further in reached[target]}
    return reached


@unhurried
@given(graphs())
def test_groups_are_those_who_reach_each_other(graph):
    nodes, edges = graph
    groups = strongly_connected(nodes, edges)
    reached = reach(nodes, edges)
    assert sorted(node for group in groups for node in group) == sorted(nodes)
    for group in groups:
        for one in nodes:
            together = one == group[0] or (one in reached[group[0]] and group[0] in reached[one])
            assert (one in group) == together


@unhurried
@given(graphs())
def test_groups_come_upstream_first(graph):
    nodes, edges = graph
    groups = strongly_connected(nodes, edges)
    place = {node: index for index, group in enumerate(groups) for node in group}
    assert all(place[source] <= place[target] for source, target in edges)


@unhurried
@given(graphs())
def test_inside_a_group_the_order_of_the_nodes_holds(graph):
    nodes, edges = graph
    for group in strongly_connected(nodes, edges):
        assert group == [node for node in nodes if node in group]


@unhurried
@given(st.permutations("abcdef"))
def test_without_edges_the_order_of_the_nodes_holds(nodes):
    assert strongly_connected(nodes, []) == [[node] for node in nodes]


def test_a_chain_is_not_limited_by_recursion():
    nodes = list(range(5000))
    edges = [(node, node + 1) for node in nodes[:-1]]
    assert strongly_connected(nodes, edges) == [[node] for node in nodes]
    assert strongly_connected(nodes, [*edges, (nodes[-1], 0)]) == [nodes]


@unhurried
@given(graphs())
def test_a_cycle_is_found_if_there_is_one(graph):
    nodes, edges = graph
    cycle = find_cycle(edges)
    reached = reach(nodes, edges)
    assert (cycle is not None) == any(node in reached[node] for node in nodes)
    if cycle is not None:
        assert set(cycle) <= set(edges)
        sources = [source for source, _ in cycle]
        assert [target for _, target in cycle] == [*sources[1:], sources[0]], "each goes on where the last one ended"
        assert len(set(sources)) == len(sources), "once round, not twice"


@unhurried
@given(acyclic())
def test_no_cycle_where_all_go_forward(graph):
    _, edges = graph
    assert find_cycle(edges) is None


@pytest.mark.parametrize(
    ("edges", "cycle"),
    [
        ([], None),
        ([("a", "a")], [("a", "a")]),
        ([("a", "b"), ("b", "a")], [("a", "b"), ("b", "a")]),
        ([("a", "b"), ("b", "c"), ("c", "a"), ("b", "a")], [("a", "b"), ("b", "a")]),
        ([("x", "a"), ("a", "b"), ("b", "a"), ("b", "y")], [("a", "b"), ("b", "a")]),
    ],
)
def test_the_shortest_way_round(edges, cycle):
    assert find_cycle(edges) == cycle


@unhurried
@given(graphs())
def test_upstream_is_everything_that_flows_in(graph):
    nodes, edges = graph
    reached = reach(nodes, edges)
    expected = {node: {source for source in nodes if node in reached[source]} for node in nodes}
    assert upstream_of(edges) == {node: sources for node, sources in expected.items() if sources}
