"""
What a pipeline does that is full, or before it is: rules, as plain values. The data plane and flow control carry them out.

- `Wait`, `Throttle`, `Grow`, `Spill`: nothing is lost, up to a limit
- `DropOldest`, `DropNewest`, `DropByPriority`, `Latest`, `Sample`: something goes, and is counted
- `Fail`: who sends decides
- `Adaptive`: what is done follows the load
"""

from typing import TypeAlias

from steadyflow.backpressure.rules.adaptive import Adaptive as Adaptive
from steadyflow.backpressure.rules.carried_out import NativeRule as NativeRule
from steadyflow.backpressure.rules.drop_by_priority import DropByPriority as DropByPriority
from steadyflow.backpressure.rules.drop_newest import DropNewest as DropNewest
from steadyflow.backpressure.rules.drop_oldest import DropOldest as DropOldest
from steadyflow.backpressure.rules.fail import Fail as Fail
from steadyflow.backpressure.rules.grow import Grow as Grow
from steadyflow.backpressure.rules.latest import Latest as Latest
from steadyflow.backpressure.rules.sample import Sample as Sample
from steadyflow.backpressure.rules.spill import Spill as Spill
from steadyflow.backpressure.rules.throttle import Throttle as Throttle
from steadyflow.backpressure.rules.wait import Wait as Wait

Rule: TypeAlias = (
    Wait | Throttle | DropOldest | DropNewest | DropByPriority | Latest | Sample | Fail | Grow | Spill | Adaptive
)

__all__ = [
    "Adaptive",
    "DropByPriority",
    "DropNewest",
    "DropOldest",
    "Fail",
    "Grow",
    "Latest",
    "NativeRule",
    "Rule",
    "Sample",
    "Spill",
    "Throttle",
    "Wait",
]
