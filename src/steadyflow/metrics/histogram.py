"""Percentiles of the data plane's histograms: log-linear, at most 3.2 % wide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steadyflow._native import bucket_bounds

if TYPE_CHECKING:
    import numpy.typing as npt

_LIMITS: Final = tuple(bucket_bounds().tolist())
_BOUNDS: Final = np.asarray(_LIMITS, dtype=np.float64)
_MIDDLES: Final = (_BOUNDS[:-1] + _BOUNDS[1:] - 1) / 2  # of the integers in the bucket


def bucket_limits() -> tuple[int, ...]:
    """Return where the buckets begin, and where the last one ends."""
    return _LIMITS


class Histogram:
    """
    A reading of one histogram.

    Args:
        counts: Blocks per bucket, uint64, one dimension.
        sum_ns: Sum of all values.
        max_ns: The largest value, exact.
    """

    __slots__ = ("_cumulative", "_max_ns", "_sum_ns", "count")

    def __init__(self, counts: npt.NDArray[np.uint64], sum_ns: int, max_ns: int) -> None:
        # As floats: exact up to 2**53 blocks, and no sum of whatever a damaged segment holds wraps around.
        self._cumulative: npt.NDArray[Any] = np.cumsum(counts, dtype=np.float64)
        self.count = int(self._cumulative[-1])
        self._sum_ns = sum_ns
        self._max_ns = max_ns

    @property
    def mean_ms(self) -> float:
        """Mean in ms; 0 without values."""
        return self._sum_ns / self.count / 1e6 if self.count else 0.0

    @property
    def max_ms(self) -> float:
        """Largest value in ms; 0 without values."""
        return self._max_ns / 1e6

    def percentile_ms(self, percent: float) -> float:
        """
        Return the value that `percent` % of the values do not exceed, in ms; 0 without values.

        The middle of its bucket: within 1.6 % of the truth, and never above the maximum.
        """
        return self.percentile(percent) / 1e6

    @property
    def largest(self) -> float:
        """Largest value, in the unit of the values; 0 without values."""
        return float(self._max_ns)

    def percentile(self, percent: float) -> float:
        """Return the same in the unit of the values, which need not be ns."""
        if self.count == 0:
            return 0.0
        rank = max(1.0, float(np.ceil(self._cumulative[-1] * percent / 100)))
        bucket = int(np.searchsorted(self._cumulative, rank))
        return float(min(_MIDDLES[bucket], self._max_ns))
