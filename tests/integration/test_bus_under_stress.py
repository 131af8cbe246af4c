"""The bus where it is hard: garbage collection, signals, forks, cancelled callbacks, and what was slow once."""

import asyncio
import gc
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest

from steadyflow import DataFlowCoordinator
from steadyflow.errors import ConfigurationError
from steadyflow.events import Delivery, FlowEvent, SubscriberStalled, TypedEventBus

SOON_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Note(FlowEvent):
    delivery: ClassVar[Delivery] = "critical"
    number: int = 0


def until(condition):
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def bus():
    made = TypedEventBus("stress")
    yield made
    made.close(0)


def test_a_bus_that_the_garbage_collector_takes_away_stops_nobody():
    heard = []
    for _ in range(200):
        bus = TypedEventBus("dropped")
        bus.subscribe(Note, heard.append)
        bus.cycle = bus
        bus.publish(Note())
        del bus
        gc.collect()
    until(
        lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("steadyflow-events-critical")]
    )


def test_whoever_unsubscribes_in_a_finalizer_stops_nobody(bus):
    class Holder:
        def __init__(self, subscription):
            self.subscription = subscription
            self.cycle = self

        def __del__(self):
            self.subscription.unsubscribe()

    thresholds = gc.get_threshold()
    gc.set_threshold(5, 2, 2)
    try:
        for number in range(300):
            Holder(bus.subscribe(Note, lambda event: None))
            bus.publish(Note(number=number))
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert bus.drain(SOON_S)


def test_a_signal_that_publishes_comes_after_what_it_interrupts(bus):
    heard = []
    bus.subscribe(Note, lambda event: heard.append(event.number), queue_size=100_000)
    other = []
    bus.subscribe(
        FlowEvent,
        lambda event: other.append(event.number),
        where=lambda event: isinstance(event, Note),
        queue_size=100_000,
        delivery="high",
    )
    count = 0

    def tick(number, frame):
        nonlocal count
        count += 1
        bus.publish(Note(number=-count))

    before = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for number in range(3000):
            bus.publish(Note(number=number))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert bus.drain(SOON_S)
    until(lambda: len(heard) == len(other) == 3000 + count)
    assert heard == other == [event.number for event in bus.history if isinstance(event, Note)]
    assert [number for number in heard if number >= 0] == list(range(3000))


def test_a_field_that_looks_at_the_bus_is_no_obstacle(bus):
    @dataclass(frozen=True, kw_only=True)
    class Looking(FlowEvent):
        def __post_init__(self):
            assert bus.subscriptions is not None

    bus.publish(Looking())
    assert bus.history[0].flow == "stress"


def test_who_was_slow_once_gets_what_waits_at_the_end():
    bus = TypedEventBus("slow")
    gate, heard, stalls = threading.Event(), [], []

    def callback(event):
        heard.append(event.number)
        if event.number == 0:
            assert gate.wait(SOON_S)

    bus.subscribe(SubscriberStalled, stalls.append)
    subscription = bus.subscribe(Note, callback)
    bus.publish(Note(number=0))
    until(lambda: stalls)
    assert subscription.stalled
    gate.set()
    until(lambda: bus.drain(0.1))
    for number in range(1, 11):
        bus.publish(Note(number=number))
    bus.close()
    assert heard == list(range(11))
    assert subscription.dropped == 0


def test_a_thread_of_ones_own_that_never_comes_back_is_told_of_and_holds_nobody_up():
    bus = TypedEventBus("own")
    gate, stalls = threading.Event(), []
    bus.subscribe(SubscriberStalled, stalls.append)
    subscription = bus.subscribe(Note, lambda event: gate.wait(SOON_S), own_thread=True, name="mine")
    bus.publish(Note())
    until(lambda: stalls)
    assert stalls[0].subscription == "mine"
    bus.publish(Note())
    began = time.monotonic()
    bus.close()
    assert time.monotonic() - began < 0.9
    assert subscription.dropped == 1
    gate.set()


def test_where_no_thread_can_be_had_the_others_wait_and_are_served_afterwards(bus, monkeypatch, caplog):
    gate, entered, heard, stalls = threading.Event(), threading.Event(), [], []

    def slow(event):
        entered.set()
        assert gate.wait(SOON_S)

    bus.subscribe(SubscriberStalled, stalls.append)
    bus.subscribe(Note, slow, name="slow")
    bus.subscribe(Note, lambda event: heard.append(event.number))

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    bus.publish(Note(number=1))
    assert entered.wait(SOON_S)
    until(lambda: stalls)
    monkeypatch.undo()
    assert heard == []
    gate.set()
    until(lambda: heard == [1])
    assert "nobody can take the place of subscription 'slow'" in caplog.text


def test_a_callback_that_awaits_something_cancelled_has_failed_and_the_next_event_comes(bus):
    async def main():
        heard, done = [], asyncio.Event()

        async def callback(event):
            if event.number == 0:
                cancelled = asyncio.get_running_loop().create_future()
                cancelled.cancel()
                await cancelled
            heard.append(event.number)
            if event.number == 2:
                done.set()

        subscription = bus.subscribe(Note, callback)
        for number in range(3):
            bus.publish(Note(number=number))
        await asyncio.wait_for(done.wait(), SOON_S)
        assert (heard, subscription.failed) == ([1, 2], 1)

    asyncio.run(main())


def test_a_plain_function_that_returns_a_coroutine_has_failed(bus, caplog):
    async def never():
        raise AssertionError

    subscription = bus.subscribe(Note, lambda event: never())
    bus.publish(Note())
    assert bus.drain(SOON_S)
    assert subscription.failed == 1
    assert "returns a coroutine" in caplog.text


def test_a_described_flow_goes_on_in_a_fork_without_its_subscribers():
    with DataFlowCoordinator("forked") as flow:
        heard = []
        flow.events.subscribe(Note, heard.append)
        flow.events.publish(Note())
        until(lambda: heard)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                again = []
                flow.events.subscribe(Note, again.append)
                flow.events.publish(Note(number=1))
                until(lambda: again)
                status = 0 if len(heard) == 1 and len(flow.events.subscriptions) == 1 else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        flow.events.publish(Note(number=2))
        until(lambda: len(heard) == 2)


@pytest.mark.parametrize("kind", [[Note], {"a": 1}, 3])
def test_what_cannot_be_a_type_is_refused(bus, kind):
    with pytest.raises(ConfigurationError, match="expected a class of events"):
        bus.subscribe(kind, print)


@pytest.mark.parametrize("number", [1 << 64, -(1 << 63) - 1])
def test_an_integer_has_64_bits(bus, number):
    with pytest.raises(ConfigurationError, match=r"Note\.number to be an integer of 64 bits"):
        bus.publish(Note(number=number))
