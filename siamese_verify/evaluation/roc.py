"""The receiver operating characteristic, kept in whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.scores import checked_pairs, rank
from siamese_verify.tables import read_table

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class RocCurve:
    """All operating points: what is accepted at +inf and at each distinct score, from strict to lenient.

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

    def at(self, places: NDArray[np.int64]) -> RocCurve:
        """Return the curve with only some of its operating points, for drawing."""
        return RocCurve(
            self.thresholds[places],
            self.false_accepts[places],
            self.true_accepts[places],
            self.genuine,
            self.impostors,
        )


def curve_of(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> RocCurve:
    """Count what each operating point accepts, without sorting again.

    Args:
        scores: (N,) checked similarities, descending.
        same: (N,) bool in the same order, of both classes.
    """
    # Pairs with one score are accepted together, so a point stands after the last of each run of ties.
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
    ranking = rank(*checked_pairs(scores, same))
    return curve_of(ranking.scores, ranking.same)


class DetCurve(NamedTuple):
    """Detection error tradeoff: both errors at every operating point, from strict to lenient."""

    far: NDArray[np.float64]  # (T,) false accept rate, ascending from 0 to 1
    frr: NDArray[np.float64]  # (T,) false reject rate, descending from 1 to 0
    thresholds: NDArray[np.float64]  # (T,) strictly descending, the first +inf


def det_curve(scores: ArrayLike, same: ArrayLike) -> DetCurve:
    """Return both error rates at every operating point of scored pairs.

    Args:
        scores: (N,) finite similarities, higher = more alike.
        same: (N,) bool, True for a genuine pair.

    Raises:
        InputError: see `checked_pairs`.

    Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
    """
    curve = roc_curve(scores, same)
    return DetCurve(curve.far, curve.frr, curve.thresholds)


def auc_of(curve: RocCurve) -> float:
    """Return the area under a curve, see `auc`."""
    # Twice the area in units of one pair of pairs: a tie counts one, a genuine score above an impostor's two.
    ahead = curve.true_accepts[:-1] + curve.true_accepts[1:]
    doubled = int(np.dot(np.diff(curve.false_accepts), ahead))
    return doubled / (2 * curve.genuine * curve.impostors)


def auc(scores: ArrayLike, same: ArrayLike) -> float:
    """Return P(genuine > impostor) + P(equal) / 2 in [0, 1], counted exactly.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.

    Raises:
        InputError: see `checked_pairs`.

    Hanley & McNeil, "The meaning and use of the area under a ROC curve", Radiology 1982.
    """
    return auc_of(roc_curve(scores, same))


COLUMNS = ("threshold", "false_accepts", "true_accepts")
STEPS = 1000  # resolution of the thinned curve in each coordinate, a little finer than the pictures


def thinned(curve: RocCurve) -> RocCurve:
    """Keep the operating points that a picture can show, a few thousand at most.

    A point stays when it moves by a step on any axis that is drawn: rates, their logarithms, the threshold. All of
    them are monotone along the curve, so no more than the sum of their steps can stay.
    """
    low, high = curve.thresholds[-1], curve.thresholds[min(1, len(curve) - 1)]
    span = high - low or 1.0
    cells = [(np.minimum(curve.thresholds, high) - low) / span * STEPS]
    for rate, smallest in ((curve.far, 0.5 / curve.impostors), (curve.frr, 0.5 / curve.genuine)):
        logarithm = np.log10(np.maximum(rate, smallest))
        cells += [rate * STEPS, logarithm / -np.log10(smallest) * STEPS]
    moved = np.zeros(len(curve), dtype=np.bool_)
    moved[:2] = moved[-1] = True
    for cell in cells:
        moved[1:] |= np.diff(np.floor(cell)) != 0
    return curve.at(np.flatnonzero(moved))


def curve_points(curve: RocCurve) -> str:
    """Write a thinned curve as CSV, for other tools and for `read_curve_points`."""
    rows = zip(curve.thresholds.tolist(), curve.false_accepts.tolist(), curve.true_accepts.tolist(), strict=True)
    return "\n".join([",".join(COLUMNS), *(f"{threshold!r},{false},{true}" for threshold, false, true in rows), ""])


def read_curve_points(path: str | Path) -> RocCurve:
    """Read what `curve_points` wrote.

    Raises:
        InputError: no such file, or no curve in it.
    """
    columns = read_table(path, COLUMNS)
    try:
        thresholds = np.array(columns["threshold"], dtype=np.float64)
        false, true = (np.array(columns[name], dtype=np.int64) for name in COLUMNS[1:])
    except ValueError as error:
        raise InputError(f"{path} holds no curve: {error}.") from None
    if len(thresholds) < 2 or min(false[-1], true[-1]) < 1 or (np.diff(false) < 0).any() or (np.diff(true) < 0).any():
        raise InputError(f"{path} holds no curve: its counts do not rise from 0 to those of all pairs.")
    return RocCurve(thresholds, false, true, int(true[-1]), int(false[-1]))
