"""PairSampler: a fixed share of each batch is genuine, and the batch says which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from siamese_verify.errors import InputError
from siamese_verify.samplers import PairSampler
from siamese_verify.structures import Pairs

IDENTITIES = np.random.default_rng(1).permutation(np.repeat([10, 20, 30, 40, 50], [5, 1, 2, 3, 1]))


@pytest.mark.parametrize(("pairs", "share", "genuine"), [(8, 0.5, 4), (5, 0.5, 2), (10, 0.3, 3), (2, 0.5, 1)])
@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_every_pair_is_what_it_says(pairs: int, share: float, genuine: int, weight: float, seed: int) -> None:
    for rows, tuples in PairSampler(IDENTITIES, pairs, share, batches=20, seed=seed, weight=weight):
        assert isinstance(tuples, Pairs)
        assert all(type(row) is int for row in rows)
        assert len(rows) == 2 * pairs
        assert (tuples.anchor.dtype, tuples.other.dtype, tuples.same.dtype) == (torch.int64, torch.int64, torch.bool)
        assert sorted([*tuples.anchor.tolist(), *tuples.other.tolist()]) == list(range(2 * pairs))
        assert tuples.same.sum() == genuine
        for anchor, other, same in zip(tuples.anchor, tuples.other, tuples.same, strict=True):
            left, right = rows[anchor], rows[other]
            assert left != right
            assert bool(same) == (IDENTITIES[left] == IDENTITIES[right])


@pytest.mark.parametrize(("pairs", "share"), [(64, 0.0), (64, 1.0), (1, 0.5), (4, 0.1), (4, 1.5), (4, -1), (0, 0.5)])
def test_a_batch_without_genuine_or_impostor_pairs_is_refused(pairs: int, share: float) -> None:
    with pytest.raises(InputError, match=f"{pairs} pairs with a genuine share of {share} give") as raised:
        PairSampler(IDENTITIES, pairs, share)
    assert str(raised.value).endswith("genuine and impostor pairs.")


def test_pairs_that_are_no_number_are_refused() -> None:
    pairs: Any = 4.5
    with pytest.raises(InputError, match=r"pairs is 4\.5, but must be a whole number"):
        PairSampler(IDENTITIES, pairs)
