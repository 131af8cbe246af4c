"""How a pipeline is set up: its room, its budget, its priority, and its rule for when it is full."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Never, Self

from steadyflow.arguments import check_duration
from steadyflow.backpressure.rules import Rule
from steadyflow.backpressure.rules.tables import rule_from_table
from steadyflow.conversion import ConversionOptions, conversion_from_table
from steadyflow.errors import ConfigurationError, UnknownName
from steadyflow.formats import checked_integer
from steadyflow.validation import Validation, validation_from_table

if TYPE_CHECKING:
    # At run time only who has a file pays for it.
    from steadyflow.toml import Key, TomlDocument

_MAX_BUFFER_SIZE: Final = 65_536
_MAX_BUFFER_BYTES: Final = 1 << 50

_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "backpressure_strategy": rule_from_table,
    "conversion": conversion_from_table,
    "validation": validation_from_table,
}
"""How a file's value becomes an option's, where it is not the same."""


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
LATE: Final = ("pass", "drop", "conceal")
"""What may happen to late blocks, in the order of the data plane."""
AUDIO_OPTIONS: Final = frozenset({"target_fill_ms", "preroll_ms", "max_buffer_ms", "concealment"})
"""The options that only `AudioPipelineConfig` has."""


class PipelineConfig:
    """
    The settings of a pipeline. Frozen, hashable, compared by value.

    Pipelines of audio may have more of them: `AudioPipelineConfig`.

    Args:
        buffer_size: How many blocks may wait, 1 to 65,536. No default: this is a decision about latency.
        max_latency_ms: The latency that this pipeline may add; None sets no limit.
        priority: ``"critical"``, ``"high"``, ``"normal"`` or ``"low"``: which input a worker serves first.
        backpressure_strategy: The rule for a full pipeline; None: `Wait()` where the source can wait, else
            `DropOldest()`.
        transformation_required: Whether the pipeline may convert, on its consumer's side, where its ends do not agree; else they
            are refused.
        late: What happens to a block over its limit: ``"pass"`` counts it; ``"drop"`` drops it before its consumer sees it,
            by its age, and the next block says `BlockFlag.DISCONTINUITY`. ``"conceal"`` is for audio.
        conversion: How it converts, where there is a choice; None: as `ConversionOptions` says.
        validation: What its audio is checked for on the consumer's side; None: nothing.
        max_buffer_bytes: How many bytes may wait, beside ``buffer_size``; the first limit that is reached holds. None: no limit.

    Raises:
        UnknownName: There is no such option or value.
        ConfigurationError: A value is impossible, not available yet, or contradicts another.
    """

    __slots__ = (
        "backpressure_strategy",
        "buffer_size",
        "conversion",
        "late",
        "max_buffer_bytes",
        "max_latency_ms",
        "priority",
        "transformation_required",
        "validation",
    )

    buffer_size: int
    max_latency_ms: float | None
    priority: PipelinePriority
    backpressure_strategy: Rule | None
    transformation_required: bool
    late: str
    conversion: ConversionOptions | None
    validation: Validation | None
    max_buffer_bytes: int | None

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "buffer_size",
        "max_latency_ms",
        "priority",
        "backpressure_strategy",
        "transformation_required",
        "late",
        "conversion",
        "validation",
        "max_buffer_bytes",
    )

    def __new__(cls, *_args: Any, **options: Any) -> Self:
        """Answer a misspelt option with the near miss, before Python complains about the one that is then missing."""
        for name, value in options.items():
            if name in AUDIO_OPTIONS and name not in cls.OPTIONS:
                raise ConfigurationError(
                    f"{cls.__name__}: {name} is a limit of audio; write AudioPipelineConfig({name}={value!r}, ...)."
                )
            if name not in cls.OPTIONS:
                raise UnknownName("option", name, cls.OPTIONS, where=cls.__name__)
        return super().__new__(cls)

    def __init__(
        self,
        buffer_size: int,
        max_latency_ms: float | None = None,
        priority: PipelinePriority | str = PipelinePriority.NORMAL,
        backpressure_strategy: Rule | None = None,
        transformation_required: bool = False,
        late: Literal["pass", "drop", "conceal"] = "pass",
        conversion: ConversionOptions | None = None,
        validation: Validation | None = None,
        max_buffer_bytes: int | None = None,
    ) -> None:
        self._store(
            buffer_size=buffer_size,
            max_latency_ms=max_latency_ms,
            priority=priority,
            backpressure_strategy=backpressure_strategy,
            transformation_required=transformation_required,
            late=late,
            conversion=conversion,
            validation=validation,
            max_buffer_bytes=max_buffer_bytes,
        )
        self._check_together()

    def _store(self, **options: Any) -> None:
        for name, value in options.items():
            object.__setattr__(self, name, self._checked(name, value))

    @classmethod
    def _checked(cls, name: str, value: Any) -> Any:
        """Check one option by itself."""
        owner = cls.__name__
        match name:
            case "buffer_size":
                return checked_integer(owner, name, value, _MAX_BUFFER_SIZE)
            case "max_buffer_bytes" if value is not None:
                return checked_integer(owner, name, value, _MAX_BUFFER_BYTES)
            case "max_latency_ms" if value is not None:
                check_duration(owner, name, value, " None sets no limit.")
            case "priority":
                return _checked_priority(owner, value)
            case "backpressure_strategy" if value is not None and not isinstance(value, Rule):
                raise ConfigurationError(
                    f"{owner}: expected backpressure_strategy to be a rule such as DropOldest() or "
                    f"Wait(timeout_ms=5000), got {value!r}."
                )
            case "transformation_required" if not isinstance(value, bool):
                raise ConfigurationError(
                    f"{owner}: expected transformation_required to be True or False, got {value!r}. How to convert is said by "
                    f"conversion=ConversionOptions(...)."
                )
            case "conversion" if value is not None and not isinstance(value, ConversionOptions):
                raise ConfigurationError(
                    f'{owner}: expected conversion to be ConversionOptions(quality="VHQ", ...), got {value!r}.'
                )
            case "validation" if value is not None and not isinstance(value, Validation):
                raise ConfigurationError(
                    f'{owner}: expected validation to be Validation(mode="full", ...), got {value!r}. None checks nothing.'
                )
            case "late":
                return cls._checked_late(value)
        return value

    @classmethod
    def _checked_late(cls, value: str) -> str:
        if value not in LATE:
            raise UnknownName("value of late", value, LATE, where=cls.__name__)
        if value == "conceal":
            raise ConfigurationError(
                f'{cls.__name__}: late="conceal" makes up audio; write AudioPipelineConfig(late="conceal", ...), or '
                f'late="drop" for what is no audio.'
            )
        return value

    def _check_together(self) -> None:
        if self.conversion is not None and not self.transformation_required:
            raise ConfigurationError(
                f"{type(self).__name__}: expected transformation_required=True beside conversion=, got False: nothing would be "
                f"converted."
            )
        if self.late == "drop" and self.max_latency_ms is None:
            raise ConfigurationError(
                f'{type(self).__name__}: expected max_latency_ms beside late="drop", got None: without a limit no block is '
                f"late. Say how old a block may be."
            )

    @staticmethod
    def class_for(options: Iterable[str], late: object = "pass") -> type[PipelineConfig]:
        """
        Return the class that has these options: `AudioPipelineConfig` where one of them is for audio alone.

        Args:
            options: Their names; what no class has is answered by the class itself.
            late: The value of ``late``, if it is among them.
        """
        if late != "conceal" and AUDIO_OPTIONS.isdisjoint(options):
            return PipelineConfig
        # It builds on this one, and is there as soon as the package is.
        return next(each for each in PipelineConfig.__subclasses__() if set(each.OPTIONS) >= AUDIO_OPTIONS)

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
        from steadyflow.toml import TomlDocument
        from steadyflow.toml.pipelines import find_table

        document = TomlDocument.read(path)
        return cls.from_document(document, find_table(document, pipeline))

    @classmethod
    def from_document(cls, document: TomlDocument, key: Key) -> PipelineConfig:
        """
        Read the settings of a pipeline from a table of a TOML file.

        Args:
            document: The file.
            key: Which table; in an entry of ``[[pipelines]]``, ``from``, ``to`` and ``name`` are no settings.

        Raises:
            UnknownName: There is no such option or value; the message names file, line and key, and the near miss.
            ConfigurationError: A value is impossible; the message names file, line and key.
            SeveralProblems: Several of these.
        """
        from steadyflow.toml import Problems
        from steadyflow.toml.pipelines import PIPELINE_ENDS

        table = document.table(key)
        made = cls.class_for(table, table.get("late")) if cls is PipelineConfig else cls
        beside = PIPELINE_ENDS if key and isinstance(key[-1], int) else ()
        options: dict[str, Any] = {}
        problems = Problems()
        for name, value in table.items():
            if name in beside:
                continue
            with problems.noted(document.where(*key, name)):
                if name not in made.OPTIONS:
                    raise UnknownName("option", name, [*beside, *made.OPTIONS])
                options[name] = _READERS[name](value) if name in _READERS else value
                # Each by itself: so it is known which one is wrong, and one that is does not hide another.
                made._checked(name, options[name])
        if "buffer_size" not in options and not problems.found:  # a misspelt one is not a missing one
            problems.add(
                ConfigurationError(f"{document.where(*key)}: buffer_size is missing. Say how many blocks may wait.")
            )
        problems.raise_if_any(document.where(*key))
        with document.place(*key):  # what is wrong with them together
            return made(**options)

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.OPTIONS)

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"{type(self).__name__} is frozen; make a new one instead of setting {name}")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError(f"{type(self).__name__} is frozen; {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PipelineConfig):
            return NotImplemented
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __reduce__(self) -> tuple[type[PipelineConfig], tuple[object, ...]]:
        return type(self), self._values()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.OPTIONS)})"


# --- validation ---------------------------------------------------------------------------------------------------


def _checked_priority(owner: str, value: str) -> PipelinePriority:
    try:
        return PipelinePriority(value)
    except ValueError:
        raise UnknownName("priority", value, list(PipelinePriority), where=owner) from None
