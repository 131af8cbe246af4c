"""Our side: a source and a module in two threads, and a pipeline between them with the rule that is measured."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steadyflow import AudioFormat, Block, DataFlowCoordinator, Input, Module, Output, Pipeline, PipelineFull, Source
from steadyflow.benchmarks.backpressure.load import Load
from steadyflow.benchmarks.backpressure.record import Look, Record, Told
from steadyflow.benchmarks.backpressure.rules import RULES, Context
from steadyflow.benchmarks.blocks import BLOCK_FRAMES, stamp_of, stamped_block
from steadyflow.benchmarks.harness import Measured, Workload
from steadyflow.events import BackpressureDetected, BackpressureRelieved, QualityChanged, StrategyChanged

if TYPE_CHECKING:
    from steadyflow.events import FlowEvent

__all__ = ["measure_rule"]

_FORMAT = AudioFormat(48_000, 1, max_block_frames=BLOCK_FRAMES)


class Offers(Source):
    """Sends what the load says. It shares its record with the program, so it is placed in a thread."""

    out = Output(_FORMAT)

    def __init__(self, record: Record) -> None:
        self.record = record
        self.live = record.live

    def produce(self) -> Iterator[int | None]:
        """Send in bursts; the runtime waits between them."""
        samples, stamps = stamped_block()
        send = self.out.send
        for burst in self.record.load.bursts(live=self.live):
            yield burst.due_ns
            self.record.begin(burst)
            for _ in range(burst.blocks):
                stamps[0] = time.monotonic_ns()
                try:
                    send(samples)
                except PipelineFull:
                    self.record.refused += 1


class Takes(Module):
    """The consumer that needs its time for each block."""

    audio = Input(_FORMAT)

    def __init__(self, record: Record) -> None:
        self.record = record

    def process(self, audio: Block) -> None:
        """Note it, and be busy."""
        self.record.take(stamp_of(audio.samples))


def measure_rule(work: Workload, *, rule: str, load: Mapping[str, Any], trace: bool = False) -> Measured:
    """Measure one of the `RULES` under a load."""
    entry = RULES[rule]
    record = Record(Load(**load), live=entry.live, trace=trace)
    with tempfile.TemporaryDirectory() as folder, DataFlowCoordinator("bench") as flow:
        offers = flow.add(Offers(record), name="offers", worker="offers")
        takes = flow.add(Takes(record), name="takes", worker="takes")
        context = Context(Path(folder), entry.live, record.load)
        pipe = flow.connect(
            offers.out, takes.audio, buffer_size=record.load.room, backpressure_strategy=entry.make(context)
        )
        watched = _Watched(
            [pipe] if pipe.spool_counts is None else [flow.pipeline("offers.out->takes_spool.data"), pipe]
        )
        for kind, event_class in _KINDS:
            flow.events.subscribe(event_class, functools.partial(_note, record.told, kind))
        record.watch(watched.look)
        flow.run()
        record.end_watch()
        dropped = watched.dropped_in_the_end()
    measured = record.measured(dropped)
    measured.facts["detect_ms"] = record.until_detected()
    measured.facts["relief_ms"] = record.until_relieved()
    return measured


_KINDS: Final[tuple[tuple[str, type[FlowEvent]], ...]] = (
    ("detected", BackpressureDetected),
    ("relieved", BackpressureRelieved),
    ("changed", StrategyChanged),
    ("changed", QualityChanged),
)


def _note(told: list[Told], kind: str, event: FlowEvent) -> None:
    match event:
        case BackpressureDetected():
            what = event.detector
        case StrategyChanged() | QualityChanged():
            what = event.after
        case _:
            what = ""
    told.append(Told(kind, event.timestamp_ns, what, str(getattr(event, "pipeline", ""))))


class _Watched:
    """The way to the consumer: pipelines, whose rings may be replaced while it runs and are gone in the end, and perhaps a spool."""

    def __init__(self, pipes: Sequence[Pipeline]) -> None:
        self._pipes = pipes
        self._latest = Look(0, {})

    def look(self) -> Look:
        readings = [counted.counters() for pipe in self._pipes for counted in pipe.counted]
        if readings:
            waiting, spooled = self._spooled()
            dropped = {reason: sum(each["dropped"][reason] for each in readings) for reason in readings[0]["dropped"]}
            self._latest = Look(sum(each["fill"] for each in readings) + waiting, dropped | spooled)
        return self._latest

    def dropped_in_the_end(self) -> dict[str, int]:
        dropped: dict[str, int] = {}
        for pipe in self._pipes:
            for reason, count in pipe.statistics().dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        return dropped | self._spooled()[1]

    def _spooled(self) -> tuple[int, dict[str, int]]:
        """Return how many blocks wait in the spool, and what it has dropped."""
        spool = self._pipes[-1].spool_counts
        if spool is None:
            return 0, {}
        counts = spool()
        return counts.depth_blocks, {"by the spool": counts.dropped_blocks}
