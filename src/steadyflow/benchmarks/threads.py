"""Threads: 512-byte blocks from one thread to another, as fast as they go, ns per block at the receiver."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

from steadyflow.benchmarks.blocks import BUFFER_BLOCKS, receive_unpaced, send_unpaced
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
    silent,
    target_ratio,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

__all__ = ["run"]


def run(quick: bool = False, *, effort: Effort | None = None, say: Say = silent) -> Result:
    """Measure the throughput between two threads."""
    effort = effort or (QUICK if quick else FULL)
    recording = Recording("threads", effort, say)
    recording.compare("thread to thread", "time per block", _CONTESTANTS, effort.unpaced(times=2), targets=_targets)
    return recording.result()


def _targets(figure: Figure) -> list[Target]:
    return [
        target_ratio(figure, "queue.Queue(64)", "mean", 1.5, "queue.Queue(64) takes at least 1.5 times as long"),
        target_ratio(figure, "pyzmq inproc", "mean", 1.0, "pyzmq inproc takes at least as long"),
    ]


def steadyflow_workers(work: Workload) -> Measured:
    """Run a source and a sink, each in a thread of its own."""
    from steadyflow.benchmarks.flows import run_flow

    return run_flow(work, source={"worker": "sender"}, sink={"worker": "receiver"})


def _between_threads(work: Workload, send: Callable[[Any], object], receive: Callable[[], object]) -> Measured:
    sender = threading.Thread(target=send_unpaced, args=(send, work), daemon=True)
    sender.start()
    measured = Measured(receive_unpaced(receive, work))
    sender.join()
    return measured


def queue_copy(work: Workload) -> Measured:
    """Put copies into a bounded queue.Queue."""
    blocks: queue.Queue[Any] = queue.Queue(BUFFER_BLOCKS)

    def send(samples: npt.NDArray[np.float32]) -> None:
        blocks.put(samples.copy())

    return _between_threads(work, send, blocks.get)


def queue_pointer(work: Workload) -> Measured:
    """Put the same array again and again into a bounded queue.Queue."""
    blocks: queue.Queue[Any] = queue.Queue(BUFFER_BLOCKS)
    return _between_threads(work, blocks.put, blocks.get)


def zmq_inproc(work: Workload) -> Measured:
    """Send arrays over inproc sockets that hold as many blocks as the others."""
    return _zmq_inproc(work, high_water_mark=BUFFER_BLOCKS // 2)


def zmq_inproc_default(work: Workload) -> Measured:
    """Send arrays over inproc sockets as they are without settings."""
    return _zmq_inproc(work, high_water_mark=None)


def _zmq_inproc(work: Workload, high_water_mark: int | None) -> Measured:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PAIR) as here, context.socket(zmq.PAIR) as there:
        if high_water_mark:
            # Over inproc the marks of both sides add up.
            here.sndhwm = here.rcvhwm = there.sndhwm = there.rcvhwm = high_water_mark
        here.bind("inproc://threads")
        there.connect("inproc://threads")
        return _between_threads(work, here.send, there.recv)


_CONTESTANTS = [
    Contestant("steadyflow", steadyflow_workers, note="two workers, buffer_size=64: copied, counted, stamped"),
    Contestant("queue.Queue(64)", queue_copy, note="the sender copies the array"),
    Contestant("pyzmq inproc", zmq_inproc, requires="zmq", note="PAIR, 64 blocks; array in, bytes out"),
    Contestant("pyzmq inproc, 2000", zmq_inproc_default, requires="zmq", note="PAIR, its default bound of 2000 blocks"),
    Contestant("queue.Queue(64), pointer", queue_pointer, note="no copy"),
]
