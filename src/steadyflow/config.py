"""
How a pipeline is set up: its room, its budget, its priority, and its rule for when it is full.

Rules are plain values; the data plane carries them out.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, Never, Self, TypeAlias

import msgspec

from steadyflow.errors import ConfigurationError, FileUnreadable, UnknownName
from steadyflow.formats import checked_integer

_MAX_TIMEOUT_US: Final = 1 << 40  # 12 days; the room that the native rule has
_MAX_BUFFER_SIZE: Final = 65_536

# --- rules --------------------------------------------------------------------------------------------------------

_THEN: Final = {"fail": 0, "drop_newest": 1, "drop_oldest": 2}


class Wait(msgspec.Struct, frozen=True):
    """
    The producer waits until there is room.

    Args:
        timeout_ms: How long; None waits for as long as the flow runs.
        then: What happens after that time: ``"fail"`` raises `SendTimeout`, ``"drop_newest"`` drops the block that
            is being sent, ``"drop_oldest"`` drops the oldest one of the pipeline.
    """

    timeout_ms: float | None = None
    then: Literal["fail", "drop_newest", "drop_oldest"] = "fail"

    waits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.timeout_ms is not None:
            _check_duration("Wait", "timeout_ms", self.timeout_ms, " Fail() and DropNewest() do not wait at all.")
        if self.then not in _THEN:
            raise UnknownName("value of then", self.then, _THEN, where="Wait")

    @property
    def loses(self) -> bool:
        """Whether a block may be dropped without an error."""
        return self.timeout_ms is not None and self.then != "fail"

    def to_native(self) -> tuple[int, int, int]:
        """Return (kind, then, timeout in µs) for the data plane; a timeout of 0 means none."""
        timeout_us = 0 if self.timeout_ms is None else max(1, round(self.timeout_ms * 1000))
        return 0, _THEN[self.then], timeout_us


class DropOldest(msgspec.Struct, frozen=True):
    """The oldest block makes room for the new one."""

    waits: ClassVar[bool] = False
    loses: ClassVar[bool] = True

    def to_native(self) -> tuple[int, int, int]:
        """Return (kind, then, timeout in µs) for the data plane."""
        return 1, 0, 0


class DropNewest(msgspec.Struct, frozen=True):
    """The block that is being sent is dropped."""

    waits: ClassVar[bool] = False
    loses: ClassVar[bool] = True

    def to_native(self) -> tuple[int, int, int]:
        """Return (kind, then, timeout in µs) for the data plane."""
        return 2, 0, 0


class Latest(msgspec.Struct, frozen=True):
    """Only the latest block is kept, whatever the room: a consumer sees the newest state or nothing."""

    waits: ClassVar[bool] = False
    loses: ClassVar[bool] = True

    def to_native(self) -> tuple[int, int, int]:
        """Return (kind, then, timeout in µs) for the data plane."""
        return 3, 0, 0


class Fail(msgspec.Struct, frozen=True):
    """The producer gets `PipelineFull` and decides by itself."""

    waits: ClassVar[bool] = False
    loses: ClassVar[bool] = False

    def to_native(self) -> tuple[int, int, int]:
        """Return (kind, then, timeout in µs) for the data plane."""
        return 4, 0, 0


Rule: TypeAlias = Wait | DropOldest | DropNewest | Latest | Fail

_RULES: Final[dict[str, type[Rule]]] = {
    "wait": Wait,
    "drop_oldest": DropOldest,
    "drop_newest": DropNewest,
    "latest": Latest,
    "fail": Fail,
}


def rule_from_table(table: Mapping[str, Any] | str) -> Rule:
    """
    Read a rule as a file writes it: ``"drop_oldest"`` or ``{kind = "wait", timeout_ms = 5000}``.

    Raises:
        UnknownName: There is no such rule, or the rule has no such option.
        ConfigurationError: A value is impossible.
    """
    options: object = {"kind": table} if isinstance(table, str) else table
    if not isinstance(options, Mapping) or "kind" not in options:
        raise ConfigurationError(f'expected a rule such as {{kind = "wait", timeout_ms = 5000}}, got {table!r}.')
    kind = options["kind"]
    if not isinstance(kind, str) or kind not in _RULES:
        raise UnknownName("rule", kind, _RULES)
    rule = _RULES[kind]
    values = {name: value for name, value in options.items() if name != "kind"}
    for name in values:
        if name not in rule.__struct_fields__:
            raise UnknownName(f"option of the rule {kind!r}", name, rule.__struct_fields__)
    return rule(**values)


# --- pipelines ----------------------------------------------------------------------------------------------------


class PipelinePriority(enum.StrEnum):
    """Which of its inputs a worker serves first."""

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for critical to 3 for low."""
        return _RANKS[self]


_RANKS: Final = {priority: rank for rank, priority in enumerate(PipelinePriority)}
_LATE: Final = ("pass", "drop", "conceal")


class PipelineConfig:
    """
    The settings of a pipeline. Frozen, hashable, compared by value.

    Args:
        buffer_size: How many blocks may wait, 1 to 65,536. No default: this is a decision about latency.
        max_latency_ms: The latency that this pipeline may add; None sets no limit.
        priority: ``"critical"``, ``"high"``, ``"normal"`` or ``"low"``: which input a worker serves first.
        backpressure_strategy: The rule for a full pipeline; None: `Wait()` where the source can wait, else
            `DropOldest()`.
        transformation_required: Not available yet.
        late: What happens to a block over its limit: ``"pass"`` counts it.

    Raises:
        UnknownName: There is no such option or value.
        ConfigurationError: A value is impossible, or not available yet.
    """

    __slots__ = (
        "backpressure_strategy",
        "buffer_size",
        "late",
        "max_latency_ms",
        "priority",
        "transformation_required",
    )

    buffer_size: int
    max_latency_ms: float | None
    priority: PipelinePriority
    backpressure_strategy: Rule | None
    transformation_required: bool
    late: str

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "buffer_size",
        "max_latency_ms",
        "priority",
        "backpressure_strategy",
        "transformation_required",
        "late",
    )

    def __new__(cls, *_args: Any, **options: Any) -> Self:
        """Answer a misspelt option with the near miss, before Python complains about the one that is then missing."""
        for name in options:
            if name not in cls.OPTIONS:
                raise UnknownName("option", name, cls.OPTIONS, where="PipelineConfig")
        return super().__new__(cls)

    def __init__(
        self,
        buffer_size: int,
        max_latency_ms: float | None = None,
        priority: PipelinePriority | str = PipelinePriority.NORMAL,
        backpressure_strategy: Rule | None = None,
        transformation_required: bool = False,
        late: Literal["pass", "drop", "conceal"] = "pass",
    ) -> None:
        if max_latency_ms is not None:
            _check_duration("PipelineConfig", "max_latency_ms", max_latency_ms, " None sets no limit.")
        if backpressure_strategy is not None and not isinstance(backpressure_strategy, Rule):
            raise ConfigurationError(
                f"PipelineConfig: expected backpressure_strategy to be a rule such as DropOldest() or "
                f"Wait(timeout_ms=5000), got {backpressure_strategy!r}."
            )
        if transformation_required:
            raise ConfigurationError(
                "PipelineConfig: transformation_required=True is not available yet: pipelines do not convert. "
                "Declare the same format on both ends, or put a module between them that converts."
            )
        store = object.__setattr__
        store(self, "buffer_size", checked_integer("PipelineConfig", "buffer_size", buffer_size, _MAX_BUFFER_SIZE))
        store(self, "max_latency_ms", max_latency_ms)
        store(self, "priority", _checked_priority(priority))
        store(self, "backpressure_strategy", backpressure_strategy)
        store(self, "transformation_required", False)
        store(self, "late", _checked_late(late))

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], pipeline: str | None = None) -> PipelineConfig:
        """
        Read the settings of a pipeline from a TOML file.

        Args:
            path: The file.
            pipeline: Which table: ``[NAME]``, ``[pipelines.NAME]``, or the entry of ``[[pipelines]]`` whose ``name``,
                or ``from->to``, it is. None: the table ``[pipeline]`` or, where there is none, the top level.

        Raises:
            FileUnreadable: The file cannot be read.
            UnknownName: There is no such pipeline, option or value; the message names the file and the near miss.
            ConfigurationError: The file is not TOML, or a value is impossible; the message names file and option.
        """
        options, where = _find_table(_read_toml(path), pipeline, os.fspath(path))
        for name in options:
            if name not in cls.OPTIONS:
                raise UnknownName("option", name, cls.OPTIONS, where=where)
        if "buffer_size" not in options:
            raise ConfigurationError(f"{where}: buffer_size is missing. Say how many blocks may wait.")
        try:
            if "backpressure_strategy" in options:
                options["backpressure_strategy"] = rule_from_table(options["backpressure_strategy"])
            return cls(**options)
        except UnknownName as error:
            raise UnknownName(error.kind, error.name, error.known, where=where) from None
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.OPTIONS)

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"PipelineConfig is frozen; make a new one instead of setting {name}")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError(f"PipelineConfig is frozen; {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, PipelineConfig) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __reduce__(self) -> tuple[type[PipelineConfig], tuple[object, ...]]:
        return type(self), self._values()

    def __repr__(self) -> str:
        return f"PipelineConfig({', '.join(f'{name}={getattr(self, name)!r}' for name in self.OPTIONS)})"


# --- validation ---------------------------------------------------------------------------------------------------


def _check_duration(owner: str, name: str, value: object, advice: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value * 1000 <= _MAX_TIMEOUT_US:
        raise ConfigurationError(
            f"{owner}: expected {name} to be a number of milliseconds above 0 (and below 12 days), "
            f"got {value!r}.{advice}"
        )


def _checked_priority(value: str) -> PipelinePriority:
    try:
        return PipelinePriority(value)
    except ValueError:
        raise UnknownName("priority", value, list(PipelinePriority), where="PipelineConfig") from None


def _checked_late(value: str) -> str:
    if value not in _LATE:
        raise UnknownName("value of late", value, _LATE, where="PipelineConfig")
    if value != "pass":
        raise ConfigurationError(
            f"PipelineConfig: late={value!r} belongs to audio pipelines and is not available yet. "
            f'Use late="pass", which counts late blocks.'
        )
    return value


# --- files --------------------------------------------------------------------------------------------------------


def _read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    import tomllib  # only who has a file pays for it

    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib is not imported for one open()
            return tomllib.load(file)
    except OSError as error:
        raise FileUnreadable(f"{os.fspath(path)}: cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{os.fspath(path)}: expected TOML: {error}.") from None


def _find_table(content: dict[str, Any], pipeline: str | None, path: str) -> tuple[dict[str, Any], str]:
    """Return the options of a pipeline, and where they stand."""
    if pipeline is None:
        table = content.get("pipeline", content)
        where = f"{path} [pipeline]" if "pipeline" in content else path
        if not isinstance(table, dict):
            raise ConfigurationError(f"{where}: expected a table, got {table!r}.")
        return dict(table), where
    tables = {name: table for name, table in content.items() if isinstance(table, dict) and name != "pipelines"}
    listed = content.get("pipelines", {})
    if isinstance(listed, dict):
        tables |= {name: table for name, table in listed.items() if isinstance(table, dict)}
    elif isinstance(listed, list):
        for entry in listed:
            options = {name: value for name, value in entry.items() if name not in ("name", "from", "to")}
            tables[entry.get("name") or f"{entry.get('from')}->{entry.get('to')}"] = options
    if pipeline not in tables:
        raise UnknownName("pipeline", pipeline, tables, where=path)
    return dict(tables[pipeline]), f"{path} [{pipeline}]"
