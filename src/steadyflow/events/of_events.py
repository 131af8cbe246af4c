"""What happens on the way of events themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from steadyflow.events.event import Delivery, FlowEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class SubscriberStalled(FlowEvent):
    """
    A subscriber was in its callback for longer than its class allows. It keeps the thread that it is in, and others are served by a new one.

    Published by the bus when that happens, once for each subscription.

    Args:
        subscription: Its name.
        event_type: The class of the event that it was given.
        delivery_class: The class that it was served in.
        stalled_ms: For how long it had been in the callback.
    """

    delivery: ClassVar[Delivery] = "high"

    subscription: str
    event_type: str
    delivery_class: str
    stalled_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EventsLost(FlowEvent):
    """
    Events of a worker process did not come through. Published by the coordinator when it sees that, before the next one that did.

    Args:
        worker: Whose they were.
        lost: How many.
        reason: Why.
    """

    worker: str
    lost: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryMissed(FlowEvent):
    """
    An event came later than its class promises, because the interpreter or the machine was busy, or a subscriber before.

    Published by the bus, at most once a second for each class.

    Args:
        subscription: The one that was told late.
        event_type: The class of the event.
        delivery_class: The class that the subscription is served in.
        delivery_ms: From publishing to the beginning of the callback.
        limit_ms: What the class allows.
        missed: How many of the class came late so far.
    """

    subscription: str
    event_type: str
    delivery_class: str
    delivery_ms: float
    limit_ms: float
    missed: int
