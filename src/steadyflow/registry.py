"""The registry of a flow: which modules there are, what they can do, in which order they start, and how they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from steadyflow.arguments import checked_number
from steadyflow.errors import ConfigurationError, UnknownName
from steadyflow.events import FlowEvent
from steadyflow.formats import AnyFormat, AudioFormat, Format, checked_integer
from steadyflow.lifecycle import Lifecycle, ModuleAction, ModuleState, Transition
from steadyflow.module import Module, input_ports, output_ports
from steadyflow.version import __version__

COORDINATOR: Final = "coordinator"
"""The name of the coordinator among the modules of its flow."""

_WAY_TO_RUNNING: Final[Sequence[ModuleAction]] = ("add", "set_up", "be_ready", "start")
_LONGEST_MS: Final = 1e9
_OWN_CAPABILITIES: Final = frozenset({"coordination"})
_CAPABILITY: Final = re.compile(r"[\w.:-]+")


class ModuleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is known about a module at a moment.

    Attributes:
        name: Its name in the flow.
        type: Its class: ``"steadyflow.audio.pitch:PitchDetector"``.
        version: As its class says.
        capabilities: As its class says.
        depends_on: The modules that have to be ready before it is set up, and that are torn down after it.
        consumes: The format of each input, by name: from the start on the resolved one.
        produces: The same of each output.
        state: Where it is; see `steadyflow.lifecycle`.
        health: 0 to 100: the health of the worst pipeline that leads into it; 0 where it has failed.
    """

    name: str
    type: str
    version: str
    capabilities: frozenset[str]
    depends_on: tuple[str, ...]
    consumes: Mapping[str, Format]
    produces: Mapping[str, Format]
    state: ModuleState
    health: float


class _Entry(msgspec.Struct):
    module: Module
    depends_on: tuple[str, ...]
    lifecycle: Lifecycle


class ModuleRegistry(Mapping[str, ModuleRecord]):
    """
    The modules of a flow by name, in the order in which they were added, and the coordinator. Public as ``flow.registry``.

    Any thread; does not disturb the flow.

    Args:
        flow: The name of the flow.
        state: Says where the coordinator is.
        health: Says how a module is, by the pipelines that lead into it.
        publish: Takes events.
    """

    def __init__(
        self,
        flow: str,
        state: Callable[[], ModuleState],
        health: Callable[[str], float],
        publish: Callable[[FlowEvent], object],
    ) -> None:
        self._flow = flow
        self._coordinator_state = state
        self._health = health
        self._publish = publish
        self._entries: dict[str, _Entry] = {}

    # --- reading ------------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> ModuleRecord:
        """
        Return what is known about a module.

        Raises:
            UnknownName: There is none of that name; offers the nearest.
        """
        if name == COORDINATOR:
            return self._record_of_coordinator()
        entry = self._entry(name)
        module = entry.module
        state = entry.lifecycle.state
        return ModuleRecord(
            name=name,
            type=f"{type(module).__module__}:{type(module).__qualname__}",
            version=module.version,
            capabilities=module.capabilities,
            depends_on=entry.depends_on,
            consumes={port: each.format for port, each in input_ports(module).items()},
            produces={port: each.format for port, each in output_ports(module).items()},
            state=state,
            health=0.0 if state == "failed" else self._health(name),
        )

    def __iter__(self) -> Iterator[str]:
        yield COORDINATOR
        yield from tuple(self._entries)

    def __len__(self) -> int:
        return 1 + len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name == COORDINATOR or name in self._entries

    def find(
        self,
        *,
        type: type[Module] | None = None,
        capability: str | None = None,
        produces: Format | None = None,
        consumes: Format | None = None,
        state: ModuleState | None = None,
    ) -> tuple[ModuleRecord, ...]:
        """
        Return the modules of which all that is given holds.

        Args:
            type: They are instances of this class.
            capability: Their class says so.
            produces: One of their outputs has this format; what is open in either fits everything.
            consumes: One of their inputs takes it.
            state: They are there.

        Raises:
            ConfigurationError: That is no format.
        """
        for what, fmt in (("produces", produces), ("consumes", consumes)):
            if fmt is not None and not isinstance(fmt, Format):
                raise ConfigurationError(f"find: expected {what} to be a format, got {fmt!r}.")
        found = []
        for name in self:
            entry = self._entries.get(name)
            if type is not None and (entry is None or not isinstance(entry.module, type)):
                continue
            if capability is not None and capability not in (
                _OWN_CAPABILITIES if entry is None else entry.module.capabilities
            ):
                continue
            if state is not None and self.state_of(name) != state:
                continue
            record = self[name]
            if produces is not None and not any(_fits(each, produces) for each in record.produces.values()):
                continue
            if consumes is not None and not any(_fits(each, consumes) for each in record.consumes.values()):
                continue
            found.append(record)
        return tuple(found)

    def state_of(self, name: str) -> ModuleState:
        """
        Return where a module is.

        Raises:
            UnknownName: There is none of that name; offers the nearest.
        """
        return self._coordinator_state() if name == COORDINATOR else self._entry(name).lifecycle.state

    def start_order(self) -> tuple[str, ...]:
        """Return the modules in an order in which each comes after those that it depends on; else as they were added."""
        left = {name: set(entry.depends_on) for name, entry in self._entries.items()}
        order: list[str] = []
        while left:
            name = next(each for each, needed in left.items() if not needed & left.keys())
            order.append(name)
            del left[name]
        return tuple(order)

    def __repr__(self) -> str:
        return f"<ModuleRegistry of {self._flow!r}: {len(self._entries)} modules>"

    # --- the coordinator's side ---------------------------------------------------------------------------------------

    def add(self, name: str, module: Module, depends_on: tuple[str, ...]) -> None:
        """
        Register a module; `depends_on` was checked.

        Raises:
            ConfigurationError: What its class says of it is impossible.
        """
        check_declared(name, module)
        self._entries[name] = _Entry(module, depends_on, Lifecycle(name))
        self.move(name, "add")

    def put_in_place(self, name: str, module: Module) -> None:
        """Keep that a module runs in the place of another one of its name; `ModuleReplaced` tells it."""
        lifecycle = Lifecycle(name)
        for action in _WAY_TO_RUNNING:
            lifecycle.move(action)
        self._entries[name] = _Entry(module, (), lifecycle)

    def move(self, name: str, action: ModuleAction) -> None:
        """
        Let something happen to a module, and tell it by the event of the table.

        Raises:
            StateError: It cannot happen where the module is; names both states.
        """
        self._tell(name, self._entry(name).lifecycle.move(action))

    def move_if_allowed(self, name: str, action: ModuleAction) -> bool:
        """Do the same where it can happen; False where it cannot."""
        transition = self._entry(name).lifecycle.move_if_allowed(action)
        if transition is not None:
            self._tell(name, transition)
        return transition is not None

    def note(self, name: str, action: ModuleAction) -> bool:
        """Let something happen to a module that is told elsewhere; False where it cannot."""
        return self._entry(name).lifecycle.move_if_allowed(action) is not None

    def _tell(self, name: str, transition: Transition) -> None:
        if transition.event is not None:
            self._publish(transition.event(module=name))  # type: ignore[call-arg]

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownName("module", name, list(self), where=f"flow {self._flow!r}")
        return entry

    def _record_of_coordinator(self) -> ModuleRecord:
        return ModuleRecord(
            name=COORDINATOR,
            type="steadyflow.coordinator:DataFlowCoordinator",
            version=__version__,
            capabilities=_OWN_CAPABILITIES,
            depends_on=(),
            consumes={},
            produces={},
            state=self._coordinator_state(),
            health=min((self[name].health for name in tuple(self._entries)), default=100.0),
        )


def check_declared(name: str, module: Module) -> None:
    """
    Check what the class of a module says of it.

    Raises:
        ConfigurationError: A version that is no text, capabilities that are no names, or delays that are none.
    """
    where = f"module {name!r} ({type(module).__name__})"
    version: object = module.version
    if not isinstance(version, str):
        raise ConfigurationError(f"{where}: expected version to be a text such as '1.2', got {version!r}.")
    capabilities: object = module.capabilities
    if not isinstance(capabilities, frozenset) or not all(
        isinstance(each, str) and _CAPABILITY.fullmatch(each) for each in capabilities
    ):
        raise ConfigurationError(
            f"{where}: expected capabilities to be a frozenset of names such as frozenset({{'pitch'}}), got {capabilities!r}."
        )
    if module.latency_ms != 0:
        checked_number(where, "latency_ms", module.latency_ms, above=0, most=_LONGEST_MS)
    if module.latency_frames != 0:
        checked_integer(where, "latency_frames", module.latency_frames, 1 << 30)


def _fits(one: Format, other: Format) -> bool:
    """Tell whether two formats could be of one pipeline."""
    if isinstance(one, AnyFormat) or isinstance(other, AnyFormat):
        return True
    if isinstance(one, AudioFormat) and isinstance(other, AudioFormat):
        names = ("sample_rate_hz", "channels", "sample_type", "layout", "channel_layout")
        pairs = [(getattr(one, name), getattr(other, name)) for name in names]
        return all(a is None or b is None or a == b for a, b in pairs)
    return one == other
