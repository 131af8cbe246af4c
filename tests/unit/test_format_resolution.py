"""What flows on each pipeline: what modules answer, and what pipelines were registered with."""

from __future__ import annotations

from itertools import permutations

import pytest

from steadyflow import (
    AudioFormat,
    BytesFormat,
    DataFlowCoordinator,
    DropOldest,
    FormatClash,
    Input,
    Module,
    Output,
    PipelineConfig,
    Source,
    Wait,
)
from steadyflow.errors import ConfigurationError, UnknownName
from steadyflow.runtime.format_resolution import check_complete, find_formats
from steadyflow.runtime.layout import chosen_rules, topological
from steadyflow.testing import Collect

MONO = AudioFormat(48_000, 1)


class Answers(Source):
    """Answers with what it was given."""

    out = Output(AudioFormat())

    def __init__(self, answer):
        self.answer = answer

    def resolve_formats(self, inputs):
        return self.answer

    def produce(self):
        yield


class Microphone(Source):
    live = True
    out = Output(MONO)

    def produce(self):
        yield


class Pass(Module):
    audio = Input(MONO)
    out = Output(BytesFormat())

    def process(self, audio):
        return b""


@pytest.fixture
def flow():
    with DataFlowCoordinator("formats") as flow:
        yield flow


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ({"outt": MONO}, UnknownName, r"module 'mic': resolve_formats: unknown output 'outt'; did you mean 'out'\?"),
        ({"out": "mono"}, ConfigurationError, r"expected a format such as .* of 'out', got 'mono'"),
        (None, ConfigurationError, "expected the format of each output, by name; got None"),
    ],
)
def test_answers_that_are_none(flow, answer, error, message):
    mic = flow.add(Answers(answer), name="mic")
    flow.connect(mic.out, flow.add(Collect()).data, buffer_size=4)
    with pytest.raises(error, match=message):
        flow.start()


def test_a_pipeline_between_modules_keeps_to_the_format_it_was_registered_with(flow):
    flow.add(Answers({"out": MONO}), name="mic")
    flow.add(Collect(), name="heard")
    flow.register_pipeline("mic.out", "heard.data", PipelineConfig(4), AudioFormat(44_100, 1))
    with pytest.raises(FormatClash, match=r"mic.out->heard.data: .* sample_rate_hz differs"):
        flow.start()


def test_a_registered_format_that_agrees_fills_what_is_open(flow):
    flow.add(Answers({"out": AudioFormat(channels=1)}), name="mic")
    flow.add(Collect(), name="heard")
    pipeline = flow.pipeline(flow.register_pipeline("mic.out", "heard.data", PipelineConfig(4), MONO))
    flow.run()
    assert pipeline.format == MONO


@pytest.mark.parametrize(
    ("replicas", "ordered", "rule"), [(1, True, DropOldest()), (3, False, DropOldest()), (3, True, Wait())]
)
def test_what_ordered_replicas_send_waits_also_below_a_live_source(flow, replicas, ordered, rule):
    """A block that waits for its turn is not one too many."""
    mic = flow.add(Microphone(), name="mic")
    work = flow.add(Pass, name="work", placement="process", replicas=replicas, ordered=ordered)
    into, out = (
        flow.connect(mic.out, work.audio, buffer_size=4),
        flow.connect(work.out, flow.add(Collect()).data, buffer_size=4),
    )
    rules = chosen_rules(flow._description.modules, [into, out])
    assert {name: chosen.rule for name, chosen in rules.items()} == {into.id: DropOldest(), out.id: rule}
    assert rules[into.id].live


class Device(Source):
    """Captures and plays at a rate that it is asked for; what it plays does not matter for that."""

    audio = Input(AudioFormat())
    out = Output(AudioFormat())
    live = True
    device_driven = True

    def resolve_formats(self, inputs):
        return {"out": MONO}

    def produce(self):
        yield


class Effect(Module):
    audio = Input(AudioFormat())
    out = Output(like="audio")

    def process(self, audio):
        return audio.samples


@pytest.mark.parametrize("names", list(permutations(["device", "first", "second"])))
def test_the_way_through_a_device_and_back_has_the_format_of_what_it_captures(flow, names):
    for name in names:
        flow.add(Device() if name == "device" else Effect(), name=name)
    links = [("device.out", "first.audio"), ("first.out", "second.audio"), ("second.out", "device.audio")]
    pipelines = [flow.connect(source, target, buffer_size=4) for source, target in links]
    modules = flow._description.modules
    found = find_formats(modules, pipelines, topological(modules, pipelines))
    check_complete(pipelines, found)
    assert set(found.pipelines.values()) == {MONO}
    assert found.inputs["device", "audio"] == MONO
