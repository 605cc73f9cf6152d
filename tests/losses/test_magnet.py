"""MagnetLoss against a naive loop, scikit-learn's k-means and gradcheck."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.losses.magnet import MagnetLoss, farthest, magnet_loss, split
from siamese_verify.pairwise import Identities
from siamese_verify.structures import Pairs, Triplets


def batch(count: int = 12, identities: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, 5, dtype=torch.float64, generator=generator)
    return embeddings, 10 - 2 * (torch.arange(count) % identities)


def split_by_label(embeddings: Tensor, labels: Tensor, clusters: int) -> Tensor:
    first, last = Identities(labels).span(labels)
    return split(embeddings, first, last, clusters)


def naive_items(embeddings: Tensor, labels: Tensor, cluster: Tensor, floor: float, margin: float) -> Tensor:
    names = list(zip(labels.tolist(), cluster.tolist(), strict=True))
    centers = {
        name: torch.stack([row for row, other in zip(embeddings, names, strict=True) if other == name]).mean(0)
        for name in set(names)
    }
    own = [(row - centers[name]).square().sum() for row, name in zip(embeddings, names, strict=True)]
    variance = max(sum(own) / (len(names) - 1), torch.tensor(floor))
    items = []
    for row, name, distance in zip(embeddings, names, own, strict=True):
        others = [(row - center).square().sum() for other, center in centers.items() if other[0] != name[0]]
        others_sum = sum(torch.exp(-other / (2 * variance)) for other in others)
        items.append((distance / (2 * variance) + margin + torch.as_tensor(others_sum).log()).clamp(min=0))
    return torch.stack(items)


@pytest.mark.parametrize("clusters", [1, 2, 3])
def test_items_and_gradient_agree_with_a_naive_loop(clusters: int) -> None:
    embeddings, labels = batch()
    embeddings.requires_grad_()
    loss = MagnetLoss(clusters, margin=0.7)
    items = loss.items(embeddings, labels)
    cluster = split_by_label(embeddings.detach(), labels, clusters)
    assert len(set(zip(labels.tolist(), cluster.tolist(), strict=True))) == 3 * clusters
    expected = naive_items(embeddings, labels, cluster, 1e-4, 0.7)
    torch.testing.assert_close(items, expected, rtol=0, atol=1e-12)
    assert loss(embeddings, labels) == items.mean()
    slopes = [torch.autograd.grad(values.sum(), embeddings)[0] for values in (items, expected)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-12)


@pytest.mark.parametrize("clusters", [2, 3])
def test_rows_in_clumps_are_split_as_scikit_learn_does(clusters: int) -> None:
    generator = torch.Generator().manual_seed(3)
    count = 40
    clump, labels = torch.randint(clusters, (count,), generator=generator), torch.arange(count) % 4
    middles = 9 * torch.randn(4, clusters, 6, dtype=torch.float64, generator=generator)
    embeddings = middles[labels, clump] + torch.randn(count, 6, dtype=torch.float64, generator=generator)
    ours = split_by_label(embeddings, labels, clusters)
    for label in range(4):
        rows = labels == label
        peer = torch.tensor(KMeans(clusters, n_init=10, random_state=0).fit_predict(embeddings[rows].numpy()))
        alike = ours[rows, None] == ours[rows]
        assert torch.equal(alike, peer[:, None] == peer)


def test_a_row_of_clusters_settles_as_lloyd_says() -> None:
    rows = torch.tensor([[0.0], [1.0], [2.0], [4.5], [9.0], [50.0]], dtype=torch.float64)
    labels = torch.tensor([1, 1, 1, 1, 1, 0])
    # It starts at 9 and 0; 4.5 lies between and goes to 9, then from 6.75 and 1 it stays.
    assert split_by_label(rows, labels, 2).tolist() == [1, 1, 1, 0, 0, 0]


def test_identical_rows_are_one_cluster_however_many_are_asked_for() -> None:
    rows = torch.full((4, 3), 0.1)
    assert split_by_label(rows, torch.tensor([5, 5, 5, 8]), 3).tolist() == [0, 0, 0, 0]


def test_more_clusters_than_rows_make_each_row_its_own() -> None:
    embeddings, labels = batch(6)
    many, enough = MagnetLoss(9).items(embeddings, labels), MagnetLoss(2).items(embeddings, labels)
    torch.testing.assert_close(many, enough, rtol=0, atol=1e-14)
    assert split_by_label(embeddings, labels, 9).tolist() in ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0])


def test_the_farthest_row_is_the_lowest_of_several() -> None:
    distance = torch.tensor([1.0, 2.0, 2.0, 0.0, 0.0])
    assert farthest(distance, torch.tensor([0, 0, 0, 3, 3])).tolist() == [1, 1, 1, 3, 3]


@pytest.mark.parametrize("clusters", [1, 2])
def test_the_order_of_rows_and_where_they_lie_do_not_matter(clusters: int) -> None:
    embeddings, labels = batch()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    loss = MagnetLoss(clusters)
    shuffled = loss.items(embeddings[order] + 1e3, labels[order])
    torch.testing.assert_close(shuffled, loss.items(embeddings, labels)[order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("clusters", [1, 2, 3])
@pytest.mark.parametrize("floor", [1e-4, 9.0], ids=["variance", "floor"])
def test_gradient_is_right_with_identical_embeddings_too(clusters: int, floor: float) -> None:
    embeddings, labels = batch()
    embeddings[1] = embeddings[0]  # an impostor pair
    embeddings[8] = embeddings[2]  # a genuine pair
    loss = MagnetLoss(clusters, floor, margin=2)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), embeddings.requires_grad_())


@pytest.mark.parametrize("clusters", [1, 2])
@pytest.mark.parametrize("reduction", ["mean", "mean_nonzero", "sum", "none"])
@pytest.mark.parametrize("labels", [[], [3], [3, 3, 3]], ids=["none", "one", "same"])
def test_without_other_identities_it_costs_nothing(clusters: int, reduction: Any, labels: list[int]) -> None:
    embeddings = torch.randn(len(labels), 3, requires_grad=True)
    value = MagnetLoss(clusters, reduction=reduction)(embeddings, torch.tensor(labels, dtype=torch.int64))
    assert value.shape == ((len(labels),) if reduction == "none" else ())
    value.sum().backward()
    assert not value.any()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    assert not embeddings.grad.any()


@pytest.mark.parametrize("clusters", [1, 2])
@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 5]], ids=["pairs", "singles"])
def test_identical_embeddings_cost_the_margin_and_the_number_of_others(clusters: int, labels: list[int]) -> None:
    embeddings = torch.full((6, 3), 0.3, requires_grad=True)
    value = MagnetLoss(clusters, margin=0.5)(embeddings, torch.tensor(labels))
    value.backward()
    assert value.item() == pytest.approx(0.5 + math.log(len(set(labels)) - 1), rel=1e-5)
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_clusters_that_are_absent_have_no_gradient() -> None:
    others = torch.tensor([[1.0, torch.inf], [torch.inf, torch.inf]], requires_grad=True)
    items = magnet_loss(torch.tensor([2.0, 2.0]), others, margin=3)
    (slope,) = torch.autograd.grad(items.sum(), others)
    assert items.tolist() == [pytest.approx(4), 0]
    assert slope.tolist() == [[-1, 0], [0, 0]]


@pytest.mark.parametrize("reduction", ["mean", "mean_nonzero", "sum", "none"])
def test_the_reduction_is_over_rows(reduction: Any) -> None:
    embeddings, labels = batch()
    embeddings += labels[:, None] / 3
    loss = MagnetLoss(reduction=reduction, margin=0.2)
    items = loss.items(embeddings, labels)
    assert 0 < (items > 0).sum() < 12
    expected = {"mean": items.mean(), "mean_nonzero": items[items > 0].mean(), "sum": items.sum(), "none": items}
    torch.testing.assert_close(loss(embeddings, labels), expected[reduction])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clusters": 0}, "clusters is 0"),
        ({"clusters": 1.5}, r"clusters is 1\.5"),
        ({"variance_floor": math.inf}, "variance_floor must be a finite number"),
        ({"variance_floor": 0}, "variance_floor is 0"),
        ({"margin": -1}, "margin is -1"),
        ({"reduction": "median"}, "reduction is 'median'"),
    ],
)
def test_an_argument_out_of_range_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MagnetLoss(**arguments)


def test_tuples_and_references_are_refused() -> None:
    (embeddings, labels), rows = batch(), torch.tensor([0, 1])
    loss = MagnetLoss()
    with pytest.raises(InputError, match="takes no pairs, but was given 2: set miner=none"):
        loss(embeddings, labels, Pairs(rows, rows, rows.bool()))
    with pytest.raises(InputError, match="takes no triplets, but was given 2: set miner=none"):
        loss(embeddings, labels, Triplets(rows, rows, rows))
    with pytest.raises(InputError, match=r"no use for a memory.*12 references"):
        loss(embeddings, labels, None, embeddings, labels)
    assert loss(embeddings, labels, None, embeddings[:0], labels[:0]) == loss(embeddings, labels)
    assert repr(loss) == "MagnetLoss(clusters=1, variance_floor=0.0001, margin=1.0, reduction='mean')"
