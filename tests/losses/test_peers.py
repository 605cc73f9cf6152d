"""Losses and miners, values and gradients, against and together with those of pytorch-metric-learning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices
from torch import Tensor, nn

from siamese_verify.losses import (
    BatchLoss,
    ContrastiveLoss,
    CosinePairLoss,
    InBatchNegatives,
    InfoNCELoss,
    NTXentLoss,
    SupConLoss,
    TripletLoss,
)
from siamese_verify.miners import AllPairs, BatchHard, HardPairs, SemiHard
from siamese_verify.structures import Pairs
from siamese_verify.training.loss_over_ranks import pml_tuples

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
    loss: BatchLoss = TripletLoss(0.5, squared=squared)
    assert_equal(loss(embeddings, labels), peer(embeddings, labels), embeddings)


@SHAPES
@TYPES
def test_batch_hard_triplets(count: int, people: int, dimensions: int, dtype: torch.dtype) -> None:
    embeddings, labels = batch(count, people, dimensions, dtype)
    chosen = miners.BatchHardMiner(distance=EUCLIDEAN)(embeddings, labels)
    tuples = BatchHard()(embeddings.detach(), labels)
    assert torch.equal(torch.stack(list(tuples)), torch.stack(chosen))
    peer = losses.TripletMarginLoss(margin=0.5, distance=EUCLIDEAN, reducer=reducers.MeanReducer())
    assert_equal(TripletLoss(0.5)(embeddings, labels, tuples), peer(embeddings, labels, chosen), embeddings)


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
    tuples = SemiHard(0.5)(embeddings.detach(), labels)
    assert {(a, p): n for a, p, n in torch.stack(list(tuples), dim=1).tolist()} == nearest


# Pairs over the border between the two libraries

LOOKING_AT_ANCHORS = [
    *("AngularLoss", "CircleLoss", "ContrastiveLoss", "FastAPLoss", "GeneralizedLiftedStructureLoss", "HistogramLoss"),
    *("IntraPairVarianceLoss", "LiftedStructureLoss", "MarginLoss", "MultiSimilarityLoss", "NCALoss", "NTXentLoss"),
    *("SignalToNoiseRatioContrastiveLoss", "SupConLoss", "TripletMarginLoss", "TupletMarginLoss"),
]


def directions(count: int = 24, people: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return nn.functional.normalize(torch.randn(count, 8, generator=generator)).double(), torch.arange(count) % people


@pytest.mark.parametrize("name", LOOKING_AT_ANCHORS)
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_our_pairs_feed_their_losses(name: str) -> None:
    embeddings, labels = directions()
    loss = getattr(losses, name)()
    torch.testing.assert_close(
        loss(embeddings, labels, pml_tuples(AllPairs()(embeddings, labels), len(labels))), loss(embeddings, labels)
    )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    values = [
        loss(rows, people, pml_tuples(HardPairs(2)(rows, people), len(people)))
        for rows, people in ((embeddings, labels), (embeddings[order], labels[order]))
    ]
    torch.testing.assert_close(*values, msg="the order of the batch matters")


def test_a_pair_that_is_named_twice_is_handed_over_once() -> None:
    pairs = Pairs(torch.tensor([0, 1, 0, 2]), torch.tensor([1, 0, 1, 3]), torch.tensor([True, True, True, False]))
    given = pml_tuples(pairs, 4)
    assert given is not None
    assert [field.tolist() for field in given] == [[0, 1], [1, 0], [2, 3], [3, 2]]


@pytest.mark.parametrize("name", ["MultiSimilarityMiner", "PairMarginMiner", "BatchEasyHardMiner", "HDCMiner"])
def test_pairs_of_their_miners_feed_ours_as_theirs(name: str) -> None:
    embeddings, labels = directions()
    embeddings.requires_grad_()
    tuples = getattr(miners, name)()(embeddings.detach(), labels)
    assert_equal(
        SupConLoss(0.1)(embeddings, labels, tuples), losses.SupConLoss(0.1)(embeddings, labels, tuples), embeddings
    )
    ours = InBatchNegatives(InfoNCELoss(0.1))(embeddings, labels, tuples)
    assert_equal(ours, losses.NTXentLoss(0.1)(embeddings, labels, tuples), embeddings)
    i, j, same = (torch.cat([tuples[0], tuples[2]]), torch.cat([tuples[1], tuples[3]]), len(tuples[0]))
    distance = (embeddings[i] - embeddings[j]).norm(dim=1)
    expected = distance[:same].square().sum() + (1 - distance[same:]).relu().square().sum()
    assert_equal(ContrastiveLoss(scale=1, reduction="sum")(embeddings, labels, tuples), expected, embeddings)


@pytest.mark.parametrize("loss", [NTXentLoss(0.1), SupConLoss(0.1), InBatchNegatives(InfoNCELoss(0.1))])
def test_all_pairs_in_whichever_order_and_number_are_everything(loss: BatchLoss) -> None:
    embeddings, labels = directions()
    expected = loss(embeddings, labels)
    torch.testing.assert_close(loss(embeddings, labels, get_all_pairs_indices(labels)), expected)
    once = AllPairs()(embeddings, labels)
    back = Pairs(once.other, once.anchor, once.same)
    for pairs in (once, back, Pairs(*map(torch.cat, zip(once, back, once, strict=True)))):
        torch.testing.assert_close(loss(embeddings, labels, pairs), expected)
