"""Operating points of a ROC curve: equal error rate, TAR at a FAR, and the rates at a given threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.roc import RocCurve, roc_curve
from siamese_verify.evaluation.scores import checked_threshold

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

DECISIVE_IMPOSTORS = 10  # a false accept rate that fewer impostors decide is flagged as insufficient


class EqualError(NamedTuple):
    """The operating point at which FRR and FAR are equal."""

    rate: float  # in [0, 1]
    threshold: float  # finite: that of the nearest operating point, a score that occurs


def equal_error(curve: RocCurve) -> EqualError:
    """Return the equal error rate of a curve, and the threshold nearest to it.

    FRR - FAR falls strictly from 1 at +inf to -1 at the lowest score, so it changes sign exactly once. Between two
    operating points the rate is interpolated linearly; the threshold is that of the nearer one, the lenient one of
    two equally near, and never +inf.
    """
    genuine, impostors = curve.genuine, curve.impostors
    gap = (genuine - curve.true_accepts) * impostors - curve.false_accepts * genuine  # (FRR - FAR) * G * M, integers
    after = int(np.argmax(gap <= 0))
    before = after - 1  # exists: the gap at +inf is G * M
    # Python's integers from here on: the products exceed 64 bits, and the only rounding is the last division.
    upper, lower = int(gap[before]), -int(gap[after])
    strict, lenient = int(curve.false_accepts[before]), int(curve.false_accepts[after])
    rate = (strict * lower + lenient * upper) / (impostors * (upper + lower))
    nearer = before if upper < lower and before > 0 else after
    return EqualError(rate, float(curve.thresholds[nearer]))


def equal_error_rate(scores: ArrayLike, same: ArrayLike) -> float:
    """Return the rate at which FRR equals FAR, in [0, 1]; 0.5 where all scores are equal.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.

    Raises:
        InputError: see `checked_pairs`.
    """
    return equal_error(roc_curve(scores, same)).rate


class OperatingPoint(NamedTuple):
    """The operating point of lowest threshold whose false accept rate is within a target."""

    target: float  # the FAR asked for, in [0, 1]
    far: float  # the FAR reached, <= target
    tar: float  # true accept rate there, in [0, 1]
    threshold: float  # +inf where even the highest score accepts too many impostors
    insufficient: bool  # target * impostors < 10: the set is too small to measure the rate
    impostors: int  # M, the impostor pairs in the set
    false_accepts: int  # how many of them are accepted


def most_accepts(far: float, impostors: int) -> int:
    """Return the largest number k of false accepts with k / impostors <= far.

    The product would round: 0.29 * 100 is 28.999999999999996, although 29 / 100 is 0.29.
    """
    guess = round(far * impostors)
    return max(k for k in range(max(guess - 1, 0), min(guess + 1, impostors) + 1) if k == 0 or k / impostors <= far)


def check_far(far: float, largest: float = 1) -> None:
    """Raise InputError for a false accept rate outside of [0, largest]."""
    if not 0 <= far <= largest:
        raise InputError(f"A false accept rate must be between 0 and {largest:g}, got {far}.")


def operating_point(curve: RocCurve, far: float) -> OperatingPoint:
    """Return the operating point of lowest threshold with FAR <= `far`; nothing is interpolated.

    Raises:
        InputError: `far` is not in [0, 1].
    """
    check_far(far)
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
    """Return the true accept rate at a false accept rate, see `operating_point`.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.
        far: the false accept rate allowed, in [0, 1].

    Raises:
        InputError: `far` is not in [0, 1]; see also `checked_pairs`.
    """
    return operating_point(roc_curve(scores, same), far)


def zero_fmr(curve: RocCurve) -> float:
    """Return the lowest FRR without a false accept, in [0, 1] (ZeroFMR, ISO/IEC 19795-1)."""
    passed = int(curve.true_accepts[np.searchsorted(curve.false_accepts, 0, side="right") - 1])
    return (curve.genuine - passed) / curve.genuine


def zero_fnmr(curve: RocCurve) -> float:
    """Return the lowest FAR without a false reject, in [0, 1] (ZeroFNMR, ISO/IEC 19795-1)."""
    return int(curve.false_accepts[np.searchsorted(curve.true_accepts, curve.genuine)]) / curve.impostors


class ThresholdRates(NamedTuple):
    """Rates at a threshold that was chosen on other data."""

    threshold: float
    accuracy: float  # share of the pairs decided right, in [0, 1]
    balanced_accuracy: float  # 1 - (FAR + FRR) / 2, in [0, 1]: as if there were as many impostors as genuine pairs
    far: float  # in [0, 1]
    frr: float  # in [0, 1]
    false_accepts: int
    false_rejects: int
    half_total_error: float  # HTER: (FAR + FRR) / 2, in [0, 1]


def rates_at(curve: RocCurve, threshold: float) -> ThresholdRates:
    """Return accuracy, FAR and FRR when a pair is accepted if score >= threshold.

    Args:
        curve: of the pairs.
        threshold: on the scale of the scores; it may be infinite.

    Raises:
        InputError: the threshold is NaN.
    """
    threshold = checked_threshold(threshold)
    # The lowest operating point that is not below the threshold accepts the same pairs.
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
        half_total_error=(far + frr) / 2,
    )


class DetectionCost(NamedTuple):
    """The least normalized cost of decisions over all thresholds."""

    value: float  # in [0, 1]: 1 is no better than always or never accepting
    threshold: float  # the lowest of that cost; may be +inf
    prior: float  # share of genuine pairs, in (0, 1)
    miss_cost: float  # of a genuine pair rejected
    accept_cost: float  # of an impostor accepted


def min_detection_cost(
    curve: RocCurve, prior: float = 0.01, miss_cost: float = 1.0, accept_cost: float = 1.0
) -> DetectionCost:
    """Return the least detection cost of a curve (minDCF).

    min_t [c_miss P FRR(t) + c_fa (1 - P) FAR(t)] / min(c_miss P, c_fa (1 - P)); NIST Speaker Recognition Evaluation.

    Args:
        curve: of the pairs; over all pairs it has a point for each bin of scores, 3e-5 wide.
        prior: P, share of genuine pairs among those to be decided.
        miss_cost: > 0.
        accept_cost: > 0.

    Raises:
        InputError: a prior outside of (0, 1), or a cost that is not positive.
    """
    if not 0 < prior < 1 or not miss_cost > 0 or not accept_cost > 0:
        raise InputError(
            f"minDCF needs a prior between 0 and 1 and positive costs, got {prior}, {miss_cost} and {accept_cost}."
        )
    miss, accept = miss_cost * prior, accept_cost * (1 - prior)
    costs = (miss * curve.frr + accept * curve.far) / min(miss, accept)
    place = len(costs) - 1 - int(np.argmin(costs[::-1]))
    return DetectionCost(float(costs[place]), float(curve.thresholds[place]), prior, miss_cost, accept_cost)


class PartialArea(NamedTuple):
    """Area under a part of the ROC curve."""

    value: float  # mean TAR for FAR in [0, most], in [0, 1]
    most: float  # largest FAR


def partial_auc(curve: RocCurve, most: float = 0.01) -> PartialArea:
    """Return the area under the ROC for FAR in [0, most], divided by `most`: the mean true accept rate there.

    It is the area of scikit-learn's `max_fpr` before McClish's correction; operating points are joined by lines.

    Args:
        curve: see `min_detection_cost`.
        most: largest false accept rate, in (0, 1].

    Raises:
        InputError: another rate.
    """
    if not 0 < most <= 1:
        raise InputError(f"A partial area reaches up to a false accept rate in (0, 1], got {most}.")
    far, tar = curve.far, curve.tar
    last = int(np.searchsorted(far, most, side="right"))
    far = np.append(far[:last], most)
    tar = np.append(tar[:last], np.interp(most, curve.far, curve.tar))
    return PartialArea(float(np.diff(far) @ (tar[1:] + tar[:-1]) / 2 / most), most)


def best_threshold(curve: RocCurve) -> float:
    """Return the lowest threshold that decides the most pairs right; +inf where rejecting every pair is best."""
    right = curve.true_accepts - curve.false_accepts  # plus the constant M
    return float(curve.thresholds[len(right) - 1 - int(np.argmax(right[::-1]))])  # thresholds descend: last is lowest
