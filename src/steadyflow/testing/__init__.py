"""
What tests of modules and flows need; for yours as well as for those of steadyflow.

- `ScriptedSource`: sends what a list says
- `Collect`: keeps what comes
- `ManualClock`: what a flow goes by that runs offline, ``flow.run(clock=...)``
- `ScriptedDevice`, with `Xrun`, `Late`, `Unplugged`, `Drift`: a sound device that does what a list says
"""

from steadyflow.clock import ManualClock as ManualClock
from steadyflow.testing.collect import Arrival as Arrival
from steadyflow.testing.collect import Collect as Collect
from steadyflow.testing.collect import ScriptedSource as ScriptedSource
from steadyflow.testing.scripted_device import Drift as Drift
from steadyflow.testing.scripted_device import Late as Late
from steadyflow.testing.scripted_device import ScriptedDevice as ScriptedDevice
from steadyflow.testing.scripted_device import Unplugged as Unplugged
from steadyflow.testing.scripted_device import Xrun as Xrun

__all__ = [
    "Arrival",
    "Collect",
    "Drift",
    "Late",
    "ManualClock",
    "ScriptedDevice",
    "ScriptedSource",
    "Unplugged",
    "Xrun",
]
