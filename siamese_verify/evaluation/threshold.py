"""What one threshold decides right, and the threshold that decides most right."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.evaluation.pair_scores import checked_pairs, checked_threshold
from siamese_verify.evaluation.roc import roc_curve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.evaluation.roc import RocCurve


class ThresholdRates(NamedTuple):
    """What a threshold that was chosen elsewhere does to these pairs."""

    threshold: float
    accuracy: float  # decided right, in [0, 1]
    far: float  # in [0, 1]
    frr: float  # in [0, 1]
    false_accepts: int
    false_rejects: int


def rates_of(scores: NDArray[np.float64], same: NDArray[np.bool_], threshold: float) -> ThresholdRates:
    """Count the errors of checked pairs at a checked threshold."""
    accepted = scores >= threshold
    genuine = int(np.count_nonzero(same))
    false_accepts = int(np.count_nonzero(accepted & ~same))
    false_rejects = int(np.count_nonzero(same & ~accepted))
    return ThresholdRates(
        threshold=threshold,
        accuracy=(len(same) - false_accepts - false_rejects) / len(same),
        far=false_accepts / (len(same) - genuine),
        frr=false_rejects / genuine,
        false_accepts=false_accepts,
        false_rejects=false_rejects,
    )


def rates_at(scores: ArrayLike, same: ArrayLike, threshold: float) -> ThresholdRates:
    """Return accuracy, FAR and FRR when a pair is accepted if score >= threshold.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.
        threshold: on the scale of the scores; it may be infinite.

    Raises:
        InputError: the threshold is NaN; see also `checked_pairs`.
    """
    return rates_of(*checked_pairs(scores, same), checked_threshold(threshold))


def accuracy(scores: ArrayLike, same: ArrayLike, threshold: float) -> float:
    """Return the fraction of pairs decided right, in [0, 1]; arguments and errors as in `rates_at`."""
    return rates_at(scores, same, threshold).accuracy


def best_threshold_of(curve: RocCurve) -> float:
    """Find the threshold on a curve, see `best_threshold`."""
    right = curve.true_accepts - curve.false_accepts  # plus the constant M
    return float(curve.thresholds[len(right) - 1 - int(np.argmax(right[::-1]))])  # thresholds descend: last is lowest


def best_threshold(scores: ArrayLike, same: ArrayLike) -> float:
    """Return the lowest operating point that decides the most pairs right.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.

    Returns:
        A score that occurs, or +inf where refusing every pair is best.

    Raises:
        InputError: see `checked_pairs`.
    """
    return best_threshold_of(roc_curve(scores, same))
