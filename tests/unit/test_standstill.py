"""What comes to a stop when a module waits for ever, which aligned inputs so cannot be held back for which, and who waits for itself."""

import pytest

from steadyflow.runtime.standstill import Workplace, inputs_stopped_with, stopped_by, waits_in_a_circle

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


# --- what waits for itself ----------------------------------------------------------------------------------------------


def links(*arrows):
    """Pipelines by their ends, such as "a>b"; of several between the same ends, "a>b:2"."""
    return [(arrow, *arrow.partition(":")[0].split(">")) for arrow in arrows]


def circle(full, empty=(), others=()):
    """Return who waits for itself, in a flow of these pipelines."""
    everything = [*links(*full), *links(*empty), *links(*others)]
    return waits_in_a_circle(links(*full), links(*empty), [(source, target) for _, source, target in everything])


@pytest.mark.parametrize(
    ("full", "modules", "pipelines"),
    [
        (["a>b", "b>a"], ("a", "b"), ("a>b", "b>a")),
        (["b>c", "c>a", "a>b"], ("b", "c", "a"), ("b>c", "c>a", "a>b")),
        (["s>a", "a>b", "b>c", "c>b"], ("b", "c"), ("b>c", "c>b")),
        (["a>a"], ("a",), ("a>a",)),
        (["a>b:1", "a>b:2", "b>a"], ("a", "b"), ("a>b:1", "b>a")),
    ],
)
def test_a_loop_of_full_pipelines_waits_for_itself(full, modules, pipelines):
    found = circle(full)
    assert (found.modules, found.pipelines) == (modules, pipelines)
    assert found.reason.startswith(" -> ".join([*modules, modules[0]]) + " wait for each other")
    assert "DropOldest()" in found.reason


@pytest.mark.parametrize(
    ("full", "empty", "others"),
    [
        ([], [], ["a>b"]),
        (["a>b"], [], []),
        (["s>a", "a>b", "b>c"], [], []),
        (["a>b"], [], ["b>a"]),  # a loop that is not full everywhere
        (["a>b"], ["b>a"], []),
    ],
)
def test_who_waits_for_somebody_who_is_only_slow_waits_not_for_itself(full, empty, others):
    assert circle(full, empty, others) is None


def test_a_join_that_takes_nothing_while_its_other_input_is_empty_waits_for_itself():
    """The source waits for room on the one way, so that nothing comes on the other."""
    found = circle(["s>a", "a>join"], ["s>b", "b>join"])
    assert found.modules == ("a", "join", "b")
    assert found.pipelines == ("a>join", "b>join")
    assert found.reason.startswith(
        "'join' takes nothing from a>join, which is full, while b>join is empty, because 'b' gets"
    )
    assert "Give a>join more room, or a rule that does not wait." in found.reason


def test_one_module_may_be_on_both_ways():
    found = circle(["s>join:left"], ["s>join:right"])
    assert found.modules == ("s", "join", "s")
    assert found.pipelines == ("s>join:left", "s>join:right")


def test_the_way_may_be_long():
    found = circle(["s>a", "a>b", "b>c", "c>join"], ["s>x", "x>y", "y>join"])
    assert found.pipelines == ("c>join", "y>join")


@pytest.mark.parametrize(
    ("full", "empty", "others"),
    [
        (["a>join"], ["b>join"], []),  # nothing above is the same
        (["a>join"], ["b>join"], ["s>a", "s>b"]),  # the source does not wait
        (["s>a", "a>join"], ["b>other"], ["s>b", "b>join"]),  # the empty one leads elsewhere
        (["s>a", "a>join"], [], ["s>b", "b>join"]),  # the join has something of both: it is only slow
        (["s>a", "a>join"], ["t>b", "b>join"], []),  # another source
    ],
)
def test_a_join_waits_for_others_where_these_can_go_on(full, empty, others):
    assert circle(full, empty, others) is None
