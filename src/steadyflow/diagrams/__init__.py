"""
Pictures of a described flow: for a page (Mermaid), for Graphviz (DOT), for a program (JSON).

`flow_graph` says what is to be seen; each renderer is a file of its own. Nothing is started for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

from steadyflow.diagrams.dot import to_dot
from steadyflow.diagrams.flow_graph import FlowGraph as FlowGraph
from steadyflow.diagrams.flow_graph import flow_graph as flow_graph
from steadyflow.diagrams.mermaid import to_mermaid
from steadyflow.errors import UnknownName
from steadyflow.pipeline import Pipeline
from steadyflow.runtime.format_resolution import FoundFormats
from steadyflow.runtime.placed import Placed

DiagramFormat: TypeAlias = Literal["mermaid", "dot", "json"]


def _to_json(graph: FlowGraph) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(graph), indent=2).decode() + "\n"


RENDERERS: Final[Mapping[str, Callable[[FlowGraph], str]]] = {
    "mermaid": to_mermaid,
    "dot": to_dot,
    "json": _to_json,
}


def draw(
    name: str,
    modules: Mapping[str, Placed],
    pipelines: Sequence[Pipeline],
    format: str,
    found: FoundFormats | None = None,
) -> str:
    """
    Draw a flow; see `DataFlowCoordinator.graph`.

    Raises:
        UnknownName: There is no such format; offers the nearest.
        ConfigurationError: One worker is asked to be a thread and a process.
    """
    if format not in RENDERERS:
        raise UnknownName("format of a graph", format, RENDERERS)
    return RENDERERS[format](flow_graph(name, modules, pipelines, found))


__all__ = ["RENDERERS", "DiagramFormat", "FlowGraph", "draw", "flow_graph"]
