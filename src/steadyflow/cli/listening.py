"""What the demo hears at the moment, for its screen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import RenderableType

    from steadyflow.audio import Bands, Level, Pitch

_QUIETEST_DB: Final = 60.0
_QUIETEST_BAND_DB: Final = 80.0  # the sound is shared out among them
_COLUMNS: Final = " ▁▂▃▄▅▆▇█"


class Listening:
    """
    The newest pitch, level and bands. A `Gauge`.

    Attributes:
        pitch: Set by the demo whenever one comes.
        level: The same.
        bands: The same.
        began_ns: When the music began.
    """

    def __init__(self) -> None:
        self.pitch: Pitch | None = None
        self.level: Level | None = None
        self.bands: Bands | None = None
        self.began_ns = 0

    def line(self) -> str:
        """Return where it is, and what it hears."""
        level = self.level
        if level is None:
            return ""
        return f"{self._position_s(level):7.2f} s  {self._note():<15} {level.rms_db:6.1f} dB"

    def render(self) -> RenderableType:
        """Return the same, with a bar, and a column for each band, low ones at the left."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        level = self.level
        now = Table.grid(padding=(0, 2))
        if level is None:
            now.add_row("", Text("starting", style="dim"))
        else:
            bar = ProgressBar(total=_QUIETEST_DB, completed=max(0.0, _QUIETEST_DB + level.rms_db), width=30)
            note = Text(f"{self._note():<15}", style="bold")
            now.add_row(f"{self._position_s(level):6.1f} s", note, bar, f"{level.rms_db:6.1f} dB", self._columns())
        return now

    def _columns(self) -> str:
        bands = self.bands
        if bands is None:
            return ""
        steps = len(_COLUMNS) - 1
        # What is no number is drawn as nothing.
        heights = ((1 + level_db / _QUIETEST_BAND_DB) * steps for level_db in bands.levels_db)
        return "".join(
            _COLUMNS[round(min(max(0.0, height), steps)) if math.isfinite(height) else 0] for height in heights
        )

    def _position_s(self, level: Level) -> float:
        return (level.timestamp_ns - self.began_ns) / 1e9

    def _note(self) -> str:
        pitch = self.pitch
        if pitch is None or pitch.note is None:
            return "-"
        return f"{pitch.note} {pitch.cents:+.0f} cents"
