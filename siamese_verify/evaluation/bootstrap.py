"""Bootstrap over identities: how metrics of the same pairs vary together, and intervals of their differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.scores import as_array

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    Weights = NDArray[np.int64]  # (R,N) how often each pair is in each resample

BLOCK = 2**20  # weights in memory at once


class Interval(NamedTuple):
    """A confidence interval. That of a threshold may have an infinite end."""

    low: float
    high: float


def check_level(level: float) -> None:
    """Raise InputError for a confidence level outside of (0, 1)."""
    if not 0 < level < 1:
        raise InputError(f"The confidence level is {level}: give one between 0 and 1, such as 0.95.")


class Difference(NamedTuple):
    """A second metric minus the first, with its interval."""

    value: float
    low: float
    high: float


def difference_interval(
    values: NDArray[np.float64], intervals: Sequence[Interval], resampled: Sequence[NDArray[np.float64]]
) -> Difference:
    """Return the difference of two metrics, with the interval that follows from both intervals and the correlation.

    Args:
        values: (2,) the metrics.
        intervals: of both.
        resampled: blocks of (2,R) values of both in the same resamples, for their correlation.
    """
    drawn: NDArray[np.float64] = np.concatenate([np.empty((2, 0)), *resampled], axis=1)
    drawn = drawn[:, np.isfinite(drawn).all(axis=0)]
    vary = drawn.shape[1] > 1 and bool((drawn.std(axis=1) > 0).all())
    if vary and np.array_equal(drawn[0], drawn[1]):  # the same model twice
        return Difference(0.0, 0.0, 0.0)
    correlation = float(np.clip(np.asarray(np.corrcoef(drawn))[0, 1], -1, 1)) if vary else 0.0
    return correlated_difference(values, intervals, correlation)


def correlation_of(covariance: float, variances: tuple[float, float]) -> float:
    """Correlation of two errors, in [-1, 1]; 0 where one does not vary."""
    if min(variances) <= 0:
        return 0.0
    return float(np.clip(covariance / (variances[0] * variances[1]) ** 0.5, -1, 1))


def correlated_difference(values: NDArray[np.float64], intervals: Sequence[Interval], correlation: float) -> Difference:
    """Return the second of two metrics minus the first, with the interval that follows from theirs.

    Args:
        values: (2,) the metrics.
        intervals: of both.
        correlation: of their errors, in [-1, 1].

    Zou, "Toward using confidence intervals to compare correlations", Psychological Methods 2007, eq. 15.
    """
    first, second = (
        (max(value - low, 0.0), max(high - value, 0.0)) for value, (low, high) in zip(values, intervals, strict=True)
    )
    value = float(values[1] - values[0])
    down, up = (
        float(max(one**2 + other**2 - 2 * correlation * one * other, 0.0)) ** 0.5
        for one, other in ((second[0], first[1]), (second[1], first[0]))
    )
    return Difference(value, value - down, value + up)


def numbered_people(same: NDArray[np.bool_], identities: ArrayLike) -> NDArray[np.int64]:
    """Return (N,2) numbers of the people on the photos of pairs, from 0.

    Raises:
        InputError: another shape, fewer than two people, a genuine pair of two people or an impostor pair of one.
    """
    names = as_array(identities)
    if names.shape != (len(same), 2):
        raise InputError(f"The identities have the shape {names.shape}: give two for each of {len(same)} pairs.")
    people, numbers = np.unique(names, return_inverse=True)
    pairs = numbers.reshape(-1, 2).astype(np.int64)
    wrong = np.flatnonzero((pairs[:, 0] == pairs[:, 1]) != same)
    if len(wrong):
        raise InputError(
            f"{len(wrong)} pairs are genuine with two identities or impostors with one (first row: {wrong[0]}): "
            "identities and labels must agree."
        )
    if len(people) < 2:
        raise InputError("All photos are of one person: intervals over people need at least two.")
    return pairs


class Resamples:
    """Sets of people drawn with replacement, and how often each pair is then there.

    Pairs that share a person are not independent, so people are drawn, not pairs. The genuine pairs of a person drawn m
    times count m times, and the impostor pairs with another person drawn n times count m * n times.

    Args:
        same: (N,) bool, True for a genuine pair.
        identities: (N,2) number or name of the person on either photo of each pair.
        resamples: number of sets, R.
        seed: of the draws.

    Raises:
        InputError: see `numbered_people`; R < 1.

    Bolle, Ratha & Pankanti, "Error analysis of pattern recognition systems - the subsets bootstrap", CVIU 2004;
    Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007.
    """

    def __init__(self, same: NDArray[np.bool_], identities: ArrayLike, resamples: int = 1000, seed: int = 0) -> None:
        if resamples < 1:
            raise InputError(f"The number of resamples is {resamples}: draw 1,000.")
        self.left, self.right = numbered_people(same, identities).T
        self.people = int(max(self.left.max(), self.right.max())) + 1
        self.same, self.count, self.seed = same, resamples, seed

    def __iter__(self) -> Iterator[Weights]:
        """Yield (R,N) weights in blocks; resamples without genuine or without impostor pairs are left out."""
        rng = np.random.default_rng(self.seed)
        step = max(1, BLOCK // max(len(self.same), self.people))
        for start in range(0, self.count, step):
            number = min(step, self.count - start)
            drawn = rng.integers(0, self.people, (number, self.people)) + self.people * np.arange(number)[:, None]
            times = np.bincount(drawn.ravel(), minlength=number * self.people).reshape(number, self.people)
            weights = times[:, self.left]
            weights[:, ~self.same] *= times[:, self.right[~self.same]]
            whole = (weights @ self.same > 0) & (weights @ ~self.same > 0)
            if whole.any():
                yield weights[whole]


class WeightedPairs:
    """Sorted pairs whose metrics are computed for many weights at once.

    Every metric is that of a list in which each pair occurs as often as it weighs: a score of weight zero is no
    operating point.

    Args:
        scores: (N,) checked similarities.
        same: (N,) bool.
        targets: false accept rates.
    """

    def __init__(self, scores: NDArray[np.float64], same: NDArray[np.bool_], targets: Sequence[float] = ()) -> None:
        self.order = np.argsort(scores)[::-1]
        self.same = same[self.order]
        ranked = scores[self.order]
        self.last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # (T,) ends of ties
        self.targets = targets

    def metrics(self, weights: Weights) -> dict[str, NDArray[np.float64]]:
        """Return each metric in (R,) resamples, with the names of `pair_intervals`."""
        ranked = weights[:, self.order]
        true = np.cumsum(ranked * self.same, axis=1)[:, self.last]  # (R,T) genuine pairs accepted at each score
        false = np.cumsum(ranked, axis=1)[:, self.last] - true
        genuine, impostors = true[:, -1:], false[:, -1:]
        ahead = true.copy()
        ahead[:, 1:] += true[:, :-1]
        area = (np.diff(false, axis=1, prepend=0) * ahead).sum(axis=1)
        found = {"eer": _equal_error_rates(true, false), "auc": area / (2 * genuine * impostors)[:, 0]}
        for target in self.targets:
            place = (false / impostors <= target).sum(axis=1) - 1
            found[f"tar_at_far_{target:g}"] = _at(true, place) / genuine[:, 0]
        return found


def _equal_error_rates(true: Weights, false: Weights) -> NDArray[np.float64]:
    """(R,) equal error rates as by `equal_error`; products of counts below 2**53 are exact."""
    genuine, impostors = true[:, -1], false[:, -1]
    after = ((genuine[:, None] - true) * impostors[:, None] <= false * genuine[:, None]).argmax(axis=1)
    gaps = [(genuine - _at(true, place)) * impostors - _at(false, place) * genuine for place in (after - 1, after)]
    upper, lower = gaps[0].astype(np.float64), -gaps[1].astype(np.float64)
    strict, lenient = _at(false, after - 1), _at(false, after)
    return np.asarray((strict * lower + lenient * upper) / (impostors * (upper + lower)))


def _at(counts: Weights, place: NDArray[np.int64]) -> NDArray[np.int64]:
    """(R,) entries of (R,T) counts; 0 before the first, at the threshold +inf."""
    found = np.take_along_axis(counts, np.maximum(place, 0)[:, None], axis=1)[:, 0]
    return np.where(place < 0, 0, found)
