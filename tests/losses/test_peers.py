"""Contrastive and triplet losses, values and gradients, against pytorch-metric-learning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from torch import Tensor

from siamese_verify.losses import BatchObjective, ContrastiveLoss, CosinePairLoss, TripletLoss
from siamese_verify.mining import BatchHard, SemiHard

EUCLIDEAN: Any = distances.LpDistance(normalize_embeddings=False)


class Sum(reducers.BaseReducer):  # type: ignore[misc]
    """Theirs has none over pairs."""

    def pos_pair_reduction(self, values: Tensor, *_: Any) -> Tensor:
        return values.sum()

    neg_pair_reduction = pos_pair_reduction


SHAPES = pytest.mark.parametrize(("count", "people", "dimensions"), [(8, 4, 3), (40, 10, 16), (40, 2, 16), (30, 29, 2)])
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def batch(count: int, people: int, dimensions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count + people)
    embeddings = torch.randn(count, dimensions, dtype=dtype, generator=generator)
    return embeddings.requires_grad_(), torch.randint(people, (count,), generator=generator)


def assert_equal(ours: Tensor, theirs: Tensor, embeddings: Tensor) -> None:
    torch.testing.assert_close(ours, theirs)
    first, second = (torch.autograd.grad(loss, embeddings)[0] for loss in (ours, theirs))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


@SHAPES
@TYPES
def test_contrastive_over_all_pairs(count: int, people: int, dimensions: int, dtype: torch.dtype) -> None:
    embeddings, labels = batch(count, people, dimensions, dtype)
    distance = EUCLIDEAN(embeddings)  # their loss has hinges without a square
    i, j = torch.triu_indices(count, count, 1)
    same = labels[i] == labels[j]
    theirs = distance[i[same], j[same]].square().sum() + (2 - distance[i[~same], j[~same]]).relu().square().sum()
    assert_equal(ContrastiveLoss(2.0, scale=1, reduction="sum")(embeddings, labels), theirs, embeddings)


@SHAPES
@TYPES
@pytest.mark.parametrize("margin", [0.0, 0.4])
def test_cosines_over_all_pairs(count: int, people: int, dimensions: int, dtype: torch.dtype, margin: float) -> None:
    embeddings, labels = batch(count, people, dimensions, dtype)
    peer = losses.ContrastiveLoss(
        pos_margin=1, neg_margin=margin, distance=distances.CosineSimilarity(), reducer=Sum()
    )  # every pair in both orders
    assert_equal(2 * CosinePairLoss(margin, reduction="sum")(embeddings, labels), peer(embeddings, labels), embeddings)


@SHAPES
@TYPES
@pytest.mark.parametrize("squared", [False, True])
def test_triplets_over_all(count: int, people: int, dimensions: int, dtype: torch.dtype, squared: bool) -> None:
    embeddings, labels = batch(count, people, dimensions, dtype)
    distance = distances.LpDistance(normalize_embeddings=False, power=2 if squared else 1)
    peer = losses.TripletMarginLoss(margin=0.5, distance=distance, reducer=reducers.MeanReducer())
    loss: BatchObjective = TripletLoss(0.5, squared=squared)
    assert_equal(loss(embeddings, labels), peer(embeddings, labels), embeddings)


@SHAPES
@TYPES
def test_batch_hard_triplets(count: int, people: int, dimensions: int, dtype: torch.dtype) -> None:
    embeddings, labels = batch(count, people, dimensions, dtype)
    chosen = miners.BatchHardMiner(distance=EUCLIDEAN)(embeddings, labels)
    mined = BatchHard()(embeddings.detach(), labels)
    assert torch.equal(torch.stack(list(mined)), torch.stack(chosen))
    peer = losses.TripletMarginLoss(margin=0.5, distance=EUCLIDEAN, reducer=reducers.MeanReducer())
    assert_equal(TripletLoss(0.5)(embeddings, labels, mined), peer(embeddings, labels, chosen), embeddings)


@SHAPES
@TYPES
def test_semi_hard_negatives_are_the_nearest_of_theirs(
    count: int, people: int, dimensions: int, dtype: torch.dtype
) -> None:
    embeddings, labels = batch(count, people, dimensions, dtype)
    distance = EUCLIDEAN(embeddings.detach())
    anchor, positive, negative = miners.TripletMarginMiner(0.5, type_of_triplets="semihard", distance=EUCLIDEAN)(
        embeddings, labels
    )
    nearest: dict[tuple[int, int], int] = {}
    for a, p, n in zip(anchor.tolist(), positive.tolist(), negative.tolist(), strict=True):
        if (a, p) not in nearest or distance[a, n] < distance[a, nearest[a, p]]:
            nearest[a, p] = n
    mined = SemiHard(0.5)(embeddings.detach(), labels)
    assert {(a, p): n for a, p, n in torch.stack(list(mined), dim=1).tolist()} == nearest
