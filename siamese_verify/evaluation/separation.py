"""How far apart the two kinds of scores lie, in standard deviations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from siamese_verify.evaluation.pair_scores import checked_pairs

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def _mean_and_variance(scores: NDArray[np.float64]) -> tuple[float, float]:
    # Relative to the first score: the variance of equal scores is then exactly zero, not a rounding error.
    first = float(scores[0])
    offsets = scores - first
    return first + float(offsets.mean()), float(offsets.var())


def d_prime_of(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """Compute it for checked pairs, see `d_prime`."""
    genuine_mean, genuine_variance = _mean_and_variance(scores[same])
    impostor_mean, impostor_variance = _mean_and_variance(scores[~same])
    difference = genuine_mean - impostor_mean
    spread = math.sqrt((genuine_variance + impostor_variance) / 2)
    if spread == 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / spread


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
