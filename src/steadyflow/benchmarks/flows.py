"""Our side: the modules that the cases put into their flows.

In a file of their own, so that a process worker imports them and nothing else.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyflow import AudioFormat, Block, DataFlowCoordinator, Input, Module, Output, Source, Wait
from steadyflow.benchmarks.blocks import BUFFER_BLOCKS, WINDOW_BLOCKS, per_block_ns, stamp_of, stamped_block
from steadyflow.benchmarks.harness import Measured, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FORMAT", "Arrivals", "Beat", "Pass", "run_flow"]

FORMAT = AudioFormat(48_000, 1)

_POLICIES = {os.SCHED_FIFO: "SCHED_FIFO", os.SCHED_RR: "SCHED_RR"}


class Beat(Source):
    """Sends blocks: as fast as they are taken, or a stamped one each `interval_ns`."""

    out = Output(FORMAT)

    def __init__(self, blocks: int, interval_ns: int) -> None:
        self.blocks = blocks
        self.interval_ns = interval_ns

    def produce(self) -> Iterator[int | None]:
        """Send on an absolute schedule."""
        samples, stamps = stamped_block()
        due_ns = time.monotonic_ns()
        for _ in range(self.blocks):
            if self.interval_ns:
                due_ns += self.interval_ns
                yield due_ns
                stamps[0] = time.monotonic_ns()
                self.out.send(samples)
            else:
                self.out.send(samples)
                yield None


class Pass(Module):
    """The trivial module: what comes, goes on."""

    audio = Input(FORMAT)
    out = Output(FORMAT)

    def process(self, audio: Block) -> Block:
        """Return the block."""
        return audio


class Arrivals(Module):
    """Takes the times of arrival and writes them to a file at the end, since it may live in another process.

    Args:
        path: The file: a JSON list, and the scheduling policy that it ran under.
        paced: Note each block's time on its way (ns); otherwise the time after each window of blocks (ns).
    """

    audio = Input(FORMAT)

    def __init__(self, path: str, paced: bool) -> None:
        self.path = path
        self.paced = paced
        self.count = 0
        self.times_ns: list[int] = []
        self.policy = 0

    def setup(self) -> None:
        """Note the scheduling policy of the thread that will call `process`."""
        self.policy = os.sched_getscheduler(0)

    def process(self, audio: Block) -> None:
        """Read the clock first of all."""
        if self.paced:
            now_ns = time.monotonic_ns()
            self.times_ns.append(now_ns - stamp_of(audio.samples))
            return
        self.count += 1
        if self.count % WINDOW_BLOCKS == 0:
            self.times_ns.append(time.monotonic_ns())

    def teardown(self) -> None:
        """Write the file."""
        Path(self.path).write_text(json.dumps([self.policy, self.times_ns]), encoding="utf-8")


def run_flow(
    work: Workload,
    *,
    modules_between: int = 0,
    between: Callable[[], Module] = Pass,
    between_options: dict[str, Any] | None = None,
    links: dict[str, Any] | None = None,
    source: dict[str, Any] | None = None,
    sink: dict[str, Any] | None = None,
) -> Measured:
    """Run beat -> (stage ...) -> arrivals to its end.

    Args:
        work: How many blocks, and how fast.
        modules_between: How many modules there are on the way.
        between: Makes one of them.
        between_options: How `flow.add` places them.
        links: How `flow.connect` links them, besides their room and rule.
        source: How `flow.add` places the first module: `placement`, `worker`, `realtime`.
        sink: The same for the last one.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "arrivals.json")
        with DataFlowCoordinator("bench") as flow:
            output = flow.add(Beat(work.all_blocks, work.interval_ns), name="beat", **(source or {})).out
            for index in range(modules_between):
                stage: Any = flow.add(between(), name=f"stage{index + 1}", **(between_options or {}))
                flow.connect(
                    output, stage.audio, buffer_size=BUFFER_BLOCKS, backpressure_strategy=Wait(), **(links or {})
                )
                output = stage.out
            arrivals = flow.add(Arrivals(str(path), paced=work.interval_ns > 0), name="arrivals", **(sink or {}))
            last = flow.connect(output, arrivals.audio, buffer_size=BUFFER_BLOCKS, backpressure_strategy=Wait())
            flow.run()
            metrics = flow.get_flow_metrics(last)
        policy, times_ns = json.loads(path.read_text(encoding="utf-8"))
    facts = {
        "scheduling": _POLICIES.get(policy & ~os.SCHED_RESET_ON_FORK, "default"),
        "sent": metrics.sent,
        "delivered": metrics.delivered,
        "dropped": metrics.dropped_total,
        "late": metrics.late,
        "own_latency_p50_ms": metrics.latency_p50_ms,
        "own_latency_p99_ms": metrics.latency_p99_ms,
        "own_latency_p999_ms": metrics.latency_p999_ms,
        "own_latency_max_ms": metrics.latency_max_ms,
    }
    samples_ns = times_ns[work.warm_up_blocks :] if work.interval_ns else per_block_ns(times_ns, work)
    return Measured(samples_ns, facts)
