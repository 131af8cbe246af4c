"""What happened at the devices of a flow, from what their callbacks count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from steadyflow._native import DeviceAccount
from steadyflow.formats import AudioFormat
from steadyflow.module import InputPort, Module, OutputPort, input_ports, output_ports

TELL_INTERVAL_NS: Final = 1_000_000_000
"""How long after a `DeviceXrun` the next one is published at the earliest."""


class CaptureReport(msgspec.Struct, frozen=True):
    """
    What a device captured so far.

    Attributes:
        frames: What came from it.
        blocks: What was made of that.
        dropped_blocks: Of those, how many some pipeline did not take; those that it dropped for newer ones are its own account.
        xruns: How often the driver said that frames were missed.
        last_xrun_ns: When, the last time, on the monotonic clock; 0: never.
        gaps: How often frames were lost, as the device's clock tells.
        lost_frames: What the device's clock counted and nobody got, also while the device was away.
        largest_gap_frames: The most of them at once.
    """

    frames: int
    blocks: int
    dropped_blocks: int
    xruns: int
    last_xrun_ns: int
    gaps: int
    lost_frames: int
    largest_gap_frames: int


class PlaybackReport(msgspec.Struct, frozen=True):
    """
    What a device played so far.

    Attributes:
        frames: What it was given, without silence.
        blocks: Of how many blocks.
        xruns: How often the driver said that it was given frames too late.
        last_xrun_ns: When, the last time, on the monotonic clock; 0: never.
        underruns: How often nothing waited when the device wanted more, after playing had begun.
        silent_frames: What it was given instead: silence, or with ``late="conceal"`` what was made up.
        misfits: Blocks that were not what their format says, and were dropped.
    """

    frames: int
    blocks: int
    xruns: int
    last_xrun_ns: int
    underruns: int
    silent_frames: int
    misfits: int


class DeviceReport(msgspec.Struct, frozen=True):
    """
    What happened at a device so far.

    Attributes:
        device: Its name and its host interface; None: it was not opened yet.
        cycles: Calls of the callback.
        mean_load: The share of its time that the callback took, in the mean.
        worst_load: The same for the worst cycle.
        drift_ppm: By how much the device's seconds are longer than this system's; 0 until it is known, after 8 s.
        cycles_without_time: For how many cycles the device named no time, so that blocks are stamped by when they came.
        capture: What it captured; None where it only plays.
        playback: What it played; None where it only captures.
    """

    device: tuple[str, str] | None
    cycles: int
    mean_load: float
    worst_load: float
    drift_ppm: float
    cycles_without_time: int
    capture: CaptureReport | None
    playback: PlaybackReport | None


class MissedDeadlines(NamedTuple):
    """What was missed at a device, since its start or since the last time that it was told."""

    capture_xruns: int
    playback_xruns: int
    lost_frames: int
    underruns: int


class DeviceWatch:
    """Watches what is missed at a device: tells it at once, and what follows within a second together."""

    def __init__(self) -> None:
        self._told = MissedDeadlines(0, 0, 0, 0)
        self._quiet_until_ns = 0

    def look(self, now_ns: int, totals: MissedDeadlines) -> MissedDeadlines | None:
        """
        Return what is new, if it is to be told now.

        Args:
            now_ns: When the look was taken.
            totals: Since the start.
        """
        if totals == self._told or now_ns < self._quiet_until_ns:
            return None
        news = MissedDeadlines(*(total - told for total, told in zip(totals, self._told, strict=True)))
        self._told = totals
        self._quiet_until_ns = now_ns + TELL_INTERVAL_NS
        return news


def missed_deadlines(counts: Mapping[str, Any]) -> MissedDeadlines:
    """Return what a device's account says that was missed."""
    return MissedDeadlines(
        counts["capture_xruns"], counts["playback_xruns"], counts["lost_frames"], counts["underruns"]
    )


def audio_format_of(ports: Mapping[str, InputPort] | Mapping[str, OutputPort]) -> AudioFormat | None:
    """Return the format of the only port that a device has in one direction, once it is resolved."""
    for port in ports.values():
        fmt = port.format
        if isinstance(fmt, AudioFormat) and fmt.sample_rate_hz is not None and fmt.channels is not None:
            return fmt
    return None


def device_report(
    counts: Mapping[str, Any],
    device: tuple[str, str] | None,
    *,
    sample_rate_hz: int,
    captures: bool,
    plays: bool,
) -> DeviceReport:
    """
    Tell what happened at a device.

    Args:
        counts: What its callback has counted.
        device: Its name and its host interface.
        sample_rate_hz: Of its stream; 0: not known.
        captures: Whether it captures.
        plays: Whether it plays.
    """
    seconds = counts["frames"] / sample_rate_hz if sample_rate_hz else 0.0
    return DeviceReport(
        device=device,
        cycles=counts["cycles"],
        mean_load=counts["mean_busy_ns"] * counts["cycles"] / 1e9 / seconds if seconds else 0.0,
        worst_load=counts["worst_load"],
        drift_ppm=counts["drift_ppm"],
        cycles_without_time=counts["without_time"],
        capture=_capture_report(counts) if captures else None,
        playback=_playback_report(counts) if plays else None,
    )


def report_of_module(account: DeviceAccount, module: Module) -> DeviceReport:
    """Tell what happened at the device of a module so far. Any thread, never blocks."""
    captured, played = output_ports(module), input_ports(module)
    return device_report(
        account.counts(),
        account.device,
        sample_rate_hz=stream_rate_hz(module),
        captures=bool(captured),
        plays=bool(played),
    )


def stream_rate_hz(module: Module) -> int:
    """Return the rate of a module's device; 0: not known yet."""
    fmt = audio_format_of(output_ports(module)) or audio_format_of(input_ports(module))
    return 0 if fmt is None or fmt.sample_rate_hz is None else fmt.sample_rate_hz


def _capture_report(counts: Mapping[str, Any]) -> CaptureReport:
    return CaptureReport(
        frames=counts["captured_frames"],
        blocks=counts["blocks"],
        dropped_blocks=counts["dropped"],
        xruns=counts["capture_xruns"],
        last_xrun_ns=counts["capture_xrun_ns"],
        gaps=counts["gaps"],
        lost_frames=counts["lost_frames"],
        largest_gap_frames=counts["largest_gap_frames"],
    )


def _playback_report(counts: Mapping[str, Any]) -> PlaybackReport:
    return PlaybackReport(
        frames=counts["played_frames"],
        blocks=counts["played_blocks"],
        xruns=counts["playback_xruns"],
        last_xrun_ns=counts["playback_xrun_ns"],
        underruns=counts["underruns"],
        silent_frames=counts["silent_frames"],
        misfits=counts["misfits"],
    )
