"""What a worker with real-time scheduling may be asked for beyond that."""

from __future__ import annotations

import msgspec

from steadyflow.errors import ConfigurationError

LONGEST_SPIN_US = 10_000
LONGEST_CPU_LATENCY_US = 1_000_000


class Realtime(msgspec.Struct, frozen=True):
    """
    For ``add(..., realtime=Realtime(...))``; ``realtime=True`` is the same as ``realtime=Realtime()``.

    Both cost power, and both are off unless asked for: measure before you do.

    Args:
        spin_us: How long the worker looks for the next block before it sleeps, in µs; at most 10,000. Saves the wake-up where
            blocks come that soon after each other; at the pace of audio they do not, and the time is lost to others. Not for
            asynchronous modules.
        cpu_latency_us: The longest time that a processor may take to wake up, in µs: while the worker runs, deeper states of
            rest are forbidden to all of them. 0: they do not rest at all. None: not asked for. Needs the right to write to
            ``/dev/cpu_dma_latency``; where that is missing the worker runs without.

    Raises:
        ConfigurationError: A value is no number, or out of range.
    """

    spin_us: int = 0
    cpu_latency_us: int | None = None

    def __post_init__(self) -> None:
        _check("spin_us", self.spin_us, LONGEST_SPIN_US)
        if self.cpu_latency_us is not None:
            _check("cpu_latency_us", self.cpu_latency_us, LONGEST_CPU_LATENCY_US)


def together(one: Realtime | None, other: Realtime | None) -> Realtime | None:
    """Return what suits both, where two modules share a worker."""
    if one is None or other is None:
        return one or other
    asked = [each.cpu_latency_us for each in (one, other) if each.cpu_latency_us is not None]
    return Realtime(max(one.spin_us, other.spin_us), min(asked, default=None))


def checked_realtime(where: str, value: object) -> Realtime | None:
    """
    Return what is asked for; None: no real-time scheduling.

    Raises:
        ConfigurationError: It is neither a switch nor `Realtime`.
    """
    match value:
        case bool():
            return Realtime() if value else None
        case Realtime():
            return value
    raise ConfigurationError(f"{where}: expected realtime to be True, False or Realtime(...), got {value!r}.")


def _check(name: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ConfigurationError(f"Realtime: expected {name} to be an integer from 0 to {most}, in µs, got {value!r}.")
