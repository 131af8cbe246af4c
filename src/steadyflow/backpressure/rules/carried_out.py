"""The rules that the data plane carries out by itself, as numbers."""

from __future__ import annotations

from typing import Final, NamedTuple

KINDS: Final = ("wait", "drop_oldest", "drop_newest", "latest", "fail", "sample", "drop_by_priority")
"""In the order of the data plane."""

THEN: Final = ("fail", "drop_newest", "drop_oldest")
"""What may follow a wait that was too long, likewise."""

MAX_VALUE: Final = 1 << 40
"""The room that the data plane has for a time in µs (12 days), or another number."""


class NativeRule(NamedTuple):
    """
    A rule as the data plane knows it.

    Args:
        kind: Its place in `KINDS`.
        then: The place in `THEN` of what follows a wait.
        value: Of a wait: how long in µs, 0 for ever. Of a sample: one of how many is kept.
    """

    kind: int
    then: int = 0
    value: int = 0

    @property
    def waits(self) -> bool:
        """Whether a sender may have to wait."""
        return KINDS[self.kind] == "wait"

    @property
    def waits_for_ever(self) -> bool:
        """Whether it waits for as long as there is no room."""
        return self.waits and self.value == 0

    @property
    def loses(self) -> bool:
        """Whether a block may be dropped without an error."""
        if self.waits:
            return self.value != 0 and THEN[self.then] != "fail"
        return KINDS[self.kind] != "fail"

    @property
    def refuses(self) -> bool:
        """Whether a sender may get an error instead of room."""
        return KINDS[self.kind] == "fail" or (self.waits and self.value != 0 and THEN[self.then] == "fail")


def native(kind: str, then: str = "fail", value: int = 0) -> NativeRule:
    """Return a rule of the data plane by its names."""
    return NativeRule(KINDS.index(kind), THEN.index(then), value)
