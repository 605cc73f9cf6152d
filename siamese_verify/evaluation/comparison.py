"""Is one model better than another, or was it luck? Both on the same pairs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import BLOCK, Resamples, WeightedPairs, check_level, interval_of
from siamese_verify.evaluation.crossing import equal_error
from siamese_verify.evaluation.folds import kfold_accuracy
from siamese_verify.evaluation.pair_scores import as_array, checked_pairs, checked_threshold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray


class Difference(NamedTuple):
    """A metric of the second model minus that of the first, with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two models on the same pairs.

    Attributes:
        names: of the models.
        pairs: N.
        errors: pairs that each decides wrong.
        alone: pairs that only this one decides wrong.
        p_value: how likely counts so far apart would be if both erred equally often (exact McNemar test, two-sided).
        error_rate: difference of the shares of wrong decisions.
        eer: difference of the equal error rates.
        auc: difference of the areas under the ROC.
        tar: difference of the true accept rates, by false accept rate.
        level: of the intervals.
        over: what was drawn anew for them: people, or pairs where nobody knows who is on them.
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
        doubt = f"{100 * self.level:g} % CI {fewer[1]:.2f} to {fewer[2]:.2f}, McNemar p = {self.p_value:.2g}"
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
    error rate. Both are measured in the same resamples of the people.

    Args:
        first: (N,) finite similarities by the first model.
        second: (N,) by the second, on any scale of its own.
        same: (N,) bool, True for a genuine pair.
        identities: (N, 2) who is on the two photos; without, pairs are drawn as if they were independent.
        folds: (N,) fold of each pair.
        thresholds: of both models, chosen on other data.
        names: of the models.
        targets: false accept rates to compare the true accept rates at.
        resamples: how many.
        level: of the intervals, in (0, 1).
        seed: of the resamples.

    Raises:
        InputError: the models scored different numbers of pairs, or what `checked_pairs` and `Resamples` refuse.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 1947.
    """
    from scipy.stats import binomtest

    check_level(level)
    sizes = [len(as_array(scores)) for scores in (first, second)]
    if sizes[0] != sizes[1]:
        raise InputError(f"{names[0]} has {sizes[0]} scores and {names[1]} {sizes[1]}: compare the same pairs.")
    both = [checked_pairs(scores, same) for scores in (first, second)]
    labels = both[0][1]
    wrong = [
        _wrong(scores, labels, folds, None if thresholds is None else thresholds[model])
        for model, (scores, _) in enumerate(both)
    ]
    alone = int(np.count_nonzero(wrong[0] & ~wrong[1])), int(np.count_nonzero(wrong[1] & ~wrong[0]))
    ranked = [WeightedPairs(scores, labels, targets) for scores, _ in both]
    plain = np.ones((1, len(labels)), dtype=np.int64)
    drawn: Iterable[NDArray[np.int64]] = (
        _pairs_anew(labels, resamples, seed) if identities is None else Resamples(labels, identities, resamples, seed)
    )
    rows = [_differences(ranked, wrong, weights) for weights in (plain, *drawn)]
    differences = {}
    for name, values in rows[0].items():
        low, high = interval_of(np.concatenate([row[name] for row in rows[1:]]), level)
        differences[name] = Difference(float(values[0]), low, high)
    return Comparison(
        names=names,
        pairs=len(labels),
        errors=(int(wrong[0].sum()), int(wrong[1].sum())),
        alone=alone,
        p_value=float(binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0,
        error_rate=differences["error_rate"],
        eer=differences["eer"],
        auc=differences["auc"],
        tar={target: differences[f"tar_at_far_{target:g}"] for target in targets},
        level=level,
        over="pairs" if identities is None else "people",
    )


def _wrong(
    scores: NDArray[np.float64], same: NDArray[np.bool_], folds: ArrayLike | None, threshold: float | None
) -> NDArray[np.bool_]:
    """(N,) bool: decided wrong."""
    if threshold is not None:
        limits = np.full(len(scores), checked_threshold(threshold))
    elif folds is not None:
        found = kfold_accuracy(scores, same, folds).thresholds
        limits = np.asarray(found)[np.unique(as_array(folds), return_inverse=True)[1]]
    else:
        limits = np.full(len(scores), equal_error(scores, same).threshold)
    return np.asarray((scores >= limits) != same)


def _pairs_anew(same: NDArray[np.bool_], resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK // len(same))
    for start in range(0, resamples, step):
        number = min(step, resamples - start)
        weights = rng.multinomial(len(same), np.full(len(same), 1 / len(same)), number)
        yield weights[(weights @ same > 0) & (weights @ ~same > 0)]


def _differences(
    ranked: list[WeightedPairs], wrong: list[NDArray[np.bool_]], weights: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    found = [pairs.metrics(weights) for pairs in ranked]
    for metrics, errors in zip(found, wrong, strict=True):
        metrics["error_rate"] = weights @ errors / weights.sum(axis=1)
    kept = [name for name in found[0] if not name.startswith("threshold")]
    return {name: found[1][name] - found[0][name] for name in kept}
