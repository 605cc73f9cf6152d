"""The equal error rate: where false rejects and false accepts cross."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.evaluation.roc import roc_curve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from siamese_verify.evaluation.roc import RocCurve


class EqualError(NamedTuple):
    """The crossing of FRR and FAR."""

    rate: float  # in [0, 1]
    threshold: float  # finite: the operating point next to the crossing, a score that occurs


def crossing_of(curve: RocCurve) -> EqualError:
    """Find the crossing on a curve.

    FRR - FAR falls strictly from 1 at +inf to -1 at the lowest score, so it changes sign exactly once, either in an
    operating point or between two neighbours. Between two, the rate is interpolated linearly; the threshold is that
    of the neighbour nearer to the crossing, the lenient one if both are as near, and never +inf.
    """
    genuine, impostors = curve.genuine, curve.impostors
    gap = (genuine - curve.true_accepts) * impostors - curve.false_accepts * genuine  # (FRR - FAR) * G * M, integers
    after = int(np.argmax(gap <= 0))
    before = after - 1  # exists: the gap at +inf is G * M
    # Python's integers from here on: the products outgrow 64 bits, and the only rounding is the last division.
    upper, lower = int(gap[before]), -int(gap[after])
    strict, lenient = int(curve.false_accepts[before]), int(curve.false_accepts[after])
    rate = (strict * lower + lenient * upper) / (impostors * (upper + lower))
    nearer = before if upper < lower and before > 0 else after
    return EqualError(rate, float(curve.thresholds[nearer]))


def equal_error(scores: ArrayLike, same: ArrayLike) -> EqualError:
    """Return the equal error rate and the threshold to operate at it.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.

    Raises:
        InputError: see `checked_pairs`.
    """
    return crossing_of(roc_curve(scores, same))


def equal_error_rate(scores: ArrayLike, same: ArrayLike) -> float:
    """Return the rate at which FRR equals FAR, in [0, 1]; 0.5 where all scores are one.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.

    Raises:
        InputError: see `checked_pairs`.
    """
    return equal_error(scores, same).rate
