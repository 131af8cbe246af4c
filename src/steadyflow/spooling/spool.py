"""`Spool`: a module that lets blocks wait on disk while what follows has no room for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from steadyflow._native import monotonic_ns
from steadyflow.arguments import checked_path
from steadyflow.backpressure.rules.spill import MAX_SPILLED, THENS, Then
from steadyflow.codec import Codec, codec_for
from steadyflow.data import Block, BlockFlag, decode_metadata
from steadyflow.errors import ConfigurationError, DataError, FlowError, PipelineClosed, SpoolUnavailable, UnknownName
from steadyflow.events.of_backpressure import SpillFailed, SpillFull, SpillLeft, SpillRestored
from steadyflow.formats import AnyFormat, ArrayFormat, AudioFormat, Format, checked_integer
from steadyflow.module import Input, Module, Output, name_in_flow, tell
from steadyflow.spooling.store import RETRY_NS, SpooledBlock, SpoolStore

_DISCONTINUITY: Final = int(BlockFlag.DISCONTINUITY)
# On the next pipeline a block is neither repeated nor the last.
_KEPT_FLAGS: Final = int(BlockFlag.DISCONTINUITY | BlockFlag.GAP | BlockFlag.CORRUPTED | BlockFlag.CONTROL)
_CONTROL: Final = int(BlockFlag.CONTROL)
_LOOK_S: Final = 0.05
_FAILED_S: Final = 1.0
_AT_ONCE: Final = 32  # blocks that are sent on before new ones get their turn
_DAMAGED_RETRY_NS: Final = 60_000_000_000  # each try may read the file as a whole, and it does not heal by itself
_REASON: Final = 1000  # characters: an event has to be short

_logger: Final = logging.getLogger("steadyflow.spooling")


class SpoolCounts(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a `Spool` has done. What an earlier run had left and what has come since was passed on, restored or dropped, or it waits.

    Args:
        leftover: How many blocks an earlier run had left.
        passed: How many were passed on as they came.
        stored: How many went into the store.
        restored: How many came out of it and were sent on.
        dropped_blocks: How many were dropped, new ones and stored ones.
        dropped_frames: How long those were together.
        depth_blocks: How many wait now.
        depth_bytes: How much of `max_bytes` they take.
        depth_frames: How long they are together.
    """

    leftover: int
    passed: int
    stored: int
    restored: int
    dropped_blocks: int
    dropped_frames: int
    depth_blocks: int
    depth_bytes: int
    depth_frames: int


class Spool(Module):
    """
    Passes blocks on, and lets them wait on disk while the pipelines behind it have no room; for before a slow consumer.

    While there is room, a block is passed on as it came, and the disk is not touched. Otherwise it goes to the file, and as long as
    anything is there, so does all that comes, behind it: the order is kept. What has waited comes with its stamps, flags and metadata.
    What waits for less than 100 ms is mostly not written at all. Give the pipeline into the spool room for what comes while a disk is
    slow, say half a second: the file is used in the module's own worker, which gets nothing else done meanwhile.

    At the end of the stream all that waits is delivered first. Where the flow is stopped before, it stays in the file (`SpillLeft`), and
    the next run with that file begins with it; the first new block after it says `BlockFlag.DISCONTINUITY`. Timestamps are of the
    monotonic clock, so those from before the system was started anew compare to no others. After a kill some blocks may be lost or
    repeated, at most those of 100 ms, of 64 blocks, and of 1 MiB: see `SpoolStore`.

    Port ``data``: any format. Port ``out``: of the same.

    Args:
        path: The file; made where there is none. For one spool at a time.
        max_bytes: How much may wait there, with 64 bytes for each block.
        max_blocks: How many blocks may wait there; None: as many as fit.
        then: What happens where that is reached, or the disk fails (`SpillFailed`): ``"drop_oldest"``: the block that has waited
            longest makes room (with a disk that fails, the newest block waits in memory, and replaces the one that did so);
            ``"drop_newest"``: the new block is dropped; ``"wait"``: nothing more is taken, and the pipeline into the spool fills. What
            is dropped is counted, and the block after it says `BlockFlag.DISCONTINUITY`. A control block is never dropped: where its
            turn to go has come, what comes waits.
        needs_file: Whether the setup fails where the disk does; else `then` holds until the file can be used.

    Raises:
        ConfigurationError: An argument is impossible.
    """

    data = Input(AnyFormat())
    out = Output(like="data")
    blocking = True

    _store: SpoolStore | None = None
    _minder: asyncio.Task[None] | None = None
    _drainer: asyncio.Task[None] | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int,
        max_blocks: int | None = None,
        then: Then = "drop_oldest",
        needs_file: bool = True,
    ) -> None:
        self._path: Path = checked_path("Spool", path)
        self._max_bytes = checked_integer("Spool", "max_bytes", max_bytes, MAX_SPILLED)
        self._max_blocks = (
            None if max_blocks is None else checked_integer("Spool", "max_blocks", max_blocks, MAX_SPILLED)
        )
        if then not in THENS:
            raise UnknownName("rule", then, THENS, where="Spool")
        self._then: Then = then
        self._needs_file = needs_file
        self._instead: Literal["wait", "send"] | None = (
            None  # what is done with a block, where nothing is to wait on disk any more
        )
        self._leftover = self._passed = self._stored = self._restored = 0
        self._dropped_blocks = self._dropped_frames = 0
        self._depth = (0, 0, 0)
        # The newest block, where the disk takes none and what is dropped are the oldest.
        self._hand: SpooledBlock | None = None
        # Whether the next block that comes, and the next one that goes out, has lost the one before it.
        self._lost_behind = self._lost_ahead = False
        self._failed_ns: int | None = None
        self._full_blocks = 0  # how many waited when its limit was reached; 0: there has been room since
        self._dropped_before = 0
        self._retry_ns = 0
        self._given_up = False  # whether what is in the file was counted as dropped
        self._old_left = 0  # blocks of the earlier run that are still there
        self._failed_blocks = 0  # how many of those behind it were dropped, because their consumer has failed
        self._abandoned = False  # whether nothing is sent for a while, because a consumer has failed

    def counts(self) -> SpoolCounts:
        """
        Return what it has done so far. Any thread; does not wait.

        In the process that runs it: the instance that you have placed in a process of its own has done nothing, and what happens there
        is told by events.
        """
        store = self._store
        blocks, size, frames = (
            self._depth if store is None else (store.depth_blocks, store.depth_bytes, store.depth_frames)
        )
        if (hand := self._hand) is not None:
            blocks, size, frames = blocks + 1, size + hand.size_bytes, frames + hand.frames
        return SpoolCounts(
            leftover=self._leftover,
            passed=self._passed,
            stored=self._stored,
            restored=self._restored,
            dropped_blocks=self._dropped_blocks,
            dropped_frames=self._dropped_frames,
            depth_blocks=blocks,
            depth_bytes=size,
            depth_frames=frames,
        )

    # --- its life -----------------------------------------------------------------------------------------------------------------

    async def setup(self) -> None:
        """
        Open the file, or make it. May block on the disk.

        Raises:
            SpoolUnavailable: It cannot be used; the `reason` says why.
            FileUnreadable: It is no spool, or one of another version.
            FormatClash: It holds blocks of another format.
        """
        fmt = self.data.format
        if isinstance(fmt, AnyFormat):
            raise ConfigurationError(
                f"Spool {self._path.name!r}: its input is not connected. Connect it, or remove it."
            )
        self._format: Format = fmt
        self._codec: Codec | None = codec_for(fmt, where=str(self._path))
        self._stirred = asyncio.Event()  # something waits that did not before, or it is the end
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._moved = asyncio.Event()  # something that waited has gone, or the disk works again
        self._minded = asyncio.Event()  # there is something to write soon, or to try again
        try:
            self._store = self._open()
        except SpoolUnavailable as problem:
            if self._needs_file:
                raise
            self._note_failure(problem)
        self._leftover = self._old_left = 0 if self._store is None else self._store.depth_blocks
        self._lost_behind = self._leftover > 0
        if self._leftover:
            self._stirred.set()
        self._drainer = asyncio.create_task(self._drain())
        self._drainer.add_done_callback(lambda _: self._moved.set())
        self._minder = asyncio.create_task(self._mind())

    async def process(self, data: Block) -> None:
        """Pass a block on, or let it wait. May block on the disk; with ``then="wait"`` it awaits room there."""
        if self._instead == "wait":
            while self._waits and self._drainer is not None and not self._drainer.done():
                await self._wait_for_change(data)
        if self._instead is not None and not self._waits and not self._abandoned:
            if self._instead == "wait":
                await self.out.wait_for_room(_payload_bytes(data), data.frames)
            self._pass(data)
        elif self._passes(data):
            self._pass(data)
        else:
            if self._instead == "send":
                self._drop_oldest()  # it takes its place: what waits on disk grows no more, and the order is kept
            await self._keep(data)

    def bypass(self, instead: Literal["wait", "send"] | None) -> None:
        """
        Let no more wait on disk than does, and nothing once that has gone on. Any thread; does not wait.

        Args:
            instead: What is done with a block that finds no room: ``"wait"`` for it, or ``"send"``, so that the rule of the pipeline decides.
                None: it waits on disk again.
        """
        self._instead = instead

    def leave(self) -> None:
        """
        Send nothing more, and close the file; what waits stays in it. Any thread but the module's; blocks until that is done.

        For when nothing comes any more. Before it is set up, and after it has ended, there is nothing to do.
        """
        loop = self._loop
        if loop is not None and not loop.is_closed():
            asyncio.run_coroutine_threadsafe(self.teardown(), loop).result()

    async def finish(self) -> None:
        """Deliver all that waits; it is given up only where the file cannot be read any more."""
        if self._drainer is None:
            return  # it has been left
        self._ending.set()
        self._stirred.set()
        await self._drainer

    async def teardown(self) -> None:
        """Close the file; what has not been delivered stays in it. May block on the disk."""
        for task in (self._drainer, self._minder):
            if task is not None:
                task.cancel()
                # What it met is told already, or was raised by finish().
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
        self._drainer = self._minder = self._loop = None
        self._shut()

    # --- where a block goes ---------------------------------------------------------------------------------------------------------

    @property
    def _waits(self) -> bool:
        """Whether anything waits, so that what comes has to go behind it."""
        return self._hand is not None or (self._store is not None and self._store.depth_blocks > 0)

    def _passes(self, data: Block) -> bool:
        return not self._waits and not self._abandoned and self.out.has_room(_payload_bytes(data), data.frames)

    def _pass(self, data: Block) -> None:
        if self._lost_behind or self._lost_ahead:
            data = data.derived(data.payload, data.format, data.flags | _DISCONTINUITY)
            self._lost_behind = self._lost_ahead = False
        self.out.pass_on(data)
        self._passed += 1

    async def _keep(self, data: Block) -> None:
        """Find a place for a block that cannot be passed on."""
        block = self._spooled(data)
        while not self._store_behind(block):
            then: Then = "wait" if self._must_not_drop(block) else self._then
            if then == "drop_newest":
                self._drop(block)
                self._lost_behind = True
                return
            if then == "drop_oldest":
                if not self._drop_oldest_for(block if self._hand is None else self._hand):
                    self._replace_hand(block)
                    return
                continue
            assert self._drainer is not None
            if self._drainer.done():
                self._drainer.result()  # raises what has ended it, if that is not the end of the flow
                self._drop(block)
                return
            await self._wait_for_change(data)
            if self._passes(data):
                self._pass(data)
                return

    def _must_not_drop(self, block: SpooledBlock) -> bool:
        """Tell whether what would go by the rule is a control block, for which the others wait."""
        if self._then == "drop_newest":
            return bool(block.flags & _CONTROL)
        store = self._store
        oldest = None if store is None or self._failed_ns is not None else self._take(store)
        return any(each is not None and each.flags & _CONTROL for each in (oldest, self._hand))

    def _store_behind(self, block: SpooledBlock) -> bool:
        """Put a block into the store, behind the one in memory if there is one; False where it takes them not."""
        if self._hand is not None and not self._append(self._hand):
            return False
        self._hand = None
        if self._lost_behind:
            block = block._replace(flags=block.flags | _DISCONTINUITY)
        if not self._append(block):
            return False
        self._lost_behind = False
        self._stirred.set()
        return True

    def _append(self, block: SpooledBlock) -> bool:
        if self._store is None:
            return False
        try:
            if not self._store.append(block):
                self._note_full(self._store)
                return False
        except SpoolUnavailable as problem:
            self._note_failure(problem)
            return False
        self._stored += 1
        if self._store.depth_blocks <= self._full_blocks // 2:
            self._full_blocks = 0
        self._note_works()
        self._minded.set()
        return True

    def _note_full(self, store: SpoolStore) -> None:
        if self._full_blocks == 0 and store.depth_blocks > 0:
            self._full_blocks = store.depth_blocks
            tell(
                self,
                SpillFull(module=name_in_flow(self), path=str(self._path), blocks=store.depth_blocks, then=self._then),
            )

    def _drop_oldest_for(self, block: SpooledBlock) -> bool:
        """Drop the oldest block of a store that is full; False where that would make no room."""
        store = self._store
        if store is None or self._failed_ns is not None or not store.depth_blocks or not store.could_hold(block):
            return False
        oldest = self._take(store)
        if oldest is not None:
            store.forget()
            self._drop(oldest)
            self._lost_ahead = True
        return True

    def _drop_oldest(self) -> None:
        store = self._store
        if store is not None and self._failed_ns is None and store.depth_blocks and self._hand is None:
            oldest = self._take(store)
            if oldest is not None and not oldest.flags & _CONTROL:
                store.forget()
                self._drop(oldest)
                self._lost_ahead = True

    def _replace_hand(self, block: SpooledBlock) -> None:
        if self._hand is not None:
            self._drop(self._hand)
            self._lost_behind = True
        if self._lost_behind:
            block = block._replace(flags=block.flags | _DISCONTINUITY)
            self._lost_behind = False
        self._hand = block
        self._stirred.set()

    async def _wait_for_change(self, data: Block) -> None:
        if self._waits or self._abandoned:
            self._moved.clear()
            await self._moved.wait()
        else:
            await self.out.wait_for_room(_payload_bytes(data), data.frames)

    def _drop(self, block: SpooledBlock) -> None:
        self._dropped_blocks += 1
        self._dropped_frames += block.frames

    # --- what waited goes on --------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Send on what waits, oldest first, as there is room; until the end of the stream, when nothing waits any more."""
        with contextlib.suppress(PipelineClosed):  # the flow is given up
            while True:
                await self._stirred.wait()
                while (block := self._oldest()) is not None:
                    await self.out.wait_for_room(len(block.payload), block.frames)
                    if self._is_abandoned() and await self._ends_soon():
                        return  # what still waits is for the next run
                    # Looked at again: it may have been dropped. From here to the sending nothing is awaited.
                    for _ in range(_AT_ONCE):
                        if not self._send_oldest():
                            break
                    self._moved.set()
                    await asyncio.sleep(0)
                if self._ending.is_set():
                    return
                self._stirred.clear()

    def _is_abandoned(self) -> bool:
        """Tell whether a consumer has failed since the last look: what is sent to it is dropped, as far as it gets."""
        failed, self._failed_blocks = self._failed_blocks, self.out.failed_blocks
        return self._abandoned or self._failed_blocks > failed

    async def _ends_soon(self) -> bool:
        """Send nothing for a second; True if the stream ends meanwhile, as it does when its flow has failed."""
        self._abandoned = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAILED_S):
                await self._ending.wait()
        self._abandoned = self._ending.is_set()
        return self._abandoned

    def _oldest(self) -> SpooledBlock | None:
        """Return what has waited longest, if anything waits."""
        block = None if self._store is None else self._take(self._store)
        return self._hand if block is None else block

    def _send_oldest(self) -> bool:
        """Send one block on that waits; False where none is left, or there is no room for it."""
        block = self._oldest()
        if block is None or not self.out.has_room(len(block.payload), block.frames):
            return False
        ready = self._made(block)
        if ready is None:
            self._drop(block)
            self._lost_ahead = True
        else:
            if self._lost_ahead:
                ready = ready.derived(ready.payload, ready.format, ready.flags | _DISCONTINUITY)
                self._lost_ahead = False
            self.out.pass_on(ready)
        if block is self._hand:
            self._hand = None
            self._passed += 1
            return True
        assert self._store is not None
        self._restored += ready is not None
        # Only now: whatever ends the process in between, the block comes again rather than not at all.
        self._store.forget()
        self._old_left = max(self._old_left - 1, 0)
        self._minded.set()
        if self._store.problem is not None:
            self._note_failure(self._store.problem)
        return True

    def _take(self, store: SpoolStore) -> SpooledBlock | None:
        """Return the oldest block of the store; what cannot be read is counted as dropped."""
        damaged, frames = store.damaged_blocks, store.depth_frames
        try:
            block = store.take()
        except SpoolUnavailable as problem:
            self._give_up(store, problem)
            return None
        if store.damaged_blocks > damaged:
            self._dropped_blocks += store.damaged_blocks - damaged
            self._dropped_frames += max(frames - store.depth_frames, 0)
            self._lost_ahead = True
            _logger.warning("%s: %d damaged blocks were passed over.", self._path, store.damaged_blocks - damaged)
        return block

    def _give_up(self, store: SpoolStore, problem: SpoolUnavailable) -> None:
        """Let go of a file that cannot be read: what waits there is dropped, because what comes later would overtake it."""
        self._note_failure(problem)
        self._dropped_blocks += store.depth_blocks
        self._dropped_frames += store.depth_frames
        self._lost_ahead = self._given_up = True
        self._let_go(store, problem)

    def _let_go(self, store: SpoolStore, problem: SpoolUnavailable) -> None:
        store.abandon()
        self._store = None
        self._retry_ns = monotonic_ns() + (_DAMAGED_RETRY_NS if problem.reason == "damaged" else RETRY_NS)

    # --- the disk -------------------------------------------------------------------------------------------------------------------

    async def _mind(self) -> None:
        """Have written what waits for that, though nobody comes, and try a disk again that has failed."""
        while True:
            await self._minded.wait()
            await asyncio.sleep(_LOOK_S)
            self._look_after()
            if self._failed_ns is None and (self._store is None or not self._store.is_dirty):
                self._minded.clear()

    def _look_after(self) -> None:
        store = self._store
        if store is None:
            self._try_to_open()
            return
        try:
            store.flush_if_due()
        except SpoolUnavailable as problem:
            self._note_failure(problem)
        if store.problem is None:
            self._note_works()

    def _try_to_open(self) -> None:
        now_ns = monotonic_ns()
        if now_ns < self._retry_ns:
            return
        try:
            store = self._open()
        except FlowError as problem:
            is_damaged = not isinstance(problem, SpoolUnavailable) or problem.reason == "damaged"
            self._retry_ns = now_ns + (_DAMAGED_RETRY_NS if is_damaged else RETRY_NS)
            return
        try:
            if self._given_up:
                store.clear()
        except SpoolUnavailable as problem:
            self._let_go(store, problem)
            return
        self._given_up = False
        self._store = store
        self._leftover += store.depth_blocks  # a file that somebody has put there
        self._old_left = store.depth_blocks
        if self._old_left:
            self._lost_ahead = self._lost_behind = True
            self._stirred.set()
        self._note_works()

    def _open(self) -> SpoolStore:
        return SpoolStore(self._path, format=self._format, max_bytes=self._max_bytes, max_blocks=self._max_blocks)

    def _note_failure(self, problem: SpoolUnavailable) -> None:
        if self._failed_ns is not None:
            return
        self._failed_ns = monotonic_ns()
        self._dropped_before = self._dropped_blocks
        self._minded.set()
        tell(
            self,
            SpillFailed(
                module=name_in_flow(self), path=str(self._path), reason=str(problem)[:_REASON], then=self._then
            ),
        )

    def _note_works(self) -> None:
        if self._failed_ns is None:
            return
        lasted_ns = monotonic_ns() - self._failed_ns
        self._failed_ns = None
        self._moved.set()
        dropped = self._dropped_blocks - self._dropped_before
        tell(
            self,
            SpillRestored(module=name_in_flow(self), path=str(self._path), lasted_s=lasted_ns / 1e9, dropped=dropped),
        )

    def _shut(self) -> None:
        """Close the file, and say how much stays in it."""
        store, self._store = self._store, None
        hand, self._hand = self._hand, None
        if hand is not None and not (store is not None and self._append_last(store, hand)):
            self._drop(hand)
        if store is None:
            return
        self._depth = store.depth_blocks, store.depth_bytes, store.depth_frames
        try:
            store.close()
        except SpoolUnavailable as problem:
            _logger.error("%s", problem)  # noqa: TRY400  (it says what to do, and where it came from helps nobody)
        blocks, _, frames = self._depth
        if blocks:
            tell(
                self,
                SpillLeft(
                    module=name_in_flow(self),
                    path=str(self._path),
                    blocks=blocks - store.lost_blocks,
                    frames=frames,
                    lost=store.lost_blocks,
                ),
            )

    @staticmethod
    def _append_last(store: SpoolStore, block: SpooledBlock) -> bool:
        try:
            return store.append(block)
        except SpoolUnavailable:
            return False

    # --- blocks and what is stored of them --------------------------------------------------------------------------------------------

    def _spooled(self, data: Block) -> SpooledBlock:
        payload = data.payload
        if isinstance(payload, np.ndarray):
            payload = payload.tobytes()
        return SpooledBlock(
            payload, data.frames, data.timestamp_ns, data.first_frame, data.flags & _KEPT_FLAGS, data.encoded_metadata
        )

    def _made(self, stored: SpooledBlock) -> Block | None:
        """Make a block again; None where an earlier run has left what the format does not allow."""
        try:
            metadata = decode_metadata(stored.metadata) or None
            data = self._payload(stored, decoded=metadata is not None or self._old_left > 0)
        except (DataError, ValueError) as error:
            _logger.warning("%s: a block was passed over: %s", self._path, error)
            return None
        return Block(
            data,
            self._format,
            timestamp_ns=stored.timestamp_ns,
            first_frame=stored.first_frame,
            flags=stored.flags & _KEPT_FLAGS,
            metadata=metadata,
        )

    def _payload(self, stored: SpooledBlock, *, decoded: bool) -> Any:
        fmt = self._format
        if isinstance(fmt, AudioFormat):
            shape, expected = fmt.block_shape(stored.frames), fmt.frame_bytes * stored.frames
        elif isinstance(fmt, ArrayFormat):
            shape, expected = fmt.shape, fmt.max_payload_bytes
        else:
            # As it was encoded, unless the class may have changed since, or the block has to be encoded anew for its metadata.
            return self._codec.decode(stored.payload) if decoded and self._codec is not None else stored.payload
        if len(stored.payload) != expected or not expected:
            raise ValueError(f"expected {expected} bytes of {fmt}, got {len(stored.payload)}")
        return np.frombuffer(stored.payload, fmt.dtype).reshape(shape)

    def __repr__(self) -> str:
        return f"<Spool {str(self._path)!r}: {self.counts().depth_blocks} blocks wait, then {self._then}>"


def _payload_bytes(data: Block) -> int:
    payload = data.payload
    return payload.nbytes if isinstance(payload, np.ndarray) else len(payload)
