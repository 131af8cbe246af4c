"""Thread pools of numeric libraries, which a real-time worker does without."""

from __future__ import annotations

import os
from typing import Final

POOL_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What sets the number of threads of numeric libraries, if it is there before they are loaded."""


def pool_environment() -> dict[str, str]:
    """Return what keeps numeric libraries from starting pools: a crowd beside a real-time thread is a way to be late."""
    return dict.fromkeys(POOL_VARIABLES, "1")


def limit_pools() -> None:
    """Limit the pools of libraries that set their number of threads themselves, where threadpoolctl is there to do it."""
    if os.environ.get(POOL_VARIABLES[0]) != "1":
        return  # the user wants another number
    try:
        import threadpoolctl
    except ImportError:
        return
    threadpoolctl.threadpool_limits(1)
