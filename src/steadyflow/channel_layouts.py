"""Named channel layouts: which loudspeaker each channel of a block belongs to, in which order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

ChannelLayout: TypeAlias = Literal["mono", "stereo", "2.1", "quad", "5.1", "7.1", "discrete"]

POSITIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "mono": ("FC",),
    "stereo": ("FL", "FR"),
    "2.1": ("FL", "FR", "LFE"),
    "quad": ("FL", "FR", "BL", "BR"),
    "5.1": ("FL", "FR", "FC", "LFE", "SL", "SR"),
    "7.1": ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}
"""
Front (F), side (S) and back (B), left, right and centre, and the low-frequency effects; in the order of WAVE files, which is also
FFmpeg's and JACK's. The surround pair of 5.1 is at the sides, as ITU-R BS.775 places it.
"""

DISCRETE: Final = "discrete"
"""Any number of channels without a position."""

CHANNEL_LAYOUTS: Final = (*POSITIONS, DISCRETE)


def usual_layout(channels: int) -> str:
    """Return what channels are that nobody named: one is mono, two are stereo, and more are discrete, because nobody can know."""
    return {1: "mono", 2: "stereo"}.get(channels, DISCRETE)
