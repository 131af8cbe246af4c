"""
Flows of random shape with joins in them, run to their end: none stands still, and what is joined belongs together.

All pipelines wait, and joins hold back little, so everything waits for everything. A flow either delivers exactly what
its shape says, or fails because an input was too far ahead of one that it cannot wait for; it never hangs.
"""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, note, settings

from steadyflow import Aligned, AudioFormat, BlockFlag, DataFlowCoordinator, FlowFailed, Input, Module, Output, Source
from steadyflow.testing import Collect

LIMIT_S = 60
FORMAT = AudioFormat(48_000, 1, max_block_frames=40)

# Threads take the time they take, and the database would only hold shapes that some schedule did not like.
flows = settings(
    max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


class Ramp(Source):
    """Every frame holds its number, from 1."""

    out = Output(FORMAT)

    def __init__(self, frames, block_frames):
        self.frames = frames
        self.block_frames = block_frames

    def produce(self):
        for first in range(0, self.frames, self.block_frames):
            self.out.send(ramp(first, min(self.block_frames, self.frames - first)))
            yield


class Relay(Module):
    audio = Input(FORMAT)
    out = Output(FORMAT)

    def process(self, audio):
        return audio


def ramp(first, frames):
    return np.arange(first + 1, first + frames + 1, dtype=np.float32)[:, None]


class Join(Module):
    """Passes on its first input; looks at all."""

    out = Output(FORMAT)

    def process(self, *blocks):
        for block in blocks:
            assert (block.first_frame, block.frames) == (blocks[0].first_frame, blocks[0].frames)
            if not block.flags & BlockFlag.GAP:
                np.testing.assert_array_equal(block.samples, ramp(block.first_frame, block.frames))
        return blocks[0]


def join_of(inputs, max_hold_frames):
    names = ["first", "second", "third"][:inputs]
    declared = {name: Input(FORMAT) for name in names} | {"aligned": Aligned(*names, max_hold_frames=max_hold_frames)}
    return type(Module)("Joined", (Join,), declared)()


@dataclass(frozen=True)
class Node:
    """A module: a source of (frames, block_frames), a relay of one, or a join of several; and its worker."""

    feeds: tuple[int, ...]
    source: tuple[int, int]
    max_hold_frames: int
    buffer_size: int
    worker: str | None

    def made(self):
        if not self.feeds:
            return Ramp(*self.source)
        return Relay() if len(self.feeds) == 1 else join_of(len(self.feeds), self.max_hold_frames)


@st.composite
def shapes(draw):
    """Draw nodes, upstream first, in which every one but the first is a source or is fed by earlier ones."""
    nodes = []
    for number in range(draw(st.integers(3, 8))):
        feeds = draw(st.lists(st.integers(0, number - 1), max_size=3)) if number > 1 else []
        nodes.append(
            Node(
                tuple(feeds),
                (draw(st.integers(0, 400)), draw(st.sampled_from([1, 7, 40]))),
                draw(st.sampled_from([1, 30, 200])),
                draw(st.integers(1, 4)),
                draw(st.sampled_from([None, "a", "b", "c", f"own-{number}"])),
            )
        )
    return nodes


def expected_of(nodes):
    """Return what comes out of each node: a join is as long as its longest input, and silent where its first one is."""
    made = []
    for node in nodes:
        if not node.feeds:
            made.append(ramp(0, node.source[0])[:, 0])
        else:
            out = np.zeros(max(len(made[feed]) for feed in node.feeds), np.float32)
            out[: len(made[node.feeds[0]])] = made[node.feeds[0]]
            made.append(out)
    return made


@pytest.mark.timeout(600)
@flows
@given(shapes())
def test_joins_never_stand_still_and_join_what_belongs_together(nodes):
    note("\n".join(map(str, nodes)))
    with DataFlowCoordinator("joined") as flow:
        modules = [flow.add(node.made(), name=f"n{at}", worker=node.worker) for at, node in enumerate(nodes)]
        sinks = [flow.add(Collect(), name=f"sink{at}", worker="sinks") for at in range(len(nodes))]
        for at, node in enumerate(nodes):
            ports = ["audio"] if len(node.feeds) == 1 else ["first", "second", "third"]
            for feed, port in zip(node.feeds, ports, strict=False):
                flow.connect(modules[feed].out, getattr(modules[at], port), buffer_size=node.buffer_size)
            flow.connect(modules[at].out, sinks[at].data, buffer_size=node.buffer_size)
        flow.start()
        assert flow.wait(LIMIT_S), "the flow stands still"
        try:
            flow.stop()
        except FlowFailed as failed:
            event("too far ahead")
            assert all("LimitExceeded: Aligned" in str(problem) for problem in failed.exceptions)
            return
    joins = sum(len(node.feeds) > 1 for node in nodes)
    event(f"{min(joins, 3)} joins")
    for sink, expected in zip(sinks, expected_of(nodes), strict=True):
        np.testing.assert_array_equal(np.concatenate([np.zeros((0, 1), np.float32), *sink.values])[:, 0], expected)
