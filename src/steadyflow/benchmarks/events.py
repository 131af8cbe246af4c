"""
Events: from publishing to the beginning of the callback, at 1 kHz.

Four figures: on a quiet machine; with two computing processes on each core; with a computing thread in the same interpreter, where
its lock decides; and what a worker that is killed comes to, beside a thread that waits for a process. The peer is what one writes by hand: a queue, and a thread that waits at it. It has no types, bounds, or subscribers
that could be slow.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from steadyflow.benchmarks.harness import (
    FULL,
    QUICK,
    Contestant,
    Effort,
    Figure,
    Measured,
    Recording,
    Result,
    Say,
    Target,
    Workload,
    busy_cores,
    silent,
)
from steadyflow.data import Block
from steadyflow.events import LIMITS_MS, Delivery, FlowEvent, PipelineFailure, TypedEventBus
from steadyflow.formats import BytesFormat
from steadyflow.module import Input, Module, Output, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["run"]


def run(quick: bool = False, *, effort: Effort | None = None, say: Say = silent) -> Result:
    """Measure delivery, quiet, busy, and beside a computing thread."""
    effort = effort or (QUICK if quick else FULL)
    recording = Recording("events", effort, say)
    quantity = "from publishing to the callback"
    recording.compare("events, quiet", quantity, _CONTESTANTS, effort.paced(), counted="events", targets=_targets)
    with busy_cores(per_core=2, limit_s=3600):
        recording.compare(
            "events, two busy processes per core",
            quantity,
            _CONTESTANTS,
            effort.paced(),
            counted="events",
            targets=_targets,
        )
    recording.compare("events, beside a computing thread", quantity, _BESIDE_A_THREAD, effort.paced(), counted="events")
    kills = Workload(max(3, effort.paced_blocks // 200), warm_up_blocks=1)
    recording.compare(
        "a worker is killed", "until the callback", _KILLED, kills, counted="kills", targets=_targets_of_kills
    )
    return recording.result()


def _targets(figure: Figure) -> list[Target]:
    targets = []
    for delivery, limit_ms in LIMITS_MS.items():
        took_ns = figure.row(f"steadyflow, {delivery}").values_ns.get("p99")
        text = f"{delivery}: p99 at most {limit_ms:g} ms"
        measured = "not measured" if took_ns is None else f"{took_ns / 1e3:.3g} µs"
        targets.append(Target(text, measured, None if took_ns is None else took_ns <= limit_ms * 1e6))
    return targets


def _targets_of_kills(figure: Figure) -> list[Target]:
    took_ns = figure.rows[0].values_ns.get("p99")
    text = "a dead worker is told within 1 ms of its being known, at p99"
    measured = "not measured" if took_ns is None else f"{took_ns / 1e3:.3g} µs"
    return [Target(text, measured, None if took_ns is None else took_ns <= 1e6)]


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticalTick(FlowEvent):
    """An event of the critical class."""

    delivery: ClassVar[Delivery] = "critical"


@dataclass(frozen=True, kw_only=True, slots=True)
class HighTick(FlowEvent):
    """An event of the high class."""

    delivery: ClassVar[Delivery] = "high"


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalTick(FlowEvent):
    """An event of the normal class."""


_KINDS: Final[dict[Delivery, type[FlowEvent]]] = {"critical": CriticalTick, "high": HighTick, "normal": NormalTick}


def _at_pace(work: Workload) -> Iterator[None]:
    due_ns = time.monotonic_ns()
    for _ in range(work.all_blocks):
        due_ns += work.interval_ns
        wait_ns = due_ns - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        yield


class _Arrivals:
    """Notes how long events were on their way."""

    def __init__(self, work: Workload) -> None:
        self._work = work
        self._took_ns: list[float] = []
        self._complete = threading.Event()

    def note(self, published_ns: int) -> None:
        self._took_ns.append(time.monotonic_ns() - published_ns)
        if len(self._took_ns) == self._work.all_blocks:
            self._complete.set()

    def measured(self) -> Measured:
        if not self._complete.wait(60):
            raise RuntimeError(f"expected {self._work.all_blocks} events, got {len(self._took_ns)}")
        return Measured(self._took_ns[self._work.warm_up_blocks :])


def _on_the_bus(work: Workload, delivery: Delivery) -> Measured:
    bus = TypedEventBus("bench")
    arrivals = _Arrivals(work)
    bus.subscribe(_KINDS[delivery], lambda event: arrivals.note(event.timestamp_ns), queue_size=work.all_blocks)
    for _ in _at_pace(work):
        bus.publish(_KINDS[delivery](flow="bench"))
    measured = arrivals.measured()
    bus.close()
    return measured


def critical(work: Workload) -> Measured:
    """Publish critical events."""
    return _on_the_bus(work, "critical")


def high(work: Workload) -> Measured:
    """Publish events of the high class."""
    return _on_the_bus(work, "high")


def normal(work: Workload) -> Measured:
    """Publish events of the normal class."""
    return _on_the_bus(work, "normal")


class _Ticks(Source):
    """Publishes events at a pace, in whatever worker it is."""

    out = Output(BytesFormat(8))

    def __init__(self, events: int, interval_ns: int) -> None:
        self._work = Workload(events, 0, interval_ns)

    def produce(self) -> Iterator[None]:
        for _ in _at_pace(self._work):
            self.publish(CriticalTick())
            yield


class _Nothing(Module):
    """Where no block ever comes."""

    data = Input(BytesFormat(8))

    def process(self, data: Block) -> None:
        """Take a block."""


def from_a_process(work: Workload) -> Measured:
    """Publish critical events in a process worker."""
    from steadyflow import DataFlowCoordinator

    arrivals = _Arrivals(work)
    with DataFlowCoordinator("bench") as flow:
        ticks = flow.add(_Ticks(work.all_blocks, work.interval_ns), placement="process")
        nothing = flow.add(_Nothing())
        flow.connect(ticks.out, nothing.data, buffer_size=2)
        flow.events.subscribe(CriticalTick, lambda event: arrivals.note(event.timestamp_ns), queue_size=work.all_blocks)
        flow.start()
        measured = arrivals.measured()
        flow.stop()
    return measured


def by_hand(work: Workload) -> Measured:
    """Put times into a queue, and wait for them in a thread."""
    arrivals = _Arrivals(work)
    times: queue.SimpleQueue[int] = queue.SimpleQueue()

    def listen() -> None:
        while True:
            arrivals.note(times.get())

    threading.Thread(target=listen, daemon=True).start()
    for _ in _at_pace(work):
        times.put(time.monotonic_ns())
    return arrivals.measured()


def _beside_a_thread(measure: Callable[[Workload], Measured], work: Workload) -> Measured:
    def compute() -> None:
        while True:
            sum(range(1000))

    threading.Thread(target=compute, daemon=True).start()
    return measure(work)


def critical_beside_a_thread(work: Workload) -> Measured:
    """Publish critical events while another thread computes."""
    return _beside_a_thread(critical, work)


def by_hand_beside_a_thread(work: Workload) -> Measured:
    """Use a queue while another thread computes."""
    return _beside_a_thread(by_hand, work)


def _kill_a_worker() -> tuple[int, int]:
    """Kill a process worker; return when it was killed and when that was called back, both after the event, in ns."""
    from steadyflow import DataFlowCoordinator
    from steadyflow.errors import FlowFailed

    called_ns: list[tuple[int, int]] = []
    told = threading.Event()

    def note(event: PipelineFailure) -> None:
        called_ns.append((time.monotonic_ns(), event.timestamp_ns))
        told.set()

    with contextlib.suppress(FlowFailed), DataFlowCoordinator("bench") as flow:
        ticks = flow.add(_Ticks(1 << 30, 1_000_000), placement="process")
        flow.connect(ticks.out, flow.add(_Nothing()).data, buffer_size=2)
        flow.events.subscribe(PipelineFailure, note)
        flow.start()
        pid = next(worker.pid for worker in flow.workers.values() if worker.pid != os.getpid())
        assert pid is not None
        killed_ns = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        if not told.wait(60):
            raise RuntimeError("expected to be told of a worker that was killed")
    called, published = called_ns[0]
    return called - killed_ns, called - published


def killed(work: Workload) -> Measured:
    """From the event of a worker's death to its callback."""
    return Measured([float(_kill_a_worker()[1]) for _ in range(work.all_blocks)][work.warm_up_blocks :])


def killed_since_the_signal(work: Workload) -> Measured:
    """From the signal to the callback."""
    return Measured([float(_kill_a_worker()[0]) for _ in range(work.all_blocks)][work.warm_up_blocks :])


def waited_for(work: Workload) -> Measured:
    """From the signal to a thread that waits for an interpreter that does nothing."""
    took_ns: list[float] = []
    for _ in range(work.all_blocks):
        process = subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"], stdin=-1, stdout=-1)
        assert process.stdout is not None
        process.stdout.readline()
        back_ns: list[int] = []

        def wait(process: subprocess.Popen[bytes] = process, back_ns: list[int] = back_ns) -> None:
            process.wait()
            back_ns.append(time.monotonic_ns())

        waiting = threading.Thread(target=wait)
        waiting.start()
        killed_ns = time.monotonic_ns()
        process.kill()
        waiting.join()
        took_ns.append(back_ns[0] - killed_ns)
        process.communicate()
    return Measured(took_ns[work.warm_up_blocks :])


_CONTESTANTS: Final = [
    Contestant("steadyflow, critical", critical, note="one subscriber"),
    Contestant("steadyflow, high", high, note="one subscriber"),
    Contestant("steadyflow, normal", normal, note="one subscriber"),
    Contestant("steadyflow, from a process", from_a_process, note="critical, published in a process worker"),
    Contestant("SimpleQueue and a thread", by_hand, note="without types, bounds, other subscribers"),
]
_BESIDE_A_THREAD: Final = [
    Contestant("steadyflow, critical", critical_beside_a_thread, note="both wait for the interpreter lock"),
    Contestant("SimpleQueue and a thread", by_hand_beside_a_thread, note="so does this one"),
]
_KILLED: Final = [
    Contestant("steadyflow, since it is known", killed, note="from the event to the callback"),
    Contestant(
        "steadyflow, since the signal",
        killed_since_the_signal,
        note="most of it is the system's taking the process apart",
    ),
    Contestant(
        "a thread in wait()", waited_for, note="since the signal; a small process, without memory that is shared"
    ),
]
