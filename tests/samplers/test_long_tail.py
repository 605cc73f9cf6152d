"""turns="photos": everyone has the turns that his photos take, counted one by one; `cap` limits them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from siamese_verify.samplers import HardMiningSampler, IdentityBatchSampler

COUNTS = [3, 1, 2, 25, 1, 6, 2, 1, 4, 1, 2, 13, 7, 3, 1, 2, 9, 4]  # one has a third of the photos
IDENTITIES = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)), COUNTS))
PAIRABLE = [person for person, count in enumerate(COUNTS) if count > 1]


def uniform(identities: np.ndarray = IDENTITIES, people: int = 3, photos: int = 2, **more: Any) -> IdentityBatchSampler:
    return IdentityBatchSampler(identities, people, photos, turns="photos", **more)


def hard(identities: np.ndarray = IDENTITIES, people: int = 3, photos: int = 2, **more: Any) -> HardMiningSampler:
    sampler = HardMiningSampler(identities, people, photos, hardness=0.7, turns="photos", **more)
    sampler.update(torch.randn(len(identities), 6, generator=torch.Generator().manual_seed(1)))
    return sampler


MAKERS = pytest.mark.parametrize("make", [uniform, hard])


def turns_of(sampler: IdentityBatchSampler) -> list[list[tuple[int, ...]]]:
    """The photos of each turn, batch by batch."""
    size = sampler.photos
    return [[tuple(rows[at : at + size]) for at in range(0, len(rows), size)] for rows in sampler]


@MAKERS
@pytest.mark.parametrize("cap", [None, 2, 3, 8, 1000])
@pytest.mark.parametrize("photos", [2, 3])
@pytest.mark.parametrize("epoch", range(3))
def test_everyone_has_the_turns_that_his_photos_take(make: Any, cap: int | None, photos: int, epoch: int) -> None:
    if cap is not None:
        cap = max(cap, photos)
    sampler = make(photos=photos, cap=cap)
    sampler.set_epoch(epoch)
    batches = turns_of(sampler)
    counted = [min(count, cap or count) for count in COUNTS]
    due = [-(-counted[person] // photos) for person in PAIRABLE]
    assert len(batches) == len(sampler) == -(-sum(due) // 3)
    spare = 3 * len(batches) - sum(due)  # turns that fill up all batches
    turns = Counter(int(IDENTITIES[turn[0]]) for batch in batches for turn in batch)
    assert all(0 <= turns[person] - least <= 1 for person, least in zip(PAIRABLE, due, strict=True))
    assert turns.total() == sum(due) + spare

    for person, least in zip(PAIRABLE, due, strict=True):
        own = [turn for batch in batches for turn in batch if IDENTITIES[turn[0]] == person]
        rows = [row for turn in own for row in turn]
        assert all(IDENTITIES[row] == person for row in rows)
        assert len(set(rows)) == counted[person]
        assert all(len(set(turn)) == min(photos, counted[person]) for turn in own)
        shown = [row for turn in own[:least] for row in turn]
        assert len(set(shown)) == counted[person]
        assert len(set(shown[: counted[person]])) == counted[person]  # repeats only fill up the last turn


@MAKERS
@pytest.mark.parametrize("people", [2, 3, 5])
@pytest.mark.parametrize("epoch", range(3))
def test_nobody_is_in_a_batch_twice(make: Any, people: int, epoch: int) -> None:
    sampler = make(people=people, cap=10)  # 5 turns at most
    sampler.set_epoch(epoch)
    assert len(sampler) >= 5
    for batch in turns_of(sampler):
        assert len({int(IDENTITIES[turn[0]]) for turn in batch}) == people


@MAKERS
def test_who_has_more_turns_than_there_are_batches_is_in_all_of_them(make: Any) -> None:
    identities = np.repeat(np.arange(4), [40, 2, 2, 2])
    batches = turns_of(make(identities))
    assert len(batches) == 8  # for 23 turns, 20 of them of one person
    times = [sum(identities[turn[0]] == 0 for turn in batch) for batch in batches]
    assert set(times) == {2, 3}
    assert {row for batch in batches for turn in batch for row in turn} == set(range(46))


def test_capped_photos_are_drawn_anew_in_each_epoch() -> None:
    sampler, drawn = uniform(cap=4), []
    largest = [row for row, person in enumerate(IDENTITIES) if COUNTS[person] == 25]
    for epoch in range(40):
        sampler.set_epoch(epoch)
        drawn.append({row for rows in sampler for row in rows} & set(largest))
    assert {len(rows) for rows in drawn} == {4}
    assert set().union(*drawn) == set(largest)  # but for 25 * (21 / 25) ** 40


@MAKERS
@pytest.mark.parametrize("batches", [1, 4, 9])
def test_fewer_batches_leave_out_turns_at_random(make: Any, batches: int) -> None:
    due = Counter({person: -(-COUNTS[person] // 2) for person in PAIRABLE})
    seen: set[int] = set()
    for epoch in range(30):
        sampler = make(batches=batches)
        sampler.set_epoch(epoch)
        turns = Counter(int(IDENTITIES[turn[0]]) for batch in turns_of(sampler) for turn in batch)
        assert turns.total() == 3 * batches
        assert turns <= due
        assert max(turns.values()) <= batches
        seen |= set(turns)
    assert seen == set(PAIRABLE)


@MAKERS
def test_more_batches_give_everyone_his_turns_again(make: Any) -> None:
    due = Counter({person: -(-COUNTS[person] // 2) for person in PAIRABLE})
    (first,) = {len(make())}
    turns = Counter(int(IDENTITIES[turn[0]]) for batch in turns_of(make(batches=2 * first + 3)) for turn in batch)
    assert all(2 * due[person] <= turns[person] <= 3 * due[person] for person in PAIRABLE)


def test_turns_are_spread_over_the_epoch() -> None:
    """Whoever has many turns has them neither at the beginning nor at the end."""
    middles = []
    for epoch in range(30):
        sampler = uniform(cap=12)
        sampler.set_epoch(epoch)
        places = [n for n, batch in enumerate(turns_of(sampler)) for turn in batch if COUNTS[IDENTITIES[turn[0]]] == 25]
        middles.append(np.mean(places) / (len(sampler) - 1))
    assert 0.4 < np.mean(middles) < 0.6


@MAKERS
def test_singles_come_along(make: Any) -> None:
    sampler = make(singles=2)
    for rows in sampler:
        assert len(rows) == 3 * 2 + 2
        assert all(COUNTS[IDENTITIES[row]] == 1 for row in rows[-2:])
        assert len(set(rows[-2:])) == 2
    singles = Counter(row for rows in sampler for row in rows[-2:])
    assert len(singles) == COUNTS.count(1)
    assert max(singles.values()) - min(singles.values()) <= 1


def test_hard_turns_bring_confusable_people_together() -> None:
    identities = np.repeat(np.arange(60), np.tile([12, 4, 2], 20))
    embeddings = torch.eye(20)[torch.from_numpy(identities) // 3]  # three people look alike
    together = []
    for hardness in (0.0, 1.0):
        sampler = HardMiningSampler(identities, 3, 2, hardness, neighbours=2, turns="photos")
        sampler.update(embeddings)
        together.append(sum(len({int(identities[row]) // 3 for row in rows}) == 1 for rows in sampler))
    assert together[0] <= 3
    assert together[1] >= 15  # of 20 groups, each of which can be together once
