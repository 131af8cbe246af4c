"""The coordinator: owns a flow, from its description to its report."""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, TypeVar, overload

from steadyflow._native import AbortFlag, shut_down
from steadyflow.arguments import checked_number, checked_seconds, checked_switch
from steadyflow.audio_config import AudioPipelineConfig
from steadyflow.audio_pipeline import AudioDataPipeline
from steadyflow.backpressure.rules import Grow, Rule, Spill
from steadyflow.changing import Changing
from steadyflow.clock import Clock, ManualClock, SystemClock
from steadyflow.config import PipelineConfig
from steadyflow.description import Description, check_text, declared_format
from steadyflow.errors import (
    ConfigurationError,
    DuplicateLink,
    FlowFailed,
    PipelineClosed,
    StateError,
    SystemShortage,
    UnknownName,
)
from steadyflow.events import (
    FlowEvent,
    ObservationUnavailable,
    PipelinePaused,
    PipelineRegistered,
    PipelineResumed,
    StrategyChanged,
    TypedEventBus,
)
from steadyflow.formats import AnyFormat, Format
from steadyflow.lifecycle import ModuleState
from steadyflow.metrics.flow_metrics import FlowMetrics
from steadyflow.metrics.pools import PoolChange, PoolMetrics
from steadyflow.module import InputPort, Module, OutputPort
from steadyflow.pausing import Pausing
from steadyflow.pipeline import Pipeline
from steadyflow.realtime import Realtime
from steadyflow.registry import COORDINATOR, ModuleRegistry
from steadyflow.report import FlowReport
from steadyflow.runtime.main_script import stop_if_replaying
from steadyflow.runtime.placed import Placement
from steadyflow.validation import check_validation

if TYPE_CHECKING:
    # Loaded when a flow needs them, not at import: they bring subprocess, sockets and the encoding of arguments.
    from steadyflow._native import Segment
    from steadyflow.diagrams import DiagramFormat
    from steadyflow.runtime.execution import Execution
    from steadyflow.runtime.flow_description import FlowDescription
    from steadyflow.runtime.format_resolution import FoundFormats
    from steadyflow.runtime.observers import Observers
    from steadyflow.runtime.open_ends import OpenPlace
    from steadyflow.runtime.path_delays import PathBudget, PathDelay
    from steadyflow.runtime.workers import Worker
    from steadyflow.spooling import Spilled

ModuleT = TypeVar("ModuleT", bound=Module)
FlowState: TypeAlias = Literal["new", "running", "stopped", "closed", "forked"]
PipelineId: TypeAlias = str | Pipeline

DRAIN_TIMEOUT_S: Final = 5.0
"""How long a stopped flow may drain before what is left is given up."""

RECORDING_BUFFER_SIZE: Final = 256
"""How many blocks of a recorded pipeline may wait for the disk, unless said otherwise."""

_LONGEST_S: Final = 1e9
_EXIT_TIMEOUT_S: Final = 1.0
_COORDINATOR_STATES: Final[Mapping[str, ModuleState]] = {
    "new": "added",
    "running": "running",
    "paused": "paused",
    "stopped": "ended",
    "closed": "ended",
    "forked": "stopped",
}
_OWN_FLOW: Final = "use it there, or make a flow of its own here"

_open_flows: weakref.WeakSet[DataFlowCoordinator] = weakref.WeakSet()
_program_ends: Final = AbortFlag()


class DataFlowCoordinator:
    """
    Owns a flow: modules, pipelines, workers, and what is known about them.

    Use it as a context manager, with ``with`` or ``async with``; leaving it stops the flow and gives its memory back.
    Methods may be called from any thread, one at a time. While the flow runs it can be changed: `add`, `connect`, `disconnect`,
    `replace`, and several at once `with flow.changes()`.

    ::

        with DataFlowCoordinator("demo") as flow:
            take = flow.add(audio.FileSource("take.wav"), name="take")
            pitch = flow.add(audio.PitchDetector(), name="pitch", placement="process")
            flow.connect(take.out, pitch.audio, buffer_size=32, max_latency_ms=2.0)
            print(flow.run())

    Args:
        name: What the flow is called in reports and errors; need not be unique.
        tune_pools: Call `tune_pools` every second while the flow runs. Off, because it changes a flow that runs.

    Raises:
        ConfigurationError: The name is empty or no text.
    """

    def __init__(self, name: str = "flow", *, tune_pools: bool = False) -> None:
        stop_if_replaying()
        check_text("DataFlowCoordinator", name)
        self._tunes_pools = checked_switch("DataFlowCoordinator", "tune_pools", tune_pools)
        self.name = name
        self._state: FlowState = "new"
        self._description = Description(name)
        self._opened: dict[str, OpenPlace] = {}
        self._spilled: dict[str, Spilled] = {}  # pipelines whose blocks may wait on disk
        self._abort = AbortFlag()
        self._events = TypedEventBus(name)
        # Weakly: it is this coordinator's, and must not keep it.
        itself = weakref.ref(self)
        self._registry = ModuleRegistry(name, _state_of(itself), _health_of(itself), self._events.post)
        self._budgets: list[PathBudget] = []
        self._pausing = Pausing(self._description, self._registry)
        self._changing = Changing(name, self._description, self._opened, self._pausing, self._events.post)
        self._execution: Execution | None = None
        self._observers: Observers | None = None
        self._clock: ManualClock | None = None
        _open_flows.add(self)

    # --- description ------------------------------------------------------------------------------------------------------

    @overload
    def add(
        self,
        module: ModuleT,
        *,
        name: str | None = ...,
        placement: Placement | None = ...,
        worker: str | None = ...,
        realtime: bool | Realtime = ...,
        replicas: int = ...,
        ordered: bool = ...,
        on_failure: Literal["stop"] = ...,
        depends_on: Sequence[str | Module] = ...,
    ) -> ModuleT: ...
    @overload
    def add(
        self,
        module: type[ModuleT],
        *,
        name: str | None = ...,
        placement: Placement | None = ...,
        worker: str | None = ...,
        realtime: bool | Realtime = ...,
        replicas: int = ...,
        ordered: bool = ...,
        on_failure: Literal["stop"] = ...,
        depends_on: Sequence[str | Module] = ...,
    ) -> ModuleT: ...
    def add(
        self,
        module: Any,
        *,
        name: str | None = None,
        placement: Placement | None = None,
        worker: str | None = None,
        realtime: bool | Realtime = False,
        replicas: int = 1,
        ordered: bool = False,
        on_failure: Literal["stop"] = "stop",
        depends_on: Sequence[str | Module] = (),
    ) -> Any:
        """
        Add a module to the flow.

        Of a flow that runs it becomes a part with the first pipeline that leads to or from it: then it is set up, in a worker of
        its own, while all others go on.

        Args:
            module: An instance; or a class, also one made by ``@module``, which is then constructed without arguments.
            name: Its name in the flow; the class's in lower case, made unique, unless given.
            placement: ``"thread"``: a worker thread of this process, which shares its interpreter lock; ``"process"``:
                a process of its own. Declare ``blocking = True`` in a module that blocks; it gets its own worker. None: a
                thread, or for a module that a device drives a process, because audio libraries do not survive the loss of
                a device, and their process with them.
            worker: The name of a worker to share with others of the same placement.
            realtime: Ask the system for real-time scheduling; for processes only. `Realtime` can ask for more.
            replicas: How many processes run an instance of the module each and compete for its blocks. Only for a module
                that remembers nothing from block to block, which cannot be checked.
            ordered: Whether what the replicas send is taken in the order of what they were given. Else it is taken as
                it comes.
            on_failure: ``"stop"``: an exception in the module stops the flow.
            depends_on: Modules that have to be ready before this one is set up, or their names, which may be added later; they are
                torn down after it.

        Returns:
            The module, whose ports can now be connected.

        Raises:
            DuplicateName: The name is taken, or the module was added before.
            ArgumentRefused: A constructor argument cannot travel to a process.
            ConfigurationError: A value is impossible; the class cannot be found by a process; an attribute was changed
                since construction, which a process would not see; the module cannot have replicas.
            CycleRefused: It would depend on itself; prints the cycle.
            StateError: The flow has ended; or it runs, and so does the worker that it should share.
        """
        self._require_changeable("add a module")
        running = self._state == "running"
        if running:
            self._check_joins(worker, depends_on)
        if isinstance(module, type) and issubclass(module, Module):
            module = module()
        self._description.add(
            module,
            name,
            placement=placement,
            worker=worker,
            realtime=realtime,
            replicas=replicas,
            ordered=ordered,
            on_failure=on_failure,
            depends_on=depends_on,
        )
        added = self._description.name_of(module)
        if running:
            self._description.put_apart(added, self.workers)
        self._registry.add(added, module, self._description.modules[added].depends_on)
        return module

    def connect(self, output: OutputPort | str, input: InputPort | str, **options: Any) -> Pipeline:
        """
        Link an output to an input.

        In a flow that runs, what is sent from then on arrives; a module that is new there is set up before. Blocks until that is done.

        Args:
            output: ``take.out``, or ``"take.out"``.
            input: ``pitch.audio``, or ``"pitch.audio"``.
            **options: The fields of `PipelineConfig`, or of `AudioPipelineConfig`; ``buffer_size`` is required.

        Raises:
            UnknownName: No such module, port or option; offers the nearest.
            DuplicateLink: These two are linked already.
            FormatClash: The formats do not agree; names both.
            StateError: The flow has ended; or it runs, and one of the modules has ended, or does not come to a place between two
                blocks. Nothing has changed.
            FlowError: A new module could not be set up, as its setup says. Nothing has changed.
        """
        config_class = PipelineConfig.class_for(options, options.get("late"))
        if "buffer_size" not in options and options.keys() <= set(config_class.OPTIONS):
            raise ConfigurationError("connect: buffer_size is missing. Say how many blocks may wait: it is a latency.")
        pipeline_id = self.register_pipeline(output, input, config_class(**options))
        return self._description.pipelines[pipeline_id]

    def register_pipeline(
        self,
        source: OutputPort | str,
        target: InputPort | str,
        config: PipelineConfig,
        format: Format | None = None,
    ) -> str:
        """
        Make a pipeline between two modules, or between the application and a module.

        A name without a dot that no module has makes an open end: the application sends or receives there. With an open
        source the pipeline can be used at once.

        Args:
            source: A port, ``"module.port"``, ``"module"`` if it has one output, or the name of an open end.
            target: A port, ``"module.port"``, ``"module"`` if it has one input, or the name of an open end.
            config: Its settings.
            format: What flows, where no module says it.

        Returns:
            The id: ``"take.out->pitch.audio"``.

        Raises:
            UnknownName: No such module or port; offers the nearest.
            DuplicateLink: These two are linked already.
            FormatClash: The formats do not agree; names both.
            ConfigurationError: An open source, and neither `format` nor its module says what flows.
            InsufficientMemory: The system has too little shared memory; says how much is needed.
            StateError: See `connect`.
        """
        self._require_open("register a pipeline")
        if not isinstance(config, PipelineConfig):
            raise ConfigurationError(
                f"register_pipeline: expected a PipelineConfig, got {type(config).__name__}; "
                f"write PipelineConfig(buffer_size=32, ...)."
            )
        if format is not None and not isinstance(format, Format):
            raise ConfigurationError(
                f"register_pipeline: expected a format such as AudioFormat(48_000, 1), got {format!r}."
            )
        source_name, output = self._description.output(source)
        target_name, input = self._description.input(target)
        if isinstance(config.backpressure_strategy, Spill):
            return self._register_spilled(source, target, config, config.backpressure_strategy, format)
        return self._register(None, source_name, output, target_name, input, config, format)

    def _register_spilled(
        self,
        source: OutputPort | str,
        target: InputPort | str,
        config: PipelineConfig,
        rule: Spill,
        format: Format | None,
    ) -> str:
        """Put a spool before the target, and link both to it. Returns the id of the pipeline that the application, or the target, has."""
        from steadyflow.spooling import Spilled, Spool

        source_name, output = self._description.output(source)
        target_name, input = self._description.input(target)
        ends = (source_name, "" if output is None else output.name), (target_name, "" if input is None else input.name)
        pipeline_id = _id_of(*ends)
        if output is None and input is None:
            raise ConfigurationError(
                f"{pipeline_id}: expected a module at one end of a pipeline whose blocks wait on disk, got two open ends. Use another rule."
            )
        if pipeline_id in self._description.pipelines:
            raise DuplicateLink(f"{pipeline_id}: these two are linked already. One pipeline is enough.")
        name = next(
            each
            for number in count(1)
            if (each := f"{target_name}_spool{number if number > 1 else ''}") not in self._description.modules
        )
        spool = Spool(rule.path, max_bytes=rule.max_bytes, max_blocks=rule.max_blocks, then=rule.then, needs_file=False)
        together = self._state == "running" and not self._changing.is_together
        with self.changes() if together else contextlib.nullcontext():
            self.add(spool, name=name)
            limits: dict[str, Any] = {"max_buffer_bytes": config.max_buffer_bytes}
            if isinstance(config, AudioPipelineConfig):
                limits["max_buffer_ms"] = config.max_buffer_ms
            before = type(config)(buffer_size=config.buffer_size, priority=config.priority, **limits)
            into = self._register(
                pipeline_id if output is None else None, source_name, output, name, spool.data, before, format
            )
            out_of = self._register(
                None if output is None else pipeline_id, name, spool.out, target_name, input, config, None
            )
        behind = self._description.pipelines[out_of]
        behind.spool_before = spool.counts
        named = self._description.pipelines[pipeline_id]
        named.spool_counts = spool.counts  # told once, by the name that the user knows
        self._spilled[pipeline_id] = Spilled(spool, self._description.pipelines[into], behind, rule)
        return into if output is None else out_of

    def _register(
        self,
        pipeline_id: str | None,
        source_name: str,
        output: OutputPort | None,
        target_name: str,
        input: InputPort | None,
        config: PipelineConfig,
        format: Format | None,
    ) -> str:
        """Make one pipeline; None: it is called by its ends."""
        links_module = output is not None or input is not None
        if links_module:
            self._require_changeable("register a pipeline of a module")
        source_key = (source_name, "" if output is None else output.name)
        target_key = (target_name, "" if input is None else input.name)
        pipeline_id = pipeline_id or _id_of(source_key, target_key)
        if pipeline_id in self._description.pipelines:
            raise DuplicateLink(f"{pipeline_id}: these two are linked already. One pipeline is enough.")
        if output is None and input is None and format is not None:
            check_validation(pipeline_id, format, config.validation)
        fmt, accepted = declared_format(pipeline_id, output, input, format, config)
        pipeline = (AudioDataPipeline if isinstance(config, AudioPipelineConfig) else Pipeline)(
            pipeline_id,
            source_key,
            target_key,
            config,
            source_open=output is None,
            target_open=input is None,
            announce_pause=self._announce_pause,
        )
        pipeline.format = fmt if fmt is not None and fmt.is_resolved and not isinstance(fmt, AnyFormat) else None
        pipeline.accepted = accepted
        if pipeline.source_open:
            if pipeline.format is None:
                raise ConfigurationError(
                    f"{pipeline_id}: expected to know what flows; got {fmt or 'no format'}. "
                    f"Give format=AudioFormat(sample_rate_hz, channels) or another complete format."
                )
            from steadyflow.runtime.open_ends import open_source

            consumers = self._description.modules[target_name].replicas if input is not None else 1
            self._opened[pipeline_id] = open_source(
                pipeline, pipeline.format, self._abort, consumers, self.name, self._publish
            )
        self._description.open_ends.update(
            name for name, port in ((source_name, output), (target_name, input)) if port is None
        )
        self._description.pipelines[pipeline_id] = pipeline
        if links_module and self._state == "running":
            self._changing.link(pipeline)
        else:
            self._publish(PipelineRegistered(flow=self.name, pipeline=pipeline_id))
        return pipeline_id

    def changes(self) -> contextlib.AbstractContextManager[None]:
        """
        Make one change of all that is added and connected in a with block, where that belongs together.

        A module whose inputs are aligned needs all of them at once; one that says what it sends by what it gets needs its inputs
        first, or at the same time::

            with flow.changes():
                join = flow.add(Join())
                flow.connect(mic.out, join.mic, buffer_size=8)
                flow.connect(reference.out, join.reference, buffer_size=8)

        What is raised at its end, as by `connect`, has changed nothing. Before the start it makes no difference.

        Raises:
            StateError: The flow has ended; or such a block is inside of another one.
        """
        self._require_changeable("change it")
        return self._changing.together() if self._state == "running" else contextlib.nullcontext()

    def disconnect(
        self, pipeline: PipelineId, *, discard: bool = False, drain_timeout_s: float = DRAIN_TIMEOUT_S
    ) -> None:
        """
        Take a pipeline away. What is in it is delivered first; then the consumer goes on without it. Blocks meanwhile.

        That is no end of its stream: a module that nothing leads into any more waits for what will, and ends when all others have.
        An open source is closed; an open target can be received from until all has come.

        Args:
            pipeline: The pipeline, or its id.
            discard: Drop what waits in it (counted as flushed).
            drain_timeout_s: What has not been taken by then is dropped, too. What waits on disk by the rule `Spill` stays there (`SpillLeft`),
                and comes where a pipeline with that file is connected.

        Raises:
            UnknownName: No such pipeline; offers the nearest.
            ConfigurationError: A device or a module with replicas is at it, or an aligned input; or that is no time.
            StateError: The flow has ended; or one of the modules does not come to a place between two blocks.
        """
        checked_seconds("disconnect", "drain_timeout_s", drain_timeout_s)
        discard = checked_switch("disconnect", "discard", discard)
        self._require_changeable("disconnect a pipeline")
        link = self.pipeline(pipeline)
        spilled = self._spilled.get(link.id)
        links = [link] if spilled is None else [each for each in (spilled.into, spilled.behind) if self._has(each)]
        if self._state == "running" and not (link.source_open and link.target_open):
            for each in links:
                self._changing.unlink(each, discard=discard, drain_timeout_s=drain_timeout_s)
                if spilled is not None and each is spilled.into:
                    spilled.leave(0.0 if discard else drain_timeout_s)
                self._pausing.forget(each)
        else:
            for each in links:
                self._description.remove(each)
                self._opened.pop(each.id, None)
                each.detach(f"{each.id}: it was disconnected")
            if spilled is not None:
                del self._description.modules[spilled.into.target[0]]
        self._spilled.pop(link.id, None)

    def _has(self, link: Pipeline) -> bool:
        return self._description.pipelines.get(link.id) is link

    def replace(
        self,
        module: Module | str,
        by: ModuleT,
        *,
        placement: Placement | None = None,
        realtime: bool | Realtime = False,
        discard: bool = False,
        drain_timeout_s: float = DRAIN_TIMEOUT_S,
    ) -> ModuleT:
        """
        Let another module take the place of one in a flow that runs, under its name, and with its pipelines. Blocks meanwhile.

        The one that comes is set up beside the one that goes, in a worker of its own. Then it gets the next block of each input, and
        begins when the one that goes has finished what it has, and has ended: nothing is lost, and the order is kept, of what they
        do, too. One that does not finish is left behind, and `WorkerUnresponsive` tells; what it still sends comes nowhere.

        Args:
            module: The module that goes, or its name.
            by: The instance that comes. It has the same ports, as far as they are connected, and sends the same formats.
            placement: Where it runs; None: as the one that goes.
            realtime: As for `add`.
            discard: Drop what waits for the one that goes (counted as flushed).
            drain_timeout_s: What that one has not taken by then is dropped, too.

        Returns:
            The module that came.

        Raises:
            UnknownName: There is none of that name; offers the nearest.
            FormatClash: It would send another format, or takes another one; names both. Nothing has changed.
            ConfigurationError: It cannot take that place, or run there. Nothing has changed.
            FlowError: It could not be set up, as its setup says. Nothing has changed.
            StateError: The flow does not run, or the module has ended or is paused; or a worker does not come to a place between two
                blocks. Nothing has changed.
        """
        checked_seconds("replace", "drain_timeout_s", drain_timeout_s)
        discard = checked_switch("replace", "discard", discard)
        self._running_execution("replace")
        self._require_changeable("replace a module")
        name = self._module_to_switch(module)
        placed = self._description.replacement(
            name,
            by,
            placement=placement,
            realtime=realtime,
            taken=self.workers.keys() | (self._description.modules.keys() - {name}),
        )
        self._changing.replace(placed, discard=discard, drain_timeout_s=drain_timeout_s)
        return by

    def _check_joins(self, worker: str | None, depends_on: Sequence[str | Module]) -> None:
        if worker is not None and worker in self.workers:
            raise StateError(
                f"flow {self.name!r}: expected a worker that does not run yet, for a module of a flow that runs; {worker!r} does, and "
                f"would stand still while the module is set up. Leave worker= out, and it gets its own."
            )
        if depends_on:
            raise ConfigurationError(
                f"flow {self.name!r}: expected no depends_on of a module of a flow that runs, where all that it could depend on is "
                f"ready; got {depends_on!r}."
            )

    def path_budget(self, source: Module | str, sink: Module | str, max_ms: float) -> None:
        """
        Say how much later sound may come out at one module than it went in at another.

        What modules (`Module.latency_ms`, `latency_frames`), windows, conversions and buffers that are to be filled add up to is
        checked at the start, on the longest way; what waiting and work add is not in it.

        Args:
            source: Where the path begins: a module, or its name.
            sink: Where it ends.
            max_ms: The limit.

        Raises:
            UnknownName: There is no such module; offers the nearest.
            ConfigurationError: The limit is no time.
            StateError: The flow has been started.
        """
        from steadyflow.runtime.path_delays import PathBudget

        self._require_new("set a budget")
        limit_ms = checked_number("path_budget", "max_ms", max_ms, above=0, most=_LONGEST_S)
        self._budgets.append(PathBudget(self._named_module(source), self._named_module(sink), limit_ms))

    def path_delay(self, source: Module | str, sink: Module | str) -> PathDelay:
        """
        Return what delays sound on the longest way from one module to another, without waiting and work. Print it.

        Before the start sources are asked what they send, which may block on the disk.

        Raises:
            UnknownName: There is no such module; offers the nearest.
            FormatClash: The flow could not run.
            ConfigurationError: There is no way; or the flow could not run.
        """
        from steadyflow.runtime.format_resolution import find_formats
        from steadyflow.runtime.layout import topological
        from steadyflow.runtime.path_delays import longest_path

        self._require_own("look at a path")
        ends = self._named_module(source), self._named_module(sink)
        modules = self._description.modules
        linked = [link for link in self._description.pipelines.values() if not (link.source_open and link.target_open)]
        order = topological(modules, linked)
        return longest_path(*ends, modules, linked, order, find_formats(modules, linked, order))

    def _named_module(self, module: Module | str) -> str:
        if isinstance(module, Module):
            return self._description.name_of(module)
        if module not in self._description.modules:
            raise UnknownName("module", module, self._description.modules, where=f"flow {self.name!r}")
        return module

    def record(
        self,
        pipeline: PipelineId,
        path: str | os.PathLike[str],
        *,
        buffer_size: int = RECORDING_BUFFER_SIZE,
        name: str | None = None,
        placement: Placement = "thread",
        **options: Any,
    ) -> Pipeline:
        """
        Record what a pipeline's output sends to a file that `steadyflow.recording.replay` plays again.

        Adds a `Recorder`, fed by the same output through a pipeline of its own; what the recorded pipeline drops is
        recorded all the same, and its metrics do not change. Under a waiting rule a disk that cannot keep up slows the
        output down; give another ``backpressure_strategy`` where it must not.

        Args:
            pipeline: The pipeline, from a module to a module or to an open end.
            path: The file, ``.mcap`` by custom; is replaced.
            buffer_size: How many blocks may wait for the disk.
            name: The recorder's name in the flow.
            placement: ``"thread"``: a thread of its own; ``"process"``: a process of its own.
            **options: More fields of `PipelineConfig`; the priority is ``"low"`` unless given.

        Returns:
            The pipeline to the recorder, whose metrics say what was dropped on the way to the file.

        Raises:
            UnknownName: No such pipeline or option; offers the nearest.
            ConfigurationError: The application sends into the pipeline, or an argument is impossible.
            MissingExtra: The extra ``recording`` is not installed.
            StateError: See `connect`.
        """
        self._require_changeable("record a pipeline")
        link = self.pipeline(pipeline)
        if link.source_open:
            raise ConfigurationError(
                f"{link.id}: expected a pipeline from a module; what the application sends goes into one pipeline only. "
                f"Add a Recorder and register a pipeline from the application to it, and send to both; or let a module "
                f"pass the blocks on, and record its output."
            )
        config_class = PipelineConfig.class_for(options, options.get("late"))
        config = config_class(buffer_size=buffer_size, **{"priority": "low"} | options)
        from steadyflow.recording import Recorder

        recorder = self.add(Recorder(path, pipeline=link.id), name=name, placement=placement)
        return self._description.pipelines[self.register_pipeline(".".join(link.source), recorder.data, config)]

    # --- operations -------------------------------------------------------------------------------------------------------

    def send_data(self, pipeline: PipelineId, data: object) -> bool:
        """
        Send into a pipeline with an open source; see `Pipeline.send`.

        Raises:
            UnknownName: No such pipeline; offers the nearest.
            StateError: The pipeline is fed by a module.
        """
        return self.pipeline(pipeline).send(data)

    def get_flow_metrics(self, pipeline: PipelineId) -> FlowMetrics:
        """
        Read the metrics of a pipeline. Does not disturb the flow; any thread.

        Raises:
            UnknownName: No such pipeline; offers the nearest.
            FlowNotRunning: The flow has not been started, so nothing has been counted.
        """
        return self.pipeline(pipeline).statistics()

    def handle_backpressure(self, pipeline: PipelineId, strategy: Rule) -> None:
        """
        Switch the rule of a pipeline, also while it runs; a send that waits follows the new rule at once.

        Any thread; does not wait. The memory that `Grow` needs for a pipeline that was connected with another rule comes a little later, from a
        thread of its own; where it cannot come, `StrategyChanged` says so.

        Raises:
            UnknownName: No such pipeline; offers the nearest.
            ConfigurationError: That is no rule, or it cannot be carried out there: a live source cannot be slowed down, a device cannot wait,
                a module has no levels of quality, limits are below what they limit, blocks would wait in a file that the pipeline was not
                connected with, or they wait in one, and the rule would refuse blocks to the spool.
            PipelineClosed: The flow has been closed.
            StateError: It is another process's, which this one was forked from.
        """
        from steadyflow.runtime.layout import ChosenRule, check_device_rules, check_rule, holds_with_room

        named = self.pipeline(pipeline)
        spilled = self._spilled.get(named.id)
        link = named if spilled is None else spilled.behind
        self._require_own("switch a rule")
        if self._state == "closed":
            raise PipelineClosed(f"{link.id}: flow {self.name!r} has been closed; its rule decides nothing any more.")
        if not isinstance(strategy, Rule):
            raise ConfigurationError(f"{link.id}: expected a rule such as DropOldest(), got {strategy!r}.")
        target = self._description.modules.get(link.target[0])
        levels = () if target is None or link.target_open else target.module.quality_levels
        chosen = ChosenRule(strategy, link.live)
        check_rule(link, chosen, levels)
        check_device_rules(self._description.modules, [link], {link.id: chosen})
        running = self._execution if self._state == "running" else None
        if running is not None and holds_with_room(strategy) and link.id in running.wirings:
            if running.wirings[link.id].fused:
                raise ConfigurationError(
                    f"{link.id}: expected a rule for a pipeline without room, because both ends are in one worker, and a block is passed on by a "
                    f"call; got {strategy!r}. Connect it with that rule, or give one of them another worker."
                )
        if spilled is not None:
            spilled.switch(strategy)
        elif isinstance(strategy, Spill):
            raise ConfigurationError(
                f"{link.id}: expected a rule that needs no file, because the pipeline was connected without one, got {strategy!r}. Disconnect "
                f"it, and connect it with that rule."
            )
        before = link.rule
        link.set_rule(strategy)
        if self._execution is not None and self._state == "running" and isinstance(strategy, Grow):
            if strategy.max_blocks > link.buffer_size + link.growth_blocks and link in self._execution.linked:
                self._changing.let_grow(self._execution, link)
        self._publish(
            StrategyChanged(
                flow=self.name,
                pipeline=named.id,
                before="the default" if before is None else repr(before),
                after=repr(strategy),
                reason="handle_backpressure was called",
                numbers=(),
                expected="",
            )
        )

    def transform_data(self, data: object, from_format: Format, to_format: Format) -> object:
        """
        Convert data whole from one format to another. Where they agree, the data itself is returned.

        Any thread; does not disturb the flow; allocates. For a stream use `steadyflow.transform.DataTransformer`.

        Args:
            data: Bare data, a `FlowData` or a `Block`.
            from_format: What it is.
            to_format: What it is to be; what is open in it stays as it is.

        Returns:
            The same kind of thing.

        Raises:
            FormatClash: Nothing converts the one to the other; says what is missing.
            TransformError: The data is not of its format; says the step, what was expected, and what came.
            ConfigurationError: That is no format, or not a complete one.
            MissingExtra: What a step needs is not installed.
        """
        from steadyflow.transform.transformer import convert

        return convert(data, from_format, to_format, where="transform_data")

    def pipeline(self, pipeline: PipelineId) -> Pipeline:
        """
        Return a pipeline by its id.

        Raises:
            UnknownName: No such pipeline; offers the nearest.
        """
        pipeline_id = pipeline.id if isinstance(pipeline, Pipeline) else pipeline
        found = self._description.pipelines.get(pipeline_id)
        if found is None or (isinstance(pipeline, Pipeline) and found is not pipeline):
            raise UnknownName("pipeline", pipeline_id, self._description.pipelines, where=f"flow {self.name!r}")
        return found

    @property
    def pipelines(self) -> Mapping[str, Pipeline]:
        """All pipelines by id, in the order in which they were made."""
        return MappingProxyType(self._description.pipelines)

    @property
    def modules(self) -> Mapping[str, Module]:
        """All modules by name, in the order in which they were added."""
        return {name: placed.module for name, placed in self._description.modules.items()}

    @property
    def clock(self) -> Clock:
        """What the flow goes by: the system's clock, or from the start of a freewheeling flow on its `ManualClock`."""
        return self._clock or SystemClock()

    @property
    def events(self) -> TypedEventBus:
        """What happens in the flow, as it happens: subscribe to the types of `steadyflow.events`, and publish events of your own."""
        return self._events

    @property
    def registry(self) -> ModuleRegistry:
        """The modules by name, with what they can do, in which state they are, and how well; also the coordinator itself."""
        return self._registry

    @property
    def state(self) -> Literal["new", "running", "paused", "stopped", "closed", "forked"]:
        """Where the flow is; ``"paused"`` from `pause` without a module until the next `resume`."""
        return "paused" if self._state == "running" and self._pausing.everything else self._state

    def pause(self, module: Module | str | None = None) -> None:
        """
        Let a module get and make no blocks until `resume`. Any thread; does not wait; idempotent.

        Its pipelines are paused (`Pipeline.pause`): what waits for it stays, and their rules decide what happens as they fill. A
        source is left alone from its next ``yield`` on; one with a schedule goes on where it was. Of a device, which cannot be
        held, the pipelines that it feeds are paused.

        Args:
            module: The module, or its name; None: everything that blocks come from: sources, and pipelines that the application sends
                into.

        Raises:
            UnknownName: There is none of that name; offers the nearest.
            StateError: It is not running; names both states. Or a pipeline into it is fused, so that nothing can wait there.
        """
        execution = self._running_execution("pause")
        self._pausing.pause(execution, None if module is None else self._module_to_switch(module))

    def resume(self, module: Module | str | None = None) -> None:
        """
        Let a module go on that was paused; None: all of them, and what the application sends. Any thread; does not wait; idempotent.

        Raises:
            UnknownName: There is none of that name; offers the nearest.
            StateError: The flow does not run.
        """
        execution = self._running_execution("resume")
        self._pausing.resume(execution, None if module is None else self._module_to_switch(module))

    @property
    def pools(self) -> Mapping[str, PoolMetrics]:
        """
        The buffers of each output, by ``"module.port"`` or the name of an open end: how many, how well they meet what is asked.

        Before the start those of open sources only; none once the flow is closed.
        """
        self._require_own("look at pools")
        found = {} if self._execution is None or self._state == "closed" else dict(self._execution.pools.metrics())
        if self._opened:
            from steadyflow.runtime.open_ends import open_pools

            found = open_pools(self._opened, self._description.pipelines) | found
        return found

    def tune_pools(self) -> list[PoolChange]:
        """
        Let each consumer of large blocks keep as many views as it needs, by what it kept in the last seconds. Blocks meanwhile.

        More where more than a tenth of the blocks of the last second had to be copied, twice as many each time, up to 64 MiB; fewer where
        less than half was needed for ten seconds. The output gets other buffers for that from its next block on; what lies in those
        that it has stays until it has been taken, and then their memory is given back.

        Returns:
            What was changed and why, and what was left as it is, with the reason. Print it.

        Raises:
            StateError: The flow does not run, or a module of it calls in its worker's thread.
        """
        execution = self._running_execution("tune the pools of")
        self._require_changeable("tune pools")
        return self._changing.tune_pools(execution)

    def _running_execution(self, action: str) -> Execution:
        self._require_own(action)
        if self._execution is None or self._state != "running":
            raise StateError(f"flow {self.name!r}: expected a running flow, to {action} a module; it is {self._state}.")
        return self._execution

    def _module_to_switch(self, module: Module | str) -> str:
        if module == COORDINATOR:
            raise StateError(
                f"flow {self.name!r}: the coordinator itself goes on; write flow.pause() for the whole flow."
            )
        return self._named_module(module)

    @property
    def workers(self) -> Mapping[str, Worker]:
        """The workers by name; empty before the start."""
        return MappingProxyType({} if self._execution is None else self._execution.workers)

    def graph(self, format: DiagramFormat = "mermaid") -> str:
        """
        Draw the flow as it is described; nothing is started or set up for it.

        Args:
            format: ``"mermaid"``, for pages; ``"dot"``, for Graphviz; ``"json"``, for programs.

        Raises:
            UnknownName: There is no such format; offers the nearest.
            ConfigurationError: One worker is asked to be a thread and a process.
        """
        from steadyflow.diagrams import draw

        found = self._known_formats()
        return draw(self.name, self._description.modules, list(self._description.pipelines.values()), format, found)

    def _known_formats(self) -> FoundFormats | None:
        """Return the formats for a picture of the flow, where they are known without asking anybody."""
        return None if self._execution is None else self._execution.formats

    # --- running ------------------------------------------------------------------------------------------------------------

    def start(self, *, freewheel: bool = False, clock: ManualClock | None = None) -> None:
        """
        Check the description, allocate the memory, set up every worker, and let the sources produce. Blocks meanwhile.

        Args:
            freewheel: Run offline: by a `ManualClock` instead of the system's, as fast as the machine allows, and the same in each
                run. All modules run in threads of this process that take turns; those that would have a process, too, without
                replicas or real-time priority. Time goes on in `ManualClock.sleep`, `wait` and `stop`. Devices have to be
                scripted, and no end may be open.
            clock: The clock for that; None: a new one. Implies `freewheel`.

        Raises:
            ConfigurationError: The description cannot run; names what does not fit.
            InsufficientMemory: The system has too little shared memory; says how much is needed.
            FlowFailed: A module's setup failed; nothing was produced.
            StateError: The flow has been started before.
        """
        self._start(_clock_of("start", freewheel, clock))

    def _start(self, clock: ManualClock | None = None) -> None:
        from steadyflow.runtime.execution import Execution

        self._require_new("start")
        if _program_ends.is_set():
            raise StateError(f"flow {self.name!r}: cannot start any more: the program ends, and its threads with it.")
        self._execution = Execution(
            self.name,
            self._description.modules,
            list(self._description.pipelines.values()),
            self._opened,
            self._abort,
            self._publish,
            self._end_observers,
            self._registry,
            self._budgets,
            clock,
        )
        if clock is not None:
            self._clock = clock
            self._events.go_by(clock.monotonic_ns)
        self._changing.begin(self._execution)
        self._state = "running"
        try:
            if clock is None:
                self._admit_observers()  # before: once sources produce, a caller has to be able to stop them at once
            started = self._execution.start()
        except BaseException:
            self._state = "stopped"
            raise
        if not started:
            self._state = "stopped"
            self._raise_failure()
        elif self._tunes_pools and clock is None:
            from steadyflow.runtime.regular_tuning import tune_regularly

            tune_regularly(self)

    def run(
        self, duration_s: float | None = None, *, freewheel: bool = False, clock: ManualClock | None = None
    ) -> FlowReport:
        """
        Start the flow, wait until all streams have ended or the time is over, and report. Blocks.

        Ctrl-C stops the flow, lets it drain, and raises KeyboardInterrupt; a second one ends the draining. In the thread
        of a running event loop its tasks stand still meanwhile, also those at the open ends: await `run_async` there.

        Args:
            duration_s: Stop after this time; None: until every source has ended.
            freewheel: Run offline; see `start`. The duration is of the flow's time then.
            clock: The clock for that.

        Raises:
            FlowFailed: A module or worker failed; carries the report.
            ConfigurationError: See `start`.
        """
        _check_duration("run", duration_s)
        self._start(_clock_of("run", freewheel, clock))
        assert self._execution is not None
        try:
            finished = self._execution.wait(duration_s)
        except KeyboardInterrupt as interruption:
            self._stop_interrupted(interruption)
            raise
        return self._finish() if finished else self.stop()

    async def run_async(
        self, duration_s: float | None = None, *, freewheel: bool = False, clock: ManualClock | None = None
    ) -> FlowReport:
        """
        Do the same as `run` in a task of an event loop, which goes on meanwhile, also during start and stop.

        Cancelling it, as Ctrl-C does under ``asyncio.run``, stops the flow, lets it drain, and then goes on as usual.
        Cancelling it once more ends the draining: what is left is given up.

        Args:
            duration_s: Stop after this time; None: until every source has ended.
            freewheel: Run offline; see `start`. The duration is of the flow's time then.
            clock: The clock for that.

        Raises:
            FlowFailed: A module or worker failed; carries the report.
            ConfigurationError: See `start`.
        """
        _check_duration("run_async", duration_s)
        clock = _clock_of("run_async", freewheel, clock)
        from steadyflow.awaiting import in_thread, in_thread_until_hurried, loop_is_running, wait_for_call

        self._require_new("start")  # here, and not in a thread, so that what calls is known
        try:
            await in_thread(self._start, clock)
            assert self._execution is not None
            if clock is not None and duration_s is not None:
                finished = await in_thread(self._execution.wait, duration_s)  # of the flow's seconds
            else:
                self._execution.let_time_go_on()
                finished = await wait_for_call(self._execution.when_over, duration_s)
        except BaseException as interruption:
            # Cancelled; or the start failed, and nothing runs that could be stopped.
            if self._state == "running" and self._execution is not None:
                if loop_is_running():
                    await in_thread_until_hurried(self._hurry, self._stop_interrupted, interruption)
                else:  # it was closed over this task
                    self._hurry()
                    self._stop_interrupted(interruption)
            raise
        return await in_thread_until_hurried(self._hurry, self._wait_and_finish if finished else self.stop)

    async def start_async(self, *, freewheel: bool = False, clock: ManualClock | None = None) -> None:
        """
        Do the same as `start` in a task of an event loop, which goes on meanwhile.

        If it is cancelled, it finishes first and leaves a started flow. Raises what `start` does.
        """
        from steadyflow.awaiting import in_thread

        await in_thread(self._start, _clock_of("start_async", freewheel, clock))

    async def stop_async(self, drain_timeout_s: float = DRAIN_TIMEOUT_S) -> FlowReport:
        """
        Do the same as `stop` in a task of an event loop, which goes on meanwhile.

        If it is cancelled, it gives up what has not drained by then, and finishes first. Raises what `stop` does.
        """
        from steadyflow.awaiting import in_thread_until_hurried

        self._require_outside("stop")
        return await in_thread_until_hurried(self._hurry, self.stop, drain_timeout_s)

    def wait(self, timeout_s: float | None = None) -> bool:
        """
        Wait until all streams of a started flow have ended. Blocks.

        Returns:
            True when everything has ended, or failed: `stop` then reports at once. False after the time.

        Raises:
            ConfigurationError: `timeout_s` is no time.
            StateError: The flow has not been started, or a module of it calls in its worker's thread.
        """
        if timeout_s is not None:
            checked_seconds("wait", "timeout_s", timeout_s)
        self._require_own("wait")
        self._require_outside("wait")
        if self._execution is None:
            raise StateError(f"flow {self.name!r}: expected a started flow to wait for; call start() first.")
        return self._execution.wait(timeout_s)

    def stop(self, drain_timeout_s: float = DRAIN_TIMEOUT_S) -> FlowReport:
        """
        Stop the sources, let blocks drain, end the workers, and report. Blocks. Idempotent.

        An exception that interrupts it, such as KeyboardInterrupt, ends the draining.

        Args:
            drain_timeout_s: What has not drained by then is dropped (counted as stopped).

        Raises:
            FlowFailed: A module or worker had failed; carries the report.
            ConfigurationError: `drain_timeout_s` is no time.
            StateError: The flow has not been started, or a module of it calls in its worker's thread.
        """
        checked_seconds("stop", "drain_timeout_s", drain_timeout_s)
        self._require_own("stop")
        self._require_outside("stop")
        if self._execution is None:
            raise StateError(f"flow {self.name!r}: expected a started flow to stop; call start() first.")
        if self._state == "running":
            self._execution.stop(drain_timeout_s)
        return self._finish()

    def report(self) -> FlowReport:
        """
        Return what the flow has done so far. Any thread; does not disturb it.

        Raises:
            StateError: This process was forked from the one that runs the flow.
        """
        self._require_own("report")
        execution = self._execution
        began = 0 if execution is None else execution.started_ns
        until = 0 if execution is None else execution.ended_ns or execution.now_ns()
        return FlowReport(
            name=self.name,
            duration_s=(until - began) / 1e9 if began else 0.0,
            pipelines={
                name: link.statistics() for name, link in list(self._description.pipelines.items()) if link.has_metrics
            }
            | self._changing.accounts,
            modules={} if execution is None else execution.module_reports(),
            conversions={} if execution is None else execution.conversion_reports(),
            devices={} if execution is None else execution.device_reports(),
            clock_drifts_ppm={} if execution is None else execution.clock_drifts(),
            events=self._events.history,
        )

    def close(self) -> None:
        """
        Stop the flow if it runs, close all open ends, and give the memory back. Idempotent; blocks while stopping.

        In a process that was forked from the one that runs the flow there is nothing to close, so nothing is done.

        Raises:
            FlowFailed: A module or worker had failed, and nothing has reported it yet.
            StateError: A module of the flow calls in its worker's thread.
        """
        if self._state in ("closed", "forked"):
            return
        self._require_outside("close")
        try:
            if self._state == "running":
                self.stop()
        finally:
            self._state = "closed"
            self._abort.set()
            if self._execution is not None and not self._execution.ended_ns:
                self._execution.give_up()  # the stop was interrupted
            self._detach()
            self._events.close()
            _open_flows.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave(problem)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from steadyflow.awaiting import in_thread_until_hurried, loop_is_running

        self._require_outside("close")
        if loop_is_running():
            await in_thread_until_hurried(self._hurry, self._leave, problem)
        else:  # it was closed over this task
            self._hurry()
            self._leave(problem)

    def _leave(self, problem: BaseException | None) -> None:
        if problem is None:
            self.close()
            return
        try:
            self.close()
        except FlowFailed as failed:
            # The exception on its way out matters more; the failure stays visible with it.
            problem.add_note(str(failed))

    def __repr__(self) -> str:
        return f"<DataFlowCoordinator {self.name!r}: {self._state}, {len(self._description.modules)} modules, {len(self._description.pipelines)} pipelines>"

    # --- inside ---------------------------------------------------------------------------------------------------------------

    def _admit_observers(self) -> None:
        from steadyflow.runtime.observers import Observers

        try:
            self._observers = observers = Observers(self.name, self._describe)
        except SystemShortage as shortage:
            self._publish(ObservationUnavailable(flow=self.name, reason=str(shortage)))
        else:
            weakref.finalize(self, observers.request_end)

    def _describe(self) -> tuple[FlowDescription, list[Segment]]:
        from steadyflow.runtime.flow_description import describe_flow

        assert self._execution is not None
        pipelines = list(self._description.pipelines.values())
        devices = self._execution.device_places()
        return describe_flow(self.name, self._execution.started_ns, pipelines, self.workers, self.modules, devices)

    def _end_observers(self) -> None:
        if self._observers is not None:
            self._observers.close()

    def _forget(self) -> None:
        self._state = "forked"
        self._events.forget()
        if self._observers is not None:
            self._observers.forget()
        for link in self._description.pipelines.values():
            link.forget(f"{link.id}: this process was forked from the one that runs flow {self.name!r}; {_OWN_FLOW}")
        if self._execution is not None:
            self._execution.forget()

    def _close_at_exit(self) -> None:
        self._abort.set()
        if self._execution is not None and not self._execution.ended_ns:
            self._execution.give_up()
        self._state = "closed"
        self._detach()
        self._events.close(_EXIT_TIMEOUT_S)

    def _detach(self) -> None:
        for link in self._description.pipelines.values():
            link.detach(f"{link.id}: flow {self.name!r} has been closed")
        self._changing.detach(f"flow {self.name!r} has been closed")
        self._opened.clear()
        if self._execution is not None:
            self._execution.release()

    def _wait_and_finish(self) -> FlowReport:
        assert self._execution is not None
        self._execution.wait(None)
        return self._finish()

    def _stop_interrupted(self, interruption: BaseException) -> None:
        assert self._execution is not None
        try:
            self._execution.stop(DRAIN_TIMEOUT_S)
        finally:  # also where that was interrupted, too
            try:
                self._finish()
            except FlowFailed as failure:
                interruption.add_note(f"Meanwhile the flow failed: {failure}")

    def _hurry(self) -> None:
        if self._execution is not None:
            self._execution.hurry()

    def _finish(self) -> FlowReport:
        if self._state == "running":
            self._state = "stopped"
            for link in self._description.pipelines.values():
                if link.source_open and link.target_open:
                    link.end_pausing("the flow was stopped")
                    link.end_from_outside(f"{link.id}: flow {self.name!r} was stopped")
        self._raise_failure()
        return self.report()

    def _raise_failure(self) -> None:
        assert self._execution is not None
        if self._execution.problems:
            failure = self._execution.failure(self.report())
            assert failure is not None
            raise failure

    def _announce_pause(self, pipeline: str, paused: bool) -> None:
        self._publish((PipelinePaused if paused else PipelineResumed)(flow=self.name, pipeline=pipeline))

    def _publish(self, event: FlowEvent) -> None:
        self._events.post(event)

    def _require_own(self, action: str) -> None:
        if self._state == "forked":
            raise StateError(
                f"flow {self.name!r}: cannot {action} here: this process was forked from the one that runs the flow; "
                f"{_OWN_FLOW}."
            )

    def _require_outside(self, action: str) -> None:
        """Refuse a module of the flow that would wait for its own end."""
        if self._state != "running" or self._execution is None:
            return
        worker = self._execution.runs_in_this_thread()
        if worker is not None:
            raise StateError(
                f"flow {self.name!r}: cannot {action} here: this is the thread of its worker {worker!r}, so that the module "
                f"which calls would wait for itself. To end the flow, return from a source's produce(), raise an exception "
                f"(the flow then fails), or let another thread stop it: threading.Thread(target=flow.stop).start()."
            )

    def _require_new(self, action: str) -> None:
        self._require_own(action)
        if self._state != "new":
            raise StateError(
                f"flow {self.name!r}: expected a flow that has not been started, to {action}; it is {self._state}. "
                f"Describe the whole flow first, or make a new DataFlowCoordinator."
            )

    def _require_changeable(self, action: str) -> None:
        """Refuse a flow that has ended, and a module that would wait for itself."""
        self._require_own(action)
        if self._state not in ("new", "running"):
            raise StateError(
                f"flow {self.name!r}: expected a flow that is new or runs, to {action}; it is {self._state}. "
                f"Make a new DataFlowCoordinator."
            )
        worker = None if self._execution is None else self._execution.runs_in_this_thread()
        if worker is not None:
            raise StateError(
                f"flow {self.name!r}: cannot {action} here: this is the thread of its worker {worker!r}, which would wait for "
                f"itself. Let another thread do it, such as that of an event's subscriber."
            )

    def _require_open(self, action: str) -> None:
        self._require_own(action)
        if self._state in ("stopped", "closed"):
            raise StateError(f"flow {self.name!r}: cannot {action}: the flow is {self._state}.")


def _state_of(flow: weakref.ref[DataFlowCoordinator]) -> Callable[[], ModuleState]:
    """Return what says where a coordinator is, in the words of modules."""

    def state() -> ModuleState:
        coordinator = flow()
        if coordinator is None:
            return "ended"
        failed = coordinator._execution is not None and bool(coordinator._execution.problems)
        if failed and coordinator._state != "running":
            return "failed"
        return _COORDINATOR_STATES[coordinator.state]

    return state


def _health_of(flow: weakref.ref[DataFlowCoordinator]) -> Callable[[str], float]:
    """Return what says how well a module is, by the worst pipeline that leads into it."""

    def health(module: str) -> float:
        coordinator = flow()
        links = [] if coordinator is None else list(coordinator._description.pipelines.values())
        scores = [link.statistics().health_score for link in links if link.target[0] == module and link.has_metrics]
        return min(scores, default=100.0)

    return health


def _id_of(source: tuple[str, str], target: tuple[str, str]) -> str:
    return f"{'.'.join(filter(None, source))}->{'.'.join(filter(None, target))}"


def _check_duration(owner: str, duration_s: float | None) -> None:
    if duration_s is not None:
        checked_number(owner, "duration_s", duration_s, above=0, most=_LONGEST_S)


def _clock_of(owner: str, freewheel: bool, clock: ManualClock | None) -> ManualClock | None:
    """Return what a flow is to freewheel by; None: it does not."""
    if clock is not None and not isinstance(clock, ManualClock):
        raise ConfigurationError(f"{owner}: expected clock to be a ManualClock, got {clock!r}.")
    if clock is None and checked_switch(owner, "freewheel", freewheel):
        clock = ManualClock()
    return clock


def _close_open_flows() -> None:
    """End what the program left open, while the interpreter still works and waiting threads can still be told."""
    _program_ends.set()
    with contextlib.ExitStack() as steps:  # one that fails, or Ctrl-C, does not keep the others from being taken
        steps.callback(shut_down, _EXIT_TIMEOUT_S)
        for flow in list(_open_flows):
            steps.callback(flow._close_at_exit)


def _forget_open_flows() -> None:
    """Detach a forked child: the flows run on in its parent."""
    for flow in list(_open_flows):
        if flow._state != "new" or flow._opened:  # a mere description is as good in the child
            flow._forget()
            _open_flows.discard(flow)


atexit.register(_close_open_flows)
os.register_at_fork(after_in_child=_forget_open_flows)
