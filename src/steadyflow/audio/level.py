"""How loud it is: one `Level` per block."""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np

from steadyflow.data import Block
from steadyflow.formats import AudioFormat, StructFormat
from steadyflow.module import Input, Module, Output

LEVEL_FLOOR_DB: Final = -120.0
"""The lowest level that is reported; digital silence has it."""


class Level(msgspec.Struct, frozen=True):
    """
    The level of one block, over all channels, in dB relative to full scale (1.0).

    Attributes:
        rms_db: Root mean square; a sine that just fits has -3.01.
        peak_db: The largest absolute sample; above 0 where samples are beyond full scale.
        timestamp_ns: When the block's first frame was captured.
    """

    rms_db: float
    peak_db: float
    timestamp_ns: int


class LevelMeter(Module):
    """
    Measures the level of each block.

    Ports ``audio``: any rate and channels; ``level``: one `Level` per block, never below -120 dB, not-a-number where
    the block holds one. Does not block; some 10 µs for a block of 480 frames.
    """

    audio = Input(AudioFormat())
    level = Output(StructFormat(Level, max_bytes=64))

    def process(self, audio: Block) -> Level:
        """Measure one block of shape (frames, channels)."""
        # In double precision: the squares of long blocks add up.
        samples = audio.samples.astype(np.float64).ravel()
        power = float(samples @ samples) / len(samples)
        peak = max(float(samples.max()), -float(samples.min()))
        return Level(decibels(math.sqrt(power)), decibels(peak), audio.timestamp_ns)


def decibels(amplitude: float) -> float:
    """Return an amplitude in dB relative to full scale; not below `LEVEL_FLOOR_DB`."""
    if amplitude == 0.0:
        return LEVEL_FLOOR_DB
    return max(20.0 * math.log10(amplitude), LEVEL_FLOOR_DB)
