"""
Every example runs by itself against the installed package, and prints what it says: the words, with any figures.

Those that need a device are in test_live_examples.py.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
LIVE = {"live_effect.py", "live_pitch.py", "voice_recorder.py"}
EXAMPLES = sorted(FOLDER.glob("*.py"))
PRINTS = re.compile(r"^Prints::\n\n((?:    .*\n|\n)+)", re.MULTILINE)

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not FOLDER.exists(), reason="needs the checkout, not only the tests"),
]


def promised(source: str) -> str | None:
    """Return what the docstring of a program says that it prints, under `Prints::`; None if it says nothing."""
    found = PRINTS.search(f"{ast.get_docstring(ast.parse(source)) or ''}\n")
    return None if found is None else "\n".join(line.removeprefix("    ") for line in found[1].strip("\n").split("\n"))


def without_figures(text: str) -> str:
    """Leave out what differs from run to run: numbers, and the widths of columns that hold them."""
    return re.sub(r"[ -]*#(?:[. ,-]*#)*", " #", re.sub(r"\d+", "#", text)).strip()


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("example", [path for path in EXAMPLES if path.name not in LIVE], ids=lambda path: path.name)
def test_an_example_runs_and_prints_what_it_says(example, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    assert re.search(r"\w{3}", done.stdout), "an example shows something"
    expected = promised(example.read_text(encoding="utf-8"))
    if expected is not None:
        assert without_figures(done.stdout) == without_figures(expected)


def test_the_list_names_every_example():
    listed = re.findall(r"\]\(([\w./]+)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert {example.name for example in EXAMPLES} <= set(listed)
    assert all((FOLDER / name).exists() for name in listed)


def test_the_reader_of_promises():
    source = '"""\nA program.\n\nPrints::\n\n    one: 1.5 dB\n\n    two\n"""\n'
    assert promised(source) == "one: 1.5 dB\n\ntwo"
    assert promised(source + "'''Prints::\n\n    three\n'''") == "one: 1.5 dB\n\ntwo"
    assert promised('"""A program."""') is None
    assert promised("x = 1") is None


def test_figures_may_vary_but_not_words():
    assert without_figures("a: -38.4 dB, 5 left") == without_figures("a: 7 dB, 1,200 left")
    assert without_figures("a: 1 dB") != without_figures("b: 1 dB")
