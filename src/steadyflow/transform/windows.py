"""Windows: blocks of any size become blocks of one size, each of them so many frames after the one before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from steadyflow._native import Block, StampTrail
from steadyflow.data import BlockFlag, MetadataValue
from steadyflow.formats import AudioFormat
from steadyflow.transform.conforming import Conforming
from steadyflow.transform.fields import ONCE, Fields

_LAST_FRAME: Final = (1 << 63) - 1  # of a damaged block, it may be any number of 64 bits
_BROKEN: Final = int(BlockFlag.DISCONTINUITY | BlockFlag.GAP)
_SILENCE: Final = {"u8": 128}


class WindowStage:
    """
    Re-blocks audio; a `Stage`. A discontinuity discards what was collected: a window never spans it.

    Args:
        fmt: The resolved format.
        window_frames: Frames of a window.
        hop_frames: Frames from one window to the next; may exceed the window.
        pad_last: Give what is left, shorter than a window, at the end and before a discontinuity: filled up with silence, and its
            metadata say how many ``padded_frames`` there are. Else it is not given.
    """

    def __init__(self, fmt: AudioFormat, window_frames: int, hop_frames: int, *, pad_last: bool = False) -> None:
        self._format = fmt
        self._axis = 1 if fmt.layout == "planar" else 0
        self._window = window_frames
        self._hop = hop_frames
        self._pad_last = pad_last
        self._conforming = Conforming("windows", fmt)
        self._samples: np.ndarray[Any, Any] = np.empty(
            fmt.block_shape(window_frames + hop_frames + fmt.max_block_frames), fmt.dtype
        )
        self._begin = 0  # collected frames lie in [begin, end)
        self._end = 0
        self._skip = 0  # frames to pass over before the next window begins (hop > window)
        self._first_frame = 0  # of the frame at `begin`
        self._origin = 0  # of the first frame since the stream began or was broken; stamps and fields are kept by the distance to it
        self._given_to = 0  # the index after the last frame that was in a window
        self._trail = StampTrail(1e9 / (fmt.sample_rate_hz or 1))
        self._fields = Fields("windows")
        self._flags = 0  # that the next window says, of what comes before it
        self._sequence = 0

    def push(self, block: Block) -> Iterator[Block]:
        """Collect a block; yield each window that it completes, one after the other as they are asked for."""
        samples = self._conforming(block.payload)
        first_frame = min(block.first_frame, _LAST_FRAME)
        if block.flags & _BROKEN or first_frame != self._first_frame + self._end - self._begin:
            yield from self._rest()
            self._trail.clear()
            self._fields.restart()
            self._origin = first_frame
        self._flags |= block.flags & ONCE
        if self._begin == self._end:
            self._first_frame = first_frame
            self._given_to = max(self._given_to, first_frame)
        self._fields.add(block, first_frame - self._origin)
        self._trail.add(block, first_frame - self._origin)
        self._append(samples)
        self._pass_over()
        while self._end - self._begin >= self._window:
            yield self._next(self._frames(self._begin, self._begin + self._window).copy(), None)
            self._skip = self._hop
            self._pass_over()

    def flush(self) -> Sequence[Block]:
        """Return what is left, if it is to be padded, and forget it."""
        last = self._rest()
        self._trail.clear()
        self._fields.clear()
        self._flags = self._sequence = 0
        return last

    def _rest(self) -> Sequence[Block]:
        last: list[Block] = []
        left = self._end - self._begin
        if self._pad_last and left and self._first_frame + left > self._given_to:
            window = np.full(
                self._format.block_shape(self._window), _SILENCE.get(self._format.sample_type, 0), self._format.dtype
            )
            (window[:, :left] if self._axis else window[:left])[...] = self._frames(self._begin, self._end)
            last.append(self._next(window, {"padded_frames": self._window - left}))
        self._begin = self._end = self._skip = self._given_to = 0
        return last

    def _append(self, samples: np.ndarray[Any, Any]) -> None:
        frames = samples.shape[self._axis]
        if self._end + frames > self._samples.shape[self._axis]:
            kept = self._frames(self._begin, self._end).copy()
            self._end -= self._begin
            self._begin = 0
            if self._end + frames > self._samples.shape[self._axis]:  # longer than the format says
                self._samples = np.empty(self._format.block_shape(self._end + frames), self._format.dtype)
            self._frames(0, self._end)[...] = kept
        self._frames(self._end, self._end + frames)[...] = samples
        self._end += frames

    def _pass_over(self) -> None:
        frames = min(self._skip, self._end - self._begin)
        self._skip -= frames
        self._begin += frames
        self._first_frame += frames

    def _next(self, samples: np.ndarray[Any, Any], more: dict[str, MetadataValue] | None) -> Block:
        position = self._first_frame - self._origin
        end = position + self._window
        window = Block(
            samples,
            self._format,
            timestamp_ns=self._trail.timestamp_ns(position),
            first_frame=self._first_frame,
            sequence=self._sequence,
            flags=self._flags | self._trail.flags(position, end),
            metadata=self._fields.take(end, more),
        )
        self._given_to = self._first_frame + self._window
        self._sequence += 1
        self._flags = 0
        return window

    def _frames(self, begin: int, end: int) -> np.ndarray[Any, Any]:
        return self._samples[:, begin:end] if self._axis else self._samples[begin:end]
