from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from sklearn.metrics import det_curve as peer_det_curve
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as peer_roc_curve
from torchmetrics.functional.classification import binary_auroc, binary_roc

from siamese_verify.errors import InputError
from siamese_verify.evaluation import (
    auc,
    d_prime,
    equal_error,
    equal_error_rate,
    kfold_accuracy,
    roc_curve,
    tar_at_far,
    verification_report,
)

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference"

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def scored_pairs(seed: int, count: int, levels: int | None) -> tuple[Floats, Bools]:
    """Overlapping scores; `levels` rounds them to a few values, so that nearly all are tied."""
    generator = np.random.default_rng(seed)
    same = generator.random(count) < 0.4
    same[:2] = True, False
    scores = generator.normal(size=count) + 1.2 * same
    return (scores if levels is None else np.round(scores * levels) / levels), same


def naive_points(scores: Floats, same: Bools) -> list[tuple[float, float, float]]:
    """(threshold, FAR, FRR) at +inf and every distinct score, from strict to lenient."""
    points = []
    for threshold in [np.inf, *sorted({float(score) for score in scores}, reverse=True)]:
        accepts = [score >= threshold for score in scores]
        impostors = [accept for accept, label in zip(accepts, same, strict=True) if not label]
        genuine = [accept for accept, label in zip(accepts, same, strict=True) if label]
        points.append((threshold, sum(impostors) / len(impostors), genuine.count(False) / len(genuine)))
    return points


def naive_equal_error_rate(scores: Floats, same: Bools) -> float:
    points = naive_points(scores, same)
    for (_, far, frr), (_, next_far, next_frr) in pairwise(points):
        if next_frr - next_far <= 0:
            share = (frr - far) / ((frr - far) - (next_frr - next_far))
            return far + share * (next_far - far)
    raise AssertionError("FRR - FAR ends at -1")


cases = pytest.mark.parametrize(("count", "levels"), [(2, None), (17, None), (200, None), (60, 1), (200, 3), (200, 10)])
seeds = pytest.mark.parametrize("seed", range(4))


@seeds
@cases
def test_the_curve_agrees_with_a_count_at_every_threshold(seed: int, count: int, levels: int | None) -> None:
    scores, same = scored_pairs(seed, count, levels)
    curve = roc_curve(scores, same)
    thresholds, far, frr = (np.array(column) for column in zip(*naive_points(scores, same), strict=True))
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    np.testing.assert_array_equal(curve.far, far)
    np.testing.assert_array_equal(curve.frr, frr)
    np.testing.assert_allclose(curve.tar, 1 - frr, atol=1e-15)


@seeds
@cases
def test_the_curve_and_its_area_agree_with_scikit_learn(seed: int, count: int, levels: int | None) -> None:
    scores, same = scored_pairs(seed, count, levels)
    far, tar, thresholds = peer_roc_curve(same, scores, drop_intermediate=False)
    curve = roc_curve(scores, same)
    np.testing.assert_allclose(curve.far, far, atol=1e-15)
    np.testing.assert_allclose(curve.tar, tar, atol=1e-15)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    assert auc(scores, same) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)


@seeds
@cases
def test_the_equal_error_rate_agrees_with_a_walk_along_the_curve(seed: int, count: int, levels: int | None) -> None:
    scores, same = scored_pairs(seed, count, levels)
    assert equal_error_rate(scores, same) == pytest.approx(naive_equal_error_rate(scores, same), abs=1e-12)


@seeds
@cases
def test_the_area_is_the_share_of_ordered_pairs_of_pairs(seed: int, count: int, levels: int | None) -> None:
    scores, same = scored_pairs(seed, count, levels)
    genuine, impostor = scores[same][:, None], scores[~same][None, :]
    assert auc(scores, same) == np.mean((genuine > impostor) + 0.5 * (genuine == impostor))


def test_the_equal_error_is_interpolated_between_two_points() -> None:
    # FRR, FAR: (1, 0), (0.5, 0) at 0.9, (0.5, 1/3) at 0.8, (0, 1/3) at 0.7: equal at 2/3 of the last step.
    found = equal_error(roc_curve([0.9, 0.8, 0.7, 0.6, 0.5], [True, False, True, False, False]))
    assert found.rate == 1 / 3
    assert found.threshold == 0.8  # |FRR - FAR| = 1/6 there, 1/3 at 0.7


def test_the_equal_error_is_exact_where_a_point_lies_on_it() -> None:
    found = equal_error(roc_curve([0.9, 0.8, 0.7, 0.6], [True, False, True, False]))
    assert (found.rate, found.threshold) == (0.5, 0.8)


@pytest.mark.parametrize(
    ("name", "scores", "same", "eer", "area", "threshold"),
    [
        ("separated", [0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 0.0, 1.0, 0.8),
        ("reversed", [0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 1.0, 0.0, 0.8),
        ("all identical", [0.5, 0.5, 0.5], [1, 0, 0], 0.5, 0.5, 0.5),
        ("one of each, right", [0.5, 0.4], [1, 0], 0.0, 1.0, 0.5),
        ("one of each, wrong", [0.4, 0.5], [1, 0], 1.0, 0.0, 0.5),
    ],
)
def test_edge_cases_have_defined_values(
    name: str, scores: list[float], same: list[int], eer: float, area: float, threshold: float
) -> None:
    found = equal_error(roc_curve(scores, same))
    assert (found.rate, auc(scores, same), found.threshold) == (eer, area, threshold), name


def test_d_prime_follows_its_formula() -> None:
    scores, same = scored_pairs(0, 300, None)
    genuine, impostor = scores[same], scores[~same]
    expected = (genuine.mean() - impostor.mean()) / np.sqrt((genuine.var() + impostor.var()) / 2)
    assert d_prime(scores, same) == pytest.approx(expected, abs=1e-12)
    assert d_prime(-scores, same) == pytest.approx(-expected, abs=1e-12)


def test_d_prime_without_variance_is_zero_or_infinite() -> None:
    assert d_prime([0.1] * 7, [1, 0, 1, 0, 1, 0, 0]) == 0
    assert d_prime([0.3, 0.1, 0.3, 0.1], [1, 0, 1, 0]) == np.inf
    assert d_prime([0.1, 0.3, 0.1, 0.3], [1, 0, 1, 0]) == -np.inf


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_small_floats_are_measured_as_they_are(kind: type[np.float16 | np.float32]) -> None:
    scores, same = scored_pairs(1, 300, None)
    small = scores.astype(kind)
    curve = roc_curve(small, same)
    np.testing.assert_array_equal(curve.thresholds[1:], np.unique(small)[::-1])
    assert auc(small, same) == auc(small.astype(np.float64), same)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_may_carry_gradients(kind: torch.dtype) -> None:
    scores, same = scored_pairs(1, 300, None)
    tensor = torch.tensor(scores, dtype=kind, requires_grad=True)
    expected = auc(tensor.detach().double().numpy(), same)
    assert auc(tensor, torch.tensor(same)) == expected


def test_what_is_measured_is_not_shared_with_the_caller() -> None:
    scores = np.array([0.9, 0.1])
    report = verification_report(scores, [True, False])
    scores[:] = np.nan
    assert report.curve.thresholds.tolist() == [np.inf, 0.9, 0.1]


@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        (
            [0.1, np.nan, np.inf, 0.3],
            [1, 0, 1, 0],
            r"2 of 4 scores are not finite \(1 NaN, 1 infinite; first rows: 1, 2",
        ),
        ([np.nan] * 9, [1] * 9, r"9 of 9 scores .* first rows: 0, 1, 2, 3, 4\)"),
        ([0.1, 0.2], [1, 1], "None of the 2 pairs is an impostor"),
        ([0.1, 0.2, 0.3], [0, 0, 0], "None of the 3 pairs is genuine"),
        ([0.1, 0.2, 0.3], [0, 1], "3 scores and 2 labels"),
        ([[0.1, 0.2]], [[0, 1]], r"scores have the shape \(1, 2\)"),
        ([0.1, 0.2], [[0, 1]], r"labels have the shape \(1, 2\)"),
        ([], [], "There are 0 scores"),
        ([0.1, 0.2], [1, -1], "1 of 2 labels are neither 0 nor 1, the first of them -1"),
        ([0.1, 0.2], [1, np.nan], "1 of 2 labels are neither 0 nor 1, the first of them nan"),
        ([0.1, 0.2], ["same", "other"], "labels are of type <U5"),
        (["0.1", "0.2"], [1, 0], "scores are of type <U3"),
    ],
)
def test_every_metric_raises_on_invalid_pairs(scores: list[float], same: list[int], message: str) -> None:
    for metric in (roc_curve, equal_error_rate, auc, d_prime, verification_report):
        with pytest.raises(InputError, match=message):
            metric(scores, same)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"the reference values are not at {REFERENCE}")
def test_the_scores_of_lfw_view_2_give_the_reference_metrics() -> None:
    table = np.loadtxt(REFERENCE / "lfw_view2_casia_scores.csv", delimiter=",", skiprows=1)
    metrics = json.loads((REFERENCE / "lfw_view2_casia_metrics.json").read_text())
    scores, same = table[:, 0], table[:, 1]
    assert len(scores) == metrics["pairs"]
    assert equal_error_rate(scores, same) == pytest.approx(metrics["eer"], abs=1e-9)
    assert auc(scores, same) == pytest.approx(metrics["auc"], abs=1e-9)
    found = kfold_accuracy(scores, same, np.arange(6000) // 600)
    assert found.mean == pytest.approx(metrics["accuracy_10fold"], abs=1e-9)
    assert found.standard_error == pytest.approx(metrics["accuracy_10fold_standard_error"], abs=1e-9)
    for target in (0.1, 0.01, 0.001):
        point = tar_at_far(scores, same, target)
        assert point.far == target
        assert point.tar == pytest.approx(metrics[f"tar_at_far_{target}"], abs=1e-9)
        assert point.threshold == pytest.approx(metrics[f"threshold_at_far_{target}"], abs=1e-9)
        assert point.insufficient == (target == 0.001)


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_the_statistic_of_mann_and_whitney(seed: int, levels: int | None) -> None:
    scores, same = scored_pairs(seed, 300, levels)
    statistic = mannwhitneyu(scores[same], scores[~same]).statistic
    assert auc(scores, same) == pytest.approx(statistic / (same.sum() * (~same).sum()), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("seed", range(5))
def test_torchmetrics_finds_the_same_curve_through_its_sigmoid(seed: int, levels: int | None) -> None:
    scores, same = scored_pairs(seed, 300, levels)
    assert scores.min() < 0 < 1 < scores.max()  # what lies outside of [0, 1] is taken for a logit
    given = torch.from_numpy(scores), torch.from_numpy(same).long()
    far, tar, thresholds = (values.numpy() for values in binary_roc(*given))
    curve = roc_curve(scores, same)
    assert curve.thresholds[1:] == pytest.approx(np.log(thresholds[1:] / (1 - thresholds[1:])), abs=1e-9)
    assert curve.far == pytest.approx(far, abs=1e-6)  # it divides in float32
    assert curve.tar == pytest.approx(tar, abs=1e-6)
    assert auc(scores, same) == pytest.approx(float(binary_auroc(*given)), abs=1e-6)


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_finds_the_same_det_curve_between_its_ends(seed: int, levels: int | None) -> None:
    scores, same = scored_pairs(seed, 200, levels)
    far, frr, thresholds = peer_det_curve(same, scores)
    found = roc_curve(scores, same)
    ours = {*zip(found.far.round(12), found.frr.round(12), strict=True)}
    assert {*zip(far.round(12), frr.round(12), strict=True)} <= ours  # it drops points at which only one error is left
    assert {*thresholds[np.isfinite(thresholds)]} <= {*found.thresholds}
