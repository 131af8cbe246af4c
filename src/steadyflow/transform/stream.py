"""The conversion of a pipeline: what it does with blocks that cannot be converted, or do not pass a check."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from steadyflow._native import Block, monotonic_ns
from steadyflow.data import BlockFlag
from steadyflow.errors import TransformError
from steadyflow.transform.transformer import Conversion

_TELL_EVERY_NS = 1_000_000_000


class StreamConversion:
    """
    Converts what flows on a pipeline, and goes on behind a block that cannot be converted where the pipeline says so.

    Args:
        conversion: What it does.
        told: Called with sequence, reason and number of a block that was dropped, if it is the first within a second.
    """

    def __init__(self, conversion: Conversion, told: Callable[[int, str, int], None]) -> None:
        self.conversion = conversion
        self._told = told
        self._drops = conversion.plan.options.on_error == "drop"
        self._rejected = 0
        self._told_ns = 0
        self._broken = False  # a block was dropped, and the next one has to say so
        self._sequence = 0

    def push(self, block: Block) -> Iterable[Block]:
        """
        Take a block; return what that makes.

        Raises:
            TransformError: It cannot be converted, and the pipeline does not go on without it.
        """
        self._sequence = block.sequence
        if self._broken:
            block = _after_a_gap(block)
        try:
            made = self.conversion.push(block)
        except TransformError as problem:
            self._reject(problem)
            return ()
        self._broken = False
        return made

    def flush(self) -> Iterable[Block]:
        """Return what is left, at the end of the stream. Raises what `push` does."""
        left = iter(self.conversion.flush())
        while True:
            try:
                made = next(left)
            except StopIteration:
                return
            except TransformError as problem:
                self._reject(problem)
                return
            yield made

    def _reject(self, problem: TransformError) -> None:
        """Drop a block, and tell it; or raise the problem."""
        if not (self._drops if problem.dropped is None else problem.dropped):
            raise problem
        self._rejected += 1
        self._broken = True
        now_ns = monotonic_ns()
        if self._told_ns == 0 or now_ns - self._told_ns >= _TELL_EVERY_NS:
            self._told_ns = now_ns
            self._told(self._sequence, str(problem), self._rejected)


def _after_a_gap(block: Block) -> Block:
    """Return a block that says that something is missing before it."""
    return Block(
        block.data,
        block.format,
        timestamp_ns=block.timestamp_ns,
        first_frame=block.first_frame,
        sequence=block.sequence,
        flags=block.flags | BlockFlag.DISCONTINUITY,
        metadata=block.metadata or None,
        sent_ns=block.sent_ns,
    )
