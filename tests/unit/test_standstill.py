"""What comes to a stop when a module waits for ever, and so which aligned inputs cannot be held back for which."""

import pytest

from steadyflow.runtime.standstill import Workplace, inputs_stopped_with, stopped_by

APART = {"a": Workplace("one", 1), "b": Workplace("two", 2), "c": Workplace("three", 3)}


def together(**orders):
    return {name: Workplace("one", order) for name, order in orders.items()}


def source(worker, order=0):
    return Workplace(worker, order, produces=True)


@pytest.mark.parametrize(
    ("waiting", "places", "stopped"),
    [
        # Alone.
        ([], APART, {"b"}),
        # Whoever feeds it, directly or not.
        ([("a", "b")], APART, {"a", "b"}),
        ([("c", "a"), ("a", "b")], APART, {"a", "b", "c"}),
        # Not whom it feeds.
        ([("b", "c")], APART, {"b"}),
        # In its worker, what comes before it in the flow, and all sources.
        ([], together(a=1, b=2, c=3) | {"s": source("one", 9), "t": source("two")}, {"s", "a", "b"}),
        # And then whoever feeds these, from anywhere.
        ([("x", "a")], together(a=1, b=2) | {"x": Workplace("two", 9), "y": Workplace("two", 10)}, {"a", "b", "x"}),
        # The modules of a loop have one place.
        ([], together(a=2, b=2, c=3), {"a", "b"}),
    ],
)
def test_what_stops_with_a_module_that_waits(waiting, places, stopped):
    assert stopped_by("b", waiting, places) == stopped


def stops(links, places, *, losing=(), mic="mic_feed", reference="reference_feed"):
    """Return what stops for whom, of two inputs of the module `join`."""
    edges = [*links, (mic, "join"), (reference, "join")]
    waiting = {edge for edge in edges if edge not in losing}
    return inputs_stopped_with("join", {"mic": mic, "reference": reference}, edges, waiting, places)


NOTHING = {"mic": [], "reference": []}
BOTH = {"mic": ["reference"], "reference": ["mic"]}


def test_sources_with_workers_of_their_own_go_on_without_each_other():
    places = {"mic_feed": source("one"), "reference_feed": source("two"), "join": Workplace("three", 3)}
    assert stops([], places) == NOTHING


def test_a_source_beside_the_join_goes_on_too():
    places = {"mic_feed": source("main"), "reference_feed": source("two"), "join": Workplace("main", 3)}
    assert stops([], places) == NOTHING


def test_sources_in_one_worker_stop_each_other():
    places = {"mic_feed": source("one"), "reference_feed": source("one"), "join": Workplace("three", 3)}
    assert stops([], places) == BOTH


def test_but_not_where_the_pipeline_loses_rather_than_waits():
    places = {"mic_feed": source("one"), "reference_feed": source("one"), "join": Workplace("three", 3)}
    assert stops([], places, losing=[("mic_feed", "join")]) == {"mic": [], "reference": ["mic"]}


def test_two_ways_from_one_source_stop_each_other():
    places = {
        "source": source("one"),
        "mic_feed": Workplace("two", 2),
        "reference_feed": Workplace("three", 3),
        "join": Workplace("four", 4),
    }
    links = [("source", "mic_feed"), ("source", "reference_feed")]
    assert stops(links, places) == BOTH
    assert stops(links[:1], places, reference="source") == BOTH
    assert stops(links, places, losing=links) == NOTHING


def test_of_two_modules_in_one_worker_the_earlier_one_is_stopped_by_the_later():
    places = {
        "mic_source": source("one"),
        "reference_source": source("two"),
        "mic_feed": Workplace("three", 3),
        "reference_feed": Workplace("three", 4),
        "join": Workplace("main", 5),
    }
    links = [("mic_source", "mic_feed"), ("reference_source", "reference_feed")]
    assert stops(links, places) == {"mic": [], "reference": ["mic"]}


def test_where_the_join_itself_would_stop_nothing_helps():
    """`other`, in the worker of the join, feeds `early`, which is not served while `mic_feed` beside it waits."""
    places = {
        "early": Workplace("one", 1),
        "mic_feed": Workplace("one", 2),
        "reference_feed": source("two"),
        "join": Workplace("main", 3),
        "other": Workplace("main", 4),
    }
    assert stops([("other", "early")], places) == {"mic": ["reference"], "reference": []}
