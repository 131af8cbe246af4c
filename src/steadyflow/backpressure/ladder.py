"""
The steps of a rule that follows the load: up while there is pressure, down when there is none, and whether each one helped.

Pure: it is told what was found and by what clock, and says what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from steadyflow.backpressure.averages import AsymmetricAverage

SETTLE_NS: Final = 200_000_000
"""How long a step has until it is looked at whether it helped, and before the next one up."""
PATIENCE_NS: Final = 1_000_000_000
"""How long there has to be no pressure before a step down, at first."""
MOST_PATIENCE_NS: Final = 60_000_000_000
"""And at most: it doubles each time that a step down had to be taken back."""
LOST_SHARE: Final = 0.01
"""The share of the blocks whose loss is as bad as a wait of the whole target."""
_BAD_LOOKS: Final = 4
_GOOD_LOOKS: Final = 16
MOST_PRESSURE: Final = 4.0
"""What is worse counts as that, so that it is not remembered for too long."""
BUSY_FACTOR: Final = 4
"""How much longer there has to be no pressure where the machine is busy with other things, which may go on."""
GOOD: Final = 0.5
"""The pressure below which there is none."""
BETTER: Final = 0.9
"""What is left of the pressure where a step helped."""


class Rung(NamedTuple):
    """
    One step.

    Args:
        name: What is done there.
        expected: The effect that is expected of it.
        aims_at: What is to become less: ``"sojourn_ms"``, ``"lost_share"`` or, where that is whichever is worse, ``"pressure"``.
    """

    name: str
    expected: str
    aims_at: Literal["sojourn_ms", "lost_share", "pressure"] = "pressure"


_AIMS: Final = {
    "sojourn_ms": "the oldest block had waited for",
    "lost_share": "of the blocks were lost",
    "pressure": "the pressure, of which 1.0 is the limit, was",
}


def _amount(aim: str, value: float) -> str:
    return f"{value:.1f} ms" if aim == "sojourn_ms" else f"{value:.0%}" if aim == "lost_share" else f"{value:.1f}"


class Found(NamedTuple):
    """
    What a look found.

    Args:
        at_ns: When, on a clock.
        sojourn_ms: How long the oldest block that waits has waited.
        lost_share: What share of what was sent since the last look was dropped.
        fill_share: How much of the room is taken.
        cpu_pressure_share: For what share of the last ten seconds something waited for a core; None: not known.
        runnable_per_core: How many tasks run or wait for a core, for each core; None: not known.
    """

    at_ns: int
    sojourn_ms: float
    lost_share: float
    fill_share: float
    cpu_pressure_share: float | None = None
    runnable_per_core: float | None = None

    @property
    def machine_is_busy(self) -> bool:
        """Whether what is slow now is slow because of others."""
        return (self.cpu_pressure_share or 0.0) > 0.2 or (self.runnable_per_core or 0.0) > 2.0


class Move(NamedTuple):
    """
    From one step to another.

    Args:
        before: The step until now.
        after: The step from now on.
        reason: Why, in words.
        numbers: What it was decided by.
        expected: The effect that is expected.
    """

    before: Rung
    after: Rung
    reason: str
    numbers: tuple[tuple[str, float], ...]
    expected: str


class Judgement(NamedTuple):
    """
    Whether a step up has helped.

    Args:
        rung: The step.
        helped: Whether.
        reason: What was found, in words.
        numbers: The pressure before and after, among others.
    """

    rung: Rung
    helped: bool
    reason: str
    numbers: tuple[tuple[str, float], ...]


class Ladder:
    """
    Climbs and descends.

    Pressure is the sojourn of the oldest block as a share of a target, or the loss, whichever is worse: 1.0 is the limit. Bad news is averaged
    over 4 looks, good over 16 (as GStreamer's sinks do). A step up is taken at a pressure of 1.0, and 0.2 s after the one before; a step
    down after some time below 0.5, which is longer where the machine is busy with other things.

    Args:
        rungs: The steps, the mildest first: the first one is where nothing is done.
        target_ms: How long a block may wait.
    """

    def __init__(self, rungs: Sequence[Rung], target_ms: float) -> None:
        self._rungs = list(rungs)
        self._target_ms = target_ms
        self._at = 0
        self._bad = AsymmetricAverage(_BAD_LOOKS, _BAD_LOOKS)
        self._good = AsymmetricAverage(_GOOD_LOOKS, _GOOD_LOOKS)
        self._averages = {
            name: AsymmetricAverage(_BAD_LOOKS, _GOOD_LOOKS) for name in ("pressure", "sojourn_ms", "lost_share")
        }
        self._moved_ns: int | None = None
        self._before = 0.0  # what the last step up aimed at, when it was taken
        self._unjudged = False
        self._calm_since_ns: int | None = None
        self._patience_ns = PATIENCE_NS
        self._descended_ns: int | None = None

    @property
    def rung(self) -> Rung:
        """The step that it is at."""
        return self._rungs[self._at]

    @property
    def pressure(self) -> float:
        """Smoothed; 1.0 is the limit."""
        return self._averages["pressure"].value or 0.0

    def note(self, found: Found) -> list[Move | Judgement]:
        """Take in what a look found; return what follows."""
        worst = max(found.sojourn_ms / self._target_ms, found.lost_share / LOST_SHARE)
        bad, good = (average.note(min(worst, MOST_PRESSURE)) for average in (self._bad, self._good))
        self._averages["pressure"].note(min(worst, MOST_PRESSURE))
        self._averages["sojourn_ms"].note(found.sojourn_ms)
        self._averages["lost_share"].note(found.lost_share)
        news: list[Move | Judgement] = []
        settled = self._moved_ns is None or found.at_ns - self._moved_ns >= SETTLE_NS
        if settled and self._unjudged:
            news.append(self._judge(found))
        if good >= GOOD:
            self._calm_since_ns = None
        elif self._calm_since_ns is None:
            self._calm_since_ns = found.at_ns
        if bad >= 1:
            if settled and self._at + 1 < len(self._rungs):
                news.append(self._climb(found))
        elif self._at and self._calm_since_ns is not None:
            patience_ns = self._patience_ns * (BUSY_FACTOR if found.machine_is_busy else 1)
            if found.at_ns - max(self._calm_since_ns, self._moved_ns or 0) >= patience_ns:
                news.append(self._descend(found, patience_ns))
        return news

    def _climb(self, found: Found) -> Move:
        if self._descended_ns is not None and found.at_ns - self._descended_ns < 2 * self._patience_ns:
            self._patience_ns = min(2 * self._patience_ns, MOST_PATIENCE_NS)
        self._descended_ns = None
        following = self._rungs[self._at + 1]
        self._before, self._unjudged = self._averages[following.aims_at].value or 0.0, True
        reason = (
            f"the oldest block has waited for {found.sojourn_ms:.1f} ms, of {self._target_ms:.1f} that it may, and {found.lost_share:.0%} "
            f"of the blocks were lost"
        )
        if found.machine_is_busy:
            reason += ", while the machine is busy with other things, too"
        return self._move(1, found, reason, following.expected)

    def _descend(self, found: Found, patience_ns: int) -> Move:
        self._descended_ns = found.at_ns
        self._unjudged = False
        reason = f"blocks waited for less than {GOOD:.0%} of what they may, on average, and hardly any was lost, for {patience_ns / 1e9:.0f} s"
        return self._move(-1, found, reason, "that it stays so with less effort")

    def _move(self, by: int, found: Found, reason: str, expected: str) -> Move:
        before = self.rung
        self._at += by
        self._moved_ns = found.at_ns
        return Move(before, self.rung, reason, self._numbers(found), expected)

    def _judge(self, found: Found) -> Judgement:
        self._unjudged = False
        aim = self.rung.aims_at
        now = self._averages[aim].value or 0.0
        helped = self.pressure < 1 or now < BETTER * self._before
        reason = f"{_AIMS[aim]} {_amount(aim, self._before)} before, and {_amount(aim, now)} now"
        numbers = ((f"before_{aim if aim != 'pressure' else 'pressure_ratio'}", self._before), *self._numbers(found))
        return Judgement(self.rung, helped, reason, numbers)

    def _numbers(self, found: Found) -> tuple[tuple[str, float], ...]:
        load = (("cpu_pressure_share", found.cpu_pressure_share), ("runnable_per_core_ratio", found.runnable_per_core))
        return (
            ("pressure_ratio", self.pressure),
            ("sojourn_ms", found.sojourn_ms),
            ("target_ms", self._target_ms),
            ("lost_share", found.lost_share),
            ("fill_share", found.fill_share),
            *((name, value) for name, value in load if value is not None),
        )
