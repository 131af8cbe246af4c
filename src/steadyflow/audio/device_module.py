"""What modules with a device have in common: opening its stream, looking after it, and telling what happened at it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

from steadyflow._native import DeviceStream, monotonic_ns
from steadyflow.arguments import checked_seconds
from steadyflow.audio.devices import PortAudio
from steadyflow.audio.driver import Direction, Driver, OpenStream, StreamRequest
from steadyflow.errors import ConfigurationError, DeviceLost, DeviceUnavailable, StateError
from steadyflow.formats import AudioFormat, checked_integer
from steadyflow.metrics.devices import DeviceReport, audio_format_of, report_of_module
from steadyflow.module import Source, input_ports, output_ports

_LOOK_NS: Final = 100_000_000
_SILENT_NS: Final = 1_000_000_000  # without a cycle for so long, the device is lost
_FIRST_NS: Final = 5_000_000_000  # a sound server that slept may need longer at first: PulseAudio's null sink, 2 s
_SILENT_BLOCKS: Final = 20  # or for so many blocks, if they are longer


class DeviceModule(Source):
    """
    A module with a device; what `Microphone`, `Speaker` and `Duplex` are.

    Its ports are served by the device's own callback, which is native. It has a process of its own, unless it is placed
    otherwise. A device that goes away, or a sound server that ends, ends that process; the flow goes on, and another process looks
    for the device until it is back (`events.DeviceLost`, `events.DeviceRecovered`). Where it is placed in a thread, or shares its
    process with other modules, such a loss fails the module.

    Wait-free and allocates nothing while it runs, on the device's thread. `setup` may block for a second.
    """

    direction: ClassVar[Direction]
    """Which ways its stream goes."""

    blocking = True
    device_driven = True

    _driver: Driver
    _latency: str | float
    _native: DeviceStream | None
    _stream: OpenStream | None
    _started_ns: int

    def _choose(self, device: object, latency: object) -> None:
        """Take what all constructors take."""
        owner = type(self).__name__
        self._driver = _driver_of(owner, device)
        if latency not in ("low", "high"):
            if isinstance(latency, str):
                raise ConfigurationError(f'{owner}: expected latency to be "low", "high" or seconds, got {latency!r}.')
            latency = checked_seconds(owner, "latency", latency)
        self._latency = latency
        self._native = None
        self._stream = None

    @property
    def real_time_only(self) -> bool:
        """Whether the device goes by a clock of its own, as any but a scripted one; so the flow cannot freewheel."""
        return self._driver.real_time_only

    @property
    def reopens(self) -> bool:
        """Whether the device can be found again in the process that has lost it."""
        return self._driver.reopens

    @property
    def placements(self) -> tuple[str, ...]:
        """Where it may run. What has its device from the program stays in the program's process."""
        return ("process", "thread") if isinstance(self._driver, PortAudio) else ("thread",)

    def use(self, device: int | str | Driver | None) -> None:
        """
        Take another device than the constructor was given: a `testing.ScriptedDevice`, to test the flow with. Before the start.

        The rate of the flow stays open, or what the constructor was given; a module that was to have a process has a thread
        where the flow freewheels.

        Raises:
            ConfigurationError: That is no device.
            StateError: The flow has been started.
        """
        if self.device_account is not None:
            raise StateError(f"{type(self).__name__}.use: the flow has been started; its device is chosen.")
        self._driver = _driver_of(type(self).__name__, device)

    def _default_rate_hz(self) -> int:
        """Ask the device for its rate; may block."""
        return self._driver.look_up(type(self).__name__, self.direction).default_sample_rate_hz

    def setup(self) -> None:
        """
        Open the device.

        Raises:
            UnknownName: There is no device of that name.
            DeviceUnavailable: It does not open.
            ConfigurationError: What it is to play has another rate than what it captures, or nothing leads to it.
        """
        owner = type(self).__name__
        assert self.device_account is not None
        captured, played = audio_format_of(output_ports(self)), audio_format_of(input_ports(self))
        rate_hz = _one_rate_hz(owner, captured, played)
        device = self._driver.find(owner, self.direction, self.device_account.device)
        self.device_account.identify(device.name, device.host)
        native = DeviceStream(self.device_account, float(rate_hz), *self._driver.patience_ns(device))
        self._connect(native)
        try:
            self._stream = self._driver.open(
                StreamRequest(
                    owner,
                    device,
                    self.direction,
                    rate_hz,
                    None if captured is None else captured.channels,
                    None if played is None else played.channels,
                    self._latency,
                ),
                native,
            )
        except BaseException:
            native.close()  # the ports are free for the next attempt
            raise
        self._native = native

    def _connect(self, native: DeviceStream) -> None:
        """Give the ports to the callback."""
        raise NotImplementedError

    def produce(self) -> Iterator[int | None]:
        """
        Let the device run; look after it meanwhile.

        Yields:
            When to look again, on the monotonic clock in ns.

        Raises:
            DeviceUnavailable: It does not start.
            DeviceLost: It went away, or does not start again.
        """
        native, stream = self._native, self._stream
        assert native is not None
        assert stream is not None
        try:
            stream.start()
        except DeviceUnavailable as refusal:
            assert self.device_account is not None
            if self.device_account.counts()["cycles"]:  # it was there before, so it is looked for again
                stream.give_up()
                self._stream = None
                raise DeviceLost(str(refusal)) from refusal
            raise
        self._started_ns = heard_ns = looked_ns = monotonic_ns()
        while not self._has_ended(native, stream):
            look_ns = looked_ns + _LOOK_NS
            yield min(each for each in (look_ns, native.drained_ns, stream.call_what_is_due()) if each)
            now_ns = monotonic_ns()
            if now_ns < look_ns:
                continue
            if now_ns - looked_ns > 2 * _LOOK_NS:
                heard_ns = now_ns  # this thread, and so perhaps the whole process, was stopped meanwhile
            looked_ns = now_ns
            heard_ns = self._look(stream, native, heard_ns, looked_ns)

    def _has_ended(self, native: DeviceStream, stream: OpenStream) -> bool:
        """Tell whether the last frame was heard, or nothing more is captured and nothing is played."""
        if stream.has_ended:
            for port in output_ports(self).values():
                port.end()
        if not input_ports(self):
            return stream.has_ended
        return 0 < native.drained_ns <= monotonic_ns()

    def _look(self, stream: OpenStream, native: DeviceStream, heard_ns: int, looked_ns: int) -> int:
        """Return when the device was heard last."""
        active = stream.active
        native.check()
        assert self.device_account is not None
        counts = self.device_account.counts()
        heard_ns = max(heard_ns, counts["last_cycle_ns"])
        silence_ns = looked_ns - heard_ns
        least_ns = _SILENT_NS if counts["last_cycle_ns"] > self._started_ns else _FIRST_NS
        period_s = counts["frames"] / max(counts["cycles"], 1) / stream.sample_rate_hz
        patience_s = max(least_ns / 1e9, _SILENT_BLOCKS * period_s, 4 * stream.latency_s)
        if not active or silence_ns > patience_s * 1e9:
            stream.give_up()
            self._stream = None
            raise DeviceLost(
                f"{type(self).__name__}: the device has ended, {silence_ns / 1e9:.3g} s after its latest cycle. Was it unplugged, "
                f"or its server stopped?"
            )
        return heard_ns

    def teardown(self) -> None:
        """Close the device. What was collected of a block is sent by the end of the port, before this."""
        if self._native is not None:
            self._native.close()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def report(self) -> DeviceReport:
        """
        Tell what happened at the device so far. Any thread, never blocks; also after the flow.

        Raises:
            StateError: The flow has not been started.
        """
        if self.device_account is None:
            raise StateError(f"{type(self).__name__}.report: the flow has not started; nothing happened yet.")
        return report_of_module(self.device_account, self)


def _driver_of(owner: str, device: object) -> Driver:
    if isinstance(device, Driver):
        return device
    if isinstance(device, bool) or not isinstance(device, int | str | None) or device == "":
        raise ConfigurationError(f"{owner}: expected device to be a number, a name or None, got {device!r}.")
    return PortAudio(device)


def checked_rate_hz(owner: str, sample_rate_hz: int | None) -> int | None:
    """Return a rate that a device may be asked for; None: its own."""
    return None if sample_rate_hz is None else checked_integer(owner, "sample_rate_hz", sample_rate_hz, 768_000)


def _one_rate_hz(owner: str, captured: AudioFormat | None, played: AudioFormat | None) -> int:
    rates = {fmt.sample_rate_hz for fmt in (captured, played) if fmt is not None}
    if len(rates) > 1:
        assert captured is not None
        assert played is not None
        raise ConfigurationError(
            f"{owner}: expected one rate in both directions, because a device has one clock; it captures at "
            f"{captured.sample_rate_hz} Hz, and is to play {played.sample_rate_hz} Hz."
        )
    rate_hz = next(iter(rates), None)
    if rate_hz is None:
        raise ConfigurationError(f"{owner}: expected a pipeline that leads to it; nothing is connected.")
    return rate_hz
