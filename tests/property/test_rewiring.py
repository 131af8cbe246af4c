"""
A flow that is changed at random while numbered blocks flow: nothing is lost, nothing comes twice, and the order is kept.

Every module numbers what it sends, and keeps what it gets, in a file where it is torn down. For each pipeline, what came out of it
over all the times that it was connected has to be what was sent into it meanwhile, in order, and without a gap but where it was not
connected.
"""

from __future__ import annotations

import random
import struct
import time
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from steadyflow import BytesFormat, DataFlowCoordinator, Input, Module, Output, Source, Wait

STEPS = 1_000
FORMAT = BytesFormat(max_bytes=16)
STAMP = struct.Struct("<III")  # who sent it, the how manieth of its name that was, and the number of the block
PERIOD_NS = 500_000
SOURCES, RELAYS, SINKS = 2, 3, 3
FOREVER = Wait(timeout_ms=20_000)  # what hangs fails


class Numbering:
    """Stamps what is sent, keeps what comes."""

    def __init__(self, number, instance, folder):
        self.number = number
        self.instance = instance
        self.folder = folder

    def setup(self):
        self.sent = 0
        self.got = []

    def stamp(self):
        stamp = STAMP.pack(self.number, self.instance, self.sent)
        self.sent += 1
        return stamp

    def teardown(self):
        rows = np.array(self.got, np.int64).reshape(-1, 3)
        np.save(f"{self.folder}/{self.number}.{self.instance}.npy", rows)


class Numbers(Numbering, Source):
    out = Output(FORMAT)
    live = False

    def produce(self):
        due_ns = time.monotonic_ns()
        while True:
            self.out.send(self.stamp())
            due_ns = max(due_ns + PERIOD_NS, time.monotonic_ns())
            yield due_ns


class Relay(Numbering, Module):
    data = Input(FORMAT)
    out = Output(FORMAT)

    def process(self, block):
        self.got.append(STAMP.unpack(bytes(block.data)))
        return self.stamp()


class Sink(Numbering, Module):
    data = Input(FORMAT)

    def process(self, block):
        self.got.append(STAMP.unpack(bytes(block.data)))


class AsyncRelay(Numbering, Module):
    data = Input(FORMAT)
    out = Output(FORMAT)

    async def process(self, block):
        self.got.append(STAMP.unpack(bytes(block.data)))
        await self.out.send_async(self.stamp())


class Changed:
    """A flow of numbered modules, and what it should be like."""

    def __init__(self, flow, folder, placement, relay):
        self.flow = flow
        self.folder = folder
        self.placement = placement
        kinds = [Numbers] * SOURCES + [relay] * RELAYS + [Sink] * SINKS
        self.kinds = dict(enumerate(kinds))
        self.instances = Counter()
        self.links = set()
        self.times = Counter()  # how often each link was there
        self.sent = Counter()  # into each link, over all those times
        for number, kind in self.kinds.items():
            flow.add(self.made(number, kind), name=f"m{number}", placement=placement)
        for link in self.possible():
            if link[1] == link[0] + SOURCES or link[0] == 0:
                self.link(link)

    def made(self, number, kind):
        self.instances[number] += 1
        return kind(number, self.instances[number] - 1, str(self.folder))

    def possible(self):
        numbers = range(len(self.kinds))
        senders, takers = numbers[: SOURCES + RELAYS], numbers[SOURCES:]
        return [(a, b) for a in senders for b in takers if a < b]

    def id_of(self, link):
        return f"m{link[0]}.out->m{link[1]}.data"

    def unlink(self, link):
        self.links.remove(link)
        self.flow.disconnect(self.id_of(link))
        self.note(link, self.flow.report())

    def note(self, link, report):
        account = report.pipelines[self.id_of(link)]
        assert (account.delivered, account.dropped_total) == (account.sent, 0), self.id_of(link)
        self.sent[link] += account.sent

    def link(self, link):
        self.links.add(link)
        self.times[link] += 1
        source, target = (f"m{link[0]}.out", f"m{link[1]}.data")
        self.flow.connect(source, target, buffer_size=8, backpressure_strategy=FOREVER)

    def step(self, choices, replaces):
        free = [link for link in self.possible() if link not in self.links]
        action = choices.random()
        if action < replaces:
            number = choices.choice(list(self.kinds))
            self.flow.replace(f"m{number}", self.made(number, self.kinds[number]))
        elif free and (not self.links or action < 0.5 + replaces / 2):
            self.link(choices.choice(free))
        else:
            self.unlink(choices.choice(sorted(self.links)))

    def check(self, report):
        for link in self.links:
            self.note(link, report)
        came = self.came()
        for link in self.possible():
            rows = came[link]
            assert len(rows) == self.sent[link], self.id_of(link)
            places = [(instance, number) for _, instance, number in rows]
            assert places == sorted(set(places)), self.id_of(link)
            gaps = sum(not (b == (a[0], a[1] + 1) or (b[0] > a[0] and b[1] == 0)) for a, b in pairwise(places))
            assert gaps < max(self.times[link], 1), self.id_of(link)

    def came(self):
        came = defaultdict(list)
        for number in self.kinds:
            for instance in range(self.instances[number]):
                for row in np.load(self.folder / f"{number}.{instance}.npy").tolist():
                    came[row[0], number].append(row)
        return came


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("placement", "relay", "replaces"),
    [("thread", Relay, 0.2), ("thread", AsyncRelay, 0.2), ("process", Relay, 0.02)],
    ids=["threads", "event loops", "processes"],
)
def test_a_thousand_changes_lose_nothing_and_keep_the_order(tmp_path, placement, relay, replaces, seed):
    choices = random.Random(seed)
    with DataFlowCoordinator("changed") as flow:
        changed = Changed(flow, tmp_path, placement, relay)
        flow.start()
        for _ in range(STEPS):
            changed.step(choices, replaces)
        report = flow.stop()
    changed.check(report)
    assert all(changed.sent[link] for link in changed.possible()), changed.sent
    print(
        f"seed {seed}: {sum(changed.sent.values())} blocks, {sum(changed.instances.values())} modules, {changed.times}"
    )
