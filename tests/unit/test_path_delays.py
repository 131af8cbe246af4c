"""What delays sound between two modules: what adds up, which way counts, and what is refused."""

import pytest

from steadyflow import (
    AudioFormat,
    AudioPipelineConfig,
    ConversionOptions,
    DataFlowCoordinator,
    Input,
    Module,
    Output,
    Source,
    audio,
)
from steadyflow.errors import BudgetRefused, ConfigurationError, StateError, UnknownName
from steadyflow.runtime.path_delays import Delay, PathDelay
from steadyflow.transform.rate import withheld_frames

FORMAT = AudioFormat(48_000, 1)


class Mic(Source):
    out = Output(FORMAT)
    latency_frames = 480

    def produce(self):
        yield


class Effect(Module):
    audio = Input(FORMAT)
    out = Output(FORMAT)

    def __init__(self, latency_ms=0.0):
        self.latency_ms = latency_ms

    def process(self, audio):
        return audio


class Model(Module):
    audio = Input(AudioFormat(16_000, 1), window_frames=512, hop_frames=160)
    latency_frames = 160

    def process(self, audio):
        pass


class Ear(Module):
    audio = Input(FORMAT)

    def process(self, audio):
        pass


def described(flow):
    mic = flow.add(Mic(), name="mic")
    slow, quick = flow.add(Effect(7.5), name="slow"), flow.add(Effect(), name="quick")
    model, ear = flow.add(Model(), name="model"), flow.add(Ear(), name="ear")
    flow.connect(mic.out, slow.audio, buffer_size=4)
    flow.connect(mic.out, quick.audio, buffer_size=4)
    options = {"transformation_required": True, "conversion": ConversionOptions(quality="HQ")}
    flow.connect(slow.out, model.audio, buffer_size=4, **options)
    flow.connect(quick.out, model.audio, buffer_size=4, **options)
    flow.connect(quick.out, ear.audio, buffer_size=4, target_fill_ms=3.0)
    return mic, model


def test_the_longest_way_counts_with_all_that_lies_on_it():
    with DataFlowCoordinator("paths") as flow:
        mic, model = described(flow)
        path = flow.path_delay(mic, model)
        assert path.modules == ("mic", "slow", "model")
        withheld_ms = withheld_frames(48_000, 16_000, "f32", "HQ") / 16
        expected = [
            ("mic", 10.0),
            ("slow", 7.5),
            ("slow.out->model.audio", withheld_ms),
            ("slow.out->model.audio", 32.0),
            ("model", 10.0),
        ]
        assert [(part.place, part.ms) for part in path.parts] == [(place, pytest.approx(ms)) for place, ms in expected]
        assert path.total_ms == pytest.approx(59.5 + withheld_ms)
        shown = str(path).splitlines()
        assert shown[0] == "mic -> slow -> model"
        assert "window of 512 frames at 16000 Hz" in shown[4]
        assert shown[-1].split() == ["total", f"{path.total_ms:.1f}", "ms"]
        assert [part.what for part in flow.path_delay("quick", "ear").parts] == ["target_fill_ms"]
        assert flow.path_delay("ear", "ear") == PathDelay(("ear",), ())


def test_a_budget_that_cannot_be_met_is_refused_with_the_chain():
    with DataFlowCoordinator("paths") as flow:
        mic, model = described(flow)
        flow.path_budget("quick", "ear", 5)
        flow.path_budget(mic, model, 50)
        with pytest.raises(BudgetRefused) as refused:
            flow.start()
    text = str(refused.value)
    assert "expected at most 50 ms from 'mic' to 'model', got at least" in text
    assert "mic -> slow -> model" in text
    assert "latency_ms" in text
    assert "rate: 48000 Hz -> 16000 Hz, HQ" in text


def test_a_budget_that_can_be_met_is_no_hindrance():
    with DataFlowCoordinator("paths") as flow:
        mic, model = described(flow)
        flow.path_budget(mic, model, 1000)
        flow.start()
        assert flow.path_delay(mic, model).total_ms < 1000
        with pytest.raises(StateError, match="set a budget"):
            flow.path_budget(mic, model, 1)
        flow.stop()


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_a_loop_is_gone_through_once(order):
    class Join(Module):
        dry = Input(FORMAT)
        wet = Input(FORMAT)
        out = Output(FORMAT)
        latency_ms = 1.0

        def process_dry(self, dry):
            return dry

        def process_wet(self, wet):
            pass

    with DataFlowCoordinator("loop") as flow:
        mic, join, effect = (
            flow.add(Mic(), name="mic"),
            flow.add(Join(), name="join"),
            flow.add(Effect(2.0), name="effect"),
        )
        flow.connect(mic.out, join.dry, buffer_size=4)
        flow.connect(join.out, effect.audio, buffer_size=4)
        flow.connect(effect.out, join.wet, buffer_size=4)
        assert flow.path_delay("mic", "effect").total_ms == pytest.approx(13.0)
        assert flow.path_delay("mic", "join").total_ms == pytest.approx(11.0)


def test_what_is_no_path_is_refused():
    with DataFlowCoordinator("paths") as flow:
        described(flow)
        for call in (flow.path_delay, lambda a, b: flow.path_budget(a, b, 5)):
            with pytest.raises(UnknownName, match="did you mean 'model'"):
                call("mic", "modell")
            with pytest.raises(UnknownName):
                call(Ear(), "model")
        with pytest.raises(ConfigurationError, match="expected pipelines that lead from 'ear' to 'mic', got none"):
            flow.path_delay("ear", "mic")
        for impossible in (0, -1, "5", float("nan"), float("inf")):
            with pytest.raises(ConfigurationError, match="max_ms"):
                flow.path_budget("mic", "ear", impossible)
        flow.path_budget("ear", "mic", 5)
        with pytest.raises(ConfigurationError, match="got none"):
            flow.start()


def test_modules_that_come_with_the_package_say_what_they_delay():
    assert audio.PitchDetector(lowest_hz=50).latency_ms == pytest.approx(21.3, abs=0.1)
    assert audio.PitchDetector(lowest_hz=100).latency_ms == pytest.approx(10.7, abs=0.1)
    assert audio.DriftCorrector().latency_ms == 5.0
    assert audio.LevelMeter().latency_ms == 0.0
    assert Delay("a", "b", 1.0).ms == 1.0
    assert AudioPipelineConfig(4, target_fill_ms=3.0).target_fill_ms == 3.0


def test_a_picture_shows_what_is_known_of_delays(tmp_path):
    with DataFlowCoordinator("paths") as flow:
        described(flow)
        before = flow.graph()
        assert "Effect, +7.5 ms" in before
        assert "+32.0 ms" in before  # its window
        flow.start()
        after = flow.graph("dot")
        flow.stop()
    assert "Mic, +10.0 ms" in after
    assert "+32.0 ms" not in after  # the filter before it is known by now, too


class Odd(Model):
    latency_ms = float("nan")


class Negative(Model):
    latency_ms = -5.0


class Text(Model):
    latency_ms = "7"


class Half(Model):
    latency_frames = 1.5


@pytest.mark.parametrize("kind", [Odd, Negative, Text, Half])
def test_a_delay_has_to_be_one(kind):
    with DataFlowCoordinator("odd") as flow, pytest.raises(ConfigurationError, match="latency_"):
        flow.add(kind())
