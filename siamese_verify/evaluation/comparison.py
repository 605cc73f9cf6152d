"""Paired comparison of two models by their scores of the same pairs."""

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
    difference_interval,
    listed,
    numbered_people,
)
from siamese_verify.evaluation.clustered_pairs import dyadic_variance, person_totals, small_sample_correction
from siamese_verify.evaluation.folds import fold_errors
from siamese_verify.evaluation.operating_points import equal_error
from siamese_verify.evaluation.rate_intervals import error_interval, pair_intervals
from siamese_verify.evaluation.roc import roc_curve
from siamese_verify.evaluation.scores import as_array, checked_pairs, checked_threshold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from siamese_verify.evaluation.bootstrap import Weights


@dataclass(frozen=True)
class ScoreComparison:
    """Two models on the same pairs; differences are the second minus the first.

    Attributes:
        names: of the models.
        pairs: N.
        errors: pairs that each decides wrong.
        alone: pairs that only this model decides wrong.
        p_value: two-sided, of the hypothesis that both err equally often; see `equal_error_test`.
        error_rate: difference of the shares of wrong decisions.
        eer: difference of the equal error rates.
        auc: difference of the areas under the ROC.
        tar: difference of the true accept rates, by false accept rate.
        level: of the intervals.
        over: the independent units: people, or pairs where the people are unknown.
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
        """The result in words; differences in percentage points."""
        first, second = self.names
        value, low, high = (100 * number for number in self.error_rate)
        if not any(self.error_rate):
            return f"No difference shown: {first} and {second} make as many errors."
        better, fewer = (second, (-value, -high, -low)) if value <= 0 else (first, (value, low, high))
        amount = f"{fewer[0]:.2f} percentage points fewer errors"
        doubt = f"{100 * self.level:g} % CI {fewer[1]:z.2f} to {fewer[2]:z.2f}, p = {self.p_value:.2g}"
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
    device: str = "cpu",
) -> ScoreComparison:
    """Compare two models by their scores of the same pairs.

    Each decides by its own threshold: the one given, else those of the folds as in `kfold_accuracy`, else that of its
    equal error rate. For the intervals of differences see `difference_interval`.

    Args:
        first: (N,) finite similarities by the first model.
        second: (N,) by the second, which may have another scale.
        same: (N,) bool, True for a genuine pair.
        identities: (N,2) number or name of the person on either photo; without, pairs are taken for independent.
        folds: (N,) fold of each pair.
        thresholds: of both models, chosen on other data.
        names: of the models.
        targets: false accept rates to compare the true accept rates at.
        resamples: number of them.
        level: of the intervals, in (0, 1).
        seed: of the resamples.
        device: where resamples are counted: `cpu`, `cuda`, or `auto` for a GPU if there is one and many to count. The
            counts are the same.

    Raises:
        InputError: the models scored different numbers of pairs; see also `checked_pairs` and `Resamples`.
    """
    check_level(level)
    sizes = [len(as_array(scores)) for scores in (first, second)]
    if sizes[0] != sizes[1]:
        raise InputError(f"{names[0]} has {sizes[0]} scores and {names[1]} {sizes[1]}: compare the same pairs.")
    both = [checked_pairs(scores, same) for scores in (first, second)]
    labels = both[0][1]
    people = _separate_people(labels) if identities is None else numbered_people(labels, identities)
    wrong = [
        _wrong(scores, labels, folds, None if thresholds is None else thresholds[model])
        for model, (scores, _) in enumerate(both)
    ]
    alone = int(np.count_nonzero(wrong[0] & ~wrong[1])), int(np.count_nonzero(wrong[1] & ~wrong[0]))
    resampled = Resamples(labels, people, resamples, seed, device)
    ranked = [WeightedPairs(scores, labels, targets, resampled.place) for scores, _ in both]
    rows = [resampled.place(np.flatnonzero(errors)) for errors in wrong]
    drawn = [_metrics(ranked, rows, weights) for weights in resampled]
    plain = _metrics(ranked, rows, resampled.place(np.ones((1, len(labels)), dtype=np.int64)))
    single = [
        _intervals(scores, labels, people, errors, targets, level)
        for (scores, _), errors in zip(both, wrong, strict=True)
    ]
    differences = {
        name: difference_interval(values[:, 0], [one[name] for one in single], [block[name] for block in drawn])
        for name, values in plain.items()
    }
    return ScoreComparison(
        names=names,
        pairs=len(labels),
        errors=(int(wrong[0].sum()), int(wrong[1].sum())),
        alone=alone,
        p_value=equal_error_test(wrong[0], wrong[1], labels, people),
        error_rate=differences["error_rate"],
        eer=differences["eer"],
        auc=differences["auc"],
        tar={target: differences[f"tar_at_far_{target:g}"] for target in targets},
        level=level,
        over="pairs" if identities is None else "people",
    )


def equal_error_test(
    first: NDArray[np.bool_], second: NDArray[np.bool_], same: NDArray[np.bool_], people: NDArray[np.int64]
) -> float:
    """Return the p-value of the hypothesis that two models err equally often, two-sided.

    McNemar's test takes pairs for independent, and pairs that share a person are not. The difference of the error rates
    is compared with its standard error over people; where few pairs decide, the p-value of McNemar's exact test is
    larger and is returned.

    Args:
        first: (N,) pairs that the first model decides wrong.
        second: (N,) likewise.
        same: (N,) bool.
        people: (N,2) numbers of the people on the photos, from 0.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 1947; Aronow,
    Samii & Assenova, "Cluster-robust variance estimation for dyadic data", Political Analysis 2015.
    """
    from scipy.stats import binomtest, norm

    apart = first.astype(np.float64) - second
    if not apart.any():
        return 1.0
    mean = float(apart.mean())
    variance = dyadic_variance((apart - mean) / len(apart), same, people)
    variance *= small_sample_correction(person_totals(np.ones(len(apart)), same, people), 4)  # makes t a normal deviate
    exact = float(binomtest(int(np.count_nonzero(apart > 0)), int(np.count_nonzero(apart))).pvalue)
    clustered = 2 * float(norm.sf(abs(mean) / variance**0.5)) if variance > 0 else 0.0
    return max(exact, clustered)


def _separate_people(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,2) numbers as if no person were on two pairs."""
    left = 2 * np.arange(len(same))
    return np.stack([left, left + ~same], axis=1)


def _wrong(
    scores: NDArray[np.float64], same: NDArray[np.bool_], folds: ArrayLike | None, threshold: float | None
) -> NDArray[np.bool_]:
    """(N,) whether each pair is decided wrong."""
    if threshold is not None:
        return np.asarray((scores >= checked_threshold(threshold)) != same)
    if folds is not None:
        return fold_errors(scores, same, folds)[0]
    return np.asarray((scores >= equal_error(roc_curve(scores, same)).threshold) != same)


def _metrics(ranked: list[WeightedPairs], wrong: list[Weights], weights: Weights) -> dict[str, NDArray[np.float64]]:
    """(2,R) each metric of both models in R resamples; `wrong` has the rows that each decides wrong."""
    found = [pairs.metrics(weights) for pairs in ranked]
    for metrics, rows in zip(found, wrong, strict=True):
        metrics["error_rate"] = listed(weights[:, rows].sum(1)) / listed(weights.sum(1))
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
