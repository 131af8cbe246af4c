"""What a module with a device needs of whatever drives it: PortAudio, or a script in its place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import msgspec

from steadyflow._native import DeviceStream
from steadyflow.errors import DeviceUnavailable

Direction = Literal["input", "output", "duplex"]


class Device(msgspec.Struct, frozen=True):
    """
    A device as its driver lists it.

    Attributes:
        index: Its number, until PortAudio is initialised again.
        name: Its name; two host interfaces may have a device of one name.
        host: The host interface: ``ALSA``, ``JACK Audio Connection Kit``, ...
        input_channels: How many it captures at most.
        output_channels: How many it plays at most.
        default_sample_rate_hz: What it runs at by itself.
        low_input_latency_ms: What the driver suggests for the shortest way in.
        low_output_latency_ms: And for the shortest way out.
        is_default_input: What ``device=None`` captures from.
        is_default_output: What ``device=None`` plays to.
    """

    index: int
    name: str
    host: str
    input_channels: int
    output_channels: int
    default_sample_rate_hz: int
    low_input_latency_ms: float
    low_output_latency_ms: float
    is_default_input: bool = False
    is_default_output: bool = False


class StreamRequest(NamedTuple):
    """
    What a module asks of its device.

    Args:
        owner: The module, for errors.
        device: Where from or to.
        direction: Which.
        sample_rate_hz: Frames per second.
        captured: How many channels are captured; None: none.
        played: How many are played; None: none.
        latency: ``"low"``, ``"high"`` or seconds, as the driver understands it.
    """

    owner: str
    device: Device
    direction: Direction
    sample_rate_hz: int
    captured: int | None
    played: int | None
    latency: str | float

    def check_channels(self) -> None:
        """
        Check that the device has so many.

        Raises:
            DeviceUnavailable: It has fewer.
        """
        for channels, most, way in (
            (self.captured, self.device.input_channels, "input"),
            (self.played, self.device.output_channels, "output"),
        ):
            if channels is not None and channels > most:
                raise DeviceUnavailable(
                    f"{self.owner}: expected at most {most} channels, which device {self.device.name!r} has for {way}; got "
                    f"{channels}."
                )


class OpenStream(ABC):
    """
    An open stream of a device, not started. One thread at a time.

    Attributes:
        sample_rate_hz: Frames per second.
    """

    sample_rate_hz: int

    @abstractmethod
    def start(self) -> None:
        """
        Let the callback be called.

        Raises:
            DeviceUnavailable: The device does not start.
        """

    @property
    @abstractmethod
    def active(self) -> bool:
        """Whether the callback is still called."""

    @property
    @abstractmethod
    def latency_s(self) -> float:
        """What the driver says how long frames are on their way; the longer one of both directions."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be captured, because there was a last frame; never where a real device captures."""
        return False

    def call_what_is_due(self) -> int | None:
        """Call the callback as often as it is due, and return when to come again, monotonic in ns; None: a thread of its own does."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Close it; from then on nothing calls the callback."""

    @abstractmethod
    def give_up(self) -> None:
        """Leave it as it is, after its device has gone; never blocks."""


class Driver(ABC):
    """
    What finds and opens the device of one module.

    Attributes:
        real_time_only: Whether the device goes by a clock of its own, so that no flow can freewheel with it.
        reopens: Whether a device that was lost can be opened again in the same process.
    """

    real_time_only: bool = True
    reopens: bool = False

    @abstractmethod
    def look_up(self, owner: str, direction: Direction) -> Device:
        """
        Return the device, before the flow starts, in the process of the coordinator. May block for some seconds.

        Raises:
            UnknownName: No device of this direction has that name; names those that there are.
            ConfigurationError: Several have.
            DeviceUnavailable: There is none of this direction at all.
        """

    @abstractmethod
    def find(self, owner: str, direction: Direction, known: tuple[str, str] | None) -> Device:
        """
        Return the device, to open it. May block.

        Args:
            owner: The module, for errors.
            direction: What it is wanted for.
            known: Its name and host interface, if it was open before: no other one will do.

        Raises:
            DeviceUnavailable: It is not there, or not again. Else as `look_up`.
        """

    @abstractmethod
    def open(self, wanted: StreamRequest, native: DeviceStream) -> OpenStream:
        """
        Open a stream. May block for hundreds of milliseconds.

        Args:
            wanted: What is asked for.
            native: Its callback is called, and nothing else: no Python runs on the device's threads.

        Raises:
            DeviceUnavailable: The device refuses the rate or the channels, or is busy.
        """

    @abstractmethod
    def patience_ns(self, device: Device) -> tuple[int, int]:
        """Return how far off the clock of a device may be before it has jumped, and how late frames may be without being lost."""
