"""What a worker is told to change while it runs: plain records that also travel to worker processes."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from steadyflow.runtime.wiring import PipelineWiring

OVER: Final = "its worker has ended"
"""Why nothing was changed: too late."""

WITHDRAWN: Final = "its worker did not come to a place between two blocks in time"
"""Why nothing was changed: nobody waits for it any more."""


class AddOutput(msgspec.Struct, frozen=True, tag="add_output"):
    """Send into a pipeline from now on; its consumers are there already."""

    pipeline: PipelineWiring


class RemoveOutput(msgspec.Struct, frozen=True, tag="remove_output"):
    """Send nothing more into a pipeline, and end it; a fused one is forgotten at both ends."""

    pipeline: str


class AddInput(msgspec.Struct, frozen=True, tag="add_input"):
    """
    Take what comes from a pipeline; whoever sends comes later.

    Args:
        pipeline: The pipeline.
        follows: Whether it is the second one of its id, whose blocks come after all of those that the first one brings.
    """

    pipeline: PipelineWiring
    follows: bool


class ReleaseInput(msgspec.Struct, frozen=True, tag="release_input"):
    """Take the end of a pipeline that is about to come for what it is, and not for the end of what its module gets."""

    pipeline: str


class KeepInput(msgspec.Struct, frozen=True, tag="keep_input"):
    """Take the end of a pipeline for the end of what its module gets after all: it is not taken away."""

    pipeline: str


class EndModule(msgspec.Struct, frozen=True, tag="end_module"):
    """Let a module end: a source at its next yield, one that nothing leads into at once."""

    module: str


class SetQuality(msgspec.Struct, frozen=True, tag="set_quality"):
    """Let a module work at one of its levels."""

    module: str
    level: str


class Reorder(msgspec.Struct, frozen=True, tag="reorder"):
    """
    Go by another order of the modules.

    Args:
        orders: The place of each module of this worker, upstream first.
        stops: For each module with aligned inputs, and each of those, the others that get nothing more when it is held back.
    """

    orders: dict[str, int]
    stops: dict[str, dict[str, list[str]]]


Step: TypeAlias = AddOutput | RemoveOutput | AddInput | ReleaseInput | KeepInput | EndModule | SetQuality | Reorder


class Change(msgspec.Struct, frozen=True, tag="change"):
    """
    Steps that a worker takes one after the other, between two blocks.

    To a process it comes with descriptors: of the segments, and two for each bell.

    Args:
        number: By which its answer names it.
        steps: What is to be done.
        segments: The numbers of the segments that may be new to the process.
        bells: Segment and offset of the bells that may be.
        forget: The numbers of segments that nothing leads to any more.
    """

    number: int
    steps: tuple[Step, ...]
    segments: list[int] = []
    bells: list[tuple[int, int]] = []
    forget: list[int] = []
