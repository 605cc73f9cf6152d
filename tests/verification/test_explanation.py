from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.faces import Quality
from siamese_verify.verification.decision import DetectedFace
from siamese_verify.verification.explanation import (
    MAX_GRID,
    OPPOSES,
    OUTLINES,
    SUPPORTS,
    Explanation,
    blur,
    explain,
    heat,
)

SIDE = 48


class Regions:
    """Embeds the pixels of regions and of nothing else; `weights` (S,S) says how much each pixel counts."""

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self.weights = weights
        self.batches: list[int] = []

    def embed_crops(self, crops: NDArray[np.uint8], /) -> NDArray[np.float32]:
        self.batches.append(len(crops))
        rows = ((crops.astype(np.float64) - 127.5) * self.weights[..., None]).reshape(len(crops), -1)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def region(top: int, left: int, bottom: int, right: int) -> NDArray[np.float64]:
    weights = np.zeros((SIDE, SIDE))
    weights[top:bottom, left:right] = 1
    return weights


def face(crop: NDArray[np.uint8]) -> DetectedFace:
    return DetectedFace("a photo", crop, Quality(1, None, None, 0.5, 0.2))


def noise(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def test_the_region_that_the_embedding_depends_on_carries_the_similarity() -> None:
    one = noise(0)
    verifier = Regions(region(6, 30, 18, 42))  # rows 1 and 2, columns 5 and 6 of 8
    found = explain(verifier.embed_crops, face(one), face(one))
    touched = np.zeros((8, 8), dtype=bool)
    touched[0:4, 4:8] = True  # cells that a patch covers together with the region
    for values in (found.left, found.right):
        assert (values[touched] > 0).all()
        np.testing.assert_allclose(values[~touched], 0, atol=1e-6)
        assert set(map(tuple, np.argwhere(values > 0.9 * values.max()))) <= {(1, 5), (1, 6), (2, 5), (2, 6)}
    assert found.score == pytest.approx(1, abs=1e-6)


def test_each_value_is_the_mean_fall_over_the_patches_that_cover_its_cell() -> None:
    left, right = noise(1), noise(2)
    right[:20] = left[:20]
    verifier = Regions(np.ones((SIDE, SIDE)))
    grid, patch = 4, 2

    def score(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
        first, second = verifier.embed_crops(np.stack([a, b])).astype(np.float64)
        return float(first @ second)

    def naive(crop: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
        cell, veil = SIDE // grid, blur(crop)
        falls: list[list[list[float]]] = [[[] for _ in range(grid)] for _ in range(grid)]
        for row in range(grid - patch + 1):
            for column in range(grid - patch + 1):
                hidden = crop.copy()
                part = np.s_[row * cell : (row + patch) * cell, column * cell : (column + patch) * cell]
                hidden[part] = veil[part]
                fall = score(crop, other) - score(hidden, other)
                for y in range(row, row + patch):
                    for x in range(column, column + patch):
                        falls[y][x].append(fall)
        return np.array([[np.mean(cell) for cell in line] for line in falls])

    found = explain(verifier.embed_crops, face(left), face(right), grid=grid, patch=patch)
    np.testing.assert_allclose(found.left, naive(left, right), atol=1e-6)
    np.testing.assert_allclose(found.right, naive(right, left), atol=1e-6)
    assert found.score == pytest.approx(score(left, right), abs=1e-6)
    assert found.left[0].mean() > 0 > found.left[3].mean()  # what is alike carries, what is not speaks against


def test_identical_faces_have_identical_maps_without_anything_against() -> None:
    found = explain(Regions(np.ones((SIDE, SIDE))).embed_crops, face(noise(3)), face(noise(3)))
    np.testing.assert_array_equal(found.left, found.right)
    assert found.left.min() > 0


def test_swapped_faces_have_swapped_maps() -> None:
    verifier = Regions(np.ones((SIDE, SIDE)))
    one, other = (explain(verifier.embed_crops, face(noise(a)), face(noise(b))) for a, b in ((4, 5), (5, 4)))
    np.testing.assert_allclose(one.left, other.right, atol=1e-12)
    np.testing.assert_allclose(one.right, other.left, atol=1e-12)


def test_the_same_faces_give_the_same_maps_in_batches_of_any_size() -> None:
    verifier = Regions(np.ones((SIDE, SIDE)))
    whole = explain(verifier.embed_crops, face(noise(6)), face(noise(7)))
    for batch in (1, 5, 32, 1000):
        other = explain(verifier.embed_crops, face(noise(6)), face(noise(7)), batch=batch)
        np.testing.assert_allclose(other.left, whole.left, atol=1e-12)
        np.testing.assert_allclose(other.right, whole.right, atol=1e-12)
    again = explain(verifier.embed_crops, face(noise(6)), face(noise(7)))
    np.testing.assert_array_equal(again.left, whole.left)
    np.testing.assert_array_equal(again.right, whole.right)


@pytest.mark.parametrize(("grid", "patch", "batch"), [(8, 2, 32), (8, 2, 7), (5, 3, 32), (2, 1, 1)])
def test_no_batch_is_larger_and_no_crop_more_is_embedded_than_was_said(grid: int, patch: int, batch: int) -> None:
    verifier = Regions(np.ones((SIDE, SIDE)))
    told: list[tuple[int, int]] = []
    explain(
        verifier.embed_crops,
        face(noise(0)),
        face(noise(1)),
        grid=grid,
        patch=patch,
        batch=batch,
        advance=lambda done, total: told.append((done, total)),
    )
    total = 2 + 2 * (grid - patch + 1) ** 2
    assert sum(verifier.batches) == total
    assert verifier.batches[0] == 2
    assert max(verifier.batches[1:]) <= batch
    assert [done for done, _ in told] == np.cumsum(verifier.batches)[1:].tolist()
    assert {of for _, of in told} == {total}


def test_the_crops_stay_as_they_are() -> None:
    left, right = noise(8), noise(9)
    explain(Regions(np.ones((SIDE, SIDE))).embed_crops, face(left), face(right))
    np.testing.assert_array_equal(left, noise(8))
    np.testing.assert_array_equal(right, noise(9))


@pytest.mark.parametrize(
    "settings",
    [{"grid": 1}, {"grid": MAX_GRID + 1}, {"grid": 8, "patch": 8}, {"patch": 0}, {"batch": 0}, {"grid": 49}],
)
def test_settings_out_of_their_range_are_refused(settings: dict[str, Any]) -> None:
    verifier = Regions(np.ones((SIDE, SIDE)))
    with pytest.raises(InputError, match=str(next(iter(settings.values())))):
        explain(verifier.embed_crops, face(noise(0)), face(noise(1)), **settings)
    assert verifier.batches == []


def test_a_size_that_the_grid_does_not_divide_is_covered_whole() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (13, 13, 3), dtype=np.uint8)
    found = explain(Regions(np.ones((13, 13))).embed_crops, face(crop), face(crop), grid=5)
    assert found.left.min() > 0


def test_a_blur_keeps_a_plain_picture_and_the_light_of_any() -> None:
    plain = np.full((SIDE, SIDE, 3), (10, 120, 250), dtype=np.uint8)
    np.testing.assert_array_equal(blur(plain), plain)
    soft = blur(noise(0)).astype(np.float64)
    assert soft.std() < 0.1 * noise(0).std()
    assert soft.mean() == pytest.approx(noise(0).mean(), abs=3)


def test_a_blur_is_a_convolution_with_a_gaussian() -> None:
    from scipy.ndimage import gaussian_filter1d

    crop = noise(1).astype(np.float64)
    for axis in (0, 1):
        crop = gaussian_filter1d(crop, 0.1 * SIDE, axis=axis, mode="nearest", truncate=12)
    np.testing.assert_allclose(blur(noise(1)), crop, atol=1)


def test_heat_is_blue_where_a_part_carries_and_orange_where_it_speaks_against() -> None:
    gray = np.full((40, 40, 3), 128, dtype=np.uint8)
    values = np.zeros((4, 4))
    values[0, 0], values[3, 3] = 0.3, -0.3
    picture = heat(gray, values).astype(int)
    assert picture.shape == (40, 40, 3)
    carries, against, neither = picture[2, 2], picture[37, 37], picture[20, 20]
    assert carries[2] > carries[0] + 60
    assert against[0] > against[2] + 60
    assert neither[0] == neither[1] == neither[2]


def test_lines_tell_the_kinds_apart_without_colors() -> None:
    """Solid around what carries, dashed around what speaks against, and none where neither is strong."""
    plain = np.full((160, 160, 3), 128, dtype=np.uint8)
    shares = []
    for value, line in ((0.3, OUTLINES[0]), (-0.3, OUTLINES[1])):
        values = np.zeros((8, 8))
        values[2:6, 2:6] = value
        found = (heat(plain, values) == np.array(line)).all(axis=2)
        top = np.flatnonzero(found.any(axis=1))[0]
        across = np.flatnonzero(found[:, 60:100].any(axis=1))
        assert across[-1] - across[0] == pytest.approx(80, abs=4)  # cells 2 to 5 are 80 pixels wide
        shares.append(found[top, 60:100].mean())
    assert shares[0] == 1
    assert 0.3 < shares[1] < 0.7
    weak = heat(plain, np.full((8, 8), 0.02))
    assert len(np.unique(weak.reshape(-1, 3), axis=0)) == 1
    whole = heat(plain, np.full((8, 8), 0.3))
    assert len(np.unique(whole.reshape(-1, 3), axis=0)) == 1  # the border of the picture is no edge


def test_heat_of_one_scale_compares_two_faces() -> None:
    gray = np.full((40, 40, 3), 128, dtype=np.uint8)
    weak, strong = np.full((4, 4), 0.05), np.full((4, 4), 0.5)
    limit = Explanation(weak, strong, 0.5).range
    assert limit == 0.5
    away = [
        np.abs(heat(gray, values, limit).astype(int) - heat(gray, 0 * values).astype(int)).sum()
        for values in (weak, strong)
    ]
    assert away[0] == pytest.approx(away[1] / 10, rel=0.2)
    assert Explanation(weak / 1000, weak / 1000, 0.0).range == 0.05  # noise is not blown up


def test_heat_of_nothing_is_the_gray_face() -> None:
    picture = heat(noise(0), np.zeros((8, 8)))
    assert (picture == picture[..., :1]).all()
    assert picture.dtype == np.uint8


def test_both_colors_differ_for_those_who_confuse_red_and_green() -> None:
    """By Machado, Oliveira & Fernandes 2009: deuteranopia and protanopia, matrices for a severity of one."""
    kinds = (
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    )
    for kind in kinds:
        seen = [np.array(kind) @ (np.array(color) / 255) ** 2.2 for color in (SUPPORTS, OPPOSES)]
        assert np.abs(seen[0] - seen[1]).max() > 0.2
