"""ContrastiveLoss against reference values, a naive loop, and torch's gradcheck."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.losses import ContrastiveLoss, contrastive_loss
from siamese_verify.losses.contrastive import PairDistance
from siamese_verify.miners import AllPairs
from siamese_verify.structures import Pairs, Triplets

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "objectives.json"


@pytest.fixture(scope="module")
def reference() -> Any:
    if not REFERENCE.exists():
        pytest.skip(f"reference values are missing: {REFERENCE}")
    return json.loads(REFERENCE.read_text())


def batch(count: int = 9, people: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, dtype=torch.float64, generator=generator), torch.arange(count) % people


def naive_items(
    embeddings: Tensor, pairs: list[tuple[int, int, bool]], margin: float, distance: str, scale: float
) -> list[float]:
    rows = embeddings.tolist()
    items = []
    for i, j, same in pairs:
        if distance == "euclidean":
            d = math.dist(rows[i], rows[j])
        else:
            dot = math.fsum(x * y for x, y in zip(rows[i], rows[j], strict=True))
            d = 1 - dot / (math.hypot(*rows[i]) * math.hypot(*rows[j]))
        items.append(scale * (d**2 if same else max(0.0, margin - d) ** 2))
    return items


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("contrastive margin=1 euclidean scale=1/2 (raw embeddings)", ContrastiveLoss(1)),
        ("contrastive margin=3 euclidean scale=1/2 (raw embeddings)", ContrastiveLoss(3)),
        ("contrastive margin=3 euclidean scale=1 (raw embeddings)", ContrastiveLoss(3, scale=1)),
        ("contrastive margin=0.5 cosine scale=1/2", ContrastiveLoss(0.5, distance="cosine")),
    ],
)
def test_reference_values_are_met(reference: Any, name: str, loss: ContrastiveLoss) -> None:
    rows = reference["pairs"]
    pairs = Pairs(torch.tensor(rows["anchor_rows"]), torch.tensor(rows["other_rows"]), torch.tensor(rows["same"]))
    embeddings = torch.tensor(reference["embeddings"], dtype=torch.float64)
    value = loss(embeddings, torch.tensor(reference["labels_two_views"]), pairs)
    assert value.item() == pytest.approx(reference["values"][name], abs=1e-12)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("margin", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_all_pairs_agree_with_a_naive_loop(distance: PairDistance, margin: float, scale: float) -> None:
    embeddings, labels = batch()
    pairs = [(i, j, bool(labels[i] == labels[j])) for i in range(9) for j in range(i + 1, 9)]
    expected = torch.tensor(naive_items(embeddings, pairs, margin, distance, scale), dtype=torch.float64)
    loss = ContrastiveLoss(margin, distance, scale)
    torch.testing.assert_close(loss.items(embeddings, labels), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss(embeddings, labels), expected.mean(), rtol=0, atol=1e-12)
    tuples = AllPairs()(embeddings, labels)
    torch.testing.assert_close(loss.items(embeddings, labels, tuples), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_few_pairs_of_many_rows_agree_with_a_naive_loop(distance: PairDistance) -> None:
    embeddings, labels = batch(40)
    tuples = Pairs(torch.tensor([3, 0, 7]), torch.tensor([39, 1, 10]), torch.tensor([True, False, True]))
    pairs = [(3, 39, True), (0, 1, False), (7, 10, True)]
    expected = naive_items(embeddings, pairs, 2.0, distance, 0.5)
    items = ContrastiveLoss(2.0, distance).items(embeddings, labels, tuples)
    torch.testing.assert_close(items, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_triplets_are_taken_apart_into_genuine_and_impostor_pairs() -> None:
    embeddings, labels = batch()
    triplets = Triplets(torch.tensor([0, 4]), torch.tensor([3, 1]), torch.tensor([2, 8]))
    pairs = [(0, 3, True), (4, 1, True), (0, 2, False), (4, 8, False)]
    expected = torch.tensor(naive_items(embeddings, pairs, 3.0, "euclidean", 0.5), dtype=torch.float64)
    items = ContrastiveLoss(3.0).items(embeddings, labels, triplets)
    torch.testing.assert_close(items, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("tuples", [None, Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([False]))])
def test_gradient_is_right_with_identical_embeddings_too(distance: PairDistance, tuples: Pairs | None) -> None:
    embeddings, labels = batch(6, people=2, seed=1)
    embeddings[1] = embeddings[0]  # an impostor pair
    embeddings[4] = embeddings[2]  # a genuine pair
    loss = ContrastiveLoss(2.5 if distance == "euclidean" else 0.9, distance)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, tuples), embeddings.requires_grad_())


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_identical_embeddings_cost_half_the_squared_margin_as_impostors(distance: PairDistance) -> None:
    embeddings = torch.ones(4, 3, requires_grad=True)
    value = ContrastiveLoss(0.8, distance)(embeddings, torch.arange(4))
    value.backward()
    assert value.item() == pytest.approx(0.5 * 0.8**2, rel=1e-5)
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_near_identical_unit_vectors_keep_their_distance_in_single_precision() -> None:
    first = torch.nn.functional.normalize(torch.randn(1, 512, generator=torch.Generator().manual_seed(0)))
    rows = torch.cat([first, first + 1e-6])  # |a|^2 + |b|^2 - 2ab would be off by more than the distance
    exact = math.dist(*rows.double().tolist())
    item = ContrastiveLoss(scale=1).items(rows, torch.tensor([0, 0]))
    assert item.sqrt().item() == pytest.approx(exact, rel=1e-4)


def test_a_row_of_zeros_is_at_cosine_distance_one_with_a_finite_gradient() -> None:
    embeddings = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    value = ContrastiveLoss(distance="cosine", scale=1)(embeddings, torch.tensor([5, 5]))
    value.backward()
    assert value.item() == 1
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad.abs().max() < 10


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize(
    ("labels", "expected_items"),
    [([], 0), ([3], 0), ([3, 3, 3], 3), ([1, 2, 3], 3)],
    ids=["none", "one", "same", "other"],
)
@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum"])
def test_a_degenerate_batch_has_a_defined_value_and_gradient(
    distance: PairDistance, labels: list[int], expected_items: int, reduction: Any
) -> None:
    embeddings = torch.eye(3)[: len(labels)].mul(9).requires_grad_()
    loss = ContrastiveLoss(0.5, distance, reduction=reduction)
    identities = torch.tensor(labels, dtype=torch.int64)
    assert len(loss.items(embeddings, identities)) == expected_items
    value = loss(embeddings, identities)
    value.backward()
    assert value.isfinite()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    if labels != [3, 3, 3]:  # no genuine pair, impostors beyond the margin
        assert value.item() == 0
        assert not embeddings.grad.any()


def test_no_mined_pairs_give_zero_connected_to_the_embeddings() -> None:
    embeddings, labels = batch()
    embeddings.requires_grad_()
    nothing = torch.empty(0, dtype=torch.int64)
    value = ContrastiveLoss()(embeddings, labels, Pairs(nothing, nothing, nothing.bool()))
    value.backward()
    assert value.item() == 0
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_half_precision_is_computed_in_single_and_returned_in_its_own(
    dtype: torch.dtype, distance: PairDistance
) -> None:
    embeddings, labels = batch()
    half = embeddings.to(dtype).requires_grad_()
    loss = ContrastiveLoss(0.9, distance)
    value = loss(half, labels)
    value.backward()
    assert value.dtype == dtype
    assert half.grad is not None
    assert half.grad.dtype == dtype
    assert loss.items(half, labels).dtype == torch.float32
    assert value == loss(half.detach().float(), labels).to(dtype)


def test_autocast_changes_nothing() -> None:
    embeddings, labels = batch()
    loss = ContrastiveLoss(0.9, "cosine")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(embeddings.float(), labels)
    assert inside == loss(embeddings.float(), labels)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.bool])
def test_labels_may_be_of_any_integer_type(dtype: torch.dtype) -> None:
    embeddings, labels = batch(people=2)
    assert ContrastiveLoss()(embeddings, labels.to(dtype)) == ContrastiveLoss()(embeddings, labels)


def test_the_pure_function_follows_hadsell() -> None:
    items = contrastive_loss(torch.tensor([0.5, 0.5, 2.0]), torch.tensor([True, False, False]), margin=1.5)
    assert items.tolist() == [0.125, 0.5, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": -0.1}, r"margin is -0\.1"),
        ({"margin": math.nan}, "margin is nan"),
        ({"distance": "manhattan"}, "distance is 'manhattan'.*euclidean, cosine"),
        ({"scale": 0}, "scale is 0"),
        ({"reduction": "median"}, "reduction is 'median'.*mean, mean_active, sum, none"),
    ],
)
def test_an_argument_out_of_range_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ContrastiveLoss(**arguments)


ROW = torch.tensor([0])


@pytest.mark.parametrize(
    ("embeddings", "labels", "tuples", "message"),
    [
        (torch.ones(4), torch.ones(4).long(), None, r"shape \(4,\)"),
        (torch.ones(4, 2).long(), torch.ones(4).long(), None, r"torch\.int64"),
        (torch.ones(4, 2), torch.ones(4, 1).long(), None, r"shape \(4, 1\)"),
        (torch.ones(4, 2), torch.ones(4), None, r"type torch\.float32"),
        (torch.ones(4, 2), torch.ones(3).long(), None, "4 embeddings came with 3 labels"),
        (torch.full((4, 2), math.nan), torch.ones(4).long(), None, "4 of 4 embeddings hold NaN or infinity.*row 0"),
        (torch.ones(4, 2), torch.ones(4).long(), Pairs(ROW, torch.tensor([1, 2]), ROW), r"one length.*\(1,\), \(2,\)"),
        (torch.ones(4, 2), torch.ones(4).long(), [0, 1], "of type list"),
    ],
)
def test_a_batch_that_is_none_is_refused(embeddings: Tensor, labels: Tensor, tuples: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ContrastiveLoss()(embeddings, labels, tuples)
