"""What a device captures, sent by its own callback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from steadyflow._native import DeviceStream, monotonic_ns
from steadyflow.arguments import MAX_BLOCK_FRAMES, checked_seconds
from steadyflow.audio.devices import Stream, find_again, find_device, list_devices_apart, patience_ns
from steadyflow.errors import ConfigurationError, DeviceLost, StateError
from steadyflow.formats import AudioFormat, Format, checked_integer
from steadyflow.module import Output, Source

_LOOK_NS: Final = 100_000_000
_SILENT_NS: Final = 1_000_000_000  # without a cycle for so long, the device is lost
_FIRST_NS: Final = (
    5_000_000_000  # a sound server that slept may need longer for the first one: PulseAudio's null sink, 2 s
)
_SILENT_BLOCKS: Final = 20  # or for so many blocks, if they are longer


class CaptureReport(msgspec.Struct, frozen=True):
    """
    What happened at a device so far.

    Attributes:
        cycles: Calls of the callback.
        frames: What they brought.
        blocks: What was made of that.
        dropped_blocks: Of those, how many some pipeline did not take; those that it dropped for newer ones are its own account.
        xruns: How often the driver said that frames were missed.
        last_xrun_ns: When, the last time, on the monotonic clock; 0: never.
        gaps: How often frames were lost, as the device's clock tells.
        lost_frames: What the device's clock counted and nobody got.
        largest_gap_frames: The most of them at once.
        mean_load: The share of its time that the callback took, in the mean.
        worst_load: The same for the worst cycle.
        drift_ppm: By how much the device's seconds are longer than this system's; 0 until it is known, after 8 s.
        cycles_without_time: For how many cycles the device named no time, so that blocks are stamped by when they came.
    """

    cycles: int
    frames: int
    blocks: int
    dropped_blocks: int
    xruns: int
    last_xrun_ns: int
    gaps: int
    lost_frames: int
    largest_gap_frames: int
    mean_load: float
    worst_load: float
    drift_ppm: float
    cycles_without_time: int


class Microphone(Source):
    """
    Captures from a device.

    Port ``out``: f32 blocks of `block_frames`; a block before a gap may be shorter. The device's own callback, which is native,
    copies the frames to the consumers: Python's interpreter lock is not needed for it, so no computing thread makes it late.
    A frame is stamped with the time at which it was sampled, as the device tells, on the monotonic clock. What was lost is
    missing from the positions, and the block behind it is flagged ``DISCONTINUITY`` and ``GAP``.

    Its pipelines drop the oldest block when they are full, unless they have another rule that does not wait.

    It has a process of its own, unless it is placed otherwise. A device that goes away, or a sound server that ends, ends that
    process; the flow goes on, and another process looks for the device until it is back (`events.DeviceLost`,
    `events.DeviceRecovered`). Positions then go on as if the time had passed. Where it is placed in a thread, or shares its
    process with other modules, such a loss fails the module.

    Wait-free and allocates nothing while it runs, on the device's thread. `setup` may block for a second.

    Args:
        device: Number or name, or a part of the name, as ``steadyflow devices`` shows them; None: the default one.
        block_frames: The length of the blocks, 1 to 1,048,576.
        sample_rate_hz: Frames per second; None: what the device runs at.
        channels: How many; the first ones of the device.
        latency: ``"low"``, ``"high"`` or seconds, for the driver.

    Raises:
        ConfigurationError: An argument is impossible.
    """

    out = Output(AudioFormat())

    live = True
    blocking = True
    device_driven = True

    def __init__(
        self,
        device: int | str | None = None,
        block_frames: int = 128,
        *,
        sample_rate_hz: int | None = None,
        channels: int = 1,
        latency: str | float = "low",
    ) -> None:
        given: object = device
        if isinstance(given, bool) or not isinstance(given, int | str | None) or given == "":
            raise ConfigurationError(f"Microphone: expected device to be a number, a name or None, got {given!r}.")
        self._device = device
        self._block_frames = checked_integer("Microphone", "block_frames", block_frames, MAX_BLOCK_FRAMES)
        self._rate = (
            None if sample_rate_hz is None else checked_integer("Microphone", "sample_rate_hz", sample_rate_hz, 768_000)
        )
        self._channels = checked_integer("Microphone", "channels", channels, 1024)
        if latency not in ("low", "high"):
            if isinstance(latency, str):
                raise ConfigurationError(
                    f'Microphone: expected latency to be "low", "high" or seconds, got {latency!r}.'
                )
            latency = checked_seconds("Microphone", "latency", latency)
        self._latency = latency
        self._native: DeviceStream | None = None
        self._stream: Stream | None = None

    def resolve_formats(self, inputs: Mapping[str, Format]) -> Mapping[str, Format]:
        """
        Return the format of the blocks; asks the device where its rate was left open, which may block.

        Raises:
            DeviceUnavailable: There is no such device.
        """
        rate = self._rate
        if rate is None:
            rate = find_device("Microphone", self._device, "input", list_devices_apart).default_sample_rate_hz
        return {"out": AudioFormat(rate, self._channels, max_block_frames=self._block_frames)}

    def setup(self) -> None:
        """
        Open the device.

        Raises:
            UnknownName: There is no device of that name.
            DeviceUnavailable: It does not open.
        """
        assert self.device_account is not None
        known = self.device_account.device
        if known is None:
            device = find_device("Microphone", self._device, "input")
            self.device_account.identify(device.name, device.host)
        else:  # it was lost, and another one in its place would be a surprise
            device = find_again("Microphone", *known, "input")
        self._native = DeviceStream(self.device_account, self._rate_hz, *patience_ns(device))
        self._native.capture(self.out, self._block_frames)
        self._stream = Stream("Microphone", device, "input", self._rate_hz, self._channels, self._latency, self._native)

    def produce(self) -> Iterator[int | None]:
        """
        Let the device send; look after it meanwhile.

        Yields:
            When to look again, on the monotonic clock in ns.

        Raises:
            DeviceLost: It went away.
        """
        assert self.device_account is not None
        assert self._native is not None
        assert self._stream is not None
        silent_ns = max(_SILENT_NS, _SILENT_BLOCKS * self._block_frames * 1_000_000_000 // self._rate_hz)
        silent_ns = max(silent_ns, round(4e9 * self._stream.latency_s))
        self._stream.start()
        started_ns = heard_ns = looked_ns = monotonic_ns()
        while True:
            yield looked_ns + _LOOK_NS
            if monotonic_ns() - looked_ns > 2 * _LOOK_NS:
                heard_ns = monotonic_ns()  # this thread, and so perhaps the whole process, was stopped meanwhile
            looked_ns = monotonic_ns()
            active = self._stream.active
            self._native.check()
            cycle_ns = self.device_account.counts()["last_cycle_ns"]
            heard_ns = max(heard_ns, cycle_ns)
            silence_ns = looked_ns - heard_ns
            if not active or silence_ns > (silent_ns if cycle_ns > started_ns else max(silent_ns, _FIRST_NS)):
                self._stream.give_up()
                self._stream = None
                raise DeviceLost(
                    f"Microphone: the device has ended, {silence_ns / 1e9:.3g} s after its latest block. Was it unplugged, or its "
                    f"server stopped?"
                )

    def teardown(self) -> None:
        """Close the device. What was collected of a block is sent by the end of the port, before this."""
        if self._native is not None:
            self._native.close()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def report(self) -> CaptureReport:
        """
        Tell what happened at the device so far. Any thread, never blocks; also after the flow.

        Raises:
            StateError: The flow has not been started.
        """
        if self.device_account is None:
            raise StateError("Microphone.report: the flow has not started; nothing was captured yet.")
        counts = self.device_account.counts()
        period_ns = 1e9 * counts["frames"] / max(counts["cycles"], 1) / self._rate_hz
        return CaptureReport(
            cycles=counts["cycles"],
            frames=counts["frames"],
            blocks=counts["blocks"],
            dropped_blocks=counts["dropped"],
            xruns=counts["capture_xruns"],
            last_xrun_ns=counts["capture_xrun_ns"],
            gaps=counts["gaps"],
            lost_frames=counts["lost_frames"],
            largest_gap_frames=counts["largest_gap_frames"],
            mean_load=counts["mean_busy_ns"] / period_ns if counts["frames"] else 0.0,
            worst_load=counts["worst_load"],
            drift_ppm=counts["drift_ppm"],
            cycles_without_time=counts["without_time"],
        )

    @property
    def _rate_hz(self) -> int:
        # What resolve_formats() found, perhaps in another process, is the format of the port.
        fmt = self.out.format
        assert isinstance(fmt, AudioFormat)
        assert fmt.sample_rate_hz is not None
        return fmt.sample_rate_hz
