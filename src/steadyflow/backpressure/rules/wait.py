"""The producer waits until there is room."""

from __future__ import annotations

from typing import Literal

import msgspec

from steadyflow.arguments import check_duration
from steadyflow.backpressure.rules.carried_out import THEN, NativeRule, native
from steadyflow.errors import ConfigurationError, UnknownName


class Wait(msgspec.Struct, frozen=True):
    """
    The producer waits until there is room.

    Args:
        timeout_ms: How long; None waits for as long as the flow runs.
        then: What happens after that time: ``"fail"`` raises `SendTimeout`, ``"drop_newest"`` drops the block that
            is being sent, ``"drop_oldest"`` drops the oldest one of the pipeline.

    Raises:
        ConfigurationError: That is no time above 0; or there is none, after which something could happen.
        UnknownName: Nothing of that name can happen then.
    """

    timeout_ms: float | None = None
    then: Literal["fail", "drop_newest", "drop_oldest"] = "fail"

    def __post_init__(self) -> None:
        if self.timeout_ms is not None:
            check_duration("Wait", "timeout_ms", self.timeout_ms, " Fail() and DropNewest() do not wait at all.")
        then: object = self.then  # not checked yet
        if not isinstance(then, str) or then not in THEN:
            raise UnknownName("value of then", self.then, THEN, where="Wait")
        if self.timeout_ms is None and then != "fail":
            raise ConfigurationError(
                f"Wait: expected timeout_ms with then={self.then!r}, because without it the producer waits for ever; got None."
            )

    def to_native(self, live: bool) -> NativeRule:
        """Return what the data plane does. `live`: whether a source above it cannot wait."""
        return native("wait", self.then, 0 if self.timeout_ms is None else max(1, round(self.timeout_ms * 1000)))
