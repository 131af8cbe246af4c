"""A place for a conversion where a pipeline has none, which is before a device."""

from __future__ import annotations

from steadyflow.data import Block
from steadyflow.errors import ConfigurationError
from steadyflow.formats import AnyFormat, AudioFormat
from steadyflow.module import Input, Module, Output


class Converter(Module):
    """
    Passes on audio of one format; the pipeline that leads here converts, and the one from here need not.

    Between two modules ``transformation_required=True`` of their pipeline is all that is needed. A device takes what flows as it is;
    put this module before it, and let the pipeline to it convert::

        between = flow.add(audio.Converter(AudioFormat(48_000, 2)))
        flow.connect(song.out, between.audio, buffer_size=16, transformation_required=True)
        flow.connect(between.out, speaker.audio, buffer_size=16)

    Ports ``audio``: the format given; ``out``: the same. Does not block; allocates.

    Args:
        format: What is wanted; what is open in it stays as it comes.

    Raises:
        ConfigurationError: That is no format of audio.
    """

    audio = Input(AnyFormat())
    out = Output(like="audio")

    def __init__(self, format: AudioFormat) -> None:
        given: object = format  # not checked yet
        if not isinstance(given, AudioFormat):
            raise ConfigurationError(f"Converter: expected format to be an AudioFormat, got {format!r}.")
        self.audio.declaration = Input(format)

    def process(self, audio: Block) -> Block:
        """Pass a block on."""
        return audio
