"""
What a module goes through, as one table: where it is, what may happen there, where that leads, and which event tells it.

The diagram in docs/concepts.md is drawn from it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from steadyflow.errors import StateError
from steadyflow.events import (
    DeviceLost,
    DeviceRecovered,
    FlowEvent,
    ModuleAdded,
    ModuleEnded,
    ModulePaused,
    ModuleReady,
    ModuleResumed,
    ModuleStarted,
    ModuleStopped,
    PipelineFailure,
)

ModuleState: TypeAlias = Literal[
    "new", "added", "setting_up", "ready", "running", "paused", "recovering", "ended", "stopped", "failed"
]
ModuleAction: TypeAlias = Literal[
    "add", "set_up", "be_ready", "start", "pause", "resume", "lose_device", "find_device", "end", "stop", "fail"
]


class Transition(NamedTuple):
    """
    One line of the table.

    Args:
        before: The state in which it is possible.
        action: What happens.
        after: The state that it leads to.
        event: The class of the event that tells it; None: it is not told.
    """

    before: ModuleState
    action: ModuleAction
    after: ModuleState
    event: type[FlowEvent] | None


TRANSITIONS: Final[Sequence[Transition]] = (
    Transition("new", "add", "added", ModuleAdded),
    Transition("added", "set_up", "setting_up", None),
    Transition("setting_up", "be_ready", "ready", ModuleReady),
    Transition("ready", "start", "running", ModuleStarted),
    Transition("running", "pause", "paused", ModulePaused),
    Transition("paused", "resume", "running", ModuleResumed),
    Transition("running", "lose_device", "recovering", DeviceLost),
    Transition("paused", "lose_device", "recovering", DeviceLost),
    Transition("recovering", "find_device", "running", DeviceRecovered),
    Transition("running", "end", "ended", ModuleEnded),
    Transition("paused", "end", "ended", ModuleEnded),
    Transition("added", "stop", "stopped", ModuleStopped),
    Transition("setting_up", "stop", "stopped", ModuleStopped),
    Transition("ready", "stop", "stopped", ModuleStopped),
    Transition("running", "stop", "stopped", ModuleStopped),
    Transition("paused", "stop", "stopped", ModuleStopped),
    Transition("recovering", "stop", "stopped", ModuleStopped),
    Transition("setting_up", "fail", "failed", PipelineFailure),
    Transition("ready", "fail", "failed", PipelineFailure),
    Transition("running", "fail", "failed", PipelineFailure),
    Transition("paused", "fail", "failed", PipelineFailure),
    Transition("recovering", "fail", "failed", PipelineFailure),
)
"""All that may happen to a module."""

_TABLE: Final = {(each.before, each.action): each for each in TRANSITIONS}


class Lifecycle:
    """
    Where a module is. Any thread.

    Args:
        name: The module, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._state: ModuleState = "new"

    @property
    def state(self) -> ModuleState:
        """Where it is."""
        return self._state

    def allows(self, action: ModuleAction) -> bool:
        """Tell whether something may happen where it is."""
        return (self._state, action) in _TABLE

    def move(self, action: ModuleAction) -> Transition:
        """
        Let something happen, and return which transition that was.

        Raises:
            StateError: It cannot happen there; names both states.
        """
        moved = self.move_if_allowed(action)
        if moved is None:
            raise StateError(refusal(self._name, self._state, action))
        return moved

    def move_if_allowed(self, action: ModuleAction) -> Transition | None:
        """Do the same; None, and nothing has happened, where it cannot."""
        with self._lock:
            transition = _TABLE.get((self._state, action))
            if transition is not None:
                self._state = transition.after
            return transition


def refusal(name: str, state: ModuleState, action: ModuleAction) -> str:
    """Say why something cannot happen to a module."""
    befores = [each.before for each in TRANSITIONS if each.action == action]
    after = next(each.after for each in TRANSITIONS if each.action == action)
    return (
        f"module {name!r}: cannot {action.replace('_', ' ')}: it is {state!r}, and only {' or '.join(map(repr, befores))} leads to "
        f"{after!r}."
    )


def draw_lifecycle() -> str:
    """Return the table as a Mermaid diagram."""
    lines = ["stateDiagram-v2"]
    for before, action, after, _ in TRANSITIONS:
        lines.append(f"    {'[*]' if before == 'new' else before} --> {after}: {action.replace('_', ' ')}")
    left = {each.before for each in TRANSITIONS}
    lines += [f"    {state} --> [*]" for state in get_args(ModuleState) if state not in left]
    return "\n".join(lines)
