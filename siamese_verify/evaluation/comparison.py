"""Is one model better than another, or was it luck? Both on the same pairs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import (
    Difference,
    Interval,
    Resamples,
    WeightedPairs,
    check_level,
    difference_of,
    numbered_people,
)
from siamese_verify.evaluation.clustered_pairs import correction
from siamese_verify.evaluation.folds import fold_errors
from siamese_verify.evaluation.operating_points import equal_error
from siamese_verify.evaluation.pair_intervals import dyadic_variance, error_interval, pair_intervals, totals_of
from siamese_verify.evaluation.scores import as_array, checked_pairs, checked_threshold, rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Comparison:
    """Two models on the same pairs.

    Attributes:
        names: of the models.
        pairs: N.
        errors: pairs that each decides wrong.
        alone: pairs that only this one decides wrong.
        p_value: how likely counts so far apart would be if both erred equally often, two-sided; see `equal_errors`.
        error_rate: difference of the shares of wrong decisions.
        eer: difference of the equal error rates.
        auc: difference of the areas under the ROC.
        tar: difference of the true accept rates, by false accept rate.
        level: of the intervals.
        over: what is independent: people, or pairs where nobody knows who is on them.
    """

    names: tuple[str, str]
    pairs: int
    errors: tuple[int, int]
    alone: tuple[int, int]
    p_value: float
    error_rate: Difference
    eer: Difference
    auc: Difference
    tar: dict[float, Difference]
    level: float
    over: str

    @property
    def sentence(self) -> str:
        """What the comparison supports, in words; differences in percentage points."""
        first, second = self.names
        value, low, high = (100 * number for number in self.error_rate)
        better, fewer = (second, (-value, -high, -low)) if value <= 0 else (first, (value, low, high))
        amount = f"{fewer[0]:.2f} percentage points fewer errors"
        doubt = f"{100 * self.level:g} % CI {fewer[1]:.2f} to {fewer[2]:.2f}, p = {self.p_value:.2g}"
        if low > 0 or high < 0:
            return f"{better} is better: {amount} ({doubt})."
        return f"No difference shown: {better} makes {amount} ({doubt})."

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        content = asdict(self)
        content["tar"] = {f"{target:g}": one._asdict() for target, one in self.tar.items()}
        for name in ("error_rate", "eer", "auc"):
            content[name] = getattr(self, name)._asdict()
        return {**content, "sentence": self.sentence}


def compare_scores(
    first: ArrayLike,
    second: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike | None = None,
    *,
    folds: ArrayLike | None = None,
    thresholds: tuple[float, float] | None = None,
    names: tuple[str, str] = ("A", "B"),
    targets: Sequence[float] = (1e-2, 1e-3),
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two models by their scores of the same pairs.

    Each decides by its own threshold: the one given, else the folds' as in `kfold_accuracy`, else that of its equal
    error rate. For the intervals of differences see `difference_of`.

    Args:
        first: (N,) finite similarities by the first model.
        second: (N,) by the second, on any scale of its own.
        same: (N,) bool, True for a genuine pair.
        identities: (N, 2) who is on the two photos; without, pairs are taken for independent.
        folds: (N,) fold of each pair.
        thresholds: of both models, chosen on other data.
        names: of the models.
        targets: false accept rates to compare the true accept rates at.
        resamples: how many.
        level: of the intervals, in (0, 1).
        seed: of the resamples.

    Raises:
        InputError: the models scored different numbers of pairs, or what `checked_pairs` and `Resamples` refuse.
    """
    check_level(level)
    sizes = [len(as_array(scores)) for scores in (first, second)]
    if sizes[0] != sizes[1]:
        raise InputError(f"{names[0]} has {sizes[0]} scores and {names[1]} {sizes[1]}: compare the same pairs.")
    both = [checked_pairs(scores, same) for scores in (first, second)]
    labels = both[0][1]
    people = _strangers(labels) if identities is None else numbered_people(labels, identities)
    wrong = [
        _wrong(scores, labels, folds, None if thresholds is None else thresholds[model])
        for model, (scores, _) in enumerate(both)
    ]
    alone = int(np.count_nonzero(wrong[0] & ~wrong[1])), int(np.count_nonzero(wrong[1] & ~wrong[0]))
    ranked = [WeightedPairs(scores, labels, targets) for scores, _ in both]
    drawn = [_metrics(ranked, wrong, weights) for weights in Resamples(labels, people, resamples, seed)]
    plain = _metrics(ranked, wrong, np.ones((1, len(labels)), dtype=np.int64))
    single = [
        _intervals(scores, labels, people, errors, targets, level)
        for (scores, _), errors in zip(both, wrong, strict=True)
    ]
    differences = {
        name: difference_of(values[:, 0], [one[name] for one in single], [block[name] for block in drawn])
        for name, values in plain.items()
    }
    return Comparison(
        names=names,
        pairs=len(labels),
        errors=(int(wrong[0].sum()), int(wrong[1].sum())),
        alone=alone,
        p_value=equal_errors(wrong[0], wrong[1], labels, people),
        error_rate=differences["error_rate"],
        eer=differences["eer"],
        auc=differences["auc"],
        tar={target: differences[f"tar_at_far_{target:g}"] for target in targets},
        level=level,
        over="pairs" if identities is None else "people",
    )


def equal_errors(
    first: NDArray[np.bool_], second: NDArray[np.bool_], same: NDArray[np.bool_], people: NDArray[np.int64]
) -> float:
    """Return the p-value of the hypothesis that two models err equally often, two-sided.

    Pairs that share a person are dependent, which McNemar's test does not know. The difference of the error rates is
    compared with its standard error over people, which is larger where people are few; where few pairs decide, the
    p-value of McNemar's exact test is larger and counts.

    Args:
        first: (N,) pairs that the first model decides wrong.
        second: (N,) likewise.
        same: (N,) bool.
        people: (N,2) numbers of who is on the photos, from 0.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 1947; Aronow,
    Samii & Assenova, "Cluster-robust variance estimation for dyadic data", Political Analysis 2015.
    """
    from scipy.stats import binomtest, norm

    apart = first.astype(np.float64) - second
    if not apart.any():
        return 1.0
    mean = float(apart.mean())
    variance = dyadic_variance((apart - mean) / len(apart), same, people)
    variance *= correction(totals_of(np.ones(len(apart)), same, people), 4)  # with it, t becomes a normal deviate
    exact = float(binomtest(int(np.count_nonzero(apart > 0)), int(np.count_nonzero(apart))).pvalue)
    clustered = 2 * float(norm.sf(abs(mean) / variance**0.5)) if variance > 0 else 0.0
    return max(exact, clustered)


def _strangers(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,2) people, as if nobody were on two pairs."""
    left = 2 * np.arange(len(same))
    return np.stack([left, left + ~same], axis=1)


def _wrong(
    scores: NDArray[np.float64], same: NDArray[np.bool_], folds: ArrayLike | None, threshold: float | None
) -> NDArray[np.bool_]:
    """(N,) bool: decided wrong."""
    if threshold is not None:
        return np.asarray((scores >= checked_threshold(threshold)) != same)
    if folds is not None:
        return fold_errors(rank(scores, same), as_array(folds))[0]
    return np.asarray((scores >= equal_error(scores, same).threshold) != same)


def _metrics(
    ranked: list[WeightedPairs], wrong: list[NDArray[np.bool_]], weights: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """(2,R) each metric of both models in R resamples."""
    found = [pairs.metrics(weights) for pairs in ranked]
    for metrics, errors in zip(found, wrong, strict=True):
        metrics["error_rate"] = weights @ errors / weights.sum(axis=1)
    return {name: np.stack([metrics[name] for metrics in found]) for name in found[0]}


def _intervals(
    scores: NDArray[np.float64],
    same: NDArray[np.bool_],
    people: NDArray[np.int64],
    wrong: NDArray[np.bool_],
    targets: Sequence[float],
    level: float,
) -> dict[str, Interval]:
    found = pair_intervals(scores, same, people, targets=targets, level=level)
    errors = wrong.astype(np.float64)
    found["error_rate"] = error_interval(errors, np.full(len(same), 1 / len(same)), same, people, level, errors)
    return found
