"""The bytes of a WAV or FLAC file, read and written by libsndfile."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from steadyflow._native import Block, SampleConverter
from steadyflow.errors import TransformError
from steadyflow.formats import AudioFormat, CarrierFormat
from steadyflow.libsndfile import SUBTYPES, UNKNOWN_FRAMES, load_soundfile, promised_wav_frames, reason
from steadyflow.payload import native_spec
from steadyflow.transform.carriers.carrier import as_bytes, check_same, told_format
from steadyflow.transform.conforming import in_pieces, unlimited

if TYPE_CHECKING:
    import numpy.typing as npt

# What libsndfile reads and writes without loss for each sample type; both ways it is the type itself, or wider.
_PIECE_FRAMES: Final = 1 << 16
_READ_AS: Final = {"u8": "s16", "s16": "s16", "s24": "s32", "s32": "s32", "f32": "f32", "f64": "f64"}


class _SoundFile:
    """
    A whole file in each block.

    Args:
        fmt: What it holds.
    """

    suffix = ""
    containers: tuple[str, ...] = ()
    has_stamps = False

    @staticmethod
    def in_place(_fmt: CarrierFormat) -> tuple[bool, bool]:
        """Return whether both ways need no copy; see `Carrier`."""
        return False, False

    def __init__(self, fmt: CarrierFormat) -> None:
        self._name = fmt.carrier
        self._container, self._subtypes = SUBTYPES[self.suffix]
        self._soundfile = load_soundfile(f"the carrier {self._name!r}")

    def describe(self, data: Any) -> AudioFormat:
        """Return what the header tells; see `Carrier`."""
        with self._opened(data) as file:
            return self._told(file)

    def decode(self, data: Any, fmt: AudioFormat, block: Block) -> Block:
        """Return all of its samples; see `Carrier`."""
        promised = self._promised(data)
        read_as = msgspec.structs.replace(fmt, sample_type=_READ_AS[fmt.sample_type])
        with self._opened(data) as file:
            check_same(self._told(file), fmt, self._name)
            if self.suffix == ".flac" and file.frames != UNKNOWN_FRAMES:
                promised = int(file.frames)
            pieces, got = self._read(file, read_as.dtype.name)
        if not got or (promised is not None and got < promised):
            raise TransformError(
                f"{self._name}: expected {'some' if promised is None else promised} frames, as the header says, got {got}: it was cut "
                f"off, or is damaged."
            )
        return block.derived(_converted(np.concatenate(pieces), read_as, fmt), fmt)

    def _promised(self, data: Any) -> int | None:
        """Return how many frames the header promises; libsndfile corrects that of a WAV that was cut off, without a word."""
        return promised_wav_frames(io.BytesIO(as_bytes(data, self._name))) if self.suffix == ".wav" else None

    def _read(self, file: Any, dtype: str) -> tuple[list[npt.NDArray[Any]], int]:
        """Read all that there is, whatever the header says: memory is taken for what comes, and not for what is promised."""
        pieces, got = [], 0
        try:
            while len(piece := file.read(_PIECE_FRAMES, dtype=dtype, always_2d=True)):
                pieces.append(piece)
                got += len(piece)
        except self._soundfile.SoundFileError as problem:
            raise TransformError(
                f"{self._name}: expected audio up to the end, got damage after {got} frames: {reason(problem)}."
            ) from problem
        return pieces, got

    def encode(self, samples: npt.NDArray[Any], fmt: AudioFormat, _block: Block) -> bytes:
        """Return the bytes of a file; see `Carrier`."""
        write_as = msgspec.structs.replace(fmt, sample_type=_READ_AS[fmt.sample_type])
        raw = io.BytesIO()
        try:
            self._soundfile.write(
                raw,
                _converted(samples, fmt, write_as),
                fmt.sample_rate_hz,
                subtype=self._subtypes[fmt.sample_type],
                format=self._container,
            )
        except (self._soundfile.SoundFileError, ValueError) as problem:
            raise TransformError(
                f"{self._name}: expected audio that such a file can hold, got {fmt}: {reason(problem)}."
            ) from problem
        return raw.getvalue()

    def _opened(self, data: Any) -> Any:
        view = as_bytes(data, self._name)
        try:
            file = self._soundfile.SoundFile(io.BytesIO(view))
        except self._soundfile.SoundFileError as problem:
            raise TransformError(
                f"{self._name}: expected the bytes of a {self._container} file, got {view.nbytes} bytes that begin with "
                f"{bytes(view[:16])!r}: {reason(problem)}."
            ) from problem
        if file.format not in self.containers:
            file.close()
            raise TransformError(f"{self._name}: expected a {self._container} file, got one of {file.format}.")
        return file

    def _told(self, file: Any) -> AudioFormat:
        types = {subtype: sample_type for sample_type, subtype in self._subtypes.items()}
        if file.subtype not in types:
            raise TransformError(
                f"{self._name}: expected samples of {', '.join(types)}, got {file.subtype}. Convert the file first."
            )
        return told_format(self._name, file.samplerate, file.channels, types[file.subtype])


class Wav(_SoundFile):
    """The bytes of a WAV file."""

    suffix = ".wav"
    containers = ("WAV", "WAVEX", "RF64")


class Flac(_SoundFile):
    """The bytes of a FLAC file."""

    suffix = ".flac"
    containers = ("FLAC",)


def _converted(samples: npt.NDArray[Any], source: AudioFormat, target: AudioFormat) -> npt.NDArray[Any]:
    if source.sample_type == target.sample_type:
        return samples
    converter = SampleConverter(native_spec(unlimited(source)), native_spec(unlimited(target)), [], False)
    return in_pieces(converter.convert, samples)
