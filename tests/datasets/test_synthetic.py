from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from siamese_verify.datasets.synthetic import SyntheticFaces, render_face
from siamese_verify.datasets.synthetic_identity import TRAITS, draw_identity
from siamese_verify.errors import InputError


def pixels(faces: SyntheticFaces, row: int) -> np.ndarray:
    return np.asarray(faces[row], np.float32)


@pytest.mark.parametrize("size", [16, 33, 112])
def test_photos_are_rgb_of_the_given_size(size: int) -> None:
    photo = SyntheticFaces(1, 1, size)[0]
    assert (photo.mode, photo.size) == ("RGB", (size, size))


def test_rows_are_grouped_by_identity() -> None:
    faces = SyntheticFaces(3, 2, 16, first=7)
    assert len(faces) == 6
    assert faces.identities.dtype == np.int64
    assert faces.identities.tolist() == [7, 7, 8, 8, 9, 9]
    assert faces.names[3] == "person 0008 photo 01"
    assert len(set(faces.names)) == 6


def test_a_photo_depends_on_seed_person_and_number_alone() -> None:
    few, many = SyntheticFaces(2, 3, 48, first=4), SyntheticFaces(9, 5, 48)
    backwards = [pixels(few, row) for row in reversed(range(6))][::-1]
    draw_identity.cache_clear()
    for row, seen in enumerate(backwards):
        person, photo = 4 + row // 3, row % 3
        np.testing.assert_array_equal(seen, pixels(many, person * 5 + photo))


def test_all_photos_of_all_people_and_seeds_differ() -> None:
    sets = [SyntheticFaces(4, 4, 32), SyntheticFaces(4, 4, 32, first=4), SyntheticFaces(4, 4, 32, seed=1)]
    assert len({faces[row].tobytes() for faces in sets for row in range(16)}) == 48


def test_ranges_that_do_not_overlap_hold_different_identities() -> None:
    train, test = SyntheticFaces(50, 1), SyntheticFaces(50, 1, first=50)
    assert not set(train.identities) & set(test.identities)
    traits = [tuple(draw_identity(0, person).traits.values()) for person in range(100)]
    assert len(set(traits)) == 100


def test_traits_fill_their_ranges_and_no_two_identities_are_close() -> None:
    low, high = np.array(list(TRAITS.values())).T
    drawn = np.array([list(draw_identity(0, person).traits.values()) for person in range(200)])
    place = (drawn - low) / (high - low)
    assert place.min() >= 0
    assert place.max() <= 1
    assert (place.std(axis=0) > 0.2).all()
    distance = np.abs(place[:, None] - place[None]).mean(-1)
    assert distance[~np.eye(200, dtype=bool)].min() > 0.15


def test_identities_look_different_in_the_same_pose_light_and_place() -> None:
    people = [draw_identity(0, person) for person in range(8)]
    for draws in range(3):
        shots = [np.asarray(render_face(who, np.random.default_rng(draws), 48), np.float32) for who in people]
        differences = [np.abs(a - b).mean() for i, a in enumerate(shots) for b in shots[:i]]
        assert min(differences) > 3  # of 255


def test_without_backgrounds_the_faces_are_the_same_before_the_same_gray() -> None:
    plain, own = ([pixels(SyntheticFaces(3, 4, 64, background=one), row) for row in range(12)] for one in (False, True))
    assert all(np.array_equal(a[28:36, 28:36], b[28:36, 28:36]) for a, b in zip(plain, own, strict=True))
    colored = [np.mean([np.ptp(one[:4, :4].mean((0, 1))) for one in faces]) for faces in (plain, own)]
    assert colored[0] < colored[1] / 2  # the light has a tint


def test_raw_pixels_do_not_separate_identities() -> None:
    faces = SyntheticFaces(12, 8, 32)
    flat = np.stack([pixels(faces, row).ravel() for row in range(len(faces))])
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    left, right = np.triu_indices(len(flat), 1)
    scores, same = (flat[left] * flat[right]).sum(axis=1), faces.identities[left] == faces.identities[right]
    thresholds = np.sort(scores)
    misses = np.searchsorted(np.sort(scores[same]), thresholds) / same.sum()
    false_accepts = 1 - np.searchsorted(np.sort(scores[~same]), thresholds) / (~same).sum()
    equal_error_rate = np.maximum(misses, false_accepts).min()
    assert equal_error_rate > 0.3


@pytest.mark.parametrize("row", [-1, 4, 100])
def test_a_row_outside_is_an_index_error(row: int) -> None:
    with pytest.raises(IndexError, match=str(row)):
        SyntheticFaces(2, 2, 16)[row]


@pytest.mark.parametrize(
    ("name", "value"), [("identities", 0), ("images", -3), ("size", 15), ("seed", -1), ("first", -2)]
)
def test_numbers_that_are_too_small_are_refused(name: str, value: int) -> None:
    numbers: dict[str, Any] = {name: value}
    with pytest.raises(InputError, match=f"{name} .* got {value}"):
        SyntheticFaces(**numbers)
