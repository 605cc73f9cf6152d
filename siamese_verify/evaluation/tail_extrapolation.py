"""False accept rates below what the impostors show: peaks over threshold with a generalized Pareto distribution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.evaluation.bootstrap import Interval
from siamese_verify.evaluation.clustered_pairs import FADING, small_sample_correction, variance_over_people
from siamese_verify.evaluation.operating_points import DECISIVE_IMPOSTORS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from siamese_verify.evaluation.clustered_pairs import ClusteredPairs, ClusteredRates
    from siamese_verify.evaluation.roc import RocCurve

    Floats = NDArray[np.float64]

LEAST_EXCESSES = 30  # fewer impostors above the threshold are not fitted
LEAST_SHAPE, MOST_SHAPE = -0.5, 3.0  # below -1/2 the likelihood is not regular; squares of Cauchy variables have 2
POINTS = 300  # of the ratio of shape and scale at which the likelihood is evaluated
SHARES = 41  # of exceeding impostors, likewise
BOUNDED = LEAST_SHAPE + 0.05  # scores whose tail may have a lower shape end too abruptly for this likelihood
HEAVY = 0.5  # shape from which on tails are heavy: of the squares of Student's distribution with 4 degrees of freedom
COARSEST = 0.04  # of the fitted scale: the gap of scores that are rounded more coarsely moves the fit
LEAST_PEOPLE = 10  # fewer are not fitted: how their pairs depend is not seen
FARTHEST = 1e4  # times the largest excess: a threshold beyond has no end


class ExtrapolatedPoint(NamedTuple):
    """The operating point at a false accept rate that the impostors themselves do not show.

    Attributes:
        target: the false accept rate.
        threshold: at which the fitted tail has this rate.
        threshold_interval: 95 % confidence interval of it over people; its high end may be infinite.
        tar: share of the genuine pairs that score at least as high.
        tar_interval: likewise; from 0 where the threshold has no high end.
    """

    target: float
    threshold: float
    threshold_interval: Interval
    tar: float
    tar_interval: Interval


class TailExtrapolation(NamedTuple):
    """A fitted impostor tail and its operating points.

    Attributes:
        points: at the targets that fewer than ten impostors decide.
        excesses: impostors above `above`, to which the distribution was fitted.
        above: the score from which on it is fitted.
        shape: of the generalized Pareto distribution, for squared distances from the median impostor.
    """

    points: tuple[ExtrapolatedPoint, ...]
    excesses: int
    above: float
    shape: float


class ConstrainedFit(NamedTuple):
    """The likeliest tail of those that have a given rate at a given score."""

    deviance: float  # twice the difference of its log-likelihood from the largest one
    share: float  # of impostors above the threshold
    shape: float
    scale: float


@dataclass(frozen=True, eq=False)
class GeneralizedParetoTail:
    """Generalized Pareto distribution of the impostor scores above a threshold.

    It is fitted to squared distances from the median impostor, in units of that of the threshold. Scores of impostors
    are nearly normal, and squares of normal variables approach their limit, an exponential tail, much faster than these
    variables themselves; cosines of random directions have a generalized Pareto tail in squares.

    Attributes:
        pairs: with their people.
        origin: median of the impostors.
        excesses: (k,) of the squares over that of the threshold, descending.
        above: the threshold.

    Coles, "An Introduction to Statistical Modeling of Extreme Values", 2001, chapter 4; Wadsworth, Tawn & Jonathan,
    "Accounting for choice of measurement scale in extreme value modeling", Annals of Applied Statistics 2010.
    """

    pairs: ClusteredPairs
    origin: float
    excesses: Floats
    above: float

    @property
    def share(self) -> float:
        """Share of the impostors above the threshold."""
        return len(self.excesses) / self.pairs.impostor_total

    def excess(self, score: float) -> float:
        """Excess of a score over the threshold, in squares."""
        return ((score - self.origin) / (self.above - self.origin)) ** 2 - 1

    def score(self, excess: float) -> float:
        """Score of an excess."""
        return float(self.origin + (self.above - self.origin) * np.sqrt(1 + excess))

    @cached_property
    def _ratios(self) -> tuple[Floats, Floats]:
        """(P,) ratios of shape and scale, and for each the sum of log(1 + ratio * excess)."""
        lowest, half = -1 / self.excesses[0], POINTS // 2
        negative = lowest * (1 - np.geomspace(1e-4, 1, half, endpoint=False))
        ratios = np.concatenate([negative, np.geomspace(1e-5, 1, half) * 10 / np.median(self.excesses)])
        return ratios, np.array([np.log1p(ratio * self.excesses).sum() for ratio in ratios])

    @cached_property
    def fit(self) -> tuple[float, float, float]:
        """Shape and scale of largest likelihood, and that log-likelihood.

        For a given ratio of shape and scale, the likeliest shape is the mean of log(1 + ratio * excess).
        Grimshaw, "Computing maximum likelihood estimates for the generalized Pareto distribution", Technometrics 1993.
        """
        ratios, logs = self._ratios
        shapes = np.clip(logs / len(self.excesses), LEAST_SHAPE, MOST_SHAPE)
        likelihoods = -len(self.excesses) * np.log(shapes / ratios) - (1 + 1 / shapes) * logs
        at = int(likelihoods.argmax())
        return float(shapes[at]), float(shapes[at] / ratios[at]), float(likelihoods[at])

    def rate(self, score: float) -> float:
        """Share of impostors that score at least as high, for a score above the threshold."""
        shape, scale, _ = self.fit
        inside = 1 + shape * self.excess(score) / scale
        return float(self.share * inside ** (-1 / shape)) if inside > 0 else 0.0

    def threshold(self, rate: float) -> float:
        """Score at which the fitted tail has a rate below `share`."""
        shape, scale, _ = self.fit
        return self.score(float(scale * np.expm1(-shape * np.log(rate / self.share)) / shape))

    def constrained(self, rate: float, score: float) -> ConstrainedFit:
        """Return the likeliest of all tails that have a rate at a score."""
        ratios, logs = self._ratios
        count, total, excess = len(self.excesses), self.pairs.impostor_total, self.excess(score)
        wide = 6 * np.sqrt(self._share_effect / count)
        shares = np.minimum(self.share * np.exp(np.linspace(-wide, wide, SHARES)), 0.5)
        binomial = count * np.log(shares) + (total - count) * np.log1p(-shares)
        with np.errstate(all="ignore"):  # ratios for which the tail ends below the score have no likelihood
            beyond = np.log(rate / shares)[:, None]  # (Z,1)
            shapes = -np.log1p(ratios * excess) / beyond
            likelihoods = -count * np.log(shapes / ratios) - (1 + 1 / shapes) * logs
            allowed = (
                (shapes >= LEAST_SHAPE)
                & (shapes <= MOST_SHAPE)
                & (shapes / ratios > 0)
                & (beyond < 0)
                & np.isfinite(likelihoods)
            )
        likelihoods = np.where(allowed, likelihoods, -np.inf) + binomial[:, None]  # (Z,P)
        row, column = np.unravel_index(int(likelihoods.argmax()), likelihoods.shape)
        best = self.fit[2] + count * np.log(self.share) + (total - count) * np.log1p(-self.share)
        shape = float(shapes[row, column])
        return ConstrainedFit(
            2 * float(best - likelihoods[row, column]), float(shares[row]), shape, shape / float(ratios[column])
        )

    @cached_property
    def _share_effect(self) -> float:
        """Design effect of the share of impostors above the threshold."""
        shape, scale, _ = self.fit
        return self._effect(0.0, self.share, shape, scale)

    def effect(self, rate: float, score: float, found: ConstrainedFit) -> float:
        """Return the factor by which pairs that share people enlarge the variance of a rate in the far tail.

        It is the larger of that of the likeliest tail and of what remains of the effect above the threshold, for rates
        above the fitted one also that of the constrained tail: few people decide the far tail, so that the first is
        often too small. How the effect fades is that of `ClusteredRates.far_interval`.
        """
        shape, scale, _ = self.fit
        excess = self.excess(score)
        remains = 1 + (self._share_effect - 1) * min(rate / self.share, 1) ** FADING
        effects = [remains, self._effect(excess, self.share, shape, scale)]
        if rate > self.rate(score):
            effects.append(self._effect(excess, found.share, found.shape, found.scale))
        return float(max(effects))

    def _effect(self, excess: float, share: float, shape: float, scale: float) -> float:
        """Dyadic variance of the log of a rate over that for independent pairs, for parameters of the tail."""
        pairs, values = self.pairs, self.excesses / scale
        shape = max(shape, LEAST_SHAPE + 0.1) if shape < 0 else shape
        at = excess / scale
        inside, beyond = np.maximum(1 + shape * values, 1e-6), max(1 + shape * at, 1e-6)
        # Slopes of the log density of each excess, and of the log of the rate, by shape and log scale.
        slopes = np.stack(
            [
                np.log(inside) / shape**2 - (1 + 1 / shape) * values / inside,
                (1 + shape) * values / inside - 1,
            ]
        )
        slope = np.array([np.log(beyond) / shape**2 - at / (shape * beyond), at / beyond])
        information = np.array([[2 / (1 + shape), 1 / (1 + shape)], [1 / (1 + shape), 1]]) / (1 + 2 * shape)
        weights = np.linalg.solve(information, slope)
        influence = (1 + weights @ slopes) / share  # (k,) less one; all other impostors have -1
        count, total = len(values), pairs.impostor_total
        people, listed = pairs.impostor_people[:, :count], pairs.dyads[:count]
        off = sum(np.bincount(side, influence, pairs.people) for side in people) - pairs.totals
        _, first, numbers = np.unique(listed, return_index=True, return_inverse=True)
        shared = np.bincount(numbers, influence)
        within = shared @ shared - 2 * shared @ pairs.dyad_pairs[:count][first] + pairs.squares
        independent = total * (1 - share + slope @ weights) / share
        # Of heavy tails few people decide: as many as people of equal totals have such squares. Lighter tails are
        # fitted too heavy, if anything, which is as much again: their interval would be too wide.
        few = max(small_sample_correction(off**2, 1) / small_sample_correction(pairs.totals, 4), 1)
        variance = float(variance_over_people(float(off @ off), float(within), pairs.totals))
        heavy = min(max(self.fit[0] / HEAVY, 0.0), 1.0)
        return float(max(variance * few**heavy / independent, 1.0))

    def threshold_interval(self, rate: float, level: float = 0.95) -> Interval:
        """Return the confidence interval of the threshold at a rate, with people as the independent units.

        It has the scores at which the deviance of the rate, over its design effect, is below the quantile of the
        chi-squared distribution (profile likelihood). Its high end may be infinite; its low end is not below the
        threshold that the tail was fitted from. Where the tail at an end has nearly the least shape, scores may end
        more abruptly than any fitted tail, and such an interval could lie above the truth: then only its high end is
        from the fit, which is too high if anything, and the low end is from the impostors themselves.

        Args:
            rate: below `share`.
            level: in (0, 1).
        """
        from scipy.stats import chi2

        allowed = float(chi2.ppf(level, 1))

        def inside(excess: float) -> bool:
            score = self.score(excess)
            found = self.constrained(rate, score)
            return bool(found.deviance <= allowed * self.effect(rate, score, found))

        middle = self.excess(self.threshold(rate))
        low, high, farthest = 0.0, middle, FARTHEST * float(self.excesses[0])
        if not inside(low := 1e-6 * middle):
            low = _boundary(middle, low, inside)
        while inside(high := high + max(middle, float(self.excesses[0])) / 2) and high < farthest:
            high += high - middle
        end = np.inf if high >= farthest else self.score(_boundary(middle, high, inside))
        start = self.score(low)
        if any(self.constrained(rate, one).shape < BOUNDED for one in (start, end) if np.isfinite(one)):
            rates = self._rates
            lenient = np.flatnonzero(rates.bounds(level).far_low > rate)
            start = min(start, float(rates.thresholds[lenient[0]]) if len(lenient) else -np.inf)
        return Interval(start, end)

    @cached_property
    def _rates(self) -> ClusteredRates:
        return self.pairs.rates(self.pairs.thresholds())


def _boundary(inside_at: float, outside_at: float, inside: Callable[[float], bool]) -> float:
    """Return the end of an interval between a value inside of it and one outside, on the outer side."""
    for _ in range(18):
        middle = (inside_at + outside_at) / 2
        if inside(middle):
            inside_at = middle
        else:
            outside_at = middle
    return outside_at


def fit_tail(pairs: ClusteredPairs, origin: float) -> GeneralizedParetoTail | None:
    """Fit the tail of the impostors.

    Args:
        pairs: with their people; the k highest impostors are fitted, k = M^(2/3) / log log M of M pairs.
        origin: median of the impostors.

    Returns:
        None where fewer than 30 impostors are above the threshold, it is not above the origin, there are fewer than 10
        people, the likeliest shape is 3: of scores whose tail is heavier than that of a Cauchy distribution, or scores
        are rounded: most excesses are equal to others and more than 4 % of the fitted scale from the next value.

    Loretan & Phillips, "Testing the covariance stationarity of heavy-tailed time series", Journal of Empirical Finance
    1994, for the number of excesses.
    """
    total = pairs.impostor_total
    count = int(total ** (2 / 3) / np.log(np.log(total))) if total > LEAST_EXCESSES else 0
    if not LEAST_EXCESSES <= count < len(pairs.impostors) or pairs.people < LEAST_PEOPLE:
        return None
    above = float(pairs.impostors[count])
    count = int(np.searchsorted(-pairs.impostors, -above))  # without those that are equal
    if count < LEAST_EXCESSES or above <= origin:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        squares = ((pairs.impostors[:count] - origin) / (above - origin)) ** 2 - 1
    if not (squares[-1] > 0 and np.isfinite(squares[0])):
        return None
    tail = GeneralizedParetoTail(pairs, origin, squares, above)
    values, times = np.unique(squares, return_counts=True)
    gaps = np.where(times > 1, np.diff(values, prepend=0), 0).repeat(times)
    return tail if tail.fit[0] < MOST_SHAPE and np.median(gaps) <= COARSEST * tail.fit[1] else None


def extrapolate(
    pairs: ClusteredPairs, curve: RocCurve, targets: Sequence[float], level: float = 0.95
) -> TailExtrapolation | None:
    """Return operating points at false accept rates that fewer than ten impostors decide.

    `benchmarks/coverage.py` measures how often the intervals hold the truth. They say nothing of people of a kind that
    is not among the impostors.

    Args:
        pairs: with their people.
        curve: of the same pairs.
        targets: false accept rates, of which those above ten impostors are left out.
        level: of the intervals, in (0, 1).

    Returns:
        None where the tail cannot be fitted, see `fit_tail`, or no target needs it. Where all
        scores are within -1 and 1, as cosines are, no threshold is above 1.
    """
    middle = int(np.searchsorted(2 * curve.false_accepts, curve.impostors))
    tail = fit_tail(pairs, float(curve.thresholds[max(middle, 1)]))
    if tail is None:
        return None
    bound = 1.0 if max(curve.thresholds[1], -curve.thresholds[-1]) <= 1 + 1e-6 else np.inf
    points: dict[float, ExtrapolatedPoint] = {}
    highest = Interval(-np.inf, -np.inf)  # of thresholds at higher rates: ends rise as thresholds do
    for target in sorted(targets, reverse=True):
        if not 0 < target < min(DECISIVE_IMPOSTORS / curve.impostors, tail.share):
            continue
        threshold, found = tail.threshold(target), tail.threshold_interval(target, level)
        if threshold > bound:
            continue
        highest = interval = Interval(max(found.low, highest.low), max(min(found.high, bound), highest.high))
        ends = [one for one in (threshold, *interval) if np.isfinite(one)]
        rates = pairs.rates(np.sort(ends)[::-1])
        bounds = rates.bounds(level)
        place = int(np.flatnonzero(rates.thresholds == threshold)[0])
        tar = Interval(
            1 - float(bounds.frr_high[0]) if interval.high < np.inf else 0.0,
            1 - float(bounds.frr_low[-1]) if interval.low > -np.inf else 1.0,
        )
        points[target] = ExtrapolatedPoint(float(target), threshold, interval, 1 - float(rates.frr[place]), tar)
    if not points:
        return None
    ordered = tuple(points[target] for target in targets if target in points)
    return TailExtrapolation(ordered, len(tail.excesses), tail.above, tail.fit[0])
