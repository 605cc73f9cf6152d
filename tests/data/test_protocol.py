"""all_pairs: every pair once."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from siamese_verify.data import SyntheticFaces, all_pairs
from siamese_verify.errors import InputError


@pytest.mark.parametrize(("people", "photos"), [(2, 2), (3, 4), (7, 2)])
def test_every_pair_of_photos_comes_once(people: int, photos: int) -> None:
    faces = SyntheticFaces(people, photos, 16)
    protocol = all_pairs(faces, "synthetic")
    naive = [(i, j, i // photos == j // photos) for i, j in combinations(range(people * photos), 2)]
    assert list(zip(protocol.left.tolist(), protocol.right.tolist(), protocol.same.tolist(), strict=True)) == naive
    assert protocol.left.dtype == np.int64
    assert protocol.same.dtype == np.bool_
    assert protocol.folds is None
    assert protocol.name == "synthetic"


def test_a_pair_is_described_by_the_names_of_its_photos() -> None:
    protocol = all_pairs(SyntheticFaces(2, 2, 16), "synthetic")
    assert protocol.describe(0) == "person 0000 photo 00 and person 0000 photo 01"
    assert protocol.describe(5) == "person 0001 photo 00 and person 0001 photo 01"


def test_one_person_alone_has_no_impostors() -> None:
    with pytest.raises(InputError, match="5 photos of 1 people hold no impostors"):
        all_pairs(SyntheticFaces(1, 5, 16), "synthetic")


def test_people_with_one_photo_each_have_no_genuine_pairs() -> None:
    with pytest.raises(InputError, match="5 photos of 5 people hold no genuine pairs"):
        all_pairs(SyntheticFaces(5, 1, 16), "synthetic")
