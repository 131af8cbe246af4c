"""How the run of a command's flow ended."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from steadyflow import DataFlowCoordinator, FlowFailed, FlowReport
from steadyflow.cli.failures import describe

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


@dataclass(kw_only=True)
class Outcome:
    """
    What is known about a run.

    Args:
        report: Its report; None if there is nothing to report.
        failure: What went wrong.
        interrupted: Whether Ctrl-C ended it.
    """

    report: FlowReport | None = None
    failure: FlowFailed | None = None
    interrupted: bool = False

    @property
    def problems(self) -> list[str]:
        """All that went wrong, for a person to read."""
        return [describe(each) for each in self.failure.exceptions] if self.failure else []

    def stop(self, flow: DataFlowCoordinator) -> None:
        """Stop the flow; a failure is noted down."""
        try:
            flow.stop()
        except FlowFailed as failure:
            self.failure = failure

    def conclude(self) -> int:
        """Print what went wrong, and return the exit code of the command."""
        if self.failure is not None:
            print(f"steadyflow: {describe(self.failure)}", file=sys.stderr)
            return 1
        return INTERRUPTED if self.interrupted else 0
