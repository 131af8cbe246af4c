"""Which note it is: `Pitch` estimates, a hundred a second."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from steadyflow.arguments import checked_number
from steadyflow.audio.notes import name_note
from steadyflow.audio.yin import PERIODS_PER_WINDOW, Yin
from steadyflow.data import Block, BlockFlag, FlowData
from steadyflow.errors import ConfigurationError
from steadyflow.formats import AudioFormat, StructFormat
from steadyflow.module import Input, Module, Output

ESTIMATES_PER_SECOND: Final = 100


class Pitch(msgspec.Struct, frozen=True):
    """
    The pitch at one moment.

    Attributes:
        frequency_hz: The fundamental; None where unvoiced: silence, noise, several voices, or out of range.
        note: The nearest note, such as ``"C#4"`` (ASCII, sharps, A4 = 440 Hz); None where unvoiced.
        cents: How far the frequency is from the note's, -50 to 50; 0 where unvoiced.
        clarity: How periodic the sound is, 0 to 1; voiced sounds have 0.65 or more.
        timestamp_ns: When the middle of the window was captured, on the monotonic clock.
    """

    frequency_hz: float | None
    note: str | None
    cents: float
    clarity: float
    timestamp_ns: int


class PitchDetector(Module):
    """
    Estimates the pitch of one voice a hundred times a second, by YIN (see `steadyflow.audio.yin`).

    Ports ``audio``: any rate; channels are averaged; blocks of any length. ``pitch``: one `Pitch` per hop of 10 ms,
    over windows of some 43 ms (2.1 periods of `lowest_hz`). An estimate belongs to the middle of its window: that is
    its stamp, and half a window is its algorithmic delay. Where frames are missing from the stream, windows begin anew.

    Accurate within 2 cents for steady tones. Does not block; an estimate takes some 0.1 ms at 48 kHz, and next to
    nothing for silence below -60 dB.

    Args:
        lowest_hz: The lowest pitch to find.
        highest_hz: The highest pitch to find; at most a quarter of the sample rate is searched.

    Raises:
        ConfigurationError: The range is empty.
    """

    audio = Input(AudioFormat())
    pitch = Output(StructFormat(Pitch, max_bytes=128))

    def __init__(self, *, lowest_hz: float = 50.0, highest_hz: float = 2000.0) -> None:
        highest_hz = checked_number("PitchDetector", "highest_hz", highest_hz, above=0, most=192_000)
        self._lowest_hz = checked_number("PitchDetector", "lowest_hz", lowest_hz, above=0, most=highest_hz)
        self._highest_hz = highest_hz

    @property
    def latency_ms(self) -> float:  # type: ignore[override]
        """Half a window: an estimate belongs to its middle."""
        return 1000 * PERIODS_PER_WINDOW / self._lowest_hz / 2

    def setup(self) -> None:
        """
        Prepare for the rate of the input.

        Raises:
            ConfigurationError: The rate is too low for the lowest pitch.
        """
        fmt = self.audio.format
        if not isinstance(fmt, AudioFormat) or fmt.sample_rate_hz is None:
            raise ConfigurationError("PitchDetector: its input is not connected. Connect it, or remove it.")
        self._rate = fmt.sample_rate_hz
        self._yin = Yin(self._rate, lowest_hz=self._lowest_hz, highest_hz=min(self._highest_hz, self._rate / 4))
        self._window: npt.NDArray[np.float32] = np.zeros(self._yin.window_frames, np.float32)
        self._filled = 0
        self._hop = min(max(self._rate // ESTIMATES_PER_SECOND, 1), len(self._window))
        self._next_frame = 0

    def process(self, audio: Block) -> None:
        """Take a block of shape (frames, channels), and send an estimate for each window that it completes."""
        samples = audio.samples
        voice = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
        if audio.first_frame != self._next_frame or audio.flags & (BlockFlag.DISCONTINUITY | BlockFlag.GAP):
            self._filled = 0
        self._next_frame = audio.first_frame + len(voice)
        window, taken = self._window, 0
        while taken < len(voice):
            piece = voice[taken : taken + len(window) - self._filled]
            window[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            taken += len(piece)
            if self._filled == len(window):
                middle = taken - len(window) / 2  # in frames after the beginning of the block
                self._send(audio.timestamp_ns + round(middle * 1e9 / self._rate))
                window[: -self._hop] = window[self._hop :]
                self._filled -= self._hop

    def _send(self, timestamp_ns: int) -> None:
        frequency_hz, clarity = self._yin.estimate(self._window)
        note, cents = (None, 0.0) if frequency_hz is None else name_note(frequency_hz)
        pitch = Pitch(frequency_hz, note, cents, clarity, timestamp_ns)
        # A stream that is stamped from 0 on may have windows that began before.
        self.pitch.send(FlowData(pitch, timestamp_ns=max(timestamp_ns, 0)))

    def __repr__(self) -> str:
        return f"<PitchDetector {self._lowest_hz:g} to {self._highest_hz:g} Hz>"
