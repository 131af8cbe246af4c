"""
Joins against a model that keeps every frame in a dict and looks at them one by one, with its own time.

Blocks of any length come in any order between the inputs, with frames lost, repeated, late; times pass; streams end.
"""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings

from steadyflow.aligned import Aligned
from steadyflow.data import Block, BlockFlag
from steadyflow.formats import AudioFormat
from steadyflow.runtime.alignment import Alignment

unhurried = settings(
    max_examples=250, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)

RATE_HZ = 1000
NS_PER_FRAME = 1_000_000
NAMES = ("mic", "reference", "third")
MARKS = (0, 0, 0, 0, *[BlockFlag.DISCONTINUITY] * 3, BlockFlag.CORRUPTED, BlockFlag.GAP, BlockFlag.END_OF_STREAM)
MOST_FRAMES = 40
NUMBERED_FROM = (0, 50, 7000)  # by time, each input has its own count

formats = st.sampled_from(
    [
        AudioFormat(RATE_HZ, 1, max_block_frames=MOST_FRAMES),
        AudioFormat(RATE_HZ, 2, "f64", max_block_frames=25),
        AudioFormat(RATE_HZ, 2, "s16", "planar", max_block_frames=MOST_FRAMES),
        AudioFormat(RATE_HZ, 3, "s24", max_block_frames=MOST_FRAMES),
        AudioFormat(RATE_HZ, 2, "s24", "planar", max_block_frames=MOST_FRAMES),
        AudioFormat(RATE_HZ, 1, "s32", max_block_frames=MOST_FRAMES),
        AudioFormat(RATE_HZ, 1, "u8", max_block_frames=MOST_FRAMES),
    ]
)


def samples_of(side, start, frames, fmt):
    """Return samples that say where they are from; never silence in all bytes for long."""
    shape = (frames, fmt.channels, 3) if fmt.sample_type == "s24" else (frames, fmt.channels)
    values = 1 + (np.arange(start, start + frames).reshape(-1, *[1] * (len(shape) - 1)) * 7 + side * 31) % 120
    values = (values + np.arange(fmt.channels).reshape(1, -1, *[1] * (len(shape) - 2))).astype(fmt.dtype)
    values = np.broadcast_to(values, shape)
    return np.ascontiguousarray(values.swapaxes(0, 1) if fmt.layout == "planar" else values)


def silence_of(frames, fmt):
    return np.full(fmt.block_shape(frames), 128 if fmt.sample_type == "u8" else 0, fmt.dtype)


class Side:
    def __init__(self):
        self.frames = {}  # place -> (arrived_ns, end of its block, flags of that, whether something is missing before it)
        self.end = -(10**9)
        self.ended = False
        self.torn = False
        self.late = 0
        self.given = []


class Model:
    """Gives frames one by one: [(place, for each side its flags or None for silence, whether frames were passed over)]."""

    def __init__(self, sides, max_wait_ns):
        self.sides = [Side() for _ in range(sides)]
        self.max_wait_ns = max_wait_ns
        self.position = None
        self.jumped = False
        self.out = []

    def push(self, number, start, frames, flags, now_ns):
        side = self.sides[number]
        flags &= ~int(BlockFlag.END_OF_STREAM)
        first = True
        for place in range(start, start + frames):
            if place < side.end or (self.position is not None and place < self.position):
                side.late += 1
                side.torn = True
                continue
            missing = side.torn or (first and bool(flags & BlockFlag.DISCONTINUITY))
            side.frames[place] = (now_ns, start + frames, flags & ~int(BlockFlag.DISCONTINUITY), missing)
            side.torn = first = False
        side.end = max(side.end, start + frames)
        self.give()

    def make_room(self, number, max_hold):
        """Let what came with the oldest frame go on, until there is room."""
        frames = self.sides[number].frames
        while len(frames) >= max_hold:
            self.give(frames[min(frames)][1])

    def end(self, number):
        self.sides[number].ended = True
        self.give()

    @property
    def deadline_ns(self):
        waiting = [arrived_ns for side in self.sides for arrived_ns, *_ in side.frames.values()]
        return None if self.max_wait_ns is None or not waiting else min(waiting) + self.max_wait_ns

    def expire(self, now_ns):
        self.give(
            max(
                place + 1
                for side in self.sides
                for place, (arrived_ns, *_) in side.frames.items()
                if arrived_ns + self.max_wait_ns <= now_ns
            )
        )

    def give(self, horizon=-(10**9)):
        while any(side.frames for side in self.sides):
            if self.position is None:
                position = min(place for side in self.sides for place in side.frames)
            else:
                position = self.position
            known = [
                position in side.frames or position < side.end or side.ended or position < horizon
                for side in self.sides
            ]
            if not all(known):
                return
            self.position = position + 1
            found = [side.frames.pop(position, None) for side in self.sides]
            if not any(found):
                self.jumped = True
                continue
            for side, frame in zip(self.sides, found, strict=True):
                if frame is not None:
                    side.given.append(position)
            self.out.append((position, [frame and frame[2:] for frame in found], self.jumped))
            self.jumped = False


class Ranges:
    """Takes what the module under test is given, and holds it against the model."""

    def __init__(self, formats, by):
        self.formats = formats
        self.by = by
        self.begin = None  # the place of what is counted as frame 0
        self.ranges = []
        self.stamps = []
        self.context = self

    def set_stamps(self, *stamps):
        self.stamps.append(stamps)

    def process(self, *blocks):
        self.ranges.append(blocks)

    def compare(self, frames, told, *, piecemeal):
        """Check all ranges that one step of the flow gave against the frames that the model gave."""
        frames = list(frames)
        if self.begin is None and frames:
            self.begin = frames[0][0] if self.by == "time" else 0
        kinds = []
        for blocks, stamps in zip(self.ranges, self.stamps, strict=True):
            length = blocks[0].frames
            assert 1 <= length <= min(fmt.max_block_frames for fmt in self.formats)
            mine, frames = frames[:length], frames[length:]
            begin = blocks[0].first_frame + self.begin
            assert [place for place, _, _ in mine] == [*range(begin, begin + length)]
            assert not any(jumped for _, _, jumped in mine[1:])
            for side, block in enumerate(blocks):
                self.compare_block(side, block, [sides[side] for _, sides, _ in mine], mine[0][2])
                assert block.sequence == told
                assert (block.first_frame, block.frames) == (blocks[0].first_frame, length)
            flags = 0
            for block in blocks:
                flags |= block.flags & (BlockFlag.DISCONTINUITY | BlockFlag.GAP | BlockFlag.CORRUPTED)
            assert stamps == (blocks[0].timestamp_ns, blocks[0].first_frame, length, flags)
            kinds.append((blocks[0].first_frame, length, mine[0]))
            told += 1
        assert frames == []
        for (first, length, begin), (following, _, begin_then) in pairwise(kinds):
            # As much at once as there is, but to make room, block by block.
            alike = first + length == following and self.said(begin) == self.said(begin_then)
            torn = any(frame is not None and frame[1] for frame in begin_then[1])
            assert piecemeal or torn or not alike or length == min(fmt.max_block_frames for fmt in self.formats)
        self.ranges.clear()
        self.stamps.clear()
        return told

    @staticmethod
    def said(frame):
        """What is to be said of one frame of each side, but for what is missing before it."""
        return [None if side is None else side[0] for side in frame[1]]

    def compare_block(self, side, block, frames, jumped):
        fmt = self.formats[side]
        assert block.format is fmt
        place = block.first_frame + self.begin
        # By time, stamps jitter.
        assert self.by == "time" or block.timestamp_ns == place * NS_PER_FRAME
        silent = frames[0] is None
        assert all((frame is None) == silent for frame in frames)
        if silent:
            expected, flags = silence_of(block.frames, fmt), BlockFlag.GAP
        else:
            expected = samples_of(side, place, block.frames, fmt)
            flags = frames[0][0] | (BlockFlag.DISCONTINUITY if frames[0][1] else 0)
            assert all(own == frames[0][0] for own, _ in frames)
            assert not any(missing for _, missing in frames[1:])
        assert block.flags == flags | (BlockFlag.DISCONTINUITY if jumped else 0)
        np.testing.assert_array_equal(block.samples, expected, strict=True)


steps = st.one_of(
    st.tuples(
        st.just("block"),
        st.integers(0, 2),  # which side
        st.integers(1, MOST_FRAMES),
        st.sampled_from([0, 0, 0, 0, 0, 1, 5, 60, -3, -30]),  # frames lost before it; negative: it counts back
        st.sampled_from(MARKS),
        st.sampled_from([0, 0.2, -0.2, 4, -7, 12]),  # by time: how many frames its stamp is off
        st.booleans(),  # by time: whether its number says nothing of what was lost, or begins again
    ),
    st.tuples(st.just("time"), st.sampled_from([0, 1, 5, 10, 20, 25])),
    st.tuples(st.just("end"), st.integers(0, 2), st.integers(0, 5)),
)


@pytest.mark.timeout(300)
@unhurried
@given(
    formats=st.lists(formats, min_size=2, max_size=3),
    starts=st.tuples(*[st.sampled_from([100, 100, 100, 107, 140])] * 3),
    script=st.lists(steps, min_size=15, max_size=60),
    max_wait=st.sampled_from([None, 5, 20, 1000]),
    max_hold=st.sampled_from([1, 50, 100, 10_000]),
    by=st.sampled_from(["frame", "time"]),
)
def test_ranges_are_those_of_the_model(formats, starts, script, max_wait, max_hold, by):
    max_wait_ns = None if max_wait is None else max_wait * 1_000_000
    names = NAMES[: len(formats)]
    got = Ranges(formats, by)
    held = dict.fromkeys(names, False)
    alignment = Alignment(
        Aligned(*names, by=by, max_wait_ms=max_wait, max_hold_frames=max_hold),
        dict(zip(names, formats, strict=True)),
        got.process,
        None,
        got,
        {},
        held.__setitem__,
    )
    model = Model(len(formats), max_wait_ns)
    next_frame = list(starts)
    numbered_from = [*NUMBERED_FROM] if by == "time" else [0, 0, 0]
    now_ns = 0
    pushed = [0] * len(formats)
    told = 0

    def expire():
        assert alignment.deadline_ns == model.deadline_ns
        if model.deadline_ns is not None and model.deadline_ns <= now_ns:
            alignment.expire(now_ns)
            model.expire(now_ns)
            event("silence after a wait")

    def check(piecemeal=False):
        nonlocal told
        told = got.compare(model.out, told, piecemeal=piecemeal)
        model.out.clear()
        reports = alignment.reports()
        for name, side, fmt, count in zip(names, model.sides, formats, pushed, strict=True):
            report = reports[name]
            assert report.late_frames == side.late
            assert report.delivered_frames == len(side.given)
            assert [*side.given] == sorted(set(side.given))
            waiting = len(side.frames)
            assert report.held_frames == waiting
            assert count == report.late_frames + report.delivered_frames + waiting
            assert waiting <= max_hold - 1 + fmt.max_block_frames
            assert held[name] is (max_wait is None and waiting >= max_hold)

    for kind, *details in script:
        full = False
        if kind == "time":
            now_ns += details[0] * 1_000_000
            expire()
        elif details[0] >= len(names) or model.sides[details[0]].ended:
            continue
        elif kind == "end":
            if details[1] == 0:
                model.end(details[0])
                alignment.end(names[details[0]])
        else:
            number, frames, lost, flags, off_frames, renumbers = details
            if held[names[number]]:
                event("held back")
                continue
            fmt = formats[number]
            frames = min(frames, fmt.max_block_frames)
            first = max(next_frame[number] + lost, 0)
            if by == "time":
                # The stamp counts for the first block, to the nearest frame, and where the number does not say enough.
                unsaid = bool(flags & BlockFlag.DISCONTINUITY) and (lost == 0 or (lost > 0 and renumbers))
                if unsaid:
                    numbered_from[number] -= first - next_frame[number]
                elif lost < 0 and (renumbers or first + numbered_from[number] < 0):
                    numbered_from[number] = -first
                begins = pushed[number] == 0
                off_ns = 0 if unsaid or lost < 0 or (begins and abs(off_frames) > 0.5) else off_frames * NS_PER_FRAME
            else:
                off_ns = 0
            next_frame[number] = first + frames
            pushed[number] += frames
            block = Block(
                samples_of(number, first, frames, fmt),
                fmt,
                timestamp_ns=first * NS_PER_FRAME + round(off_ns),
                first_frame=first + numbered_from[number],
                flags=flags,
            )
            model.push(number, first, frames, int(flags), now_ns)
            if max_wait is not None:
                full = len(model.sides[number].frames) >= max_hold
                model.make_room(number, max_hold)
            alignment.push(names[number], block, now_ns)
        check(piecemeal=full)
    for number, name in enumerate(names):
        if not model.sides[number].ended:
            model.end(number)
            alignment.end(name)
            check()
    assert alignment.deadline_ns is None
    assert all(not side.frames for side in model.sides)
    assert held == dict.fromkeys(names, False)
