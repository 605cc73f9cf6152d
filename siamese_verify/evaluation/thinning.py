"""A curve of millions of points, reduced to what a picture can show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.roc import RocCurve
from siamese_verify.tables import read_table

if TYPE_CHECKING:
    from pathlib import Path

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
