"""Flows in event loops: start, run, stop and close leave the loop free, and can be cancelled."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import aclosing

import numpy as np
import pytest
from tests.watched_loop import run_watched, turns, turns_until

from steadyflow import (
    ArrayFormat,
    DataFlowCoordinator,
    EndOfStream,
    FlowFailed,
    Input,
    Module,
    Output,
    PipelineClosed,
    PipelineConfig,
    Source,
    Wait,
    coordinator,
)
from steadyflow.errors import ConfigurationError, ModuleFailed, StateError, WorkerDied
from steadyflow.events import WorkerUnresponsive
from steadyflow.testing import Collect

NUMBER = ArrayFormat("int64", (1,))
LIMIT_S = 30  # how long a test may wait for what has to come; it never waits for time to pass


class Count(Source):
    """Sends numbers; all of them, or for ever."""

    out = Output(NUMBER)

    def __init__(self, blocks=None):
        self.blocks = blocks

    def produce(self):
        sent = 0
        while self.blocks is None or sent < self.blocks:
            self.out.send(np.array([sent], np.int64))
            sent += 1
            yield


class Hinge(Module):
    """Does not come through its setup and teardown before the test's loop lets it."""

    data = Input(NUMBER)

    def __init__(self):
        self.opened = {"setup": threading.Event(), "teardown": threading.Event()}
        self.reached = {"setup": threading.Event(), "teardown": threading.Event()}

    def pass_through(self, what):
        self.reached[what].set()
        if not self.opened[what].wait(LIMIT_S):
            raise TimeoutError("the loop stood still")

    def setup(self):
        self.pass_through("setup")

    def teardown(self):
        self.pass_through("teardown")

    def process(self, data):
        return


async def open_when_reached(hinge, what):
    await turns_until(hinge.reached[what].is_set)
    await turns()
    hinge.opened[what].set()


def values(collect):
    return [int(array[0]) for array in collect.values]


def test_a_flow_runs_beside_the_loop():
    async def main():
        async with DataFlowCoordinator("beside") as flow:
            count, collect = flow.add(Count(300)), flow.add(Collect(), placement="thread", worker="other")
            flow.connect(count.out, collect.data, buffer_size=8)
            report = await flow.run_async()
            assert report.pipelines["count.out->collect.data"].delivered == 300
        return values(collect)

    assert run_watched(main()) == list(range(300))


def test_the_loop_goes_on_while_a_flow_starts_and_ends():
    """Both last until a task of the loop lets them go on."""

    async def main():
        async with DataFlowCoordinator("hinged") as flow:
            count, hinge = flow.add(Count(10)), flow.add(Hinge())
            flow.connect(count.out, hinge.data, buffer_size=8)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(flow.run_async())
                await open_when_reached(hinge, "setup")
                await open_when_reached(hinge, "teardown")
            return running.result()

    report = run_watched(main())
    assert report.pipelines["count.out->hinge.data"].delivered == 10


def test_the_loop_goes_on_while_a_flow_is_closed():
    async def main():
        opening = None
        async with DataFlowCoordinator("closing") as flow:
            count, hinge = flow.add(Count()), flow.add(Hinge())
            flow.connect(count.out, hinge.data, buffer_size=8)
            hinge.opened["setup"].set()
            await flow.start_async()
            opening = asyncio.create_task(open_when_reached(hinge, "teardown"))
        await opening
        return repr(flow)

    assert "closed" in run_watched(main())


def test_duration():
    async def main():
        async with DataFlowCoordinator("timed") as flow:
            count, collect = flow.add(Count()), flow.add(Collect())
            flow.connect(count.out, collect.data, buffer_size=8)
            return await flow.run_async(duration_s=0.05)

    report = run_watched(main())
    metrics = report.pipelines["count.out->collect.data"]
    assert metrics.sent == metrics.delivered
    assert report.modules["count"].state == "stopped"


@pytest.mark.parametrize("duration_s", [0, -1, float("nan"), "5"])
def test_impossible_durations_are_refused(duration_s):
    async def main():
        async with DataFlowCoordinator() as flow:
            with pytest.raises(ConfigurationError, match="run_async: expected duration_s above 0"):
                await flow.run_async(duration_s)

    run_watched(main())


def test_a_cancelled_run_drains_and_stops():
    async def main():
        async with DataFlowCoordinator("cancelled") as flow:
            count, collect = flow.add(Count()), flow.add(Collect(), worker="other")
            pipe = flow.connect(count.out, collect.data, buffer_size=8)
            running = asyncio.create_task(flow.run_async())
            await turns_until(lambda: pipe.has_metrics and pipe.statistics().delivered)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            metrics = pipe.statistics()
            assert metrics.sent == metrics.delivered
            assert flow.report().modules["count"].state == "stopped"
            assert all(worker.ended for worker in flow.workers.values())

    run_watched(main())


# --- a drain that is interrupted -----------------------------------------------------------------------------------------


class Stuck(Module):
    """Is never done with its first block, so that nothing of its flow can drain."""

    data = Input(NUMBER)

    def __init__(self):
        self.entered = threading.Event()
        self.released = threading.Event()

    def process(self, data):
        self.entered.set()
        self.released.wait()


class TellsStop(Source):
    """Tells when it was stopped: from then on its flow drains."""

    out = Output(NUMBER)

    def __init__(self):
        self.stopped = threading.Event()

    def produce(self):
        self.out.send(np.array([0], np.int64))
        while True:  # without sending: a full pipeline would keep it from being stopped
            yield

    def finish(self):
        self.stopped.set()


@pytest.fixture
def stuck_flow(monkeypatch):
    """A flow whose drain no test can wait for."""
    monkeypatch.setattr(coordinator, "DRAIN_TIMEOUT_S", 1000.0)
    monkeypatch.setattr(DataFlowCoordinator.stop, "__defaults__", (1000.0,))
    flow = DataFlowCoordinator("stuck")
    count, stuck = flow.add(TellsStop(), name="count"), flow.add(Stuck(), name="stuck", worker="other")
    flow.connect(count.out, stuck.data, buffer_size=4)
    yield flow
    stuck.released.set()
    for worker in flow.workers.values():
        assert worker.join(LIMIT_S)


async def cancel_when(event, task):
    await turns_until(event.is_set)
    await turns()
    task.cancel()


def assert_given_up(flow):
    metrics = flow.report().pipelines["count.out->stuck.data"]
    assert metrics.delivered == 0
    assert metrics.dropped == {"stopped": metrics.sent}
    assert any(isinstance(event, WorkerUnresponsive) for event in flow.report().events)


def test_a_run_that_is_cancelled_again_does_not_drain(stuck_flow):
    async def main():
        async with stuck_flow as flow:
            running = asyncio.create_task(flow.run_async())
            await cancel_when(flow.modules["stuck"].entered, running)
            await cancel_when(flow.modules["count"].stopped, running)
            with pytest.raises(asyncio.CancelledError):
                await running
            assert_given_up(flow)

    run_watched(main())


def test_a_stop_that_is_cancelled_does_not_drain(stuck_flow):
    async def main():
        async with stuck_flow as flow:
            await flow.start_async()
            await turns_until(flow.modules["stuck"].entered.is_set)
            stopping = asyncio.create_task(flow.stop_async())
            await cancel_when(flow.modules["count"].stopped, stopping)
            with pytest.raises(asyncio.CancelledError):
                await stopping
            assert_given_up(flow)
            await flow.stop_async()

    run_watched(main())


def test_a_close_that_is_cancelled_does_not_drain(stuck_flow):
    async def use():
        async with stuck_flow as flow:
            await flow.start_async()
            await turns_until(flow.modules["stuck"].entered.is_set)

    async def main():
        using = asyncio.create_task(use())
        await cancel_when(stuck_flow.modules["count"].stopped, using)
        with pytest.raises(asyncio.CancelledError):
            await using

    run_watched(main())
    assert_given_up(stuck_flow)


def test_a_task_whose_loop_was_closed_over_it_does_not_drain(stuck_flow):
    """Nothing can be awaited any more, so its flow is closed where it is."""

    async def main():
        async with stuck_flow as flow:
            await flow.run_async()

    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    loop.run_until_complete(turns_until(stuck_flow.modules["stuck"].entered.is_set))
    loop.close()
    task.get_coro().close()
    task._log_destroy_pending = False

    assert "closed" in repr(stuck_flow)
    assert_given_up(stuck_flow)


def test_a_block_generator_that_is_closed_stops_its_flow():
    """Closing it is no closed loop: its flow drains as always."""

    async def blocks(flow):
        async with flow:
            pipe = flow.connect(flow.add(Count(), name="count").out, "app", buffer_size=2)
            await flow.start_async()
            async for block in pipe:
                yield block

    async def main():
        flow = DataFlowCoordinator("generator")
        async with aclosing(blocks(flow)) as generator:
            assert (await anext(generator)).sequence == 0
        assert "closed" in repr(flow)
        assert flow.report().modules["count"].state == "stopped"

    run_watched(main())


# --- modules that would wait for themselves ---------------------------------------------------------------------------


class EndsItself(Module):
    data = Input(NUMBER)

    def __init__(self, flow, how):
        self.flow = flow
        self.how = how
        self.refused = None

    async def process(self, data):
        try:
            await self.how(self.flow)
        except StateError as refused:
            self.refused = str(refused)


async def leave(flow):
    async with flow:
        pass


@pytest.mark.parametrize(
    ("how", "action"),
    [(DataFlowCoordinator.stop_async, "stop"), (leave, "close"), (DataFlowCoordinator.run_async, None)],
)
def test_an_asynchronous_module_cannot_wait_for_its_own_flow(how, action):
    with DataFlowCoordinator("itself") as flow:
        count, ends = flow.add(Count(3)), flow.add(EndsItself(flow, how), name="ends")
        flow.connect(count.out, ends.data, buffer_size=4)
        metrics = flow.run().pipelines["count.out->ends.data"]

    assert metrics.delivered == metrics.sent == 3
    expected = "expected a flow that has not been started" if action is None else f"cannot {action} here: this is the"
    assert expected in ends.refused


def test_a_run_that_is_cancelled_while_it_starts_finishes_its_start_and_stops():
    async def main():
        async with DataFlowCoordinator("early") as flow:
            count, hinge = flow.add(Count()), flow.add(Hinge())
            flow.connect(count.out, hinge.data, buffer_size=8)
            hinge.opened["teardown"].set()
            running = asyncio.create_task(flow.run_async())
            await turns_until(hinge.reached["setup"].is_set)
            running.cancel()
            await turns()
            assert not running.done()
            hinge.opened["setup"].set()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert all(worker.ended for worker in flow.workers.values())

    run_watched(main())


def test_a_timeout_around_a_run_stops_it():
    async def main():
        async with DataFlowCoordinator("late") as flow:
            count, collect = flow.add(Count()), flow.add(Collect())
            flow.connect(count.out, collect.data, buffer_size=8)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await flow.run_async()
            assert all(worker.ended for worker in flow.workers.values())

    run_watched(main())


class Fail(Module):
    data = Input(NUMBER)

    def __init__(self, where="process"):
        self.where = where

    def setup(self):
        if self.where == "setup":
            raise ValueError("not today")

    def process(self, data):
        raise ValueError("not this one")


def test_a_failed_run():
    async def main():
        async with DataFlowCoordinator("failing") as flow:
            count, fail = flow.add(Count(5)), flow.add(Fail(), worker="other")
            flow.connect(count.out, fail.data, buffer_size=8)
            with pytest.raises(FlowFailed) as failed:
                await flow.run_async()
        return failed.value

    failed = run_watched(main())
    assert [type(problem) for problem in failed.exceptions] == [ModuleFailed]
    assert failed.report.modules["fail"].state == "failed"


def test_a_failed_start():
    async def main():
        async with DataFlowCoordinator("failing") as flow:
            count, fail = flow.add(Count(5)), flow.add(Fail("setup"))
            flow.connect(count.out, fail.data, buffer_size=8)
            with pytest.raises(FlowFailed, match="not today"):
                await flow.run_async()

    run_watched(main())


def test_an_impossible_description():
    async def main():
        async with DataFlowCoordinator("impossible") as flow:
            count, fail = flow.add(Count(5), worker="both"), flow.add(Fail(), placement="process", worker="both")
            flow.connect(count.out, fail.data, buffer_size=8)
            with pytest.raises(ConfigurationError, match="expected one placement"):
                await flow.run_async()
            with pytest.raises(ConfigurationError, match="expected one placement"):
                await flow.start_async()

    run_watched(main())


def test_a_failure_of_the_flow_is_noted_on_the_exception_that_leaves():
    async def main():
        async with DataFlowCoordinator("noted") as flow:
            flow.register_pipeline("app", flow.add(Fail(), name="fail").data, PipelineConfig(buffer_size=4), NUMBER)
            await flow.start_async()
            flow.send_data("app->fail.data", np.array([1], np.int64))
            await turns_until(lambda: flow.report().modules["fail"].state == "failed")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as left:
        run_watched(main())
    assert any("not this one" in note for note in left.value.__notes__)


def test_what_a_flow_sends_arrives_in_the_loop():
    async def main():
        async with DataFlowCoordinator("out") as flow:
            count = flow.add(Count(200), name="count")
            pipe = flow.connect(count.out, "app", buffer_size=4)
            await flow.start_async()
            received = [int(block.samples[0]) async for block in pipe]
            report = await flow.stop_async()
        assert report.pipelines[pipe.id].delivered == 200
        return received

    assert run_watched(main()) == list(range(200))


def test_a_flow_that_fails_ends_the_wait_of_the_loop():
    """Its open end gets the end of the stream, or is closed, whatever comes first; never nothing."""

    async def main():
        async with DataFlowCoordinator("gone") as flow:

            class Broken(Source):
                out = Output(NUMBER)

                def produce(self):
                    yield
                    raise ValueError("unplugged")

            broken = flow.add(Broken(), name="broken")
            pipe = flow.connect(broken.out, "app", buffer_size=4)
            await flow.start_async()
            with pytest.raises(EndOfStream):
                await pipe.receive_async(LIMIT_S)
            with pytest.raises(FlowFailed, match="unplugged"):
                await flow.stop_async()

    run_watched(main())


def test_giving_up_reaches_a_task_that_receives():
    """A module that never comes back keeps the end of the stream from coming."""
    entered, release = threading.Event(), threading.Event()

    class Stuck(Source):
        out = Output(NUMBER)

        def produce(self):
            entered.set()
            release.wait(LIMIT_S)
            yield

    async def main():
        async with DataFlowCoordinator("stuck") as flow:
            stuck = flow.add(Stuck(), name="stuck")
            pipe = flow.connect(stuck.out, "app", buffer_size=4)
            await flow.start_async()
            receiving = asyncio.create_task(pipe.receive_async())
            await turns_until(entered.is_set)
            await flow.stop_async(drain_timeout_s=0.01)
            with pytest.raises(StateError, match="the flow was closed"):
                await asyncio.wait_for(receiving, LIMIT_S)
            release.set()

    run_watched(main())


class KillsItself(Module):
    data = Input(NUMBER)
    out = Output(NUMBER)

    async def process(self, data):
        if data.sequence == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return data


def test_a_killed_worker_ends_the_waits_of_the_loop():
    async def main():
        async with DataFlowCoordinator("killed") as flow:
            killed = flow.add(KillsItself(), name="killed", placement="process")
            config = PipelineConfig(buffer_size=2, backpressure_strategy=Wait())
            source = flow.pipeline(flow.register_pipeline("app", killed.data, config, NUMBER))
            target = flow.connect(killed.out, "app-too", buffer_size=2, backpressure_strategy=Wait())
            await flow.start_async()

            async def send():
                while True:
                    await source.send_async(np.array([1], np.int64))

            sending = asyncio.create_task(send())
            received = [block.sequence async for block in target]
            with pytest.raises(PipelineClosed, match="the flow failed: worker 'killed'"):
                await sending
            with pytest.raises(FlowFailed) as failed:
                await flow.stop_async()
            return received, failed.value.exceptions

    received, problems = run_watched(main())
    assert received == [0, 1]
    assert [type(problem) for problem in problems] == [WorkerDied]


def test_several_flows_at_once():
    async def run(blocks):
        async with DataFlowCoordinator("one of many") as flow:
            count, collect = flow.add(Count(blocks)), flow.add(Collect())
            flow.connect(count.out, collect.data, buffer_size=8, backpressure_strategy=Wait())
            await flow.run_async()
        return len(collect.values)

    async def main():
        return await asyncio.gather(*(run(blocks) for blocks in range(10, 110, 10)))

    assert run_watched(main()) == list(range(10, 110, 10))


def test_ctrl_c_drains_and_ends_the_program(tmp_path):
    script = tmp_path / "interrupted.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio
            import numpy as np
            from steadyflow import ArrayFormat, DataFlowCoordinator, Output, Source
            from steadyflow.testing import Collect

            class Count(Source):
                out = Output(ArrayFormat("int64", (1,)))
                def produce(self):
                    number = 0
                    while True:
                        self.out.send(np.array([number]))
                        number += 1
                        yield

            async def main():
                async with DataFlowCoordinator("interrupted") as flow:
                    count, collect = flow.add(Count(), placement="process"), flow.add(Collect())
                    pipe = flow.connect(count.out, collect.data, buffer_size=8)
                    running = asyncio.current_task()
                    async def tell():
                        while not pipe.has_metrics or not pipe.statistics().delivered:
                            await asyncio.sleep(0.001)
                        print("running", flush=True)
                    telling = asyncio.create_task(tell())
                    try:
                        await flow.run_async()
                    finally:
                        metrics = pipe.statistics()
                        print(metrics.sent == metrics.delivered > 0, flow.workers["count"].state, flush=True)

            asyncio.run(main())
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "running\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()

    assert out == "True ended\n"
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT


def test_a_second_ctrl_c_ends_the_program_without_the_drain(tmp_path):
    script = tmp_path / "interrupted_twice.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio
            import threading
            import numpy as np
            from steadyflow import ArrayFormat, DataFlowCoordinator, Input, Module, Output, Source, coordinator

            class Once(Source):
                out = Output(ArrayFormat("int64", (1,)))
                def produce(self):
                    self.out.send(np.array([0]))
                    while True:
                        yield
                def finish(self):
                    print("draining", flush=True)

            class Stuck(Module):
                data = Input(ArrayFormat("int64", (1,)))
                def process(self, data):
                    print("running", flush=True)
                    threading.Event().wait()

            async def main():
                flow = DataFlowCoordinator("interrupted")
                once, stuck = flow.add(Once()), flow.add(Stuck(), worker="stuck")
                pipe = flow.connect(once.out, stuck.data, buffer_size=8)
                try:
                    async with flow:
                        await flow.run_async()
                finally:
                    print(pipe.statistics().dropped, flush=True)

            coordinator.DRAIN_TIMEOUT_S = 1000.0
            asyncio.run(main())
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, "-X", "dev", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            for line in ("running\n", "draining\n"):
                assert process.stdout.readline() == line
                process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()

    assert out == "{'stopped': 1}\n"
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert not [text for text in ("RuntimeError", "Task was destroyed", "never awaited") if text in err], err
    assert process.returncode == -signal.SIGINT
