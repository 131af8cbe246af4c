"""Random rules, rates, flushes and switches: a block says DISCONTINUITY exactly where its number does not follow."""

from __future__ import annotations

import threading

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steadyflow import (
    BlockFlag,
    BytesFormat,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    Latest,
    PipelineConfig,
    ReceiveTimeout,
    Wait,
)
from steadyflow.errors import EndOfStream

FORMAT = BytesFormat(max_bytes=8)
RULES = st.sampled_from(
    [
        DropOldest(),
        DropNewest(),
        Latest(),
        Wait(timeout_ms=0.01, then="drop_newest"),
        Wait(timeout_ms=0.01, then="drop_oldest"),
    ]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 12)),
        st.tuples(st.just("receive"), st.integers(1, 12)),
        st.tuples(st.just("flush"), st.none()),
        st.tuples(st.just("switch"), RULES),
    ),
    max_size=40,
)
LIMIT_S = 30


def flags_follow_the_numbers(blocks) -> bool:
    expected = 0
    for block in blocks:
        if block.flags != (BlockFlag.DISCONTINUITY if block.sequence != expected else 0):
            return False
        expected = block.sequence + 1
    return True


def opened(flow, rule, buffer_size):
    config = PipelineConfig(buffer_size, backpressure_strategy=rule)
    return flow.pipeline(flow.register_pipeline("app", "reader", config, FORMAT))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(RULES, st.integers(1, 6), STEPS)
def test_a_flag_for_each_gap_and_no_other(rule, buffer_size, steps):
    with DataFlowCoordinator("gaps") as flow:
        pipe = opened(flow, rule, buffer_size)
        got = []
        for step, argument in steps:
            match step:
                case "send":
                    for _ in range(argument):
                        pipe.send(b"x")
                case "receive":
                    for _ in range(argument):
                        try:
                            got.append(pipe.receive(timeout_s=0))
                        except ReceiveTimeout:
                            break
                case "flush":
                    pipe.flush()
                case "switch":
                    flow.handle_backpressure(pipe.id, argument)
        assert flags_follow_the_numbers(got)
        metrics = pipe.statistics()
        assert metrics.sent == metrics.delivered + metrics.dropped_total + metrics.in_flight


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(RULES, st.integers(1, 8), st.integers(1, 50), st.randoms(use_true_random=False))
def test_beside_a_sender_of_its_own_pace(rule, buffer_size, burst, random):
    with DataFlowCoordinator("gaps") as flow:
        pipe = opened(flow, rule, buffer_size)
        turn = threading.Semaphore(0)
        bursts = [random.randint(1, burst) for _ in range(40)]

        def send() -> None:
            for blocks in bursts:
                turn.acquire(timeout=LIMIT_S)
                for _ in range(blocks):
                    pipe.send(b"x")
            pipe.end()

        sender = threading.Thread(target=send)
        sender.start()
        got = []
        try:
            for _ in bursts:
                turn.release()
                for _ in range(random.randint(0, burst)):
                    try:
                        got.append(pipe.receive(timeout_s=0))
                    except (ReceiveTimeout, EndOfStream):
                        break
        finally:
            sender.join(LIMIT_S)
        assert not sender.is_alive()
        while True:
            try:
                got.append(pipe.receive(timeout_s=LIMIT_S))
            except EndOfStream:
                break
        assert got
        assert flags_follow_the_numbers(got)
