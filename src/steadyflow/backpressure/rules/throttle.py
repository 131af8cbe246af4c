"""The sources above send less often."""

from __future__ import annotations

import msgspec

from steadyflow.arguments import checked_number
from steadyflow.backpressure.rules.carried_out import NativeRule, native


class Throttle(msgspec.Struct, frozen=True):
    """
    The sources above the pipeline are paced, so that no more comes than is taken; a full pipeline waits meanwhile.

    All of them have to be such that can wait: none is live. The application's own sends are paced, too.

    Args:
        blocks_per_second: How much may come through this pipeline; None: what its consumer takes. That is found by additive increase and
            multiplicative decrease, as TCP does it (Chiu and Jain, 1989): a little more every look, and 15 % less when it fills.

    Raises:
        ConfigurationError: That is no rate above 0.
    """

    blocks_per_second: float | None = None

    def __post_init__(self) -> None:
        if self.blocks_per_second is not None:
            checked_number("Throttle", "blocks_per_second", self.blocks_per_second, above=0, most=1e9)

    def to_native(self, live: bool) -> NativeRule:
        """Return what the data plane does. `live`: whether a source above it cannot wait."""
        return native("wait")
