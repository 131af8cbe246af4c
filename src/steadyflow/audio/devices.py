"""
The audio devices of this system, through PortAudio.

PortAudio is one library for the whole process: it lists devices when it is initialised, and only then. `Stream` is the seam to
it: what opens, starts and closes a stream whose callback is native.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

import msgspec

from steadyflow._native import DeviceStream
from steadyflow.audio.driver import Device, Direction, Driver, OpenStream, StreamRequest
from steadyflow.errors import ConfigurationError, DeviceUnavailable, MissingExtra, SystemShortage, UnknownName
from steadyflow.runtime.workers import environment, interpreter

COMMON_RATES_HZ: Final = (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)

_JACK: Final = "JACK"
_CLOSE_TIMEOUT_S: Final = 2.0

_lock = threading.RLock()  # PortAudio's calls are for one thread at a time


def import_sounddevice(needed_for: str) -> Any:
    """
    Return the module; the first import initialises PortAudio, which takes up to a second.

    Raises:
        MissingExtra: sounddevice is not installed.
        SystemShortage: PortAudio itself is not, or does not start.
    """
    try:
        import sounddevice
    except ImportError:
        raise MissingExtra("audio", needed_for) from None
    except OSError as error:
        raise SystemShortage(
            f"{needed_for} needs the library PortAudio, which could not be loaded ({error}). Install it with your system's "
            f"packages: libportaudio2 on Debian and Ubuntu, portaudio on Fedora, Arch and Homebrew."
        ) from None
    return sounddevice


def list_devices() -> list[Device]:
    """
    Return all devices, in the order of PortAudio. May block for up to a second, the first time.

    Raises:
        MissingExtra: sounddevice is not installed.
        SystemShortage: PortAudio is not installed.
    """
    sounddevice = import_sounddevice("list_devices")
    with _lock:
        hosts = [host["name"] for host in sounddevice.query_hostapis()]
        default_input, default_output = sounddevice.default.device
        return [
            Device(
                index=each["index"],
                name=each["name"],
                host=hosts[each["hostapi"]],
                input_channels=each["max_input_channels"],
                output_channels=each["max_output_channels"],
                default_sample_rate_hz=round(each["default_samplerate"]),
                low_input_latency_ms=1e3 * each["default_low_input_latency"],
                low_output_latency_ms=1e3 * each["default_low_output_latency"],
                is_default_input=each["index"] == default_input,
                is_default_output=each["index"] == default_output,
            )
            for each in sounddevice.query_devices()
        ]


def list_devices_apart() -> list[Device]:
    """
    Do the same as `list_devices` in a process that ends with it; blocks for up to some seconds.

    PortAudio stays out of this process: where the sound server is killed later, it aborts the process that it is loaded in.

    Raises:
        MissingExtra: sounddevice is not installed.
        SystemShortage: PortAudio is not installed, or the process failed; says how.
    """
    if importlib.util.find_spec("sounddevice") is None:
        raise MissingExtra("audio", "list_devices")
    command = [*interpreter(), "-c", f"from {__name__} import print_devices; print_devices()"]
    done = subprocess.run(
        command, capture_output=True, check=False, stdin=subprocess.DEVNULL, env=environment(realtime=False)
    )
    try:
        return msgspec.json.decode(done.stdout, type=list[Device])
    except msgspec.DecodeError:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise SystemShortage(f"list_devices: {said[-1] if said else f'exit code {done.returncode}'}") from None


def print_devices() -> None:
    """Write all devices to the standard output, as JSON, and end this process without a word to PortAudio."""
    sys.stdout.buffer.write(msgspec.json.encode(list_devices()))
    sys.stdout.flush()
    os._exit(0)


def find_device(
    owner: str, wanted: int | str | None, direction: Direction, listed: Callable[[], list[Device]] = list_devices
) -> Device:
    """
    Return the device of this index or name, or the default one, of those that are listed.

    A name need not be whole: any part of it will do that only one device of this direction has, in any case.

    Raises:
        UnknownName: No device of this direction has that name; names those that there are.
        ConfigurationError: Several have; names them.
        DeviceUnavailable: There is no device of this direction at all.
    """
    usable = [device for device in listed() if _channels(device, direction)]
    if not usable:
        raise DeviceUnavailable(
            f"{owner}: expected a device for {direction}, and this system shows none. Is a sound server running, and may this "
            f"user use the devices (group audio)?"
        )
    if wanted is None:
        defaults = [each for each in usable if _is_default(each, direction)]
        return (defaults or usable)[0]
    if isinstance(wanted, int):
        found = [device for device in usable if device.index == wanted]
    else:
        exact = [device for device in usable if device.name == wanted]
        found = exact or [device for device in usable if wanted.lower() in device.name.lower()]
    if len(found) > 1:
        raise ConfigurationError(
            f"{owner}: expected one {direction} device called {wanted!r}, got {len(found)}: "
            f"{'; '.join(f'{each.index} {each.name} ({each.host})' for each in found)}. Give the number."
        )
    if not found:
        known = [str(each.index) if isinstance(wanted, int) else each.name for each in usable]
        raise UnknownName(f"{direction} device", wanted, known, where=owner)
    return found[0]


def find_again(owner: str, name: str, host: str, direction: Direction) -> Device:
    """
    Return the device of this very name and host interface, after it was lost.

    Raises:
        DeviceUnavailable: It is not there.
    """
    for device in list_devices():
        if device.name == name and device.host == host and _channels(device, direction):
            return device
    raise DeviceUnavailable(f"{owner}: expected the device {name!r} ({host}) to be back; it is not there yet.")


def supported_rates_hz(device: Device, direction: Direction) -> list[int]:
    """Return which of the `COMMON_RATES_HZ` the device takes. May block; a device that is busy supports none."""
    sounddevice = import_sounddevice("supported_rates_hz")
    check = sounddevice.check_input_settings if direction == "input" else sounddevice.check_output_settings
    rates = []
    for rate in sorted({*COMMON_RATES_HZ, device.default_sample_rate_hz}):
        with _lock, contextlib.suppress(sounddevice.PortAudioError, ValueError):
            check(device=device.index, channels=1, samplerate=rate)
            rates.append(rate)
    return rates


def _channels(device: Device, direction: Direction) -> int:
    if direction == "duplex":
        return min(device.input_channels, device.output_channels)
    return device.input_channels if direction == "input" else device.output_channels


def _is_default(device: Device, direction: Direction) -> bool:
    return device.is_default_output if direction == "output" else device.is_default_input


class Stream(OpenStream):
    """
    An open stream of PortAudio; see `Driver.open` for the arguments.

    Opening, starting and closing may block for hundreds of milliseconds.
    """

    def __init__(self, request: StreamRequest, native: DeviceStream) -> None:
        self._sounddevice = sounddevice = import_sounddevice(request.owner)
        self._owner = owner = request.owner
        self._device = device = request.device
        self._native = native  # the callback uses it as long as the stream is open
        self._closed = False
        self.sample_rate_hz = request.sample_rate_hz
        request.check_channels()
        wanted = [channels for channels in (request.captured, request.played) if channels is not None]
        cast = sounddevice._ffi.cast
        with _lock:
            try:
                # The interface for libraries that bring a callback in C: see sounddevice's _StreamBase.
                self._stream = sounddevice._StreamBase(
                    kind=request.direction,
                    samplerate=request.sample_rate_hz,
                    blocksize=0,  # the server's own period: PortAudio would add a buffer for any other
                    device=device.index,
                    channels=wanted if request.direction == "duplex" else wanted[0],
                    dtype="float32",
                    latency=request.latency,
                    callback=cast("PaStreamCallback*", native.callback),
                    userdata=cast("void*", native.user_data),
                    wrap_callback=None,
                )
            except (sounddevice.PortAudioError, ValueError) as error:
                raise DeviceUnavailable(
                    f"{owner}: device {device.name!r} ({device.host}) does not open at {request.sample_rate_hz} Hz with "
                    f"{' and '.join(map(str, wanted))} channel{'s' * (wanted != [1])}: {error}. It says that it runs at {device.default_sample_rate_hz} Hz; "
                    f"`steadyflow devices` shows what there is."
                ) from None

        # Registered after sounddevice's own handler, and so called before it: PortAudio is not ended below an open stream.
        atexit.register(self.close)

    def start(self) -> None:
        """See `OpenStream.start`."""
        with _lock:
            try:
                self._stream.start()
            except self._sounddevice.PortAudioError as error:
                raise DeviceUnavailable(
                    f"{self._owner}: device {self._device.name!r} does not start: {error}."
                ) from None

    @property
    def active(self) -> bool:
        """Whether PortAudio still calls the callback."""
        with _lock:  # another thread may close it, at the end of the program
            if self._closed:
                return False
            try:
                return bool(self._stream.active)
            except self._sounddevice.PortAudioError:
                return False  # its server is gone

    @property
    def latency_s(self) -> float:
        """What PortAudio says of it."""
        latency = self._stream.latency
        return float(max(latency) if isinstance(latency, tuple) else latency)

    def close(self) -> None:
        """Close it; from then on nothing calls the callback. Gives it up after 2 s: its server may be gone."""
        atexit.unregister(self.close)
        self._native.close()

        def end() -> None:
            with _lock:
                self._closed = True
                self._stream.abort()
                self._stream.close()

        # Where the server has just ended, this never returns; the worker must.
        ending = threading.Thread(target=end, name="steadyflow-close-device", daemon=True)
        ending.start()
        ending.join(_CLOSE_TIMEOUT_S)
        if ending.is_alive():
            self.give_up()

    def give_up(self) -> None:
        """
        Leave it as it is, after its server has ended; never blocks.

        Where a JACK server was killed, PortAudio waits for ever when it is told to stop or close the stream, and aborts the
        process when it is told to end. So it is told nothing more, and what it may still use is kept to the end of the process.
        """
        atexit.unregister(self.close)
        self._native.close()
        self._native.keep()
        self._closed = True
        atexit.unregister(self._sounddevice._exit_handler)


class PortAudio(Driver):
    """
    The devices of this system.

    Args:
        wanted: Which one, by its number or name, or a part of the name; None: the default one.
    """

    def __init__(self, wanted: int | str | None) -> None:
        self._wanted = wanted

    def look_up(self, owner: str, direction: Direction) -> Device:
        """Do so in a process that ends with it; see `Driver.look_up`."""
        return find_device(owner, self._wanted, direction, list_devices_apart)

    def find(self, owner: str, direction: Direction, known: tuple[str, str] | None) -> Device:
        """See `Driver.find`. From its first call on PortAudio is in this process."""
        return find_device(owner, self._wanted, direction) if known is None else find_again(owner, *known, direction)

    def open(self, wanted: StreamRequest, native: DeviceStream) -> OpenStream:
        """See `Driver.open`."""
        return Stream(wanted, native)

    def patience_ns(self, device: Device) -> tuple[int, int]:
        """See `Driver.patience_ns`."""
        # JACK's times are steady to 30 µs where its driver is on time; those of ALSA's plug-ins, behind which a sound server may
        # be, are good for drift only (docs/decisions/0004).
        return (20_000_000, 1_000_000) if device.host.startswith(_JACK) else (500_000_000, 200_000_000)

    def __repr__(self) -> str:
        return "the default device" if self._wanted is None else f"device {self._wanted!r}"
