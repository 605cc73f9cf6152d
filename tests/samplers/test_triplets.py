"""TripletSampler: two photos of one person and one of another, and the batch says which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from siamese_verify.errors import InputError
from siamese_verify.samplers import TripletSampler
from siamese_verify.structures import Triplets

IDENTITIES = np.random.default_rng(1).permutation(np.repeat([10, 20, 30, 40, 50], [5, 1, 2, 3, 1]))


@pytest.mark.parametrize("triplets", [1, 2, 9])
@pytest.mark.parametrize("seed", range(3))
def test_every_triplet_is_what_it_says(triplets: int, seed: int) -> None:
    for rows, tuples in TripletSampler(IDENTITIES, triplets, batches=20, seed=seed):
        assert isinstance(tuples, Triplets)
        assert all(type(row) is int for row in rows)
        assert len(rows) == 3 * triplets
        assert {field.dtype for field in tuples} == {torch.int64}
        assert sorted(torch.cat(tuples).tolist()) == list(range(3 * triplets))
        for places in zip(*tuples, strict=True):
            anchor, positive, negative = (rows[place] for place in places)
            assert anchor != positive
            assert IDENTITIES[anchor] == IDENTITIES[positive] != IDENTITIES[negative]


@pytest.mark.parametrize("triplets", [0, -3, 2.5])
def test_a_batch_without_triplets_is_refused(triplets: Any) -> None:
    with pytest.raises(InputError, match=f"triplets is {triplets}, but must be a whole number of 1 or more"):
        TripletSampler(IDENTITIES, triplets)
