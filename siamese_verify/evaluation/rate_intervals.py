"""Confidence intervals of verification metrics, with people as the independent units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from siamese_verify.evaluation.bootstrap import Interval, check_level, numbered_people
from siamese_verify.evaluation.clustered_pairs import (
    ClusteredPairs,
    cluster_pairs,
    dyadic_variance,
    effective_size,
    equal_people,
    person_totals,
    rate_interval,
)
from siamese_verify.evaluation.folds import fold_errors
from siamese_verify.evaluation.scores import checked_pairs, checked_threshold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.evaluation.clustered_pairs import Bounds, ClusteredRates

    Floats = NDArray[np.float64]


def one_sided(level: float) -> float:
    """Return the two-sided level whose upper end is the one-sided bound of this level."""
    return 2 * level - 1


def level_of_sum(level: float, first: float, second: float, covariance: float = 0.0) -> float:
    """Return the level for two intervals whose ends, added, are the ends of an interval of the sum at `level`.

    Independent errors do not both reach their ends at once: with standard deviations a and b, the end of the sum is
    z sqrt(a^2 + b^2) = z' (a + b) for a smaller z'.
    """
    from scipy.stats import norm

    if first + second <= 0:
        return level
    share = np.sqrt(max(first**2 + second**2 + 2 * covariance, 0.0)) / (first + second)
    z = norm.ppf((1 + level) / 2) * np.clip(share, 0.5**0.5, 1)
    return float(2 * norm.cdf(z) - 1)


def standard_deviations(rates: ClusteredRates) -> tuple[Floats, Floats]:
    """Return (P,) standard deviations of FAR and FRR, at least those of a rate with one error."""
    found = []
    for rate, size in ((rates.far, rates.far_size), (rates.frr, rates.frr_size)):
        some = np.clip(rate, 1 / (size + 1), size / (size + 1))
        found.append(np.sqrt(some * (1 - some) / size))
    return found[0], found[1]


def equal_error_slopes(rates: ClusteredRates) -> tuple[int, float, float]:
    """Return the place of the threshold nearest to equal errors, and how steep FAR and FRR are there, to a factor.

    Errors of the equal error rate are, to first order, (fall dFAR + rise dFRR) / (rise + fall). Slopes are taken over
    the thresholds at which the error rates differ by no more than a standard deviation.
    """
    far, frr = standard_deviations(rates)
    gap = rates.frr - rates.far
    at = int(np.abs(gap).argmin())
    near = np.flatnonzero(np.abs(gap) <= np.hypot(far[at], frr[at]))
    first, last = (max(near.min(initial=at) - 1, 0), min(near.max(initial=at) + 1, len(gap) - 1))
    return at, float(rates.far[last] - rates.far[first]), float(rates.frr[first] - rates.frr[last])


def equal_error_interval(rates: ClusteredRates, level: float, whole: bool) -> Interval | None:
    """Return the interval of the equal error rate.

    The rate is below r if and only if at some threshold both errors are, and above r if and only if at every threshold
    one of them is.

    Args:
        rates: at all thresholds.
        level: of the interval.
        whole: the thresholds reach the lowest score; if not, an interval that may end beyond them is None.
    """
    far, frr = standard_deviations(rates)
    at, rise, fall = equal_error_slopes(rates)
    perfect = bool(((rates.far == 0) & (rates.frr == 0)).any())
    bounds = rates.bounds(
        one_sided(level)
        if perfect
        else level_of_sum(
            level, float(fall * far[at]), float(rise * frr[at]), float(fall * rise * rates.covariance[at])
        )
    )
    beyond = bounds.far_low[-1] < bounds.frr_low[-1] or bounds.far_high[-1] < bounds.frr_high[-1]
    if beyond and not whole:
        return None
    return Interval(
        float(np.minimum(bounds.far_low, bounds.frr_low).max()),
        float(np.maximum(bounds.far_high, bounds.frr_high).min()),
    )


def threshold_interval(rates: ClusteredRates, bounds: Bounds, target: float, whole: bool) -> Interval | None:
    """Return the interval of the threshold at a false accept rate: where the rate's intervals include the target.

    Its high end is +inf where even the rate above the highest impostor may exceed the target, its low end -inf where
    every threshold may be strict enough.

    Woodruff, "Confidence intervals for medians and other position measures", JASA 1952.
    """
    strict, lenient = np.flatnonzero(bounds.far_high <= target), np.flatnonzero(bounds.far_low > target)
    if not len(lenient) and not whole:
        return None
    return Interval(
        float(rates.thresholds[lenient[0]]) if len(lenient) else -np.inf,
        float(rates.thresholds[strict[-1]]) if len(strict) else np.inf,
    )


def tar_interval(rates: ClusteredRates, target: float, level: float, whole: bool) -> Interval | None:
    """Return the interval of the true accept rate at a false accept rate.

    Its ends are those of the rate at the ends of the threshold's interval: 0 where that has no high end.
    """
    usual = rates.bounds(level)
    at = threshold_interval(rates, usual, target, whole)
    if at is None:
        return None
    far, frr = standard_deviations(rates)
    place = max(int(np.searchsorted(rates.far, target, side="right")) - 1, 0)
    inside = np.flatnonzero((rates.thresholds >= at.low) & (rates.thresholds <= at.high))
    rise = rates.far[inside[-1]] - rates.far[inside[0]] if len(inside) else 0.0
    fall = rates.frr[inside[0]] - rates.frr[inside[-1]] if len(inside) else 0.0
    bounds = rates.bounds(
        level_of_sum(
            one_sided(level) if rates.frr[place] == 0 else level,
            float(fall * far[place]),
            float(rise * frr[place]),
            float(fall * rise * rates.covariance[place]),
        )
    )
    strict, lenient = np.flatnonzero(bounds.far_high <= target), np.flatnonzero(bounds.far_low > target)
    if not len(lenient) and not whole:
        return None
    return Interval(
        float(1 - bounds.frr_high[strict[-1]]) if len(strict) and at.high < np.inf else 0.0,
        float(1 - bounds.frr_low[lenient[0]]) if len(lenient) else 1.0,
    )


def clustered_intervals(
    pairs: ClusteredPairs, targets: Sequence[float], threshold: float | None, level: float = 0.95
) -> dict[str, Interval]:
    """Return the intervals of `eer`, `tar_at_far_F`, `threshold_at_far_F`, and with a threshold of `far` and `frr`.

    Intervals that depend on impostors which `pairs` does not list are left out.
    """
    if not len(pairs.impostors):
        return {}
    whole = pairs.lowest == -np.inf
    known = threshold is not None and (whole or threshold >= pairs.lowest)
    rates = pairs.rates(pairs.thresholds([threshold] if threshold is not None and known else []))
    bounds = rates.bounds(level)
    found: dict[str, Interval | None] = {"eer": equal_error_interval(rates, level, whole)}
    for target in targets:
        found[f"tar_at_far_{target:g}"] = tar_interval(rates, target, level, whole)
        found[f"threshold_at_far_{target:g}"] = threshold_interval(rates, bounds, target, whole)
    if threshold is not None and known:
        place = int(np.searchsorted(-rates.thresholds, -threshold))
        found["far"] = far_interval_at(rates, place, level)
        found["frr"] = frr_interval_at(rates, place, level)
    return {name: interval for name, interval in found.items() if interval is not None}


def far_interval_at(rates: ClusteredRates, place: int, level: float = 0.95) -> Interval:
    """Return the interval of the FAR at one of the thresholds, one-sided where it is 0 or 1."""
    low, high = rates.far_interval(one_sided(level) if rates.far[place] in (0, 1) else level)
    return Interval(float(low[place]), float(high[place]))


def frr_interval_at(rates: ClusteredRates, place: int, level: float = 0.95) -> Interval:
    """Return the interval of the FRR at one of the thresholds, likewise."""
    return proportion_interval(rates.frr[place], rates.frr_size[place], level, rates.frr_people[place])


def proportion_interval(rate: float, size: float, level: float, people_in_error: float = 0.0) -> Interval:
    """Return the interval of a rate with `size` effective trials, one-sided where it is 0 or 1."""
    low, high = rate_interval(rate, size, one_sided(level) if rate in (0, 1) else level, people_in_error)
    return Interval(float(low), float(high))


def error_interval(
    errors: Floats,
    weights: Floats,
    same: NDArray[np.bool_],
    people: NDArray[np.int64],
    level: float,
    decisive: Floats,
) -> Interval:
    """Return the interval of a weighted mean of errors.

    Args:
        errors: (N,) in [0, 1].
        weights: (N,) of each pair in the mean: 1 / N for a plain mean.
        same: (N,) bool.
        people: (N,2) numbers of the people on the photos, from 0.
        level: of the interval.
        decisive: (N,) errors of the pairs whose people count as people in error.
    """
    rate = float(weights @ errors / weights.sum())
    fewer = decisive
    if rate > 0.5:
        fewer = 1 - errors
        rate = 1 - float(weights @ fewer / weights.sum())  # exactly 1 without any
    wrong, totals = float(equal_people(person_totals(fewer, same, people))), person_totals(weights, same, people)
    variance = dyadic_variance(weights * (errors - rate), same, people)
    return clustered_rate_interval(rate, variance, wrong, totals[totals > 0], level)


def clustered_rate_interval(
    rate: float, variance: float, people_in_error: float, weights: Floats, level: float
) -> Interval:
    """Return the interval of a rate of errors of people.

    If the rate were as high as the high end, the dependence would be larger: `ClusteredRates.far_interval`.

    Args:
        rate: in [0, 1].
        variance: of the rate, over people.
        people_in_error: see `equal_people`.
        weights: (n,) of the people in the rate.
        level: of the interval.
    """
    size = float(effective_size(rate, variance, people_in_error, weights))
    low, high = proportion_interval(rate, size, level, people_in_error)
    if rate in (0, 1):
        return Interval(low, high)
    fewer = max(size * rate / high, min(size, float(len(weights))))
    return Interval(low, proportion_interval(rate, fewer, level, people_in_error).high)


def mean_interval(people: NDArray[np.int64], values: Floats, level: float = 0.95) -> Interval:
    """Return the interval of a mean of values of people, who are the independent units.

    Args:
        people: (Q,) number of the person of each value.
        values: (Q,) in [0, 1], Q >= 1.
        level: in (0, 1).
    """
    both = np.unique(people, return_inverse=True)[1].repeat(2).reshape(-1, 2)  # as genuine pairs
    errors, weights = 1 - values, np.full(len(values), 1 / len(values))
    return _complement(error_interval(errors, weights, np.ones(len(values), dtype=np.bool_), both, level, errors))


def pair_intervals(
    scores: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike,
    folds: ArrayLike | None = None,
    threshold: float | None = None,
    targets: Sequence[float] = (1e-1, 1e-2, 1e-3),
    level: float = 0.95,
) -> dict[str, Interval]:
    """Return confidence intervals of metrics, with people as the independent units.

    Pairs that share a person are dependent; an effective number of independent pairs takes their place, see
    `ClusteredPairs`. `benchmarks/coverage.py` measures how often the intervals include the true value.

    Args:
        scores: (N,) finite similarities.
        same: (N,) bool, True for a genuine pair.
        identities: (N,2) number or name of the person on either photo of each pair.
        folds: (N,) fold of each pair, decided by the threshold chosen on the other folds.
        threshold: chosen on other data.
        targets: false accept rates.
        level: of confidence, in (0, 1).

    Returns:
        Intervals of `eer`, `auc`, `tar_at_far_F` and `threshold_at_far_F`, with a threshold or folds of `accuracy`,
        with a threshold of `far` and `frr`. The interval of a threshold ends at +inf where the pairs are too few to
        show the rate.

    Raises:
        InputError: see `checked_pairs` and `numbered_people`; a level outside of (0, 1).
    """
    check_level(level)
    values, labels = checked_pairs(scores, same)
    fixed = None if threshold is None else checked_threshold(threshold)
    people = numbered_people(labels, identities)
    found = clustered_intervals(cluster_pairs(values, labels, people), targets, fixed, level)
    losses = _losses(values, labels)
    kinds = np.where(labels, 1 / labels.sum(), 1 / (~labels).sum())
    found["auc"] = _complement(error_interval(losses, kinds, labels, people, level, losses * labels))
    wrong = None
    if folds is not None:
        wrong, weights = fold_errors(values, labels, folds)
    elif fixed is not None:
        wrong, weights = (values >= fixed) != labels, np.full(len(values), 1 / len(values))
    if wrong is not None:
        errors = wrong.astype(np.float64)
        found["accuracy"] = _complement(error_interval(errors, weights, labels, people, level, errors))
    return found


def _complement(interval: Interval) -> Interval:
    return Interval(1 - interval.high, 1 - interval.low)


def _losses(values: Floats, same: NDArray[np.bool_]) -> Floats:
    """(N,) share of the pairs of the other kind that each pair is ordered wrongly with, ties counting one half."""
    found = np.empty(len(values))
    for kind, sign in ((same, -1), (~same, 1)):
        others = np.sort(sign * values[~kind])
        own = sign * values[kind]
        found[kind] = (np.searchsorted(others, own) + np.searchsorted(others, own, side="right")) / (2 * len(others))
    return found
