"""The process of one measurement: `python -m steadyflow.benchmarks.measure MODULE:FUNCTION WORKLOAD OPTIONS LIMIT_S`.

The last line of its output is what was measured, as JSON; the last line of its standard error, why there is nothing.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import traceback
from dataclasses import asdict

from steadyflow.benchmarks.harness import Workload


def main() -> None:
    """Run the function named on the command line."""
    function, workload, options, limit_s = sys.argv[1:]
    # Whoever waits for us may be gone; this process ends all the same.
    signal.alarm(int(limit_s) + 5)
    module, _, name = function.partition(":")
    try:
        measured = getattr(importlib.import_module(module), name)(
            Workload(**json.loads(workload)), **json.loads(options)
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs in the contestant's row
        traceback.print_exc()
        sys.exit(f"\n{_reason(error)}")
    sys.stdout.write(json.dumps(asdict(measured)) + "\n")


def _reason(error: BaseException) -> str:
    """Return one line; of a group, with the first error in it."""
    line = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"{line}: {_reason(error.exceptions[0])}" if isinstance(error, BaseExceptionGroup) else line


if __name__ == "__main__":
    main()
