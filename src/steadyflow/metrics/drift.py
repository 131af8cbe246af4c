"""
How far the clocks of two devices drift apart, from how many frames each had moved at which time: pure arithmetic, no thread.

Both are compared with the monotonic clock, so their cycles need not be the same, nor taken at the same moments.
"""

from __future__ import annotations

from typing import Final

import numpy as np

_MOST_POINTS: Final = 128
_LEAST_SPAN_NS: Final = 1_000_000_000
_LONGEST_PAUSE_NS: Final = 1_000_000_000
_LONGEST_SPAN_NS: Final = 600_000_000_000


class ClockRate:
    """
    The rate of one device, by a straight line through what was observed of it in the latest ten minutes.

    Of many observations only some are kept, spread over the time: memory and work are bounded.

    Args:
        nominal_hz: The rate that it should have, above 0.
    """

    def __init__(self, nominal_hz: float) -> None:
        self._nominal_hz = nominal_hz
        self._points: list[tuple[int, int]] = []
        self._spacing_ns = 0
        self._latest: tuple[int, int] | None = None

    def observe(self, frames: int, now_ns: int) -> None:
        """
        Take an observation. One that goes back, in frames or time, is of a device that began anew, and so does this; the same after a
        second without any: it was away.

        Args:
            frames: How many the device has moved since it began.
            now_ns: When that was read, on the monotonic clock.
        """
        if self._latest is not None:
            frames_before, before_ns = self._latest
            if frames < frames_before or not before_ns <= now_ns <= before_ns + _LONGEST_PAUSE_NS:
                self._points, self._spacing_ns = [], 0
        self._latest = (frames, now_ns)
        if self._points and now_ns - self._points[-1][1] < self._spacing_ns:
            return
        self._points.append((frames, now_ns))
        while now_ns - self._points[0][1] > _LONGEST_SPAN_NS:
            del self._points[0]
        if len(self._points) > _MOST_POINTS:
            self._points = self._points[::2]
            self._spacing_ns = 2 * (now_ns - self._points[0][1]) // _MOST_POINTS

    @property
    def deviation_ppm(self) -> float | None:
        """How much faster than its nominal rate the device is, in millionths; None: observed for less than a second."""
        if self._latest is None or not self._points:
            return None
        points = self._points if self._points[-1] == self._latest else [*self._points, self._latest]
        first_frames, first_ns = points[0]
        if points[-1][1] - first_ns < _LEAST_SPAN_NS:
            return None
        seconds = np.array([now_ns - first_ns for _, now_ns in points]) / 1e9
        # What it is ahead of its nominal rate: small numbers, in which a millionth is not rounded away.
        ahead = np.array([frames - first_frames for frames, _ in points]) - seconds * self._nominal_hz
        centred = seconds - seconds.mean()
        frames_per_s = float(centred @ (ahead - ahead.mean()) / (centred @ centred))
        return frames_per_s / self._nominal_hz * 1e6


def drift_ppm(captured: ClockRate, played: ClockRate) -> float | None:
    """
    Return how much faster than the playing device the capturing one is, in millionths; None: not known yet.

    Above 0, what is captured is more than what is played, and piles up between them; below 0, it runs dry.
    """
    capture_ppm, playback_ppm = captured.deviation_ppm, played.deviation_ppm
    if capture_ppm is None or playback_ppm is None:
        return None
    return ((1 + capture_ppm / 1e6) / (1 + playback_ppm / 1e6) - 1) * 1e6
