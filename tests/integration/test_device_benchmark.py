"""The benchmark of devices and its probe, against real servers. Nothing here judges a time."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.integration.commands import run

from steadyflow.benchmarks.device import cells as cells_of_benchmark
from steadyflow.benchmarks.device.cells import Cell, measure, plan
from steadyflow.benchmarks.device.probe import Probe
from steadyflow.benchmarks.device.server import DummyServer
from steadyflow.errors import SystemShortage

PERIOD_FRAMES = 128


@pytest.fixture
def server(tmp_path):
    if shutil.which("jackd") is None or shutil.which("jack_lsp") is None:
        pytest.skip("jackd and jack_lsp are not installed; tools/install-audio-servers installs them")
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(DummyServer(PERIOD_FRAMES, 48_000, tmp_path / "jackd.log"))
        except SystemShortage as missing:
            pytest.skip(str(missing))
        yield running


def report_after(probe, cycles):
    """Return the first report that has so many cycles."""
    while (report := probe.report())["cycles"] < cycles:
        pass
    return report


def test_the_probe_hears_itself_at_once_and_whole(server, tmp_path):
    with Probe(server.name, "itself") as probe:
        assert probe.ready["rate_hz"] == 48_000
        assert probe.ready["period_frames"] == PERIOD_FRAMES
        while not probe.report()["heard"]["cycles"]:
            pass
        probe.reset()
        report = report_after(probe, 200)
        cycles = probe.cycles(tmp_path / "cycles")
    heard = report["heard"]
    assert heard["lost_frames"] == heard["repeated_frames"] == heard["foreign_frames"] == heard["silent_frames"] == 0
    assert heard["latency_p50_frames"] == 0
    assert heard["latency_max_frames"] % PERIOD_FRAMES == 0
    # The report may come in the middle of a cycle.
    assert abs(heard["frames"] - report["cycles"] * PERIOD_FRAMES) <= PERIOD_FRAMES
    assert report["last_position"] - report["first_position"] == report["cycles"] * PERIOD_FRAMES
    assert np.all(np.diff(cycles[:, 0]) == PERIOD_FRAMES)
    assert np.all(np.diff(cycles[:, 1]) > 0)
    assert cycles[0, 0] == 0


def test_the_probe_refuses_what_it_does_not_know(server, tmp_path):
    with Probe(server.name) as probe:
        with pytest.raises(SystemShortage, match="No such file"):
            probe.cycles(tmp_path / "missing" / "cycles")
        probe._say("dance")
        with pytest.raises(SystemShortage, match="no such command: dance"):
            probe._answer("dance")


def test_without_a_server_the_probe_says_so():
    with pytest.raises(SystemShortage, match="does not take the client"):
        Probe("no-such-server")


def test_a_probe_whose_server_ends_says_so(tmp_path, server):
    probe = Probe(server.name)
    server.__exit__(None, None, None)
    with pytest.raises(SystemShortage, match="has ended"):
        while True:
            probe.report()
    probe.close()


@pytest.mark.parametrize("word", ["--dance", "--limit-s"])
def test_the_probe_explains_its_arguments(word):
    program = Probe.__init__.__globals__["_PROGRAM"]
    done = subprocess.run([program, "server", word], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 2
    assert "usage: jack_probe SERVER" in done.stderr


@pytest.mark.timeout(240)
def test_every_contestant_is_measured(server, monkeypatch):
    server.__exit__(None, None, None)  # each cell has its own
    monkeypatch.setattr(cells_of_benchmark, "_WARM_UP_S", 0.2)
    rows = {}
    progress = []
    for row in measure(plan([PERIOD_FRAMES], ["thread"]), 0.5, progress.append):
        rows[row.cell.kind, row.cell.contestant] = row
    for row in rows.values():
        if row.state == "not installed":
            assert row.cell.requires
            continue
        assert row.state == "measured", f"{row.cell}: {row.reason}"
        assert row.blocks > 100
        assert 0 <= row.latency_p50_ms <= row.latency_p99_ms <= row.latency_p999_ms <= row.latency_max_ms
        assert row.xruns_alone is not None
        assert row.lost_blocks >= 0
        assert row.jitter_ms >= 0
    assert any(f"{PERIOD_FRAMES} frames, thread, capture: steadyflow, process" in line for line in progress)
    # By the numbers: whatever Python does, ours is handed every frame that the server had.
    assert rows["capture", "steadyflow, process"].lost_blocks == 0


def test_who_cannot_be_measured_says_why(server, monkeypatch):
    server.__exit__(None, None, None)
    missing = Cell(PERIOD_FRAMES, "quiet", "capture", "absent", requires="no_such_package")
    unknown = Cell(PERIOD_FRAMES, "quiet", "capture", "nobody")
    first, second = measure([missing, unknown], 0.5, lambda line: None)
    assert (first.state, first.reason) == ("not installed", "pip install 'steadyflow[bench]'")
    assert second.state == "failed"
    assert second.reason.startswith("ValueError")


def test_a_contestant_that_ends_early_has_failed(server, monkeypatch, tmp_path):
    server.__exit__(None, None, None)
    # As if it had been killed: the process that is started instead says that it runs, and ends.
    started = subprocess.Popen

    def start(command, **options):
        if "steadyflow.benchmarks.device.cell" in command:
            command = [sys.executable, "-c", "print('running'); raise SystemExit('out of breath')"]
        return started(command, **options)

    monkeypatch.setattr(cells_of_benchmark.subprocess, "Popen", start)
    (row,) = measure([Cell(PERIOD_FRAMES, "quiet", "server", "JACK alone")], 0.5, lambda line: None)
    assert (row.state, row.reason) == ("failed", "out of breath")


# --- the command --------------------------------------------------------------------------------------------------


def test_without_jackd_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run("bench", "device", "--quick")
    assert done.returncode == 1
    assert "jackd and jack_lsp is not installed" in done.stderr
    assert "jackd2 on Debian" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hop", "--seconds", "5"], "is for the benchmarks device and backpressure"),
        (["hop", "--plot", "pictures"], "is for the benchmark backpressure"),
        (["--load", "quiet"], "are for the benchmark device"),
        (["device", "--load", "quite"], "did you mean 'quiet'?"),
        (["device", "--frames", "8"], "expected --frames from 16 to 8192, got 8"),
        (["device", "--seconds", "0.1"], "expected --seconds from 1 to 3600, got 0.1"),
        (["devise"], "did you mean 'device'?"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_measured(arguments, said):
    done = run("bench", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stdout == ""


def test_ctrl_c_ends_the_server_and_all_and_prints_what_there_is(server):
    server.__exit__(None, None, None)
    command = [sys.executable, "-m", "steadyflow.cli", "bench", "device", "--seconds", "1", "--frames", "128", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
        for line in bench.stderr:
            if line.startswith("2 of"):
                break
        while not {"jackd", "jack_probe", "python"} <= set((below := processes_below(bench.pid)).values()):
            assert bench.poll() is None
        bench.send_signal(signal.SIGINT)
        output, _ = bench.communicate(timeout=60)
    assert bench.returncode == 130
    (record,) = json.loads(output)
    assert [row["cell"]["contestant"] for row in record["rows"]] == ["JACK alone"]
    # What is measured is killed, and its workers notice that by themselves.
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in below):
        assert time.monotonic() < deadline, "a process was left"
        time.sleep(0.01)


def processes_below(pid):
    """Return the names of the processes that this one has started, and they, by their number."""
    found = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                found |= {child: Path(f"/proc/{child}/comm").read_text().strip(), **processes_below(child)}
    return found
