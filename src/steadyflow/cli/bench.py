"""``steadyflow bench``: figures of steadyflow beside those of its peers, from one run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steadyflow.arguments import checked_seconds
from steadyflow.benchmarks import CASES, DEVICE, run_case
from steadyflow.errors import ConfigurationError, UnknownName

if TYPE_CHECKING:
    from steadyflow.benchmarks.device import DeviceResult
    from steadyflow.benchmarks.harness import Effort, Result


BACKPRESSURE: Final = "backpressure"
"""The case that has options of its own."""


@dataclass(frozen=True)
class DeviceOptions:
    """
    What is measured by the benchmark `device`; None: all of it, or little if `quick`.

    Attributes:
        frames: The periods.
        loads: The loads.
    """

    frames: Sequence[int] | None = None
    loads: Sequence[str] | None = None


def bench(
    names: Sequence[str],
    *,
    quick: bool,
    as_json: bool,
    effort: Effort | None = None,
    seconds: float | None = None,
    plot: Path | None = None,
    device: DeviceOptions = DeviceOptions(),
) -> int:
    """
    Run benchmarks, and print each when it is done; with `as_json`, all as one list at the end, also after Ctrl-C.

    Args:
        names: Keys of `CASES`, or ``"device"``; all cases, if there are none.
        quick: Fewer rounds and blocks.
        as_json: Records instead of tables.
        effort: Instead of `quick`: exactly how much to measure.
        seconds: How long each cell of ``"device"`` is measured, and the overload of ``"backpressure"`` lasts; None: as usual.
        plot: Where ``"backpressure"`` writes pictures, instead of measuring everything.
        device: For ``"device"``.

    Returns:
        The exit code: 1 if steadyflow itself could not be measured, else 0. A target that is missed is a figure, not
        a failure.

    Raises:
        UnknownName: There is no such case; nothing was measured.
        ConfigurationError: An option of a benchmark is impossible, or given without it; nothing was measured.
        SystemShortage: What `device` or `plot` needs is not installed.
    """
    known = [*CASES, DEVICE]
    for name in names:
        if name not in known:
            raise UnknownName("benchmark", name, known)
    if DEVICE in names:
        device = _checked(device, quick)
    elif device != DeviceOptions():
        raise ConfigurationError("steadyflow bench: --frames and --load are for the benchmark device. Name it.")
    _check_seconds(names, seconds)
    if plot is not None and BACKPRESSURE not in names:
        raise ConfigurationError("steadyflow bench: --plot is for the benchmark backpressure. Name it.")
    results: list[Result | DeviceResult] = []
    try:
        for name in names or CASES:
            if name == DEVICE:
                _bench_device(device, seconds or (5.0 if quick else 60.0), results, as_json=as_json)
                continue
            options: dict[str, Any] = {"seconds": seconds, "plot": plot} if name == BACKPRESSURE else {}
            result = run_case(name, quick=quick, effort=effort, say=_say, **options)
            results.append(result)
            if not as_json:
                from steadyflow.benchmarks.tables import print_result

                print_result(result)
    finally:
        if as_json:
            print(json.dumps([result.to_json_value() for result in results], indent=1))
    return 1 if any(result.failed for result in results) else 0


def _check_seconds(names: Sequence[str], seconds: float | None) -> None:
    if seconds is None:
        return
    if DEVICE not in names and BACKPRESSURE not in names:
        raise ConfigurationError("steadyflow bench: --seconds is for the benchmarks device and backpressure. Name one.")
    checked_seconds("steadyflow bench", "--seconds", seconds)
    if not 1 <= seconds <= 3_600:
        raise ConfigurationError(f"steadyflow bench: expected --seconds from 1 to 3600, got {seconds:g}.")


def _checked(device: DeviceOptions, quick: bool) -> DeviceOptions:
    from steadyflow.benchmarks.device.cells import FRAMES, LOADS

    frames = device.frames or ((128,) if quick else FRAMES)
    for period in frames:
        if not 16 <= period <= 8_192:
            raise ConfigurationError(f"steadyflow bench: expected --frames from 16 to 8192, got {period}.")
    for load in device.loads or ():
        if load not in LOADS:
            raise UnknownName("load", load, LOADS, where="steadyflow bench")
    return DeviceOptions(frames, device.loads or LOADS)


def _bench_device(asked: DeviceOptions, seconds: float, results: list[Result | DeviceResult], *, as_json: bool) -> None:
    from steadyflow.benchmarks.device import LOADS, DeviceResult
    from steadyflow.benchmarks.device.tables import print_device_result

    assert asked.frames is not None
    assert asked.loads is not None
    result = DeviceResult(seconds)
    results.append(result)
    try:
        result.run(asked.frames, [load for load in LOADS if load in asked.loads], _say)
    finally:
        # Also what was measured before Ctrl-C: two hours are long.
        if result.rows and not as_json:
            print_device_result(result)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
