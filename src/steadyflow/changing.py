"""What a user may change of a flow that runs, and what becomes of the description where that fails."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from steadyflow._native import pool_bytes
from steadyflow.description import Description
from steadyflow.errors import ConfigurationError, FlowError, StateError, SystemShortage
from steadyflow.events import FlowEvent, ModuleReplaced, PipelineDisconnected, PipelineRegistered, PoolTuned
from steadyflow.metrics.flow_metrics import FlowMetrics
from steadyflow.metrics.pools import PoolChange
from steadyflow.pausing import Pausing
from steadyflow.pipeline import Pipeline, buffer_bytes

if TYPE_CHECKING:
    from steadyflow.runtime.execution import Execution
    from steadyflow.runtime.open_ends import OpenPlace
    from steadyflow.runtime.placed import Placed
    from steadyflow.runtime.rewiring import Rewiring

_logger: Final = logging.getLogger("steadyflow.backpressure")
_LEAST_BYTES: Final = 1 << 16  # less than that is not worth a change


class Changing:
    """
    The changes of a flow that runs. Any thread but those of its workers, one call at a time; blocks until a change is made.

    Args:
        flow: The name of the flow.
        description: The flow.
        opened: Where its pipelines with an open source lie.
        pausing: Says what is paused.
        publish: Takes events.
    """

    def __init__(
        self,
        flow: str,
        description: Description,
        opened: dict[str, OpenPlace],
        pausing: Pausing,
        publish: Callable[[FlowEvent], object],
    ) -> None:
        self._flow = flow
        self._description = description
        self._opened = opened
        self._pausing = pausing
        self._publish = publish
        self._rewiring: Rewiring | None = None
        self._together: list[Pipeline] | None = None  # what one change is made of; None: each is one
        self._taken_away: dict[str, Pipeline] = {}

    def begin(self, run: Execution) -> None:
        """Change that run from now on."""
        from steadyflow.runtime.rewiring import Rewiring

        self._rewiring = Rewiring(self._flow, run)

    @property
    def accounts(self) -> dict[str, FlowMetrics]:
        """What became of the blocks of the pipelines that were taken away, by id: of the last one of each."""
        taken_away = list(self._taken_away.items())
        return {name: pipeline.statistics() for name, pipeline in taken_away if pipeline.has_metrics}

    def detach(self, reason: str) -> None:
        """Close the open ends of pipelines that were taken away, and may still be received from."""
        for pipeline in self._taken_away.values():
            pipeline.detach(reason)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """
        Make one change of all pipelines that are linked meanwhile.

        Raises:
            StateError: One is being made already. And what `link` raises: then none of them is linked.
        """
        if self._together is not None:
            raise StateError(f"flow {self._flow!r}: expected one change to end before another one begins.")
        pipelines: list[Pipeline] = []
        self._together = pipelines
        try:
            yield
        except BaseException:
            self._forget(pipelines)
            raise
        finally:
            self._together = None
        if pipelines:
            self._link(pipelines)

    def link(self, pipeline: Pipeline) -> None:
        """
        Let blocks flow on a pipeline that is described, now or at the end of what is changed together.

        Raises:
            FlowError: See `Rewiring.connect`. It is described no more.
        """
        if self._together is not None:
            self._together.append(pipeline)
        else:
            self._link([pipeline])

    def _link(self, pipelines: list[Pipeline]) -> None:
        assert self._rewiring is not None
        try:
            self._pausing.require_running({pipeline.target[0] for pipeline in pipelines})
            self._rewiring.connect(self._description.modules, pipelines, self._opened)
        except BaseException:
            self._forget(pipelines)
            raise
        for pipeline in pipelines:
            self._taken_away.pop(pipeline.id, None)
            self._publish(PipelineRegistered(flow=self._flow, pipeline=pipeline.id))

    def _forget(self, pipelines: list[Pipeline]) -> None:
        for pipeline in pipelines:
            self._description.remove(pipeline)
            self._opened.pop(pipeline.id, None)
            pipeline.detach(f"{pipeline.id}: it could not be connected")

    def unlink(self, pipeline: Pipeline, *, discard: bool, drain_timeout_s: float) -> None:
        """
        Take a pipeline away.

        Raises:
            FlowError: See `Rewiring.disconnect`.
        """
        assert self._rewiring is not None
        self._refuse_together("disconnect")
        self._rewiring.disconnect(pipeline, discard=discard, drain_timeout_s=drain_timeout_s)
        self._description.remove(pipeline)
        self._opened.pop(pipeline.id, None)
        self._taken_away[pipeline.id] = pipeline
        account = pipeline.statistics()
        self._publish(
            PipelineDisconnected(
                flow=self._flow,
                pipeline=pipeline.id,
                sent=account.sent,
                delivered=account.delivered,
                dropped=account.dropped_total,
            )
        )

    def replace(self, placed: Placed, *, discard: bool, drain_timeout_s: float) -> None:
        """
        Let a module take the place of the one of its name.

        Raises:
            FlowError: See `Rewiring.replace`.
        """
        assert self._rewiring is not None
        self._refuse_together("replace a module")
        self._pausing.require_running({placed.name})
        self._rewiring.replace(placed, discard=discard, drain_timeout_s=drain_timeout_s)
        self._description.modules[placed.name] = placed
        self._publish(ModuleReplaced(flow=self._flow, module=placed.name))

    def tune_pools(self, run: Execution) -> list[PoolChange]:
        """Let consumers keep as many views as they need, by what they did lately. Returns what was changed, and what was refused."""
        from steadyflow.runtime.layout import RingShape, buffers_of

        assert self._rewiring is not None
        self._refuse_together("tune pools")
        changes: list[PoolChange] = []
        for name, (views, reason) in run.pools.proposals().items():
            links = run.pools.with_buffers_of(name)
            tuned = next((link for link in links if link.id == name), None)
            if tuned is None or tuned.format is None:
                continue
            fmt, before = tuned.format, tuned.kept_views
            shapes = [RingShape.of(link, 1) for link in links]
            tuned.kept_views = views
            later = [RingShape.of(link, 1) for link in links]
            sizes = [pool_bytes(buffers_of(each, fmt), buffer_bytes(fmt)) for each in (shapes, later)]
            change = PoolChange(
                pipeline=name,
                views_before=shapes[links.index(tuned)].views,
                views_after=views,
                bytes_before=sizes[0],
                bytes_after=sizes[1],
                reason=reason,
            )
            if -_LEAST_BYTES < sizes[1] - sizes[0] <= 0:
                tuned.kept_views = before
                continue
            try:
                self._rewiring.lay_out_again(tuned)
            except (ConfigurationError, StateError, SystemShortage) as refusal:
                tuned.kept_views = before
                changes.append(msgspec.structs.replace(change, refused=str(refusal)))
                continue
            run.pools.note_change(tuned)
            changes.append(change)
            self._publish(
                PoolTuned(
                    flow=self._flow,
                    pipeline=name,
                    views_before=change.views_before,
                    views_after=views,
                    bytes_before=sizes[0],
                    bytes_after=sizes[1],
                    reason=reason,
                )
            )
        return changes

    def let_grow(self, run: Execution, link: Pipeline) -> None:
        """
        Give a pipeline memory to grow in, by its rule, which was another one when the flow was laid out. Does not wait.

        Where that cannot be, it keeps its room; flow control tells.
        """
        # In a thread of its own: workers are told between two blocks, and whoever switches a rule may be one of them.
        threading.Thread(target=self._let_grow, args=(run, link), name="steadyflow-room", daemon=True).start()

    def _let_grow(self, run: Execution, link: Pipeline) -> None:
        assert self._rewiring is not None
        try:
            self._rewiring.lay_out_again(link)
        except FlowError as refusal:
            _logger.info("%s: it cannot grow: %s", link.id, refusal)

    @property
    def is_together(self) -> bool:
        """Whether several things are made one change at this moment."""
        return self._together is not None

    def _refuse_together(self, action: str) -> None:
        if self._together is not None:
            raise StateError(
                f"flow {self._flow!r}: cannot {action} together with what is added; do it before or after `with flow.changes()`."
            )
