"""
Laying out a flow before it starts: which worker runs what, what is fused, and where everything lies in shared memory.

Planning first (`plan_workers`, `default_rules`), then one segment that holds all of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from steadyflow._native import (
    BELL_BYTES,
    DEVICE_ACCOUNT_BYTES,
    MAX_BRANCHES,
    MAX_PROCESSES,
    PRIVATE_COPY_BYTES,
    SEGMENT_HEADER_BYTES,
    Ring,
    Segment,
    buffers_range,
    create_pool,
    create_ring,
    pool_bytes,
    ring_bytes,
)
from steadyflow.audio_config import (
    check_audio_config,
    cycle_rules,
    intake_rules,
    regulates,
    staged_blocks,
)
from steadyflow.backpressure.room import divided
from steadyflow.backpressure.rules import (
    Adaptive,
    DropByPriority,
    DropOldest,
    Grow,
    NativeRule,
    Rule,
    Sample,
    Spill,
    Throttle,
    Wait,
)
from steadyflow.backpressure.rules.spill import BLOCK_OVERHEAD_BYTES
from steadyflow.errors import ConfigurationError, CycleRefused, InsufficientMemory, LimitExceeded, concerning
from steadyflow.formats import AnyFormat, ArrayFormat, AudioFormat, Format, class_path, format_to_wire
from steadyflow.module import (
    Module,
    Source,
    aligned_inputs,
    input_ports,
    is_asynchronous,
    is_device_driven,
    output_ports,
)
from steadyflow.pipeline import Pipeline, buffer_bytes
from steadyflow.platform.here import known_capabilities
from steadyflow.realtime import Realtime, together
from steadyflow.runtime.aligned_links import stopped_inputs
from steadyflow.runtime.arguments import encode_arguments, parameter_names
from steadyflow.runtime.dependencies import setup_order
from steadyflow.runtime.graph import find_cycle, strongly_connected, upstream_of
from steadyflow.runtime.news import POOL_BYTES, RING_BYTES, create_news
from steadyflow.runtime.placed import Placed, Placement
from steadyflow.runtime.scheduling import known_refusals
from steadyflow.runtime.wiring import (
    LaneWiring,
    ModuleWiring,
    NewsWiring,
    PipelineWiring,
    Place,
    SharedRoom,
    WorkerWiring,
)

_COORDINATOR_PROCESS: Final = 0
_INPUT_BITS: Final = 62


class WorkerPlan(NamedTuple):
    """A worker and what it will run, in topological order; `replica` says which one of its module, from 0."""

    name: str
    placement: Placement
    realtime: Realtime | None
    modules: list[Placed]
    replica: int = 0


class SegmentPlan:
    """Counts out a segment before it is allocated, each part on a cache line of its own."""

    def __init__(self) -> None:
        self.bytes: int = SEGMENT_HEADER_BYTES
        self.holes: list[tuple[int, int]] = []
        """Parts whose memory comes when it is needed: offset and bytes."""

    def reserve(self, count: int) -> int:
        """Return the offset of the next `count` bytes."""
        offset = self.bytes
        self.bytes += (count + 63) // 64 * 64
        return offset

    def pool(self, buffers: Buffers) -> int:
        """Return the offset of some buffers."""
        offset = self.reserve(pool_bytes(buffers.total, buffers.bytes))
        if buffers.usable < buffers.total:
            self.holes.append(buffers_range(offset, buffers.total, buffers.bytes, buffers.usable))
        return offset

    def bell(self) -> int:
        """Return the offset of a bell."""
        return self.reserve(BELL_BYTES)


class Buffers(NamedTuple):
    """
    The buffers of an output.

    Args:
        total: How many there are.
        bytes: Of each.
        usable: Of how many the memory is there from the start.
    """

    total: int
    bytes: int
    usable: int


class RingShape(NamedTuple):
    """
    How large a ring is.

    Args:
        buffer_size: How many blocks may wait.
        consumers: How many compete for them.
        staged: How many may be kept back.
        lent: How many more may wait where other inputs of the same consumer leave room.
        growth: How many more may wait when it has grown.
        views: Of large blocks, how many views each consumer may keep.
    """

    buffer_size: int
    consumers: int = 1
    staged: int = 0
    views: int = 0
    lent: int = 0
    growth: int = 0

    @property
    def slots(self) -> int:
        """The blocks that wait, those that are kept back, one that each consumer has claimed, and the one being written."""
        return self.buffer_size + self.growth + self.lent + self.staged + self.consumers + 1

    @classmethod
    def of(cls, pipeline: Pipeline, consumers: int, lent: int = 0) -> RingShape:
        """Return the shape of a pipeline's only ring."""
        config = pipeline.config
        views = config.buffer_size if pipeline.kept_views is None else pipeline.kept_views
        return cls(config.buffer_size, consumers, staged_blocks(config), views, lent, growth_of(pipeline))


def growth_of(pipeline: Pipeline) -> int:
    """Return how many more blocks may wait in a pipeline than it begins with."""
    rule = pipeline.rule
    return max(rule.max_blocks - pipeline.config.buffer_size, 0) if isinstance(rule, Grow) else 0


def buffers_for(rings: Sequence[RingShape], fmt: Format) -> Buffers:
    """Return the buffers that a port needs, and of how many the memory is there from the start."""
    count = buffers_of(rings, fmt)
    return Buffers(count, buffer_bytes(fmt), count - sum(ring.growth for ring in rings))


def buffers_of(rings: Iterable[RingShape], fmt: Format) -> int:
    """
    Return how many buffers a port needs so that it can never run out.

    Each slot of each ring may hold another block, and one buffer is being written. Of arrays, each consumer may keep
    views of large blocks, and one buffer may be on loan.
    """
    arrays = isinstance(fmt, (AudioFormat, ArrayFormat))
    views = has_views(fmt)
    return 1 + arrays + sum(ring.slots + (ring.consumers * ring.views if views else 0) for ring in rings)


def has_views(fmt: Format) -> bool:
    """Tell whether consumers are given views of blocks of this format; small ones are copied."""
    return isinstance(fmt, (AudioFormat, ArrayFormat)) and fmt.max_payload_bytes > PRIVATE_COPY_BYTES


# --- planning -----------------------------------------------------------------------------------------------------------


def edges_between(modules: Mapping[str, Placed], pipelines: Iterable[Pipeline]) -> list[tuple[str, str]]:
    """Return the links between modules; open ends are no part of the graph."""
    return [
        (pipeline.source[0], pipeline.target[0])
        for pipeline in pipelines
        if pipeline.source[0] in modules and pipeline.target[0] in modules
    ]


def topological(modules: Mapping[str, Placed], pipelines: Iterable[Pipeline]) -> list[list[str]]:
    """Return the modules upstream first; those of one loop together."""
    return strongly_connected(modules, edges_between(modules, pipelines))


def default_rules(modules: Mapping[str, Placed], pipelines: Sequence[Pipeline]) -> None:
    """
    Give each pipeline without a rule its default: `DropOldest` below a live source, which cannot wait, `Wait` elsewhere.

    What ordered replicas send always waits: a block before its turn is not too many. What is, is dropped before them.

    Raises:
        CycleRefused: See `check_cycles`.
    """
    rules = chosen_rules(modules, pipelines)
    check_rules(modules, pipelines, rules)
    check_device_rules(modules, pipelines, rules)
    check_cycles(modules, pipelines, rules)
    for pipeline in pipelines:
        pipeline.live = rules[pipeline.id].live
        if pipeline.rule is None:
            pipeline.set_rule(rules[pipeline.id].rule)


def check_rules(modules: Mapping[str, Placed], pipelines: Iterable[Pipeline], rules: Mapping[str, ChosenRule]) -> None:
    """
    Refuse rules that cannot be carried out where they are.

    Raises:
        ConfigurationError: A live source would have to be slowed down; or a module has no levels of quality.
    """
    for pipeline in pipelines:
        with concerning(pipeline=pipeline.id):
            target = modules.get(pipeline.target[0])
            levels = () if target is None or pipeline.target_open else target.module.quality_levels
            check_rule(pipeline, rules[pipeline.id], levels)


def check_rule(pipeline: Pipeline, chosen: ChosenRule, quality_levels: Sequence[str]) -> None:
    """
    Refuse a rule that cannot be carried out where it is.

    Raises:
        ConfigurationError: A live source would have to be slowed down; the module has no levels of quality; or a limit is smaller than what it
            limits.
    """
    rule = chosen.rule
    if isinstance(rule, Throttle) and chosen.live:
        raise ConfigurationError(
            f"{pipeline.id}: expected no live source above a pipeline that slows its sources down, because a live one waits for nobody; got "
            f"{rule!r}. Use DropOldest(), Sample() or Adaptive()."
        )
    if isinstance(rule, Adaptive) and rule.lower_quality and not quality_levels:
        raise ConfigurationError(
            f"{pipeline.id}: expected a module with quality_levels, because its rule is {rule!r}; {pipeline.target[0]!r} has none. Declare "
            f"them and define set_quality(self, level), or leave lower_quality out."
        )
    if isinstance(rule, Grow):
        config, fmt = pipeline.config, pipeline.format
        if rule.max_blocks < config.buffer_size:
            raise ConfigurationError(
                f"{pipeline.id}: expected max_blocks of at least buffer_size={config.buffer_size}, with which it begins, got {rule!r}; "
                f"raise it, or begin with less."
            )
        if fmt is not None and rule.max_bytes is not None and rule.max_bytes < fmt.max_payload_bytes:
            raise ConfigurationError(
                f"{pipeline.id}: expected max_bytes of at least one block, which may have {fmt.max_payload_bytes} bytes; got {rule!r}."
            )
        if fmt is not None and rule.max_ms is not None:
            if not isinstance(fmt, AudioFormat):
                raise ConfigurationError(
                    f"{pipeline.id}: expected audio where a limit is in ms; {fmt} has no duration, and the rule is {rule!r}. Use max_bytes or "
                    f"max_blocks."
                )
            longest_ms = 1e3 * fmt.max_block_frames / fmt.sample_rate_hz if fmt.sample_rate_hz else 0.0
            if rule.max_ms < longest_ms:
                raise ConfigurationError(
                    f"{pipeline.id}: expected max_ms of at least one block, which may last {longest_ms:g} ms; got {rule!r}."
                )
    if isinstance(rule, Spill) and pipeline.format is not None:
        least = pipeline.format.max_payload_bytes + BLOCK_OVERHEAD_BYTES
        if rule.max_bytes < least:
            raise ConfigurationError(
                f"{pipeline.id}: expected max_bytes of at least one block, which takes up to {least} bytes on disk; got {rule!r}."
            )
    if isinstance(rule, Adaptive) and rule.drain_ms is not None and pipeline.config.max_latency_ms is not None:
        if rule.drain_ms > pipeline.config.max_latency_ms:
            raise ConfigurationError(
                f"{pipeline.id}: expected drain_ms of at most max_latency_ms={pipeline.config.max_latency_ms:g}, within which a block has to "
                f"come through; got {rule!r}. Leave it out, for half of that."
            )


def holds_with_room(rule: Rule | None) -> bool:
    """Tell whether a rule decides of blocks that there is room for, too, so that a pipeline without room, a mere call, cannot have it."""
    return isinstance(rule, (Sample, Throttle))


def check_device_rules(
    modules: Mapping[str, Placed], pipelines: Sequence[Pipeline], rules: Mapping[str, ChosenRule]
) -> None:
    """
    Refuse what a device's callback cannot do: wait, tell somebody that it failed, or mix.

    Raises:
        ConfigurationError: A pipeline that a device feeds waits or fails when it is full; or several lead into one device.
    """
    for pipeline in pipelines:
        source = pipeline.source[0]
        if source in modules and is_device_driven(modules[source].module):
            chosen = rules[pipeline.id]
            if chosen.native.waits or not chosen.native.loses:
                with concerning(pipeline=pipeline.id):
                    raise ConfigurationError(
                        f"{pipeline.id}: expected a rule that neither waits nor fails, because a device sends into this pipeline "
                        f"and waits for nobody; got {chosen.rule!r}. Use DropOldest(), DropNewest() or Latest()."
                    )
    fed: dict[tuple[str, str], str] = {}
    for pipeline in pipelines:
        target = pipeline.target
        if target[0] in modules and is_device_driven(modules[target[0]].module):
            other = fed.setdefault(target, pipeline.id)
            if other != pipeline.id:
                with concerning(pipeline=pipeline.id):
                    raise ConfigurationError(
                        f"{pipeline.id}: expected one pipeline into {'.'.join(target)}, because a device mixes nothing; {other} leads "
                        f"there, too. Let a module mix them."
                    )


def check_cycles(modules: Mapping[str, Placed], pipelines: Sequence[Pipeline], rules: Mapping[str, ChosenRule]) -> None:
    """
    Refuse a loop that would stop for ever once full.

    Raises:
        CycleRefused: Every pipeline of a loop waits; names the loop.
    """
    waiting = [each for each in pipelines if rules[each.id].native.waits and not rules[each.id].native.loses]
    cycle = find_cycle(edges_between(modules, waiting))
    if cycle is not None:
        loop = " -> ".join([cycle[0][0], *(target for _, target in cycle)])
        first = next(each for each in waiting if (each.source[0], each.target[0]) == cycle[0])
        with concerning(pipeline=first.id):
            raise CycleRefused(
                f"the loop {loop} waits everywhere, so it would stand still once its pipelines are full. Give one of its "
                f"pipelines a rule that does not wait, such as DropOldest()."
            )


class ChosenRule(NamedTuple):
    """
    What a pipeline does that is full.

    Args:
        rule: Its rule.
        live: Whether a source above it is live, so that it cannot wait.
    """

    rule: Rule
    live: bool

    @property
    def native(self) -> NativeRule:
        """What the data plane does at first."""
        return self.rule.to_native(self.live)


def chosen_rules(modules: Mapping[str, Placed], pipelines: Sequence[Pipeline]) -> dict[str, ChosenRule]:
    """Return the rule of each pipeline by id: its own or, without one, the default that `default_rules` describes."""
    upstream = upstream_of(edges_between(modules, pipelines))
    rules: dict[str, ChosenRule] = {}
    for pipeline in pipelines:
        sources = {pipeline.source[0], *upstream.get(pipeline.source[0], ())}
        live = any(_is_live(modules[name].module) for name in sources if name in modules)
        live = live and not (pipeline.source[0] in modules and modules[pipeline.source[0]].restores_order)
        rules[pipeline.id] = ChosenRule(pipeline.rule or (DropOldest() if live else Wait()), live)
    return rules


def check_audio_limits(pipelines: Sequence[Pipeline], formats: Mapping[str, Format | None]) -> None:
    """
    Check limits in ms against what flows, as far as that is known.

    Raises:
        ConfigurationError: See `check_audio_config`.
    """
    for pipeline in pipelines:
        fmt = formats[pipeline.id]
        if fmt is not None and fmt.is_resolved and not isinstance(fmt, AnyFormat):
            with concerning(pipeline=pipeline.id):
                check_audio_config(pipeline.id, pipeline.config, fmt)


def _is_live(module: Module) -> bool:
    return isinstance(module, Source) and module.live


def _is_paced(module: Module) -> bool:
    return isinstance(module, Source) and module.paced


def timed_pipelines(modules: Mapping[str, Placed], pipelines: Sequence[Pipeline]) -> set[str]:
    """Return the ids of the pipelines on which a block can be late: those below a paced source or the application."""
    upstream = upstream_of(edges_between(modules, pipelines))
    fed_by_application = {pipeline.target[0] for pipeline in pipelines if pipeline.source_open}
    timed = set()
    for pipeline in pipelines:
        sources = {pipeline.source[0], *upstream.get(pipeline.source[0], ())}
        paced = any(_is_paced(modules[name].module) for name in sources if name in modules)
        if paced or pipeline.source_open or sources & fed_by_application:
            timed.add(pipeline.id)
    return timed


def plan_workers(modules: Mapping[str, Placed], order: Sequence[Sequence[str]]) -> list[WorkerPlan]:
    """
    Give every module a worker.

    Raises:
        ConfigurationError: One worker is asked to be a thread and a process, or to run plain and asynchronous modules.
        LimitExceeded: More process workers than shared memory has columns for.
    """
    plans: dict[str, WorkerPlan] = {}
    for name in (name for group in order for name in group):
        placed = modules[name]
        for replica, worker in enumerate(placed.workers):
            plan = plans.setdefault(worker, WorkerPlan(worker, placed.placement, placed.realtime, [], replica))
            with concerning(module=name):
                _check_placement(plan, placed)
                _check_same_kind(worker, [*plan.modules, placed])
            plan.modules.append(placed)
            plans[worker] = plan._replace(realtime=together(plan.realtime, placed.realtime))
    processes = sum(plan.placement == "process" for plan in plans.values())
    if processes >= MAX_PROCESSES:
        raise LimitExceeded(_too_many_processes(str(processes)))
    return list(plans.values())


def check_placements(modules: Mapping[str, Placed]) -> None:
    """
    Check that each module may run where it was put: its device may have been replaced since it was added.

    Raises:
        ConfigurationError: One may not.
    """
    for placed in modules.values():
        allowed = getattr(placed.module, "placements", (placed.placement,))
        if placed.placement not in allowed:
            with concerning(module=placed.name):
                raise ConfigurationError(
                    f"module {placed.name!r}: expected placement {' or '.join(map(repr, allowed))} for {placed.module!r}, got "
                    f"{placed.placement!r}. Give the device to the constructor, or let the flow freewheel."
                )


def _check_placement(plan: WorkerPlan, placed: Placed) -> None:
    if plan.placement != placed.placement:
        raise ConfigurationError(
            f"worker {plan.name!r}: expected one placement; module {plan.modules[0].name!r} wants a "
            f"{plan.placement}, module {placed.name!r} a {placed.placement}. Give one of them another worker."
        )


def _check_same_kind(worker: str, modules: Sequence[Placed]) -> None:
    """Refuse plain modules beside asynchronous ones: while one of them works, the event loop would stand still."""
    kinds = {is_asynchronous(placed.module): placed.name for placed in modules}
    if len(kinds) > 1:
        raise ConfigurationError(
            f"worker {worker!r}: expected only asynchronous modules or none; module {kinds[True]!r} is asynchronous, "
            f"module {kinds[False]!r} is not, and would stop the event loop while it works. Give one of them another worker."
        )


# --- shared memory ------------------------------------------------------------------------------------------------------


class Running(NamedTuple):
    """
    What runs already, where something is added to a flow.

    Args:
        pipelines: The ids of those that stay as they are.
        bells: Where each worker sleeps.
        open_ends: Where the application sleeps at its end of those that are laid out anew, by id.
        bits: By which bit of their bells the consumers know those that are laid out anew, by id.
        processes: The process numbers that are taken.
        news_bell: Where the coordinator sleeps that reads the events of processes; None: a new one.
        alarm: Where flow control sleeps; None: a new one.
        segments: The number of the next segment.
    """

    pipelines: Collection[str] = ()
    bells: Mapping[str, Place] = MappingProxyType({})
    open_ends: Mapping[str, Place] = MappingProxyType({})
    bits: Mapping[str, int] = MappingProxyType({})
    processes: Collection[int] = ()
    news_bell: Place | None = None
    alarm: Place | None = None
    segments: int = 0


NOTHING_RUNS: Final = Running()


class Layout:
    """
    The memory of a flow, or of what is added to it: one new segment, and those that open sources got when they were registered.

    Args:
        modules: All modules.
        pipelines: All pipelines with a module at one end or both, formats and rules resolved.
        workers: The plan of those that do not run yet.
        order: The modules upstream first.
        opened: Where pipelines with an open source already are: id -> (segment, ring, pool, producer bell) offsets.
        running: What runs already.

    Raises:
        InsufficientMemory: The system has too little; says how much is needed.
        LimitExceeded: More pipelines on one output than a block has branches for.
        UnknownName: A module depends on one that there is not; offers the nearest.
        CycleRefused: Modules depend on each other; prints the cycle.
    """

    def __init__(
        self,
        modules: Mapping[str, Placed],
        pipelines: Sequence[Pipeline],
        workers: Sequence[WorkerPlan],
        order: Sequence[Sequence[str]],
        opened: Mapping[str, tuple[Segment, int, int, int]],
        running: Running = NOTHING_RUNS,
    ) -> None:
        plan = SegmentPlan()
        linked = pipelines
        pipelines = [pipeline for pipeline in linked if pipeline.id not in running.pipelines]
        kept = {*running.pipelines, *running.open_ends}
        self._new = pipelines
        self._opened = {name: place for name, place in opened.items() if name not in kept}
        self._running = running
        self._number = running.segments
        self._added = {placed.name for worker in workers for placed in worker.modules}
        self._needed = {needed for placed in modules.values() for needed in placed.depends_on}
        self._setup = setup_order(modules, [name for group in order for name in group])
        self.orders = {name: number for number, group in enumerate(order, 1) for name in group}
        self._timed = timed_pipelines(modules, linked)
        self._workers_of = {name: placed.workers for name, placed in modules.items()}
        self._replicas = {name: placed.replicas for name, placed in modules.items()}
        self._asynchronous = {name for name, placed in modules.items() if is_asynchronous(placed.module)}
        self._device_driven = {
            name for name, placed in modules.items() if is_device_driven(placed.module) and name in self._added
        }
        self._aligned = {
            (name, port)
            for name, placed in modules.items()
            if (aligned := aligned_inputs(placed.module)) is not None
            for port in aligned.names
        }
        self.stops = stopped_inputs(
            modules, linked, {name: workers[0] for name, workers in self._workers_of.items()}, self.orders
        )
        self._loops = {name: index for index, group in enumerate(order) for name in group if len(group) > 1}
        bells = {worker.name: plan.bell() for worker in workers}
        self.target_bells = {
            pipeline.id: plan.bell()
            for pipeline in pipelines
            if pipeline.target_open and pipeline.id not in running.open_ends
        }
        # Nobody sleeps there: a device looks by itself, and its worker need not be woken for each block.
        self._device_bells = {name: plan.bell() for name in sorted(self._device_driven)}
        rings = {
            pipeline.id: [plan.reserve(ring_bytes(*self._slots(pipeline, ring))) for ring in self._rings(pipeline)]
            for pipeline in pipelines
            if pipeline.id not in self._opened
        }
        pools = {port: [plan.pool(buffers) for buffers in sizes] for port, sizes in self._pool_sizes(pipelines).items()}
        self.accounts = {
            name: Place(self._number, plan.reserve(DEVICE_ACCOUNT_BYTES)) for name in sorted(self._device_driven)
        }
        self.news_bell = running.news_bell or Place(self._number, plan.bell())
        self.alarm = running.alarm or Place(self._number, plan.bell())
        self.news = {
            worker.name: NewsWiring(
                ring=Place(self._number, plan.reserve(RING_BYTES)),
                pool=Place(self._number, plan.reserve(POOL_BYTES)),
                bell=self.news_bell,
                bit=min(number, _INPUT_BITS - 1) if running.news_bell is None else _INPUT_BITS - 1,
            )
            for number, worker in enumerate(worker for worker in workers if worker.placement == "process")
        }
        _check_shared_memory(plan.bytes - sum(hole for _, hole in plan.holes))
        self.segments = dict(
            enumerate(
                [Segment.create(plan.bytes, plan.holes), *(place[0] for place in self._opened.values())], self._number
            )
        )
        for offset in (
            *bells.values(),
            *self.target_bells.values(),
            *self._device_bells.values(),
            *([self.news_bell.offset] if running.news_bell is None else []),
            *([self.alarm.offset] if running.alarm is None else []),
        ):
            self.segment.create_bell(offset)
        for news in self.news.values():
            create_news(self.segment, news.ring.offset, news.pool.offset)
        self._create(pipelines, rings, pools)
        self.bells = {**running.bells, **{name: Place(self._number, offset) for name, offset in bells.items()}}
        bits = self._consumer_bits(pipelines)
        lanes = {pipeline.id: self._lanes(pipeline, rings, pools) for pipeline in pipelines}
        orders = {
            pipeline.target[0]: lanes[pipeline.id][0].ring
            for pipeline in pipelines
            if pipeline.target[0] in modules and modules[pipeline.target[0]].ordered
        }
        self.wirings = {
            pipeline.id: self._wire(pipeline, lanes, bits.get(pipeline.id, 0), orders.get(pipeline.source[0]))
            for pipeline in pipelines
        }

    @property
    def segment(self) -> Segment:
        """Its own segment; the others belong to pipelines that were open before."""
        return self.segments[self._number]

    @property
    def numbers(self) -> range:
        """The numbers of its segments."""
        return range(self._number, self._number + 1 + len(self._opened))

    def release(self) -> None:
        """Let go of the segments. Idempotent: a thread may close the flow while the program ends."""
        self.segments = {}
        self._opened = {}

    def worker_wirings(self, workers: Sequence[WorkerPlan], awaited: Mapping[str, Iterable[str]]) -> list[WorkerWiring]:
        """Return what each worker has to build; `awaited` says which others each waits for."""
        wirings = []
        free = iter(number for number in range(1, MAX_PROCESSES) if number not in self._running.processes)
        for worker in workers:
            names = {placed.name for placed in worker.modules}
            wirings.append(
                WorkerWiring(
                    name=worker.name,
                    process=_next_process(free) if worker.placement == "process" else _COORDINATOR_PROCESS,
                    bell=self.bells[worker.name],
                    replica=worker.replica,
                    modules=tuple(self._module_wiring(placed, worker.placement) for placed in worker.modules),
                    setup=tuple(name for name in self._setup if name in names),
                    pipelines=tuple(
                        wiring
                        for wiring in self.wirings.values()
                        if wiring.source[0] in names or wiring.target[0] in names
                    ),
                    realtime=worker.realtime,
                    refusals={} if worker.realtime is None else known_refusals(known_capabilities()),
                    restartable=worker.placement == "process" and names <= self._device_driven,
                    news=self.news.get(worker.name),
                    dependents=tuple(other for other, needed in awaited.items() if worker.name in needed),
                )
            )
        return wirings

    def _module_wiring(self, placed: Placed, placement: Placement) -> ModuleWiring:
        ports = input_ports(placed.module)
        connected = {
            wiring.target[1]: format_to_wire(ports[wiring.target[1]].format)
            for wiring in self.wirings.values()
            if wiring.target[0] == placed.name
        }
        outputs = {
            name: format_to_wire(port.format)
            for name, port in output_ports(placed.module).items()
            if port.format.is_resolved and not isinstance(port.format, AnyFormat)
        }
        with concerning(module=placed.name):
            cls, arguments = ("", b"") if placement == "thread" else travel(placed)
        return ModuleWiring(
            name=placed.name,
            cls=cls,
            arguments=arguments,
            inputs=connected,
            outputs=outputs,
            order=self.orders[placed.name],
            stops=self.stops.get(placed.name, {}),
            account=self.accounts.get(placed.name),
            is_needed=placed.name in self._needed,
        )

    def _fused(self, pipeline: Pipeline) -> bool:
        """
        Tell whether both ends are in one worker, so that a block is handed over by a call.

        Not in a loop, where the call would come back to itself; not into an aligned input, which may be held back, so that
        something has to fill; not in an event loop, where a call cannot wait; not from a device, whose thread calls no Python; not
        where blocks may be kept back or dropped on the way; and not by a rule that holds whether there is room or not.
        """
        source, target = pipeline.source[0], pipeline.target[0]
        if pipeline.source_open or pipeline.target_open or self._workers_of[source] != self._workers_of[target]:
            return False
        if not {source, target} <= self._added:  # a worker that runs makes no call where there was none
            return False
        if regulates(pipeline.config) or holds_with_room(pipeline.rule):
            return False
        if source in self._asynchronous or pipeline.target in self._aligned:
            return False
        if source in self._device_driven or target in self._device_driven:
            return False
        return not self._in_loop(pipeline)

    def _in_loop(self, pipeline: Pipeline) -> bool:
        source, target = pipeline.source[0], pipeline.target[0]
        return source == target or (source in self._loops and self._loops[source] == self._loops.get(target))

    def _rings(self, pipeline: Pipeline) -> list[RingShape]:
        """Return the lanes of a pipeline: one for each replica of its source."""
        lanes = self._replicas.get(pipeline.source[0], 1)
        consumers = self._replicas.get(pipeline.target[0], 1)
        if lanes == 1:
            lent = sum(other.buffer_size for other in self._sharing(pipeline))
            return [RingShape.of(pipeline, consumers, lent)]
        sizes = zip(divided(pipeline.config.buffer_size, lanes), divided(growth_of(pipeline), lanes), strict=True)
        return [RingShape(size, consumers, views=size, growth=growth) for size, growth in sizes]

    def _sharing(self, pipeline: Pipeline) -> list[Pipeline]:
        """Return the other pipelines that share the room of their consumer with this one."""
        if not self._shares(pipeline):
            return []
        return [
            other
            for other in self._new
            if other is not pipeline and other.target[0] == pipeline.target[0] and self._shares(other)
        ]

    def _shares(self, pipeline: Pipeline) -> bool:
        alone = self._replicas.get(pipeline.source[0], 1) == 1 and not pipeline.target_open
        return isinstance(pipeline.rule, DropByPriority) and alone and not self._fused(pipeline)

    def _slots(self, pipeline: Pipeline, ring: RingShape) -> tuple[int, int]:
        """Return slots and consumers, as the data plane counts them: a fused pipeline has no slots."""
        return (0 if self._fused(pipeline) else ring.slots), ring.consumers

    def _pool_sizes(self, pipelines: Sequence[Pipeline]) -> dict[tuple[str, str], list[Buffers]]:
        """Return, for each output, the buffers of each of its replicas."""
        ports: dict[tuple[str, str], list[Pipeline]] = {}
        for pipeline in pipelines:
            if not self._fused(pipeline) and pipeline.id not in self._opened:
                ports.setdefault(pipeline.source, []).append(pipeline)
        sizes = {}
        for port, branches in ports.items():
            if len(branches) > MAX_BRANCHES:
                with concerning(pipeline=branches[MAX_BRANCHES].id):
                    raise LimitExceeded(
                        f"{'.'.join(port)}: expected at most {MAX_BRANCHES} pipelines from one output, got "
                        f"{len(branches)}. Let a module pass the blocks on to some of them."
                    )
            fmt = branches[0].format
            assert fmt is not None
            lanes = zip(*map(self._rings, branches), strict=True)
            sizes[port] = [buffers_for(rings, fmt) for rings in lanes]
        return sizes

    def _create(
        self,
        pipelines: Sequence[Pipeline],
        rings: Mapping[str, Sequence[int]],
        pools: Mapping[tuple[str, str], Sequence[int]],
    ) -> None:
        for port, sizes in self._pool_sizes(pipelines).items():
            for offset, buffers in zip(pools[port], sizes, strict=True):
                create_pool(self.segment, offset, *buffers)
        branches: dict[tuple[str, str], int] = {}
        for pipeline in pipelines:
            if pipeline.id in self._opened:
                continue
            fused = self._fused(pipeline)
            branch = 0 if fused else branches.get(pipeline.source, 0)
            if not fused:
                branches[pipeline.source] = branch + 1
            assert pipeline.rule is not None
            for offset, ring in zip(rings[pipeline.id], self._rings(pipeline), strict=True):
                slots, consumers = self._slots(pipeline, ring)
                create_ring(
                    self.segment,
                    offset,
                    ring.buffer_size,
                    slots,
                    consumers,
                    branch,
                    *pipeline.rule.to_native(pipeline.live),
                    ring.views,
                )
            assert pipeline.format is not None
            # Now, and not when the pipeline is told of them: blocks may come there before that.
            pipeline.apply_rule(
                [Ring(self.segment, offset, pipeline.id) for offset in rings[pipeline.id]], pipeline.format
            )

    def _consumer_bits(self, pipelines: Sequence[Pipeline]) -> dict[str, int]:
        """
        Number the ring inputs of each worker, the most urgent first, as the worker will add them.

        Lanes share a number, and all replicas of a module have the same inputs.
        """
        bits: dict[str, int] = {}
        inputs: dict[tuple[str, ...], list[Pipeline]] = {}
        for pipeline in pipelines:
            if not pipeline.target_open and not self._fused(pipeline):
                inputs.setdefault(self._workers_of[pipeline.target[0]], []).append(pipeline)
        for workers, ends in inputs.items():
            ends.sort(key=lambda pipeline: pipeline.config.priority.rank)
            for bit, pipeline in enumerate(ends):
                # What comes to a worker that runs shares the last one.
                runs = not self._running.bells.keys().isdisjoint(workers)
                last = _INPUT_BITS - 1
                bits[pipeline.id] = self._running.bits.get(pipeline.id, last) if runs else min(bit, last)
        return bits

    def _lanes(
        self,
        pipeline: Pipeline,
        rings: Mapping[str, Sequence[int]],
        pools: Mapping[tuple[str, str], Sequence[int]],
    ) -> tuple[LaneWiring, ...]:
        if pipeline.id in self._opened:
            number = self._number + 1 + list(self._opened).index(pipeline.id)
            _, *offsets = self._opened[pipeline.id]
            ring, pool, bell = (Place(number, offset) for offset in offsets)
            return (LaneWiring(ring=ring, pool=pool, producer_bell=bell),)
        if pipeline.source_open:
            bells = [self._running.open_ends[pipeline.id]]
        else:
            bells = [self.bells[worker] for worker in self._workers_of[pipeline.source[0]]]
        shapes = self._rings(pipeline)
        return tuple(
            LaneWiring(
                ring=Place(self._number, rings[pipeline.id][lane]),
                pool=None if self._fused(pipeline) else Place(self._number, pools[pipeline.source][lane]),
                producer_bell=bell,
                growth=shapes[lane].growth,
            )
            for lane, bell in enumerate(bells)
        )

    def _wire(
        self, pipeline: Pipeline, lanes: Mapping[str, tuple[LaneWiring, ...]], bit: int, order: Place | None
    ) -> PipelineWiring:
        if pipeline.target_open:
            known = self._running.open_ends.get(pipeline.id)
            bells = [known or Place(self._number, self.target_bells[pipeline.id])]
        elif pipeline.target[0] in self._device_driven:
            bells = [Place(self._number, self._device_bells[pipeline.target[0]])]
        else:
            bells = [self.bells[worker] for worker in self._workers_of[pipeline.target[0]]]
        assert pipeline.format is not None
        limit_ns = max_latency_ns(pipeline) if pipeline.id in self._timed else 0
        return PipelineWiring(
            id=pipeline.id,
            source=pipeline.source,
            target=pipeline.target,
            format=format_to_wire(pipeline.format),
            target_format=None if pipeline.conversion is None else format_to_wire(pipeline.conversion.target),
            converters=()
            if pipeline.conversion is None
            else tuple(step.converter for step in pipeline.conversion.steps),
            conversion=pipeline.config.conversion,
            validation=pipeline.config.validation,
            lanes=lanes[pipeline.id],
            consumer_bells=() if self._fused(pipeline) else tuple(bells),
            consumer_bit=bit,
            order=order,
            rank=pipeline.config.priority.rank,
            max_latency_ns=limit_ns,
            in_loop=self._in_loop(pipeline),
            intake=intake_rules(pipeline.config, pipeline.format, limit_ns),
            cycles=cycle_rules(pipeline.config, pipeline.format, limit_ns) if pipeline.id in self._timed else None,
            sharing=tuple(
                SharedRoom(ring=ring, rank=other.config.priority.rank)
                for other in self._sharing(pipeline)
                for ring in (lane.ring for lane in lanes[other.id])
            ),
            alarm=self.alarm,
        )


def _check_shared_memory(needed_bytes: int) -> None:
    """Refuse at once where it is known that there is none, instead of by what the system says to the first try."""
    known = known_capabilities()
    if known is not None and not known.shared_memory.allowed:
        raise InsufficientMemory(
            f"needed {needed_bytes} bytes of shared memory, but this system gives none: {known.shared_memory.reason}"
        )


def _next_process(free: Iterator[int]) -> int:
    number = next(free, None)
    if number is None:
        raise LimitExceeded(_too_many_processes("all of them already"))
    return number


def _too_many_processes(got: str) -> str:
    return (
        f"a flow may have {MAX_PROCESSES - 1} process workers; this one has {got}. Let modules share a "
        f"worker, add(..., worker='name'), or have fewer replicas."
    )


def max_latency_ns(pipeline: Pipeline) -> int:
    """Return the limit of a pipeline in ns; 0: none."""
    limit = pipeline.config.max_latency_ms
    return 0 if limit is None else max(1, round(limit * 1e6))


def travel(placed: Placed) -> tuple[str, bytes]:
    """
    Return class path and encoded arguments of a module that goes to a process.

    Raises:
        ArgumentRefused: An argument cannot travel; names module and argument.
        ConfigurationError: The class cannot be found by its name.
    """
    args, kwargs = placed.module._arguments
    cls = type(placed.module)
    owner = f"module {placed.name!r} ({cls.__name__}) with placement='process'"
    return class_path(cls), encode_arguments(args, kwargs, owner=owner, names=parameter_names(cls))
