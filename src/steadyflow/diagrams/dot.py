"""A flow as DOT, the language of Graphviz: ``dot -Tsvg``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from steadyflow.diagrams.flow_graph import FlowGraph, ModuleNode, PipelineEdge

_FONT: Final = "Helvetica,Arial,sans-serif"
_COLOURS: Final = {"thread": ("#eef4fb", "#7a9cc6"), "process": ("#fdf3e1", "#d0a14e")}
_WIDTHS: Final = {"critical": 2.4, "high": 1.7, "normal": 1.1, "low": 0.7}
_NOT_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# Not only those of XML: some versions of Graphviz stumble over a bracket.
_SPECIAL: Final = re.compile(r"[^\w\s,.:;=()/*+≤×→-]")


def to_dot(graph: FlowGraph) -> str:
    """Render a flow, from left to right: workers as boxes around their modules, ports as cells, open ends round."""
    lines = [
        "digraph flow {",
        f'    graph [rankdir=LR, fontname="{_FONT}", fontsize=14, labelloc=t, ranksep=0.9, nodesep=0.5];',
        f'    node [shape=plain, fontname="{_FONT}", fontsize=12];',
        f'    edge [fontname="{_FONT}", fontsize=9, arrowsize=0.7, color="#4a5560", fontcolor="#4a5560"];',
        f"    label=<<b>{_escape(graph.name)}</b>>;",
    ]
    nodes: dict[str, str] = {}
    ports: dict[tuple[str, str, str], str] = {}
    for number, worker in enumerate(graph.workers):
        fill, stroke = _COLOURS[worker.placement]
        lines += [
            f"    subgraph cluster_{number} {{",
            f'        graph [style="rounded,filled", fillcolor="{fill}", color="{stroke}", fontsize=11];',
            f"        label=<{_escape(worker.name)} <i>({worker.kind})</i>>;",
        ]
        for module in worker.modules:
            node = nodes[module.name] = f"m{len(nodes)}"
            for side, names in (("in", module.inputs), ("out", module.outputs)):
                ports |= {(side, module.name, name): f"{node}:{side}{index}" for index, name in enumerate(names)}
            lines.append(f"        {node} [label=<{_table(module)}>];")
        lines.append("    }")
    for name in graph.open_ends:
        node = nodes[name] = f"m{len(nodes)}"
        lines.append(f"    {node} [shape=box, style=rounded, label=<{_escape(name)}>];")
    for pipeline in graph.pipelines:
        source = ports.get(("out", *pipeline.source), nodes[pipeline.source[0]])
        target = ports.get(("in", *pipeline.target), nodes[pipeline.target[0]])
        lines.append(f"    {source}:e -> {target}:w [{_style(pipeline)}];")
    return "\n".join([*lines, "}", ""])


def _table(module: ModuleNode) -> str:
    title = f'<td cellpadding="8"><b>{_escape(module.name)}</b><br/>{_escape(module.kind)}</td>'
    cells = f"{_ports('in', module.inputs)}{title}{_ports('out', module.outputs)}"
    return f'<table border="1" cellborder="0" cellspacing="0" cellpadding="0" bgcolor="white"><tr>{cells}</tr></table>'


def _ports(side: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    rows = "".join(
        f'<tr><td port="{side}{index}" cellpadding="4"><font point-size="10">{_escape(name)}</font></td></tr>'
        for index, name in enumerate(names)
    )
    return f'<td><table border="0" cellborder="0" cellspacing="0">{rows}</table></td>'


def _style(pipeline: PipelineEdge) -> str:
    label = "<br/>".join(_escape(line) for line in pipeline.describe())
    return f"label=<{label}>, penwidth={_WIDTHS[pipeline.priority]}"


def _escape(text: str) -> str:
    """Return text for a label, which is a piece of XML."""
    shown = _NOT_XML.sub("\ufffd", " ".join(text.split()))
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", shown or "\N{NO-BREAK SPACE}")  # an empty tag is an error
