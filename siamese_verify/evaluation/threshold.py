"""What one threshold decides right, and the threshold that decides most right."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.evaluation.pair_scores import checked_threshold
from siamese_verify.evaluation.roc import roc_curve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from siamese_verify.evaluation.roc import RocCurve


class ThresholdRates(NamedTuple):
    """What a threshold that was chosen elsewhere does to these pairs."""

    threshold: float
    accuracy: float  # decided right, in [0, 1]
    balanced_accuracy: float  # 1 - (FAR + FRR) / 2, in [0, 1]: as if there were as many impostors as genuine pairs
    far: float  # in [0, 1]
    frr: float  # in [0, 1]
    false_accepts: int
    false_rejects: int


def rates_of(curve: RocCurve, threshold: float) -> ThresholdRates:
    """Count the errors at a checked threshold: those of the lowest operating point that is not below it."""
    place = int(np.searchsorted(-curve.thresholds, -threshold, side="right")) - 1
    false_accepts = int(curve.false_accepts[place])
    false_rejects = curve.genuine - int(curve.true_accepts[place])
    pairs = curve.genuine + curve.impostors
    far, frr = false_accepts / curve.impostors, false_rejects / curve.genuine
    return ThresholdRates(
        threshold=threshold,
        accuracy=(pairs - false_accepts - false_rejects) / pairs,
        balanced_accuracy=1 - (far + frr) / 2,
        far=far,
        frr=frr,
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
    return rates_of(roc_curve(scores, same), checked_threshold(threshold))


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
