"""Windows: an input that collects blocks of any size and gives its module frames by the window, hop by hop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steadyflow.data import Block, BlockFlag, possible_time
from steadyflow.formats import AudioFormat
from steadyflow.runtime.results import send_result, send_result_async

if TYPE_CHECKING:
    from steadyflow._native import ModuleContext
    from steadyflow.module import OutputPort

_LAST_FRAME: Final = (1 << 63) - 1  # of a damaged block, it may be any number of 64 bits


class Windows:
    """
    Re-blocks the audio of one input. A discontinuity in the input discards what was collected: a window never spans it.

    What is left at the end of the stream, shorter than a window, is not processed.

    Args:
        process: The module's method; gets blocks of exactly `window_frames` frames.
        output: Where its results go; None if the module has not exactly one output.
        context: The module's context, so that results inherit the stamps of their window.
        fmt: The resolved format.
        window_frames: Frames of a window.
        hop_frames: Frames from one window to the next; may exceed the window.
    """

    def __init__(
        self,
        process: Callable[[Block], object],
        output: OutputPort | None,
        context: ModuleContext,
        fmt: AudioFormat,
        window_frames: int,
        hop_frames: int,
    ) -> None:
        self._process = process
        self._output = output
        self._context = context
        self._format = fmt
        self._axis = 1 if fmt.layout == "planar" else 0
        self._window = window_frames
        self._hop = hop_frames
        self._ns_per_frame = 1e9 / (fmt.sample_rate_hz or 1)
        capacity = window_frames + hop_frames + fmt.max_block_frames
        self._samples: np.ndarray[Any, Any] = np.empty(fmt.block_shape(capacity), fmt.dtype)
        self._begin = 0  # collected frames lie in [begin, end)
        self._end = 0
        self._skip = 0  # frames to pass over before the next window begins (hop > window)
        self._first_frame = 0  # of the frame at `begin`
        self._stamps: deque[tuple[int, int]] = deque()  # (first frame, timestamp) of each block that was collected
        self._flags = 0
        self._sequence = 0

    def push(self, block: Block) -> None:
        """Take a block and process every window that it completes. The module's worker."""
        for window in self._completed(block):
            send_result(self._process(window), self._output)

    async def push_async(self, block: Block) -> None:
        """Do the same for an asynchronous module. Its worker's event loop."""
        for window in self._completed(block):
            result = self._process(window)
            await send_result_async(await result if isawaitable(result) else result, self._output)

    def _completed(self, block: Block) -> Iterator[Block]:
        """Collect a block; yield each window that it completes, with its stamps set for what is made of it."""
        broken = block.flags & (BlockFlag.DISCONTINUITY | BlockFlag.GAP)
        first_frame = min(block.first_frame, _LAST_FRAME)
        if broken or first_frame != self._first_frame + self._end - self._begin:
            self._begin = self._end = self._skip = 0
            self._stamps.clear()
        self._flags |= block.flags
        if self._begin == self._end:
            self._first_frame = first_frame
        self._stamps.append((first_frame, block.timestamp_ns))
        self._append(block.samples)
        self._pass_over()
        while self._end - self._begin >= self._window:
            yield self._next()
            self._skip = self._hop
            self._pass_over()

    def _append(self, samples: np.ndarray[Any, Any]) -> None:
        frames = samples.shape[self._axis]
        if self._end + frames > self._samples.shape[self._axis]:
            kept = self._frames(self._begin, self._end).copy()
            self._end -= self._begin
            self._begin = 0
            self._frames(0, self._end)[...] = kept
        self._frames(self._end, self._end + frames)[...] = samples
        self._end += frames

    def _pass_over(self) -> None:
        frames = min(self._skip, self._end - self._begin)
        self._skip -= frames
        self._begin += frames
        self._first_frame += frames

    def _timestamp_ns(self) -> int:
        """Return the time of the next window's first frame, from the stamp of the block that it came with."""
        while len(self._stamps) > 1 and self._stamps[1][0] <= self._first_frame:
            self._stamps.popleft()
        first_frame, timestamp_ns = self._stamps[0]
        return possible_time(timestamp_ns + round((self._first_frame - first_frame) * self._ns_per_frame))

    def _next(self) -> Block:
        timestamp_ns = self._timestamp_ns()
        window = Block(
            self._frames(self._begin, self._begin + self._window).copy(),
            self._format,
            timestamp_ns=timestamp_ns,
            first_frame=self._first_frame,
            sequence=self._sequence,
            flags=self._flags,
        )
        self._sequence += 1
        self._context.set_stamps(
            timestamp_ns,
            self._first_frame,
            self._window,
            self._flags & (BlockFlag.DISCONTINUITY | BlockFlag.GAP | BlockFlag.CORRUPTED),
        )
        self._flags = 0
        return window

    def _frames(self, begin: int, end: int) -> np.ndarray[Any, Any]:
        return self._samples[:, begin:end] if self._axis else self._samples[begin:end]
