"""The store of a spool against a list: any order of appending, taking, forgetting, committing, restarts and kills."""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from steadyflow import BytesFormat
from steadyflow.spooling import SpooledBlock, SpoolStore

FORMAT = BytesFormat(1 << 16)

blocks = st.builds(
    SpooledBlock,
    payload=st.one_of(st.binary(max_size=64), st.integers(0, 1 << 16).map(bytes)),
    frames=st.integers(0, (1 << 32) - 1),
    timestamp_ns=st.integers(-(1 << 63), (1 << 63) - 1),
    first_frame=st.integers(0, (1 << 64) - 1),
    flags=st.integers(0, (1 << 16) - 1),
    metadata=st.binary(max_size=256),
)


class Queue(RuleBasedStateMachine):
    """The store, and a list of what it should hold; and what of that a kill would leave."""

    @initialize(max_bytes=st.integers(1, 1 << 18), max_blocks=st.none() | st.integers(1, 40))
    def begin(self, max_bytes, max_blocks):
        self.folder = Path(tempfile.mkdtemp(prefix="spool-"))
        self.limits = {"max_bytes": max_bytes, "max_blocks": max_blocks}
        self.place = 0
        self.queue = deque()
        self.open()

    def open(self):
        self.path = self.folder / f"{self.place}.spool"
        self.store = SpoolStore(self.path, format=FORMAT, **self.limits)

    @rule(added=st.lists(blocks, min_size=1, max_size=20))
    def append(self, added):
        for block in added:
            size = block.size_bytes + sum(each.size_bytes for each in self.queue)
            most_blocks = self.limits["max_blocks"] or 1 << 40
            fits = size <= self.limits["max_bytes"] and len(self.queue) < most_blocks
            assert self.store.append(block) == fits
            assert self.store.could_hold(block) == (block.size_bytes <= self.limits["max_bytes"])
            if fits:
                self.queue.append(block)

    @rule()
    def take(self):
        assert self.store.take() == (self.queue[0] if self.queue else None)

    @precondition(lambda self: self.queue)
    @rule(count=st.integers(1, 30))
    def take_and_forget(self, count):
        for _ in range(min(count, len(self.queue))):
            assert self.store.take() == self.queue.popleft()
            self.store.forget()

    @rule()
    def flush(self):
        self.store.flush()
        assert (self.store.is_dirty, self.store.unwritten_blocks) == (False, 0)

    @rule()
    def clear(self):
        self.store.clear()
        self.queue.clear()

    @rule()
    def restart(self):
        self.store.close()
        self.store.close()
        self.open()

    @rule()
    def kill(self):
        """Go on with what a kill would leave now: it lost the end, or repeats the beginning, by what was not committed."""
        unwritten = self.store.unwritten_blocks
        self.place += 1
        for suffix in ("", "-wal"):
            copied = self.path.with_name(self.path.name + suffix)
            if copied.exists():
                shutil.copy(copied, self.folder / f"{self.place}.spool{suffix}")
        self.store.abandon()
        kept = list(self.queue)[: len(self.queue) - unwritten]
        self.open()
        left = []
        while (block := self.store.take()) is not None:
            left.append(block)
            self.store.forget()
        repeated = len(left) - len(kept)
        assert 0 <= repeated <= 65
        assert left[repeated:] == kept
        self.store.flush()
        self.queue = deque()
        self.append_all(kept)

    def append_all(self, kept):
        for block in kept:
            assert self.store.append(block)
            self.queue.append(block)

    @invariant()
    def counts_are_right(self):
        if not hasattr(self, "store"):
            return
        expected = len(self.queue), sum(each.size_bytes for each in self.queue), sum(each.frames for each in self.queue)
        assert (self.store.depth_blocks, self.store.depth_bytes, self.store.depth_frames) == expected
        assert (self.store.problem, self.store.damaged_blocks) == (None, 0)

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)


TestQueue = Queue.TestCase
TestQueue.settings = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
