"""The arguments of the command line; what the commands do is in their own files."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, NoReturn, ParamSpec

import typer

from steadyflow.benchmarks import CASES, DEVICE, DEVICE_ABOUT
from steadyflow.errors import FlowError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    # Plain text: examples stay as they are written, also where the output is not a terminal.
    rich_markup_mode=None,
    # What is the user's doing gets a message; a traceback means a defect, and is then shown as Python shows it.
    pretty_exceptions_enable=False,
)

P = ParamSpec("P")


def _as_written(title: str, lines: Iterable[str]) -> str:
    """Return text for the end of a help page that keeps its lines: that is what the backspace asks for."""
    return "\n".join(["\b", f"{title}:", *(f"  {line}" for line in lines)])


def _command(*examples: str, before: str = "") -> Callable[[Callable[P, int]], Callable[P, NoReturn]]:
    """
    Make a command of a function that returns its exit code; an error of steadyflow becomes its message.

    Args:
        *examples: How it is called, for its help page.
        before: What the help page says in front of them.
    """

    def decorate(function: Callable[P, int]) -> Callable[P, NoReturn]:
        @functools.wraps(function)
        def exits(*args: P.args, **kwargs: P.kwargs) -> NoReturn:
            try:
                code = function(*args, **kwargs)
            except FlowError as error:
                from steadyflow.cli.failures import describe

                print(f"steadyflow: {describe(error)}", file=sys.stderr)
                code = 1
            except KeyboardInterrupt:
                from steadyflow.cli.outcome import INTERRUPTED

                code = INTERRUPTED
            raise typer.Exit(code)

        shown = _as_written("Examples" if len(examples) > 1 else "Example", examples)
        return app.command(epilog="\n\n".join(filter(None, [before, shown])))(exits)

    return decorate


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


@_command(
    "steadyflow demo",
    "steadyflow demo take.wav",
    "steadyflow demo take.wav --fast --json > notes.json",
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
) -> int:
    """
    Send a recording through a flow, and print its notes.

    While it runs: what each pipeline sent, delivered and dropped, its latency and its health. Then the notes, and the
    report. Without FILE it says how many notes of the bundled recording it heard.
    """
    from steadyflow.cli.demo import demo

    return demo(file, fast=fast, as_json=as_json)


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


@_command(
    "steadyflow run notes.toml",
    "steadyflow run notes.toml --set modules.take.arguments.path=take.wav",
    "steadyflow run notes.toml --set 'pipelines.\"take.out->pitch.audio\".buffer_size=8'",
    "steadyflow run notes.toml --duration-s 10 --quiet --json > report.json",
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
) -> int:
    """
    Run the flow that a file describes.

    Until all streams have ended, the time is over, or Ctrl-C; then the report is printed. While it runs: what each
    pipeline sent, delivered and dropped, its latency and its health. Exits with 1 if the flow failed.
    """
    from steadyflow.cli.run import run

    return run(flow, settings or [], duration_s=duration_s, as_json=as_json, quiet=quiet)


@_command(
    "steadyflow graph notes.toml",
    "steadyflow graph notes.toml --output notes.dot",
    "steadyflow graph notes.toml --format dot | dot -Tsvg > notes.svg",
)
def graph(
    flow: FlowFile,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", help="mermaid, dot or json; else by the ending of FILE, or mermaid.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Write to this file, not to stdout: .mmd or .md (Mermaid), .dot or .gv (Graphviz), .json.",
            show_default=False,
        ),
    ] = None,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> int:
    """
    Draw the flow that a file describes.

    Its workers, modules and pipelines. Nothing is started. Exits with 1 if the flow could not run, as far as that can be
    seen.
    """
    from steadyflow.cli.graph import graph

    return graph(flow, settings or [], format=format, as_json=as_json, output=output)


@_command("steadyflow observe", "steadyflow observe notes", "steadyflow observe notes --pid 4711 --json")
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
) -> int:
    """
    Show the pipelines of a flow that is running.

    It may be of any process of yours, and does not notice. On a terminal until it ends, or Ctrl-C; otherwise as it is now.
    """
    from steadyflow.cli.observe import observe

    return observe(name, pid=pid, as_json=as_json)


@_command(
    "steadyflow bench hop",
    "steadyflow bench --quick --json > figures.json",
    "steadyflow bench device --frames 128 --load quiet --load thread",
    "steadyflow bench backpressure --plot pictures",
    before=_as_written("Benchmarks", (f"{name:<13}{what}" for name, what in {**CASES, DEVICE: DEVICE_ABOUT}.items())),
)
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Which benchmarks; all, if none is named.", show_default=False),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Fewer rounds and blocks: all of them take less than three minutes. With device: 5 s, 128 frames.",
        ),
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            help="device: how long each cell is measured, else 60. backpressure: how long the overload lasts, else 3.",
            show_default=False,
        ),
    ] = None,
    frames: Annotated[
        list[int] | None,
        typer.Option("--frames", help="device: a period; may be given again, else 64, 128, 256.", show_default=False),
    ] = None,
    load: Annotated[
        list[str] | None,
        typer.Option(
            "--load",
            help="device: quiet, thread (of the application, computing) or cores (two busy processes per core); may be given "
            "again, else all three.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FOLDER",
            help="backpressure: write a picture of one run with each rule there, instead of measuring everything.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON records instead of tables.")] = False,
) -> int:
    """
    Measure steadyflow beside its peers.

    Peers that are not installed are left out: pip install 'steadyflow[bench]' brings them. The benchmark device starts a JACK server
    of its own and needs jackd; it takes two hours, so it runs only if it is named.
    """
    from steadyflow.cli.bench import DeviceOptions, bench

    return bench(
        names or [], quick=quick, as_json=as_json, seconds=seconds, plot=plot, device=DeviceOptions(frames, load)
    )


@_command("steadyflow doctor", "steadyflow doctor --json")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> int:
    """
    Say what this system allows a flow, and what is missing.

    And what to do about it. Exits with 1 if flows cannot run here.
    """
    from steadyflow.cli.doctor import doctor

    return doctor(as_json)


@_command("steadyflow devices", "steadyflow devices --rates --json")
def devices(
    rates: Annotated[
        bool, typer.Option("--rates", help="Ask each device which sample rates it takes; that needs a while.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> int:
    """
    List the audio devices of this system.

    With channels, rate and the latency that the driver suggests. Exits with 1 if there is none.
    """
    from steadyflow.cli.devices import devices

    return devices(rates=rates, as_json=as_json)
