"""What finds no room waits on disk."""

from __future__ import annotations

import os
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from steadyflow.arguments import checked_path
from steadyflow.backpressure.rules.carried_out import NativeRule, native
from steadyflow.errors import UnknownName
from steadyflow.formats import checked_integer

Then: TypeAlias = Literal["drop_oldest", "drop_newest", "wait"]
"""What happens where a spool is full, or cannot be used."""

THENS: Final = get_args(Then)
MAX_SPILLED: Final = 1 << 46  # blocks, and bytes
BLOCK_OVERHEAD_BYTES: Final = 64
"""What a block takes in the file beside its payload and metadata, about."""


class Spill(msgspec.Struct, frozen=True):
    """
    What finds no room waits in a file, and comes from there in its order; also when the flow is started anew.

    It is for where a pipeline is connected: a module `steadyflow.spooling.Spool` is put before its target, with a pipeline into it that has as
    much room; below a live source that one drops the oldest where the spool itself does not keep up. `handle_backpressure` can switch to
    another rule that refuses no blocks, and back.

    Args:
        path: The file, of SQLite; made where there is none.
        max_bytes: How much may wait there, with 64 bytes for each block.
        max_blocks: How many blocks may wait there; None: as many as fit.
        then: What happens where that is reached, or where the file cannot be used (`SpillFailed` says why): ``"drop_oldest"``,
            ``"drop_newest"`` or ``"wait"``.

    Raises:
        ConfigurationError: That is no path; or a limit is no number above 0.
        UnknownName: Nothing of that name can happen then.
    """

    path: str
    max_bytes: int
    max_blocks: int | None = None
    then: Then = "drop_oldest"

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "path", os.fspath(checked_path("Spill", self.path)))
        checked_integer("Spill", "max_bytes", self.max_bytes, MAX_SPILLED)
        if self.max_blocks is not None:
            checked_integer("Spill", "max_blocks", self.max_blocks, MAX_SPILLED)
        then: object = self.then  # not checked yet
        if not isinstance(then, str) or then not in THENS:
            raise UnknownName("value of then", self.then, THENS, where="Spill")

    def to_native(self, live: bool) -> NativeRule:
        """Return what the data plane does. `live`: whether a source above it cannot wait."""
        return native("wait")
