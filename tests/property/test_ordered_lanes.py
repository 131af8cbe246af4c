"""
Replicas and the order of what they send, against plain lists.

Each replica is a thread of its own that takes a step only when the test says so, and says when it has done it: so who
works how long, beside whom, is what hypothesis drew, and every step has one right outcome.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from steadyflow import _native
from steadyflow.backpressure.rules import DropNewest, DropOldest, Fail, Latest, Rule, Wait
from steadyflow.errors import EndOfStream, PipelineFull, ReceiveTimeout
from steadyflow.formats import AudioFormat

FORMAT = AudioFormat(48_000, 1, max_block_frames=2)
CAPACITY_BYTES = 64
LIMIT_S = 60  # how long a step may take on a busy machine; nothing waits for time to pass

# A pipeline that waits is never sent into while it is full: a full one stops a replica, which the test then lets be.
lane_rules: st.SearchStrategy[Rule] = st.sampled_from([Wait(), Wait(), DropOldest(), DropNewest(), Latest(), Fail()])
input_rules: st.SearchStrategy[Rule] = st.sampled_from([Wait(), DropOldest(), DropNewest(), Latest()])


class ModuleFault(Exception):
    """What a failing module raises."""


@dataclass(frozen=True, order=True)
class Made:
    """What a replica sent: the number of the block it was made from, and which one of several."""

    number: int
    part: int

    @classmethod
    def of(cls, block: _native.Block) -> Made:
        return cls(int(block.samples[0, 0]), int(block.samples[1, 0]))

    @property
    def samples(self) -> np.ndarray:
        return np.array([[self.number], [self.part]], np.float32)


class Queue:
    """The model of one ring: what waits, and its rule."""

    def __init__(self, buffer_size: int, overflow: Rule) -> None:
        self.buffer_size = buffer_size
        self.overflow = overflow
        self.waiting: deque[Made] = deque()
        self.sent = 0
        self.dropped = 0
        self.delivered = 0

    @property
    def is_full(self) -> bool:
        return len(self.waiting) == self.buffer_size

    def refuses(self) -> bool:
        return isinstance(self.overflow, (Wait, Fail)) and self.is_full

    def send(self, made: Made) -> bool:
        """Do what the rule says; False if the new block was dropped."""
        self.sent += 1
        if isinstance(self.overflow, Latest):
            self.dropped += len(self.waiting)
            self.waiting.clear()
        elif self.is_full:
            self.dropped += 1
            if isinstance(self.overflow, DropNewest):
                return False
            self.waiting.popleft()
        self.waiting.append(made)
        return True


class Replica:
    """One replica: a thread that serves its input, and a module in it that does what it is told, step by step."""

    def __init__(self, inbox: _native.Inbox, output: _native.OutputCore) -> None:
        self.inbox = inbox
        self.output = output
        self.held: Made | None = None  # what the model says it has in hand
        self.parts = 0
        self.has_failed = False
        self.has_ended = False
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def step(self, what: object) -> Any:
        """Tell it what to do next, and wait until it has."""
        self._told.put(what)
        return self._done.get(timeout=LIMIT_S)

    def stop(self) -> None:
        self._told.put(None)
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        self.inbox.adopt(False)
        while self._told.get() == "serve":
            self._done.put(("served", self.inbox.serve(0, 1)))

    def process(self, block: _native.Block) -> Any:
        self._done.put(("claimed", Made.of(block)))
        while True:
            match self._told.get():
                case Made() as made:
                    try:
                        self._done.put(self.output.send(made.samples))
                    except PipelineFull:
                        self._done.put(PipelineFull)
                case "fail":
                    raise ModuleFault
                case "finish":
                    return None
                case unknown:
                    raise AssertionError(unknown)

    def ended(self) -> None:
        """Pass the end of the stream on, as a worker does."""
        self.output.end()


class OrderedLanes(RuleBasedStateMachine):
    """Sends, claims, answers, fails and receives in any order."""

    @initialize(
        replicas=st.integers(2, 3),
        input_size=st.integers(1, 5),
        input_rule=input_rules,
        pipelines=st.lists(st.tuples(st.integers(1, 4), lane_rules), min_size=1, max_size=2),
    )
    def build(self, replicas: int, input_size: int, input_rule: Rule, pipelines: list[tuple[int, Rule]]) -> None:
        self.input = Queue(input_size, input_rule)
        self.lanes = [[Queue(size, overflow) for _ in range(replicas)] for size, overflow in pipelines]
        offset = _native.SEGMENT_HEADER_BYTES
        bells: list[int] = []

        def place(size_bytes: int) -> int:
            nonlocal offset
            at = offset
            offset += size_bytes
            return at

        def bell() -> int:
            bells.append(place(_native.BELL_BYTES))
            return bells[-1]

        source_bell = bell()
        replica_bells = [bell() for _ in range(replicas)]
        receiver_bells = [bell() for _ in pipelines]
        input_slots = input_size + replicas + 1
        input_ring = place(_native.ring_bytes(input_slots, replicas))
        input_pool = place(_native.pool_bytes(input_slots + 1, CAPACITY_BYTES))
        buffers = sum(size + 2 for size, _ in pipelines) + 1
        rings = [[place(_native.ring_bytes(size + 2, 1)) for size, _ in pipelines] for _ in range(replicas)]
        pools = [place(_native.pool_bytes(buffers, CAPACITY_BYTES)) for _ in range(replicas)]
        segment = _native.Segment.create(offset)
        for each in bells:
            segment.create_bell(each)

        abort = _native.AbortFlag()
        spec = _native.PayloadSpec(1, "f4", 1, False, False, 2, [], 8)
        _native.create_pool(segment, input_pool, input_slots + 1, CAPACITY_BYTES)
        _native.create_ring(
            segment, input_ring, input_size, input_slots, replicas, 0, *input_rule.to_native(live=False)
        )
        self.input_ring = _native.Ring(segment, input_ring, "input")
        self.source = _native.OutputCore()
        self.source.configure("in", spec, FORMAT, lambda data: data, None, abort)
        self.source.set_pool(segment, input_pool, "input")
        self.source.set_bell(segment, source_bell)

        self.replicas: list[Replica] = []
        for index in range(replicas):
            output = _native.OutputCore()
            context = _native.ModuleContext()
            output.configure(f"lane{index}", spec, FORMAT, lambda data: data, context, abort)
            _native.create_pool(segment, pools[index], buffers, CAPACITY_BYTES)
            output.set_pool(segment, pools[index], "lanes")
            inbox = _native.Inbox(segment, replica_bells[index], index, abort)
            output.set_inbox(inbox)
            replica = Replica(inbox, output)
            self.replicas.append(replica)
            target = _native.Target(
                "in", spec, FORMAT, None, replica.process, None, context, lambda error, block: None, 0
            )
            bit = inbox.add_input(
                segment, input_ring, input_pool, segment, source_bell, index, 0, target, replica.ended
            )
            if index == 0:
                self.source.add_ring("in", segment, input_ring, segment, replica_bells[0], bit)
            else:
                self.source.add_consumer("in", segment, replica_bells[index], bit)
            for number, (size, overflow) in enumerate(pipelines):
                _native.create_ring(
                    segment, rings[index][number], size, size + 2, 1, number, *overflow.to_native(live=False)
                )
                output.add_ring(f"out{number}", segment, rings[index][number], segment, receiver_bells[number], 0)
                inbox.tell_finished(segment, receiver_bells[number], 0)
        self.lane_rings = [
            [_native.Ring(segment, rings[index][number], "lane") for index in range(replicas)]
            for number in range(len(pipelines))
        ]

        self.receivers: list[_native.Inbox] = []
        for number in range(len(pipelines)):
            inbox = _native.Inbox(segment, receiver_bells[number], replicas + number, abort)
            target = _native.Target(f"out{number}", spec, FORMAT, None, None, None, None, None, 0)
            for index in range(replicas):
                lane = (segment, rings[index][number], pools[index], segment, replica_bells[index], 0)
                if index == 0:
                    inbox.add_input(*lane, 0, target, None)
                else:
                    inbox.add_lane(*lane)
            inbox.restore_order_of(segment, input_ring)
            self.receivers.append(inbox)
        self.received: list[list[Made]] = [[] for _ in pipelines]
        self.number = 0
        self.has_ended = False

    # --- the input ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.has_ended)
    @rule(count=st.integers(1, 4))
    def send(self, count: int) -> None:
        for _ in range(count):
            if self.input.refuses():
                return
            made = Made(self.number, 0)
            self.number += 1
            assert self.source.send(made.samples) is self.input.send(made)

    @rule(chance=st.integers(0, 7))
    def end(self, chance: int) -> None:
        if chance == 0:
            self.source.end()
            self.has_ended = True

    # --- the replicas ------------------------------------------------------------------------------------------------

    def choose(self, data: st.DataObject) -> tuple[int, Replica]:
        index = data.draw(st.integers(0, len(self.replicas) - 1))
        return index, self.replicas[index]

    def serve(self, replica: Replica) -> None:
        """Let a replica that has nothing in hand look at its input."""
        outcome = replica.step("serve")
        if self.input.waiting:
            oldest = self.input.waiting.popleft()
            if replica.has_failed:
                # What still comes to it is dropped.
                assert outcome == ("served", 1)
                self.input.dropped += 1
            else:
                assert outcome == ("claimed", oldest)
                replica.held = oldest
                replica.parts = 0
        else:
            assert outcome == ("served", 0)
            replica.has_ended = replica.has_ended or self.has_ended

    def answer(self, index: int, replica: Replica) -> None:
        """Let a replica send one more of what it makes of the block in its hands, if no pipeline makes it wait."""
        assert replica.held is not None
        lanes = [pipeline[index] for pipeline in self.lanes]
        if any(isinstance(lane.overflow, Wait) and lane.is_full for lane in lanes):
            return
        made = Made(replica.held.number, replica.parts)
        if any(lane.refuses() for lane in lanes):
            assert replica.step(made) is PipelineFull
            return
        replica.parts += 1
        queued = [lane.send(made) for lane in lanes]
        assert replica.step(made) is all(queued)

    def finish(self, replica: Replica, fails: bool) -> None:
        assert replica.step("fail" if fails else "finish") == ("served", 1)
        replica.held = None
        if fails:
            replica.has_failed = True
            self.input.dropped += 1
        else:
            self.input.delivered += 1

    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        _, replica = self.choose(data)
        if replica.held is None:
            self.serve(replica)

    @rule(data=st.data(), count=st.integers(1, 4))
    def answer_several(self, data: st.DataObject, count: int) -> None:
        index, replica = self.choose(data)
        for _ in range(count if replica.held else 0):
            self.answer(index, replica)

    @rule(data=st.data(), fails=st.integers(0, 19).map(lambda chance: chance == 0))
    def finish_one(self, data: st.DataObject, fails: bool) -> None:
        _, replica = self.choose(data)
        if replica.held is not None:
            self.finish(replica, fails)

    # --- the receivers -----------------------------------------------------------------------------------------------

    def expected(self, pipeline: int) -> tuple[Queue, Made] | None:
        """What comes next: the first block of the input that anything is left of, if nobody works on one before it."""
        lanes = [lane for lane in self.lanes[pipeline] if lane.waiting]
        if not lanes:
            return None
        first = min(lanes, key=lambda lane: lane.waiting[0])
        held = [replica.held.number for replica in self.replicas if replica.held]
        if any(number < first.waiting[0].number for number in held):
            return None
        return first, first.waiting[0]

    def receive(self, pipeline: int) -> bool:
        expected = self.expected(pipeline)
        if expected is None:
            nothing_left = not any(lane.waiting for lane in self.lanes[pipeline])
            is_over = nothing_left and all(replica.has_ended for replica in self.replicas)
            with pytest.raises(EndOfStream if is_over else ReceiveTimeout):
                self.receivers[pipeline].receive(0)
            return False
        lane, made = expected
        assert Made.of(self.receivers[pipeline].receive(0)) == made
        lane.waiting.popleft()
        lane.delivered += 1
        self.received[pipeline].append(made)
        return True

    @rule(data=st.data(), count=st.integers(1, 6))
    def receive_several(self, data: st.DataObject, count: int) -> None:
        pipeline = data.draw(st.integers(0, len(self.lanes) - 1))
        for _ in range(count):
            if not self.receive(pipeline):
                return

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def received_in_the_order_of_the_input(self) -> None:
        for received in self.received:
            assert received == sorted(set(received))

    @invariant()
    def accounts_close(self) -> None:
        in_hand = sum(replica.held is not None for replica in self.replicas)
        self.check_account(self.input_ring, self.input, in_hand)
        for rings, lanes in zip(self.lane_rings, self.lanes, strict=True):
            for ring, lane in zip(rings, lanes, strict=True):
                self.check_account(ring, lane, 0)

    def check_account(self, ring: _native.Ring, model: Queue, in_hand: int) -> None:
        counters = ring.counters()
        assert counters["consistent"]
        assert counters["sent"] == model.sent
        assert counters["delivered"] == model.delivered
        assert sum(counters["dropped"].values()) == model.dropped
        assert counters["fill"] == len(model.waiting)
        assert model.sent == model.delivered + model.dropped + len(model.waiting) + in_hand

    def teardown(self) -> None:
        """Let everybody go on to the end of the stream: nobody waits for ever, and nothing is left."""
        if not hasattr(self, "received"):
            return
        try:
            self.source.end()
            self.has_ended = True
            while not all(replica.has_ended for replica in self.replicas):
                for index, replica in enumerate(self.replicas):
                    if replica.held is None:
                        if not replica.has_ended:
                            self.serve(replica)
                    else:
                        self.answer(index, replica)
                        self.finish(replica, fails=False)
                for pipeline in range(len(self.lanes)):
                    self.receive(pipeline)
            for pipeline in range(len(self.lanes)):
                while self.receive(pipeline):
                    pass
            self.received_in_the_order_of_the_input()
            self.accounts_close()
        finally:
            for replica in self.replicas:
                while replica.held is not None:
                    self.finish(replica, fails=False)
                replica.stop()


TestOrderedLanes = OrderedLanes.TestCase
TestOrderedLanes.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,  # a step is done when its thread says so
    suppress_health_check=[HealthCheck.too_slow],
)
