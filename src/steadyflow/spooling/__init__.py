"""
Spools: blocks wait on disk where a pipeline has no room for them.

- `Spool`: a module before a slow consumer; what that has no room for goes to a file, and comes back in order
- `SpoolCounts`: what it has done
- `SpoolStore`: the file, a queue of blocks in SQLite
- `SpooledBlock`: a block as it lies there
"""

from steadyflow.spooling.spilled import Spilled as Spilled
from steadyflow.spooling.spool import Spool as Spool
from steadyflow.spooling.spool import SpoolCounts as SpoolCounts
from steadyflow.spooling.store import SpooledBlock as SpooledBlock
from steadyflow.spooling.store import SpoolStore as SpoolStore

__all__ = ["Spool", "SpoolCounts", "SpoolStore", "SpooledBlock"]
