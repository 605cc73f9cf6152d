"""shuffled: places of permutations that are never made."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from siamese_verify.samplers.deck import mixed, shuffled

KEYS = mixed(np.arange(1, 2401, dtype=np.uint64))[:, None]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_every_key_gives_a_permutation(size: int) -> None:
    keys = KEYS[:20]
    places = shuffled(np.tile(np.arange(size), (20, 1)), np.full((20, 1), size), keys)
    assert places.dtype == np.int64
    assert (np.sort(places, axis=1) == np.arange(size)).all()


def test_a_place_does_not_depend_on_which_others_are_asked_for() -> None:
    size = np.array([[5], [10_000], [2**31]])
    together = shuffled(np.tile(np.arange(5), (3, 1)), size, KEYS[:3])
    for row in range(3):
        for place in range(5):
            assert shuffled(np.array([place]), size[row], KEYS[row]) == together[row, place]


def test_all_permutations_are_drawn_evenly() -> None:
    places = shuffled(np.tile(np.arange(4), (len(KEYS), 1)), np.full_like(KEYS, 4), KEYS)
    drawn = Counter(map(tuple, places.tolist()))
    assert len(drawn) == 24
    assert all(60 < times < 145 for times in drawn.values())  # 100 each, and more than 4 standard deviations


def test_few_places_of_many_are_drawn_evenly_and_apart() -> None:
    places = shuffled(np.tile(np.arange(2), (len(KEYS), 1)), np.full_like(KEYS, 10_000), KEYS)
    for drawn in (places[:, 0], places[:, 1], (places[:, 1] - places[:, 0]) % 10_000):
        tenths = np.bincount(drawn // 1000, minlength=10)
        assert ((tenths > 180) & (tenths < 300)).all()  # 240 each
