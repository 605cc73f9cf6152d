"""Error versus discard, against a loop that leaves out pairs one by one."""

from __future__ import annotations

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation.discard import UP_TO, discard_curve, discard_curves, genuine_pairs


def drawn(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    quality = rng.normal(size=(count, 2))
    return rng.normal(size=count) + quality.min(axis=1), quality


def test_the_curve_is_that_of_leaving_out_the_worst_pairs() -> None:
    scores, quality = drawn()
    found = discard_curve(scores, quality, -0.5)
    order = np.argsort(quality.min(axis=1))
    for share, rate in zip(found.shares, found.fnmr, strict=True):
        remaining = order[round(share * 200) :]
        assert rate == pytest.approx(np.mean(scores[remaining] < -0.5))
    assert found.fnmr[-1] < 0.7 * found.fnmr[0]


def test_the_partial_area_is_less_that_of_the_ideal_order() -> None:
    scores, quality = drawn(5000)
    found = discard_curve(scores, quality, -0.5)
    order, wrong = np.argsort(quality.min(axis=1)), scores < -0.5
    steps = range(int(UP_TO * 5000))
    remaining = [wrong[order[step:]].mean() for step in steps]
    ideal = [max(wrong.sum() - step, 0) / (5000 - step) for step in steps]
    assert found.partial_area == pytest.approx(np.mean(remaining) - np.mean(ideal), abs=1e-4)
    assert found.uninformative_area == pytest.approx(wrong.mean() - np.mean(ideal), abs=1e-4)
    perfect = discard_curve(scores, np.stack([scores, scores], axis=1), -0.5)
    assert perfect.partial_area == pytest.approx(0, abs=1e-4)
    nothing = discard_curve(scores, np.random.default_rng(1).normal(size=(5000, 2)), -0.5)
    assert nothing.partial_area == pytest.approx(nothing.uninformative_area, rel=0.15)


def test_equal_qualities_have_no_order_and_unknown_ones_are_the_lowest() -> None:
    scores = np.array([0.0, 0.0, 1.0, 1.0])
    assert discard_curve(scores, np.zeros((4, 2)), 0.5).fnmr == pytest.approx([0.5] * 101)
    quality = np.array([[np.nan, 3], [np.nan, 3], [1, 1], [2, 2]])
    assert discard_curve(scores, quality, 0.5).fnmr[-1] == 0
    assert [
        one.name for one in discard_curves(scores, np.array([[0, 1]] * 4), {"a": [1, 2], "b": [np.nan] * 2}, 0)
    ] == ["a"]
    with pytest.raises(InputError, match="give two for each pair"):
        discard_curve(scores, [1.0, 2, 3, 4], 0.5)


def test_genuine_pairs_of_a_set_are_all_of_them() -> None:
    rng = np.random.default_rng(0)
    rows, who = rng.normal(size=(40, 8)).astype(np.float32), rng.integers(0, 9, 40)
    scores, pairs = genuine_pairs(rows, who)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    left, right = np.triu_indices(40, 1)
    same = who[left] == who[right]
    assert {tuple(sorted(pair)) for pair in pairs.tolist()} == {
        tuple(pair) for pair in np.stack([left, right], 1)[same].tolist()
    }
    np.testing.assert_allclose(scores, (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(axis=1), atol=1e-5)
