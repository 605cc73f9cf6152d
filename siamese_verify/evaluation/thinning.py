"""A curve of millions of points, reduced to what a picture can show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from siamese_verify.evaluation.roc import RocCurve

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
