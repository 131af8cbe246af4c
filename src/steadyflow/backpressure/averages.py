"""An average that is quick with bad news, and slow with good."""

from __future__ import annotations

from typing import Final

from steadyflow.formats import checked_integer

MOST_VALUES: Final = 1_000_000
"""How many values an average may be over."""


class AsymmetricAverage:
    """
    A running average of which every value takes one nth: a larger share where it is worse than the average, because it costs little to
    be careful for nothing, and much to forget too soon.

    Args:
        bad: n for a value above the average.
        good: n for one below.

    Raises:
        ConfigurationError: One of them is no integer from 1 on.
    """

    __slots__ = ("_bad", "_good", "value")

    value: float | None
    """The average; None before the first value."""

    def __init__(self, bad: int = 4, good: int = 16) -> None:
        self._bad = checked_integer("AsymmetricAverage", "bad", bad, MOST_VALUES)
        self._good = checked_integer("AsymmetricAverage", "good", good, MOST_VALUES)
        self.value = None

    def note(self, value: float) -> float:
        """Take in a value, of which more is worse; return the average. The first value is the average."""
        if self.value is None:
            self.value = float(value)
        else:
            n = self._bad if value > self.value else self._good
            self.value += (value - self.value) / n
        return self.value

    def __repr__(self) -> str:
        return f"<AsymmetricAverage: {self.value}>"
