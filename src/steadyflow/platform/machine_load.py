"""How busy the machine is, with this program and with others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

_PRESSURE: Final = Path("/proc/pressure/cpu")
_LOAD: Final = Path("/proc/loadavg")


class MachineLoad(NamedTuple):
    """
    How busy the machine is; None: the system does not say.

    Args:
        cpu_pressure_share: For what share of the last ten seconds something waited for a core.
        runnable_per_core: How many tasks run or wait for a core at this moment, for each core.
    """

    cpu_pressure_share: float | None
    runnable_per_core: float | None


def read_machine_load(pressure: Path = _PRESSURE, load: Path = _LOAD) -> MachineLoad:
    """
    Ask the system. Two small files of the kernel; tens of microseconds.

    Args:
        pressure: Where it tells of waiting for cores (PSI).
        load: Where it tells how many tasks run.
    """
    return MachineLoad(_pressure_share(pressure), _runnable_per_core(load))


def _pressure_share(path: Path) -> float | None:
    try:
        fields = path.read_text().split()
        return next(float(field.removeprefix("avg10=")) / 100 for field in fields if field.startswith("avg10="))
    except (OSError, ValueError, StopIteration):
        return None


def _runnable_per_core(path: Path) -> float | None:
    try:
        running, _, _ = path.read_text().split()[3].partition("/")
        # Who asks is one of them.
        return max(int(running) - 1, 0) / (os.cpu_count() or 1)
    except (OSError, ValueError, IndexError):
        return None
