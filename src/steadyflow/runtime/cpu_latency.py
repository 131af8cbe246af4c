"""How deep processors may rest while a real-time worker runs: the kernel's PM QoS."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

DEVICE: Final = Path("/dev/cpu_dma_latency")

_FORMAT: Final = struct.Struct("=i")


def request_cpu_latency(latency_us: int, device: Path = DEVICE) -> str | None:
    """
    Ask for processors that wake up within a time, for as long as this process lives.

    The kernel keeps the request while the file is open, so it is never closed.

    Args:
        latency_us: The time, in µs.
        device: Where to ask.

    Returns:
        None, or why it was refused.
    """
    try:
        descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        os.write(descriptor, _FORMAT.pack(latency_us))
    except OSError as problem:
        return f"{device}: {problem.strerror}"
    return None
