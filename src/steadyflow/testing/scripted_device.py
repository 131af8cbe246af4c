"""`ScriptedDevice`: a sound device that does what a script says, by the clock of the flow."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import ceil
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from steadyflow._native import DeviceStream, monotonic_ns
from steadyflow.arguments import MAX_BLOCK_FRAMES, checked_number, checked_seconds
from steadyflow.audio.driver import Device, Direction, Driver, OpenStream, StreamRequest
from steadyflow.errors import ConfigurationError, DeviceUnavailable, StateError
from steadyflow.formats import checked_integer

_MOST_PPM: Final = 100_000.0
_HOST: Final = "script"
_LONGEST_SILENCE_S: Final = 0.9  # below what a module takes for a loss
# PortAudio's flags: frames that came in were lost; those that go out came too late.
_INPUT_OVERFLOW: Final = 2
_OUTPUT_UNDERFLOW: Final = 4


class Xrun(msgspec.Struct, frozen=True):
    """
    The driver says that it missed frames.

    Args:
        lost_frames: How many were lost on the way in: the clock of the device goes on by so much.
        direction: ``"input"``, or ``"output"``: what it was given came too late.
    """

    lost_frames: int = 0
    direction: Literal["input", "output"] = "input"


class Late(msgspec.Struct, frozen=True):
    """The next call of the callback comes so much later than it is due; those after it catch up. Nothing is lost by it."""

    seconds: float


class Unplugged(msgspec.Struct, frozen=True):
    """The device goes away, and is there again after so many seconds; what it hears meanwhile nobody gets."""

    seconds: float


class Drift(msgspec.Struct, frozen=True):
    """From here on the clock of the device is faster by so many millionths than that of the flow."""

    ppm: float


Step: TypeAlias = npt.NDArray[np.float32] | Xrun | Late | Unplugged | Drift


class ScriptedDevice(Driver):
    """
    A device that is a script, in place of a real one: ``Microphone(device=...)``, or ``flow.modules["mic"].use(...)``.

    It calls the same native callback as PortAudio does, with its own frames and times; so all that follows is the product: blocks,
    stamps, gaps, xruns, losing the device and finding it again. In a flow that freewheels it runs as fast as the machine allows,
    and the same each time; in any other at the pace of real time, in the thread of its module.

    ::

        device = ScriptedDevice([speech[:48_000], Xrun(lost_frames=256), speech[48_256:], Unplugged(2.0), speech])
        flow.modules["mic"].use(device)
        report = flow.run(freewheel=True)
        assert report.devices["mic"].capture.lost_frames == 256

    What it captures are the arrays of the script, one after the other, in whole periods: before another step, and at the end, the rest
    of a period is silence; after a last `Xrun` or `Late`, there is one more period of it. The stream of a module that captures ends with the script; who plays goes on as long as there is something
    to play. For one flow and one run.

    Args:
        script: Arrays of float32, (frames,) or (frames, channels), and `Xrun`, `Late`, `Unplugged`, `Drift`, in order.
        sample_rate_hz: The only one that it has.
        period_frames: How many frames each call of the callback brings and takes.
        input_channels: How many it captures at most; None: as many as the arrays have.
        output_channels: How many it plays at most.
        drift_ppm: How much faster its clock is than that of the flow, in millionths.
        name: What it is called in reports and errors.

    Raises:
        ConfigurationError: An argument is impossible.
    """

    real_time_only = False
    reopens = True

    def __init__(
        self,
        script: Sequence[Step] = (),
        *,
        sample_rate_hz: int = 48_000,
        period_frames: int = 128,
        input_channels: int | None = None,
        output_channels: int = 2,
        drift_ppm: float = 0.0,
        name: str = "scripted",
    ) -> None:
        owner = "ScriptedDevice"
        self.sample_rate_hz = checked_integer(owner, "sample_rate_hz", sample_rate_hz, 768_000)
        self.period_frames = checked_integer(owner, "period_frames", period_frames, MAX_BLOCK_FRAMES)
        self._steps = deque(_checked_step(owner, step, self.sample_rate_hz) for step in script)
        widths = {step.shape[1] for step in self._steps if isinstance(step, np.ndarray)}
        if len(widths) > 1:
            raise ConfigurationError(f"{owner}: expected as many channels in each array, got {sorted(widths)}.")
        self._width = next(iter(widths), 1 if input_channels is None else input_channels)
        inputs = self._width if input_channels is None else input_channels
        self._device = Device(
            index=0,
            name=name,
            host=_HOST,
            input_channels=checked_integer(owner, "input_channels", inputs, 1024),
            output_channels=checked_integer(owner, "output_channels", output_channels, 1024),
            default_sample_rate_hz=self.sample_rate_hz,
            low_input_latency_ms=1e3 * self.period_frames / self.sample_rate_hz,
            low_output_latency_ms=1e3 * self.period_frames / self.sample_rate_hz,
        )
        if self._width < inputs:
            raise ConfigurationError(
                f"{owner}: expected arrays of {inputs} channels, as many as it captures; got {self._width}."
            )
        self._ppm = _checked_ppm(owner, "drift_ppm", drift_ppm)
        self._back_ns = 0  # when it is there again
        self._stream: ScriptedStream | None = None
        self._played: list[npt.NDArray[np.float32]] = []

    @property
    def played(self) -> npt.NDArray[np.float32]:
        """All that it has played so far, silence included: (frames, channels). Copies."""
        return np.concatenate(self._played) if self._played else np.empty((0, 0), np.float32)

    @property
    def is_over(self) -> bool:
        """Whether the script is."""
        return not self._steps

    # --- for the module -------------------------------------------------------------------------------------------------

    def look_up(self, owner: str, direction: Direction) -> Device:
        """See `Driver.look_up`. Does not block."""
        return self._device

    def find(self, owner: str, direction: Direction, known: tuple[str, str] | None) -> Device:
        """See `Driver.find`. Does not block."""
        if monotonic_ns() < self._back_ns:
            raise DeviceUnavailable(f"{owner}: expected the device {self._device.name!r} to be back; it is unplugged.")
        return self._device

    def open(self, wanted: StreamRequest, native: DeviceStream) -> OpenStream:
        """See `Driver.open`. Does not block."""
        owner, name = wanted.owner, wanted.device.name
        if self._stream is not None:
            if not self._stream.is_closed:
                raise DeviceUnavailable(f"{owner}: the device {name!r} is busy: another module has it open.")
            if not self._stream.was_unplugged:
                raise StateError(f"{owner}: expected a device of which the script has not run; make one for each run.")
        wanted.check_channels()
        if wanted.sample_rate_hz != self.sample_rate_hz:
            raise DeviceUnavailable(
                f"{owner}: device {name!r} does not open at {wanted.sample_rate_hz} Hz; it runs at {self.sample_rate_hz} Hz."
            )
        self._stream = ScriptedStream(self, wanted.captured, wanted.played, native)
        return self._stream

    def patience_ns(self, device: Device) -> tuple[int, int]:
        """See `Driver.patience_ns`: as JACK's devices, of which the times are steady."""
        return 20_000_000, 1_000_000

    # --- for the stream -------------------------------------------------------------------------------------------------

    @property
    def period_ns(self) -> float:
        """How long a period takes by the clock of the flow."""
        return self.frames_ns(self.period_frames)

    def frames_ns(self, frames: int) -> float:
        """How long so many frames take by the clock of the flow."""
        return frames / (self.sample_rate_hz * (1 + self._ppm / 1e6)) * 1e9

    def next_step(self) -> Xrun | Late | Unplugged | None:
        """Take what happens before the next frames, if it is something that the stream has to do."""
        while self._steps and not isinstance(self._steps[0], np.ndarray):
            step = self._steps.popleft()
            if not isinstance(step, Drift):
                return step  # type: ignore[return-value]
            self._ppm = step.ppm
        return None

    def next_frames(self, channels: int) -> npt.NDArray[np.float32]:
        """Take one period of what is captured."""
        frames = np.zeros((self.period_frames, self._width), np.float32)
        filled = 0
        while filled < len(frames) and self._steps and isinstance(self._steps[0], np.ndarray):
            signal = self._steps[0]
            taken = signal[: len(frames) - filled]
            frames[filled : filled + len(taken)] = taken
            filled += len(taken)
            if len(taken) == len(signal):
                self._steps.popleft()
            else:
                self._steps[0] = signal[len(taken) :]
        return np.ascontiguousarray(frames[:, :channels])

    def unplug(self, moment_ns: float, seconds: float) -> None:
        """Be away from then on, for so long."""
        self._back_ns = round(moment_ns + seconds * 1e9)

    def keep(self, played: npt.NDArray[np.float32]) -> None:
        """Remember what was played."""
        self._played.append(played)

    def __repr__(self) -> str:
        return f"<ScriptedDevice {self._device.name!r}: {self.sample_rate_hz} Hz, {len(self._steps)} steps left>"


class ScriptedStream(OpenStream):
    """
    An open stream of a `ScriptedDevice`.

    Args:
        device: Whose script it follows.
        captured: How many channels are captured; None: none.
        played: How many are played; None: none.
        native: What is called.
    """

    def __init__(self, device: ScriptedDevice, captured: int | None, played: int | None, native: DeviceStream) -> None:
        self.sample_rate_hz = device.sample_rate_hz
        self.is_closed = False
        self.was_unplugged = False
        self._device = device
        self._captured = captured
        self._played = played
        self._native = native
        self._running = False
        self._due_ns = 0.0  # when the next call is
        self._late_ns = 0.0  # and how much later it comes
        self._flags = 0

    def start(self) -> None:
        """Let the first call be due a period from now."""
        self._running = True
        self._due_ns = monotonic_ns() + self._device.period_ns

    @property
    def active(self) -> bool:
        """Whether it is plugged in, and nothing is damaged."""
        return self._running

    @property
    def latency_s(self) -> float:
        """A period on each way."""
        return 2 * self._device.period_frames / self.sample_rate_hz

    @property
    def has_ended(self) -> bool:
        """Whether the script is over, where it captures."""
        return self._captured is not None and self._running and self._device.is_over and not self._is_pending

    def call_what_is_due(self) -> int | None:
        """Follow the script up to now. The thread of the module."""
        while self._running and (self._played is not None or self._is_pending or not self._device.is_over):
            self._take_steps()
            call_ns = self._due_ns + self._late_ns
            if call_ns > monotonic_ns():
                return ceil(call_ns)
            if self._running:
                self._call()
        return None

    @property
    def _is_pending(self) -> bool:
        """Whether there is something to tell with the next call, which then brings silence where the script is over."""
        return bool(self._flags or self._late_ns)

    def _take_steps(self) -> None:
        while (step := self._device.next_step()) is not None:
            match step:
                case Late():
                    self._late_ns += step.seconds * 1e9
                case Xrun():
                    self._flags |= _INPUT_OVERFLOW if step.direction == "input" else _OUTPUT_UNDERFLOW
                    self._due_ns += self._device.frames_ns(step.lost_frames)
                case Unplugged():
                    # From the end of the period that was the last one.
                    self._device.unplug(self._due_ns - self._device.period_ns, step.seconds)
                    self._running = False
                    self.was_unplugged = True
                    return

    def _call(self) -> None:
        device = self._device
        captured: Any = None if self._captured is None or self.has_ended else device.next_frames(self._captured)
        if self._captured is None and not device.is_over:
            device.next_frames(0)  # time passes for the script all the same
        played = None if self._played is None else np.empty((device.period_frames, self._played), np.float32)
        if captured is not None or played is not None:
            # The frames have their times, whenever the call comes.
            due_s, period_s = self._due_ns / 1e9, device.period_ns / 1e9
            now_ns = monotonic_ns()
            result = self._native.cycle(
                captured, played, now_ns / 1e9, due_s - period_s, due_s + period_s, self._flags, now_ns
            )
            self._running = result == 0
        if played is not None:
            device.keep(played)
        self._flags = 0
        self._late_ns = 0.0
        self._due_ns += device.period_ns

    def close(self) -> None:
        """Let another one be opened."""
        self._native.close()
        self.is_closed = True
        self._running = False

    def give_up(self) -> None:
        """Do the same: a script leaves nothing behind that could hang."""
        self.close()


def _check_silence(owner: str, step: Step, seconds: float) -> None:
    if seconds > _LONGEST_SILENCE_S:
        raise ConfigurationError(
            f"{owner}: expected at most {_LONGEST_SILENCE_S} s, got {step!r}: a device that says nothing for longer is lost. Use "
            f"Unplugged."
        )


def _checked_step(owner: str, step: object, sample_rate_hz: int) -> Step:
    match step:
        case np.ndarray():
            if step.ndim not in (1, 2) or not np.issubdtype(step.dtype, np.floating) or 0 in step.shape:
                raise ConfigurationError(
                    f"{owner}: expected arrays of floats, (frames,) or (frames, channels), got {step.dtype} of shape {step.shape}."
                )
            return step.reshape(len(step), -1).astype(np.float32)
        case Xrun():
            if step.lost_frames:
                checked_integer(owner, "lost_frames", step.lost_frames, 1 << 31)
                _check_silence(owner, step, step.lost_frames / sample_rate_hz)
            if step.direction not in ("input", "output"):
                raise ConfigurationError(f"{owner}: expected direction 'input' or 'output', got {step.direction!r}.")
        case Late():
            _check_silence(owner, step, checked_seconds(owner, "seconds", step.seconds))
        case Unplugged():
            checked_seconds(owner, "seconds", step.seconds)
        case Drift():
            _checked_ppm(owner, "ppm", step.ppm)
        case _:
            raise ConfigurationError(f"{owner}: expected arrays, Xrun, Late, Unplugged and Drift, got {step!r}.")
    return step


def _checked_ppm(owner: str, name: str, ppm: float) -> float:
    return checked_number(owner, name, ppm, above=-_MOST_PPM, most=_MOST_PPM)
