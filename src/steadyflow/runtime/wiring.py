"""
How a flow is laid out over workers and shared memory: plain records that also travel to worker processes.

The coordinator fills them in once, before start; workers build their native ends from them and nothing else.
"""

from __future__ import annotations

from typing import Any

import msgspec

from steadyflow.audio_config import CycleRules, IntakeRules
from steadyflow.conversion import ConversionOptions
from steadyflow.realtime import Realtime
from steadyflow.validation import Validation


class Place(msgspec.Struct, frozen=True):
    """A place in shared memory: which segment, and where in it."""

    segment: int
    offset: int


class LaneWiring(msgspec.Struct, frozen=True, kw_only=True):
    """
    One ring of a pipeline. There is one for each replica that sends into the pipeline; else one.

    Args:
        ring: Ring and statistics.
        pool: The buffers of the source's port; None for a fused pipeline.
        producer_bell: Where the producer sleeps when it waits for room.
        growth: How many more blocks may wait there when it has grown.
    """

    ring: Place
    pool: Place | None
    producer_bell: Place
    growth: int = 0


class PipelineWiring(msgspec.Struct, frozen=True, kw_only=True):
    """
    One pipeline as its ends see it.

    Args:
        id: Its id.
        source: Module and port it comes from; the name of an open end and "" otherwise.
        target: Module and port it goes to, likewise.
        format: The resolved format of what flows, by builtin types.
        target_format: What the target takes, if that is another one; None: what flows.
        converters: The names of those that make the one of the other, in their order.
        conversion: How they do it, where there is a choice.
        validation: What is checked before.
        lanes: Its rings, in the order of the source's replicas.
        consumer_bells: Where its consumers sleep, in the order of the target's replicas; none for a fused pipeline.
        consumer_bit: Its bit of those bells.
        order: The ring in whose order the blocks of the lanes are taken; None: as they were sent.
        rank: 0 (critical) to 3 (low).
        max_latency_ns: Above this overhead a block is late; 0: nobody waits for these blocks.
        in_loop: Whether it leads back to where it comes from.
        intake: What its input lets through; None: everything, at once.
        cycles: When its blocks have to be finished; None: nobody waits for them.
        sharing: The other inputs of the same consumer that its room is shared with.
        alarm: Where flow control sleeps, which is told when it becomes full.
    """

    id: str
    source: tuple[str, str]
    target: tuple[str, str]
    format: dict[str, Any]
    target_format: dict[str, Any] | None
    converters: tuple[str, ...]
    conversion: ConversionOptions | None
    validation: Validation | None
    lanes: tuple[LaneWiring, ...]
    consumer_bells: tuple[Place, ...]
    consumer_bit: int
    order: Place | None
    rank: int
    max_latency_ns: int
    in_loop: bool
    intake: IntakeRules | None
    cycles: CycleRules | None
    sharing: tuple[SharedRoom, ...]
    alarm: Place

    @property
    def fused(self) -> bool:
        """Whether the block is handed over by a call inside one worker."""
        return not self.consumer_bells

    @property
    def growth(self) -> int:
        """How many more blocks than at first may wait at most."""
        return sum(lane.growth for lane in self.lanes)


class SharedRoom(msgspec.Struct, frozen=True, kw_only=True):
    """
    An input that shares its room with others.

    Args:
        ring: Where it is.
        rank: How important: 0 is the most.
    """

    ring: Place
    rank: int


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
        account: Where the callback of its device counts; None: it has no device.
        is_needed: Whether others depend on it, so that it is torn down with its worker, after them.
    """

    name: str
    cls: str
    arguments: bytes
    inputs: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]
    order: int
    stops: dict[str, list[str]]
    account: Place | None = None
    is_needed: bool = False


class NewsWiring(msgspec.Struct, frozen=True, kw_only=True):
    """
    The way of a process worker's events to the coordinator.

    Args:
        ring: Their ring.
        pool: Their buffers.
        bell: Where the coordinator sleeps that reads them.
        bit: Its bit of that bell.
    """

    ring: Place
    pool: Place
    bell: Place
    bit: int


class WorkerWiring(msgspec.Struct, frozen=True, kw_only=True):
    """
    Everything that one worker runs.

    Args:
        name: Its name in the flow.
        process: Its process number in shared memory; 0 is the coordinator's process.
        bell: Where it sleeps.
        replica: Which of its module's replicas it runs, from 0: its lane of what it sends, its place among consumers.
        modules: In topological order.
        setup: The names of its modules, in the order in which they are set up.
        pipelines: All that begin or end here.
        realtime: What it asks the system for with real-time scheduling; None: does not ask for that.
        refusals: Which ways to real-time scheduling need not be tried, and why, as far as that is known.
        restartable: Whether it is a process that another one may follow, because it holds nothing but devices.
        news: Where a process tells its events; None: it is a thread.
        dependents: The workers whose modules depend on those of this one; it ends after them.
    """

    name: str
    process: int
    bell: Place
    replica: int
    modules: tuple[ModuleWiring, ...]
    setup: tuple[str, ...]
    pipelines: tuple[PipelineWiring, ...]
    realtime: Realtime | None
    refusals: dict[str, str] = {}
    restartable: bool = False
    news: NewsWiring | None = None
    dependents: tuple[str, ...] = ()

    def segments(self) -> list[int]:
        """Return the numbers of the segments that it touches."""
        places = {self.bell, *(Place(*bell) for bell in self.bells())}
        if self.news is not None:
            places |= {self.news.ring, self.news.pool}
        places |= {module.account for module in self.modules if module.account is not None}
        for pipeline in self.pipelines:
            places |= {lane.ring for lane in pipeline.lanes}
            if pipeline.order is not None:
                places.add(pipeline.order)
        return sorted({place.segment for place in places})

    def bells(self) -> list[tuple[int, int]]:
        """Return (segment, offset) of every bell that this worker sleeps on or rings."""
        places = {self.bell} if self.news is None else {self.bell, self.news.bell}
        names = {module.name for module in self.modules}
        for pipeline in self.pipelines:
            if pipeline.source[0] in names:
                places.update((*pipeline.consumer_bells, pipeline.alarm))
            if pipeline.target[0] in names:
                places.update(lane.producer_bell for lane in pipeline.lanes)
        return sorted((place.segment, place.offset) for place in places)
