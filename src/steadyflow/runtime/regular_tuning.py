"""Tunes the pools of a flow every second, for as long as it runs."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import Final, Protocol

from steadyflow.errors import StateError

PERIOD_S: Final = 1.0


class Tunable(Protocol):
    """A flow."""

    @property
    def state(self) -> str:
        """Where it is."""

    def tune_pools(self) -> object:
        """Tune its pools."""


def tune_regularly(flow: Tunable) -> None:
    """Let a thread tune a flow's pools until it does not run any more. It does not keep the flow."""
    threading.Thread(target=_tune, args=(weakref.ref(flow),), name="steadyflow-pools", daemon=True).start()


def _tune(found: weakref.ref[Tunable]) -> None:
    while _wait_while_running(found):
        flow = found()
        if flow is not None:
            with contextlib.suppress(StateError):  # it ends at this moment
                flow.tune_pools()


def _wait_while_running(found: weakref.ref[Tunable]) -> bool:
    threading.Event().wait(PERIOD_S)
    flow = found()
    return flow is not None and flow.state in ("running", "paused")
