"""Where recordings are not: what a recorder and a recording say of folders, pipes, sockets and devices. Nothing waits."""

from __future__ import annotations

import fcntl
import os
import socket

import pytest
from tests.recorded import make_blocks, read, recorder_for, write

from steadyflow import AudioFormat
from steadyflow.errors import FileUnreadable, FileUnwritable
from steadyflow.recording import Recording

MONO = AudioFormat(48_000, 1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "take.mcap"


@pytest.fixture(params=["a folder", "a pipe", "a pipe that is read", "a socket", "a device", "a link to a pipe"])
def other(request, path):
    """Something else than a file: its path, and what it is called."""
    kind = request.param
    if kind == "a folder":
        path.mkdir()
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    elif kind == "a device":
        path.symlink_to("/dev/null")
    elif kind == "a link to a pipe":
        os.mkfifo(path.with_name("pipe"))
        path.symlink_to("pipe")
    else:
        os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if kind == "a pipe that is read" else None
    yield path, next(name for name in ("a folder", "a pipe", "a socket", "a device") if name in kind)
    if reader is not None:
        os.close(reader)


def test_a_recording_goes_into_a_file_only(other):
    path, name = other
    with pytest.raises(FileUnwritable, match=f"take.mcap: expected a file, or none yet, got {name}. Choose another"):
        recorder_for(path, MONO)


def test_a_recording_is_read_from_a_file_only(other):
    path, name = other
    with pytest.raises(FileUnreadable, match=f"take.mcap: expected a file, got {name}. Check the path"):
        Recording(path)


def test_what_takes_the_place_of_a_file_at_the_last_moment(path, monkeypatch):
    """Between the look and the opening: it does not wait for the other end, and looks at what it has opened."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    open_files = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("steadyflow.recording.opening._other_at", lambda path: "")
    try:
        with pytest.raises(FileUnreadable, match="expected a file, got a pipe"):
            Recording(path)
        with pytest.raises(FileUnwritable, match="expected a file, or none yet, got a pipe"):
            recorder_for(path, MONO)
        assert len(os.listdir("/proc/self/fd")) == open_files
    finally:
        os.close(reader)
    with pytest.raises(FileUnwritable, match="a place where a file can be written, got: No such device or address"):
        recorder_for(path, MONO)


def test_nothing_is_there(tmp_path, path):
    with pytest.raises(FileUnreadable, match=r"take\.mcap: No such file or directory\. Check the path"):
        Recording(path)
    with pytest.raises(FileUnwritable, match="expected a place where a file can be written, got: No such file"):
        recorder_for(tmp_path / "no" / "take.mcap", MONO)
    with pytest.raises(FileUnwritable, match="expected a place where a file can be written, got: File name too long"):
        recorder_for(tmp_path / ("x" * 1000), MONO)


def test_a_link_to_a_file_is_a_file(path):
    target = path.with_name("target.mcap")
    path.symlink_to(target)
    write(path, MONO, make_blocks(MONO, 3))
    assert len(read(target)) == len(read(path)) == 3


def test_a_file_that_cannot_be_emptied():
    descriptor = os.memfd_create("take", os.MFD_ALLOW_SEALING)
    try:
        os.write(descriptor, b"text")
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        with pytest.raises(FileUnwritable, match="got one that cannot be emptied: Operation not permitted"):
            recorder_for(f"/proc/self/fd/{descriptor}", MONO)
        assert os.pread(descriptor, 9, 0) == b"text"
    finally:
        os.close(descriptor)
