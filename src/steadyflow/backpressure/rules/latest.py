"""Only the latest block is kept."""

from __future__ import annotations

import msgspec

from steadyflow.backpressure.rules.carried_out import NativeRule, native


class Latest(msgspec.Struct, frozen=True):
    """Only the latest block is kept, whatever the room: a consumer sees the newest state or nothing."""

    def to_native(self, live: bool) -> NativeRule:
        """Return what the data plane does. `live`: whether a source above it cannot wait."""
        return native("latest")
