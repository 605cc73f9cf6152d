"""Bootstrap over identities: how metrics of the same pairs vary together, and intervals of their differences."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.scores import as_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    Weights = Any  # (R,N) int64, how often each pair is in each resample: an array, or a tensor of a GPU

BLOCK, BLOCK_ON_GPU = 2**20, 2**23  # weights at once; some 60 bytes of memory each: 0.5 GB of a GPU
LARGE = 2**27  # weights from which a GPU is looked for: seconds of a processor


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


def placement(device: str, weights: int) -> Callable[[Any], Any]:
    """Return what brings arrays to where resamples are counted: to NumPy as they are, or to a GPU.

    Args:
        device: `cpu`, `cuda`, or `auto` for a GPU if there is one and enough to count: else importing torch takes more.
        weights: how many there are, of all resamples together.
    """
    if device == "cpu" or (device == "auto" and weights < LARGE):
        return np.asarray
    import torch

    from siamese_verify.pairwise.pair_scores import torch_device

    there = torch_device(device)
    return partial(torch.as_tensor, device=there) if there.type == "cuda" else np.asarray


def listed(counts: Any) -> NDArray[np.int64]:
    """Return an array or a tensor of a GPU as an array."""
    return counts if isinstance(counts, np.ndarray) else np.asarray(counts.cpu())


class Resamples:
    """Sets of people drawn with replacement, and how often each pair is then there.

    Pairs that share a person are not independent, so people are drawn, not pairs. The genuine pairs of a person drawn m
    times count m times, and the impostor pairs with another person drawn n times count m * n times.

    Args:
        same: (N,) bool, True for a genuine pair.
        identities: (N,2) number or name of the person on either photo of each pair.
        resamples: number of sets, R.
        seed: of the draws, which are the same on each device.
        device: see `placement`.

    Attributes:
        place: brings arrays to where the weights are.

    Raises:
        InputError: see `numbered_people`; R < 1; a device that cannot be used.

    Bolle, Ratha & Pankanti, "Error analysis of pattern recognition systems - the subsets bootstrap", CVIU 2004;
    Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007.
    """

    def __init__(
        self,
        same: NDArray[np.bool_],
        identities: ArrayLike,
        resamples: int = 1000,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if resamples < 1:
            raise InputError(f"The number of resamples is {resamples}: draw 1,000.")
        left, right = numbered_people(same, identities).T
        self.people, self.pairs = int(max(left.max(), right.max())) + 1, len(same)
        self.place = placement(device, resamples * len(same))
        self.left, self.right = self.place(left.copy()), self.place(np.where(same, self.people, right))
        self.same = self.place(same)
        self.count, self.seed = resamples, seed
        self.block = BLOCK if self.place is np.asarray else BLOCK_ON_GPU

    def __iter__(self) -> Iterator[Weights]:
        """Yield (R,N) weights in blocks; resamples without genuine or without impostor pairs are left out."""
        rng = np.random.default_rng(self.seed)
        step = max(1, self.block // max(self.pairs, self.people))
        for start in range(0, self.count, step):
            number = min(step, self.count - start)
            drawn = rng.integers(0, self.people, (number, self.people)) + self.people * np.arange(number)[:, None]
            times = np.ones((number, self.people + 1), dtype=np.int64)  # the last for genuine pairs, of one person
            times[:, :-1] = np.bincount(drawn.ravel(), minlength=number * self.people).reshape(number, -1)
            placed = self.place(times)
            weights = placed[:, self.left] * placed[:, self.right]
            genuine, every = listed((weights * self.same).sum(1)), listed(weights.sum(1))
            whole = np.flatnonzero((genuine > 0) & (genuine < every))
            if len(whole):
                yield weights if len(whole) == number else weights[self.place(whole)]


class WeightedPairs:
    """Sorted pairs whose metrics are computed for many weights at once.

    Every metric is that of a list in which each pair occurs as often as it weighs: a score of weight zero is no
    operating point.

    Args:
        scores: (N,) checked similarities.
        same: (N,) bool.
        targets: false accept rates.
        place: that of the `Resamples`.
    """

    def __init__(
        self,
        scores: NDArray[np.float64],
        same: NDArray[np.bool_],
        targets: Sequence[float] = (),
        place: Callable[[Any], Any] = np.asarray,
    ) -> None:
        order = np.argsort(scores)[::-1].copy()
        ranked = scores[order]
        last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # (T,) ends of ties
        self.last = slice(None) if len(last) == len(ranked) else place(last)
        self.order, self.same, self.targets = place(order), place(same[order]), targets

    def metrics(self, weights: Weights) -> dict[str, NDArray[np.float64]]:
        """Return each metric in (R,) resamples, with the names of `pair_intervals`."""
        ranked = weights[:, self.order]
        true = (ranked * self.same).cumsum(1)[:, self.last]  # (R,T) genuine pairs accepted at each score
        false = ranked.cumsum(1)[:, self.last] - true
        genuine, impostors = listed(true[:, -1]), listed(false[:, -1])
        area = ((false[:, 1:] - false[:, :-1]) * (true[:, 1:] + true[:, :-1])).sum(1) + false[:, 0] * true[:, 0]
        found = {"eer": _equal_error_rates(true, false), "auc": listed(area) / (2 * genuine * impostors)}
        for target in self.targets:
            accepting = _leading(false.shape, lambda place: _at(false, place) / impostors <= target)  # noqa: B023
            found[f"tar_at_far_{target:g}"] = _at(true, accepting - 1) / genuine
        return found


def _equal_error_rates(true: Weights, false: Weights) -> NDArray[np.float64]:
    """(R,) equal error rates as by `equal_error`; products of counts below 2**53 are exact."""
    genuine, impostors = listed(true[:, -1]), listed(false[:, -1])

    def gap(place: NDArray[np.int64]) -> NDArray[np.int64]:
        return (genuine - _at(true, place)) * impostors - _at(false, place) * genuine

    after = _leading(true.shape, lambda place: gap(place) > 0)
    upper, lower = gap(after - 1).astype(np.float64), -gap(after).astype(np.float64)
    strict, lenient = _at(false, after - 1), _at(false, after)
    return np.asarray((strict * lower + lenient * upper) / (impostors * (upper + lower)))


def _leading(shape: Sequence[int], holds: Callable[[NDArray[np.int64]], NDArray[np.bool_]]) -> NDArray[np.int64]:
    """(R,) in how many of the T places of each resample something holds, which it does from the first on, by bisection.

    Args:
        shape: R and T.
        holds: (R,) places -> (R,) whether it does.
    """
    found = np.zeros(shape[0], dtype=np.int64)
    for bit in reversed(range(shape[1].bit_length())):
        more = found + 2**bit
        found = np.where((more <= shape[1]) & holds(np.minimum(more, shape[1]) - 1), more, found)
    return found


def _at(counts: Weights, place: NDArray[np.int64]) -> NDArray[np.int64]:
    """(R,) entries of (R,T) counts; 0 before the first, at the threshold +inf."""
    return np.where(place < 0, 0, listed(counts[np.arange(len(place)), np.maximum(place, 0)]))
