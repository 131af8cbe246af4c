"""Two devices, two clocks: resampled by so little that what one captures lasts as long as the other plays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from steadyflow.arguments import checked_number
from steadyflow.data import Block, BlockFlag, FlowData
from steadyflow.errors import ConfigurationError
from steadyflow.formats import AudioFormat, Format
from steadyflow.module import Input, Module, Output

if TYPE_CHECKING:
    from steadyflow.transform.variable_rate import VariableRateStage

_BANDWIDTH_HZ: Final = 0.02  # of the loop: slow enough that nobody hears it, and that blocks average out
_SMOOTHING_S: Final = 1.0
_PASSED_ON: Final = int(BlockFlag.DISCONTINUITY | BlockFlag.GAP | BlockFlag.CORRUPTED)
_PATIENCE_S: Final = 2.0
_SLEW_S: Final = 0.02


class DriftCorrector(Module):
    """
    Keeps what waits for a device at the same length, by resampling what leads there by a little more or less.

    The clocks of two devices are some ten millionths apart. What is captured by one and played by the other piles up or runs dry
    after minutes. Put this module before the `Speaker`: it looks how much waits behind it, and corrects the ratio until that stays
    the same (a second-order loop of 0.02 Hz). It settles within a minute. What waits is known in whole blocks, so the ratio swings by
    some hundred millionths around what it should be: half a cent within a minute, which nobody hears.

    Ports ``audio``: f32, any rate and channels; ``out``: the same; blocks come out a few frames shorter or longer, and some ms
    later. Needs the extra ``audio``. Does not block; allocates.

    Args:
        target_fill_ms: How much audio is to wait behind it; the ``target_fill_ms`` of the pipeline to the device, to begin with.
        max_ppm: The most that is corrected, in either direction.

    Raises:
        ConfigurationError: An argument is impossible.
    """

    audio = Input(AudioFormat())
    out = Output(AudioFormat())

    latency_ms = 5.0  # what soxr withholds where the ratio may change

    _stage: VariableRateStage | None = None

    def __init__(self, *, target_fill_ms: float = 20.0, max_ppm: float = 1000.0) -> None:
        self._target_fill_ms = checked_number("DriftCorrector", "target_fill_ms", target_fill_ms, above=0, most=10_000)
        self._max_ppm = checked_number("DriftCorrector", "max_ppm", max_ppm, above=0, most=10_000)
        self._fill: float | None = None
        self._patience_s = _PATIENCE_S + 2 * target_fill_ms / 1000
        self._integral_ppm = 0.0

    @property
    def ppm(self) -> float:
        """How much faster what comes in is than what is played, as far as it has found out. In a process, only there."""
        return self._integral_ppm

    def resolve_formats(self, inputs: Mapping[str, Format]) -> Mapping[str, Format]:
        """Return the format of the input, with room for a few more frames in a block."""
        source = inputs.get("audio")
        if not isinstance(source, AudioFormat) or not source.is_resolved:
            return {}
        more = 2 + round(source.max_block_frames * self._max_ppm / 1e6)
        return {"out": msgspec.structs.replace(source, max_block_frames=source.max_block_frames + more)}

    def setup(self) -> None:
        """
        Make the resampler.

        Raises:
            MissingExtra: soxr is not installed.
        """
        from steadyflow.transform.variable_rate import VariableRateStage

        fmt = self.audio.format
        if not isinstance(fmt, AudioFormat) or fmt.sample_rate_hz is None:
            raise ConfigurationError("DriftCorrector: its input is not connected. Connect it, or remove it.")
        self._stage = VariableRateStage(fmt, max_ppm=self._max_ppm)
        self._rate = fmt.sample_rate_hz

    def process(self, audio: Block) -> None:
        """Resample a block, and correct the ratio by what waits behind it."""
        assert self._stage is not None
        for made in self._stage.push(audio):
            self._follow(self.out.waiting_blocks * made.frames, made.frames / self._rate)
            self.out.send(
                FlowData(
                    made.data,
                    timestamp_ns=max(made.timestamp_ns, 0),
                    first_frame=made.first_frame,
                    flags=made.flags & _PASSED_ON,
                    metadata=made.metadata or None,
                )
            )

    def _follow(self, waiting_frames: int, seconds: float) -> None:
        """Take one more look at what waits, `seconds` after the one before."""
        assert self._stage is not None
        target = self._target_fill_ms * self._rate / 1000
        if self._fill is None:
            # Before there is as much as there is to be, nothing has been played that could be compared.
            self._patience_s -= seconds
            if waiting_frames < target and self._patience_s > 0:
                return
            self._fill = float(waiting_frames)
        self._fill += (waiting_frames - self._fill) * min(seconds / _SMOOTHING_S, 1.0)
        error = self._fill - target
        # What a millionth does to the fill in a second, and a loop without overshoot (damping 1) around it.
        gain = self._rate / 1e6
        omega = 2 * math.pi * _BANDWIDTH_HZ
        limit = self._max_ppm
        self._integral_ppm += error * seconds * omega**2 / gain
        self._integral_ppm = max(-limit, min(self._integral_ppm, limit))
        self._stage.correct(error * 2 * omega / gain + self._integral_ppm, slew_frames=round(_SLEW_S * self._rate))
