"""Waiting in an event loop: the bell's seat, blocking code in threads, and calls from outside."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
from tests.watched_loop import LOOPS, run_watched, turns, turns_until

from steadyflow import BytesFormat, DataFlowCoordinator, PipelineConfig
from steadyflow.awaiting import NEVER, BellWatch, in_thread, in_thread_until_hurried, wait_for_call

LIMIT_S = 30


@pytest.fixture(params=LOOPS)
def run(request):
    return lambda main: run_watched(main, request.param)


@pytest.fixture
def pipe():
    with DataFlowCoordinator("bell") as flow:
        yield flow.pipeline(flow.register_pipeline("here", "there", PipelineConfig(buffer_size=4), BytesFormat(8)))


# --- the bell ---------------------------------------------------------------------------------------------------------


def test_a_ring_before_the_sleep_is_not_slept_through(run, pipe):
    bell = pipe._inbox.bell
    watch = BellWatch(bell, bell.take)
    pipe.send(b"1")

    async def main():
        await watch.sleep(NEVER)  # comes back
        await turns()
        assert bell.take_seat(), "nobody sleeps, so the seat is free"
        bell.leave_seat()

    run(main())
    assert bell.take() == 0, "what rang was taken"


def test_a_sleep_that_is_cancelled_where_it_was_rung_leaves_the_seat(run, pipe):
    bell = pipe._inbox.bell
    watch = BellWatch(bell, bell.take)

    async def main():
        pipe.send(b"1")
        task = asyncio.create_task(watch.sleep(NEVER))
        await asyncio.sleep(0)  # it has seen that it rang, and lets others have their turn
        task.cancel()
        await turns()
        assert task.cancelled()
        assert bell.take_seat()
        bell.leave_seat()

    run(main())


def test_a_ring_wakes_everybody_and_is_heard_once(run, pipe):
    bell = pipe._inbox.bell
    watch = BellWatch(bell, bell.take)

    async def main():
        sleeping = [asyncio.create_task(watch.sleep(NEVER)) for _ in range(3)]
        await turns()
        assert not any(task.done() for task in sleeping)
        pipe.send(b"1")
        await asyncio.gather(*sleeping)
        again = asyncio.create_task(watch.sleep(NEVER))
        await turns()
        assert not again.done()
        again.cancel()

    run(main())
    assert watch.heard_ns > 0


def test_a_deadline_ends_the_sleep(run, pipe):
    bell = pipe._inbox.bell
    watch = BellWatch(bell, bell.take)

    run(watch.sleep(0))  # long ago
    assert watch.heard_ns == 0


def test_the_seat_goes_from_loop_to_loop(pipe):
    """While one has it, the other one only looks now and then; afterwards anybody may have it."""
    bell = pipe._inbox.bell
    watch = BellWatch(bell, bell.take)
    sleeping, leave = threading.Event(), threading.Event()

    async def occupy():
        task = asyncio.create_task(watch.sleep(NEVER))
        await turns()
        sleeping.set()
        await turns_until(leave.is_set)
        task.cancel()
        await turns()

    thread = threading.Thread(target=lambda: run_watched(occupy()))
    thread.start()
    assert sleeping.wait(LIMIT_S)
    run_watched(watch.sleep(NEVER))  # comes back after a millisecond, although nothing rang
    assert not bell.take_seat()
    leave.set()
    thread.join()

    assert bell.take_seat()
    bell.leave_seat()


def test_a_descriptor_that_cannot_be_watched_leaves_the_seat(pipe):
    class Refusing(asyncio.SelectorEventLoop):
        def add_reader(self, descriptor, callback):
            raise PermissionError("not this one")

    bell = pipe._inbox.bell
    with asyncio.Runner(loop_factory=Refusing) as runner, pytest.raises(PermissionError):
        runner.run(BellWatch(bell, bell.take).sleep(NEVER))

    assert bell.take_seat()
    bell.leave_seat()


# --- blocking code ----------------------------------------------------------------------------------------------------

mood = contextvars.ContextVar("mood", default="none")


def test_blocking_code_runs_beside_the_loop_and_in_its_context(run):
    opened = threading.Event()

    def block(answer, *, other):
        assert opened.wait(LIMIT_S), "the loop stood still"
        return answer, other, mood.get(), threading.current_thread() is threading.main_thread()

    async def main():
        mood.set("fine")
        called = asyncio.create_task(in_thread(block, 1, other=2))
        await turns()
        opened.set()
        return await called

    assert run(main()) == (1, 2, "fine", False)


def test_what_blocking_code_raises_is_raised(run):
    async def main():
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: 1 / 0)

    run(main())


@pytest.mark.parametrize("problem", [None, ValueError("half way")])
def test_a_cancelled_caller_leaves_when_the_code_has_ended(run, problem):
    opened = threading.Event()
    ended = []

    def block():
        assert opened.wait(LIMIT_S), "the loop stood still"
        ended.append(True)
        if problem is not None:
            raise problem

    async def main():
        called = asyncio.create_task(in_thread(block))
        for _ in range(2):
            await turns()
            called.cancel()
        await turns()
        assert not called.done()
        opened.set()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await called
        assert ended == [True]
        return cancelled.value.__cause__

    assert run(main()) is problem


def test_a_cancelled_caller_hurries_the_code(run):
    hurried = threading.Event()

    async def main():
        called = asyncio.create_task(in_thread_until_hurried(hurried.set, hurried.wait, LIMIT_S))
        await turns()
        called.cancel()
        with pytest.raises(asyncio.CancelledError):
            await called

    run(main())
    assert hurried.is_set()


def test_an_interruption_of_the_start_of_the_thread_hurries_the_code(run, monkeypatch):
    """Ctrl-C may come while it is waited for, and nobody hears of the thread afterwards."""
    hurried, start = threading.Event(), threading.Thread.start

    def start_and_interrupt(thread):
        start(thread)
        raise KeyboardInterrupt

    async def main():
        monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            await in_thread_until_hurried(hurried.set, hurried.wait, LIMIT_S)

    run(main())
    assert hurried.is_set()


def test_a_loop_that_was_closed_meanwhile_is_told_nothing(run):
    opened, subscribed = threading.Event(), []
    threads = set(threading.enumerate())
    loop = asyncio.new_event_loop()
    tasks = [
        loop.create_task(in_thread(opened.wait, LIMIT_S)),
        loop.create_task(wait_for_call(subscribed.append, None)),
    ]
    loop.run_until_complete(turns())
    loop.close()
    opened.set()
    for thread in threading.enumerate():
        if thread.name == "steadyflow-in-thread":
            thread.join()
    subscribed[0]()

    assert set(threading.enumerate()) <= threads
    for task in tasks:
        task.get_coro().close()
        task._log_destroy_pending = False


# --- calls from outside -----------------------------------------------------------------------------------------------


def test_a_call_from_a_thread_is_waited_for(run):
    async def main():
        called = []

        def subscribe(call):
            called.append(call)
            threading.Thread(target=call).start()

        assert await wait_for_call(subscribe, None) is True
        assert await wait_for_call(subscribe, LIMIT_S) is True
        assert await wait_for_call(called.append, 0.001) is False
        called[-1]()  # late, and no harm

    run(main())
