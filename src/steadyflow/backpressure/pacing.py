"""How fast the sources above a pipeline may send. Pure functions of readings; rates are blocks per second through the pipeline."""

from __future__ import annotations

from typing import Final, Protocol

from steadyflow.backpressure.reading import Reading

STANDING_NS: Final = 50_000_000
"""A queue with less work in it is as good as empty: it is taken before anybody can change a pace."""

FULL: Final = 0.9
HALF: Final = 0.5
CUT: Final = 0.85
"""What is left of a rate after a cut."""
CUT_NS: Final = 100_000_000
"""From one cut to the next: so long it takes until its effect is seen."""
GAIN_PER_S: Final = 0.5
"""How much faster in a second, as a share of what the consumer takes."""
_LEAST_HZ: Final = 0.1
_EMPTY: Final = 0.2  # of what is aimed at
_EMPTY_NS: Final = 200_000_000
_EMPTY_BLOCKS: Final = 8  # for so long it has to be empty that so many would have been taken: single ones differ


class Pacer(Protocol):
    """Finds how much may come."""

    def note(self, reading: Reading, service_hz: float | None) -> float | None:
        """Take in a look, and what the consumer takes, if that is known; return the rate. None: as it comes."""


class FixedRate:
    """
    No more than was asked for.

    Args:
        hz: The rate.
    """

    def __init__(self, hz: float) -> None:
        self._hz = hz

    def note(self, reading: Reading, service_hz: float | None) -> float | None:
        """Return the rate, whatever was found."""
        return self._hz


class AdditiveIncrease:
    """
    A little more all the time, and 15 % less where more than half of the room is taken (Chiu and Jain, 1989).

    It begins with what the consumer takes, when more than half of the room is taken for the first time.
    """

    def __init__(self) -> None:
        self._hz: float | None = None
        self._cut_ns = 0
        self._last_ns = 0

    def note(self, reading: Reading, service_hz: float | None) -> float | None:
        """Take in a look; return the rate."""
        elapsed_s = max(reading.at_ns - self._last_ns, 0) / 1e9 if self._last_ns else 0.0
        self._last_ns = reading.at_ns
        if service_hz is None:
            return self._hz
        if self._hz is None:
            if reading.fill > HALF:
                self._hz, self._cut_ns = max(service_hz, _LEAST_HZ), reading.at_ns
        elif reading.fill > HALF:
            if reading.at_ns - self._cut_ns >= CUT_NS:
                # Where less came than was allowed, the pace has grown far beyond what is taken.
                self._hz = max(min(self._hz, 2 * service_hz) * CUT, _LEAST_HZ)
                self._cut_ns = reading.at_ns
        else:
            self._hz = min(self._hz + GAIN_PER_S * service_hz * elapsed_s, 2 * max(service_hz, self._hz))
        return self._hz


class Credit:
    """
    As much as keeps 50 ms of work in the pipeline, and no more than half of its room taken, where it would stand full otherwise: what its
    consumer takes, more below that, less above.

    It begins where a pipeline is full that holds work for 50 ms or more, and ends where it stays nearly empty, measured by what is aimed at.
    A source is given as much as is taken, as credits would do, and no queue stands full that delays for long.
    """

    def __init__(self) -> None:
        self._paces = False
        self._empty_since_ns: int | None = None

    def note(self, reading: Reading, service_hz: float | None) -> float | None:
        """Take in a look; return the rate."""
        if service_hz is None or service_hz <= 0:
            return None
        if not self._paces:
            work_ns = reading.waiting / service_hz * 1e9
            self._paces = reading.fill >= FULL and work_ns >= STANDING_NS
            self._empty_since_ns = None
        if not self._paces:
            return None
        # The room in blocks is known by those that wait.
        room = reading.waiting / reading.fill if reading.fill > 0 else 1.0
        aim = min(max(service_hz * STANDING_NS / 1e9 / max(room, 1.0), 1 / max(room, 1.0)), HALF)
        if self._stays_empty(reading, aim, service_hz):
            self._paces = False
            return None
        return max(service_hz * min(max(1 + (aim - reading.fill) / aim, 0.1), 2.0), _LEAST_HZ)

    def _stays_empty(self, reading: Reading, aim: float, service_hz: float) -> bool:
        if reading.fill >= _EMPTY * aim:
            self._empty_since_ns = None
            return False
        if self._empty_since_ns is None:
            self._empty_since_ns = reading.at_ns
        return reading.at_ns - self._empty_since_ns >= max(_EMPTY_NS, _EMPTY_BLOCKS / service_hz * 1e9)
