"""Which pairs there are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from siamese_verify.datasets import SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.protocols import Listed, Protocol, all_pairs, sampled_pairs
from siamese_verify.protocols.protocol import draw_pairs


def test_all_pairs_are_not_written_down_but_numbered() -> None:
    protocol = all_pairs(SyntheticFaces(2, 2, 16), "synthetic")
    assert (protocol.name, protocol.pairs) == ("synthetic", None)
    assert protocol.photos_of(1 * 4 + 3) == (1, 3)
    assert protocol.describe(0 * 4 + 1) == "person 0000 photo 00 and person 0000 photo 01"
    assert protocol.describe(2 * 4 + 3) == "person 0001 photo 00 and person 0001 photo 01"


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_drawn_once_each_and_no_more_than_there_are(seed: int) -> None:
    identities = np.random.default_rng(seed).integers(0, 8, 30)
    every = [(i, j) for i, j in combinations(range(30), 2)]
    there = {same: {(i, j) for i, j in every if (identities[i] == identities[j]) == same} for same in (True, False)}
    for each in (1, 5, 40, 1000):
        for same, found in zip((True, False), draw_pairs(identities, each, np.random.default_rng(seed)), strict=True):
            pairs = [(int(i), int(j)) for i, j in found]
            assert len(pairs) == len(set(pairs)) == min(each, len(there[same]))
            assert set(pairs) <= there[same]


def test_every_pair_is_drawn_equally_often() -> None:
    identities = np.array([0, 0, 0, 1, 1, 2])
    drawn = [draw_pairs(identities, 1, np.random.default_rng(seed)) for seed in range(3000)]
    for kind in (0, 1):
        _, counts = np.unique([tuple(draw[kind][0]) for draw in drawn], axis=0, return_counts=True)
        assert len(counts) == (4, 11)[kind]
        expected = 3000 / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 3 * len(counts)  # chi squared


def test_a_sample_of_listed_or_all_pairs_is_half_genuine_and_seeded() -> None:
    everything = all_pairs(SyntheticFaces(10, 4, 16), "synthetic")
    left, right = np.triu_indices(40, 1)
    identities = everything.photos.identities
    listed = Protocol("listed", everything.photos, Listed(left, right, identities[left] == identities[right]))
    for protocol in (everything, listed):
        sample, again = (sampled_pairs(protocol, 50, seed=1) for _ in range(2))
        assert (len(sample.same), sample.same.sum()) == (50, 25)
        np.testing.assert_array_equal(identities[sample.left] == identities[sample.right], sample.same)
        np.testing.assert_array_equal(sample.left, again.left)
        assert not np.array_equal(sample.left, sampled_pairs(protocol, 50, seed=2).left)
        assert len(sampled_pairs(protocol, 10**6).same) == 780  # all there are


def test_one_person_alone_has_no_impostors() -> None:
    with pytest.raises(InputError, match="5 photos of 1 people hold no impostors"):
        all_pairs(SyntheticFaces(1, 5, 16), "synthetic")


def test_people_with_one_photo_each_have_no_genuine_pairs() -> None:
    with pytest.raises(InputError, match="5 photos of 5 people hold no genuine pairs"):
        all_pairs(SyntheticFaces(5, 1, 16), "synthetic")
