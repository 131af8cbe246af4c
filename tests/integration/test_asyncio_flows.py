"""Flows in event loops: start, run, stop and close leave the loop free, and can be cancelled."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading

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
)
from steadyflow.errors import ConfigurationError, ModuleFailed, StateError, WorkerDied
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
