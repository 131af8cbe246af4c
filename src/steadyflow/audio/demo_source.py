"""The bundled recording as a source, for flows that need some music and no file of their own."""

from __future__ import annotations

from steadyflow.audio.files import FileSource
from steadyflow.audio.recordings import demo_recording


class DemoSource(FileSource):
    """
    Plays the recording that comes with steadyflow, see `demo_recording`; otherwise a `FileSource`.

    Args:
        block_frames: The length of the blocks, 1 to 1,048,576.
        realtime_pace: Send each block when its first frame is due; False: as fast as the pipelines take them.

    Raises:
        ConfigurationError: An argument is impossible.
        MissingExtra: soundfile is not installed.
    """

    def __init__(self, block_frames: int = 480, realtime_pace: bool = True) -> None:
        super().__init__(demo_recording().path, block_frames, realtime_pace)
