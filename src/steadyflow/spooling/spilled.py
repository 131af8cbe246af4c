"""A pipeline whose blocks may wait on disk: what was put into its way, and how that is switched."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from steadyflow.backpressure.rules import Rule, Spill
from steadyflow.errors import ConfigurationError
from steadyflow.pipeline import Pipeline
from steadyflow.spooling.spool import Spool

_LOOK_S: Final = 0.01


class Spilled(NamedTuple):
    """
    A pipeline whose blocks may wait on disk.

    Args:
        spool: Where they do.
        into: What leads into that.
        behind: What leads out of that.
        rule: What it was connected with.
    """

    spool: Spool
    into: Pipeline
    behind: Pipeline
    rule: Spill

    @property
    def id(self) -> str:
        """Of the pipeline that the user has connected."""
        return self.into.id if self.into.source_open else self.behind.id

    def switch(self, strategy: Rule) -> None:
        """
        Let blocks wait on disk no more, or again.

        Raises:
            ConfigurationError: They would have to wait in another file, or a sender would be refused, which is the spool here and has nowhere
                to put a block.
        """
        if isinstance(strategy, Spill) and strategy != self.rule:
            raise ConfigurationError(
                f"{self.id}: expected {self.rule!r}, with which the pipeline was connected, or a rule that needs no file; got "
                f"{strategy!r}. Disconnect it, and connect it with that rule."
            )
        carried_out = strategy.to_native(self.behind.live)
        if carried_out.refuses:
            raise ConfigurationError(
                f"{self.id}: expected a rule that takes a block, drops one, or waits, because the pipeline was connected with "
                f"{self.rule!r}, and a spool sends into it; got {strategy!r}. Use DropNewest(), or disconnect it, and connect it with that rule."
            )
        self.spool.bypass(None if isinstance(strategy, Spill) else "wait" if carried_out.waits else "send")

    def leave(self, timeout_s: float) -> None:
        """Let go on what waits, for so long, when nothing more comes; the rest stays in the file (`SpillLeft`), which is closed."""
        deadline = time.monotonic() + timeout_s
        while self.spool.counts().depth_blocks and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        self.spool.leave()
