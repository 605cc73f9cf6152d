from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from siamese_verify.errors import InputError
from siamese_verify.evaluation import (
    best_threshold,
    kfold_accuracy,
    min_detection_cost,
    partial_auc,
    rates_at,
    roc_curve,
    tar_at_far,
    zero_fmr,
    zero_fnmr,
)


def tied_pairs(seed: int, count: int = 240) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    same = generator.random(count) < 0.4
    return np.round(3 * (generator.normal(size=count) + same)) / 3, same


def naive_best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    candidates = [*sorted({float(score) for score in scores}), np.inf]
    right = [
        sum(bool(score >= threshold) == bool(label) for score, label in zip(scores, same, strict=True))
        for threshold in candidates
    ]
    return candidates[right.index(max(right))]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("target", [0.0, 0.001, 0.05, 0.1, 1 / 3, 0.5, 1.0])
def test_the_point_is_the_lowest_one_within_the_target(seed: int, target: float) -> None:
    scores, same = tied_pairs(seed)
    impostors, genuine = scores[~same], scores[same]
    allowed = [t for t in [*np.unique(scores), np.inf] if np.sum(impostors >= t) / len(impostors) <= target]
    point = tar_at_far(scores, same, target)
    assert point.target == target
    assert point.threshold == min(allowed)
    assert point.tar == np.sum(genuine >= min(allowed)) / len(genuine)
    assert point.far == np.sum(impostors >= min(allowed)) / len(impostors)
    assert point.false_accepts == np.sum(impostors >= min(allowed))
    assert point.impostors == len(impostors)


@pytest.mark.parametrize("impostors", [3_000, 7_000, 10_000, 49_000])
@pytest.mark.parametrize("passing", [1, 3, 7, 29])
def test_a_target_that_is_reached_exactly_is_not_missed_by_rounding(impostors: int, passing: int) -> None:
    scores = np.append(np.arange(impostors, dtype=float), 0.5)
    same = np.append(np.zeros(impostors, bool), True)
    point = tar_at_far(scores, same, passing / impostors)
    assert (point.false_accepts, point.threshold) == (passing, impostors - passing)


def test_the_threshold_is_infinite_where_even_the_best_score_is_an_impostors() -> None:
    point = tar_at_far([0.9, 0.9, 0.1], [True, False, False], 0.1)
    assert (point.threshold, point.far, point.tar) == (np.inf, 0, 0)


@pytest.mark.parametrize(
    ("impostors", "far", "insufficient"),
    [
        (10_000, 1e-3, False),
        (9_999, 1e-3, True),
        (1_000_000, 1e-5, False),
        (999_999, 1e-5, True),
        (100, 0.1, False),
        (99, 0.1, True),
        (10, 1.0, False),
    ],
)
def test_fewer_than_ten_deciding_impostors_are_insufficient(impostors: int, far: float, insufficient: bool) -> None:
    scores = np.append(np.zeros(impostors), 1.0)
    assert tar_at_far(scores, scores > 0, far).insufficient is insufficient


@pytest.mark.parametrize("far", [-0.1, 1.1, float("nan")])
def test_a_target_outside_of_0_to_1_raises(far: float) -> None:
    with pytest.raises(InputError, match=f"between 0 and 1, got {far}"):
        tar_at_far([0.9, 0.1], [True, False], far)


@pytest.mark.parametrize("seed", range(5))
def test_zero_rates_agree_with_a_count(seed: int) -> None:
    scores, same = tied_pairs(seed)
    curve = roc_curve(scores, same)
    assert zero_fmr(curve) == np.sum(scores[same] <= scores[~same].max()) / same.sum()
    assert zero_fnmr(curve) == np.sum(scores[~same] >= scores[same].min()) / (~same).sum()


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_the_lowest_of_highest_accuracy(seed: int) -> None:
    scores, same = tied_pairs(seed)
    curve = roc_curve(scores, same)
    threshold = best_threshold(curve)
    assert threshold == naive_best_threshold(scores, same)
    assert rates_at(curve, threshold).accuracy == max(rates_at(curve, t).accuracy for t in curve.thresholds)


def test_rejecting_everything_can_be_best() -> None:
    assert best_threshold(roc_curve([0.1, 0.8, 0.9], [True, False, False])) == np.inf


def test_a_score_at_the_threshold_is_accepted() -> None:
    rates = rates_at(roc_curve([0.5, 0.5, 0.4, 0.6], [True, False, True, False]), 0.5)
    assert (rates.accuracy, rates.far, rates.frr) == (0.25, 1.0, 0.5)
    assert (rates.false_accepts, rates.false_rejects) == (2, 1)


def test_a_threshold_is_not_rounded_to_the_precision_of_the_scores() -> None:
    scores = np.array([0.1, 0.0], dtype=np.float32)  # the float32 0.1 is above the float64 0.1
    above = float(scores[0]) + 1e-12
    curve = roc_curve(scores, [True, False])
    assert rates_at(curve, float(scores[0])).accuracy == 1
    assert rates_at(curve, above).accuracy == 0.5


def test_a_threshold_of_nan_raises() -> None:
    with pytest.raises(InputError, match="The threshold is NaN"):
        rates_at(roc_curve([0.9, 0.1], [True, False]), float("nan"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [2, 5])
def test_folds_agree_with_a_naive_loop(seed: int, count: int) -> None:
    scores, same = tied_pairs(seed)
    folds = np.random.default_rng(seed).permutation(len(scores)) % count + 10
    found = kfold_accuracy(scores, same, folds)
    thresholds = [naive_best_threshold(scores[folds != fold], same[folds != fold]) for fold in range(10, 10 + count)]
    accuracies = [
        np.mean((scores[folds == fold] >= threshold) == same[folds == fold])
        for fold, threshold in zip(range(10, 10 + count), thresholds, strict=True)
    ]
    assert list(found.thresholds) == thresholds
    assert found.per_fold == pytest.approx(accuracies, abs=1e-15)
    assert found.mean == pytest.approx(np.mean(accuracies), abs=1e-15)
    assert found.standard_error == pytest.approx(np.std(accuracies, ddof=1) / np.sqrt(count), abs=1e-15)


def test_the_scores_of_a_fold_are_no_candidates_for_its_own_threshold() -> None:
    # For fold 1, 0.5 would separate the other fold as well as 0.9 does, and is lower.
    found = kfold_accuracy([0.9, 0.1, 0.5, 0.2], [True, False, True, False], [0, 0, 1, 1])
    assert found.thresholds == (0.5, 0.9)
    assert found.per_fold == (1.0, 0.5)


def test_a_fold_may_hold_one_kind_only() -> None:
    found = kfold_accuracy([0.9, 0.8, 0.7, 0.1, 0.75, 0.2], [1, 1, 1, 0, 1, 0], list("aabbcc"))
    assert found.thresholds == (0.7, 0.75, 0.7)
    assert found.per_fold == (1.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([3, 3, 3, 3], "There is 1 fold"),
        ([0, 1, 2], r"The folds have the shape \(3,\) for 4 scores"),
        (10, r"The folds have the shape \(\) for 4 scores"),
        ([0, 0, 1, 2], "Without fold 0, the other 2 pairs include no genuine one"),
        ([0, 1, 2, 2], "Without fold 2, the other 2 pairs include no impostor one"),
    ],
)
def test_invalid_folds_raise(folds: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kfold_accuracy([0.9, 0.8, 0.2, 0.1], [True, True, False, False], np.array(folds))


def test_the_least_detection_cost_is_that_of_a_loop_over_thresholds() -> None:
    rng = np.random.default_rng(0)
    same = rng.random(500) < 0.4
    scores = np.round(rng.normal(size=500) + 1.5 * same, 1)  # with ties
    for prior, miss, accept in ((0.01, 1.0, 1.0), (0.5, 1.0, 1.0), (0.2, 10.0, 1.0)):
        costs = [
            (miss * prior * np.mean(scores[same] < t) + accept * (1 - prior) * np.mean(scores[~same] >= t), t)
            for t in [*np.unique(scores), np.inf]
        ]
        least = min(cost for cost, _ in costs)
        found = min_detection_cost(roc_curve(scores, same), prior, miss, accept)
        assert found.value == pytest.approx(least / min(miss * prior, accept * (1 - prior)))
        assert found.threshold == min(t for cost, t in costs if cost <= least + 1e-12)
    assert min_detection_cost(roc_curve([1.0, 0.0], [False, True])).value == 1  # never accepting is best
    for wrong in ((0.0, 1.0, 1.0), (0.5, -1.0, 1.0), (0.5, 1.0, float("nan"))):
        with pytest.raises(InputError, match="a prior between 0 and 1 and positive costs"):
            min_detection_cost(roc_curve(scores, same), *wrong)


def test_the_partial_area_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    same = rng.random(2000) < 0.3
    scores = np.round(rng.normal(size=2000) + 1.5 * same, 1)
    for most in (0.01, 0.1, 0.37):
        corrected = roc_auc_score(same, scores, max_fpr=most)  # by McClish: from 0.5 at the diagonal to 1
        area = (2 * corrected - 1) * (most - most**2 / 2) + most**2 / 2
        assert partial_auc(roc_curve(scores, same), most).value == pytest.approx(area / most)
    assert partial_auc(roc_curve(scores, same), 1).value == pytest.approx(roc_auc_score(same, scores))
    with pytest.raises(InputError, match="rate in \\(0, 1\\], got 0"):
        partial_auc(roc_curve(scores, same), 0)


def test_the_half_total_error_is_the_mean_of_both_rates() -> None:
    rates = rates_at(roc_curve([0.9, 0.1, 0.8, 0.2, 0.3], [True, True, False, False, False]), 0.5)
    assert rates.half_total_error == pytest.approx((1 / 3 + 1 / 2) / 2) == pytest.approx(1 - rates.balanced_accuracy)
