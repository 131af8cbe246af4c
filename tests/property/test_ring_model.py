"""
One output into several pipelines, against a plain model: a deque and a few counters for each pipeline.

One thread does everything, so every step has one right outcome. A consumer that is slow is one whose module sends
into the same output while it works: its slot stays claimed, and the producer laps it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from steadyflow import _native
from steadyflow.backpressure.rules import DropByPriority, DropNewest, DropOldest, Fail, Latest, Rule, Sample, Wait
from steadyflow.data import METADATA_MAX_BYTES, BlockFlag, encode_metadata
from steadyflow.errors import EndOfStream, PipelineClosed, PipelineFull, ReceiveTimeout, SendTimeout
from steadyflow.formats import AudioFormat

MAX_FRAMES = 3000
FRAME_BYTES = 4
CAPACITY_BYTES = MAX_FRAMES * FRAME_BYTES + METADATA_MAX_BYTES
FORMAT = AudioFormat(48_000, 1, max_block_frames=MAX_FRAMES)

# Around the size up to which a block is copied, at which arrays become views of shared memory.
frame_counts = st.sampled_from([1, 100, _native.PRIVATE_COPY_BYTES // FRAME_BYTES, 1025, MAX_FRAMES])
buffer_sizes = st.integers(1, 5)
overflow_rules: st.SearchStrategy[Rule] = st.sampled_from(
    [
        Wait(timeout_ms=1, then="fail"),
        Wait(timeout_ms=1, then="drop_newest"),
        Wait(timeout_ms=1, then="drop_oldest"),
        DropOldest(),
        DropNewest(),
        Latest(),
        Fail(),
        Sample(2),
        Sample(3),
        DropByPriority(),
    ]
)
limits = st.tuples(
    st.just(0) | st.integers(1, 3 * MAX_FRAMES * FRAME_BYTES), st.just(0) | st.integers(1, 3 * MAX_FRAMES)
)
CONTROL = 32
REASONS = (
    "oldest",
    "newest",
    "superseded",
    "flushed",
    "failed",
    "stopped",
    "late",
    "unwanted",
    "sampled",
    "outranked",
)
metadata_fields = st.none() | st.dictionaries(st.sampled_from(["take", "gain"]), st.integers(0, 9), min_size=1)


class ModuleFault(Exception):
    """What a failing module raises."""


@dataclass(frozen=True)
class Stamped:
    """What a user sends with stamps of its own; takes the way through Python."""

    samples: np.ndarray
    timestamp_ns: int
    first_frame: int
    flags: int
    metadata: dict[str, int] | None


def prepare(data: Stamped) -> tuple[Any, ...]:
    metadata = None if data.metadata is None else encode_metadata(data.metadata)
    return data.samples, data.timestamp_ns, data.first_frame, data.flags, metadata


@dataclass
class Sent:
    """One block as it should come out."""

    number: int  # of the output; each pipeline counts its own sequence
    sequence: int
    frames: int
    timestamp_ns: int | None = None
    first_frame: int | None = None
    flags: int = 0
    metadata: dict[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> np.ndarray:
        return samples_of(self.number, self.frames)

    @property
    def is_control(self) -> bool:
        return bool(self.flags & CONTROL)

    @property
    def is_large(self) -> bool:
        return self.frames * FRAME_BYTES > _native.PRIVATE_COPY_BYTES


def samples_of(number: int, frames: int) -> np.ndarray:
    return (np.arange(frames, dtype=np.float32) + np.float32(number * 4096)).reshape(frames, 1)


@dataclass(eq=False)
class Kept:
    """An array that a consumer did not let go."""

    sent: Sent
    array: np.ndarray
    is_view: bool


class Pipe:
    """One pipeline: the real ends, and beside them the model."""

    def __init__(self, name: str, buffer_size: int, overflow: Rule) -> None:
        self.name = name
        self.buffer_size = buffer_size
        self.overflow = overflow
        self.slots = buffer_size + 2
        self.ring: _native.Ring
        self.inbox: _native.Inbox
        self.bell: int

        self.waiting: deque[Sent] = deque()
        self.claimed: Sent | None = None
        self.follows = 0  # the number of the block behind the last one that was taken
        self.sent = 0
        self.delivered = 0
        self.dropped = dict.fromkeys(REASONS, 0)
        self.dropped_frames = dict.fromkeys(REASONS, 0)
        self.limits = (0, 0)
        self.bytes = 0
        self.peak_fill = 0
        self.paused = False
        self.kept: list[Kept] = []
        self.kept_copies = 0
        self.has_failed = False
        self.on_block: Callable[[_native.Block], None]
        self.errors: list[BaseException] = []

    @property
    def views(self) -> int:
        return sum(kept.is_view for kept in self.kept)

    def take(self) -> Sent:
        """Take the oldest block, which says so where others were dropped before it."""
        block = self.waiting.popleft()
        torn = BlockFlag.DISCONTINUITY if block.sequence != self.follows else 0
        self.follows = block.sequence + 1
        return replace(block, flags=block.flags | torn)

    def drop(self, block: Sent, reason: str) -> None:
        self.dropped[reason] += 1
        self.dropped_frames[reason] += block.frames

    def flush(self) -> None:
        while self.waiting:
            self.drop(self.waiting.popleft(), "flushed")

    def evict_until(self, enough: Callable[[], bool], reason: str) -> None:
        """The oldest go that are no control blocks."""
        while not enough():
            block = next(each for each in self.waiting if not each.is_control)
            self.waiting.remove(block)
            self.drop(block, reason)

    def fits(self, block: Sent, beside: Sequence[Sent]) -> bool:
        if len(beside) >= self.buffer_size:
            return False
        frames = sum(each.frames for each in beside)
        byte_limit, frame_limit = self.limits
        if not frames:
            return True
        return (not byte_limit or (frames + block.frames) * FRAME_BYTES <= byte_limit) and (
            not frame_limit or frames + block.frames <= frame_limit
        )

    def can_make_room(self, block: Sent) -> bool:
        return self.fits(block, [each for each in self.waiting if each.is_control])

    def verdict(self, block: Sent) -> str:
        """What the rule makes of one more block."""
        if isinstance(self.overflow, Latest) and self.can_make_room(block):
            return "supersede"
        if isinstance(self.overflow, Sample) and not block.is_control and self.sent % self.overflow.one_of:
            return "drop_sampled"
        if self.fits(block, self.waiting):
            return "publish"
        match self.overflow:
            case DropOldest() | Wait(then="drop_oldest") | Sample() | DropByPriority() if self.can_make_room(block):
                return "evict_oldest"
            case DropNewest() | Wait(then="drop_newest") if block.is_control and self.can_make_room(block):
                return "evict_oldest"
            case (
                Wait(then="drop_newest" | "drop_oldest")
                | DropOldest()
                | DropNewest()
                | Latest()
                | Sample()
                | DropByPriority()
            ):
                return "waits" if block.is_control else "drop_newest"
            case Fail():
                return "full"
            case _:
                return "timed_out"


class FanOut(RuleBasedStateMachine):
    """Sends, receives, switches, keeps and releases in any order; looks at every counter after each step."""

    @initialize(shapes=st.lists(st.tuples(buffer_sizes, overflow_rules), min_size=1, max_size=3))
    def build(self, shapes: list[tuple[int, Rule]]) -> None:
        self.pipes = [Pipe(f"p{index}", size, overflow) for index, (size, overflow) in enumerate(shapes)]
        offset = _native.SEGMENT_HEADER_BYTES

        def place(size_bytes: int) -> int:
            nonlocal offset
            at = offset
            offset += size_bytes
            return at

        producer_bell = place(_native.BELL_BYTES)
        bells = [place(_native.BELL_BYTES) for _ in self.pipes]
        rings = [place(_native.ring_bytes(pipe.slots, 1)) for pipe in self.pipes]
        # A block in every slot, every view that may be kept, and the block that is being written.
        self.buffers = sum(pipe.slots + pipe.buffer_size for pipe in self.pipes) + 1
        self.pool = place(_native.pool_bytes(self.buffers, CAPACITY_BYTES))
        self.segment = segment = _native.Segment.create(offset)
        for bell in (producer_bell, *bells):
            segment.create_bell(bell)
        _native.create_pool(segment, self.pool, self.buffers, CAPACITY_BYTES)

        spec = _native.PayloadSpec(1, "f4", 1, False, False, MAX_FRAMES, [], MAX_FRAMES * FRAME_BYTES)
        abort = _native.AbortFlag()
        self.output = _native.OutputCore()
        self.output.configure("out", spec, FORMAT, prepare, None, abort)
        self.output.set_pool(segment, self.pool, "port")
        self.output.set_bell(segment, producer_bell)
        for index, pipe in enumerate(self.pipes):
            _native.create_ring(
                segment,
                rings[index],
                pipe.buffer_size,
                pipe.slots,
                1,
                index,
                *pipe.overflow.to_native(live=False),
                views=pipe.buffer_size,
            )
            pipe.ring = _native.Ring(segment, rings[index], pipe.name)
            pipe.bell = bells[index]
            pipe.inbox = _native.Inbox(segment, bells[index], index, abort)
            target = _native.Target(
                pipe.name,
                spec,
                FORMAT,
                None,
                lambda block, pipe=pipe: pipe.on_block(block),
                None,
                _native.ModuleContext(),
                lambda error, block, pipe=pipe: pipe.errors.append(error),
                0,
            )
            bit = pipe.inbox.add_input(segment, rings[index], self.pool, segment, producer_bell, 0, 0, target, None)
            self.output.add_ring(pipe.name, segment, rings[index], segment, bells[index], bit)

        self.number = 0
        self.next_frame: int | None = 0  # None: a send raised, and the stream may or may not have gone on
        self.has_ended = False
        self.serving: Kept | None = None  # the view that a module at work has been given

    # --- sending ---------------------------------------------------------------------------------------------------

    def model_send(self, block: Sent) -> bool | type[Exception]:
        """Carry out a send in the model: what it returns, or which error it raises."""
        verdicts = [pipe.verdict(block) for pipe in self.pipes]
        for verdict in verdicts:
            # All or nothing: a pipeline that refuses leaves the others as they were.
            if verdict == "full":
                return PipelineFull
            if verdict == "timed_out":
                return SendTimeout
        for pipe, verdict in zip(self.pipes, verdicts, strict=True):
            if verdict.startswith("drop_"):
                pipe.drop(block, verdict.removeprefix("drop_"))
            else:
                if verdict == "supersede":
                    pipe.evict_until(lambda pipe=pipe: all(each.is_control for each in pipe.waiting), "superseded")
                elif verdict == "evict_oldest":
                    pipe.evict_until(lambda pipe=pipe: pipe.fits(block, pipe.waiting), "oldest")
                pipe.waiting.append(replace(block, sequence=pipe.sent))
                pipe.peak_fill = max(pipe.peak_fill, len(pipe.waiting))
            pipe.sent += 1
            pipe.bytes += block.frames * FRAME_BYTES
        return not any(verdict.startswith("drop_") for verdict in verdicts)

    def send_one(self, frames: int, stamps: tuple[int, int, int, dict[str, int] | None] | None = None) -> None:
        samples = samples_of(self.number, frames)
        data: Any = samples
        block = Sent(self.number, 0, frames, first_frame=self.next_frame)
        if stamps is not None:
            timestamp_ns, first_frame, flags, metadata = stamps
            data = Stamped(samples, timestamp_ns, first_frame, flags, metadata)
            block = Sent(self.number, 0, frames, timestamp_ns, first_frame, flags, metadata or {})
        if self.has_ended:
            with pytest.raises(PipelineClosed):
                self.output.send(data)
            return
        if any(pipe.verdict(block) == "waits" for pipe in self.pipes):
            return  # until a consumer takes something, which nobody does here
        expected = self.model_send(block)
        if isinstance(expected, bool):
            assert self.output.send(data) is expected
            self.next_frame = None if block.first_frame is None else block.first_frame + frames
        else:
            with pytest.raises(expected):
                self.output.send(data)
            self.next_frame = None
        # The sender may use its array again as soon as send() returns.
        samples[:] = -1
        self.number += 1

    @rule(frames=frame_counts)
    def send(self, frames: int) -> None:
        self.send_one(frames)

    @rule(frames=frame_counts, count=st.integers(2, 8))
    def send_several(self, frames: int, count: int) -> None:
        for _ in range(count):
            self.send_one(frames)

    @rule(
        frames=frame_counts,
        timestamp_ns=st.integers(0, 1 << 62),
        first_frame=st.integers(0, 1 << 40),
        flags=st.sampled_from([0, 1, 2, 4, 7, CONTROL, CONTROL]),
        metadata=metadata_fields,
    )
    def send_stamped(
        self, frames: int, timestamp_ns: int, first_frame: int, flags: int, metadata: dict[str, int] | None
    ) -> None:
        self.send_one(frames, (timestamp_ns, first_frame, flags, metadata))

    @precondition(lambda self: not self.has_ended)
    @rule(chance=st.integers(0, 9))
    def end(self, chance: int) -> None:
        if chance == 0:
            self.output.end()
            self.output.end()
            self.has_ended = True

    # --- receiving -------------------------------------------------------------------------------------------------

    def choose(self, data: st.DataObject) -> Pipe:
        return data.draw(st.sampled_from(self.pipes))

    def check_block(self, pipe: Pipe, block: _native.Block, sent: Sent) -> Kept:
        """Compare a received block; says whether its array is a view of shared memory."""
        assert block.sequence == sent.sequence
        assert block.frames == sent.frames
        assert block.flags == sent.flags
        assert block.metadata == sent.metadata
        assert block.format is FORMAT
        if sent.timestamp_ns is not None:
            assert block.timestamp_ns == sent.timestamp_ns
        if sent.first_frame is not None:
            assert block.first_frame == sent.first_frame
        array = block.samples
        np.testing.assert_array_equal(array, sent.samples, strict=True)
        is_view = sent.is_large and pipe.views < pipe.buffer_size
        if sent.is_large and not is_view:
            pipe.kept_copies += 1
        # A copy is the user's own.
        assert array.flags.writeable is not is_view
        if not is_view:
            array += 1
            array -= 1
        return Kept(sent, array, is_view)

    @rule(data=st.data(), keep=st.booleans())
    def receive(self, data: st.DataObject, keep: bool) -> None:
        pipe = self.choose(data)
        if pipe.paused or not pipe.waiting:
            # The end is not known as long as what may come before it is hidden.
            with pytest.raises(EndOfStream if self.has_ended and not pipe.paused else ReceiveTimeout):
                pipe.inbox.receive(0)
            return
        kept = self.check_block(pipe, pipe.inbox.receive(0), pipe.take())
        pipe.delivered += 1
        if keep:
            pipe.kept.append(kept)

    @rule(
        data=st.data(),
        keep=st.booleans(),
        sends=st.lists(frame_counts, max_size=12),
        fails=st.integers(0, 19).map(lambda chance: chance == 0),
    )
    def serve(self, data: st.DataObject, keep: bool, sends: list[int], fails: bool) -> None:
        """A module works on a block, while its slot is claimed, and sends meanwhile."""
        pipe = self.choose(data)

        def process(block: _native.Block) -> None:
            assert pipe.claimed is not None
            self.serving = kept = self.check_block(pipe, block, pipe.claimed)
            # Counted as kept as long as the module has it.
            pipe.kept.append(kept)
            for frames in sends:
                self.send_one(frames)
                self.accounts_are_derived()
            np.testing.assert_array_equal(kept.array, kept.sent.samples, strict=True)
            if fails:
                raise ModuleFault

        pipe.on_block = process
        if pipe.paused or not pipe.waiting:
            assert pipe.inbox.serve(0, 1) == 0
            return
        pipe.claimed = pipe.take()
        assert pipe.inbox.serve(0, 1) == 1
        if pipe.errors and not isinstance(pipe.errors[0], ModuleFault):
            raise pipe.errors[0]  # what the test found wrong inside
        if pipe.has_failed:
            pipe.drop(pipe.claimed, "failed")
        elif fails:
            pipe.errors.clear()
            pipe.drop(pipe.claimed, "failed")
            pipe.has_failed = True
        else:
            pipe.delivered += 1
        pipe.claimed = None
        if self.serving is not None and not keep:
            pipe.kept.remove(self.serving)
        self.serving = None

    @precondition(lambda self: any(pipe.kept for pipe in self.pipes))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        pipe = data.draw(st.sampled_from([pipe for pipe in self.pipes if pipe.kept]))
        kept = pipe.kept.pop(data.draw(st.integers(0, len(pipe.kept) - 1)))
        np.testing.assert_array_equal(kept.array, kept.sent.samples, strict=True)

    # --- the control plane -----------------------------------------------------------------------------------------

    @rule(data=st.data(), overflow=overflow_rules)
    def switch_rule(self, data: st.DataObject, overflow: Rule) -> None:
        pipe = self.choose(data)
        pipe.overflow = overflow
        pipe.ring.set_rule(*overflow.to_native(live=False))

    @rule(data=st.data(), both=limits)
    def limit(self, data: st.DataObject, both: tuple[int, int]) -> None:
        pipe = self.choose(data)
        pipe.limits = both
        pipe.ring.set_limits(*both)

    @rule(data=st.data())
    def flush(self, data: st.DataObject) -> None:
        pipe = self.choose(data)
        assert pipe.ring.flush() == len(pipe.waiting)
        pipe.flush()

    @rule(data=st.data())
    def pause_or_resume(self, data: st.DataObject) -> None:
        pipe = self.choose(data)
        pipe.paused = not pipe.paused
        if pipe.paused:
            pipe.ring.pause()
        else:
            pipe.ring.resume(_native.monotonic_ns())
            _native.ring_bell(self.segment, pipe.bell, 0)
        assert pipe.ring.paused is pipe.paused

    # --- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def accounts_are_derived(self) -> None:
        for pipe in self.pipes:
            counters = pipe.ring.counters()
            assert counters["consistent"]
            in_flight = len(pipe.waiting) + (pipe.claimed is not None)
            assert counters["sent"] == counters["delivered"] + sum(counters["dropped"].values()) + in_flight
            assert counters["sent"] == pipe.sent
            assert counters["delivered"] == pipe.delivered
            assert counters["dropped"] == pipe.dropped
            assert counters["dropped_frames"] == pipe.dropped_frames
            assert counters["fill"] == len(pipe.waiting)
            assert counters["fill_frames"] == sum(block.frames for block in pipe.waiting)
            assert counters["fill_bytes"] == sum(block.frames for block in pipe.waiting) * FRAME_BYTES
            sent_ns = pipe.ring.oldest_sent_ns()
            assert (sent_ns != 0) is bool(pipe.waiting)
            assert counters["peak_fill"] == pipe.peak_fill
            assert counters["bytes"] == pipe.bytes
            assert counters["kept_copies"] == pipe.kept_copies
            assert counters["repeated"] == 0
            assert counters["ended"] is self.has_ended

    @invariant()
    def views_hold_their_buffers(self) -> None:
        held = {kept.sent.number for pipe in self.pipes for kept in pipe.kept if kept.is_view}
        assert _native.held_buffers(self.segment, self.pool) == len(held)
        for pipe in self.pipes:
            for kept in pipe.kept:
                assert kept.array[-1, 0] == kept.sent.samples[-1, 0]

    def teardown(self) -> None:
        if not hasattr(self, "pipes"):
            return
        # What was kept outlives the ends, and its buffers are given back one by one.
        self.output.detach()
        for pipe in self.pipes:
            pipe.inbox.detach()
        self.views_hold_their_buffers()
        for pipe in self.pipes:
            pipe.kept.clear()
        assert _native.held_buffers(self.segment, self.pool) == 0


TestFanOut = FanOut.TestCase
TestFanOut.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,  # a rule that waits takes its millisecond
    suppress_health_check=[HealthCheck.too_slow],
)
