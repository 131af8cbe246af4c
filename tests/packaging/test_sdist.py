"""A source distribution made without git holds what is needed, and builds into a wheel that imports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from tests.uncovered import uncovered_environment

CHECKOUT = Path(__file__).parents[2]
MADE_HERE = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "__pycache__", ".*_cache", ".hypothesis", ".coverage*"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (CHECKOUT / "CMakeLists.txt").exists(), reason="needs the checkout, not only the tests"),
]


def run(*command, cwd):
    # Coverage is for our tests, not for the tools of a build.
    environment = uncovered_environment()
    # CMake and ninja were installed beside this interpreter.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_below(folder, top):
    """Yield the files that somebody wrote."""
    for file in folder.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".so":
            yield file.relative_to(top)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Make the source distribution from a copy of the checkout that has no .git."""
    pytest.importorskip("scikit_build_core")
    folder = tmp_path_factory.mktemp("sdist")
    copy = folder / "copy"
    shutil.copytree(CHECKOUT, copy, ignore=MADE_HERE)
    # What a build leaves behind must not travel, git or not.
    (copy / "build").mkdir()
    (copy / "build" / "leftover.o").touch()
    run("-c", f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})", cwd=copy)
    (made,) = folder.glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # With the build requirements that are installed here: no network. Not optimised, which takes most of the time:
    # what is asked is whether everything is there.
    run(
        *("-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation", "--no-index"),
        *("--wheel-dir", str(folder), "--config-settings=cmake.build-type=Debug", str(sdist)),
        cwd=folder,
    )
    (made,) = folder.glob("*.whl")
    return made


def test_sdist_holds_the_sources(sdist):
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    top = f"steadyflow-{version}/"
    with tarfile.open(sdist) as archive:
        names = {name.removeprefix(top) for name in archive.getnames()}

    sources = {str(file) for folder in ("native", "src", "tests") for file in files_below(CHECKOUT / folder, CHECKOUT)}
    assert sources <= names
    assert {"CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO"} <= names
    assert not [name for name in names if name.startswith((".git/", ".venv", "build", "dist"))]


def test_wheel_holds_what_is_installed(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    package = {str(file) for file in files_below(CHECKOUT / "src" / "steadyflow", CHECKOUT / "src")}
    assert package <= names, "Python files, stub, py.typed and recordings"
    assert [name for name in names if name.startswith("steadyflow/_native.") and name.endswith(".so")]
    assert {"steadyflow/_native.pyi", "steadyflow/py.typed"} <= names
    assert all(name.startswith(("steadyflow/", "steadyflow-")) for name in names)


def test_wheel_imports_from_where_it_is_unpacked(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import steadyflow; print(steadyflow.__file__)"

    assert run("-c", code, cwd=tmp_path).strip() == str(tmp_path / "steadyflow" / "__init__.py")
