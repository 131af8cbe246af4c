"""Checks of what flows: numbers, range, constant part, and whether it moves at all."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import numpy as np

from steadyflow._native import Block, SampleConverter
from steadyflow.errors import TransformError
from steadyflow.formats import AudioFormat
from steadyflow.payload import native_spec
from steadyflow.transform.conforming import Conforming, unlimited
from steadyflow.validation import Validation

_DC_SECONDS: Final = 1.0  # of which the constant part is the average


class ValidationStage:
    """
    Checks the blocks of a stream; a `Stage`.

    Args:
        fmt: What they are.
        rules: What they are checked for.

    Attributes:
        invalid: How many blocks were found wrong.
        repaired: How many of them were repaired.
    """

    def __init__(self, fmt: AudioFormat, rules: Validation) -> None:
        self._format = fmt
        self._rules = rules
        self._axis = 1 if fmt.layout == "planar" else 0
        self._floats = fmt.sample_type in ("f32", "f64")
        as_f32 = unlimited(msgspec.structs.replace(fmt, sample_type="f32"))
        self._to_f32 = SampleConverter(native_spec(unlimited(fmt)), native_spec(as_f32), [], False)
        self._conforming = Conforming("validation", fmt)
        self._blocks = 0
        self._dc = np.zeros(fmt.channels or 1)
        self._seconds = 0.0  # that the constant part was averaged over
        self._before: bytes | None = None
        self._same_since: int | None = None  # the first frame of those that are all the same
        self.invalid = 0
        self.repaired = 0

    def push(self, block: Block) -> tuple[Block, ...]:
        """
        Check a block and pass it on.

        Raises:
            TransformError: It is wrong, and is to be rejected; `dropped` says whether the stream goes on without it.
        """
        checked = self._blocks % self._rules.sample_every == 0 or self._rules.mode == "full"
        self._blocks += 1
        if not checked:
            return (block,)
        problems = self._problems(block)
        if not problems:
            return (block,)
        self.invalid += 1
        if self._rules.on_invalid == "pass":
            return (block,)
        if self._rules.on_invalid == "repair":
            return (self._repaired(block),)
        raise TransformError(
            f"validation: expected {self._format}; block {block.sequence} has {'; '.join(problems)}.",
            dropped=self._rules.on_invalid == "reject",
        )

    def flush(self) -> tuple[Block, ...]:
        """Nothing is ever left; the constant part of the next stream is its own."""
        self._dc[:] = 0
        self._seconds = 0.0
        self._before = self._same_since = None
        return ()

    def _problems(self, block: Block) -> list[str]:
        problems = []
        try:
            samples = self._conforming(block.payload)
        except TransformError as mismatch:
            return [str(mismatch)]
        numbers = samples if self._floats else self._to_f32.convert(samples)
        assert numbers is not None
        if self._floats and (wrong := samples.size - int(np.count_nonzero(np.isfinite(samples)))):
            problems.append(f"{wrong} samples that are no finite numbers")
        elif self._rules.max_amplitude is not None:
            peak = max(float(numbers.max()), -float(numbers.min()))
            if peak > self._rules.max_amplitude:
                problems.append(f"an amplitude of {peak:.4g}, expected up to {self._rules.max_amplitude:g}")
        if not problems and self._rules.max_dc is not None:
            problems += self._constant_part(numbers, block.frames)
        if self._rules.max_stuck_ms is not None:
            problems += self._stuck(samples, block)
        return problems

    def _constant_part(self, numbers: np.ndarray[Any, Any], frames: int) -> list[str]:
        # A block that is looked at stands for those that are not.
        each = self._rules.sample_every if self._rules.mode == "sample" else 1
        seconds = each * frames / (self._format.sample_rate_hz or 1)
        self._seconds += seconds
        # The mean of all so far, and after a second one that forgets what is older.
        weight = max(seconds / self._seconds, 1 - math.exp(-seconds / _DC_SECONDS))
        self._dc += (numbers.mean(axis=self._axis, dtype=np.float64) - self._dc) * weight
        greatest = float(np.abs(self._dc).max())
        if self._seconds < _DC_SECONDS or greatest <= (self._rules.max_dc or 0):
            return []
        return [f"a constant part of {greatest:.4g}, expected up to {self._rules.max_dc:g}"]

    def _stuck(self, samples: np.ndarray[Any, Any], block: Block) -> list[str]:
        content = samples.tobytes()
        if content != self._before:
            self._before, self._same_since = content, block.first_frame
            return []
        assert self._same_since is not None
        assert self._rules.max_stuck_ms is not None
        rate = self._format.sample_rate_hz or 1
        stuck_ms = 1000 * (block.first_frame + block.frames - self._same_since) / rate
        if stuck_ms <= self._rules.max_stuck_ms or (samples == samples.flat[0]).all():
            return []
        return [f"the same samples as those before it, for {stuck_ms:.0f} ms"]

    def _repaired(self, block: Block) -> Block:
        """Return what can be repaired: numbers that are none, or out of range."""
        if not self._floats or not isinstance(block.payload, np.ndarray):
            return block
        limit = self._rules.max_amplitude
        samples = np.nan_to_num(block.payload, nan=0.0, posinf=limit or 0.0, neginf=-(limit or 0.0))
        if limit is not None:
            np.clip(samples, -limit, limit, out=samples)
        if np.array_equal(samples, block.payload):
            return block
        self.repaired += 1
        return block.derived(samples, self._format)
