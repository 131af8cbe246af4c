"""
What tests of modules and flows need; for yours as well as for those of steadyflow.

- `ScriptedSource`: sends what a list says
- `Collect`: keeps what comes
"""

from steadyflow.testing.collect import Arrival as Arrival
from steadyflow.testing.collect import Collect as Collect
from steadyflow.testing.collect import ScriptedSource as ScriptedSource

__all__ = ["Arrival", "Collect", "ScriptedSource"]
