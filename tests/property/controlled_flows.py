"""
Flows of random shape under random rules: what they are made of, and what their accounts have to say.

A pipeline with the rule `Spill` has a spool before its target, and another pipeline into that: its account goes on through both, and through
the file.

Each module has a number, by which it finds its dial and its counter in files that it shares with the test: so its speed can be changed
while it runs, and what it has sent and got is known also where its process was killed. Whatever is sent carries who sent it, and the
how manieth that was.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from steadyflow import (
    Adaptive,
    AudioFormat,
    BytesFormat,
    DropByPriority,
    DropNewest,
    DropOldest,
    Fail,
    Grow,
    Input,
    Latest,
    Module,
    Output,
    PipelineFull,
    Sample,
    SendTimeout,
    Source,
    Spill,
    Throttle,
    Wait,
)
from steadyflow.backpressure.rules.spill import BLOCK_OVERHEAD_BYTES
from steadyflow.data import BlockFlag
from steadyflow.spooling import SpoolCounts, SpoolStore

RATE_HZ = 48_000
MOST_FRAMES = 1100  # more than 4 KiB: a view
AUDIO = AudioFormat(RATE_HZ, 1, max_block_frames=MOST_FRAMES)
BYTES = BytesFormat(max_bytes=256)
FRAMES = (2, 2, 64, 7, 2, MOST_FRAMES)
STAMP = struct.Struct("<II")  # who sent it, from 1 on, and its number
RECORD = struct.Struct("<IIII")  # by which input it came, who sent it, its number, and its flags


def frames_of(number):
    """Return how many frames the block of that number has, where it is audio."""
    return FRAMES[number % len(FRAMES)]


class Dials:
    """What the test tells modules, and they tell the test, in memory that both map."""

    def __init__(self, folder, modules=None):
        mode = "r+" if modules is None else "w+"
        shape = None if modules is None else (modules,)
        self.seconds = np.memmap(f"{folder}/seconds", np.float64, mode, shape=shape)
        self.counters = np.memmap(f"{folder}/counters", np.int64, mode, shape=shape)


class Sending:
    """Numbers what it sends. A block that a rule refuses was not sent, and its number is that of the next one."""

    def begin(self):
        self.dials = Dials(self.folder)
        self.sent = 0

    def pause_s(self):
        return float(self.dials.seconds[self.number])

    def next_block(self, audio):
        if not audio:
            return STAMP.pack(self.number + 1, self.sent) + bytes(self.sent % 100)
        samples = np.full((frames_of(self.sent), 1), self.number + 1, np.float32)
        samples[0] = self.sent
        return samples

    def was_sent(self):
        self.sent += 1
        self.dials.counters[self.number] = self.sent

    def send_next(self, audio):
        try:
            self.out.send(self.next_block(audio))
        except (PipelineFull, SendTimeout):
            return
        self.was_sent()

    async def send_next_async(self, audio):
        try:
            await self.out.send_async(self.next_block(audio))
        except (PipelineFull, SendTimeout):
            return
        self.was_sent()


class Noting:
    """Keeps what comes in a file, which is there also if its process is killed."""

    def begin_noting(self):
        self.notes = os.open(f"{self.folder}/{self.number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, input_number, block):
        data = block.data
        if isinstance(data, np.ndarray):
            sent, sender = int(data[0, 0]), int(data[-1, 0])
        else:
            sender, sent = STAMP.unpack(bytes(data)[: STAMP.size])
        assert sender != 0, f"block {block.sequence} was read as zeros"
        os.write(self.notes, RECORD.pack(input_number, sender - 1, sent, int(block.flags)))

    def teardown(self):
        os.close(self.notes)


class Numbers(Sending, Source):
    out = Output(BYTES)
    audio = False

    def __init__(self, number, folder, live):
        self.number = number
        self.folder = folder
        self.live = live
        self.paced = False

    def setup(self):
        self.begin()

    def produce(self):
        due_ns = time.monotonic_ns()
        while True:
            self.send_next(self.audio)
            due_ns = max(due_ns + int(self.pause_s() * 1e9), time.monotonic_ns())
            yield due_ns


class Tones(Numbers):
    out = Output(AUDIO)
    audio = True


class AsyncNumbers(Numbers):
    async def produce(self):
        while True:
            await self.send_next_async(self.audio)
            await asyncio.sleep(self.pause_s())
            yield


class AsyncTones(AsyncNumbers):
    out = Output(AUDIO)
    audio = True


class Relay(Noting, Sending, Module):
    """Sends a block of its own for each one that comes, after a while."""

    data = Input()
    out = Output(like="data")

    def __init__(self, number, folder):
        self.number = number
        self.folder = folder

    def setup(self):
        self.begin()
        self.begin_noting()

    def process(self, block):
        self.note(0, block)
        time.sleep(self.pause_s())
        self.send_next(isinstance(block.data, np.ndarray))


class AsyncRelay(Relay):
    async def process(self, block):
        self.note(0, block)
        audio = isinstance(block.data, np.ndarray)
        await asyncio.sleep(self.pause_s())
        await self.send_next_async(audio)


class Sink(Noting, Sending, Module):
    """Takes a while for each block; one of its levels is faster."""

    first = Input()
    second = Input()
    quality_levels = ("full", "fast")

    def __init__(self, number, folder):
        self.number = number
        self.folder = folder

    def setup(self):
        self.begin()
        self.begin_noting()
        self.share = 1.0

    def set_quality(self, level):
        self.share = 1.0 if level == "full" else 0.5

    def process_first(self, block):
        self.note(0, block)
        time.sleep(self.share * self.pause_s())

    def process_second(self, block):
        self.note(1, block)
        time.sleep(self.share * self.pause_s())


class AsyncSink(Noting, Sending, Module):
    first = Input()
    second = Input()

    def __init__(self, number, folder):
        self.number = number
        self.folder = folder

    def setup(self):
        self.begin()
        self.begin_noting()

    async def process_first(self, block):
        self.note(0, block)
        await asyncio.sleep(self.pause_s())

    async def process_second(self, block):
        self.note(1, block)
        await asyncio.sleep(self.pause_s())


# --- shapes -----------------------------------------------------------------------------------------------------------

INPUTS = {"data": 0, "first": 0, "second": 1}


@dataclass
class Link:
    """One pipeline, and which rules it has had."""

    source: int
    target: int
    input: str
    config: dict
    rules: list = field(default_factory=list)

    @property
    def id(self):
        return f"m{self.source}.out->m{self.target}.{self.input}"

    @property
    def ends(self):
        return f"m{self.source}.out", f"m{self.target}.{self.input}"

    @property
    def spill(self):
        """The rule by which its blocks may wait on disk, if it is connected with one."""
        return self.rules[0] if isinstance(self.rules[0], Spill) else None


@dataclass
class Shape:
    """Modules are numbered upstream first: sources, then relays, then sinks."""

    audio: bool
    kinds: list  # class and arguments after the folder
    placements: list
    links: list
    processes: list  # the numbers of those that are in one

    @property
    def format(self):
        return AUDIO if self.audio else BYTES

    def is_live(self, number):
        """Tell whether a module is a live source, or below one."""
        kind, arguments = self.kinds[number]
        if issubclass(kind, Source):
            return arguments[0]
        return any(self.is_live(link.source) for link in self.links if link.target == number)

    def has_levels(self, link):
        return bool(self.kinds[link.target][0].quality_levels)

    def outranking(self, link):
        """Tell whether another pipeline of the same module may have taken its room."""
        beside = [each for each in self.links if each.target == link.target and each is not link]
        return any(isinstance(rule, DropByPriority) for each in beside for rule in each.rules)

    def yielding(self, link):
        """Tell whether flow control may have let it keep only its latest block, for the sake of another one."""
        beside = [each for each in self.links if each.target == link.target and each is not link]
        return any(isinstance(rule, Adaptive) for each in beside for rule in each.rules)


def random_shape(choices, folder, *, spills=False):
    """
    Draw up to three sources, two relays and two sinks, of which up to three are in processes; spools have their files in a folder.

    `spills`: whether the first pipeline has one in any case.
    """
    audio = choices.random() < 0.5
    sources, relays, sinks = choices.randint(1, 3), choices.randint(0, 2), choices.randint(1, 2)
    of_source = [Tones, AsyncTones] if audio else [Numbers, AsyncNumbers]
    kinds = [(choices.choice(of_source), (choices.random() < 0.5,)) for _ in range(sources)]
    kinds += [(choices.choice([Relay, Relay, AsyncRelay]), ()) for _ in range(relays)]
    kinds += [(choices.choice([Sink, Sink, AsyncSink]), ()) for _ in range(sinks)]
    processes = sorted(choices.sample(range(len(kinds)), min(choices.choice([0, 1, 1, 2, 3]), len(kinds))))
    placements = ["process" if number in processes else "thread" for number in range(len(kinds))]
    shape = Shape(audio, kinds, placements, [], processes)
    for target in range(sources, len(kinds)):
        above = list(range(min(target, sources + relays)))
        for name in ["data"] if target < sources + relays else ["first", "second"]:
            for source in sorted(choices.sample(above, choices.randint(1, min(2, len(above))))):
                shape.links.append(Link(source, target, name, random_config(choices, audio)))
    for source in range(sources + relays):
        if not any(link.source == source for link in shape.links):
            shape.links.append(Link(source, len(kinds) - 1, "first", random_config(choices, audio)))
    for number, link in enumerate(shape.links):
        if choices.random() < 0.2 or (spills and number == 0):
            link.rules.append(random_spill(choices, shape.format, folder / f"{number}.spool"))
            continue
        rule = random_rule(choices)
        while refusal(shape, link, rule):
            rule = random_rule(choices)
        link.rules.append(rule)
    return shape


def random_spill(choices, fmt, path):
    least = fmt.max_payload_bytes + BLOCK_OVERHEAD_BYTES
    max_bytes = choices.choice([least, 10 * least, 100 * least])  # more would take too long at the end
    then = choices.choice(["drop_oldest", "drop_newest", "wait"])
    return Spill(path, max_bytes, choices.choice([None, None, 1, 20, 1000]), then)


def random_config(choices, audio):
    config = {
        "buffer_size": choices.choice([1, 2, 4, 16, 64]),
        "priority": choices.choice(["critical", "high", "normal", "low"]),
        "max_buffer_bytes": choices.choice([None, None, *([4400, 9000] if audio else [256, 1000])]),
    }
    if audio:
        config["max_buffer_ms"] = choices.choice([None, None, 23.0, 60.0])
    if choices.random() < 0.3:
        config["max_latency_ms"] = choices.choice([5.0, 50.0])
    return config


def random_rule(choices):
    """Draw any rule, also one that is not possible everywhere."""
    thens = ["wait", "drop_oldest", "drop_newest", "fail", None]
    return choices.choice(
        [
            Wait(),
            Wait(choices.choice([0.1, 5.0]), choices.choice(["fail", "drop_newest", "drop_oldest"])),
            Throttle(choices.choice([50.0, 500.0, 20_000.0])),
            Throttle(),
            DropOldest(),
            DropNewest(),
            DropByPriority(),
            Latest(),
            Sample(choices.randint(2, 5)),
            Fail(),
            Grow(choices.choice([8, 64, 200]), choices.choice([None, 200, 5000]), None, choices.choice(thens)),
            Adaptive(choices.choice([None, 5.0]), choices.choice([None, None, False, True])),
        ]
    )


def refusal(shape, link, rule):
    """Return why a rule is not possible there; empty: it is."""
    if isinstance(rule, Throttle) and shape.is_live(link.source):
        return "live"
    if link.rules and link.spill and rule.to_native(shape.is_live(link.source)).refuses:
        return "spool"
    if isinstance(rule, Adaptive) and rule.lower_quality and not shape.has_levels(link):
        return "levels"
    if isinstance(rule, Grow) and rule.max_blocks < link.config["buffer_size"]:
        return "smaller"
    if isinstance(rule, Grow) and rule.max_bytes is not None:
        return "bytes" if rule.max_bytes < shape.format.max_payload_bytes else ""
    return ""


# --- accounts ---------------------------------------------------------------------------------------------------------

REASONS = {
    DropOldest: {"oldest"},
    DropNewest: {"newest"},
    DropByPriority: {"oldest"},
    Latest: {"superseded", "oldest"},
    Sample: {"sampled", "oldest"},
    Adaptive: {"oldest"},
    Throttle: set(),
    Fail: set(),
    Spill: set(),
}


def possible_reasons(shape, link):
    """Return why blocks of a pipeline may have been dropped, by the rules that it has had."""
    possible = {"flushed", "stopped", "failed"}
    for rule in link.rules:
        if isinstance(rule, Wait):
            possible |= set() if rule.timeout_ms is None else {rule.then.removeprefix("drop_")} - {"fail"}
        elif isinstance(rule, Grow):
            possible |= {(rule.then or "drop_oldest").removeprefix("drop_")} & {"oldest", "newest"}
        else:
            possible |= REASONS[type(rule)]
    if shape.outranking(link):
        possible.add("outranked")
    if shape.yielding(link):
        possible.add("superseded")
    return possible


def notes_of(folder, shape):
    """Return what came, for each pipeline: numbers and flags, in order."""
    came = defaultdict(list)
    for number in range(len(shape.kinds)):
        path = folder / str(number)
        if path.exists():
            data = path.read_bytes()
            for input_number, sender, sent, flags in RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]):
                came[sender, number, input_number].append((sent, flags))
    return came


def check_end(folder, shape, dials, report, killed, spools, *, given_up):
    """
    Compare what the report says with what modules say that they have sent and got.

    `spools`: those of pipelines that spill, by their ids. `killed`: the number of one that was. `given_up`: whether the flow ended
    before everything had drained, so that what a module had in hand has failed, if it waited for room.
    """
    came = notes_of(folder, shape)
    for link in shape.links:
        metrics = report.pipelines[link.id]
        where = f"{link.id}: {metrics.sent} = {metrics.delivered} + {metrics.dropped}, {link.rules}"
        assert metrics.sent == metrics.delivered + metrics.dropped_total, where
        assert (metrics.in_flight, metrics.fill) == (0, 0), where
        first = report.pipelines[spools[link.id].into] if link.spill else metrics
        # Whoever is killed between what it does and its note of it.
        counted = int(dials.counters[link.source])
        assert counted <= first.sent <= counted + (killed == link.source), f"{where}, but {counted} were sent"
        got = came[link.source, link.target, INPUTS[link.input]]
        numbers = [number for number, _ in got]
        assert all(a < b for a, b in pairwise(numbers)), f"{where}, but {numbers} came"
        assert not any(flags & BlockFlag.REPEATED for _, flags in got), where
        assert not numbers or numbers[-1] < first.sent, where
        in_hand = len(numbers) - metrics.delivered
        assert 0 <= in_hand <= given_up, f"{where}, but {len(numbers)} came"
        assert set(metrics.dropped) <= possible_reasons(shape, link), where
        assert given_up or not {"failed", "stopped"} & set(metrics.dropped), where
        if link.spill:
            check_spool(shape, link, spools[link.id], first, metrics, numbers, given_up=given_up)
            continue
        if metrics.dropped_total == 0:
            assert numbers == list(range(len(numbers))), where
        check_lost_audio(shape, link, metrics, numbers[: metrics.delivered])


def check_lost_audio(shape, link, metrics, numbers):
    """Compare how much audio was dropped with the lengths of the blocks that did not come."""
    lost = sum(map(frames_of, range(metrics.sent))) - sum(map(frames_of, numbers)) if shape.audio else 0
    told = metrics.dropped_total_ms * RATE_HZ / 1000
    assert abs(told - lost) < 0.5, f"{link.id}: {lost} frames did not come, of which {told} are told, {metrics.dropped}"
    assert set(metrics.dropped_ms) == (set(metrics.dropped) if shape.audio else set()), link.id


@dataclass
class SpoolOf:
    """
    What stands before the target of a pipeline that spills.

    Args:
        into: The id of the pipeline into it.
        counts: Returns what it has done.
    """

    into: str
    counts: Callable[[], SpoolCounts]


def handled(counts):
    """Return of how many blocks a spool says what it has done."""
    return counts.passed + counts.restored + counts.dropped_blocks + counts.depth_blocks


def check_spool(shape, link, spool, into, behind, numbers, *, given_up):
    """Compare what came through a spool, what it says that it did, what is left in its file, and what the pipeline behind it says."""
    counts = spool.counts()
    where = (
        f"{spool.into}: {into.sent} = {into.delivered} + {into.dropped}, then {counts}, "
        f"then {behind.sent} = {behind.delivered} + {behind.dropped}"
    )
    assert into.sent == into.delivered + into.dropped_total, where
    assert (into.in_flight, into.fill) == (0, 0), where
    assert set(into.dropped) <= {"flushed", "stopped", "failed"} | (
        {"oldest"} if shape.is_live(link.source) else set()
    ), where
    assert given_up or not {"failed", "stopped"} & set(into.dropped), where
    # What it had in hand when the flow was given up has failed, although it may have passed it on or stored it by then.
    twice = handled(counts) - into.delivered
    assert 0 <= twice <= given_up, where
    assert behind.sent == counts.passed + counts.restored, where
    assert behind.pressure.spill_dropped == counts.dropped_blocks, where
    left = left_in(link, shape.format)
    assert len(left) == counts.depth_blocks, f"{where}, but {left} are in its file"
    assert given_up or not left, f"{where}, but {left} are in its file"
    assert all(a < b for a, b in pairwise(numbers[-1:] + left)), (
        f"{where}, but {left} are in its file, behind {numbers[-1:]}"
    )
    if into.dropped_total + counts.dropped_blocks + behind.dropped_total == 0:
        assert numbers + left == list(range(len(numbers) + len(left))), where
    if shape.audio and not twice:
        came = numbers[: behind.delivered] + left
        lost = sum(map(frames_of, range(into.sent))) - sum(map(frames_of, came))
        told_ms = into.dropped_total_ms + behind.pressure.spill_dropped_ms + behind.dropped_total_ms
        assert abs(told_ms * RATE_HZ / 1000 - lost) < 0.5, (
            f"{where}: {lost} frames did not come, of which {told_ms} ms are told"
        )


def left_in(link, fmt):
    """Return the numbers of the blocks that a spool has left in its file."""
    numbers = []
    store = SpoolStore(link.spill.path, format=fmt, max_bytes=link.spill.max_bytes)
    while (block := store.take()) is not None:
        if isinstance(fmt, AudioFormat):
            samples = np.frombuffer(block.payload, np.float32)
            sent, sender = int(samples[0]), int(samples[-1])
            assert block.frames == len(samples) == frames_of(sent)
        else:
            sender, sent = STAMP.unpack(block.payload[: STAMP.size])
        assert sender == link.source + 1
        numbers.append(sent)
        store.forget()
    store.abandon()
    return numbers
