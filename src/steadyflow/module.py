"""
Modules: code with typed ports.

A module declares its ports as class attributes and its work as ``process``. Everything about the declaration is
checked when the class is created, so a misspelt name never waits for the first block::

    class Loudness(Module):
        audio = Input(AudioFormat(sample_rate_hz=16_000, channels=1), window_frames=1024, hop_frames=256)
        level = Output(StructFormat(Level))

        def process(self, audio: Block) -> Level: ...
"""

from __future__ import annotations

from abc import ABC, ABCMeta
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, overload

import msgspec
import numpy as np

from steadyflow._native import DeviceAccount, DeviceFeed, OutputCore
from steadyflow.aligned import Aligned, check_methods, check_names
from steadyflow.errors import ConfigurationError, FlowNotRunning, StateError, UnknownName
from steadyflow.formats import MAX_WINDOW_FRAMES, AnyFormat, AudioFormat, Format, checked_integer

if TYPE_CHECKING:
    from steadyflow.awaiting import Sender
    from steadyflow.events import FlowEvent

M = TypeVar("M")

_ANY: Final = AnyFormat()

# --- ports, declared ----------------------------------------------------------------------------------------------


class Input:
    """
    Declares an input of a module, as a class attribute.

    Args:
        format: What it accepts; open fields of an `AudioFormat` take what comes.
        window_frames: Collect blocks of audio into windows of this many frames.
        hop_frames: How many frames a window starts after the one before; None: windows do not overlap.
        pad_last: At the end, and before a discontinuity, give what is left, too: filled up with silence, and its metadata say how
            many ``padded_frames`` there are.

    Raises:
        ConfigurationError: Windows of something else than audio, or of an impossible size.
    """

    __slots__ = ("format", "hop_frames", "pad_last", "window_frames")

    def __init__(
        self,
        format: Format = _ANY,
        *,
        window_frames: int | None = None,
        hop_frames: int | None = None,
        pad_last: bool = False,
    ) -> None:
        _check_format("Input", format)
        if pad_last and window_frames is None:
            raise ConfigurationError("Input: pad_last needs window_frames, the length of what is padded.")
        if window_frames is None and hop_frames is not None:
            raise ConfigurationError("Input: hop_frames needs window_frames, the length of what hops.")
        if window_frames is not None:
            if not isinstance(format, AudioFormat):
                raise ConfigurationError(f"Input: only audio has windows, got window_frames with {format}.")
            window_frames = checked_integer("Input", "window_frames", window_frames, MAX_WINDOW_FRAMES)
            hop_frames = checked_integer(
                "Input", "hop_frames", window_frames if hop_frames is None else hop_frames, MAX_WINDOW_FRAMES
            )
        self.format = format
        self.window_frames = window_frames
        self.hop_frames = hop_frames
        self.pad_last = pad_last

    @overload
    def __get__(self, instance: None, owner: type) -> Input: ...
    @overload
    def __get__(self, instance: Module, owner: type) -> InputPort: ...
    def __get__(self, instance: Module | None, owner: type) -> Input | InputPort:
        # Reached on the class only: the port of an instance is in its __dict__, which comes first.
        return self if instance is None else _without_ports(owner)

    def __repr__(self) -> str:
        window = "" if self.window_frames is None else f", window_frames={self.window_frames}"
        hop = "" if self.hop_frames is None else f", hop_frames={self.hop_frames}"
        padded = ", pad_last=True" if self.pad_last else ""
        return f"Input({self.format!r}{window}{hop}{padded})"


class Output:
    """
    Declares an output of a module, as a class attribute.

    Args:
        format: What it sends.
        like: The name of an input; the output has the format of what comes there.

    Raises:
        ConfigurationError: Both or neither were given.
    """

    __slots__ = ("format", "like")

    def __init__(self, format: Format | None = None, *, like: str | None = None) -> None:
        if (format is None) == (like is None):
            raise ConfigurationError('Output: expected a format, or like="name of an input"; one of the two.')
        if format is not None:
            _check_format("Output", format)
        self.format: Format = AnyFormat() if format is None else format
        self.like = like

    @overload
    def __get__(self, instance: None, owner: type) -> Output: ...
    @overload
    def __get__(self, instance: Module, owner: type) -> OutputPort: ...
    def __get__(self, instance: Module | None, owner: type) -> Output | OutputPort:
        return self if instance is None else _without_ports(owner)

    def __repr__(self) -> str:
        return f"Output({self.format!r})" if self.like is None else f"Output(like={self.like!r})"


def _check_format(owner: str, format: object) -> None:
    if not isinstance(format, Format):
        raise ConfigurationError(f"{owner}: expected a format such as AudioFormat(48_000, 1), got {format!r}.")


def _without_ports(owner: type) -> Any:
    raise AttributeError(f"this {owner.__name__} has no ports: it was made without calling {owner.__name__}(...)")


# --- ports, of an instance ----------------------------------------------------------------------------------------


class InputPort:
    """An input of one module; made with the module."""

    __slots__ = ("declaration", "device_feed", "format", "keepers", "module", "name")

    def __init__(self, module: Module, name: str, declaration: Input) -> None:
        self.module = module
        self.name = name
        self.declaration = declaration
        self.format: Format = declaration.format
        """The declared format; from the start of the flow on, the resolved one."""
        self.keepers: list[Callable[[bool], bool]] = []
        """For each pipeline that can keep blocks back: what is told whether they are wanted. Filled in by the worker."""
        self.device_feed: DeviceFeed | None = None
        """Of a module that a device drives: what the device takes its frames from. Filled in by the worker."""

    def hold(self) -> None:
        """
        Want no blocks until `release`: the newest ``preroll_ms`` are kept, older ones are dropped (``unwanted``).

        From ``setup`` on; the module's worker; wait-free; idempotent. At the end of the stream what is kept is dropped.

        Raises:
            StateError: No pipeline into this input has ``preroll_ms``, or the flow has not been started.
        """
        self._want(False)

    def release(self) -> None:
        """
        Want blocks again: those that were kept come first, then the others. As `hold`.

        Being kept makes no block late. The first one says `BlockFlag.DISCONTINUITY` if any was dropped before it.
        """
        self._want(True)

    def _want(self, wanted: bool) -> None:
        kept = [keeper(wanted) for keeper in self.keepers]
        if not any(kept):
            raise StateError(
                f"{self!r}: expected a pipeline that can keep blocks back, in a flow that was started; connect this input with "
                f"preroll_ms=..., which says how much is kept."
            )

    def __repr__(self) -> str:
        return f"<InputPort {type(self.module).__name__}.{self.name}: {self.format}>"


class OutputPort(OutputCore):
    """
    An output of one module; made with the module.

    ``send(data)`` and ``loan(frames)`` are native: see `OutputCore`. Where they would wait, they raise `StateError` in an
    asynchronous module.
    """

    __slots__ = ("declaration", "format", "module", "name", "sender")

    def __init__(self, module: Module, name: str, declaration: Output) -> None:
        super().__init__()
        self.module = module
        self.name = name
        self.declaration = declaration
        self.format: Format = declaration.format
        """The declared format; from the start of the flow on, the resolved one."""
        self.sender: Sender | None = None
        """The port as the event loop of its worker uses it."""

    def send_async(self, data: object) -> Coroutine[Any, Any, bool]:
        """
        Send as `send` does, by the same rules, from an asynchronous module; waits for room without stopping its loop.

        The event loop of the module's worker only. Cancelling it means that nothing was queued. Returns and raises what
        `send` does; `StateError` in a module that is not asynchronous, at the call, whether that is awaited or not.
        """
        if self.sender is None:
            raise StateError(
                f"{self!r}: expected a running asynchronous module to await send_async(); write self.{self.name}.send(...) "
                f"in a module whose methods are plain functions, or make process an async def."
            )
        return self.sender.send_async(data)

    async def wait_for_room(self, payload_bytes: int = 0, frames: int = 0) -> None:
        """
        Wait until `has_room` for a block of this size, whatever the rules of the pipelines, without stopping the loop.

        The event loop of the module's worker only. Cancelling it leaves nothing behind. Raises as `has_room` does, and as
        `send_async` in a module that is not asynchronous.
        """
        if self.sender is None:
            raise StateError(f"{self!r}: expected a running asynchronous module to await wait_for_room().")
        await self.sender.wait_for_room(payload_bytes, frames)

    def __repr__(self) -> str:
        return f"<OutputPort {type(self.module).__name__}.{self.name}: {self.format}>"


# --- checks of a class --------------------------------------------------------------------------------------------

_CO_GENERATOR: Final = 0x20
_CO_COROUTINE: Final = 0x80
_CO_ASYNC_GENERATOR: Final = 0x200


def _flags(function: object) -> int:
    return int(getattr(getattr(function, "__code__", None), "co_flags", 0))


def is_coroutine_function(function: object) -> bool:
    """Tell whether calling it gives a coroutine: whether it was written as ``async def``, without a yield."""
    return bool(_flags(function) & _CO_COROUTINE)


def _check_ports(cls: ModuleMeta) -> None:
    where = f"class {cls.__qualname__}"
    ports = {**cls._steadyflow_inputs, **cls._steadyflow_outputs}
    reserved = {"process", "produce", "_arguments"}
    for base in cls.__mro__[1:]:
        if base.__module__ == __name__ or base is object:
            reserved |= vars(base).keys()
    for name in ports:
        if name in reserved or name.startswith("_steadyflow"):
            raise ConfigurationError(
                f"{where}: a port cannot be called {name!r}; modules have an attribute of that name."
            )
    for name, output in cls._steadyflow_outputs.items():
        if output.like is not None and output.like not in cls._steadyflow_inputs:
            raise UnknownName("input", output.like, cls._steadyflow_inputs, where=f"{where}, output {name!r}")
    if cls._steadyflow_aligned is not None:
        check_names(where, cls._steadyflow_aligned, cls._steadyflow_inputs)


def _check_methods(cls: ModuleMeta) -> None:
    where = f"class {cls.__qualname__}"
    inputs = cls._steadyflow_inputs
    methods = {name for name in dir(cls) if name == "process" or name.startswith("process_")}
    methods = {name for name in methods if callable(getattr(cls, name))}
    for name in sorted(methods):
        port = name.removeprefix("process_")
        if name != "process" and port not in inputs:
            raise UnknownName("input", port, inputs, where=f"{where}, method {name}()")
        _check_process(f"{where}: {name}()", getattr(cls, name))
    produces = hasattr(cls, "produce")
    if produces and is_coroutine_function(cls.produce):  # type: ignore[attr-defined]
        raise ConfigurationError(f"{where}: produce() never yields. Yield after each send, so that it can be stopped.")
    if any(base.__name__ == "Source" and base.__module__ == __name__ for base in cls.__mro__):
        if not produces:
            raise ConfigurationError(f"{where}: a Source needs a generator: def produce(self): ... yield.")
    elif produces:
        raise ConfigurationError(f"{where}: produce() is for sources. Derive the class from Source, not from Module.")
    _check_quality(where, cls)
    if cls._steadyflow_aligned is not None:
        check_methods(where, cls._steadyflow_aligned, cls, methods, inputs)
    elif not getattr(cls, "device_driven", False):
        _check_every_input_is_processed(where, list(inputs), methods)


def _check_quality(where: str, cls: ModuleMeta) -> None:
    levels: Any = getattr(cls, "quality_levels", ())
    named = isinstance(levels, tuple) and all(isinstance(each, str) and each for each in levels)
    if not named or len(set(levels)) != len(levels) or len(levels) == 1:
        raise ConfigurationError(
            f"{where}: expected quality_levels to be a tuple of two names or more, the best first, such as ('full', 'fast'), got {levels!r}."
        )
    if levels and cls.set_quality is Module.set_quality:  # type: ignore[attr-defined]
        raise ConfigurationError(f"{where}: has quality_levels. Define set_quality(self, level), too.")


def _only_aligned(where: str, attributes: dict[str, Any]) -> Aligned | None:
    named = {name: value for name, value in attributes.items() if not name.startswith("_steadyflow")}
    found = {name: value for name, value in named.items() if isinstance(value, Aligned)}
    if len(found) > 1:
        raise ConfigurationError(
            f"{where}: expected one Aligned, because there is one process(); got {', '.join(found)}. Divide the module."
        )
    return next(iter(found.values()), None)


def _check_every_input_is_processed(where: str, inputs: list[str], methods: set[str]) -> None:
    missing = [f"process_{name}(self, {name})" for name in inputs if f"process_{name}" not in methods]
    if "process" in methods and len(inputs) == 1:
        if not missing:
            raise ConfigurationError(f"{where}: has both process() and process_{inputs[0]}(). Keep one of them.")
    elif "process" in methods and inputs:
        raise ConfigurationError(
            f"{where}: has {len(inputs)} inputs, so process() cannot know which one a block is from. "
            f"Define {', '.join(missing) or 'only the methods of the inputs'} instead; or, to get a block of each at once, "
            f"say aligned = Aligned({', '.join(map(repr, inputs))})."
        )
    elif len(inputs) == 1 and missing:
        raise ConfigurationError(
            f"{where}: nothing takes the blocks of {inputs[0]!r}. Define process(self, {inputs[0]})."
        )
    elif missing:
        raise ConfigurationError(
            f"{where}: some inputs have nothing that takes their blocks. Define {', '.join(missing)}."
        )


def _check_process(where: str, function: object) -> None:
    if _flags(function) & _CO_ASYNC_GENERATOR:
        raise ConfigurationError(
            f"{where} yields. Send several results with await self.<output>.send_async(...) instead."
        )
    if _flags(function) & _CO_GENERATOR:
        raise ConfigurationError(f"{where} yields. Send several results with self.<output>.send(...) instead.")


def _check_asynchronous(cls: ModuleMeta) -> bool:
    """Tell whether the class needs an event loop: whether its blocks are taken or made by ``async def``."""
    where = f"class {cls.__qualname__}"
    names = [name for name in dir(cls) if name == "process" or name.startswith("process_")]
    takes = any(is_coroutine_function(getattr(cls, name)) for name in names)
    makes = bool(_flags(getattr(cls, "produce", None)) & _CO_ASYNC_GENERATOR)
    if (takes and hasattr(cls, "produce")) or (makes and cls._steadyflow_inputs):
        raise ConfigurationError(
            f"{where}: expected an asynchronous source to have no inputs, because a module is never called twice at once, "
            f"and its produce() would be awaiting something most of the time. Take the blocks in another module."
        )
    if takes and cls._steadyflow_aligned is not None:
        raise ConfigurationError(
            f"{where}: expected a plain def process for {cls._steadyflow_aligned!r}, got an async def. Join in a module of "
            f"its own, and await in the next one."
        )
    if takes or makes:
        return True
    if not names and not hasattr(cls, "produce"):
        return False  # nothing yet: a base of others
    for name in ("setup", "finish", "teardown"):
        if is_coroutine_function(getattr(cls, name)):
            raise ConfigurationError(
                f"{where}: {name}() is asynchronous, but nothing that takes or makes its blocks is, so "
                f"it gets no event loop. Write async def process(...), or a plain def {name}(self)."
            )
    return False


# --- modules ------------------------------------------------------------------------------------------------------


class ModuleMeta(ABCMeta):
    """
    Checks the declaration of a module when its class is created, and prepares each instance.

    An instance has its ports and knows its constructor's arguments before ``__init__`` runs, so a module needs no
    ``super().__init__()``, and a worker process can construct it again.
    """

    _steadyflow_inputs: dict[str, Input]
    _steadyflow_outputs: dict[str, Output]
    _steadyflow_aligned: Aligned | None
    _steadyflow_asynchronous: bool

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> None:
        super().__init__(name, bases, namespace, **options)
        attributes: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            attributes |= vars(base)
        cls._steadyflow_inputs = {name: port for name, port in attributes.items() if isinstance(port, Input)}
        cls._steadyflow_outputs = {name: port for name, port in attributes.items() if isinstance(port, Output)}
        cls._steadyflow_aligned = _only_aligned(f"class {cls.__qualname__}", attributes)
        _check_ports(cls)
        if ABC not in bases:  # a class that derives from ABC itself is one that others complete
            _check_methods(cls)
        cls._steadyflow_asynchronous = _check_asynchronous(cls)

    def __call__(cls: type[M], *args: Any, **kwargs: Any) -> M:
        """Make an instance: ports first, then ``__init__``, then a note of how it left the attributes."""
        made = cls.__new__(cls, *args, **kwargs)
        if isinstance(made, cls) and isinstance(made, Module):
            attributes = vars(made)
            attributes["_arguments"] = (args, kwargs)
            ports = _make_ports(made)
            attributes.update(ports)
            made.__init__(*args, **kwargs)  # type: ignore[misc]
            for name, port in ports.items():
                if attributes.get(name) is not port:
                    raise ConfigurationError(
                        f"{cls.__name__}.__init__ assigned to {name!r}, which is a port. Give the attribute another name."
                    )
            attributes[_SNAPSHOT] = _snapshot(made)
        return made


class Module(metaclass=ModuleMeta):
    """
    Code with typed ports; derive from it.

    Declare ports as `Input` and `Output` attributes. With one input, define ``process(self, block)``; with several,
    ``process_<input>(self, block)`` for each, or ``process`` with a block of each (`Aligned`). What it returns goes to
    the only output, unless it is None; ``self.<output>.send(...)`` works everywhere. All methods are called in the
    module's worker, never two at once.

    A module whose ``process`` is an ``async def`` is asynchronous: it runs in a worker with an event loop, its other
    methods may be ``async def`` too, and it sends with ``await self.<output>.send_async(...)``. While it awaits, other
    modules of the worker go on, but it never gets a second block before it is done with the first.

    ``__init__`` runs where the module is made and, for a process worker, once more in that process: keep it cheap,
    and acquire models, files and sockets in `setup`.
    """

    blocking: bool = False
    """Whether the module may block for long (a file, a socket); it then gets a worker of its own."""

    latency_ms: float = 0.0
    """How much later sound comes out than it came in, because of what the module does with it; for `path_budget`."""

    latency_frames: int = 0
    """The same in frames of what comes in; of a source, of what it sends. Both add up."""

    version: str = ""
    """Which version of the module this is; for whoever looks it up in ``flow.registry``."""

    capabilities: frozenset[str] = frozenset()
    """What it can do, in words of your own, by which ``flow.registry.find(capability=...)`` finds it."""

    quality_levels: tuple[str, ...] = ()
    """At what levels it can work, the best first, if there are several: the rule `Adaptive` lowers the level before it drops anything."""

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def set_quality(self, level: str) -> None:
        """
        Work at one of `quality_levels` from the next block on. Called in the module's worker, between two blocks; it begins at the best.

        To be overridden by a module that has levels. What it raises leaves the level as it was.
        """
        raise StateError(f"{self!r}: expected a module with quality_levels, to work at {level!r}; it has none.")

    def setup(self) -> Awaitable[None] | None:
        """Acquire what the module needs. Runs once in its worker, before any source produces; may block."""

    def finish(self) -> Awaitable[None] | None:
        """Send what is left. Runs once in its worker, when all inputs have ended; may send."""

    def teardown(self) -> Awaitable[None] | None:
        """Release what `setup` acquired. Runs once in its worker, also after a failure; may block."""

    def publish(self, event: FlowEvent) -> None:
        """
        Tell an event of your own to whoever has subscribed to its type (`steadyflow.events`).

        From ``setup`` on; any thread; does not wait. From a process worker it takes up to 4 KiB, and its class has to be loaded
        where the flow was made.

        Raises:
            ConfigurationError: It is no event of your own, holds something that can change, or is too long; names the field.
            FlowNotRunning: The flow has not been started, or has ended.
        """
        from steadyflow.events.event import check_event, is_own

        check_event(event)
        if is_own(event):
            raise ConfigurationError(
                f"{self!r}: expected an event of your own, got a {type(event).__name__}, which tells what the runtime has noticed. "
                f"Derive a class from FlowEvent, or from that one."
            )
        publisher: Callable[[FlowEvent], None] | None = vars(self).get(_PUBLISHER)
        if publisher is None:
            raise FlowNotRunning(
                f"{self!r}: expected a flow that runs, to publish {type(event).__name__} in; publish from setup() to teardown()."
            )
        publisher(event)

    def resolve_formats(self, inputs: Mapping[str, Format]) -> Mapping[str, Format]:
        """
        Say what the outputs send, given what comes in. Called before start, modules further up first; may block.

        Unless overridden: an output ``like`` an input has the input's format, with room for a whole window; rate and
        channels that an audio output leaves open are those of the only audio input, if there is exactly one.

        Args:
            inputs: The resolved formats of the connected inputs, by name.

        Returns:
            The format of each output, by name; unresolved where nothing says more.
        """
        cls = type(self)
        formats = {name: inputs.get(name, port.format) for name, port in cls._steadyflow_inputs.items()}
        audio = [fmt for fmt in formats.values() if isinstance(fmt, AudioFormat)]
        resolved: dict[str, Format] = {}
        for name, output in cls._steadyflow_outputs.items():
            fmt = output.format
            if output.like is not None:
                fmt = _with_room(formats[output.like], cls._steadyflow_inputs[output.like].window_frames)
            elif isinstance(fmt, AudioFormat) and len(audio) == 1:
                fmt = _filled(fmt, audio[0])
            resolved[name] = fmt
        return resolved

    def __repr__(self) -> str:
        cls = type(self)
        return f"<{cls.__name__}: {', '.join(cls._steadyflow_inputs)} -> {', '.join(cls._steadyflow_outputs)}>"


def _with_room(fmt: Format, window_frames: int | None) -> Format:
    if window_frames is None or not isinstance(fmt, AudioFormat) or fmt.max_block_frames >= window_frames:
        return fmt
    return msgspec.structs.replace(fmt, max_block_frames=window_frames)


def _filled(fmt: AudioFormat, source: AudioFormat) -> AudioFormat:
    return msgspec.structs.replace(
        fmt,
        sample_rate_hz=source.sample_rate_hz if fmt.sample_rate_hz is None else fmt.sample_rate_hz,
        channels=source.channels if fmt.channels is None else fmt.channels,
    )


class Source(Module, ABC):
    """
    A module that blocks come from; derive from it and define ``produce``.

    ``produce(self)`` is a generator: it sends blocks and yields between them, so that the runtime can pace, pause or
    stop it; its end is the end of the stream. ``yield`` goes on at once; ``yield ns`` goes on not before that time
    of the monotonic clock, in nanoseconds. Where it was paused at a yield, that yield returns for how long, in ns; else None.

    An ``async def produce(self)`` is an asynchronous generator, which yields in the same way; when the flow is stopped, it
    is cancelled where it awaits.
    """

    live: bool = False
    """Whether the source cannot be slowed, only dropped (a microphone)."""

    device_driven: bool = False
    """
    Whether a device's callback serves the ports: its pipelines always have a ring and, where it sends, a rule that does not wait.
    It may have an input, which needs no ``process``. It has a process of its own, unless told otherwise, which is started again
    when the device is lost.
    """

    device_account: DeviceAccount | None = None
    """What the callback of the device counts, and where it has come to; from the start of the flow on."""

    if TYPE_CHECKING:  # at run time its absence is what the check of the class looks for

        def produce(self) -> Iterator[int | None] | AsyncIterator[int | None]:
            """Send blocks, and yield between them."""
            ...

    @property
    def real_time_only(self) -> bool:
        """Whether it goes by a clock of its own, as a device does: then its flow cannot freewheel."""
        return False

    @property
    def reopens(self) -> bool:
        """Whether `setup` can be called again after `produce` has raised `DeviceLost`, to look for the device where it was."""
        return False

    @property
    def paced(self) -> bool:
        """Whether the blocks come at the pace of real time, so that a late one matters; `live` unless set."""
        return bool(vars(self).get("paced", self.live))

    @paced.setter
    def paced(self, value: bool) -> None:
        vars(self)["paced"] = value


# --- the function form --------------------------------------------------------------------------------------------


class FunctionModule(Module):
    """A module made from a function by `module`: one input, named as the parameter, and perhaps an output ``out``."""

    if TYPE_CHECKING:
        out: OutputPort

        def __getattr__(self, name: str) -> Any: ...


def module(
    *, input: Format = _ANY, output: Format | None = None
) -> Callable[[Callable[[Any], object]], type[FunctionModule]]:
    """
    Make a module class from a function of one block.

    ::

        @module(input=AudioFormat(48_000, 1), output=AudioFormat(48_000, 1))
        def halve(audio):
            return audio.samples * 0.5

        flow.add(halve())

    Args:
        input: What the function takes; the input is named as its parameter.
        output: What it returns; None: it returns nothing, and there is no output.

    Raises:
        ConfigurationError: The function has not exactly one parameter.
    """

    def decorate(function: Callable[[Any], object]) -> type[FunctionModule]:
        code = getattr(function, "__code__", None)
        if code is None or code.co_argcount != 1 or code.co_kwonlyargcount:
            raise ConfigurationError(
                f"@module: expected a function of one parameter, which names the input, such as def halve(audio); "
                f"got {function!r}. Derive a class from Module for more."
            )
        attributes: dict[str, Any] = {
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "__doc__": function.__doc__,
            "process": staticmethod(function),  # called as it is, without a frame in between
            code.co_varnames[0]: Input(input),
        }
        if output is not None:
            if "out" in attributes:
                raise ConfigurationError(f"@module: {function.__qualname__} calls its input `out`, as its output is.")
            attributes["out"] = Output(output)
        made: Any = ModuleMeta(function.__name__, (FunctionModule,), attributes)
        return cast("type[FunctionModule]", made)

    return decorate


# --- what the runtime asks ----------------------------------------------------------------------------------------


def input_ports(module: Module) -> dict[str, InputPort]:
    """Return the inputs of a module by name, in the order of their declaration."""
    return {name: vars(module)[name] for name in type(module)._steadyflow_inputs}


def output_ports(module: Module) -> dict[str, OutputPort]:
    """Return the outputs of a module by name, in the order of their declaration."""
    return {name: vars(module)[name] for name in type(module)._steadyflow_outputs}


def set_publisher(module: Module, publish: Callable[[FlowEvent], None] | None, name: str = "") -> None:
    """Say where the events of a module go, and what it is called in its flow; None: nowhere any more."""
    vars(module)[_PUBLISHER] = publish
    if name:
        vars(module)[_NAME] = name


def name_in_flow(module: Module) -> str:
    """Return what a module is called in its flow, from ``setup`` on."""
    return str(vars(module).get(_NAME, ""))


def tell(module: Module, event: FlowEvent) -> None:
    """Publish an event of this package, of a module that comes with it. As `Module.publish`; nobody is told where no flow runs."""
    publisher: Callable[[FlowEvent], None] | None = vars(module).get(_PUBLISHER)
    if publisher is not None:
        publisher(event)


def aligned_inputs(module: Module) -> Aligned | None:
    """Return which inputs of a module are processed together; None if it has no such."""
    return type(module)._steadyflow_aligned


def is_asynchronous(module: Module) -> bool:
    """Tell whether the module runs in an event loop."""
    return type(module)._steadyflow_asynchronous


def process_methods(module: Module) -> dict[str, Callable[[Any], object]]:
    """Return, for each input, the method that takes its blocks."""
    alone = getattr(module, "process", None)
    if is_device_driven(module):
        return dict.fromkeys(type(module)._steadyflow_inputs, _left_to_the_device)
    return {name: getattr(module, f"process_{name}", alone) for name in type(module)._steadyflow_inputs}  # type: ignore[misc]


def _left_to_the_device(block: object) -> None:
    raise StateError(f"expected the device to take {block!r}; nobody else does")


def is_device_driven(module: Module) -> bool:
    """Tell whether a device's callback serves the ports of a module."""
    return isinstance(module, Source) and module.device_driven


def _make_ports(module: Module) -> dict[str, InputPort | OutputPort]:
    cls = type(module)
    ports: dict[str, InputPort | OutputPort] = {}
    for name, declared in cls._steadyflow_inputs.items():
        ports[name] = InputPort(module, name, declared)
    for name, promised in cls._steadyflow_outputs.items():
        ports[name] = OutputPort(module, name, promised)
    return ports


# --- what changed since construction ------------------------------------------------------------------------------

_SNAPSHOT: Final = "_steadyflow_snapshot"
_PUBLISHER: Final = "_steadyflow_publish"
_NAME: Final = "_steadyflow_name"
_INTERNAL: Final = ("_arguments", "_steadyflow")
_VALUES: Final = frozenset({bool, int, float, complex, str, bytes, type(None)})


def changed_attributes(module: Module) -> list[str]:
    """
    Name the attributes that are not as the constructor left them.

    A worker process constructs the module again, so such a change would be lost without a word. Seen are attributes
    that were added, removed or set to something else, and changes inside of lists, dicts, sets and arrays; not seen
    are changes inside of other objects.

    Args:
        module: Any module.

    Returns:
        The names, sorted.
    """
    before, _ = vars(module)[_SNAPSHOT]
    now, _ = _snapshot(module)
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _snapshot(module: Module) -> tuple[dict[str, object], list[object]]:
    """Return something comparable for each attribute, and the objects whose identity it compares."""
    ports = type(module)._steadyflow_inputs.keys() | type(module)._steadyflow_outputs.keys()
    kept: list[object] = []  # alive as long as the snapshot: the identity of a dead object may be another's
    prints = {
        name: _fingerprint(value, kept, ())
        for name, value in vars(module).items()
        if name not in ports and not name.startswith(_INTERNAL)
    }
    return prints, kept


def _fingerprint(value: Any, kept: list[object], around: tuple[int, ...]) -> object:
    """Return values as themselves, containers by content, arrays by checksum, and everything else by identity."""
    kind = type(value)
    if kind in _VALUES:
        return kind, value
    if id(value) not in around:
        inside = (*around, id(value))
        if kind is list or kind is tuple:
            return kind, [_fingerprint(item, kept, inside) for item in value]
        if kind is dict:
            return kind, [(key, _fingerprint(item, kept, inside)) for key, item in value.items()]
        if kind is set or kind is frozenset:
            return kind, frozenset(value)
        if kind is np.ndarray and not value.dtype.hasobject:
            return kind, value.dtype.str, value.shape, hash(value.tobytes())
    kept.append(value)
    return kind, id(value)
