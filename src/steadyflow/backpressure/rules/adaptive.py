"""What is done follows the load."""

from __future__ import annotations

import msgspec

from steadyflow.arguments import check_duration, checked_switch
from steadyflow.backpressure.rules.carried_out import NativeRule, native


class Adaptive(msgspec.Struct, frozen=True):
    """
    The mildest of these that helps: less room, slower sources, a lower quality, the least important inputs, dropping.

    One step is taken after the other while the pressure lasts, and taken back one by one when it is gone; each says why
    (`StrategyChanged`), and afterwards it is looked at whether it helped. What may wait is sized to what the consumer takes within three
    quarters of `drain_ms`. Sources are slowed down where none of them is live; the quality is lowered where the consumer has a ladder
    (`Module.quality_levels`). Without a live source nothing is dropped; below one, the oldest goes where there is no room.

    Args:
        drain_ms: How soon what waits is to be taken; None: within half of ``max_latency_ms`` or, without that, within 20 ms.
        lower_quality: Whether the module that the pipeline leads into may be told to work at a lower level; True: it has to have
            levels. None: where it has any.

    Raises:
        ConfigurationError: That is no time above 0, or neither True nor False.
    """

    drain_ms: float | None = None
    lower_quality: bool | None = None

    def __post_init__(self) -> None:
        if self.drain_ms is not None:
            check_duration("Adaptive", "drain_ms", self.drain_ms, " None goes by max_latency_ms.")
        if self.lower_quality is not None:
            checked_switch("Adaptive", "lower_quality", self.lower_quality)

    def to_native(self, live: bool) -> NativeRule:
        """Return what the data plane does at first. `live`: whether a source above it cannot wait."""
        return native("drop_oldest" if live else "wait")
