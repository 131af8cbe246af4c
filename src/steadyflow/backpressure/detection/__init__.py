"""
Detectors: whether a pipeline gets more than its consumer takes, by what looks at it found. One file for each.

    detector        what a detector is
    watermarks      how much of its room is taken
    standing_delay  how long its blocks wait, even the quickest
    time_to_full    how soon it will be full
    growing_queue   whether more comes than is taken, look after look
    blocked_share   how long its senders wait for room
    combined        any of several, or all of them
    backlog         one of them, with what becomes of what waits

Looks may come at any interval. A detector keeps what it saw, so each pipeline needs one of its own; nothing in here reads a clock, waits
or has a thread, and a look costs a few µs.
"""

from steadyflow.backpressure.detection.backlog import WithBacklog as WithBacklog
from steadyflow.backpressure.detection.blocked_share import BlockedShare as BlockedShare
from steadyflow.backpressure.detection.combined import AllOf as AllOf
from steadyflow.backpressure.detection.combined import AnyOf as AnyOf
from steadyflow.backpressure.detection.detector import Detector as Detector
from steadyflow.backpressure.detection.growing_queue import GrowingQueue as GrowingQueue
from steadyflow.backpressure.detection.standing_delay import StandingDelay as StandingDelay
from steadyflow.backpressure.detection.time_to_full import TimeToFull as TimeToFull
from steadyflow.backpressure.detection.watermarks import Watermarks as Watermarks
