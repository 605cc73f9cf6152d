"""How unequal the error rates of groups are (ISO/IEC 19795-10), with intervals that allow for differences by chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.evaluation.bootstrap import Interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

ALPHA = 0.5  # weight of the false match rates in GARBE
DRAWS = 1000  # of the groups' rates, for the high end and for each degree of inequality that is tried
MOST = 8.0  # times the observed differences, or those of one standard error: no larger ones are tried


class Inequality(NamedTuple):
    """How unequal the groups' own error rates are; of infinite size where one group has no error and another some.

    Attributes:
        name: of the measure.
        value: the measure.
        interval: 95 % confidence interval over people, None where they are unknown or no group has an error.
    """

    name: str
    value: float
    interval: Interval | None


def gini(values: ArrayLike) -> Floats:
    """Return the Gini coefficient of (..., G) rates with the correction G / (G - 1): 0 if equal, 1 if one has all.

    It is the sum of |x_i - x_j| over all i and j, over 2 G^2 mean(x), times G / (G - 1); 0 where all rates are 0, and
    for one group.
    Howard et al., "Evaluating proposed fairness models for face recognition algorithms", ICPR workshops 2022.
    """
    rates = np.asarray(values, dtype=np.float64)
    count, total = rates.shape[-1], rates.sum(axis=-1)
    below = np.arange(1, count)  # a gap between neighbors is in the differences of all below it from all above
    differences = 2 * np.diff(np.sort(rates, axis=-1), axis=-1) @ (below * (count - below))
    scale = 2 * (count - 1) * total
    return np.asarray(np.divide(differences, scale, out=np.zeros_like(total), where=scale > 0))


def garbe(fmr: ArrayLike, fnmr: ArrayLike, alpha: float = ALPHA) -> Floats:
    """Return the Gini aggregation rate for biometric equitability of (..., G) rates of G groups, in [0, 1].

    alpha G(FMR) + (1 - alpha) G(FNMR), see `gini`; Howard et al. 2022, ISO/IEC 19795-10.
    """
    return alpha * gini(fmr) + (1 - alpha) * gini(fnmr)


def worst_ratio(values: ArrayLike) -> Floats:
    """Return the largest of (..., G) rates over their geometric mean: 1 if equal, infinite if one of several is 0.

    NIST IR 8429, "Face Recognition Vendor Test (FRVT) Part 8: Summarizing Demographic Differentials", 2022.
    """
    rates = np.asarray(values, dtype=np.float64)
    largest = rates.max(axis=-1)
    with np.errstate(divide="ignore"):
        mean = np.exp(np.log(rates).mean(axis=-1))
    ratio = np.divide(largest, mean, out=np.full_like(largest, np.inf), where=mean > 0)
    return np.asarray(np.where(largest > 0, np.maximum(ratio, 1), 1.0))


def inequalities(rates: Floats, sizes: Floats | None, level: float = 0.95, seed: int = 0) -> tuple[Inequality, ...]:
    """Return all measures of the groups' own rates, with intervals.

    By chance alone the rates of equal groups differ, so that any of the measures is above its true value more often
    than not, and so are those of resamples. The low end is therefore the least degree of inequality under which what
    was observed is no surprise: the groups' differences from their mean (the ratio: from the geometric mean) are made
    smaller or larger by a factor, and rates drawn for each group with its effective number of trials. Differences below
    one standard error are enlarged to one first, as a factor of none would be none. Differences that may be by chance
    have an interval from 0 (the ratio: from 1).

    The high end is the quantile of the measure when each group's rate is drawn from its fiducial distribution, the beta
    distribution of Jeffreys. A measure is the largest of smooth functions of the rates, one for each order of the
    groups, and its quantile no less than that of the true order: the high end is too low no more often than that of a
    smooth function, and for groups that are nearly equal hardly ever.

    Args:
        rates: (2,G) FMR and FNMR.
        sizes: (2,G) effective numbers of independent trials behind them; None for no intervals.
        level: of the intervals, in (0, 1).
        seed: of the draws.

    Returns:
        The ratio of either kind, the Gini coefficient of either, GARBE.

    Barndorff-Nielsen & Cox, "Inference and Asymptotics", 1994, section 2.3 (the low end, by inverting tests);
    Krishnamoorthy & Lee, "Inference for functions of parameters in discrete distributions based on fiducial approach:
    binomial and Poisson cases", Journal of Statistical Planning and Inference 2010 (the high end).
    """

    def ratio(kind: int) -> Callable[[Floats], Floats]:
        return lambda values: worst_ratio(values[..., kind, :])

    def coefficient(kind: int) -> Callable[[Floats], Floats]:
        return lambda values: gini(values[..., kind, :])

    both = ((0, "FMR"), (1, "FNMR"))
    measures = [(f"largest {name} over the geometric mean", ratio(kind), [kind], True) for kind, name in both]
    measures += [(f"Gini coefficient of {name}", coefficient(kind), [kind], False) for kind, name in both]
    measures += [("GARBE", lambda values: garbe(values[..., 0, :], values[..., 1, :]), [0, 1], False)]
    found = []
    for name, measure, kinds, logs in measures:
        known = sizes is not None and all(rates[kind].sum() > 0 for kind in kinds)
        interval = _interval(measure, rates, sizes, logs, level, seed) if known and sizes is not None else None
        if interval is not None and logs and rates[kinds[0]].min() == 0:
            interval = Interval(interval.low, np.inf)
        found.append(Inequality(name, float(measure(rates)), interval))
    return tuple(found)


def _interval(
    measure: Callable[[Floats], Floats], rates: Floats, sizes: Floats, logs: bool, level: float, seed: int
) -> Interval:
    trials = np.maximum(np.rint(sizes), 1).astype(np.int64)
    some = (rates * trials + 0.5) / (trials + 1)  # half an error more, half a success more
    values = np.log(some) if logs else some
    center = values.mean(axis=1, keepdims=True)
    deviation = np.sqrt(some * (1 - some) / trials) / (some if logs else 1)
    direction, size = values - center, np.sqrt((((values - center) / deviation) ** 2).mean(axis=1, keepdims=True))
    sides = np.where(np.arange(some.shape[1]) < some.shape[1] // 2, 1.0, -1.0) * deviation  # for groups that are equal
    sides -= sides.mean(axis=1, keepdims=True)
    direction = np.where(size > 1e-6, direction / np.clip(size, 1e-6, 1), sides)

    def scaled(factor: float) -> Floats:
        moved = center + factor * direction
        return np.asarray(np.clip(np.exp(moved) if logs else moved, 1e-9, 1 - 1e-9))

    def statistic(values: Floats) -> Floats:
        return measure((values * trials + 0.5) / (trials + 1) if logs else values)

    observed = float(statistic(rates))

    def too_equal(factor: float) -> bool:  # what was observed is more unequal than that
        drawn = np.random.default_rng(seed).binomial(trials, scaled(factor), (DRAWS, *trials.shape)) / trials
        return bool((statistic(drawn) >= observed).mean() <= (1 - level) / 2)

    low = _crossing(too_equal, 0.0, MOST) if too_equal(0.0) else 0.0
    errors = rates * sizes
    drawn = np.random.default_rng(seed).beta(errors + 0.5, sizes - errors + 0.5, (DRAWS, *sizes.shape))
    least = float(measure(scaled(low)))
    return Interval(least, max(least, float(np.quantile(measure(drawn), (1 + level) / 2))))


def _crossing(before: Callable[[float], bool], low: float, high: float) -> float:
    """Return where a condition that holds at the low end ceases to hold; the high end where it does not."""
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if before(middle) else (low, middle)
    return high
