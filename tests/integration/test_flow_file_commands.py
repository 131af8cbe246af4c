"""`steadyflow run` and `steadyflow graph`, as a person or a program meets them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from tests.integration.commands import LIMIT_S, line_with, marked, run

from steadyflow import audio, load_flow

EXAMPLES = Path(__file__).parents[2] / "examples"

FLOW = """\
[flow]
name = "levels"
description = "of a tone"

[modules.tone]
use = "steadyflow.audio:Tone"
arguments = { frequency_hz = 440, duration_s = 0.5, realtime_pace = false }

[modules.meter]
use = "steadyflow.audio:LevelMeter"
placement = "process"

[[pipelines]]
from = "tone"
to = "meter"
buffer_size = 32
"""
LINK = "tone.out->meter.audio"
ENDLESS = FLOW.replace("duration_s = 0.5, realtime_pace = false", "realtime_pace = true")


@pytest.fixture
def flow_file(tmp_path):
    def write(text=FLOW):
        path = tmp_path / "levels.toml"
        path.write_text(text)
        return path

    return write


OVERLOADED = """\
[flow]
name = "overloaded"

[modules.stage]
use = "loaded_modules:Stage"
worker = "stage"

[modules.model]
use = "loaded_modules:Model"
worker = "model"

[[pipelines]]
from = "stage"
to = "model"
buffer_size = 64
max_latency_ms = 50
backpressure_strategy = { kind = "adaptive" }
"""
LOADED_MODULES = """\
import time

from steadyflow import BytesFormat, Input, Module, Output, Source


class Stage(Source):
    out = Output(BytesFormat(16))
    live = True

    def produce(self):
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            self.out.send(b"x")
            yield time.monotonic_ns() + 500_000


class Model(Module):
    data = Input(BytesFormat(16))

    def process(self, block):
        time.sleep(0.002)
"""


# --- run ----------------------------------------------------------------------------------------------------------


def test_run_says_what_is_done_about_an_overload_and_why(flow_file, tmp_path):
    (tmp_path / "loaded_modules.py").write_text(LOADED_MODULES)
    done = run("run", flow_file(OVERLOADED), env=os.environ | {"PYTHONPATH": str(tmp_path)})

    assert done.returncode == 0, done.stderr
    for told in (done.stderr, done.stdout):  # while it happens, and in the report
        assert "stage.out->model.data is under pressure: " in told
        assert "'model' cannot keep up" in told
        assert "stage.out->model.data: normal -> less room, because the oldest block has waited for " in told
        assert "; expected: that blocks wait for less long" in told
        assert "'less room' has " in told
    assert "flow control" in done.stdout


def test_run_says_what_is_done_where_a_source_waits_but_not_that_it_does(flow_file, tmp_path):
    (tmp_path / "loaded_modules.py").write_text(LOADED_MODULES.replace("live = True", "live = False"))
    done = run("run", flow_file(OVERLOADED), env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "stage.out->model.data: normal -> less room, because the oldest block has waited for " in done.stderr
    assert "is under pressure" not in done.stderr

    waits = OVERLOADED.replace('{ kind = "adaptive" }', '{ kind = "wait" }').replace("max_latency_ms = 50\n", "")
    file, env = flow_file(waits), os.environ | {"PYTHONPATH": str(tmp_path)}
    done, counted = run("run", file, env=env), run("run", file, "--json", env=env)
    assert (done.returncode, counted.returncode) == (0, 0), done.stderr
    for told in (done.stderr, done.stdout):
        assert "is under pressure" not in told
        assert "paced by credits" not in told
    assert json.loads(counted.stdout)["report"]["pipelines"]["stage.out->model.data"]["paced_ms"] > 0


def test_run_prints_the_report(flow_file):
    done = run("run", flow_file())

    assert done.returncode == 0, done.stderr
    assert "flow 'levels':" in done.stdout
    assert f"{LINK}    50         50" in done.stdout
    assert "Running: levels - of a tone" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_run_prints_one_json_document(flow_file):
    path = flow_file()
    done = run("run", path, "--json")
    value = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert (value["file"], value["interrupted"], value["problems"]) == (str(path), False, [])
    assert value["report"]["name"] == "levels"
    assert value["report"]["duration_s"] > 0
    assert value["report"]["pipelines"][LINK]["delivered"] == 50
    assert value["report"]["modules"]["meter"] == value["report"]["modules"]["meter"] | {
        "worker": "meter",
        "calls": 50,
        "state": "ended",
    }


CONVERT = """
[modules.song]
use = "steadyflow.audio:DemoSource"
arguments = {{ realtime_pace = false }}

[modules.convert]
use = "steadyflow.audio:Converter"
arguments = {{ format = {{ sample_rate_hz = 16000, channels = 1, sample_type = "s16" }} }}

[modules.file]
use = "steadyflow.audio:FileSink"
arguments = {{ path = "{path}" }}

[[pipelines]]
from = "song"
to = "convert"
buffer_size = 32
transformation_required = true

[[pipelines]]
from = "convert"
to = "file"
buffer_size = 32
transformation_required = true
"""


def test_a_flow_file_converts_a_recording(tmp_path):
    recording, converted = soundfile.info(audio.demo_recording().path), tmp_path / "converted.wav"
    path = tmp_path / "convert.toml"
    path.write_text(CONVERT.format(path=converted))

    done = run("run", path, "--json")

    assert done.returncode == 0, done.stderr
    written = soundfile.info(converted)
    assert (written.samplerate, written.channels, written.subtype) == (16_000, 1, "PCM_16")
    assert written.duration == pytest.approx(recording.duration, abs=2 / 16_000)
    assert len(json.loads(done.stdout)["report"]["conversions"]["song.out->convert.audio"]) == 2


def test_run_quietly_shows_nothing_but_the_report(flow_file):
    done = run("run", flow_file(), "--quiet")

    assert done.returncode == 0
    assert done.stderr == ""
    assert LINK in done.stdout


def test_run_ends_with_the_time(flow_file):
    done = run("run", flow_file(ENDLESS), "--duration-s", "0.3", "--json")
    value = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert value["report"]["duration_s"] >= 0.3
    assert value["report"]["modules"]["tone"]["state"] == "stopped"
    assert value["interrupted"] is False


def test_the_command_line_decides_on_the_time(flow_file):
    path = flow_file("[flow]\nduration_s = 1e6\n" + ENDLESS.partition("\n\n")[2])
    assert run("run", path, "--duration-s", "0.1").returncode == 0


def test_the_file_decides_on_the_time(flow_file):
    assert run("run", flow_file(ENDLESS.replace("[flow]", "[flow]\nduration_s = 0.1"))).returncode == 0


def test_run_with_other_values(flow_file):
    done = run(
        *("run", flow_file(), "--json", "--set", "modules.tone.arguments.duration_s=0.1"),
        *("--set", f'pipelines."{LINK}".max_latency_ms=3', "--set", "modules.meter.worker=dsp"),
    )
    value = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert value["report"]["pipelines"][LINK]["delivered"] == 10
    assert value["report"]["modules"]["meter"]["worker"] == "dsp"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "modules.tnoe.use=x:Y"], "--set modules.tnoe.use: unknown module 'tnoe'; did you mean 'tone'"),
        (["--set", "modules.tone"], "--set: expected KEY=VALUE such as"),
        (["--duration-s", "0"], ", --duration-s: expected a number > 0.0, got 0.0"),
        (["--set", "modules.tone.use=steadyflow.audio:Tnoe"], "unknown class 'Tnoe'; did you mean 'Tone'"),
    ],
)
def test_wrong_options_say_so(flow_file, arguments, said):
    path = flow_file()
    done = run("run", path, *arguments)

    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert str(path) in done.stderr or "KEY=VALUE" in said
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["run", "graph"])
def test_a_wrong_file_says_all_that_is_wrong(flow_file, command):
    path = flow_file(FLOW.replace("Tone", "Tnoe").replace('to = "meter"', 'to = "metre"'))
    done = run(command, path)

    assert done.returncode == 1
    assert done.stdout == ""
    known = "Known: BandMeter, Converter, DemoSource, DriftCorrector, Duplex, FileSink, FileSource, LevelMeter, Microphone, PitchDetector, Speaker, Tone."
    assert done.stderr.splitlines() == [
        f"steadyflow: {path}: 2 problems.",
        f"{path}, line 6, modules.tone.use: steadyflow.audio: unknown class 'Tnoe'; did you mean 'Tone'? {known}",
        f"{path}, line 15, pipelines.0.to: unknown module 'metre'; did you mean 'meter'? Known: tone, meter.",
    ]


@pytest.mark.parametrize("command", ["run", "graph"])
def test_a_missing_file_says_so(tmp_path, command):
    done = run(command, tmp_path / "missing.toml")

    assert done.returncode == 1
    assert "missing.toml: cannot be read: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_start_refuses_names_the_file(flow_file):
    path = flow_file(
        FLOW.replace("Tone", "FileSource").replace(
            "frequency_hz = 440, duration_s = 0.5, realtime_pace = false", 'path = "no.wav"'
        )
    )
    done = run("run", path, "--quiet")

    assert done.returncode == 1
    assert done.stderr.startswith(f"steadyflow: {path}, line 5, modules.tone: module 'tone': no.wav: ")
    assert "Traceback" not in done.stderr


FRAGILE = """
from steadyflow import AudioFormat, module

@module(input=AudioFormat())
def fragile(audio):
    if audio.sequence == 3:
        raise ValueError("three is too many")
"""


@pytest.mark.parametrize("as_json", [True, False])
def test_a_failing_module_shows_its_traceback_and_the_report(flow_file, tmp_path, as_json):
    (tmp_path / "fragile_module.py").write_text(FRAGILE)
    path = flow_file(FLOW.replace("steadyflow.audio:LevelMeter", "fragile_module:fragile"))
    done = run("run", path, *(["--json"] if as_json else []))

    assert done.returncode == 1
    assert "module 'meter' failed in worker 'meter', at block 3: ValueError: three is too many" in done.stderr
    assert "fragile_module.py" in done.stderr
    if as_json:
        value = json.loads(done.stdout)
        assert "three is too many" in value["problems"][0]
        assert value["report"]["modules"]["meter"]["state"] == "failed"
    else:
        assert "failed" in done.stdout


def test_a_failing_setup_is_a_problem_in_the_json(flow_file, tmp_path):
    (tmp_path / "unready.py").write_text(
        "from steadyflow import *\nclass Unready(Module):\n    audio = Input()\n    def process(self, audio): ...\n"
        "    def setup(self):\n        raise OSError('no model here')\n"
    )
    path = flow_file(FLOW.replace("steadyflow.audio:LevelMeter", "unready:Unready"))
    done = run("run", path, "--json", "--quiet")

    assert done.returncode == 1
    assert "no model here" in json.loads(done.stdout)["problems"][0]


def test_ctrl_c_stops_the_run_and_reports(flow_file, started):
    process, mark = started("run", flow_file(ENDLESS), "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line_with(process.stderr, " delivered")

    os.killpg(process.pid, signal.SIGINT)
    output, complaint = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 130
    value = json.loads(output)
    assert value["interrupted"] is True
    assert value["problems"] == []
    metrics = value["report"]["pipelines"][LINK]
    assert metrics["sent"] == metrics["delivered"] + metrics["dropped_total"] + metrics["in_flight"]
    assert metrics["in_flight"] == 0
    assert value["report"]["modules"]["tone"]["state"] == "stopped"
    assert "Traceback" not in complaint
    assert marked(mark) == []


FAILS_AT_THE_END = """
from steadyflow import AudioFormat, Input, Module

class Fails(Module):
    audio = Input(AudioFormat())

    def process(self, audio): ...

    def finish(self):
        raise ValueError("not like this")
"""


def test_a_failure_after_ctrl_c_is_a_failure(flow_file, tmp_path, started):
    (tmp_path / "fails_at_the_end.py").write_text(FAILS_AT_THE_END)
    path = flow_file(ENDLESS.replace("steadyflow.audio:LevelMeter", "fails_at_the_end:Fails"))
    process, _ = started("run", path, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line_with(process.stderr, " delivered")

    os.killpg(process.pid, signal.SIGINT)
    output, complaint = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 1
    value = json.loads(output)
    assert value["interrupted"] is True
    assert "not like this" in value["problems"][0]
    assert "ValueError: not like this" in complaint


SLOW_SETUP = """
from steadyflow import AudioFormat, Input, Module
import sys, threading

class Slow(Module):
    audio = Input(AudioFormat())

    def setup(self):
        print("setting up", file=sys.stderr, flush=True)
        threading.Event().wait(40)

    def process(self, audio): ...
"""


def test_ctrl_c_while_the_flow_starts(flow_file, tmp_path, started):
    (tmp_path / "slow_module.py").write_text(SLOW_SETUP)
    path = flow_file(FLOW.replace("steadyflow.audio:LevelMeter", "slow_module:Slow"))
    process, mark = started("run", path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line_with(process.stderr, "setting up")

    os.killpg(process.pid, signal.SIGINT)
    output, complaint = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 130
    assert output == ""
    assert "Traceback" not in complaint
    assert marked(mark) == []


def test_a_killed_worker_ends_the_run_with_its_name(flow_file, started):
    process, mark = started("run", flow_file(ENDLESS), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line_with(process.stderr, " delivered")

    (worker,) = marked(mark, "steadyflow.runtime.worker")
    os.kill(worker, signal.SIGKILL)
    output, complaint = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 1
    assert "worker 'meter'" in complaint
    assert "SIGKILL" in complaint
    assert LINK in output


def test_on_a_terminal_the_table_is_drawn_while_it_runs(flow_file, started, terminal):
    theirs, read_until = terminal
    process, mark = started("run", flow_file(ENDLESS), stdout=theirs, stderr=subprocess.PIPE)
    theirs.close()
    read_until("healthy")

    os.killpg(process.pid, signal.SIGINT)
    drawn = read_until()

    assert process.wait(LIMIT_S) == 130
    assert "Running: levels - of a tone" in drawn
    assert drawn.count(LINK) >= 2, "while it ran, and in the report"
    assert "\x1b[?25h" in drawn, "the cursor is visible again"
    assert process.stderr.read() == ""
    assert marked(mark) == []


def test_run_without_pipelines_says_how_long_it_took(flow_file):
    text = FLOW.partition("[[pipelines]]")[0].replace("realtime_pace = false", "realtime_pace = true")
    done = run("run", flow_file(text))

    assert done.returncode == 0, done.stderr
    assert "0 delivered, 0 dropped\n" in done.stderr


# --- graph --------------------------------------------------------------------------------------------------------


def test_graph_is_that_of_the_flow(flow_file):
    path = flow_file()
    with load_flow(path) as flow:
        for format in ("mermaid", "dot", "json"):
            done = run("graph", path, "--format", format)
            assert done.returncode == 0, done.stderr
            assert done.stdout == flow.graph(format)
            assert done.stderr == ""
        assert run("graph", path).stdout == flow.graph("mermaid")
        assert run("graph", path, "--json").stdout == flow.graph("json")


@pytest.mark.parametrize(
    ("name", "begins"),
    [("a.dot", "digraph"), ("a.GV", "digraph"), ("a.mmd", "---"), ("a.json", "{"), ("a.md", "```mermaid\n---\n")],
)
def test_graph_goes_to_a_file_in_the_format_of_its_ending(flow_file, tmp_path, name, begins):
    done = run("graph", flow_file(), "--output", tmp_path / name)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(begins)


def test_a_format_that_is_named_counts_more_than_the_ending(flow_file, tmp_path):
    assert run("graph", flow_file(), "--format", "dot", "--output", tmp_path / "a.json").returncode == 0
    assert (tmp_path / "a.json").read_text().startswith("digraph")
    assert run("graph", flow_file(), "--json", "--output", tmp_path / "a.dot").returncode == 0
    assert json.loads((tmp_path / "a.dot").read_text())["name"] == "levels"


@pytest.mark.parametrize("name", ["a.svg", "picture"])
def test_an_ending_that_says_no_format_is_refused(flow_file, tmp_path, name):
    done = run("graph", flow_file(), "--output", tmp_path / name)

    assert (done.returncode, done.stdout) == (1, "")
    assert f"--output {tmp_path / name}: unknown ending of a picture" in done.stderr
    assert "Known: .mmd, .md, .dot, .gv, .json." in done.stderr
    assert not (tmp_path / name).exists()
    assert run("graph", flow_file(), "--format", "mermaid", "--output", tmp_path / name).returncode == 0


def test_a_page_has_the_picture_in_a_block(flow_file, tmp_path):
    with load_flow(flow_file()) as flow:
        for format, expected in (("mermaid", "mermaid"), ("dot", "dot")):
            assert run("graph", flow_file(), "--format", format, "--output", tmp_path / "a.md").returncode == 0
            assert (tmp_path / "a.md").read_text() == f"```{expected}\n{flow.graph(format)}```\n"


MONO_16 = """
from steadyflow import AudioFormat, module

@module(input=AudioFormat(16_000, 1))
def listen(audio): ...
"""


def test_a_flow_that_cannot_run_is_not_drawn(flow_file, tmp_path):
    """The same is wrong with it as when it is run, and said in the same words."""
    (tmp_path / "mono_16.py").write_text(MONO_16)
    path = flow_file(FLOW.replace("steadyflow.audio:LevelMeter", "mono_16:listen"))
    drawn = run("graph", path, "--output", tmp_path / "a.dot")
    ran = run("run", path, "--quiet")

    assert (drawn.returncode, ran.returncode) == (1, 1)
    assert drawn.stderr == ran.stderr
    assert drawn.stderr.startswith(
        f"steadyflow: {path}, line 13, pipelines.0: {LINK}: the output produces audio 48000 Hz"
    )
    assert not (tmp_path / "a.dot").exists()


def test_graph_with_other_values(flow_file):
    shown = run("graph", flow_file(), "--set", "pipelines.0.buffer_size=7", "--set", "flow.name=other").stdout

    assert 'title: "other"' in shown
    assert "7 blocks" in shown


def test_graph_needs_nothing_that_the_flow_needs(flow_file):
    """Neither the file that would be played, nor a setup."""
    path = flow_file(
        FLOW.replace("Tone", "FileSource").replace(
            "frequency_hz = 440, duration_s = 0.5, realtime_pace = false", 'path = "no.wav"'
        )
    )
    assert "FileSource" in run("graph", path).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--json", "--format", "dot"], "graph: expected either --json or --format dot, got both"),
        (["--format", "dott"], "--format: unknown format 'dott'; did you mean 'dot'"),
        (["--output", "no/such/folder.dot"], "no/such/folder.dot: expected a place where a file can be written"),
    ],
)
def test_a_picture_that_cannot_be_made_says_so(flow_file, arguments, said):
    done = run("graph", flow_file(), *arguments)

    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# --- the example --------------------------------------------------------------------------------------------------

NOTES = "E5 D#5 E5 D#5 E5 B4 D5 C5 A4 C4 E4 A4 B4"


def test_the_example_prints_the_notes():
    done = run("run", EXAMPLES / "notes.toml", "--quiet")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(NOTES)
    assert "song.out->pitch.audio" in done.stdout


def test_the_example_runs_from_python():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "note_names.py"], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(NOTES)


def test_the_example_plays_a_file_of_one_s_own(tmp_path):
    shutil.copy(Path(str(EXAMPLES / "notes.toml")), tmp_path)
    shutil.copy(EXAMPLES / "note_names.py", tmp_path)
    from steadyflow.audio import demo_recording

    shutil.copy(demo_recording().path, tmp_path / "take.flac")
    done = run(
        *("run", "notes.toml", "--quiet", "--set", "modules.song.use=steadyflow.audio:FileSource"),
        *("--set", "modules.song.arguments.path=take.flac"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(NOTES)
