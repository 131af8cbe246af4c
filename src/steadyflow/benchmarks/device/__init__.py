"""
Device: what becomes of a device's blocks, ours beside its peers, against a JACK server of the benchmark's own.

Lost blocks are counted by the numbers of frames that a native client, the probe, plays: by what arrives, not by callbacks. It
measures the round trip of a duplex path by the same numbers, without Python.

    contestants   what is measured: a capture, a duplex path, the same analysis in three places
    cells         periods, loads and contestants; measures one after the other
    cell          the process of one of them
    server        jackd with its dummy driver
    probe         the client that plays and listens
    blocks        what reached Python, and what that says
    tables        the result for a terminal, and for a page

`DeviceResult.run` measures; from the command line: `steadyflow bench device`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from steadyflow.benchmarks.device.cells import FRAMES, LOADS, Load, Row, measure, plan
from steadyflow.benchmarks.harness import Say, silent
from steadyflow.benchmarks.machine import describe_machine

__all__ = ["FRAMES", "LOADS", "SECONDS", "DeviceResult", "Load", "Row"]

SECONDS = 60.0
"""How long each cell is measured unless told otherwise."""


@dataclass
class DeviceResult:
    """
    The record of a run, which `run` fills.

    Attributes:
        seconds: How long each cell is measured.
        started_at: In UTC.
        machine: The machine and the software.
        duration_s: How long all of it took so far.
        rows: What was measured so far, also if it was interrupted.
    """

    seconds: float = SECONDS
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    machine: dict[str, object] = field(default_factory=describe_machine)
    duration_s: float = 0.0
    rows: list[Row] = field(default_factory=list)

    def run(self, frames: Sequence[int] = FRAMES, loads: Sequence[Load] = LOADS, say: Say = silent) -> None:
        """
        Measure every contestant with every period under every load. Blocks, for all of them some two hours.

        Args:
            frames: The periods.
            loads: The loads.
            say: Called with a line of progress, now and then.

        Raises:
            SystemShortage: jackd, JACK's library or PortAudio is not installed.
            MissingExtra: sounddevice is not installed.
        """
        from steadyflow.audio.devices import import_sounddevice

        import_sounddevice("steadyflow bench device")
        began_s = time.monotonic()
        for row in measure(plan(frames, loads), self.seconds, say):
            self.rows.append(row)
            self.duration_s = round(time.monotonic() - began_s, 1)

    @property
    def failed(self) -> bool:
        """Whether ours could not be measured in some cell."""
        return any(row.state == "failed" and row.cell.contestant.startswith("steadyflow") for row in self.rows)

    def to_json_value(self) -> dict[str, Any]:
        """Return the record as plain dicts and lists."""
        return {"case": "device", **asdict(self)}
