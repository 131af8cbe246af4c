"""
A worker with an event loop: its modules are coroutines, and while one awaits, the others go on.

The loop sleeps on the worker's bell. Which block is taken next is decided natively, by the same order of priority as
everywhere; each block is a task, and its slot in the ring stays claimed until that task is done with it.
"""

from __future__ import annotations

import asyncio
import inspect
import selectors
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Final, TypeVar, TypeVarTuple

from steadyflow._native import AbortFlag, Delivery, ManualTime, Segment, monotonic_ns
from steadyflow.awaiting import NEVER, BellWatch, Sender
from steadyflow.data import Block
from steadyflow.module import Module, Source, output_ports
from steadyflow.runtime.input_stages import InputStages
from steadyflow.runtime.loop import Host, Seat, WorkerLoop, due_time_ns
from steadyflow.runtime.wiring import WorkerWiring

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

IDLE_MARGIN_S: Final = 0.001
"""An event loop that something waits for so soon is not idle."""


class IdleSelector(selectors.DefaultSelector):
    """A selector that has something called when its event loop has nothing to do."""

    on_idle: Callable[[], object] | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # With a time-out of 0, a task is ready; with a short one, it soon is.
        if self.on_idle is not None and (timeout is None or timeout > IDLE_MARGIN_S):
            self.on_idle()
        return super().select(timeout)


class ManualSelector(selectors.DefaultSelector):
    """A selector that waits by a manual clock: it passes the turn on."""

    def __init__(self, turns: ManualTime) -> None:
        super().__init__()
        self._turns = turns

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        until_ns = NEVER if timeout is None else self._turns.now_ns + max(round(timeout * 1e9), 1)
        self._turns.sleep_until_readable(self.fileno(), until_ns)
        return super().select(0)


class ManualEventLoop(asyncio.SelectorEventLoop):
    """An event loop of which the time is that of a manual clock."""

    looks_up = False  # see awaiting.BellWatch

    def __init__(self, turns: ManualTime) -> None:
        super().__init__(ManualSelector(turns))
        self._turns = turns

    def time(self) -> float:
        return self._turns.now_ns / 1e9

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run it here and now: no other thread goes by the clock, and for this one it takes no time."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as problem:
            done.set_exception(problem)
        return done


class EventLoop(WorkerLoop):
    """Runs the asynchronous modules of one worker; see `WorkerLoop` for the arguments."""

    def __init__(
        self,
        wiring: WorkerWiring,
        modules: Mapping[str, Module],
        segments: dict[int, Segment],
        abort: AbortFlag,
        host: Host,
        resolve: Callable[[str], type] | None = None,
        turns: ManualTime | None = None,
    ) -> None:
        super().__init__(wiring, modules, segments, abort, host, resolve, turns)
        self._selector: IdleSelector | None = None
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        if turns is not None:
            factory = partial(ManualEventLoop, turns)
        elif wiring.realtime is not None:
            # Python's own, whatever policy the program sets: another one does not say when it is idle.
            self._selector = IdleSelector()
            factory = partial(asyncio.SelectorEventLoop, self._selector)
        self._runner = asyncio.Runner(loop_factory=factory)
        self._watch = BellWatch(self._inbox.bell, self._inbox.collect)
        for module in modules.values():
            for port in output_ports(module).values():
                port.sender = Sender(port, self._watch)
        self._tasks: set[asyncio.Task[None]] = set()
        self._producing: dict[asyncio.Task[None], Seat] = {}  # those that are in produce(), where a stop cancels them
        self._defect: BaseException | None = None
        self._closing = False
        self._let_go = asyncio.Event()  # set whenever a held source may have to look again

    def setup(self) -> bool:
        self._inbox.adopt(in_event_loop=True)
        return self._runner.run(self._set_up_all())

    def close(self) -> None:
        with self._runner:
            self._runner.run(self._close_seats())

    def run(self) -> None:
        with self._runner:
            self._runner.run(self._run())

    def detach(self) -> None:
        self._runner.close()  # where not even the setup came to its end
        for seat in self._seats.values():
            for port in output_ports(seat.module).values():
                port.sender = None
        super().detach()

    def on_idle(self, call: Callable[[], object]) -> None:
        assert self._selector is not None
        self._selector.on_idle = call

    async def _run(self) -> None:
        try:
            for seat in list(self._seats.values()):
                if isinstance(seat.module, Source):
                    self._begin(partial(self._produce, seat, seat.module))
                elif not seat.targets and not seat.is_loose:
                    self._begin(partial(self._end, seat))
            while self._has_work() and self._defect is None and not self._abort.is_set():
                self._change()
                self._let_go.set()
                if self._stopping:
                    self._stop_sources()
                    for seat in self._loose_seats():
                        self._end_module(seat)
                self._deal()
                if self._has_work():
                    await self._watch.sleep(NEVER)
            self._end_changes()
            self._await_dependents()
        finally:
            self._closing = True
            if self._is_home:
                for task in self._tasks:
                    task.cancel()
                if self._tasks:
                    await asyncio.wait(self._tasks)
                await self._close_seats()
        if self._defect is not None:
            raise self._defect

    def _has_work(self) -> bool:
        return bool(self._tasks or self._inbox.open_inputs or self._leaving or self._loose_seats())

    # --- blocks -----------------------------------------------------------------------------------------------------

    def _deal(self) -> None:
        """Give every module that is free its next block, the most urgent first."""
        while not (self._closing or self._abort.is_set()) and (delivery := self._inbox.take()) is not None:
            self._begin(partial(delivery.call, delivery))

    def _target_call(
        self, seat: Seat, process: Callable[[Block], Any], stages: InputStages | None
    ) -> Callable[..., object]:
        return partial(self._work, seat, process if stages is None else stages.push_async)

    def _flush_call(self, stages: InputStages) -> Callable[[], object]:
        return stages.flush_async

    async def _work(self, seat: Seat, process: Callable[[Block], Any], delivery: Delivery) -> None:
        block = delivery.block
        try:
            delivery.begin()
            try:
                result = await _outcome(process(block))
            finally:
                delivery.returned()
            if result is not None:
                await delivery.output_for(result).send_async(result)
        except BaseException as problem:
            if not self._is_abort(problem):
                delivery.fail()
            # Else it keeps the block, which counts as stopped when the run is accounted for.
            await self._fail_unless_aborted(seat, problem, block.sequence)
        else:
            delivery.finish()

    # --- sources ----------------------------------------------------------------------------------------------------

    async def _produce(self, seat: Seat, source: Source) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._producing[task] = seat
        try:
            await self._step_through(seat, source)
        except BaseException as problem:
            if not (task not in self._producing and isinstance(problem, asyncio.CancelledError)) or self._closing:
                if not self._is_abort(problem):
                    await self._fail(seat, problem, None)
                return
        finally:
            self._producing.pop(task, None)
        if task.cancelling():
            task.uncancel()  # that was the stop, which ends here
        await self._end(seat, "stopped" if self._stopping else "ended")

    async def _step_through(self, seat: Seat, source: Source) -> None:
        """Let a source go on from yield to yield, until it ends or the flow is stopped."""
        held_ns: int | None = None
        async with aclosing(_steps(source)) as steps:
            while not self._stopping:
                try:
                    due_ns = due_time_ns(await steps.asend(held_ns))
                except StopAsyncIteration:
                    return
                await asyncio.sleep(max(due_ns - monotonic_ns(), 0) / 1e9)
                held_ns = await self._while_held(seat.name)
                if held_ns is not None and due_ns:
                    # It slept while it was held, but what was due then is due later by as much.
                    await asyncio.sleep(max(min(due_ns + held_ns - monotonic_ns(), held_ns), 0) / 1e9)

    async def _while_held(self, module: str) -> int | None:
        """Wait for as long as a source is held; return how long that was in ns, None for not at all."""
        while module in self._held and not self._stopping:
            self._let_go.clear()
            await self._let_go.wait()
        return self._held_for_ns.pop(module, None)

    def _stop_sources(self) -> None:
        for task in list(self._producing):
            self._stop_source(task)

    def _stop_source(self, task: asyncio.Task[None]) -> None:
        del self._producing[task]  # so that it knows that it was stopped
        task.cancel()

    def _end_module(self, seat: Seat) -> None:
        producing = [task for task, theirs in self._producing.items() if theirs is seat]
        for task in producing:
            self._stop_source(task)
        if not producing and seat.state == "running":
            seat.is_loose = False
            self._carry_out(seat, partial(self._end, seat))

    # --- what every call of a module goes through ---------------------------------------------------------------------

    async def _run_method(self, seat: Seat, method: Callable[[], Any]) -> None:
        seat.context.busy = True
        try:
            await _outcome(method())
        finally:
            seat.context.busy = False

    def _is_abort(self, problem: BaseException) -> bool:
        return super()._is_abort(problem) or (self._closing and isinstance(problem, asyncio.CancelledError))

    def _carry_out(self, seat: Seat, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        seat.context.busy = (
            True  # from now on and not from the task's first step: what still waits is not for it any more
        )
        self._begin(work)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        task = asyncio.get_running_loop().create_task(self._to_its_end(work))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def _to_its_end(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        await work()
        self._deal()  # its module is free again

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (defect := task.exception()) is not None:
            self._defect = self._defect or defect
        if self._defect is not None or not self._has_work():
            self._watch.wake()


async def _outcome(result: Any) -> Any:
    """Return what a method returned, which may have been written as ``def`` or as ``async def``."""
    return await result if inspect.isawaitable(result) else result


def _steps(source: Source) -> AsyncGenerator[int | None, int | None]:
    steps: object = source.produce()
    if not isinstance(steps, AsyncGenerator):
        raise TypeError(
            f"expected produce() to be an asynchronous generator, with a yield after each send; got {steps!r}"
        )
    return steps  # what it is sent says for how long it was held
