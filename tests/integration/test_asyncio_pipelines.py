"""Open ends in event loops: tasks wait for blocks and for room, by the same rules as threads, and the loop turns."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from itertools import chain

import msgspec
import numpy as np
import pytest
from tests.watched_loop import LOOPS, run_watched, turns

from steadyflow import (
    ArrayFormat,
    BytesFormat,
    DataFlowCoordinator,
    DropNewest,
    DropOldest,
    EndOfStream,
    Fail,
    FlowData,
    FlowError,
    Input,
    Latest,
    Module,
    Output,
    PipelineClosed,
    PipelineConfig,
    ReceiveTimeout,
    SendTimeout,
    Source,
    StructFormat,
    Wait,
    _native,
)
from steadyflow.awaiting import Receiver
from steadyflow.errors import ConfigurationError, FlowNotRunning, StateError
from steadyflow.testing import Collect

NUMBER = ArrayFormat("int64", (1,))
LIMIT_S = 30  # how long a test may wait for what has to come; it never waits for time to pass


@pytest.fixture(params=LOOPS)
def run(request):
    return lambda main: run_watched(main, request.param)


@pytest.fixture
def flow():
    with DataFlowCoordinator("loops") as flow:
        yield flow


def link(flow, size=4, rule=None, fmt=NUMBER):
    """Return a pipeline from the application to the application."""
    config = PipelineConfig(buffer_size=size, backpressure_strategy=rule)
    return flow.pipeline(flow.register_pipeline("here", "there", config, format=fmt))


def number(value):
    return np.array([value], np.int64)


def value(block):
    return int(block.samples[0])


def fill(pipe, count=4):
    for index in range(count):
        pipe.send(number(index))


def receive_rest(pipe):
    """Return everything that waits."""
    values = []
    while True:
        try:
            values.append(value(pipe.receive(0)))
        except (ReceiveTimeout, EndOfStream):
            return values


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_task_waits_for_a_block_while_others_go_on(run, flow):
    """The block is sent by the loop itself: whoever stops the loop while waiting never gets it."""
    pipe = link(flow)

    async def main():
        waiting = asyncio.create_task(pipe.receive_async(LIMIT_S))
        await turns()
        assert not waiting.done()
        pipe.send(number(7))
        return value(await waiting)

    assert run(main()) == 7


def test_a_task_waits_for_room_while_others_go_on(run, flow):
    """Room is made by the loop itself: whoever stops the loop while waiting never gets it."""
    pipe = link(flow, rule=Wait(timeout_ms=LIMIT_S * 1000))
    fill(pipe)

    async def main():
        waiting = asyncio.create_task(pipe.send_async(number(4)))
        await turns()
        assert not waiting.done()
        received = [value(await pipe.receive_async(LIMIT_S)) for _ in range(4)]
        assert await waiting is True
        return [*received, value(await pipe.receive_async(LIMIT_S))]

    assert run(main()) == [0, 1, 2, 3, 4]
    metrics = pipe.statistics()
    assert metrics.sent == metrics.delivered == 5
    assert metrics.blocked_ms > 0
    assert metrics.backpressure_events == 1


def test_room_for_one_block_is_found_before_half_of_the_buffer_is_free(run, flow):
    """The consumer rings at half of the buffer, and may not get that far before somebody has to go on."""
    pipe = link(flow, size=16)
    fill(pipe, 16)

    async def main():
        waiting = asyncio.create_task(pipe.send_async(number(16)))
        await turns()
        await pipe.receive_async()
        assert await asyncio.wait_for(waiting, LIMIT_S)

    run(main())


def test_senders_that_find_room_send_in_the_order_in_which_they_came(run, flow):
    """Also where some give the others of the loop a turn first."""
    pipe = link(flow, size=200)

    async def main():
        await asyncio.gather(*(pipe.send_async(number(index)) for index in range(200)))
        return [value(await pipe.receive_async(0)) for _ in range(200)]

    assert run(main()) == [*range(200)]


def test_iteration_ends_with_the_stream(run, flow):
    pipe = link(flow)

    async def main():
        async def send():
            for index in range(500):
                assert await pipe.send_async(number(index))
            pipe.end()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            received = [value(block) async for block in pipe]
        assert [block async for block in pipe] == [], "the end stays"
        with pytest.raises(EndOfStream):
            await pipe.receive_async()
        return received

    assert run(main()) == list(range(500))


def test_blocks_from_a_thread(run, flow):
    pipe = link(flow, size=8)

    def produce():
        for index in range(2000):
            pipe.send(number(index))
        pipe.end()

    async def main():
        thread = threading.Thread(target=produce)
        thread.start()
        received = [value(block) async for block in pipe]
        thread.join()
        return received

    assert run(main()) == list(range(2000))


def test_blocks_to_a_thread(run, flow):
    pipe = link(flow, size=8)
    received = []

    def consume():
        try:
            while True:
                received.append(value(pipe.receive()))
        except EndOfStream:
            return

    async def main():
        thread = threading.Thread(target=consume)
        thread.start()
        for index in range(2000):
            await pipe.send_async(number(index))
        pipe.end()
        await asyncio.to_thread(thread.join)

    run(main())

    assert received == list(range(2000))


def test_a_task_that_is_always_ready_leaves_turns_to_the_others(run, flow):
    pipe = link(flow, size=2000)
    turned = 0

    async def main():
        async def turn():
            nonlocal turned
            while True:
                turned += 1
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        for index in range(1000):
            await pipe.send_async(number(index))
        sending = turned
        for _ in range(1000):
            await pipe.receive_async()
        turning.cancel()
        return sending, turned - sending

    sending, receiving = run(main())
    assert min(sending, receiving) >= 1000 // 32


def test_a_task_waits_through_a_pause(run, flow):
    pipe = link(flow)
    pipe.pause()

    async def main():
        waiting = asyncio.create_task(pipe.receive_async(LIMIT_S))
        await pipe.send_async(number(3))
        await turns()
        assert not waiting.done()
        pipe.resume()
        return value(await waiting)

    assert run(main()) == 3


def test_flushing_makes_room_for_a_task_that_waits(run, flow):
    pipe = link(flow)
    fill(pipe)

    async def main():
        waiting = asyncio.create_task(pipe.send_async(number(4)))
        await turns()
        assert pipe.flush() == 4
        assert await asyncio.wait_for(waiting, LIMIT_S)
        return value(await pipe.receive_async(0))

    assert run(main()) == 4


# --- what is sent -----------------------------------------------------------------------------------------------------


class Note(msgspec.Struct):
    name: str
    level_db: float


def test_a_waiting_block_is_kept_as_it_was_given(run, flow):
    """Whoever sends may let go of the data, and the memory may be used again."""
    pipe = link(flow, size=1, fmt=StructFormat(Note))

    async def main():
        await pipe.send_async(Note("first", 0.0))
        note = Note("second", -3.0)
        waiting = asyncio.create_task(pipe.send_async(FlowData(note, metadata={"take": 3}, timestamp_ns=5)))
        await turns()
        note.name = "changed"
        del note
        gc.collect()
        first = await pipe.receive_async()
        await waiting
        return first.data, await pipe.receive_async()

    first, second = run(main())
    assert first == Note("first", 0.0)
    assert (second.data, second.metadata, second.timestamp_ns) == (Note("second", -3.0), {"take": 3}, 5)


def test_arrays_and_bytes_wait_too(run, flow):
    pipe = link(flow, size=1, fmt=BytesFormat(100))

    async def main():
        await pipe.send_async(b"one")
        waiting = asyncio.create_task(pipe.send_async(bytes(range(50))))
        await turns()
        gc.collect()
        await pipe.receive_async()
        await waiting
        return (await pipe.receive_async()).data

    assert run(main()) == bytes(range(50))


def test_what_does_not_fit_is_refused_as_by_send(run, flow):
    pipe = link(flow)
    with pytest.raises(FlowError) as refused:
        pipe.send(np.zeros(3, np.int64))

    async def main():
        with pytest.raises(type(refused.value)) as refused_async:
            await pipe.send_async(np.zeros(3, np.int64))
        return str(refused_async.value)

    assert run(main()) == str(refused.value)


# --- rules ------------------------------------------------------------------------------------------------------------

RULES = [
    DropOldest(),
    DropNewest(),
    Latest(),
    Fail(),
    Wait(timeout_ms=5),
    Wait(timeout_ms=5, then="drop_newest"),
    Wait(timeout_ms=5, then="drop_oldest"),
]


def outcome(send, pipe):
    """Fill a pipeline and send one block more; tell all that can be seen of it."""
    answers = []
    for index in range(5):
        try:
            answers.append(send(number(index)))
        except FlowError as error:
            answers.append((type(error), str(error)))
    waiting = receive_rest(pipe)
    metrics = pipe.statistics()
    return answers, waiting, metrics.sent, metrics.delivered, metrics.dropped, metrics.backpressure_events


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_every_rule_means_the_same_as_for_send(rule):
    with DataFlowCoordinator() as flow:
        expected = outcome(link(flow, rule=rule).send, flow.pipeline("here->there"))
    with DataFlowCoordinator() as flow, asyncio.Runner() as runner:
        pipe = link(flow, rule=rule)
        before = _native.waits_of_this_thread()
        found = outcome(lambda data: runner.run(pipe.send_async(data)), pipe)

        assert found == expected
        assert _native.waits_of_this_thread() == before


def test_a_timeout_of_a_rule_leaves_the_loop_free(run, flow):
    pipe = link(flow, rule=Wait(timeout_ms=20))
    fill(pipe)

    async def main():
        waiting = asyncio.create_task(pipe.send_async(number(4)))
        turned = 0
        while not waiting.done():
            turned += 1
            await asyncio.sleep(0)
        with pytest.raises(SendTimeout, match="here->there: expected room within 20 ms"):
            await waiting
        return turned

    assert run(main()) > 1
    assert receive_rest(pipe) == [0, 1, 2, 3]


def test_a_switched_rule_reaches_a_task_that_waits(run, flow):
    pipe = link(flow)
    fill(pipe)

    async def main():
        waiting = asyncio.create_task(pipe.send_async(number(4)))
        await turns()
        flow.handle_backpressure(pipe, DropNewest())
        return await asyncio.wait_for(waiting, LIMIT_S)

    assert run(main()) is False
    assert pipe.statistics().dropped == {"newest": 1}


def test_a_timeout_of_receiving(run, flow):
    pipe = link(flow)

    async def main():
        for timeout_s in (0, 0.0, 0.005):
            with pytest.raises(ReceiveTimeout, match=f"here->there: expected a block within {timeout_s} s, got none"):
                await pipe.receive_async(timeout_s)
        pipe.send(number(1))
        return value(await pipe.receive_async(0))

    assert run(main()) == 1


@pytest.mark.parametrize("wrong", [-1, float("nan"), "1", [], 1j])
def test_impossible_timeouts_are_refused(run, flow, wrong):
    pipe = link(flow)

    async def main():
        with pytest.raises(ConfigurationError, match="receive_async: expected timeout_s to be a number of seconds"):
            await pipe.receive_async(wrong)

    run(main())


# --- before the start -------------------------------------------------------------------------------------------------


class Three(Source):
    out = Output(NUMBER)

    def produce(self):
        for index in range(3):
            self.out.send(number(index))
            yield


def add_three(flow):
    """Return a pipeline from a module to the application; nothing can come from it before the start."""
    return flow.connect(flow.add(Three()).out, "there", buffer_size=4)


async def read_all(pipe):
    return [value(block) async for block in pipe]


@pytest.mark.parametrize("start", ["by the loop", "by another thread"])
def test_tasks_that_read_wait_for_the_start(run, flow, start):
    pipe = add_three(flow)

    async def main():
        reading = [asyncio.create_task(read_all(pipe)) for _ in range(2)]
        await turns()
        assert not any(task.done() for task in reading)
        await (flow.start_async() if start == "by the loop" else asyncio.to_thread(flow.start))
        received = await asyncio.wait_for(asyncio.gather(*reading), LIMIT_S)
        assert not pipe._waiting_for_start
        return chain(*received)

    assert sorted(run(main())) == [0, 1, 2]


def test_the_first_program_of_everybody(run):
    """Its reader runs before its flow does."""

    async def main():
        async with DataFlowCoordinator() as flow:
            reading = asyncio.create_task(read_all(add_three(flow)))
            report = await flow.run_async()
            return await reading, report.pipelines["three.out->there"].delivered

    assert run(main())[0] == [0, 1, 2]


@pytest.mark.parametrize("timeout_s", [0, 0.005])
def test_a_timeout_before_the_start(run, flow, timeout_s):
    pipe = add_three(flow)

    async def main():
        with pytest.raises(
            ReceiveTimeout, match=f"expected a block within {timeout_s} s, got none: the flow has not been"
        ):
            await pipe.receive_async(timeout_s)
        with pytest.raises(ConfigurationError, match="receive_async: expected timeout_s to be a number of seconds"):
            await pipe.receive_async(-1)
        assert not pipe._waiting_for_start

    run(main())


def test_a_wait_that_began_before_the_start_has_waited_already(run, flow):
    pipe = link(flow)

    async def main():
        with pytest.raises(ReceiveTimeout, match=f"expected a block within {LIMIT_S} s, got none"):
            await Receiver(pipe.id, pipe._inbox).receive(LIMIT_S, entered_ns=1)

    run(main())


def test_waiting_for_the_start_can_be_cancelled(run, flow):
    pipe = add_three(flow)

    async def main():
        cancelled, other = (asyncio.create_task(pipe.receive_async()) for _ in range(2))
        await turns()
        cancelled.cancel()
        await turns()
        assert cancelled.cancelled()
        assert len(pipe._waiting_for_start) == 1
        await flow.start_async()
        return value(await asyncio.wait_for(other, LIMIT_S))

    assert run(main()) == 0


def test_a_flow_that_is_closed_without_a_start_ends_the_wait_for_it(run):
    async def main():
        async with DataFlowCoordinator("unused") as flow:
            pipe = add_three(flow)
            waiting = [asyncio.create_task(pipe.receive_async()), asyncio.create_task(read_all(pipe))]
            await turns()
        for task in waiting:
            with pytest.raises(PipelineClosed, match="flow 'unused' has been closed"):
                await asyncio.wait_for(task, LIMIT_S)

    run(main())


def test_what_is_sent_before_the_start_waits_for_it(run, flow):
    three, collect = flow.add(Three()), flow.add(Collect())
    flow.connect(three.out, "nobody", buffer_size=4)
    pipe = flow.pipeline(flow.register_pipeline("here", collect.data, PipelineConfig(buffer_size=2), format=NUMBER))

    async def main():
        async def send():
            for index in range(5):
                await pipe.send_async(number(index))
            pipe.end()

        sending = asyncio.create_task(send())
        await turns()
        assert not sending.done()
        assert pipe.statistics().fill == 2
        await flow.run_async()
        await sending

    run(main())
    assert [int(array[0]) for array in collect.values] == list(range(5))


# --- cancellation -----------------------------------------------------------------------------------------------------


def reader_is_left(descriptor):
    """Take away the loop's reader; tell whether there was one."""
    return asyncio.get_running_loop().remove_reader(descriptor)


def test_cancelled_receivers_leave_nothing_behind(run, flow):
    pipe = link(flow, size=16)

    async def main():
        waiting = [asyncio.create_task(pipe.receive_async()) for _ in range(10)]
        await turns()
        for task in waiting[::2]:
            task.cancel()
        await turns()
        for index in range(5):
            pipe.send(number(index))
        received = [value(block) for block in await asyncio.gather(*waiting[1::2])]
        assert all(task.cancelled() for task in waiting[::2])
        await turns()
        assert not reader_is_left(pipe._inbox.bell.descriptor)
        return received

    assert run(main()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("meanwhile", range(4))
def test_a_block_that_comes_while_its_receiver_is_cancelled_is_not_lost(run, flow, meanwhile):
    """However far the loop has come: the pipe readable, the task woken, the block taken."""
    pipe = link(flow)

    async def main():
        waiting = asyncio.create_task(pipe.receive_async())
        await turns()
        pipe.send(number(1))
        await turns(meanwhile)
        waiting.cancel()
        try:
            return value(await waiting)
        except asyncio.CancelledError:
            return value(await pipe.receive_async(0))

    assert run(main()) == 1
    assert pipe.statistics().delivered == 1


def test_a_cancelled_send_has_queued_nothing(run, flow):
    pipe = link(flow)
    fill(pipe)

    async def main():
        waiting = [asyncio.create_task(pipe.send_async(number(index))) for index in (4, 5, 6)]
        await turns()
        waiting[1].cancel()
        await turns()
        received = [value(await pipe.receive_async(LIMIT_S)) for _ in range(6)]
        assert [task.cancelled() for task in waiting] == [False, True, False]
        await turns()
        assert not reader_is_left(pipe._output.bell.descriptor)
        return received

    received = run(main())
    assert received[:4] == [0, 1, 2, 3]
    assert sorted(received[4:]) == [4, 6]
    assert pipe.statistics().sent == 6


def test_a_loop_that_was_closed_over_its_tasks_leaves_the_pipeline_usable(flow):
    """Such a loop never gets to say that it sleeps no longer."""
    pipe = link(flow)
    loop = asyncio.new_event_loop()
    task = loop.create_task(pipe.receive_async())
    loop.run_until_complete(turns())
    loop.close()
    pipe.send(number(3))

    assert value(run_watched(pipe.receive_async(LIMIT_S))) == 3

    task.get_coro().close()
    task._log_destroy_pending = False


# --- several tasks, loops and threads ---------------------------------------------------------------------------------


def test_several_tasks_of_one_loop(run, flow):
    pipe = link(flow, size=2)

    async def main():
        async def send(first):
            for index in range(100):
                await pipe.send_async(number(first + index))

        async def receive():
            return [value(block) async for block in pipe]

        async with asyncio.TaskGroup() as group:
            receivers = [group.create_task(receive()) for _ in range(3)]
            async with asyncio.TaskGroup() as senders:
                for first in (0, 1000, 2000):
                    senders.create_task(send(first))
            pipe.end()
        return [receiver.result() for receiver in receivers]

    received = run(main())
    assert Counter(chain(*received)) == Counter(first + index for first in (0, 1000, 2000) for index in range(100))
    for values in received:
        for first in (0, 1000, 2000):
            one_senders = [each for each in values if first <= each < first + 1000]
            assert one_senders == sorted(one_senders)


def test_loops_and_threads_share_both_ends(flow):
    """One of them sleeps on the bell, the others look now and then; each block goes to one of them."""
    pipe = link(flow, size=2)
    received = []

    async def send(first):
        for index in range(50):
            await pipe.send_async(number(first + index))

    async def receive():
        received.extend([value(block) async for block in pipe])

    def send_blocking(first):
        for index in range(50):
            pipe.send(number(first + index))

    def receive_blocking():
        try:
            while True:
                received.append(value(pipe.receive()))
        except EndOfStream:
            return

    senders = [
        threading.Thread(target=lambda: run_watched(send(0))),
        threading.Thread(target=lambda: run_watched(send(100))),
        threading.Thread(target=send_blocking, args=(200,)),
        threading.Thread(target=send_blocking, args=(300,)),
    ]
    receivers = [
        threading.Thread(target=lambda: run_watched(receive())),
        threading.Thread(target=lambda: run_watched(receive())),
        threading.Thread(target=receive_blocking),
        threading.Thread(target=receive_blocking),
    ]
    for thread in [*senders, *receivers]:
        thread.start()
    for sender in senders:
        sender.join()
    pipe.end()
    for receiver in receivers:
        receiver.join()

    assert Counter(received) == Counter(first + index for first in (0, 100, 200, 300) for index in range(50))


# --- ends -------------------------------------------------------------------------------------------------------------


def test_closing_reaches_the_tasks_that_wait(run):
    flow = DataFlowCoordinator()
    empty = link(flow)
    full = flow.pipeline(flow.register_pipeline("a", "b", PipelineConfig(buffer_size=1), format=NUMBER))
    full.send(number(0))

    async def main():
        receiving = asyncio.create_task(empty.receive_async())
        sending = asyncio.create_task(full.send_async(number(1)))
        await turns()
        async with flow:
            pass
        for task in (receiving, sending):
            with pytest.raises(PipelineClosed):
                await asyncio.wait_for(task, LIMIT_S)
        with pytest.raises(PipelineClosed):
            await empty.receive_async()
        with pytest.raises(PipelineClosed):
            await full.send_async(number(1))

    run(main())


def test_nothing_is_sent_after_the_end(run, flow):
    pipe = link(flow)
    pipe.end()

    async def main():
        with pytest.raises(PipelineClosed, match="the stream was ended"):
            await pipe.send_async(number(0))

    run(main())


class Idle(Source):
    out = Output(NUMBER)

    async def produce(self):
        yield


class Drop(Module):
    data = Input(NUMBER)

    async def process(self, data):
        return


def test_ends_of_modules_say_why_they_cannot_be_used(run, flow):
    idle, drop = flow.add(Idle()), flow.add(Drop())
    linked = flow.connect(idle.out, drop.data, buffer_size=1)
    target = flow.connect(idle.out, "there", buffer_size=1)

    async def main():
        with pytest.raises(StateError, match="expected an open source"):
            await linked.send_async(number(0))
        with pytest.raises(StateError, match="expected an open target"):
            await linked.receive_async()

    run(main())
    with pytest.raises(FlowNotRunning, match=r"call flow\.start"):
        target.receive(0)
    assert idle.out.sender is None


def test_a_forked_child_is_refused_both_ways(run, flow):
    pipe = link(flow)
    pipe.forget("this process was forked")

    async def main():
        with pytest.raises(PipelineClosed, match="this process was forked"):
            await pipe.send_async(number(0))
        with pytest.raises(PipelineClosed, match="this process was forked"):
            await pipe.receive_async()

    run(main())


def test_times_of_blocks_are_counted(run, flow):
    config = PipelineConfig(buffer_size=8, max_latency_ms=1000 * LIMIT_S)
    pipe = flow.pipeline(flow.register_pipeline("here", "there", config, format=NUMBER))

    async def main():
        for index in range(8):
            await pipe.send_async(number(index))
        for _ in range(8):
            await pipe.receive_async()
        waiting = asyncio.create_task(pipe.receive_async())
        await turns()
        await pipe.send_async(number(8))
        await waiting

    run(main())
    metrics = pipe.statistics()
    assert metrics.delivered == 9
    assert metrics.latency_p50_ms > 0
    assert metrics.late == 0
    assert metrics.bytes == 9 * 8
