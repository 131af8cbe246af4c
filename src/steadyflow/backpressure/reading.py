"""What one look at a pipeline found, and what happened between two of them."""

from __future__ import annotations

from typing import NamedTuple


class Reading(NamedTuple):
    """
    What one look at a pipeline found. Counters are since the pipeline was made; they begin again at 0 where it gets other rings.

    Args:
        at_ns: When, on the monotonic clock.
        sent: How many blocks were sent, those that were dropped included, and those that the spool before it has dropped.
        delivered: How many of them were delivered.
        dropped: How many of them were dropped.
        waiting: How many of them wait now.
        fill: The share of the tightest of its limits (blocks, bytes, ms) that is taken, 0 to 1.
        sojourn_ns: How long the oldest that waits has waited; 0: none waits.
        blocked_ns: How long senders have waited for room, in all; a wait that still lasts is included.
        full_events: How often it became full.
        spilled: How many blocks wait on disk, before those that wait in it.
    """

    at_ns: int
    sent: int
    delivered: int
    dropped: int
    waiting: int
    fill: float
    sojourn_ns: int
    blocked_ns: int
    full_events: int
    spilled: int = 0


class Growth(NamedTuple):
    """
    What happened between two looks; nothing in it is below 0.

    Args:
        elapsed_ns: The time between them; 0 where it stood still, or went back.
        sent: How many blocks were sent.
        delivered: How many were delivered.
        blocked_ns: How long senders have waited for room.
        full_events: How often it became full.
    """

    elapsed_ns: int
    sent: int
    delivered: int
    blocked_ns: int
    full_events: int


def growth(before: Reading, now: Reading) -> Growth:
    """
    Return what happened between two looks.

    Fewer blocks sent than before tell that the counters began again, so all that they have counted is new. Another counter that
    is a little behind was read while it was written, as a wait for room that ends right now is, and tells nothing.
    """
    if now.sent < before.sent:
        before = before._replace(sent=0, delivered=0, blocked_ns=0, full_events=0)
    return Growth(
        max(0, now.at_ns - before.at_ns),
        now.sent - before.sent,
        max(0, now.delivered - before.delivered),
        max(0, now.blocked_ns - before.blocked_ns),
        max(0, now.full_events - before.full_events),
    )
