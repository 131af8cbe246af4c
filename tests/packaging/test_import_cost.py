"""`import steadyflow` brings little beside numpy; the time itself is a benchmark, not a test."""

from __future__ import annotations

import subprocess
import sys

from tests.uncovered import uncovered_environment

HEAVY = {"asyncio", "concurrent.futures", "multiprocessing", "rich", "soundfile", "sounddevice", "typer"}
# Events are no part of this: reports hold them, and they cost less than half a millisecond.
LAZY = {
    "steadyflow.audio",
    "steadyflow.cli",
    "steadyflow.platform",
    "steadyflow.recording",
    "steadyflow.runtime.workers",
    "steadyflow.testing",
}


def loaded_by(statement):
    """Names of the modules that a fresh interpreter loads for this statement."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before, sep='\\n')"
    # Coverage in the child would load things of its own.
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=uncovered_environment()
    )
    return set(done.stdout.split())


def test_heavy_modules_are_left_for_later():
    # Against numpy: what it loads is paid for already.
    brought = loaded_by("import steadyflow") - loaded_by("import numpy")

    assert "steadyflow" in brought
    assert brought & HEAVY == set()


def test_parts_load_when_they_are_used():
    assert {name for name in loaded_by("import steadyflow") if name in LAZY} == set()


def test_lazy_parts_load_by_name():
    brought = loaded_by("import steadyflow; steadyflow.audio; steadyflow.testing")

    assert {"steadyflow.audio", "steadyflow.testing"} <= brought
