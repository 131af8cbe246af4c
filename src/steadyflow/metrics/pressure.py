"""What flow control knows of a pipeline, as one frozen record."""

from __future__ import annotations

import msgspec


class Pressure(msgspec.Struct, frozen=True, kw_only=True):
    """
    How much of its time a pipeline got more than its consumer takes, and what was done about it.

    Args:
        state: ``"OK"``, ``"LOW"`` or ``"HIGH"``: what its detectors say now.
        ok_s: For how long they said so.
        low_s: Likewise.
        high_s: Likewise.
        blocked_share: For what share of the last look its senders waited for room.
        service_hz: How many blocks its consumer takes in a second when it never waits; 0: not known.
        strategy: What is done about it: the rule, or the step of one that follows the load.
        pace_hz: How many blocks may come in a second, where its sources are slowed down; 0: as they come.
        credits: How many blocks may still come before it is half full.
        room_blocks: How many blocks may wait now.
        spilled_blocks: How many wait on disk, before it.
        spilled_bytes: How much that is.
        spill_dropped: How many were dropped there.
        spill_dropped_ms: How much audio that was.
    """

    state: str
    ok_s: float
    low_s: float
    high_s: float
    blocked_share: float
    service_hz: float
    strategy: str
    pace_hz: float
    credits: int
    room_blocks: int
    spilled_blocks: int = 0
    spilled_bytes: int = 0
    spill_dropped: int = 0
    spill_dropped_ms: float = 0.0
