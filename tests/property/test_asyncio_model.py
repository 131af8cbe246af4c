"""Tasks that send, receive and are cancelled in any order, against a deque: what comes out is what the rule left of it."""

from __future__ import annotations

import asyncio
from collections import deque

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.watched_loop import turns

from steadyflow import (
    ArrayFormat,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    EndOfStream,
    Fail,
    Latest,
    PipelineClosed,
    PipelineConfig,
    PipelineFull,
    Wait,
    _native,
)

NUMBER = ArrayFormat("int64", (1,))
RULES = st.sampled_from([Wait(), Wait(), DropOldest(), DropNewest(), Latest(), Fail()])


class Tasks(RuleBasedStateMachine):
    """One pipeline from the application to itself; every step ends when no task can go on."""

    def __init__(self):
        super().__init__()
        self.waits = _native.waits_of_this_thread()
        self.loop = asyncio.new_event_loop()
        self.flow = DataFlowCoordinator("model")
        self.queued = deque()
        self.sent = self.received = self.dropped = 0
        self.ended = False
        self.sending = []
        self.receiving = []

    @initialize(size=st.integers(1, 5), rule=RULES)
    def link(self, size, rule):
        self.size = size
        self.rule = rule
        config = PipelineConfig(buffer_size=size, backpressure_strategy=rule)
        self.pipe = self.flow.pipeline(self.flow.register_pipeline("here", "there", config, NUMBER))

    # What a task saw is noted in the very step in which it happened, so the notes are in the order of the events.

    async def send(self, value):
        try:
            queued = await self.pipe.send_async(np.array([value], np.int64))
        except PipelineFull:
            assert self.rule == Fail()
            assert len(self.queued) == self.size
        except PipelineClosed:
            assert self.ended
        else:
            self.note_sent(value, queued)

    def note_sent(self, value, queued):
        full = len(self.queued) == self.size
        self.sent += 1
        if not queued:
            assert self.rule == DropNewest()
            assert full
            self.dropped += 1
            return
        if self.rule == Latest():
            self.dropped += len(self.queued)
            self.queued.clear()
        elif full:
            assert self.rule == DropOldest()
            self.dropped += 1
            self.queued.popleft()
        self.queued.append(value)

    async def receive(self):
        try:
            block = await self.pipe.receive_async()
        except EndOfStream:
            assert self.ended
            assert not self.queued
        else:
            self.note_received(block)

    def note_received(self, block):
        assert int(block.samples[0]) == self.queued.popleft()
        self.received += 1

    def tasks(self):
        return self.sending + self.receiving

    def settle(self):
        """Let the loop turn until a few turns change nothing any more."""
        before = None
        while before != (
            before := (self.sent, self.received, self.dropped, sum(not task.done() for task in self.tasks()))
        ):
            self.loop.run_until_complete(turns(8))
        for tasks in (self.sending, self.receiving):
            for task in [task for task in tasks if task.done()]:
                tasks.remove(task)
                if not task.cancelled():
                    task.result()

    @rule(values=st.lists(st.integers(), min_size=1, max_size=6))
    def begin_to_send(self, values):
        self.sending += [self.loop.create_task(self.send(value % 1000)) for value in values]
        self.settle()

    @rule(count=st.integers(1, 6))
    def begin_to_receive(self, count):
        self.receiving += [self.loop.create_task(self.receive()) for _ in range(count)]
        self.settle()

    @rule(sends=st.integers(0, 4), receives=st.integers(0, 4), turned=st.integers(0, 3))
    def both_at_once(self, sends, receives, turned):
        self.sending += [self.loop.create_task(self.send(value)) for value in range(sends)]
        self.loop.run_until_complete(turns(turned))
        self.receiving += [self.loop.create_task(self.receive()) for _ in range(receives)]
        self.settle()

    @precondition(lambda self: self.sending or self.receiving)
    @rule(which=st.integers(0, 100), turned=st.integers(0, 3), more=st.booleans())
    def cancel(self, which, turned, more):
        """Cancel one while others begin, so that it may be on the point of going on."""
        waiting = self.tasks()
        if more:
            self.receiving.append(self.loop.create_task(self.receive()))
            self.sending.append(self.loop.create_task(self.send(1)))
        self.loop.run_until_complete(turns(turned))
        waiting[which % len(waiting)].cancel()
        self.settle()

    @precondition(lambda self: not self.ended)
    @rule(value=st.integers(0, 1000))
    def send_without_a_loop(self, value):
        if len(self.queued) < self.size and not self.sending:
            self.note_sent(value, self.pipe.send(np.array([value], np.int64)))
            self.settle()

    @precondition(lambda self: self.queued)
    @rule()
    def receive_without_a_loop(self):
        self.note_received(self.pipe.receive(0))
        self.settle()

    @rule(rule=RULES)
    def switch(self, rule):
        self.rule = rule
        self.flow.handle_backpressure(self.pipe, rule)
        self.settle()

    @precondition(lambda self: not self.ended)
    @rule(really=st.integers(0, 5))
    def end(self, really):
        if really == 0:
            self.ended = True
            self.pipe.end()
            self.settle()

    @invariant()
    def nobody_waits_for_nothing(self):
        assert not (self.receiving and (self.queued or self.ended))
        assert not (self.sending and (self.ended or self.rule != Wait() or len(self.queued) <= self.size // 2))

    @invariant()
    def everything_is_counted(self):
        if hasattr(self, "pipe"):
            metrics = self.pipe.statistics()
            assert (metrics.sent, metrics.delivered, metrics.dropped_total) == (self.sent, self.received, self.dropped)
            assert metrics.in_flight == metrics.fill == len(self.queued)

    def teardown(self):
        for task in self.tasks():
            task.cancel()
        self.settle()
        assert not self.loop.remove_reader(self.pipe._inbox.bell.descriptor)
        assert not self.loop.remove_reader(self.pipe._output.bell.descriptor)
        self.flow.close()
        self.loop.close()
        assert _native.waits_of_this_thread() == self.waits, "the thread of the loop waited in native code"


TestTasks = Tasks.TestCase
TestTasks.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
