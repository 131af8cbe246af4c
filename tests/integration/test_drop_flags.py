"""What a rule or a flush dropped, the next block says, whoever consumes it; or it is made up, where that is asked for."""

from __future__ import annotations

import asyncio
import os
import time

import numpy as np
import pytest

from steadyflow import (
    AudioFormat,
    AudioPipelineConfig,
    BlockFlag,
    BytesFormat,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    Input,
    Latest,
    Module,
    Output,
    PipelineConfig,
    ReceiveTimeout,
    Source,
    Wait,
)
from steadyflow.testing import Collect

LIMIT_S = 30
BYTES = BytesFormat(max_bytes=64)
MONO = AudioFormat(8_000, 1, max_block_frames=80)  # 10 ms
RULES = [DropOldest(), DropNewest(), Latest(), Wait(timeout_ms=0.05, then="drop_newest")]
GAP, DISCONTINUITY = int(BlockFlag.GAP), int(BlockFlag.DISCONTINUITY)


class Seen(Module):
    """Sends the number and the flags of each block that comes."""

    data = Input(BYTES)
    out = Output(BYTES)

    def process(self, block):
        return f"{block.sequence} {block.flags}".encode()


class AsyncSeen(Module):
    """The same in an event loop."""

    data = Input(BYTES)
    out = Output(BYTES)

    async def process(self, block):
        await asyncio.sleep(0)
        return f"{block.sequence} {block.flags}".encode()


class Unpaced(Source):
    """Sends as fast as it can, into a rule that drops."""

    out = Output(BYTES)

    def produce(self):
        for _ in range(5_000):
            self.out.send(b"x")
            yield


class Idle(Module):
    """Takes its time now and then."""

    data = Input(BYTES)
    out = Output(BYTES)

    def __init__(self):
        self.taken = 0

    def process(self, block):
        self.taken += 1
        if self.taken % 7 == 0:
            time.sleep(0.001)  # what a busy module would need
        return f"{block.sequence} {block.flags}".encode()


@pytest.fixture
def flow():
    with DataFlowCoordinator("dropping") as flow:
        yield flow


def opened(flow, target, rule, fmt=BYTES, buffer_size=3):
    config = PipelineConfig(buffer_size, backpressure_strategy=rule)
    return flow.pipeline(flow.register_pipeline("app", target, config, fmt))


def marks(seen, begin=-1):
    """Return the numbers that are flagged, and those that do not follow the one before."""
    gaps = [
        number
        for before, (number, _) in zip([begin, *(each[0] for each in seen)], seen, strict=False)
        if number != before + 1
    ]
    return [number for number, flags in seen if flags & DISCONTINUITY], gaps


def check(seen, *, some=True):
    flagged, gaps = marks(seen)
    assert flagged == gaps
    assert bool(gaps) == some
    assert all(flags in (0, DISCONTINUITY) for _, flags in seen)


def parsed(block):
    number, flags = bytes(block.data).split()
    return int(number), int(flags)


def until(condition):
    """Look until it holds; other threads run meanwhile."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        os.sched_yield()


# --- a rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_whoever_receives_is_told_of_what_a_rule_dropped(flow, rule):
    pipe = opened(flow, "reader", rule)
    seen = []
    for sent, taken in ((2, 1), (7, 2), (1, 1), (9, 3), (3, 3), (5, 1), (1, 3)):
        for _ in range(sent):
            pipe.send(b"x")
        for _ in range(taken):
            try:
                block = pipe.receive(timeout_s=0)
            except ReceiveTimeout:
                break
            seen.append((block.sequence, block.flags))
    check(seen)


def test_what_was_dropped_before_the_first_block_is_told_too(flow):
    pipe = opened(flow, "reader", DropOldest())
    for _ in range(5):
        pipe.send(b"x")
    first = pipe.receive(timeout_s=0)
    assert (first.sequence, first.flags) == (2, DISCONTINUITY)
    assert not pipe.receive(timeout_s=0).flags


def test_who_receives_in_an_event_loop_is_told(flow):
    pipe = opened(flow, "reader", DropOldest())

    async def receive():
        for _ in range(3):
            pipe.send(b"x")
        seen = [await pipe.receive_async(timeout_s=LIMIT_S)]
        for _ in range(4):
            pipe.send(b"x")
        return seen + [await pipe.receive_async(timeout_s=LIMIT_S) for _ in range(3)]

    seen = asyncio.run(receive())
    check([(block.sequence, block.flags) for block in seen])


@pytest.mark.parametrize(
    ("kind", "placement"),
    [(Seen, "thread"), (Seen, "process"), (AsyncSeen, "thread"), (AsyncSeen, "process")],
    ids=["thread", "process", "asyncio", "asyncio process"],
)
def test_a_module_in_any_worker_is_told(flow, kind, placement):
    seen_by = flow.add(kind(), name="seen", placement=placement)
    pipe = opened(flow, seen_by.data, DropOldest())
    back = flow.connect(seen_by.out, "back", buffer_size=32)
    flow.start()
    seen = []
    for sent, then in ((2, None), (6, None), (3, None), (5, DropNewest()), (2, Latest()), (3, None)):
        pipe.pause()  # so what is dropped does not depend on who is quicker
        for _ in range(sent):
            pipe.send(b"x")
        if then is not None:
            flow.handle_backpressure(pipe.id, then)
        waiting = pipe.statistics().fill
        pipe.resume()
        seen += [parsed(back.receive(LIMIT_S)) for _ in range(waiting)]
    check(seen)


@pytest.mark.parametrize("placement", ["thread", "process"])
def test_at_full_speed_flags_and_gaps_are_the_same(flow, placement):
    source = flow.add(Unpaced(), name="source", placement="process")
    idle = flow.add(Idle(), name="idle", placement=placement, worker="apart")
    collect = flow.add(Collect(), name="collect")
    flow.connect(source.out, idle.data, buffer_size=4, backpressure_strategy=DropOldest())
    flow.connect(idle.out, collect.data, buffer_size=64, backpressure_strategy=Wait())
    flow.run()
    seen = [tuple(map(int, bytes(each).split())) for each in collect.values]
    check(seen)


# --- a flush, and what is no gap ------------------------------------------------------------------------------------


def test_a_flush_is_told_by_the_next_block(flow):
    pipe = opened(flow, "reader", Wait(), buffer_size=8)
    seen = []
    for sent, flushed, taken in ((3, 0, 2), (2, 1, 0), (2, 0, 2), (1, 1, 0), (4, 0, 4)):
        for _ in range(sent):
            pipe.send(b"x")
        if flushed:
            pipe.flush()
        seen += [pipe.receive(timeout_s=0) for _ in range(taken)]
    seen = [(block.sequence, block.flags) for block in seen]
    check(seen)
    assert marks(seen)[0] == [5, 8]


def test_one_of_several_replicas_knows_nothing_of_what_the_others_have(flow):
    seen_by = flow.add(Seen(), name="seen", placement="process", replicas=2)
    pipe = opened(flow, seen_by.data, DropOldest(), buffer_size=4)
    back = flow.connect(seen_by.out, "back", buffer_size=64)
    flow.start()
    for _ in range(3):
        pipe.pause()
        for _ in range(9):
            pipe.send(b"x")
        pipe.resume()
        assert not any(parsed(back.receive(LIMIT_S))[1] for _ in range(4))


def test_what_a_sender_lost_at_its_end_is_told_by_the_first_block_of_its_successor(flow):
    seen_by = flow.add(Seen(), name="seen")
    pipe = opened(flow, seen_by.data, Wait())
    back = flow.connect(seen_by.out, "back", buffer_size=2, backpressure_strategy=DropNewest())
    flow.start()

    def send(blocks):
        sent = back.statistics().sent + blocks
        for _ in range(blocks):
            pipe.send(b"x")
        until(lambda: back.statistics().sent == sent)

    def received(blocks):
        got = [back.receive(LIMIT_S) for _ in range(blocks)]
        return [(block.sequence, block.flags) for block in got]

    send(5)
    flow.replace("seen", Seen())
    send(1)
    assert received(3) == [(0, 0), (1, 0), (5, DISCONTINUITY)]
    flow.replace("seen", Seen())
    send(2)
    assert received(2) == [(6, 0), (7, 0)]


# --- concealment ----------------------------------------------------------------------------------------------------


def numbered(value, frames=80):
    return np.full((frames, 1), value, np.float32)


def concealing(flow, rule, **options):
    config = AudioPipelineConfig(3, late="conceal", backpressure_strategy=rule, **options)
    return flow.pipeline(flow.register_pipeline("app", "reader", config, MONO))


def drained(pipe):
    heard = []
    while True:
        try:
            heard.append(pipe.receive(timeout_s=0))
        except ReceiveTimeout:
            return heard


@pytest.mark.parametrize("rule", [DropOldest(), DropNewest(), Latest()], ids=repr)
def test_what_a_rule_dropped_is_made_up(flow, rule):
    pipe = concealing(flow, rule)
    pipe.send(numbered(1))
    heard = drained(pipe)
    for burst in (5, 2, 7):
        for value in range(burst):
            pipe.send(numbered(value + 2))
        heard += drained(pipe)
    pipe.send(numbered(9))
    heard += drained(pipe)
    # Without a break, and so without a word about one.
    assert [block.first_frame for block in heard] == [80 * number for number in range(16)]
    assert {block.flags for block in heard} == {0, GAP}
    metrics = pipe.statistics()
    made_up = sum(block.flags == GAP for block in heard)
    assert metrics.concealed_blocks == made_up == metrics.dropped_total > 0
    assert metrics.sent == metrics.delivered + metrics.dropped_total


def test_what_a_flush_dropped_is_made_up(flow):
    pipe = concealing(flow, DropOldest())
    pipe.send(numbered(1))
    heard = drained(pipe)
    pipe.send(numbered(2))
    pipe.flush()
    pipe.send(numbered(3))
    heard += drained(pipe)
    assert [(block.first_frame, block.flags) for block in heard] == [(0, 0), (80, GAP), (160, 0)]


def test_a_gap_that_is_too_long_to_be_made_up_is_told(flow):
    pipe = concealing(flow, Latest())
    pipe.send(numbered(1))
    heard = drained(pipe)
    for _ in range(102):  # 101 of them, 1.01 s, are dropped
        pipe.send(numbered(2))
    heard += drained(pipe)
    assert [(block.first_frame, block.flags) for block in heard] == [(0, 0), (8160, DISCONTINUITY)]


def test_a_late_block_behind_a_gap_of_a_rule_leaves_no_hole(flow):
    pipe = concealing(flow, DropOldest(), max_latency_ms=300)
    pipe.send(numbered(1))
    heard = drained(pipe)
    for _ in range(5):
        pipe.send(numbered(2))
    time.sleep(0.35)  # their age is what this is about
    heard += drained(pipe)
    pipe.send(numbered(3))
    heard.append(pipe.receive(timeout_s=LIMIT_S))
    assert [(block.first_frame, block.flags) for block in heard] == [
        (0, 0),
        *((80 * number, GAP) for number in range(1, 6)),
        (480, 0),
    ]
    assert pipe.statistics().dropped == {"oldest": 2, "late": 3}


ENCODED = {"f32": np.float32, "f64": np.float64, "s16": np.int16, "s32": np.int32, "u8": np.uint8}


@pytest.mark.parametrize("sample_type", ENCODED)
@pytest.mark.parametrize("concealment", ["silence", "fade", "repeat"])
def test_what_is_made_up_is_what_was_asked_for(flow, sample_type, concealment):
    fmt = AudioFormat(8_000, 2, sample_type, max_block_frames=80)
    config = AudioPipelineConfig(3, late="conceal", backpressure_strategy=DropOldest(), concealment=concealment)
    pipe = flow.pipeline(flow.register_pipeline("app", "reader", config, fmt))
    silence = 128 if sample_type == "u8" else 0
    last = np.arange(160).reshape(80, 2).astype(ENCODED[sample_type])
    pipe.send(last)
    pipe.receive(timeout_s=0)
    for _ in range(6):
        pipe.send(last)
    made_up = np.concatenate([pipe.receive(timeout_s=0).samples for _ in range(3)])
    again = np.tile(last, (3, 1))
    match concealment:
        case "silence":
            assert (made_up == silence).all()
        case "repeat":
            np.testing.assert_array_equal(made_up, again)
        case "fade":  # 20 ms are 160 frames
            gain = np.clip(1 - np.arange(240) / 160, 0, None)[:, None]
            expected = silence + (again.astype(float) - silence) * gain
            exact = sample_type in ("f32", "f64")
            np.testing.assert_allclose(made_up, expected, atol=1e-4 if exact else 1)


def test_a_module_and_a_worker_are_given_what_was_asked_for(flow):
    """In a process, where the settings have to arrive, too."""
    loudness = flow.add(Loudness(), name="loudness", placement="process")
    config = AudioPipelineConfig(3, late="conceal", backpressure_strategy=DropOldest(), concealment="repeat")
    pipe = flow.pipeline(flow.register_pipeline("app", loudness.audio, config, MONO))
    back = flow.connect(loudness.out, "back", buffer_size=32)
    flow.start()
    pipe.send(numbered(5))
    heard = [back.receive(LIMIT_S)]
    pipe.pause()
    for value in range(8):
        pipe.send(numbered(value))
    pipe.resume()
    heard += [back.receive(LIMIT_S) for _ in range(8)]
    assert [float(bytes(block.data)) for block in heard] == [5, 5, 5, 5, 5, 5, 5, 6, 7]
    assert [block.flags for block in heard] == [0] + [GAP] * 5 + [0] * 3


class Loudness(Module):
    """Sends the last sample of each block: by then a fading one would be quieter."""

    audio = Input(MONO)
    out = Output(BYTES)

    def process(self, block):
        return str(block.samples[-1, 0]).encode()
