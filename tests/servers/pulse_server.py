"""A PulseAudio server of the tests' own: a null sink, whose monitor gives what is played into it; ended by its pid."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

RATE_HZ = 48_000

_SINK = "null"
_PATIENCE_S = 20.0


class PulseServer:
    """
    A server in a folder of its own: socket, cookie and configuration.

    PortAudio reaches it as the ALSA device "pulse", in processes that have `environment` and have not asked it for devices yet.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "home").mkdir()
        (folder / "run").mkdir(mode=0o700)
        # Debian's package says this for the whole system; not every system does.
        (folder / "home" / ".asoundrc").write_text("pcm.pulse { type pulse }\nctl.pulse { type pulse }\n")
        self._folder = folder
        self._socket = folder / "run" / "native"
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {
            "HOME": str(folder / "home"),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "PULSE_SERVER": f"unix:{self._socket}",
            "PULSE_SOURCE": f"{_SINK}.monitor",
            "PULSE_SINK": _SINK,
        }

    def start(self) -> None:
        """Start it; it accepts clients when this returns. Skips the test where pulseaudio cannot run at all."""
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
        # Samples go through as they are, since both ends have this format and this rate.
        sink = f"module-null-sink sink_name={_SINK} rate={RATE_HZ} channels=1 format=float32le"
        command += ["-L", f"module-native-protocol-unix socket={self._socket}", "-L", sink]
        log = self._folder / "log"
        with log.open("ab") as file:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        deadline = time.monotonic() + _PATIENCE_S
        while subprocess.run(["pactl", "info"], capture_output=True, check=False, timeout=10).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.end()
                pytest.skip(f"pulseaudio does not run here:\n{log.read_text(errors='replace')}")

    def play(self, samples: npt.NDArray[np.float32]) -> None:
        """Play samples into the sink; returns when the server has played them."""
        file = self._folder / "samples"
        file.write_bytes(samples.astype("<f4").tobytes())
        command = ["pacat", "--playback", "--raw", "--format=float32le", f"--rate={RATE_HZ}", "--channels=1", str(file)]
        subprocess.run(command, check=True, timeout=_PATIENCE_S)

    def end(self) -> None:
        """End it. Idempotent."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE_S)
            self._process = None


@pytest.fixture
def pulse_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PulseServer]:
    """Start a server that the processes of this test find, and only they: PortAudio lists devices once in a process."""
    if shutil.which("pulseaudio") is None or shutil.which("pacat") is None:
        pytest.skip("pulseaudio and pacat are not installed; tools/install-audio-servers installs them")
    server = PulseServer(tmp_path)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    try:
        server.start()
        yield server
    finally:
        server.end()
