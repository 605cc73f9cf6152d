"""Random draws of pairs and of triplets: fixed by seed, epoch and position, and dealt out to the ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from siamese_verify.data import PairSampler, TripletSampler
from siamese_verify.data.draw import Draw, People, RandomDraws
from siamese_verify.errors import InputError

COUNTS = [4, 1, 2, 7, 1, 3]
IDENTITIES = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)) * 5 - 7, COUNTS))


def sampler(
    kind: str, seed: int = 0, epoch: int = 0, rank: int = 0, world_size: int = 1, batches: int = 12
) -> RandomDraws:
    made: RandomDraws
    if kind == "pairs":
        made = PairSampler(IDENTITIES, pairs=4, batches=batches, seed=seed, rank=rank, world_size=world_size)
    else:
        made = TripletSampler(IDENTITIES, triplets=4, batches=batches, seed=seed, rank=rank, world_size=world_size)
    made.set_epoch(epoch)
    return made


def rows(draws: RandomDraws) -> list[list[int]]:
    return [draw.rows for draw in draws]


@pytest.mark.parametrize("kind", ["pairs", "triplets"])
def test_equal_seeds_and_epochs_draw_the_same_and_others_do_not(kind: str) -> None:
    first = rows(sampler(kind, seed=3, epoch=2))
    assert first == rows(sampler(kind, seed=3, epoch=2))
    assert first != rows(sampler(kind, seed=4, epoch=2))
    assert first != rows(sampler(kind, seed=3, epoch=3))
    assert first != rows(sampler(kind, seed=2, epoch=3))


@pytest.mark.parametrize("kind", ["pairs", "triplets"])
def test_a_second_iteration_of_an_epoch_draws_the_same(kind: str) -> None:
    draws = sampler(kind)
    assert rows(draws) == rows(draws)


@pytest.mark.parametrize("kind", ["pairs", "triplets"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_out_what_one_process_would_draw(kind: str, world_size: int) -> None:
    alone = rows(sampler(kind))
    ranks = [rows(sampler(kind, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert [batch for turn in zip(*ranks, strict=True) for batch in turn] == alone
    assert len({tuple(batch) for batch in alone}) == len(alone)


@pytest.mark.parametrize("kind", ["pairs", "triplets"])
@pytest.mark.parametrize(("batches", "world_size", "each"), [(12, 1, 12), (12, 5, 2), (1, 4, 1)])
def test_every_rank_gets_as_many_batches(kind: str, batches: int, world_size: int, each: int) -> None:
    for rank in range(world_size):
        draws = sampler(kind, rank=rank, world_size=world_size, batches=batches)
        assert len(draws) == len(list(draws)) == each


def test_an_epoch_reads_as_many_photos_as_there_are_unless_told_otherwise() -> None:
    identities = np.repeat(np.arange(50), 4)
    assert len(PairSampler(identities, pairs=10)) == 200 // 20
    assert len(TripletSampler(identities, triplets=10)) == 200 // 30
    assert len(TripletSampler(identities, triplets=1000)) == 1


def test_a_draw_is_told_apart_from_a_plain_list_of_rows() -> None:
    assert all(isinstance(draw, Draw) for draw in sampler("pairs"))


def test_people_with_two_photos_are_drawn_evenly_however_many_they_have() -> None:
    people, rng = People(IDENTITIES), np.random.default_rng(0)
    drawn: Counter[int] = Counter()
    for _ in range(4000):
        person, first, second = people.genuine(rng)
        assert first != second
        assert IDENTITIES[first] == IDENTITIES[second] == people.people[person]
        drawn[int(IDENTITIES[first])] += 1
    repeated = {number * 5 - 7 for number, count in enumerate(COUNTS) if count > 1}
    assert set(drawn) == repeated
    assert min(drawn.values()) > 0.85 * 4000 / len(repeated)


def test_strangers_are_drawn_evenly_from_all_other_people() -> None:
    people, rng = People(IDENTITIES), np.random.default_rng(0)
    for person, identity in enumerate(people.people):
        drawn = Counter(int(IDENTITIES[people.other(rng, person)]) for _ in range(1000))
        assert set(drawn) == set(people.people.tolist()) - {int(identity)}
        assert min(drawn.values()) > 150


@pytest.mark.parametrize("kind", [PairSampler, TripletSampler])
@pytest.mark.parametrize(
    ("identities", "reason"),
    [
        ([5, 5, 5], "3 photos of 1 people give no impostors"),
        ([1, 2, 3, 4], "4 photos of 4 people give no genuine pair"),
        ([], "0 photos of 0 people give no impostors"),
    ],
)
def test_people_without_pairs_are_refused(
    kind: type[PairSampler] | type[TripletSampler], identities: list[int], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        kind(np.array(identities, dtype=np.int64))
