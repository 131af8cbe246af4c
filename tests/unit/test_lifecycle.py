"""The table of a module's life: every pair of state and action, and a walk at random."""

import random
from pathlib import Path
from typing import get_args

import pytest

from steadyflow.errors import StateError
from steadyflow.events import FlowEvent
from steadyflow.lifecycle import TRANSITIONS, Lifecycle, ModuleAction, ModuleState, draw_lifecycle

STATES, ACTIONS = get_args(ModuleState), get_args(ModuleAction)
CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts.md"


def ways():
    """Return, for each state, some actions that lead to it."""
    found = {"new": ()}
    while True:
        more = {
            each.after: (*found[each.before], each.action)
            for each in TRANSITIONS
            if each.before in found and each.after not in found
        }
        if not more:
            return found
        found |= more


WAYS = ways()


def life_in(state):
    life = Lifecycle("m")
    for action in WAYS[state]:
        life.move(action)
    assert life.state == state
    return life


def test_every_state_can_be_reached_and_every_action_is_somewhere():
    assert WAYS.keys() == set(STATES)
    assert {each.action for each in TRANSITIONS} == set(ACTIONS)
    assert len({(each.before, each.action) for each in TRANSITIONS}) == len(TRANSITIONS)
    assert all(each.event is None or issubclass(each.event, FlowEvent) for each in TRANSITIONS)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("action", ACTIONS)
def test_what_is_in_the_table_happens_and_the_rest_is_refused_with_both_states(state, action):
    life = life_in(state)
    listed = [each for each in TRANSITIONS if (each.before, each.action) == (state, action)]
    assert life.allows(action) == bool(listed)
    if listed:
        assert life.move(action) == listed[0]
        assert life.state == listed[0].after
        return
    target = next(each.after for each in TRANSITIONS if each.action == action)
    with pytest.raises(
        StateError, match=f"module 'm': cannot {action.replace('_', ' ')}: it is '{state}', .* leads to '{target}'"
    ):
        life.move(action)
    assert life.move_if_allowed(action) is None
    assert life.state == state


@pytest.mark.parametrize("seed", range(20))
def test_a_walk_at_random_stays_on_the_table(seed):
    chance = random.Random(seed)
    table = {(each.before, each.action): each.after for each in TRANSITIONS}
    life, state = Lifecycle("m"), "new"
    for _ in range(200):
        action = chance.choice(ACTIONS)
        moved = life.move_if_allowed(action)
        state = table.get((state, action), state)
        assert life.state == state, f"seed {seed}"
        assert (moved is not None) == ((moved.before if moved else state, action) in table)


def test_the_page_shows_the_table():
    text = CONCEPTS.read_text()
    assert draw_lifecycle() in text
    for each in TRANSITIONS:
        assert each.event is None or f"`{each.event.__name__}`" in text
