"""The pipeline gets more room, up to a limit."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from steadyflow.arguments import check_duration
from steadyflow.backpressure.rules.carried_out import NativeRule, native
from steadyflow.errors import UnknownName
from steadyflow.formats import checked_integer

THENS: Final = ("wait", "drop_oldest", "drop_newest", "fail")
_MAX_BLOCKS: Final = 65_536
_MAX_BYTES: Final = 1 << 50


class Grow(msgspec.Struct, frozen=True):
    """
    A pipeline that fills gets more room before it is full, up to the first of three limits, and gives it back when it is not needed.

    It doubles each time, which takes some milliseconds; until then, and at the limit, `then` holds.

    Args:
        max_blocks: How many blocks may wait at most.
        max_bytes: How many bytes they may be; None: no limit.
        max_ms: How much audio they may be; None: no limit.
        then: What happens to a block that finds no room: ``"wait"``, ``"drop_oldest"``, ``"drop_newest"`` or ``"fail"``. None:
            ``"drop_oldest"`` below a live source, else ``"wait"``.

    Raises:
        ConfigurationError: A limit is no number above 0.
        UnknownName: Nothing of that name can happen then.
    """

    max_blocks: int
    max_bytes: int | None = None
    max_ms: float | None = None
    then: Literal["wait", "drop_oldest", "drop_newest", "fail"] | None = None

    def __post_init__(self) -> None:
        checked_integer("Grow", "max_blocks", self.max_blocks, _MAX_BLOCKS)
        if self.max_bytes is not None:
            checked_integer("Grow", "max_bytes", self.max_bytes, _MAX_BYTES)
        if self.max_ms is not None:
            check_duration("Grow", "max_ms", self.max_ms, " None sets no limit.")
        then: object = self.then  # not checked yet
        if then is not None and (not isinstance(then, str) or then not in THENS):
            raise UnknownName("value of then", self.then, THENS, where="Grow")

    def to_native(self, live: bool) -> NativeRule:
        """Return what the data plane does. `live`: whether a source above it cannot wait."""
        return native(self.then or ("drop_oldest" if live else "wait"))
