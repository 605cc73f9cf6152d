"""Importance of a sweep's parameters: how much of the variance of its metric each explains, and whether any at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from siamese_verify.sweeps.run_differences import ABSENT
from siamese_verify.sweeps.sweep_results import SweepResults

LEVELS = 5  # distinct numbers from which on they are put in bins
BINS = 4
FEWEST_RUNS = 6  # for any statement on importance
FOREST_RUNS = 20  # for a random forest
FOREST_MOST = 200  # runs in it, at equal distances from the best to the worst: it takes a minute for a thousand
PERMUTATIONS = 2000
BLOCK = 100  # of them at once


class Importance(NamedTuple):
    """How much of the variance of the sweep's metric a parameter explains.

    Attributes:
        parameter: its name.
        share: in [0, 1]; None where the runs are too few.
        p_value: of the hypothesis that it has no influence, by permutation of the runs, adjusted for the number of
            parameters that are tested; None likewise.
        runs: that have the parameter, the repeated ones once.
    """

    parameter: str
    share: float | None
    p_value: float | None
    runs: int


def importances(sweep: SweepResults) -> tuple[list[Importance], str]:
    """How much each parameter explains of the variance of the sweep's metric over its distinct runs, and the method.

    A parameter's share is omega squared, the part of the variance between its values without what chance alone gives
    (Hays 1963); numbers with more than `LEVELS` values count in bins of equal size. From `FOREST_RUNS` runs on, with
    numbers of many values and with optuna and scikit-learn installed, it is the functional ANOVA of a random forest
    (Hutter, Hoos & Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014). Whether a
    parameter has an influence at all is tested by permutation. Fewer than `FEWEST_RUNS` runs, or than two for each
    value, show nothing. The p-values are adjusted by Holm ("A Simple Sequentially Rejective Multiple Test Procedure",
    Scandinavian Journal of Statistics 1979): whichever parameters have no influence, the probability that one or more
    of them gets a p-value below 0.05 is at most 5 %. That holds for complete grids and random searches only: where a
    search adapts, or runs are pruned or failed, one that goes along with an influential parameter is found as well.

    Returns:
        The most important first, and the method in words.
    """
    runs = sweep.distinct
    values = np.array([run.value for run in runs], dtype=np.float64)
    tested: list[Importance] = []
    for name in sweep.parameters:
        column = [run.parameters[name] for run in runs]
        having = [row for row, value in enumerate(column) if value is not ABSENT]
        levels = _levels([column[row] for row in having])
        count, kinds = len(having), len(set(levels))
        if kinds < 2 and count == len(runs):
            continue
        if kinds < 2 or count < max(FEWEST_RUNS, 2 * kinds) or not np.ptp(values[having]):
            tested.append(Importance(name, None, None, count))
        else:
            tested.append(Importance(name, *_explained(np.array(levels), values[having]), count))
    method = "variance between the values of one parameter (omega squared)"
    many = any(len({run.parameters[name] for run in runs}) > LEVELS for name in sweep.parameters)
    if many and len(runs) >= FOREST_RUNS and (shares := _forest_shares(sweep)):
        shares |= {one.parameter: None for one in tested if one.p_value is None}  # too few runs for its values
        tested = [one._replace(share=shares.get(one.parameter, one.share)) for one in tested]
        method = "functional ANOVA of a random forest"
    tested = _adjusted_by_holm(tested)
    count = sum(one.p_value is not None for one in tested)
    several = f", adjusted for {count} parameters (Holm)" if count > 1 else ""
    method = f"{method}, {len(runs)} runs; p by permutation{several}"
    return sorted(tested, key=lambda one: (one.share is None, -(one.share or 0))), method


def _adjusted_by_holm(tested: Sequence[Importance]) -> list[Importance]:
    """The same with p-values by Holm: the k-th smallest of m times m - k + 1, no smaller than those before it."""
    ordered = sorted((one for one in tested if one.p_value is not None), key=lambda one: one.p_value or 0.0)
    adjusted, largest = {}, 0.0
    for place, one in enumerate(ordered):
        largest = max(largest, min(1.0, (one.p_value or 0.0) * (len(ordered) - place)))
        adjusted[one.parameter] = largest
    return [one._replace(p_value=adjusted.get(one.parameter)) for one in tested]


def is_numeric(column: Sequence[Any]) -> bool:
    """Whether values are numbers, all of them."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in column)


def logarithmic(column: Sequence[float]) -> bool:
    """Whether numbers belong on a logarithmic axis: all positive, over two decades or more."""
    return min(column) > 0 and max(column) >= 100 * min(column)


def _levels(column: Sequence[Any]) -> list[int]:
    """(N,) number of each value, or of its bin for numbers with many values."""
    if is_numeric(column) and len(set(column)) > LEVELS:
        edges = np.quantile(np.array(column, dtype=np.float64), np.linspace(0, 1, BINS + 1)[1:-1])
        return [int(place) for place in np.searchsorted(edges, column)]
    kinds = list(dict.fromkeys(map(repr, column)))
    return [kinds.index(repr(value)) for value in column]


def _explained(levels: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Omega squared of (N,) values by (N,) levels, and the p-value of no influence."""
    kinds = int(levels.max()) + 1
    sizes = np.bincount(levels, minlength=kinds)
    kept = sizes > 0
    centered = values - values.mean()

    members = (levels[:, None] == np.flatnonzero(kept)) / np.sqrt(sizes[kept])  # (N, levels)

    def between(rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = ((rows @ members) ** 2).sum(axis=1)
        return found

    total, real = float(centered @ centered), float(between(centered[None])[0])
    free = int(kept.sum()) - 1
    within = max(total - real, 0.0) / max(len(values) - free - 1, 1)
    rng = np.random.default_rng(0)
    tied = real * (1 - 1e-9)  # equal sums in another order
    as_large = 0
    for _ in range(PERMUTATIONS // BLOCK):
        as_large += int((between(rng.permuted(np.tile(centered, (BLOCK, 1)), axis=1)) >= tied).sum())
    return max(float((real - free * within) / (total + within)), 0.0), (as_large + 1) / (PERMUTATIONS + 1)


def _forest_shares(sweep: SweepResults) -> dict[str, float | None]:
    """Functional ANOVA by optuna, of the parameters that all distinct runs have.

    Empty where it is not installed, and where equal values leave no variance to explain.
    """
    try:
        import optuna
        import sklearn  # noqa: F401
    except ImportError:
        return {}
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    places = np.linspace(0, len(sweep.distinct) - 1, min(len(sweep.distinct), FOREST_MOST)).round().astype(int)
    runs = [sweep.distinct[place] for place in places]
    if len({run.value for run in runs}) < 2:
        return {}
    ranges: dict[str, Any] = {}
    for name in sweep.parameters:
        column = [run.parameters[name] for run in runs]
        if len(set(map(repr, column))) < 2 or ABSENT in column:
            continue
        if is_numeric(column):
            low, high = float(min(column)), float(max(column))
            ranges[name] = FloatDistribution(low, high, log=logarithmic(column))
        else:
            ranges[name] = CategoricalDistribution(list(dict.fromkeys(map(str, column))))
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study()
        for run in runs:
            given = {
                name: float(run.parameters[name]) if isinstance(kind, FloatDistribution) else str(run.parameters[name])
                for name, kind in ranges.items()
            }
            study.add_trial(optuna.trial.create_trial(params=given, distributions=ranges, value=run.value))
        shares = optuna.importance.FanovaImportanceEvaluator(n_trees=32, max_depth=32, seed=0).evaluate(study)
        return {name: float(share) for name, share in shares.items()}
    finally:
        optuna.logging.set_verbosity(verbosity)
