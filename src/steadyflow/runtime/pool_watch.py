"""Looks at the buffers of all outputs once a second: how well they meet what is asked, and what should be changed."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from steadyflow._native import Segment, give_back_pool, monotonic_ns, pool_state
from steadyflow.errors import CorruptedSegment
from steadyflow.events import FlowEvent, PoolHitRateLow
from steadyflow.metrics.pools import PoolCounts, PoolMetrics, hit_rate, read_pool_metrics
from steadyflow.metrics.view_demand import LOW_HIT_RATE, ViewDemand, Window
from steadyflow.pipeline import Pipeline
from steadyflow.runtime.wiring import PipelineWiring, Place

WINDOW_NS: Final = 1_000_000_000
_QUIET_NS: Final = 10_000_000_000  # between two alerts of one output


class Run(Protocol):
    """What is looked at: the execution."""

    linked: list[Pipeline]
    wirings: dict[str, PipelineWiring]

    def at(self, place: Place) -> tuple[Segment, int]:
        """Return where that is in this process."""


class _Output:
    """An output that is looked at, and what is known of it."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        self.counted = _counts_of(pipelines)
        self.peaks: dict[str, int] = {}
        self.told_ns = 0


def _counts_of(pipelines: Sequence[Pipeline]) -> PoolCounts:
    return PoolCounts({pipeline.id: pipeline.counted for pipeline in pipelines})


class PoolWatch:
    """
    Keeps what is asked of the buffers of each output. Any thread.

    Args:
        run: What is looked at.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._looking = threading.Lock()
        self._looked_ns = 0
        self._outputs: dict[str, _Output] = {}
        self._demands: dict[str, ViewDemand] = {}  # by pipeline
        self._left: list[tuple[Pipeline, Segment, int]] = []  # pools that others have succeeded

    def look(self, flow: str, now_ns: int) -> list[FlowEvent]:
        """Note what was asked for in the last second, if it is over; return the alerts. See `watch.Watched`."""
        if now_ns - self._looked_ns < WINDOW_NS:
            return []
        with self._looking:
            self._looked_ns = now_ns
            events: list[FlowEvent] = []
            for name, pipelines in self._by_output().items():
                events += self._look_at(flow, name, pipelines, now_ns)
            self._give_back()
        return events

    def metrics(self) -> dict[str, PoolMetrics]:
        """Return what is known of the buffers of each output, by ``"module.port"``. Does not disturb the flow."""
        with self._looking:
            return {name: self._metrics_of(name, pipelines) for name, pipelines in self._by_output().items()}

    def proposals(self) -> dict[str, tuple[int, str]]:
        """Return, by pipeline, how many views its consumers should be able to keep, and why, where that is another number."""
        found: dict[str, tuple[int, str]] = {}
        with self._looking:
            for pipelines in self._by_output().values():
                for pipeline in pipelines:
                    proposal = self._demand_of(pipeline).propose(pipeline.rings[0].views)
                    if proposal is not None:
                        found[pipeline.id] = proposal
        return found

    def note_change(self, pipeline: Pipeline) -> None:
        """Say that the consumers of a pipeline may keep another number of views."""
        with self._looking:
            self._demand_of(pipeline).begin_anew()

    def with_buffers_of(self, pipeline: str) -> list[Pipeline]:
        """Return the pipelines that share their output's buffers with one."""
        with self._looking:
            outputs = self._by_output().values()
        return next((each for each in outputs if any(link.id == pipeline for link in each)), [])

    def succeed(self, pipeline: Pipeline, earlier: PipelineWiring) -> None:
        """Say that other buffers took the place of those; they are given back when nothing of them is used any more."""
        with self._looking:
            for lane in earlier.lanes:
                if lane.pool is not None:
                    self._left.append((pipeline, *self._run.at(lane.pool)))

    def _by_output(self) -> Mapping[str, list[Pipeline]]:
        """Return the pipelines with buffers by the output that they come from."""
        outputs: dict[str, list[Pipeline]] = {}
        for pipeline in self._run.linked:
            wiring = self._run.wirings.get(pipeline.id)
            if wiring is not None and pipeline.rings and all(lane.pool is not None for lane in wiring.lanes):
                outputs.setdefault(".".join(filter(None, pipeline.source)), []).append(pipeline)
        return outputs

    def _look_at(self, flow: str, name: str, pipelines: Sequence[Pipeline], now_ns: int) -> list[FlowEvent]:
        counted = _counts_of(pipelines)
        output = self._outputs.get(name)
        if output is None:
            self._outputs[name] = output = _Output(pipelines)
        before, output.counted = output.counted, counted
        for pipeline in pipelines:
            peak = max(ring.counters()["peak_views"] for ring in pipeline.rings)
            output.peaks[pipeline.id] = peak
            for ring in pipeline.rings:
                ring.begin_window()
            self._demand_of(pipeline).note(
                Window(
                    counted.views[pipeline.id] - before.views.get(pipeline.id, 0),
                    counted.copies[pipeline.id] - before.copies.get(pipeline.id, 0),
                    peak,
                )
            )
        asked, misses = counted.asked - before.asked, counted.misses - before.misses
        rate = hit_rate(asked, misses)
        if rate >= LOW_HIT_RATE or now_ns - output.told_ns < _QUIET_NS:
            return []
        output.told_ns = now_ns
        advice = (
            "Let the module copy what it keeps for long, or allow more: flow.tune_pools(), or a larger buffer_size."
            if counted.copies != before.copies
            else "Let go of what was lent before the next block is written."
        )
        return [PoolHitRateLow(flow=flow, output=name, hit_rate=rate, asked=asked, misses=misses, advice=advice)]

    def _metrics_of(self, name: str, pipelines: Sequence[Pipeline]) -> PoolMetrics:
        output = self._outputs.get(name)
        lanes = [lane for pipeline in pipelines for lane in self._run.wirings[pipeline.id].lanes]
        return read_pool_metrics(
            {pipeline.id: pipeline.counted for pipeline in pipelines},
            [self._run.at(place) for place in {lane.pool for lane in lanes if lane.pool is not None}],
            peak_views=0 if output is None else max(output.peaks.values(), default=0),
            views=max(ring.views for pipeline in pipelines for ring in pipeline.rings),
            now_ns=monotonic_ns(),
        )

    def _demand_of(self, pipeline: Pipeline) -> ViewDemand:
        assert pipeline.format is not None
        return self._demands.setdefault(pipeline.id, ViewDemand(pipeline.format.max_payload_bytes))

    def _give_back(self) -> None:
        # The pipelines of an output share its buffers: what waits for one of them lies there too. Asked first, because what waits
        # may be kept by a view as soon as it has been taken.
        in_use = {(segment, offset) for pipeline, segment, offset in self._left if pipeline.is_draining}
        # Those of one output are succeeded one after the other.
        lanes = [lane for wiring in [*self._run.wirings.values()] for lane in wiring.lanes]
        in_use |= {self._run.at(lane.pool) for lane in lanes if lane.pool is not None}
        places = {(segment, offset) for _, segment, offset in self._left}
        for segment, offset in places - in_use:
            try:
                *_, held, _ = pool_state(segment, offset, 0)
            except CorruptedSegment:
                continue  # it went with its whole segment
            if held:
                in_use.add((segment, offset))
            else:
                give_back_pool(segment, offset)
        self._left = [each for each in self._left if each[1:] in in_use]
