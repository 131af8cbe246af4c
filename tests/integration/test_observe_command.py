"""`steadyflow observe`: what it shows of a flow in another process, and how it ends."""

from __future__ import annotations

import json
import os
import signal

import pytest
from tests.integration.commands import LIMIT_S, run

from steadyflow import AudioFormat, DataFlowCoordinator, PipelineConfig


@pytest.fixture
def flow(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with DataFlowCoordinator("shown") as flow:
        flow.register_pipeline("app", "ears", PipelineConfig(buffer_size=4), format=AudioFormat(48_000, 1))
        flow.start()
        yield flow


def test_a_document(flow):
    done = run("observe", "shown", "--pid", os.getpid(), "--json")

    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert (document["flow"], document["pid"], document["ended"]) == ("shown", os.getpid(), False)
    assert [pipeline["id"] for pipeline in document["pipelines"]] == ["app->ears"]
    assert document["metrics"]["app->ears"]["sent"] == 0


def test_a_table_for_a_person_without_a_terminal(flow):
    done = run("observe")

    assert (done.returncode, done.stderr) == (0, "")
    assert f"shown (pid {os.getpid()}), running" in done.stdout
    assert "app->ears" in done.stdout


def test_a_name_that_no_flow_has(flow):
    done = run("observe", "shwon")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("steadyflow: observe: unknown flow 'shwon'; did you mean 'shown'?")


def test_without_a_flow(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    done = run("observe")

    assert (done.returncode, done.stdout) == (1, "")
    assert "expected a running flow of this user, got none" in done.stderr


def test_on_a_terminal_until_the_flow_ends(flow, started, terminal):
    theirs, read_until = terminal
    process, _ = started("observe", "shown", stdout=theirs, stderr=theirs)
    theirs.close()
    read_until("running")
    flow.stop(0.0)

    assert f"shown (pid {os.getpid()}), ended" in read_until()
    assert process.wait(LIMIT_S) == 0


def test_ctrl_c_on_a_terminal(flow, started, terminal):
    theirs, read_until = terminal
    process, _ = started("observe", "shown", stdout=theirs, stderr=theirs)
    theirs.close()
    read_until("running")
    process.send_signal(signal.SIGINT)
    drawn = read_until()

    assert process.wait(LIMIT_S) == 130
    assert "Traceback" not in drawn
    assert drawn.rfind("\x1b[?25h") > drawn.rfind("\x1b[?25l"), repr(drawn)
