"""
Joins, at work: `Alignment` holds the blocks of each aligned input until it can give all of them the same frames.

All inputs share one count of frames. Of each input it is known up to which frame it has been heard of (`_Input.end`):
before that, a frame has come or is lost; behind it, a frame may still come. So what is lost is filled at once, and only
what may still come is waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from steadyflow._native import monotonic_ns
from steadyflow.aligned import DEFAULT_HOLD_S, Aligned
from steadyflow.data import Block, BlockFlag, possible_time
from steadyflow.errors import LimitExceeded
from steadyflow.formats import AudioFormat
from steadyflow.report import AlignedInputReport
from steadyflow.runtime.results import send_result

if TYPE_CHECKING:
    from steadyflow._native import ModuleContext
    from steadyflow.module import OutputPort

_NEVER: Final = 1 << 62  # behind every frame
_LAST_FRAME: Final = 1 << 60  # of a damaged block, it may be any number of 64 bits
# Plain integers: the members of an enumeration are slow to combine.
_DISCONTINUITY: Final = int(BlockFlag.DISCONTINUITY)
_GAP: Final = int(BlockFlag.GAP)
_REPEATED: Final = int(BlockFlag.REPEATED)
_END_OF_STREAM: Final = int(BlockFlag.END_OF_STREAM)
_INHERITED: Final = int(BlockFlag.DISCONTINUITY | BlockFlag.GAP | BlockFlag.CORRUPTED)


class _Stamp(NamedTuple):
    """When a frame was captured."""

    frame: int
    timestamp_ns: int


class _Piece:
    """Frames of one block that were not given yet: [start, stop) of the common count."""

    __slots__ = ("arrived_ns", "flags", "samples", "stamp", "start", "stop")

    def __init__(
        self, start: int, stop: int, samples: np.ndarray[Any, Any], stamp: _Stamp, flags: int, arrived_ns: int
    ) -> None:
        self.start = start
        self.stop = stop
        self.samples = samples
        self.stamp = stamp  # of the first frame of the block
        self.flags = flags
        self.arrived_ns = arrived_ns


class _Input:
    """One of the inputs: what waits, and what became of it."""

    __slots__ = (
        "delivered_frames",
        "drift_frames",
        "end",
        "ended",
        "fmt",
        "held_back",
        "held_frames",
        "hold",
        "late_frames",
        "name",
        "next_number",
        "offset_frames",
        "passed_over",
        "pieces",
        "silent_frames",
        "stamp",
        "torn",
    )

    def __init__(self, name: str, fmt: AudioFormat, hold: Callable[[bool], None]) -> None:
        self.name = name
        self.fmt = fmt
        self.hold = hold
        self.pieces: deque[_Piece] = deque()
        self.held_frames = 0
        self.held_back = False  # not served: its pipeline fills
        self.end = -_NEVER
        self.ended = False
        self.stamp: _Stamp | None = None  # of the latest block; None: none has come
        self.next_number = 0  # the `first_frame` that should follow
        self.offset_frames = 0  # what makes its own numbers those of the common count
        self.drift_frames = 0
        self.torn = False  # the next block that comes has lost what was before it
        self.passed_over = False  # the next block that is given does not follow the one before
        self.delivered_frames = 0
        self.silent_frames = 0
        self.late_frames = 0

    def known_until(self, position: int, most: int, horizon: int) -> int:
        """
        Return up to where it is alike: frames that have come, of which the same is to be said, or none.

        Nowhere, that is `position`, where it is not known yet. What has come is looked at up to `most` frames only.
        """
        if not self.pieces:
            return _NEVER if self.ended else max(horizon, position)
        if self.pieces[0].start > position:
            return self.pieces[0].start
        stop = position
        for piece in self.pieces:
            follows = stop == position or (
                piece.start == stop and piece.flags == self.pieces[0].flags & ~_DISCONTINUITY
            )
            if not follows or stop - position >= most:
                break
            stop = piece.stop
        return stop

    def has(self, position: int) -> bool:
        """Whether the frame at this position has come."""
        return bool(self.pieces) and self.pieces[0].start <= position


class Alignment:
    """
    Joins the aligned inputs of one module. Not thread-safe: the module's worker only; allocates; calls ``process``.

    Every method takes the time from its caller, so what it does depends on nothing else.

    Args:
        declared: The declaration.
        formats: The resolved formats of the inputs, by name.
        process: The module's method; gets one block for each input.
        output: Where its results go; None if the module has not exactly one output.
        context: The module's context, so that results inherit stamps.
        stops: For each input, those that would come to a stop if it was held back.
        hold: Holds an input back, by its name, or lets it go on.
    """

    def __init__(
        self,
        declared: Aligned,
        formats: Mapping[str, AudioFormat],
        process: Callable[..., object],
        output: OutputPort | None,
        context: ModuleContext,
        stops: Mapping[str, Collection[str]],
        hold: Callable[[str, bool], None],
    ) -> None:
        self._declared = declared
        self._process = process
        self._output = output
        self._context = context
        self.stops = stops
        """For each input, those that would come to a stop if it was held back."""
        self._rate = formats[declared.names[0]].sample_rate_hz or 1
        self._most = min(formats[name].max_block_frames for name in declared.names)
        self._max_wait_ns = declared.max_wait_ns
        self._max_hold = declared.max_hold_frames or DEFAULT_HOLD_S * self._rate
        self._inputs = {name: _Input(name, formats[name], partial(hold, name)) for name in declared.names}
        self._sides = tuple(self._inputs.values())
        self._position: int | None = None  # the frame that is given next; None: nothing has been given
        self._origin_ns: int | None = None  # by time: the stamp of frame 0
        self._origin = 0  # the number of the first frame given, by time
        self._sequence = 0

    @property
    def names(self) -> Collection[str]:
        """The inputs."""
        return self._inputs.keys()

    def taker(self, name: str) -> Callable[[Block], None]:
        """Return what takes the blocks of an input, for the data plane."""
        return lambda block: self.push(name, block, monotonic_ns())

    # --- what happens ------------------------------------------------------------------------------------------------

    def push(self, name: str, block: Block, now_ns: int) -> None:
        """
        Take a block of an input, and give all that is complete.

        Raises:
            LimitExceeded: Too many frames wait, and what they wait for would stop if they were held back.
        """
        side = self._inputs[name]
        self._append(side, block, now_ns)
        self._give_up_to(-_NEVER)
        if self._max_wait_ns is not None:
            while side.held_frames >= self._max_hold:
                self._give_up_to(side.pieces[0].stop)
        if side.pieces and not side.pieces[-1].samples.flags.writeable:
            # A view would keep the memory of its pipeline for as long as it waits.
            side.pieces[-1].samples = side.pieces[-1].samples.copy()
        self._hold_back()

    def end(self, name: str) -> None:
        """Take the end of an input: none of its frames is waited for any more."""
        self._inputs[name].ended = True
        self._give_up_to(-_NEVER)
        self._hold_back()

    @property
    def deadline_ns(self) -> int | None:
        """When `expire` has to be called; None: nothing waits that would not wait for ever."""
        if self._max_wait_ns is None:
            return None
        oldest = min((side.pieces[0].arrived_ns for side in self._sides if side.pieces), default=None)
        return None if oldest is None else oldest + self._max_wait_ns

    def expire(self, now_ns: int) -> None:
        """Give what has waited for too long, with silence for what it has waited for."""
        assert self._max_wait_ns is not None
        horizon = -_NEVER
        for side in self._sides:
            for piece in side.pieces:
                if piece.arrived_ns + self._max_wait_ns > now_ns:
                    break
                horizon = max(horizon, piece.stop)
        self._give_up_to(horizon)

    def reports(self) -> dict[str, AlignedInputReport]:
        """Return what became of each input so far. Any thread."""
        return {
            side.name: AlignedInputReport(
                delivered_frames=side.delivered_frames,
                silent_frames=side.silent_frames,
                late_frames=side.late_frames,
                held_frames=side.held_frames,
                offset_frames=side.offset_frames - self._origin,
                drift_frames=side.drift_frames,
            )
            for side in self._sides
        }

    # --- what comes --------------------------------------------------------------------------------------------------

    def _append(self, side: _Input, block: Block, now_ns: int) -> None:
        start = self._place(side, block)
        stop = start + block.frames
        side.stamp = stamp = _Stamp(start, block.timestamp_ns)
        # What is behind us, or has come already, has no place any more.
        begin = max(start, side.end, -_NEVER if self._position is None else self._position)
        dropped = min(begin, stop) - start
        side.late_frames += dropped
        side.torn |= dropped > 0
        side.end = max(side.end, stop)
        if begin >= stop:
            return
        flags = block.flags & ~_END_OF_STREAM | (_DISCONTINUITY if side.torn else 0)
        side.torn = False
        samples = _cut(block.samples, side.fmt, dropped, block.frames)
        side.pieces.append(_Piece(begin, stop, samples, stamp, flags, now_ns))
        side.held_frames += stop - begin

    def _place(self, side: _Input, block: Block) -> int:
        """Return where the first frame of a block belongs in the common count."""
        first_frame = min(block.first_frame, _LAST_FRAME)
        if self._declared.by == "time":
            if self._origin_ns is None:
                self._origin_ns = block.timestamp_ns
            by_stamp = _nearest((block.timestamp_ns - self._origin_ns) * self._rate, 1_000_000_000)
            # Its own numbers do not say how much is missing where they say nothing of it, or begin again.
            unsaid = block.flags & _DISCONTINUITY and first_frame == side.next_number
            again = first_frame < side.next_number and not block.flags & _REPEATED
            if side.stamp is None or unsaid or again:
                side.offset_frames = by_stamp - first_frame
            side.drift_frames = by_stamp - first_frame - side.offset_frames
        side.next_number = first_frame + block.frames
        return first_frame + side.offset_frames

    # --- what is given -----------------------------------------------------------------------------------------------

    def _give_up_to(self, horizon: int) -> None:
        """Give all that is known of all inputs; before the horizon, what has not come is taken for lost."""
        while True:
            position = self._position
            if position is None:
                position = min((side.pieces[0].start for side in self._sides if side.pieces), default=_NEVER)
            # No further than can be of use: an input that is far ahead may hold many short pieces.
            most = min([self._most, *(side.held_frames for side in self._sides if side.has(position))])
            stop = min(side.known_until(position, most, horizon) for side in self._sides)
            if stop <= position or stop == _NEVER:
                return
            if any(side.has(position) for side in self._sides):
                self._give(position, min(stop, position + self._most))
            else:
                # No input has these frames, so nobody misses them.
                self._position = stop
                for side in self._sides:
                    side.passed_over = True

    def _give(self, position: int, stop: int) -> None:
        if self._position is None and self._declared.by == "time":
            self._origin = position
        self._position = stop
        known = next(side.pieces[0].stamp for side in self._sides if side.has(position))
        blocks = [self._take(side, position, stop, known) for side in self._sides]
        self._sequence += 1
        flags = 0
        for block in blocks:
            flags |= block.flags
        self._context.set_stamps(blocks[0].timestamp_ns, position - self._origin, stop - position, flags & _INHERITED)
        send_result(self._process(*blocks), self._output)

    def _take(self, side: _Input, position: int, stop: int, known: _Stamp) -> Block:
        """Take frames of an input; `known` is a stamp of another one, for an input that has none yet."""
        flags = _DISCONTINUITY if side.passed_over else 0
        side.passed_over = False
        if side.has(position):
            stamp = side.pieces[0].stamp
            samples, told = self._samples(side, stop)
            flags |= told
            side.delivered_frames += stop - position
        else:
            stamp = side.stamp or known
            samples = _silence(side.fmt, stop - position)
            flags |= _GAP
            side.silent_frames += stop - position
        return Block(
            samples,
            side.fmt,
            timestamp_ns=possible_time(
                stamp.timestamp_ns + _nearest((position - stamp.frame) * 1_000_000_000, self._rate)
            ),
            first_frame=position - self._origin,
            sequence=self._sequence,
            flags=flags,
        )

    def _samples(self, side: _Input, stop: int) -> tuple[np.ndarray[Any, Any], int]:
        """Take the frames up to `stop`, and what is said about them."""
        parts = []
        flags = 0
        while side.pieces and side.pieces[0].start < stop:
            piece = side.pieces[0]
            frames = min(piece.stop, stop) - piece.start
            flags |= piece.flags
            side.held_frames -= frames
            parts.append(_cut(piece.samples, side.fmt, 0, frames))
            if piece.stop <= stop:
                side.pieces.popleft()
                continue
            piece.samples = _cut(piece.samples, side.fmt, frames, piece.stop - piece.start)
            piece.start += frames
            piece.flags &= ~_DISCONTINUITY  # what was missing before it has been told
        axis = 1 if side.fmt.layout == "planar" else 0
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis), flags

    # --- what is too much --------------------------------------------------------------------------------------------

    def _hold_back(self) -> None:
        """Hold back what is too far ahead, and let go on what no longer is."""
        if self._max_wait_ns is not None:
            return
        for side in self._sides:
            full = side.held_frames >= self._max_hold
            if full:
                self._check_that_others_go_on(side)
            if full != side.held_back:
                side.held_back = full
                side.hold(full)

    def _check_that_others_go_on(self, side: _Input) -> None:
        stopped = [
            other.name
            for other in self._sides
            if not other.pieces and not other.ended and other.name in self.stops.get(side.name, ())
        ]
        if stopped:
            raise LimitExceeded(
                f"{self._declared!r}: expected {stopped[0]!r} to be less than {self._max_hold} frames behind "
                f"{side.name!r}, got {side.held_frames}. {side.name!r} cannot be held back, because what feeds "
                f"{stopped[0]!r} would have to wait with it. Give what feeds them workers of their own, let both send "
                f"blocks of the same length, or set max_hold_frames higher, or max_wait_ms."
            )


def _nearest(dividend: int, divisor: int) -> int:
    """Return the nearest integer to the quotient, exactly."""
    return (2 * dividend + divisor) // (2 * divisor)


def _cut(samples: np.ndarray[Any, Any], fmt: AudioFormat, begin: int, end: int) -> np.ndarray[Any, Any]:
    return samples[:, begin:end] if fmt.layout == "planar" else samples[begin:end]


def _silence(fmt: AudioFormat, frames: int) -> np.ndarray[Any, Any]:
    # Unsigned samples swing around the middle of their range.
    return np.full(fmt.block_shape(frames), 128 if fmt.sample_type == "u8" else 0, fmt.dtype)
