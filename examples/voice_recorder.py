"""
A recorder that starts by itself: each time somebody speaks, a file, with what came just before.

The input of the recorder is held while it is quiet: it keeps the last half second (`preroll_ms`) and throws away the rest.
When the level rises, it is released, and what it kept comes first; so the beginning of the first word is in the file. After
a second of silence the take is complete, and the input is held again.

Run it: python examples/voice_recorder.py takes
        python examples/voice_recorder.py takes --threshold-db -35 --preroll-ms 800 --hang-ms 2000 --format wav

Ctrl-C ends it. It needs a microphone and the extra audio: pip install 'steadyflow[audio]'
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import soundfile

from steadyflow import (
    AudioFormat,
    AudioPipelineConfig,
    Block,
    DataFlowCoordinator,
    FlowError,
    FlowFailed,
    FlowReport,
    Input,
    Module,
    StructFormat,
)
from steadyflow.audio import Level, LevelMeter, Microphone

BLOCK_FRAMES = 480
LONGEST_STALL_MS = 2000.0  # of the disk: so much audio may wait for it


class Takes(Module):
    """
    Writes what is loud, and what is around it, to files that are named by the time at which they begin.

    Ports ``level``: of each block; ``audio``: the blocks, through a pipeline with ``preroll_ms``.

    Args:
        folder: Where the files go; it is there.
        container: ``"flac"`` or ``"wav"``, both of 24 bits.
        threshold_db: What is as loud as this is to be recorded.
        hang_ms: How long it has to be quiet before a take is complete.
    """

    level = Input(StructFormat(Level))
    audio = Input(AudioFormat())

    def __init__(self, folder: str, container: str, threshold_db: float, hang_ms: float) -> None:
        self._folder = Path(folder)
        self._container = container
        self._threshold_db = threshold_db
        self._hang_ns = round(hang_ms * 1e6)
        self._wanted_until_ns = 0
        self._file: Any = None

    def setup(self) -> None:
        """Want nothing yet."""
        self.audio.hold()

    def process_level(self, level: Block) -> None:
        """Begin a take, or prolong it."""
        heard: Level = level.data
        if heard.rms_db >= self._threshold_db:
            self._wanted_until_ns = heard.timestamp_ns + self._hang_ns
            self.audio.release()

    def process_audio(self, audio: Block) -> None:
        """Write a block. What was kept comes first; so each block of a microphone is in one take, or in none."""
        if self._file is None:
            self._file = self._new_file(audio)
            print(f"recording {self._file.name}", flush=True)
        self._file.write(audio.samples)
        if audio.timestamp_ns > self._wanted_until_ns:
            self._complete()
            self.audio.hold()

    def finish(self) -> None:
        """Complete a take in the middle, because the recorder is ended."""
        self._complete()

    def teardown(self) -> None:
        """Do so also after a failure."""
        self._complete()

    def _new_file(self, audio: Block) -> soundfile.SoundFile:
        fmt = audio.format
        assert isinstance(fmt, AudioFormat)
        age = timedelta(microseconds=(time.monotonic_ns() - audio.timestamp_ns) / 1000)
        name = f"{datetime.now().astimezone() - age:%Y-%m-%d_%H-%M-%S.%f}"[:-3]
        path = self._folder / f"{name}.{self._container}"
        return soundfile.SoundFile(str(path), "x", fmt.sample_rate_hz, fmt.channels, "PCM_24")

    def _complete(self) -> None:
        if self._file is not None:
            print(f"  {self._file.frames / self._file.samplerate:.2f} s", flush=True)
            self._file.close()
            self._file = None


def record(options: argparse.Namespace) -> FlowReport:
    """Run the flow until the time is over, or Ctrl-C."""
    with DataFlowCoordinator("voice-recorder") as flow:
        source = Microphone(options.device, BLOCK_FRAMES, sample_rate_hz=options.rate)
        microphone = flow.add(source, name="microphone")
        # In one thread, so that the level of a block is known before it is written; the disk may stop both.
        meter = flow.add(LevelMeter(), name="meter", worker="recorder")
        takes = Takes(options.folder, options.format, options.threshold_db, options.hang_ms)
        flow.add(takes, name="takes", worker="recorder")
        room = math.ceil(max(LONGEST_STALL_MS, options.preroll_ms) * options.rate / (1000 * BLOCK_FRAMES))
        flow.connect(microphone.out, meter.audio, buffer_size=room, priority="high")
        flow.connect(meter.level, takes.level, buffer_size=room)
        config = AudioPipelineConfig(buffer_size=room, preroll_ms=options.preroll_ms)
        flow.register_pipeline(microphone.out, takes.audio, config)
        try:
            return flow.run(options.seconds)
        except KeyboardInterrupt:
            return flow.report()  # it has been stopped, and the last take is complete


def main() -> int:
    """Return the exit code: 0, 1 where it failed, and 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        description="Record whenever a microphone hears something, until Ctrl-C.",
        epilog="example: %(prog)s takes --threshold-db -35; `steadyflow devices` shows what there is",
    )
    parser.add_argument("folder", nargs="?", default="takes", help="for the files; default: %(default)s")
    parser.add_argument("--device", type=device, help="number, name or a part of the name; else the default one")
    parser.add_argument("--rate", type=int, default=48_000, metavar="HZ", help="default: %(default)s")
    parser.add_argument("--threshold-db", type=float, default=-40.0, metavar="DB", help="default: %(default)s")
    parser.add_argument("--preroll-ms", type=float, default=500.0, metavar="MS", help="default: %(default)s")
    parser.add_argument("--hang-ms", type=float, default=1000.0, metavar="MS", help="default: %(default)s")
    parser.add_argument("--format", choices=["flac", "wav"], default="flac", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, help="stop after this time")
    options = parser.parse_args()
    try:
        Path(options.folder).mkdir(parents=True, exist_ok=True)
        report = record(options)
    except FlowFailed as failed:
        for problem in failed.exceptions:
            print(f"voice_recorder: {getattr(problem, 'explanation', '') or problem}", file=sys.stderr)
        return 1
    except (FlowError, OSError) as error:
        print(f"voice_recorder: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0


def device(text: str) -> int | str:
    """Return a device as the flow takes it: a number is one, not a name."""
    return int(text) if text.isdigit() else text


if __name__ == "__main__":
    sys.exit(main())
