"""The bus: who is told what, in which order, and what becomes of subscribers that are slow, stuck or broken."""

import asyncio
import dataclasses
import enum
import inspect
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from steadyflow import events
from steadyflow.errors import ConfigurationError, StateError
from steadyflow.events import (
    LIMITS_MS,
    Delivery,
    DeliveryMissed,
    DeviceLost,
    FlowEvent,
    ModuleEnded,
    SubscriberStalled,
    TypedEventBus,
)

SOON_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Numbered(FlowEvent):
    number: int


@dataclass(frozen=True, kw_only=True)
class Urgent(Numbered):
    delivery: ClassVar[Delivery] = "critical"


class Gate:
    """A callback that stays inside until it is let out."""

    def __init__(self):
        self.entered = threading.Event()
        self.open = threading.Event()
        self.events = []

    def __call__(self, event):
        self.events.append(event)
        self.entered.set()
        assert self.open.wait(SOON_S)


class Heard:
    """A callback that notes what it is told, and can be waited for."""

    def __init__(self):
        self.events = []
        self._changed = threading.Condition()

    def __call__(self, event):
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.events) >= count, SOON_S), self.events
        return self.events


def in_time(event):
    """Leave out that another one came late, as it does where other work takes the cores."""
    return not isinstance(event, DeliveryMissed)


@pytest.fixture
def bus():
    made = TypedEventBus("test")
    yield made
    made.close(0)


def numbered(number, kind=Numbered):
    return kind(flow="test", number=number)


def test_a_type_is_told_with_its_subtypes_and_nothing_else(bus):
    everything, numbers, urgent, ended = Heard(), Heard(), Heard(), Heard()
    bus.subscribe(FlowEvent, everything, where=in_time)
    bus.subscribe(Numbered, numbers)
    bus.subscribe(Urgent, urgent)
    bus.subscribe(ModuleEnded, ended)
    told = [numbered(1), numbered(2, Urgent), ModuleEnded(flow="test", module="m"), numbered(3)]
    for event in told:
        bus.publish(event)
    assert everything.wait_for(4) == told
    assert numbers.wait_for(3) == [told[0], told[1], told[3]]
    assert urgent.wait_for(1) == [told[1]]
    assert ended.wait_for(1) == [told[2]]
    assert list(filter(in_time, bus.history)) == told


def test_a_predicate_chooses(bus):
    heard = Heard()
    subscription = bus.subscribe(Numbered, heard, where=lambda event: event.number % 2 == 0)
    for number in range(5):
        bus.publish(numbered(number))
    assert [event.number for event in heard.wait_for(3)] == [0, 2, 4]
    assert bus.drain()
    assert (subscription.delivered, subscription.failed, subscription.dropped) == (3, 0, 0)


def test_who_unsubscribes_is_told_no_more(bus):
    heard, other = Heard(), Heard()
    with bus.subscribe(Numbered, heard):
        bus.publish(numbered(1))
        heard.wait_for(1)
        assert [each.event_type for each in bus.subscriptions] == [Numbered]
    bus.subscribe(Numbered, other)
    bus.publish(numbered(2))
    other.wait_for(1)
    assert len(heard.events) == 1
    assert len(bus.subscriptions) == 1


def test_who_unsubscribes_in_the_callback_is_told_nothing_that_waits(bus):
    gate = Gate()

    def once(event):
        gate(event)
        subscription.unsubscribe()
        subscription.unsubscribe()

    subscription = bus.subscribe(Numbered, once)
    for number in range(3):
        bus.publish(numbered(number))
    assert gate.entered.wait(SOON_S)
    gate.open.set()
    assert bus.drain()
    last = Heard()
    bus.subscribe(Numbered, last)
    bus.publish(numbered(9))
    last.wait_for(1)
    assert [event.number for event in gate.events] == [0]
    assert subscription.pending == 0


def test_of_too_many_the_oldest_go_and_are_counted(bus):
    gate = Gate()
    subscription = bus.subscribe(Numbered, gate, queue_size=3)
    bus.publish(numbered(0))
    assert gate.entered.wait(SOON_S)
    for number in range(1, 8):
        bus.publish(numbered(number))
    assert (subscription.pending, subscription.dropped) == (3, 4)
    gate.open.set()
    assert bus.drain(SOON_S)
    assert [event.number for event in gate.events] in (
        [0, 5, 6, 7],
        [0],
    )  # the latter: it was stalled, so nobody waits for it
    assert "4 dropped" in repr(subscription)


@pytest.mark.parametrize("problem", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_subscriber_raises_is_logged_counted_and_harms_nobody(bus, caplog, problem):
    def fails(event):
        raise problem

    heard = Heard()
    with caplog.at_level(logging.ERROR, "steadyflow.events"):
        failing = bus.subscribe(Numbered, fails)
        bus.subscribe(Numbered, heard)
        bus.publish(numbered(1))
        bus.publish(numbered(2))
        heard.wait_for(2)
        assert bus.drain(SOON_S)
    assert failing.failed == failing.delivered == 2
    assert len([record for record in caplog.records if "fails" in record.getMessage()]) == 2


def test_a_predicate_that_raises_is_a_failure_and_no_yes(bus):
    heard = Heard()
    failing = bus.subscribe(Numbered, heard, where=lambda event: event.number / 0)
    bus.publish(numbered(1))
    assert bus.drain(SOON_S)
    assert (failing.failed, failing.delivered, heard.events) == (1, 0, [])


@pytest.mark.parametrize("kind", [Numbered, Urgent])
def test_a_stuck_subscriber_is_served_apart_told_of_and_delays_nobody(bus, kind):
    gate, heard, stalls = Gate(), Heard(), Heard()
    bus.subscribe(SubscriberStalled, stalls)
    stuck = bus.subscribe(kind, gate, name="stuck")
    bus.subscribe(kind, heard)
    bus.publish(numbered(1, kind))
    assert gate.entered.wait(SOON_S)
    bus.publish(numbered(2, kind))
    assert [event.number for event in heard.wait_for(2)] == [1, 2]
    (stall,) = stalls.wait_for(1)
    assert (stall.subscription, stall.event_type, stall.delivery_class) == ("stuck", kind.__name__, kind.delivery)
    assert stall.stalled_ms >= LIMITS_MS[kind.delivery]
    assert stuck.stalled
    # It keeps what it was given meanwhile, in its order, and its thread.
    again = threading.Event()
    gate.open.set()
    bus.subscribe(kind, lambda event: again.set())
    bus.publish(numbered(3, kind))
    assert again.wait(SOON_S)
    deadline = threading.Event()
    for _ in range(1000):
        if len(gate.events) == 3:
            break
        deadline.wait(0.01)
    assert [event.number for event in gate.events] == [1, 2, 3]


def test_nobody_waits_for_a_subscriber_that_never_comes_back():
    bus = TypedEventBus("test")
    gate = Gate()
    bus.subscribe(Urgent, gate)
    bus.publish(numbered(1, Urgent))
    assert gate.entered.wait(SOON_S)
    stalls = Heard()
    bus.subscribe(SubscriberStalled, stalls)
    try:
        bus.close()
        assert not gate.open.is_set()
        with pytest.raises(StateError, match="closed"):
            bus.publish(numbered(2, Urgent))
    finally:
        gate.open.set()


def test_a_thread_of_its_own(bus):
    threads = []
    heard = Heard()

    def note(event):
        threads.append(threading.current_thread().name)
        heard(event)

    bus.subscribe(Urgent, note, own_thread=True, name="mine")
    bus.subscribe(Urgent, note)
    bus.publish(numbered(1, Urgent))
    heard.wait_for(2)
    assert sorted(threads) == ["steadyflow-events-critical", "steadyflow-events-mine"]


def test_the_class_may_be_another_than_that_of_the_type(bus):
    names = []
    heard = Heard()

    def note(event):
        names.append(threading.current_thread().name)
        heard(event)

    assert bus.subscribe(FlowEvent, note, delivery="high").delivery == "high"
    bus.publish(numbered(1, Urgent))
    heard.wait_for(1)
    assert names == ["steadyflow-events-high"]


def test_all_subscribers_see_one_order_whoever_publishes(bus):
    first, second = Heard(), Heard()
    bus.subscribe(Numbered, first, queue_size=5000)
    bus.subscribe(FlowEvent, second, queue_size=5000, delivery="critical")
    publishers = [
        threading.Thread(target=lambda start=start: [bus.publish(numbered(start + n)) for n in range(200)])
        for start in range(0, 4000, 1000)
    ]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    numbers = [event.number for event in first.wait_for(800)]
    assert numbers == [event.number for event in second.wait_for(800) if isinstance(event, Numbered)]
    for start in range(0, 4000, 1000):
        assert [number for number in numbers if start <= number < start + 1000] == list(range(start, start + 200))


def test_delivery_is_measured_and_a_miss_is_told_once_a_second(bus):
    gate, misses = Gate(), Heard()
    bus.subscribe(DeliveryMissed, misses)
    bus.subscribe(Urgent, gate, own_thread=True, name="late")
    for number in range(5):
        bus.publish(numbered(number, Urgent))
    assert gate.entered.wait(SOON_S)
    late = threading.Event()
    late.wait(0.005)  # the promise is 1 ms: the next one cannot keep it any more
    gate.open.set()
    (missed,) = misses.wait_for(1)
    assert bus.drain(SOON_S)
    assert missed.subscription == "late"
    assert missed.delivery_ms > missed.limit_ms == 1.0
    times = bus.delivery_times("critical")
    assert times.count == 5
    assert times.max_ms >= 5.0
    assert bus.missed_deliveries("critical") >= 4
    assert bus.missed_deliveries("high") == 0
    assert len(misses.events) == 1


def test_a_coroutine_is_called_in_its_loop_one_event_at_a_time(bus):
    async def main():
        loop = asyncio.get_running_loop()
        seen, busy = [], 0
        done = asyncio.Event()

        async def heard(event):
            nonlocal busy
            assert asyncio.get_running_loop() is loop
            assert busy == 0
            busy += 1
            await asyncio.sleep(0)
            busy -= 1
            if event.number == 3:
                raise ValueError("three")
            seen.append(event.number)
            if event.number == 9:
                done.set()

        subscription = bus.subscribe(Numbered, heard)
        publisher = threading.Thread(target=lambda: [bus.publish(numbered(n)) for n in range(10)])
        publisher.start()
        await asyncio.wait_for(done.wait(), SOON_S)
        publisher.join()
        assert seen == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert (subscription.delivered, subscription.failed) == (10, 1)
        # The loop cannot serve it while it closes the bus, so nobody waits for that.
        bus.publish(numbered(10))
        assert bus.drain(SOON_S)

    asyncio.run(main())


def test_a_subscription_ends_with_its_loop(bus, caplog):
    async def heard(event):
        pass

    async def subscribe():
        return bus.subscribe(Numbered, heard)

    asyncio.run(subscribe())
    bus.publish(numbered(1))
    assert bus.subscriptions == ()
    assert "event loop" in caplog.text


class Wild(enum.Enum):
    CARD = 1


class Frozen(msgspec.Struct, frozen=True):
    values: tuple[int, ...]


@dataclass(frozen=True)
class Inner:
    value: object


@dataclass(frozen=True, kw_only=True)
class Carrying(FlowEvent):
    value: object


@pytest.mark.parametrize(
    "value", [None, True, 1, 2.5, "text", b"bytes", (1, ("a", None)), Wild.CARD, Frozen((1, 2)), Inner((1, Wild.CARD))]
)
def test_what_cannot_change_may_travel(bus, value):
    heard = Heard()
    bus.subscribe(Carrying, heard)
    bus.publish(Carrying(flow="test", value=value))
    assert heard.wait_for(1)[0].value == value


class Melting(msgspec.Struct):
    value: int


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([], "Carrying.value"),
        ({"a": 1}, "Carrying.value"),
        ((1, [2]), r"Carrying.value\[1\]"),
        (Inner([1]), "Carrying.value.value"),
        (Frozen(([],)), r"Carrying.value.values\[0\]"),
        (Melting(1), "Carrying.value"),
        (threading.Lock(), "Carrying.value"),
        (lambda: 1, "Carrying.value"),
    ],
)
def test_what_can_change_or_be_encoded_by_nobody_is_refused(bus, value, named):
    with pytest.raises(ConfigurationError, match=rf"publish: expected {named} to be something that cannot change"):
        bus.publish(Carrying(flow="test", value=value))
    assert bus.history == ()


class Undecorated(Numbered):
    pass


@pytest.mark.parametrize(
    "kind", [int, "DeviceLost", None, Exception, DeviceLost(flow="f", module="m", worker="w", problem="p")]
)
def test_only_events_can_be_subscribed_to(bus, kind):
    with pytest.raises(ConfigurationError, match="subscribe: expected a class of events"):
        bus.subscribe(kind, print)


def test_an_event_has_to_be_frozen(bus):
    with pytest.raises(
        ConfigurationError, match=r"expected Undecorated to be a frozen dataclass; write @dataclass\(frozen=True"
    ):
        bus.subscribe(Undecorated, print)
    with pytest.raises(ConfigurationError, match="frozen dataclass"):
        bus.publish(Undecorated(flow="test", number=1))
    with pytest.raises(ConfigurationError, match="expected a class of events"):
        bus.publish("DeviceLost")
    with pytest.raises(dataclasses.FrozenInstanceError):
        numbered(1).number = 2


def test_a_class_of_delivery_has_to_be_one(bus):
    @dataclass(frozen=True, kw_only=True)
    class Hasty(FlowEvent):
        delivery: ClassVar[str] = "now"

    with pytest.raises(
        ConfigurationError, match=r"Hasty\.delivery: expected one of 'critical', 'high', 'normal', got 'now'"
    ):
        bus.subscribe(Hasty, print)
    for call in (
        lambda: bus.subscribe(Numbered, print, delivery="fast"),
        lambda: bus.delivery_times("fast"),
        lambda: bus.missed_deliveries("fast"),
    ):
        with pytest.raises(ConfigurationError, match="got 'fast'"):
            call()


async def awaited(event):
    pass


class AwaitedObject:
    async def __call__(self, event):
        pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"callback": 3}, "expected callback to be a function"),
        ({"where": 3}, "expected where to be a function"),
        ({"queue_size": 0}, "queue_size"),
        ({"queue_size": 1.5}, "queue_size"),
        ({"own_thread": "yes"}, "own_thread"),
        ({"callback": awaited}, "expected a running event loop"),
        ({"callback": AwaitedObject()}, "expected a running event loop"),
        ({"callback": awaited, "own_thread": True}, "expected a plain function with own_thread=True"),
    ],
)
def test_impossible_subscriptions_are_refused(bus, options, said):
    callback = options.pop("callback", print)
    with pytest.raises(ConfigurationError, match=said):
        bus.subscribe(Numbered, callback, **options)
    assert bus.subscriptions == ()


def test_closing_delivers_what_waits_and_then_refuses():
    bus = TypedEventBus("closed")
    heard = Heard()
    bus.subscribe(Numbered, heard)
    for number in range(100):
        bus.publish(numbered(number))
    bus.close()
    bus.close()
    assert len(heard.events) == 100
    assert not bus.post(numbered(1))
    with pytest.raises(StateError, match="flow 'closed': expected an open bus to publish Numbered"):
        bus.publish(numbered(1))
    with pytest.raises(StateError, match="subscribe"):
        bus.subscribe(Numbered, heard)
    assert len(bus.history) == 100


def test_a_subscriber_may_close_the_bus():
    bus = TypedEventBus("test")
    closed = threading.Event()

    def close(event):
        bus.close(SOON_S)
        closed.set()

    bus.subscribe(Numbered, close)
    bus.publish(numbered(1))
    assert closed.wait(SOON_S / 2)


def test_no_thread_is_left_of_a_bus_that_was_closed_or_given_up():
    def names():
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("steadyflow-events")}

    before = names()
    bus = TypedEventBus("test")
    heard = Heard()
    bus.subscribe(Numbered, heard)
    bus.subscribe(Urgent, heard, own_thread=True, name="own")
    bus.publish(numbered(1, Urgent))
    heard.wait_for(2)
    assert len(names() - before) == 3
    bus.close()
    assert names() <= before
    given_up = TypedEventBus("test")
    given_up.subscribe(Numbered, heard)
    assert names() - before
    del given_up
    for _ in range(1000):
        if names() <= before:
            break
        threading.Event().wait(0.01)
    assert names() <= before


def test_a_forked_child_has_no_part_in_it(bus):
    heard = Heard()
    bus.subscribe(Numbered, heard)
    child = os.fork()
    if child == 0:
        bus.forget()
        os._exit(0 if not bus.post(numbered(1)) and bus.subscriptions == () else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    bus.publish(numbered(1))
    heard.wait_for(1)


def test_events_go_by_another_clock_from_when_it_is_given(bus):
    bus.publish(numbered(1))
    bus.go_by(lambda: 42)
    bus.publish(numbered(2))
    assert [event.timestamp_ns for event in bus.history] == [42, 42]


OWN = [
    kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, FlowEvent) and kind is not FlowEvent
]


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_each_event_says_who_publishes_it_and_is_on_the_page(kind):
    text = inspect.getdoc(kind).partition("\n\nArgs:")[0].replace("``", "`")
    assert "Published" in text
    page = (Path(__file__).parents[2] / "docs" / "concepts.md").read_text()
    assert f"| `{kind.__name__}` | {kind.delivery} | {' '.join(text.split())} |" in page
