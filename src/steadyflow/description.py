"""What a flow consists of, and what may be added to it: modules by name, pipelines by id, the names of open ends."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Sequence
from itertools import count
from typing import Any, Final

from steadyflow._native import MAX_PROCESSES
from steadyflow.arguments import checked_switch
from steadyflow.config import PipelineConfig
from steadyflow.errors import ConfigurationError, DuplicateName, FormatClash, SystemShortage, UnknownName
from steadyflow.formats import AnyFormat, Format, agree, checked_integer
from steadyflow.module import (
    Input,
    InputPort,
    Module,
    Output,
    OutputPort,
    Source,
    changed_attributes,
    input_ports,
    output_ports,
)
from steadyflow.pipeline import Pipeline
from steadyflow.realtime import Realtime, checked_realtime
from steadyflow.registry import COORDINATOR, check_declared
from steadyflow.runtime.dependencies import check_no_cycle
from steadyflow.runtime.placed import ASYNCIO_WORKER, MAIN_WORKER, Placed, Placement
from steadyflow.runtime.replicas import check_replicated

_NAME: Final = re.compile(r"[^\W\d][\w-]*")
_PLACEMENTS: Final = ("thread", "process")


class Description:
    """
    The description of a flow.

    Args:
        flow: The flow's name, for messages.
    """

    def __init__(self, flow: str) -> None:
        self._flow = flow
        self.modules: dict[str, Placed] = {}
        """By name, in the order in which they were added."""
        self.pipelines: dict[str, Pipeline] = {}
        """By id."""
        self.open_ends: set[str] = set()
        """The names under which the application sends and receives."""

    def add(
        self,
        module: object,
        name: str | None,
        *,
        placement: Placement | None,
        worker: str | None,
        realtime: bool | Realtime,
        replicas: int,
        ordered: bool,
        on_failure: str,
        depends_on: Sequence[str | Module],
    ) -> None:
        """
        Add a module, after checking what was asked for it; see `DataFlowCoordinator.add`.

        Raises:
            DuplicateName: The name is taken, or the module was added before.
            ArgumentRefused: A constructor argument cannot travel to a process.
            CycleRefused: It would depend on itself; prints the cycle.
            ConfigurationError: Something else about it is impossible.
        """
        if not isinstance(module, Module):
            raise ConfigurationError(f"add: expected a Module, got {type(module).__name__}: {module!r}.")
        name = self._module_name(module, name)
        placed = self._placed(
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
        check_no_cycle({each.name: each.depends_on for each in (*self.modules.values(), placed)})
        self._check_worker_names(placed)
        self.modules[name] = placed

    def replacement(
        self,
        name: str,
        module: object,
        *,
        placement: Placement | None,
        realtime: bool | Realtime,
        taken: Collection[str],
    ) -> Placed:
        """
        Return a module that is to take the place of one, in a worker of its own, after checking what was asked for it.

        Args:
            name: The one.
            module: The other.
            placement: Where it runs; None: as the one.
            realtime: What its worker asks for.
            taken: The names of workers that there are.

        Raises:
            DuplicateName: It is in the flow already.
            ArgumentRefused: A constructor argument cannot travel to a process.
            ConfigurationError: It is no module, or something else about it is impossible.
        """
        if not isinstance(module, Module):
            raise ConfigurationError(f"replace: expected a Module, got {type(module).__name__}: {module!r}.")
        self._check_instance(module)
        return self._placed(
            module,
            name,
            placement=placement or self.modules[name].placement,
            worker=_free_name(name, taken),
            realtime=realtime,
            replicas=1,
            ordered=False,
            on_failure="stop",
            depends_on=(),
        )

    def _placed(
        self,
        module: Module,
        name: str,
        *,
        placement: Placement | None,
        worker: str | None,
        realtime: bool | Realtime,
        replicas: int,
        ordered: bool,
        on_failure: str,
        depends_on: Sequence[str | Module],
    ) -> Placed:
        where = f"module {name!r}"
        check_declared(name, module)
        allowed = getattr(module, "placements", _PLACEMENTS)
        if placement is None:
            apart = isinstance(module, Source) and module.device_driven and "process" in allowed
            placement = "process" if apart else "thread"
        if placement not in _PLACEMENTS:
            raise UnknownName("placement", placement, _PLACEMENTS, where=where)
        if placement not in allowed:
            raise ConfigurationError(
                f"{where}: {type(module).__name__} runs only with placement {' or '.join(map(repr, allowed))}; "
                f"got {placement!r}."
            )
        if worker is not None and not _NAME.fullmatch(worker):
            raise ConfigurationError(f"{where}: expected worker to be a name, got {worker!r}.")
        asked = checked_realtime(where, realtime)
        ordered = checked_switch(where, "ordered", ordered)
        if asked is not None and placement != "process":
            raise ConfigurationError(
                f"{where}: realtime=True needs placement='process'; a thread that shares the interpreter lock would only "
                f"block it with priority."
            )
        if on_failure != "stop":
            raise ConfigurationError(f"{where}: expected on_failure='stop', got {on_failure!r}.")
        replicas = checked_integer(where, "replicas", replicas, MAX_PROCESSES - 1)
        needed = self._dependencies(where, depends_on)
        placed = Placed(name, module, placement, worker, asked, replicas, ordered and replicas > 1, needed)
        if replicas > 1:
            check_replicated(placed)
        if placement == "process":
            _check_for_process(placed)
        return placed

    def remove(self, pipeline: Pipeline) -> None:
        """Forget a pipeline, and the names of its open ends where no other one has them."""
        del self.pipelines[pipeline.id]
        named = {name for link in self.pipelines.values() for name, _ in (link.source, link.target)}
        self.open_ends &= named

    def put_apart(self, name: str, taken: Collection[str]) -> None:
        """Give a module a worker of its own, of which no other one has the name."""
        placed = self.modules[name]
        if placed.replicas == 1 and placed.worker is None:
            self.modules[name] = placed._replace(worker=_free_name(name, taken))

    def _dependencies(self, where: str, depends_on: object) -> tuple[str, ...]:
        if isinstance(depends_on, str) or not isinstance(depends_on, Sequence):
            raise ConfigurationError(
                f"{where}: expected depends_on to be modules or their names, such as ('model',), got {depends_on!r}."
            )
        names = []
        for each in depends_on:
            if isinstance(each, Module):
                names.append(self.name_of(each))
            elif isinstance(each, str) and _NAME.fullmatch(each):
                names.append(each)
            else:
                raise ConfigurationError(f"{where}: expected depends_on to name modules, got {each!r}.")
        return tuple(dict.fromkeys(names))

    def name_of(self, module: Module) -> str:
        """
        Return the name of a module of the flow.

        Raises:
            UnknownName: It is none of it.
        """
        for name, placed in self.modules.items():
            if placed.module is module:
                return name
        raise UnknownName("module", type(module).__name__, self.modules, where=f"flow {self._flow!r}")

    def output(self, source: object) -> tuple[str, OutputPort | None]:
        """
        Find the output, or the open end, that somebody means.

        Returns:
            The module and its output; or the name of an open end, and None.

        Raises:
            UnknownName: No such module or output; offers the nearest.
            ConfigurationError: It is no output, or no name; or the module has several.
        """
        if isinstance(source, (InputPort, Input, Output, Module)):
            raise ConfigurationError(_wrong_end("output", "take.out", source))
        if isinstance(source, OutputPort):
            return self._name_of(source.module, source), source
        return self._named(source, "output", output_ports)

    def input(self, target: object) -> tuple[str, InputPort | None]:
        """Find the input, or the open end, that somebody means; as `output`."""
        if isinstance(target, (OutputPort, Input, Output, Module)):
            raise ConfigurationError(_wrong_end("input", "pitch.audio", target))
        if isinstance(target, InputPort):
            return self._name_of(target.module, target), target
        return self._named(target, "input", input_ports)

    def _name_of(self, module: Module, port: OutputPort | InputPort) -> str:
        for name, placed in self.modules.items():
            if placed.module is module:
                return name
        raise UnknownName(
            "module", f"{type(module).__name__} (the one of {port!r})", self.modules, where=f"flow {self._flow!r}"
        )

    def _named(self, end: object, kind: str, ports_of: Any) -> tuple[str, Any]:
        if not isinstance(end, str):
            raise ConfigurationError(f"expected the {kind} of a module, or a name; got {end!r}.")
        name, dot, port = end.partition(".")
        placed = self.modules.get(name)
        if placed is None:
            if dot:
                raise UnknownName("module", name, self.modules, where=f"{end!r} in flow {self._flow!r}")
            if not _NAME.fullmatch(name):
                raise ConfigurationError(f"expected a name of letters, digits, _ and - for an open end, got {end!r}.")
            return name, None
        ports = ports_of(placed.module)
        if dot:
            if port not in ports:
                raise UnknownName(kind, port, ports, where=f"module {name!r}")
            return name, ports[port]
        if len(ports) != 1:
            raise ConfigurationError(
                f"module {name!r}: expected which {kind} is meant, because it has {len(ports)}: "
                f"{', '.join(f'{name}.{each}' for each in ports) or 'none'}."
            )
        return name, next(iter(ports.values()))

    def _check_instance(self, module: Module) -> None:
        for known, placed in self.modules.items():
            if placed.module is module:
                raise DuplicateName(f"module {known!r}: this instance is in the flow already. Make another one.")

    def _module_name(self, module: Module, name: str | None) -> str:
        self._check_instance(module)
        if name is not None:
            check_text("add", name)
            if not _NAME.fullmatch(name):
                raise ConfigurationError(f"add: expected a name of letters, digits, _ and -, got {name!r}.")
            if name in (MAIN_WORKER, ASYNCIO_WORKER):
                raise DuplicateName(f"module {name!r}: the flow's own worker thread is called so. Give another name=.")
            if name == COORDINATOR:
                raise DuplicateName(f"module {name!r}: the flow's own coordinator is called so. Give another name=.")
            if name in self.modules:
                raise DuplicateName(f"module {name!r}: the flow has a module of this name. Give another name=.")
            if name in self.open_ends:
                raise DuplicateName(f"module {name!r}: a pipeline has an open end of this name. Give another name=.")
            return name
        taken = {COORDINATOR} | self.modules.keys() | self.open_ends | self._replica_workers().keys()
        return _free_name(type(module).__name__.lower(), taken)

    def _replica_workers(self) -> dict[str, str]:
        """Return the modules by the names of their replicas' workers."""
        replicated = (placed for placed in self.modules.values() if placed.replicas > 1)
        return {worker: placed.name for placed in replicated for worker in placed.workers}

    def _check_worker_names(self, placed: Placed) -> None:
        """Refuse a worker that two modules would share although one of them has it for a replica."""
        theirs = self._replica_workers()
        if placed.replicas > 1:
            theirs |= {worker: other.name for other in self.modules.values() for worker in other.workers}
        for worker in placed.workers:
            if worker in theirs:
                raise DuplicateName(
                    f"module {placed.name!r}: would run in a worker {worker!r}, which is one of module {theirs[worker]!r}, "
                    f"and a replica has its worker for itself. Give another name=."
                )


def _free_name(stem: str, taken: Collection[str]) -> str:
    candidates = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    return next(each for each in candidates if each not in taken)


def check_text(owner: str, name: object) -> None:
    """Raise a `ConfigurationError` where a name is none."""
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"{owner}: expected a name, got {name!r}.")


def _check_for_process(placed: Placed) -> None:
    from steadyflow.runtime.layout import travel
    from steadyflow.runtime.workers import check_can_travel

    check_can_travel(placed.module, placed.name)
    changed = changed_attributes(placed.module)
    if changed:
        raise ConfigurationError(
            f"module {placed.name!r}: {', '.join(changed)} changed since construction; a worker process constructs the "
            f"module again from its arguments and would not see it. Pass it to the constructor."
        )
    travel(placed)


def declared_format(
    pipeline_id: str, output: OutputPort | None, input: InputPort | None, format: Format | None, config: PipelineConfig
) -> tuple[Format | None, Format | None]:
    """
    Return what is known about a new pipeline before the start; refuses what can never agree.

    Returns:
        What flows on it; and what an open target takes, if the pipeline may convert.
    """
    if config.transformation_required and (output is not None or input is not None):
        return _declared_ends(pipeline_id, output, input, format, config)
    fmt = format
    if output is not None:
        declared = output.declaration.format
        if not isinstance(declared, AnyFormat):
            fmt = declared if fmt is None else agree(declared, fmt, where=pipeline_id)
    if input is not None:
        accepted = input.declaration.format
        if fmt is None:
            fmt = None if isinstance(accepted, AnyFormat) else accepted
        else:
            fmt = agree(fmt, accepted, where=pipeline_id)
    return fmt, None


def _declared_ends(
    pipeline_id: str, output: OutputPort | None, input: InputPort | None, format: Format | None, config: PipelineConfig
) -> tuple[Format | None, Format | None]:
    """Do the same for a pipeline that may convert: its ends need not agree."""
    declared: Format | None = None if output is None else output.declaration.format
    if isinstance(declared, AnyFormat):
        declared = None
    carried: Format | None
    accepted: Format | None
    if input is None:
        carried, accepted = declared, format
    else:
        accepted = input.declaration.format
        carried = format if declared is None else declared
        if carried is None and output is None and accepted.is_resolved:
            carried = accepted  # nobody says anything else
        if declared is not None and format is not None:
            carried = agree(declared, format, where=pipeline_id)
    if carried is not None and carried.is_resolved and accepted is not None and not isinstance(accepted, AnyFormat):
        try:
            agree(carried, accepted, where=pipeline_id)
        except FormatClash:
            from steadyflow.transform.transformer import make_plan

            with contextlib.suppress(SystemShortage):  # an extra that is missing here may be there where it runs
                make_plan(carried, accepted, config.conversion, where=pipeline_id)  # what is impossible is told at once
    return carried, accepted if input is None else None


def _wrong_end(kind: str, example: str, got: object) -> str:
    if isinstance(got, (Input, Output)):
        return (
            f"expected the {kind} of a module of this flow, such as {example}; got the declaration {got!r} of a class."
        )
    if isinstance(got, Module):
        return f"expected an {kind}, such as {example}; got the module {got!r} itself. Name its port."
    return f"expected an {kind}, such as {example}; got {got!r}. A pipeline goes from an output to an input."
