"""
Run all Python tests with coverage, in two parts beside each other, and close with the sum of both.

    .venv/bin/python tools/run_tests.py

Tests of flows wait for processes, servers and devices, and leave a core idle meanwhile. What mostly computes, and needs no
sound server, runs beside them: with a low priority, so that who has a deadline does not notice, and its output comes last.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter

BESIDE = ["tests/unit", "tests/property", "tests/packaging", "tests/performance"]
REST = ["tests", *(f"--ignore={folder}" for folder in BESIDE)]
PYTEST = [sys.executable, "-m", "coverage", "run", "-m", "pytest"]


def passed_on(lines):
    """Print what pytest says; return how many tests came to what, which its last line tells: ``= 1 failed, 5 passed in 1.12s =``."""
    counted = {}
    for line in lines:
        print(line, end="", flush=True)
        if closing := re.fullmatch(r"=+ (.*) in [\d.]+s.* =+\n", line):
            counted = {kind: int(count) for count, kind in re.findall(r"(\d+) ([a-z]+?)s?\b", closing[1])}
    return Counter(counted)


def main():
    began_s = time.monotonic()
    with tempfile.TemporaryFile("w+") as told:
        beside = subprocess.Popen(
            ["nice", "-n", "10", *PYTEST, *BESIDE], stdin=subprocess.DEVNULL, stdout=told, stderr=subprocess.STDOUT
        )
        try:
            with subprocess.Popen([*PYTEST, *REST], stdout=subprocess.PIPE, text=True) as rest:
                counted = passed_on(rest.stdout)
            beside.wait()
        finally:
            beside.terminate()
            beside.wait()
        told.seek(0)
        counted += passed_on(told)
    kinds = sorted(counted, key=lambda kind: (kind not in ("failed", "error"), kind != "passed", kind))
    # As pytest closes, so that one line says what became of all tests.
    print(f"===== {', '.join(f'{counted[kind]} {kind}' for kind in kinds)} in {time.monotonic() - began_s:.2f}s =====")
    return rest.returncode or beside.returncode


if __name__ == "__main__":
    sys.exit(main())
