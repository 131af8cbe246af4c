"""
Audio files at the two ends of a flow: `FileSource` and `FileSink`.

They need the extra ``audio`` (soundfile), which is imported when the first of them is made.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from steadyflow.arguments import MAX_BLOCK_FRAMES, checked_path, checked_switch
from steadyflow.audio import containers
from steadyflow.clock import Clock, SystemClock
from steadyflow.data import Block, BlockFlag, FlowData
from steadyflow.errors import ConfigurationError, FileUnreadable, FileUnwritable, UnknownName
from steadyflow.formats import AudioFormat, Format, checked_integer
from steadyflow.libsndfile import load_soundfile, reason
from steadyflow.module import Input, Module, Output, Source

# An unpaced source reads this much at once and cuts its blocks from it: a call for each small block costs more than
# its samples. A paced one reads block by block, so that no read takes much longer than another.
_READ_AHEAD_FRAMES: Final = 16_384

# libsndfile's Vorbis encoder overflows the stack with very long pieces.
_MOST_WRITTEN_FRAMES: Final = 1 << 16

# The sizes in a WAV have 32 bits; with some room for the header and the padding.
_MOST_WAV_BYTES: Final = (1 << 32) - 4096
_WAV_SAMPLE_BYTES: Final = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}


class FileSource(Source):
    """
    Plays an audio file; its end is the end of the stream.

    Reads what libsndfile reads: WAV, FLAC, OGG, AIFF, MP3 and more. Samples come as f32, full scale 1.0, exact up to
    24 bits. The file's rate and channels are the output's.

    Port ``out``: blocks of `block_frames`; the last one may be shorter, and is flagged ``END_OF_STREAM``. A frame is
    stamped ``start + index / rate``, where start is the time at which the first block was sent; so it is when unpaced,
    where the stamps then run ahead of the clock.

    A read may block on the disk, for a short time.

    Args:
        path: The file.
        block_frames: The length of the blocks, 1 to 1,048,576.
        realtime_pace: Send each block when its first frame is due; False: as fast as the pipelines take them.

    Raises:
        ConfigurationError: An argument is impossible.
        MissingExtra: soundfile is not installed.
    """

    out = Output(AudioFormat())

    _clock: Clock = SystemClock()
    _file: Any = None
    _problem: str = ""

    def __init__(self, path: str | os.PathLike[str], block_frames: int = 480, realtime_pace: bool = True) -> None:
        self._path = checked_path("FileSource", path)
        self._block_frames = checked_integer("FileSource", "block_frames", block_frames, MAX_BLOCK_FRAMES)
        self.paced = checked_switch("FileSource", "realtime_pace", realtime_pace)
        load_soundfile("audio.FileSource")

    def resolve_formats(self, inputs: Mapping[str, Format]) -> Mapping[str, Format]:
        """
        Read the header of the file. May block on the disk.

        Raises:
            FileUnreadable: The file is missing, not permitted, empty, or not audio.
        """
        with containers.open_to_read(self._path) as file:
            return {"out": AudioFormat(file.samplerate, file.channels, max_block_frames=self._block_frames)}

    def setup(self) -> None:
        """
        Open the file. May block on the disk.

        Raises:
            FileUnreadable: The file is missing, not permitted, empty, or not audio.
        """
        self._file = containers.open_to_read(self._path)

    def produce(self) -> Generator[int | None, int | None]:
        """
        Send the file block by block.

        Yields:
            When paced, the monotonic time in ns at which the next block is due, always counted from the start, so that
            delays do not add up; else None. A pause moves the start.

        Raises:
            FileUnreadable: The data is damaged, or ends before the header says; what there is has been sent.
        """
        rate = self._file.samplerate
        promised = containers.promised_frames(self._path, self._file)
        start_ns = self._clock.monotonic_ns()
        position = 0
        waiting: npt.NDArray[np.float32] | None = None
        # The reading is one block ahead of the sending: only the next read shows which block is the last.
        for block in self._blocks():
            if waiting is not None:
                self._send(waiting, start_ns, position, 0)
                position += len(waiting)
                start_ns += (yield start_ns + position * 1_000_000_000 // rate if self.paced else None) or 0
            waiting = block
        length = position if waiting is None else position + len(waiting)
        if not self._problem and promised is not None and length < promised:
            self._problem = "the file was cut off"
        if waiting is not None:
            self._send(waiting, start_ns, position, 0 if self._problem else BlockFlag.END_OF_STREAM)
        if self._problem:
            expected = "audio up to its end" if promised is None else containers.describe_length(promised, rate)
            raise FileUnreadable(
                f"{self._path}: expected {expected}, got {containers.describe_length(length, rate)}: "
                f"{self._problem}. What could be read was played. Get the file again from where it came."
            )

    def teardown(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Read the file up to its end, or up to what `_problem` then says."""
        step = self._block_frames
        at_once = step if self.paced else step * max(_READ_AHEAD_FRAMES // step, 1)
        # Not further than the header says: after that there may be tags, or the remains of a failed recording.
        left = self._file.frames
        while left and not self._problem:
            samples, self._problem = containers.read_frames(self._file, min(at_once, left))
            for begin in range(0, len(samples), step):
                yield samples[begin : begin + step]
            left = left - len(samples) if len(samples) == min(at_once, left) else 0

    def _send(self, samples: npt.NDArray[np.float32], start_ns: int, position: int, flags: int) -> None:
        timestamp_ns = start_ns + position * 1_000_000_000 // self._file.samplerate
        self.out.send(FlowData(samples, timestamp_ns=timestamp_ns, first_frame=position, flags=int(flags)))

    def __repr__(self) -> str:
        pace = "real-time pace" if self.paced else "as fast as possible"
        return f"<{type(self).__name__} {str(self._path)!r}, {self._block_frames} frames per block, {pace}>"


class FileSink(Module):
    """
    Records to an audio file; an existing one is replaced.

    The suffix names the container: ``.wav``, ``.flac`` or ``.ogg`` (Vorbis, which is lossy and has no sample type of
    its own). Samples are rounded to the nearest; those outside of -1.0..1.0 are clipped, never wrapped around, and
    counted in `clipped_samples`; not-a-number becomes 0. A WAV of f32 or f64 keeps all samples as they are.

    Blocks on the disk, and has a worker of its own. The file is complete when the flow has ended; after a failure,
    such as a full disk, it is readable up to the position that the error names.

    Port ``audio``: any rate and channels that the container can hold.

    Args:
        path: The file.
        sample_type: ``"u8"``, ``"s16"``, ``"s24"``, ``"s32"``, ``"f32"`` or ``"f64"``; of these, FLAC has s16 and s24.

    Raises:
        ConfigurationError: An argument is impossible, or the container does not have this sample type.
        MissingExtra: soundfile is not installed.
    """

    audio = Input(AudioFormat())
    blocking = True

    clipped_samples: int = 0
    """How many samples were outside of -1.0..1.0."""

    _file: Any = None
    _written_frames: int = 0

    def __init__(self, path: str | os.PathLike[str], sample_type: str = "s16") -> None:
        self._path = checked_path("FileSink", path)
        where = f"FileSink {self._path.name!r}"
        suffix = self._path.suffix.lower()
        if suffix not in containers.SUBTYPES:
            raise UnknownName("suffix", suffix, containers.SUBTYPES, where=where)
        self._container, subtypes = containers.SUBTYPES[suffix]
        if sample_type not in list(subtypes):  # a list: whatever came may not be hashable
            raise UnknownName(f"sample type of {self._container}", sample_type, subtypes, where=where)
        self._sample_type = sample_type
        self._subtype = subtypes[sample_type]
        load_soundfile("audio.FileSink")

    def setup(self) -> None:
        """
        Create the file. May block on the disk.

        Raises:
            FileUnwritable: It cannot be created there, or the container cannot hold this rate or these channels.
        """
        fmt = self.audio.format
        if not isinstance(fmt, AudioFormat) or fmt.sample_rate_hz is None or fmt.channels is None:
            raise ConfigurationError(
                f"FileSink {self._path.name!r}: its input is not connected. Connect it, or remove it."
            )
        self._rate = fmt.sample_rate_hz
        frame_bytes = _WAV_SAMPLE_BYTES.get(self._subtype, 1) * fmt.channels
        self._most_frames = _MOST_WAV_BYTES // frame_bytes if self._container == "WAV" else containers.UNKNOWN_FRAMES
        self._file = containers.open_to_write(self._path, fmt, self._container, self._subtype)

    def process(self, audio: Block) -> None:
        """
        Write a block. May block on the disk.

        Raises:
            FileUnwritable: The disk is full, or the container is; the file is readable up to the position named.
        """
        samples = audio.samples
        room = min(self._most_frames - self._written_frames, len(samples))
        for begin in range(0, room, _MOST_WRITTEN_FRAMES):
            self._write(self._converted(samples[begin : min(begin + _MOST_WRITTEN_FRAMES, room)]))
        if room < len(samples):
            self._close()
            raise FileUnwritable(
                f"{self._path}: a WAV file cannot hold more than 4 GiB, which ends at {self._reached()}. "
                f"The file is complete up to there. Record to .flac instead."
            )

    def finish(self) -> None:
        """
        Complete the file. May block on the disk.

        Raises:
            FileUnwritable: The disk is full; the file is readable up to the position named.
        """
        self._close()
        if self.clipped_samples:
            import logging  # it is a good part of what importing this module would cost

            logging.getLogger(__name__).warning(
                "%s: clipped %d samples outside of -1.0..1.0", self._path, self.clipped_samples
            )

    def teardown(self) -> None:
        """Complete the file also after a failure elsewhere. May block on the disk; raises as `finish` does."""
        self._close()

    def _converted(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Samples as the file stores them. libsndfile itself would round down, which shifts the mean."""
        if self._subtype in ("FLOAT", "DOUBLE"):
            return samples
        if not (samples.min() >= -1.0 and samples.max() <= 1.0):  # written so that NaN is seen
            self.clipped_samples += samples.size - int(np.count_nonzero(np.abs(samples) <= 1.0))
            samples = np.clip(np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)
        match self._subtype:
            case "PCM_U8":  # soundfile takes no 8 bits; libsndfile drops the lower eight of 16
                return _rounded(samples, 8).astype(np.int16) << 8
            case "PCM_16":
                return _rounded(samples, 16).astype(np.int16)
            case "PCM_24":
                return _rounded(samples, 24).astype(np.int32) << 8
            case "PCM_32":
                return _rounded(samples.astype(np.float64), 32).astype(np.int32)
        return samples

    def _write(self, samples: npt.NDArray[Any]) -> None:
        try:
            self._file.write(samples)
        # soundfile asserts that everything was written.
        except (load_soundfile("audio.FileSink").SoundFileError, AssertionError) as error:
            file, self._file = self._file, None
            with contextlib.suppress(load_soundfile("audio.FileSink").SoundFileError):
                file.close()
            self._fail(error)
        self._written_frames += len(samples)

    def _close(self) -> None:
        """Complete the file, and check that everything arrived: the loss of the last write is not always reported."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            file.close()
        except load_soundfile("audio.FileSink").SoundFileError as error:
            self._fail(error)
        # Without frames there is not always a header.
        if self._written_frames and containers.stored_frames(self._path) != self._written_frames:
            self._fail(None)

    def _fail(self, error: Exception | None) -> NoReturn:
        """Make what was stored readable, find out how much that is, and say why it is not more."""
        self._written_frames = containers.rescue(self._path, self._container, self._written_frames)
        why = containers.why_not_longer(self._path)
        if why is None:
            why = "the system did not store everything" if error is None else reason(error)
        kept = "The file is readable up to there" if self._written_frames else "Nothing of it can be read"
        raise FileUnwritable(
            f"{self._path}: {why}, at {self._reached()}. {kept}. Make room, or choose another folder."
        ) from error

    def _reached(self) -> str:
        return containers.describe_length(self._written_frames, self._rate)

    def __repr__(self) -> str:
        return f"<FileSink {str(self._path)!r}, {self._container} {self._sample_type}>"


def _rounded(samples: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Samples as whole numbers of so many bits, still as floats."""
    full_scale = 1 << (bits - 1)
    whole: npt.NDArray[Any] = np.minimum(np.rint(samples * full_scale), full_scale - 1)
    return whole
