"""The probes of frozen embeddings against scikit-learn, and what their splits and intervals are over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from siamese_verify.errors import InputError
from siamese_verify.evaluation.linear_probe import (
    STRENGTHS,
    choose_strength,
    fit_linear,
    predict_knn,
    predict_linear,
    probe_embeddings,
    split_photos,
)
from siamese_verify.evaluation.rate_intervals import mean_interval
from siamese_verify.evaluation.representation import TEMPERATURE


def faces(people: int = 6, photos: int = 8, size: int = 12, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(N,D) unit rows around one point for each person, and (N,) people."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(people, 1, size)) + noise * rng.normal(size=(people, photos, size))
    rows = rows.reshape(-1, size)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), np.repeat(np.arange(people), photos)


@pytest.mark.parametrize("size", [12, 200])  # the latter with fewer rows than dimensions
@pytest.mark.parametrize("strength", [0.1, 1.0, 1000.0])
def test_the_linear_probe_is_scikit_learns_logistic_regression(strength: float, size: int) -> None:
    rows, labels = faces(size=size)
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=20_000).fit(rows, labels)
    weights, biases = fit_linear(rows, labels, strength)
    # Biases are determined up to a constant.
    given = [
        rows @ one.T + bias - (rows @ one.T + bias).mean(1, keepdims=True)
        for one, bias in (
            (weights, biases),
            (theirs.coef_, theirs.intercept_),
        )
    ]
    np.testing.assert_allclose(given[0], given[1], atol=2e-4 * max(1.0, np.abs(given[1]).max()))
    test = faces(noise=2.0, size=size)[0]
    assert (predict_linear(rows, labels, test, strength) == theirs.predict(test)).mean() > 0.97


@pytest.mark.parametrize("neighbors", [1, 5, 20, 500])
def test_nearest_neighbors_are_scikit_learns_with_the_same_weights(neighbors: int) -> None:
    rows, labels = faces(noise=1.5)
    test = faces(noise=2.5)[0]

    def votes(distances: Any) -> Any:
        return np.exp((1 - distances) / TEMPERATURE)

    theirs = KNeighborsClassifier(min(neighbors, len(rows)), weights=votes, metric="cosine", algorithm="brute")
    assert (predict_knn(rows, labels, test, neighbors) == theirs.fit(rows, labels).predict(test)).all()


def test_the_photos_of_each_person_are_split_and_nobody_with_one_photo_is_used() -> None:
    people = np.array(["a"] * 5 + ["b"] * 2 + ["c"] + ["d"] * 10)
    split = split_photos(people, 0.4, seed=3)
    assert {name: (people[split.test] == name).sum() for name in "abcd"} == {"a": 2, "b": 1, "c": 0, "d": 4}
    assert {name: (people[split.train] == name).sum() for name in "abcd"} == {"a": 3, "b": 1, "c": 0, "d": 6}
    assert not {*split.train} & {*split.test}
    assert all((one == two).all() for one, two in zip(split, split_photos(people, 0.4, seed=3), strict=True))
    assert any((one != two).any() for one, two in zip(split, split_photos(people, 0.4, seed=4), strict=True))
    for share, given in ((0.0, people), (1.0, people), (0.5, np.arange(4)), (0.5, np.array([1, 1, 2]))):
        with pytest.raises(InputError, match=r"test_share must be between 0 and 1|needs two people with two photos"):
            split_photos(given, share)


def test_a_probe_is_trained_on_the_shots_and_tested_on_the_test_photos_alone() -> None:
    rows, people = faces(people=8, photos=10, noise=1.4)
    split = split_photos(people, 0.5, seed=0)
    results = probe_embeddings(rows, people + 100, split, shots=(1, 3, 99, None), seed=1)
    assert [(one.shots, one.photos) for one in results] == [(1, 8), (3, 24), (99, 40), (None, 40)]
    assert results[2][2:] == results[3][2:]
    last, tested = results[-1], people[split.test]
    right = predict_linear(rows[split.train], people[split.train], rows[split.test], last.strength) == tested
    assert last.linear == right.mean()
    assert last.linear_interval == mean_interval(tested, right.astype(np.float64))
    assert last.linear_interval.low < last.linear < last.linear_interval.high
    assert last.knn == (predict_knn(rows[split.train], people[split.train], rows[split.test]) == tested).mean()
    assert last.majority == pytest.approx(1 / 8)
    assert results[0].linear < last.linear

    changed = people.copy()
    changed[split.test] = people[split.test[::-1]]  # other labels of test photos: the same classifiers
    again = probe_embeddings(rows, changed, split, shots=(3,), seed=1)
    assert again[0].strength == results[1].strength


def test_the_strength_is_the_best_of_a_cross_validation_over_training_photos() -> None:
    rows, people = faces(people=5, photos=10, noise=1.5)
    chosen = choose_strength(rows, people, seed=0)
    assert chosen in STRENGTHS
    assert choose_strength(rows[::10], people[::10]) == 1.0, "one photo of each: nothing to choose by"


@pytest.mark.parametrize(
    ("settings", "told"), [({"shots": (0,)}, "shots must list"), ({"neighbors": 0}, "neighbors must be 1 or more")]
)
def test_wrong_settings_are_refused(settings: dict[str, Any], told: str) -> None:
    rows, people = faces()
    with pytest.raises(InputError, match=told):
        probe_embeddings(rows, people, split_photos(people), **settings)
    with pytest.raises(InputError, match="must be above 0"):
        fit_linear(rows, people, 0.0)
