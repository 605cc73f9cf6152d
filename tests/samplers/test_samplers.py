"""IdentityBatchSampler and HardMiningSampler: what a batch holds, what an epoch covers, what a resumed run draws."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from siamese_verify.errors import InputError
from siamese_verify.miners import SemiHard
from siamese_verify.pairwise import neighbors as neighbours_module
from siamese_verify.pairwise.neighbors import nearest_directions
from siamese_verify.samplers import HardMiningSampler, IdentityBatchSampler

# 11 people with two photos or more (3, 2, 5, 6, ...), 7 with one; rows and numbers in disorder, like files on a disk.
COUNTS = [3, 1, 2, 5, 1, 6, 2, 1, 4, 1, 2, 1, 7, 3, 1, 2, 1, 4]
IDENTITIES = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)) * 10 - 40, COUNTS))
PAIRABLE = {number * 10 - 40 for number, count in enumerate(COUNTS) if count > 1}


def people_of(rows: list[int]) -> Counter[int]:
    return Counter(IDENTITIES[rows].tolist())


def hard(seed: int = 0, **arguments: Any) -> HardMiningSampler:
    sampler = HardMiningSampler(IDENTITIES, people=3, photos=2, singles=2, seed=seed, **arguments)
    sampler.update(torch.randn(len(IDENTITIES), 6, generator=torch.Generator().manual_seed(1)))
    return sampler


def uniform(seed: int = 0, **arguments: Any) -> IdentityBatchSampler:
    return IdentityBatchSampler(IDENTITIES, people=3, photos=2, singles=2, seed=seed, **arguments)


MAKERS = [uniform, hard]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("epoch", range(5))
def test_a_batch_holds_people_with_photos_and_singles(make: Any, epoch: int) -> None:
    sampler = make()
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 4
    for rows in batches:
        assert all(type(row) is int for row in rows)
        assert len(set(rows)) == len(rows) == 3 * 2 + 2  # everyone has two photos: none is repeated
        people = people_of(rows)
        assert sorted(people.values()) == [1, 1, 2, 2, 2]
        assert {person for person, count in people.items() if count == 2} <= PAIRABLE
        assert {person for person, count in people.items() if count == 1}.isdisjoint(PAIRABLE)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("people", [2, 3, 4, 10, 11])
@pytest.mark.parametrize("epoch", range(3))
def test_an_epoch_covers_everyone_before_anyone_comes_again(make: Any, people: int, epoch: int) -> None:
    cls = type(make())
    sampler = cls(IDENTITIES, people=people, photos=2)
    if isinstance(sampler, HardMiningSampler):
        sampler.update(torch.randn(len(IDENTITIES), 6, generator=torch.Generator().manual_seed(1)))
    sampler.set_epoch(epoch)
    turns: Counter[int] = Counter()
    for rows in sampler:
        turns.update(set(people_of(rows)))
    assert set(turns) == PAIRABLE
    assert turns.total() == people * len(sampler)
    assert max(turns.values()) <= 2  # the second turn only fills up the last batch


@pytest.mark.parametrize("make", MAKERS)
def test_more_batches_than_one_round_takes_go_on_fairly(make: Any) -> None:
    turns: Counter[int] = Counter()
    sampler = make(batches=22)
    assert len(sampler) == 22
    for rows in sampler:
        people = people_of(rows)
        assert len(people) == 5
        turns.update(person for person in people if person in PAIRABLE)
    assert set(turns.values()) == {6}  # 22 batches of 3 are 6 rounds of 11


def test_singles_come_in_turn() -> None:
    turns = Counter(person for rows in uniform(batches=7) for person in people_of(rows) if person not in PAIRABLE)
    assert sorted(turns.values()) == [2] * 7


def test_too_few_photos_are_all_used_before_any_is_repeated() -> None:
    identities = [0, 0, 1, 1, 1, 1, 1, 1]
    sampler = IdentityBatchSampler(identities, people=2, photos=5)
    (rows,) = list(sampler)
    photos = Counter(rows)
    assert sorted(photos[row] for row in (0, 1)) == [2, 3]
    assert sorted(photos[row] for row in range(2, 8)) == [0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("make", MAKERS)
def test_batches_depend_on_seed_and_epoch_alone(make: Any) -> None:
    first, second = make(), make()
    list(first)
    assert list(first) == list(second)
    second.set_epoch(1)
    other = list(second)
    assert other != list(first)
    first.set_epoch(1)
    assert list(first) == other
    assert list(make(seed=1)) != list(make(seed=0))


def test_a_hard_sampler_saved_before_its_first_update_loads() -> None:
    sampler = HardMiningSampler(IDENTITIES, people=3, photos=2, seed=3)
    fresh = hard()
    fresh.load_state_dict(sampler.state_dict())
    assert fresh.state_dict()["alike"] is None


@pytest.mark.parametrize("make", MAKERS)
def test_a_data_loader_takes_it_as_batch_sampler(make: Any) -> None:
    sampler = make()
    loader = DataLoader(TensorDataset(torch.from_numpy(IDENTITIES)), batch_sampler=sampler)
    assert len(loader) == len(sampler)
    assert [labels.tolist() for (labels,) in loader] == [IDENTITIES[rows].tolist() for rows in sampler]


def test_hardness_zero_and_no_update_are_uniform() -> None:
    never_updated = HardMiningSampler(IDENTITIES, people=3, photos=2, hardness=1, singles=2)
    for epoch in range(3):
        expected = uniform()
        expected.set_epoch(epoch)
        for sampler in (never_updated, hard(hardness=0.0)):
            sampler.set_epoch(epoch)
            assert list(sampler) == list(expected)


def crowd(groups: int = 12, people: int = 6, photos: int = 4) -> tuple[np.ndarray, torch.Tensor]:
    """Unit embeddings of groups of people who look alike: (N,) identities in disorder, (N, 16)."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(groups, 1, 1, 16, generator=generator)
    person = centre + 0.35 * torch.randn(groups, people, 1, 16, generator=generator)
    photo = person + 0.25 * torch.randn(groups, people, photos, 16, generator=generator)
    order = torch.randperm(groups * people * photos, generator=generator)
    identities = torch.arange(groups * people).repeat_interleave(photos)[order]
    return identities.numpy(), torch.nn.functional.normalize(photo.reshape(-1, 16)[order])


def semi_hard_triplets(sampler: IdentityBatchSampler, identities: np.ndarray, embeddings: torch.Tensor) -> int:
    miner, labels, count = SemiHard(margin=0.2), torch.from_numpy(identities), 0
    for epoch in range(2):
        sampler.set_epoch(epoch)
        count += sum(len(miner(embeddings[rows], labels[rows]).anchor) for rows in sampler)
    return count


def test_hard_batches_hold_more_semi_hard_triplets_than_uniform_ones() -> None:
    identities, embeddings = crowd()
    counts = []
    for hardness in (0.0, 0.5, 1.0):
        sampler = HardMiningSampler(identities, people=6, photos=4, hardness=hardness)
        sampler.update(embeddings)
        counts.append(semi_hard_triplets(sampler, identities, embeddings))
    baseline = semi_hard_triplets(IdentityBatchSampler(identities, people=6, photos=4), identities, embeddings)
    assert counts[0] == baseline
    assert counts[1] > 1.2 * baseline
    assert counts[2] > 1.2 * counts[1]


def test_full_hardness_puts_whole_groups_together() -> None:
    identities, embeddings = crowd()
    sampler = HardMiningSampler(identities, people=6, photos=2, hardness=1.0, neighbours=5)
    sampler.update(embeddings)
    groups = [{int(identities[row]) // 6 for row in rows} for rows in sampler]
    assert sum(len(group) == 1 for group in groups) >= 10  # of 12


def test_singles_are_chosen_near_the_people_of_the_batch() -> None:
    identities = np.array([0, 0, 1, 1, 2, 3, 4, 5])  # 2 ... 5 have one photo
    embeddings = torch.eye(2)[[0, 0, 0, 0, 1, 1, 0, 0]] + 0.01
    sampler = HardMiningSampler(identities, people=2, photos=2, hardness=1.0, singles=2)
    sampler.update(embeddings)
    (rows,) = list(sampler)
    assert sorted(rows[4:]) == [6, 7]


@pytest.mark.parametrize("block", [1, 4, 1024])
def test_neighbours_found_in_blocks_are_those_of_the_whole_matrix(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours_module, "SIDE", block)
    rows = torch.nn.functional.normalize(torch.randn(10, 5, generator=torch.Generator().manual_seed(0)))
    similarity = rows @ rows.T
    assert nearest_directions(rows, rows, 3).tolist() == similarity.argsort(dim=1, descending=True)[:, :3].tolist()
    similarity.fill_diagonal_(-2)
    found = nearest_directions(rows, rows, 99, torch.arange(10))
    assert found.tolist() == similarity.argsort(dim=1, descending=True)[:, :9].tolist()


def test_half_precision_embeddings_serve_for_mining() -> None:
    sampler = hard()
    sampler.update(torch.randn(len(IDENTITIES), 6, generator=torch.Generator().manual_seed(2)).half())
    assert len(list(sampler)) == len(sampler)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (torch.zeros(3, 6), r"each of 47 rows, but got shape \(3, 6\)"),
        (torch.zeros(47), r"shape \(47,\)"),
        (torch.zeros(47, 6).long(), r"type torch\.int64"),
        (torch.full((47, 6), torch.nan), "NaN"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(embeddings: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hard().update(embeddings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"identities": [[0, 1]]}, r"shape \(1, 2\)"),
        ({"identities": [0.0, 1.0]}, "type float64"),
        ({"identities": [3, 3, 3]}, "the 3 rows show 1 different people"),
        ({"identities": np.zeros(0, dtype=np.int64)}, "the 0 rows show 0"),
        ({"people": 12}, "people is 12, but only 11 of 18 people have two photos or more"),
        ({"people": 0}, "people is 0"),
        ({"people": 1}, "1 person holds no impostors"),
        ({"photos": 1}, "photos is 1.*2 or more"),
        ({"singles": 8}, "singles is 8, but only 7 of 18 people have a single photo"),
        ({"batches": 0}, "batches is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"rank": 2, "world_size": 2}, r"rank is 2, but must be in 0 \.\.\. 1"),
        ({"world_size": 0}, "world_size is 0"),
        ({"people": 2.5}, r"people is 2\.5"),
        ({"hardness": 1.5}, "hardness is 1.5"),
        ({"neighbours": 0}, "neighbours is 0"),
        ({"turns": "twice"}, "turns is 'twice', but must be once or photos"),
        ({"cap": 4}, "cap is 4, but limits nothing where everyone has one turn: it needs turns=photos"),
        ({"cap": 1, "turns": "photos"}, "cap is 1, but a turn shows 2 photos"),
        ({"cap": 2.5, "turns": "photos"}, r"cap is 2\.5"),
    ],
)
def test_batches_that_cannot_be_filled_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HardMiningSampler(**{"identities": IDENTITIES, "people": 3, "photos": 2, **arguments})


def test_an_update_within_an_epoch_changes_its_remaining_batches() -> None:
    sampler, untouched = hard(hardness=1.0), list(hard(hardness=1.0))
    running = iter(sampler)
    first = next(running)
    sampler.update(torch.randn(len(IDENTITIES), 6, generator=torch.Generator().manual_seed(9)))
    assert first == untouched[0]
    rest = list(running)
    assert len(rest) == len(untouched) - 1
    assert rest != untouched[1:]
    assert rest == list(sampler)[1:]
