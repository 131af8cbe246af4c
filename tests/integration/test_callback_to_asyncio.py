"""The example of a bridge between a callback thread and asyncio, as its reader runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "callback_to_asyncio.py"


def test_the_example_hears_and_speaks():
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=50, check=False)

    assert done.returncode == 0, done.stderr
    heard, spoke, on_the_way = done.stdout.splitlines()
    delivered, sent, dropped = map(
        int, re.match(r"heard (\d+) of (\d+) blocks, dropped (\d+), loudest", heard).groups()
    )
    assert sent == 100
    assert delivered + dropped == sent
    answered = int(re.match(r"spoke (\d+) blocks; the device played \d+ frames of it", spoke)[1])
    assert answered == delivered > 0
    assert on_the_way.startswith("on the way to asyncio: p50 ")
