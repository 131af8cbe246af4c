"""What this system allows, asked once for a process; tests say what it is to be."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from steadyflow.platform.capabilities import Capabilities, probe_capabilities

_lock = threading.Lock()
_known: list[Capabilities] = []


def capabilities_here() -> Capabilities:
    """
    Return what this system allowed when this process asked first.

    Blocks for about half a second the first time; any thread.
    """
    with _lock:
        if not _known:
            _known.append(probe_capabilities())
        return _known[-1]


def known_capabilities() -> Capabilities | None:
    """Return what this process knows of its system already, and None where nobody has asked; never blocks for long; any thread."""
    with _lock:
        return _known[-1] if _known else None


@contextlib.contextmanager
def pretended(capabilities: Capabilities) -> Iterator[None]:
    """Let this process take another system for its own while inside; for tests, one at a time."""
    with _lock:
        before = list(_known)
        _known[:] = [capabilities]
    try:
        yield
    finally:
        with _lock:
            _known[:] = before
