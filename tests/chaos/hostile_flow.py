"""
A flow whose shared memory is damaged while it runs: a program of its own, so that a crash is seen by its exit code.

    python -m tests.chaos.hostile_flow SEED ROUNDS PLACEMENT MOST_DAMAGES

Runs as many flows as rounds, each with other damage. For each it prints one line of JSON: the seed before it starts; then
what was damaged, the errors that it ended with, whether it went on to its end, the pipelines that were paused then, and the
accounts of all: sent, delivered and dropped. The last line is {"ended": true}.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from collections.abc import Iterator

import msgspec
import numpy as np

from steadyflow import (
    AudioFormat,
    BytesFormat,
    DataFlowCoordinator,
    DropOldest,
    FlowData,
    Input,
    Module,
    Output,
    PipelineConfig,
    Source,
    StructFormat,
    _native,
)
from steadyflow.errors import EndOfStream, FlowError, FlowFailed, PipelineClosed

BLOCKS = 4000
BUFFER_SIZE = 6
# How many blocks each pipeline carries to its end.
SENT = {
    "ramp.out->level.audio": BLOCKS,
    "ramp.out->keep.audio": BLOCKS,
    "level.peak->show.peak": BLOCKS,
    "app->keep.words": BLOCKS // 10,
    "keep.echo->ears": BLOCKS // 10,
}
STANDSTILL_S = 3.0
AUDIO = AudioFormat(48_000, 1, max_block_frames=1500)
BYTES = BytesFormat(max_bytes=100)


class Peak(msgspec.Struct):
    peak: float
    history: list[float]
    samples: np.ndarray


class Ramp(Source):
    out = Output(AUDIO)

    def produce(self) -> Iterator[None]:
        small, large = (np.full((frames, 1), 0.5, np.float32) for frames in (64, 1500))
        for number in range(BLOCKS):
            # Some are copied on receipt, some are views.
            self.out.send(FlowData(large if number % 3 else small, metadata={"number": number}))
            yield


class Level(Module):
    audio = Input(AUDIO)
    peak = Output(StructFormat(Peak))

    def process(self, audio):
        assert audio.metadata is not None
        return Peak(peak=float(np.max(audio.samples)), history=[1.0, 2.0], samples=audio.samples[:4].copy())


class Keep(Module):
    audio = Input(AUDIO, window_frames=500, hop_frames=400)
    words = Input(BYTES)
    echo = Output(BYTES)

    def process_audio(self, audio):
        self.kept = audio

    def process_words(self, words):
        self.echo.send(words)


class Show(Module):
    peak = Input(StructFormat(Peak))

    def process(self, peak):
        self.last = peak.data.peak


class Damage:
    """What is done to the memory of one flow, and where."""

    def __init__(self, flow: DataFlowCoordinator, chance: random.Random, count: int) -> None:
        self.chance = chance
        self.count = count
        self.done: list[str] = []
        self.parts: list[tuple[str, int, int, int]] = []  # name, descriptor, offset, bytes
        layout = flow._execution.layouts[0]
        for pipeline_id, wiring in layout.wirings.items():
            lane = wiring.lanes[0]
            segment = layout.segments[lane.ring.segment].descriptor
            slots = 0 if wiring.fused else BUFFER_SIZE + 2
            header, whole = _native.ring_bytes(0, 0), _native.ring_bytes(slots, 1)
            statistics = _native.ring_bytes(0, 1) - header
            self.parts.append((f"header of {pipeline_id}", segment, lane.ring.offset, header))
            self.parts.append((f"statistics of {pipeline_id}", segment, lane.ring.offset + header, statistics))
            if slots:
                begin = lane.ring.offset + header + statistics
                self.parts.append((f"slots of {pipeline_id}", segment, begin, whole - header - statistics))
                self.parts.append((f"buffers of {pipeline_id}", segment, lane.pool.offset, 600))
        for name, bell in layout.bells.items():
            self.parts.append(
                (f"bell of {name}", layout.segments[bell.segment].descriptor, bell.offset, _native.BELL_BYTES)
            )

    def do(self) -> None:
        for _ in range(self.count):
            self._once()
            os.sched_yield()

    def _once(self) -> None:
        chance = self.chance
        name, descriptor, offset, size = chance.choice(self.parts)
        kind = chance.choice(["bit", "word", "zeros", "ones", "foreign"])
        size = {"bit": 1, "word": 8}.get(kind, min(size, chance.choice([64, 256])))
        at = offset + chance.randrange(self._size_of(name) // size) * size
        if kind == "bit":
            new = bytes([os.pread(descriptor, 1, at)[0] ^ 1 << chance.randrange(8)])
        elif kind == "word":
            new = chance.randbytes(8)
        elif kind == "foreign":
            other = chance.choice(self.parts)
            new = os.pread(other[1], min(size, other[3]), other[2])
        else:
            new = (b"\0" if kind == "zeros" else b"\xff") * size
        os.pwrite(descriptor, new, at)
        self.done.append(f"{kind} at {at - offset} in {name}")

    def _size_of(self, name: str) -> int:
        return next(size for part, _, _, size in self.parts if part == name)


def receive_all(pipeline, problems: list[BaseException]) -> None:
    try:
        while True:
            pipeline.receive().metadata
    except (EndOfStream, PipelineClosed):
        pass  # where the end of the stream was damaged, the end of the flow comes instead
    except FlowError as problem:
        problems.append(problem)


def send_all(pipeline, problems: list[BaseException]) -> None:
    try:
        for number in range(BLOCKS // 10):
            pipeline.send(FlowData(b"word", metadata={"number": number}))
    except FlowError as problem:
        problems.append(problem)
    finally:
        pipeline.end()  # nobody else does, and the flow would wait for it


def wait_while_it_goes_on(flow: DataFlowCoordinator) -> bool:
    """Wait for the end of the flow; False: it stands still, as it does where the damage made it pause."""
    before = None
    while not flow.wait(STANDSTILL_S):
        now = [(metrics.sent, metrics.delivered) for metrics in flow.report().pipelines.values()]
        if now == before:
            return False
        before = now
    return True


def run(seed: int, placement: str, most: int) -> dict[str, object]:
    chance = random.Random(seed)
    problems: list[BaseException] = []
    went_on = True
    paused: list[str] = []
    with DataFlowCoordinator(f"hostile-{seed}") as flow:
        ramp = flow.add(Ramp(), name="ramp")
        level = flow.add(Level(), name="level", placement=placement, worker="other")
        keep = flow.add(Keep(), name="keep", worker="third")
        show = flow.add(Show(), name="show", worker="third")
        flow.connect(ramp.out, level.audio, buffer_size=BUFFER_SIZE)
        flow.connect(ramp.out, keep.audio, buffer_size=BUFFER_SIZE)
        flow.connect(level.peak, show.peak, buffer_size=BUFFER_SIZE)
        config = PipelineConfig(buffer_size=BUFFER_SIZE)
        words = flow.pipeline(flow.register_pipeline("app", "keep.words", config))
        # Where the receiver has met damage, nobody receives any more.
        unhindered = PipelineConfig(buffer_size=BUFFER_SIZE, backpressure_strategy=DropOldest())
        echo = flow.pipeline(flow.register_pipeline("keep.echo", "ears", unhindered))
        threads = [
            threading.Thread(target=receive_all, args=(echo, problems), daemon=True),
            threading.Thread(target=send_all, args=(words, problems), daemon=True),
        ]
        try:
            flow.start()
            damage = Damage(flow, chance, chance.randint(1, most))
            for thread in threads:
                thread.start()
            begin = chance.randrange(BLOCKS)
            ring = flow.pipeline("ramp.out->level.audio").rings[0]
            while ring.counters()["sent"] < begin and not flow.wait(0.001):
                pass
            damage.do()
            went_on = wait_while_it_goes_on(flow)
            paused = [name for name in SENT if flow.pipeline(name).paused]
            flow.stop()
        except FlowFailed as failed:
            problems.extend(failed.exceptions)
        report = flow.report()
        assert str(report), "whatever the counters hold"
        report.to_dict()
        workers = [worker.pid for worker in flow.workers.values()]
    for thread in threads:
        thread.join()
    return {
        "seed": seed,
        "damage": damage.done,
        "errors": [f"{type(problem).__name__}: {problem}" for problem in problems],
        "went_on": went_on,
        "paused": paused,
        "accounts": {name: [each.sent, each.delivered, each.dropped_total] for name, each in report.pipelines.items()},
        "workers": workers,
    }


def main(seed: int, rounds: int, placement: str, most: int) -> None:
    for number in range(rounds):
        print(json.dumps({"seed": seed + number}), flush=True)
        print(json.dumps(run(seed + number, placement, most)), flush=True)
    print(json.dumps({"ended": True}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
