"""
steadyflow's data plane: shared memory, rings, bells, and the ends that Python uses.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from steadyflow.data import MetadataValue
from steadyflow.formats import Format
from steadyflow.module import OutputPort


class Block:
    """
    What flows: one payload with its stamps. Immutable; keeping it is safe, also after the flow closed.
    """
    def __new__(
        cls,
        data: Any,
        format: Format | None = None,
        *,
        timestamp_ns: int = 0,
        first_frame: int = 0,
        sequence: int = 0,
        flags: int = 0,
        metadata: dict[str, MetadataValue] | None = None,
        sent_ns: int = 0,
    ) -> Block: ...
    @property
    def data(self) -> Any:
        """The payload: an array, a decoded struct, or bytes. Decoded once, when asked for."""
    @property
    def payload(self) -> Any:
        """The payload as it travels: the array, or the bytes that `data` decodes."""
    @property
    def samples(self) -> NDArray[Any]:
        """
        The array of an audio block, (frames, channels) or (channels, frames).

        Up to 4 KiB it is yours to change; larger ones are read-only views.

        Raises:
            AttributeError: The payload is no array.
        """
    @property
    def format(self) -> Format:
        """What the payload is."""
    @property
    def frames(self) -> int:
        """Frames in the block; 0 where it has none."""
    @property
    def timestamp_ns(self) -> int:
        """CLOCK_MONOTONIC time of capture of the first frame, in nanoseconds."""
    @property
    def first_frame(self) -> int:
        """Index of the first frame in its stream."""
    @property
    def sequence(self) -> int:
        """Number of the block on its pipeline, from 0; a missing number is a dropped block."""
    @property
    def flags(self) -> int:
        """Bits of BlockFlag."""
    @property
    def metadata(self) -> dict[str, MetadataValue]:
        """The sender's own fields; empty if there are none."""
    @property
    def has_metadata(self) -> bool:
        """Whether the sender gave fields of its own; decodes nothing."""
    @property
    def encoded_metadata(self) -> bytes:
        """The metadata as it travels, MessagePack; empty if there is none."""
    @property
    def sent_ns(self) -> int:
        """CLOCK_MONOTONIC time at which the block entered its pipeline, in nanoseconds."""
    def derived(self, data: Any, format: Format | None, flags: int = ..., /) -> Block:
        """Return a block with the same stamps, metadata and, unless given, flags that carries something else."""

class Loan:
    """
    Memory to write one block into, as a context manager; see OutputCore.loan().
    """

    def __enter__(self) -> NDArray[Any]:
        """Returns the array to write into; what is in it at first is undefined."""

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Sends the block, unless an exception is on its way."""

    @property
    def queued(self) -> bool | None:
        """What send() would have returned; None while nothing has been sent."""

class DeviceAccount:
    """What a device's callback counts and measures."""

    @overload
    def __init__(self) -> None:
        """In memory of this process."""

    @overload
    def __init__(self, segment: Segment, offset: int) -> None:
        """
        In shared memory, which it keeps. Raises CorruptedSegment where it does not fit.
        """

    @staticmethod
    def read(segment: Segment, offset: int) -> tuple[dict[str, Any], tuple[str, str] | None]:
        """
        What counts() and device say of an account that may only be read. Raises CorruptedSegment.
        """

    def identify(self, name: str, host: str) -> None:
        """Keeps which device it is. Before the first stream starts."""

    @property
    def device(self) -> tuple[str, str] | None:
        """Name and host interface, if they are known."""

    def counts(self) -> dict[str, Any]:
        """
        What was counted so far, by name; times in ns of the monotonic clock. Wait-free for the callback, any thread; each
        number is whole, and they may be of different cycles.
        """

DEVICE_ACCOUNT_BYTES: int = 10256

class DeviceFeed:
    """The consuming end of a pipeline into a device."""

    def __init__(self, pipeline: str, spec: PayloadSpec, process: int) -> None: ...

    def add_lane(self, segment: Segment, ring_offset: int, pool_offset: int, bell_segment: Segment, producer_bell_offset: int, consumer: int) -> None:
        """Adds a ring of the pipeline. Raises CorruptedSegment."""

    def restore_order_of(self, segment: Segment, ring_offset: int) -> None:
        """
        Takes the blocks of the rings in the order of what replicas make them from.
        """

    def regulate(self, late: int, max_age_ns: int, target_frames: int, preroll_frames: int, most_staged: int, most_frames: int, rate_hz: float, made_up: int) -> None:
        """Decides what the device gets of it; see Inbox.regulate."""

class DeviceStream:
    """
    The callback of one PortAudio stream: copies frames between the device and ports without Python.
    """

    def __init__(self, account: DeviceAccount, rate_hz: float, clock_patience_ns: int, gap_patience_ns: int) -> None: ...

    def capture(self, output: OutputCore, block_frames: int) -> None:
        """
        Lets the device send into the port, in blocks of at most so many frames. Before the stream starts; from here on
        send() and loan() of the port raise StateError. Raises StateError if a module of the same worker is called directly.
        """

    @property
    def callback(self) -> int:
        """
        The address of the C function that PortAudio calls, a PaStreamCallback.
        """

    @property
    def user_data(self) -> int:
        """The address to call it with. Valid as long as this object lives."""

    def play(self, feed: DeviceFeed) -> None:
        """
        Lets the device take its frames from a pipeline, which a stream that was closed may have played before. Before the
        stream starts. Raises FormatMismatch, or StateError while another stream plays it.
        """

    def cycle(self, input: object | None, output: object | None, current_s: float, input_s: float, output_s: float, flags: int, now_ns: int) -> int:
        """
        Does what one call of the callback does, at that time of the monotonic clock; returns a PaStreamCallbackResult.

        `input`, `output`: float32, frames x channels, contiguous; or None. For devices that are scripts.
        """

    @property
    def drained_ns(self) -> int:
        """
        When the last frame of a pipeline that has ended will be heard, monotonic; 0: not known yet. Any thread.
        """

    def end_capture(self) -> None:
        """
        Sends what was collected of a block, and captures no more; playing goes on. Waits for a cycle that runs.
        """

    def keep(self) -> None:
        """
        Never frees it: for a stream that PortAudio cannot be made to close, and may still call.
        """

    def check(self) -> None:
        """
        Raises CorruptedSegment if that is what ended the stream. Wait-free, any thread.
        """

    def close(self) -> None:
        """
        Sends what was collected of a block; no cycle does anything from here on. Waits for one that runs. Idempotent.
        """

class Segment:
    """One shared memory segment (memfd), mapped whole."""

    @staticmethod
    def create(bytes: int, holes: Sequence[tuple[int, int]] = []) -> Segment:
        """
        Allocates a sealed segment, but for the holes (offset, bytes), whose memory comes when it is needed. May block and
        allocate. Raises InsufficientMemory.
        """

    @staticmethod
    def attach(descriptor: int, writable: bool) -> Segment:
        """
        Takes over a descriptor and maps it; it is closed if that fails.

        Raises CorruptedSegment if it is not sealed against shrinking or of another layout.
        """

    def create_bell(self, offset: int) -> None:
        """
        Makes the bell at this offset. Raises InsufficientMemory where descriptors run out.
        """

    def attach_bell(self, offset: int, reading: int, writing: int) -> None:
        """Takes over the descriptors of a bell that another process made."""

    def has_bell(self, offset: int) -> bool:
        """Whether the bell at this offset was made or attached here."""

    def bell_descriptors(self, offset: int) -> tuple[int, int]:
        """The descriptors of a bell, to be passed to another process."""

    @property
    def descriptor(self) -> int: ...

    @property
    def writable(self) -> bool:
        """False: an observer's; whatever would write raises StateError."""

    @property
    def bytes(self) -> int: ...

    def lock(self) -> int:
        """
        Fills the mapping with its pages and keeps them in memory. Returns 0 or an errno.
        """

SEGMENT_HEADER_BYTES: int = 64

BELL_BYTES: int = 64

PRIVATE_COPY_BYTES: int = 4096

MAX_PROCESSES: int = 16

MAX_BRANCHES: int = 32

def pool_bytes(count: int, capacity_bytes: int) -> int:
    """Bytes that a port's buffers take in a segment."""

def ring_bytes(slots: int, consumers: int) -> int:
    """Bytes that a ring with its statistics takes in a segment."""

def create_pool(segment: Segment, offset: int, count: int, capacity_bytes: int, usable: int | None = None) -> None:
    """`usable`: of how many the memory is there; None: of all."""

def buffers_range(offset: int, count: int, capacity_bytes: int, first: int) -> tuple[int, int]:
    """
    Where in a segment the buffers of a pool lie from one of them on: offset and bytes.
    """

def set_usable_buffers(segment: Segment, pool_offset: int, count: int) -> None:
    """
    Lets so many buffers of a pool be used, and allocates the memory of those that come. Raises InsufficientMemory.
    """

def usable_buffers(segment: Segment, pool_offset: int) -> int:
    """How many buffers of a pool may be used."""

def give_back_unusable_buffers(segment: Segment, pool_offset: int) -> bool:
    """
    Gives the memory of buffers back that may not be used, unless one still is; returns whether none is. When the producer has sent
    two blocks since set_usable_buffers.
    """

def create_ring(segment: Segment, offset: int, buffer_size: int, slots: int, consumers: int, branch: int, rule_kind: int, rule_then: int, rule_value: int, views: int = 0) -> None:
    """
    slots = 0: a fused pipeline, statistics only. `views`: of large blocks, that each consumer may keep.
    """

def ring_bell(segment: Segment, offset: int, bit: int) -> None:
    """
    Wakes whoever sleeps on the bell, also after a process died while ringing it. Never blocks.
    """

def retire_bell(segment: Segment, offset: int) -> None:
    """
    Tells that the owner of the bell has died, so that no block is left to it. Before the other bells are rung.
    """

def wait_for_bell(segment: Segment, offset: int, until_ns: int) -> bool:
    """
    Sleeps until the bell rings or that time; True: it rang. One thread for each bell. Gives the interpreter lock up.
    """

ROOM_BIT: int = 62

CONTROL_BIT: int = 63

class Ring:
    """The control plane's view of one pipeline: counters, rule, recovery."""

    def __init__(self, segment: Segment, offset: int, pipeline: str) -> None:
        """Raises CorruptedSegment, which names the pipeline."""

    @property
    def segment(self) -> Segment: ...

    @property
    def offset(self) -> int: ...

    def counters(self) -> dict[str, Any]:
        """
        The derived accounting and counters; consistent once the flow is quiet.
        """

    def histograms(self) -> dict[str, tuple[NDArray[np.uint64], int, int]]:
        """
        name -> (counts, sum_ns, max_ns); bounds from bucket_bounds(). Of load: in ppm.
        """

    def begin_window(self) -> None:
        """From now on `peak_views` of the counters is of what comes. One caller."""

    @property
    def in_flight(self) -> int:
        """How many blocks have been sent and have no fate yet."""

    @property
    def views(self) -> int:
        """Of large blocks, how many views each consumer may keep."""

    def recent_cycles(self) -> list[tuple[int, int, list[float]]]:
        """
        For each consumer: its cycles, the latest block's length in ns, the latest 64 shares of the deadline, oldest first.
        """

    def worst_cycle(self) -> tuple[int, int, int, int, int, int, int] | None:
        """
        The block that took longest: sequence, sent, due_from, awake, gil, started, finished in ns; or None.
        """

    def consumed(self, consumer: int) -> tuple[int, int]:
        """
        How many blocks one of the consumers has taken, and its work on them in ns.
        """

    def set_rule(self, kind: int, then: int, value: int) -> None:
        """Switches the overflow rule; takes effect at the next send. Wait-free."""

    def set_limits(self, bytes: int, frames: int) -> None:
        """
        Limits what may wait, beside the blocks; 0: not. Takes effect at the next send. Wait-free.
        """

    def set_buffer_size(self, blocks: int) -> None:
        """
        How many blocks may wait, up to `most_waiting`. Takes effect at the next send. Wait-free.
        """

    @property
    def buffer_size(self) -> int:
        """How many blocks may wait."""

    @property
    def most_waiting(self) -> int:
        """For how many there are slots."""

    def set_pace(self, pace_ns: int) -> None:
        """
        From one block to the next, for senders that can wait; 0: as they come. Wait-free.
        """

    def set_alarmed(self, alarmed: bool) -> None:
        """Whether flow control is woken when it becomes full. Wait-free."""

    @property
    def pace_ns(self) -> int:
        """See set_pace."""

    def look(self) -> tuple[int, int, int, int, int, int, int, int, int, bool]:
        """
        What flow control looks at: sent, delivered, dropped; what waits as blocks, bytes and frames; when the oldest of it was
        sent (0: none waits); for how long senders waited in ns; how often it was full; whether it is paused. Any thread; does not disturb
        the flow.
        """

    def oldest_sent_ns(self) -> int:
        """
        When the oldest block that waits was sent; 0 where none waits. Does not disturb the flow.
        """

    def set_ended(self) -> None:
        """Ends the stream for a producer that is gone."""

    def set_abandoned(self) -> None:
        """
        Tells the producer that nobody will consume: its blocks are dropped (failed) from now on.
        """

    def reap(self, process: int) -> int:
        """Gives back what a dead process had claimed."""

    def abandon(self, reason: int) -> int:
        """Drops everything that still waits. Only when both ends are gone."""

    def flush(self) -> int:
        """
        Drops what waits at this moment (flushed), beside ends that go on; returns how many blocks. Ring the producer's bell afterwards. Any thread; allocates.
        """

    def pause(self) -> None:
        """Lets consumers find nothing. Wait-free."""

    def resume(self, now_ns: int) -> None:
        """Ends the pause. Ring the consumers' bells afterwards. Wait-free."""

    @property
    def paused(self) -> bool:
        """Whether consumers find nothing."""

def release_process(segment: Segment, pool_offset: int, process: int, pipeline: str) -> None:
    """Zeroes the holds of a dead process."""

def take_over(segment: Segment, pool_offset: int, ring_offsets: Sequence[int], pipelines: Sequence[str]) -> None:
    """
    Completes a port whose producer died, in the middle of a send perhaps; with all of its rings.
    """

def held_buffers(segment: Segment, pool_offset: int) -> int:
    """How many buffers are kept alive by views."""

def pool_state(segment: Segment, pool_offset: int, now_ns: int) -> tuple[int, int, int, int]:
    """
    Buffers, bytes of each, how many are kept alive by views, and for how long the oldest of those in ns.
    """

def give_back_pool(segment: Segment, pool_offset: int) -> int:
    """
    Gives the pages of buffers back to the system, of which nobody uses any any more. Returns how many bytes.
    """

def bucket_bounds() -> NDArray[np.uint64]:
    """Lower bounds in ns of the histograms' buckets, and the last one's end."""

def measure_stamps(blocks: int) -> float:
    """Cost in ns of stamps and statistics per block."""

def monotonic_ns() -> int:
    """CLOCK_MONOTONIC in ns: the clock of every stamp."""

def shut_down(timeout_s: float) -> None:
    """Sends every waiting thread back to Python, for the end of the program."""

def waits_of_this_thread() -> int:
    """
    How often the calling thread has waited in native code; in the thread of an event loop: never.
    """

def watch_lifeline(descriptor: int) -> None:
    """Ends this process as soon as the other end of the pipe is closed."""

class PayloadSpec:
    """The native side of a resolved format."""

    def __init__(self, kind: int, dtype: str, channels: int, planar: bool, packed: bool, max_frames: int, shape: Sequence[int], max_bytes: int) -> None: ...

class ModuleContext:
    """The block that a module is working on."""

    def __init__(self) -> None: ...

    def set_stamps(self, timestamp_ns: int, first_frame: int, frames: int, flags: int) -> None:
        """What blocks sent from now on inherit."""

    @property
    def calls(self) -> int: ...

    @property
    def busy_ns(self) -> int: ...

    @property
    def busy(self) -> bool:
        """Whether the module is at work: then nothing is taken for it."""

    @busy.setter
    def busy(self, busy: bool) -> None: ...

    @property
    def order(self) -> int:
        """Its place in the order of the flow, upstream first."""

    @order.setter
    def order(self, arg: int, /) -> None: ...

class Target:
    """Where a pipeline ends."""

    def __init__(self, name: str, spec: PayloadSpec, format: object | None, decoder: object | None, call: object | None, result_port: object | None, context: object | None, on_error: object | None, max_latency_ns: int) -> None: ...

    def count_cycles(self, ns_per_frame: float, deadline_ns: int) -> None:
        """
        From now on each block has a deadline, in ns from its sending; 0: its own length.
        """

    def fail(self) -> None:
        """From now on blocks are dropped (failed)."""

    def close(self) -> None:
        """
        From now on blocks are dropped (stopped): the module has ended before this input.
        """

class AbortFlag:
    """Set once; everything that waits gives up."""

    def __init__(self) -> None: ...

    def set(self) -> None: ...

    def is_set(self) -> bool: ...

class OutputCore:
    """The native sending end of a port."""

    def __init__(self) -> None: ...

    def send(self, data: object | None) -> bool:
        """
        Sends an array, a FlowData, a Block or what the format encodes. True: queued, False: dropped by the rule.

        Wait-free but for a pipeline with a waiting rule that is full. Any thread; callers are serialised.
        """

    def pass_on(self, data: object | None) -> bool:
        """
        As send(), but what is sent has its own stamps and flags alone, and inherits none from the block that the module is
        at: for a block that came at another time.
        """

    def has_room(self, payload_bytes: int = 0, frames: int = 0) -> bool:
        """
        Whether a block of this size sent now would enter every pipeline as it is: nothing would wait, be evicted or be
        dropped for it, whatever their rules. Room that was found stays until something is sent.

        Wait-free. Any thread; callers are serialised. Raises PipelineClosed where send() would; StateError where a
        device sends.
        """

    def seek_room(self, payload_bytes: int = 0, frames: int = 0) -> int:
        """
        0: has_room() says so. Else when to look again, in ns of the monotonic clock; the bell of this end rings before that,
        once half of what waits in the way was taken.
        """

    def loan(self, frames: int | None = None) -> Loan:
        """
        Lends memory for one block: `with port.loan(frames) as samples:` gives a writable array to fill, and sends it.

        For audio, (frames, channels) or (channels, frames), 1 to max_block_frames; for an ArrayFormat, of its shape and
        without frames. Lending is wait-free; the end of the with block sends as send() does, without a copy, and empties
        the array. If more than one name refers to the array or a part of it by then, the block is copied (counted in
        loan_copies) and the array stays valid. Raises FormatMismatch, BlockTooLarge, PipelineClosed, FlowNotRunning.
        """

    def attempt(self, data: object | None) -> bool | SendAttempt:
        """
        As send(), but never waits: where send() would, returns a SendAttempt. Any thread.
        """

    @property
    def bell(self) -> Bell: ...

    def configure(self, name: str, spec: PayloadSpec, format: object | None, prepare: object, context: object | None, abort: AbortFlag) -> None: ...

    def set_pool(self, segment: Segment, offset: int, pipeline: str) -> None: ...

    def set_bell(self, segment: Segment, offset: int) -> None: ...

    def set_inbox(self, inbox: object) -> None: ...

    def add_ring(self, name: str, segment: Segment, offset: int, bell_segment: Segment, bell_offset: int, bit: int) -> None: ...

    def add_consumer(self, name: str, bell_segment: Segment, bell_offset: int, bit: int) -> None:
        """Adds a consumer that competes for the blocks of the ring of that name."""

    def share_room(self, name: str, rank: int, segment: Segment, offset: int, others_rank: int) -> None:
        """
        The ring of that name shares its room with another input of the same consumer, by the ranks of their priorities.
        """

    def set_alarm(self, name: str, bell_segment: Segment, bell_offset: int) -> None:
        """
        What is rung when the ring of that name becomes full, where that is asked for.
        """

    def set_consumer_bell(self, name: str, bell_segment: Segment, bell_offset: int, bit: int) -> None: ...

    def add_fused(self, target: Target, segment: Segment, ring_offset: int, inbox: Inbox) -> None: ...

    def remove(self, pipeline: str) -> bool:
        """
        Ends a pipeline, which gets no block any more, and forgets it; False if there is none of that name.
        """

    def defer(self) -> None:
        """Rings that are added and removed take no place before commit()."""

    def commit(self) -> None:
        """
        Lets what was added and removed take place at once, between two blocks. Where a device sends, it waits for its next cycle.
        """

    def roll_back(self) -> None:
        """Nothing takes place of what was added and removed since defer()."""

    def end(self) -> None:
        """No block follows. Idempotent."""

    def close(self, reason: str) -> None:
        """From now on send() raises PipelineClosed."""

    def detach(self) -> None: ...

    @property
    def is_connected(self) -> bool: ...

    @property
    def has_ended(self) -> bool: ...

    @property
    def waiting_blocks(self) -> int:
        """
        How many blocks wait at this moment, in the pipeline in which the most do; 0 where all are handed over by a
        call. Any thread; does not block.
        """

    @property
    def failed_blocks(self) -> int:
        """
        How many blocks of its pipelines were dropped because the module behind has failed, but for those handed over
        by a call. Any thread; does not block.
        """

class Bell:
    """
    A bell that an event loop sleeps on. One sleeper at a time: whoever has the seat.
    """

    @property
    def descriptor(self) -> int:
        """Readable when an armed bell rang."""

    def take_seat(self) -> bool:
        """False: another sleeper has it. Never blocks."""

    def leave_seat(self) -> None:
        """Lets others sleep on the bell."""

    def arm(self) -> bool:
        """
        Announces a sleep; False: something rang already, so look again instead. Wait-free; with the seat only.
        """

    def hear(self) -> None:
        """
        Ends the sleep, after the descriptor became readable. Never blocks; with the seat only.
        """

    def take(self) -> int:
        """Takes what rang, as bits. Wait-free; with the seat only."""

class SendAttempt:
    """A send in an event loop that found its pipeline full."""

    def settle(self) -> bool | None:
        """
        True: queued, False: dropped by the rule, None: no room yet. Raises what send() raises. Never waits.
        """

    @property
    def until_ns(self) -> int:
        """When to look again, even if nothing rings."""

class Delivery:
    """A block that was claimed for a module in an event loop."""

    @property
    def call(self) -> Any:
        """What the target was made with."""

    @property
    def block(self) -> Block:
        """The block."""

    def begin(self) -> None:
        """Right before the module is called with the block."""

    def returned(self) -> None:
        """Right after its call has come back."""

    def output_for(self, result: object) -> OutputPort:
        """The port that a result goes to. Raises ConfigurationError."""

    def finish(self) -> None:
        """The block is delivered. After its results were sent."""

    def fail(self) -> None:
        """The module has failed: this block and what follows are dropped."""

def lock_memory(future: bool) -> int:
    """
    Keeps what is mapped in memory, each page from its first use on; `future`: also what will be mapped. Returns
    0 or an errno.
    """

def may_lock(bytes: int) -> bool:
    """
    Whether so much more memory may be locked at once. Tried with memory that is never used, and undone.
    """

def guard_against_runaway(descriptor: int, inbox: Inbox) -> int:
    """
    From now on SIGXCPU lowers the calling thread to SCHED_OTHER and writes one byte to the descriptor. Once for
    each process. Returns 0 or an errno.
    """

def last_revocation() -> tuple[int | None, int] | None:
    """
    What that byte is written for: the `order` of the module that was running, or None; and 0, or the errno with
    which lowering failed. None if it did not happen.
    """

class ManualTime:
    """
    A clock that stands still while threads work, and jumps to the next moment.
    """

    def __init__(self, now_ns: int) -> None: ...

    @property
    def now_ns(self) -> int:
        """Any thread, wait-free."""

    def keep(self) -> None:
        """
        From now on the calling thread goes by this clock. It must call leave() before this object ends.
        """

    def leave(self) -> None:
        """
        Gives the seat of the calling thread back, if it has one, and goes by the system's clock again.
        """

    def leave_seat(self) -> None:
        """Gives the seat back; the thread still goes by this clock."""

    def take_seat(self, order: int, follows: bool = False) -> None:
        """
        Waits until all are seated that are expected, and it is this thread's turn. `follows`: time does not go on for it alone.
        """

    @property
    def is_seated(self) -> bool:
        """Whether the calling thread has a seat."""

    def sleep_until(self, moment_ns: int) -> bool:
        """
        Passes the turn on until then, in a thread with a seat. False: it came back earlier, because turns have ended or nobody
        but those who follow is left.
        """

    def sleep_until_readable(self, descriptor: int, moment_ns: int) -> bool:
        """The same, until something can be read there, which is the answer."""

    def expect(self, seats: int) -> None:
        """So many more seats have to be taken before the first turn."""

    def go_on_until(self, limit_ns: int) -> None:
        """
        Lets time go on as far as that, or as it may already. Any thread; does not wait.
        """

    def stand_still(self) -> None:
        """Lets time go no further. Any thread; does not wait."""

    def wait_until(self, moment_ns: int, patience_s: float) -> bool:
        """
        Whether everybody waits for the limit to move, or has left, or the moment is over where the limit lies beyond it; waits
        for that, of real time so long at most. Of a thread without a seat.
        """

    def disband(self) -> None:
        """Ends the taking of turns: whoever waits for one returns."""

    NO_LIMIT: Final[int] = ...
    """(arg: object, /) -> int"""

class NativeStage:
    """A stage that the native module can call by itself."""

    def push(self, block: Block, /) -> Sequence[Block]:
        """Returns the blocks that come of a block: none, one or several."""

class SampleConverter:
    """
    Converts sample type, channels and layout of audio in one pass.

    `matrix`: by rows, one for each channel that comes out; empty: channel by channel. `from_swapped`,
    `to_swapped`: the other byte order than this machine's.
    """

    def __init__(self, source: PayloadSpec, target: PayloadSpec, matrix: Sequence[float], dither: bool, from_swapped: bool = False, to_swapped: bool = False) -> None: ...

    def convert(self, data: object, first_frame: int = 0) -> NDArray[Any] | None:
        """
        Returns a new array; None if `data` is no array of the source format: type, shape, contiguity, or no frames.

        `first_frame`: of the stream, for the dither. Does not block; allocates the result. Any thread, one at a time; the
        GIL is released for 65,536 samples and more.
        """

    @property
    def clipped(self) -> int:
        """How many samples were limited to full scale."""

    @property
    def not_a_number(self) -> int:
        """How many were no numbers, and became 0."""

class SampleStage(NativeStage):
    """
    Converts the samples of blocks, and leaves what they say of themselves as it is.

    `format`: of what comes out. `conform(payload)`: called where a payload is no array as `source`
    says; returns one, or raises. Arguments else as for SampleConverter.
    """

    def __init__(self, source: PayloadSpec, target: PayloadSpec, matrix: Sequence[float], dither: bool, format: object, conform: object) -> None: ...

    def flush(self) -> tuple[Block, ...]:
        """Nothing is ever left."""

    @property
    def clipped(self) -> int:
        """How many samples were limited to full scale."""

    @property
    def not_a_number(self) -> int:
        """How many were no numbers, and became 0."""

class StampTrail:
    """
    What blocks said about their frames, kept while the frames wait to come out in other blocks.

    Positions are counted in frames of what came in since it last broke off, and asked for in their order. One
    thread at a time; does not block; allocates.
    """

    def __init__(self, ns_per_frame: float) -> None: ...

    def add(self, block: Block, position: int) -> None:
        """
        Remembers what a block says that begins at `position`; they come in the order of their frames.
        """

    def timestamp_ns(self, position: float) -> int:
        """
        Returns the time of a position, not before one that was asked for earlier; limited to what a block can have.
        """

    def flags(self, begin: float, end: float) -> int:
        """
        Returns what is wrong with the frames of a range, which does not begin before one that was asked for earlier.
        """

    def __len__(self) -> int:
        """
        Of how many blocks the time is kept: no more than still may be asked for.
        """

    def clear(self) -> None:
        """Forgets everything: what comes next does not follow."""

class RateStage(NativeStage):
    """
    A stream of soxr at work on blocks.

    `resample(samples, last)`, `clear()`: soxr's. `source`: interleaved, of any length. `target`: the format of what
    comes out, in blocks of at most `max_frames`. `conform(payload)`: called where a payload is no array as
    `source` says; returns one, or raises. `fields`: keeps the users' fields, see Fields.

    One thread at a time; does not wait; allocates.
    """

    def __init__(self, resample: object, clear: object, source: PayloadSpec, target: object, max_frames: int, in_hz: int, out_hz: int, conform: object, fields: object) -> None: ...

    def flush(self) -> Sequence[Block]:
        """Returns what soxr still withholds."""

class StageMeter:
    """
    Calls a stage, and counts.

    `counts_frames`: those that come out. `holds_end`: blocks go in without END_OF_STREAM, because more comes
    after them. One thread at a time; reading is for any.
    """

    def __init__(self, stage: object, counts_frames: bool, holds_end: bool) -> None: ...

    def push(self, block: Block, /) -> Sequence[Block]:
        """Returns what the stage makes of a block."""

    @property
    def calls(self) -> int:
        """How many blocks went in."""

    @calls.setter
    def calls(self, arg: int, /) -> None: ...

    @property
    def frames(self) -> int:
        """How many frames came out."""

    @frames.setter
    def frames(self, arg: int, /) -> None: ...

    @property
    def busy_ns(self) -> int:
        """For how long it was at work, in ns."""

    @busy_ns.setter
    def busy_ns(self, arg: int, /) -> None: ...

    @property
    def end_held(self) -> bool:
        """Whether a block said that it is the last one."""

    @end_held.setter
    def end_held(self, arg: bool, /) -> None: ...

    @property
    def rejected(self) -> int:
        """How many blocks it could not convert."""

    @rejected.setter
    def rejected(self, arg: int, /) -> None: ...

class Inbox:
    """The receiving side of a worker, or of one open end."""

    def __init__(self, segment: Segment, bell_offset: int, process: int, abort: AbortFlag) -> None: ...

    def add_input(self, segment: Segment, ring_offset: int, pool_offset: int, bell_segment: Segment | None, producer_bell_offset: int, consumer: int, rank: int, target: Target, on_end: object | None, on_views_exhausted: object | None = None, bit: int | None = None) -> int:
        """
        Adds an input, behind those of its rank; returns its bell bit: `bit`, or else that of its place.
        `on_views_exhausted(limit)` is called once, when the consumer keeps `limit` views, and the next large block is
        copied.
        """

    def add_successor(self, pipeline: str, segment: Segment, ring_offset: int, pool_offset: int, bell_segment: Segment | None, producer_bell_offset: int, consumer: int) -> None:
        """
        Adds the ring whose blocks come in an input after all of those in its own, of which the end is no end then.
        """

    def keep_time_order(self) -> None:
        """
        Serves inputs of one rank in the order of sending, so that what was sent because of a block comes after it.
        """

    def remove(self, pipeline: str) -> None:
        """Forgets an input that has ended. Between two blocks."""

    def add_lane(self, segment: Segment, ring_offset: int, pool_offset: int, bell_segment: Segment | None, producer_bell_offset: int, consumer: int) -> None:
        """Adds the ring of another replica to the input that was added last."""

    def restore_order_of(self, segment: Segment, ring_offset: int) -> None:
        """
        Takes the lanes of the input that was added last in the order of the replicas' own input ring.
        """

    def tell_finished(self, bell_segment: Segment, bell_offset: int, bit: int) -> None:
        """Rings that bell after each block that this worker has finished."""

    def serve(self, deadline_ns: int, limit: int) -> int:
        """
        Serves up to `limit` blocks; waits for the first one until the deadline (negative: no limit, 0: not at all).
        """

    def receive(self, timeout_s: float | None = None) -> Block:
        """
        The oldest block; committed before it is returned. Raises ReceiveTimeout, EndOfStream, PipelineClosed.
        """

    def hold(self, pipeline: str, held: bool) -> None:
        """
        An input that is held is not served: its pipeline fills, and the rule decides. The worker's thread.
        """

    def on_idle(self, call: object) -> None:
        """
        Has something called, now and then, when the worker has nothing to do and is about to sleep; None: no more.
        """

    def spin_for(self, spin_ns: int) -> None:
        """How long serve() looks for a block before it sleeps; 0: not at all."""

    def regulate(self, late: int, max_age_ns: int, target_frames: int, preroll_frames: int, most_staged: int, most_frames: int, rate_hz: float, made_up: int) -> None:
        """
        Decides what the input that was added last lets through: late blocks (0 pass, 1 drop, 2 conceal), a jitter buffer
        of `target_frames`, what is kept while its module does not want it, and what stands in for what is missing
        (0 silence, 1 the last block fading, 2 the last block again and again).
        """

    def set_wanted(self, pipeline: str, wanted: bool) -> bool:
        """
        An input that is not wanted keeps its newest frames and drops the others (unwanted). False: it cannot. Any thread.
        """

    def interrupt(self) -> None:
        """Makes serve() return soon. Wait-free, any thread."""

    def call(self, context: ModuleContext, method: object) -> None:
        """
        Calls a method of a module that is not process(): not served inside its own sends.
        """

    def adopt(self, in_event_loop: bool) -> None:
        """
        Declares the calling thread the worker's own; in an event loop, its send() never waits.
        """

    def try_receive(self, entered_ns: int, heard_ns: int) -> Block | None:
        """The oldest block, or None: never waits. Else as receive()."""

    def take(self) -> Delivery | None:
        """The next block of a module that is not at work, or None. Never waits."""

    def collect(self) -> None:
        """Takes what rang from the bell, to be looked at by take()."""

    @property
    def bell(self) -> Bell: ...

    def detach(self) -> None: ...

    @property
    def open_inputs(self) -> int: ...
