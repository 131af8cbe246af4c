"""How good a resampler is: what it adds to sines and sweeps, how flat it is, and what it lets fold back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Resample = Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]

__all__ = ["quality"]

_SECONDS: Final = 2.0
_EDGE_S: Final = 0.1  # at both ends: filters begin and end there
_AMPLITUDE: Final = 0.9
_PASSBAND: Final = 0.9  # of the lower Nyquist frequency


def quality(resample: Resample, source_hz: int, target_hz: int) -> dict[str, float]:
    """
    Measure a resampler.

    Args:
        resample: From the samples of a whole signal to those of the result, cut into blocks as in use.
        source_hz: The rate of what it takes.
        target_hz: The rate of what it gives.

    Returns:
        ``thd_n_db``: what is not the sine, of sines of 100 Hz to 0.9 of the lower Nyquist frequency, the worst;
        ``sweep_snr_db``: of a sweep over the same range, against the sweep itself at the other rate;
        ``ripple_db``: how far gains are apart over that range; ``alias_db``: what comes out of a sine above it.
    """
    nyquist_hz = min(source_hz, target_hz) / 2
    frequencies = [100.0, 997.0, *(share * nyquist_hz for share in (0.25, 0.5, 0.75, _PASSBAND))]
    residuals, gains = zip(*(_sine(resample, source_hz, target_hz, each) for each in frequencies), strict=True)
    figures = {
        "thd_n_db": max(residuals),
        "sweep_snr_db": _sweep(resample, source_hz, target_hz, _PASSBAND * nyquist_hz),
        "ripple_db": max(gains) - min(gains),
    }
    if target_hz < source_hz:
        figures["alias_db"] = _level(_inner(resample(_tone(source_hz, 1.15 * nyquist_hz)), target_hz))
    return {name: round(value, 4 if name == "ripple_db" else 1) for name, value in figures.items()}


def _tone(rate_hz: int, frequency_hz: float) -> npt.NDArray[np.float32]:
    time = np.arange(round(_SECONDS * rate_hz)) / rate_hz
    return (_AMPLITUDE * np.sin(2 * np.pi * frequency_hz * time)).astype(np.float32)


def _inner(samples: npt.NDArray[Any], rate_hz: int) -> npt.NDArray[np.float64]:
    edge = round(_EDGE_S * rate_hz)
    return samples.astype(np.float64)[edge : round((_SECONDS - _EDGE_S) * rate_hz)]


def _sine(resample: Resample, source_hz: int, target_hz: int, frequency_hz: float) -> tuple[float, float]:
    """Return what is not the sine, and its gain, both in dB; wherever its phase is."""
    out = resample(_tone(source_hz, frequency_hz))
    inner = _inner(out, target_hz)
    time = np.arange(len(inner)) / target_hz
    basis = np.stack([np.sin(2 * np.pi * frequency_hz * time), np.cos(2 * np.pi * frequency_hz * time)], axis=1)
    fit, *_ = np.linalg.lstsq(basis, inner, rcond=None)
    signal = basis @ fit
    return _level(inner - signal) - _level(signal), 20 * math.log10(float(np.hypot(*fit)) / _AMPLITUDE)


def _sweep(resample: Resample, source_hz: int, target_hz: int, top_hz: float) -> float:
    """Return the SNR of a linear sweep, at the whole frame at which both are closest."""

    def sweep(rate_hz: int) -> npt.NDArray[np.float64]:
        time = np.arange(round(_SECONDS * rate_hz)) / rate_hz
        return _AMPLITUDE * np.sin(2 * np.pi * (50 * time + (top_hz - 50) * time**2 / (2 * _SECONDS)))

    out = resample(sweep(source_hz).astype(np.float32)).astype(np.float64)
    expected = sweep(target_hz)
    edge = round(_EDGE_S * target_hz)
    best = -math.inf
    for shift in range(-64, 65):
        part = out[edge + shift : edge + shift + len(expected) - 4 * edge]
        wanted = expected[edge : edge + len(part)]
        best = max(best, _level(wanted) - _level(part - wanted))
    return best


def _level(samples: npt.NDArray[np.float64]) -> float:
    return 10 * math.log10(max(float(np.mean(samples**2)), 1e-30))
