"""Benchmarks: what a block costs and how long it is on its way, ours beside its peers, from one run.

Each case is one file with `run(quick) -> Result`:

    hop            send and receive in one thread
    chain          five trivial modules in one worker
    loan           a large block written in place, beside one that is sent
    pool           memory for a block, beside numpy and a list of arrays
    threads        from one thread to another
    processes      from one process to another: unpaced, 1 kHz quiet, 1 kHz with every core busy
    replicas       a module that computes, in one process and in two
    event_loop     from a thread to a task of asyncio: unpaced, 1 kHz
    stats          what stamps and statistics add to a block
    transform      sample type, layout and rate converted; ends that agree
    backpressure   what each rule makes of a producer that is twice as fast as its consumer; a package
    import_time    `import steadyflow` beside `import numpy`

`device` is a benchmark of another kind, in a package of its own: blocks of a device, lost and late, against a JACK server. It takes
two hours, so it runs only where it is named.

`harness` alternates the contestants, each measurement in a fresh process; `tables` prints. From the command line:
`steadyflow bench [NAME]`, or `python -m steadyflow.benchmarks [NAME ...] [--quick] [--json]`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steadyflow.benchmarks.harness import Effort, Result, Say

__all__ = ["CASES", "DEVICE", "DEVICE_ABOUT", "run_case"]

CASES: Final[Mapping[str, str]] = {
    "hop": "send and receive of a 512-byte block in one thread",
    "chain": "five trivial modules in one worker, cost per hop and latency at 1 kHz",
    "loan": "a large block written in place, beside one that is sent",
    "pool": "memory for a block asked for, handed over and given back, beside numpy and a list of arrays",
    "threads": "from one thread to another, unpaced",
    "processes": "from one process to another: unpaced, at 1 kHz quiet, at 1 kHz with every core busy",
    "replicas": "a module that computes, in one process and in two, unordered and ordered",
    "event_loop": "from a thread to a task of asyncio, unpaced and at 1 kHz",
    "events": "from publishing an event to the beginning of its callback, in the three classes, quiet and busy",
    "stats": "what stamps and statistics add to a block",
    "backpressure": "each rule under a producer twice as fast as its consumer: throughput, latency, loss, memory",
    "adaptive": "a rule that follows the load, for a minute of twice what its consumer takes: p99, capacity, memory",
    "transform": "sample type, layout and rate converted, and how well; ends that agree",
    "import_time": "import steadyflow beside import numpy",
}

DEVICE: Final = "device"
"""The name of the benchmark that is none of the `CASES`: `steadyflow.benchmarks.device`."""

DEVICE_ABOUT: Final = "blocks of a device, lost and late, in Python and back; only if named"


def run_case(
    name: str, *, quick: bool = False, effort: Effort | None = None, say: Say | None = None, **options: Any
) -> Result:
    """Run one case; it takes seconds (quick) to minutes, in processes of its own.

    Args:
        name: A key of `CASES`.
        quick: Fewer rounds and blocks: all cases together take less than three minutes.
        effort: Instead of `quick`: exactly how much to measure.
        say: Called with a line of progress, now and then.
        **options: What `run` of the case takes besides.

    Raises:
        UnknownName: There is no such case.
    """
    if name not in CASES:
        from steadyflow.errors import UnknownName

        raise UnknownName("benchmark", name, list(CASES))
    from steadyflow.benchmarks.harness import FULL, QUICK, silent

    case = importlib.import_module(f"steadyflow.benchmarks.{name}")
    result: Result = case.run(effort=effort or (QUICK if quick else FULL), say=say or silent, **options)
    return result
