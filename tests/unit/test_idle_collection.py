"""The garbage collector of a real-time worker, in an interpreter of its own: thresholds and freezing are for all of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

_START = """\
import gc, weakref
from steadyflow.runtime import idle_collection
from steadyflow.runtime.idle_collection import FULL_COLLECTION_SHARE, IdleCollection, NEVER_IDLE_OBJECTS, YOUNG_OBJECTS

class Node:
    pass

def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

collected = []
gc.callbacks.append(lambda phase, info: collected.append(info["generation"]) if phase == "stop" else None)
collection = IdleCollection()
collection.begin()
collected.clear()
"""


def run(script):
    done = subprocess.run(
        [sys.executable, "-c", _START + script], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_collected_where_there_is_little_to_collect():
    run("""
gone = cycle()
collection()
assert collected == [] and gone() is not None
""")


def test_garbage_is_collected_when_idle_and_not_before():
    run("""
garbage = [cycle() for _ in range(2 * YOUNG_OBJECTS)]
assert collected == [], "the interpreter would have"
collection()
assert collected == [0]
assert not any(ref() for ref in garbage)
""")


def test_older_generations_follow_when_younger_ones_were_collected_often():
    run("""
for _ in range(400):
    for _ in range(YOUNG_OBJECTS):
        cycle()
    collection()
assert collected.count(0) > collected.count(1) > collected.count(2) >= 1, collected
assert len(collected) == 400, "one for each time"
""")


def test_a_full_collection_takes_a_small_part_of_the_time():
    run("""
now = 0
def clock():
    global now
    now += 1_000_000
    return now
idle_collection.monotonic_ns = clock  # each full collection takes 1 ms, whatever this machine does
fulls = []
for _ in range(2000):
    for _ in range(YOUNG_OBJECTS):
        cycle()
    before = collected.count(2)
    collection()
    if collected.count(2) > before:
        fulls.append(now)
assert len(fulls) > 2, collected
assert all(later - earlier >= 1_000_000 / FULL_COLLECTION_SHARE for earlier, later in zip(fulls, fulls[1:])), fulls
""")


def test_a_worker_that_is_never_idle_collects_before_memory_grows_without_bound():
    run("""
garbage = [cycle() for _ in range(3 * NEVER_IDLE_OBJECTS)]
assert collected, "by itself"
assert sum(ref() is not None for ref in garbage) <= NEVER_IDLE_OBJECTS
""")


def test_what_setup_has_made_is_not_looked_at_again():
    run("""
frozen = gc.get_freeze_count()
assert frozen > 1000
gc.collect()
assert gc.get_freeze_count() == frozen
""")


@pytest.mark.parametrize("wanted", ["1", "3"])
def test_pools_of_numeric_threads_are_limited_unless_the_user_wants_another_number(wanted):
    script = f"""
import os
os.environ["OMP_NUM_THREADS"] = "{wanted}"
del os.environ["OPENBLAS_NUM_THREADS"]
import numpy, threadpoolctl
from steadyflow.runtime.pools import limit_pools
numpy.ones((4, 4)) @ numpy.ones((4, 4))
before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
limit_pools()
after = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
assert after == ([1] * len(before) if "{wanted}" == "1" else before), (before, after)
"""
    done = subprocess.run(
        [sys.executable, "-c", "import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'\n" + script],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
