"""
Whole flows of random shape, run to their end: every block has one fate, and paths that lose nothing lose nothing.

All workers are threads. What should come out is worked out from the shape alone: a module passes on what it gets, so
behind pipelines that only wait, a sink gets all blocks of the sources above it, those of each way in order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings

from steadyflow import (
    AudioFormat,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    Fail,
    FlowData,
    Input,
    Latest,
    Module,
    Output,
    PipelineFull,
    Rule,
    Source,
    Wait,
)

LIMIT_S = 30
LARGE_FRAMES = 1100  # more than 4 KiB: a view
FORMAT = AudioFormat(48_000, 1, max_block_frames=LARGE_FRAMES)

WAITING = [Wait(), Wait(timeout_ms=60_000)]
LOSING = [
    DropOldest(),
    DropNewest(),
    Latest(),
    Wait(timeout_ms=0.05, then="drop_newest"),
    Wait(timeout_ms=0.05, then="drop_oldest"),
]


class Numbers(Source):
    """Sends its numbered blocks; the number is in every frame and, in some blocks, in the metadata."""

    out = Output(FORMAT)

    def __init__(self, key, blocks):
        self.key = key
        self.blocks = blocks

    def produce(self):
        for number, frames in enumerate(self.blocks):
            samples = np.full((frames, 1), 1000 * self.key + number, np.float32)
            self.out.send(FlowData(samples, metadata={"n": number}) if number % 3 == 0 else samples)
            yield


class Relay(Module):
    """Passes on what comes, either the block or its samples; decides for itself about a full pipeline."""

    data = Input(FORMAT)
    out = Output(FORMAT)

    def __init__(self, whole):
        self.whole = whole
        self.refused = 0

    def process(self, data):
        try:
            self.out.send(data if self.whole else data.samples)
        except PipelineFull:
            self.refused += 1


class Tally(Module):
    data = Input(FORMAT)

    def __init__(self):
        self.values = []

    def process(self, data):
        assert (data.samples == data.samples[0, 0]).all()
        assert data.metadata.get("n", data.samples[0, 0] % 1000) == data.samples[0, 0] % 1000
        self.values.append(int(data.samples[0, 0]))


@dataclass(frozen=True)
class Link:
    source: int
    target: int
    size: int
    rule: Rule


@dataclass(frozen=True)
class Shape:
    """Nodes are numbered upstream first: sources, then relays, then sinks."""

    sources: tuple[tuple[int, ...], ...]  # frames of each block
    relays: tuple[bool, ...]
    sinks: int
    workers: tuple[str | None, ...]
    links: tuple[Link, ...]

    def loses_nothing(self, link: Link) -> bool:
        """Tell whether all blocks come through; a relay that meets `Fail` on one output gives up the block on all."""
        refusing = any(each.source == link.source and each.rule == Fail() for each in self.links)
        return link.rule in WAITING and not refusing

    def ways(self) -> list[Counter[tuple[int, ...]]]:
        """Return for each node how often each source reaches it by ways that lose nothing; None where one may lose."""
        first_relay = len(self.sources)
        reached: list[Counter[int] | None] = [Counter({number: 1}) for number in range(first_relay)]
        for node in range(first_relay, first_relay + len(self.relays) + self.sinks):
            total: Counter[int] | None = Counter()
            for link in self.links:
                if link.target == node and total is not None:
                    above = reached[link.source]
                    total = None if above is None or not self.loses_nothing(link) else total + above
            reached.append(total)
        return reached


@st.composite
def shapes(draw, *, losing):
    """Draw a graph without loops, in which every relay and every sink is fed."""
    lengths = st.lists(st.sampled_from([1, 1, 7, LARGE_FRAMES]), min_size=0, max_size=25).map(tuple)
    sources = tuple(draw(st.lists(lengths, min_size=1, max_size=2)))
    relays = tuple(draw(st.lists(st.booleans(), max_size=3)))
    sinks = draw(st.integers(1, 2))
    nodes = len(sources) + len(relays) + sinks
    workers = tuple(draw(st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=nodes, max_size=nodes)))
    rules = st.sampled_from([*WAITING, *LOSING] if losing else WAITING)
    links = []
    for target in range(len(sources), nodes):
        above = st.integers(0, min(target, len(sources) + len(relays)) - 1)
        for source in sorted(draw(st.sets(above, min_size=1, max_size=3))):
            rule = draw(rules)
            if losing and source >= len(sources) and draw(st.integers(0, 5)) == 0:
                rule = Fail()  # only relays know what to do then
            links.append(Link(source, target, draw(st.integers(1, 4)), rule))
    return Shape(sources, relays, sinks, workers, tuple(links))


def build(flow, shape):
    modules = [Numbers(key, blocks) for key, blocks in enumerate(shape.sources)]
    modules += [Relay(whole) for whole in shape.relays]
    modules += [Tally() for _ in range(shape.sinks)]
    for number, (module, worker) in enumerate(zip(modules, shape.workers, strict=True)):
        flow.add(module, name=f"n{number}", worker=worker)
    for link in shape.links:
        ends = modules[link.source].out, modules[link.target].data
        flow.connect(*ends, buffer_size=link.size, backpressure_strategy=link.rule)
    return modules


def run(shape):
    note(str(shape))
    with DataFlowCoordinator("random") as flow:
        modules = build(flow, shape)
        flow.start()
        assert flow.wait(LIMIT_S), "the flow does not end"
        report = flow.stop()
    check_accounts(shape, modules, report)
    return modules, report


def check_accounts(shape, modules, report):
    taken = Counter()
    for link in shape.links:
        metrics = report.pipelines[f"n{link.source}.out->n{link.target}.data"]
        taken[link.target] += metrics.delivered
        assert metrics.sent == metrics.delivered + metrics.dropped_total
        assert (metrics.in_flight, metrics.fill) == (0, 0)
        assert metrics.peak_fill <= link.size
        if link.rule in WAITING:
            assert metrics.dropped == {}
        if link.source < len(shape.sources):
            assert metrics.sent == len(shape.sources[link.source])
    for number, module in enumerate(modules):
        told = report.modules[f"n{number}"]
        assert told.state == "ended"
        assert told.calls == taken[number]
        if isinstance(module, Tally):
            assert len(module.values) == taken[number]
        if isinstance(module, Relay):
            for link in shape.links:
                if link.source == number:
                    metrics = report.pipelines[f"n{number}.out->n{link.target}.data"]
                    assert metrics.sent == taken[number] - module.refused


# Threads take the time they take, and the database would only hold shapes that some schedule did not like.
flows = settings(
    max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@pytest.mark.filterwarnings("error")
@flows
@given(shapes(losing=True))
def test_every_block_has_one_fate(shape):
    modules, _ = run(shape)
    ways = shape.ways()
    for number, module in enumerate(modules):
        if isinstance(module, Tally):
            check_values(module.values, shape, ways[number])


@flows
@given(shapes(losing=False))
def test_flows_that_only_wait_deliver_everything_in_order(shape):
    modules, report = run(shape)
    assert all(not metrics.dropped for metrics in report.pipelines.values())
    ways = shape.ways()
    for number, module in enumerate(modules):
        if isinstance(module, Tally):
            assert ways[number] is not None
            check_values(module.values, shape, ways[number])


def check_values(values, shape, ways):
    """Compare what a sink got with what its sources sent, as often as there are ways from them."""
    for key, blocks in enumerate(shape.sources):
        mine = [value % 1000 for value in values if value // 1000 == key]
        assert set(mine) <= set(range(len(blocks)))
        if ways is None:
            continue
        assert Counter(mine) == Counter({number: ways[key] for number in range(len(blocks)) if ways[key]})
        if ways[key] == 1:
            assert mine == list(range(len(blocks)))
