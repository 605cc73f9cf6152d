"""The one sort that all metrics of a set of pairs share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Ranking(NamedTuple):
    """Pairs from the most alike to the least."""

    scores: NDArray[np.float64]  # (N,) descending
    same: NDArray[np.bool_]  # (N,) of the pair in this place
    rows: NDArray[np.int64]  # (N,) where the pair stood before


def rank(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> Ranking:
    """Sort checked pairs; the order among ties is arbitrary, and nothing may depend on it."""
    rows = np.argsort(scores)[::-1]
    return Ranking(scores[rows], same[rows], rows)
