"""A JACK server of the benchmark's own: jackd with its dummy driver, under a name that nobody else has."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from steadyflow.benchmarks.harness import interrupt_deferred
from steadyflow.errors import SystemShortage
from steadyflow.platform.capabilities import probe_realtime

__all__ = ["DummyServer"]

_PATIENCE_S: Final = 20.0


class DummyServer:
    """
    Runs while its context does; clients of `environment` find it and no other one.

    It is ended by its pid, with SIGTERM: a server that is killed stays in JACK's list of servers, which has room for eight.

    Args:
        period_frames: How many frames a cycle has.
        rate_hz: Frames per second.
        log: What it says is written to this file.

    Raises:
        SystemShortage: jackd is not installed, or does not start.
    """

    def __init__(self, period_frames: int, rate_hz: int, log: Path) -> None:
        self.name = f"steadyflow-{os.getpid()}-{secrets.token_hex(3)}"
        self.environment = {"JACK_DEFAULT_SERVER": self.name, "JACK_NO_START_SERVER": "1"}
        self.period_frames = period_frames
        self.rate_hz = rate_hz
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        missing = [program for program in ("jackd", "jack_lsp") if shutil.which(program) is None]
        if missing:
            raise SystemShortage(
                f"steadyflow bench device needs a JACK server of its own, and {' and '.join(missing)} is not installed. Install it "
                f"with your system's packages: jackd2 on Debian and Ubuntu, jack2 on Fedora and Arch."
            )
        # Real-time where that is allowed: the threads that JACK makes for its clients are then, too.
        realtime, _, _ = probe_realtime()
        if not ((realtime.allowed and self._comes_up("--realtime")) or self._comes_up("--no-realtime")):
            raise SystemShortage(
                f"steadyflow bench device: expected jackd to start with its dummy driver; it said: "
                f"{' '.join(self._log.read_text(errors='replace').split())[-600:]}"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _comes_up(self, scheduling: str) -> bool:
        command = ["jackd", "-n", self.name, scheduling, "-d", "dummy"]
        command += ["-r", str(self.rate_hz), "-p", str(self.period_frames)]
        with self._log.open("ab") as log, interrupt_deferred():
            # In a session of its own: Ctrl-C reaches only us, and we end it in good order.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        up = False
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while not up and self._process.poll() is None and time.monotonic() < deadline:
                asked = subprocess.run(["jack_lsp", "-s", self.name], capture_output=True, check=False, timeout=10)
                up = asked.returncode == 0
        finally:
            if not up:
                self._end()
        return up

    def _end(self) -> None:
        if self._process is None:
            return
        with interrupt_deferred():
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None
        # What clients that were killed, or that outlived the server, have left behind.
        for left in Path("/dev/shm").glob(f"jack_sem.*_{self.name}_*"):  # noqa: S108 - it is JACK's own place
            left.unlink(missing_ok=True)
