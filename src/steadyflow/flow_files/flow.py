"""A coordinator that knows the file in which its flow is described."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from steadyflow.clock import ManualClock
from steadyflow.coordinator import DataFlowCoordinator
from steadyflow.errors import FlowError, FlowFailed, Subject, located
from steadyflow.report import FlowReport
from steadyflow.runtime.static_check import check_description
from steadyflow.toml import Key, TomlDocument

if TYPE_CHECKING:
    from steadyflow.diagrams import DiagramFormat
    from steadyflow.runtime.format_resolution import FoundFormats


class FileFlow(DataFlowCoordinator):
    """
    The flow of a file; made by `load_flow`.

    What is wrong with its description is said with the place in the file, also where it is found only at the start.

    Attributes:
        path: The file.
        description: What it says about itself.
        duration_s: How long `run` and `run_async` last unless told otherwise; None: until all streams have ended.
    """

    def __init__(self, name: str, document: TomlDocument, description: str, duration_s: float | None) -> None:
        super().__init__(name)
        self.path = document.path
        self.description = description
        self.duration_s = duration_s
        self._document = document
        self._keys: dict[Subject | None, Key] = {}
        self._checked: FoundFormats | None = None

    def run(
        self, duration_s: float | None = None, *, freewheel: bool = False, clock: ManualClock | None = None
    ) -> FlowReport:
        """Run as the base class does; without `duration_s`, as long as the file says."""
        duration_s = self.duration_s if duration_s is None else duration_s
        return super().run(duration_s, freewheel=freewheel, clock=clock)

    async def run_async(
        self, duration_s: float | None = None, *, freewheel: bool = False, clock: ManualClock | None = None
    ) -> FlowReport:
        """Run as the base class does, in a task of an event loop; without `duration_s`, as long as the file says."""
        duration_s = self.duration_s if duration_s is None else duration_s
        return await super().run_async(duration_s, freewheel=freewheel, clock=clock)

    def graph(self, format: DiagramFormat = "mermaid") -> str:
        """
        Draw as the base class does, what can run.

        A program may be in the middle of its description, but a file is a whole one: so it is checked before, as `start`
        would, as far as nothing has to be set up for it. Sources are asked what they send, which may block on the disk.

        Raises:
            ConfigurationError: The flow could not run (formats, joins, replicas, loops, workers); names file and line.
        """
        if self._state == "new":
            with self._places():
                self._checked = check_description(
                    self._description.modules, list(self._description.pipelines.values()), self._budgets
                )
        return super().graph(format)

    def _known_formats(self) -> FoundFormats | None:
        return super()._known_formats() or self._checked

    def describes(self, key: Key, subject: Subject) -> None:
        """Note where a module or a pipeline is described. Loading only."""
        self._keys[subject] = key

    def _start(self, clock: ManualClock | None = None) -> None:
        with self._places():
            super()._start(clock)

    @contextlib.contextmanager
    def _places(self) -> Iterator[None]:
        try:
            yield
        except FlowFailed:
            raise  # it ran: what failed is the module's doing
        except FlowError as error:
            located(error, self._document.where(*self._keys.get(error.subject, ())))
            raise
