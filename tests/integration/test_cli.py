"""The command line as a person or a program meets it: commands are processes, ended by Ctrl-C where that matters."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from tests.integration.commands import LIMIT_S, line_with, marked, run

from steadyflow.audio import Bands, demo_recording
from steadyflow.benchmarks import CASES
from steadyflow.benchmarks.harness import Effort, Figure, Result, Row, Workload
from steadyflow.cli import bench as bench_command
from steadyflow.cli import main
from steadyflow.cli.demo import Performance, show
from steadyflow.cli.failures import describe
from steadyflow.cli.listening import Listening
from steadyflow.errors import FlowFailed, ModuleFailed, UnknownName
from steadyflow.report import FlowReport

CHECKOUT = Path(__file__).parents[2]
TINY = Effort(rounds=1, blocks=640, paced_blocks=50)


def write_tone(path, frequency_hz, duration_s=1.0):
    soundfile = pytest.importorskip("soundfile")
    turns = np.arange(int(48_000 * duration_s)) * frequency_hz / 48_000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * turns), 48_000)
    return path


# --- the command itself -------------------------------------------------------------------------------------------


def test_the_script_is_the_entry_point():
    scripts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["steadyflow"].partition(":")

    assert callable(getattr(import_module(module), name))


def test_version():
    import steadyflow

    assert run("--version").stdout == f"steadyflow {steadyflow.__version__}\n"


@pytest.mark.parametrize("command", ["demo", "run", "graph", "observe", "bench", "doctor", "devices"])
def test_help_has_an_example(command):
    done = run(command, "--help")

    assert done.returncode == 0
    assert f"\n    steadyflow {command}" in done.stdout
    assert "Example" in done.stdout


def test_help_lists_the_commands():
    shown = run("--help").stdout

    assert all(command in shown for command in ("demo", "run", "graph", "observe", "bench", "doctor", "devices"))
    assert "..." not in shown.partition("Commands:")[2], "a summary was cut off"


@pytest.mark.parametrize(
    ("arguments", "near"), [(["dmo"], "demo"), (["demo", "--jsn"], "--json"), (["bench", "--quik"], "--quick")]
)
def test_unknown_command_or_option_offers_the_nearest(arguments, near):
    done = run(*arguments)

    assert done.returncode == 2
    assert near in done.stderr
    assert "Traceback" not in done.stderr


def without(*names):
    """Return a program that calls main() where these packages are not installed."""
    return (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {names!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from steadyflow.cli import main\n"
        "sys.argv = ['steadyflow', *sys.argv[1:]]\n"
        "sys.exit(main())\n"
    )


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(package):
    done = subprocess.run(
        [sys.executable, "-c", without(package), "--version"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 1
    assert "pip install 'steadyflow[cli]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_another_failed_import_is_no_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "steadyflow.cli.app", None)

    with pytest.raises(ImportError, match=r"steadyflow\.cli\.app"):
        main()


def test_demo_without_audio_files_says_what_to_install():
    done = subprocess.run(
        [sys.executable, "-c", without("soundfile"), "demo"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 1
    assert "pip install 'steadyflow[audio]'" in done.stderr
    assert "Traceback" not in done.stderr


# --- demo ---------------------------------------------------------------------------------------------------------


def test_demo_hears_the_notes_of_the_bundled_recording():
    done = run("demo", "--fast", "--json")
    value = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert [note["note"] for note in value["expected"]] == [note.note for note in demo_recording().notes]
    assert value["heard"] == sum(note["heard"] for note in value["expected"])
    assert value["heard"] >= 0.9 * len(value["expected"])
    assert value["interrupted"] is False
    assert value["problems"] == []
    first = value["notes"][0]
    assert first["note"] == "E5"
    assert first["onset_s"] == pytest.approx(0.2, abs=0.05)
    assert set(first) == {"note", "onset_s", "duration_s", "frequency_hz", "cents"}
    assert "Playing" in done.stderr


def test_demo_reports_every_pipeline():
    report = json.loads(run("demo", "--fast", "--json").stdout)["report"]

    assert set(report["pipelines"]) == {
        "recording.out->pitch.audio",
        "recording.out->meter.audio",
        "recording.out->bands.audio",
        "pitch.pitch->screen",
        "meter.level->screen",
        "bands.bands->screen",
    }
    for metrics in report["pipelines"].values():
        assert metrics["sent"] == metrics["delivered"] > 0
        assert metrics["dropped_total"] == metrics["in_flight"] == 0
    assert report["modules"]["pitch"]["worker"] == "pitch"
    assert [step["step"].split(":")[0] for step in report["conversions"]["recording.out->bands.audio"]] == [
        "rate",
        "windows",
    ]
    assert {module["state"] for module in report["modules"].values()} == {"ended"}
    assert report["events"][-1]["event"] == "DataFlowStopped"


def test_demo_for_a_person_without_a_terminal():
    done = run("demo", "--fast")

    assert done.returncode == 0, done.stderr
    assert "Heard 3" in done.stdout
    assert "of the 35 notes" in done.stdout
    assert "recording.out->pitch.audio" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert " dB" in done.stderr


def test_demo_plays_a_file_at_the_pace_of_the_music(tmp_path):
    done = run("demo", write_tone(tmp_path / "a.wav", 440.0), "--json")
    value = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert [note["note"] for note in value["notes"]] == ["A4"]
    assert value["notes"][0]["cents"] == pytest.approx(0, abs=2)
    assert value["expected"] is value["heard"] is None
    # The last block is due 10 ms before the end of the file: sooner it cannot be over.
    assert value["report"]["duration_s"] > 0.98


def test_demo_of_silence_finds_no_notes(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "nothing.wav", np.zeros(24_000), 48_000)
    done = run("demo", tmp_path / "nothing.wav", "--fast")

    assert done.returncode == 0, done.stderr
    assert "No notes were found." in done.stdout


def test_demo_plays_files_of_any_channels_and_numbers(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 48_000).astype(np.float32)
    tone[12_000:12_100] = np.nan
    soundfile.write(tmp_path / "three.wav", np.stack([tone] * 3, 1), 48_000, subtype="FLOAT")
    done = run("demo", tmp_path / "three.wav", "--fast", "--json")

    assert done.returncode == 0, done.stderr
    assert "A4" in [note["note"] for note in json.loads(done.stdout)["notes"]]


def test_the_screen_of_the_demo_draws_each_band_and_nothing_where_there_is_no_number():
    listening = Listening()
    assert listening._columns() == ""
    listening.bands = Bands((-120.0, -80.0, -40.0, 0.0, 20.0, math.nan, math.inf, -math.inf), 0)
    assert listening._columns() == "  ▄██   "


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b"", "empty"), (b"# just text\n" * 100, "audio file")]
)
def test_demo_of_what_is_no_audio(tmp_path, content, said):
    path = tmp_path / "take.wav"
    if content is not None:
        path.write_bytes(content)
    done = run("demo", path, "--json")

    assert done.returncode == 1
    assert done.stdout == ""
    assert str(path) in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("as_json", [True, False])
def test_demo_of_a_file_that_was_cut_off_plays_what_there_is(tmp_path, as_json):
    whole = demo_recording().path.read_bytes()
    path = tmp_path / "cut.flac"
    path.write_bytes(whole[: len(whole) // 2])
    done = run("demo", path, "--fast", *(["--json"] if as_json else []))

    assert done.returncode == 1
    assert "cut.flac" in done.stderr
    assert "What could be read was played" in done.stderr
    assert "Traceback" not in done.stderr
    if as_json:
        value = json.loads(done.stdout)
        assert len(value["notes"]) >= 10
        assert "cut.flac" in value["problems"][0]
        assert value["report"]["modules"]["recording"]["state"] == "failed"
    else:
        assert "E5" in done.stdout
        assert "failed" in done.stdout


def test_ctrl_c_stops_the_demo_and_shows_what_was_heard(started):
    process, mark = started("demo", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line_with(process.stderr, " dB")

    os.killpg(process.pid, signal.SIGINT)
    output, complaint = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 130
    value = json.loads(output)
    assert value["interrupted"] is True
    assert value["problems"] == []
    for metrics in value["report"]["pipelines"].values():
        assert metrics["sent"] == metrics["delivered"] + metrics["dropped_total"] + metrics["in_flight"]
    assert value["report"]["modules"]["recording"]["state"] == "stopped"
    assert "Traceback" not in complaint
    assert marked(mark) == []


def test_ctrl_c_while_the_demo_starts(started):
    process, mark = started("demo", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line_with(process.stderr, "Playing")

    os.killpg(process.pid, signal.SIGINT)
    _, complaint = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 130
    assert "Traceback" not in complaint
    assert marked(mark) == []


def test_a_killed_worker_ends_the_demo_with_its_name(started):
    process, mark = started("demo", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line_with(process.stderr, " dB")

    (worker,) = marked(mark, "steadyflow.runtime.worker")
    os.kill(worker, signal.SIGKILL)
    _, complaint = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 1
    assert "worker 'pitch'" in complaint
    assert "SIGKILL" in complaint
    assert "Traceback" not in complaint
    assert marked(mark) == []


def test_a_broken_pipe_is_no_traceback(started):
    reader, writer = os.pipe()
    os.close(reader)
    process, _ = started("demo", "--fast", "--json", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, complaint = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 1
    assert "Traceback" not in complaint


def test_on_a_terminal_the_table_is_drawn_while_it_runs(started, terminal, tmp_path):
    theirs, read_until = terminal
    path = write_tone(tmp_path / "a.wav", 440.0)
    process, _ = started("demo", path, stdout=theirs, stderr=subprocess.PIPE)
    theirs.close()
    drawn = read_until()

    assert process.wait(LIMIT_S) == 0
    assert "cents" in drawn
    assert "pitch.pitch->screen" in drawn
    assert drawn.count("healthy") > 8, "more than in the report at the end"
    assert "\x1b[?25h" in drawn, "the cursor is visible again"


def test_ctrl_c_on_a_terminal_leaves_it_in_order(started, terminal):
    theirs, read_until = terminal
    process, mark = started("demo", stdout=theirs, stderr=subprocess.PIPE)
    theirs.close()
    read_until("healthy")

    os.killpg(process.pid, signal.SIGINT)
    drawn = read_until()

    assert process.wait(LIMIT_S) == 130
    assert "Interrupted" in drawn
    assert "\x1b[?25h" in drawn, "the cursor is visible again"
    assert "Traceback" not in drawn + process.stderr.read()
    assert marked(mark) == []


def test_what_was_missed_and_heard_besides_is_named(capsys):
    recording = demo_recording()
    report = FlowReport(name="demo", duration_s=1.0, pipelines={}, modules={}, events=())
    show(Performance(recording.path, recording, report=report))

    shown = capsys.readouterr().out
    assert "No notes were found." in shown
    assert f"Heard 0 of the {len(recording.notes)} notes" in shown
    assert "Not heard: E5 at 0.20 s, D#5 at 0.40 s" in shown


# --- bench --------------------------------------------------------------------------------------------------------


def test_bench_prints_a_table(capsys):
    assert bench_command.bench(["hop"], quick=True, as_json=False, effort=TINY) == 0

    shown = capsys.readouterr()
    assert "hop in one thread" in shown.out
    assert "steadyflow" in shown.out
    assert "round 1 of 1" in shown.err


def test_bench_prints_records(capsys):
    assert bench_command.bench(["hop"], quick=True, as_json=True, effort=TINY) == 0

    (record,) = json.loads(capsys.readouterr().out)
    assert record["case"] == "hop"
    assert record["figures"][0]["rows"][0]["state"] == "measured"


def test_bench_of_an_unknown_name_lists_the_names():
    done = run("bench", "hop", "chian")

    assert done.returncode == 1
    assert done.stdout == ""
    assert "did you mean 'chain'?" in done.stderr
    assert all(name in done.stderr for name in CASES)
    assert "round" not in done.stderr, "something was measured before the names were checked"


def measured(name, state):
    figure = Figure("a figure", "cost", "blocks", Workload(1, 1), 1, [Row("steadyflow", state, reason="no memory")])
    return Result(name, [figure], TINY, "2026-01-01T00:00:00", 1.0, {})


def test_bench_fails_where_steadyflow_could_not_be_measured(monkeypatch, capsys):
    monkeypatch.setattr(bench_command, "run_case", lambda name, **options: measured(name, "failed"))

    assert bench_command.bench(["hop"], quick=True, as_json=True) == 1


def test_bench_prints_what_was_measured_before_ctrl_c(monkeypatch, capsys):
    def run_case(name, **options):
        if name == "chain":
            raise KeyboardInterrupt
        return measured(name, "measured")

    monkeypatch.setattr(bench_command, "run_case", run_case)
    with pytest.raises(KeyboardInterrupt):
        bench_command.bench([], quick=True, as_json=True)

    assert [record["case"] for record in json.loads(capsys.readouterr().out)] == ["hop"]


def test_ctrl_c_ends_bench(started):
    process, mark = started("bench", "processes", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line_with(process.stderr, "round 1")

    os.killpg(process.pid, signal.SIGINT)
    _, complaint = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 130
    assert "Traceback" not in complaint
    # What is measured is killed, and its workers notice that by themselves.
    limit = time.monotonic() + LIMIT_S
    while marked(mark):
        assert time.monotonic() < limit, "a process was left"
        time.sleep(0.01)


# --- doctor -------------------------------------------------------------------------------------------------------


def test_doctor_as_a_document():
    done = run("doctor", "--json")
    value = json.loads(done.stdout)

    assert done.returncode == (0 if value["works"] else 1)
    assert {"system", "cores", "shared memory", "audio files"} <= {finding["name"] for finding in value["findings"]}


def test_doctor_as_a_table():
    done = run("doctor")

    assert done.returncode == 0
    assert "shared memory" in done.stdout
    assert "Flows can run here." in done.stdout


# --- messages -----------------------------------------------------------------------------------------------------


def test_every_problem_of_a_failed_flow_is_described():
    remote = ModuleFailed(
        "pitch", "worker-1", "ValueError: no peak", block_sequence=7, traceback_text="Traceback: x.py"
    )
    explained = ModuleFailed(
        "take", "main", "FileUnreadable: gone", traceback_text="Traceback: y.py", explanation="take.wav: gone"
    )

    said = describe(FlowFailed("flow 'demo' failed", [remote, explained]))

    assert "module 'pitch' failed in worker 'worker-1', at block 7: ValueError: no peak" in said
    assert "Traceback: x.py" in said, "the remote traceback"
    assert "take.wav: gone" in said
    assert "y.py" not in said, "of no use to somebody whose file is gone"


def test_a_defect_keeps_its_traceback():
    try:
        raise ZeroDivisionError("nobody expected this")
    except ZeroDivisionError as problem:
        said = describe(FlowFailed("flow 'demo' failed", [problem, UnknownName("port", "ou", ["out"])]))

    assert "test_cli.py" in said
    assert "nobody expected this" in said
    assert "did you mean 'out'?" in said
