"""What a device captures, from real servers: every frame arrives, whatever Python does meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from tests.integration.commands import run
from tests.servers.jack_server import PERIOD_FRAMES, RATE_HZ, JackServer, jack_server, own_jack_server

from steadyflow import BlockFlag, DataFlowCoordinator, DropNewest, Fail, Wait
from steadyflow.audio import Device, Microphone, list_devices
from steadyflow.audio.devices import supported_rates_hz
from steadyflow.benchmarks.device.probe import MODULUS
from steadyflow.config import Rule
from steadyflow.errors import ConfigurationError, DeviceUnavailable, FlowFailed, ModuleFailed, StateError, UnknownName
from steadyflow.testing import Collect

__all__ = ["jack_server", "own_jack_server"]

_PATIENCE_S = 20.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process brings about."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def steps(collect: Collect) -> npt.NDArray[np.int64]:
    """Return by how much the numbers that the probe played grow from frame to frame, from when it was heard first."""
    played = np.concatenate([value[:, 0] for value in collect.values]).astype(np.int64)
    heard = played[np.argmax(played > 0) :]
    grown: npt.NDArray[np.int64] = np.diff(heard) % MODULUS
    return grown


def test_every_frame_arrives_while_python_computes(jack_server: JackServer) -> None:
    flow = DataFlowCoordinator("microphone")
    microphone = flow.add(Microphone(block_frames=PERIOD_FRAMES))
    collect = flow.add(Collect())
    flow.connect(microphone.out, collect.data, buffer_size=1024)
    computing = threading.Event()

    def compute() -> None:
        while not computing.is_set():
            sum(range(10_000))

    busy = threading.Thread(target=compute)
    with flow:
        busy.start()
        flow.start()
        wait_until(lambda: len(collect.values) > 1000)
        computing.set()
        busy.join()
    report = microphone.report()
    # By the numbers in the audio itself: all of them, one after the other.
    grown = steps(collect)
    assert len(grown) > 800 * PERIOD_FRAMES
    assert np.all(grown == 1)
    assert report.dropped_blocks == 0
    assert report.blocks == len(collect.values)
    assert report.frames == sum(len(value) for value in collect.values)
    assert report.cycles_without_time < report.cycles / 10  # late ones, whose time is not believed
    together = zip(collect.arrivals, collect.values, collect.arrivals[1:], strict=False)
    for one, value, following in together:
        assert following.first_frame == one.first_frame + len(value) or following.flags & BlockFlag.GAP


def test_blocks_have_the_length_asked_for_and_the_time_of_their_samples(jack_server: JackServer) -> None:
    flow = DataFlowCoordinator("lengths")
    microphone = flow.add(Microphone(block_frames=480, channels=2, sample_rate_hz=RATE_HZ), placement="process")
    collect = flow.add(Collect())
    flow.connect(microphone.out, collect.data, buffer_size=256)
    began_ns = time.monotonic_ns()
    with flow:
        flow.start()
        wait_until(lambda: len(collect.values) > 50)
    ended_ns = time.monotonic_ns()
    before_gaps = [bool(arrival.flags & BlockFlag.GAP) for arrival in collect.arrivals[1:]]
    shapes = {value.shape for value, before_gap in zip(collect.values, before_gaps, strict=False) if not before_gap}
    assert shapes == {(480, 2)}
    assert all(began_ns < arrival.timestamp_ns < ended_ns for arrival in collect.arrivals)
    apart = np.diff([arrival.timestamp_ns for arrival in collect.arrivals])
    assert abs(np.median(apart) - 10_000_000) < 1_000_000
    with pytest.raises(StateError, match="another process"):
        microphone.report()


def test_a_server_that_is_killed(own_jack_server: JackServer) -> None:
    flow = DataFlowCoordinator("loss")
    # In a process: a server's end takes the library's state of the whole process with it.
    microphone = flow.add(Microphone(sample_rate_hz=RATE_HZ), placement="process", name="microphone")
    collect = flow.add(Collect())
    flow.connect(microphone.out, collect.data, buffer_size=1024)
    flow.start()
    wait_until(lambda: len(collect.values) > 100)
    own_jack_server.kill()
    flow.wait()
    with pytest.raises(FlowFailed) as failed:
        flow.stop()
    (failure,) = failed.value.exceptions
    assert isinstance(failure, ModuleFailed)
    assert failure.module == "microphone"
    assert "DeviceLost" in str(failure)
    assert "its server stopped" in str(failure)
    assert len(collect.values) > 100
    # Each block up to there arrived.
    assert [arrival.sequence for arrival in collect.arrivals] == list(range(len(collect.values)))


@pytest.mark.parametrize("rule", [Wait(), Wait(timeout_ms=5, then="drop_oldest"), Fail()])
def test_rules_that_a_device_cannot_follow_are_refused(rule: Rule) -> None:
    flow = DataFlowCoordinator("rules")
    microphone = flow.add(Microphone(sample_rate_hz=RATE_HZ))
    collect = flow.add(Collect())
    flow.connect(microphone.out, collect.data, buffer_size=8, backpressure_strategy=rule)
    with pytest.raises(ConfigurationError, match=r"waits for nobody.*DropOldest"):
        flow.start()


def test_nobody_else_sends_where_a_device_does(jack_server: JackServer) -> None:
    flow = DataFlowCoordinator("alone")
    microphone = flow.add(Microphone())
    collect = flow.add(Collect())
    flow.connect(microphone.out, collect.data, buffer_size=8, backpressure_strategy=DropNewest())
    with flow:
        flow.start()
        with pytest.raises(StateError, match="nobody but the device"):
            microphone.out.send(np.zeros((128, 1), np.float32))
        with pytest.raises(StateError, match="nobody but the device"), microphone.out.loan(128):
            pass


def test_devices_that_are_not_there(jack_server: JackServer) -> None:
    def problem(microphone: Microphone) -> BaseException:
        flow = DataFlowCoordinator("missing")
        flow.add(microphone)
        collect = flow.add(Collect())
        flow.connect(microphone.out, collect.data, buffer_size=8)
        with pytest.raises(FlowFailed) as failed:
            flow.start()
        (failure,) = failed.value.exceptions
        assert isinstance(failure, ModuleFailed)
        assert failure.__cause__ is not None
        return failure.__cause__

    missing = problem(Microphone("no such thing", sample_rate_hz=RATE_HZ))
    assert isinstance(missing, UnknownName)
    assert "no such thing" in str(missing)
    assert "system" in str(missing), "the devices that there are"
    wrong_rate = problem(Microphone(sample_rate_hz=11_025))
    assert isinstance(wrong_rate, DeviceUnavailable)
    assert "11025 Hz" in str(wrong_rate)
    assert f"runs at {RATE_HZ} Hz" in str(wrong_rate)
    too_many = problem(Microphone(sample_rate_hz=RATE_HZ, channels=100))
    assert isinstance(too_many, DeviceUnavailable)
    assert "at most" in str(too_many)


def described(device: Device) -> dict[str, object]:
    """Return a device as the command describes it."""
    inputs = supported_rates_hz(device, "input") if device.input_channels else []
    outputs = supported_rates_hz(device, "output") if device.output_channels else []
    return {**msgspec.to_builtins(device), "input_rates_hz": inputs, "output_rates_hz": outputs}


def test_the_devices_of_the_system_are_listed(jack_server: JackServer) -> None:
    # Other clients of the server come and go, and are devices, too.
    (system,) = [device for device in list_devices() if device.name == "system"]
    (listed,) = [each for each in json.loads(run("devices", "--rates", "--json").stdout) if each["name"] == "system"]
    assert {**listed, "index": system.index} == described(system)
    assert listed["input_rates_hz"] == [RATE_HZ]
    table = run("devices").stdout
    assert "system" in table
    assert "JACK Audio Connection Kit" in table
    assert system.host.startswith("JACK")
    assert system.input_channels > 0
    assert system.default_sample_rate_hz == RATE_HZ
    assert [device.index for device in list_devices()] == list(range(len(list_devices())))
