"""What holds for all tests."""

from __future__ import annotations

import gc
import subprocess

import pytest


def pytest_collection_finish():
    """Leave alone what pytest holds until its end: tests that provoke the collector would mostly wait for it to look through that."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", place]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system may be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)
