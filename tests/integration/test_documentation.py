"""
The pages say what is so: their programs run, print what stands below them, and their links lead somewhere.

A block that begins with a comment like `# level.py` or `# flow.toml` is a file: it is saved under that name. A program is
run by itself; the other Python blocks of a page are what a reader types one after the other, so they are run as one
script. A block ```text output``` holds what the block before it prints, a program or a command; with `figures-vary`,
numbers with a point may be others. No block of Python can be left out. One that opens a device has a sound server of its own to
open it at, and is skipped where none is installed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
import wave
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
from tests.servers.jack_server import silent_jack_server

from steadyflow.benchmarks import CASES, DEVICE

__all__ = ["silent_jack_server"]

CHECKOUT = Path(__file__).parents[2]
PAGES = {
    page.relative_to(CHECKOUT).as_posix(): page
    for page in [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted(CHECKOUT.glob("docs/**/*.md"))]
}

FENCE = re.compile(r"^```(?P<language>[\w+-]*)(?P<rest>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.(?:py|toml))\n")
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
LANGUAGES = {"python", "text", "sh", "toml", "mermaid", ""}  # diagrams are compared where what they draw is tested
BETWEEN = "--- between two blocks ---"


@dataclass(frozen=True)
class Fence:
    """A fenced block; `output` is what it has to print, None if nothing is said about that."""

    page: str
    line: int
    language: str
    info: str
    text: str
    output: str | None = None
    figures_vary: bool = False

    @property
    def file_name(self) -> str:
        named = FILE_NAME.match(self.text)
        return named[1] if named else ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {self.file_name}".rstrip()


def fences_of(page, text):
    found = [
        Fence(page, text.count("\n", 0, each.start()) + 1, each["language"], each["rest"].strip(), each["text"])
        for each in FENCE.finditer(text)
    ]
    return [
        with_output(fence, following) if following is not None and following.info.startswith("output") else fence
        for fence, following in zip_longest(found, found[1:])
    ]


def with_output(fence, output):
    return Fence(
        fence.page,
        fence.line,
        fence.language,
        fence.info,
        fence.text,
        output=output.text,
        figures_vary=output.info == "output figures-vary",
    )


FENCES = {name: fences_of(name, page.read_text(encoding="utf-8")) for name, page in PAGES.items()}
PYTHON = [fence for fences in FENCES.values() for fence in fences if fence.language == "python"]
PROGRAMS = [fence for fence in PYTHON if fence.file_name]
FILES = [fence for fences in FENCES.values() for fence in fences if fence.file_name]
TOML = [fence for fences in FENCES.values() for fence in fences if fence.language == "toml"]
COMMANDS = [
    fence for fences in FENCES.values() for fence in fences if fence.language == "sh" and fence.output is not None
]
TYPED = {
    name: typed
    for name in PAGES
    if (typed := [fence for fence in PYTHON if fence.page == name and not fence.file_name])
}


@pytest.fixture
def folder(tmp_path):
    """A folder with what the programs expect to find: half a second of silence, as much of a tone, and silence."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 48_000)
    samples = np.concatenate([np.zeros(24_000), tone, np.zeros(24_000)])
    with wave.open(str(tmp_path / "take.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes((samples * 32_767).astype("<i2").tobytes())
    return tmp_path


def needs_device(text):
    return "ScriptedDevice" not in text and re.search(r"\b(?:Microphone|Speaker|Duplex)\(", text) is not None


def save_files(page, folder):
    for fence in FILES:
        if fence.page == page:
            (folder / fence.file_name).write_text(fence.text, encoding="utf-8")


def run(command, folder):
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=os.environ | {"COLUMNS": "120"},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    return done.stdout


def compared(text, *, figures_vary):
    """Return what is compared: where figures vary, their width and that of their table do, too."""
    if not figures_vary:
        return text
    text = re.sub(r"\d+\.\d+", "#", text)
    return "\n".join(re.sub(r"-{2,}", "-", re.sub(r"\s+", " ", line)).strip() for line in text.splitlines())


def assert_prints(fence, printed):
    if fence.output is not None:
        expected = compared(fence.output, figures_vary=fence.figures_vary)
        assert compared(printed, figures_vary=fence.figures_vary).rstrip() == expected.rstrip(), str(fence)


# --- programs -----------------------------------------------------------------------------------------------------


def test_the_pages_hold_programs():
    assert {"README.md", "docs/tutorial.md", "docs/concepts.md"} <= {fence.page for fence in PYTHON}


@pytest.mark.parametrize("fence", PROGRAMS, ids=str)
def test_program_prints_what_the_page_says(fence, folder, request):
    if needs_device(fence.text):
        request.getfixturevalue("silent_jack_server")
    save_files(fence.page, folder)

    assert_prints(fence, run([sys.executable, "-W", "error", fence.file_name], folder))


@pytest.mark.parametrize("page", TYPED)
def test_what_a_reader_types_prints_what_the_page_says(page, folder, request):
    blocks = TYPED[page]
    if any(needs_device(fence.text) for fence in blocks):
        request.getfixturevalue("silent_jack_server")
    save_files(page, folder)
    script = folder / "typed_by_a_reader.py"
    script.write_text(f"print({BETWEEN!r})\n".join(fence.text for fence in blocks), encoding="utf-8")

    printed = run([sys.executable, "-W", "error", script.name], folder).split(f"{BETWEEN}\n")

    assert len(printed) == len(blocks)
    for fence, text in zip(blocks, printed, strict=True):
        assert_prints(fence, text)


@pytest.mark.parametrize("fence", TOML, ids=str)
def test_toml_is_toml(fence):
    tomllib.loads(fence.text)


@pytest.mark.parametrize("fence", COMMANDS, ids=str)
def test_command_prints_what_the_page_says(fence, folder):
    """Also one that is meant to fail: then its complaint is what it prints."""
    save_files(fence.page, folder)
    (command,) = fence.text.splitlines()
    name, *arguments = shlex.split(command)
    assert name == "steadyflow"
    both = subprocess.run(
        [sys.executable, "-W", "error", "-m", "steadyflow.cli", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
        check=False,
    )

    assert_prints(fence, both.stdout)


def test_names_of_files_are_unique():
    names = [(fence.page, fence.file_name) for fence in FILES]
    assert len(names) == len(set(names))


def test_no_block_escapes():
    """Another spelling of the language, or an output that belongs to nothing, would go unseen."""
    for name, page in PAGES.items():
        text = page.read_text(encoding="utf-8")
        assert len(re.findall(r"^\s*(```|~~~)", text, re.MULTILINE)) == 2 * len(FENCES[name]), f"{name}: odd fences"
    for fences in FENCES.values():
        for fence in fences:
            assert fence.language in LANGUAGES, str(fence)
            assert fence.info in {"", "output", "output figures-vary"}, str(fence)
            assert fence.output is None or fence.language in {"python", "sh"}, f"{fence}: an output of what?"
            assert not fence.info or fence.language == "text", str(fence)


# --- commands and links -------------------------------------------------------------------------------------------


def test_commands_exist():
    targets = set(re.findall(r"^([\w-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES.values())
    commands = set(re.findall(r"(?:^|`)steadyflow ([a-z]+)", text, re.MULTILINE))

    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    assert {"demo", "run", "graph", "observe", "bench", "doctor", "devices"} >= commands
    assert set(re.findall(r"steadyflow bench ([a-z_]+)", text)) <= {*CASES, DEVICE}


def anchors_of(page):
    """Return the names of a page's headings, as the web shows them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    page = PAGES[name]
    for path, anchor in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        target = (page.parent / path) if path else page
        assert target.exists(), f"{name}: {path}"
        if anchor:
            assert anchor in anchors_of(target), f"{name}: {path}#{anchor}"


# --- the reader of pages ------------------------------------------------------------------------------------------


def test_the_reader_finds_blocks_and_their_output():
    text = "# A page\n\n```python\n# one.py\nprint(1)\n```\n\n```text output\n1\n```\n\n```python\nx = 2\n```\n\n```sh\nmake\n```\n"
    one, output, typed, shell = fences_of("page.md", text)

    assert (one.file_name, one.line, one.output, one.figures_vary) == ("one.py", 3, "1\n", False)
    assert output.info == "output"
    assert (typed.file_name, typed.output) == ("", None)
    assert shell.language == "sh"


def test_figures_may_vary_but_not_what_they_belong_to():
    def alike(one, other):
        return compared(one, figures_vary=True) == compared(other, figures_vary=True)

    assert alike("a   12.5\n---  -----\n", "a 3.25\n--  ---\n")
    assert not alike("a 12 1.5", "a 13 1.5")
    assert not alike("a 1.5", "b 1.5")
