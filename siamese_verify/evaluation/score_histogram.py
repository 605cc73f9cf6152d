"""How the scores of both kinds are spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 80


class ScoreHistogram(NamedTuple):
    """Counts of both kinds between edges."""

    edges: NDArray[np.float64]  # (K+1,) ascending
    genuine: NDArray[np.int64]  # (K,)
    impostors: NDArray[np.int64]  # (K,)


def histogram_of(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> ScoreHistogram:
    """Count (N,) checked scores in bins of equal width."""
    low, high = float(scores.min()), float(scores.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    genuine, impostors = (np.histogram(scores[kind], edges)[0].astype(np.int64) for kind in (same, ~same))
    return ScoreHistogram(edges, genuine, impostors)
