"""How many genuine pairs pass when only so many impostors may."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.roc import roc_curve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from siamese_verify.evaluation.roc import RocCurve

DECISIVE_IMPOSTORS = 10  # fewer than this many would decide the rate: too few to measure it


class OperatingPoint(NamedTuple):
    """The most lenient operating point that keeps the false accept rate within a target."""

    target: float  # the FAR asked for, in [0, 1]
    far: float  # the FAR reached, <= target
    tar: float  # true accept rate there, in [0, 1]
    threshold: float  # +inf where even the highest score lets too many impostors in
    insufficient: bool  # target * impostors < 10: the set is too small to say
    impostors: int  # M, the impostor pairs in the set
    false_accepts: int  # how many of them pass


def most_accepts(far: float, impostors: int) -> int:
    """Return the largest number k of false accepts with k / impostors <= far.

    The product would round: 0.29 * 100 is 28.999999999999996, although 29 / 100 is 0.29.
    """
    guess = round(far * impostors)
    return max(k for k in range(max(guess - 1, 0), min(guess + 1, impostors) + 1) if k == 0 or k / impostors <= far)


def point_of(curve: RocCurve, far: float) -> OperatingPoint:
    """Find the operating point on a curve, see `tar_at_far`."""
    if not 0 <= far <= 1:
        raise InputError(f"The false accept rate asked for is {far}: give one between 0 and 1.")
    most = most_accepts(far, curve.impostors)
    place = int(np.searchsorted(curve.false_accepts, most, side="right")) - 1  # the last, thus the lowest threshold
    false_accepts = int(curve.false_accepts[place])
    return OperatingPoint(
        target=float(far),
        far=false_accepts / curve.impostors,
        tar=int(curve.true_accepts[place]) / curve.genuine,
        threshold=float(curve.thresholds[place]),
        insufficient=far < DECISIVE_IMPOSTORS / curve.impostors,  # far * M could round to just below ten
        impostors=curve.impostors,
        false_accepts=false_accepts,
    )


def tar_at_far(scores: ArrayLike, same: ArrayLike, far: float) -> OperatingPoint:
    """Return the lowest operating point with FAR <= `far`; nothing is interpolated.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.
        far: the false accept rate allowed, in [0, 1].

    Raises:
        InputError: `far` is no rate; see also `checked_pairs`.
    """
    return point_of(roc_curve(scores, same), far)


def zero_fmr_of(curve: RocCurve) -> float:
    """Return the lowest FRR at which no impostor passes (ISO/IEC 19795-1, ZeroFMR), in [0, 1]."""
    passed = int(curve.true_accepts[np.searchsorted(curve.false_accepts, 0, side="right") - 1])
    return (curve.genuine - passed) / curve.genuine


def zero_fnmr_of(curve: RocCurve) -> float:
    """Return the lowest FAR at which every genuine pair passes (ISO/IEC 19795-1, ZeroFNMR), in [0, 1]."""
    return int(curve.false_accepts[np.searchsorted(curve.true_accepts, curve.genuine)]) / curve.impostors


def zero_fmr(scores: ArrayLike, same: ArrayLike) -> float:
    """Return the lowest FRR at which no impostor passes, in [0, 1] (ISO/IEC 19795-1, ZeroFMR).

    Raises:
        InputError: see `checked_pairs`.
    """
    return zero_fmr_of(roc_curve(scores, same))


def zero_fnmr(scores: ArrayLike, same: ArrayLike) -> float:
    """Return the lowest FAR at which every genuine pair passes, in [0, 1] (ISO/IEC 19795-1, ZeroFNMR).

    Raises:
        InputError: see `checked_pairs`.
    """
    return zero_fnmr_of(roc_curve(scores, same))
