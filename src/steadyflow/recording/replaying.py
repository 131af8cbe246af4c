"""`Replay`: a source that sends what was recorded."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from steadyflow.arguments import checked_path, checked_seconds
from steadyflow.clock import Clock, SystemClock
from steadyflow.data import Block, FlowData
from steadyflow.errors import DataError, UnknownName
from steadyflow.formats import AnyFormat, BytesFormat, Format, StructFormat
from steadyflow.module import Output, Source
from steadyflow.recording.container import load_mcap
from steadyflow.recording.reading import Recording, check_replacement

Pace: TypeAlias = Literal["exact", "fast"]
Timestamps: TypeAlias = Literal["shifted", "recorded"]

_PACES: Final = ("exact", "fast")
_TIMESTAMPS: Final = ("shifted", "recorded")


class Replay(Source):
    """
    Sends the blocks of a recording, in their order, with their first_frame, flags and metadata; then ends.

    Not live: pipelines may slow it down. `sequence` and `sent_ns` are the new pipeline's own. May block on the disk.

    Port ``out``: of the recorded format.

    Args:
        path: The file that a `Recorder` wrote.
        pace: ``"exact"``: each block as long after the first one as when it was recorded; ``"fast"``: as soon as the
            pipelines take it.
        start_s: Begin with the first block that was sent so long after the first one of the recording.
        duration_s: End before the blocks that were sent so long after `start_s`; None: at the end.
        pipeline: Which pipeline, where the file holds several.
        format: `StructFormat` with the class to decode to, or `BytesFormat` for payloads as they are; see `Recording`.
        timestamps: ``"shifted"``: `timestamp_ns` is moved by as much as lies between the sending of the first block then
            and now, so that it is a time of today's monotonic clock, as far before its sending as it was then, and runs
            ahead of the clock where the pace is fast; ``"recorded"``: as it was recorded.

    Raises:
        ConfigurationError: An argument is impossible.
        MissingExtra: mcap is not installed.
    """

    out = Output(AnyFormat())

    _clock: Clock = SystemClock()
    _recording: Recording | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        pace: Pace = "exact",
        start_s: float = 0.0,
        duration_s: float | None = None,
        pipeline: str | None = None,
        format: StructFormat | BytesFormat | None = None,
        timestamps: Timestamps = "shifted",
    ) -> None:
        self._path: Path = checked_path("Replay", path)
        if pace not in _PACES:
            raise UnknownName("pace", pace, _PACES, where="Replay")
        if timestamps not in _TIMESTAMPS:
            raise UnknownName("timestamps", timestamps, _TIMESTAMPS, where="Replay")
        check_replacement("Replay", format)
        self.paced = pace == "exact"
        self._start_s = checked_seconds("Replay", "start_s", start_s)
        self._stop_s = None
        if duration_s is not None:
            self._stop_s = self._start_s + checked_seconds("Replay", "duration_s", duration_s)
        self._pipeline = pipeline
        self._format = format
        self._shifts = timestamps == "shifted"
        load_mcap("recording.Replay")

    def resolve_formats(self, inputs: Mapping[str, Format]) -> Mapping[str, Format]:
        """
        Read the recorded format. May block on the disk.

        Raises:
            FileUnreadable: No such file, no recording, or nothing of it can be read.
            UnknownName: It does not hold the pipeline that was asked for.
            ConfigurationError: It holds several; or the class of recorded structs is not loaded; says what to do.
        """
        return {"out": self._open().format}

    def setup(self) -> None:
        """Open the file. May block on the disk; raises as `resolve_formats` does."""
        self._open()

    def produce(self) -> Generator[int | None, int | None]:
        """
        Send the recording block by block.

        Yields:
            When paced, the monotonic time in ns at which the next block is due, always counted from the first one, so that
            delays do not add up; else None. A pause moves all that follow.

        Raises:
            FileUnreadable: The file is damaged; the blocks before that have been sent.
            DataError: A block cannot be decoded or stamped.
        """
        shift_ns: int | None = None
        due_ns = 0
        for block in self._open().blocks(self._start_s, self._stop_s):
            if shift_ns is None:
                shift_ns = self._clock.monotonic_ns() - block.sent_ns
            elif self.paced:
                # Blocks of several threads may have been sent a little out of order.
                due_ns = max(due_ns, block.sent_ns + shift_ns)
                held_ns = (yield due_ns) or 0
                shift_ns, due_ns = shift_ns + held_ns, due_ns + held_ns
            else:
                yield None
            self._send(block, shift_ns)

    def teardown(self) -> None:
        """Close the file."""
        if self._recording is not None:
            self._recording.close()
            self._recording = None

    def _open(self) -> Recording:
        if self._recording is None:
            fmt = self.out.format if isinstance(self.out.format, StructFormat) else self._format
            self._recording = Recording(self._path, pipeline=self._pipeline, format=fmt)
        return self._recording

    def _send(self, block: Block, shift_ns: int) -> None:
        timestamp_ns = block.timestamp_ns + shift_ns if self._shifts else block.timestamp_ns
        if timestamp_ns < 0:
            raise DataError(
                f"{self._path}: block {block.sequence} is stamped {block.timestamp_ns} ns, which was no time of the "
                f"monotonic clock, so it cannot be shifted to today's. Replay it with timestamps='recorded'."
            )
        self.out.send(
            FlowData(
                block.data,
                timestamp_ns=timestamp_ns,
                first_frame=block.first_frame,
                flags=block.flags,
                metadata=block.metadata,
            )
        )

    def __repr__(self) -> str:
        return f"<Replay {str(self._path)!r}, {'exact' if self.paced else 'fast'} pace>"


def replay(
    path: str | os.PathLike[str],
    *,
    pace: Pace = "exact",
    start_s: float = 0.0,
    duration_s: float | None = None,
    pipeline: str | None = None,
    format: StructFormat | BytesFormat | None = None,
    timestamps: Timestamps = "shifted",
) -> Replay:
    """Make a `Replay` of a recording, for ``flow.add``; the arguments are described there."""
    return Replay(
        path,
        pace=pace,
        start_s=start_s,
        duration_s=duration_s,
        pipeline=pipeline,
        format=format,
        timestamps=timestamps,
    )
