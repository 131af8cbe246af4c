"""What a device plays, through real servers: every sample, in its place, and to the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from tests.integration.test_microphone import events_of, wait_until
from tests.servers.jack_server import PERIOD_FRAMES, RATE_HZ, JackServer, silent_jack_server

from steadyflow import AudioFormat, Block, DataFlowCoordinator, Input, Module, Output, PipelineConfig, Source
from steadyflow.audio import Duplex, Microphone, Speaker, Tone
from steadyflow.errors import ConfigurationError, FlowFailed, FormatClash
from steadyflow.events import DeviceLost, DeviceRecovered
from steadyflow.testing import Collect

__all__ = ["silent_jack_server"]

_FRAMES = 48_000


class Ramp(Source):
    """Silence until it is told to begin; then the numbers of 48,000 frames."""

    out = Output(AudioFormat(RATE_HZ, 1, max_block_frames=480))

    def __init__(self) -> None:
        self.told = threading.Event()

    def produce(self) -> Iterator[int | None]:
        while not self.told.is_set():
            self.out.send(np.zeros((128, 1), np.float32))
            yield None
        numbers = np.arange(1, _FRAMES + 1, dtype=np.float32)[:, np.newaxis]
        for first in range(0, _FRAMES, 480):
            self.out.send(numbers[first : first + 480])
            yield None


class Halve(Module):
    """Half as loud."""

    audio = Input(AudioFormat(RATE_HZ, 1))
    out = Output(AudioFormat(RATE_HZ, 1))

    def process(self, audio: Block) -> npt.NDArray[np.float32]:
        return audio.samples * np.float32(0.5)


def heard(collect: Collect) -> npt.NDArray[np.float32]:
    """Return what was captured, from the first frame that was not silent."""
    samples = np.concatenate([value[:, 0] for value in collect.values])
    sounding = np.flatnonzero(samples)
    return samples[sounding[0] :] if len(sounding) else samples[:0]


def ports_of(server: JackServer, before: set[str]) -> list[str]:
    """Wait for a port that was not there before."""
    wait_until(lambda: bool(set(server.ports()) - before))
    return sorted(set(server.ports()) - before)


def test_what_is_played_is_captured_sample_by_sample_while_python_computes(silent_jack_server: JackServer) -> None:
    flow = DataFlowCoordinator("loopback")
    microphone = flow.add(Microphone(), name="microphone")
    collect = flow.add(Collect())
    flow.connect(microphone.out, collect.data, buffer_size=4096)
    ramp = flow.add(Ramp(), worker="ramp")
    speaker = flow.add(Speaker(), name="speaker")
    flow.connect(ramp.out, speaker.audio, buffer_size=64)
    computing = threading.Event()

    def compute() -> None:
        while not computing.is_set():
            sum(range(10_000))

    busy = threading.Thread(target=compute)
    with flow:
        flow.start()
        wait_until(lambda: sum(port.startswith("PortAudio") for port in silent_jack_server.ports()) == 2)
        captures, plays = port_named(silent_jack_server, "in_0"), port_named(silent_jack_server, "out_0")
        silent_jack_server.connect(plays, captures)
        busy.start()
        ramp.told.set()
        wait_until(lambda: flow.report().modules["speaker"].state == "ended")
        # All has been played. Each look at what was heard takes longer the more there is; beside a thread that computes, too long.
        computing.set()
        busy.join()
        wait_until(lambda: len(heard(collect)) > _FRAMES + PERIOD_FRAMES)
        report = flow.stop()
    captured = heard(collect)
    assert np.array_equal(captured[:_FRAMES], np.arange(1, _FRAMES + 1))
    assert not np.any(captured[_FRAMES:])
    played = speaker.report().playback
    assert played is not None
    assert played.underruns == 0
    assert played.misfits == 0
    pipeline = report.pipelines["ramp.out->speaker.audio"]
    assert pipeline.sent == pipeline.delivered == played.blocks


def port_named(server: JackServer, name: str) -> str:
    """Return the only port of a PortAudio client that is called so."""
    (port,) = [port for port in server.ports() if port.startswith("PortAudio") and port.endswith(f":{name}")]
    return port


def test_a_duplex_path_through_a_process_loses_nothing(silent_jack_server: JackServer) -> None:
    before = set(silent_jack_server.ports())
    effect = DataFlowCoordinator("effect")
    duplex = effect.add(Duplex(sample_rate_hz=RATE_HZ), name="duplex", realtime=True, placement="process")
    halve = effect.add(Halve(), name="halve", placement="process", realtime=True)
    effect.connect(duplex.out, halve.audio, buffer_size=64, priority="critical")
    effect.connect(halve.out, duplex.audio, buffer_size=64, target_fill_ms=30.0, priority="critical")
    bench = DataFlowCoordinator("bench")
    ramp = bench.add(Ramp())
    speaker = bench.add(Speaker(), name="speaker")
    bench.connect(ramp.out, speaker.audio, buffer_size=64)
    microphone = bench.add(Microphone(), name="microphone")
    collect = bench.add(Collect())
    bench.connect(microphone.out, collect.data, buffer_size=4096)
    with effect, bench:
        effect.start()
        of_effect = ports_of(silent_jack_server, before)
        before.update(of_effect)
        bench.start()
        wait_until(lambda: len(set(silent_jack_server.ports()) - before) == 2)
        of_bench = sorted(set(silent_jack_server.ports()) - before)
        comes_in, goes_out = sorted(of_effect, key=lambda port: "out_" in port)
        captures, plays = sorted(of_bench, key=lambda port: "out_" in port)
        silent_jack_server.connect(plays, comes_in)
        silent_jack_server.connect(goes_out, captures)
        ramp.told.set()
        wait_until(lambda: bench.report().modules["speaker"].state == "ended")
        wait_until(lambda: len(heard(collect)) > _FRAMES + PERIOD_FRAMES)
        bench.stop()
        report = effect.stop()
    assert np.array_equal(heard(collect)[:_FRAMES], np.arange(1, _FRAMES + 1) / 2)
    both = duplex.report()
    assert both.capture is not None
    assert both.playback is not None
    assert both.playback.underruns == 0
    there, back = report.pipelines["duplex.out->halve.audio"], report.pipelines["halve.out->duplex.audio"]
    assert there.sent == there.delivered == back.sent == back.delivered == both.capture.blocks
    assert both.playback.frames == both.capture.frames


def test_what_waits_is_played_when_the_flow_is_stopped(silent_jack_server: JackServer) -> None:
    flow = DataFlowCoordinator("stop")
    tone = flow.add(Tone(440, block_frames=480), name="tone")
    speaker = flow.add(Speaker(), name="speaker")
    flow.connect(tone.out, speaker.audio, buffer_size=50)
    with flow:
        flow.start()
        wait_until(lambda: flow.report().pipelines["tone.out->speaker.audio"].delivered > 20)
        report = flow.stop()
    metrics = report.pipelines["tone.out->speaker.audio"]
    assert metrics.dropped_total == 0
    assert metrics.sent == metrics.delivered
    played = speaker.report().playback
    assert played is not None
    assert played.frames == 480 * metrics.sent
    assert report.modules["speaker"].state == "ended"


def test_a_file_waits_while_the_device_is_away(silent_jack_server: JackServer) -> None:
    flow = DataFlowCoordinator("away")
    tone = flow.add(Tone(440, block_frames=480, duration_s=3.0), name="tone")
    speaker = flow.add(Speaker(), name="speaker")
    flow.connect(tone.out, speaker.audio, buffer_size=20)
    with flow:
        flow.start()
        wait_until(lambda: flow.report().pipelines["tone.out->speaker.audio"].delivered > 20)
        silent_jack_server.kill()
        wait_until(lambda: bool(events_of(flow, DeviceLost)))
        silent_jack_server.start()
        wait_until(lambda: bool(events_of(flow, DeviceRecovered)))
        assert flow.wait(60)
        report = flow.stop()
    metrics = report.pipelines["tone.out->speaker.audio"]
    assert metrics.sent == metrics.delivered == 300
    assert metrics.repeated <= len(events_of(flow, DeviceLost))


def test_pipelines_that_a_device_cannot_play() -> None:
    flow = DataFlowCoordinator("mix")
    one, other = flow.add(Tone(440), name="one"), flow.add(Tone(660), name="other")
    speaker = flow.add(Speaker(), name="speaker")
    flow.connect(one.out, speaker.audio, buffer_size=8)
    flow.connect(other.out, speaker.audio, buffer_size=8)
    with pytest.raises(ConfigurationError, match=r"one pipeline into speaker.audio.*one.out->speaker.audio"):
        flow.start()


def test_samples_that_a_device_does_not_play() -> None:
    flow = DataFlowCoordinator("types")
    speaker = flow.add(Speaker(), name="speaker")
    with pytest.raises(FormatClash, match="f32"):
        flow.register_pipeline(
            "app", speaker.audio, PipelineConfig(buffer_size=8), format=AudioFormat(RATE_HZ, 1, sample_type="s16")
        )


def test_a_speaker_that_nothing_leads_to(silent_jack_server: JackServer) -> None:
    flow = DataFlowCoordinator("nothing")
    flow.add(Speaker(), name="speaker")
    with pytest.raises(FlowFailed, match="nothing is connected"):
        flow.start()


def test_a_rate_that_the_device_does_not_play(silent_jack_server: JackServer) -> None:
    flow = DataFlowCoordinator("rate")
    tone = flow.add(Tone(440, sample_rate_hz=11_025))
    speaker = flow.add(Speaker(), name="speaker")
    flow.connect(tone.out, speaker.audio, buffer_size=8)
    with pytest.raises(FlowFailed, match="11025 Hz"):
        flow.start()
