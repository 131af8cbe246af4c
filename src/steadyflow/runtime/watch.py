"""Looks at the pipelines and devices of a running flow while it runs, and publishes what is wrong as long as that can help."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, Protocol

from steadyflow._native import DeviceAccount, ManualTime, monotonic_ns
from steadyflow.events import BudgetExceeded, BudgetRestored, ConsumerSharesLock, DeviceXrun, FlowEvent
from steadyflow.metrics.budgets import LIMIT, BudgetWatch, ConsumerCycles, LockWatch
from steadyflow.metrics.devices import DeviceWatch, missed_deadlines
from steadyflow.metrics.drift import ClockRate
from steadyflow.metrics.flow_metrics import read_worst_block
from steadyflow.metrics.histogram import Histogram
from steadyflow.pipeline import Pipeline

LOOK_INTERVAL_S: Final = 0.05
_LOOKING_S: Final = 0.005


class WatchedPipeline:
    """
    A pipeline that is watched, and what is known of it.

    Args:
        pipeline: The pipeline, which has rings.
        has_budget: Whether its budget is watched.
        deadline_ns: How long a cycle may take; 0: as long as the block lasts.
        may_keep: Whether its consumer keeps blocks back on purpose: then it does not hang where it takes none.
        thread: The worker of its consumer, if that is a thread and the pipeline critical: then its lock is watched.
    """

    def __init__(
        self, pipeline: Pipeline, *, has_budget: bool, deadline_ns: int, may_keep: bool, thread: str | None
    ) -> None:
        self.pipeline = pipeline
        self._deadline_ns = deadline_ns
        self._may_keep = may_keep
        self._thread = thread
        self._budget = BudgetWatch() if has_budget else None
        self._lock = None if thread is None else LockWatch()

    def look(self, flow: str, now_ns: int) -> list[FlowEvent]:
        """Read the pipeline's counters, and return what has changed. Does not disturb it."""
        rings = self.pipeline.rings
        if not rings:  # closed
            return []
        readings = [reading for ring in rings for reading in ring.recent_cycles()]
        period_ns = max(period_ns for _, period_ns, _ in readings)
        events: list[FlowEvent] = []
        if self._budget is not None:
            deadline_ns = self._deadline_ns or period_ns
            consumers = [ConsumerCycles(cycles, shares) for cycles, _, shares in readings]
            for exceeded, share in self._budget.look(now_ns, consumers, self._waits(), deadline_ns):
                events.append(self._changed(flow, exceeded, share, deadline_ns / 1e6))
        blocks = sum(cycles for cycles, _, _ in readings)
        if self._lock is not None and self._lock.is_due(now_ns, blocks):
            events += self._look_at_lock(flow, self._lock, period_ns / 1e6)
        return events

    def _waits(self) -> bool:
        """Tell whether blocks are on their way that somebody should take."""
        if self._may_keep or self.pipeline.paused:
            return False
        readings = [ring.counters() for ring in self.pipeline.rings]
        return any(one["sent"] > one["delivered"] + sum(one["dropped"].values()) for one in readings)

    def _changed(self, flow: str, exceeded: bool, share: float, deadline_ms: float) -> FlowEvent:
        if not exceeded:
            return BudgetRestored(flow=flow, pipeline=self.pipeline.id, share=share, limit=LIMIT)
        return BudgetExceeded(
            flow=flow,
            pipeline=self.pipeline.id,
            share=share,
            limit=LIMIT,
            deadline_ms=deadline_ms,
            worst=read_worst_block(self.pipeline.rings),
        )

    def _look_at_lock(self, flow: str, lock: LockWatch, period_ms: float) -> list[FlowEvent]:
        gil_p99_ms = max(Histogram(*ring.histograms()["gil"]).percentile_ms(99) for ring in self.pipeline.rings)
        if not lock.judge(gil_p99_ms, period_ms):
            return []
        assert self._thread is not None
        module = self.pipeline.target[0]
        return [
            ConsumerSharesLock(
                flow=flow,
                pipeline=self.pipeline.id,
                module=module,
                worker=self._thread,
                gil_p99_ms=gil_p99_ms,
                period_ms=period_ms,
                advice=f"Another thread of this program holds the interpreter lock. Give {module!r} a process of its own: "
                f"add(..., placement='process').",
            )
        ]


class WatchedDevice:
    """
    A device that is watched.

    Args:
        module: The module that it drives.
        account: What its callback counts.
        nominal_hz: The rate that it should have.
    """

    def __init__(self, module: str, account: DeviceAccount, nominal_hz: int) -> None:
        self.rate = ClockRate(nominal_hz)
        """The rate that it has."""
        self._module = module
        self._account = account
        self._watch = DeviceWatch()

    def look(self, flow: str, now_ns: int) -> list[FlowEvent]:
        """Read its account, and return what was missed. Does not disturb it."""
        counts = self._account.counts()
        if counts["cycles"]:
            self.rate.observe(counts["frames"] + counts["lost_frames"], counts["last_cycle_ns"])
        news = self._watch.look(now_ns, missed_deadlines(counts))
        return [] if news is None else [DeviceXrun(flow=flow, module=self._module, **news._asdict())]


class Watched(Protocol):
    """What a `Watch` looks at."""

    def look(self, flow: str, now_ns: int) -> list[FlowEvent]:
        """Return what has changed. Does not disturb the flow."""


class Watch:
    """
    Looks at pipelines and devices every 50 ms, in a thread of its own, from `start` to `end`.

    Args:
        flow: The name of the flow.
        watched: What is looked at; without any, there is no thread.
        publish: Takes events; must not block.
        turns: Where the flow freewheels: the turns that its workers take, which this takes, too.
    """

    def __init__(
        self,
        flow: str,
        watched: Sequence[Watched],
        publish: Callable[[FlowEvent], None],
        turns: ManualTime | None = None,
    ) -> None:
        self._flow = flow
        self._watched = list(watched)
        self._publish = publish
        self._turns = turns
        self._ending = threading.Event()
        self._looking = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, order: int) -> None:
        """Begin to look; by a manual clock as the one who comes in this order."""
        if not self._watched:
            return
        if self._turns is None:
            run: Callable[[], None] = self._run
        else:
            self._turns.expect(1)
            run = partial(self._take_turns, self._turns, order)
        self._thread = threading.Thread(target=run, name="steadyflow-watch", daemon=True)
        self._thread.start()

    def add(self, watched: Iterable[Watched], order: int) -> None:
        """Look at more, while it looks; see `start`."""
        with self._looking:
            self._watched.extend(watched)
        if self._thread is None and not self._ending.is_set():
            self.start(order)

    def discard(self, pipeline: Pipeline) -> None:
        """Look no more at a pipeline."""
        with self._looking:
            self._watched[:] = [
                each for each in self._watched if not (isinstance(each, WatchedPipeline) and each.pipeline is pipeline)
            ]

    def look(self) -> None:
        """Look once. Any thread."""
        now_ns = monotonic_ns() if self._turns is None else self._turns.now_ns
        with self._looking:
            for watched in self._watched:
                for event in watched.look(self._flow, now_ns):
                    self._publish(event)

    def look_at(self, watched: Iterable[Watched]) -> None:
        """Look at some now. Any thread; waits for no more than a moment for one who is looking."""
        if not self._looking.acquire(timeout=_LOOKING_S):
            return
        try:
            now_ns = monotonic_ns() if self._turns is None else self._turns.now_ns
            for each in watched:
                for event in each.look(self._flow, now_ns):
                    self._publish(event)
        finally:
            self._looking.release()

    def end(self, timeout_s: float) -> None:
        """Look for the last time, and end the thread. Idempotent; waits for no longer than `timeout_s`."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ending.set()
        thread.join(timeout_s)
        self.look()

    def _run(self) -> None:
        while not self._ending.wait(LOOK_INTERVAL_S):
            self.look()

    def _take_turns(self, turns: ManualTime, order: int) -> None:
        turns.keep()
        try:
            turns.take_seat(order, follows=True)
            # Until no worker is left.
            while turns.sleep_until(turns.now_ns + round(LOOK_INTERVAL_S * 1e9)):
                self.look()
        finally:
            turns.leave()
