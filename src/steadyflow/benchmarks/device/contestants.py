"""
What is measured: ways to get a device's blocks into Python code, through it and back, or into an analysis.

Each runs in a process of its own, with the device of a JACK server that nobody else uses: by its name, since the default one may be
ALSA's plug-in for JACK, which has buffers of its own. Streams leave the length of their
blocks to the server: any number that is given, even the server's own, lets PortAudio add a buffer.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from steadyflow import AudioFormat, Block, DataFlowCoordinator, Input, Module, Output, Pipeline
from steadyflow.audio import DeviceReport, Duplex, Microphone
from steadyflow.audio.yin import Yin
from steadyflow.benchmarks.device.blocks import BlockLog

__all__ = ["CONTESTANTS", "RATE_HZ", "Contestant", "Kind", "Running"]

Kind = Literal["capture", "duplex", "analysis"]

RATE_HZ: Final = 48_000

DEVICE: Final = "system"
"""What PortAudio calls the driver of a JACK server."""

_IN_PORTAUDIO: Final = f"{DEVICE}, JACK Audio Connection Kit"
"""The same with its host interface, as sounddevice takes it."""

BUFFER_BLOCKS: Final = 64
"""What a pipeline, or a ring of rtmixer, holds."""


@dataclass(frozen=True)
class Running:
    """
    What a contestant is given.

    Attributes:
        frames: The period of the server, and the length of a block.
        most_blocks: How many blocks there will be at the most.
        log_file: Where `BlockLog.save` writes to.
        hold: Called when all is running; blocks until it shall end.
    """

    frames: int
    most_blocks: int
    log_file: Path
    hold: Callable[[], None]

    def log(self) -> BlockLog:
        """Return a log with enough room."""
        return BlockLog(self.most_blocks)


@dataclass(frozen=True)
class Contestant:
    """
    A way.

    Attributes:
        name: As printed.
        kind: What is measured of it.
        run: Runs it in this process until it shall end; returns what it counted itself.
        requires: The package that has to be installed, if any.
        note: What a reader must know to compare it.
    """

    name: str
    kind: Kind
    run: Callable[[Running], Mapping[str, Any]]
    requires: str = ""
    note: str = ""


# ------------------------------------------------------------------------------------------------------------ capture


class Notes(Module):
    """
    Notes each block.

    Args:
        path: Where to, at the end; it may live in another process.
        most_blocks: How many there may be.
    """

    audio = Input(AudioFormat())

    def __init__(self, path: Path, most_blocks: int) -> None:
        self._path = path
        self._most_blocks = most_blocks

    def setup(self) -> None:
        """Make room."""
        self._log = BlockLog(self._most_blocks)

    def process(self, audio: Block) -> None:
        """Note a block."""
        self._log.note(audio.samples)

    def teardown(self) -> None:
        """Write them."""
        self._log.save(self._path)


def _run_flow(running: Running, consumer: Module, placement: Literal["thread", "process"]) -> dict[str, Any]:
    flow = DataFlowCoordinator("device")
    microphone = flow.add(Microphone(DEVICE, block_frames=running.frames))
    flow.add(consumer, name="consumer", placement=placement, realtime=placement == "process")
    pipeline = flow.connect("microphone.out", "consumer.audio", buffer_size=BUFFER_BLOCKS, priority="critical")
    with flow:
        flow.start()
        running.hold()
        flow.stop()
    return _counts(microphone.report(), pipeline)


def _counts(device: DeviceReport, *pipelines: Pipeline) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "dropped": sum(pipeline.statistics().dropped_total for pipeline in pipelines),
        "callback_mean_load": device.mean_load,
        "callback_worst_load": device.worst_load,
        "xruns": 0,
    }
    if device.capture is not None:
        counts |= {"xruns": device.capture.xruns, "gaps": device.capture.gaps}
    if device.playback is not None:
        counts["xruns"] += device.playback.xruns
        counts |= {"underruns": device.playback.underruns, "silent_frames_played": device.playback.silent_frames}
    return counts


def capture_in_process(running: Running) -> dict[str, Any]:
    """Take blocks in a process worker."""
    return _run_flow(running, Notes(running.log_file, running.most_blocks), "process")


def capture_in_thread(running: Running) -> dict[str, Any]:
    """Take blocks in a thread of this process, beside whatever computes here."""
    return _run_flow(running, Notes(running.log_file, running.most_blocks), "thread")


def _open_capture(running: Running, take: Callable[[npt.NDArray[np.float32]], None], counts: dict[str, int]) -> Any:
    import sounddevice

    def callback(samples: npt.NDArray[np.float32], frames: int, times: Any, status: Any) -> None:
        counts["xruns"] += bool(status)
        take(samples)

    return sounddevice.InputStream(
        device=_IN_PORTAUDIO,
        samplerate=RATE_HZ,
        channels=1,
        dtype="float32",
        latency="low",
        callback=callback,
    )


def capture_in_callback(running: Running) -> dict[str, Any]:
    """Take blocks in a callback in Python."""
    log, counts = running.log(), {"xruns": 0}
    with _open_capture(running, log.note, counts):
        running.hold()
    log.save(running.log_file)
    return counts


def capture_by_rtmixer(running: Running) -> dict[str, Any]:
    """Record into a ring, natively, and look into it twice a period."""
    import rtmixer

    log = running.log()
    with rtmixer.Recorder(device=_IN_PORTAUDIO, samplerate=RATE_HZ, channels=1, latency="low") as stream:
        ring = rtmixer.RingBuffer(4, BUFFER_BLOCKS * running.frames)
        recording = [stream.record_ringbuffer(ring)]
        full = 0

        def take() -> None:
            nonlocal full
            if recording[0] not in stream.actions:  # it was full, which ends it
                full += 1
                recording[0] = stream.record_ringbuffer(ring)
            while ring.read_available >= running.frames:
                log.note(np.frombuffer(ring.read(running.frames), np.float32).reshape(-1, 1))

        with _polling(running, take):
            running.hold()
        stream.stop()
        stats = stream.stats
    log.save(running.log_file)
    return {"xruns": stats.input_overflows + stats.input_underflows, "full": full}


@contextlib.contextmanager
def _polling(running: Running, look: Callable[[], None]) -> Iterator[None]:
    """Call a function twice a period, in a thread; what it raises ends the measurement."""
    ended = threading.Event()
    problems: list[BaseException] = []

    def poll() -> None:
        try:
            while not ended.is_set():
                look()
                time.sleep(running.frames / RATE_HZ / 2)
        except Exception as problem:  # noqa: BLE001 - told where it can be
            problems.append(problem)

    thread = threading.Thread(target=poll, name="poll", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if problems:
        raise problems[0]


# ------------------------------------------------------------------------------------------------------------- duplex


class Pass(Module):
    """What comes, goes on, by way of Python."""

    audio = Input(AudioFormat(RATE_HZ, 1))
    out = Output(AudioFormat(RATE_HZ, 1))

    def process(self, audio: Block) -> npt.NDArray[np.float32]:
        """Return the samples."""
        samples: npt.NDArray[np.float32] = audio.samples
        return samples


def duplex_in_process(running: Running) -> dict[str, Any]:
    """Pass blocks through a process worker, with two periods of a jitter buffer on the way back."""
    flow = DataFlowCoordinator("device")
    duplex = flow.add(Duplex(DEVICE, block_frames=running.frames), placement="process", realtime=True)
    passing = flow.add(Pass(), placement="process", realtime=True)
    there = flow.connect(duplex.out, passing.audio, buffer_size=BUFFER_BLOCKS, priority="critical")
    # No room for more than is filled: what piles up in a stall would be a delay that stays (docs/decisions/0004).
    fill_ms = 2 * running.frames / RATE_HZ * 1e3
    back = flow.connect(passing.out, duplex.audio, buffer_size=2, target_fill_ms=fill_ms, priority="critical")
    with flow:
        flow.start()
        running.hold()
        flow.stop()
    return _counts(duplex.report(), there, back)


def duplex_in_callback(running: Running) -> dict[str, Any]:
    """Play what is captured, in a callback in Python."""
    import sounddevice

    counts = {"xruns": 0}

    def callback(
        captured: npt.NDArray[np.float32], played: npt.NDArray[np.float32], frames: int, times: Any, status: Any
    ) -> None:
        counts["xruns"] += bool(status)
        played[:] = captured

    with sounddevice.Stream(
        device=_IN_PORTAUDIO,
        samplerate=RATE_HZ,
        channels=1,
        dtype="float32",
        latency="low",
        callback=callback,
    ):
        running.hold()
    return counts


def duplex_by_rtmixer(running: Running) -> dict[str, Any]:
    """Record into a ring, move it to another in Python, twice a period, and play that; both natively."""
    import rtmixer

    counts = {"dropped": 0, "empty": 0, "full": 0}
    with rtmixer.MixerAndRecorder(device=_IN_PORTAUDIO, samplerate=RATE_HZ, channels=1, latency="low") as stream:
        captured = rtmixer.RingBuffer(4, BUFFER_BLOCKS * running.frames)
        to_play = rtmixer.RingBuffer(4, BUFFER_BLOCKS * running.frames)
        recording = [stream.record_ringbuffer(captured)]
        playing: list[Any] = [None]

        def move() -> None:
            if recording[0] not in stream.actions:  # it was full, which ends it
                counts["full"] += 1
                recording[0] = stream.record_ringbuffer(captured)
            while captured.read_available >= running.frames:
                block = bytes(captured.read(running.frames))
                # As much room as ours has: what would have to wait longer is a delay that stays.
                if playing[0] in stream.actions and to_play.read_available >= 2 * running.frames:
                    counts["dropped"] += 1
                else:
                    to_play.write(block)
            # An empty ring ends playing. With less than two periods ahead it is soon empty; more would stay as a delay.
            if playing[0] not in stream.actions and to_play.read_available >= 2 * running.frames:
                to_play.read(to_play.read_available - 2 * running.frames)
                counts["empty"] += playing[0] is not None
                playing[0] = stream.play_ringbuffer(to_play)

        with _polling(running, move):
            running.hold()
        stream.stop()
        stats = stream.stats
    xruns = stats.input_overflows + stats.input_underflows + stats.output_overflows + stats.output_underflows
    return {"xruns": xruns, **counts}


# ----------------------------------------------------------------------------------------------------------- analysis


class Analysis:
    """The same for all: the pitch of the latest 43 ms, a hundred times a second."""

    def __init__(self, rate_hz: int) -> None:
        self._yin = Yin(rate_hz, lowest_hz=50, highest_hz=2_000)
        self._window: npt.NDArray[np.float32] = np.zeros(self._yin.window_frames, np.float32)
        self._hop_frames = rate_hz // 100
        self._fresh_frames = 0

    def take(self, samples: npt.NDArray[np.float32]) -> None:
        """Take a block of shape (frames, channels)."""
        frames = len(samples)
        self._window[:-frames] = self._window[frames:]
        self._window[-frames:] = samples[:, 0]
        self._fresh_frames += frames
        if self._fresh_frames >= self._hop_frames:
            self._fresh_frames -= self._hop_frames
            self._yin.estimate(self._window)


class Analyser(Notes):
    """Analyses each block, and notes when that was done."""

    def setup(self) -> None:
        """Prepare for the rate of the input."""
        super().setup()
        fmt = self.audio.format
        assert isinstance(fmt, AudioFormat)
        assert fmt.sample_rate_hz is not None
        self._analysis = Analysis(fmt.sample_rate_hz)

    def process(self, audio: Block) -> None:
        """Analyse a block."""
        samples = audio.samples
        self._analysis.take(samples)
        self._log.note(samples)


def analysis_in_flow(running: Running) -> dict[str, Any]:
    """Analyse in a process worker."""
    return _run_flow(running, Analyser(running.log_file, running.most_blocks), "process")


def analysis_in_callback(running: Running) -> dict[str, Any]:
    """Analyse in the callback."""
    log, counts, analysis = running.log(), {"xruns": 0}, Analysis(RATE_HZ)

    def take(samples: npt.NDArray[np.float32]) -> None:
        analysis.take(samples)
        log.note(samples)

    with _open_capture(running, take, counts):
        running.hold()
    log.save(running.log_file)
    return counts


def analysis_behind_queue(running: Running) -> dict[str, Any]:
    """Let the callback put a copy into a queue, and analyse in a thread."""
    log, counts, analysis = running.log(), {"xruns": 0}, Analysis(RATE_HZ)
    blocks: queue.Queue[npt.NDArray[np.float32] | None] = queue.Queue()

    def work() -> None:
        while (samples := blocks.get()) is not None:
            analysis.take(samples)
            log.note(samples)

    worker = threading.Thread(target=work, name="analysis", daemon=True)
    worker.start()
    with _open_capture(running, lambda samples: blocks.put(samples.copy()), counts):
        running.hold()
    blocks.put(None)
    worker.join()
    log.save(running.log_file)
    return counts


CONTESTANTS: Final = (
    Contestant(
        "steadyflow, process", "capture", capture_in_process, note="Microphone into a process with realtime=True"
    ),
    Contestant("steadyflow, thread", "capture", capture_in_thread, note="Microphone into a thread of the application"),
    Contestant("sounddevice", "capture", capture_in_callback, "sounddevice", note="a callback in Python"),
    Contestant(
        "rtmixer", "capture", capture_by_rtmixer, "rtmixer", note="a ring that Python looks into twice a period"
    ),
    Contestant(
        "steadyflow",
        "duplex",
        duplex_in_process,
        note="Duplex through a process, realtime=True, two periods of jitter buffer and no room for more",
    ),
    Contestant("sounddevice", "duplex", duplex_in_callback, "sounddevice", note="a callback in Python"),
    Contestant("rtmixer", "duplex", duplex_by_rtmixer, "rtmixer", note="from ring to ring, twice a period"),
    Contestant("steadyflow", "analysis", analysis_in_flow, note="Microphone into a process with realtime=True"),
    Contestant("in the callback", "analysis", analysis_in_callback, "sounddevice", note="of sounddevice"),
    Contestant(
        "behind a queue", "analysis", analysis_behind_queue, "sounddevice", note="queue.Queue and a thread, no bound"
    ),
)
