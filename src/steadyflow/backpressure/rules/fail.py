"""The producer is told, and decides by itself."""

from __future__ import annotations

import msgspec

from steadyflow.backpressure.rules.carried_out import NativeRule, native


class Fail(msgspec.Struct, frozen=True):
    """The producer gets `PipelineFull` and decides by itself."""

    def to_native(self, live: bool) -> NativeRule:
        """Return what the data plane does. `live`: whether a source above it cannot wait."""
        return native("fail")
