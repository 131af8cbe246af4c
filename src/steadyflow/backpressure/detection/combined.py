"""Any of several detectors, or all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from steadyflow.backpressure.detection.detector import Detector
from steadyflow.backpressure.reading import Reading
from steadyflow.backpressure.verdict import LEVELS, Verdict
from steadyflow.errors import ConfigurationError


class AnyOf:
    """
    Congested where any of its detectors says so; relieved where none does any more.

    The verdict is that of the one that says so, under its own name: of several, the one that did so first, for as long as it does.

    Args:
        detectors: At least one, for no other pipeline or combination.

    Raises:
        ConfigurationError: There is none, one of them is no detector, or one came twice.
    """

    name: Final = "any_of"

    def __init__(self, *detectors: Detector) -> None:
        self._detectors = checked_detectors("AnyOf", detectors)
        self._speaker: int | None = None  # which one said so first

    def note(self, reading: Reading) -> Verdict:
        """Take in what a look found, and return the verdict on it."""
        verdicts = [detector.note(reading) for detector in self._detectors]
        if self._speaker is None or not verdicts[self._speaker].congested:
            self._speaker = next((index for index, verdict in enumerate(verdicts) if verdict.congested), None)
        return _together(self.name, verdicts) if self._speaker is None else verdicts[self._speaker]


class AllOf:
    """
    Congested where all of its detectors say so; relieved where one does not any more.

    The verdict has the reasons and the numbers of those that decided it: of all, or else of those that do not say so.

    Args:
        detectors: At least one, for no other pipeline or combination.

    Raises:
        ConfigurationError: There is none, one of them is no detector, or one came twice.
    """

    name: Final = "all_of"

    def __init__(self, *detectors: Detector) -> None:
        self._detectors = checked_detectors("AllOf", detectors)

    def note(self, reading: Reading) -> Verdict:
        """Take in what a look found, and return the verdict on it."""
        verdicts = [detector.note(reading) for detector in self._detectors]
        against = [verdict for verdict in verdicts if not verdict.congested]
        verdict = _together(self.name, against or verdicts)
        return verdict._replace(level=min((each.level for each in verdicts), key=LEVELS.index))


def _together(name: str, verdicts: list[Verdict]) -> Verdict:
    """Return one verdict of several that agree; a number that two of them have alike is in it once."""
    numbers = dict.fromkeys(number for verdict in verdicts for number in verdict.numbers)
    level = max((verdict.level for verdict in verdicts), key=LEVELS.index)
    reason = "; ".join(verdict.reason for verdict in verdicts)
    return Verdict(name, verdicts[0].congested, level, reason, tuple(numbers))


def checked_detectors(owner: str, detectors: Iterable[object]) -> tuple[Detector, ...]:
    """
    Return detectors that can be combined.

    Raises:
        ConfigurationError: There is none, one of them is no detector, or one came twice.
    """
    checked: list[Detector] = []
    for detector in detectors:
        if isinstance(detector, type) or not callable(getattr(detector, "note", None)):
            raise ConfigurationError(f"{owner}: expected detectors, such as Watermarks(), got {detector!r}.")
        if any(detector is other for other in checked):
            raise ConfigurationError(
                f"{owner}: expected each detector once, got {type(detector).__name__} twice. It would take each look for two; make another."
            )
        checked.append(detector)  # type: ignore[arg-type]
    if not checked:
        raise ConfigurationError(
            f"{owner}: expected at least one detector, got none. Give it some, such as Watermarks()."
        )
    return tuple(checked)
