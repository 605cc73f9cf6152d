"""Check of a calibration on pairs that it was not learned from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.evaluation.calibration import cllr, counts_by_score, pool_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from siamese_verify.evaluation.calibration import Calibration
    from siamese_verify.evaluation.roc import RocCurve


class CalibrationBin(NamedTuple):
    """Pairs that were given about the same probability."""

    predicted: float  # mean probability
    observed: float  # share that was genuine
    pairs: int


class CalibrationCheck(NamedTuple):
    """How well a calibration holds on other pairs; both kinds of pairs have the same weight."""

    kind: str
    measured_on: str
    cllr: float  # bits; 0 is perfect, 1 is no information
    min_cllr: float  # of the best monotone calibration of these pairs
    expected_error: float  # mean difference of predicted and observed shares over the bins
    bins: tuple[CalibrationBin, ...]


def min_cllr(curve: RocCurve) -> float:
    """Return the `cllr` of the best monotone calibration of these very pairs, in bits."""
    _, _, genuine, impostors = pool_scores(curve)
    shares = genuine / curve.genuine, impostors / curve.impostors
    cost = 0.0
    for share in shares:
        there = share > 0  # a pool of one kind costs nothing
        cost -= float(share[there] @ np.log2(share[there] / (shares[0] + shares[1])[there]))
    return cost / 2


def check_calibration(calibration: Calibration, curve: RocCurve, bins: int = 10) -> CalibrationCheck:
    """Check a calibration on pairs that it was not learned from, both kinds having the same weight.

    Args:
        calibration: learned on other pairs.
        curve: of the pairs to check it on.
        bins: number of bins of equal width, of the probability.
    """
    scores, genuine, impostors = counts_by_score(curve)
    probability = calibration.probability(scores, 0.5)
    weights = np.stack([genuine / curve.genuine, impostors / curve.impostors]) / 2  # (2,K)
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)

    def binned(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(place, values, minlength=bins).astype(np.float64)

    total, pairs = binned(weights.sum(axis=0)), binned((genuine + impostors).astype(np.float64))
    filled = np.flatnonzero(total)
    predicted = binned(weights.sum(axis=0) * probability)[filled] / total[filled]
    observed = binned(weights[0])[filled] / total[filled]
    return CalibrationCheck(
        kind=calibration.kind,
        measured_on=calibration.measured_on,
        cllr=cllr(calibration, curve),
        min_cllr=min_cllr(curve),
        expected_error=float(total[filled] @ np.abs(predicted - observed)),
        bins=tuple(
            CalibrationBin(*row)
            for row in zip(predicted.tolist(), observed.tolist(), pairs[filled].astype(int).tolist(), strict=True)
        ),
    )
