"""Whatever is done to a flow file: it is a flow, or an error that names the file. Nothing else comes out of it."""

from __future__ import annotations

import copy
import itertools
import random
import sys
import tomllib

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.toml_writer import write_simply

from steadyflow import DataFlowCoordinator, load_flow
from steadyflow.errors import FlowError, SeveralProblems

HERE = __name__

VALID = """\
[flow]
name = "demo"
duration_s = 3

[modules.take]
use = "steadyflow.audio:FileSource"
arguments = { path = "take.wav", block_frames = 128, realtime_pace = false }

[modules.pitch]
use = "steadyflow.audio:PitchDetector"
placement = "process"
worker = "dsp"

[modules.levels]
use = "steadyflow.testing:Collect"

[[pipelines]]
from = "take.out"
to = "pitch.audio"
buffer_size = 32
max_latency_ms = 2.0
priority = "critical"
backpressure_strategy = { kind = "wait", timeout_ms = 5000, then = "drop_newest" }

[[pipelines]]
name = "found"
from = "pitch"
to = "levels"
buffer_size = 8
"""

STRANGE = [
    *(0, -1, 1 << 70, 1.5, float("inf"), float("nan"), True, "", "x", "a.b", "a:b", "steadyflow.audio:Tone", "thread"),
    *([], [1], ["x"], {}, {"x": 1}, {"kind": "wait"}, [{}], {"from": "take"}, "é", "\0", "a\nb"),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    before = [*sys.path]
    yield tmp_path_factory.mktemp("mutations") / "flow.toml"
    sys.path[:] = before


def check(path, data):
    """Load it; what comes out is a flow, or errors that all name the file."""
    path.write_bytes(data)
    try:
        flow = load_flow(path)
    except FlowError as error:
        for each in error.problems if isinstance(error, SeveralProblems) else [error]:
            assert str(each).startswith(str(path)), str(each)
        return False
    assert isinstance(flow, DataFlowCoordinator)
    flow.close()
    return True


def test_the_file_is_valid_before_anything_is_done_to_it(path):
    assert check(path, VALID.encode())
    assert check(path, write_simply(tomllib.loads(VALID)).encode())


def places_in(value, key=()):
    """Yield the place of everything in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, each in inner:
        yield (*key, part)
        yield from places_in(each, (*key, part))


def mutate(content, choose):
    """Drop, rename, retype, double or swap one thing of a document."""
    places = list(places_in(content))
    if not places:
        return
    *around, part = choose.choice(places)
    table = content
    for each in around:
        table = table[each]
    what = choose.choice(["drop", "retype", "rename", "double", "swap"])
    if what == "drop":
        del table[part]
    elif what == "retype":
        table[part] = copy.deepcopy(choose.choice(STRANGE))
    elif what == "double" and isinstance(table, list):
        table.append(copy.deepcopy(table[part]))
    elif what == "swap":
        other = choose.choice(list(table) if isinstance(table, dict) else range(len(table)))
        table[part], table[other] = table[other], table[part]
    elif isinstance(table, dict):
        letters = list(part)
        letters.insert(choose.randrange(len(letters) + 1), choose.choice("abc_->. \"'é"))
        table["".join(letters)] = table.pop(part)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 32), st.integers(1, 4))
def test_other_keys_and_values(path, seed, mutations):
    choose = random.Random(seed)
    content = tomllib.loads(VALID)
    for _ in range(mutations):
        mutate(content, choose)
    check(path, write_simply(content).encode())


edits = st.lists(
    st.tuples(st.integers(0, len(VALID)), st.integers(0, 12), st.binary(max_size=6)), min_size=1, max_size=4
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits)
@example([(0, len(VALID), b"\xef\xbb\xbf[flow]")])
def test_other_bytes(path, edits):
    data = VALID.encode()
    for at, dropped, inserted in edits:
        data = data[:at] + inserted + data[at + dropped :]
    check(path, data)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 32))
def test_lines_in_another_order(path, seed):
    lines = VALID.splitlines(keepends=True)
    choose = random.Random(seed)
    first, second = sorted(choose.sample(range(len(lines)), 2))
    lines[first], lines[second] = lines[second], lines[first]
    check(path, "".join(lines).encode())


def test_every_thing_of_it_alone_dropped_or_strange(path):
    """The exhaustive part: each place, without it and with each strange value. Some of them are flows, most are not."""
    content = tomllib.loads(VALID)
    results = set()
    for place, value in itertools.product(places_in(content), [None, *STRANGE[:8], [1], {}]):
        changed = copy.deepcopy(content)
        table = changed
        for each in place[:-1]:
            table = table[each]
        if value is None:
            del table[place[-1]]
        else:
            table[place[-1]] = value
        results.add(check(path, write_simply(changed).encode()))
    assert results == {True, False}
