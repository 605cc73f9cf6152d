"""Accuracy by cross-validation, the protocol of LFW."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.operating_points import best_threshold_of
from siamese_verify.evaluation.roc import curve_of
from siamese_verify.evaluation.scores import as_array, checked_pairs, rank

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.evaluation.scores import Ranking


class KFoldAccuracy(NamedTuple):
    """Accuracy over k folds, each decided by a threshold from the others."""

    mean: float  # of the folds' accuracies, in [0, 1]
    standard_error: float  # standard deviation of the folds (ddof 1) over sqrt(k)
    per_fold: tuple[float, ...]  # k accuracies, in ascending order of the folds' numbers
    thresholds: tuple[float, ...]  # k thresholds, in the same order


def kfold_of(ranking: Ranking, folds: NDArray[np.generic]) -> KFoldAccuracy:
    """Compute it for ranked pairs; `folds` is (N,) in the original order, see `kfold_accuracy`."""
    thresholds, fold_of_row = fold_thresholds(ranking, folds)
    fold = fold_of_row[ranking.rows]
    right = np.bincount(fold, (ranking.scores >= thresholds[fold]) == ranking.same)
    per_fold = right / np.bincount(fold_of_row)
    error = float(np.std(per_fold, ddof=1)) / len(per_fold) ** 0.5
    return KFoldAccuracy(float(np.mean(per_fold)), error, tuple(per_fold.tolist()), tuple(thresholds.tolist()))


def fold_errors(ranking: Ranking, folds: NDArray[np.generic]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return (N,) in the original order: whether a pair is decided wrong, and its weight in the mean over folds."""
    thresholds, fold_of_row = fold_thresholds(ranking, folds)
    wrong = np.empty(len(fold_of_row), dtype=np.bool_)
    wrong[ranking.rows] = (ranking.scores >= thresholds[fold_of_row[ranking.rows]]) != ranking.same
    return wrong, 1 / (np.bincount(fold_of_row) * len(thresholds))[fold_of_row]


def fold_thresholds(ranking: Ranking, folds: NDArray[np.generic]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return (k,) the threshold of each fold, chosen on the others, and (N,) the fold of each row, from 0.

    Raises:
        InputError: not one fold per pair, fewer than two folds, or folds whose others lack a class.
    """
    if folds.shape != ranking.scores.shape:
        raise InputError(
            f"The folds have the shape {folds.shape} for {len(ranking.scores)} scores: give one fold number per pair."
        )
    names, fold_of_row = np.unique(folds, return_inverse=True)
    if len(names) < 2:
        raise InputError(f"There is {len(names)} fold: a threshold comes from the other folds, so give at least two.")
    fold_of_place = fold_of_row[ranking.rows]
    thresholds = []
    for number, name in enumerate(names):
        inside = fold_of_place == number
        # Only scores of the other folds are candidates: a score of this one would leak into its own threshold.
        others, their_same = ranking.scores[~inside], ranking.same[~inside]
        for kind, missing in (("genuine", not their_same.any()), ("impostor", bool(their_same.all()))):
            if missing:
                raise InputError(
                    f"Without fold {name}, the other {len(others)} pairs include no {kind} one to set a threshold by: "
                    f"spread the {kind} pairs over the folds."
                )
        thresholds.append(best_threshold_of(curve_of(others, their_same)))
    return np.array(thresholds), fold_of_row


def kfold_accuracy(scores: ArrayLike, same: ArrayLike, folds: ArrayLike) -> KFoldAccuracy:
    """Decide each fold by the lowest threshold that maximises accuracy on the other folds.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.
        folds: (N,) number or name of the fold of each pair.

    Raises:
        InputError: not one fold per pair, fewer than two folds, or folds whose others lack a class; see also
            `checked_pairs`.

    Huang et al., "Labeled Faces in the Wild", UMass TR 07-49, 2007, section 4 (View 2).
    """
    return kfold_of(rank(*checked_pairs(scores, same)), as_array(folds))
