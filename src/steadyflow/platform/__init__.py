"""What this system allows: asked once, answered by trying."""

from __future__ import annotations

from steadyflow.platform.capabilities import Attempt, Capabilities, Library, probe_capabilities
from steadyflow.platform.here import capabilities_here, known_capabilities, pretended

__all__ = [
    "Attempt",
    "Capabilities",
    "Library",
    "capabilities_here",
    "known_capabilities",
    "pretended",
    "probe_capabilities",
]
