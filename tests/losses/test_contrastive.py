"""ContrastiveLoss and CosinePairLoss against reference values, naive loops, torch and gradcheck."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from siamese_verify.errors import InputError
from siamese_verify.losses import ContrastiveLoss, CosinePairLoss, contrastive_loss, cosine_pair_loss
from siamese_verify.losses.contrastive import PairDistance
from siamese_verify.miners import AllPairs
from siamese_verify.structures import Pairs, Triplets
from tests.losses.conftest import batch, gradient

DISTANCES = pytest.mark.parametrize("distance", ["euclidean", "cosine"])


def naive_items(
    embeddings: Tensor, pairs: list[tuple[int, int, bool]], margin: float, distance: str, scale: float = 0.5
) -> Tensor:
    rows = embeddings.tolist()
    items = []
    for i, j, same in pairs:
        if distance == "euclidean":
            d = math.dist(rows[i], rows[j])
        else:
            dot = math.fsum(x * y for x, y in zip(rows[i], rows[j], strict=True))
            d = 1 - dot / (math.hypot(*rows[i]) * math.hypot(*rows[j]))
        items.append(scale * (d**2 if same else max(0.0, margin - d) ** 2))
    return torch.tensor(items, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("contrastive margin=1 euclidean scale=1/2 (raw embeddings)", ContrastiveLoss(1)),
        ("contrastive margin=3 euclidean scale=1/2 (raw embeddings)", ContrastiveLoss(3)),
        ("contrastive margin=3 euclidean scale=1 (raw embeddings)", ContrastiveLoss(3, scale=1)),
        ("contrastive margin=0.5 cosine scale=1/2", ContrastiveLoss(0.5, distance="cosine")),
        ("cosine margin=0", CosinePairLoss(0)),
    ],
)
def test_reference_values_are_met(reference: Any, name: str, loss: ContrastiveLoss | CosinePairLoss) -> None:
    rows = reference["pairs"]
    pairs = Pairs(torch.tensor(rows["anchor_rows"]), torch.tensor(rows["other_rows"]), torch.tensor(rows["same"]))
    embeddings = torch.tensor(reference["embeddings"], dtype=torch.float64)
    value = loss(embeddings, torch.tensor(reference["labels_two_views"]), pairs)
    assert value.item() == pytest.approx(reference["values"][name], abs=1e-12)


@DISTANCES
@pytest.mark.parametrize("margin", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_all_pairs_agree_with_a_naive_loop(distance: PairDistance, margin: float, scale: float) -> None:
    embeddings, labels = batch()
    pairs = [(i, j, bool(labels[i] == labels[j])) for i in range(9) for j in range(i + 1, 9)]
    expected = naive_items(embeddings, pairs, margin, distance, scale)
    loss = ContrastiveLoss(margin, distance, scale)
    torch.testing.assert_close(loss.items(embeddings, labels), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss(embeddings, labels), expected.mean(), rtol=0, atol=1e-12)
    tuples = AllPairs()(embeddings, labels)
    torch.testing.assert_close(loss.items(embeddings, labels, tuples), expected, rtol=0, atol=1e-12)


@DISTANCES
def test_given_pairs_and_triplets_agree_with_a_naive_loop(distance: PairDistance) -> None:
    embeddings, labels = batch(40)
    tuples = Pairs(torch.tensor([3, 0, 7]), torch.tensor([39, 1, 10]), torch.tensor([True, False, True]))
    expected = naive_items(embeddings, [(3, 39, True), (0, 1, False), (7, 10, True)], 2.0, distance)
    items = ContrastiveLoss(2.0, distance).items(embeddings, labels, tuples)
    torch.testing.assert_close(items, expected, rtol=0, atol=1e-12)
    triplets = Triplets(torch.tensor([0, 4]), torch.tensor([3, 1]), torch.tensor([2, 8]))
    taken_apart = [(0, 3, True), (4, 1, True), (0, 2, False), (4, 8, False)]
    items = ContrastiveLoss(3.0, distance).items(embeddings, labels, triplets)
    torch.testing.assert_close(items, naive_items(embeddings, taken_apart, 3.0, distance), rtol=0, atol=1e-12)


@pytest.mark.parametrize("margin", [-0.5, 0.0, 0.3])
@pytest.mark.parametrize("count", [11, 600])
def test_cosine_pairs_are_torchs_cosine_embedding_loss(margin: float, count: int) -> None:
    embeddings, labels = batch(count, size=4)
    embeddings.requires_grad_()
    i, j = torch.triu_indices(count, count, 1)
    target = torch.where(labels[i] == labels[j], 1, -1)
    expected = F.cosine_embedding_loss(embeddings[i], embeddings[j], target, margin)
    value = CosinePairLoss(margin)(embeddings, labels)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, embeddings), gradient(expected, embeddings))


@pytest.mark.parametrize(
    "loss",
    [ContrastiveLoss(2.5), ContrastiveLoss(0.9, "cosine"), CosinePairLoss(0.1)],
    ids=["euclidean", "cosine", "pair"],
)
@pytest.mark.parametrize("tuples", [None, Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([False]))])
def test_gradient_is_right_with_identical_and_opposite_embeddings(
    loss: ContrastiveLoss | CosinePairLoss, tuples: Pairs | None
) -> None:
    embeddings, labels = batch(6, identities=2, seed=1)
    embeddings[1] = embeddings[0]  # an impostor pair
    embeddings[4] = embeddings[2]  # a genuine pair
    embeddings[5] = -embeddings[3]
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, tuples), embeddings.requires_grad_())


@DISTANCES
def test_identical_embeddings_cost_half_the_squared_margin_as_impostors(distance: PairDistance) -> None:
    embeddings = torch.ones(4, 3, requires_grad=True)
    loss = ContrastiveLoss(0.8, distance)
    value = loss(embeddings, torch.arange(4))
    assert value.item() == pytest.approx(0.5 * 0.8**2, rel=1e-5) == pytest.approx(loss.collapsed_loss, rel=1e-5)
    assert gradient(value, embeddings).isfinite().all()


def test_near_identical_unit_vectors_keep_their_distance_in_single_precision() -> None:
    first = F.normalize(torch.randn(1, 512, generator=torch.Generator().manual_seed(0)))
    rows = torch.cat([first, first + 1e-6])  # |a|^2 + |b|^2 - 2ab would be off by more than the distance
    exact = math.dist(*rows.double().tolist())
    loss = ContrastiveLoss(scale=1)
    for value in (loss.items(rows, torch.tensor([0, 0])), loss(rows, torch.tensor([0, 0]))):
        assert value.sqrt().item() == pytest.approx(exact, rel=1e-4)


def test_a_row_of_zeros_is_at_cosine_distance_one_with_a_finite_gradient() -> None:
    embeddings = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    value = ContrastiveLoss(distance="cosine", scale=1)(embeddings, torch.tensor([5, 5]))
    assert value.item() == 1
    assert gradient(value, embeddings).abs().max() < 10


def test_the_pure_functions_follow_their_formulas() -> None:
    items = contrastive_loss(torch.tensor([0.5, 0.5, 2.0]), torch.tensor([True, False, False]), margin=1.5)
    assert items.tolist() == [0.125, 0.5, 0.0]
    items = cosine_pair_loss(torch.tensor([0.9, 0.9, 0.1, 1.0000001]), torch.tensor([True, False, False, True]), 0.25)
    torch.testing.assert_close(items, torch.tensor([0.1, 0.65, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (ContrastiveLoss, {"margin": -0.1}, r"margin is -0\.1"),
        (ContrastiveLoss, {"margin": math.nan}, "margin is nan"),
        (ContrastiveLoss, {"distance": "manhattan"}, "distance is 'manhattan'.*euclidean, cosine"),
        (ContrastiveLoss, {"scale": 0}, "scale is 0"),
        (ContrastiveLoss, {"reduction": "median"}, "reduction is 'median'.*mean, mean_nonzero, sum, none"),
        (CosinePairLoss, {"margin": 1.5}, r"margin is 1\.5"),
        (CosinePairLoss, {"margin": -1.1}, r"margin is -1\.1"),
        (CosinePairLoss, {"margin": math.nan}, "margin is nan"),
    ],
)
def test_an_argument_out_of_range_is_named(kind: Any, arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**arguments)
