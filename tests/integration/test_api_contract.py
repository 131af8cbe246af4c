"""The public interface as documented: programs that run as written, ids and forms, and what is refused, and how."""

import ast
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile

from steadyflow import (
    AnyFormat,
    ArrayFormat,
    AudioFormat,
    BytesFormat,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    Fail,
    FlowData,
    FlowError,
    FlowFailed,
    FlowMetrics,
    FormatClash,
    Input,
    Latest,
    Module,
    Output,
    Pipeline,
    PipelineClosed,
    PipelineConfig,
    Source,
    Wait,
    coordinator,
    module,
)
from steadyflow.errors import (
    ArgumentRefused,
    ConfigurationError,
    CycleRefused,
    DuplicateLink,
    DuplicateName,
    FlowNotRunning,
    LimitExceeded,
    StateError,
    UnknownName,
)
from steadyflow.runtime.execution import Execution
from steadyflow.testing import Collect, ScriptedSource

LIMIT_S = 45
MONO = AudioFormat(48_000, 1)
STEREO = AudioFormat(48_000, 2)
BLOCK = np.ones((4, 1), np.float32)
CONFIG = PipelineConfig(buffer_size=4)


class Pass(Module):
    audio = Input(MONO)
    out = Output(MONO)

    def __init__(self, gain=1.0, *, options=None):
        self.gain = gain
        self.options = options

    def process(self, audio):
        return audio.samples * np.float32(self.gain)


class Mixer(Module):
    """Two inputs and two outputs, so that a bare module name says too little."""

    left = Input(MONO)
    right = Input(MONO)
    first = Output(MONO)
    second = Output(MONO)

    def process_left(self, left):
        self.first.send(left)

    def process_right(self, right):
        self.second.send(right)


class Sum(Module):
    """A module for loops: what comes back is counted, not sent on."""

    audio = Input(MONO)
    back = Input(MONO)
    out = Output(MONO)

    def process_audio(self, audio):
        self.out.send(audio)

    def process_back(self, back):
        pass


class Sink(Module):
    audio = Input(MONO)

    def process(self, audio):
        pass


def made_in_a_function():
    class Local(Sink):
        pass

    return Local()


@pytest.fixture
def flow():
    with DataFlowCoordinator("contract") as flow:
        yield flow


def source(blocks=3):
    return ScriptedSource([BLOCK] * blocks, MONO)


# --- programs ---------------------------------------------------------------------------------------------------------

FIRST_PROGRAM = """\
from steadyflow import DataFlowCoordinator, Wait, audio

with DataFlowCoordinator("demo") as flow:
    take  = flow.add(audio.FileSource("take.wav", block_frames=128, realtime_pace=False), name="take")
    pitch = flow.add(audio.PitchDetector(), name="pitch", placement="process")
    rec   = flow.add(audio.FileSink("copy.flac"), name="rec")
    flow.connect(take.out, pitch.audio, buffer_size=32, max_latency_ms=2.0, priority="critical", backpressure_strategy=Wait(timeout_ms=5000))
    flow.connect(take.out, rec.audio, buffer_size=64, max_latency_ms=50.0)
    report = flow.run()
print(report)
print(report.pipelines["take.out->pitch.audio"].latency_p99_ms)
"""

OWN_MODULE = """\
import json, os
import msgspec
import numpy as np
from steadyflow import AudioFormat, Block, DataFlowCoordinator, Input, Module, Output, StructFormat, audio, testing
{imports}
class Settings(msgspec.Struct):
    scale: float

class Level(msgspec.Struct):
    peak: float
    frame: int
    pid: int

class Meter(Module):
    audio = Input(AudioFormat())
    level = Output(StructFormat(Level))

    def __init__(self, settings):
        self.settings = settings

    def process(self, audio: Block) -> Level:
        return Level(self.settings.scale * float(np.abs(audio.samples).max()), audio.first_frame, os.getpid())

with DataFlowCoordinator("own") as flow:
    with open("runs.txt", "a") as file:  # below the coordinator: not repeated in the worker
        file.write("once")
    take = flow.add(audio.FileSource("take.wav", block_frames=1000, realtime_pace=False), name="take")
    meter = flow.add(Meter(Settings(scale=2.0)), name="meter", placement="process")
    seen = flow.add(testing.Collect(), name="seen")
    flow.connect(take.out, meter.audio, buffer_size=8)
    flow.connect(meter.level, seen.data, buffer_size=8)
    flow.run()
    assert flow.workers["meter"].pid != os.getpid()
print(json.dumps([[level.peak, level.frame, level.pid == flow.workers["meter"].pid] for level in seen.values]))
"""


def take(folder, seconds=0.25, rate=16_000):
    """Write the recording that the programs read; returns its samples."""
    time = np.arange(round(seconds * rate)) / rate
    samples = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    soundfile.write(folder / "take.wav", samples, rate, subtype="PCM_16")
    return soundfile.read(folder / "take.wav", dtype="float32")[0]


def python(folder, *arguments, text=None):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_the_first_program_runs_as_written_without_a_main_guard(tmp_path):
    samples = take(tmp_path)
    (tmp_path / "first.py").write_text(FIRST_PROGRAM)
    done = python(tmp_path, "first.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert "flow 'demo'" in done.stdout
    assert "take.out->pitch.audio" in done.stdout
    assert "take.out->rec.audio" in done.stdout
    assert float(done.stdout.splitlines()[-1]) > 0
    copy, rate = soundfile.read(tmp_path / "copy.flac", dtype="float32")
    assert rate == 16_000
    np.testing.assert_array_equal(copy, samples)


def test_a_class_of_the_script_itself_runs_in_a_process(tmp_path):
    samples = take(tmp_path)
    (tmp_path / "own.py").write_text(OWN_MODULE.format(imports=""))
    done = python(tmp_path, "own.py")
    assert (done.returncode, done.stderr) == (0, "")
    expected = [[2 * float(np.abs(samples[at : at + 1000]).max()), at, True] for at in range(0, 4000, 1000)]
    assert json.loads(done.stdout) == [[pytest.approx(peak), frame, there] for peak, frame, there in expected]
    assert (tmp_path / "runs.txt").read_text() == "once"


def test_a_script_started_with_m_finds_its_neighbours_in_the_worker_too(tmp_path):
    take(tmp_path)
    package = tmp_path / "station"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "rates.py").write_text("RATE = 16_000\n")
    (package / "own.py").write_text(OWN_MODULE.format(imports="from .rates import RATE"))
    done = python(tmp_path, "-m", "station.own")
    assert (done.returncode, done.stderr) == (0, "")
    assert [frame for _, frame, _ in json.loads(done.stdout)] == [0, 1000, 2000, 3000]


def test_a_class_below_the_coordinator_is_refused_by_name(tmp_path):
    (tmp_path / "late.py").write_text(
        textwrap.dedent("""
            from steadyflow import *
            flow = DataFlowCoordinator()
            class Late(Module):
                audio = Input(AudioFormat(48_000, 1))
                def process(self, audio): pass
            late = flow.add(Late(), placement="process")
            flow.register_pipeline("app", "late.audio", PipelineConfig(buffer_size=2), AudioFormat(48_000, 1))
            try:
                flow.start()
            except FlowFailed as failed:
                print(failed.exceptions[0])
        """)
    )
    done = python(tmp_path, "late.py")
    assert done.returncode == 0, done.stderr
    assert "Late: expected a class defined in" in done.stdout
    assert "above the first DataFlowCoordinator" in done.stdout


INTERACTIVE = textwrap.dedent("""
    from steadyflow import *
    from steadyflow.errors import ConfigurationError
    class Typed(Module):
        audio = Input(AudioFormat(48_000, 1))
        def process(self, audio): pass

    flow = DataFlowCoordinator()
    try:
        added = flow.add(Typed(), placement="process")
    except ConfigurationError as error:
        print(error)

    added = flow.add(Typed(), placement="thread")
    print("a thread is fine")
""")


@pytest.mark.parametrize("how", ["-", "-i", "-c"])
def test_a_class_that_was_typed_in_is_refused_for_a_process_and_told_where_to_go(tmp_path, how):
    done = python(tmp_path, how, INTERACTIVE) if how == "-c" else python(tmp_path, how, text=INTERACTIVE)
    assert done.returncode == 0
    assert how == "-i" or done.stderr == ""  # an interactive session prompts there
    assert "Typed is defined in an interactive session" in done.stdout
    assert "Move the class Typed to a file" in done.stdout
    assert done.stdout.endswith("a thread is fine\n")


def test_a_flow_left_open_ends_with_its_program(tmp_path):
    (tmp_path / "open.py").write_text(
        textwrap.dedent("""
            from steadyflow import *
            import numpy as np
            class Endless(Source):
                out = Output(AudioFormat(48_000, 1))
                def produce(self):
                    while True:
                        self.out.send(np.zeros((64, 1), np.float32))
                        yield
            class Sink(Module):
                audio = Input(AudioFormat(48_000, 1))
                def process(self, audio): pass
            flow = DataFlowCoordinator()
            flow.connect(flow.add(Endless()).out, flow.add(Sink(), placement="process").audio, buffer_size=4)
            flow.start()
            print(flow.workers["sink"].pid)
        """)
    )
    done = python(tmp_path, "open.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path(f"/proc/{int(done.stdout)}").exists()


# --- the five operations ----------------------------------------------------------------------------------------------


def test_the_five_operations_as_written(flow):
    array = np.zeros((128, 2), np.float32)
    pid = flow.register_pipeline(
        "app", "dsp", PipelineConfig(buffer_size=64, max_latency_ms=2.0), format=AudioFormat(48_000, 2)
    )
    assert pid == "app->dsp"
    assert flow.send_data(pid, FlowData(array, AudioFormat(48_000, 2))) is True
    metrics = flow.get_flow_metrics(pid)
    assert isinstance(metrics, FlowMetrics)
    assert (metrics.sent, metrics.in_flight, metrics.fill) == (1, 1, 1)
    flow.handle_backpressure(pid, DropOldest())
    assert flow.pipeline(pid).rule == DropOldest()
    assert flow.transform_data(array, STEREO, STEREO) is array
    assert flow.pipeline(pid).receive(timeout_s=10).samples.shape == (128, 2)


@pytest.mark.parametrize(
    ("have", "want"),
    [
        (ArrayFormat("f4", 3), ArrayFormat("f4", 4)),
        (MONO, BytesFormat()),
        (AudioFormat(48_000, 3), STEREO),
    ],
)
def test_what_nothing_converts_is_refused_and_both_are_named(flow, have, want):
    with pytest.raises(FormatClash) as caught:
        flow.transform_data(BLOCK, have, want)
    assert str(caught.value).startswith("transform_data: ")
    assert str(have) in str(caught.value)
    assert str(want) in str(caught.value)


@pytest.mark.parametrize("fmt", [MONO, AudioFormat(48_000, 1, "s24"), ArrayFormat("c8", (2, 2)), BytesFormat()])
def test_equal_formats_return_the_data_itself(flow, fmt):
    data = object()
    assert flow.transform_data(data, fmt, msgspec.structs.replace(fmt)) is data


def test_what_is_no_format_is_refused(flow):
    with pytest.raises(ConfigurationError, match="to_format"):
        flow.transform_data(BLOCK, MONO, "f32")
    with pytest.raises(ConfigurationError, match="from_format"):
        flow.transform_data(BLOCK, None, MONO)


def test_everything_that_takes_an_id_takes_the_pipeline(flow):
    pipe = flow.pipeline(flow.register_pipeline("app", "dsp", CONFIG, MONO))
    assert isinstance(pipe, Pipeline)
    assert flow.pipeline(pipe) is pipe is flow.pipelines["app->dsp"]
    assert flow.send_data(pipe, BLOCK)
    flow.handle_backpressure(pipe, Fail())
    assert flow.get_flow_metrics(pipe).sent == 1
    with DataFlowCoordinator("other") as other:
        other.register_pipeline("app", "dsp", CONFIG, MONO)
        with pytest.raises(UnknownName):
            other.send_data(pipe, BLOCK)


def test_a_pipeline_that_nobody_knows_is_answered_with_the_nearest(flow):
    flow.register_pipeline("app", "dsp", CONFIG, MONO)
    for call in (
        lambda: flow.send_data("app->dps", BLOCK),
        lambda: flow.get_flow_metrics("app->dps"),
        lambda: flow.handle_backpressure("app->dps", Fail()),
        lambda: flow.pipeline("app->dps"),
    ):
        with pytest.raises(UnknownName, match=r"unknown pipeline 'app->dps'; did you mean 'app->dsp'\?"):
            call()


def test_metrics_and_sending_before_the_start_say_what_is_missing(flow):
    link = flow.connect(flow.add(source(), name="take").out, flow.add(Sink(), name="sink").audio, buffer_size=2)
    with pytest.raises(FlowNotRunning, match="start the flow first"):
        flow.get_flow_metrics(link)
    with pytest.raises(StateError, match="fed by module 'take'"):
        flow.send_data(link, BLOCK)
    with pytest.raises(StateError, match="feeds module 'sink'"):
        link.receive()
    with pytest.raises(StateError, match="fed by module 'take'"):
        link.end()
    assert link.flush() == 0


# --- the ways to name two ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["ports", "names", "modules", "mixed"])
def test_ends_are_ports_or_names(flow, by):
    take, rec = flow.add(source(), name="take"), flow.add(Sink(), name="rec")
    ends = {
        "ports": (take.out, rec.audio),
        "names": ("take.out", "rec.audio"),
        "modules": ("take", "rec"),
        "mixed": (take.out, "rec"),
    }[by]
    assert flow.register_pipeline(*ends, CONFIG) == "take.out->rec.audio"
    with pytest.raises(DuplicateLink, match=r"take\.out->rec\.audio"):
        flow.connect(take.out, rec.audio, buffer_size=9)
    assert flow.run().pipelines["take.out->rec.audio"].delivered == 3


def test_connect_returns_the_pipeline_with_its_settings(flow):
    take, rec = flow.add(source(), name="take"), flow.add(Sink(), name="rec")
    link = flow.connect(
        take.out, rec.audio, buffer_size=7, max_latency_ms=3, priority="critical", backpressure_strategy=Latest()
    )
    assert (link.id, link.source, link.target) == ("take.out->rec.audio", ("take", "out"), ("rec", "audio"))
    assert (link.config.buffer_size, link.config.priority.rank, link.rule) == (7, 0, Latest())
    assert link.format == MONO
    assert "take.out->rec.audio" in repr(link)


def test_open_ends_of_both_kinds_beside_each_other(flow):
    work = flow.add(Pass(2.0), name="work")
    into = flow.register_pipeline("app", work.audio, CONFIG)
    out = flow.connect(work.out, "screen", buffer_size=4)
    assert (into, out.id) == ("app->work.audio", "work.out->screen")
    assert flow.send_data(into, BLOCK)  # before the start
    with pytest.raises(FlowNotRunning, match=r"call flow\.start"):
        out.receive(timeout_s=0)
    flow.start()
    assert flow.send_data(into, BLOCK * 3)
    assert [float(out.receive(timeout_s=10).samples[0, 0]) for _ in range(2)] == [2, 6]
    flow.pipeline(into).end()
    assert flow.wait(10)


def test_one_application_end_may_feed_several_pipelines(flow):
    first, second = flow.add(Collect(), name="first"), flow.add(Collect(), name="second")
    ids = [flow.register_pipeline("app", each.data, CONFIG, MONO) for each in (first, second)]
    assert ids == ["app->first.data", "app->second.data"]
    flow.start()
    for number, each in enumerate(ids):
        flow.send_data(each, BLOCK * number)
        flow.pipeline(each).end()
    assert flow.wait(10)
    assert [float(each.values[0][0, 0]) for each in (first, second)] == [0, 1]


def test_an_open_source_has_to_say_what_flows(flow):
    flow.add(Collect(), name="seen")
    for target in ("dsp", "seen"):
        with pytest.raises(ConfigurationError, match="expected to know what flows"):
            flow.register_pipeline("app", target, CONFIG)
    with pytest.raises(ConfigurationError, match="expected to know what flows"):
        flow.register_pipeline("app", "dsp", CONFIG, AudioFormat(48_000))
    with pytest.raises(ConfigurationError, match="expected to know what flows"):
        flow.register_pipeline("app", "dsp", CONFIG, AnyFormat())
    assert flow.pipelines == {}


def test_a_format_on_an_open_target_is_checked_against_what_comes(flow):
    flow.add(source(), name="take")
    flow.register_pipeline("take.out", "screen", CONFIG, STEREO)
    with pytest.raises(FormatClash, match=r"take\.out->screen"):
        flow.start()


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (("tkae.out", "rec.audio"), r"unknown module 'tkae'; did you mean 'take'\?"),
        (("take.uot", "rec.audio"), r"module 'take': unknown output 'uot'; did you mean 'out'\?"),
        (("take.out", "rec.adio"), r"module 'rec': unknown input 'adio'; did you mean 'audio'\?"),
        (("take.out", "rce.audio"), r"unknown module 'rce'; did you mean 'rec'\?"),
    ],
)
def test_a_misspelt_end_is_answered_with_the_nearest(flow, ends, message):
    flow.add(source(), name="take")
    flow.add(Sink(), name="rec")
    with pytest.raises(UnknownName, match=message):
        flow.connect(*ends, buffer_size=2)
    with pytest.raises(LookupError, match=message):
        flow.register_pipeline(*ends, CONFIG)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bufer_size": 2}, r"unknown option 'bufer_size'; did you mean 'buffer_size'\?"),
        ({"buffer_size": 2, "max_latency": 2}, r"unknown option 'max_latency'; did you mean 'max_latency_ms'\?"),
        ({"buffer_size": 2, "priority": "crtical"}, r"unknown priority 'crtical'; did you mean 'critical'\?"),
        ({"buffer_size": 2, "late": "dorp"}, r"unknown value of late 'dorp'; did you mean 'drop'\?"),
        ({"buffer_size": 0}, "buffer_size"),
        ({"buffer_size": 2, "late": "drop"}, "expected max_latency_ms beside"),
        ({"buffer_size": 2, "transformation_required": 1}, "expected transformation_required to be True or False"),
        ({"buffer_size": 2, "backpressure_strategy": "drop_oldest"}, "expected backpressure_strategy to be a rule"),
        ({"buffer_size": 2, "max_latency_ms": 0}, "max_latency_ms"),
    ],
)
def test_a_wrong_option_is_named(flow, options, message):
    flow.add(source(), name="take")
    with pytest.raises(ConfigurationError, match=message):
        flow.connect("take.out", "screen", **options)
    assert flow.pipelines == {}


def test_buffer_size_has_no_default(flow):
    with pytest.raises(ConfigurationError, match="buffer_size is missing"):
        flow.connect(flow.add(source()).out, "screen")


def test_wrong_kinds_of_ends_are_explained(flow):
    take, mixer = flow.add(source(), name="take"), flow.add(Mixer(), name="mixer")
    for ends, message in (
        ((mixer.left, mixer.left), "from an output to an input"),
        ((take.out, take.out), "from an output to an input"),
        ((take, mixer.left), "Name its port"),
        ((take.out, mixer), "Name its port"),
        ((Pass.out, mixer.left), "the declaration"),
        ((take.out, Pass.audio), "the declaration"),
        ((take.out, 5), "or a name; got 5"),
        (("mixer", "screen"), r"mixer\.first, mixer\.second"),
        ((take.out, "mixer"), r"mixer\.left, mixer\.right"),
        ((take.out, "my screen"), "letters, digits"),
        ((source().out, mixer.left), "unknown module 'ScriptedSource"),
        ((take.out, Sink().audio), "unknown module 'Sink"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            flow.connect(*ends, buffer_size=2)
    with pytest.raises(ConfigurationError, match="expected a PipelineConfig, got int"):
        flow.register_pipeline(take.out, mixer.left, 4)
    with pytest.raises(ConfigurationError, match="expected a format"):
        flow.register_pipeline("app", "dsp", CONFIG, "f32")
    assert flow.pipelines == {}


def test_an_unconnected_output_is_no_obstacle(flow):
    mixer = flow.add(Mixer(), name="mixer")
    seen = flow.add(Collect(), name="seen")
    assert mixer.first.send(BLOCK) is True
    for port in (mixer.left, mixer.right):
        flow.register_pipeline("app", port, CONFIG)
    flow.connect(mixer.second, seen.data, buffer_size=2)
    flow.start()
    for into in ("app->mixer.left", "app->mixer.right"):
        flow.send_data(into, BLOCK)
        flow.pipeline(into).end()
    assert flow.wait(10)
    assert len(seen.values) == 1
    assert flow.report().modules["mixer"].calls == 2


# --- what is added ----------------------------------------------------------------------------------------------------


def test_a_name_is_made_of_the_class_and_unique(flow):
    flow.register_pipeline("sink-3", "dsp", CONFIG, MONO)
    sinks = [flow.add(Sink()) for _ in range(3)]
    assert list(flow.modules) == ["sink", "sink-2", "sink-4"]
    assert list(flow.modules.values()) == sinks


def test_names_are_taken_once(flow):
    first = flow.add(Sink(), name="sink")
    flow.register_pipeline("app", "dsp", CONFIG, MONO)
    with pytest.raises(DuplicateName, match="'sink'"):
        flow.add(Sink(), name="sink")
    with pytest.raises(DuplicateName, match="this instance"):
        flow.add(first, name="other")
    with pytest.raises(DuplicateName, match="open end"):
        flow.add(Sink(), name="dsp")
    for name in ("", "two words", "1st", "a.b", 7):
        with pytest.raises(ConfigurationError, match="expected a name"):
            flow.add(Sink(), name=name)
    assert list(flow.modules) == ["sink"]


def test_a_class_is_added_like_an_instance(flow):
    @module(input=MONO, output=MONO)
    def halve(audio):
        return audio.samples * np.float32(0.5)

    made = flow.add(halve)
    assert isinstance(made, Module)
    assert list(flow.modules) == ["halve"]
    seen = flow.add(Collect)
    flow.connect(flow.add(source(), name="take").out, made.audio, buffer_size=2)
    flow.connect(made.out, seen.data, buffer_size=2)
    flow.run()
    assert [float(value[0, 0]) for value in seen.values] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "proces"}, r"unknown placement 'proces'; did you mean 'process'\?"),
        ({"worker": "two words"}, "expected worker to be a name"),
        ({"realtime": True}, "realtime=True needs placement='process'"),
        ({"realtime": "no"}, "module 'sink': expected realtime to be True, False or Realtime\\(...\\), got 'no'"),
        ({"ordered": "yes"}, "module 'sink': expected ordered to be True or False, got 'yes'"),
        ({"on_failure": "restart"}, "expected on_failure='stop'"),
    ],
)
def test_wrong_options_of_a_module_are_named(flow, options, message):
    with pytest.raises(ConfigurationError, match=message):
        flow.add(Sink(), name="sink", **options)
    assert flow.modules == {}


def test_what_is_no_module_is_refused(flow):
    for thing in (object(), object, "sink", len):
        with pytest.raises(ConfigurationError, match="expected a Module"):
            flow.add(thing)


def test_a_module_that_stays_here_is_refused_for_a_process(flow):
    with pytest.raises(ConfigurationError, match=r"Collect runs only with placement 'thread'; got 'process'"):
        flow.add(Collect(), placement="process")


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: Pass(lambda: 1), "argument `gain`"),
        (lambda: Pass(options={"locks": [1, threading.Lock()]}), r"argument `options`, item \['locks'\]\[1\], .*lock"),
        (lambda: Pass(options=np.array([object()])), "Python objects"),
        (lambda: Pass(options=Pass), "the class Pass"),
    ],
)
def test_an_argument_that_cannot_travel_is_named(flow, make, where):
    with pytest.raises(ArgumentRefused, match=where) as caught:
        flow.add(make(), name="work", placement="process")
    assert "module 'work' (Pass) with placement='process'" in str(caught.value)
    assert "setup()" in str(caught.value)
    flow.add(make(), name="work")  # in a thread nothing travels


@pytest.mark.parametrize(
    "change",
    [
        lambda work: setattr(work, "gain", 2.0),
        lambda work: work.options.append(3),
        lambda work: setattr(work, "extra", 1),
        lambda work: delattr(work, "gain"),
    ],
)
def test_an_attribute_changed_since_construction_is_refused_for_a_process(flow, change):
    work = Pass(1.0, options=[1, 2])
    change(work)
    with pytest.raises(ConfigurationError, match=r"(gain|options|extra) changed since construction"):
        flow.add(work, placement="process")
    flow.add(work)


def test_a_class_in_a_function_is_refused_for_a_process(flow):
    local = made_in_a_function()
    with pytest.raises(ConfigurationError, match=r"made_in_a_function\.<locals>\.Local is defined inside a function"):
        flow.add(local, placement="process")
    flow.add(local)


def test_arguments_reach_the_process_as_they_are(flow):
    work = flow.add(Pass(3.0, options={"path": Path("x"), "sizes": (1, 2)}), name="work", placement="process")
    seen = flow.add(Collect(), name="seen")
    flow.connect(flow.add(source(), name="take").out, work.audio, buffer_size=2)
    flow.connect(work.out, seen.data, buffer_size=2)
    report = flow.run()
    assert [float(value[0, 0]) for value in seen.values] == [3, 3, 3]
    assert report.modules["work"].worker == "work"
    assert flow.workers["work"].state == "ended"
    assert flow.workers["work"].pid not in (None, os.getpid())


def test_one_worker_has_one_placement(flow):
    take = flow.add(source(), name="take", worker="shared")
    sink = flow.add(Sink(), name="sink", worker="shared", placement="process")
    flow.connect(take.out, sink.audio, buffer_size=2)
    with pytest.raises(ConfigurationError, match="worker 'shared': expected one placement"):
        flow.start()


def test_too_many_branches_are_refused_by_number(flow):
    take = flow.add(source(), name="take")
    for number in range(33):
        flow.connect(take.out, f"end-{number}", buffer_size=1)
    with pytest.raises(LimitExceeded, match=r"take\.out: expected at most 32 pipelines .* got 33"):
        flow.start()


def test_too_many_processes_are_refused_by_number(flow):
    take = flow.add(source(), name="take")
    for number in range(16):
        flow.connect(take.out, flow.add(Sink(), name=f"sink-{number}", placement="process").audio, buffer_size=1)
    with pytest.raises(LimitExceeded, match="15 process workers; this one has 16"):
        flow.start()


# --- formats and loops ------------------------------------------------------------------------------------------------


def test_a_clash_names_the_pipeline_and_both_formats(flow):
    take = flow.add(ScriptedSource([], STEREO), name="take")
    sink = flow.add(Sink(), name="sink")
    flow.connect(take.out, sink.audio, buffer_size=2)
    with pytest.raises(FormatClash) as caught:
        flow.run()
    assert str(caught.value).startswith("take.out->sink.audio: ")
    assert str(STEREO) in str(caught.value)
    assert str(MONO) in str(caught.value)
    assert "channels differs" in str(caught.value)


def test_a_clash_that_can_be_seen_is_refused_at_once(flow):
    class Wide(Module):
        audio = Input(STEREO)

        def process(self, audio):
            pass

    work = flow.add(Pass(), name="work")
    with pytest.raises(FormatClash, match=r"work\.out->wide\.audio"):
        flow.connect(work.out, flow.add(Wide(), name="wide").audio, buffer_size=2)
    with pytest.raises(FormatClash, match=r"app->wide\.audio"):
        flow.register_pipeline("app", "wide.audio", CONFIG, MONO)
    assert flow.pipelines == {}


def test_an_input_for_anything_takes_different_formats_at_once(flow):
    seen = flow.add(Collect(), name="seen")
    scripts = {"stereo": ([np.zeros((4, 2), np.float32)], STEREO), "bytes": ([b"four"], BytesFormat())}
    for name, (script, fmt) in scripts.items():
        flow.connect(flow.add(ScriptedSource(script, fmt), name=name).out, seen.data, buffer_size=2)
    flow.run()
    assert sorted(type(value).__name__ for value in seen.values) == ["bytes", "ndarray"]


def test_an_input_whose_format_follows_what_comes_takes_one_format(flow):
    class Follows(Module):
        audio = Input(AudioFormat())

        def process(self, audio):
            pass

    follows = flow.add(Follows(), name="follows")
    for name, fmt in (("mono", MONO), ("stereo", STEREO)):
        flow.connect(flow.add(ScriptedSource([], fmt), name=name).out, follows.audio, buffer_size=2)
    with pytest.raises(FormatClash, match=r"stereo\.out->follows\.audio: all pipelines into follows\.audio") as caught:
        flow.start()
    assert str(MONO) in str(caught.value)
    assert str(STEREO) in str(caught.value)


def test_an_output_that_nothing_describes_is_refused_at_the_start(flow):
    class Vague(Source):
        out = Output(AnyFormat())

        def produce(self):
            yield

    flow.connect(flow.add(Vague(), name="vague").out, "screen", buffer_size=2)
    with pytest.raises(ConfigurationError, match=r"vague\.out->screen: expected to know what flows"):
        flow.start()


def loop(flow, rule=None):
    take, add, back = flow.add(source(20), name="take"), flow.add(Sum(), name="add"), flow.add(Pass(), name="back")
    flow.connect(take.out, add.audio, buffer_size=2)
    flow.connect(add.out, back.audio, buffer_size=2)
    flow.connect(back.out, add.back, buffer_size=2, backpressure_strategy=rule)
    return add, back


@pytest.mark.parametrize("rule", [None, Wait(), Wait(timeout_ms=5)])
def test_a_loop_that_waits_everywhere_is_refused_by_name(flow, rule):
    loop(flow, rule)
    with pytest.raises(CycleRefused, match=r"the loop (add -> back -> add|back -> add -> back) waits"):
        flow.start()


@pytest.mark.parametrize(
    "rule", [DropOldest(), DropNewest(), Latest(), Wait(timeout_ms=1, then="drop_newest")], ids=repr
)
def test_a_loop_that_may_lose_ends_with_its_source(flow, rule):
    loop(flow, rule)
    flow.start()
    assert flow.wait(20)
    report = flow.stop()
    assert report.pipelines["take.out->add.audio"].delivered == 20
    back = report.pipelines["back.out->add.back"]
    assert back.sent == back.delivered + back.dropped_total
    assert all(each.state == "ended" for each in report.modules.values())


def test_a_lossy_loop_over_two_workers_ends_with_its_source(flow):
    take = flow.add(source(20), name="take")
    add, back = flow.add(Sum(), name="add", worker="one"), flow.add(Pass(), name="back", worker="two")
    flow.connect(take.out, add.audio, buffer_size=2)
    flow.connect(add.out, back.audio, buffer_size=2)
    flow.connect(back.out, add.back, buffer_size=2, backpressure_strategy=DropOldest())
    flow.start()
    assert flow.wait(20)
    assert flow.stop().pipelines["take.out->add.audio"].delivered == 20


# --- the life of a flow -----------------------------------------------------------------------------------------------


def test_repeated_names_of_coordinators_are_fine():
    with DataFlowCoordinator("same") as first, DataFlowCoordinator("same") as second:
        ids = [flow.register_pipeline("app", "dsp", CONFIG, MONO) for flow in (first, second)]
        assert ids == ["app->dsp"] * 2
        first.send_data(ids[0], BLOCK)
        assert [flow.get_flow_metrics("app->dsp").sent for flow in (first, second)] == [1, 0]


@pytest.mark.parametrize("name", ["", None, 5])
def test_a_flow_needs_a_name(name):
    with pytest.raises(ConfigurationError, match="expected a name"):
        DataFlowCoordinator(name)


def test_leaving_stops_a_running_flow():
    with DataFlowCoordinator() as flow:
        flow.connect(flow.add(Endless()).out, flow.add(Sink(), worker="own").audio, buffer_size=2)
        flow.start()
    assert "closed" in repr(flow)
    assert all(worker.ended for worker in flow.workers.values())
    metrics = flow.get_flow_metrics("endless.out->sink.audio")
    assert metrics.sent == metrics.delivered + metrics.dropped_total
    flow.close()


def test_an_exception_inside_passes_and_carries_the_failure_of_the_flow():
    class Bad(Module):
        audio = Input(MONO)

        def process(self, audio):
            raise ValueError("broken on purpose")

    problem = KeyError("mine")
    with pytest.raises(KeyError) as caught, DataFlowCoordinator("f") as flow:
        flow.connect(flow.add(source()).out, flow.add(Bad(), name="bad").audio, buffer_size=4)
        flow.start()
        flow.wait(10)
        raise problem
    assert caught.value is problem
    assert any("broken on purpose" in note for note in problem.__notes__)


def test_leaving_raises_the_failure_that_nobody_asked_for():
    class Bad(Module):
        audio = Input(MONO)

        def process(self, audio):
            raise ValueError("broken on purpose")

    with pytest.raises(FlowFailed, match="broken on purpose") as caught, DataFlowCoordinator("f") as flow:
        flow.connect(flow.add(source()).out, flow.add(Bad(), name="bad").audio, buffer_size=4)
        flow.start()
        flow.wait(10)
    assert caught.value.report.modules["bad"].state == "failed"
    assert repr(flow).startswith("<DataFlowCoordinator 'f': closed")


def test_a_module_that_exits_has_failed():
    class Leaves(Source):
        out = Output(MONO)

        def __init__(self, where):
            self.where = where

        def setup(self):
            if self.where == "setup":
                sys.exit(3)

        def produce(self):
            self.out.send(BLOCK)
            yield
            sys.exit("no more")

    for where in ("setup", "produce"):
        with DataFlowCoordinator() as flow, pytest.raises(FlowFailed, match="SystemExit"):
            flow.connect(flow.add(Leaves(where)).out, "screen", buffer_size=2)
            flow.run()


def test_the_description_ends_with_the_start(flow):
    flow.connect(flow.add(source(), name="take").out, flow.add(Sink(), name="sink").audio, buffer_size=2)
    flow.run()
    for call in (lambda: flow.add(Sink()), flow.start, flow.run, lambda: flow.connect("take.out", "x", buffer_size=2)):
        with pytest.raises(StateError, match="stopped"):
            call()
    assert flow.stop().pipelines["take.out->sink.audio"].delivered == 3


def test_a_running_flow_takes_new_pipelines(flow):
    flow.register_pipeline("app", flow.add(Sink(), name="sink").audio, CONFIG)
    flow.start()
    extra = flow.pipeline(flow.register_pipeline("late", "reader", CONFIG, MONO))
    extra.send(BLOCK)
    assert extra.receive(timeout_s=10).sequence == 0
    late = flow.pipeline(flow.register_pipeline("later", "sink.audio", CONFIG, MONO))
    assert late.send(BLOCK)
    flow.disconnect(late)
    assert flow.report().pipelines[late.id].delivered == 1


def test_a_closed_flow_refuses_politely():
    flow = DataFlowCoordinator("f")
    pipe = flow.pipeline(flow.register_pipeline("app", "dsp", CONFIG, MONO))
    pipe.send(BLOCK)
    flow.close()
    flow.close()
    for call in (lambda: pipe.send(BLOCK), pipe.receive, lambda: flow.send_data("app->dsp", BLOCK)):
        with pytest.raises(PipelineClosed, match="app->dsp: flow 'f' has been closed"):
            call()
    for call in (lambda: flow.add(Sink()), flow.run, lambda: flow.register_pipeline("a", "b", CONFIG, MONO)):
        with pytest.raises(StateError, match="closed"):
            call()
    assert flow.get_flow_metrics(pipe).sent == 1
    assert flow.report().pipelines["app->dsp"].sent == 1


def test_stop_and_wait_need_a_start(flow):
    for call in (flow.stop, flow.wait):
        with pytest.raises(StateError, match=r"call start\(\) first"):
            call()


@pytest.mark.parametrize("duration_s", [0, -1, "5", float("nan"), [1]])
def test_a_run_has_a_duration_or_none(flow, duration_s):
    with pytest.raises(ConfigurationError, match="duration_s"):
        flow.run(duration_s=duration_s)


@pytest.mark.parametrize("timeout_s", [-1, "5", float("nan")])
def test_times_are_numbers(flow, timeout_s):
    with pytest.raises(ConfigurationError, match="wait: expected timeout_s to be seconds"):
        flow.wait(timeout_s)
    with pytest.raises(ConfigurationError, match="stop: expected drain_timeout_s to be seconds"):
        flow.stop(timeout_s)
    assert "new" in repr(flow)


def test_a_run_of_limited_duration_drains():
    class Counting(Source):
        out = Output(MONO)

        def produce(self):
            while True:
                self.out.send(BLOCK)
                yield

    with DataFlowCoordinator() as flow:
        flow.connect(flow.add(Counting(), name="s").out, flow.add(Sink(), name="sink").audio, buffer_size=2)
        report = flow.run(duration_s=0.05)
    metrics = report.pipelines["s.out->sink.audio"]
    assert metrics.sent == metrics.delivered > 0
    assert report.duration_s >= 0.05
    assert report.modules["s"].state == "stopped"


def test_ctrl_c_stops_drains_and_passes(flow):
    class Interrupting(Source):
        out = Output(MONO)

        def produce(self):
            self.out.send(BLOCK)
            os.kill(os.getpid(), signal.SIGINT)
            while True:
                self.out.send(BLOCK)
                yield

    flow.connect(flow.add(Interrupting(), name="s").out, flow.add(Sink(), name="sink").audio, buffer_size=2)
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    metrics = flow.report().pipelines["s.out->sink.audio"]
    assert metrics.sent == metrics.delivered > 0


class Interrupts(Source):
    """Presses Ctrl-C when it produces, and when it was stopped: then its flow drains."""

    out = Output(MONO)

    def __init__(self, *when):
        self.when = when
        self.sent = threading.Event()
        self.waited_for = threading.Event()

    def press(self, now):
        if now in self.when:
            os.kill(os.getpid(), signal.SIGINT)

    def produce(self):
        self.out.send(BLOCK)
        self.sent.set()
        while not self.waited_for.is_set():
            yield
        self.press("produce")
        while True:  # without sending: a full pipeline would keep it from being stopped
            yield

    def finish(self):
        self.press("finish")


class NeverDone(Module):
    audio = Input(MONO)

    def process(self, audio):
        while True:
            threading.Event().wait()


class StuckHere(Module):
    audio = Input(MONO)

    def __init__(self, released):
        self.released = released

    def process(self, audio):
        self.released.wait()


@pytest.mark.parametrize("how", ["run", "stop", "close"])
@pytest.mark.parametrize("placement", ["thread", "process"])
def test_a_second_ctrl_c_ends_the_draining(monkeypatch, placement, how):
    """The drain would take longer than any test may."""
    monkeypatch.setattr(coordinator, "DRAIN_TIMEOUT_S", 1000.0)
    monkeypatch.setattr(DataFlowCoordinator.stop, "__defaults__", (1000.0,))
    wait = Execution.wait

    def tell_and_wait(execution, timeout_s):
        interrupts.waited_for.set()
        return wait(execution, timeout_s)

    monkeypatch.setattr(Execution, "wait", tell_and_wait)
    released = threading.Event()
    interrupts = Interrupts("finish", *(["produce"] if how == "run" else []))
    stuck = StuckHere(released) if placement == "thread" else NeverDone()
    flow = DataFlowCoordinator("interrupted")
    flow.connect(
        flow.add(interrupts, name="s").out,
        flow.add(stuck, name="d", worker="d", placement=placement).audio,
        buffer_size=2,
    )
    with pytest.raises(KeyboardInterrupt), flow:
        if how == "run":
            flow.run()
        flow.start()
        assert interrupts.sent.wait(LIMIT_S)
        if how == "stop":
            flow.stop()
    metrics = flow.report().pipelines["s.out->d.audio"]
    released.set()
    assert metrics.dropped == {"stopped": metrics.sent}
    assert metrics.sent > 0
    assert "closed" in repr(flow)
    for worker in flow.workers.values():
        assert worker.join(LIMIT_S), "a process was ended by force"


# --- modules that would wait for themselves ---


class Ends(Module):
    """Tries to end its own flow, which then goes on."""

    audio = Input(MONO)

    def __init__(self, how):
        self.how = how
        self.refused = None

    def process(self, audio):
        try:
            self.how()
        except StateError as refused:
            self.refused = str(refused)


@pytest.mark.parametrize("action", ["stop", "wait", "close", "run"])
def test_a_module_cannot_wait_for_its_own_flow(flow, action):
    ends = flow.add(Ends(getattr(flow, action)), name="ends", worker="inside")
    flow.connect(flow.add(source(), name="s").out, ends.audio, buffer_size=8)
    metrics = flow.run().pipelines["s.out->ends.audio"]
    assert metrics.delivered == metrics.sent == 3
    if action != "run":
        assert f"flow 'contract': cannot {action} here: this is the thread of its worker 'inside'" in ends.refused
        assert "or let another thread stop it" in ends.refused
    else:
        assert "expected a flow that has not been started, to start" in ends.refused


class Endless(Source):
    out = Output(MONO)

    def produce(self):
        while True:
            self.out.send(BLOCK)
            yield


def test_a_module_lets_another_thread_stop_its_flow(flow):
    """As the error advises."""
    stopping = []

    def stop():
        if not stopping:
            stopping.append(threading.Thread(target=flow.stop))
            stopping[0].start()

    flow.connect(flow.add(Endless(), name="s").out, flow.add(Ends(stop), name="ends").audio, buffer_size=8)
    flow.start()
    assert flow.wait(LIMIT_S)
    stopping[0].join()
    metrics = flow.stop().pipelines["s.out->ends.audio"]
    assert metrics.delivered == metrics.sent > 0


def test_a_thread_left_behind_is_no_new_failure(flow):
    """A module that does not come back within the drain time is given up; what it does later changes no report."""
    held, go = threading.Event(), threading.Event()

    class Slow(Module):
        audio = Input(MONO)

        def process(self, audio):
            held.set()
            go.wait(20)

    flow.connect(flow.add(source(), name="s").out, flow.add(Slow(), name="slow", worker="w").audio, buffer_size=8)
    flow.start()
    try:
        assert held.wait(10)
        report = flow.stop(drain_timeout_s=0.05)
    finally:
        go.set()
    assert any(type(event).__name__ == "WorkerUnresponsive" for event in report.events)
    assert flow.workers["w"].join(10)
    assert flow.stop().name == "contract"


def test_teardown_comes_last_even_if_another_module_fails(flow):
    log = []

    class Breaks(Source):
        out = Output(MONO)

        def produce(self):
            self.out.send(BLOCK)
            yield

        def teardown(self):
            raise OSError("broken teardown")

    class Longer(Source):
        out = Output(MONO)

        def produce(self):
            for _ in range(5):
                self.out.send(BLOCK)
                yield

        def finish(self):
            self.out.send(BLOCK)

    class Logs(Module):
        left = Input(MONO)
        right = Input(MONO)

        def process_left(self, left):
            log.append("left")

        def process_right(self, right):
            log.append("right")

        def finish(self):
            log.append("finish")

        def teardown(self):
            log.append("teardown")

    breaks, longer, logs = flow.add(Breaks()), flow.add(Longer()), flow.add(Logs())
    flow.connect(breaks.out, logs.left, buffer_size=1)
    flow.connect(longer.out, logs.right, buffer_size=1)
    with pytest.raises(FlowFailed, match="broken teardown"):
        flow.run()
    assert log[-2:] == ["finish", "teardown"]
    assert log.count("teardown") == 1


# --- memory -----------------------------------------------------------------------------------------------------------


def held_by_this_process():
    gc.collect()
    with Path("/proc/self/maps").open() as maps:
        return len(os.listdir("/proc/self/fd")), sum("memfd:" in line for line in maps)


def run_threads():
    with DataFlowCoordinator() as flow:
        take, seen = flow.add(source()), flow.add(Collect())
        work = flow.add(Pass(), worker="own")
        flow.connect(take.out, work.audio, buffer_size=2)
        flow.connect(work.out, seen.data, buffer_size=2)
        flow.run()


def run_a_process():
    with DataFlowCoordinator() as flow:
        flow.connect(flow.add(source()).out, flow.add(Sink(), placement="process").audio, buffer_size=2)
        flow.run()


def run_open_ends():
    with DataFlowCoordinator() as flow:
        pipe = flow.pipeline(flow.register_pipeline("app", "dsp", CONFIG, MONO))
        into = flow.pipeline(flow.register_pipeline("app", flow.add(Sink()).audio, CONFIG))
        pipe.send(BLOCK)
        into.send(BLOCK)
        flow.start()
        pipe.receive()


def run_that_fails():
    class Bad(Sink):
        def process(self, audio):
            raise ValueError("on purpose")

    with contextlib.suppress(FlowError), DataFlowCoordinator() as flow:
        flow.connect(flow.add(source()).out, flow.add(Bad(), worker="own").audio, buffer_size=2)
        flow.run()


def never_started():
    flow = DataFlowCoordinator()
    flow.register_pipeline("app", "dsp", CONFIG, MONO)
    flow.close()


def not_runnable():
    with contextlib.suppress(FlowError), DataFlowCoordinator() as flow:
        loop(flow)
        flow.start()


@pytest.mark.parametrize(
    "run", [run_threads, run_a_process, run_open_ends, run_that_fails, never_started, not_runnable]
)
def test_a_closed_flow_has_given_its_memory_back(run):
    run()  # what is allocated once, such as modules that load lazily
    before = held_by_this_process()
    for _ in range(3):
        run()
    assert held_by_this_process() == before


def test_the_programs_above_are_python():
    for program in (FIRST_PROGRAM, OWN_MODULE.format(imports=""), INTERACTIVE):
        ast.parse(program)
