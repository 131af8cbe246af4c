"""
Random flows under random rules that are switched at random while they run: sent = delivered + dropped + in flight, in every look.

A flow is drawn from a seed, which is printed; STEADYFLOW_FLOWS_SEED begins with another one, and STEADYFLOW_FLOWS_S goes on for longer.
Speeds, rules, flushes and pauses are drawn, too, and for some flows a process that is killed.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

import pytest
from tests.property.controlled_flows import (
    RECORD,
    Dials,
    SpoolOf,
    check_end,
    handled,
    random_rule,
    random_shape,
    refusal,
)

from steadyflow import DataFlowCoordinator, DropOldest, FlowFailed
from steadyflow.errors import ConfigurationError, FlowError, WorkerDied

SEED = int(os.environ.get("STEADYFLOW_FLOWS_SEED", "1"))
BUDGET_S = float(os.environ.get("STEADYFLOW_FLOWS_S", "20"))
"""How long all flows of a test may take together; what is not begun by then is left out. There are always some."""
LEAST_FLOWS = 3
STEPS = 120
LIMIT_S = 40  # until a flow that is fast, and has no source any more, has drained

SPEEDS_S = (0.0, 0.0, 0.0002, 0.001, 0.01)


class Run:
    """One flow, and what is done to it."""

    def __init__(self, seed, folder, *, spills=False):
        self.seed = seed
        self.choices = random.Random(seed)
        self.shape = random_shape(self.choices, folder, spills=spills)
        self.folder = folder
        self.done = Counter()
        self.before = {}
        self.spools = {}
        self.spills = spills
        self.dials = Dials(folder, len(self.shape.kinds))
        self.modules = [f"m{number}" for number in range(len(self.shape.kinds))]

    def build(self, flow):
        self.flow = flow
        for number, ((kind, arguments), placement) in enumerate(
            zip(self.shape.kinds, self.shape.placements, strict=True)
        ):
            made = kind(number, str(self.folder), *arguments)
            flow.add(made, name=f"m{number}", placement=placement, worker=f"w{number}")
        for link in self.shape.links:
            pipeline = flow.connect(*link.ends, backpressure_strategy=link.rules[0], **link.config)
            if link.spill:
                into = f"m{link.source}.out->{pipeline.source[0]}.data"
                self.spools[link.id] = SpoolOf(into, pipeline.spool_counts)

    def turn_all(self):
        for number in range(len(self.modules)):
            self.dials.seconds[number] = self.choices.choice(SPEEDS_S)

    def step(self):
        action = self.choices.choice([self.switch, self.switch, self.switch, self.turn, self.flush, self.pause])
        action()
        self.done[action.__name__] += 1
        self.look()

    def turn(self):
        self.dials.seconds[self.choices.randrange(len(self.modules))] = self.choices.choice(SPEEDS_S)

    def switch(self):
        link = self.choices.choice(self.shape.links)
        rule = random_rule(self.choices)
        if link.spill and self.choices.random() < 0.5:
            rule = link.spill
        reason = refusal(self.shape, link, rule)
        if not reason:
            link.rules.append(rule)
            self.flow.handle_backpressure(link.id, rule)
            assert self.flow.pipeline(link.id).rule is rule
            return
        pipeline = self.flow.pipeline(link.id)
        before = pipeline.rule, pipeline.limits
        with pytest.raises(ConfigurationError, match="expected"):
            self.flow.handle_backpressure(link.id, rule)
        assert (pipeline.rule, pipeline.limits) == before
        self.done[f"refused: {reason}"] += 1

    def flush(self):
        self.flow.pipeline(self.choices.choice(self.shape.links).id).flush()

    def pause(self):
        """Pause a pipeline or a module for a few steps, or resume one that is."""
        if self.choices.random() < 0.5:
            pipeline = self.flow.pipeline(self.choices.choice(self.shape.links).id)
            (pipeline.resume if pipeline.paused else pipeline.pause)()
        elif self.choices.random() < 0.5:
            self.flow.pause(self.choices.choice(self.modules))
        else:
            self.flow.resume(self.choices.choice(self.modules))

    def look(self):
        """Compare one look with what modules had counted before it, and have afterwards, and with the look before."""
        sent_before, came_before, spools_before = self.dials.counters.tolist(), self.notes(), self.spool_counts()
        report = self.flow.report()
        sent_after, came_after, spools_after = self.dials.counters.tolist(), self.notes(), self.spool_counts()
        delivered = Counter()
        for link in self.shape.links:
            now = report.pipelines[link.id]
            assert now.sent == now.delivered + now.dropped_total + now.in_flight, link.id
            assert 0 <= now.fill <= now.in_flight, link.id
            first = now
            if link.spill:
                before, after = spools_before[link.id], spools_after[link.id]
                assert before.passed + before.restored <= now.sent <= after.passed + after.restored + 1, link.id
                first = report.pipelines[self.spools[link.id].into]
                assert first.sent == first.delivered + first.dropped_total + first.in_flight, link.id
                # It counts one thing after the other, and what it has in hand is not delivered yet.
                assert handled(before) - 3 <= first.delivered <= handled(after) + 2, link.id
            assert sent_before[link.source] <= first.sent <= sent_after[link.source] + 1, link.id
            delivered[link.target] += now.delivered
            last = self.before.get(link.id, now)
            assert last.sent <= now.sent, link.id
            assert last.delivered <= now.delivered, link.id
            assert all(now.dropped.get(reason, 0) >= count for reason, count in last.dropped.items()), link.id
            self.before[link.id] = now
        for number, taken in delivered.items():
            assert came_before[number] - 1 <= taken <= came_after[number], f"m{number}"

    def spool_counts(self):
        return {name: spool.counts() for name, spool in self.spools.items()}

    def stored(self):
        """Return how many blocks have been on disk."""
        return sum(each.stored for each in self.spool_counts().values())

    def let_spill(self):
        """Make the first pipeline's consumer slower than all others may be, until what comes has to wait on disk."""
        first, *others = self.shape.links
        for link in others:
            if link.target == first.target:  # by another rule it could hold their source up, so that nothing need wait
                link.rules.append(DropOldest())
                self.flow.handle_backpressure(link.id, link.rules[-1])
        self.dials.seconds[first.source], self.dials.seconds[first.target] = 0.0, 5 * max(SPEEDS_S)
        deadline = time.monotonic() + LIMIT_S
        while not self.stored():
            assert time.monotonic() < deadline, "nothing was stored"
            self.flow.wait(0.01)
        self.turn_all()

    def notes(self):
        """Return how many blocks each module says that it has got."""
        paths = [self.folder / str(number) for number in range(len(self.modules))]
        return [path.stat().st_size // RECORD.size if path.exists() else 0 for path in paths]

    def run(self):
        killed = None
        with DataFlowCoordinator(f"random-{self.seed}") as flow:
            self.build(flow)
            self.turn_all()
            flow.start()
            if self.spills:
                self.let_spill()
            for _ in range(STEPS):
                self.step()
                flow.wait(self.choices.choice([0.0, 0.001, 0.02]))
            if self.shape.processes and self.choices.random() < 0.5:
                killed = self.kill()
            else:
                self.let_drain()
            drain_s = LIMIT_S if not self.dials.seconds.any() else self.choices.choice([0.0, LIMIT_S])
            report = self.end(killed, drain_s)
        given_up = killed is not None or not drain_s
        check_end(self.folder, self.shape, self.dials, report, killed, self.spools, given_up=given_up)
        return killed

    def kill(self):
        number = self.choices.choice(self.shape.processes)
        os.kill(self.flow.workers[f"w{number}"].pid, signal.SIGKILL)
        assert self.flow.wait(LIMIT_S), "goes on without one of its workers"
        return number

    def let_drain(self):
        """Make all modules fast, so that what waits comes soon, or not."""
        if self.choices.random() < 0.7:
            for name in self.modules:
                self.flow.resume(name)
            self.dials.seconds[:] = 0.0

    def end(self, killed, drain_s):
        if killed is None:
            return self.flow.stop(drain_s)
        with pytest.raises(FlowFailed) as caught:
            self.flow.stop(drain_s)
        assert any(isinstance(problem, WorkerDied) for problem in caught.value.exceptions)
        return caught.value.report


@pytest.mark.timeout(BUDGET_S + 5 * LIMIT_S)
def test_every_block_is_accounted_for_whatever_is_done(tmp_path):
    began = time.monotonic()
    flows = 0
    while flows < LEAST_FLOWS or time.monotonic() - began < BUDGET_S:
        seed = SEED + flows
        folder = tmp_path / str(seed)
        folder.mkdir()
        run = Run(seed, folder, spills=flows == 0)
        print(f"seed {seed}: {run.shape}")
        try:
            killed = run.run()
        except (AssertionError, FlowError) as problem:
            problem.add_note(f"with STEADYFLOW_FLOWS_SEED={seed}, after {dict(run.done)}")
            raise
        blocks = sum(run.dials.counters.tolist())
        ended = f"{'none' if killed is None else f'm{killed}'} killed"
        print(f"seed {seed}: {blocks} blocks, {run.stored()} of them on disk, {dict(run.done)}, {ended}")
        flows += 1
    print(f"{flows} flows from seed {SEED} in {time.monotonic() - began:.0f} s")
