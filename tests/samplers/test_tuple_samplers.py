"""PairSampler and TripletSampler: what they draw, how often, and what cannot be drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from siamese_verify.errors import InputError
from siamese_verify.samplers import PairSampler, TripletSampler, TupleBatch
from siamese_verify.structures import Pairs, Triplets

COUNTS = np.array([4, 1, 2, 7, 1, 3])
NUMBERS = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)), COUNTS))
IDENTITIES = NUMBERS * 5 - 7
KINDS = pytest.mark.parametrize("kind", [PairSampler, TripletSampler])
DRAWS = 20_000


@pytest.mark.parametrize(("pairs", "share", "genuine"), [(8, 0.5, 4), (5, 0.5, 2), (10, 0.3, 3), (2, 0.5, 1)])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_every_pair_is_what_it_says(pairs: int, share: float, genuine: int, weight: float) -> None:
    for rows, tuples in PairSampler(IDENTITIES, pairs, share, batches=60, weight=weight):
        assert isinstance(tuples, Pairs)
        assert (tuples.anchor.dtype, tuples.other.dtype, tuples.same.dtype) == (torch.int64, torch.int64, torch.bool)
        assert (
            sorted([*tuples.anchor.tolist(), *tuples.other.tolist()]) == list(range(2 * pairs)) == [*range(len(rows))]
        )
        assert tuples.same.sum() == genuine
        for anchor, other, same in zip(tuples.anchor, tuples.other, tuples.same, strict=True):
            assert rows[anchor] != rows[other]
            assert bool(same) == (IDENTITIES[rows[anchor]] == IDENTITIES[rows[other]])


@pytest.mark.parametrize("triplets", [1, 9])
def test_every_triplet_is_what_it_says(triplets: int) -> None:
    for rows, tuples in TripletSampler(IDENTITIES, triplets, batches=60):
        assert isinstance(tuples, Triplets)
        assert {field.dtype for field in tuples} == {torch.int64}
        assert sorted(torch.cat(tuples).tolist()) == list(range(3 * triplets)) == [*range(len(rows))]
        for places in zip(*tuples, strict=True):
            anchor, positive, negative = (rows[place] for place in places)
            assert anchor != positive
            assert IDENTITIES[anchor] == IDENTITIES[positive] != IDENTITIES[negative]


def drawn_evenly(rows: np.ndarray, expected: np.ndarray) -> bool:
    """Whether identities come as often as expected, within five standard deviations, and their samples evenly."""
    shares = (expected / COUNTS)[NUMBERS]
    measured = np.bincount(rows, minlength=len(NUMBERS)) / len(rows)
    return bool((np.abs(measured - shares) <= 5 * np.sqrt(shares * (1 - shares) / len(rows))).all())


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_identities_are_drawn_by_their_weight_and_their_samples_evenly(weight: float) -> None:
    (batch,) = TripletSampler(IDENTITIES, DRAWS, weight=weight, batches=1)
    anchor, positive, negative = np.array(batch.rows).reshape(-1, 3).T
    genuine = np.where(COUNTS > 1, COUNTS**weight, 0)
    genuine /= genuine.sum()
    assert drawn_evenly(anchor, genuine)
    assert drawn_evenly(positive, genuine)
    for identity in np.flatnonzero(COUNTS > 1):
        others = np.where(np.arange(len(COUNTS)) == identity, 0, COUNTS**weight)
        assert drawn_evenly(negative[NUMBERS[anchor] == identity], others / others.sum())


@KINDS
def test_an_epoch_shows_as_many_samples_as_there_are(kind: Any) -> None:
    identities, rows = np.repeat(np.arange(50), 4), {PairSampler: 2, TripletSampler: 3}[kind]
    assert len(kind(identities, 10)) == 200 // (10 * rows)
    assert len(kind(identities, 1000)) == 1
    assert all(isinstance(batch, TupleBatch) for batch in kind(identities, 10))


@pytest.mark.parametrize(("pairs", "share"), [(64, 0.0), (64, 1.0), (4, 0.1), (4, 1.5), (4, -1)])
def test_a_batch_without_genuine_or_impostor_pairs_is_refused(pairs: int, share: float) -> None:
    with pytest.raises(InputError, match=f"genuine is {share}, which makes .* of {pairs} pairs genuine: a batch needs"):
        PairSampler(IDENTITIES, pairs, share)


@KINDS
@pytest.mark.parametrize("size", [0, -3, 2.5])
def test_a_batch_size_that_is_not_a_number_of_tuples_is_refused(kind: Any, size: Any) -> None:
    with pytest.raises(InputError, match=f"must be a whole number of . or more, got {size}"):
        kind(IDENTITIES, size)


@KINDS
@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_out_of_range_is_refused(kind: Any, weight: float) -> None:
    with pytest.raises(InputError, match=f"weight must be in 0 ... 1 .*, got {weight}"):
        kind(IDENTITIES, weight=weight)


@KINDS
@pytest.mark.parametrize(
    ("identities", "reason"),
    [
        ([5, 5, 5], "3 samples of 1 identities give no impostor pair"),
        ([1, 2, 3, 4], "4 samples of 4 identities give no genuine pair"),
        ([], "0 samples of 0 identities give no impostor pair"),
    ],
)
def test_identities_without_pairs_are_refused(kind: Any, identities: list[int], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        kind(np.array(identities, dtype=np.int64))
