"""A JACK server of the tests' own: jackd's dummy driver, under a name that nobody else has, ended by its pid."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from steadyflow.benchmarks.device.probe import Probe

RATE_HZ = 48_000
PERIOD_FRAMES = 128

_PATIENCE_S = 20.0


class JackServer:
    """A server, and what feeds it."""

    def __init__(self, log: Path) -> None:
        self.name = f"steadyflow-{os.getpid()}-{secrets.token_hex(3)}"
        self.environment = {"JACK_DEFAULT_SERVER": self.name, "JACK_NO_START_SERVER": "1"}
        self._log = log
        self._server: subprocess.Popen[bytes] | None = None
        self._feeder: Probe | None = None
        self._killed = False

    def start(self) -> None:
        """Start it; it accepts clients when this returns. Skips the test where jackd cannot run at all."""
        # Real-time where that is allowed: the threads that JACK makes for its clients are then, too.
        if not ((_may_be_realtime() and self._comes_up("--realtime")) or self._comes_up("--no-realtime")):
            pytest.skip(f"jackd does not run here:\n{self._log.read_text(errors='replace')}")

    def _comes_up(self, scheduling: str) -> bool:
        # Synchronous: a client that is late makes the server late, which is a dummy and does not mind, and loses nothing.
        command = [
            "jackd",
            "-n",
            self.name,
            "--sync",
            scheduling,
            "-d",
            "dummy",
            "-r",
            str(RATE_HZ),
            "-p",
            str(PERIOD_FRAMES),
        ]
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _PATIENCE_S
        while subprocess.run(["jack_lsp", "-s", self.name], capture_output=True, check=False, timeout=10).returncode:
            if self._server.poll() is not None or time.monotonic() > deadline:
                self._server.kill()
                self._server.wait()
                return False
        return True

    def feed(self) -> None:
        """Play the numbers of the frames into every input that is there, or comes: what is captured says where it was."""
        self._feeder = Probe(self.name)

    def ports(self) -> list[str]:
        """Return the names of all ports."""
        listed = subprocess.run(["jack_lsp", "-s", self.name], capture_output=True, check=True, timeout=20, text=True)
        return [line for line in listed.stdout.splitlines() if ":" in line]

    def connect(self, source: str, target: str) -> None:
        """Let what one port sends come out of another."""
        subprocess.run(["jack_connect", "-s", self.name, source, target], capture_output=True, check=True, timeout=20)

    def disconnect(self, source: str, target: str) -> None:
        """Undo `connect`."""
        subprocess.run(
            ["jack_disconnect", "-s", self.name, source, target], capture_output=True, check=True, timeout=20
        )

    def kill(self) -> None:
        """End it without a word to its clients, and with it what feeds it."""
        assert self._server is not None
        self._killed = True
        self._server.kill()
        self._server.wait()
        if self._feeder is not None:
            self._feeder.close()
            self._feeder = None

    def end(self) -> None:
        """End it in good order: a server that was killed stays in the list of JACK's, which has room for eight."""
        if self._server is not None and self._server.poll() is not None and self._killed:
            self.start()
        if self._feeder is not None:
            self._feeder.close()
            self._feeder = None
        if self._server is not None:
            self._server.terminate()
            self._server.wait(_PATIENCE_S)
        # What clients that were killed, or that outlived the server, have left behind.
        for left in Path("/dev/shm").glob(f"jack_sem.*_{self.name}_*"):
            left.unlink(missing_ok=True)


def _may_be_realtime() -> bool:
    command = [sys.executable, "-c", "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"]
    return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0


@pytest.fixture(scope="module")
def jack_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JackServer]:
    """
    Start the server of this process, for one file of tests: PortAudio finds it when it is loaded, and no other one later.
    """
    with pytest.MonkeyPatch.context() as patch:
        yield from _run_server(tmp_path_factory.mktemp("jack"), patch)
    # PortAudio would abort the process if it were told to end after the server has.
    if "sounddevice" in sys.modules:
        atexit.unregister(sys.modules["sounddevice"]._exit_handler)


@pytest.fixture
def own_jack_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JackServer]:
    """Start a server that only the processes of this test use, so that they may do with it what they want."""
    yield from _run_server(tmp_path, monkeypatch)


@pytest.fixture
def silent_jack_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JackServer]:
    """Start a server whose inputs nothing plays into, but what the test connects."""
    yield from _run_server(tmp_path, monkeypatch, feed=False)


def _run_server(folder: Path, patch: pytest.MonkeyPatch, *, feed: bool = True) -> Iterator[JackServer]:
    if shutil.which("jackd") is None or shutil.which("jack_lsp") is None:
        pytest.skip("jackd and jack_lsp are not installed; tools/install-audio-servers installs them")
    server = JackServer(folder / "jackd.log")
    for name, value in server.environment.items():
        patch.setenv(name, value)
    try:
        server.start()
        if feed:
            server.feed()
        yield server
    finally:
        server.end()
