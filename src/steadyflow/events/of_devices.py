"""What happens at a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from steadyflow.events.event import Delivery, FlowEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceLost(FlowEvent):
    """
    A device went away, or its process; it is looked for until it is back, and the flow goes on meanwhile.

    Published by the coordinator when the worker has ended.
    """

    delivery: ClassVar[Delivery] = "critical"

    module: str
    worker: str
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceXrun(FlowEvent):
    """
    A device missed deadlines: its driver said so, frames were lost, or nothing waited when it wanted more.

    Published by the coordinator within 50 ms of the first; what follows within a second is told together.

    Args:
        module: The module of the device.
        capture_xruns: How often the driver missed frames that came in.
        playback_xruns: How often it was given frames too late.
        lost_frames: What it captured and nobody got, as its clock tells.
        underruns: How often the pipeline that it plays from was empty.
    """

    delivery: ClassVar[Delivery] = "critical"

    module: str
    capture_xruns: int
    playback_xruns: int
    lost_frames: int
    underruns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceRecovered(FlowEvent):
    """
    A device that was lost is there again, after `away_s` and as many `attempts`; what it captured between is missing.

    The first block after it is flagged ``DISCONTINUITY``, and numbered as if the time had passed. Published by the coordinator.
    """

    delivery: ClassVar[Delivery] = "critical"

    module: str
    worker: str
    away_s: float
    attempts: int
