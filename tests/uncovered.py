"""Processes in which coverage is not measured: it costs memory and time, which may be what a test is about."""

from __future__ import annotations

import os


def uncovered_environment():
    """Return the environment of a child that measures no coverage, and whose own children do not either."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
