"""Reductions of item losses, and how the objectives use them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from siamese_verify.errors import InputError
from siamese_verify.losses import BatchObjective, ContrastiveLoss, TripletLoss, reduce_items
from siamese_verify.losses.base import add_up, fraction_nonzero
from siamese_verify.pairwise.blocks import Items

ITEMS = torch.tensor([0.0, 3.0, 0.0, 1.0])


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 1.0), ("mean_active", 2.0), ("sum", 4.0)])
def test_items_are_reduced_as_named(reduction: Any, expected: float) -> None:
    assert reduce_items(ITEMS, reduction).item() == expected


def test_none_returns_the_items() -> None:
    assert reduce_items(ITEMS, "none") is ITEMS


@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum"])
@pytest.mark.parametrize("count", [0, 3])
def test_nothing_active_gives_zero_with_a_zero_gradient(reduction: Any, count: int) -> None:
    source = torch.zeros(count, requires_grad=True)
    value = reduce_items(source.clamp(min=0) * 0, reduction)
    torch.autograd.backward(value)
    assert value.item() == 0
    assert source.grad is not None
    assert not source.grad.any()


def test_an_unknown_reduction_is_named() -> None:
    unknown: Any = "average"
    with pytest.raises(InputError, match="'average'"):
        reduce_items(ITEMS, unknown)


def test_active_share_counts_items_above_zero() -> None:
    assert fraction_nonzero(add_up(Items.of(ITEMS))).item() == 0.5
    assert fraction_nonzero(add_up(Items.of(ITEMS[:0]))).item() == 0
    assert not fraction_nonzero(add_up(Items.of(ITEMS.clone().requires_grad_()))).requires_grad
    rounded = torch.tensor([True, True, False, True])  # one of them is above zero, and rounds to it
    assert fraction_nonzero(add_up(Items(ITEMS, rounded))).item() == 0.75
    assert reduce_items(ITEMS, "mean_active", rounded).item() == pytest.approx(4 / 3)


@pytest.mark.parametrize("loss", [ContrastiveLoss(2.0), TripletLoss(0.5, reduction="mean_active")])
def test_a_measurement_is_the_loss_and_the_share_of_active_items(loss: BatchObjective) -> None:
    embeddings = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) // 2
    items = loss.items(embeddings, labels)
    value, share = loss.measure(embeddings, labels)
    assert value == loss(embeddings, labels)
    torch.testing.assert_close(value, reduce_items(items, loss.reduction))
    torch.testing.assert_close(share, (items > 0).float().mean())


def test_reduction_none_returns_the_items_in_the_type_of_the_embeddings() -> None:
    embeddings = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    items = ContrastiveLoss(reduction="none")(embeddings, torch.arange(4) // 2)
    assert items.shape == (6,)
    assert items.dtype == torch.bfloat16
