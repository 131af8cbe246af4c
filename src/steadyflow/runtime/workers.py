"""Workers as the coordinator sees them: a thread of its own process, or a process, with one interface."""

from __future__ import annotations

import contextlib
import os
import site
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from steadyflow._native import AbortFlag, ManualTime, Segment
from steadyflow.errors import ConfigurationError, CorruptedSegment, FlowError, ModuleFailed, SystemShortage, WorkerDied
from steadyflow.events import FlowEvent
from steadyflow.module import Module
from steadyflow.runtime.absence import Absence
from steadyflow.runtime.changes import OVER, WITHDRAWN, Change
from steadyflow.runtime.channel import (
    Abort,
    Changed,
    Channel,
    ChannelBroken,
    Done,
    Failed,
    Hold,
    InputLeft,
    LetDown,
    Lost,
    ModuleReports,
    Ready,
    Revoked,
    Setup,
    Start,
    Stop,
    Withdraw,
)
from steadyflow.runtime.failure_text import explanation, in_one_line
from steadyflow.runtime.loops import make_loop
from steadyflow.runtime.main_script import main_script_package, main_script_path
from steadyflow.runtime.pools import pool_environment
from steadyflow.runtime.scheduling import Scheduling
from steadyflow.runtime.wiring import WorkerWiring

WorkerState: TypeAlias = Literal["created", "starting", "ready", "running", "recovering", "ended", "failed", "died"]

LONGEST_ATTEMPT_S: Final = 10.0
"""How long a process may need to find the device, before it is killed and another one tries."""

_BEGUN_TIMEOUT_S: Final = 60.0  # for a change that cannot be taken back any more


class Owner(Protocol):
    """Who is told what happens to workers: the coordinator. Called from any thread; must not block."""

    def worker_ready(self, worker: Worker) -> None:
        """Tell that setup has succeeded."""

    def worker_failed(self, worker: Worker, problem: Exception, module: str | None) -> None:
        """Tell that a module raised, or that the worker could not be built."""

    def worker_died(self, worker: Worker, problem: WorkerDied) -> None:
        """Tell that a process ended unasked; its process number may be reclaimed."""

    def realtime_revoked(self, worker: Worker, module: str | None, reason: str) -> None:
        """Tell that a process has lost its real-time priority, because it kept a core to itself."""

    def worker_lost(self, worker: Worker, module: str, problem: str) -> None:
        """Tell that a process ended because its device was lost, and that another one will follow it."""

    def worker_recovered(self, worker: Worker, module: str, away_s: float, attempts: int) -> None:
        """Tell that another process has found the device again."""

    def worker_given_up(self, worker: Worker) -> None:
        """Tell that no other process follows the one that was lost, because the flow stops."""

    def device_lost(self, worker: Worker, module: str, problem: str) -> None:
        """Tell that a module has lost its device, and looks for it where it is."""

    def device_recovered(self, worker: Worker, module: str, away_s: float, attempts: int) -> None:
        """Tell that it has found it again."""

    def worker_ended(self, worker: Worker) -> None:
        """Tell that nothing of the worker runs any more; called once for each started worker."""

    def input_left(self, worker: Worker, pipeline: str) -> None:
        """Tell that all that came from a pipeline which was taken away has been taken."""

    def happened(self, worker: str, event: FlowEvent) -> None:
        """Tell an event of a worker, or of a module in it, in the order in which they happened there."""


class Worker:
    """
    What every worker has. Public as ``flow.workers[name]``.

    Args:
        wiring: What it runs.
        owner: Who is told.
    """

    lost_events = 0
    """How many events of a process had no room on their way."""

    pid: int | None = None
    """Process id; of this process for a thread."""

    scheduling: Scheduling = Scheduling()
    """What was asked of the system with ``realtime=True``, and what it granted."""

    @property
    def problem(self) -> str | None:
        """What keeps it from running, while it is ``"recovering"``."""
        return None

    def __init__(self, wiring: WorkerWiring, owner: Owner) -> None:
        self.name = wiring.name
        self.wiring = wiring
        self.state: WorkerState = "created"
        self._owner = owner

    @property
    def realtime(self) -> bool:
        """Whether it has real-time scheduling."""
        return self.scheduling.realtime

    @property
    def realtime_refusal(self) -> str | None:
        """Why the system did not grant real-time scheduling, where it was asked for, and how to allow it."""
        return self.scheduling.notice

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in ("ended", "failed", "died", "created")

    @property
    def is_this_thread(self) -> bool:
        """Whether its modules are what calls."""
        return False

    def launch(self) -> None:
        """Begin setting up; `Owner.worker_ready` or `Owner.worker_failed` follows."""
        raise NotImplementedError

    def start(self) -> None:
        """Let the sources produce."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the sources; the rest drains."""
        raise NotImplementedError

    def hold_source(self, module: str, held: bool) -> None:
        """Let a source produce nothing, or go on. Of a worker that was started; does not wait."""
        raise NotImplementedError

    def let_down(self) -> None:
        """Say that nobody depends on its modules any more. Does not wait."""
        raise NotImplementedError

    def begin_change(self, change: Change, answer: Callable[[str | None], None]) -> None:
        """
        Have something changed between two blocks. Of a worker that runs; does not wait.

        Args:
            change: What.
            answer: Called once, in any thread: with None when it was done, or with the reason why nothing was.
        """
        raise NotImplementedError

    def withdraw_change(self, number: int) -> None:
        """Take back a change that has not begun; the answer comes in any case. Does not wait."""
        raise NotImplementedError

    def abort(self) -> None:
        """Give up what waits."""
        raise NotImplementedError

    def kill(self) -> bool:
        """End it by force; False where that is impossible (a thread)."""
        raise NotImplementedError

    def join(self, timeout_s: float | None) -> bool:
        """Wait until it has ended; False after the time."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of the shared memory. After it has ended."""
        raise NotImplementedError

    def forget(self) -> None:
        """Give up the worker in a forked child, where it does not run."""

    def module_reports(self) -> ModuleReports:
        """Return what its modules did, as far as known."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.state}, pid {self.pid}>"


class ThreadWorker(Worker):
    """
    A worker in a thread of the coordinator's process; shares its interpreter lock.

    Args:
        modules: The instances it runs, by name.
        segments: The flow's segments.
        abort_flag: Shared by all threads of the flow.
        turns: Where the flow freewheels: the turns that this thread takes with others, and the time it goes by.
        order: Among those that take turns.
    """

    def __init__(
        self,
        wiring: WorkerWiring,
        owner: Owner,
        modules: Mapping[str, Module],
        segments: dict[int, Segment],
        abort_flag: AbortFlag,
        turns: ManualTime | None = None,
        order: int = 0,
    ) -> None:
        super().__init__(wiring, owner)
        self.pid = os.getpid()
        self._turns = turns
        self._order = order
        self._answers: dict[int, Callable[[str | None], None]] = {}
        self._loop = make_loop(wiring, modules, segments, abort_flag, self, turns=turns)
        self._released = threading.Event()
        self._go = False
        self._thread = threading.Thread(target=self._run, name=f"steadyflow-{wiring.name}", daemon=True)

    @property
    def is_this_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def launch(self) -> None:
        self.state = "starting"
        self._thread.start()

    def start(self) -> None:
        self._go = True
        self._released.set()

    def stop(self) -> None:
        self._released.set()
        self._loop.stop()

    def hold_source(self, module: str, held: bool) -> None:
        self._loop.hold_source(module, held)

    def let_down(self) -> None:
        self._loop.let_down()

    def begin_change(self, change: Change, answer: Callable[[str | None], None]) -> None:
        self._answers[change.number] = answer
        self._loop.submit(change, partial(self._answer, change.number))

    def withdraw_change(self, number: int) -> None:
        if self._loop.withdraw(number):
            self._answer(number, WITHDRAWN)

    def _answer(self, number: int, problem: str | None) -> None:
        answer = self._answers.pop(number, None)
        if answer is not None:
            answer(problem)

    def abort(self) -> None:
        self._released.set()
        self._loop.let_down()
        self._loop.interrupt()

    def kill(self) -> bool:
        return False

    def join(self, timeout_s: float | None) -> bool:
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def release(self) -> None:
        """Nothing to do: the loop let go of it at its end."""

    def module_reports(self) -> ModuleReports:
        return self._loop.module_reports()

    def module_failed(self, module: str, problem: Exception, text: str, block_sequence: int | None) -> None:
        """See `loop.Host`."""
        if isinstance(problem, CorruptedSegment):
            self._owner.worker_failed(self, problem, module)  # the module is not to blame
            return
        failure = ModuleFailed(
            module,
            self.name,
            in_one_line(problem),
            block_sequence=block_sequence,
            traceback_text=text,
            explanation=explanation(problem, block_sequence),
        )
        failure.__cause__ = problem
        self._owner.worker_failed(self, failure, module)

    def publish(self, event: FlowEvent) -> None:
        """See `loop.Host`."""
        self._owner.happened(self.name, event)

    def input_left(self, pipeline: str) -> None:
        """See `loop.Host`."""
        self._owner.input_left(self, pipeline)

    def device_lost(self, module: str, problem: str) -> None:
        """See `loop.Host`."""
        self._owner.device_lost(self, module, problem)

    def device_recovered(self, module: str, away_s: float, attempts: int) -> None:
        """See `loop.Host`."""
        self._owner.device_recovered(self, module, away_s, attempts)

    def _run(self) -> None:
        if self._turns is None:
            self._live()
            return
        self._turns.keep()
        try:
            self._live()
        finally:  # after the end was told: who sees that nobody is left sees that they have ended
            self._turns.leave()

    def _sit_down(self) -> None:
        """Wait for one's turn."""
        if self._turns is not None:
            self._turns.take_seat(self._order)

    def _live(self) -> None:
        state: WorkerState = "ended"
        try:
            self._sit_down()
            if self._loop.setup():
                if self._turns is not None:
                    self._turns.leave_seat()  # what follows waits for the others
                self.state = "ready"
                self._owner.worker_ready(self)
                self._released.wait()
                self._sit_down()
                if self._go:
                    self.state = "running"
                    self._loop.run()
                else:
                    self._loop.close()
            else:
                state = "failed"
                self._loop.close()
        except CorruptedSegment as damage:
            state = "failed"
            self._owner.worker_failed(self, damage, None)
        except BaseException as problem:  # a defect of the runtime itself: the flow must hear of it, not only stderr
            if os.getpid() != self.pid:
                raise  # a module forked, and the child came back from it
            state = "failed"
            failure = FlowError(f"worker {self.name!r} failed: {type(problem).__name__}: {problem}")
            failure.__cause__ = problem
            self._owner.worker_failed(self, failure, None)
        finally:
            if os.getpid() == self.pid:
                self._loop.detach()
                self.state = state
                self._owner.worker_ended(self)


class ProcessWorker(Worker):
    """
    A worker in a process: its own interpreter, so its own interpreter lock.

    Where it holds nothing but devices, another process follows one that has lost its device, until the flow stops: audio
    libraries cannot find a device again in the process that has lost it. The data plane is made for that: what the process had
    in hand is taken over as if it had been killed.

    Args:
        flow: The name of the flow.
        segments: The flow's segments; their descriptors go to the process.
    """

    def __init__(self, wiring: WorkerWiring, owner: Owner, flow: str, segments: dict[int, Segment]) -> None:
        super().__init__(wiring, owner)
        self._flow = flow
        self._segments = segments
        self._reports: ModuleReports = {}
        self._done = False
        self._killed = False
        self._leaving = threading.Event()  # told to end
        self._lost: Lost | None = None
        self._absence: Absence | None = None
        self._started = False
        self._answering = threading.Lock()
        self._answers: dict[int, Callable[[str | None], None]] = {}  # by the number of the change
        self._is_over = False  # nobody answers any more
        self._patience: threading.Timer | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._lifeline: int | None = None
        self._monitor = threading.Thread(target=self._listen, name=f"steadyflow-monitor-{wiring.name}", daemon=True)

    @property
    def problem(self) -> str | None:
        absence = self._absence
        return None if absence is None else absence.problem

    def launch(self) -> None:
        self.state = "starting"
        try:
            self._bring_up()
        except OSError as error:
            problem = SystemShortage(f"worker {self.name!r}: its process could not be started: {error}")
            self.state = "failed"
            self._owner.worker_failed(self, problem, None)
            self._owner.worker_ended(self)
            return
        self._monitor.start()

    def _bring_up(self) -> None:
        self._channel = channel = Channel(self._spawn())
        assert self._process is not None
        reaper = partial(_reap, self._process, channel)
        threading.Thread(target=reaper, name=f"steadyflow-reaper-{self.name}", daemon=True).start()
        wiring = msgspec.to_builtins(self.wiring, builtin_types=(bytes,))
        bells, numbers = self.wiring.bells(), self.wiring.segments()
        setup = Setup(
            self._flow,
            numbers,
            bells,
            wiring,
            _import_path(),
            list(sys.argv),
            main_script_path(),
            main_script_package(),
        )
        descriptors = [self._segments[number].descriptor for number in numbers]
        for segment, offset in bells:
            descriptors.extend(self._segments[segment].bell_descriptors(offset))
        self._send(setup, descriptors)

    def start(self) -> None:
        self._started = True
        if self.state == "ready":
            self.state = "running"
        self._send(Start())

    def stop(self) -> None:
        self._leaving.set()
        self._send(Stop())

    def hold_source(self, module: str, held: bool) -> None:
        self._send(Hold(module, held))

    def let_down(self) -> None:
        self._send(LetDown())

    def begin_change(self, change: Change, answer: Callable[[str | None], None]) -> None:
        with self._answering:
            if not self._is_over:
                self._answers[change.number] = answer
        if change.number not in self._answers:
            answer(OVER)
            return
        descriptors = [self._segments[number].descriptor for number in change.segments]
        for segment, offset in change.bells:
            descriptors.extend(self._segments[segment].bell_descriptors(offset))
        self._send(change, descriptors)

    def withdraw_change(self, number: int) -> None:
        self._send(Withdraw(number))

    def _answer(self, number: int, problem: str | None) -> None:
        with self._answering:
            answer = self._answers.pop(number, None)
        if answer is not None:
            answer(problem)

    def abort(self) -> None:
        self._leaving.set()
        self._send(Abort())

    def forget(self) -> None:
        """Give up the worker without a word to it: it belongs to the process that this one was forked from."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.returncode = 0  # no child of this process: nothing to wait for, to kill, or to warn of

    def kill(self) -> bool:
        self._leaving.set()
        if self._process is not None and self._process.poll() is None:
            self._killed = True
            self._process.kill()
        return True

    def join(self, timeout_s: float | None) -> bool:
        if self._monitor.ident is not None and threading.current_thread() is not self._monitor:
            self._monitor.join(timeout_s)
        return not self._monitor.is_alive()

    def release(self) -> None:
        self._segments = {}

    def module_reports(self) -> ModuleReports:
        return self._reports

    def _send(
        self,
        message: Setup | Start | Stop | Hold | LetDown | Change | Withdraw | Abort,
        descriptors: list[int] | None = None,
    ) -> None:
        if self._channel is None:
            return  # never came up, which has been reported
        try:
            self._channel.send(message, descriptors)
        except ChannelBroken:
            # The process is gone; the monitor sees the same and reports it with the cause of death.
            return

    def _spawn(self) -> socket.socket:
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            control, their_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(control.close)
            theirs.callback(their_control.close)
            reader, writer = os.pipe()
            undo.callback(os.close, writer)
            theirs.callback(os.close, reader)
            self._process = subprocess.Popen(
                [*interpreter(), "-m", "steadyflow.runtime.worker", str(their_control.fileno()), str(reader)],
                stdin=subprocess.DEVNULL,
                pass_fds=(their_control.fileno(), reader),
                env=environment(self.wiring.realtime is not None),
                # A terminal's Ctrl-C goes to its whole process group; this worker is stopped by the coordinator.
                start_new_session=True,
            )
            undo.pop_all()
        self.pid = self._process.pid
        self._lifeline = writer
        _lifelines.add(writer)
        return control

    def _listen(self) -> None:
        try:
            self._converse()
            while self._conclude():
                if not self._follow():
                    self._give_up()
                    break
                self._converse()
                self._end_patience()
        finally:
            with self._answering:
                self._is_over = True
            for number in list(self._answers):
                self._answer(number, OVER)
            self._owner.worker_ended(self)

    def _converse(self) -> None:
        """Listen to a process until it has ended."""
        assert self._channel is not None
        assert self._process is not None
        try:
            while True:
                self._take(self._channel.receive())
        except ChannelBroken:
            self._process.wait()

    def _take(self, message: object) -> None:
        match message:
            case Ready():
                self.scheduling = message.scheduling
                if self._absence is not None:
                    self._return()
                    return
                self.state = "ready"
                self._owner.worker_ready(self)
            case Changed():
                self._answer(message.number, message.problem)
            case InputLeft():
                self._owner.input_left(self, message.pipeline)
            case Lost():
                self._lost = message
            case Failed() if self._absence is not None:
                self._absence.problem = message.problem  # the device is not there yet; that is no failure
            case Failed():
                if self.state == "starting" or message.module is None:
                    self.state = "failed"
                self._owner.worker_failed(self, self._failure(message), message.module)
            case Revoked():
                self.scheduling = self.scheduling.revoked(message.reason)
                self._owner.realtime_revoked(self, message.module, message.reason)
            case Done():
                self._reports = message.modules
                self.lost_events = message.lost_events
                self._done = True
            case _:
                raise ChannelBroken(f"a worker never sends {type(message).__name__}")

    def _failure(self, told: Failed) -> Exception:
        if told.pipeline is not None:
            return CorruptedSegment(told.problem, pipeline=told.pipeline)
        if told.module is None:
            return FlowError(f"worker {self.name!r} could not be built: {told.problem}\n{told.text}")
        return ModuleFailed(
            told.module,
            self.name,
            told.problem,
            block_sequence=told.block_sequence,
            traceback_text=told.text,
            explanation=told.explanation,
        )

    def _conclude(self) -> bool:
        """Find out what the end of a process means; True if another one is to follow it."""
        assert self._channel is not None
        assert self._process is not None
        assert self._lifeline is not None
        code = self._process.returncode
        self._channel.close()
        _lifelines.discard(self._lifeline)
        os.close(self._lifeline)
        if self._done and code == 0:
            self.state = "ended"
        elif self._may_be_followed(code):
            return True
        elif self._absence is not None:
            self._give_up()
        elif self.state == "failed" or self._killed:
            self.state = "failed"
        elif code != 0 or not self._leaving.is_set():
            self.state = "died"
            self._owner.worker_died(self, self._death(code))
        else:
            self.state = "ended"  # before it was started
        return False

    def _death(self, code: int) -> WorkerDied:
        pid = self._process.pid if self._process else 0
        return WorkerDied(self.name, pid, signal=-code if code < 0 else None, exit_code=code if code >= 0 else None)

    # --- a device that was lost ---------------------------------------------------------------------------------------

    def _may_be_followed(self, code: int) -> bool:
        if not self.wiring.restartable or not self._started or self.state == "failed" or self._killed:
            return False
        if self._leaving.is_set() and self._absence is not None:
            return False
        if self._absence is None:
            # A process that crashed is a device that was lost: nothing else is in it.
            lost = self._lost or Lost(self.wiring.modules[0].name, str(self._death(code)))
            self._absence = Absence(lost.module, lost.problem)
            self.state = "recovering"
            self._owner.worker_lost(self, lost.module, lost.problem)
        self._lost = None
        return True

    def _follow(self) -> bool:
        """Start another process, some time after the last one; False if the flow stops before."""
        assert self._absence is not None
        while not self._leaving.wait(self._absence.pause_s):
            self._absence.attempts += 1
            try:
                self._bring_up()
            except OSError as error:
                self._absence.problem = f"its process could not be started: {error}"
                continue
            if self._leaving.is_set():
                self._send(Stop())  # was told while there was nobody to tell
            assert self._process is not None
            # An audio library may wait for ever for a server that is about to come up, or to go.
            self._patience = threading.Timer(LONGEST_ATTEMPT_S, self._process.kill)
            self._patience.daemon = True
            self._patience.start()
            return True
        return False

    def _return(self) -> None:
        """Let the process that has found the device again produce."""
        if self._leaving.is_set():
            self._send(Stop())  # too late to be of use: nobody is told
            return
        absence, self._absence = self._absence, None
        assert absence is not None
        self._end_patience()
        self.state = "running"
        self._owner.worker_recovered(self, absence.module, absence.seconds, absence.attempts)
        self._send(Stop() if self._leaving.is_set() else Start())

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self.state = "ended"
        self._owner.worker_given_up(self)


def _reap(process: subprocess.Popen[bytes], channel: Channel) -> None:
    # The end of the process, not of the conversation: a child of the worker may hold its socket open.
    process.wait()
    channel.finish_reading()


# The writing ends of all lifelines. A process that the user forks must not keep workers alive when this one dies.
_lifelines: set[int] = set()


def _close_lifelines() -> None:
    for descriptor in _lifelines:
        os.close(descriptor)
    _lifelines.clear()


os.register_at_fork(after_in_child=_close_lifelines)


def _import_path() -> list[str]:
    # Python ignores everything else on its path, too.
    entries: list[object] = list(sys.path)
    return [os.fspath(entry) for entry in entries if isinstance(entry, (str, os.PathLike))]


def interpreter() -> list[str]:
    """Return what starts this interpreter for a process that works for this one."""
    # The flags that change how code behaves (-O, -W, -X ...), as multiprocessing passes them on.
    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    # -P: the current directory is no place to import from; Setup brings the coordinator's own path.
    return [sys.executable, *flags, "-P"]


def environment(realtime: bool) -> dict[str, str]:
    """Return the environment for a process that works for this one, and finds the same package."""
    environment = dict(os.environ)
    package = str(Path(__file__).resolve().parents[2])
    if package not in site.getsitepackages():
        # Imported from a source tree or a zipped application: the worker must find the same one.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    if realtime:
        environment = pool_environment() | environment
    return environment


def check_can_travel(module: Module, name: str) -> None:
    """
    Check that a worker process can find the class of a module.

    Raises:
        ConfigurationError: The class lives in a REPL, a notebook cell, or a function.
    """
    cls = type(module)
    where = f"module {name!r} with placement='process'"
    if "<locals>" in cls.__qualname__:
        raise ConfigurationError(
            f"{where}: expected a class at the top level of a file; {cls.__qualname__} is defined inside a function. "
            f"Move it to the top level."
        )
    if cls.__module__ == "__main__":
        path = main_script_path()
        if path is None or not Path(path).is_file():
            raise ConfigurationError(
                f"{where}: expected a class in a file; {cls.__name__} is defined in an interactive session, where "
                f"another process cannot find it. Move the class {cls.__name__} to a file, such as modules.py, and "
                f"import it from there; or use placement='thread'."
            )


def ask_to_change(worker: Worker, change: Change, timeout_s: float) -> str | None:
    """
    Have a worker change something between two blocks; blocks until it was done. Any thread but its own.

    Args:
        worker: The worker.
        change: What.
        timeout_s: How long it may need to come to a place between two blocks; then it is taken back. What has begun is waited for, for a minute.

    Returns:
        None when it was done, else why not.
    """
    answers: list[str | None] = []
    answered = threading.Event()

    def answer(problem: str | None) -> None:
        answers.append(problem)
        answered.set()

    if worker.ended:
        return OVER
    worker.begin_change(change, answer)
    try:
        answered.wait(timeout_s)
    finally:  # also where the wait was interrupted
        if not answered.is_set():
            worker.withdraw_change(change.number)
            # It is taken back at once; or it was begun, and ends some time, perhaps with the last block of a module.
            answered.wait(max(timeout_s, _BEGUN_TIMEOUT_S))
    return answers[0] if answers else WITHDRAWN
