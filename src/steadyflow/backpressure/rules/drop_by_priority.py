"""The least important input of a consumer gives way first."""

from __future__ import annotations

import msgspec

from steadyflow.backpressure.rules.carried_out import NativeRule, native


class DropByPriority(msgspec.Struct, frozen=True):
    """
    The least important input of the same consumer gives way first: by ``priority``, its oldest block.

    All pipelines with this rule into one module share their room: one may hold more than its ``buffer_size`` while others
    need less of theirs. When all of it is taken, the oldest block goes of the least important one that has any and is less
    important than who needs room (reason ``outranked``); where there is none, its own oldest. Those that share are the ones that were
    connected before the start, or in one ``with flow.changes()``, until a module that feeds one of them is replaced; a pipeline alone does what
    `DropOldest` does.
    """

    def to_native(self, live: bool) -> NativeRule:
        """Return what the data plane does. `live`: whether a source above it cannot wait."""
        return native("drop_by_priority")
