"""
From one channel layout to another: the published coefficients.

ITU-R BS.775-4 (12/2022), Annex 4, gives the downward mixes of 3/2 and its subsets: centre and surround go into left and right by
1/√2, and to one channel everything by 1/√2 once more, but the centre whole. LFE is not mixed. What BS.775 does not cover follows
the same rule: a pair that has no place goes by 1/√2 into the next pair in front of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, TypeAlias

from steadyflow.channel_layouts import DISCRETE, POSITIONS

Matrix: TypeAlias = tuple[tuple[float, ...], ...]

_HALF_POWER: Final = math.sqrt(0.5)
# Where a position goes that the target does not have: the first of these that it has, all of its places at once.
_FOLDS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "FC": (("FL", "FR"),),
    "FL": (("FC",),),
    "FR": (("FC",),),
    "SL": (("BL",), ("FL",), ("FC",)),
    "SR": (("BR",), ("FR",), ("FC",)),
    "BL": (("SL",), ("FL",), ("FC",)),
    "BR": (("SR",), ("FR",), ("FC",)),
    "LFE": (),
}
_MOVES: Final = {("BL", "SL"), ("BR", "SR"), ("SL", "BL"), ("SR", "BR")}


def mixing_matrix(source: str, target: str, *, normalize: bool = True) -> Matrix | None:
    """
    Return the coefficients from one named layout to another: a row for each channel of the target.

    Args:
        source: The name of the layout that goes in.
        target: Of the one that comes out.
        normalize: Divide by the largest row sum, where it is above 1.

    Returns:
        The matrix; None where one of them is discrete, so that nothing is known.
    """
    if DISCRETE in (source, target):
        return None
    places, goals = POSITIONS[source], POSITIONS[target]
    if source == "mono":  # a copy for each ear, so that the way back gives what there was
        return tuple((1.0,) if goal in _spread(goals) else (0.0,) for goal in goals)
    columns = [_column(place, places, goals) for place in places]
    matrix = tuple(tuple(column.get(goal, 0.0) for column in columns) for goal in goals)
    return _normalized(matrix) if normalize else matrix


def _spread(goals: Sequence[str]) -> tuple[str, ...]:
    """Return where one channel is heard from the front: from the centre, or from both sides."""
    return ("FC",) if "FC" in goals else ("FL", "FR")


def _column(place: str, places: Sequence[str], goals: Sequence[str]) -> dict[str, float]:
    """Return what one channel adds to which."""
    if place in goals:
        return {place: 1.0}
    for fold in _FOLDS[place]:
        if all(goal in goals for goal in fold):
            # A pair that only stands elsewhere is moved whole; one that shares its new place, or is moved to the front, is not.
            moves = len(fold) == 1 and (place, fold[0]) in _MOVES and fold[0] not in places
            return dict.fromkeys(fold, 1.0 if moves else _gain(place, fold))
    return {}


def _gain(place: str, fold: tuple[str, ...]) -> float:
    # To the centre alone: what would first go to the left by 1/√2 goes by 1/√2 once more.
    return 0.5 if fold == ("FC",) and place not in ("FL", "FR") else _HALF_POWER


def _normalized(matrix: Matrix) -> Matrix:
    largest = max(sum(abs(coefficient) for coefficient in row) for row in matrix)
    if largest <= 1:
        return matrix
    return tuple(tuple(coefficient / largest for coefficient in row) for row in matrix)
