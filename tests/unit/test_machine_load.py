"""How busy the machine is, as the kernel writes it, and as it does not."""

from __future__ import annotations

import os

import pytest

from steadyflow.platform.machine_load import MachineLoad, read_machine_load

PRESSURE = """\
some avg10=12.50 avg60=4.02 avg300=1.17 total=123456789
full avg10=3.00 avg60=0.00 avg300=0.00 total=0
"""
CORES = os.cpu_count() or 1


def read(tmp_path, pressure=None, load=None):
    """Let the kernel write this; None: there is no such file."""
    for name, text in (("pressure", pressure), ("load", load)):
        if text is not None:
            (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return read_machine_load(tmp_path / "pressure", tmp_path / "load")


def test_it_is_read_as_linux_writes_it(tmp_path):
    load = read(tmp_path, PRESSURE, f"0.20 0.18 0.12 {3 * CORES + 1}/80 11206\n")
    assert load == MachineLoad(cpu_pressure_share=0.125, runnable_per_core=3.0)


def test_who_asks_does_not_count(tmp_path):
    assert read(tmp_path, load="0.20 0.18 0.12 1/80 11206\n").runnable_per_core == 0
    assert read(tmp_path, load="0.20 0.18 0.12 0/80 11206\n").runnable_per_core == 0


def test_what_the_system_does_not_say_is_not_known(tmp_path):
    assert read(tmp_path) == MachineLoad(None, None)
    assert read(tmp_path, pressure=PRESSURE) == MachineLoad(0.125, None)


@pytest.mark.parametrize(
    "text", ["", "some\n", "some avg10=\n", "some avg10=many avg60=0\n", b"some avg10=\xff", "\0" * 9]
)
def test_a_pressure_that_is_none_is_not_known(tmp_path, text):
    assert read(tmp_path, pressure=text).cpu_pressure_share is None


@pytest.mark.parametrize(
    "text", ["", "0.2 0.1 0.1\n", "0.2 0.1 0.1 some/80 1\n", "0.2 0.1 0.1 /80 1\n", b"\xff 1 1 1/2 3"]
)
def test_a_load_that_is_none_is_not_known(tmp_path, text):
    assert read(tmp_path, load=text).runnable_per_core is None


def test_a_folder_is_no_file(tmp_path):
    assert read_machine_load(tmp_path, tmp_path) == MachineLoad(None, None)


def test_this_machine_says_something_that_can_be():
    load = read_machine_load()
    assert load.cpu_pressure_share is None or 0 <= load.cpu_pressure_share <= 1
    assert load.runnable_per_core is None or load.runnable_per_core >= 0
