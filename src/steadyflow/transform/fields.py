"""The fields that users gave to blocks, kept while the frames of the blocks wait to come out in others."""

from __future__ import annotations

from collections import deque
from typing import Final

from steadyflow.data import Block, BlockFlag, MetadataValue, encode_metadata
from steadyflow.errors import DataError, MetadataTooLarge, TransformError

ONCE: Final = int(BlockFlag.DISCONTINUITY)
"""What is said of the place before a block, and so by one block only."""


class Fields:
    """
    Users' fields, by the position of their blocks.

    Those of a block come out once, with the block that takes its first frame: none are lost, and none are said twice. Where those of
    several blocks do not fit into one, the latest win.

    Args:
        step: Who keeps them, for messages.
    """

    def __init__(self, step: str) -> None:
        self._step = step
        self._waiting: deque[tuple[int, dict[str, MetadataValue]]] = deque()

    def add(self, block: Block, first_frame: int) -> None:
        """
        Remember the fields of a block that begins at `first_frame`; the blocks come in the order of their frames.

        Raises:
            TransformError: They are damaged.
        """
        if not block.has_metadata:
            return
        try:
            self._waiting.append((first_frame, block.metadata))
        except DataError as damage:
            raise TransformError(f"{self._step}: expected fields that can be read: {damage}") from damage

    def take(self, end: float, more: dict[str, MetadataValue] | None = None) -> dict[str, MetadataValue] | None:
        """
        Return the fields of all blocks that begin before a position, and that nobody has got yet.

        Args:
            end: The position.
            more: What is said besides, and wins.
        """
        if not self._waiting:
            return more
        found: list[dict[str, MetadataValue]] = []
        while self._waiting and self._waiting[0][0] < end:
            found.append(self._waiting.popleft()[1])
        if more is not None:
            found.append(more)
        while len(found) > 1 and not _fits(found):
            del found[0]
        return {name: value for fields in found for name, value in fields.items()} or None

    def restart(self) -> None:
        """What comes next does not follow: fields that nobody has got come out with its first block."""
        self._waiting = deque((0, fields) for _, fields in self._waiting)

    def clear(self) -> None:
        """Forget everything."""
        self._waiting.clear()


def _fits(found: list[dict[str, MetadataValue]]) -> bool:
    try:
        encode_metadata({name: value for fields in found for name, value in fields.items()})
    except MetadataTooLarge:
        return False
    return True
