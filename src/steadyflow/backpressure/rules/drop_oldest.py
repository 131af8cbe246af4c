"""The oldest block makes room for the new one."""

from __future__ import annotations

import msgspec

from steadyflow.backpressure.rules.carried_out import NativeRule, native


class DropOldest(msgspec.Struct, frozen=True):
    """The oldest block makes room for the new one."""

    def to_native(self, live: bool) -> NativeRule:
        """Return what the data plane does. `live`: whether a source above it cannot wait."""
        return native("drop_oldest")
