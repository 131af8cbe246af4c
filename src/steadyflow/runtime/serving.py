"""
A worker that calls its modules one after the other: by `Inbox.serve`, natively, or a source's next step.

The hot path is not here. This file decides only what happens between blocks: which source is stepped, and for how long.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterator
from functools import partial
from typing import Any, Final, TypeVar

from steadyflow._native import monotonic_ns
from steadyflow.data import Block
from steadyflow.errors import DeviceLost, DeviceUnavailable
from steadyflow.module import Source, output_ports
from steadyflow.runtime.absence import Absence
from steadyflow.runtime.alignment import Alignment
from steadyflow.runtime.failure_text import in_one_line
from steadyflow.runtime.input_stages import InputStages
from steadyflow.runtime.loop import Seat, WorkerLoop, due_time_ns

T = TypeVar("T")

# Blocks served between two steps of a source that is always ready: enough to keep up with what it sends.
_BLOCKS_PER_STEP: Final = 256
_FOREVER: Final = -1
_LOOK_NS: Final = 1_000_000  # between two looks at an input whose bell is not rung here
_ALL: Final = 1 << 62
_LOOK_WHILE_IDLE_NS: Final = 1_000_000_000  # with nothing to wait for but being told to go on


class _Production:
    """A source's generator, and when it wants to go on."""

    __slots__ = ("begun", "due_ns", "held_ns", "seat", "steps")

    def __init__(self, seat: Seat, steps: Iterator[int | None]) -> None:
        self.seat = seat
        self.steps = steps
        self.due_ns = 0
        self.held_ns = 0  # at its latest yield
        self.begun = False

    def note_held(self, held_ns: int) -> None:
        """What was due while it was held is due later by as much."""
        self.held_ns += held_ns
        if self.due_ns:
            self.due_ns += held_ns

    def go_on(self) -> int | None:
        """Take a step; where it was held at its yield, that says for how long."""
        if self.held_ns and self.begun and isinstance(self.steps, Generator):
            held_ns, self.held_ns = self.held_ns, 0
            due_ns: int | None = self.steps.send(held_ns)
            return due_ns
        self.begun = True
        return next(self.steps)


class ServingLoop(WorkerLoop):
    """Runs the modules of one worker by calling them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._away: set[str] = set()  # modules whose device is being looked for
        self._productions: list[_Production] = []

    def setup(self) -> bool:
        self._inbox.adopt(in_event_loop=False)
        return _at_once(self._set_up_all())

    def close(self) -> None:
        _at_once(self._close_seats())

    def run(self) -> None:
        productions = self._productions
        try:
            for seat in list(self._seats.values()):
                if isinstance(seat.module, Source):
                    self._begin(seat, seat.module, productions)
                elif not seat.targets and not seat.is_loose:
                    _at_once(self._end(seat))
            while not self._abort.is_set():
                self._attention = False  # before looking at what it may have been set for
                self._change()
                if self._stopping:
                    self._stop(productions)
                    for seat in self._loose_seats():
                        _at_once(self._end(seat))
                if productions:
                    self._turn(productions)
                elif self._inbox.open_inputs:
                    self._serve(_FOREVER, _ALL)
                elif self._loose_seats():
                    self._serve(monotonic_ns() + _LOOK_WHILE_IDLE_NS, _ALL)
                else:
                    break
            self._end_changes()
            self._await_dependents()
        finally:
            if self._is_home:
                for production in productions:
                    self._close_generator(production)
                _at_once(self._close_seats())

    def on_idle(self, call: Callable[[], object]) -> None:
        self._inbox.on_idle(call)

    def _target_call(
        self, seat: Seat, process: Callable[[Block], Any], stages: InputStages | None
    ) -> Callable[..., object]:
        return process if stages is None else stages.push

    def _flush_call(self, stages: InputStages) -> Callable[[], object]:
        return stages.flush

    async def _run_method(self, seat: Seat, method: Callable[[], Any]) -> None:
        self._inbox.call(seat.context, method)

    def _carry_out(self, seat: Seat, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        _at_once(work())

    def _begin(self, seat: Seat, source: Source, productions: list[_Production]) -> None:
        try:
            steps: object = source.produce()
            if not isinstance(steps, Iterator):
                raise TypeError(f"expected produce() to be a generator, with a yield after each send; got {steps!r}")
        except BaseException as problem:
            _at_once(self._fail(seat, problem, None))
        else:
            productions.append(_Production(seat, steps))

    def _turn(self, productions: list[_Production]) -> None:
        now = monotonic_ns()
        for production in productions if self._held_for_ns else ():
            production.note_held(self._held_for_ns.pop(production.seat.name, 0))
        going_on = [production for production in productions if production.seat.name not in self._held]
        first = next((production for production in going_on if production.due_ns <= now), None)
        if first is None:
            until_ns = min((production.due_ns for production in going_on), default=now + _LOOK_WHILE_IDLE_NS)
            self._serve(until_ns, _BLOCKS_PER_STEP)
            return
        alone = len(productions) == 1 and self._inbox.open_inputs == 0
        productions.remove(first)
        if self._step(first, alone):
            # To the end of the line: sources that are always ready take turns.
            productions.append(first)
        if self._inbox.open_inputs:
            self._serve(0, _BLOCKS_PER_STEP)

    def _serve(self, until_ns: int, limit: int) -> None:
        """Serve blocks, as `Inbox.serve` does, and then call the modules whose time has come."""
        if self._unrung:
            for pipeline in self._unrung:
                self._inbox.hold(pipeline, False)  # so that it is looked at
            look_ns = monotonic_ns() + _LOOK_NS
            until_ns = look_ns if until_ns == _FOREVER else min(until_ns, look_ns)
        if not self._timed:
            self._inbox.serve(until_ns, limit)
            return
        times = [until_ns] if until_ns != _FOREVER else []
        times += [deadline_ns for _, _, deadline_ns in self._deadlines()]
        # Blocks first: what is waited for may be there already.
        self._inbox.serve(min(times, default=_FOREVER), min(limit, _BLOCKS_PER_STEP))
        now_ns = monotonic_ns()
        for seat, alignment, deadline_ns in self._deadlines():
            if deadline_ns <= now_ns:
                _at_once(self._call(seat, partial(alignment.expire, now_ns)))

    def _deadlines(self) -> list[tuple[Seat, Alignment, int]]:
        return [
            (seat, alignment, deadline_ns)
            for seat, alignment in self._timed
            if seat.state == "running" and (deadline_ns := alignment.deadline_ns) is not None
        ]

    def _step(self, production: _Production, alone: bool) -> bool:
        """
        Let a source go on: to its next yield, or, where the worker has nothing else to do, until it wants to wait.

        Returns False when it has ended.
        """
        seat, ended = production.seat, False
        try:
            due_ns = production.go_on()
            while due_ns is None and alone and not self._attention:
                due_ns = next(production.steps)
            production.due_ns = 0 if due_ns is None else due_time_ns(due_ns)
        except StopIteration:
            ended = True
        except BaseException as problem:
            source = seat.module
            if isinstance(problem, DeviceLost) and isinstance(source, Source) and source.reopens:
                self._away.add(seat.name)
                production.steps, production.begun = self._find_again(seat, source, in_one_line(problem)), False
                return True
            if not self._is_abort(problem):
                _at_once(self._fail(seat, problem, None))
            return False
        if ended:
            _at_once(self._end(seat))
        return not ended

    def _find_again(self, seat: Seat, source: Source, problem: str) -> Iterator[int | None]:
        """Look for a device until it is back, and then go on producing."""
        absence = Absence(seat.name, problem)
        self._host.device_lost(seat.name, problem)
        while seat.name in self._away:
            yield monotonic_ns() + round(absence.pause_s * 1e9)
            absence.attempts += 1
            try:
                self._inbox.call(seat.context, source.setup)
                steps: Any = source.produce()
                first_due_ns = next(steps, None)  # by then it has started
            except (DeviceUnavailable, DeviceLost) as still_away:
                absence.problem = in_one_line(still_away)
                continue
            self._away.discard(seat.name)
        self._host.device_recovered(seat.name, absence.seconds, absence.attempts)
        yield first_due_ns
        yield from steps

    def _end_module(self, seat: Seat) -> None:
        for production in [each for each in self._productions if each.seat is seat]:
            self._productions.remove(production)
            self._close_generator(production)
        if seat.state == "running":
            _at_once(self._end(seat))

    def _stop(self, productions: list[_Production]) -> None:
        for production in list(productions):
            seat = production.seat
            if seat.fed_by and seat.state == "running" and seat.name not in self._away:
                # It ends when it has played what still comes.
                for port in output_ports(seat.module).values():
                    port.end()
                continue
            productions.remove(production)
            self._close_generator(production)
            if seat.state == "running":
                _at_once(self._end(seat, "stopped"))

    def _close_generator(self, production: _Production) -> None:
        close = getattr(production.steps, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as problem:
                _at_once(self._fail(production.seat, problem, None))


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in which nothing is awaited that would have to wait."""
    try:
        work.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    work.close()
    raise RuntimeError("a module without an event loop was waited for")
