"""Imports point downwards only, and only the outer parts need more than numpy and msgspec."""

from __future__ import annotations

import ast
import graphlib
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "steadyflow"

# From the bottom up. A part may import from its own line and from those above it in this table, which are below it in
# the architecture. A new file or folder of the package gets its place here.
LAYERS = [
    {"_native"},  # knows nothing of ours: it looks up Python names when it is called
    {"version", "errors", "clock", "arguments", "data", "formats", "codec", "payload", "platform", "toml", "awaiting"}
    | {"channel_layouts", "libsndfile"},
    {"conversion", "validation", "backpressure"},  # plain values
    {"transform"},
    {"config", "audio_config", "realtime"},
    {"aligned", "module", "events", "metrics", "lifecycle", "registry"},
    {
        "pipeline",
        "audio_pipeline",
        "converting_end",
        "report",
        "recording",
        "spooling",
    },  # a pipeline reads its own metrics
    {"runtime"},
    {"diagrams", "description"},
    {"pausing", "changing"},
    {"coordinator", "observation"},
    {"flow_files"},
    {"steadyflow"},  # the public names
    {"audio", "testing"},
    {"cli", "benchmarks"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

CORE_DEPENDENCIES = {"numpy", "msgspec"}
"""What may be imported at the top of a file; extras are imported where they are used, also in the outer parts."""

OUTER_DEPENDENCIES = {"cli": {"typer", "rich"}, "benchmarks": {"rich"}}


@dataclass(frozen=True)
class Import:
    """One import statement's target, and where it stands."""

    importer: str
    target: str
    line: int
    at_top: bool
    for_types_only: bool

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}, imports {self.target}"


def module_name(file: Path) -> str:
    relative = file.relative_to(PACKAGE.parent).with_suffix("")
    return ".".join(relative.parts[:-1] if relative.name == "__init__" else relative.parts)


def part_of(module: str) -> str:
    """`steadyflow.audio.tone` belongs to `audio`; the package's own `__init__` is the part `steadyflow`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def is_for_types_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(file: Path, known: frozenset[str]) -> list[Import]:
    importer = module_name(file)
    package = importer if file.name == "__init__.py" else importer.rpartition(".")[0]
    found = []

    def visit(node: ast.AST, at_top: bool, for_types_only: bool) -> None:
        targets = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0]
                base = f"{above}.{base}".rstrip(".")
            # `from steadyflow import audio` names a module, `from steadyflow.errors import FlowError` does not.
            submodules = [f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in known]
            targets = submodules + ([base] if len(submodules) < len(node.names) else [])
        found.extend(Import(importer, target, node.lineno, at_top, for_types_only) for target in targets)
        for child in ast.iter_child_nodes(node):
            inside_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            visit(child, at_top and not inside_function, for_types_only or is_for_types_only(node))

    visit(ast.parse(file.read_text(encoding="utf-8")), at_top=True, for_types_only=False)
    return found


def all_imports() -> list[Import]:
    files = sorted(PACKAGE.rglob("*.py"))
    known = frozenset({module_name(file) for file in files} | {"steadyflow._native"})
    return [each for file in files for each in imports_of(file, known)]


IMPORTS = all_imports()
OURS = [each for each in IMPORTS if each.target.split(".")[0] == "steadyflow"]


def test_there_is_something_to_check():
    assert len(OURS) > 10


def test_every_part_has_its_place():
    # A folder without Python files is no part; neither is one that holds only data.
    parts = {part_of(module_name(file)) for file in PACKAGE.rglob("*.py")}

    assert parts <= set(LEVEL), "give the new part a line in LAYERS"


def test_imports_point_downwards():
    def level(module: str) -> int:
        return LEVEL.get(part_of(module), 0)

    upwards = [str(each) for each in OURS if level(each.target) > level(each.importer) and not each.for_types_only]

    assert upwards == []


def test_no_import_leads_back():
    """Between files, the lazy imports in functions included: a lazy import hides a circle but does not open it."""
    graph: dict[str, set[str]] = {}
    for each in OURS:
        if not each.for_types_only:
            graph.setdefault(each.importer, set()).add(each.target)

    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"imports form a circle: {' <- '.join(error.args[1])}")


def test_extras_are_imported_where_they_are_used():
    def is_allowed(each: Import) -> bool:
        top = each.target.split(".")[0]
        return (
            top == "steadyflow"
            or top in sys.stdlib_module_names
            or top in CORE_DEPENDENCIES
            or top in OUTER_DEPENDENCIES.get(part_of(each.importer), ())
            or each.for_types_only
            or not each.at_top
        )

    assert [str(each) for each in IMPORTS if not is_allowed(each)] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from steadyflow.errors import FlowError", ["steadyflow.errors"]),
        ("from steadyflow import audio, Module", ["steadyflow.audio", "steadyflow"]),
        ("from . import inbox", ["steadyflow.runtime.inbox"]),
        ("from .inbox import Inbox", ["steadyflow.runtime.inbox"]),
        ("from ..errors import FlowError", ["steadyflow.errors"]),
        ("def f():\n    import steadyflow.coordinator", ["steadyflow.coordinator"]),
    ],
)
def test_the_reader_of_imports(tmp_path, monkeypatch, source, expected):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "steadyflow")
    file = tmp_path / "steadyflow" / "runtime" / "worker.py"
    file.parent.mkdir(parents=True)
    file.write_text(source)
    known = frozenset({"steadyflow.audio", "steadyflow.runtime.inbox"})

    assert [each.target for each in imports_of(file, known)] == expected


def test_the_reader_tells_imports_for_types_and_in_functions(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "steadyflow")
    file = tmp_path / "steadyflow" / "__init__.py"
    file.parent.mkdir()
    file.write_text("if TYPE_CHECKING:\n    import a\nelse:\n    import b\ndef f():\n    import c\n")

    found = {each.target: (each.at_top, each.for_types_only) for each in imports_of(file, frozenset())}

    assert found["a"] == (True, True)
    assert found["c"] == (False, False)
