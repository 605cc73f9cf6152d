"""Variance of error rates over pairs that share people: people are the independent units, pairs are not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

BLOCK = 2**20  # counts in memory at once
STEP = 1.02  # ratio of neighboring error counts among the thresholds used; small counts are all used
PRIOR_PEOPLE = 1.0  # people in error at which half is assumed: that a person fails in all pairs or in none
HALFWAY = 10.0  # people in error at which intervals are halfway from Clopper & Pearson's to Jeffreys'
FADING = 0.45  # power of the rate by which dependence fades towards the far tail, see `ClusteredRates.far_interval`
LEAST_PEOPLE = 4  # residuals of the pairs of fewer people (Kish) do not show their variance
DECISIVE_PEOPLE = 30  # fewer people among the accepted impostors cannot show how dependent their pairs are


def rate_interval(
    rate: Floats | float, size: Floats | float, level: float = 0.95, people_in_error: Floats | float = 0.0
) -> tuple[Floats, Floats]:
    """Return intervals of rates for effective numbers of independent trials.

    They are those of Clopper and Pearson, who allow for counts being whole numbers, where few people are in error, and
    become those of Jeffreys, whose coverage of rates that take any value is the level, the more people are.

    Args:
        rate: (...) in [0, 1].
        size: (...) effective number of trials: `rate * (1 - rate)` over the variance of the rate; any real number.
        level: two-sided, in (0, 1).
        people_in_error: (...) see `equal_people`.

    Korn & Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated from
    survey data", Survey Methodology 24, 1998; Brown, Cai & DasGupta, "Interval estimation for a binomial proportion",
    Statistical Science 2001.
    """
    from scipy.special import betaincinv

    p, n = np.broadcast_arrays(np.asarray(rate, dtype=np.float64), np.asarray(size, dtype=np.float64))
    errors, rest, alpha = p * n, (1 - p) * n, (1 - level) / 2
    part = 0.5 * np.asarray(people_in_error) / (HALFWAY + np.asarray(people_in_error))  # of an error, 0 to 1/2
    low = np.where(errors > 0, betaincinv(np.maximum(errors + part, 1e-300), rest + 1 - part, alpha), 0.0)
    high = np.where(rest > 0, betaincinv(errors + 1 - part, np.maximum(rest + part, 1e-300), 1 - alpha), 1.0)
    return np.asarray(low), np.asarray(high)


def equal_people(errors: Floats | Whole) -> Floats:
    """Return how many people with equal numbers of errors are as few as these: (sum e)^2 / sum e^2 (Kish).

    Args:
        errors: (..., n) of each person, weighted or not.
    """
    errors = np.asarray(errors, dtype=np.float64)
    squares = np.einsum("...n,...n->...", errors, errors)
    total = errors.sum(axis=-1)
    return np.asarray(np.divide(total**2, squares, out=np.zeros_like(squares), where=squares > 0))


@dataclass(frozen=True, eq=False)
class ClusteredPairs:
    """Scored pairs and the people on them.

    Attributes:
        genuine: (G,) scores, descending.
        genuine_people: (G,) number of the person, from 0.
        impostors: (K,) the highest scores, descending.
        impostor_people: (2,K) numbers of the people on the two photos.
        dyads: (K,) a number for each two people, the same for all their pairs.
        dyad_pairs: (K,) how many impostor pairs these two people have, listed here or not.
        totals: (n,) impostor pairs of each person, listed here or not.
        squares: sum over each two people of their squared number of impostor pairs.
        lowest: the score from which on all impostors are listed; -inf if all are.
    """

    genuine: Floats
    genuine_people: Whole
    impostors: Floats
    impostor_people: Whole
    dyads: Whole
    dyad_pairs: Whole
    totals: Whole
    squares: int
    lowest: float = -np.inf

    @cached_property
    def people(self) -> int:
        """Number of people, n."""
        return len(self.totals)

    @cached_property
    def impostor_total(self) -> int:
        """Number of impostor pairs, listed or not, M."""
        return int(self.totals.sum()) // 2

    def thresholds(self, others: Sequence[float] = ()) -> Floats:
        """Return thresholds, descending, that separate nearly all counts of errors, `others` included."""
        marks = [np.asarray([*others, np.nextafter(self.impostors[0], np.inf)])]
        for scores in (self.impostors, self.genuine, self.genuine[::-1]):
            marks.append(scores[_sparse_places(len(scores))])
        found = np.unique(np.concatenate(marks))[::-1]
        found = found[found > -np.inf]  # scores of pairs that could not be compared
        return np.asarray(found[(found >= self.lowest) | (found > self.impostors[0])])

    def rates(self, thresholds: Floats) -> ClusteredRates:
        """Return the error rates at descending thresholds, and their variance over people.

        The variance of the FAR is the sum of products of residuals over all pairs of pairs that share a person; for the
        FRR see `genuine_size`.
        Aronow, Samii & Assenova, "Cluster-robust variance estimation for dyadic data", Political Analysis 2015.
        """
        false = np.searchsorted(-self.impostors, -thresholds, side="right")
        true = np.searchsorted(-self.genuine, -thresholds, side="right")
        pairs, own = self.impostor_total, np.bincount(self.genuine_people, minlength=self.people)
        far, frr = false / pairs, (len(self.genuine) - true) / len(self.genuine)
        # Pairs of the same two people that were accepted before each: the square of their number grows by 2 k + 1.
        order = np.argsort(self.dyads, kind="stable")
        first = np.searchsorted(self.dyads[order], self.dyads[order])
        before = np.empty(len(order), dtype=np.int64)
        before[order] = np.arange(len(order)) - first
        squares, cross = (np.append(0, np.cumsum(one))[false] for one in (2 * before + 1, self.dyad_pairs))
        within = squares - 2 * far * cross + far**2 * self.squares
        columns = np.zeros((6, len(thresholds)))
        accepted_blocks = _running_counts(self.impostor_people, false, self.people)
        passed_blocks = _running_counts(self.genuine_people[None], true, self.people)
        for (place, accepted), (_, passed) in zip(accepted_blocks, passed_blocks, strict=True):
            off = accepted - far[place, None] * self.totals
            failed = own - passed
            size, people = genuine_size(failed[:, own > 0], own[own > 0])
            columns[:, place] = (
                np.einsum("tn,tn->t", off, off),
                size,
                np.einsum("tn,tn->t", off, failed - frr[place, None] * own) / (pairs * len(self.genuine)),
                np.count_nonzero(accepted, axis=1),
                people,
                equal_people(accepted),
            )
        variance = variance_over_people(columns[0], within, self.totals) / pairs
        effect, effect_far = _design_effects(far, variance, columns[3], self.totals)
        return ClusteredRates(
            thresholds=thresholds,
            far=far,
            frr=frr,
            impostors=pairs,
            effect=effect,
            effect_far=effect_far,
            frr_size=columns[1],
            far_people=columns[5],
            frr_people=columns[4],
            covariance=columns[2],
        )


def _running_counts(people: Whole, ends: Whole, count: int) -> Iterator[tuple[slice, Floats]]:
    """Yield (T,n) how many of the first `ends` of (S,K) listed people are each of n people, in blocks of the ends."""
    place, held = np.searchsorted(ends, np.arange(people.shape[1]), side="right"), np.zeros(count)
    step = max(1, BLOCK // count)
    for start in range(0, len(ends), step):
        stop = min(start + step, len(ends))
        new = slice(ends[start - 1] if start else 0, ends[stop - 1])
        cells = (place[new] - start) * count + people[:, new]
        counts = np.bincount(cells.ravel(), minlength=(stop - start) * count).reshape(-1, count).astype(np.float64)
        counts[0] += held
        counts = np.cumsum(counts, axis=0)
        held = counts[-1]
        yield slice(start, stop), counts


def _sparse_places(count: int) -> Whole:
    """Indices into `count` items: all of the first few, then geometrically spaced, and the last."""
    places = np.unique(np.geomspace(1, count, int(np.log(max(count, 2)) / np.log(STEP)) + 2).astype(np.int64)) - 1
    return np.minimum(places, count - 1)


def effective_size(
    rate: Floats | float, variance: Floats | float, people_in_error: Floats | float, weights: Floats | Whole
) -> Floats:
    """Return the effective number of independent trials behind rates.

    With few people in error the variance is not known. Then people themselves are the trials, as if a person failed in
    all pairs or in none; this assumption has half of the weight with `PRIOR_PEOPLE` in error, and fades with the square
    of their number.

    Args:
        rate: (...) in [0, 1].
        variance: (...) of the rate, over people.
        people_in_error: (...) see `equal_people`; people without errors if they are fewer.
        weights: (n,) of the people in the rate.
    """
    spread = np.asarray(rate * (1 - rate))
    per_trial = np.divide(variance, spread, out=np.zeros_like(spread), where=spread > 0)  # 1 / n where it is known
    known, assumed = np.where(spread > 0, people_in_error, 0) ** 2, PRIOR_PEOPLE**2
    size = (known + assumed) / (known * per_trial * small_sample_correction(weights, 1) + assumed / len(weights))
    return np.asarray(size)


def genuine_size(errors: Floats, pairs: Whole | Floats) -> tuple[Floats, Floats]:
    """Return the effective number of independent genuine pairs behind rates, and the people in error.

    It is the smaller of two. One has the variance of the residuals of people, which is too small if by chance none of
    a few people with most of the pairs is in error. The other has that of `one_way_variance`, which is too small if
    those with most pairs are in error more often than others.

    Args:
        errors: (..., n) of each person.
        pairs: (n,) of each person, 1 or more.

    Returns:
        (...) sizes; (...) people in error, see `equal_people`, or without errors if they are fewer.
    """
    people, total = np.minimum(equal_people(errors), equal_people(pairs - errors)), pairs.sum()
    rate = errors.sum(axis=-1) / total
    off = errors - rate[..., None] * pairs
    sums = effective_size(rate, np.einsum("...n,...n->...", off, off) / total**2, people, pairs)
    # Estimated from all people alike, and no fewer than if each failed in all pairs or in none (Kish).
    shared = effective_size(rate, one_way_variance(errors, pairs), people, np.ones(len(pairs)))
    return np.minimum(sums, np.maximum(shared, equal_people(pairs))), people


def one_way_variance(errors: Floats, pairs: Whole | Floats) -> Floats:
    """Return the variance of rates over people, from the variances within and between people.

    What people differ by is estimated from all of them, as if it did not depend on how many pairs they have. The
    variance is never less than that of independent pairs.

    Args:
        errors: (..., n) of each person.
        pairs: (n,) of each person, 1 or more.

    Fleiss & Cuzick, "The reliability of dichotomous judgments: unequal numbers of judges per subject", Applied
    Psychological Measurement 1979 (correlation of two pairs of a person: one less the variance within people over all
    of it); Kish, "Survey Sampling", 1965 (design effect: 1 + (m - 1) correlation, here with m = sum n^2 / sum n).
    """
    weights = np.asarray(pairs, dtype=np.float64)
    total = weights.sum()
    rate = errors.sum(axis=-1) / total
    spread = rate * (1 - rate)
    within = np.minimum((errors - errors**2 / weights).sum(axis=-1) / max(total - len(weights), 1), spread)
    return np.asarray((within + (spread - within) * (weights @ weights) / total) / total)


def small_sample_correction(weights: Floats | Whole, fitted: int) -> float:
    """Return the factor by which a variance estimated from few people must be enlarged.

    Args:
        weights: (n,) of the people; n people of unequal weights count for fewer (Kish).
        fitted: degrees of freedom that the residuals lack.

    Returns:
        The factor that makes the variance unbiased, times the squared ratio of Student's t to the normal deviate by
        which Korn & Graubard (1998) shrink the effective number of trials.
    """
    from scipy.special import ndtri, stdtrit

    people = float(equal_people(weights))
    free = max(people - 1, 1)
    return people / max(people - fitted, 1) * float((stdtrit(free, 0.975) / ndtri(0.975)) ** 2)


def variance_over_people(squares: Floats | float, within: Floats | float, weights: Floats | Whole) -> Floats:
    """Return the variance of sums of residuals of impostor pairs, enlarged for few people.

    It is the sum of the products of residuals over all pairs of pairs that share a person: `squares` less `within`,
    which they have twice. Its expectation is at least that of `within`, as that of a product of pairs that share one
    person only is a variance: of what this person adds. Where people do not differ in whom they are like, the sum
    itself is often less, and of 20 people, intervals from it would hold the truth in 88 % of sets.

    Args:
        squares: (...) sum over people of their squared sum of residuals.
        within: (...) sum over each two people of the squared sum of the residuals of their pairs.
        weights: (n,) pairs of the people.
    """
    # Residuals lack four degrees of freedom: two means, and what pairs share with themselves.
    shared = (squares - within) * small_sample_correction(weights, 4)
    return np.asarray(np.maximum(shared, within))


def _design_effects(rate: Floats, variance: Floats, people_in_error: Floats, totals: Whole) -> tuple[Floats, Floats]:
    """Return design effects: the factor by which pairs that share people enlarge the variance of the FAR.

    At strict thresholds too few people are accepted to show how dependent their pairs are: the effect of the strictest
    threshold with enough people is used there. Without any, n people count as n / 2 disjoint pairs, and fewer than four
    (Kish) as one.

    Args:
        rate: (P,) FAR, ascending.
        variance: (P,) of it, times the number of pairs, see `variance_over_people`.
        people_in_error: (P,) on the accepted pairs.
        totals: (n,) pairs of each person.

    Returns:
        (P,) effects, 1 or more, and (P,) the FAR at which they were estimated; infinity where they were not.
    """
    people = int(np.count_nonzero(totals))
    spread = rate * (1 - rate)
    effect = np.maximum(np.divide(variance, spread, out=np.ones_like(spread), where=spread > 0), 1)
    decisive = min(DECISIVE_PEOPLE, people)
    enough = (people_in_error >= decisive) & (spread > 0)
    few = equal_people(totals) < LEAST_PEOPLE
    if few or not enough.any():
        trials = 1 if few else max(1, people // 2)
        return np.full_like(rate, int(totals.sum()) // 2 / trials), np.full_like(rate, np.inf)
    first = int(enough.argmax())
    return np.where(enough, effect, np.maximum(effect, effect[first])), np.where(enough, rate, rate[first])


@dataclass(frozen=True, eq=False)
class ClusteredRates:
    """Error rates at descending thresholds, with the effective numbers of independent pairs behind them.

    Attributes:
        thresholds: (P,) descending.
        far: (P,) ascending.
        frr: (P,) descending.
        impostors: number of pairs behind the FAR.
        effect: (P,) design effect of the FAR, see `_design_effects`.
        effect_far: (P,) the FAR at which it was estimated.
        frr_size: (P,) effective number of independent genuine pairs.
        far_people: (P,) people in error among the impostors, see `equal_people`.
        frr_people: (P,) likewise among the genuine pairs, or people without errors if they are fewer.
        covariance: (P,) of both error rates.
    """

    thresholds: Floats
    far: Floats
    frr: Floats
    impostors: int
    effect: Floats
    effect_far: Floats
    frr_size: Floats
    far_people: Floats
    frr_people: Floats
    covariance: Floats

    @cached_property
    def far_size(self) -> Floats:
        """(P,) effective number of independent impostors."""
        return self.impostors / self.effect

    def far_interval(self, level: float) -> tuple[Floats, Floats]:
        """Return (P,) low and high ends of intervals.

        If the rate were as high as the high end, the design effect would be larger in the same proportion. The high
        end allows for that. Above the strictest threshold that shows the effect it fades with a power of the high end:
        if scores of pairs that share a person are correlated by r, both exceed a high score with a frequency of
        rate^(2 / (1 + r)), so that the effect less one fades as rate^((1 - r) / (1 + r)); the power is that of
        r = 0.38. Ledford & Tawn, "Statistics for near independence in multivariate extreme values", Biometrika 1996.
        """
        low, high = rate_interval(self.far, self.far_size, level, self.far_people)
        ratio = np.where(np.isinf(self.effect_far), 1.0, high / self.effect_far)
        more = 1 + (self.effect - 1) * np.where(ratio > 1, ratio, ratio**FADING)
        return low, rate_interval(self.far, self.impostors / more, level, self.far_people)[1]

    def bounds(self, level: float = 0.95) -> Bounds:
        """Return intervals of both error rates, made monotone in the threshold as the rates are."""
        far_low, far_high = self.far_interval(level)
        frr_low, frr_high = rate_interval(self.frr, self.frr_size, level, self.frr_people)
        return Bounds(
            far_low=np.minimum.accumulate(far_low[::-1])[::-1],
            far_high=np.maximum.accumulate(far_high),
            frr_low=np.minimum.accumulate(frr_low),
            frr_high=np.maximum.accumulate(frr_high[::-1])[::-1],
        )


class Bounds(NamedTuple):
    """Ends of the intervals of FAR and FRR at descending thresholds, each (P,)."""

    far_low: Floats
    far_high: Floats
    frr_low: Floats
    frr_high: Floats


def cluster_pairs(scores: Floats, same: NDArray[np.bool_], people: NDArray[np.int64]) -> ClusteredPairs:
    """Return the `ClusteredPairs` of checked pairs with (N,2) numbered people."""
    ranked = np.argsort(scores)[::-1]
    genuine, impostors = ranked[same[ranked]], ranked[~same[ranked]]
    count = int(people.max()) + 1
    both = np.sort(people[impostors], axis=1)
    _, dyads, times = np.unique(both @ np.array([count, 1]), return_inverse=True, return_counts=True)
    return ClusteredPairs(
        genuine=scores[genuine],
        genuine_people=people[genuine, 0],
        impostors=scores[impostors],
        impostor_people=np.ascontiguousarray(both.T),
        dyads=dyads,
        dyad_pairs=times[dyads],
        totals=np.bincount(both.ravel(), minlength=count),
        squares=int((times**2).sum()),
    )


def person_totals(values: Floats, same: NDArray[np.bool_], people: NDArray[np.int64]) -> Floats:
    """Return (n,) sums over the pairs of each person of (N,) values."""
    count = int(people.max()) + 1
    left, right = people.T
    totals = np.bincount(left, values, count) + np.bincount(right[~same], values[~same], count)
    return np.asarray(totals, dtype=np.float64)


def dyadic_variance(residuals: Floats, same: NDArray[np.bool_], people: NDArray[np.int64]) -> float:
    """Return the variance of the sum of (N,) residuals of pairs, dependent where they share a person.

    At least that over pairs of the same two people, see `variance_over_people`.

    Aronow, Samii & Assenova, "Cluster-robust variance estimation for dyadic data", Political Analysis 2015.
    """
    totals = person_totals(residuals, same, people)
    _, dyads = np.unique(np.sort(people[~same], axis=1) @ np.array([len(totals), 1]), return_inverse=True)
    shared = np.bincount(dyads, residuals[~same])  # counted with either person, once too often
    within = float(shared @ shared)
    return max(float(totals @ totals) - within, within)
