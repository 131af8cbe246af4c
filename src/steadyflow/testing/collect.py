"""The two ends of a flow under test: `ScriptedSource` and `Collect`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from steadyflow.data import Block
from steadyflow.errors import ConfigurationError
from steadyflow.formats import AnyFormat, Format
from steadyflow.module import Input, Module, Output, Source


class Arrival(NamedTuple):
    """
    The stamps of a block that arrived.

    Attributes:
        timestamp_ns: When its first frame was captured, on the monotonic clock.
        first_frame: The index of that frame in the stream.
        sequence: The number of the block in its pipeline.
        flags: `BlockFlag` values.
        metadata: What the sender attached.
    """

    timestamp_ns: int
    first_frame: int
    sequence: int
    flags: int
    metadata: Mapping[str, Any]


class Collect(Module):
    """
    Keeps everything that comes, in order.

    Stays in the process of the coordinator, because what it holds would be lost with a worker process. Does not block;
    memory grows with each block. Read the attributes when the flow has ended.

    Port ``data``: any format.

    Attributes:
        values: The payloads: one array per block of audio or arrays, the decoded Struct, or bytes. Arrays are copies.
        arrivals: The stamps of each.
    """

    data = Input(AnyFormat())

    placements: ClassVar[tuple[str, ...]] = ("thread",)

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.arrivals: list[Arrival] = []

    def process(self, data: Block) -> None:
        """Keep one block."""
        value = data.data
        # Large blocks are views of the pipeline's memory, which must not be kept from it.
        self.values.append(value.copy() if isinstance(value, np.ndarray) else value)
        self.arrivals.append(Arrival(data.timestamp_ns, data.first_frame, data.sequence, data.flags, data.metadata))

    def __repr__(self) -> str:
        return f"<Collect: {len(self.values)} values>"


class ScriptedSource(Source):
    """
    Sends what a list says, then ends.

    Port ``out``: of the format given. Does not block.

    Args:
        script: What to send, in order: arrays or other payloads of the format, or `FlowData` for own stamps and flags.
        format: The format of the output, complete.
        live: Pretend to be a source that cannot be slowed, only dropped.

    Raises:
        ConfigurationError: The format is not complete.
    """

    out = Output(AnyFormat())

    def __init__(self, script: Sequence[object], format: Format, *, live: bool = False) -> None:
        if not format.is_resolved:
            raise ConfigurationError(
                f"ScriptedSource: expected a complete format such as AudioFormat(48_000, 1), got {format}."
            )
        self._script = list(script)
        self._format = format
        self.live = live

    def resolve_formats(self, inputs: Mapping[str, Format]) -> Mapping[str, Format]:
        """Return the format given. Does not block."""
        return {"out": self._format}

    def produce(self) -> Iterator[int | None]:
        """Send one item after the other."""
        for item in self._script:
            self.out.send(item)
            yield None

    def __repr__(self) -> str:
        return f"<ScriptedSource: {len(self._script)} items, {self._format}>"
