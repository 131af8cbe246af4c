"""
Flows that are described in TOML files; the format is in docs/flow-files.md.

- `schema`: what a file may say
- `settings`: what ``--set`` changes in it
- `classes`, `arguments`: from ``use = "package.module:Class"`` to a module
- `flow`: the coordinator that knows its file
- `loading`: all of that in order

A flow file imports code: trust it like a script.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steadyflow.flow_files.flow import FileFlow


def load_flow(path: str | os.PathLike[str], *, overrides: Mapping[str, object] | None = None) -> FileFlow:
    """
    Describe the flow of a TOML file; it is not started yet.

    Imports the modules that the file names, with the folder of the file first on the import path (for good, as for a
    script), and constructs them. Relative paths among their arguments are relative to the working directory. May block
    on the disk.

    ::

        with load_flow("notes.toml", overrides={"modules.take.arguments.path": "take.wav"}) as flow:
            print(flow.run())

    Args:
        path: The file.
        overrides: Values instead of those in the file, by key, such as ``"pipelines.0.buffer_size"``.

    Returns:
        A coordinator that knows its file: errors of its start name the file, too, and `run` lasts as long as
        ``duration_s`` says there.

    Raises:
        FileUnreadable: The file cannot be read.
        UnknownName: No such table, key, class, argument, module, port or option; offers the nearest.
        ConfigurationError: The file is not TOML, or says something impossible; names file, line and key.
        SeveralProblems: Several of these.
    """
    from steadyflow.flow_files.loading import load
    from steadyflow.flow_files.settings import override_settings

    return load(path, override_settings(overrides))


__all__ = ["load_flow"]
