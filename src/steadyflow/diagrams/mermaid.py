"""A flow as Mermaid, which pages such as those of GitHub and GitLab show as a picture."""

from __future__ import annotations

import json
import re
from typing import Final

from steadyflow.diagrams.flow_graph import FlowGraph

# Characters that mean something between the quotes of a label, or to the HTML that is made of it. Mermaid writes
# entities with # instead of &.
_SPECIAL: Final = re.compile(r"[^\w\s,.:;=()/*+≤×→-]")
_STYLES: Final = (
    "classDef thread fill:#eef4fb,stroke:#7a9cc6,color:#1b2733",
    "classDef process fill:#fdf3e1,stroke:#d0a14e,color:#1b2733",
)


def to_mermaid(graph: FlowGraph) -> str:
    """Render a flow, from left to right: workers as boxes around their modules, open ends round."""
    ids: dict[str, str] = {}
    lines = ["---", f"title: {json.dumps(graph.name)}", "---", "flowchart LR"]
    for number, worker in enumerate(graph.workers):
        lines.append(f"    subgraph w{number}[{_label(f'{worker.name} ({worker.kind})')}]")
        for module in worker.modules:
            ids[module.name] = f"m{len(ids)}"
            lines.append(f"        {ids[module.name]}[{_label(module.name, module.kind)}]")
        lines.append("    end")
    for name in graph.open_ends:
        ids[name] = f"m{len(ids)}"
        lines.append(f"    {ids[name]}([{_label(name)}])")
    for pipeline in graph.pipelines:
        ports = " → ".join(port for _, port in (pipeline.source, pipeline.target) if port)
        label = _label(ports, *pipeline.describe())
        lines.append(f"    {ids[pipeline.source[0]]} -->|{label}| {ids[pipeline.target[0]]}")
    lines += [f"    {style}" for style in _STYLES]
    lines += [f"    class w{number} {worker.placement}" for number, worker in enumerate(graph.workers)]
    return "\n".join(lines) + "\n"


def _label(*lines: str) -> str:
    """Return text between quotes, in several lines."""
    return f'"{"<br/>".join(_escape(line) for line in lines)}"'


def _escape(text: str) -> str:
    shown = " ".join(text.split()) or "\N{NO-BREAK SPACE}"
    return _SPECIAL.sub(lambda match: f"#{ord(match[0])};", shown)
