"""Commands as processes, for the tests that meet the command line as a person or a program does."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "steadyflow.cli"]

# Nothing is expected to take long; a command that hangs must fail its own test.
LIMIT_S = 50


def run(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        **options,
    )


def marked(mark, command=""):
    """Return the pids of living processes with that mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                if command.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


def line_with(stream, text):
    """Read lines up to the first that holds the text."""
    lines = []
    for line in stream:
        lines.append(line)
        if text in line:
            return line
    pytest.fail(f"{text!r} never came; instead: {''.join(lines)}")
