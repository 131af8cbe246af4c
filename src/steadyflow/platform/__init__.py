"""What this system allows: asked once, answered by trying."""

from __future__ import annotations

from steadyflow.platform.capabilities import Attempt, Capabilities, Library, probe_capabilities

__all__ = ["Attempt", "Capabilities", "Library", "probe_capabilities"]
