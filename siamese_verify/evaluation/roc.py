"""The ROC curve: false and true accepts at every threshold, as integers; its area, and its points as CSV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.scores import checked_pairs

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

COLUMNS = ("threshold", "false_accepts", "true_accepts")
STEPS = 1000  # resolution of a downsampled curve on each axis, a little finer than a picture


@dataclass(frozen=True, eq=False)
class RocCurve:
    """All operating points: +inf and each distinct score as the threshold, from strict to lenient.

    The counts are integers and each rate is one division, so that 3 of 3,000 is exactly the float 0.001.

    Attributes:
        thresholds: (T,) strictly descending, the first +inf.
        false_accepts: (T,) int64, impostors with score >= threshold, from 0 to `impostors`.
        true_accepts: (T,) int64, genuine pairs with score >= threshold, from 0 to `genuine`.
        genuine: number of genuine pairs, G >= 1.
        impostors: number of impostor pairs, M >= 1.
    """

    thresholds: NDArray[np.float64]
    false_accepts: NDArray[np.int64]
    true_accepts: NDArray[np.int64]
    genuine: int
    impostors: int

    def __len__(self) -> int:
        return len(self.thresholds)

    @property
    def far(self) -> NDArray[np.float64]:
        """(T,) false accept rate, ascending in [0, 1]."""
        return self.false_accepts / self.impostors

    @property
    def tar(self) -> NDArray[np.float64]:
        """(T,) true accept rate, ascending in [0, 1]."""
        return self.true_accepts / self.genuine

    @property
    def frr(self) -> NDArray[np.float64]:
        """(T,) false reject rate, descending in [0, 1]."""
        return (self.genuine - self.true_accepts) / self.genuine

    @property
    def auc(self) -> float:
        """Area under the curve, P(genuine > impostor) + P(equal) / 2 in [0, 1], counted exactly.

        Hanley & McNeil, "The meaning and use of the area under a ROC curve", Radiology 1982.
        """
        # Twice the area in units of one pair of pairs: a tie counts one, a genuine score above an impostor's two.
        ahead = self.true_accepts[:-1] + self.true_accepts[1:]
        doubled = int(np.dot(np.diff(self.false_accepts), ahead))
        return doubled / (2 * self.genuine * self.impostors)


def count_accepts(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> RocCurve:
    """Return the curve of checked pairs, sorted by descending score."""
    # Pairs with one score are accepted together, so an operating point is the last of each run of ties.
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    true_accepts = np.cumsum(same, dtype=np.int64)[last]
    false_accepts = last + 1 - true_accepts
    return RocCurve(
        thresholds=np.append(np.inf, scores[last]),
        false_accepts=np.append(0, false_accepts),
        true_accepts=np.append(0, true_accepts),
        genuine=int(true_accepts[-1]),
        impostors=int(false_accepts[-1]),
    )


def roc_curve(scores: ArrayLike, same: ArrayLike) -> RocCurve:
    """Return every operating point of scored pairs.

    Args:
        scores: (N,) finite similarities, higher = more alike.
        same: (N,) bool, True for a genuine pair.

    Raises:
        InputError: see `checked_pairs`.
    """
    values, labels = checked_pairs(scores, same)
    order = np.argsort(values)[::-1]
    return count_accepts(values[order], labels[order])


def auc(scores: ArrayLike, same: ArrayLike) -> float:
    """Return the area under the ROC curve, see `RocCurve.auc`; arguments and errors as in `roc_curve`."""
    return roc_curve(scores, same).auc


def downsample(curve: RocCurve) -> RocCurve:
    """Return a curve with the operating points that a picture can show, a few thousand at most.

    A point stays where it moves by a step on any axis that is drawn: rates, their logarithms, the threshold. All of
    them are monotone along the curve, so no more than the sum of their steps can stay.
    """
    low, high = curve.thresholds[-1], curve.thresholds[min(1, len(curve) - 1)]
    axes = [(np.minimum(curve.thresholds, high) - low) / (high - low or 1.0)]
    for rate, smallest in ((curve.far, 0.5 / curve.impostors), (curve.frr, 0.5 / curve.genuine)):
        axes += [rate, np.log10(np.maximum(rate, smallest)) / -np.log10(smallest)]
    kept = np.zeros(len(curve), dtype=np.bool_)
    kept[:2] = kept[-1] = True
    for axis in axes:
        kept[1:] |= np.diff(np.floor(axis * STEPS)) != 0
    return RocCurve(
        curve.thresholds[kept], curve.false_accepts[kept], curve.true_accepts[kept], curve.genuine, curve.impostors
    )


def write_curve(curve: RocCurve) -> str:
    """Return a curve as CSV, for other tools and for `read_curve`."""
    rows = zip(curve.thresholds.tolist(), curve.false_accepts.tolist(), curve.true_accepts.tolist(), strict=True)
    return "\n".join([",".join(COLUMNS), *(f"{threshold!r},{false},{true}" for threshold, false, true in rows), ""])


def read_curve(path: str | Path) -> RocCurve:
    """Read a curve that `write_curve` wrote.

    Raises:
        InputError: no such file, or no curve in it.
    """
    from siamese_verify.tables import read_table

    columns = read_table(path, COLUMNS)
    try:
        thresholds = np.array(columns["threshold"], dtype=np.float64)
        false, true = (np.array(columns[name], dtype=np.int64) for name in COLUMNS[1:])
    except ValueError as error:
        raise InputError(f"{path} holds no curve ({error}): evaluate again.") from None
    if len(thresholds) < 2 or min(false[-1], true[-1]) < 1 or (np.diff(false) < 0).any() or (np.diff(true) < 0).any():
        raise InputError(f"{path} holds no curve: its counts do not rise from 0 to those of all pairs.")
    return RocCurve(thresholds, false, true, int(true[-1]), int(false[-1]))
