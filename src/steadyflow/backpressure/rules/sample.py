"""One block of so many is kept."""

from __future__ import annotations

import msgspec

from steadyflow.backpressure.rules.carried_out import MAX_VALUE, NativeRule, native
from steadyflow.errors import ConfigurationError


class Sample(msgspec.Struct, frozen=True):
    """
    One block of `one_of` is kept, whether there is room or not; the others are dropped (reason ``sampled``).

    One that is kept and finds no room makes the oldest go, as `DropOldest` does.

    Args:
        one_of: Of how many, 2 or more: the first of each.

    Raises:
        ConfigurationError: That is no integer of 2 or more.
    """

    one_of: int

    def __post_init__(self) -> None:
        one_of: object = self.one_of  # not checked yet
        if isinstance(one_of, bool) or not isinstance(one_of, int) or not 2 <= one_of < MAX_VALUE:
            raise ConfigurationError(
                f"Sample: expected one_of to be an integer of 2 or more, got {self.one_of!r}. Sample(4) keeps one block of four."
            )

    def to_native(self, live: bool) -> NativeRule:
        """Return what the data plane does. `live`: whether a source above it cannot wait."""
        return native("sample", value=self.one_of)
