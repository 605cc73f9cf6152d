"""Nearest-neighbor accuracy, alignment, uniformity and effective rank against naive loops, scikit-learn and numpy."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from siamese_verify.errors import InputError
from siamese_verify.evaluation import (
    alignment,
    effective_rank,
    knn_decisions,
    measure_representation,
    uniformity,
)


def people_and_rows(sizes: list[int], noise: float = 1.0, dimensions: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(len(sizes)), sizes)
    rows = rng.normal(size=(len(sizes), dimensions))[people] + noise * rng.normal(size=(len(people), dimensions))
    order = rng.permutation(len(people))
    return rows[order] * rng.uniform(0.5, 2, (len(people), 1)), people[order]


def naive_decisions(rows: np.ndarray, people: np.ndarray, neighbors: int, temperature: float | None) -> list[bool]:
    """One photo after another, as the definition says it."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = []
    for row in range(len(rows)):
        if np.count_nonzero(people == people[row]) < 2:
            continue
        cosine = [float(units[row] @ other) for other in units]
        nearest = sorted((other for other in range(len(rows)) if other != row), key=lambda other: -cosine[other])
        votes: dict[int, float] = defaultdict(float)
        for other in nearest[:neighbors]:
            votes[int(people[other])] += 1.0 if temperature is None else math.exp(cosine[other] / temperature)
        own = votes.pop(int(people[row]), 0.0)
        found.append(own > max(votes.values(), default=0.0))
    return found


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("neighbors", "temperature"), [(1, 0.07), (5, 0.07), (5, None), (20, 1.0), (500, 0.1)])
def test_neighbors_vote_as_in_a_loop(neighbors: int, temperature: float | None, kind: type) -> None:
    rows, people = people_and_rows([1, 2, 3, 7, 1, 30, 12, 4, 2, 60], noise=1.5)
    searched, right = knn_decisions(rows.astype(kind), people, neighbors, temperature)
    assert right.tolist() == naive_decisions(rows.astype(kind), people, neighbors, temperature)
    assert 0.1 < right.mean() < 0.95
    assert not np.isin(people[searched], [0, 4]).any(), "people with one photo are not searched for"
    assert len(searched) == len(people) - 2


@pytest.mark.parametrize("neighbors", [1, 7])
def test_decisions_are_those_of_scikit_learn(neighbors: int) -> None:
    rows, people = people_and_rows([6, 9, 12, 20, 5], noise=1.5)
    _, right = knn_decisions(rows, people, neighbors)
    votes = KNeighborsClassifier(neighbors, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    for row in range(len(rows)):
        others = np.arange(len(rows)) != row
        assert right[row] == (votes.fit(rows[others], people[others]).predict(rows[[row]])[0] == people[row])


def test_equal_votes_are_wrong() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    _, right = knn_decisions(rows, [0, 0, 1, 2, 2], neighbors=2)
    assert right.tolist() == [False, False, True, True], "0 and 1 vote once each for the photos of 0"


def test_collapsed_embeddings_do_as_well_as_one_name_for_all() -> None:
    people = np.repeat(np.arange(4), 30)
    found = measure_representation(np.ones((120, 16), dtype=np.float32), people)
    assert found.knn_accuracy == 0.25
    assert (found.alignment, found.uniformity) == (0, 0)
    assert found.effective_rank == pytest.approx(1, abs=1e-9)
    assert found.knn_interval is not None
    assert found.knn_interval.low < 0.25 < found.knn_interval.high


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_alignment_and_uniformity_are_means_over_listed_pairs(kind: type) -> None:
    rows, people = people_and_rows([1, 2, 5, 900, 3], noise=0.5)  # more rows than a block has
    rows = rows.astype(kind)
    units = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    left, right = np.triu_indices(len(rows), 1)
    squared = ((units[left] - units[right]) ** 2).sum(axis=1)
    assert alignment(rows, people) == pytest.approx(squared[people[left] == people[right]].mean(), rel=1e-5)
    assert uniformity(rows) == pytest.approx(math.log(np.exp(-2 * squared).mean()), abs=1e-5)


@pytest.mark.parametrize(("photos", "dimensions"), [(40, 7), (7, 40), (12, 12), (30, 300)])
def test_effective_rank_is_that_of_the_singular_values(photos: int, dimensions: int) -> None:
    rng = np.random.default_rng(photos)
    rows = rng.normal(size=(photos, dimensions)) * rng.uniform(0, 1, dimensions) ** 3
    shares = np.linalg.svd(rows / np.linalg.norm(rows, axis=1, keepdims=True), compute_uv=False)
    shares /= shares.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    rank, of = effective_rank(rows)
    assert rank == pytest.approx(expected, rel=1e-6)
    assert of == photos
    assert effective_rank(rows, most=5)[1] == (5 if min(photos, dimensions) > 5 else photos)


def test_effective_rank_counts_equal_orthogonal_directions_and_no_rounding() -> None:
    rows = np.zeros((1000, 400), dtype=np.float32)
    rows[np.arange(1000), np.arange(1000) % 5] = 3
    assert effective_rank(rows)[0] == pytest.approx(5, abs=1e-9)


def test_the_gram_matrix_of_many_long_rows_is_bounded() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 37_632)).astype(np.float32)
    rank, of = effective_rank(rows, most=50)
    assert of == 50
    assert 49 < rank <= 50


def test_degenerate_sets_have_defined_values() -> None:
    one = measure_representation(np.ones((1, 3)), ["a"])
    assert (one.photos, one.alone, one.knn_interval) == (1, 1, None)
    assert one.effective_rank == pytest.approx(1)
    assert all(map(math.isnan, (one.knn_accuracy, one.alignment, one.uniformity)))
    person = measure_representation(np.eye(3), ["a"] * 3)
    assert (person.knn_accuracy, person.alignment, person.alone) == (1, 2, 0)
    apart = measure_representation(np.eye(3), ["a", "b", "c"])
    assert apart.alone == 3
    assert math.isnan(apart.alignment)
    assert apart.uniformity == pytest.approx(-4)
    for rows in (np.empty((0, 3)), np.full((2, 3), np.nan), np.zeros((2, 3))):
        with pytest.raises(InputError):
            measure_representation(rows, ["a"] * len(rows))
    for neighbors, temperature in ((0, 0.1), (3, 0.0), (3, math.nan)):
        with pytest.raises(InputError):
            knn_decisions(np.eye(3), ["a"] * 3, neighbors, temperature)


def test_of_many_photos_some_of_each_person_are_measured() -> None:
    rows, people = people_and_rows([3] * 50)
    some = measure_representation(rows, people, most=31)
    assert (some.photos, some.people, some.alone) == (30, 15, 0), "two photos of fifteen people"
    assert some == measure_representation(rows, people, most=31)
    assert some != measure_representation(rows, people, most=31, seed=1)
    few = measure_representation(rows, people, most=1)
    assert (few.photos, few.people) == (4, 2), "two people at least"


def test_of_many_photos_of_few_people_all_people_are_told_apart() -> None:
    rows, people = people_and_rows([200] * 20 + [1] * 5, noise=2.0)
    every = measure_representation(rows, people)
    some = measure_representation(rows, people, most=1000)
    assert (every.photos, every.people, every.alone) == (4005, 25, 5)
    assert (some.photos, some.people, some.alone) == (20 * 40 + 5, 25, 5)
    assert 0.2 < every.knn_accuracy < 0.8
    assert some.knn_accuracy == pytest.approx(every.knn_accuracy, abs=0.1)
