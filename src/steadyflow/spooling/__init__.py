"""
Spools: blocks wait on disk where a pipeline has no room for them.

- `SpoolStore`: the file, a queue of blocks in SQLite
- `SpooledBlock`: a block as it lies there
"""

from steadyflow.spooling.store import SpooledBlock as SpooledBlock
from steadyflow.spooling.store import SpoolStore as SpoolStore

__all__ = ["SpoolStore", "SpooledBlock"]
