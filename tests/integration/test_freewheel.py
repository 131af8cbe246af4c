"""Flows offline: by a manual clock, the same in each run, with devices that are scripts."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from steadyflow import (
    AudioFormat,
    Block,
    BlockFlag,
    DataFlowCoordinator,
    DropOldest,
    FlowFailed,
    FlowReport,
    Input,
    Module,
    Output,
    Source,
    load_flow,
)
from steadyflow.audio import Duplex, Microphone, Speaker, Tone
from steadyflow.clock import SystemClock
from steadyflow.errors import ConfigurationError, DeviceUnavailable, StateError
from steadyflow.events import BudgetExceeded, DeviceLost, DeviceRecovered, DeviceXrun
from steadyflow.testing import Collect, Drift, Late, ManualClock, ScriptedDevice, ScriptedSource, Unplugged, Xrun

RATE_HZ = 48_000
PERIOD = 128


def noise(frames: int, channels: int = 1, seed: int = 3) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, (frames, channels)).astype(np.float32)


class Slow(Module):
    """Passes blocks on, and takes its time by the clock of the flow."""

    audio = Input(AudioFormat())
    out = Output(AudioFormat(RATE_HZ, 1))

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds

    def process(self, audio: Block) -> None:
        self.clock.sleep(self.seconds)
        self.out.send(audio)


class Gain(Module):
    audio = Input(AudioFormat())
    out = Output(AudioFormat(RATE_HZ, 1))

    def __init__(self, gain: float = 0.5) -> None:
        self.gain = np.float32(gain)

    def process(self, audio: Block) -> None:
        self.out.send(audio.data * self.gain)


def captured(device: ScriptedDevice, **options: Any) -> tuple[FlowReport, Collect]:
    with DataFlowCoordinator("captured") as flow:
        microphone = flow.add(Microphone(device), name="mic")
        collect = flow.add(Collect(), name="collect")
        flow.connect(microphone.out, collect.data, buffer_size=64, **options)
        return flow.run(freewheel=True), collect


def kinds(report: FlowReport, kind: type) -> list[Any]:
    return [event for event in report.events if isinstance(event, kind)]


# --- the clock ----------------------------------------------------------------------------------------------------------


def overloaded(clock: ManualClock) -> tuple[FlowReport, Collect]:
    with DataFlowCoordinator("overloaded") as flow:
        tone = flow.add(Tone(440, duration_s=2.0), name="tone")
        slow = flow.add(Slow(clock, 0.0125), name="slow", worker="slow")
        collect = flow.add(Collect(), name="collect", worker="collect")
        flow.connect(tone.out, slow.audio, buffer_size=4, max_latency_ms=5, backpressure_strategy=DropOldest())
        flow.connect(slow.out, collect.data, buffer_size=4)
        return flow.run(clock=clock), collect


def test_each_run_is_the_same_to_the_nanosecond() -> None:
    runs = [overloaded(ManualClock()) for _ in range(3)]

    first, collect = runs[0]
    for report, other in runs:
        assert other.arrivals == collect.arrivals
        # What happened before the start is of the system's clock.
        started = [event for event in report.events if event.timestamp_ns < 60_000_000_000]
        assert started == [event for event in first.events if event.timestamp_ns < 60_000_000_000]
        assert report.pipelines == first.pipelines
        assert report.modules == first.modules
    # 100 blocks a second come, 80 can be done; four wait at the end, and one is at work.
    pipeline = first.pipelines["tone.out->slow.audio"]
    assert pipeline.sent == 200
    assert pipeline.delivered + pipeline.dropped["oldest"] == 200
    assert pipeline.dropped["oldest"] == pytest.approx(200 * 0.2, abs=4)
    assert first.modules["slow"].busy_ms == 12.5 * pipeline.delivered
    assert len(kinds(first, BudgetExceeded)) == 1


def test_time_goes_on_only_as_far_as_it_is_let() -> None:
    clock = ManualClock()
    with DataFlowCoordinator("steps") as flow:
        tone = flow.add(Tone(440, block_frames=480), name="tone")
        collect = flow.add(Collect(), name="collect", worker="collect")
        flow.connect(tone.out, collect.data, buffer_size=4)
        flow.start(clock=clock)
        began_ns = clock.monotonic_ns()
        assert flow.clock is clock

        clock.sleep(0.05)
        assert [arrival.timestamp_ns - began_ns for arrival in collect.arrivals] == [10_000_000 * n for n in range(6)]
        assert flow.report().duration_s == 0.05
        clock.sleep(0.01)
        assert len(collect.arrivals) == 7
        assert flow.wait(0.04) is False
        assert len(collect.arrivals) == 11

        report = flow.stop()
    assert report.pipelines["tone.out->collect.data"].delivered == len(collect.arrivals)


def test_a_run_of_some_seconds_is_of_the_flow_s_seconds() -> None:
    with DataFlowCoordinator("seconds") as flow:
        tone = flow.add(Tone(440), name="tone")
        collect = flow.add(Collect(), name="collect")
        flow.connect(tone.out, collect.data, buffer_size=4)
        report = flow.run(duration_s=600, freewheel=True)
    assert len(collect.arrivals) == 60_001
    assert report.duration_s == 600


class Ticks(Source):
    """An asynchronous source that awaits its pauses."""

    out = Output(AudioFormat(1000, 1))

    def __init__(self, count: int) -> None:
        self.count = count

    async def produce(self) -> AsyncIterator[int | None]:
        for number in range(self.count):
            await self.out.send_async(np.full((1, 1), number, np.float32))
            await asyncio.sleep(0.25)
            yield None


class Waiter(Module):
    """An asynchronous module that needs its time."""

    audio = Input(AudioFormat())
    out = Output(AudioFormat(1000, 1))

    async def process(self, audio: Block) -> None:
        await asyncio.sleep(0.1)
        await self.out.send_async(audio)


def test_asynchronous_modules_sleep_by_the_clock() -> None:
    with DataFlowCoordinator("asynchronous") as flow:
        ticks = flow.add(Ticks(20), name="ticks")
        waiter = flow.add(Waiter(), name="waiter", worker="waiter")
        collect = flow.add(Collect(), name="collect")
        flow.connect(ticks.out, waiter.audio, buffer_size=4)
        flow.connect(waiter.out, collect.data, buffer_size=4)
        report = flow.run(freewheel=True)
    stamps = [arrival.timestamp_ns for arrival in collect.arrivals]
    assert len(stamps) == 20
    assert np.allclose(np.diff(stamps), 0.25e9, atol=1000)  # an event loop counts in float seconds
    assert report.duration_s == pytest.approx(5.0, abs=0.001)
    assert report.pipelines["ticks.out->waiter.audio"].latency_max_ms < 0.001


def test_what_asks_for_processes_replicas_and_real_time_runs_in_threads() -> None:
    with DataFlowCoordinator("threads") as flow:
        source = flow.add(ScriptedSource([noise(PERIOD)] * 50, AudioFormat(RATE_HZ, 1)), name="source")
        gain = flow.add(Gain(), name="gain", placement="process", realtime=True)
        collect = flow.add(Collect(), name="collect")
        flow.connect(source.out, gain.audio, buffer_size=4)
        flow.connect(gain.out, collect.data, buffer_size=4)
        flow.start(freewheel=True)
        assert {worker.pid for worker in flow.workers.values()} == {os.getpid()}
        assert set(flow.workers) == {"main", "gain"}
        flow.wait()
    assert len(collect.values) == 50


def test_open_ends_and_real_devices_are_refused() -> None:
    with DataFlowCoordinator("open") as flow:
        tone = flow.add(Tone(440), name="tone")
        flow.register_pipeline(tone.out, "application", _config())
        with pytest.raises(ConfigurationError, match=r"tone.out->application: expected no open end"):
            flow.start(freewheel=True)
    with DataFlowCoordinator("real") as flow:
        microphone = flow.add(Microphone("surely not there", sample_rate_hz=RATE_HZ), name="mic")
        collect = flow.add(Collect(), name="collect")
        flow.connect(microphone.out, collect.data, buffer_size=4)
        with pytest.raises(ConfigurationError, match=r"module 'mic': expected a scripted device"):
            flow.start(freewheel=True)
    with pytest.raises(ConfigurationError, match="expected clock to be a ManualClock"):
        DataFlowCoordinator("clock").start(clock=12)  # type: ignore[arg-type]


def _config() -> Any:
    from steadyflow import PipelineConfig

    return PipelineConfig(buffer_size=4)


class Broken(Module):
    audio = Input(AudioFormat())

    def process(self, audio: Block) -> None:
        if audio.sequence == 7:
            raise ValueError("number seven")


def test_a_module_that_fails_ends_the_run() -> None:
    with DataFlowCoordinator("failing") as flow:
        tone = flow.add(Tone(440), name="tone")
        broken = flow.add(Broken(), name="broken", worker="broken")
        flow.connect(tone.out, broken.audio, buffer_size=4)
        flow.start(freewheel=True)
        flow.clock.sleep(1.0)  # type: ignore[attr-defined]
        assert flow.wait()
        with pytest.raises(FlowFailed, match="number seven"):
            flow.stop()


class Stuck(Module):
    audio = Input(AudioFormat())

    def __init__(self, release: Callable[[], object]) -> None:
        self.release = release

    def process(self, audio: Block) -> None:
        if audio.sequence == 3:
            self.release()


def test_a_module_that_does_not_come_back_is_given_up() -> None:
    entered, release = threading.Event(), threading.Event()

    def stay() -> None:
        entered.set()
        release.wait()

    flow = DataFlowCoordinator("stuck")
    tone = flow.add(Tone(440), name="tone")
    stuck = flow.add(Stuck(stay), name="stuck", worker="stuck")
    collect = flow.add(Collect(), name="collect", worker="collect")
    flow.connect(tone.out, stuck.audio, buffer_size=4)
    flow.connect(tone.out, collect.data, buffer_size=4)
    flow.start(freewheel=True)
    waiting = threading.Thread(target=flow.clock.sleep, args=(1.0,))  # type: ignore[attr-defined]
    waiting.start()
    assert entered.wait(30)
    flow.stop(drain_timeout_s=0.1)
    waiting.join(30)
    assert not waiting.is_alive()
    assert [worker.name for worker in flow.workers.values() if not worker.ended] == ["stuck"]
    release.set()
    flow.close()


def listening(clock: ManualClock, name: str, seconds: float | None = None) -> tuple[DataFlowCoordinator, Collect]:
    flow = DataFlowCoordinator(name)
    tone = flow.add(Tone(440, block_frames=480, duration_s=seconds), name="tone")
    collect = flow.add(Collect(), name="collect", worker="collect")
    flow.connect(tone.out, collect.data, buffer_size=4)
    return flow, collect


def test_a_clock_goes_from_one_flow_to_the_next() -> None:
    clock = ManualClock()
    with listening(clock, "first")[0] as flow:
        flow.start(clock=clock)
        clock.sleep(0.1)
        with pytest.raises(
            StateError, match="flow 'second': expected a clock that no other flow goes by; flow 'first' runs"
        ):
            listening(clock, "second")[0].start(clock=clock)
        clock.sleep(0.1)
        flow.stop()
    began_ns = clock.monotonic_ns()
    assert began_ns >= 1_200_000_000
    flow, collect = listening(clock, "third")
    with flow:
        flow.start(clock=clock)
        # Nothing goes on by itself, whatever the flow before has done.
        assert len(collect.values) == 1
        clock.sleep(0.1)
        assert len(collect.values) == 11
        assert collect.arrivals[0].timestamp_ns == began_ns
        flow.stop(drain_timeout_s=0)
    flow, collect = listening(clock, "after one that was given up", 0.5)
    with flow:
        assert flow.run(clock=clock).duration_s == pytest.approx(0.49)
    assert len(collect.values) == 50


class Slumber(Module):
    """Takes its time before and after, by the clock."""

    audio = Input(AudioFormat())

    async def setup(self) -> None:
        await asyncio.sleep(0.25)

    async def process(self, audio: Block) -> None:
        self.computed = await asyncio.to_thread(sum, range(1000))

    async def teardown(self) -> None:
        await asyncio.sleep(0.125)


@pytest.mark.parametrize("attempt", range(3))
def test_setup_teardown_and_what_is_computed_in_a_thread_take_turns_too(attempt: int) -> None:
    clock = ManualClock()
    with DataFlowCoordinator("slumber") as flow:
        tone = flow.add(Tone(440, duration_s=0.2), name="tone")
        slumber = flow.add(Slumber(), name="slumber")
        pipe = flow.connect(tone.out, slumber.audio, buffer_size=4)
        report = flow.run(clock=clock)
    assert slumber.computed == sum(range(1000))
    assert report.duration_s == pytest.approx(0.19 + 0.125, abs=1e-6)
    assert clock.monotonic_ns() == pytest.approx(1_250_000_000 + 315_000_000, abs=1000)
    assert pipe.statistics().delivered == 20
    assert [event.timestamp_ns for event in report.events] == sorted(event.timestamp_ns for event in report.events)


class Unable(Module):
    """Has no setup that works, and a teardown of others that takes its time."""

    audio = Input(AudioFormat())

    def setup(self) -> None:
        raise RuntimeError("no model")

    def process(self, audio: Block) -> None:
        pass


def test_a_start_that_fails_ends_all_workers() -> None:
    clock = ManualClock()
    with DataFlowCoordinator("unable") as flow:
        tone = flow.add(Tone(440), name="tone")
        slumber = flow.add(Slumber(), name="slumber")
        unable = flow.add(Unable(), name="unable", worker="unable")
        flow.connect(tone.out, slumber.audio, buffer_size=4)
        flow.connect(tone.out, unable.audio, buffer_size=4)
        with pytest.raises(FlowFailed, match="no model"):
            flow.start(clock=clock)
        assert all(worker.ended for worker in flow.workers.values())
    flow, collect = listening(clock, "next", 0.1)
    with flow:
        flow.run(clock=clock)
    assert len(collect.values) == 10


def test_a_pipeline_is_paused_and_goes_on_between_two_steps() -> None:
    clock = ManualClock()
    flow, collect = listening(clock, "pause")
    pipe = flow.pipeline("tone.out->collect.data")
    flow.handle_backpressure(pipe, DropOldest())
    with flow:
        flow.start(clock=clock)
        clock.sleep(0.1)
        pipe.pause()
        clock.sleep(0.1)
        assert len(collect.values) == 11
        pipe.resume()
        assert clock.monotonic_ns() == 1_200_000_000
        clock.sleep(0.01)
        # Four had waited: the newest ones. None is late for the pause.
        assert [arrival.sequence for arrival in collect.arrivals[11:]] == [17, 18, 19, 20, 21]
        assert pipe.statistics().late == 0
        flow.stop()


def test_time_does_not_run_away_where_nothing_is_due() -> None:
    """Everything waits for something from outside, such as the end of a pause: then there is real time to wait for."""
    clock = ManualClock()
    flow, collect = listening(clock, "standstill", 0.1)
    pipe = flow.pipeline("tone.out->collect.data")
    with flow:
        flow.start(clock=clock)
        pipe.pause()
        waiting = threading.Thread(target=flow.wait)
        waiting.start()
        # The tone is held up by the pipeline that is full, after blocks 1 to 4.
        while pipe.statistics().fill < 4:
            pass
        assert clock.monotonic_ns() <= 1_050_000_000
        pipe.resume()
        waiting.join(30)
        assert not waiting.is_alive()
        report = flow.stop()
    assert len(collect.values) == 10
    assert report.duration_s < 0.2


def test_ctrl_c_ends_a_sleep_and_time_stands_still() -> None:
    clock = ManualClock()
    release = threading.Event()

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        release.wait(30)

    flow = DataFlowCoordinator("interrupted")
    tone = flow.add(Tone(440), name="tone")
    stuck = flow.add(Stuck(interrupt), name="stuck", worker="stuck")
    flow.connect(tone.out, stuck.audio, buffer_size=4)
    with flow:
        flow.start(clock=clock)
        with pytest.raises(KeyboardInterrupt):
            clock.sleep(10)
        release.set()
        clock.sleep(0)
        assert clock.monotonic_ns() == 1_030_000_000
        flow.stop()


class Forking(Module):
    """Lets a child do something by the clock that is not its own."""

    audio = Input(AudioFormat())

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.codes: list[int] = []

    def process(self, audio: Block) -> None:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                self.clock.sleep(0.01)
                before_ns = SystemClock.monotonic_ns()
                code = 0 if abs(before_ns - time.monotonic_ns()) < 10**9 else 2
            finally:
                os._exit(code)
        self.codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def test_a_forked_child_goes_by_the_system_s_clock() -> None:
    clock = ManualClock()
    with DataFlowCoordinator("forking") as flow:
        tone = flow.add(Tone(440, duration_s=0.05), name="tone")
        forking = flow.add(Forking(clock), name="forking", worker="forking")
        flow.connect(tone.out, forking.audio, buffer_size=4)
        flow.run(clock=clock)
    assert forking.codes == [0] * 5


def test_tasks_of_an_event_loop_run_and_start_flows_offline() -> None:
    async def use() -> list[float]:
        flow, _ = listening(ManualClock(), "run", 2.0)
        async with flow:
            whole = await flow.run_async(freewheel=True)
        flow, _ = listening(ManualClock(), "part")
        async with flow:
            part = await flow.run_async(0.5, freewheel=True)
        clock = ManualClock()
        flow, _ = listening(clock, "start")
        async with flow:
            await flow.start_async(clock=clock)
            clock.sleep(0.25)
            started = await flow.stop_async()
        return [whole.duration_s, part.duration_s, started.duration_s]

    assert asyncio.run(use()) == pytest.approx([1.99, 0.5, 0.25])


def test_what_could_not_run_live_does_not_run_offline() -> None:
    with DataFlowCoordinator("merged") as flow:
        tone = flow.add(Tone(440, duration_s=0.1), name="tone", worker="gain")
        gain = flow.add(Gain(), name="gain", placement="process")
        collect = flow.add(Collect(), name="collect")
        flow.connect(tone.out, gain.audio, buffer_size=4)
        flow.connect(gain.out, collect.data, buffer_size=4)
        with pytest.raises(ConfigurationError, match="expected one placement"):
            flow.run(freewheel=True)


# --- devices that are scripts -------------------------------------------------------------------------------------------


def test_a_signal_is_captured_sample_by_sample() -> None:
    signal = noise(PERIOD * 1000, channels=2)
    device = ScriptedDevice([signal[:1000], signal[1000:]])
    with DataFlowCoordinator("signal") as flow:
        microphone = flow.add(Microphone(device, channels=2), name="mic")
        collect = flow.add(Collect(), name="collect")
        flow.connect(microphone.out, collect.data, buffer_size=4)
        report = flow.run(freewheel=True)
    assert np.concatenate(collect.values).tobytes() == signal.tobytes()
    assert [arrival.first_frame for arrival in collect.arrivals] == list(range(0, len(signal), PERIOD))
    stamps = np.diff([arrival.timestamp_ns for arrival in collect.arrivals])
    assert np.all(np.abs(stamps - PERIOD / RATE_HZ * 1e9) < 2)
    assert report.devices["mic"].capture is not None
    assert report.devices["mic"].capture.lost_frames == 0


def test_lost_frames_are_missing_from_the_positions() -> None:
    first, second = noise(PERIOD * 100), noise(PERIOD * 100, seed=4)
    report, collect = captured(ScriptedDevice([first, Xrun(lost_frames=1000), second]))
    values = {arrival.first_frame: value for arrival, value in zip(collect.arrivals, collect.values, strict=True)}
    assert np.concatenate([values[n * PERIOD] for n in range(100)]).tobytes() == first.tobytes()
    assert np.concatenate([values[(n + 100) * PERIOD + 1000] for n in range(100)]).tobytes() == second.tobytes()
    capture = report.devices["mic"].capture
    assert capture is not None
    assert (capture.xruns, capture.gaps, capture.lost_frames) == (1, 1, 1000)
    flagged = [arrival.first_frame for arrival in collect.arrivals if arrival.flags & BlockFlag.GAP]
    assert flagged == [PERIOD * 100 + 1000]
    (xrun,) = kinds(report, DeviceXrun)
    assert (xrun.module, xrun.capture_xruns, xrun.lost_frames) == ("mic", 1, 1000)


def test_a_late_call_is_no_loss() -> None:
    signal = noise(PERIOD * 200)
    report, collect = captured(ScriptedDevice([signal[: PERIOD * 100], Late(0.05), signal[PERIOD * 100 :]]))
    assert np.concatenate(collect.values).tobytes() == signal.tobytes()
    capture = report.devices["mic"].capture
    assert capture is not None
    assert capture.lost_frames == 0


@pytest.mark.parametrize("ppm", [-300.0, 120.0])
def test_drift_is_estimated(ppm: float) -> None:
    report, _ = captured(ScriptedDevice([noise(PERIOD * 24_000)], drift_ppm=ppm))
    assert report.devices["mic"].drift_ppm == pytest.approx(-ppm, abs=1)  # its seconds are that much shorter


def test_drift_may_change() -> None:
    report, _ = captured(ScriptedDevice([noise(PERIOD * 4000), Drift(80.0), noise(PERIOD * 24_000)]))
    assert report.devices["mic"].drift_ppm == pytest.approx(-80, abs=2)


def test_the_drift_between_two_devices_is_told() -> None:
    source = ScriptedDevice([noise(PERIOD * 4000)], drift_ppm=50)
    target = ScriptedDevice(drift_ppm=-30, output_channels=1)
    with DataFlowCoordinator("drift") as flow:
        microphone = flow.add(Microphone(source), name="mic")
        speaker = flow.add(Speaker(target), name="speaker")
        flow.connect(microphone.out, speaker.audio, buffer_size=8)
        assert flow.report().clock_drifts_ppm == {}
        report = flow.run(freewheel=True)
    assert report.clock_drifts_ppm == {"mic->speaker": pytest.approx(80, abs=3)}
    ppm = report.clock_drifts_ppm["mic->speaker"]
    assert f"mic->speaker: the clocks of the devices drift by {ppm:+.1f} ppm" in str(report)


def test_a_device_that_is_unplugged_is_found_again() -> None:
    first, second = noise(PERIOD * 300), noise(PERIOD * 300, seed=4)
    device = ScriptedDevice([first, Unplugged(2.0), second])
    report, collect = captured(device)
    (lost,), (recovered,) = kinds(report, DeviceLost), kinds(report, DeviceRecovered)
    assert (lost.module, lost.worker) == ("mic", "mic")
    assert lost.timestamp_ns < recovered.timestamp_ns
    # Away for two seconds, looked for after 0.1, 0.3, 0.7, 1.5 and 3.1 s.
    assert recovered.attempts == 5
    assert recovered.away_s == pytest.approx(3.1)
    audio = np.concatenate(collect.values)
    assert audio.tobytes() == np.concatenate([first, second]).tobytes()
    (gap,) = [arrival for arrival in collect.arrivals if arrival.flags & BlockFlag.GAP]
    away_ns = recovered.timestamp_ns - (1_000_000_000 + len(first) / RATE_HZ * 1e9)
    assert gap.first_frame - len(first) == pytest.approx(away_ns / 1e9 * RATE_HZ, abs=2)
    assert report.pipelines["mic.out->collect.data"].dropped_total == 0


class Reluctant(ScriptedDevice):
    """Is there again before it opens, or before it starts."""

    def __init__(self, script: Any, refuses: str) -> None:
        super().__init__(script)
        self.attempts = 0
        self.refuses = refuses

    def open(self, *arguments: Any) -> Any:
        self.attempts += 1
        refuses = 1 < self.attempts <= 4
        if refuses and self.refuses == "open":
            raise DeviceUnavailable("it is still being used")
        stream = super().open(*arguments)
        if refuses:
            stream.start = self._refuse_to_start
            stream.was_unplugged = True  # it never ran
        return stream

    def _refuse_to_start(self) -> None:
        raise DeviceUnavailable("it is still being used")


@pytest.mark.parametrize("refuses", ["open", "start"])
def test_a_device_that_does_not_come_up_at_once_is_tried_again(refuses: str) -> None:
    signal = noise(PERIOD * 600)
    device = Reluctant([signal[: PERIOD * 300], Unplugged(0.05), signal[PERIOD * 300 :]], refuses)
    report, collect = captured(device)
    (lost,), (recovered,) = kinds(report, DeviceLost), kinds(report, DeviceRecovered)
    assert lost.timestamp_ns < recovered.timestamp_ns
    assert (recovered.attempts, device.attempts) == (4, 5)
    assert np.concatenate(collect.values).tobytes() == signal.tobytes()


def test_stopping_a_flow_whose_device_is_away_ends_it() -> None:
    device = ScriptedDevice([noise(PERIOD * 10), Unplugged(1e6), noise(PERIOD)])
    with DataFlowCoordinator("away") as flow:
        microphone = flow.add(Microphone(device), name="mic")
        collect = flow.add(Collect(), name="collect")
        flow.connect(microphone.out, collect.data, buffer_size=64)
        report = flow.run(duration_s=60, freewheel=True)
    assert len(kinds(report, DeviceLost)) == 1
    assert kinds(report, DeviceRecovered) == []
    assert len(collect.values) == 10


def test_a_speaker_plays_what_it_is_sent_and_loses_nothing_when_it_was_away() -> None:
    signal = noise(PERIOD * 400)
    device = ScriptedDevice([noise(PERIOD * 100), Unplugged(1.0)], output_channels=1)
    with DataFlowCoordinator("speaker") as flow:
        source = flow.add(ScriptedSource(list(signal.reshape(-1, 64, 1)), AudioFormat(RATE_HZ, 1)), name="source")
        speaker = flow.add(Speaker(device), name="speaker")
        pipe = flow.connect(source.out, speaker.audio, buffer_size=8)
        report = flow.run(freewheel=True)
    played = device.played
    assert len(kinds(report, DeviceRecovered)) == 1
    assert played[: len(signal)].tobytes() == signal.tobytes()
    assert not played[len(signal) :].any()
    assert pipe.statistics().dropped_total == 0


def effect(device: ScriptedDevice, clock: ManualClock | None = None, seconds: float = 0.0) -> FlowReport:
    with DataFlowCoordinator("effect") as flow:
        duplex = flow.add(Duplex(device), name="duplex")
        gain = flow.add(Gain(), name="gain")
        flow.connect(duplex.out, gain.audio, buffer_size=4)
        if clock is None:
            flow.connect(gain.out, duplex.audio, buffer_size=4)
        else:
            slow = flow.add(Slow(clock, seconds), name="slow", worker="slow")
            flow.connect(gain.out, slow.audio, buffer_size=4)
            flow.connect(slow.out, duplex.audio, buffer_size=4)
        return flow.run(freewheel=True, clock=clock)


def delay_of(device: ScriptedDevice, signal: Any) -> int:
    """How many frames the signal comes later than in the cycle that captured it."""
    played = device.played[:, 0]
    start = int(np.flatnonzero(played)[0])
    heard = np.trim_zeros(played)
    assert heard.tobytes() == (signal[:, 0] * np.float32(0.5))[: len(heard)].tobytes()
    assert len(heard) == len(signal)
    return start


@pytest.mark.parametrize(("seconds", "periods"), [(0.0, 1), (0.002, 1), (0.0026, 1)])
def test_a_path_through_a_module_takes_a_period(seconds: float, periods: int) -> None:
    signal = np.abs(noise(PERIOD * 500)) + np.float32(0.1)
    device = ScriptedDevice([signal], output_channels=1)
    report = effect(device, ManualClock() if seconds else None, seconds)
    # Whatever is done in time for the next cycle is heard in it.
    assert delay_of(device, signal) == periods * PERIOD
    assert report.devices["duplex"].playback is not None
    assert report.devices["duplex"].playback.underruns <= 1


class Stalling(Module):
    """Passes blocks on within half a millisecond, but for one, which takes four periods and a half."""

    audio = Input(AudioFormat())
    out = Output(AudioFormat(RATE_HZ, 1))

    def __init__(self, clock: ManualClock, stalls_at: int) -> None:
        self.clock = clock
        self.stalls_at = stalls_at

    def process(self, audio: Block) -> None:
        self.clock.sleep(4.5 * PERIOD / RATE_HZ if audio.sequence == self.stalls_at else 0.0005)
        self.out.send(audio)


@pytest.mark.parametrize(("room", "after"), [(2, 2), (3, 3), (8, 8)])
def test_a_stall_leaves_a_delay_where_there_is_room_for_it(room: int, after: int) -> None:
    """What piles up in a stall waits from then on, up to the room there is: so there must be no more than one wants to wait for."""
    clock = ManualClock()
    signal = np.arange(1, 400 * PERIOD + 1, dtype=np.float32)
    device = ScriptedDevice([signal], output_channels=1)
    with DataFlowCoordinator("stall") as flow:
        duplex = flow.add(Duplex(device), name="duplex")
        stalling = flow.add(Stalling(clock, 100), name="stalling")
        flow.connect(duplex.out, stalling.audio, buffer_size=64)
        fill_ms = 2 * PERIOD / RATE_HZ * 1e3
        flow.connect(stalling.out, duplex.audio, buffer_size=room, target_fill_ms=fill_ms)
        flow.run(clock=clock)
    played = device.played[:, 0]
    heard = np.flatnonzero(played)
    periods_late = (heard - (played[heard] - 1)) / PERIOD
    assert set(periods_late[:100]) == {2}
    # After four and a half periods of nothing, what was captured meanwhile is there at once, as far as there is room.
    assert periods_late[-1] == min(after, 2 + 3)


def test_a_scripted_device_also_runs_at_the_pace_of_real_time() -> None:
    signal = noise(PERIOD * 40)
    with DataFlowCoordinator("live") as flow:
        microphone = flow.add(Microphone(ScriptedDevice([signal])), name="mic")
        collect = flow.add(Collect(), name="collect")
        flow.connect(microphone.out, collect.data, buffer_size=64)
        report = flow.run()
    assert np.concatenate(collect.values).tobytes() == signal.tobytes()
    assert report.duration_s >= len(signal) / RATE_HZ


def test_a_device_can_be_replaced_for_a_test() -> None:
    signal = noise(PERIOD * 40)
    with DataFlowCoordinator("replaced") as flow:
        microphone = flow.add(Microphone("my interface"), name="mic")
        collect = flow.add(Collect(), name="collect")
        flow.connect(microphone.out, collect.data, buffer_size=64)
        microphone.use(ScriptedDevice([signal]))
        with pytest.raises(ConfigurationError, match="or let the flow freewheel"):
            flow.start()
    with DataFlowCoordinator("replaced") as flow:
        microphone = flow.add(Microphone("my interface"), name="mic")
        collect = flow.add(Collect(), name="collect")
        flow.connect(microphone.out, collect.data, buffer_size=64)
        microphone.use(ScriptedDevice([signal]))
        flow.run(freewheel=True)
        with pytest.raises(StateError, match="its device is chosen"):
            microphone.use(None)
    assert np.concatenate(collect.values).tobytes() == signal.tobytes()


FLOW_FILE = """
[flow]
name = "level"
duration_s = 2.0

[modules.mic]
use = "steadyflow.audio:Microphone"
arguments = { device = "my interface" }

[modules.file]
use = "steadyflow.audio:FileSink"
arguments = { path = "%s" }

[[pipelines]]
from = "mic.out"
to = "file.audio"
buffer_size = 32
"""


def test_a_flow_from_a_file_runs_offline_for_as_long_as_the_file_says(tmp_path: Path) -> None:
    written = tmp_path / "written.wav"
    (tmp_path / "flow.toml").write_text(FLOW_FILE % written)
    flow = load_flow(tmp_path / "flow.toml")
    with flow:
        microphone = flow.modules["mic"]
        assert isinstance(microphone, Microphone)
        microphone.use(ScriptedDevice([noise(RATE_HZ * 5)]))
        report = flow.run(freewheel=True)
    assert report.duration_s == 2
    assert soundfile.info(written).frames == 2 * RATE_HZ


def test_a_script_runs_once() -> None:
    device = ScriptedDevice([noise(PERIOD * 4)])
    captured(device)
    with pytest.raises(FlowFailed) as failed:
        captured(device)
    (failure,) = failed.value.exceptions
    assert "make one for each run" in str(failure.__cause__)


def test_what_comes_after_the_last_frames_is_told_with_a_period_of_silence() -> None:
    report, collect = captured(ScriptedDevice([noise(PERIOD * 50), Xrun(lost_frames=1000)]))
    capture = report.devices["mic"].capture
    assert capture is not None
    assert (capture.xruns, capture.lost_frames) == (1, 1000)
    assert not collect.values[-1].any()
    assert collect.arrivals[-1].first_frame == 50 * PERIOD + 1000


def test_a_stop_does_not_wait_for_what_a_device_has_left() -> None:
    """With the device away, what waits for it is dropped when the flow stops, block by block as it comes."""
    device = ScriptedDevice([noise(PERIOD * 20), Unplugged(1e6)], output_channels=1)
    clock = ManualClock()
    with DataFlowCoordinator("left") as flow:
        tone = flow.add(Tone(440, block_frames=PERIOD), name="tone")
        gain = flow.add(Gain(), name="gain", worker="gain")
        speaker = flow.add(Speaker(device), name="speaker")
        flow.connect(tone.out, gain.audio, buffer_size=64)
        pipe = flow.connect(gain.out, speaker.audio, buffer_size=4)
        flow.start(clock=clock)
        clock.sleep(2)
        report = flow.stop()
    assert report.duration_s < 2.1
    assert set(pipe.statistics().dropped) <= {"stopped"}
    assert report.modules["speaker"].state == "stopped"


def test_what_a_scripted_device_does_not_have_is_refused() -> None:
    for module, problem in (
        (Microphone(ScriptedDevice(), sample_rate_hz=44_100), "does not open at 44100 Hz"),
        (Microphone(ScriptedDevice(), channels=3), "expected at most 1 channels"),
    ):
        with DataFlowCoordinator("refused") as flow:
            microphone = flow.add(module, name="mic")
            collect = flow.add(Collect(), name="collect")
            flow.connect(microphone.out, collect.data, buffer_size=64)
            with pytest.raises(FlowFailed) as failed:
                flow.run(freewheel=True)
            (failure,) = failed.value.exceptions
            assert isinstance(failure.__cause__, DeviceUnavailable)
            assert problem in str(failure.__cause__)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ([noise(4), "unplug"], "expected arrays, Xrun, Late, Unplugged and Drift, got 'unplug'"),
        ([np.zeros((2, 2, 2), np.float32)], "expected arrays of floats"),
        ([np.zeros(4, np.int16)], "expected arrays of floats"),
        ([noise(4), noise(4, channels=2)], r"expected as many channels in each array, got \[1, 2\]"),
        ([Drift(1e9)], "ppm"),
        ([Late(-1)], "seconds"),
        ([Late(1.5)], "Use Unplugged"),
        ([Xrun(lost_frames=60_000)], "Use Unplugged"),
        ([Xrun(lost_frames=-1)], "lost_frames"),
        ([Xrun(direction="up")], "expected direction"),  # type: ignore[arg-type]
    ],
)
def test_impossible_scripts_are_refused(script: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        ScriptedDevice(script)


# --- against a plain model ------------------------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.integers(1, 20).map(lambda periods: ("frames", periods)),
        st.integers(65, 4000).map(lambda frames: ("xrun", frames)),
        st.floats(0.0001, 0.02).map(lambda seconds: ("late", seconds)),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(4, 400), st.sampled_from([32, PERIOD, 333]))
def test_what_is_captured_is_what_a_script_says(script: list[tuple[str, Any]], block: int, period: int) -> None:
    """Every frame that was not lost arrives once, in order, at its place; every lost one is counted."""
    counter, position = 1, 0
    told: list[Any] = [noise(period * 20)]  # the clock of the device is learnt first
    expected = {n: told[0][n, 0] for n in range(period * 20)}
    position = period * 20
    lost = 0
    for kind, value in script:
        if kind == "frames":
            frames = np.arange(counter, counter + value * period, dtype=np.float32)
            counter += len(frames)
            told.append(frames)
            expected |= {position + n: frame for n, frame in enumerate(frames)}
            position += len(frames)
        elif kind == "xrun":
            frames_lost = max(value, period)
            told.append(Xrun(lost_frames=frames_lost))
            told.append(np.full(period, -1, np.float32))
            position += frames_lost
            lost += frames_lost
            expected |= {position + n: np.float32(-1) for n in range(period)}
            position += period
        else:
            told.append(Late(value))
    if script[-1][0] == "late":  # a last call has to be, for it to be late: it brings silence
        expected |= {position + n: np.float32(0) for n in range(period)}
    with DataFlowCoordinator("model") as flow:
        microphone = flow.add(Microphone(ScriptedDevice(told, period_frames=period), block_frames=block), name="mic")
        collect = flow.add(Collect(), name="collect")
        # What was late comes all at once: many short blocks.
        flow.connect(microphone.out, collect.data, buffer_size=4096)
        report = flow.run(freewheel=True)
    got = {
        arrival.first_frame + n: frame
        for arrival, value in zip(collect.arrivals, collect.values, strict=True)
        for n, frame in enumerate(value[:, 0])
    }
    assert got == expected
    assert sum(map(len, collect.values)) == len(expected)
    capture = report.devices["mic"].capture
    assert capture is not None
    assert capture.lost_frames == lost
