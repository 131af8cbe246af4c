"""What holds for all tests."""

from __future__ import annotations

import gc


def pytest_collection_finish():
    """Leave alone what pytest holds until its end: tests that provoke the collector would mostly wait for it to look through that."""
    gc.collect()
    gc.freeze()
