"""The equal error rate: where false rejects and false accepts cross."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.roc import roc_curve
from siamese_verify.evaluation.scores import checked_threshold

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from siamese_verify.evaluation.roc import RocCurve


class EqualError(NamedTuple):
    """The crossing of FRR and FAR."""

    rate: float  # in [0, 1]
    threshold: float  # finite: the operating point next to the crossing, a score that occurs


def equal_error_of(curve: RocCurve) -> EqualError:
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
    return equal_error_of(roc_curve(scores, same))


def equal_error_rate(scores: ArrayLike, same: ArrayLike) -> float:
    """Return the rate at which FRR equals FAR, in [0, 1]; 0.5 where all scores are one.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.

    Raises:
        InputError: see `checked_pairs`.
    """
    return equal_error(scores, same).rate


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
