"""``steadyflow graph FLOW.toml``: a picture of the flow of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from steadyflow.diagrams import RENDERERS
from steadyflow.errors import ConfigurationError, FileUnwritable, UnknownName
from steadyflow.flow_files.loading import load
from steadyflow.flow_files.settings import Setting

if TYPE_CHECKING:
    from steadyflow.diagrams import DiagramFormat

_BY_ENDING: Final[Mapping[str, str]] = {
    ".mmd": "mermaid",
    ".md": "mermaid",
    ".dot": "dot",
    ".gv": "dot",
    ".json": "json",
}


def graph(file: Path, settings: Sequence[str], *, format: str | None, as_json: bool, output: Path | None) -> int:
    """
    Draw the flow of a file; nothing is started.

    Args:
        file: The flow file.
        settings: ``KEY=VALUE``: values instead of those in the file.
        format: A key of `RENDERERS`; None: by the ending of `output`, or else Mermaid.
        as_json: The same as the format ``"json"``.
        output: Where it goes; None: standard output.

    Returns:
        The exit code.

    Raises:
        FlowError: The file cannot be read, or describes something impossible; no such format; or the picture cannot be
            written.
    """
    format = _chosen(format, as_json, output)
    with load(file, [Setting.parse(text, option="--set") for text in settings]) as flow:
        picture = flow.graph(cast("DiagramFormat", format))
    if output is None:
        print(picture, end="")
        return 0
    if output.suffix.lower() == ".md" and format != "json":
        picture = f"```{format}\n{picture}```\n"  # a page shows what its code block says
    try:
        output.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise FileUnwritable(
            f"{output}: expected a place where a file can be written, got: {error.strerror}."
        ) from error
    return 0


def _chosen(format: str | None, as_json: bool, output: Path | None) -> str:
    if as_json and format not in (None, "json"):
        raise ConfigurationError(f"graph: expected either --json or --format {format}, got both. Leave one out.")
    if as_json:
        return "json"
    if format is not None:
        if format not in RENDERERS:
            raise UnknownName("format", format, RENDERERS, where="--format")
        return format
    if output is None:
        return "mermaid"
    ending = output.suffix.lower()
    if ending not in _BY_ENDING:
        # Not Mermaid: whoever asks for an .svg would find something else in it.
        raise UnknownName("ending of a picture", ending, _BY_ENDING, where=f"--output {output}")
    return _BY_ENDING[ending]
