"""`Recording`: what was recorded, without a flow."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Generator, Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import numpy as np

from steadyflow.arguments import checked_path, checked_seconds
from steadyflow.codec import codec_for
from steadyflow.data import Block, decode_metadata
from steadyflow.errors import ConfigurationError, DataError, FileUnreadable, FormatClash, UnknownName
from steadyflow.formats import ArrayFormat, AudioFormat, BytesFormat, Format, StructFormat
from steadyflow.recording.chunk import ChunkPlace, Message, check_number
from steadyflow.recording.container import Container
from steadyflow.recording.message import MESSAGE_ENCODING, Parts, build_format, loaded_class, read_description, unpack
from steadyflow.recording.records import Damage

_MOST_STAMP: Final = (1 << 63) - 1


class RecordingInfo(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a recording says about itself.

    Args:
        pipeline: The id of the recorded pipeline.
        format: The recorded format, by builtin types; a struct's class by its path.
        recorded_at: When the recording began, in UTC; None where the file does not say it.
        recorded_with: The version of steadyflow that made it.
        size_bytes: The size of the file.
        problem: Why it ends early or has to be read from its beginning; empty if it is whole.
    """

    pipeline: str
    format: dict[str, Any]
    recorded_at: datetime.datetime | None
    recorded_with: str
    size_bytes: int
    problem: str

    @property
    def complete(self) -> bool:
        """Whether the recorder finished the file, and its index is whole."""
        return not self.problem


class Recording:
    """
    A recorded pipeline: blocks with their stamps, flags and metadata, as they were sent.

    Opening reads the index at the end of the file. A file that was not finished, because its recorder was killed or the
    disk was full, has none: then all of it is read once, what is whole is the recording, and a warning is logged that
    says where it ends. Several threads may read. May block on the disk.

    ::

        with Recording("take.mcap") as take:
            for block in take.blocks(start_s=10.0, stop_s=20.0):
                ...

    Args:
        path: The file.
        pipeline: Which pipeline, where the file holds several.
        format: `StructFormat` with the class to decode to, where the recorded class is not loaded; `BytesFormat` for the
            payloads as they are. None: the recorded format.

    Raises:
        FileUnreadable: No such file, no recording, or nothing of it can be read; names file and offset. Or two recordings
            of one pipeline, which were merged.
        UnknownName: No such pipeline in it; offers the nearest.
        ConfigurationError: It holds several pipelines; the format is none of these two; or no argument of this kind.
        FormatClash: A `StructFormat` for something that is no struct.
        MissingExtra: mcap is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        pipeline: str | None = None,
        format: StructFormat | BytesFormat | None = None,
    ) -> None:
        self.path: Path = checked_path("Recording", path)
        check_replacement("Recording", format)
        self._replacement = format
        with contextlib.ExitStack() as undo:
            self._file = Container(self.path, MESSAGE_ENCODING)
            undo.callback(self._file.close)
            self._channel = self._choose(pipeline)
            self._described = self._describe()
            self._check_replaceable()
            undo.pop_all()
        if self._file.problem:
            logging.getLogger(__name__).warning("%s: %s", self.path, self._file.problem)

    @property
    def pipeline(self) -> str:
        """The id of the recorded pipeline."""
        return str(self._channel.topic)

    @cached_property
    def format(self) -> Format:
        """
        What the payloads of the blocks are.

        Raises:
            ConfigurationError: The class of recorded structs is not loaded; says what to do.
        """
        given = self._replacement
        if isinstance(given, BytesFormat):
            return given
        if given is not None:
            return build_format(self._described, given.type)
        is_struct = self._described["kind"] == "struct"
        cls = loaded_class(self._described["type"], where=str(self.path)) if is_struct else type(None)
        return build_format(self._described, cls)

    @property
    def format_text(self) -> str:
        """The recorded format in words; also where the class of recorded structs is not loaded."""
        if self._described["kind"] == "struct":
            return f"struct {self._described['type']}"
        return str(build_format(self._described, type(None)))

    @property
    def info(self) -> RecordingInfo:
        """What the recording says about itself."""
        metadata = self._channel.metadata
        recorded_at = None
        if len(self):
            try:
                unix_ns = self._first_ns + int(metadata["unix_offset_ns"])
                recorded_at = datetime.datetime.fromtimestamp(unix_ns / 1e9, tz=datetime.UTC)
            except (KeyError, ValueError, OverflowError, OSError):
                recorded_at = None  # another program wrote the file, and does not say it
        return RecordingInfo(
            pipeline=self.pipeline,
            format=dict(self._described),
            recorded_at=recorded_at,
            recorded_with=metadata.get("steadyflow", ""),
            size_bytes=self._file.size_bytes,
            problem=self._file.problem,
        )

    @property
    def duration_s(self) -> float:
        """From the sending of the first block to the sending of the last one; 0.0 for less than two blocks."""
        return (self._last_ns - self._first_ns) / 1e9 if len(self) else 0.0

    def __len__(self) -> int:
        """How many blocks there are: as the index says, or counted where there is none. Wait-free."""
        return self._file.counts.get(self._channel.id, 0)

    def __iter__(self) -> Iterator[Block]:
        return self.blocks()

    def blocks(self, start_s: float = 0.0, stop_s: float | None = None) -> Iterator[Block]:
        """
        Read blocks in the order in which they were sent. May block on the disk; allocates.

        Reads the chunks that hold the range, as the index says, and before them the first one, for the time of the first
        block. One chunk at a time is in memory, and as it stands in the file too where it is compressed. A `Recorder`
        completes a chunk at 1 MiB, so it has up to that and one block; one of another program may have up to 1.1 GiB.
        Stamps are as recorded: `timestamp_ns` and `sent_ns` on the monotonic clock of then, `sequence` of then. Arrays are
        the caller's own.

        Args:
            start_s: From the first block that was sent this long after the first one of all.
            stop_s: Up to, and without, those that were sent so long after the first one; None: up to the end.

        Raises:
            FileUnreadable: Something in the file is damaged, or there were more or fewer blocks than its index says; the
                blocks before that have been returned.
            ConfigurationError: No time of this kind; or see `format`.
            DataError: A struct does not decode to its class, or metadata are none.
        """
        start_ns = round(checked_seconds("Recording.blocks", "start_s", start_s) * 1e9)
        stop_ns = None if stop_s is None else round(checked_seconds("Recording.blocks", "stop_s", stop_s) * 1e9)
        decode = _Decoder(self.format, raw=isinstance(self._replacement, BytesFormat), where=str(self.path))
        return self._blocks(decode, start_ns, stop_ns)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Recording {str(self.path)!r} of {self.pipeline}: {len(self)} blocks, {self.format_text}>"

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _choose(self, pipeline: str | None) -> Any:
        topics: dict[str, Any] = {}
        for channel in self._file.channels.values():
            if topics.setdefault(channel.topic, channel) is not channel:
                raise FileUnreadable(
                    f"{self.path}: expected one recording of each pipeline, got two of {channel.topic!r}. Read the files "
                    f"that were merged in it."
                )
        if pipeline is None and len(topics) == 1:
            return next(iter(topics.values()))
        if pipeline is None:
            raise ConfigurationError(
                f"{self.path}: expected which pipeline is meant, because it holds {len(topics)}: "
                f"{', '.join(map(repr, topics))}. Give pipeline=..."
            )
        if pipeline not in topics:
            raise UnknownName("pipeline", pipeline, topics, where=str(self.path))
        return topics[pipeline]

    def _check_replaceable(self) -> None:
        if isinstance(self._replacement, StructFormat) and self._described["kind"] != "struct":
            raise FormatClash(f"{self.path}: expected a recording of structs, got one of {self.format_text}.")

    def _describe(self) -> dict[str, Any]:
        try:
            return read_description(self._channel.metadata.get("format", ""))
        except ValueError as error:
            raise FileUnreadable(f"{self.path}: expected the format of {self.pipeline}; {error}.") from None

    def _blocks(self, decode: _Decoder, start_ns: int, stop_ns: int | None) -> Iterator[Block]:
        if not len(self):
            return
        start_ns += self._first_ns
        stop_ns = None if stop_ns is None else stop_ns + self._first_ns
        expected: dict[int, int] = {}
        count, is_whole = 0, True
        for place in self._file.chunks:
            if place.end_ns < start_ns or (stop_ns is not None and place.start_ns >= stop_ns):
                expected.clear()
                is_whole = False
                continue
            count += yield from self._blocks_in(place, expected, decode, start_ns, stop_ns)
        if is_whole and count != len(self):
            raise self._miscounted(count)

    def _blocks_in(
        self, place: ChunkPlace, expected: dict[int, int], decode: _Decoder, start_ns: int, stop_ns: int | None
    ) -> Generator[Block, None, int]:
        """Read the blocks of a chunk that lie in the range; returns how many it has. Lets go of the chunk before the next."""
        count = 0
        for message in self._messages(place):
            try:
                check_number(expected, message.channel, message.number, place.offset)
            except Damage as damage:
                raise FileUnreadable(f"{self.path}: {damage}. Blocks are missing.") from None
            count += 1
            if message.log_ns >= start_ns and (stop_ns is None or message.log_ns < stop_ns):
                yield decode(message, place.offset)
        return count

    def _messages(self, place: ChunkPlace) -> Iterator[Message]:
        return (message for message in self._file.messages(place) if message.channel == self._channel.id)

    @cached_property
    def _first_ns(self) -> int:
        """When the first block was sent; chunks of other pipelines may come before it."""
        for place in self._file.chunks:
            for message in self._messages(place):
                return message.log_ns
        raise self._miscounted(0)

    @cached_property
    def _last_ns(self) -> int:
        for place in reversed(self._file.chunks):
            last_ns = None
            for message in self._messages(place):
                last_ns = message.log_ns
            if last_ns is not None:
                return last_ns
        raise self._miscounted(0)

    def _miscounted(self, count: int) -> FileUnreadable:
        return FileUnreadable(
            f"{self.path}: expected {len(self)} blocks of {self.pipeline}, as its index says; got {count} up to the end, "
            f"at offset {self._file.size_bytes}."
        )


class _Decoder:
    """Makes blocks of messages."""

    def __init__(self, fmt: Format, *, raw: bool, where: str) -> None:
        self._format = fmt
        self._where = where
        self._codec = None if raw else codec_for(fmt, where=where)

    def __call__(self, message: Message, offset: int) -> Block:
        try:
            parts = unpack(message.data)
            _check_stamps(message, parts)
            data = self._data(parts)
            metadata = decode_metadata(parts.metadata)
        except DataError as error:
            raise DataError(f"{self._where}: block {message.number}: {error}") from error
        except ValueError as error:
            raise FileUnreadable(f"{self._where}: block {message.number}: {error}, at offset {offset}.") from None
        return Block(
            data,
            self._format,
            timestamp_ns=parts.timestamp_ns,
            first_frame=parts.first_frame,
            sequence=parts.sequence,
            flags=parts.flags,
            metadata=metadata or None,
            sent_ns=message.sent_ns,
        )

    def _data(self, parts: Parts) -> object:
        fmt = self._format
        if self._codec is not None:
            return self._codec.decode(parts.payload)
        if isinstance(fmt, AudioFormat):
            shape, expected = fmt.block_shape(parts.frames), fmt.frame_bytes * parts.frames
        elif isinstance(fmt, ArrayFormat):
            shape, expected = fmt.shape, fmt.max_payload_bytes
        else:
            return bytes(parts.payload)
        if len(parts.payload) != expected or not expected:
            raise ValueError(f"expected {expected} bytes of {fmt}, got {len(parts.payload)}")
        # A copy: aligned, writable, and not keeping a chunk alive.
        return np.frombuffer(parts.payload, fmt.dtype).reshape(shape).copy()


def _check_stamps(message: Message, parts: Parts) -> None:
    if message.sent_ns > _MOST_STAMP or parts.first_frame > _MOST_STAMP or parts.timestamp_ns < 0:
        raise ValueError("a stamp that no block can have")


def check_replacement(owner: str, format: object) -> None:
    """
    Refuse what no payload can be read as.

    Raises:
        ConfigurationError: It is neither a `StructFormat`, a `BytesFormat` nor None.
    """
    if format is not None and not isinstance(format, StructFormat | BytesFormat):
        raise ConfigurationError(
            f"{owner}: expected format to be a StructFormat, to decode to another class, or a BytesFormat, for payloads "
            f"as they are; got {format!r}."
        )
