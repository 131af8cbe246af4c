"""Which modules of a running flow are paused, and which pipelines are for that."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from typing import Final, Protocol

from steadyflow.description import Description
from steadyflow.errors import StateError
from steadyflow.lifecycle import refusal
from steadyflow.module import Source, is_device_driven
from steadyflow.pipeline import Pipeline
from steadyflow.registry import ModuleRegistry

_APPLICATION: Final = ""  # no module is called so


class Run(Protocol):
    """Who can keep sources from producing: the execution."""

    def hold_source(self, module: str, *, held: bool) -> None:
        """Let a source produce nothing, or go on; nothing where it is none. Any thread; does not wait."""


class Pausing:
    """
    Pauses and resumes modules. Any thread; does not wait.

    Args:
        description: The flow.
        registry: Keeps where its modules are.
    """

    def __init__(self, description: Description, registry: ModuleRegistry) -> None:
        self._description = description
        self._registry = registry
        self._lock = threading.Lock()
        self._paused: dict[
            str, list[Pipeline]
        ] = {}  # by module: the pipelines that are paused for it, by whoever was first
        self.everything = False
        """Whether the flow as a whole is paused."""

    def pause(self, run: Run, name: str | None) -> None:
        """
        Pause a module; None: every source, and what the application sends.

        Raises:
            StateError: It is not running; names both states. Or a pipeline into it is fused.
        """
        with self._lock:
            if name is not None:
                self._pause(run, name, ("running",))
                return
            for each, placed in self._description.modules.items():
                if isinstance(placed.module, Source):
                    with contextlib.suppress(StateError):  # it has ended, or ends at this moment
                        self._pause(run, each, ("running", "recovering"))
            sent = [link for link in self._description.pipelines.values() if link.source_open and not link.paused]
            for link in sent:
                link.pause()
            self._paused.setdefault(_APPLICATION, []).extend(sent)
            self.everything = True

    def resume(self, run: Run, name: str | None) -> None:
        """Resume a module, if it is paused; None: all that are, and what the application sends."""
        with self._lock:
            for each in list(self._paused) if name is None else [name]:
                links = self._paused.pop(each, None)
                if links is not None:
                    self._let_go(run, each, links)
            self.everything = False

    def require_running(self, modules: Iterable[str]) -> None:
        """
        Check that modules may be given something: that neither one of them is paused, nor all of the flow.

        Raises:
            StateError: It is; says what to resume.
        """
        with self._lock:
            paused = [name for name in modules if name in self._paused]
            if self.everything or paused:
                what = "flow.resume()" if self.everything else f"flow.resume({paused[0]!r})"
                raise StateError(
                    f"{'the flow' if self.everything else f'module {paused[0]!r}'} is paused: what is added would not be. Call {what} first."
                )

    def forget(self, pipeline: Pipeline) -> None:
        """Forget a pipeline that is taken away."""
        with self._lock:
            for links in self._paused.values():
                links[:] = [link for link in links if link is not pipeline]

    def _pause(self, run: Run, name: str, where: tuple[str, ...]) -> None:
        if name in self._paused:
            return
        state = self._registry.state_of(name)
        if state not in where:
            raise StateError(refusal(name, state, "pause"))
        theirs = self._for_others()
        paused: list[Pipeline] = []
        try:
            for link in self._links_of(name):
                if link not in theirs:
                    if link.paused:
                        continue  # by the user, who resumes it
                    link.pause()
                paused.append(link)
        except BaseException:
            for link in paused:
                if link not in theirs:
                    link.resume()
            raise
        self._paused[name] = paused
        run.hold_source(name, held=True)
        self._registry.move_if_allowed(name, "pause")

    def _let_go(self, run: Run, name: str, links: list[Pipeline]) -> None:
        if name != _APPLICATION:
            run.hold_source(name, held=False)
        kept = self._for_others()
        for link in links:
            if link not in kept:
                link.resume()
        if name != _APPLICATION:
            self._registry.move_if_allowed(name, "resume")

    def _links_of(self, name: str) -> list[Pipeline]:
        """Return the pipelines to pause for a module: those into it; of a device, which nobody can hold, also what it feeds."""
        driven = is_device_driven(self._description.modules[name].module)
        links = self._description.pipelines.values()
        return [link for link in links if link.target[0] == name or (driven and link.source[0] == name)]

    def _for_others(self) -> list[Pipeline]:
        return [link for links in self._paused.values() for link in links]
