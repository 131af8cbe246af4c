"""The client of RealtimeKit, where there is none, and where there is something else. The real one: test_realtime_workers."""

from __future__ import annotations

import socket
import sys

import pytest
from tests.servers.system_bus import rtkit_bus, system_bus

from steadyflow.platform.rtkit import RealtimeKitRefusal, realtime_kit

__all__ = ["rtkit_bus", "system_bus"]  # fixtures


def refusal():
    with pytest.raises(RealtimeKitRefusal) as refused, realtime_kit():
        pass
    return str(refused.value)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "jeepney.auth", None)
    assert refusal() == 'its client is not installed: pip install "steadyflow[realtime]"'


def test_without_a_bus(tmp_path, monkeypatch):
    pytest.importorskip("jeepney")
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nothing")
    assert refusal() == "the D-Bus system bus cannot be reached: [Errno 2] No such file or directory"


@pytest.mark.parametrize("address", ["pigeon:coop=7", "nonsense", "unix:"])
def test_a_bus_at_an_impossible_address(address, monkeypatch):
    pytest.importorskip("jeepney")
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    assert "the D-Bus system bus cannot be reached" in refusal()


def test_what_listens_is_no_bus(tmp_path, monkeypatch):
    pytest.importorskip("jeepney")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "socket"))
        mute.listen()
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/socket")
        assert refusal() == "the D-Bus system bus did not answer in time"


def test_a_bus_without_the_service(system_bus, monkeypatch):
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", system_bus.address)
    assert refusal().startswith("it answered org.freedesktop.DBus.Error.ServiceUnknown: ")


def test_its_limits(rtkit_bus, monkeypatch):
    rtkit_bus.start_rtkit("--max-realtime-priority=7", "--our-realtime-priority=8", "--rttime-usec-max=123456")
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", rtkit_bus.address)
    with realtime_kit() as kit:
        assert (kit.max_priority, kit.rttime_max_us) == (7, 123_456)
        with pytest.raises(RealtimeKitRefusal, match=r"it answered org\.freedesktop\.DBus\.Error"):
            kit.promote(1, 3)  # not a thread of this process
