"""From a file to the described flow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from steadyflow.config import PipelineConfig
from steadyflow.errors import ConfigurationError, DuplicateName, Subject, UnknownName
from steadyflow.flow_files.arguments import construct
from steadyflow.flow_files.classes import find_module_class, make_importable
from steadyflow.flow_files.flow import FileFlow
from steadyflow.flow_files.schema import TABLES, FlowTable, ModuleTable, PathTable, PipelineEnds
from steadyflow.flow_files.settings import Setting, apply_settings
from steadyflow.toml import Key, Problems, TomlDocument, converted
from steadyflow.toml.pipelines import PIPELINE_ENDS

PortT = TypeVar("PortT")


def load(path: str | os.PathLike[str], settings: Iterable[Setting] = ()) -> FileFlow:
    """
    Describe the flow of a file; see `steadyflow.load_flow`.

    Args:
        path: The file.
        settings: Values instead of those in the file.
    """
    document = TomlDocument.read(path)
    if not document.content:
        raise ConfigurationError(f"{document.path}: expected tables [modules.NAME] and [[pipelines]], got none.")
    apply_settings(document, settings)
    return _Loader(document).load()


class _Loader:
    """Describes the flow of a document as far as it can, and says all that is wrong with it."""

    def __init__(self, document: TomlDocument) -> None:
        self._document = document
        self._file = Path(document.path).resolve()
        self._problems = Problems()

    def load(self) -> FileFlow:
        for name in self._document.content:
            if name not in TABLES:
                self._problems.add(UnknownName("table", name, TABLES, where=self._document.where(name)))
        table = FlowTable()
        with self._problems.noted():
            table = converted(self._document.content.get("flow", {}), FlowTable, self._document, ("flow",))
        flow = FileFlow(table.name or self._file.stem, self._document, table.description, table.duration_s)
        try:
            self._add_modules(flow)
            self._connect_pipelines(flow)
            self._limit_paths(flow)
            self._problems.raise_if_any(self._document.path)
        except BaseException:
            flow.close()
            raise
        return flow

    # --- modules ----------------------------------------------------------------------------------------------------------

    def _add_modules(self, flow: FileFlow) -> None:
        make_importable(self._file.parent)
        with self._problems.noted():
            if not self._document.content.get("modules", {}):
                raise ConfigurationError(f"{self._document.path}: expected a table [modules.NAME], got none.")
            for name in self._document.table(("modules",)):
                with self._problems.noted():
                    self._add_module(flow, name)

    def _add_module(self, flow: FileFlow, name: str) -> None:
        key: Key = ("modules", name)
        table: ModuleTable = converted(self._document.table(key), ModuleTable, self._document, key)
        with self._document.place(*key, "use"):
            cls = find_module_class(table.use, self._file.parent)
        arguments: Key = (*key, "arguments") if table.arguments else key
        module = construct(cls, table.arguments, self._document, arguments)
        with self._document.place(*key):
            flow.add(module, name=name, **table.options())
        flow.describes(key, Subject("module", name))

    # --- pipelines --------------------------------------------------------------------------------------------------------

    def _connect_pipelines(self, flow: FileFlow) -> None:
        entries = self._document.content.get("pipelines", [])
        with self._problems.noted():
            if not isinstance(entries, list):
                raise ConfigurationError(
                    f"{self._document.where('pipelines')}: expected entries [[pipelines]] with from and to, "
                    f"got {entries!r:.60}."
                )
            for index in range(len(entries)):
                with self._problems.noted():
                    self._connect(flow, ("pipelines", index))

    def _connect(self, flow: FileFlow, key: Key) -> None:
        table = self._document.table(key)
        output = input = config = None
        with self._problems.noted():
            own = {name: value for name, value in table.items() if name in PIPELINE_ENDS}
            ends: PipelineEnds = converted(own, PipelineEnds, self._document, key)
            self._check_name(key, ends.name)
            with self._problems.noted():
                output = self._port(flow, ends.from_, (*key, "from"), flow._description.output)
            with self._problems.noted():
                input = self._port(flow, ends.to, (*key, "to"), flow._description.input)
        with self._problems.noted():
            config = PipelineConfig.from_document(self._document, key)
        if output is not None and input is not None and config is not None:
            with self._document.place(*key):
                pipeline = flow.register_pipeline(output, input, config)
            flow.describes(key, Subject("pipeline", pipeline))

    def _limit_paths(self, flow: FileFlow) -> None:
        entries = self._document.content.get("path_budgets", [])
        with self._problems.noted():
            if not isinstance(entries, list):
                raise ConfigurationError(
                    f"{self._document.where('path_budgets')}: expected entries [[path_budgets]] with from, to and max_ms, got "
                    f"{entries!r:.60}."
                )
            for index in range(len(entries)):
                key: Key = ("path_budgets", index)
                with self._problems.noted():
                    path: PathTable = converted(self._document.table(key), PathTable, self._document, key)
                    with self._document.place(*key):
                        flow.path_budget(path.from_, path.to, path.max_ms)

    def _check_name(self, key: Key, name: str | None) -> None:
        *_, index = key
        assert isinstance(index, int)
        before = self._document.content["pipelines"][:index]
        if name is not None and any(isinstance(each, dict) and each.get("name") == name for each in before):
            raise DuplicateName(f"{self._document.where(*key, 'name')}: another pipeline is called {name!r} already.")

    def _port(
        self, flow: FileFlow, end: str, key: Key, find: Callable[[object], tuple[str, PortT | None]]
    ) -> PortT | None:
        """Return a port; None if it is of a module that is wrong itself."""
        name = end.partition(".")[0]
        described: Any = self._document.content.get("modules")
        if name in flow.modules:
            with self._document.place(*key):
                return find(end)[1]
        if isinstance(described, dict) and described and name not in described:
            raise UnknownName("module", name, described, where=self._document.where(*key))
        return None
