"""The block that is being sent is dropped."""

from __future__ import annotations

import msgspec

from steadyflow.backpressure.rules.carried_out import NativeRule, native


class DropNewest(msgspec.Struct, frozen=True):
    """The block that is being sent is dropped."""

    def to_native(self, live: bool) -> NativeRule:
        """Return what the data plane does. `live`: whether a source above it cannot wait."""
        return native("drop_newest")
