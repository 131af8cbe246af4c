"""What tests of commands are given: processes that are ended with the test, and a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import uuid

import pytest
from tests.integration.commands import COMMAND


@pytest.fixture
def started(request):
    """Start a command in a process group of its own; what it leaves behind can be found by a mark."""
    mark = f"STEADYFLOW_TEST={uuid.uuid4()}"
    processes = []

    def start(*arguments, **options):
        name, _, value = mark.partition("=")
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env=os.environ | {name: value},
            **options,
        )
        processes.append(process)
        return process, mark

    yield start
    for process in processes:
        with process:  # closes its pipes, and waits
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def terminal(monkeypatch):
    """Offer one end of a pseudo-terminal to a command, and read what it draws at the other."""
    monkeypatch.setenv("TERM", "xterm-256color")  # one that can move its cursor, whatever runs the tests
    ours, end = pty.openpty()
    theirs = os.fdopen(end, "wb", 0)  # a file may be closed twice; a number would by then be somebody else's
    drawn = []

    def read_until(text=None):
        while text is None or text not in "".join(drawn):
            try:
                piece = os.read(ours, 65_536)
            except OSError:  # EIO: the command has closed its end
                piece = b""
            if not piece:
                break
            drawn.append(piece.decode(errors="replace"))
        return "".join(drawn)

    yield theirs, read_until
    os.close(ours)
    theirs.close()
