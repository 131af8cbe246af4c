"""What it is made of, from low to high: one `Bands` per window."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from steadyflow.audio.level import decibels
from steadyflow.data import Block
from steadyflow.formats import AudioFormat, StructFormat
from steadyflow.module import Input, Module, Output

_RATE_HZ: Final = 16_000
_WINDOW_FRAMES: Final = 512
_BANDS: Final = 16
_LOWEST_BIN: Final = 2  # below, a band would be narrower than the window can tell apart
_FIRST_BINS: Final = np.geomspace(_LOWEST_BIN, _WINDOW_FRAMES // 2, _BANDS + 1).round().astype(np.int64)[:-1]
_HANN: Final[npt.NDArray[np.float64]] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW_FRAMES) / _WINDOW_FRAMES)
# Makes up for the window, and for the negative frequencies, of which there are as many.
_POWER: Final = 2 / (_WINDOW_FRAMES * float(_HANN @ _HANN))


class Bands(msgspec.Struct, frozen=True):
    """
    The level of one window in each of `BandMeter.edges_hz`, from low to high.

    Attributes:
        levels_db: Root mean squares in dB relative to full scale, as `Level.rms_db`.
        timestamp_ns: When the window's first frame was captured.
    """

    levels_db: tuple[float, ...]
    timestamp_ns: int


class BandMeter(Module):
    """
    Measures how strong 16 bands between 47 Hz and 8 kHz are, a hundred times a second: narrow ones below, wide ones above.

    Ports ``audio``: windows of 32 ms, every 10 ms, of one channel at 16 kHz; a pipeline from anything else needs
    ``transformation_required=True``. ``bands``: one `Bands` per window, no level below -120 dB; all of them not-a-number where a window
    holds one.
    Does not block; some 20 µs for each window.

    Attributes:
        edges_hz: Where the bands begin, and where the last one ends.
    """

    audio = Input(AudioFormat(_RATE_HZ, 1), window_frames=_WINDOW_FRAMES, hop_frames=_RATE_HZ // 100)
    bands = Output(StructFormat(Bands, max_bytes=256))

    edges_hz: Final = (
        *((first - 0.5) * _RATE_HZ / _WINDOW_FRAMES for first in (*_FIRST_BINS.tolist(), _WINDOW_FRAMES // 2)),
    )

    def process(self, audio: Block) -> Bands:
        """Measure one window of shape (512, 1)."""
        spectrum = np.fft.rfft(audio.samples[:, 0] * _HANN)[:-1]  # half of the rate itself has no other side
        power = np.add.reduceat(spectrum.real**2 + spectrum.imag**2, _FIRST_BINS) * _POWER
        return Bands(tuple(decibels(rms) for rms in np.sqrt(power).tolist()), audio.timestamp_ns)
