"""Statistics of genuine and impostor scores: d-prime, histogram, hardest pairs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.evaluation.scores import checked_pairs

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

BINS = 80  # of a histogram
HARDEST = 20  # pairs of each kind that a report shows


class Moments(NamedTuple):
    """Mean and variance (ddof 0) of one kind of scores."""

    mean: float
    variance: float


def moments(scores: NDArray[np.float64]) -> Moments:
    """Return the moments of (N,) scores, N >= 1."""
    # Relative to the first score: the variance of equal scores is then exactly zero, not a rounding error.
    first = float(scores[0])
    offsets = scores - first
    return Moments(first + float(offsets.mean()), float(offsets.var()))


def d_prime_from_moments(genuine: Moments, impostors: Moments) -> float:
    """Return d-prime of two kinds of scores, see `d_prime`."""
    difference = genuine.mean - impostors.mean
    deviation = math.sqrt((genuine.variance + impostors.variance) / 2)
    if deviation == 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / deviation


def d_prime(scores: ArrayLike, same: ArrayLike) -> float:
    """Return (mean of genuine - mean of impostors) / sqrt((variance of genuine + variance of impostors) / 2).

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.

    Returns:
        Standard deviations (ddof 0), negative where impostors score higher. Without any variance: 0 if both means
        agree, else infinite.

    Raises:
        InputError: see `checked_pairs`.

    ISO/IEC 19795-1; Daugman, "The importance of being random", Pattern Recognition 2003.
    """
    values, labels = checked_pairs(scores, same)
    return d_prime_from_moments(moments(values[labels]), moments(values[~labels]))


class ScoreHistogram(NamedTuple):
    """Numbers of genuine and impostor pairs between edges of scores."""

    edges: NDArray[np.float64]  # (K+1,) ascending
    genuine: NDArray[np.int64]  # (K,)
    impostors: NDArray[np.int64]  # (K,)


def score_histogram(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> ScoreHistogram:
    """Count (N,) checked scores in bins of equal width."""
    low, high = float(scores.min()), float(scores.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    genuine, impostors = (np.histogram(scores[kind], edges)[0].astype(np.int64) for kind in (same, ~same))
    return ScoreHistogram(edges, genuine, impostors)


class HardPair(NamedTuple):
    """One of the hardest pairs of its kind; a good verifier may still decide it right."""

    row: int  # which pair
    score: float
    same: bool

    def wrong(self, threshold: float) -> bool:
        """Whether a threshold decides it wrong."""
        return (self.score >= threshold) != self.same


class HardestPairs(NamedTuple):
    """The hardest pairs of both kinds, the hardest first."""

    impostors: tuple[HardPair, ...]  # with the highest scores
    genuine: tuple[HardPair, ...]  # with the lowest scores


def hardest_pairs(scores: NDArray[np.float64], same: NDArray[np.bool_], count: int = HARDEST) -> HardestPairs:
    """Return the highest scoring impostors and the lowest scoring genuine pairs, among ties the first rows.

    Args:
        scores: (N,) checked similarities.
        same: (N,) bool, True for a genuine pair.
        count: how many of each kind at most, >= 1.
    """
    found = []
    for kind, hardness in ((~same, -scores), (same, scores)):
        rows = np.flatnonzero(kind)
        if len(rows) > count:  # a full sort of millions of pairs would take seconds
            rows = rows[hardness[rows] <= np.partition(hardness[rows], count - 1)[count - 1]]
        rows = rows[np.lexsort((rows, hardness[rows]))][:count]
        found.append(list_hard_pairs(rows, scores[rows], bool(same[rows[0]])))
    return HardestPairs(*found)


def list_hard_pairs(rows: NDArray[np.int64], scores: NDArray[np.floating], same: bool) -> tuple[HardPair, ...]:
    """Return (K,) hard pairs of one kind one by one."""
    return tuple(HardPair(row, score, same) for row, score in zip(rows.tolist(), scores.tolist(), strict=True))
