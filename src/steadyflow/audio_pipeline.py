"""A pipeline that knows audio."""

from __future__ import annotations

from typing import cast

from steadyflow.audio_config import AudioPipelineConfig
from steadyflow.errors import StateError
from steadyflow.formats import AudioFormat
from steadyflow.pipeline import Pipeline


class AudioDataPipeline(Pipeline):
    """
    A pipeline with the limits of an `AudioPipelineConfig`; made by ``flow.connect`` or ``flow.register_pipeline``.

    Late blocks, jitter buffer, pre-roll and gaps are settled where its blocks are taken, in native code, before anything
    has been spent on them.
    """

    @property
    def audio(self) -> AudioPipelineConfig:
        """Its settings."""
        return cast(AudioPipelineConfig, self.config)

    @property
    def buffer_ms(self) -> float:
        """
        How much audio may wait, in ms, where all blocks are of the greatest length.

        Raises:
            StateError: The format is not known before the flow starts.
        """
        fmt = self.format
        if not isinstance(fmt, AudioFormat) or fmt.sample_rate_hz is None:
            raise StateError(f"{self.id}: expected a known format; it is, from the start of the flow on.")
        frames = self.buffer_size * fmt.max_block_frames
        return min(frames, self.limits.frames or frames) * 1000 / fmt.sample_rate_hz

    def hold(self) -> None:
        """
        Want no blocks at an open target until `release`, as a module does by ``self.audio.hold()``. Any thread; wait-free.

        What is kept is settled while somebody receives or when it is released; until then blocks wait, and the rule decides.

        Raises:
            StateError: The pipeline has no ``preroll_ms`` or no open target, or the flow has not been started.
        """
        self._want(False)

    def release(self) -> None:
        """Want blocks again: the newest ``preroll_ms`` come first. As `hold`."""
        self._want(True)

    def _want(self, wanted: bool) -> None:
        inbox = self._inbox
        if inbox is None or not inbox.set_wanted(self.id, wanted):
            self._refuse_if_closed()
            raise StateError(
                f"{self.id}: expected an open target of a started flow, and preroll_ms in its settings, to hold it; a module "
                f"holds its own input, self.<input>.hold()."
            )
