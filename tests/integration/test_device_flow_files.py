"""Flow files with devices, as commands run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import soundfile
from tests.integration.commands import COMMAND, LIMIT_S, line_with, run
from tests.servers.jack_server import PERIOD_FRAMES, RATE_HZ, JackServer, own_jack_server

__all__ = ["own_jack_server"]

FLOW = """
[flow]
name = "take"
[modules.microphone]
use = "steadyflow.audio:Microphone"
[modules.file]
use = "steadyflow.audio:FileSink"
arguments = { path = "take.wav", sample_type = "f32" }
[modules.speaker]
use = "steadyflow.audio:Speaker"
[[pipelines]]
from = "microphone.out"
to = "file.audio"
buffer_size = 256
[[pipelines]]
from = "microphone.out"
to = "speaker.audio"
buffer_size = 16
target_fill_ms = 10.0
"""


def test_ctrl_c_closes_the_devices_and_drains(own_jack_server: JackServer, tmp_path: Path) -> None:
    (tmp_path / "flow.toml").write_text(FLOW)
    with subprocess.Popen(
        [*COMMAND, "run", "flow.toml", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        line_with(process.stderr, " delivered")
        observed = json.loads(run("observe", "take", "--json").stdout)
        os.killpg(process.pid, signal.SIGINT)
        output, complaint = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint
    value = json.loads(output)
    assert value["problems"] == []
    report = value["report"]
    # Another process sees the same devices.
    assert set(observed["device_reports"]) == set(report["devices"]) == {"microphone", "speaker"}
    seen = observed["device_reports"]["microphone"]
    assert seen["device"] == report["devices"]["microphone"]["device"]
    assert 0 < seen["capture"]["frames"] <= report["devices"]["microphone"]["capture"]["frames"]
    assert seen["playback"] is None
    into_file = report["pipelines"]["microphone.out->file.audio"]
    assert into_file["sent"] == into_file["delivered"] > 0
    into_speaker = report["pipelines"]["microphone.out->speaker.audio"]
    assert into_speaker["sent"] == into_speaker["delivered"] + into_speaker["dropped_total"]
    assert into_speaker["in_flight"] == 0
    capture = report["devices"]["microphone"]["capture"]
    assert soundfile.info(str(tmp_path / "take.wav")).frames == capture["frames"] == into_file["sent"] * PERIOD_FRAMES
    assert soundfile.info(str(tmp_path / "take.wav")).samplerate == RATE_HZ
    # Both devices are closed: their clients have left the server.
    assert not [port for port in own_jack_server.ports() if port.startswith("PortAudio")]
