"""
What a flow file may say: ``[flow]``, ``[modules.NAME]`` and ``[[pipelines]]``.

The settings of a pipeline are those of `PipelineConfig`, which reads them itself.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from steadyflow.runtime.placed import Placement

TABLES: Final = ("flow", "modules", "pipelines", "path_budgets")

DurationS: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class FlowTable(msgspec.Struct, frozen=True, kw_only=True):
    """
    ``[flow]``, which may be missing.

    Args:
        name: What the flow is called; the name of the file, without its ending, unless given.
        description: For readers.
        duration_s: Stop after this time; not given: when all streams have ended.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    description: str = ""
    duration_s: DurationS | None = None


class ModuleTable(msgspec.Struct, frozen=True, kw_only=True):
    """
    ``[modules.NAME]``. Everything but ``use`` and ``arguments`` goes to `DataFlowCoordinator.add` as it is.

    Args:
        use: The class, ``"package.module:Class"``.
        arguments: The keyword arguments of its constructor.
    """

    use: str
    arguments: dict[str, Any] = {}
    placement: Placement | UnsetType = UNSET
    worker: str | UnsetType = UNSET
    realtime: bool | UnsetType = UNSET
    replicas: int | UnsetType = UNSET
    ordered: bool | UnsetType = UNSET
    depends_on: list[str] | UnsetType = UNSET
    on_failure: Literal["stop"] | UnsetType = UNSET

    def options(self) -> dict[str, Any]:
        """Return what the table says about how the module is added."""
        values = msgspec.structs.asdict(self)
        return {name: value for name, value in values.items() if name in ADD_OPTIONS and value is not UNSET}


ADD_OPTIONS: Final = tuple(name for name in ModuleTable.__struct_fields__ if name not in ("use", "arguments"))


class PipelineEnds(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """
    An entry of ``[[pipelines]]``, without its settings.

    Args:
        from_: ``"module.output"``, or ``"module"`` if it has one output.
        to: ``"module.input"``, or ``"module"`` if it has one input.
        name: What ``--set`` may call it; not given: ``from->to``.
    """

    from_: str
    to: str
    name: str | None = None


class PathTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """
    An entry of ``[[path_budgets]]``; see `DataFlowCoordinator.path_budget`.

    Args:
        from_: The module that the path begins at.
        to: The module that it ends at.
        max_ms: How much later sound may come out.
    """

    from_: str
    to: str
    max_ms: float
