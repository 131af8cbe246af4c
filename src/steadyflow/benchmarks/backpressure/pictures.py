"""The course of a run with one rule as a PNG: what waits, how long, and what is lost, under each other (needs matplotlib)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steadyflow.benchmarks.backpressure.rules import RULES
from steadyflow.benchmarks.harness import Row, Say
from steadyflow.errors import FileUnwritable, MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "draw_all", "prepare"]

_WIDTH_PX: Final = 900
_HEIGHT_PX: Final = 660
_DPI: Final = 100
_COLOURS: Final = 64

# The palette of Okabe and Ito, which is told apart by all eyes.
_BLUE, _VERMILION, _GREEN, _PURPLE, _ORANGE, _SKY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#E69F00", "#56B4E9"
_REASONS: Final = (_VERMILION, _PURPLE, _ORANGE, _SKY, _GREEN, _BLUE)
_GREY: Final = "#555555"
_SHADE: Final = "#F0F0F0"
_PAPER: Final = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.8}


def prepare(folder: Path) -> None:
    """
    Make the folder, and see that it can be drawn, before minutes are spent on measuring.

    Raises:
        MissingExtra: There is no matplotlib.
        FileUnwritable: It cannot be made.
    """
    try:
        import matplotlib as _  # noqa: F401 - only whether it is there
    except ImportError:
        raise MissingExtra("bench", "pictures of a run") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileUnwritable(f"{folder}: expected a folder for pictures: {error.strerror}. Name another one.") from None


def draw_all(folder: Path, rows: Sequence[Row], say: Say) -> None:
    """Write a picture for each row that has its course among its facts, which goes from there; say where it is."""
    for row in rows:
        course = row.facts.pop("trace", None)
        if course is not None:
            rule = row.name.removeprefix("steadyflow ")
            path = folder / f"{rule}.png"
            path.write_bytes(draw(rule, course))
            row.facts["picture"] = str(path)
            say(f"{path} ({path.stat().st_size / 1024:.0f} KiB)")


def draw(rule: str, course: Mapping[str, Any]) -> bytes:
    """Return the picture of a course, as `Record` keeps it: a PNG of 900 x 660 pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_PX / _DPI, _HEIGHT_PX / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    panels = figure.subplots(3, 1, sharex=True)
    at_s = [at_ms / 1e3 for at_ms in course["at_ms"]]
    _draw_fill(panels[0], at_s, course)
    _draw_sojourn(panels[1], at_s, course)
    _draw_drops(panels[2], at_s, course)
    for panel in panels:
        panel.axvspan(0, course["end_ms"] / 1e3, color=_SHADE, zorder=0)
        panel.set_xlim(at_s[0], at_s[-1])
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
        panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        for kind, at_ms, _ in course["told"]:
            panel.axvline(at_ms / 1e3, color=_MARKS[kind], linewidth=1.2, linestyle=_DASHES[kind])
    _name_marks(panels[0], course)
    panels[2].set_xlabel("seconds since the onset of the overload", fontsize=10)
    live = "a live source" if rule not in RULES or RULES[rule].live else "a source that waits"
    figure.suptitle(f"{rule}: {live}, at twice what its consumer takes", x=0.012, y=0.985, ha="left", fontsize=13)
    figure.align_ylabels()
    figure.subplots_adjust(left=0.085, right=0.985, top=0.865, bottom=0.075, hspace=0.16)
    return _small_png(figure)


_MARKS: Final = {"detected": _VERMILION, "relieved": _GREEN, "changed": _PURPLE}
_DASHES: Final = {"detected": "-", "relieved": "-", "changed": ":"}


def _name_marks(panel: Axes, course: Mapping[str, Any]) -> None:
    """Name onset, end and what was told above the panels, in two lines so that neighbours do not collide."""
    seconds = course["end_ms"] / 1e3
    for at_s, text in ((0.0, "onset"), (seconds, "end")):
        _name(panel, at_s, 1.03, text, _GREY)
    first: dict[str, float] = {}
    for kind, at_ms, _ in course["told"]:
        first.setdefault(kind, at_ms)
    since = {"detected": 0.0, "relieved": course["end_ms"]}
    for kind, origin_ms in since.items():
        came_ms = next((at_ms for told, at_ms, _ in course["told"] if told == kind and at_ms >= origin_ms), None)
        if came_ms is not None:
            _name(panel, came_ms / 1e3, 1.14, f"{kind} after {came_ms - origin_ms:.0f} ms", _MARKS[kind])
    if "changed" in first:
        _name(panel, first["changed"] / 1e3, 1.25, "changes", _MARKS["changed"])
    if not {"detected", "relieved"} & first.keys():
        _name(panel, 0.0, 1.14, "no event of backpressure came", _GREY)


def _name(panel: Axes, at_s: float, height: float, text: str, colour: str) -> None:
    first, last = panel.get_xlim()
    right = at_s > last - 0.22 * (last - first)
    panel.text(
        at_s,
        height,
        text,
        color=colour,
        fontsize=9,
        ha="right" if right else "left",
        va="bottom",
        transform=panel.get_xaxis_transform(),
    )


def _draw_fill(panel: Axes, at_s: Sequence[float], course: Mapping[str, Any]) -> None:
    panel.plot(at_s, course["fill"], color=_BLUE, linewidth=1.2)
    panel.set_ylabel("blocks waiting", fontsize=10)
    highest = max(course["room"], *course["fill"])
    panel.axhline(course["room"], color=_GREY, linewidth=0.8, linestyle="--")
    panel.text(at_s[0], course["room"], f" room: {course['room']}", color=_GREY, fontsize=9, va="bottom")
    panel.set_ylim(0, highest * 1.2)


def _draw_sojourn(panel: Axes, at_s: Sequence[float], course: Mapping[str, Any]) -> None:
    known = [(at, value) for at, value in zip(at_s, course["sojourn_ms"], strict=True) if value is not None]
    panel.plot([at for at, _ in known], [value for _, value in known], color=_BLUE, linewidth=1.2)
    panel.set_ylabel("ms on the way", fontsize=10)
    panel.set_ylim(0, max((value for _, value in known), default=1) * 1.1)


def _draw_drops(panel: Axes, at_s: Sequence[float], course: Mapping[str, Any]) -> None:
    panel.set_ylabel("blocks lost so far", fontsize=10)
    highest = max((max(counts) for counts in course["dropped"].values()), default=0)
    panel.set_ylim(0, max(highest, 1) * 1.1)
    if not highest:
        panel.set_yticks([0])
        panel.text(
            0.5, 0.45, "nothing was lost", color=_GREY, fontsize=10, ha="center", bbox=_PAPER, transform=panel.transAxes
        )
    for colour, (reason, counts) in zip(_REASONS, course["dropped"].items(), strict=False):
        panel.plot(at_s, counts, color=colour, linewidth=1.6)
        panel.text(
            at_s[-1],
            counts[-1] - 0.08 * highest,
            f"{counts[-1]:,} {reason}",
            color=colour,
            fontsize=10,
            ha="right",
            va="top",
            bbox=_PAPER,
        )


def _small_png(figure: Figure) -> bytes:
    """Return it with a palette of few colours: a third of the size, and no eye sees it."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    small = io.BytesIO()
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(_COLOURS).save(small, format="png", optimize=True)
    return small.getvalue()
