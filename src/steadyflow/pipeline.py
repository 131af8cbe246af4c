"""A pipeline as its users see it: the bounded, monitored, one-way link between two ports or open ends."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Never

import msgspec

from steadyflow._native import (
    ROOM_BIT,
    AbortFlag,
    Inbox,
    Loan,
    OutputCore,
    Ring,
    Segment,
    Target,
    monotonic_ns,
    ring_bell,
)
from steadyflow.audio_config import CycleRules, IntakeRules, RoomLimits, room_limits, shared_limits
from steadyflow.backpressure.room import divided
from steadyflow.backpressure.rules import Rule
from steadyflow.backpressure.rules.carried_out import NativeRule
from steadyflow.clock import Clock, SystemClock
from steadyflow.codec import codec_for
from steadyflow.config import PipelineConfig
from steadyflow.conversion import ConversionPlan, StepReport
from steadyflow.data import METADATA_MAX_BYTES, Block
from steadyflow.errors import EndOfStream, FlowNotRunning, PipelineClosed, ReceiveTimeout, StateError
from steadyflow.formats import AudioFormat, Format
from steadyflow.metrics.earlier import Counted, EarlierRings
from steadyflow.metrics.flow_metrics import FlowMetrics, read_flow_metrics
from steadyflow.metrics.pressure import Pressure
from steadyflow.payload import Preparer, native_spec

if TYPE_CHECKING:
    from steadyflow.awaiting import Receiver, Sender
    from steadyflow.converting_end import ConvertingEnd
    from steadyflow.spooling import SpoolCounts

DROPPED_FAILED: Final = 4
DROPPED_STOPPED: Final = 5
_OWN_PROCESS: Final = 0
_ONLY_CONSUMER: Final = 0


class Pipeline:
    """
    One link of a flow; made by ``flow.connect`` or ``flow.register_pipeline``, never directly.

    Args:
        id: Its id, ``"take.out->pitch.audio"``.
        source: Module and port, or (name, "") of an open end.
        target: Module and port, or (name, "") of an open end.
        config: Its settings.
        source_open: Whether the application sends.
        target_open: Whether the application receives.
        announce_pause: Called with the id and True or False when the pipeline was paused or resumed; must not block.
    """

    send: Callable[[object], bool]
    """
    Send an array, a `FlowData`, a `Block`, or what the format encodes; only on a pipeline with an open source.

    Wait-free but for a waiting rule on a full pipeline. Any thread; callers are serialised. Returns True if the block
    was queued, False if the rule dropped it. Raises `FormatMismatch`, `BlockTooLarge` (nothing was queued),
    `PipelineFull`, `SendTimeout` (by the rule), `PipelineClosed`.

    While it waits in the thread of an event loop, the loop stands still; where a task of that loop is what receives, for
    ever. Await `send_async` there.
    """

    loan: Callable[..., Loan]
    """
    Lend memory to write a block into, ``with pipe.loan(frames) as samples:``; only on a pipeline with an open source.

    The array has the pipeline's format: (frames, channels) or (channels, frames) for audio, 1 to ``max_block_frames``; an
    `ArrayFormat` takes no frames. Its contents are undefined at first. Lending is wait-free. The end of the with block sends
    as `send` does, without a copy, and empties the array; after an exception nothing is sent. If more than one name refers
    to the array or to a part of it by then, the block is copied (``loan_copies`` in the metrics), and the array stays valid.
    ``queued`` of the loan tells what `send` would have returned. Raises `FormatMismatch`, `BlockTooLarge`, and what `send`
    raises.
    """

    receive: Callable[..., Block]
    """
    Receive the oldest block, ``receive(timeout_s=None)``; only on a pipeline with an open target.

    Waits without the interpreter lock. The block is committed before it is returned. Several threads may call; each
    block goes to one. Raises `FlowNotRunning` before the start, `ReceiveTimeout`, `EndOfStream`, `PipelineClosed`; and
    `TransformError` where the pipeline converts or checks, a block does not allow it, and it does not say to go on without it.

    While it waits in the thread of an event loop, the loop stands still; where a task of that loop is what sends, for
    ever. Await `receive_async` there.
    """

    def __init__(
        self,
        id: str,
        source: tuple[str, str],
        target: tuple[str, str],
        config: PipelineConfig,
        *,
        source_open: bool,
        target_open: bool,
        announce_pause: Callable[[str, bool], None],
    ) -> None:
        self.id = id
        self.source = source
        self.target = target
        self.config = config
        self.source_open = source_open
        self.target_open = target_open
        self.rule: Rule | None = config.backpressure_strategy
        """The rule in force; None until the flow starts, if it is left to the default."""
        self.live = False
        """Whether a source above it is live, so that it cannot wait; known when the flow starts."""
        self.room_blocks: int | None = None
        """How many blocks may wait, where that was changed; None: as configured."""
        self.spool_counts: Callable[[], SpoolCounts] | None = None
        """What says what its spool has done, where that is told with it; None: it has none."""
        self.spool_before: Callable[[], SpoolCounts] | None = None
        """What says what the spool has done whose blocks come through it; None: there is none."""
        self.growth_blocks = 0
        """How many more blocks than at first may wait at most: what its rings and buffers were made for."""
        self.watched_by: Callable[[Pipeline], Pressure | None] | None = None
        """What says what flow control knows of it; None where that does not look."""
        self.format: Format | None = None
        """What flows, resolved; None until it is known. Where the pipeline converts, what its source sends."""
        self.conversion: ConversionPlan | None = None
        """What is done with it on the consumer's side; None where the ends agree, and until it is known."""
        self.accepted: Format | None = None
        """What an open target asked for, where the pipeline may convert; None: what flows."""
        self.kept_views: int | None = None
        """How many views of large blocks each consumer may keep, where that was tuned; None: as many as may wait."""
        self.clock: Clock = SystemClock()
        """What its times are of. Set by the coordinator before it is attached."""
        self._alarm: tuple[Segment, int] | None = None  # where flow control sleeps, of an open source
        self._carried_out: NativeRule | None = None  # what the data plane does where it is full
        self._pace_ns = 0  # from one block to the next, where it is slowed down
        self._announce_pause = announce_pause
        self._switching = threading.Lock()  # pauses come from any thread, and the stop of the flow from another one
        self._pauses_at_start = False  # asked for before there is a ring
        self._changes = False  # while a module at it is being replaced
        self._no_more_pauses = ""  # why, once the flow stops
        self._closed = ""  # why, once it is
        self._rings: tuple[Ring, ...] = ()  # one, or one for each replica of its source
        self._coming: tuple[Ring, ...] = ()  # those that will take their place, once every producer sends there
        self._draining: list[
            Ring
        ] = []  # those of them that nobody sends into any more, because others took their place
        self._earlier: EarlierRings | None = None  # what those have counted that are there no more
        self._last: FlowMetrics | None = None  # the final reading, once the flow is closed
        self._opened_ns = 0
        self._ended_ns = 0
        self._output: OutputCore | None = None
        self._inbox: Inbox | None = None
        self._converting: ConvertingEnd | None = None  # before the application, where it asked for another format
        self._reports: tuple[StepReport, ...] = ()  # of what that did, once the flow is closed
        self._producer_bells: tuple[tuple[Segment, int], ...] = ()
        self._consumer_bells: tuple[tuple[Segment, int, int], ...] = ()
        self._sender: Sender | None = None  # the open ends as event loops use them
        self._receiver: Receiver | None = None
        self._waiting_for_start: set[Callable[[], None]] = set()  # what wakes the tasks that do
        self.send = self.loan = self._refuse_send
        self.receive = self._refuse_receive

    # --- made by the coordinator -----------------------------------------------------------------------------------------

    def attach(
        self,
        rings: Sequence[Ring],
        fmt: Format,
        producer_bells: Sequence[tuple[Segment, int]],
        consumer_bells: Sequence[tuple[Segment, int, int]],
        growth_blocks: int,
    ) -> None:
        """
        Tell where its rings are, and where its ends sleep; from here on it has metrics. Coordinator only.

        Args:
            rings: Its rings: one, or one for each replica of its source.
            fmt: What flows.
            producer_bells: Segment and offset, for each ring.
            consumer_bells: Segment, offset and bit, for each replica of its target; none for a fused pipeline.
            growth_blocks: How many more blocks than at first may wait at most.

        Raises:
            StateError: It was paused before, and is fused.
        """
        with self._switching:
            if self._pauses_at_start:
                if not consumer_bells:
                    raise StateError(self._fused_text())
                for ring in rings:
                    ring.pause()
            self._producer_bells = tuple(producer_bells)
            self._consumer_bells = tuple(consumer_bells)
            self.apply_rule(rings, fmt)
            self._rings = tuple(rings)
            self.growth_blocks = growth_blocks
        self.format = fmt
        self._opened_ns = self.clock.monotonic_ns()

    def apply_rule(self, rings: Sequence[Ring], fmt: Format) -> None:
        """Give rings the rule in force, which may have been switched since they were made, the limits, and the pace. Coordinator only."""
        limits = shared_limits(room_limits(self.config, self.rule, fmt), fmt, len(rings))
        for ring in rings:
            ring.set_limits(*limits)
            ring.set_pace(self._pace_ns)
            if self._carried_out is not None:
                ring.set_rule(*self._carried_out)

    def begin_change(self) -> None:
        """
        Let nobody pause it until `end_change`. Coordinator only.

        Raises:
            StateError: It is paused.
        """
        with self._switching:
            if self.paused:
                raise StateError(
                    f"{self.id}: expected no paused pipeline where something is replaced, because nothing drains there; resume it."
                )
            self._changes = True

    def end_change(self) -> None:
        """Let it be paused again. Coordinator only."""
        with self._switching:
            self._changes = False

    def expect(self, rings: Sequence[Ring]) -> None:
        """
        Count what is in rings that are to succeed these, as producers begin there one by one; none: it comes to nothing. Coordinator only.

        What is in force holds there from the first block on: the rule, the limits, the pace, and a pause.
        """
        with self._switching:
            assert self.format is not None
            for ring in self._coming if not rings else ():
                ring.resume(self.clock.monotonic_ns())  # its consumer has to pass by it, and nobody resumes it later
            self.apply_rule(rings, self.format)
            if self.paused:
                for ring in rings:
                    ring.pause()
            self._coming = tuple(rings)

    def succeed(
        self,
        rings: Sequence[Ring],
        producer_bells: Sequence[tuple[Segment, int]],
        consumer_bells: Sequence[tuple[Segment, int, int]],
        growth_blocks: int,
    ) -> tuple[Ring, ...]:
        """
        Tell where its rings are from now on, which were expected; see `attach`. Coordinator only.

        They have the room that the pipeline had at first; flow control finds what they need.

        Returns:
            Those until now, which drain; `settle` them then.
        """
        with self._switching:
            earlier = self._rings
            self._draining += self.filling
            self._rings, self._coming = (*rings, *self._rings), ()
            self.room_blocks, self.growth_blocks = None, growth_blocks
            self._producer_bells = (*producer_bells, *self._producer_bells)
            self._consumer_bells = (*consumer_bells, *self._consumer_bells)
        return earlier

    def settle(
        self,
        producer_bells: Sequence[tuple[Segment, int]],
        consumer_bells: Sequence[tuple[Segment, int, int]],
    ) -> None:
        """Forget the bells of those that are gone. Coordinator only."""
        with self._switching:
            self._producer_bells = tuple(producer_bells)
            self._consumer_bells = tuple(consumer_bells)
        self._keep_counts()

    def _keep_counts(self) -> None:
        """Keep of rings that have drained what they have counted, so that their memory can go."""
        with self._switching:
            drained = [ring for ring in self._draining if _is_drained(ring)]
            if drained:
                self._draining = [ring for ring in self._draining if ring not in drained]
                self._rings = tuple(ring for ring in self._rings if ring not in drained)
                self._earlier = EarlierRings([*drained, *filter(None, [self._earlier])])

    def set_room(self, blocks: int) -> None:
        """Let so many blocks wait, as far as there are slots; takes effect at the next send. Coordinator only."""
        self.room_blocks = blocks
        rings = self.filling
        if not rings:
            return  # it has been closed
        first = self.config.buffer_size
        at_first, grown = divided(min(blocks, first), len(rings)), divided(max(blocks - first, 0), len(rings))
        for ring, *shares in zip(rings, at_first, grown, strict=True):
            ring.set_buffer_size(max(sum(shares), 1))
        for bell in self._producer_bells:
            ring_bell(*bell, ROOM_BIT)

    def set_pace(self, pace_ns: int) -> None:
        """Let no more than one block come in so many ns; 0: as they come. Also in rings that succeed these. Coordinator only."""
        with self._switching:
            self._pace_ns = pace_ns
            for ring in self._all_rings:
                ring.set_pace(pace_ns)

    def switch_source(
        self, ring: tuple[Segment, int], pool: tuple[Segment, int], consumer: tuple[Segment, int, int]
    ) -> None:
        """Let the application send into another ring from the next block on. Coordinator only."""
        assert self._output is not None
        segment, offset, bit = consumer
        self._output.defer()
        self._output.remove(self.id)
        self._output.set_pool(*pool, self.id)
        self._output.add_ring(self.id, *ring, segment, offset, bit)
        if self._alarm is not None:
            self._output.set_alarm(self.id, *self._alarm)
        self._output.commit()

    def follow(self, lane: Lane) -> None:
        """Let the application receive what comes in another ring, after all that comes in this one. Coordinator only."""
        assert self._inbox is not None
        self._inbox.add_successor(self.id, *lane, _ONLY_CONSUMER)

    def mark_started(self, now_ns: int) -> None:
        """Start the clock of the throughput anew, unless the application has been sending. Coordinator only."""
        if not self.source_open:
            self._opened_ns = now_ns

    def forget(self, reason: str) -> None:
        """Refuse everything from now on, without a look at what was shared: in a forked child. Coordinator only."""
        self._waiting_for_start = set()  # its event loop is the parent's
        self._refuse_from_now_on(reason)
        self._last = None

    def open_source(self, output: OutputCore) -> None:
        """Let the application send. Coordinator only."""
        self._output = output
        self.send = output.send
        self.loan = output.loan

    def move_consumers(self, consumer_bells: Sequence[tuple[Segment, int, int]], alarm: tuple[Segment, int]) -> None:
        """Tell an open source where its consumers sleep, once they have workers, and flow control. Coordinator only."""
        assert self._output is not None
        self._alarm = alarm
        self._output.set_alarm(self.id, *alarm)
        self._consumer_bells = tuple(consumer_bells)
        first, *others = consumer_bells
        self._output.set_consumer_bell(self.id, *first)
        for bell in others:
            self._output.add_consumer(self.id, *bell)

    def open_target(self, inbox: Inbox, told: Callable[[int, str, int], None]) -> None:
        """
        Let the application receive. Coordinator only.

        Args:
            inbox: Where the blocks come.
            told: Called with sequence, reason and number of a block that could not be converted, and was dropped.
        """
        if self.conversion is not None or self.config.validation is not None:
            from steadyflow.converting_end import ConvertingEnd
            from steadyflow.transform.stream import StreamConversion
            from steadyflow.transform.transformer import Conversion, make_plan

            assert self.format is not None
            plan = self.conversion or make_plan(self.format, self.format, where=self.id)
            stream = StreamConversion(Conversion(plan, self.config.validation), told)
            self._converting = ConvertingEnd(self.id, inbox, stream)
        self._inbox = inbox
        self.receive = inbox.receive if self._converting is None else self._converting.receive
        self._wake_those_who_wait_for_start()

    def set_rule(self, rule: Rule) -> None:
        """Switch the rule; takes effect at the next send, also of one that waits. Coordinator only."""
        with self._switching:
            self.rule = rule
            for rings in (self._coming, self.filling):
                if rings and self.format is not None:
                    limits = shared_limits(self.limits, self.format, len(rings))
                    for ring in rings:
                        ring.set_limits(*limits)
            self._carry_out(rule.to_native(self.live))
        self._wake_senders()

    def carry_out(self, native: NativeRule) -> None:
        """Let the data plane do this, by the rule in force or by flow control. Coordinator only."""
        with self._switching:
            self._carry_out(native)
        self._wake_senders()

    def _carry_out(self, native: NativeRule) -> None:
        self._carried_out = native
        for ring in self._all_rings:
            ring.set_rule(*native)

    def _wake_senders(self) -> None:
        for bell in self._producer_bells:
            ring_bell(*bell, ROOM_BIT)

    def end_pausing(self, reason: str) -> None:
        """Resume for good, so that what waits can drain: the flow stops. Coordinator only; any thread; does not wait."""
        with self._switching:
            self._no_more_pauses = reason
        self._let_out()

    def end_from_outside(self, reason: str) -> None:
        """
        End an open source that its user may be sending into; a send that waits raises `PipelineClosed`.

        Coordinator only; any thread; does not wait for the user.
        """
        if self._output is not None:
            self._output.close(reason)
            with self._switching:
                for ring in self._all_rings:
                    ring.set_ended()
            for bell in self._consumer_bells:
                ring_bell(*bell)

    def mark_ended(self) -> None:
        """Stop the clock of the throughput. Coordinator only."""
        if self._ended_ns == 0:
            self._ended_ns = self.clock.monotonic_ns()

    def detach(self, reason: str) -> None:
        """Close both open ends for good. Coordinator only."""
        self._closed = reason
        if self._output is not None:
            self._output.close(reason)
            self._output.detach()
        if self._inbox is not None:
            self._inbox.detach()
        if self._rings:
            self._last = self.statistics()
        self._refuse_from_now_on(reason)
        self._wake_those_who_wait_for_start()

    @property
    def has_ring(self) -> bool:
        """Whether blocks wait in it; False where they are handed over by a call, before the start, and once it is closed."""
        return bool(self._rings and self._consumer_bells)

    @property
    def limits(self) -> RoomLimits:
        """What may wait beside `buffer_size` blocks; none until it is known what flows."""
        if self.format is None:
            return RoomLimits()
        lanes = len(self.filling) or 1
        share = shared_limits(room_limits(self.config, self.rule, self.format), self.format, lanes)
        return RoomLimits(lanes * share.bytes, lanes * share.frames)

    @property
    def buffer_size(self) -> int:
        """How many blocks may wait: as configured, or as flow control has changed it."""
        return self.config.buffer_size if self.room_blocks is None else self.room_blocks

    @property
    def is_draining(self) -> bool:
        """Whether something is left in rings that other ones have succeeded."""
        if self._draining:
            self._keep_counts()
        return bool(self._draining)

    @property
    def counted(self) -> list[Counted]:
        """Its rings, those that are about to succeed them, and what is left of those that other ones have succeeded."""
        with self._switching:
            return [*self._all_rings, *filter(None, [self._earlier])]

    @property
    def has_metrics(self) -> bool:
        """Whether anything can have been counted."""
        return bool(self._rings) or self._last is not None

    @property
    def rings(self) -> tuple[Ring, ...]:
        """
        Its rings in shared memory; none before the flow starts.

        There is one for each replica of the module that sends, as each needs one that it alone writes.
        """
        return self._rings

    @property
    def filling(self) -> tuple[Ring, ...]:
        """Those of its rings that somebody sends into, so without those that other ones have succeeded."""
        return tuple(ring for ring in self._rings if ring not in self._draining) if self._draining else self._rings

    @property
    def _all_rings(self) -> tuple[Ring, ...]:
        return (*self._coming, *self._rings)

    # --- for users ---------------------------------------------------------------------------------------------------------

    async def send_async(self, data: object) -> bool:
        """
        Send as `send` does, by the same rules, from a task of an event loop; waits for room without stopping the loop.

        Any loop, several tasks too. Before the start, what is sent waits in the pipeline, and when that is full, so does
        the task. Cancelling it means that the block was not queued. May allocate. Returns and raises what `send` does.
        """
        output, sender = self._output, self._sender  # another thread may close the flow meanwhile
        if output is None:
            return self.send(data)  # which says why it cannot
        if sender is None:
            from steadyflow.awaiting import BellWatch, Sender

            bell = output.bell
            self._sender = sender = Sender(output, BellWatch(bell, bell.take))
        return await sender.send_async(data)

    async def receive_async(self, timeout_s: float | None = None) -> Block:
        """
        Receive the oldest block in a task of an event loop; waits without stopping the loop.

        Any loop, several tasks too; each block goes to one. Before the start it waits for that, too. Cancelling it loses no
        block. May allocate. Raises what `receive` does; `PipelineClosed` if the flow is closed without having been
        started.

        Args:
            timeout_s: None: wait for ever.
        """
        inbox, receiver = self._inbox, self._receiver  # another thread may close the flow meanwhile
        entered_ns = 0
        if inbox is None:
            entered_ns = monotonic_ns()
            inbox = await self._inbox_of_started_flow(timeout_s)
            receiver = self._receiver
        if receiver is None:
            from steadyflow.awaiting import Receiver

            self._receiver = receiver = Receiver(self.id, inbox)
        if self._converting is not None:
            return await self._converting.receive_async(receiver, timeout_s, entered_ns or monotonic_ns())
        return await receiver.receive(timeout_s, entered_ns)

    async def _inbox_of_started_flow(self, timeout_s: float | None) -> Inbox:
        from steadyflow.awaiting import nanoseconds, wait_for_call

        if self._closed or not self.target_open:
            self._refuse_receive()
        limit_s = None if timeout_s is None else nanoseconds(timeout_s) / 1e9
        await wait_for_call(self._call_when_started, limit_s, self._do_not_call)
        inbox = self._inbox
        if inbox is None:
            self._refuse_if_closed()
            raise ReceiveTimeout(
                f"{self.id}: expected a block within {timeout_s} s, got none: the flow has not been started yet"
            )
        return inbox

    def _call_when_started(self, callback: Callable[[], None]) -> None:
        """Call back when it can be received here, or never more; now, if that is so."""
        with self._switching:
            if self._inbox is None and not self._closed:
                self._waiting_for_start.add(callback)
                return
        callback()

    def _do_not_call(self, callback: Callable[[], None]) -> None:
        # Without the lock: the garbage collector, too, may end a wait, in a thread that has it.
        self._waiting_for_start.discard(callback)

    def _wake_those_who_wait_for_start(self) -> None:
        with self._switching:
            waiting, self._waiting_for_start = self._waiting_for_start, set()
        for wake in tuple(waiting):
            wake()

    async def __aiter__(self) -> AsyncIterator[Block]:
        """Iterate over the blocks of an open target until the end of the stream; see `receive_async`."""
        while True:
            try:
                block = await self.receive_async()
            except EndOfStream:
                return
            yield block

    def end(self) -> None:
        """
        End the stream of an open source: what was sent is still delivered, then the consumer sees the end. Idempotent.

        Raises:
            StateError: The pipeline is fed by a module.
        """
        if self._output is None:
            self._refuse_if_closed()
            raise StateError(f"{self.id}: this pipeline is fed by module {self.source[0]!r}, which ends it itself.")
        self._output.end()

    def flush(self) -> int:
        """
        Drop what waits at this moment, counted as flushed, and let a sender that waits for room go on.

        Any thread; does not block; allocates. What a consumer has in hand is still delivered, and what is sent during the
        call may be dropped or not. In a fused pipeline, and before the start, nothing waits.

        Returns:
            How many blocks were dropped.

        Raises:
            PipelineClosed: The flow has been closed.
        """
        self._refuse_if_closed()
        rings, producer_bells = self._all_rings, self._producer_bells  # close() may take them away
        if self._converting is not None:
            self._converting.forget()
        flushed = sum(ring.flush() for ring in rings)
        for bell in producer_bells:
            ring_bell(*bell, ROOM_BIT)
        return flushed

    @property
    def paused(self) -> bool:
        """Whether nothing comes out until `resume`."""
        rings = self._rings
        return any(ring.paused for ring in rings) if rings else self._pauses_at_start

    def pause(self) -> None:
        """
        Let nothing out until `resume`: the consumer finds nothing, and the rule decides what happens as it fills.

        Also before the start. Any thread; does not block; idempotent. A block that is being taken at this moment is still
        delivered. `receive` waits, and times out. The end of the stream comes after `resume`; so a flow does not end by
        itself before that. ``flow.stop()``, and a failure, resume, so that what waits can drain. The time of a pause
        counts in the latency of a block, but makes it not late.

        Raises:
            StateError: The pipeline is fused (both modules are in one worker), so nothing ever waits in it; or the flow is
                stopping. Where it is not known before the start that it will be fused, the start raises it.
            PipelineClosed: The flow has been closed.
        """
        self._refuse_if_closed()
        with self._switching:
            if self._no_more_pauses:
                raise StateError(
                    f"{self.id}: expected a flow that goes on, to pause a pipeline; {self._no_more_pauses}."
                )
            if self.paused:
                return
            if self._changes:
                raise StateError(f"{self.id}: a module at it is being replaced; pause it when that is done.")
            if not self._rings:
                self._pauses_at_start = True
            elif not self._consumer_bells:
                raise StateError(self._fused_text())
            for ring in self._all_rings:
                ring.pause()
        self._announce_pause(self.id, True)

    def resume(self) -> None:
        """
        Let out what waits. Any thread; does not block; idempotent.

        Raises:
            PipelineClosed: The flow has been closed.
        """
        self._refuse_if_closed()
        self._let_out()

    def _let_out(self) -> None:
        with self._switching:
            if not self.paused:
                return
            self._pauses_at_start = False
            for ring in self._all_rings:
                ring.resume(self.clock.monotonic_ns())
            for bell in self._consumer_bells:
                ring_bell(*bell)
        self._announce_pause(self.id, False)

    def conversion_reports(self) -> tuple[StepReport, ...]:
        """Return what each step has done of the conversion at an open target; nothing elsewhere. Any thread; allocates."""
        converting = self._converting
        return self._reports if converting is None else converting.reports()

    def statistics(self) -> FlowMetrics:
        """
        Read its metrics. Does not disturb the flow; any thread; allocates.

        Raises:
            FlowNotRunning: The flow has not been started, so nothing has been counted.
        """
        if self._draining:
            self._keep_counts()
        counted = self.counted  # close() may take them away
        if self._last is not None:
            return self._last
        if not counted:
            self._refuse_if_closed()
            raise FlowNotRunning(f"{self.id}: nothing has been counted yet; start the flow first.")
        until = self._ended_ns or self.clock.monotonic_ns()
        seconds = (until - self._opened_ns) / 1e9
        in_turn = bool(self._coming or self._draining or self._earlier)
        fmt = self.format
        return read_flow_metrics(
            counted,
            buffer_size=self.buffer_size,
            seconds=seconds,
            in_turn=in_turn,
            rate_hz=fmt.sample_rate_hz or 0 if isinstance(fmt, AudioFormat) else 0,
            pressure=None if self.watched_by is None else self.watched_by(self),
        )

    def __repr__(self) -> str:
        rings = self._rings
        waiting = sum(ring.counters()["fill"] for ring in rings)
        fill = f", {waiting} of {self.buffer_size}" if rings else ""
        return f"<Pipeline {self.id}: {self.format}{fill}{', paused' if self.paused else ''}>"

    def _refuse_from_now_on(self, reason: str) -> None:
        self._closed = reason
        self._reports = self.conversion_reports()
        # The mapping goes with the last reference to it.
        self._output = self._inbox = self._converting = None
        self._alarm = self.watched_by = None
        self._sender = self._receiver = None
        self._rings = self._coming = self._producer_bells = self._consumer_bells = ()
        self._draining = []
        self._earlier = None
        self.send = self.loan = self._refuse_send
        self.receive = self._refuse_receive

    def _fused_text(self) -> str:
        return (
            f"{self.id}: expected a pipeline between two workers, to pause it; {self.source[0]!r} and {self.target[0]!r} "
            f"are in one worker, where a block is handed over by a call and nothing waits. Give one of them another "
            f"worker: add(..., worker='name')."
        )

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise PipelineClosed(self._closed)

    def _refuse_send(self, *_: object, **__: object) -> Never:
        self._refuse_if_closed()
        if self.source_open:
            raise FlowNotRunning(f"{self.id}: its format is not known before the flow starts; give format=, or start.")
        raise StateError(f"{self.id}: expected an open source; this pipeline is fed by module {self.source[0]!r}.")

    def _refuse_receive(self, *_: object, **__: object) -> Never:
        self._refuse_if_closed()
        if self.target_open:
            raise FlowNotRunning(f"{self.id}: nothing can come before the flow starts; call flow.start().")
        raise StateError(f"{self.id}: expected an open target; this pipeline feeds module {self.target[0]!r}.")


def _is_drained(ring: Ring) -> bool:
    if ring.paused or not ring.counters()["ended"]:
        return False  # while it is paused, its consumer does not see the end: it is still to be resumed
    counters = ring.counters()  # after the end was seen: nothing is sent any more
    return bool(counters["sent"] == counters["delivered"] + sum(counters["dropped"].values()))


def make_sender(
    name: str, fmt: Format, abort: AbortFlag, segment: Segment, pool_offset: int, bell_offset: int
) -> OutputCore:
    """Make the sending end of an open source; its ring is added by the caller."""
    output = OutputCore()
    output.configure(name, native_spec(fmt), fmt, Preparer(name, fmt), None, abort)
    output.set_pool(segment, pool_offset, name)
    output.set_bell(segment, bell_offset)
    return output


class Lane(NamedTuple):
    """
    Where a receiving end finds one ring of its pipeline.

    Args:
        segment: Of ring and pool.
        ring: Their offset.
        pool: Likewise.
        bell_segment: Of the producer's bell.
        bell: Its offset.
    """

    segment: Segment
    ring: int
    pool: int
    bell_segment: Segment
    bell: int


def make_receiver(
    pipeline: Pipeline,
    fmt: Format,
    abort: AbortFlag,
    bell: tuple[Segment, int],
    lanes: Sequence[Lane],
    order: tuple[Segment, int] | None,
    max_latency_ns: int,
    intake: IntakeRules | None,
    cycles: CycleRules | None,
    on_views_exhausted: Callable[[int], None],
) -> Inbox:
    """Make the receiving end of an open target; `order` is the ring in whose order the lanes' blocks are taken."""
    codec = codec_for(fmt, where=pipeline.id)
    target = Target(
        pipeline.id,
        native_spec(fmt),
        fmt,
        None if codec is None else codec.decode,
        None,
        None,
        None,
        None,
        max_latency_ns,
    )
    if cycles is not None:
        target.count_cycles(cycles.ns_per_frame, cycles.deadline_ns)
    inbox = Inbox(*bell, _OWN_PROCESS, abort)
    first, *others = lanes
    inbox.add_input(*first, _ONLY_CONSUMER, pipeline.config.priority.rank, target, None, on_views_exhausted)
    if intake is not None:
        inbox.regulate(*msgspec.structs.astuple(intake))
    for lane in others:
        inbox.add_lane(*lane, _ONLY_CONSUMER)
    if order is not None:
        inbox.restore_order_of(*order)
    return inbox


def buffer_bytes(fmt: Format) -> int:
    """Return the size of one buffer: the largest payload and the metadata."""
    return fmt.max_payload_bytes + METADATA_MAX_BYTES
