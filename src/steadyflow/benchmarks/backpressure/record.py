"""What is noted of a run: by the producer, the consumer, and a thread that looks at the queue every few milliseconds."""

from __future__ import annotations

import resource
import statistics
import threading
import time
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from steadyflow.benchmarks.backpressure.load import PHASES, STEP_NS, Burst, Load, Phase
from steadyflow.benchmarks.harness import Measured, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Look", "Record", "Told", "summarise"]

_EVERY_NS: Final = 5_000_000
_TRACE_EVERY_NS: Final = 10_000_000
_STATM: Final = Path("/proc/self/statm")
_PAGE_BYTES: Final = resource.getpagesize()


class Look(NamedTuple):
    """What can be read of a queue at any time: how many blocks wait, and how many were dropped so far, by reason."""

    fill: int
    dropped: Mapping[str, int]


class Told(NamedTuple):
    """An event of flow control: ``detected``, ``relieved`` or ``changed``, when, in words what, and of which pipeline."""

    kind: str
    at_ns: int
    what: str
    pipeline: str = ""


class Record:
    """
    The record of one run; memory for all of it is taken, and touched, before the run.

    Args:
        load: The load.
        live: Whether nothing slows the producer.
        trace: Whether the course of the run is kept as well, every 10 ms, for a picture.
    """

    def __init__(self, load: Load, *, live: bool, trace: bool = False) -> None:
        self.load = load
        self.live = live
        self.refused = 0
        """How many blocks the producer got back."""
        self.told: list[Told] = []
        self._trace = trace
        self._offered = dict.fromkeys(PHASES, 0)
        self._began_ns: dict[Phase, int] = {}
        self._computed_ns: dict[Phase, int] = {}
        self._lost_before: dict[Phase, int] = {}
        self._look: Callable[[], Look] = _see_nothing
        self._late_ns = array("q")
        self._taken = 0
        self._taken_ns = _zeros(load.most_blocks)
        self._latency_ns = _zeros(load.most_blocks)
        self._free_ns = 0
        self._service_ns = load.service_ns
        # Where sleeping for one block is not possible, for some.
        self._least_rest_ns = STEP_NS if load.service_ns < STEP_NS else 1
        self._every_ns = _TRACE_EVERY_NS if trace else _EVERY_NS
        looks = round((load.overload_s + 2 * load.calm_s) * 1e9 / self._every_ns * 2) + 1_000
        self._looks = 0
        self._looked_ns, self._fill, self._resident = (_zeros(looks) for _ in range(3))
        self._reasons: list[dict[str, int]] = []
        self._stop = threading.Event()
        self._watch: threading.Thread | None = None

    # --- the producer ------------------------------------------------------------------------------------------------------

    def begin(self, burst: Burst) -> None:
        """Note a burst that is sent now."""
        now_ns = time.monotonic_ns()
        if burst.phase not in self._began_ns:
            # Not when it was due: of a producer that is late, the phase is, and what it really offers is what counts.
            self._began_ns[burst.phase] = now_ns
            self._computed_ns[burst.phase] = time.process_time_ns()
            self._lost_before[burst.phase] = sum(self._look().dropped.values()) + self.refused
        self._offered[burst.phase] += burst.blocks
        self._late_ns.append(now_ns - burst.due_ns)

    # --- the consumer ------------------------------------------------------------------------------------------------------

    def take(self, sent_ns: int) -> None:
        """
        Note a block, and be busy with it.

        Like a server that needs the same time for each block: it begins when the block is there and the one before is done. By that it
        sleeps, so an oversleep is made good with the next block, and idle time is not.
        """
        now_ns = time.monotonic_ns()
        index = self._taken
        self._taken_ns[index] = now_ns
        self._latency_ns[index] = now_ns - sent_ns
        self._taken = index + 1
        self._free_ns = free_ns = max(self._free_ns, sent_ns) + self._service_ns
        if free_ns - now_ns >= self._least_rest_ns:
            time.sleep((free_ns - now_ns) / 1e9)

    # --- who looks at it ---------------------------------------------------------------------------------------------------

    def watch(self, look: Callable[[], Look]) -> None:
        """Look at the queue from now on, until `end_watch`; before the producer begins."""
        self._look = look
        self._watch = threading.Thread(target=self._keep_looking, args=(look,), daemon=True)
        self._watch.start()

    def end_watch(self) -> None:
        """Look no more."""
        if self._watch is not None:
            self._stop.set()
            self._watch.join()

    def _keep_looking(self, look: Callable[[], Look]) -> None:
        due_ns = time.monotonic_ns()
        while not self._stop.is_set() and self._looks < len(self._looked_ns):
            fill, dropped = look()
            index = self._looks
            self._looked_ns[index] = time.monotonic_ns()
            self._fill[index] = fill
            self._resident[index] = int(_STATM.read_bytes().split()[1])
            self._looks = index + 1
            if self._trace:
                self._reasons.append(_in_one(dropped, self.refused))
            due_ns = max(due_ns + self._every_ns, time.monotonic_ns())
            self._stop.wait((due_ns - time.monotonic_ns()) / 1e9)

    # --- what comes of it --------------------------------------------------------------------------------------------------

    @property
    def taken(self) -> int:
        """How many blocks the consumer has got."""
        return self._taken

    @property
    def offered(self) -> int:
        """How many blocks the producer wanted to send."""
        return sum(self._offered.values())

    def measured(self, dropped: Mapping[str, int]) -> Measured:
        """
        Return the latencies of what was taken during the overload, and what else there is to know.

        Args:
            dropped: How many blocks were dropped in the end, by reason.
        """
        onset_ns, end_ns = self._began_ns["overload"], self._began_ns["after"]
        seconds = (end_ns - onset_ns) / 1e9
        count = self._taken
        moments = self._taken_ns[:count]
        latencies_ns = [
            float(latency_ns)
            for latency_ns, at_ns in zip(self._latency_ns, moments, strict=False)
            if onset_ns <= at_ns < end_ns
        ]
        reasons = _in_one(dropped, self.refused)
        lost = sum(reasons.values())
        lost_in_overload = self._lost_before["after"] - self._lost_before["overload"]
        computed_ns = self._computed_ns["after"] - self._computed_ns["overload"]
        resident = self._resident[self._look_at(onset_ns) : self._looks]
        facts: dict[str, Any] = {
            "sent": self.offered,
            "delivered": count,
            "dropped": lost,
            "reasons": reasons,
            "room": self.load.room,
            "peak_fill": max(self._fill[: self._looks]),
            "offered_per_s": self._offered["overload"] / seconds,
            "taken_per_s": len(latencies_ns) / seconds,
            "lost": lost_in_overload,
            "lost_percent": 100 * lost_in_overload / max(1, self._offered["overload"]),
            "lost_in_calm": lost - lost_in_overload,
            "cpu_percent": 100 * computed_ns / (end_ns - onset_ns),
            "grown_kib": (max(resident) - resident[0]) * _PAGE_BYTES / 1024,
            "half_ms": self._until_half_empty(end_ns),
            "late_p99_ms": percentile(sorted(self._late_ns), 0.99) / 1e6,
            "false_alarms": sum(told.kind == "detected" and told.at_ns < onset_ns for told in self.told),
            "detections": sum(told.kind == "detected" for told in self.told),
            "false_reliefs": self._false_reliefs(onset_ns, end_ns),
            "changes": sum(told.kind == "changed" for told in self.told),
        }
        if self._trace:
            facts["trace"] = self._course(onset_ns, end_ns)
        return Measured(latencies_ns, facts)

    def until_detected(self) -> float | None:
        """Return how long after the onset pressure was detected, in ms; 0: it was there already, None: not at all."""
        onset_ns = self._began_ns["overload"]
        if self._pressed_at(onset_ns):
            return 0.0
        return next(
            ((told.at_ns - onset_ns) / 1e6 for told in self.told if told.kind == "detected" and told.at_ns >= onset_ns),
            None,
        )

    def until_relieved(self) -> float | None:
        """
        Return how long after the overload's end the last pipeline that was under pressure was relieved, in ms.

        0: the producer can wait, and did, so that it was so already. None: not at all, or before the end although the producer went on.
        """
        end_ns = self._began_ns["after"]
        pressed = self._pressed_at(end_ns)
        if not pressed:
            return 0.0 if self.told and not self.live else None
        for told in self.told:
            if told.kind == "relieved" and told.at_ns >= end_ns and told.pipeline in pressed:
                pressed.remove(told.pipeline)
                if not pressed:
                    return (told.at_ns - end_ns) / 1e6
        return None

    def _pressed_at(self, moment_ns: int) -> set[str]:
        """Return the pipelines that were under pressure then, as far as it was told."""
        last = {told.pipeline: told.kind for told in self.told if told.at_ns < moment_ns and told.kind != "changed"}
        return {pipeline for pipeline, kind in last.items() if kind == "detected"}

    def _false_reliefs(self, onset_ns: int, end_ns: int) -> int:
        """Return how often no pipeline was under pressure any more, although the producer went on."""
        within = [told for told in self.told if told.kind == "relieved" and onset_ns <= told.at_ns < end_ns]
        return sum(self.live and not self._pressed_at(told.at_ns + 1) for told in within)

    def _look_at(self, moment_ns: int) -> int:
        """Return the number of the last look before that moment."""
        return max(0, sum(at_ns < moment_ns for at_ns in self._looked_ns[: self._looks]) - 1)

    def _until_half_empty(self, end_ns: int) -> float | None:
        for index in range(self._look_at(end_ns), self._looks):
            if 2 * self._fill[index] < self.load.room:
                return max(0, self._looked_ns[index] - end_ns) / 1e6
        return None

    def _course(self, onset_ns: int, end_ns: int) -> dict[str, Any]:
        """Return the course of the run, in ms since the onset; the sojourn is the median of what was taken since the look before."""
        looked_ns = self._looked_ns[: self._looks]
        taken_ns, latency_ns = self._taken_ns[: self._taken], self._latency_ns[: self._taken]
        sojourns: list[float | None] = []
        index = 0
        for at_ns in looked_ns:
            first = index
            while index < len(taken_ns) and taken_ns[index] < at_ns:
                index += 1
            sojourns.append(statistics.median(latency_ns[first:index]) / 1e6 if index > first else None)
        names = sorted({name for reasons in self._reasons for name in reasons})
        return {
            "room": self.load.room,
            "end_ms": (end_ns - onset_ns) / 1e6,
            "at_ms": [(at_ns - onset_ns) / 1e6 for at_ns in looked_ns],
            "fill": list(self._fill[: self._looks]),
            "sojourn_ms": sojourns,
            "dropped": {name: [reasons.get(name, 0) for reasons in self._reasons] for name in names},
            "told": [(told.kind, (told.at_ns - onset_ns) / 1e6, told.what) for told in self.told],
        }


def _see_nothing() -> Look:
    return Look(0, {})


def _in_one(dropped: Mapping[str, int], refused: int) -> dict[str, int]:
    """Return what was lost, by reason, without those that there were none of."""
    return {reason: count for reason, count in {**dropped, "refused": refused}.items() if count}


def _zeros(count: int) -> array[int]:
    return array("q", bytes(8 * count))


def summarise(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Make one record of the rounds of one contestant: counts of blocks add up, of everything else it is the median.

    Where something came in some of the rounds only, the median is that of those, and `quality` says how many.
    """
    facts: dict[str, Any] = {}
    for name, value in rounds[-1].items():
        values = [each[name] for each in rounds]
        if name in _SUMS:
            facts[name] = sum(values)
        elif name == "reasons":
            facts[name] = {reason: sum(each.get(reason, 0) for each in values) for each in values for reason in each}
        elif name == "trace":
            facts[name] = value
        else:
            came = [each for each in values if each is not None]
            facts[name] = statistics.median(came) if came else None
    return facts | {"quality": _remarks(rounds, facts)}


_LATE_MS: Final = 5.0
_SUMS: Final = frozenset({"sent", "delivered", "dropped", "lost_in_calm", "false_alarms"})


def _remarks(rounds: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    said = [", ".join(f"{count:,} {reason}" for reason, count in facts["reasons"].items()) or "nothing lost"]
    said.append(f"at most {facts['peak_fill']:,.0f} waited")
    for name, what in (("detect_ms", "detected"), ("relief_ms", "relieved")):
        came = sum(each.get(name) is not None for each in rounds)
        if 0 < came < len(rounds):
            said.append(f"{what} in {came} of {len(rounds)} rounds")
    if facts["late_p99_ms"] > _LATE_MS:
        said.append(f"its producer was {facts['late_p99_ms']:.0f} ms late at p99")
    if facts["false_alarms"]:
        said.append(f"{facts['false_alarms']} false alarms")
    if facts["detections"] > 1:
        said.append(f"detected {facts['detections']:g} times")
    if facts["changes"]:
        said.append(f"{facts['changes']:g} changes")
    if facts["lost_in_calm"]:
        said.append(f"{facts['lost_in_calm']:,} lost in the calm")
    return "; ".join(said)
