"""HardMiningSampler: seeds, and the identities nearest to them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.miners import SemiHard
from siamese_verify.samplers import HardMiningSampler, IdentityBatchSampler


def grouped_faces(groups: int = 12, people: int = 6, samples: int = 4) -> tuple[np.ndarray, Tensor]:
    """(N,) identities in random order and (N,16) unit embeddings: `people` of each group are close to one another."""
    generator = torch.Generator().manual_seed(0)
    center = torch.randn(groups, 1, 1, 16, generator=generator)
    person = center + 0.35 * torch.randn(groups, people, 1, 16, generator=generator)
    sample = person + 0.25 * torch.randn(groups, people, samples, 16, generator=generator)
    order = torch.randperm(groups * people * samples, generator=generator)
    identities = torch.arange(groups * people).repeat_interleave(samples)[order]
    return identities.numpy(), torch.nn.functional.normalize(sample.reshape(-1, 16)[order])


IDENTITIES, EMBEDDINGS = grouped_faces()


def hard(hardness: float, p: int = 6, epoch: int = 0, embeddings: Tensor = EMBEDDINGS) -> HardMiningSampler:
    sampler = HardMiningSampler(IDENTITIES, p, 4, hardness=hardness)
    sampler.update(embeddings)
    sampler.set_epoch(epoch)
    return sampler


def nearest_impostor(sampler: IdentityBatchSampler) -> float:
    """Cosine of a row with its most similar row of another identity in the batch, on average."""
    found = []
    for rows in sampler:
        cosine = EMBEDDINGS[rows] @ EMBEDDINGS[rows].T
        same = torch.from_numpy(IDENTITIES[rows][:, None] == IDENTITIES[rows])
        found.append(cosine.masked_fill(same, -1).amax(dim=1))
    return float(torch.cat(found).mean())


def semi_hard_triplets(sampler: IdentityBatchSampler) -> float:
    """Semi-hard triplets in a batch, on average."""
    labels = torch.from_numpy(IDENTITIES)
    return float(np.mean([len(SemiHard(margin=0.2)(EMBEDDINGS[rows], labels[rows]).anchor) for rows in sampler]))


def test_the_nearest_impostors_of_a_batch_are_nearer_than_in_random_batches() -> None:
    random = IdentityBatchSampler(IDENTITIES, 6, 4)
    assert nearest_impostor(hard(0.5)) > nearest_impostor(random) + 0.1
    assert nearest_impostor(hard(1.0)) > nearest_impostor(hard(0.5))
    assert semi_hard_triplets(hard(0.5)) > 1.2 * semi_hard_triplets(random)


@pytest.mark.parametrize(("hardness", "seeds"), [(0.0, 6), (0.5, 3), (0.8, 1), (1.0, 1)])
@pytest.mark.parametrize("epoch", range(2))
def test_every_identity_is_a_seed_once_in_an_epoch(hardness: float, seeds: int, epoch: int) -> None:
    sampler = hard(hardness, epoch=epoch)
    assert len(sampler) == 72 // seeds
    batches = [IDENTITIES[rows[::4]].tolist() for rows in sampler]
    assert Counter(identity for batch in batches for identity in batch[:seeds]) == dict.fromkeys(range(72), 1)
    assert all(len(set(batch)) == 6 for batch in batches)


def test_the_neighbors_of_the_seeds_come_nearest_first() -> None:
    labels = torch.from_numpy(IDENTITIES)
    means = torch.stack([EMBEDDINGS[labels == identity].double().mean(0) for identity in range(72)])
    cosine = torch.nn.functional.normalize(means) @ torch.nn.functional.normalize(means).T
    order = cosine.fill_diagonal_(-2).argsort(dim=1, descending=True)
    for rows in hard(0.5):
        batch = IDENTITIES[rows[::4]].tolist()
        wanted = dict.fromkeys(batch[:3])
        for rank in range(5):
            wanted |= dict.fromkeys(int(order[seed, rank]) for seed in batch[:3])
        assert batch == list(wanted)[:6]


def test_hardness_zero_is_random_and_so_is_a_sampler_before_its_first_update() -> None:
    random = IdentityBatchSampler(IDENTITIES, 6, 4)
    assert list(hard(0.0)) == list(random)
    before = HardMiningSampler(IDENTITIES, 6, 4, hardness=0.5)
    assert all(len(set(IDENTITIES[rows].tolist())) == 6 for rows in before)
    assert nearest_impostor(before) == pytest.approx(nearest_impostor(random), abs=0.05)


def test_an_update_within_an_epoch_is_effective_from_the_next_batch_on() -> None:
    sampler, old, new = hard(1.0), list(hard(1.0)), list(hard(1.0, embeddings=EMBEDDINGS.flip(0)))
    running = iter(sampler)
    first = next(running)
    sampler.update(EMBEDDINGS.flip(0))
    assert [first, *running] == [old[0], *new[1:]]


def test_samples_of_identities_with_one_sample_do_not_come() -> None:
    identities = np.array([0, 0, 1, 1, 2, 3, 3, 4])
    sampler = HardMiningSampler(identities, 2, 2, hardness=1.0)
    sampler.update(torch.eye(2)[[0, 0, 0, 0, 0, 1, 1, 1]])
    assert {identity for rows in sampler for identity in identities[rows].tolist()} == {0, 1, 3}


def test_half_precision_embeddings_serve_for_mining() -> None:
    assert list(hard(0.5, embeddings=EMBEDDINGS.half())) == list(hard(0.5, embeddings=EMBEDDINGS.half().float()))


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (torch.zeros(3, 6), r"each of 288 rows, got a tensor of shape \(3, 6\)"),
        (torch.zeros(288), r"shape \(288,\)"),
        (torch.zeros(288, 6).long(), r"type torch\.int64"),
        (torch.full((288, 6), torch.nan), "NaN or infinity: lower the learning rate"),
        (torch.full((288, 6), torch.inf), "NaN or infinity"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(embeddings: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hard(0.5).update(embeddings)


@pytest.mark.parametrize("hardness", [-0.1, 1.1, float("nan")])
def test_a_hardness_that_is_not_a_share_is_refused(hardness: float) -> None:
    with pytest.raises(InputError, match=f"hardness must be a share in 0 ... 1, got {hardness}"):
        HardMiningSampler(IDENTITIES, 6, 4, hardness=hardness)
