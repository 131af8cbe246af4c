"""Loans against a simple model: in any order of lending, sending, keeping and letting go, blocks arrive as a plain send's."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from steadyflow import AudioFormat, DataFlowCoordinator, DropNewest, DropOldest, Latest, PipelineConfig

MAX_FRAMES = 2048
KEEPERS = [
    lambda samples: samples,
    lambda samples: samples[: len(samples) // 2 + 1],
    lambda samples: [samples],
    lambda samples: np.asarray(memoryview(samples)),
]


@dataclass
class Open:
    """A loan that has been entered."""

    loan: Any
    samples: Any
    value: int


class Loans(RuleBasedStateMachine):
    """One pipeline; its blocks are filled with their numbers, so that one value says what a block is."""

    @initialize(
        size=st.integers(1, 3),
        overflow=st.sampled_from([DropOldest(), DropNewest(), Latest()]),
        channels=st.integers(1, 2),
        planar=st.booleans(),
    )
    def build(self, size: int, overflow: object, channels: int, planar: bool) -> None:
        self.fmt = AudioFormat(48_000, channels, "f32", "planar" if planar else "interleaved", MAX_FRAMES)
        self.flow = DataFlowCoordinator()
        config = PipelineConfig(size, backpressure_strategy=overflow)
        self.pipe = self.flow.pipeline(self.flow.register_pipeline("app", "reader", config, self.fmt))
        self.size = size
        self.overflow = overflow
        self.waiting: deque[tuple[int, int]] = deque()
        self.number = 0
        self.sent = 0
        self.copies = 0
        self.open: list[Open] = []
        self.emptied: list[Any] = []
        self.kept: list[tuple[Any, float]] = []  # what somebody keeps of a loan, and what it shows
        self.views: list[tuple[Any, int]] = []

    def teardown(self) -> None:
        if hasattr(self, "flow"):
            self.flow.close()

    def model_send(self, value: int, frames: int) -> bool:
        self.sent += 1
        if isinstance(self.overflow, Latest):
            self.waiting.clear()
        elif len(self.waiting) == self.size:
            if isinstance(self.overflow, DropNewest):
                return False
            self.waiting.popleft()
        self.waiting.append((value, frames))
        return True

    @rule(frames=st.integers(1, MAX_FRAMES))
    def send(self, frames: int) -> None:
        shape = (self.fmt.channels, frames) if self.fmt.layout == "planar" else (frames, self.fmt.channels)
        self.number += 1
        queued = self.pipe.send(np.full(shape, self.number, np.float32))
        assert queued is self.model_send(self.number, frames)

    @rule(frames=st.integers(1, MAX_FRAMES))
    def lend(self, frames: int) -> None:
        self.number += 1
        loan = self.pipe.loan(frames)
        samples = loan.__enter__()
        assert samples.shape[1 if self.fmt.layout == "planar" else 0] == frames
        samples[:] = self.number
        self.open.append(Open(loan, samples, self.number))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 9), keeper=st.none() | st.sampled_from(KEEPERS), failing=st.booleans())
    def leave(self, which: int, keeper: Any, failing: bool) -> None:
        one = self.open.pop(which % len(self.open))
        loan, samples, value = one.loan, one.samples, one.value
        del one
        frames = samples.shape[1 if self.fmt.layout == "planar" else 0]
        kept = None if keeper is None else keeper(samples)
        before = self.pipe.statistics().loan_copies
        if failing:
            loan.__exit__(ValueError, ValueError(), None)
            assert loan.queued is None
        else:
            loan.__exit__(None, None, None)
            assert loan.queued is self.model_send(value, frames)
        copies = self.pipe.statistics().loan_copies - before
        if keeper is None:
            assert samples.size == 0
            self.emptied.append(samples)
            assert copies <= (loan.queued or 0)
        else:
            assert samples.size != 0
            assert copies == (loan.queued or 0), "what is kept is never sent as it lies"
            samples[...] = -value  # the keeper's own from now on
            self.kept.append((kept, -value))

    @precondition(lambda self: self.kept)
    @rule(which=st.integers(0, 9))
    def let_go(self, which: int) -> None:
        del self.kept[which % len(self.kept)]

    @precondition(lambda self: self.waiting)
    @rule(keep=st.booleans())
    def receive(self, keep: bool) -> None:
        value, frames = self.waiting.popleft()
        received = self.pipe.receive(timeout_s=0)
        assert received.frames == frames
        assert (received.samples == value).all()
        if keep:
            self.views.append((received.samples, value))

    @precondition(lambda self: self.views)
    @rule(which=st.integers(0, 9))
    def drop_view(self, which: int) -> None:
        del self.views[which % len(self.views)]

    @precondition(lambda self: not self.open)
    @rule()
    def nothing_is_tied_up_for_good(self) -> None:
        self.kept.clear()
        before = self.pipe.statistics().loan_copies
        with self.pipe.loan(1) as samples:
            samples[:] = 0
        self.model_send(0, 1)
        assert self.pipe.statistics().loan_copies == before

    @invariant()
    def what_anybody_has_is_as_it_was(self) -> None:
        if not hasattr(self, "flow"):
            return
        for one in self.open:
            assert (one.samples == one.value).all()
        for kept, value in self.kept:
            assert all((each == value).all() for each in (kept if isinstance(kept, list) else [kept]))
        for view, value in self.views:
            assert (view == value).all()
        assert all(each.size == 0 for each in self.emptied)
        metrics = self.pipe.statistics()
        assert metrics.sent == self.sent
        assert metrics.fill == metrics.in_flight == len(self.waiting)


TestLoans = Loans.TestCase
TestLoans.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
