"""Looks at pipelines, as detectors get them: made by hand, and recorded."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from steadyflow.backpressure.reading import Reading

MS = 1_000_000
TRACES = Path(__file__).parents[1] / "data" / "backpressure"
UNITS = {"share", "ms", "hz", "count"}


def look(at_ms, **found):
    """A look that found nothing but what is given; `_ms` becomes `_ns`."""
    nothing = Reading(round(at_ms * MS), 0, 0, 0, 0, 0.0, 0, 0, 0)
    return nothing._replace(
        **{
            name.replace("_ms", "_ns"): round(value * MS) if name.endswith("_ms") else value
            for name, value in found.items()
        }
    )


def changes(detector, readings):
    """When it changed its mind, in ms, with what it says from then on."""
    told, before = [], False
    for reading in readings:
        congested = detector.note(reading).congested
        if congested != before:
            told.append((reading.at_ns / MS, congested))
        before = congested
    return told


class Trace(NamedTuple):
    readings: list[Reading]
    onset_ms: float | None
    relief_ms: float | None


def recorded(name):
    lines = (TRACES / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    said = dict(line[2:].split(": ") for line in lines if line.startswith("# ") and ": " in line)
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    readings = [
        Reading(**{name: float(value) if name == "fill" else int(value) for name, value in row.items()}) for row in rows
    ]
    moments = [None if said[name] == "never" else float(said[name]) for name in ("onset_ms", "relief_ms")]
    return Trace(readings, *moments)


def overload(per_s, *, taken_of=0.5, onset_ms=200, until_ms=500, every_ms=10):
    """Looks at a queue into which blocks come evenly; from the onset on only that share of them is taken."""
    readings = []
    for at_ms in range(every_ms // 2, until_ms, every_ms):
        sent = int(at_ms * per_s / 1000)
        waiting = int(max(at_ms - onset_ms, 0) * per_s / 1000 * (1 - taken_of))
        readings.append(look(at_ms, sent=sent, delivered=sent - waiting, waiting=waiting))
    return readings
