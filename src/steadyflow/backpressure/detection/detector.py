"""What a detector is."""

from __future__ import annotations

from typing import Protocol

from steadyflow.arguments import checked_number
from steadyflow.backpressure.reading import Reading
from steadyflow.backpressure.verdict import Verdict
from steadyflow.errors import ConfigurationError

MOST_MS = 600_000.0
"""The longest time that a detector may look back or ahead."""


class Detector(Protocol):
    """Says at every look whether a pipeline is congested."""

    @property
    def name(self) -> str:
        """Which one it is, as its verdicts say."""
        ...

    def note(self, reading: Reading) -> Verdict:
        """Take in what a look found, and return the verdict on it."""
        ...


def checked_marks(owner: str, low: object, high: object) -> tuple[float, float]:
    """
    Return two shares as floats, of which the second is the larger.

    Raises:
        ConfigurationError: One is no share above 0 and up to 1, or they are the wrong way round.
    """
    lower = checked_number(owner, "low", low, above=0, most=1)
    higher = checked_number(owner, "high", high, above=0, most=1)
    if lower >= higher:
        raise ConfigurationError(
            f"{owner}: expected low below high, got low={lower:g} and high={higher:g}. What lies between them keeps it from changing its "
            f"mind at every look; set them apart."
        )
    return lower, higher


def checked_ms(owner: str, name: str, value: object) -> int:
    """
    Return a time in ms, above 0 and up to ten minutes, as ns.

    Raises:
        ConfigurationError: It is something else.
    """
    return max(1, round(checked_number(owner, name, value, above=0, most=MOST_MS) * 1e6))
