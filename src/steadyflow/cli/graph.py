"""``steadyflow graph FLOW.toml``: a picture of the flow of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from steadyflow.diagrams import RENDERERS
from steadyflow.errors import FileUnwritable, UnknownName
from steadyflow.flow_files.loading import load
from steadyflow.flow_files.settings import Setting

if TYPE_CHECKING:
    from steadyflow.diagrams import DiagramFormat

_BY_SUFFIX: Final[Mapping[str, str]] = {".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".json": "json"}


def graph(file: Path, settings: Sequence[str], *, format: str | None, output: Path | None) -> int:
    """
    Draw the flow of a file; nothing is started.

    Args:
        file: The flow file.
        settings: ``KEY=VALUE``: values instead of those in the file.
        format: A key of `RENDERERS`; None: by the suffix of `output`, or else Mermaid.
        output: Where it goes; None: standard output.

    Returns:
        The exit code.

    Raises:
        FlowError: The file cannot be read, describes something impossible, or the picture cannot be written.
    """
    if format is not None and format not in RENDERERS:
        raise UnknownName("format", format, RENDERERS, where="--format")
    if format is None:
        format = _BY_SUFFIX.get(output.suffix.lower(), "mermaid") if output else "mermaid"
    with load(file, [Setting.parse(text, option="--set") for text in settings]) as flow:
        picture = flow.graph(cast("DiagramFormat", format))
    if output is None:
        print(picture, end="")
        return 0
    try:
        output.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise FileUnwritable(
            f"{output}: expected a place where a file can be written, got: {error.strerror}."
        ) from error
    return 0
