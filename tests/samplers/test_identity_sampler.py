"""IdentityBatchSampler: what a batch holds, and what a pass and an epoch show of each identity."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from siamese_verify.errors import InputError
from siamese_verify.samplers import IdentityBatchSampler

COUNTS = [3, 1, 2, 25, 1, 6, 2, 1, 4, 1, 2, 13, 7, 3, 1, 2, 9, 4]  # one identity has a third of the samples
IDENTITIES = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)), COUNTS))
REPEATED = [identity for identity, count in enumerate(COUNTS) if count > 1]
VISITS = pytest.mark.parametrize("visits", [1, 2, 4, None])


def visits_of(sampler: IdentityBatchSampler, identities: np.ndarray = IDENTITIES) -> list[dict[int, list[int]]]:
    """Rows of each identity, batch by batch; fails if an identity is twice in a batch."""
    k, batches = sampler.samples_per_identity, []
    for rows in sampler:
        visits = {int(identities[rows[at]]): rows[at : at + k] for at in range(0, len(rows), k)}
        assert len(visits) * k == len(rows) == sampler.identities_per_batch * k
        assert all(identities[row] == identity for identity, visit in visits.items() for row in visit)
        batches.append(visits)
    return batches


@VISITS
@pytest.mark.parametrize("p", [2, 3, 8, 13])
@pytest.mark.parametrize("k", [2, 3])
def test_a_pass_visits_each_identity_as_often_as_it_should(p: int, k: int, visits: int | None) -> None:
    for epoch in range(3):
        sampler = IdentityBatchSampler(IDENTITIES, p, k, visits_per_epoch=visits)
        sampler.set_epoch(epoch)
        batches = visits_of(sampler)
        assert len(batches) == len(sampler)
        visited = Counter(identity for batch in batches for identity in batch)
        due = {identity: min(-(-COUNTS[identity] // k), visits or 100, len(batches)) for identity in REPEATED}
        assert set(visited) == set(REPEATED)
        assert all(visited[identity] >= due[identity] for identity in REPEATED)
        assert visited.total() - sum(due.values()) < p  # only what fills the last batch
        for identity in REPEATED:
            rows = [row for batch in batches for row in batch.get(identity, [])]
            shown = min(COUNTS[identity], k * due[identity])
            assert len(set(rows)) >= shown
            assert all(len(set(batch[identity])) == min(k, COUNTS[identity]) for batch in batches if identity in batch)


def test_an_identity_with_most_of_the_samples_is_in_every_batch_once() -> None:
    identities = np.repeat(np.arange(5), [4000, 10, 2, 2, 6])
    batches = visits_of(IdentityBatchSampler(identities, 2, 2, visits_per_epoch=None), identities)
    visited = Counter(identity for batch in batches for identity in batch)
    assert visited[0] == len(batches) == 11
    assert visited - Counter({1: 5, 2: 1, 3: 1, 4: 3}) <= Counter({0: 11, 1: 1, 2: 1, 3: 1, 4: 1})


@VISITS
def test_more_batches_than_a_pass_start_further_passes(visits: int | None) -> None:
    one = len(IdentityBatchSampler(IDENTITIES, 3, 2, visits))
    batches = visits_of(IdentityBatchSampler(IDENTITIES, 3, 2, visits, batches=3 * one))
    for start in range(0, 3 * one, one):
        assert {identity for batch in batches[start : start + one] for identity in batch} == set(REPEATED)
    assert batches[:one] != batches[one : 2 * one]
    assert visits_of(IdentityBatchSampler(IDENTITIES, 3, 2, visits, batches=2)) == batches[:2]


def test_identities_and_samples_are_drawn_evenly() -> None:
    """Neither where an identity is in a pass, nor with whom, nor with which samples may depend on its number."""
    identities = np.repeat(np.arange(8), 6)
    meetings, places, rows = np.zeros((8, 8)), np.zeros((8, 6)), np.zeros(48)
    sampler = IdentityBatchSampler(identities, 4, 2, visits_per_epoch=None)
    for epoch in range(400):
        sampler.set_epoch(epoch)
        for number, batch in enumerate(visits_of(sampler, identities)):
            together = list(batch)
            meetings[np.ix_(together, together)] += 1
            places[together, number] += 1
            rows[batch[together[0]]] += 1
    assert (meetings.diagonal() == 1200).all()  # 3 of 6 batches in each epoch
    others = meetings[~np.eye(8, dtype=bool)]
    assert abs(others / (1200 * 3 / 7) - 1).max() < 0.15
    assert abs(places / 200 - 1).max() < 0.3
    assert abs(rows / rows.mean() - 1).max() < 0.5


def test_visits_of_an_identity_are_spread_over_the_pass() -> None:
    middles = []
    sampler = IdentityBatchSampler(IDENTITIES, 3, 2, visits_per_epoch=6)
    for epoch in range(60):
        sampler.set_epoch(epoch)
        places = [number for number, batch in enumerate(visits_of(sampler)) if 3 in batch]
        middles.append(np.mean(places) / (len(sampler) - 1))
    assert 0.42 < np.mean(middles) < 0.58


def test_an_identity_with_few_samples_shows_all_of_them_before_it_repeats_any() -> None:
    (rows,) = list(IdentityBatchSampler([0, 0, 1, 1, 1, 1, 1, 1], identities_per_batch=2, samples_per_identity=5))
    shown = Counter(rows)
    assert sorted(shown[row] for row in (0, 1)) == [2, 3]
    assert sorted(shown[row] for row in range(2, 8)) == [0, 1, 1, 1, 1, 1]


def test_a_data_loader_takes_it_as_batch_sampler() -> None:
    sampler = IdentityBatchSampler(IDENTITIES, 3, 2)
    loader = DataLoader(TensorDataset(torch.from_numpy(IDENTITIES)), batch_sampler=sampler)
    assert [labels.tolist() for (labels,) in loader] == [IDENTITIES[rows].tolist() for rows in sampler]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"identities_per_batch": 14},
            "of 18 identities have two samples or more: set sampler.identities_per_batch=13, or add",
        ),
        ({"identities_per_batch": 1}, "identities_per_batch must be a whole number of 2 or more, got 1"),
        ({"identities_per_batch": 2.5}, r"identities_per_batch must be .*, got 2\.5"),
        ({"samples_per_identity": 1}, "samples_per_identity must be a whole number of 2 or more, got 1"),
        ({"visits_per_epoch": 0}, "visits_per_epoch must be a whole number of 1 or more, got 0"),
        ({"identities": [3, 3, 3]}, "only 1 of 1 identities have two samples or more: add samples"),
        ({"identities": np.zeros(0, dtype=np.int64)}, "only 0 of 0 identities"),
    ],
)
def test_batches_that_cannot_be_filled_are_refused(arguments: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"identities": IDENTITIES, "identities_per_batch": 3, "samples_per_identity": 2}
    with pytest.raises(InputError, match=message):
        IdentityBatchSampler(**settings | arguments)


@pytest.mark.parametrize("ranks", [1, 2])
def test_singles_are_shown_twice_and_all_before_any_comes_again(ranks: int) -> None:
    identities = np.random.default_rng(1).permutation(np.repeat(np.arange(30), [3] * 10 + [1] * 20))
    every = [
        IdentityBatchSampler(identities, 2, 2, batches=12, rank=rank, world_size=ranks, singles_per_batch=4)
        for rank in range(ranks)
    ]
    plain = [IdentityBatchSampler(identities, 2, 2, batches=12, rank=rank, world_size=ranks) for rank in range(ranks)]
    shown: dict[int, list[int]] = {}
    for rank, (sampler, without) in enumerate(zip(every, plain, strict=True)):
        for number, rows, few in zip(sampler.numbers(), sampler, without, strict=True):
            assert rows[:4] == few, rank
            assert rows[4:8] == rows[8:] and len(set(rows[4:8])) == 4
            shown[number] = identities[rows[4:8]].tolist()
    for turn in (range(5), range(5, 10)):
        assert sorted(one for number in turn for one in shown[number]) == list(range(10, 30))
    assert shown[0] != shown[5]
    every[0].set_epoch(1)
    assert identities[next(iter(every[0]))[4:8]].tolist() != shown[0]


def test_more_singles_than_there_are_are_refused() -> None:
    with pytest.raises(InputError, match="singles_per_batch is 6, but only 5 of 18 identities have one sample"):
        IdentityBatchSampler(IDENTITIES, 2, 2, singles_per_batch=6)
    with pytest.raises(InputError, match="singles_per_batch"):
        IdentityBatchSampler(IDENTITIES, 2, 2, singles_per_batch=-1)
