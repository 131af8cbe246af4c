"""A D-Bus system bus of the tests' own, with the real RealtimeKit on it; each ended by its pid."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

RTKIT_DAEMON = Path("/usr/libexec/rtkit-daemon")
RTKIT_NAME = "org.freedesktop.RealtimeKit1"
POLKIT_NAME = "org.freedesktop.PolicyKit1"

_POLKIT = Path(__file__).with_name("polkit_answering.py")
_PATIENCE_S = 20.0
_CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""


class SystemBus:
    """A bus, and the services that were started on it."""

    def __init__(self, folder: Path, processes: contextlib.ExitStack) -> None:
        self.address = f"unix:path={folder / 'socket'}"
        self.environment = {"DBUS_SYSTEM_BUS_ADDRESS": self.address}
        self._folder = folder
        self._processes = processes

    def start(self) -> None:
        """Start the bus; it listens when this returns."""
        configuration = self._folder / "bus.conf"
        configuration.write_text(_CONFIGURATION.format(socket=self._folder / "socket"))
        command = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address"]
        bus = self._launch(command, stdout=subprocess.PIPE)
        if not bus.stdout.readline():
            pytest.skip("dbus-daemon does not run here")

    def start_rtkit(self, *options: str) -> None:
        """Start RealtimeKit, which answers when this returns."""
        # Its own limits end it when it writes to a log, and its canary is for whole machines.
        command = [str(RTKIT_DAEMON), "--no-limit-resources", "--no-canary", *options]
        self._serve(command, RTKIT_NAME)

    def start_polkit(self, answer: str) -> None:
        """Start what RealtimeKit asks whether a user may have it. Says ``yes`` or ``no`` to everything."""
        self._serve([sys.executable, str(_POLKIT), answer], POLKIT_NAME)

    def _serve(self, command: list[str], name: str) -> None:
        from jeepney import MatchRule, message_bus
        from jeepney.io.blocking import Proxy, open_dbus_connection

        rule = MatchRule(
            type="signal", sender="org.freedesktop.DBus", interface="org.freedesktop.DBus", member="NameOwnerChanged"
        )
        rule.add_arg_condition(0, name)
        with open_dbus_connection(bus=self.address) as connection, connection.filter(rule) as changes:
            bus = Proxy(message_bus, connection)
            bus.AddMatch(rule)
            process = self._launch(command, env=os.environ | self.environment)
            try:
                connection.recv_until_filtered(changes, timeout=_PATIENCE_S)
            except TimeoutError:
                pytest.skip(f"{command[0]} does not run here: exit code {process.poll()}")

    def _launch(self, command: list[str], **options) -> subprocess.Popen:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
        self._processes.callback(_end, process)
        return process


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    process.wait(_PATIENCE_S)
    if process.stdout is not None:
        process.stdout.close()


@pytest.fixture
def system_bus() -> Iterator[SystemBus]:
    """Return a running bus without services. Skips where there is none."""
    pytest.importorskip("jeepney")
    if shutil.which("dbus-daemon") is None:
        pytest.skip("needs dbus-daemon (on Debian: apt install dbus)")
    with contextlib.ExitStack() as undo:
        # Not pytest's own folder, which other users cannot enter.
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="steadyflow-bus-")))
        folder.chmod(0o755)
        bus = SystemBus(folder, undo)
        bus.start()
        yield bus


@pytest.fixture
def rtkit_bus(system_bus: SystemBus) -> SystemBus:
    """Return a running bus, on which RealtimeKit can be started. Skips where it cannot."""
    if not RTKIT_DAEMON.exists():
        pytest.skip("needs RealtimeKit (on Debian: apt install rtkit)")
    if os.geteuid() != 0:
        pytest.skip("RealtimeKit can only be started by root")
    return system_bus
