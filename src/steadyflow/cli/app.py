"""The arguments of the command line; what the commands do is in their own files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from steadyflow.benchmarks import CASES
from steadyflow.errors import FlowError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    # Plain text: examples stay as they are written, also where the output is not a terminal.
    rich_markup_mode=None,
    # What is the user's doing gets a message; a traceback means a defect, and is then shown as Python shows it.
    pretty_exceptions_enable=False,
)


def _as_written(title: str, lines: Iterable[str]) -> str:
    """Return text for the end of a help page that keeps its lines: that is what the backspace asks for."""
    return "\n".join(["\b", f"{title}:", *(f"  {line}" for line in lines)])


def _show_version(asked: bool) -> None:
    if asked:
        from steadyflow import __version__

        print(f"steadyflow {__version__}")
        raise typer.Exit


@app.callback(epilog=_as_written("Example", ["steadyflow demo"]))
def steadyflow(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Real-time data flow for Python audio."""


@app.command(
    epilog=_as_written(
        "Examples",
        [
            "steadyflow demo",
            "steadyflow demo take.wav",
            "steadyflow demo take.wav --fast --json > notes.json",
        ],
    )
)
def demo(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="An audio file; the bundled recording, if none is named.", show_default=False
        ),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="As fast as possible, instead of the pace of the music.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document; progress goes to stderr.")] = False,
) -> None:
    """
    Send a recording through a flow, and print its notes.

    While it runs: what each pipeline sent, delivered and dropped, its latency and its health. Then the notes, and the
    report. Without FILE it says how many notes of the bundled recording it heard.
    """

    def command() -> int:
        from steadyflow.cli.demo import demo

        return demo(file, fast=fast, as_json=as_json)

    _exit_with(command)


FlowFile = Annotated[
    Path, typer.Argument(metavar="FLOW.toml", help="The flow file; it imports code, so trust it like a script.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a value of the file; VALUE is TOML, or else text. May be given several times.",
        show_default=False,
    ),
]


@app.command(
    epilog=_as_written(
        "Examples",
        [
            "steadyflow run notes.toml",
            "steadyflow run notes.toml --set modules.take.arguments.path=take.wav",
            "steadyflow run notes.toml --set 'pipelines.\"take.out->pitch.audio\".buffer_size=8'",
            "steadyflow run notes.toml --duration-s 10 --quiet --json > report.json",
        ],
    )
)
def run(
    flow: FlowFile,
    duration_s: Annotated[
        float | None,
        typer.Option("--duration-s", help="Stop after this time, whatever the file says.", show_default=False),
    ] = None,
    settings: Settings = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as one JSON document; progress goes to stderr.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show nothing while it runs.")] = False,
) -> None:
    """
    Run the flow that a file describes.

    Until all streams have ended, the time is over, or Ctrl-C; then the report is printed. While it runs: what each
    pipeline sent, delivered and dropped, its latency and its health. Exits with 1 if the flow failed.
    """

    def command() -> int:
        from steadyflow.cli.run import run

        return run(flow, settings or [], duration_s=duration_s, as_json=as_json, quiet=quiet)

    _exit_with(command)


@app.command(
    epilog=_as_written(
        "Examples",
        [
            "steadyflow graph notes.toml",
            "steadyflow graph notes.toml --output notes.dot",
            "steadyflow graph notes.toml --format dot | dot -Tsvg > notes.svg",
        ],
    )
)
def graph(
    flow: FlowFile,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", help="mermaid, dot or json; by the ending of FILE, or else mermaid.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write to this file, not to stdout.", show_default=False),
    ] = None,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """
    Draw the flow that a file describes.

    Its workers, modules and pipelines. Nothing is started.
    """

    def command() -> int:
        from steadyflow.cli.graph import graph

        return graph(flow, settings or [], format="json" if as_json else format, output=output)

    _exit_with(command)


@app.command(
    epilog=_as_written(
        "Examples",
        ["steadyflow observe", "steadyflow observe notes", "steadyflow observe notes --pid 4711 --json"],
    )
)
def observe(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="The name of the flow; may be left out if only one runs.", show_default=False
        ),
    ] = None,
    pid: Annotated[
        int | None, typer.Option("--pid", help="Its process, if several flows have that name.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document: the flow as it is now.")] = False,
) -> None:
    """
    Show the pipelines of a flow that is running.

    It may be of any process of yours, and does not notice. On a terminal until it ends, or Ctrl-C; otherwise as it is now.
    """

    def command() -> int:
        from steadyflow.cli.observe import observe

        return observe(name, pid=pid, as_json=as_json)

    _exit_with(command)


@app.command(
    epilog="\n\n".join(
        [
            _as_written("Benchmarks", (f"{name:<12} {what}" for name, what in CASES.items())),
            _as_written("Examples", ["steadyflow bench hop", "steadyflow bench --quick --json > figures.json"]),
        ]
    )
)
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Which benchmarks; all, if none is named.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer rounds and blocks: all of them take less than three minutes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON records instead of tables.")] = False,
) -> None:
    """
    Measure steadyflow beside its peers.

    Peers that are not installed are left out: pip install 'steadyflow[bench]' brings them.
    """

    def command() -> int:
        from steadyflow.cli.bench import bench

        return bench(names or [], quick=quick, as_json=as_json)

    _exit_with(command)


@app.command(epilog=_as_written("Examples", ["steadyflow doctor", "steadyflow doctor --json"]))
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    """
    Say what this system allows a flow, and what is missing.

    And what to do about it. Exits with 1 if flows cannot run here.
    """

    def command() -> int:
        from steadyflow.cli.doctor import doctor

        return doctor(as_json)

    _exit_with(command)


def _exit_with(command: Callable[[], int]) -> NoReturn:
    """Run a command, and exit with its code; an error of steadyflow becomes its message."""
    try:
        code = command()
    except FlowError as error:
        from steadyflow.cli.failures import describe

        print(f"steadyflow: {describe(error)}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        from steadyflow.cli.outcome import INTERRUPTED

        code = INTERRUPTED
    raise typer.Exit(code)
