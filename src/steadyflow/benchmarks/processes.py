"""Processes: 512-byte blocks from one process to another.

Three figures: the time per block unpaced; the time on the way at 1 kHz on a quiet machine; the same with two
computing processes on each core. On the way is from the sender's clock before it sends to the receiver's clock after it
received. Peers are two processes, the second one forked; they hand over bytes, and no array is made of them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
from typing import TYPE_CHECKING, Any

from steadyflow.benchmarks.blocks import (
    BLOCK_BYTES,
    BUFFER_BLOCKS,
    receive_latencies,
    receive_unpaced,
    send_paced,
    send_unpaced,
)
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
    target_at_most,
    target_ratio,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import numpy.typing as npt

__all__ = ["run"]

_fork = multiprocessing.get_context("fork")


def run(quick: bool = False, *, effort: Effort | None = None, say: Say = silent) -> Result:
    """Measure throughput, and latency quiet and busy."""
    effort = effort or (QUICK if quick else FULL)
    recording = Recording("processes", effort, say)
    recording.compare(
        "process to process", "time per block", _UNPACED, effort.unpaced(times=2), targets=_unpaced_targets
    )
    recording.compare("process to process, quiet", "time on the way", _PACED, effort.paced(), targets=_quiet_targets)
    with busy_cores(per_core=2, limit_s=3600):
        recording.compare(
            "process to process, two busy processes per core",
            "time on the way",
            [*_REALTIME, *_PACED],
            effort.paced(),
            targets=_busy_targets,
        )
    return recording.result()


def _unpaced_targets(figure: Figure) -> list[Target]:
    return [
        target_ratio(figure, "pyzmq ipc", "mean", 1.5, "pyzmq ipc takes at least 1.5 times as long"),
        target_ratio(figure, "multiprocessing.Pipe", "mean", 3.0, "multiprocessing.Pipe at least 3 times as long"),
    ]


def _quiet_targets(figure: Figure) -> list[Target]:
    return [
        target_ratio(
            figure, "os.pipe", "p50", 1 / 1.5, "p50 at most 1.5 times that of os.pipe, theirs / ours from 0.67"
        ),
        target_ratio(
            figure, "os.pipe", "p999", 1 / 1.5, "p99.9 at most 1.5 times that of os.pipe, theirs / ours from 0.67"
        ),
    ]


def _busy_targets(figure: Figure) -> list[Target]:
    return [target_at_most(figure, "p999", 500_000, "with realtime=True, p99.9 at most 500 µs")]


# ------------------------------------------------------------------------------------------------- ours


def steadyflow_processes(work: Workload) -> Measured:
    """Run a source and a sink, each in a process of its own."""
    from steadyflow.benchmarks.flows import run_flow

    return run_flow(work, source={"placement": "process"}, sink={"placement": "process"})


def steadyflow_realtime(work: Workload) -> Measured:
    """Run a source and a sink, each in a process with real-time scheduling, as far as the system grants it."""
    from steadyflow.benchmarks.flows import run_flow

    realtime = {"placement": "process", "realtime": True}
    return run_flow(work, source=realtime, sink=realtime)


# ------------------------------------------------------------------------------------------------- peers


@contextlib.contextmanager
def _sender(send_all: Callable[[], None]) -> Iterator[None]:
    """Run `send_all` in a second process while the body receives; it is gone afterwards."""
    sender = _fork.Process(target=send_all, daemon=True)
    sender.start()
    try:
        yield
    finally:
        sender.join(timeout=10)
        sender.kill()
        sender.join()


def _send(send: Callable[[Any], object], work: Workload) -> None:
    (send_paced if work.interval_ns else send_unpaced)(send, work)


def _receive(receive: Callable[[], object], work: Workload) -> Measured:
    return Measured((receive_latencies if work.interval_ns else receive_unpaced)(receive, work))


def os_pipe(work: Workload) -> Measured:
    """Write to a pipe and read from it, in blocks of 512 bytes (up to 4096 bytes, a pipe keeps them whole)."""
    read_end, write_end = os.pipe()
    with _sender(lambda: _send(lambda samples: os.write(write_end, samples), work)):
        return _receive(lambda: os.read(read_end, BLOCK_BYTES), work)


def os_pipe_fifo(work: Workload) -> Measured:
    """Do the same with both processes under SCHED_FIFO: what the system itself can do."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return os_pipe(work)


def multiprocessing_pipe(work: Workload) -> Measured:
    """Send and receive bytes on a multiprocessing.Pipe."""
    receiver, sender = _fork.Pipe(duplex=False)
    with _sender(lambda: _send(sender.send_bytes, work)):
        return _receive(receiver.recv_bytes, work)


def multiprocessing_pipe_pickle(work: Workload) -> Measured:
    """Send and receive arrays on a multiprocessing.Pipe."""
    receiver, sender = _fork.Pipe(duplex=False)
    with _sender(lambda: _send(sender.send, work)):
        return _receive(receiver.recv, work)


def multiprocessing_queue(work: Workload) -> Measured:
    """Put copies into a bounded multiprocessing.Queue, whose feeder thread pickles them later."""
    blocks = _fork.Queue(BUFFER_BLOCKS)

    def send(samples: npt.NDArray[np.float32]) -> None:
        blocks.put(samples.copy())

    with _sender(lambda: _send(send, work)):
        return _receive(blocks.get, work)


def zmq_ipc(work: Workload) -> Measured:
    """Send arrays over a Unix socket that pyzmq opens."""
    import zmq

    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/blocks"
        all_received = _fork.Event()

        def send_all() -> None:
            with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
                socket.sndhwm = BUFFER_BLOCKS // 2
                socket.connect(address)
                _send(socket.send, work)
                # What the receiver has not taken from the Unix socket is lost once this end is closed.
                all_received.wait(timeout=60)

        # The sender is forked before there is a context here: its threads would not survive in the child.
        with _sender(send_all), zmq.Context() as context, context.socket(zmq.PAIR) as socket:
            socket.rcvhwm = BUFFER_BLOCKS // 2
            socket.bind(address)
            measured = _receive(socket.recv, work)
            all_received.set()
    return measured


_UNPACED = [
    Contestant("steadyflow", steadyflow_processes, note="two process workers, buffer_size=64"),
    Contestant("pyzmq ipc", zmq_ipc, requires="zmq", note="PAIR, 64 blocks and the socket's buffer; bytes out"),
    Contestant("multiprocessing.Pipe", multiprocessing_pipe, note="send_bytes, recv_bytes; bound of the pipe, 64 KiB"),
    Contestant("multiprocessing.Pipe, pickle", multiprocessing_pipe_pickle, note="send, recv: arrays"),
    Contestant("multiprocessing.Queue(64)", multiprocessing_queue, note="arrays"),
    Contestant("os.pipe", os_pipe, note="os.write, os.read; bound of the pipe, 64 KiB"),
]
_REALTIME = [
    Contestant("steadyflow, realtime", steadyflow_realtime, note="two process workers with realtime=True"),
    Contestant("os.pipe, SCHED_FIFO", os_pipe_fifo, note="what the system itself can do"),
]
_PACED = [
    Contestant("steadyflow", steadyflow_processes, note="two process workers"),
    Contestant("os.pipe", os_pipe, note="os.write, os.read"),
    Contestant("multiprocessing.Pipe", multiprocessing_pipe, note="send_bytes, recv_bytes"),
    Contestant("pyzmq ipc", zmq_ipc, requires="zmq", note="PAIR"),
]
