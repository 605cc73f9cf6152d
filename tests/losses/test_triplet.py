"""TripletLoss against reference values, a naive loop, and torch's gradcheck."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.losses import TripletLoss, soft_triplet_loss, triplet_loss
from siamese_verify.structures import Pairs, Triplets

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "objectives.json"


@pytest.fixture(scope="module")
def reference() -> Any:
    if not REFERENCE.exists():
        pytest.skip(f"reference values are missing: {REFERENCE}")
    return json.loads(REFERENCE.read_text())


def batch(labels: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(labels), 5, dtype=torch.float64, generator=generator), torch.tensor(labels)


def naive_triplets(labels: list[int]) -> list[tuple[int, int, int]]:
    rows = range(len(labels))
    return [
        (a, p, n)
        for a in rows
        for p in rows
        for n in rows
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]


def naive_items(
    embeddings: Tensor, triplets: list[tuple[int, int, int]], margin: float, squared: bool, soft: bool
) -> Tensor:
    rows = embeddings.tolist()
    items = []
    for a, p, n in triplets:
        positive, negative = math.dist(rows[a], rows[p]), math.dist(rows[a], rows[n])
        if squared:
            positive, negative = positive**2, negative**2
        difference = positive - negative
        items.append(math.log1p(math.exp(difference)) if soft else max(0.0, difference + margin))
    return torch.tensor(items, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("triplet margin=0.2 euclidean (raw embeddings)", TripletLoss(0.2)),
        ("triplet margin=0.2 squared (raw embeddings)", TripletLoss(0.2, squared=True)),
        ("triplet soft margin euclidean (raw embeddings)", TripletLoss(soft=True)),
    ],
)
def test_reference_values_are_met(reference: Any, name: str, loss: TripletLoss) -> None:
    rows = reference["triplet_rows"]
    triplets = Triplets(*(torch.tensor(rows[field]) for field in ("anchor", "positive", "negative")))
    embeddings = torch.tensor(reference["embeddings"], dtype=torch.float64)
    value = loss(embeddings, torch.tensor(reference["labels_many"]), triplets)
    assert value.item() == pytest.approx(reference["values"][name], abs=1e-12)


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1, 1, 2, 2], [7, -1, 7, -1, 3], [0, 1, 1, 0, 0, 0, 0, 0, 0]])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_all_triplets_agree_with_a_naive_loop(labels: list[int], squared: bool, soft: bool, margin: float) -> None:
    embeddings, identities = batch(labels)
    triplets = naive_triplets(labels)
    expected = naive_items(embeddings, triplets, margin, squared, soft)
    loss = TripletLoss(margin, squared, soft)
    torch.testing.assert_close(loss.items(embeddings, identities), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss(embeddings, identities), expected.mean(), rtol=0, atol=1e-12)
    tuples = Triplets(*torch.tensor(triplets).unbind(dim=1))
    torch.testing.assert_close(loss.items(embeddings, identities, tuples), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("squared", [False, True])
def test_few_triplets_of_many_rows_agree_with_a_naive_loop(squared: bool) -> None:
    embeddings, labels = batch([0, 1] * 20)
    triplets = [(0, 38, 1), (5, 7, 20)]
    items = TripletLoss(1.0, squared).items(embeddings, labels, Triplets(*torch.tensor(triplets).unbind(dim=1)))
    torch.testing.assert_close(items, naive_items(embeddings, triplets, 1.0, squared, False), rtol=0, atol=1e-12)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("tuples", [None, Triplets(torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))])
def test_gradient_is_right_with_identical_embeddings_too(squared: bool, soft: bool, tuples: Triplets | None) -> None:
    embeddings, labels = batch([0, 0, 1, 1, 2], seed=3)
    embeddings[1] = embeddings[0]  # a genuine pair
    embeddings[4] = embeddings[2]  # an impostor pair
    loss = TripletLoss(0.7, squared, soft)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, tuples), embeddings.requires_grad_())


@pytest.mark.parametrize("tuples", [None, Triplets(*torch.tensor([[0, 1, 2]]).T)])
@pytest.mark.parametrize(("soft", "expected"), [(False, 0.25), (True, math.log(2))])
def test_a_collapsed_encoder_costs_exactly_the_margin(tuples: Triplets | None, soft: bool, expected: float) -> None:
    embeddings = torch.ones(4, 3, requires_grad=True)
    value = TripletLoss(0.25, soft=soft)(embeddings, torch.tensor([0, 0, 1, 1]), tuples)
    value.backward()
    assert value.item() == pytest.approx(expected)
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


@pytest.mark.parametrize("labels", [[], [4], [4, 4, 4], [1, 2, 3]], ids=["none", "one", "no negative", "no positive"])
@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum"])
@pytest.mark.parametrize("soft", [False, True])
def test_a_batch_without_triplets_gives_zero_connected_to_the_embeddings(
    labels: list[int], reduction: Any, soft: bool
) -> None:
    embeddings = torch.ones(len(labels), 3, requires_grad=True)
    value = TripletLoss(soft=soft, reduction=reduction)(embeddings, torch.tensor(labels, dtype=torch.int64))
    value.backward()
    assert value.item() == 0
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("squared", [False, True])
def test_half_precision_is_computed_in_single_and_returned_in_its_own(dtype: torch.dtype, squared: bool) -> None:
    embeddings, labels = batch([0, 0, 1, 1, 2, 2])
    half = embeddings.to(dtype).requires_grad_()
    loss = TripletLoss(1.0, squared)
    value = loss(half, labels)
    value.backward()
    assert value.dtype == dtype
    assert half.grad is not None
    assert half.grad.isfinite().all()
    assert value == loss(half.detach().float(), labels).to(dtype)


def test_the_soft_form_stays_exact_and_finite_far_from_zero() -> None:
    near, far = torch.tensor([0.0, 30.0, 1000.0], dtype=torch.float64), torch.tensor([1000.0, 0.0, 0.0]).double()
    items = soft_triplet_loss(near.requires_grad_(), far)
    torch.autograd.backward(items.sum())
    assert items.tolist() == pytest.approx([0.0, math.log1p(math.exp(30)), 1000.0], abs=1e-15)
    assert near.grad is not None
    assert near.grad.tolist() == pytest.approx([0.0, 1.0, 1.0])


def test_the_pure_function_broadcasts() -> None:
    items = triplet_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 3.0]), margin=0.5)
    assert items.tolist() == [[0.5, 0.0], [1.5, 0.0]]


def test_pairs_are_refused_with_the_way_out() -> None:
    pairs = Pairs(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([True, False]))
    with pytest.raises(InputError, match="given 2 pairs: feed triplets, or let a miner"):
        TripletLoss()(torch.ones(4, 3), torch.arange(4), pairs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"margin": -1}, "margin is -1"), ({"reduction": "max"}, "reduction is 'max'")],
)
def test_an_argument_out_of_range_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TripletLoss(**arguments)
