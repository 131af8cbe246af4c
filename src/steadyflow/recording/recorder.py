"""`Recorder`: a module that writes what comes to a file, ready to be replayed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NoReturn, TypeAlias

import numpy as np

from steadyflow._native import monotonic_ns
from steadyflow.arguments import checked_number, checked_path
from steadyflow.codec import Codec, codec_for
from steadyflow.data import Block
from steadyflow.errors import ConfigurationError, FileUnwritable, FormatMismatch, UnknownName
from steadyflow.formats import AnyFormat, Format
from steadyflow.module import Input, Module
from steadyflow.recording.container import load_mcap
from steadyflow.recording.message import (
    MESSAGE_ENCODING,
    SCHEMA_ENCODING,
    SCHEMA_NAME,
    SCHEMA_TEXT,
    describe_format,
    pack,
)
from steadyflow.recording.opening import create

Compression: TypeAlias = Literal["none", "zstd", "lz4"]

_COMPRESSIONS: Final = ("none", "zstd", "lz4")
_CHUNK_BYTES: Final = 1 << 20
_LONGEST_NAME_BYTES: Final = 1 << 16
_LONGEST_INTERVAL_S: Final = 3600.0


class Recorder(Module):
    """
    Writes the blocks of one pipeline to an MCAP file, with stamps, flags and metadata; `replay` and `Recording` read it.

    ``flow.record(pipeline, path)`` adds one. What is written is the payload as it travels, byte by byte. The file grows by
    chunks with a checksum; if the process is killed, or the disk is full, the whole chunks can be replayed. A file of this
    name is replaced. Has a worker of its own, because it may block on the disk.

    Port ``data``: any format; one pipeline.

    Args:
        path: The file; ``.mcap`` by custom.
        pipeline: What the recorded pipeline is called in the file.
        chunk_s: A chunk is completed by the first block that was sent so long after the chunk's own first one, or when its
            blocks have 1 MiB. What is in the chunk at that moment is lost when the process is killed: also what came long
            ago, where no block has come since.
        compression: ``"none"``, ``"zstd"`` or ``"lz4"``, which take more time of the processor and less of the disk.

    Raises:
        ConfigurationError: An argument is impossible.
        MissingExtra: mcap is not installed.
    """

    data = Input(AnyFormat())
    blocking = True

    recorded_blocks: int = 0
    """How many blocks were taken; those of the last chunk may not be in the file yet."""

    _file: BinaryIO | None = None
    _writer: Any = None
    _chunk_from_ns: int | None = None
    _chunk_bytes: int = 0

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        pipeline: str = "recorded",
        chunk_s: float = 1.0,
        compression: Compression = "none",
    ) -> None:
        self._path: Path = checked_path("Recorder", path)
        if not _is_name(pipeline):
            raise ConfigurationError(
                f"Recorder: expected pipeline to be a name, of up to {_LONGEST_NAME_BYTES:,} bytes in UTF-8, got "
                f"{pipeline!r:.80}."
            )
        self._pipeline = pipeline
        self._chunk_ns = round(checked_number("Recorder", "chunk_s", chunk_s, above=0, most=_LONGEST_INTERVAL_S) * 1e9)
        if compression not in _COMPRESSIONS:
            raise UnknownName("compression", compression, _COMPRESSIONS, where="Recorder")
        self._compression = compression
        load_mcap("recording.Recorder")

    def setup(self) -> None:
        """
        Create the file. May block on the disk.

        Raises:
            FileUnwritable: It cannot be created there, or is being recorded or replayed.
        """
        fmt = self.data.format
        if isinstance(fmt, AnyFormat):
            raise ConfigurationError(
                f"Recorder {self._path.name!r}: its input is not connected. Connect it, or remove it."
            )
        self._format: Format = fmt
        self._codec: Codec | None = codec_for(fmt, where=str(self._path))
        self._log_ns = 0
        self._begin_chunk()
        self._file = create(self._path)
        writing = load_mcap("recording.Recorder").writer
        version = importlib.metadata.version("steadyflow")
        # The writer would complete chunks too, but leave the end of each in the buffer of the file. So `process` does it.
        self._writer = writing.Writer(
            self._file, chunk_size=sys.maxsize, compression=writing.CompressionType[self._compression.upper()]
        )
        try:
            self._writer.start(library=f"steadyflow {version}")
            self._channel = self._writer.register_channel(
                topic=self._pipeline,
                message_encoding=MESSAGE_ENCODING,
                schema_id=self._writer.register_schema(SCHEMA_NAME, SCHEMA_ENCODING, SCHEMA_TEXT.encode()),
                metadata={
                    "format": describe_format(fmt),
                    "unix_offset_ns": str(time.time_ns() - monotonic_ns()),
                    "steadyflow": version,
                },
            )
            self._file.flush()
        except OSError as error:
            self._fail(error)

    def process(self, data: Block) -> None:
        """
        Write a block. May block on the disk; allocates.

        Raises:
            FileUnwritable: The disk is full; what was written before can be replayed.
            FormatMismatch: The block is of another pipeline, with another format.
        """
        if data.format is not self._format and data.format != self._format:
            raise FormatMismatch(
                f"{self._path}: expected blocks of {self._format}, got {data.format}. Give each pipeline its own Recorder."
            )
        payload = data.payload
        if isinstance(payload, np.ndarray):
            payload = payload.tobytes()
        elif self._codec is not None and not isinstance(payload, bytes):
            payload = self._codec.encode(payload)  # a block that was made by hand
        # Several threads may send into one pipeline; in the index times must not go back.
        self._log_ns = max(self._log_ns, data.sent_ns)
        if self._chunk_from_ns is None:
            self._chunk_from_ns = self._log_ns
        message = pack(
            data.sequence, data.timestamp_ns, data.first_frame, data.frames, data.flags, payload, data.encoded_metadata
        )
        try:
            self._writer.add_message(
                self._channel,
                log_time=self._log_ns,
                publish_time=data.sent_ns,
                sequence=self.recorded_blocks & 0xFFFF_FFFF,
                data=message,
            )
            self._chunk_bytes += len(message)
            if self._chunk_bytes >= _CHUNK_BYTES or self._log_ns - self._chunk_from_ns >= self._chunk_ns:
                self._writer.flush()
                self._begin_chunk()
        except OSError as error:
            self._fail(error)
        self.recorded_blocks += 1

    def finish(self) -> None:
        """
        Complete the file with its index. May block on the disk.

        Raises:
            FileUnwritable: The disk is full; what was written before can be replayed.
        """
        self._close()

    def teardown(self) -> None:
        """Complete the file also after a failure elsewhere. May block on the disk; raises as `finish` does."""
        self._close()

    def _begin_chunk(self) -> None:
        self._chunk_from_ns, self._chunk_bytes = None, 0

    def _close(self) -> None:
        if self._file is None:
            return
        try:
            self._writer.finish()
            self._file.close()
        except OSError as error:
            self._fail(error)
        self._file = self._writer = None

    def _fail(self, error: OSError) -> NoReturn:
        assert self._file is not None
        file, self._file, self._writer = self._file, None, None
        with contextlib.suppress(OSError):  # the same once more: what could not be written is still in its buffer
            file.close()
        raise FileUnwritable(
            f"{self._path}: {error.strerror or error}, at block {self.recorded_blocks}. What was written before can be "
            f"replayed, but for the last moment. Make room, or choose another folder."
        ) from error

    def __repr__(self) -> str:
        return f"<Recorder {str(self._path)!r}: {self.recorded_blocks} blocks>"


def _is_name(text: object) -> bool:
    try:
        return isinstance(text, str) and 0 < len(text.encode()) <= _LONGEST_NAME_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
