"""
The command line, extra ``cli``: ``steadyflow demo``, ``run``, ``graph``, ``bench``, ``doctor``.

`app` parses arguments; each command is a file of its own, imported when it is called.
"""

from __future__ import annotations

import sys

_NEEDED = frozenset({"typer", "rich"})


def main() -> int:
    """
    Run the command that the arguments of this process name.

    Returns:
        The exit code where the command line itself cannot run; else the process exits with the command's: 0, 1 for a
        failure, 2 for wrong arguments, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        # A title or a file name that the terminal's encoding lacks must not end a command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        import rich as rich  # the commands need it too, but only when they print

        from steadyflow.cli.app import app
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        from steadyflow.errors import MissingExtra

        print(f"steadyflow: {MissingExtra('cli', 'the command line')}", file=sys.stderr)
        return 1
    app(prog_name="steadyflow")
    return 0
