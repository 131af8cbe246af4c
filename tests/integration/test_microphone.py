"""What a device captures, from real servers: every frame arrives, whatever Python does meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from tests.integration.commands import run
from tests.servers.jack_server import PERIOD_FRAMES, RATE_HZ, JackServer, jack_server, own_jack_server

from steadyflow import BlockFlag, DataFlowCoordinator, DropNewest, Fail, Wait
from steadyflow.audio import Device, LevelMeter, Microphone, list_devices
from steadyflow.audio.devices import supported_rates_hz
from steadyflow.backpressure.rules import Rule
from steadyflow.benchmarks.device.probe import MODULUS
from steadyflow.errors import ConfigurationError, DeviceUnavailable, FlowFailed, ModuleFailed, StateError, UnknownName
from steadyflow.events import DeviceLost, DeviceRecovered, DeviceXrun, FlowEvent, WorkerUnresponsive
from steadyflow.testing import Collect

__all__ = ["jack_server", "own_jack_server"]

EventT = TypeVar("EventT", bound=FlowEvent)

_PATIENCE_S = 60.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process brings about."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def steps(values: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.int64]:
    """Return by how much the numbers that the probe played grow from frame to frame, from when it was heard first."""
    played = np.concatenate([value[:, 0] for value in values]).astype(np.int64)
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
    grown = steps(collect.values)
    assert len(grown) > 800 * PERIOD_FRAMES
    assert np.all(grown == 1)
    assert report.capture is not None
    assert report.capture.dropped_blocks == 0
    assert report.capture.blocks == len(collect.values)
    assert report.capture.frames == sum(len(value) for value in collect.values)
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
    capture = microphone.report().capture
    assert capture is not None
    assert capture.blocks >= len(collect.values)


def events_of(flow: DataFlowCoordinator, kind: type[EventT]) -> list[EventT]:
    """Return what was published of a kind so far."""
    return [event for event in flow.report().events if isinstance(event, kind)]


def listening_flow(placement: Literal["thread", "process"] | None = None) -> tuple[DataFlowCoordinator, Collect]:
    """Make a flow of a microphone and what collects its blocks."""
    flow = DataFlowCoordinator("loss")
    microphone = flow.add(Microphone(), name="microphone", placement=placement)
    collect = flow.add(Collect())
    flow.connect(microphone.out, collect.data, buffer_size=1024)
    return flow, collect


def test_a_server_that_is_killed_and_comes_back_loses_only_what_was_not_captured(own_jack_server: JackServer) -> None:
    flow, collect = listening_flow()
    with flow:
        flow.start()
        wait_until(lambda: len(collect.values) > 100)
        own_jack_server.kill()
        wait_until(lambda: bool(events_of(flow, DeviceLost)))
        assert flow.workers["microphone"].state == "recovering"
        before = len(collect.values)
        own_jack_server.start()
        own_jack_server.feed()
        wait_until(lambda: len(collect.values) > before + 100)
        report = flow.stop()
    (lost,) = [event for event in report.events if isinstance(event, DeviceLost)]
    (found,) = [event for event in report.events if isinstance(event, DeviceRecovered)]
    assert (lost.module, lost.worker, found.module, found.worker) == ("microphone",) * 4
    assert "its server stopped" in lost.problem
    assert found.attempts >= 1
    assert found.away_s > 0
    assert report.pipelines["microphone.out->collect.data"].dropped_total == 0
    # Each block up to there arrived, and each one from then on.
    assert [arrival.sequence for arrival in collect.arrivals] == list(range(len(collect.values)))
    assert collect.arrivals[before].flags & BlockFlag.GAP
    together = zip(collect.arrivals, collect.values, collect.arrivals[1:], strict=False)
    for one, value, following in together:
        assert following.first_frame == one.first_frame + len(value) or following.flags & BlockFlag.GAP
    # Numbered as if the time had passed: by position, and by the stamps.
    last, first = collect.arrivals[before - 1], collect.arrivals[before]
    missing_s = (first.first_frame - last.first_frame) / RATE_HZ
    assert missing_s > found.away_s
    assert sum(event.lost_frames for event in report.events if isinstance(event, DeviceXrun)) > 0
    device = report.devices["microphone"]
    assert device.capture is not None
    assert device.capture.lost_frames >= first.first_frame - last.first_frame - PERIOD_FRAMES
    assert f"microphone system {device.cycles}" in " ".join(str(report).split())
    assert missing_s == pytest.approx((first.timestamp_ns - last.timestamp_ns) / 1e9, abs=0.01)
    # By the numbers in the audio, which start again with the server: all of them, on both sides.
    assert np.all(steps(collect.values[:before]) == 1)
    assert np.all(steps(collect.values[before:]) == 1)


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_a_device_that_is_looked_for_in_vain_at_first(
    own_jack_server: JackServer, placement: Literal["thread", "process"]
) -> None:
    flow = DataFlowCoordinator("vain")
    microphone = flow.add(Microphone(), name="microphone")
    meter = flow.add(LevelMeter(), name="meter", placement=placement)
    collect = flow.add(Collect(), name="collect")
    flow.connect(microphone.out, meter.audio, buffer_size=1024)
    flow.connect(meter.level, collect.data, buffer_size=1024)
    with flow:
        flow.start()
        wait_until(lambda: len(collect.values) > 100)
        own_jack_server.kill()
        wait_until(lambda: "it is not there yet" in (flow.workers["microphone"].problem or ""))
        own_jack_server.start()
        wait_until(lambda: bool(events_of(flow, DeviceRecovered)))
        before = len(collect.values)
        wait_until(lambda: len(collect.values) > before + 100)
        report = flow.stop()
    (found,) = [event for event in report.events if isinstance(event, DeviceRecovered)]
    assert found.attempts > 1
    metrics = report.pipelines["microphone.out->meter.audio"]
    assert metrics.sent == metrics.delivered == len(collect.values)
    assert {module.state for name, module in report.modules.items() if name != "microphone"} == {"ended"}


def test_a_flow_is_stopped_while_its_device_is_away(own_jack_server: JackServer) -> None:
    flow, collect = listening_flow()
    with flow:
        flow.start()
        wait_until(lambda: len(collect.values) > 100)
        own_jack_server.kill()
        wait_until(lambda: bool(events_of(flow, DeviceLost)))
        report = flow.stop()
    assert not [event for event in report.events if isinstance(event, DeviceRecovered | WorkerUnresponsive)]
    assert report.pipelines["microphone.out->collect.data"].delivered == len(collect.values)
    assert report.modules["collect"].state == "ended"
    assert flow.workers["microphone"].state == "ended"


def test_a_process_that_is_killed_is_followed_by_another(own_jack_server: JackServer) -> None:
    flow, collect = listening_flow()
    with flow:
        flow.start()
        wait_until(lambda: len(collect.values) > 100)
        pid = flow.workers["microphone"].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: bool(events_of(flow, DeviceRecovered)))
        before = len(collect.values)
        wait_until(lambda: len(collect.values) > before + 100)
        assert flow.workers["microphone"].pid != pid
        report = flow.stop()
    (lost,) = [event for event in report.events if isinstance(event, DeviceLost)]
    assert "SIGKILL" in lost.problem
    metrics = report.pipelines["microphone.out->collect.data"]
    assert metrics.sent == metrics.delivered == len(collect.values)
    frames = [arrival.first_frame for arrival in collect.arrivals]
    assert frames == sorted(set(frames))


def test_a_lost_device_fails_a_module_that_was_placed_in_a_thread(own_jack_server: JackServer) -> None:
    # In a process of the test's own: a server's end takes the library's state of the whole process with it.
    program = """
import sys
from tests.integration.test_microphone import listening_flow
from steadyflow.errors import FlowFailed

flow, collect = listening_flow("thread")
flow.start()
while len(collect.values) < 100 and not flow.wait(0.01):
    pass
print("listening", flush=True)
flow.wait()
try:
    flow.stop()
except FlowFailed as failed:
    (failure,) = failed.exceptions
    print(type(failure.__cause__).__name__, [each.sequence for each in collect.arrivals] == list(range(len(collect.values))))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "listening\n"
        own_jack_server.kill()
        assert child.stdout.read() == "DeviceLost True\n"


@pytest.mark.parametrize("rule", [Wait(), Wait(timeout_ms=5, then="drop_oldest"), Fail()])
def test_rules_that_a_device_cannot_follow_are_refused(rule: Rule) -> None:
    flow = DataFlowCoordinator("rules")
    microphone = flow.add(Microphone(sample_rate_hz=RATE_HZ))
    collect = flow.add(Collect())
    flow.connect(microphone.out, collect.data, buffer_size=8, backpressure_strategy=rule)
    with pytest.raises(ConfigurationError, match=r"waits for nobody.*DropOldest"):
        flow.start()


@pytest.mark.parametrize("rule", [Wait(), Fail()])
def test_rules_that_a_device_cannot_follow_are_not_switched_to(rule: Rule) -> None:
    flow = DataFlowCoordinator("rules")
    microphone = flow.add(Microphone(sample_rate_hz=RATE_HZ))
    pipeline = flow.connect(microphone.out, flow.add(Collect()).data, buffer_size=8, backpressure_strategy=DropNewest())
    with pytest.raises(ConfigurationError, match=r"waits for nobody.*DropOldest"):
        flow.handle_backpressure(pipeline, rule)
    assert pipeline.config.backpressure_strategy == DropNewest()


def test_nobody_else_sends_where_a_device_does(jack_server: JackServer) -> None:
    flow = DataFlowCoordinator("alone")
    microphone = flow.add(Microphone(), placement="thread")
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
        flow.add(microphone, placement="thread")
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


# --- changes while it captures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_what_listens_can_be_changed_while_it_captures(
    jack_server: JackServer, placement: Literal["thread", "process"]
) -> None:
    flow = DataFlowCoordinator("changed")
    microphone = flow.add(Microphone(block_frames=PERIOD_FRAMES), name="microphone", placement=placement)
    collect, late = flow.add(Collect(), name="first"), Collect()
    flow.connect(microphone.out, collect.data, buffer_size=1024)
    with flow:
        flow.start()
        wait_until(lambda: len(collect.values) > 100)
        flow.add(late, name="late")
        joined = flow.connect(microphone.out, late.data, buffer_size=1024)
        wait_until(lambda: len(late.values) > 200)
        newer = Collect()
        flow.replace("first", newer)
        wait_until(lambda: len(newer.values) > 200)
        flow.disconnect(joined)
        came = len(late.values)
        wait_until(lambda: len(newer.values) > 400)
        report = flow.stop()
    assert len(late.values) == came
    assert report.pipelines["microphone.out->late.data"].sent == came
    for listener in (collect, late, newer):
        grown = steps(listener.values)
        assert np.all(grown == 1)
    arrivals = [arrival.first_frame for arrival in (*collect.arrivals, *newer.arrivals)]
    assert arrivals == sorted(set(arrivals))
    assert newer.arrivals[0].first_frame == collect.arrivals[-1].first_frame + len(collect.values[-1])
