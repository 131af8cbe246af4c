"""
The process of one cell: `python -m steadyflow.benchmarks.device.cell CELL`, of which CELL is a JSON object.

Prints "running", runs until its input ends, and prints what was counted as JSON. On standard error, last, why there is nothing.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steadyflow.benchmarks.device.contestants import CONTESTANTS, Running


def main() -> None:
    """Run the cell of the command line."""
    cell: dict[str, Any] = json.loads(sys.argv[1])
    # Whoever waits for us may be gone; this process ends all the same.
    signal.alarm(int(cell["limit_s"]))
    try:
        with _computing(cell["computes"]):
            counts = _run(cell)
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs in the contestant's row
        traceback.print_exc()
        sys.exit(f"\n{type(error).__name__}: {' '.join(str(error).split())}")
    sys.stdout.write(json.dumps(counts) + "\n")


def _run(cell: dict[str, Any]) -> dict[str, Any]:
    if cell["kind"] == "server":
        _hold()
        return {}
    (contestant,) = [each for each in CONTESTANTS if (each.kind, each.name) == (cell["kind"], cell["contestant"])]
    return dict(contestant.run(Running(cell["frames"], cell["most_blocks"], Path(cell["log_file"]), hold=_hold)))


def _hold() -> None:
    sys.stdout.write("running\n")
    sys.stdout.flush()
    sys.stdin.read()


@contextlib.contextmanager
def _computing(wanted: bool) -> Iterator[None]:
    """Let a thread compute in plain Python, beside what is measured, if that is wanted."""
    if not wanted:
        yield
        return
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            for _ in range(100_000):
                pass

    thread = threading.Thread(target=compute, name="computing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
