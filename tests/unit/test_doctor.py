"""What the doctor makes of good and bad systems."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest

from steadyflow.cli import doctor as doctor_module
from steadyflow.cli.doctor import Finding, doctor, render, report
from steadyflow.platform import Attempt, Capabilities, Library

GIBIBYTE = 1 << 30
YES = Attempt(allowed=True)

GOOD = Capabilities(
    system="Linux",
    kernel="6.1.0",
    machine="x86_64",
    python="CPython 3.11.2",
    cores=2,
    cores_total=4,
    cpu_quota_cores=None,
    isolated_cores=(),
    memory_total_bytes=8 * GIBIBYTE,
    memory_available_bytes=4 * GIBIBYTE,
    memory_limit_bytes=None,
    shared_memory=YES,
    wake_up_pipe=YES,
    futex=YES,
    eventfd=YES,
    realtime=YES,
    realtime_priority=95,
    realtime_priority_limit=95,
    rtkit=YES,
    rtkit_priority=20,
    locked_memory=YES,
    locked_memory_limit_bytes=None,
    clock_source="tsc",
    clock_read_ns=50,
    soundfile=Library("0.13.1, libsndfile 1.2.2"),
    soxr=Library("1.1.0, libsoxr-0.1.3"),
    sounddevice=Library("0.5.1"),
    portaudio=Library("V19.6.0-devel"),
    portaudio_backends=("ALSA", "JACK Audio Connection Kit"),
)


def no(reason):
    return Attempt(allowed=False, reason=reason)


def finding(name, **changes):
    (found,) = [each for each in report(dataclasses.replace(GOOD, **changes)) if each.name == name]
    return found


def rendered(findings):
    from rich.console import Console

    stream = io.StringIO()
    render(findings, Console(file=stream, width=200))
    return stream.getvalue()


def test_a_good_system_needs_nothing():
    findings = report(GOOD)

    assert {each.state for each in findings} == {"ok"}
    assert not any(each.advice for each in findings)
    assert [each.name for each in findings] == [
        "system",
        "Python",
        "cores",
        "memory",
        "shared memory",
        "wake-up",
        "real-time scheduling",
        "RealtimeKit",
        "locked memory",
        "clock",
        "audio files",
        "sample rates",
        "audio devices",
    ]


@pytest.mark.parametrize(
    ("name", "changes", "state", "value", "advice"),
    [
        ("system", {"system": "Darwin", "kernel": "23.0"}, "missing", "Darwin 23.0, x86_64", "Linux"),
        ("cores", {"cores": 1}, "limited", "1 of 4", "second core"),
        ("cores", {"cpu_quota_cores": 0.5}, "limited", "2 of 4, time for 0.5", "second core"),
        ("cores", {"cpu_quota_cores": 2.0}, "ok", "2 of 4, time for 2", ""),
        ("memory", {"memory_available_bytes": 100 << 20}, "limited", "100 MiB available of 8.0 GiB", "buffer_size"),
        (
            "memory",
            {"memory_limit_bytes": GIBIBYTE},
            "ok",
            "4.0 GiB available of 8.0 GiB, limited to 1.0 GiB",
            "",
        ),
        ("memory", {"memory_total_bytes": None}, "ok", "4.0 GiB available", ""),
        ("memory", {"memory_available_bytes": None}, "ok", "unknown", ""),
        ("shared memory", {"shared_memory": no("not permitted")}, "missing", "not permitted", "memfd_create"),
        ("wake-up", {"wake_up_pipe": no("not permitted")}, "missing", "not permitted", "pipe2"),
        ("wake-up", {"eventfd": no("not permitted")}, "limited", "pipe; eventfd: not permitted", "observe"),
        ("wake-up", {"futex": no("not permitted")}, "ok", "pipe, eventfd", ""),
        ("cores", {"isolated_cores": (2, 3)}, "ok", "2 of 4, 2 isolated", ""),
        (
            "real-time scheduling",
            {
                "realtime": no("not permitted"),
                "realtime_priority": 0,
                "realtime_priority_limit": 0,
                "rtkit": no("no bus"),
            },
            "limited",
            "realtime=True gets nothing; SCHED_FIFO: not permitted, RLIMIT_RTPRIO 0",
            "rtprio 95",
        ),
        (
            "real-time scheduling",
            {"realtime": no(""), "realtime_priority": 0, "realtime_priority_limit": None, "rtkit": no("no bus")},
            "limited",
            "realtime=True gets nothing; SCHED_FIFO: not allowed, RLIMIT_RTPRIO unlimited",
            "SYS_NICE",
        ),
        (
            "real-time scheduling",
            {"rtkit": no("no bus")},
            "ok",
            "realtime=True gets SCHED_FIFO; priority up to 95, RLIMIT_RTPRIO 95",
            "",
        ),
        (
            "real-time scheduling",
            {"realtime": no("not permitted"), "realtime_priority": 0, "realtime_priority_limit": 0},
            "ok",
            "realtime=True gets SCHED_RR of RealtimeKit; SCHED_FIFO: not permitted, RLIMIT_RTPRIO 0",
            "",
        ),
        ("RealtimeKit", {}, "ok", "SCHED_RR, priority up to 20", ""),
        ("RealtimeKit", {"rtkit": no("no bus")}, "ok", "not needed; no bus", ""),
        ("RealtimeKit", {"rtkit": no("no bus"), "realtime": no("")}, "missing", "no bus", "apt install rtkit"),
        (
            "locked memory",
            {"locked_memory_limit_bytes": 8 << 20},
            "limited",
            "up to 8 MiB, RLIMIT_MEMLOCK",
            "memlock unlimited",
        ),
        ("locked memory", {"locked_memory_limit_bytes": GIBIBYTE}, "ok", "up to 1.0 GiB, RLIMIT_MEMLOCK", ""),
        (
            "locked memory",
            {"locked_memory": no("not permitted"), "locked_memory_limit_bytes": 0},
            "limited",
            "not permitted",
            "memlock unlimited",
        ),
        ("clock", {"clock_source": None}, "ok", "source unknown, 50 ns a reading", ""),
        ("clock", {"clock_source": "hpet", "clock_read_ns": 1400}, "limited", "hpet, 1400 ns a reading", "tsc"),
        (
            "audio files",
            {"soundfile": Library(None, "No module named 'soundfile'")},
            "missing",
            "soundfile does not load: No module named 'soundfile'",
            'pip install "steadyflow[audio]"',
        ),
        ("sample rates", {}, "ok", "soxr 1.1.0, libsoxr-0.1.3", ""),
        (
            "sample rates",
            {"soxr": Library(None, "No module named 'soxr'")},
            "missing",
            "soxr does not load: No module named 'soxr'",
            'pip install "steadyflow[audio]"',
        ),
        ("audio devices", {"portaudio": Library(None, "not found")}, "ok", "sounddevice 0.5.1", ""),
        (
            "audio devices",
            {"sounddevice": Library(None, "none")},
            "missing",
            "sounddevice does not load: none; PortAudio V19.6.0-devel",
            "pip install sounddevice.",
        ),
        (
            "audio devices",
            {"sounddevice": Library(None, "none"), "portaudio": Library(None, "not found")},
            "missing",
            "sounddevice does not load: none; PortAudio does not load: not found",
            "apt install libportaudio2",
        ),
    ],
)
def test_judgement(name, changes, state, value, advice):
    found = finding(name, **changes)

    assert found.state == state
    assert found.value == value
    assert advice in found.advice
    assert bool(found.advice) == (state != "ok"), "advice where something can be done, and only there"


def test_the_table_shows_each_finding_and_the_advice():
    text = rendered(report(dataclasses.replace(GOOD, soundfile=Library(None, "none"))))

    assert "Linux 6.1.0, x86_64" in text
    assert "steadyflow[audio]" in text, "not taken for a style"
    assert text.rstrip().endswith("Flows can run here.")


def test_the_table_names_what_stops_a_flow():
    text = rendered([Finding("wake-up", "missing", "refused", "Allow it.", essential=True)])

    assert text.rstrip().endswith("Flows cannot run here, missing: wake-up.")


@pytest.mark.parametrize(
    ("capabilities", "code"),
    [
        (GOOD, 0),
        (dataclasses.replace(GOOD, realtime=no("refused"), soundfile=Library(None, "none")), 0),
        (dataclasses.replace(GOOD, shared_memory=no("refused")), 1),
    ],
)
def test_exit_code_and_json(monkeypatch, capsys, capabilities, code):
    monkeypatch.setattr(doctor_module, "capabilities_here", lambda: capabilities)

    assert doctor(as_json=True) == code
    content = json.loads(capsys.readouterr().out)
    assert content["works"] is (code == 0)
    assert content["findings"][0] == {
        "name": "system",
        "state": "ok",
        "value": "Linux 6.1.0, x86_64",
        "advice": "",
        "essential": True,
    }
    assert content["capabilities"]["realtime_priority_limit"] == 95

    assert doctor(as_json=False) == code
    assert "shared memory" in capsys.readouterr().out


def test_looks_for_itself(capsys):
    assert doctor(as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["works"]
