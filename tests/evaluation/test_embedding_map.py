from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA

from siamese_verify.errors import InputError
from siamese_verify.evaluation.embedding_map import choose_rows, neighbor_strips, pca_map, umap_map


def unit(rows: np.ndarray) -> np.ndarray:
    normalized: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalized


def clusters(people: int, photos: int, size: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centers = np.repeat(rng.normal(size=(people, size)), photos, axis=0)
    rows = unit(centers + spread * rng.normal(size=(people * photos, size)))
    return rows, np.repeat(np.arange(people), photos)


@pytest.mark.parametrize("shape", [(50, 7), (7, 50), (30, 30)])
def test_the_map_is_that_of_scikit_learn_up_to_the_sign_of_an_axis(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape) * np.linspace(3, 1, shape[1])
    found, peer = pca_map(rows), PCA(2, svd_solver="full").fit(rows)
    np.testing.assert_allclose(np.abs(found.points), np.abs(peer.transform(rows)), atol=1e-9)
    assert found.shares is not None
    np.testing.assert_allclose(found.shares, peer.explained_variance_ratio_, atol=1e-12)
    assert (found.points.max(axis=0) >= -found.points.min(axis=0)).all(), "the largest coordinate is positive"


@pytest.mark.parametrize("rows", [np.ones((4, 3)), np.ones((1, 3)), np.arange(5.0)[:, None]])
def test_rows_without_a_plane_have_a_map_too(rows: np.ndarray) -> None:
    found = pca_map(rows)
    assert found.points.shape == (len(rows), 2)
    assert np.isfinite(found.points).all()
    assert found.shares == ((1.0, 0.0) if rows.std() else (0.0, 0.0))


@pytest.mark.slow
def test_umap_keeps_clusters_together_and_repeats_itself() -> None:
    rows, people = clusters(4, 12, 8, 0.1)
    found = umap_map(rows, seed=1).points
    distance = np.linalg.norm(found[:, None] - found[None], axis=2)
    same = people[:, None] == people
    assert distance[same].max() < distance[~same].min()
    np.testing.assert_array_equal(found, umap_map(rows, seed=1).points)
    assert umap_map(rows[:4]).points.shape == (4, 2)


def test_a_map_by_umap_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="UMAP needs 4 photos or more, got 3"):
        umap_map(np.ones((3, 2)))
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r"pip install 'siamese-verify\[visualize\]'"):
        umap_map(np.ones((4, 2)))


def test_neighbors_are_those_of_a_loop_and_the_worst_come_first() -> None:
    rows, people = clusters(6, 4, 5, 0.8)
    strips = neighbor_strips(rows, people, 5)
    badness = []
    for strip in strips:
        scores = {other: float(rows[strip.row] @ rows[other]) for other in range(len(rows)) if other != strip.row}
        nearest = sorted(scores, key=lambda other: -scores[other])[:5]
        assert strip.neighbors == tuple(nearest)
        assert strip.scores == pytest.approx([scores[other] for other in nearest])
        assert strip.wrong == tuple(bool(people[other] != people[strip.row]) for other in nearest)
        badness.append(sum(strip.wrong[:3]))  # three others are of the same person
    assert sorted(strip.row for strip in strips) == list(range(24))
    assert badness == sorted(badness, reverse=True)
    assert 0 < sum(badness) < 3 * 24


def test_who_has_one_photo_comes_last_and_a_wrong_lead_decides_between_equals() -> None:
    angle = np.deg2rad([0, 50, 40, 90, 78, 200])
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    strips = neighbor_strips(rows, ["a", "a", "b", "b", "c", "d"], 2)
    # One right neighbor is possible for a and b, none for c and d. The first neighbors of rows 1, 2 and 3 are wrong by
    # a lead of cos 10 - cos 50, cos 10 - cos 50 and cos 12 - cos 50; so is that of row 0, by cos 40 - cos 50.
    assert [strip.row for strip in strips[:4]] == [1, 2, 3, 0]
    assert {strip.row for strip in strips[4:]} == {4, 5}
    assert [strip.neighbors for strip in neighbor_strips(rows[:1], ["a"])] == [()]


@pytest.mark.parametrize(("people", "photos"), [(3, 500), (400, 3), (50, 20)])
def test_a_draw_keeps_photos_of_the_same_identity_together(people: int, photos: int) -> None:
    identities = np.random.default_rng(1).permutation(np.repeat(np.arange(people), photos))
    rows = choose_rows(identities, 100, seed=3)
    assert len(rows) == len(set(rows.tolist())) <= 100
    assert len(rows) >= 99, "but for the remainder of a division"
    assert (np.diff(rows) > 0).all()
    counts = np.unique(identities[rows], return_counts=True)[1]
    assert sorted(counts)[1] >= min(photos, 8), "only the last one drawn may be cut"
    np.testing.assert_array_equal(rows, choose_rows(identities, 100, seed=3))
    assert set(rows.tolist()) != set(choose_rows(identities, 100, seed=4).tolist())
    np.testing.assert_array_equal(choose_rows(identities, len(identities)), np.arange(len(identities)))
