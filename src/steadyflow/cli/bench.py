"""``steadyflow bench``: figures of steadyflow beside those of its peers, from one run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steadyflow.benchmarks import CASES, run_case
from steadyflow.errors import UnknownName

if TYPE_CHECKING:
    from steadyflow.benchmarks.harness import Effort, Result


def bench(names: Sequence[str], *, quick: bool, as_json: bool, effort: Effort | None = None) -> int:
    """
    Run benchmarks, and print each when it is done; with `as_json`, all as one list at the end, also after Ctrl-C.

    Args:
        names: Keys of `CASES`; all cases, if there are none.
        quick: Fewer rounds and blocks.
        as_json: Records instead of tables.
        effort: Instead of `quick`: exactly how much to measure.

    Returns:
        The exit code: 1 if steadyflow itself could not be measured, else 0. A target that is missed is a figure, not
        a failure.

    Raises:
        UnknownName: There is no such case; nothing was measured.
    """
    for name in names:
        if name not in CASES:
            raise UnknownName("benchmark", name, CASES)
    results: list[Result] = []
    try:
        for name in names or CASES:
            result = run_case(name, quick=quick, effort=effort, say=_say)
            results.append(result)
            if not as_json:
                from steadyflow.benchmarks.tables import print_result

                print_result(result)
    finally:
        if as_json:
            print(json.dumps([result.to_json_value() for result in results], indent=1))
    failed = any(figure.rows[0].state == "failed" for result in results for figure in result.figures)
    return 1 if failed else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
