"""What the blocks of a pipeline are checked for, and what follows: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from steadyflow.errors import ConfigurationError, UnknownName
from steadyflow.formats import AudioFormat, Format, checked_integer

_MODES: Final = ("sample", "full")
_ON_INVALID: Final = ("pass", "repair", "reject", "fail")


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """
    Checks the audio of a pipeline before anything is done with it, on the consumer's side.

    Args:
        mode: ``"full"`` checks every block, ``"sample"`` every `sample_every`-th, and the first.
        on_invalid: ``"pass"`` counts; ``"repair"`` makes what is no number 0 and limits what is out of range, and passes the rest;
            ``"reject"`` drops the block, tells it by an event, and the next block says `BlockFlag.DISCONTINUITY`; ``"fail"``
            ends the module with a `TransformError`.
        sample_every: See `mode`.
        max_amplitude: A sample beyond it is out of range; None: none is. Of integer samples full scale is 1.
        max_dc: The greatest constant part of a channel, averaged over a second; None: any.
        max_stuck_ms: Blocks that are the same, bit by bit, and not silent, for longer than this are stuck; None: they may be. A
            synthetic tone of which whole periods fit into a block looks the same as a driver that is stuck.

    Raises:
        UnknownName: There is no such mode or answer.
        ConfigurationError: A limit is no positive number.
    """

    mode: Literal["sample", "full"] = "full"
    on_invalid: Literal["pass", "repair", "reject", "fail"] = "pass"
    sample_every: int = 16
    max_amplitude: float | None = 1.0
    max_dc: float | None = 0.05
    max_stuck_ms: float | None = 500.0

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise UnknownName("mode", self.mode, _MODES, where="Validation")
        if self.on_invalid not in _ON_INVALID:
            raise UnknownName("value of on_invalid", self.on_invalid, _ON_INVALID, where="Validation")
        checked_integer("Validation", "sample_every", self.sample_every, 1 << 20)
        for name in ("max_amplitude", "max_dc", "max_stuck_ms"):
            limit: object = getattr(self, name)  # not checked yet
            is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
            if limit is not None and not (is_number and 0 < float(limit) < float("inf")):  # type: ignore[arg-type]
                raise ConfigurationError(f"Validation: expected {name} to be a number above 0, or None, got {limit!r}.")


def check_validation(where: str, fmt: Format, validation: Validation | None) -> None:
    """
    Check that what flows can be checked.

    Raises:
        ConfigurationError: It is no audio.
    """
    if validation is not None and not isinstance(fmt, AudioFormat):
        raise ConfigurationError(f"{where}: expected audio, which is all that is checked (validation=); got {fmt}.")


def validation_from_table(table: object) -> Validation | None:
    """
    Read what a file says: ``"off"``, ``"full"``, or ``{mode = "sample", on_invalid = "repair"}``.

    Raises:
        UnknownName: There is no such option or value.
        ConfigurationError: A value is impossible.
    """
    if table == "off":
        return None
    if isinstance(table, str):
        return Validation(mode=table)  # type: ignore[arg-type]
    if not isinstance(table, Mapping):
        raise ConfigurationError(
            f'expected "off", "sample", "full" or a table such as {{mode = "full"}}, got {table!r}.'
        )
    values: dict[str, Any] = dict(table)
    for name in values:
        if name not in Validation.__struct_fields__:
            raise UnknownName("option of validation", name, Validation.__struct_fields__)
    return Validation(**values)
