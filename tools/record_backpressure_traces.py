"""
Record what looks at a pipeline find every 10 ms while a flow runs, for the tests of detectors: tests/data/backpressure/<name>.csv.

    .venv/bin/python tools/record_backpressure_traces.py            all of them
    .venv/bin/python tools/record_backpressure_traces.py burst stall

A source sends a block every ms; a consumer takes as long for each as the trace says. Both are threads of this process, which should have
a core for itself. How long the oldest block has waited is told by when the source had sent the block of that number.
"""

from __future__ import annotations

import contextlib
import csv
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from steadyflow import BytesFormat, DataFlowCoordinator, DropOldest, Input, Module, Output, Source, Spill, Wait
from steadyflow.backpressure.reading import Reading

FOLDER = Path(__file__).parents[1] / "tests" / "data" / "backpressure"
FORMAT = BytesFormat(max_bytes=64)
MS = 1_000_000
LOOK_NS = 10 * MS
WARM_UP_NS = 300 * MS
SPIN_NS = 80_000  # a thread sleeps longer than it asks for, by about as much


@dataclass
class Trace:
    """
    What is recorded.

    Args:
        about: In words, for the file's header.
        cost_ms: What a block costs the consumer, by the time in ms since the recording began.
        buffer_size: How many blocks may wait.
        rule: What happens when it is full.
        length_ms: How long it is recorded.
        onset_ms: When the consumer begins to be too slow; None: never.
        relief_ms: When it ceases to be; None: never.
        bursts_ms: When `burst` more blocks come at once.
        burst: How many.
        jitter: By what share of its period a block may come too early or too late.
        makes_up: Whether the source sends at once what it is late with, or else goes on from there.
    """

    about: str
    cost_ms: Callable[[float], float]
    buffer_size: int = 8
    rule: object = field(default_factory=DropOldest)
    length_ms: int = 1_500
    onset_ms: int | None = None
    relief_ms: int | None = None
    bursts_ms: tuple[int, ...] = ()
    burst: int = 0
    jitter: float = 0.0
    makes_up: bool = True


def overload(since_ms, until_ms=10**9, otherwise_ms=0.5):
    """Half of what comes could be more; from one moment to another, twice as much comes as is taken."""
    return lambda at_ms: 2.0 if since_ms <= at_ms < until_ms else otherwise_ms


TRACES = {
    "steady": Trace("90 % load", lambda at_ms: 0.9, buffer_size=16, length_ms=2_500),
    "jitter": Trace("70 % load, blocks up to 5 ms early or late", lambda at_ms: 0.7, 16, jitter=5.0, length_ms=2_500),
    "burst": Trace(
        "50 % load, and four times 12 blocks at once",
        lambda at_ms: 0.5,
        32,
        bursts_ms=(300, 650, 1_003, 1_348),
        burst=12,
    ),
    "onset_drop_oldest": Trace("twice too much, the oldest is dropped", overload(503), onset_ms=503),
    "onset_wait": Trace("twice too much, the source waits", overload(503), rule=Wait(), onset_ms=503),
    "onset_large": Trace("twice too much, where much may wait", overload(503), 64, onset_ms=503, length_ms=1_000),
    "relief_drop_oldest": Trace(
        "twice too much for 0.7 s, the oldest is dropped",
        overload(303, 1_003),
        onset_ms=303,
        relief_ms=1_003,
        length_ms=2_000,
    ),
    "relief_wait": Trace(
        "twice too much for 0.7 s, the source waits",
        overload(303, 1_003),
        rule=Wait(),
        onset_ms=303,
        relief_ms=1_003,
        length_ms=2_000,
        makes_up=False,
    ),
    "backlog": Trace(
        "twice too much for 0.7 s, and all of it waits",
        overload(303, 1_003, 0.75),
        400,
        onset_ms=303,
        relief_ms=1_003,
        length_ms=2_400,
    ),
    "backlog_on_disk": Trace(
        "twice too much for 0.7 s, and most of it waits on disk",
        overload(303, 1_003, 0.75),
        rule=Spill("blocks.spool", 1 << 20),
        onset_ms=303,
        relief_ms=1_003,
        length_ms=2_400,
    ),
    "stall": Trace(
        "nothing is taken for 0.3 s, the oldest is dropped",
        lambda at_ms: 300.0 if 503 <= at_ms < 700 else 0.5,
        16,
        onset_ms=503,
        relief_ms=803,
    ),
    "stall_wait": Trace(
        "nothing is taken for 0.3 s, the source waits",
        lambda at_ms: 300.0 if 503 <= at_ms < 700 else 0.5,
        16,
        Wait(),
        onset_ms=503,
        relief_ms=803,
        makes_up=False,
    ),
}


class Recording:
    """What the ends of the flow and the recorder share."""

    def __init__(self, trace):
        self.trace = trace
        self.began_ns = time.monotonic_ns() + 10**18
        self.sent_ns = []  # by number
        self.sending_ns = 0  # since when the source sends; 0: it does not

    def now_ms(self):
        return (time.monotonic_ns() - self.began_ns) / MS


class Paced(Source):
    """Sends a block every ms."""

    out = Output(FORMAT)
    live = False

    def __init__(self, recording):
        self.recording = recording

    def send(self):
        self.recording.sending_ns = time.monotonic_ns()
        self.out.send(b"block")
        self.recording.sent_ns.append(time.monotonic_ns())
        self.recording.sending_ns = 0

    def produce(self):
        recording, trace = self.recording, self.recording.trace
        chance = random.Random(7)
        bursts_ms = list(trace.bursts_ms)
        due_ns = time.monotonic_ns()
        while True:
            self.send()
            if bursts_ms and recording.now_ms() >= bursts_ms[0]:
                del bursts_ms[0]
                for _ in range(trace.burst):
                    self.send()
            due_ns = (due_ns if trace.makes_up else max(due_ns, time.monotonic_ns())) + MS
            yield due_ns + round(trace.jitter * chance.uniform(-1, 1) * MS)


class Slow(Module):
    """Takes its time for each block, and no more for having slept too long before."""

    data = Input(FORMAT)

    def __init__(self, recording):
        self.recording = recording
        self.free_ns = 0

    def process(self, block):
        now_ns = time.monotonic_ns()
        if now_ns - self.free_ns > MS // 5:
            self.free_ns = now_ns
        self.free_ns += round(self.recording.trace.cost_ms(self.recording.now_ms()) * MS)
        sleep_until(self.free_ns)


def sleep_until(moment_ns):
    rest_ns = moment_ns - time.monotonic_ns() - SPIN_NS
    if rest_ns > 0:
        time.sleep(rest_ns / 1e9)
    while time.monotonic_ns() < moment_ns:
        pass


def look(pipe, recording):
    """Read the pipeline as flow control does."""
    (ring,) = pipe.rings
    counters = ring.counters()
    now_ns = time.monotonic_ns()
    waiting, sent, sending_ns = counters["fill"], counters["sent"], recording.sending_ns
    oldest = sent - waiting
    known = waiting and oldest < len(recording.sent_ns)
    # A send that waits for room takes ms, any other one takes µs.
    still_ns = now_ns - sending_ns if sending_ns and now_ns - sending_ns > MS // 5 else 0
    return Reading(
        at_ns=now_ns - recording.began_ns,
        sent=sent,
        delivered=counters["delivered"],
        dropped=sum(counters["dropped"].values()),
        waiting=waiting,
        fill=waiting / pipe.buffer_size,
        sojourn_ns=max(1, now_ns - recording.sent_ns[oldest]) if known else int(waiting > 0),
        blocked_ns=counters["blocked_ns"] + still_ns,
        full_events=counters["full_events"],
        spilled=0 if pipe.spool_counts is None else pipe.spool_counts().depth_blocks,
    )


def record(trace):
    recording = Recording(trace)
    readings = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), DataFlowCoordinator("trace") as flow:
        source = flow.add(Paced(recording), name="source", worker="source")
        slow = flow.add(Slow(recording), name="slow", worker="slow")
        pipe = flow.connect(source.out, slow.data, buffer_size=trace.buffer_size, backpressure_strategy=trace.rule)
        flow.start()
        sleep_until(time.monotonic_ns() + WARM_UP_NS)
        recording.began_ns = time.monotonic_ns()
        for number in range(trace.length_ms * MS // LOOK_NS):
            sleep_until(recording.began_ns + number * LOOK_NS)
            readings.append(look(pipe, recording))
        flow.stop()
    return readings


def write(name, trace, readings):
    path = FOLDER / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# {trace.about}; {type(trace.rule).__name__}, a block every ms, {trace.buffer_size} may wait\n")
        for moment in ("onset_ms", "relief_ms"):
            at_ms = getattr(trace, moment)
            file.write(f"# {moment}: {'never' if at_ms is None else at_ms}\n")
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(Reading._fields)
        rows.writerows(reading._replace(fill=round(reading.fill, 4)) for reading in readings)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or TRACES:
        readings = record(TRACES[name])
        write(name, TRACES[name], readings)
        fullest = max(readings, key=lambda reading: reading.fill)
        print(
            f"{name}: {len(readings)} looks, {fullest.fill:.0%} of the room taken at most, at {fullest.at_ns / MS:.0f} ms"
        )


if __name__ == "__main__":
    main()
