"""
One number for the state of a pipeline, and the word for it.

The score starts at 100; each kind of trouble takes away up to a limit, in proportion to its share of the blocks:

=============  ==========================================  ==============
trouble        share at which it takes all it can          takes at most
=============  ==========================================  ==============
lost           1 % of what was sent                        60
late           1 % of what was delivered                   30
corrupted      0.1 % of what was delivered                 60
nearly full    a fill of 80 to 100 % of the buffer         10
=============  ==========================================  ==============

A block that `Latest` replaced, that was flushed on request, or that an input held back and did not keep, is not lost: that is what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Health: TypeAlias = Literal["healthy", "degraded", "failing", "idle"]

_WANTED: Final = frozenset({"superseded", "flushed", "unwanted"})


def lost_blocks(dropped: Mapping[str, int]) -> int:
    """Return how many blocks were dropped against the user's wish."""
    return sum(count for reason, count in dropped.items() if reason not in _WANTED)


def health_score(*, sent: int, delivered: int, lost: int, late: int, corrupted: int, fill: float) -> float:
    """
    Return the score of a pipeline, 0 to 100.

    Args:
        sent: Blocks sent.
        delivered: Blocks delivered.
        lost: Blocks dropped against the user's wish.
        late: Delivered blocks over the limit of the pipeline.
        corrupted: Blocks found damaged.
        fill: Waiting blocks over buffer_size, 0 to 1.
    """
    score = 100.0
    score -= 60 * min(1.0, lost / max(sent, 1) / 0.01)
    score -= 30 * min(1.0, late / max(delivered, 1) / 0.01)
    score -= 60 * min(1.0, corrupted / max(delivered, 1) / 0.001)
    score -= 10 * min(1.0, max(0.0, fill - 0.8) / 0.2)
    return max(0.0, score)


def health_of(score: float, sent: int) -> Health:
    """Return the word for a score: healthy from 80, degraded from 50, failing below; idle where nothing was sent."""
    if sent == 0:
        return "idle"
    return "healthy" if score >= 80 else "degraded" if score >= 50 else "failing"
