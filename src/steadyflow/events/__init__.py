"""
What happens in a flow, as frozen records, and the bus that brings them to whoever asked.

- `TypedEventBus` (``flow.events``), `Subscription`: who is told, when, and what became of it
- `FlowEvent`, `Delivery`: what an event is, and how soon it has to be told
- `DataFlowStarted`, `DataFlowStopped`, `ObservationUnavailable`: of flows
- `PipelineRegistered`, `PipelinePaused`, `PipelineResumed`, `ViewsExhausted`, `BlockRejected`, `BudgetExceeded`,
  `BudgetRestored`, `ConsumerSharesLock`: of pipelines
- `ModuleAdded`, `ModuleReady`, `ModuleStarted`, `ModulePaused`, `ModuleResumed`, `ModuleEnded`, `ModuleStopped`, `PipelineFailure`, `RealtimeRefused`, `RealtimeRevoked`, `WorkerUnresponsive`: of modules and workers
- `BackpressureDetected`, `BackpressureRelieved`, `StrategyChanged`, `StrategyAssessed`, `QualityChanged`,
  `StandstillDetected`: of flow control
- `SpillFailed`, `SpillFull`, `SpillRestored`, `SpillLeft`: of blocks that wait on disk
- `DeviceLost`, `DeviceRecovered`, `DeviceXrun`: of devices
- `SubscriberStalled`, `DeliveryMissed`, `EventsLost`: of the events themselves
"""

from steadyflow.events.bus import TypedEventBus as TypedEventBus
from steadyflow.events.event import LIMITS_MS as LIMITS_MS
from steadyflow.events.event import Delivery as Delivery
from steadyflow.events.event import FlowEvent as FlowEvent
from steadyflow.events.event import is_own as is_own
from steadyflow.events.of_backpressure import BackpressureDetected as BackpressureDetected
from steadyflow.events.of_backpressure import BackpressureRelieved as BackpressureRelieved
from steadyflow.events.of_backpressure import QualityChanged as QualityChanged
from steadyflow.events.of_backpressure import SpillFailed as SpillFailed
from steadyflow.events.of_backpressure import SpillFull as SpillFull
from steadyflow.events.of_backpressure import SpillLeft as SpillLeft
from steadyflow.events.of_backpressure import SpillRestored as SpillRestored
from steadyflow.events.of_backpressure import StandstillDetected as StandstillDetected
from steadyflow.events.of_backpressure import StrategyAssessed as StrategyAssessed
from steadyflow.events.of_backpressure import StrategyChanged as StrategyChanged
from steadyflow.events.of_devices import DeviceLost as DeviceLost
from steadyflow.events.of_devices import DeviceRecovered as DeviceRecovered
from steadyflow.events.of_devices import DeviceXrun as DeviceXrun
from steadyflow.events.of_events import DeliveryMissed as DeliveryMissed
from steadyflow.events.of_events import EventsLost as EventsLost
from steadyflow.events.of_events import SubscriberStalled as SubscriberStalled
from steadyflow.events.of_flows import DataFlowStarted as DataFlowStarted
from steadyflow.events.of_flows import DataFlowStopped as DataFlowStopped
from steadyflow.events.of_flows import ObservationUnavailable as ObservationUnavailable
from steadyflow.events.of_modules import ModuleAdded as ModuleAdded
from steadyflow.events.of_modules import ModuleEnded as ModuleEnded
from steadyflow.events.of_modules import ModulePaused as ModulePaused
from steadyflow.events.of_modules import ModuleReady as ModuleReady
from steadyflow.events.of_modules import ModuleReplaced as ModuleReplaced
from steadyflow.events.of_modules import ModuleResumed as ModuleResumed
from steadyflow.events.of_modules import ModuleStarted as ModuleStarted
from steadyflow.events.of_modules import ModuleStopped as ModuleStopped
from steadyflow.events.of_modules import PipelineFailure as PipelineFailure
from steadyflow.events.of_modules import RealtimeRefused as RealtimeRefused
from steadyflow.events.of_modules import RealtimeRevoked as RealtimeRevoked
from steadyflow.events.of_modules import WorkerUnresponsive as WorkerUnresponsive
from steadyflow.events.of_pipelines import BlockRejected as BlockRejected
from steadyflow.events.of_pipelines import BudgetExceeded as BudgetExceeded
from steadyflow.events.of_pipelines import BudgetRestored as BudgetRestored
from steadyflow.events.of_pipelines import ConsumerSharesLock as ConsumerSharesLock
from steadyflow.events.of_pipelines import PipelineDisconnected as PipelineDisconnected
from steadyflow.events.of_pipelines import PipelinePaused as PipelinePaused
from steadyflow.events.of_pipelines import PipelineRegistered as PipelineRegistered
from steadyflow.events.of_pipelines import PipelineResumed as PipelineResumed
from steadyflow.events.of_pipelines import PoolHitRateLow as PoolHitRateLow
from steadyflow.events.of_pipelines import PoolTuned as PoolTuned
from steadyflow.events.of_pipelines import ViewsExhausted as ViewsExhausted
from steadyflow.events.subscription import Subscription as Subscription

__all__ = [
    "LIMITS_MS",
    "BackpressureDetected",
    "BackpressureRelieved",
    "BlockRejected",
    "BudgetExceeded",
    "BudgetRestored",
    "ConsumerSharesLock",
    "DataFlowStarted",
    "DataFlowStopped",
    "Delivery",
    "DeliveryMissed",
    "DeviceLost",
    "DeviceRecovered",
    "DeviceXrun",
    "EventsLost",
    "FlowEvent",
    "ModuleAdded",
    "ModuleEnded",
    "ModulePaused",
    "ModuleReady",
    "ModuleReplaced",
    "ModuleResumed",
    "ModuleStarted",
    "ModuleStopped",
    "ObservationUnavailable",
    "PipelineDisconnected",
    "PipelineFailure",
    "PipelinePaused",
    "PipelineRegistered",
    "PipelineResumed",
    "PoolHitRateLow",
    "PoolTuned",
    "QualityChanged",
    "RealtimeRefused",
    "RealtimeRevoked",
    "SpillFailed",
    "SpillFull",
    "SpillLeft",
    "SpillRestored",
    "StandstillDetected",
    "StrategyAssessed",
    "StrategyChanged",
    "SubscriberStalled",
    "Subscription",
    "TypedEventBus",
    "ViewsExhausted",
    "WorkerUnresponsive",
    "is_own",
]
