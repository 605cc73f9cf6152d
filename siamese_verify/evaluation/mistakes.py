"""The pairs that a verifier got most wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Mistake(NamedTuple):
    """One of the hardest pairs of its kind; a good verifier may still have decided it right."""

    row: int  # which pair
    score: float
    same: bool
    wrong: bool  # decided wrong at the threshold


class Mistakes(NamedTuple):
    """The hardest pairs of both kinds, the worst first."""

    impostors: list[Mistake]  # strangers that look most alike
    genuine: list[Mistake]  # photos of one person that look least alike


def _hardest(
    scores: NDArray[np.float64], rows: NDArray[np.int64], same: bool, threshold: float, count: int
) -> list[Mistake]:
    hardness = scores[rows] if same else -scores[rows]  # ascending: the hardest first
    if len(rows) > count:
        candidates = np.flatnonzero(hardness <= np.partition(hardness, count - 1)[count - 1])
        hardness, rows = hardness[candidates], rows[candidates]
    chosen = rows[np.argsort(hardness, kind="stable")[:count]]  # stable: among ties the first rows, on any machine
    return [Mistake(int(row), float(scores[row]), same, bool((scores[row] >= threshold) != same)) for row in chosen]


def worst_mistakes(scores: NDArray[np.float64], same: NDArray[np.bool_], threshold: float, count: int = 8) -> Mistakes:
    """Return the highest scoring impostors and the lowest scoring genuine pairs.

    Args:
        scores: (N,) checked similarities.
        same: (N,) bool, True for a genuine pair.
        threshold: decides which of them count as wrong.
        count: how many of each kind at most, >= 1.
    """
    return Mistakes(
        impostors=_hardest(scores, np.flatnonzero(~same), False, threshold, count),
        genuine=_hardest(scores, np.flatnonzero(same), True, threshold, count),
    )
