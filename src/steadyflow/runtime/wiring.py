"""
How a flow is laid out over workers and shared memory: plain records that also travel to worker processes.

The coordinator fills them in once, before start; workers build their native ends from them and nothing else.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Place(msgspec.Struct, frozen=True):
    """A place in shared memory: which segment, and where in it."""

    segment: int
    offset: int


class PipelineWiring(msgspec.Struct, frozen=True, kw_only=True):
    """
    One pipeline as its ends see it.

    Args:
        id: Its id.
        source: Module and port it comes from; the name of an open end and "" otherwise.
        target: Module and port it goes to, likewise.
        format: The resolved format, by builtin types.
        ring: Ring and statistics.
        pool: The buffers of the source's port; None for a fused pipeline.
        consumer_bell: Where the consumer sleeps; None for a fused pipeline.
        consumer_bit: Its bit of that bell.
        producer_bell: Where the producer sleeps when it waits for room.
        rank: 0 (critical) to 3 (low).
        max_latency_ns: Above this overhead a block is late; 0: nobody waits for these blocks.
        in_loop: Whether it leads back to where it comes from.
    """

    id: str
    source: tuple[str, str]
    target: tuple[str, str]
    format: dict[str, Any]
    ring: Place
    pool: Place | None
    consumer_bell: Place | None
    consumer_bit: int
    producer_bell: Place | None
    rank: int
    max_latency_ns: int
    in_loop: bool

    @property
    def fused(self) -> bool:
        """Whether the block is handed over by a call inside one worker."""
        return self.pool is None


class ModuleWiring(msgspec.Struct, frozen=True, kw_only=True):
    """
    One module: what to construct in a process, and the formats of its ports.

    Args:
        name: Its name in the flow.
        cls: The path of its class.
        arguments: Its constructor's arguments, encoded.
        inputs: Formats of the connected inputs.
        outputs: Formats of the outputs that are resolved.
        order: Its place in the flow, upstream first; the same for the modules of a loop.
        stops: For each aligned input, the others that get nothing more when it is held back.
    """

    name: str
    cls: str
    arguments: bytes
    inputs: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]
    order: int
    stops: dict[str, list[str]]


class WorkerWiring(msgspec.Struct, frozen=True, kw_only=True):
    """
    Everything that one worker runs.

    Args:
        name: Its name in the flow.
        process: Its process number in shared memory; 0 is the coordinator's process.
        bell: Where it sleeps.
        modules: In topological order.
        pipelines: All that begin or end here.
        realtime: Whether it asks the system for real-time scheduling.
    """

    name: str
    process: int
    bell: Place
    modules: tuple[ModuleWiring, ...]
    pipelines: tuple[PipelineWiring, ...]
    realtime: bool

    def bells(self) -> list[tuple[int, int]]:
        """Return (segment, offset) of every bell that this worker sleeps on or rings."""
        places = {self.bell}
        for pipeline in self.pipelines:
            places.update(bell for bell in (pipeline.consumer_bell, pipeline.producer_bell) if bell is not None)
        return sorted((place.segment, place.offset) for place in places)
