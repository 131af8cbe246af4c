"""What libsndfile, as soundfile gives it, leaves to its user: what a container holds, and how long a header says it is."""

from __future__ import annotations

import os
import struct
from typing import IO, Any, Final

from steadyflow.errors import MissingExtra

# What can be written. By suffix: libsndfile's name of the container, and of each sample type in it.
SUBTYPES: Final[dict[str, tuple[str, dict[str, str]]]] = {
    ".wav": (
        "WAV",
        {"u8": "PCM_U8", "s16": "PCM_16", "s24": "PCM_24", "s32": "PCM_32", "f32": "FLOAT", "f64": "DOUBLE"},
    ),
    ".flac": ("FLAC", {"s16": "PCM_16", "s24": "PCM_24"}),
    ".ogg": ("OGG", {"s16": "VORBIS", "f32": "VORBIS"}),
}

# libsndfile's way of saying that a header does not tell the length.
UNKNOWN_FRAMES: Final = (1 << 63) - 1

# What the size field of a WAV's data holds if the writer could not go back to fill it in (ffmpeg, sox, arecord).
_SIZE_PLACEHOLDERS: Final = (range(1), range(0x7FFF_F000, 0x8000_0001), range(0xFFFF_F000, 0x1_0000_0000))


def load_soundfile(needed_for: str) -> Any:
    """
    Import soundfile.

    Args:
        needed_for: Who asks, for the message.

    Raises:
        MissingExtra: It, or libsndfile, is not installed.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: libsndfile is not there
        raise MissingExtra("audio", needed_for) from error
    return soundfile


def reason(error: BaseException) -> str:
    """Return what an error of libsndfile says, without the path that it begins with."""
    text = getattr(error, "error_string", None) or str(error) or type(error).__name__
    return str(text).removeprefix("Error : ").rstrip(".")


def promised_wav_frames(raw: IO[bytes]) -> int | None:
    """
    Return the number of frames by the header of a RIFF or RF64 file; None if the header leaves it open.

    Args:
        raw: The file, at its begin.
    """
    kind = raw.read(12)[:4]
    long_size, frame_bytes = 0, 0
    while len(header := raw.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        if name == b"data":
            if kind == b"RF64":
                size = long_size
            elif kind != b"RIFF" or any(size in placeholders for placeholders in _SIZE_PLACEHOLDERS):
                return None
            return int(size // frame_bytes) if frame_bytes else None
        body = raw.read(min(size, 32))
        if name == b"ds64":
            long_size = int.from_bytes(body[8:16], "little")
        elif name == b"fmt ":
            frame_bytes = int.from_bytes(body[12:14], "little")
        raw.seek(size - len(body) + size % 2, os.SEEK_CUR)
    return None
