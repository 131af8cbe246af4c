"""
The pitch of one window of samples: the YIN estimator, vectorised.

A. de Cheveigné and H. Kawahara, "YIN, a fundamental frequency estimator for speech and music", J. Acoust. Soc. Am.
111(4), 2002. Its steps, and what is done differently here:

1. difference function ``d(lag)``, from an FFT autocorrelation. It runs over the whole window (``frames - lag`` terms,
   divided by their number) rather than over a fixed half, so that every lag compares samples that lie symmetrically
   around the window's centre: an estimate belongs to that moment, for low and high notes alike.
2. cumulative mean normalised difference ``d'(lag)``, which starts at 1 and dips towards 0 at the period.
3. the first dip below an absolute threshold, not the deepest one: that is what avoids notes an octave too low.
4. parabolic interpolation around the dip, on ``d`` because the normalisation shifts minima.
5. in addition, the same dip some periods later, where an error of a fraction of a sample weighs less.

Between 50 and 2000 Hz its error is below 2 cents for clean tones from 8 to 96 kHz, and it makes no octave errors down
to 5 dB above white noise.

Pure numpy; knows nothing of blocks, ports or flows.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from steadyflow.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The window holds this many periods of the lowest frequency: 2048 frames for 50 Hz at 48 kHz. Fewer than two would
# leave less than one period to compare at the longest lag.
PERIODS_PER_WINDOW = 2048 * 50 / 48_000

# Dips of d' that count as "periodic". 0.1 is the paper's; plucked and struck strings, whose partials are slightly
# inharmonic, need a little more.
_DIP_THRESHOLD = 0.15

# A dip this little above the deepest one is as good, if it comes earlier.
_SHALLOWER = 0.08

# A dip has ended where d' is this far above what made it one: noise in d' is smaller, the way out of a dip is higher.
_CLEARLY_ABOVE = 0.1

# Without a dip below the threshold, the deepest one is still believed up to here (a note under noise).
_DOUBTFUL_DIP = 0.35

# Lags are looked at this finely: between two samples, a tone with strong high partials hides its whole dip.
_LEAST_LAG_RATE_HZ = 80_000

# The dip is followed at most this many periods further (step 5). More gains nothing audible, and a vibrato smears it.
_MOST_PERIODS = 8

# A dip is fitted this far to each side: its lag divided by the first number, at most so many samples.
_DIP_REACH = 20
_WIDEST_REACH = 48

# Dips are looked for up to this many times the highest frequency: a tone above the range must be seen as that.
_BEYOND_RANGE = 3

# Frequencies are accepted half a semitone beyond the range, so that a note that sits exactly on its end is heard.
_RANGE_MARGIN = 2 ** (0.5 / 12)


class PitchEstimate(NamedTuple):
    """
    What YIN says about one window.

    Attributes:
        frequency_hz: The fundamental; None where the window is silent, not periodic, or out of range.
        clarity: 0 to 1, how periodic the window is: 1 - d' at the dip; 0 for silence.
    """

    frequency_hz: float | None
    clarity: float


class Yin:
    """
    Estimates the fundamental frequency of windows of one sample rate.

    What depends only on the rate and the range is computed once, here.

    Args:
        sample_rate_hz: Frames per second of the windows.
        lowest_hz: The lowest frequency to find; sets the window's length, about 2.1 of its periods.
        highest_hz: The highest frequency to find, at most a quarter of the sample rate.
        silence_db: Windows whose RMS, without their mean, is below this level (dB relative to 1.0) are taken as silent
            without a further look.

    Raises:
        ConfigurationError: The range is empty, or does not fit the sample rate.
    """

    __slots__ = (
        "_counts",
        "_fft_frames",
        "_indices",
        "_least_power",
        "_limits_hz",
        "_shortest",
        "_steps",
        "sample_rate_hz",
        "window_frames",
    )

    def __init__(
        self, sample_rate_hz: float, *, lowest_hz: float = 50.0, highest_hz: float = 2000.0, silence_db: float = -60.0
    ) -> None:
        if not 0 < lowest_hz < highest_hz <= sample_rate_hz / 4:
            raise ConfigurationError(
                f"Yin: expected 0 < lowest_hz < highest_hz <= {sample_rate_hz / 4:g}, a quarter of the sample rate, "
                f"got lowest_hz={lowest_hz!r}, highest_hz={highest_hz!r}."
            )
        self.sample_rate_hz = sample_rate_hz
        # Even, so that the window has a centre between two frames and half of it is the longest lag.
        self.window_frames = 2 * math.ceil(PERIODS_PER_WINDOW * sample_rate_hz / lowest_hz / 2)
        longest_lag = self.window_frames // 2
        self._steps = max(math.ceil(_LEAST_LAG_RATE_HZ / sample_rate_hz), 1)
        self._indices: NDArray[np.float64] = np.arange(longest_lag * self._steps + 1, dtype=np.float64)
        self._counts: NDArray[np.float64] = self.window_frames - self._indices / self._steps
        # Lags up to half a window wrap around unless the transform is half a window longer.
        self._fft_frames = _smooth_size(self.window_frames + longest_lag)
        self._least_power = 10 ** (silence_db / 10)
        self._shortest = max(int(self._steps * sample_rate_hz / highest_hz / _BEYOND_RANGE), 2 * self._steps)
        self._limits_hz = (lowest_hz / _RANGE_MARGIN, highest_hz * _RANGE_MARGIN)

    def estimate(self, window: NDArray[np.floating]) -> PitchEstimate:
        """
        Find the pitch of one window.

        Takes some 0.1 ms at 48 kHz, far less for silence; allocates; never blocks. Any thread, also several at once.

        Args:
            window: Shape (window_frames,), any floating type.

        Returns:
            The pitch at the window's centre. A window with samples that are not finite counts as silent.
        """
        frames = self.window_frames
        samples = window.astype(np.float64)
        with np.errstate(invalid="ignore"):
            samples -= samples.mean()
        power = float(samples @ samples) / frames
        # Written so that NaN is silent, too.
        if not self._least_power <= power < math.inf:
            return PitchEstimate(None, 0.0)

        difference = self._difference(samples)
        # d'(lag) = d(lag) / mean of d up to lag; the tiny constant is for windows that begin without any change.
        normalised = np.ones_like(difference)
        np.cumsum(difference[1:], out=normalised[1:])
        normalised[1:] += 1e-300
        np.divide(difference[1:] * self._indices[1:], normalised[1:], out=normalised[1:])

        lag, depth = _first_dip(normalised, self._shortest)
        clarity = min(max(1.0 - depth, 0.0), 1.0)
        if lag == 0 or depth > _DOUBTFUL_DIP:
            return PitchEstimate(None, clarity)
        frequency_hz = self.sample_rate_hz * self._steps / self._period(difference, lag)
        lowest_hz, highest_hz = self._limits_hz
        if not lowest_hz <= frequency_hz <= highest_hz:
            return PitchEstimate(None, clarity)
        return PitchEstimate(frequency_hz, clarity)

    def _difference(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean squared difference between the window and itself, for each lag up to half a window."""
        frames = self.window_frames
        spectrum = np.fft.rfft(samples, self._fft_frames)
        power = spectrum.real**2 + spectrum.imag**2
        # A longer inverse transform interpolates between the lags.
        correlation = np.fft.irfft(power, self._fft_frames * self._steps)[: len(self._counts)]
        # Energy of the first frames-lag samples plus that of the last frames-lag samples.
        energy = np.empty(frames + 1)
        energy[0] = 0.0
        np.cumsum(samples * samples, out=energy[1:])
        longest = frames // 2
        both = energy[frames - longest :][::-1] + (energy[frames] - energy[: longest + 1])
        if self._steps > 1:
            both = _between(both, self._steps)
        # Rounding may leave a tiny negative number where the window repeats exactly.
        difference: NDArray[np.float64] = np.maximum(both - 2.0 * self._steps * correlation, 0.0) / self._counts
        return difference

    def _period(self, difference: NDArray[np.float64], lag: int) -> float:
        """Refine the dip at `lag`, in samples, using also the same dip some periods later."""
        # A parabola through three samples would follow the noise where a dip is hundreds of samples wide.
        reach = min(max(lag // _DIP_REACH, 1), _WIDEST_REACH)
        period = lag + _vertex(difference, lag, reach)
        periods = 1
        # Doubling, so that each step starts from an estimate that is good enough to find the next dip.
        while 2 * periods <= _MOST_PERIODS and 2 * periods * period < len(difference) - 1 - reach:
            later = round(2 * periods * period)
            periods *= 2
            period = (later + _vertex(difference, later, reach)) / periods
        return period


def _first_dip(normalised: NDArray[np.float64], shortest: int) -> tuple[int, float]:
    """The index (0: none) and the depth of the first dip, from `shortest` on, that is deep enough."""
    before, here, after = normalised[shortest - 1 : -2], normalised[shortest:-1], normalised[shortest + 1 :]
    dips = np.flatnonzero((here < before) & (here <= after))
    if not len(dips):
        return 0, 1.0
    before, here, after = before[dips], here[dips], after[dips]
    # The true minimum lies below the nearest lag that was looked at.
    depths = np.maximum(here - (before - after) ** 2 / (8 * (before - 2 * here + after)), 0.0)
    enough = max(_DIP_THRESHOLD, float(depths.min()) + _SHALLOWER)
    first = int((depths < enough).argmax())
    # Noise splits a broad dip into many, and the first of them is not its bottom: the dip ends where d' rises clearly.
    rising = np.flatnonzero(normalised[shortest + dips[first] + 1 :] > enough + _CLEARLY_ABOVE)
    end = np.searchsorted(dips, dips[first] + 1 + rising[0]) if len(rising) else len(dips)
    deepest = first + int(depths[first:end].argmin())
    return shortest + int(dips[deepest]), float(depths[deepest])


@functools.cache
def _parabola(reach: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights that give slope and curvature at the middle of 2 * reach + 1 values, by least squares."""
    offsets = np.arange(-reach, reach + 1, dtype=np.float64)
    squares = offsets**2
    centred = squares - squares.mean()
    return offsets / squares.sum(), 2 * centred / (centred @ squares)


def _vertex(values: NDArray[np.float64], index: int, reach: int) -> float:
    """How far from `index` the minimum lies, at most `reach` samples, by a parabola through the values around it."""
    around = values[max(index - reach, 0) : index + reach + 1]
    if len(around) < 2 * reach + 1:
        return 0.0
    slope, curvature = _parabola(reach)
    rise, bend = float(slope @ around), float(curvature @ around)
    if bend <= 0:
        return 0.0
    return min(max(-rise / bend, -reach), reach)


def _between(values: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """`steps` - 1 more values on the straight line between each two."""
    between = np.empty((len(values) - 1) * steps + 1)
    between[:-1].reshape(-1, steps)[:] = values[:-1, None] + np.diff(values)[:, None] * (np.arange(steps) / steps)
    between[-1] = values[-1]
    return between


def _smooth_size(least: int) -> int:
    """The smallest even size from `least` on without prime factors above 5: FFTs of other sizes can be much slower."""
    size = least + least % 2
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2
