"""
Observing a flow from another process of the same user: its description, and its metrics, read from its own memory.

An observer can't disturb the flow: its memory is mapped read-only, and the flow does not wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import msgspec

from steadyflow._native import DeviceAccount, Ring, Segment, monotonic_ns
from steadyflow.arguments import checked_path, checked_seconds
from steadyflow.errors import (
    ConfigurationError,
    CorruptedSegment,
    FlowNotRunning,
    ObservationFailed,
    StateError,
    SystemShortage,
    UnknownName,
)
from steadyflow.metrics.devices import DeviceReport, device_report
from steadyflow.metrics.flow_metrics import FlowMetrics, read_flow_metrics
from steadyflow.version import __version__

if TYPE_CHECKING:
    import socket

    from steadyflow.runtime.channel import Channel
    from steadyflow.runtime.flow_description import DeviceDescription, FlowDescription, PipelineDescription

ANSWER_TIMEOUT_S: Final = 5.0
"""How long `observe` waits for the flow to answer."""


class ObservableFlow(NamedTuple):
    """
    A flow that can be observed.

    Args:
        flow: Its name as file names have it: other characters than letters, digits, ``_``, ``-`` and ``.`` are replaced.
        pid: The process of its coordinator.
        path: Its socket.
    """

    flow: str
    pid: int
    path: Path


class ObservedPipeline:
    """
    A pipeline of another process; made by `observe`.

    Args:
        description: What it is.
        rings: Its rings, mapped read-only.
        observation: What it belongs to.
    """

    def __init__(self, description: PipelineDescription, rings: list[Ring], observation: Observation) -> None:
        self.id = description.id
        self.description = description
        self._rings = rings
        self._observation = observation

    def statistics(self) -> FlowMetrics:
        """
        Read its metrics, as `Pipeline.statistics` does in the flow's own process. Does not disturb the flow; allocates.

        Raises:
            StateError: The observation has been closed.
        """
        rings = self._rings  # close() may take them away
        if not rings:
            raise StateError(f"{self.id}: this observation has been closed; observe the flow again.")
        until = self.description.ended_ns or self._observation.ended_ns or monotonic_ns()
        seconds = (until - self.description.opened_ns) / 1e9
        return read_flow_metrics(rings, buffer_size=self.description.buffer_size, seconds=seconds)

    def _close(self) -> None:
        self._rings = []

    def __repr__(self) -> str:
        return f"<ObservedPipeline {self.id}: {self.description.format}>"


class ObservedDevice:
    """
    A device of a flow in another process.

    Args:
        description: What it is.
        segment: Where its callback counts, mapped read-only.
    """

    def __init__(self, description: DeviceDescription, segment: Segment) -> None:
        self.description = description
        self._segment: Segment | None = segment

    def report(self) -> DeviceReport:
        """
        Tell what happened at it so far, as `DeviceModule.report` does in the flow's own process. Does not disturb the flow.

        Raises:
            StateError: The observation has been closed.
        """
        segment = self._segment
        if segment is None:
            raise StateError(
                f"device of {self.description.module}: this observation has been closed; observe the flow again."
            )
        described = self.description
        counts, device = DeviceAccount.read(segment, described.account.offset)
        return device_report(
            counts,
            device,
            sample_rate_hz=described.sample_rate_hz,
            captures=described.captures,
            plays=described.plays,
        )

    def _close(self) -> None:
        self._segment = None

    def __repr__(self) -> str:
        return f"<ObservedDevice of {self.description.module!r}>"


class Observation:
    """
    A flow as another process sees it; made by `observe`, a context manager.

    It outlives the flow: what was counted last can still be read. One thread at a time.

    Args:
        description: The flow as it was when it answered.
        segments: Its memory.
        channel: The conversation, which ends with the flow.
    """

    def __init__(self, description: FlowDescription, segments: list[Segment], channel: Channel) -> None:
        self.description = description
        self.ended_ns = 0
        """When `ended` was first seen to be true, on the monotonic clock; 0: not yet."""
        self._channel: Channel | None = channel
        pipelines = {}
        for pipeline in description.pipelines:
            places = pipeline.rings
            if not places or pipeline.buffer_size < 1 or any(not 0 <= each.segment < len(segments) for each in places):
                raise ObservationFailed(f"{pipeline.id}: the flow describes a pipeline that cannot be: {pipeline}")
            rings = [Ring(segments[place.segment], place.offset, pipeline.id) for place in places]
            pipelines[pipeline.id] = ObservedPipeline(pipeline, rings, self)
        self.pipelines: Mapping[str, ObservedPipeline] = MappingProxyType(pipelines)
        """The pipelines by id. Those that are registered later are seen by a later observation."""
        devices = {}
        for device in description.devices:
            if not 0 <= device.account.segment < len(segments):
                raise ObservationFailed(f"the flow describes a device that cannot be: {device}")
            segment = segments[device.account.segment]
            DeviceAccount.read(segment, device.account.offset)  # raises where it does not lie in the segment
            devices[device.module] = ObservedDevice(device, segment)
        self.devices: Mapping[str, ObservedDevice] = MappingProxyType(devices)
        """The devices, by module."""

    @property
    def ended(self) -> bool:
        """Whether the flow has ended, by itself or because it was stopped, or its process is gone."""
        return self.wait(0.0)

    def wait(self, timeout_s: float | None = None) -> bool:
        """
        Wait until the flow has ended, or its process is gone; blocks.

        Args:
            timeout_s: How long; None: as long as it takes.

        Returns:
            Whether it has ended.

        Raises:
            ConfigurationError: `timeout_s` is no time.
        """
        if timeout_s is not None:
            timeout_s = checked_seconds("wait", "timeout_s", timeout_s)
        if not self.ended_ns and (self._channel is None or self._channel.is_closed_by_peer(timeout_s)):
            self.ended_ns = monotonic_ns()
        return self.ended_ns != 0

    def close(self) -> None:
        """Give the memory back, and tell the flow. Idempotent."""
        for pipeline in self.pipelines.values():
            pipeline._close()
        for device in self.devices.values():
            device._close()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "ended" if self.ended else "running"
        return f"<Observation of {self.description.flow!r} (pid {self.description.pid}): {state}, {len(self.pipelines)} pipelines>"


def observable_flows() -> list[ObservableFlow]:
    """
    Return the started flows of this user, in the order of their names. May block for a moment; any thread.

    Raises:
        SystemShortage: The folder of their sockets is not this user's own.
    """
    from steadyflow.runtime.socket_folder import SocketFolder

    try:
        opened = SocketFolder(create=False)
    except SystemShortage as shortage:
        if isinstance(shortage.__cause__, FileNotFoundError):
            return []  # no flow of this user has ever been started here
        raise
    with opened as folder:
        return [
            ObservableFlow(name.flow, name.pid, folder.path / name.file)
            for name in folder.names()
            if folder.is_served(name.file)
        ]


def observe(
    flow: str | None = None,
    *,
    pid: int | None = None,
    path: str | os.PathLike[str] | None = None,
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> Observation:
    """
    Observe a flow of this user in another process, or in this one. Blocks until it has answered; any thread.

    ::

        with observe("notes") as observation:
            while not observation.wait(timeout_s=1):
                print(observation.pipelines["song.out->pitch.audio"].statistics().delivered)

    Args:
        flow: The name of the flow; may be left out where only one flow is running.
        pid: The process of its coordinator, where several flows have that name.
        path: Its socket, instead of both.
        timeout_s: How long to wait until it serves this observer, and then for the whole answer.

    Raises:
        UnknownName: No flow of this name is running; offers the nearest.
        ConfigurationError: Several flows fit; names them. Or an argument is impossible.
        FlowNotRunning: No flow is running, or it ended meanwhile.
        ObservationFailed: The flow does not answer, refuses, or its answer makes no sense.
        CorruptedSegment: Its memory is damaged; names the pipeline.
    """
    if path is not None and (flow is not None or pid is not None):
        raise ConfigurationError("observe: expected either path, or flow and pid; got both.")
    if flow is not None and not isinstance(flow, str):
        raise ConfigurationError(f"observe: expected the name of a flow, got {flow!r}.")
    timeout_s = checked_seconds("observe", "timeout_s", timeout_s)
    return _ask(_choose(flow, pid) if path is None else checked_path("observe", path), timeout_s)


def _choose(flow: str | None, pid: int | None) -> Path:
    from steadyflow.runtime.socket_folder import flow_in_file_names, folder_of_sockets

    running = observable_flows()
    if not running:
        raise FlowNotRunning(
            f"observe: expected a running flow of this user, got none in {folder_of_sockets()}. Start one first; if one "
            f"is running, its report says whether it cannot be observed (ObservationUnavailable), and both programs need "
            f"the same XDG_RUNTIME_DIR."
        )
    if flow is not None and flow_in_file_names(flow) not in {one.flow for one in running}:
        raise UnknownName("flow", flow, dict.fromkeys(one.flow for one in running), where="observe")
    chosen = [
        one
        for one in running
        if (flow is None or one.flow == flow_in_file_names(flow)) and (pid is None or one.pid == pid)
    ]
    if not chosen:
        raise UnknownName("pid", pid, dict.fromkeys(str(one.pid) for one in running), where=f"observe, flow {flow!r}")
    if len(chosen) > 1:
        named = ", ".join(f"{one.flow!r} (pid {one.pid}, path {str(one.path)!r})" for one in chosen)
        raise ConfigurationError(f"observe: expected to know which flow is meant; these are running: {named}.")
    return chosen[0].path


def _ask(path: Path, timeout_s: float) -> Observation:
    from steadyflow.runtime.channel import Channel, ChannelBroken, ChannelClosed

    channel = Channel(_connect(path, timeout_s))
    try:
        return _take_answer(path, channel, timeout_s)
    except ChannelClosed as gone:
        channel.close()
        raise FlowNotRunning(f"{path}: expected a running flow; it ended before it had answered ({gone}).") from gone
    except ChannelBroken as broken:
        channel.close()
        raise ObservationFailed(f"{path}: expected an answer within {timeout_s:g} s; {broken}.") from broken
    except BaseException:
        channel.close()
        raise


def _connect(path: Path, timeout_s: float) -> socket.socket:
    from steadyflow.runtime.socket_folder import connect

    try:
        return connect(path, timeout_s)
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise FlowNotRunning(f"{path}: expected a running flow, got: {error.strerror}. It has ended.") from error
    except BlockingIOError as error:
        raise ObservationFailed(
            f"{path}: expected to be served within {timeout_s:g} s; others were waiting for it as well."
        ) from error
    except PermissionError as error:
        raise ObservationFailed(
            f"{path}: expected the socket of a flow of this user, got: {error.strerror}. Only the user who runs a flow can "
            f"observe it."
        ) from error
    except OSError as error:
        raise ObservationFailed(f"{path}: expected the socket of a running flow, got: {error}.") from error


def _take_answer(path: Path, channel: Channel, timeout_s: float) -> Observation:
    from steadyflow.runtime.channel import Observed, Refused
    from steadyflow.runtime.flow_description import FlowDescription

    if channel.peer_uid() != os.geteuid():
        raise ObservationFailed(
            f"{path}: expected a flow of user {os.geteuid()}, got one of user {channel.peer_uid()}."
        )
    message = channel.receive(timeout_s)
    if isinstance(message, Refused):
        raise ObservationFailed(f"{path}: {message.reason}.")
    if not isinstance(message, Observed):
        raise ObservationFailed(f"{path}: expected a description of the flow, got {type(message).__name__}.")
    try:
        description = msgspec.msgpack.decode(message.description, type=FlowDescription)
        segments = _map(path, channel.take_descriptors(), description.segments)
    except (msgspec.MsgspecError, UnicodeDecodeError, CorruptedSegment) as error:
        raise ObservationFailed(
            f"{path}: {error}. The flow runs steadyflow {message.version}, this program "
            f"{__version__}; observe it with the version that runs it."
        ) from error
    return Observation(description, segments, channel)


def _map(path: Path, descriptors: list[int], expected: int) -> list[Segment]:
    segments = []
    try:
        if len(descriptors) != expected:
            raise ObservationFailed(
                f"{path}: expected {expected} descriptors, got {len(descriptors)}; this process has too many open."
            )
        while descriptors:
            segments.append(Segment.attach(descriptors.pop(0), False))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return segments
