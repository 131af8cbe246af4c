"""What one writes by hand: a bounded queue of Python between two threads, and a rule at the end that puts."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from steadyflow.benchmarks.backpressure.load import Load
from steadyflow.benchmarks.backpressure.record import Look, Record
from steadyflow.benchmarks.blocks import stamp_of, stamped_block
from steadyflow.benchmarks.harness import Measured, Workload

__all__ = ["Peer", "measure_culsans", "measure_peer", "measure_queue"]

_Samples = npt.NDArray[np.float32]


class Peer(ABC):
    """A bounded queue between two threads, with a rule."""

    @abstractmethod
    def put(self, samples: _Samples) -> None:
        """Put a copy of a block, without waiting."""

    @abstractmethod
    def take(self) -> int | None:
        """Wait for a block; return the time that was written into it, or None after the last one."""

    @abstractmethod
    def look(self) -> Look:
        """Return what waits, and what was dropped so far."""

    @abstractmethod
    def end(self) -> None:
        """Put the end behind the last block; may wait."""


def measure_peer(peer: Peer, load: Load) -> Measured:
    """Measure a peer under a load."""
    record = Record(load, live=True)
    taker = threading.Thread(target=_take, args=(peer, record), daemon=True)
    taker.start()
    record.watch(peer.look)
    samples, stamps = stamped_block()
    put = peer.put
    for burst in load.bursts(live=True):
        wait_ns = burst.due_ns - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        record.begin(burst)
        for _ in range(burst.blocks):
            stamps[0] = time.monotonic_ns()
            put(samples)
    peer.end()
    taker.join()
    record.end_watch()
    return record.measured(peer.look().dropped)


def _take(peer: Peer, record: Record) -> None:
    take = peer.take
    while (sent_ns := take()) is not None:
        record.take(sent_ns)


class _QueuePeer(Peer):
    """A `queue.Queue`, or what has its methods and errors."""

    def __init__(self, blocks: Any, reason: str) -> None:
        self._blocks = blocks
        self._reason = reason
        self._dropped = 0

    def take(self) -> int | None:
        block = self._blocks.get()
        return None if block is None else stamp_of(block)

    def look(self) -> Look:
        return Look(self._blocks.qsize(), {self._reason: self._dropped})

    def end(self) -> None:
        self._blocks.put(None)


class _DropsNewest(_QueuePeer):
    def put(self, samples: _Samples) -> None:
        try:
            self._blocks.put_nowait(samples.copy())
        except queue.Full:
            self._dropped += 1


class _DropsOldest(_QueuePeer):
    def put(self, samples: _Samples) -> None:
        block = samples.copy()
        while True:
            try:
                self._blocks.put_nowait(block)
            except queue.Full:
                try:
                    self._blocks.get_nowait()
                    self._dropped += 1
                except queue.Empty:
                    pass  # its consumer was faster
            else:
                return


_RULES = {"oldest": _DropsOldest, "newest": _DropsNewest}


def measure_queue(work: Workload, *, drop: str, load: Mapping[str, Any]) -> Measured:
    """Measure `queue.Queue` that drops the oldest or the newest block."""
    asked = Load(**load)
    return measure_peer(_RULES[drop](queue.Queue(asked.room), drop), asked)


def measure_culsans(work: Workload, *, drop: str, load: Mapping[str, Any]) -> Measured:
    """Measure the synchronous side of a queue of culsans, whose errors are those of `queue`."""
    import culsans

    asked = Load(**load)
    return measure_peer(_RULES[drop](culsans.Queue(asked.room).sync_q, drop), asked)
