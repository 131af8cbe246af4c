"""
Flows whose shared memory is damaged while they run: each goes on with right accounts, or says which pipeline is damaged.

Never a crash, and never a wait without end. What was damaged is printed with its seed, so that a round can be repeated.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.chaos.hostile_flow import SENT

ROOT = Path(__file__).parents[2]
LIMIT_S = 50  # for all rounds of a test; a round takes less than a second

# How long the rounds of one test may take together; what is not begun by then is left out. There are always some.
BUDGET_S = 14
LEAST_ROUNDS = 3


@contextlib.contextmanager
def rounds(seed, placement, most_damages):
    """Run the program in a process group of its own, which ends with this; gives its process and the queue of its lines."""
    command = [sys.executable, "-m", "tests.chaos.hostile_flow", str(seed), "10000", placement, str(most_damages)]
    lines = queue.SimpleQueue()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:

        def read():
            for line in process.stdout:
                lines.put(json.loads(line))
            lines.put(None)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield process, lines
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            reader.join()


def check(told):
    """Check how one round ended."""
    for error in told["errors"]:
        assert any(name in error for name in SENT), f"names no pipeline: {error}"
    # The header of the pipeline that nobody receives from at last holds a rule: one that waits is as good as another.
    ruled = any(" in header of keep.echo->ears" in damage for damage in told["damage"])
    assert told["went_on"] or told["errors"] or told["paused"] or ruled, "stood still without a word"
    if told["errors"] or not told["went_on"]:
        return
    for name, (sent, delivered, dropped) in told["accounts"].items():
        parts = ("header", "slots", "statistics")
        touched = any(f"{part} of {name}" in damage for damage in told["damage"] for part in parts)
        if not touched:
            assert sent == delivered + dropped, name
            if "slots" not in str(told["damage"]):  # what a damaged pipeline swallowed does not come further
                assert sent == SENT[name], name


@pytest.mark.parametrize(
    ("seed", "placement", "most_damages"),
    [(1_000, "thread", 1), (20_000, "thread", 6), (300_000, "process", 3)],
)
def test_damage_to_a_running_flow(seed, placement, most_damages):
    began = time.monotonic()
    ended = []
    with rounds(seed, placement, most_damages) as (process, lines):
        while len(ended) < LEAST_ROUNDS or time.monotonic() - began < BUDGET_S:
            try:
                told = lines.get(timeout=max(1.0, began + LIMIT_S - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"hangs in the round after {ended[-1:]}")
            if told is None:
                pytest.fail(
                    f"ended by {process.wait()} in the round after {ended[-1:]}: {process.stderr.read()[-3000:]}"
                )
            if len(told) > 1:
                print(told)
                check(told)
                ended.append(told)
    outcomes = {"went on": 0, "named the pipeline": 0, "stood still until it was stopped": 0}
    for told in ended:
        still = "went on" if told["went_on"] else "stood still until it was stopped"
        outcomes["named the pipeline" if told["errors"] else still] += 1
    print(len(ended), "rounds from seed", seed, outcomes)
    assert outcomes["went on"] + outcomes["named the pipeline"] > 0
