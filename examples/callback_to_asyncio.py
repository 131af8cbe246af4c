"""
From an audio callback into asyncio, and back.

A device calls its callback in a thread of its own, which must neither wait nor know of any event loop. Here that thread
only sends into a pipeline and takes what has come back; the program lives in asyncio, and the pipelines are in between.
Nothing is scheduled from the callback: the loop watches the pipeline itself.

Run it: python examples/callback_to_asyncio.py

Prints::

    heard 100 of 100 blocks, dropped 0, loudest 1.00
    spoke 100 blocks; the device played 47519 frames of it
    on the way to asyncio: p50 0.081 ms, p99 0.145 ms
"""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np

from steadyflow import (
    AudioFormat,
    DataFlowCoordinator,
    DropOldest,
    FlowData,
    PipelineConfig,
    ReceiveTimeout,
)

SAMPLE_RATE_HZ = 48_000
BLOCK_FRAMES = 480
BLOCKS = 100


class Device(threading.Thread):
    """Behaves like the thread of an audio device: every 10 ms it has a block, and wants one."""

    def __init__(self, callback) -> None:
        super().__init__(name="device")
        self._callback = callback
        self.played = np.zeros((BLOCKS * BLOCK_FRAMES, 1), np.float32)

    def run(self) -> None:
        frames = np.arange(BLOCKS * BLOCK_FRAMES)[:, None]
        recording = np.sin(2 * np.pi * 440 * frames / SAMPLE_RATE_HZ).astype(np.float32)
        due_s = time.monotonic()
        for first in range(0, len(recording), BLOCK_FRAMES):
            part = slice(first, first + BLOCK_FRAMES)
            self._callback(recording[part], self.played[part])
            due_s += BLOCK_FRAMES / SAMPLE_RATE_HZ
            time.sleep(max(0.0, due_s - time.monotonic()))


async def main() -> None:
    audio = AudioFormat(SAMPLE_RATE_HZ, 1, max_block_frames=BLOCK_FRAMES)
    # A device cannot be slowed: what the program does not take in time is dropped, and counted.
    config = PipelineConfig(buffer_size=16, max_latency_ms=10.0, backpressure_strategy=DropOldest())
    async with DataFlowCoordinator("callback") as flow:
        heard = flow.pipeline(flow.register_pipeline("device", "program", config, format=audio))
        spoken = flow.pipeline(flow.register_pipeline("program", "device-out", config, format=audio))

        def callback(indata: np.ndarray, outdata: np.ndarray) -> None:
            try:
                heard.send(indata)
                outdata[:] = spoken.receive(timeout_s=0).samples
            except ReceiveTimeout:
                outdata[:] = 0.0  # nothing has come back yet: silence

        async def listen() -> float:
            loudest = 0.0
            async for block in heard:
                loudest = max(loudest, float(np.abs(block.samples).max()))
                await spoken.send_async(FlowData(block.samples * 0.5, timestamp_ns=block.timestamp_ns))
            return loudest

        device = Device(callback)
        listening = asyncio.create_task(listen())
        device.start()
        await asyncio.to_thread(device.join)
        heard.end()
        loudest = await listening

        there, back = heard.statistics(), spoken.statistics()
        print(f"heard {there.delivered} of {there.sent} blocks, dropped {there.dropped_total}, loudest {loudest:.2f}")
        print(f"spoke {back.sent} blocks; the device played {np.count_nonzero(device.played.any(axis=1))} frames of it")
        print(f"on the way to asyncio: p50 {there.latency_p50_ms:.3f} ms, p99 {there.latency_p99_ms:.3f} ms")


if __name__ == "__main__":
    asyncio.run(main())
