"""What reached Python, block by block, and what that says: lost and late blocks, the time on the way, and its jitter."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from steadyflow.benchmarks.device.probe import MODULUS

__all__ = ["BlockLog", "Reached", "judge"]

_FIRST, _LAST, _FRAMES, _TIME_NS = range(4)

_LONGEST_CYCLE_FRAMES = 8192


class BlockLog:
    """
    Remembers of each block which frames it held, and when it was there. Allocates nothing while it does; not thread-safe.

    Args:
        most_blocks: How many there may be; those after them are not remembered.
    """

    def __init__(self, most_blocks: int) -> None:
        self._blocks: npt.NDArray[np.int64] = np.zeros((most_blocks, 4), np.int64)
        self._count = 0

    def note(self, samples: npt.NDArray[np.float32]) -> None:
        """Note that a block of the probe's numbers, of shape (frames, channels), is here now."""
        if self._count < len(self._blocks):
            self._blocks[self._count] = samples[0, 0], samples[-1, 0], len(samples), time.monotonic_ns()
            self._count += 1

    def save(self, path: Path) -> None:
        """Write it to a file for `judge`: of shape (blocks, 4), the first and the last number, frames, and the time."""
        np.save(path, self._blocks[: self._count])


@dataclass(frozen=True)
class Reached:
    """
    What reached Python of the frames that were played in a window of time.

    Attributes:
        blocks: How many blocks held any of them.
        lost_frames: Played, and never there.
        repeated_frames: There more than once.
        latencies_ns: Of each block, in order: when it was there less when its latest frame was played.
    """

    blocks: int
    lost_frames: int
    repeated_frames: int
    latencies_ns: npt.NDArray[np.int64]


def judge(
    noted: npt.NDArray[np.int64], cycles: npt.NDArray[np.int64], first_position: int, last_position: int
) -> Reached:
    """
    Compare what came with what was played.

    Args:
        noted: What `BlockLog` has saved.
        cycles: What `Probe.cycles` tells.
        first_position: The window's first frame.
        last_position: The first frame behind it.

    Returns:
        What is known about the frames in between.
    """
    # Blocks that begin or end with silence came before the probe was connected.
    noted = noted[(noted[:, _FIRST] > 0) & (noted[:, _LAST] > 0)]
    first, last = (_positions(noted[:, column], noted[:, _TIME_NS], cycles) for column in (_FIRST, _LAST))
    inside = (last >= first_position) & (first < last_position)
    first, last, times_ns = first[inside], last[inside], noted[inside, _TIME_NS]
    # Of a block with a hole inside, what is behind the hole counts as lost: one block, one row.
    end = first + np.minimum(noted[inside, _FRAMES], last - first + 1)
    # How often each frame was there.
    changes = np.zeros(last_position - first_position + 1, np.int64)
    np.add.at(changes, np.clip(first - first_position, 0, None), 1)
    np.add.at(changes, np.clip(end - first_position, None, len(changes) - 1), -1)
    there = np.cumsum(changes[:-1])
    played_ns = cycles[np.searchsorted(cycles[:, 0], last, side="right") - 1, 1]
    return Reached(
        blocks=len(first),
        lost_frames=int(np.count_nonzero(there == 0)),
        repeated_frames=int((there[there > 1] - 1).sum()),
        latencies_ns=times_ns - played_ns,
    )


def _positions(
    numbers: npt.NDArray[np.int64], times_ns: npt.NDArray[np.int64], cycles: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the positions of numbers, which come round after `MODULUS`: the latest that had been played by then."""
    # A cycle is noted when it begins, and its frames are ready a moment later.
    latest = cycles[np.searchsorted(cycles[:, 1], times_ns, side="right") - 1, 0] + _LONGEST_CYCLE_FRAMES
    positions: npt.NDArray[np.int64] = latest - (latest - (numbers - 1)) % MODULUS
    return positions
