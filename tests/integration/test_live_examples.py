"""The examples that need a device, at a real sound server: what they print, play and write, and how they end."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from tests.integration.test_microphone import wait_until
from tests.integration.test_speaker import heard
from tests.servers.jack_server import PERIOD_FRAMES, RATE_HZ, JackServer, silent_jack_server

from steadyflow import AudioFormat, DataFlowCoordinator, Output, Source
from steadyflow.audio import Microphone, Speaker, demo_recording
from steadyflow.testing import Collect

__all__ = ["silent_jack_server"]

Samples = npt.NDArray[np.float32]

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = ("live_effect", "live_pitch", "voice_recorder")
LIMIT_S = 50

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="needs the checkout, not only the tests")


class Player(Source):
    """Silence until it is told to begin; then a signal, and then its end."""

    out = Output(AudioFormat(RATE_HZ, 1, max_block_frames=480))

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.told = threading.Event()

    def produce(self) -> Iterator[int | None]:
        while not self.told.is_set():
            self.out.send(np.zeros((PERIOD_FRAMES, 1), np.float32))
            yield None
        for first in range(0, len(self.samples), 480):
            self.out.send(self.samples[first : first + 480, np.newaxis])
            yield None


@dataclass
class Example:
    """An example that runs, and what its device shows at the server."""

    process: subprocess.Popen[str]
    server: JackServer
    ports: list[str]

    def port(self, name: str) -> str:
        (found,) = [port for port in self.ports if port.endswith(f":{name}")]
        return found

    def interrupt(self) -> tuple[str, str]:
        """Press Ctrl-C, which a terminal tells all processes; return what was printed."""
        os.killpg(self.process.pid, signal.SIGINT)
        said, complained = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == 0, complained
        assert "Traceback" not in complained
        return said, complained


@pytest.fixture
def start(silent_jack_server: JackServer) -> Iterator[Callable[..., Example]]:
    """Start an example, and wait until its device has its ports."""
    processes: list[subprocess.Popen[str]] = []
    # A shell lets what it runs in the background ignore Ctrl-C, and that is inherited.
    as_it_was = signal.signal(signal.SIGINT, signal.default_int_handler)

    def start(name: str, *arguments: object, ports: int = 1, stdout: int | IO[str] = subprocess.PIPE) -> Example:
        before = set(silent_jack_server.ports())
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(FOLDER / f"{name}.py"), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)

        def new() -> list[str]:
            assert process.poll() is None, process.communicate()
            return sorted(set(silent_jack_server.ports()) - before)

        wait_until(lambda: len(new()) == ports)
        return Example(process, silent_jack_server, new())

    yield start
    signal.signal(signal.SIGINT, as_it_was)
    for process in processes:
        with process:  # closes its pipes, and waits
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def at_the_other_end(example: Example, samples: Samples) -> Iterator[Collect]:
    """Play samples into an example, and collect what it plays, if it plays; both for as long as the context."""
    server = example.server
    before = set(server.ports())
    flow = DataFlowCoordinator("bench")
    player = flow.add(Player(samples), worker="player")
    speaker = flow.add(Speaker(), name="speaker")
    flow.connect(player.out, speaker.audio, buffer_size=64)
    collect = Collect()
    plays = len(example.ports) > 1
    if plays:
        microphone = flow.add(Microphone(), name="microphone")
        flow.connect(microphone.out, flow.add(collect).data, buffer_size=4096)
    with flow:
        flow.start()
        wait_until(lambda: len(set(server.ports()) - before) == 1 + plays)
        ours = {port.rpartition(":")[2]: port for port in set(server.ports()) - before}
        link(server, ours["out_0"], example.port("in_0"))
        if plays:
            link(server, example.port("out_0"), ours["in_0"])
        player.told.set()
        wait_until(lambda: flow.report().modules["speaker"].state == "ended")
        yield collect


def link(server: JackServer, source: str, target: str) -> None:
    """Connect two ports as soon as their clients have started."""

    def done() -> bool:
        try:
            server.connect(source, target)
        except subprocess.CalledProcessError:
            return False
        return True

    wait_until(done)


def recording(seconds: float) -> tuple[Samples, list[str]]:
    """Return the beginning of the bundled recording at the rate of the server, and its notes."""
    known = demo_recording()
    samples, rate_hz = soundfile.read(known.path, dtype="float32")
    at = np.arange(round(seconds * RATE_HZ)) * rate_hz / RATE_HZ
    notes = [note.note for note in known.notes if note.timestamp_ns / 1e9 + note.duration_s <= seconds]
    return np.interp(at, np.arange(len(samples)), samples).astype(np.float32), notes


def share_in_order(wanted: list[str], got: list[str]) -> float:
    """Return how much of both is in the other, in the same order: 1.0 where they are equal."""
    return difflib.SequenceMatcher(None, wanted, got, autojunk=False).ratio()


def share_found(expected: Samples, played: Samples, piece_frames: int = 120) -> float:
    """Return how much of a signal without repetitions was played, in pieces, wherever they are."""
    pieces = [expected[at : at + piece_frames] for at in range(0, len(expected) - piece_frames, piece_frames)]
    ends = len(played) - piece_frames
    found = 0
    for piece in pieces:
        begins = np.flatnonzero(np.isclose(played[:ends], piece[0], atol=1e-6, rtol=0))
        found += any(np.allclose(played[at : at + piece_frames], piece, atol=1e-6) for at in begins)
    return found / len(pieces)


# --- live_pitch -------------------------------------------------------------------------------------------------------


def test_the_tuner_prints_the_notes_of_a_recording(start: Callable[..., Example]) -> None:
    samples, notes = recording(3.4)
    example = start("live_pitch")
    with at_the_other_end(example, samples):
        said, complained = example.interrupt()
    assert complained == ""
    found = re.findall(r"^ +[\d.]+ s  (\S+) +[+-]\d+ cents +[\d.]+ Hz$", said, re.MULTILINE)
    # What a busy machine cuts off of a note may leave too little of it.
    assert share_in_order(notes, found) > 0.8, found
    assert re.search(r"^microphone \(system\): \d+ blocks, \d+ frames lost, \d+ xruns$", said, re.MULTILINE)
    assert re.search(r"^microphone\.out->pitch\.audio: \d+ delivered, \d+ dropped, \d+ late,", said, re.MULTILINE)


def test_the_tuner_prints_objects_for_programs(start: Callable[..., Example]) -> None:
    samples, notes = recording(1.2)
    example = start("live_pitch", "--json", "--device", "system", "--rate", RATE_HZ)
    with at_the_other_end(example, samples):
        said, complained = example.interrupt()
    found = [json.loads(line) for line in said.splitlines()]
    assert share_in_order(notes, [note["note"] for note in found]) > 0.6
    assert {tuple(note) for note in found} == {("at_s", "note", "cents", "frequency_hz")}
    assert [note["at_s"] for note in found] == sorted(note["at_s"] for note in found)
    assert "microphone (system): " in complained


def test_the_tuner_moves_on_a_terminal(start: Callable[..., Example], terminal: Any) -> None:
    theirs, read_until = terminal
    samples, _ = recording(0.7)
    example = start("live_pitch", stdout=theirs)
    theirs.close()
    with at_the_other_end(example, samples):
        drawn = read_until("cents")
        example.interrupt()
    assert re.search(r"\rE5   \|[-:|O]{19}\|  +[+-]\d+ cents +\d+\.\d\d Hz", drawn + read_until("delivered"))


# --- live_effect ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [(), ("--in", "system", "--out", "system")], ids=["one device", "two devices"])
def test_the_effect_plays_what_it_hears_filtered(start: Callable[..., Example], devices: tuple[str, ...]) -> None:
    samples = np.random.default_rng(3).uniform(-0.5, 0.5, RATE_HZ // 2).astype(np.float32)
    example = start("live_effect", *devices, "--lowpass-hz", 2000, "--gain-db", -6, "--buffer-ms", 100, ports=2)
    with at_the_other_end(example, samples) as collect:
        wait_until(lambda: len(heard(collect)) > len(samples) + 4800)
        said, _ = example.interrupt()
    played = heard(collect)
    low_pass = runpy.run_path(str(FOLDER / "live_effect.py"))["low_pass"]
    expected = np.convolve(samples, 10 ** (-6 / 20) * low_pass(2000, RATE_HZ))
    # All of it, but for what a busy server gives up.
    assert share_found(expected, played) > 0.9
    # What the filter is for, whatever its taps are: -6 dB below its limit, and nothing far above it.
    before, after = (np.abs(np.fft.rfft(part)) ** 2 for part in (samples, played[: len(samples)]))
    assert np.sqrt(after[50:500].sum() / before[50:500].sum()) == pytest.approx(0.5, rel=0.1)
    assert np.sqrt(after[3000:].sum() / before[3000:].sum()) < 0.02
    assert re.search(r"^ +[\d.]+ s  added [\d.]+ ms; load: effect [\d.]+% at p99, ", said, re.MULTILINE)
    assert "flow 'live-effect'" in said


# --- voice_recorder ---------------------------------------------------------------------------------------------------


def test_the_recorder_writes_what_came_before_it_was_loud(start: Callable[..., Example], tmp_path: Path) -> None:
    random = np.random.default_rng(5)

    def noise(seconds: float, amplitude: float) -> Samples:
        return random.uniform(-amplitude, amplitude, round(seconds * RATE_HZ)).astype(np.float32)

    quiet, loud = noise(0.6, 1e-3), noise(0.4, 0.5)
    samples = np.concatenate([quiet, loud, noise(0.8, 0.0), noise(0.2, 0.5)])
    folder = tmp_path / "made" / "takes"
    example = start("voice_recorder", folder, "--threshold-db", -30, "--preroll-ms", 300, "--hang-ms", 200)
    with at_the_other_end(example, samples):
        wait_until(lambda: len(list(folder.glob("*.flac"))) == 2)
        said, _ = example.interrupt()
    first, second = sorted(folder.glob("*.flac"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.\d{3}\.flac", first.name)
    assert [f"recording {first}", f"recording {second}"] == re.findall(r"^recording .*$", said, re.MULTILINE)
    take, rate_hz = soundfile.read(first, dtype="float32")
    assert rate_hz == RATE_HZ
    begins = int(np.argmax(np.abs(take) > 2e-3))
    # 24 bits keep a sample to 6e-8. A busy server gives some cycles up, in which nothing is heard.
    assert abs(begins - 0.3 * RATE_HZ) <= 0.05 * RATE_HZ
    assert share_found(quiet[-int(0.25 * RATE_HZ) :], take[:begins]) > 0.9
    assert share_found(loud, take[begins:]) > 0.9
    # By the clock, of which a busy server gives some cycles up; so there may be fewer frames, but none that are too many.
    assert 0 < len(take) - begins - len(loud) <= 0.2 * RATE_HZ + 1920
    # The second one was being recorded at Ctrl-C, and is complete.
    assert np.count_nonzero(np.abs(soundfile.read(second)[0]) > 2e-3) > 0


# --- all --------------------------------------------------------------------------------------------------------------


def run(name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / f"{name}.py"), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env=os.environ | environment,
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_cannot_be_is_said_in_a_line(silent_jack_server: JackServer, tmp_path: Path, name: str) -> None:
    into = [tmp_path] if name == "voice_recorder" else []
    for arguments, message in (
        (["--device", "nonsense"], "device 'nonsense'. Known: system."),
        (["--rate", 11_025], "does not open at 11025 Hz"),
    ):
        done = run(name, *into, *arguments)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith(f"{name}: ")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_system_without_devices(tmp_path: Path) -> None:
    nobody = {"JACK_DEFAULT_SERVER": "none", "JACK_NO_START_SERVER": "1", "PULSE_SERVER": "none", "HOME": str(tmp_path)}
    done = run("live_pitch", "--seconds", 1, **nobody)
    if done.returncode == 0:
        pytest.skip("this system has a device")
    assert done.returncode == 1
    assert done.stderr.startswith("live_pitch: ")
    assert "this system shows none" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_help_page_has_an_example(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0
    assert f"example: {name}.py" in done.stdout


def test_two_devices_are_named_together() -> None:
    done = run("live_effect", "--in", "system")
    assert done.returncode == 2
    assert "expected --in and --out together" in done.stderr
