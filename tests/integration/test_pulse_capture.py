"""What is captured through PortAudio, ALSA's plug-in and a sound server in between, sample by sample."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.servers.pulse_server import RATE_HZ, PulseServer, pulse_server

__all__ = ["pulse_server"]

# In processes of their own: PortAudio lists devices once in a process, and may have done that for another server here.
LISTEN = """
import sys, time
import numpy as np
from steadyflow import DataFlowCoordinator
from steadyflow.audio import Microphone, list_devices
from steadyflow.testing import Collect

if not [device for device in list_devices() if device.name == "pulse" and device.input_channels]:
    print("no device", flush=True)
    raise SystemExit
flow = DataFlowCoordinator("pulse")
microphone = flow.add(Microphone("pulse", sample_rate_hz=48_000, channels=1), placement="thread")
collect = flow.add(Collect())
flow.connect(microphone.out, collect.data, buffer_size=4096)
flow.start()
while not collect.values and not flow.wait(0.01):
    pass
print("listening", flush=True)
"""

HEAR = """
import json
from steadyflow import BlockFlag

(path,) = sys.argv[1:]


def is_over():
    # The signal has no zeros, and without it there is nothing else.
    loud = [bool(value.any()) for value in collect.values]
    return any(loud) and not loud[-1]


deadline = time.monotonic() + 30
while not is_over() and time.monotonic() < deadline and not flow.wait(0.1):
    pass
report = flow.stop()
np.save(path, np.concatenate([value[:, 0] for value in collect.values]))
print(json.dumps({
    "dropped": report.pipelines["microphone.out->collect.data"].dropped_total,
    "sequences": [arrival.sequence for arrival in collect.arrivals],
    "lengths": [len(value) for value in collect.values],
    "after_gap": [bool(arrival.flags & BlockFlag.GAP) for arrival in collect.arrivals],
}))
"""

LOSE = """
from steadyflow.errors import FlowFailed

flow.wait(20)
try:
    flow.stop()
except FlowFailed as failed:
    (failure,) = failed.exceptions
    print(type(failure.__cause__).__name__, [each.sequence for each in collect.arrivals] == list(range(len(collect.values))))
"""


def listening(program: str, *arguments: object) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", LISTEN + program, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    said = child.stdout.readline()
    if said == "no device\n":
        with child:
            pytest.skip("ALSA's plug-in for PulseAudio is not installed; tools/install-audio-servers installs it")
    assert said == "listening\n"
    return child


def test_every_sample_arrives_as_it_was_played(pulse_server: PulseServer, tmp_path: Path) -> None:
    signal = np.random.default_rng(7).uniform(0.1, 0.9, 2 * RATE_HZ).astype(np.float32)
    signal[::2] *= -1
    with listening(HEAR, tmp_path / "heard.npy") as child:
        pulse_server.play(signal)
        assert child.stdout is not None
        said = json.loads(child.stdout.read())
    heard = np.trim_zeros(np.load(tmp_path / "heard.npy"))
    # The server mixes a new stream into what it has not rendered yet, so the first few frames may be its own loss.
    assert len(signal) - RATE_HZ // 10 < len(heard) <= len(signal)
    assert heard.tobytes() == signal[-len(heard) :].tobytes()
    assert said["dropped"] == 0
    assert said["sequences"] == list(range(len(said["sequences"])))
    # A gap cuts the block before it, as the end of the stream does; a server on a busy machine may have some in the silence.
    cut = [*said["after_gap"][1:], True]
    assert {length for length, is_cut in zip(said["lengths"], cut, strict=True) if not is_cut} == {128}


def test_a_server_that_ends_fails_the_flow(pulse_server: PulseServer) -> None:
    with listening(LOSE) as child:
        pulse_server.end()
        assert child.stdout is not None
        assert child.stdout.read() == "DeviceLost True\n"
        assert child.wait(20) == 0


RETURN = """
import json, sys, time
from steadyflow import BlockFlag, DataFlowCoordinator
from steadyflow.audio import Microphone
from steadyflow.events import DeviceLost, DeviceRecovered
from steadyflow.testing import Collect

flow = DataFlowCoordinator("pulse")
microphone = flow.add(Microphone("pulse", sample_rate_hz=48_000, channels=1), name="mic")
collect = flow.add(Collect(), name="collect")
flow.connect(microphone.out, collect.data, buffer_size=4096)
flow.start()


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline and not flow.wait(0.02):
        pass


def told(kind):
    return [event for event in flow.report().events if isinstance(event, kind)]


wait_until(lambda: collect.values)
print("listening", flush=True)
wait_until(lambda: told(DeviceLost))
print("lost", len(told(DeviceLost)), flush=True)
wait_until(lambda: told(DeviceRecovered))
before = len(collect.values)
wait_until(lambda: len(collect.values) > before + 10)
report = flow.stop()
ends = [arrival.first_frame + len(value) for arrival, value in zip(collect.arrivals, collect.values)]
holes = [
    (later.first_frame - end, bool(later.flags & BlockFlag.GAP))
    for end, later in zip(ends, collect.arrivals[1:])
    if later.first_frame != end
]
print(json.dumps({
    "recovered": len(told(DeviceRecovered)),
    "missing": sum(frames for frames, _ in holes),
    "flagged": all(flagged for _, flagged in holes),
    "lost": report.devices["mic"].capture.lost_frames,
    "dropped": report.pipelines["mic.out->collect.data"].dropped_total,
}))
"""


def test_a_server_that_comes_back_is_captured_from_again(pulse_server: PulseServer) -> None:
    command = [sys.executable, "-c", RETURN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "listening\n"
        pulse_server.end()
        assert child.stdout.readline() == "lost 1\n"
        pulse_server.start()
        said = json.loads(child.stdout.read())
        assert child.wait(20) == 0
    assert said["recovered"] == 1
    assert said["dropped"] == 0
    # Numbered as if the time had passed, and every frame of it is accounted for.
    assert said["flagged"]
    assert said["missing"] == said["lost"] > RATE_HZ // 10
