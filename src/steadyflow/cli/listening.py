"""What the demo hears at the moment, for its screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import RenderableType

    from steadyflow.audio import Level, Pitch

_QUIETEST_DB: Final = 60.0


class Listening:
    """
    The newest pitch and level. A `Gauge`.

    Attributes:
        pitch: Set by the demo whenever one comes.
        level: The same.
        began_ns: When the music began.
    """

    def __init__(self) -> None:
        self.pitch: Pitch | None = None
        self.level: Level | None = None
        self.began_ns = 0

    def line(self) -> str:
        """Return where it is, and what it hears."""
        level = self.level
        if level is None:
            return ""
        return f"{self._position_s(level):7.2f} s  {self._note():<15} {level.rms_db:6.1f} dB"

    def render(self) -> RenderableType:
        """Return the same, with a bar."""
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
            now.add_row(f"{self._position_s(level):6.1f} s", note, bar, f"{level.rms_db:6.1f} dB")
        return now

    def _position_s(self, level: Level) -> float:
        return (level.timestamp_ns - self.began_ns) / 1e9

    def _note(self) -> str:
        pitch = self.pitch
        if pitch is None or pitch.note is None:
            return "-"
        return f"{pitch.note} {pitch.cents:+.0f} cents"
