"""How much a consumer takes, where it never waits for a block."""

from __future__ import annotations

from typing import Final

from steadyflow.backpressure.reading import Reading, growth

_LOOKS: Final = 16  # over how many of them it is smoothed
_LEAST_BLOCKS: Final = 8  # that say enough of a rate
_LEAST_NS: Final = 50_000_000  # likewise, of fewer


class ServiceRate:
    """
    Smoothed over 16 looks at which blocks waited: where none does, what is taken is what comes, and says nothing.

    Looks may be far apart, and a slow consumer takes a block in many of them: those are taken together. Where more was taken than had waited at
    first, the consumer may have waited for blocks in between: it is at least so fast, and that it is no faster counts for an eighth.
    """

    def __init__(self) -> None:
        self.hz: float | None = None
        """Blocks per second; None: it has never been busy for long enough."""
        self._since: Reading | None = None
        self._taken_since: Reading | None = None

    def note_taken(self, reading: Reading) -> None:
        """
        Take in what a look found, also where nothing waits: a consumer that is known is at least as fast as what it has taken in 50 ms.

        Else one that has become faster would be taken for slow for as long as it is slowed down for that.
        """
        since = self._taken_since
        if since is None:
            self._taken_since = reading
        elif reading.at_ns - since.at_ns >= _LEAST_NS:
            self._taken_since = reading
            happened = growth(since, reading)
            if self.hz is not None and happened.delivered >= _LEAST_BLOCKS:
                self.hz = max(self.hz, happened.delivered * 1e9 / happened.elapsed_ns)

    def interrupt(self) -> None:
        """Leave out the time until the next look: nothing could be taken."""
        self._since = None

    def note(self, reading: Reading) -> None:
        """Take in what a look found."""
        since = self._since
        if since is None or reading.waiting == 0:
            self._since = reading if reading.waiting else None
            return
        happened = growth(since, reading)
        if happened.elapsed_ns <= 0 or happened.delivered == 0:
            return
        if happened.delivered < _LEAST_BLOCKS and happened.elapsed_ns < _LEAST_NS:
            return
        measured = happened.delivered * 1e9 / happened.elapsed_ns
        weight = min(1.0, happened.elapsed_ns / (_LOOKS * 10_000_000))
        if happened.delivered > since.waiting and self.hz is not None and measured < self.hz:
            weight /= 8
        self.hz = measured if self.hz is None else self.hz + (measured - self.hz) * weight
        self._since = reading
