"""
A worker process: ``python -m steadyflow.runtime.worker CONTROL LIFELINE``, started by the coordinator only.

CONTROL is the descriptor of its socket; LIFELINE that of a pipe which closes when the coordinator is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from functools import partial
from typing import Final, NoReturn

import msgspec

from steadyflow._native import AbortFlag, Segment, watch_lifeline
from steadyflow.errors import CorruptedSegment, DeviceLost, FlowError, StateError
from steadyflow.events import FlowEvent
from steadyflow.module import Module
from steadyflow.runtime.arguments import decode_arguments
from steadyflow.runtime.changes import WITHDRAWN, Change
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
    Ready,
    Revoked,
    Setup,
    Start,
    Stop,
    Withdraw,
)
from steadyflow.runtime.failure_text import explanation, in_one_line, with_traceback
from steadyflow.runtime.loop import WorkerLoop
from steadyflow.runtime.loops import make_loop
from steadyflow.runtime.main_script import MainScript
from steadyflow.runtime.news import NewsSender
from steadyflow.runtime.realtime import become_realtime
from steadyflow.runtime.scheduling import Scheduling
from steadyflow.runtime.wiring import WorkerWiring

ABANDONED_EXIT_CODE: Final = os.EX_SOFTWARE
"""The coordinator is gone."""

LOST_EXIT_CODE: Final = os.EX_TEMPFAIL
"""A device is gone, and this process with it."""


class _RemoteHost:
    """
    Reports to the coordinator through the channel.

    Args:
        channel: To it.
        news: Where events go.
        restartable: Whether another process may follow this one.
    """

    def __init__(self, channel: Channel, news: NewsSender, restartable: bool) -> None:
        self._channel = channel
        self._news = news
        self._restartable = restartable

    def module_failed(self, module: str, problem: Exception, text: str, block_sequence: int | None) -> None:
        if self._restartable and isinstance(problem, DeviceLost):
            self._channel.send(Lost(module, in_one_line(problem)))
            _leave_at_once(LOST_EXIT_CODE)
        self._channel.send(_failed(module, problem, text, block_sequence))

    def publish(self, event: FlowEvent) -> None:
        self._news.publish(event)

    def device_lost(self, module: str, problem: str) -> None:
        raise StateError(
            f"{module}: expected a device that is looked for here to be in the program's process; {problem}"
        )

    def device_recovered(self, module: str, away_s: float, attempts: int) -> None:
        raise StateError(f"{module}: expected a device that is looked for here to be in the program's process")

    def input_left(self, pipeline: str) -> None:
        self._channel.send(InputLeft(pipeline))


def _leave_at_once(code: int) -> NoReturn:
    """End without telling libraries: where the server of a device is gone, they wait for it for ever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _failed(module: str | None, problem: BaseException, text: str, block_sequence: int | None) -> Failed:
    if isinstance(problem, CorruptedSegment) and problem.pipeline:
        return Failed(module, problem.problem, text, block_sequence, problem.pipeline)
    return Failed(module, in_one_line(problem), text, block_sequence, explanation=explanation(problem, block_sequence))


def main(arguments: list[str]) -> int:
    """Run one worker; returns the exit code."""
    control, lifeline = (int(argument) for argument in arguments)
    for descriptor in (control, lifeline):
        os.set_inheritable(descriptor, False)  # a process that a module starts has no part in this
    watch_lifeline(lifeline)
    lifelines = [lifeline]

    def close_lifeline() -> None:
        while lifelines:  # once: in the child of a child the number may be that of another file
            os.close(lifelines.pop())

    os.register_at_fork(after_in_child=close_lifeline)
    # Ctrl-C is the coordinator's: it stops the flow, and this worker with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=control))
    os.register_at_fork(after_in_child=channel.close)
    try:
        return _serve(channel)
    except ChannelBroken:
        return ABANDONED_EXIT_CODE  # the coordinator is gone; so is everybody who could be told
    finally:
        channel.close()


def _serve(channel: Channel) -> int:
    setup = channel.receive()
    if not isinstance(setup, Setup):
        raise ChannelBroken(f"expected Setup first, got {type(setup).__name__}")
    sys.path[:] = setup.sys_path
    sys.argv[:] = setup.argv
    wiring = msgspec.convert(setup.wiring, WorkerWiring)
    abort = AbortFlag()
    try:
        segments = _attach(setup, channel.take_descriptors())
        script = MainScript(setup.main_path, setup.main_package)
        modules = _construct(wiring, script)
        assert wiring.news is not None
        news = NewsSender(wiring.name, wiring.news, segments)
        loop = make_loop(
            wiring, modules, segments, abort, _RemoteHost(channel, news, wiring.restartable), script.resolve
        )
    except BaseException as problem:  # also sys.exit() in the main script or a constructor
        channel.send(_failed(None, problem, with_traceback(problem), None))
        return 1
    try:
        return _run(channel, wiring, segments, loop, abort, news)
    finally:
        news.end()
        news.detach()


def _run(
    channel: Channel,
    wiring: WorkerWiring,
    segments: dict[int, Segment],
    loop: WorkerLoop,
    abort: AbortFlag,
    news: NewsSender,
) -> int:
    if not loop.setup():
        if wiring.restartable:
            _leave_at_once(1)  # without a word to its streams: they go on with the process that finds the device
        loop.close()
        return 1
    scheduling, watch = Scheduling(), None
    if wiring.realtime is not None:
        scheduling, watch = become_realtime(wiring, loop, list(segments.values()), partial(_tell_revoked, channel))
    channel.send(Ready(scheduling))
    while isinstance(first := channel.receive(), Hold):
        loop.hold_source(first.module, first.held)
    if not isinstance(first, Start):
        loop.close()
        return 0
    listener = threading.Thread(
        target=_listen, args=(channel, loop, segments, abort), name="steadyflow-control", daemon=True
    )
    listener.start()
    try:
        loop.run()
    except CorruptedSegment as damage:
        channel.send(_failed(None, damage, with_traceback(damage), None))
        return 1
    finally:
        loop.detach()
        if watch is not None:
            watch.end()
    channel.send(Done(loop.module_reports(), news.lost))
    return 0


def _tell_revoked(channel: Channel, module: str | None, reason: str) -> None:
    with contextlib.suppress(ChannelBroken):  # the coordinator is gone, and this process is about to be
        channel.send(Revoked(module, reason))


def _tell_changed(channel: Channel, number: int, problem: str | None) -> None:
    with contextlib.suppress(ChannelBroken):  # the coordinator is gone, and this process is about to be
        channel.send(Changed(number, problem))


def _attach(setup: Setup, descriptors: list[int]) -> dict[int, Segment]:
    ends = iter(descriptors)
    segments = {number: Segment.attach(next(ends), True) for number in setup.segments}
    for segment, offset in setup.bells:
        segments[segment].attach_bell(offset, next(ends), next(ends))
    return segments


def _attach_more(segments: dict[int, Segment], change: Change, descriptors: list[int]) -> None:
    """Map what comes with a change, and is not mapped yet."""
    ends = iter(descriptors)
    for number in change.segments:
        descriptor = next(ends)
        if number in segments:
            os.close(descriptor)
        else:
            segments[number] = Segment.attach(descriptor, True)
    for number, offset in change.bells:
        reading, writing = next(ends), next(ends)
        if segments[number].has_bell(offset):
            os.close(reading)
            os.close(writing)
        else:
            segments[number].attach_bell(offset, reading, writing)


def _construct(wiring: WorkerWiring, script: MainScript) -> dict[str, Module]:
    modules: dict[str, Module] = {}
    for module in wiring.modules:
        cls = script.resolve(module.cls)
        if not issubclass(cls, Module):
            raise FlowError(f"{module.cls}: expected a Module class, got {cls!r}")
        args, kwargs = decode_arguments(module.arguments, script.resolve)
        modules[module.name] = cls(*args, **kwargs)
    return modules


def _listen(channel: Channel, loop: WorkerLoop, segments: dict[int, Segment], abort: AbortFlag) -> None:
    try:
        while True:
            message = channel.receive()
            if isinstance(message, Stop):
                loop.stop()
            elif isinstance(message, Hold):
                loop.hold_source(message.module, message.held)
            elif isinstance(message, LetDown):
                loop.let_down()
            elif isinstance(message, Change):
                answer = partial(_tell_changed, channel, message.number)
                try:
                    _attach_more(segments, message, channel.take_descriptors())
                except Exception as problem:
                    answer(in_one_line(problem))
                else:
                    loop.submit(message, answer)
            elif isinstance(message, Withdraw):
                if loop.withdraw(message.number):
                    _tell_changed(channel, message.number, WITHDRAWN)
            elif isinstance(message, Abort):
                abort.set()
                loop.let_down()
                loop.interrupt()
    except ChannelBroken:
        # The lifeline ends this process if the coordinator is gone; after Done, the socket closes by itself.
        return


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if code == ABANDONED_EXIT_CODE:
        _leave_at_once(code)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
