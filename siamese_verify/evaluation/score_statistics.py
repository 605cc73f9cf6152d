"""How far apart the two kinds of scores lie, in standard deviations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.evaluation.scores import checked_pairs
from siamese_verify.pairwise.histogram import Moments

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def moments_of(scores: NDArray[np.float64]) -> Moments:
    """Return the moments of (N,) scores, N >= 1."""
    # Relative to the first score: the variance of equal scores is then exactly zero, not a rounding error.
    first = float(scores[0])
    offsets = scores - first
    return Moments(first + float(offsets.mean()), float(offsets.var()))


def separation_of(genuine: Moments, impostors: Moments) -> float:
    """Return the separation of two kinds of scores, see `d_prime`."""
    difference = genuine.mean - impostors.mean
    spread = math.sqrt((genuine.variance + impostors.variance) / 2)
    if spread == 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / spread


def d_prime_of(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """Compute it for checked pairs, see `d_prime`."""
    return separation_of(moments_of(scores[same]), moments_of(scores[~same]))


def d_prime(scores: ArrayLike, same: ArrayLike) -> float:
    """Return (mean of genuine - mean of impostors) / sqrt((variance of genuine + variance of impostors) / 2).

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.

    Returns:
        Standard deviations (ddof 0), negative where impostors score higher. Where neither kind spreads: 0 if their
        scores agree, else infinite.

    Raises:
        InputError: see `checked_pairs`.

    ISO/IEC 19795-1; Daugman, "The importance of being random", Pattern Recognition 2003.
    """
    return d_prime_of(*checked_pairs(scores, same))


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
