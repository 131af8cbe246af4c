"""The bus against a model: any order of subscribing, publishing, blocking and leaving."""

import threading
from dataclasses import dataclass
from typing import ClassVar

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from steadyflow.events import Delivery, FlowEvent, TypedEventBus

SOON_S = 10.0


@dataclass(frozen=True, kw_only=True)
class A(FlowEvent):
    number: int


@dataclass(frozen=True, kw_only=True)
class B(A):
    delivery: ClassVar[Delivery] = "high"


@dataclass(frozen=True, kw_only=True)
class C(A):
    delivery: ClassVar[Delivery] = "critical"


KINDS = [A, B, C]


class Listener:
    """A subscriber with a thread of its own, which can be kept in its callback; and what the model says of it."""

    def __init__(self, bus, kind, queue_size):
        self.kind, self.queue_size = kind, queue_size
        self.told, self.expected, self.waiting = [], [], []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.inside = False
        self.dropped = 0
        self.subscription = bus.subscribe(kind, self, queue_size=queue_size, own_thread=True)

    def __call__(self, event):
        self.told.append(event.number)
        self.entered.release()
        assert self.gate.wait(SOON_S)

    def block(self):
        self.gate.clear()

    def publish(self, event):
        """What the model says, and waiting until the bus has done as much."""
        if not isinstance(event, self.kind):
            return
        if self.gate.is_set():
            self.expected.append(event.number)
        elif not self.inside:
            self.expected.append(event.number)
            self.inside = True
        else:
            self.waiting.append(event.number)
            if len(self.waiting) > self.queue_size:
                del self.waiting[0]
                self.dropped += 1
            return
        assert self.entered.acquire(timeout=SOON_S)

    def release(self):
        """Let it out; what waited comes."""
        self.gate.set()
        self.inside = False
        for _ in self.waiting:
            assert self.entered.acquire(timeout=SOON_S)
        self.expected += self.waiting
        self.waiting = []


steps = st.lists(
    st.one_of(
        st.tuples(st.just("subscribe"), st.sampled_from(KINDS), st.integers(1, 4)),
        st.tuples(st.just("publish"), st.sampled_from(KINDS), st.integers(0, 0)),
        st.tuples(st.sampled_from(["block", "release", "leave"]), st.integers(0, 7), st.integers(0, 0)),
    ),
    min_size=5,
    max_size=60,
)


@settings(deadline=None, derandomize=True, database=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_each_subscriber_is_told_what_the_model_says(steps):
    bus = TypedEventBus("model")
    listeners, left, number = [], [], 0
    try:
        for step, what, size in steps:
            if step == "subscribe" and len(listeners) < 8:
                listeners.append(Listener(bus, what, size))
            elif step == "publish":
                number += 1
                event = what(flow="model", number=number)
                bus.publish(event)
                for listener in listeners:
                    listener.publish(event)
            elif step in ("block", "release", "leave") and listeners:
                listener = listeners[what % len(listeners)]
                if step == "block" and listener.gate.is_set():
                    listener.block()
                elif step == "release":
                    listener.release()
                elif step == "leave":
                    listener.subscription.unsubscribe()
                    listener.waiting = []
                    listeners.remove(listener)
                    left.append(listener)
        for listener in listeners:
            listener.release()
        assert bus.drain(SOON_S)
        for listener in listeners + left:
            assert listener.told == listener.expected
            assert listener.subscription.dropped == listener.dropped
            assert listener.subscription.delivered == len(listener.expected)
            assert listener.subscription.failed == 0
    finally:
        for listener in listeners + left:
            listener.gate.set()
        bus.close()
