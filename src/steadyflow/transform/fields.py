"""Stamps, flags and fields of blocks, kept while their frames wait to come out in other blocks."""

from __future__ import annotations

from collections import deque
from typing import Final

from steadyflow.data import Block, BlockFlag, MetadataValue, encode_metadata
from steadyflow.errors import DataError, MetadataTooLarge, TransformError

ONCE: Final = int(BlockFlag.DISCONTINUITY)
"""What is said of the place before a block, and so by one block only."""

_LASTING: Final = int(BlockFlag.GAP | BlockFlag.CORRUPTED | BlockFlag.REPEATED)


class Fields:
    """
    What blocks said about themselves, by the position of their frames.

    The timestamp of any position follows from the block that it lies in. What is wrong with frames is said of every block that has
    some of them. The fields of a block come out once, with the block that takes its first frame: none are lost, and none are said
    twice. Where those of several blocks do not fit into one, the latest win.

    Args:
        step: Who keeps them, for messages.
        ns_per_frame: How long a frame lasts.
    """

    def __init__(self, step: str, ns_per_frame: float) -> None:
        self._step = step
        self._ns_per_frame = ns_per_frame
        self._stamps: deque[tuple[int, int]] = (
            deque()
        )  # (first frame, timestamp) of each block that may still be asked for
        self._flags: deque[tuple[int, int, int]] = deque()  # (first frame, the one behind the last, flags)
        self._metadata: deque[tuple[int, dict[str, MetadataValue]]] = deque()

    def add(self, block: Block, first_frame: int) -> None:
        """
        Remember what a block says that begins at `first_frame`; the blocks come in the order of their frames.

        Raises:
            TransformError: Its fields are damaged.
        """
        if block.has_metadata:
            try:
                self._metadata.append((first_frame, block.metadata))
            except DataError as damage:
                raise TransformError(f"{self._step}: expected fields that can be read: {damage}") from damage
        if block.flags & _LASTING:
            self._flags.append((first_frame, first_frame + block.frames, block.flags & _LASTING))
        self._stamps.append((first_frame, block.timestamp_ns))

    def timestamp_ns(self, position: float) -> int:
        """Return the time of a position, which is not before one that was asked for earlier."""
        stamps = self._stamps
        while len(stamps) > 1 and stamps[1][0] <= position:
            stamps.popleft()
        first_frame, timestamp_ns = stamps[0]
        return timestamp_ns + round((position - first_frame) * self._ns_per_frame)

    def flags(self, begin: float, end: float) -> int:
        """Return what is wrong with the frames of a range, which does not begin before one that was asked for earlier."""
        if not self._flags:
            return 0
        while self._flags and self._flags[0][1] <= begin:
            self._flags.popleft()
        found = 0
        for first, _, flags in self._flags:
            if first < end:
                found |= flags
        return found

    def take(self, end: float, more: dict[str, MetadataValue] | None = None) -> dict[str, MetadataValue] | None:
        """
        Return the fields of all blocks that begin before a position, and that nobody has got yet.

        Args:
            end: The position.
            more: What is said besides, and wins.
        """
        if not self._metadata:
            return more
        found: list[dict[str, MetadataValue]] = []
        while self._metadata and self._metadata[0][0] < end:
            found.append(self._metadata.popleft()[1])
        if more is not None:
            found.append(more)
        while len(found) > 1 and not _fits(found):
            del found[0]
        return {name: value for fields in found for name, value in fields.items()} or None

    def restart(self) -> None:
        """Forget stamps and flags: what comes next does not follow. Fields that nobody has got come out with it."""
        self._stamps.clear()
        self._flags.clear()
        self._metadata = deque((0, fields) for _, fields in self._metadata)

    def clear(self) -> None:
        """Forget everything."""
        self._stamps.clear()
        self._flags.clear()
        self._metadata.clear()


def _fits(found: list[dict[str, MetadataValue]]) -> bool:
    try:
        encode_metadata({name: value for fields in found for name, value in fields.items()})
    except MetadataTooLarge:
        return False
    return True
