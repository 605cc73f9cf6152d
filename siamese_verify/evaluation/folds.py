"""Accuracy by cross-validation over folds, as in LFW's protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.operating_points import best_threshold
from siamese_verify.evaluation.roc import count_accepts
from siamese_verify.evaluation.scores import as_array, checked_pairs

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class KFoldAccuracy(NamedTuple):
    """Accuracy over k folds, each decided by a threshold chosen on the other folds."""

    mean: float  # of the folds' accuracies, in [0, 1]
    standard_error: float  # standard deviation of the folds (ddof 1) over sqrt(k)
    per_fold: tuple[float, ...]  # k accuracies, in ascending order of the folds' numbers
    thresholds: tuple[float, ...]  # k thresholds, in the same order


def kfold_accuracy(scores: ArrayLike, same: ArrayLike, folds: ArrayLike) -> KFoldAccuracy:
    """Decide each fold by the lowest threshold that maximizes accuracy on the other folds.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.
        folds: (N,) number or name of the fold of each pair.

    Raises:
        InputError: not one fold per pair, fewer than two folds, or folds whose others lack a kind of pairs; see also
            `checked_pairs`.

    Huang et al., "Labeled Faces in the Wild", UMass TR 07-49, 2007, section 4 (View 2).
    """
    values, labels = checked_pairs(scores, same)
    thresholds, fold_of_pair = fold_thresholds(values, labels, as_array(folds))
    right = np.bincount(fold_of_pair, (values >= thresholds[fold_of_pair]) == labels)
    per_fold = right / np.bincount(fold_of_pair)
    error = float(np.std(per_fold, ddof=1)) / len(per_fold) ** 0.5
    return KFoldAccuracy(float(np.mean(per_fold)), error, tuple(per_fold.tolist()), tuple(thresholds.tolist()))


def fold_errors(
    scores: NDArray[np.float64], same: NDArray[np.bool_], folds: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return for (N,) checked pairs whether each is decided wrong, and its weight in the mean over folds."""
    thresholds, fold_of_pair = fold_thresholds(scores, same, as_array(folds))
    wrong = (scores >= thresholds[fold_of_pair]) != same
    return wrong, 1 / (np.bincount(fold_of_pair) * len(thresholds))[fold_of_pair]


def fold_thresholds(
    scores: NDArray[np.float64], same: NDArray[np.bool_], folds: NDArray[np.generic]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return (k,) thresholds, each chosen on the other folds, and (N,) the fold of each checked pair, from 0.

    Raises:
        InputError: see `kfold_accuracy`.
    """
    if folds.shape != scores.shape:
        raise InputError(
            f"The folds have the shape {folds.shape} for {len(scores)} scores: give one fold number per pair."
        )
    names, fold_of_pair = np.unique(folds, return_inverse=True)
    if len(names) < 2:
        raise InputError(f"There is {len(names)} fold: a threshold comes from the other folds, so give at least two.")
    order = np.argsort(scores)[::-1]
    thresholds = []
    for number, name in enumerate(names):
        # Only scores of the other folds are candidates: a score of this fold would leak into its own threshold.
        others = order[fold_of_pair[order] != number]
        for kind, missing in (("genuine", not same[others].any()), ("impostor", bool(same[others].all()))):
            if missing:
                raise InputError(
                    f"Without fold {name}, the other {len(others)} pairs include no {kind} one to set a threshold by: "
                    f"spread the {kind} pairs over the folds."
                )
        thresholds.append(best_threshold(count_accepts(scores[others], same[others])))
    return np.array(thresholds), fold_of_pair
