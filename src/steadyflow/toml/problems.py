"""Errors with their places, as many as can be found at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from steadyflow.errors import FlowError, SeveralProblems, located


class Problems:
    """
    Collects the errors of one description.

    ::

        problems = Problems()
        for name in names:
            with problems.noted():
                read(name)
        problems.raise_if_any("flow.toml")
    """

    def __init__(self) -> None:
        self.found: list[FlowError] = []

    def add(self, problem: FlowError) -> None:
        """Keep a problem; one that holds several adds all of them."""
        self.found.extend(problem.problems if isinstance(problem, SeveralProblems) else [problem])

    @contextlib.contextmanager
    def noted(self, where: str = "") -> Iterator[None]:
        """Keep the error that is raised inside, with a place before its message, and go on behind."""
        try:
            yield
        except FlowError as error:
            self.add(located(error, where) if where else error)

    def raise_if_any(self, where: str) -> None:
        """
        Raise what was found: a single error as it is, several as `SeveralProblems` of the place.

        Raises:
            FlowError: Something was found.
        """
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            raise SeveralProblems(where, self.found)
