"""
Audio files as soundfile (libsndfile) sees them, and what it leaves to its user.

Lengths that were promised but are not there, reads past damage, the reason of a failed write, and FLAC files that are
readable although their encoder could not finish. `files` is built on this; nothing else needs it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steadyflow.errors import FileUnreadable, FileUnwritable
from steadyflow.formats import AudioFormat
from steadyflow.libsndfile import SUBTYPES as SUBTYPES
from steadyflow.libsndfile import UNKNOWN_FRAMES as UNKNOWN_FRAMES
from steadyflow.libsndfile import load_soundfile, promised_wav_frames, reason

# A header of these promises a number of frames; of the others, the end of the data is the end of the stream.
_CONTAINERS_WITH_LENGTH: Final = ("WAV", "WAVEX", "RF64", "FLAC")

# Sample types of a WAV in which all frames have the same size.
_PLAIN_SUBTYPES: Final = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")

# Where the number of frames stands in a FLAC file: 36 bits, of which the upper four share a byte with something else.
_FLAC_LENGTH_AT: Final = 21

# A FLAC encoder that fails has not stored up to some blocks of 4096 frames that it had taken.
_FLAC_DOUBTFUL_FRAMES: Final = 1 << 17

_PROBE_BYTES: Final = 1 << 16


@functools.cache
def _sequential_file() -> Any:
    """
    Return a class of files that are only read or written from begin to end.

    An ordinary `SoundFile` asks for its position and seeks around every call. That takes longer than the call and, at
    the end of a file that was cut off, fails.
    """
    soundfile = load_soundfile("steadyflow.audio")

    class SequentialFile(soundfile.SoundFile):  # type: ignore[misc, name-defined, unused-ignore]
        def seekable(self) -> bool:
            return False

    return SequentialFile


def describe_length(frames: int, sample_rate_hz: int) -> str:
    """Return a length or position for a message, in frames and seconds."""
    return f"{frames} frames ({frames / sample_rate_hz:.3f} s)"


# --- reading ----------------------------------------------------------------------------------------------------------


def open_to_read(path: Path) -> Any:
    """
    Open an audio file for reading from begin to end. May block on the disk.

    Returns:
        A `soundfile.SoundFile` that holds at least one frame.

    Raises:
        FileUnreadable: The file is missing, not permitted, empty, or not audio.
    """
    soundfile = load_soundfile("audio.FileSource")
    try:
        with path.open("rb") as raw:
            head = raw.read(16)
    except OSError as error:
        raise FileUnreadable(
            f"{path}: expected an audio file that may be read, got: {error.strerror}. "
            f"Check the path and its permissions."
        ) from error
    if not head:
        raise FileUnreadable(f"{path}: expected an audio file, got an empty one (0 bytes). Choose another file.")
    try:
        file = _sequential_file()(path)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a suffix such as .raw, which has no header
        raise FileUnreadable(
            f"{path}: expected an audio file (WAV, FLAC, OGG, AIFF, MP3 or another that libsndfile knows), "
            f"got one that begins with {head!r}: {reason(error)}. Choose another file, or convert this one."
        ) from error
    if not file.frames:
        file.close()
        raise FileUnreadable(f"{path}: expected audio, got a {file.format} file of 0 frames. Choose another file.")
    return file


def promised_frames(path: Path, file: Any) -> int | None:
    """
    Return how many frames the header promises; None where it does not say. May block on the disk.

    Args:
        path: The file.
        file: The same, opened.
    """
    if file.format not in _CONTAINERS_WITH_LENGTH or file.frames == UNKNOWN_FRAMES:
        return None
    if file.format == "FLAC":
        return int(file.frames)
    # libsndfile corrects the length of a WAV that was cut off, without a word.
    if not file.subtype.startswith(_PLAIN_SUBTYPES):
        return None
    with path.open("rb") as raw:
        return promised_wav_frames(raw)


def read_frames(file: Any, frames: int) -> tuple[npt.NDArray[np.float32], str]:
    """
    Read the next frames. May block on the disk.

    Args:
        file: From `open_to_read`.
        frames: How many, unless the file ends before.

    Returns:
        A new array of shape (frames read, channels), and what is wrong with the file after them, or ``""``.
    """
    # Not a number: what a read that fails has left as it was.
    samples: npt.NDArray[np.float32] = np.full((frames, file.channels), np.nan, np.float32)
    try:
        return file.read(frames, dtype="float32", always_2d=True, out=samples), ""
    except load_soundfile("audio.FileSource").SoundFileError as error:
        missing = np.isnan(samples).any(axis=1)
        return samples[: int(missing.argmax()) if missing.any() else frames], reason(error)


# --- writing ----------------------------------------------------------------------------------------------------------


def open_to_write(path: Path, fmt: AudioFormat, container: str, subtype: str) -> Any:
    """
    Create an audio file, or replace one, for writing from begin to end. May block on the disk.

    Returns:
        A `soundfile.SoundFile`.

    Raises:
        FileUnwritable: It cannot be created there, or the container cannot hold this rate or these channels.
    """
    soundfile = load_soundfile("audio.FileSink")
    if path.exists() and not (path.is_file() or path.is_dir()):
        # A pipe, say, which would wait for somebody who reads it.
        raise FileUnwritable(
            f"{path}: expected a file, or none yet, got something else; at 0 frames. Choose another name."
        )
    try:
        # First without libsndfile, which would only say "System error".
        path.open("wb").close()
    except OSError as error:
        raise FileUnwritable(
            f"{path}: expected a place where a file can be written, got: {error.strerror}, at 0 frames (0.000 s). "
            f"Choose another folder, or change its permissions."
        ) from error
    try:
        return _sequential_file()(path, "w", fmt.sample_rate_hz, fmt.channels, subtype, format=container)
    except soundfile.SoundFileError as error:
        why = why_not_longer(path) or f"a {container} file cannot hold {fmt} ({reason(error)})"
        path.unlink(missing_ok=True)
        raise FileUnwritable(
            f"{path}: {why}, at 0 frames (0.000 s). Make room, or choose another folder or container "
            f"({', '.join(SUBTYPES)})."
        ) from error


def stored_frames(path: Path) -> int | None:
    """Return how many frames a complete file has, by its header; None if it cannot be read. May block on the disk."""
    try:
        with load_soundfile("audio.FileSink").SoundFile(path) as file:
            return int(file.frames)
    except load_soundfile("audio.FileSink").SoundFileError:
        return None


def rescue(path: Path, container: str, frames: int) -> int:
    """
    Make a file readable whose writing failed, as far as its data was stored. May block on the disk.

    Args:
        path: The file, closed.
        container: What it is.
        frames: How many frames had been written, as far as libsndfile knew.

    Returns:
        How many frames can be read.
    """
    if container == "FLAC":
        # Its encoder fills in the length last, after a failure not at all: any reader would run into the broken end.
        _write_flac_length(path, frames)
        frames = _readable_flac_frames(path, frames)
        _write_flac_length(path, frames)
        return frames
    return stored_frames(path) or 0


def _write_flac_length(path: Path, frames: int) -> None:
    with path.open("r+b") as raw:
        raw.seek(_FLAC_LENGTH_AT)
        before = raw.read(1)
        if before:
            raw.seek(_FLAC_LENGTH_AT)
            raw.write(bytes([before[0] & 0xF0 | frames >> 32]) + (frames & 0xFFFF_FFFF).to_bytes(4, "big"))


def _readable_flac_frames(path: Path, frames: int) -> int:
    """Decode the doubtful end of a FLAC file."""
    soundfile = load_soundfile("audio.FileSink")
    for sure in (max(frames - _FLAC_DOUBTFUL_FRAMES, 0), 0):
        try:
            with soundfile.SoundFile(path) as file:
                position = int(file.seek(sure))
                file.seekable = lambda: False
                while position < frames:
                    samples, problem = read_frames(file, min(1 << 14, frames - position))
                    position += len(samples)
                    if problem or not len(samples):
                        break
                return position
        except soundfile.SoundFileError:
            continue  # nothing readable near the end: from the beginning, or not at all
    return 0


def why_not_longer(path: Path) -> str | None:
    """
    Ask the system why a file cannot grow, by trying it: libsndfile does not pass the reason on.

    Returns:
        Such as ``"No space left on device"``; None if it can grow now. The file is left as it was. May block on the
        disk.
    """
    try:
        size = path.stat().st_size
        try:
            with path.open("ab", buffering=0) as raw:
                # The first may be stored in part, which is no error yet.
                raw.write(bytes(_PROBE_BYTES))
                raw.write(bytes(_PROBE_BYTES))
        finally:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
    except OSError as error:
        return error.strerror
    return None
