"""Hop: send and receive of one 512-byte block in one thread, ns for the pair.

Ours counts, stamps, numbers and bounds, and hands over a copy as an array; what the others do stands in their notes.
"""

from __future__ import annotations

import queue
import time
from typing import TYPE_CHECKING, Any

from steadyflow.benchmarks.blocks import BLOCK_BYTES, BUFFER_BLOCKS, WINDOW_BLOCKS, per_block_ns, stamped_block
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
    target_at_most,
    target_ratio,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run"]


def run(quick: bool = False, *, effort: Effort | None = None, say: Say = silent) -> Result:
    """Measure the hop."""
    effort = effort or (QUICK if quick else FULL)
    recording = Recording("hop", effort, say)
    recording.compare("hop in one thread", "send + receive", _CONTESTANTS, effort.unpaced(times=2), targets=_targets)
    return recording.result()


def _targets(figure: Figure) -> list[Target]:
    return [
        target_at_most(figure, "p50", 450, "a hop costs at most 0.45 µs"),
        target_ratio(
            figure, "pyzmq inproc", "p50", 1.2, "pyzmq inproc, which stops at bytes, at least 1.2 times as much"
        ),
        target_ratio(figure, "pyzmq inproc, array", "p50", 1.2, "pyzmq inproc from array to array, at least 1.2 times"),
        target_ratio(figure, "queue.Queue", "p50", 3.0, "queue.Queue at least 3 times as much"),
        target_ratio(figure, "iceoryx2", "p50", 4.0, "iceoryx2 at least 4 times as much"),
    ]


def _time_hops(work: Workload, send: Callable[[Any], object], receive: Callable[[], object]) -> Measured:
    """Time pairs of calls, so that no contestant pays for a function of ours between them."""
    samples, _ = stamped_block()
    marks_ns = []
    for _ in range(work.all_blocks // WINDOW_BLOCKS):
        for _ in range(WINDOW_BLOCKS):
            send(samples)
            receive()
        marks_ns.append(time.monotonic_ns())
    return Measured(per_block_ns(marks_ns, work))


def steadyflow_pipeline(work: Workload) -> Measured:
    """Send and receive on a pipeline with two open ends."""
    from steadyflow import AudioFormat, DataFlowCoordinator, PipelineConfig

    with DataFlowCoordinator("bench") as flow:
        config = PipelineConfig(buffer_size=BUFFER_BLOCKS)
        pipeline_id = flow.register_pipeline("a", "b", config, format=AudioFormat(48_000, 1))
        pipe = flow.pipeline(pipeline_id)
        measured = _time_hops(work, pipe.send, pipe.receive)
        metrics = flow.get_flow_metrics(pipeline_id)
    return Measured(measured.samples_ns, facts={"sent": metrics.sent, "delivered": metrics.delivered})


def queue_copy(work: Workload) -> Measured:
    """Put a copy of the array into a bounded queue.Queue."""
    blocks: queue.Queue[Any] = queue.Queue(BUFFER_BLOCKS)
    samples, _ = stamped_block()
    marks_ns = []
    for _ in range(work.all_blocks // WINDOW_BLOCKS):
        for _ in range(WINDOW_BLOCKS):
            blocks.put(samples.copy())
            blocks.get()
        marks_ns.append(time.monotonic_ns())
    return Measured(per_block_ns(marks_ns, work))


def simple_queue(work: Workload) -> Measured:
    """Pass a pointer to the array through queue.SimpleQueue."""
    blocks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    return _time_hops(work, blocks.put, blocks.get)


def zmq_inproc(work: Workload) -> Measured:
    """Send an array, receive bytes, over a pair of inproc sockets."""
    import zmq

    with zmq.Context() as context, context.socket(zmq.PAIR) as here, context.socket(zmq.PAIR) as there:
        here.bind("inproc://hop")
        there.connect("inproc://hop")
        return _time_hops(work, here.send, there.recv)


def zmq_inproc_array(work: Workload) -> Measured:
    """Send an array, receive an array, over a pair of inproc sockets."""
    import numpy as np
    import zmq

    from_buffer, sample_type = np.frombuffer, np.dtype(np.float32)
    samples, _ = stamped_block()
    marks_ns = []
    with zmq.Context() as context, context.socket(zmq.PAIR) as here, context.socket(zmq.PAIR) as there:
        here.bind("inproc://hop")
        there.connect("inproc://hop")
        send: Callable[[Any], object] = here.send
        receive = there.recv
        for _ in range(work.all_blocks // WINDOW_BLOCKS):
            for _ in range(WINDOW_BLOCKS):
                send(samples)
                from_buffer(receive(), sample_type)
            marks_ns.append(time.monotonic_ns())
    return Measured(per_block_ns(marks_ns, work))


def iceoryx2_publish_subscribe(work: Workload) -> Measured:
    """Loan, fill and send a sample; receive it and copy it out.

    The fastest of the ways that its Python API offers: the payload's address with memmove, not `send_copy`,
    and the address of the array taken once.
    """
    import ctypes
    import os

    import iceoryx2
    import numpy as np

    class Payload(ctypes.Structure):
        _fields_ = (("samples", ctypes.c_uint8 * BLOCK_BYTES),)

    iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
    node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Local)
    name = iceoryx2.ServiceName.new(f"steadyflow-benchmark/{os.getpid()}")
    service = node.service_builder(name).publish_subscribe(Payload).open_or_create()
    publisher = service.publisher_builder().create()
    subscriber = service.subscriber_builder().create()

    copy, copy_out = ctypes.memmove, ctypes.string_at
    from_buffer, sample_type = np.frombuffer, np.dtype(np.float32)
    samples, _ = stamped_block()
    address = samples.ctypes.data
    marks_ns = []
    for _ in range(work.all_blocks // WINDOW_BLOCKS):
        for _ in range(WINDOW_BLOCKS):
            loan = publisher.loan_uninit()
            copy(loan.payload_ptr, address, BLOCK_BYTES)
            loan.assume_init().send()
            sample = subscriber.receive()
            from_buffer(copy_out(sample.payload_ptr, BLOCK_BYTES), sample_type)
        marks_ns.append(time.monotonic_ns())
    return Measured(per_block_ns(marks_ns, work))


_CONTESTANTS = [
    Contestant("steadyflow", steadyflow_pipeline, note="array in, array out; bounded, counted, stamped"),
    Contestant("pyzmq inproc", zmq_inproc, requires="zmq", note="PAIR; array in, bytes out"),
    Contestant("pyzmq inproc, array", zmq_inproc_array, requires="zmq", note="PAIR; np.frombuffer around recv()"),
    Contestant("queue.Queue", queue_copy, note="bounded; the sender copies the array"),
    Contestant(
        "iceoryx2", iceoryx2_publish_subscribe, requires="iceoryx2", note="loan, memmove, send; receive, copy out"
    ),
    Contestant("queue.SimpleQueue", simple_queue, note="a pointer only: no bound, no copy, no statistics"),
]
