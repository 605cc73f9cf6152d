"""TripletLoss against reference values, a naive loop, and torch's gradcheck."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.losses import TripletLoss, soft_triplet_loss, triplet_loss
from siamese_verify.structures import Pairs, Triplets
from tests.losses.conftest import batch, gradient

FORMS = [pytest.mark.parametrize("squared", [False, True]), pytest.mark.parametrize("soft", [False, True])]


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
@FORMS[0]
@FORMS[1]
@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_all_triplets_agree_with_a_naive_loop(labels: list[int], squared: bool, soft: bool, margin: float) -> None:
    embeddings, identities = batch(len(labels))[0], torch.tensor(labels)
    triplets = naive_triplets(labels)
    expected = naive_items(embeddings, triplets, margin, squared, soft)
    loss = TripletLoss(margin, squared, soft)
    torch.testing.assert_close(loss.items(embeddings, identities), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss(embeddings, identities), expected.mean(), rtol=0, atol=1e-12)
    tuples = Triplets(*torch.tensor(triplets).unbind(dim=1))
    torch.testing.assert_close(loss.items(embeddings, identities, tuples), expected, rtol=0, atol=1e-12)


@FORMS[0]
def test_few_triplets_of_many_rows_agree_with_a_naive_loop(squared: bool) -> None:
    embeddings, labels = batch(40, identities=2)
    triplets = [(0, 38, 1), (5, 7, 20)]
    items = TripletLoss(1.0, squared).items(embeddings, labels, Triplets(*torch.tensor(triplets).unbind(dim=1)))
    torch.testing.assert_close(items, naive_items(embeddings, triplets, 1.0, squared, False), rtol=0, atol=1e-12)


@FORMS[0]
@FORMS[1]
@pytest.mark.parametrize("tuples", [None, Triplets(torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))])
def test_gradient_is_right_with_identical_embeddings(squared: bool, soft: bool, tuples: Triplets | None) -> None:
    embeddings, labels = batch(5, seed=3)[0], torch.tensor([0, 0, 1, 1, 2])
    embeddings[1] = embeddings[0]  # a genuine pair
    embeddings[4] = embeddings[2]  # an impostor pair
    loss = TripletLoss(0.7, squared, soft)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, tuples), embeddings.requires_grad_())


@pytest.mark.parametrize("tuples", [None, Triplets(*torch.tensor([[0, 1, 2]]).T)])
@pytest.mark.parametrize(("soft", "expected"), [(False, 0.25), (True, math.log(2))])
def test_a_collapsed_encoder_costs_exactly_the_margin(tuples: Triplets | None, soft: bool, expected: float) -> None:
    embeddings = torch.ones(4, 3, requires_grad=True)
    loss = TripletLoss(0.25, soft=soft)
    value = loss(embeddings, torch.tensor([0, 0, 1, 1]), tuples)
    assert value.item() == pytest.approx(expected) == pytest.approx(loss.collapsed_loss)
    assert not gradient(value, embeddings).any()


def test_the_soft_form_stays_exact_and_finite_far_from_zero() -> None:
    near, far = torch.tensor([0.0, 30.0, 1000.0], dtype=torch.float64), torch.tensor([1000.0, 0.0, 0.0]).double()
    items = soft_triplet_loss(near.requires_grad_(), far)
    assert items.tolist() == pytest.approx([0.0, math.log1p(math.exp(30)), 1000.0], abs=1e-15)
    assert gradient(items, near).tolist() == pytest.approx([0.0, 1.0, 1.0])


def test_the_pure_function_broadcasts() -> None:
    items = triplet_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 3.0]), margin=0.5)
    assert items.tolist() == [[0.5, 0.0], [1.5, 0.0]]


def test_pairs_are_refused_with_the_way_out() -> None:
    pairs = Pairs(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([True, False]))
    with pytest.raises(InputError, match="TripletLoss takes no pairs, but was given 2: set miner=none, or one that"):
        TripletLoss()(torch.ones(4, 3), torch.arange(4), pairs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": -1}, "margin is -1"),
        ({"margin": "a"}, "margin must be a number, got 'a'"),
        ({"margin": math.inf}, "margin must be a finite number, got inf"),
        ({"reduction": "max"}, "reduction is 'max'"),
    ],
)
def test_an_argument_out_of_range_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TripletLoss(**arguments)
