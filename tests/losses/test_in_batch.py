"""InBatchNegatives against a naive loop, pytorch-metric-learning, and gradcheck."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as theirs
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.losses.info_nce import InBatchNegatives, InfoNCELoss, NCELoss, QueryObjective
from siamese_verify.miners import AllPairs
from siamese_verify.structures import Pairs, Triplets

OBJECTIVES = pytest.mark.parametrize("objective", [InfoNCELoss(0.3), NCELoss(0.3)], ids=["info_nce", "nce"])
MINED = Pairs(  # rows of 9 embeddings of 3 people and of 4 references of 2; one impostor pair is named twice
    torch.tensor([0, 4, 2, 0, 5, 1, 3, 0]),
    torch.tensor([3, 9, 8, 1, 7, 0, 10, 11]),
    torch.tensor([True, True, True, False, False, False, False, False]),
)
TRIPLETS = Triplets(torch.tensor([0, 4]), torch.tensor([3, 9]), torch.tensor([12, 5]))


def batch(count: int = 9, people: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, dtype=torch.float64, generator=generator), torch.arange(count) % people


def memory() -> tuple[Tensor, Tensor]:
    return batch(4, people=2, seed=1)[0], torch.tensor([1, 2, 1, 7])


def naive_items(
    objective: QueryObjective, rows: list[list[float]], queries: list[tuple[int, int, list[int]]]
) -> Tensor:
    def logit(i: int, j: int) -> float:
        dot = math.fsum(x * y for x, y in zip(rows[i], rows[j], strict=True))
        return dot / (math.hypot(*rows[i]) * math.hypot(*rows[j])) / objective.temperature

    items = []
    for i, p, negatives in queries:
        impostors = [math.exp(logit(i, n)) for n in negatives]
        if isinstance(objective, InfoNCELoss):
            items.append(math.log1p(math.fsum(impostors) / math.exp(logit(i, p))))
        else:
            items.append(math.log1p(math.exp(-logit(i, p))) + math.fsum(map(math.log1p, impostors)))
    return torch.tensor(items, dtype=torch.float64)


@pytest.fixture(params=[512, 3], ids=["one band", "many bands"])
def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamese_verify.pairwise.blocks.SIDE", request.param)


@OBJECTIVES
@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.usefixtures("side")
def test_everything_agrees_with_a_naive_loop(objective: QueryObjective, remembered: bool) -> None:
    embeddings, labels = batch(11, people=4)
    extra = memory() if remembered else ()
    people = torch.cat([labels, *extra[1:]]).tolist()
    everybody = range(len(people))
    queries = [
        (i, p, [n for n in everybody if people[n] != people[i]])
        for i in range(11)
        for p in everybody
        if p != i and people[p] == people[i]
    ]
    expected = naive_items(objective, torch.cat([embeddings, *extra[:1]]).tolist(), queries)
    loss = InBatchNegatives(objective)
    torch.testing.assert_close(loss.items(embeddings, labels, None, *extra), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss(embeddings, labels, None, *extra), expected.mean(), rtol=0, atol=1e-12)


@OBJECTIVES
@pytest.mark.usefixtures("side")
def test_mined_pairs_count_both_ways_against_the_impostors_of_their_anchor(objective: QueryObjective) -> None:
    (embeddings, labels), extra = batch(), memory()
    queries = [(0, 3, [1, 11]), (4, 9, []), (2, 8, []), (3, 0, [10]), (8, 2, [])]  # 9 is a reference: no anchor
    expected = naive_items(objective, torch.cat([embeddings, extra[0]]).tolist(), queries)
    items = InBatchNegatives(objective).items(embeddings, labels, MINED, *extra)
    torch.testing.assert_close(items, expected, rtol=0, atol=1e-12)


@OBJECTIVES
def test_a_triplet_is_a_query_with_one_negative(objective: QueryObjective) -> None:
    (embeddings, labels), extra = batch(), memory()
    queries = [(0, 3, [12]), (4, 9, [5])]
    expected = naive_items(objective, torch.cat([embeddings, extra[0]]).tolist(), queries)
    items = InBatchNegatives(objective).items(embeddings, labels, TRIPLETS, *extra)
    torch.testing.assert_close(items, expected, rtol=0, atol=1e-12)


@OBJECTIVES
def test_all_pairs_are_everything(objective: QueryObjective) -> None:
    embeddings, labels = batch()
    loss = InBatchNegatives(objective)
    tuples = AllPairs()(embeddings, labels)
    torch.testing.assert_close(loss(embeddings, labels, tuples), loss(embeddings, labels), rtol=0, atol=1e-14)


@pytest.mark.usefixtures("side")
def test_info_nce_in_a_batch_is_the_nt_xent_of_pytorch_metric_learning() -> None:
    embeddings, labels = batch(12)
    embeddings.requires_grad_()
    ours = InBatchNegatives(InfoNCELoss(0.1))(embeddings, labels)
    peer = theirs.NTXentLoss(0.1)(embeddings, labels)
    torch.testing.assert_close(ours, peer, rtol=0, atol=1e-12)
    slopes = [torch.autograd.grad(value, embeddings)[0] for value in (ours, peer)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-12)


@OBJECTIVES
@pytest.mark.parametrize("tuples", [None, MINED, TRIPLETS], ids=["everything", "pairs", "triplets"])
@pytest.mark.usefixtures("side")
def test_gradient_is_right_with_identical_embeddings_too(
    objective: QueryObjective, tuples: Pairs | Triplets | None
) -> None:
    (embeddings, labels), (references, reference_labels) = batch(), memory()
    embeddings[1] = embeddings[0]  # an impostor pair
    embeddings[8] = embeddings[2]  # a genuine pair
    loss = InBatchNegatives(objective)
    leaves = (embeddings.requires_grad_(), references.requires_grad_())
    assert torch.autograd.gradcheck(lambda z, r: loss(z, labels, tuples, r, reference_labels), leaves)


@OBJECTIVES
@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum", "none"])
@pytest.mark.parametrize(
    ("labels", "queries"), [([], 0), ([3], 0), ([1, 2, 3], 0), ([3, 3, 3], 6)], ids=["none", "one", "other", "same"]
)
def test_a_degenerate_batch_has_a_defined_value_and_gradient(
    objective: QueryObjective, reduction: Any, labels: list[int], queries: int
) -> None:
    embeddings = torch.ones(len(labels), 4, requires_grad=True)
    loss = InBatchNegatives(type(objective)(0.3, reduction))
    value = loss(embeddings, torch.tensor(labels, dtype=torch.int64))
    assert value.shape == ((queries,) if reduction == "none" else ())
    value.sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    if isinstance(objective, InfoNCELoss) or not queries:  # without a negative, or without a query
        assert not value.any()
        assert not embeddings.grad.any()


def test_identical_embeddings_leave_the_choice_to_chance() -> None:
    embeddings = torch.ones(6, 4, requires_grad=True)
    value = InBatchNegatives(InfoNCELoss(0.07))(embeddings, torch.arange(6) % 3)
    value.backward()
    assert value.item() == pytest.approx(math.log(1 + 4), rel=1e-6)
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_no_mined_pairs_give_zero_connected_to_the_embeddings() -> None:
    embeddings, labels = batch()
    embeddings.requires_grad_()
    nothing = torch.empty(0, dtype=torch.int64)
    for tuples in (Pairs(nothing, nothing, nothing.bool()), Triplets(nothing, nothing, nothing)):
        value = InBatchNegatives(NCELoss())(embeddings, labels, tuples)
        assert value.item() == 0
        assert not torch.autograd.grad(value, embeddings)[0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.usefixtures("side")
def test_half_precision_is_computed_in_single_and_returned_in_its_own(dtype: torch.dtype) -> None:
    embeddings, labels = batch()
    half = embeddings.to(dtype).requires_grad_()
    loss = InBatchNegatives(InfoNCELoss())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, labels)
    value.backward()
    assert value.dtype == dtype
    assert value == loss(half.detach().float(), labels).to(dtype)
    assert half.grad is not None
    assert half.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type_and_rows_of_any_layout_will_do(dtype: torch.dtype) -> None:
    embeddings, labels = batch()
    scattered = embeddings.T.contiguous().T
    loss = InBatchNegatives(InfoNCELoss())
    torch.testing.assert_close(loss(scattered, labels.to(dtype)), loss(embeddings, labels), rtol=1e-14, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum", "none"])
def test_the_reduction_is_the_objectives(reduction: Any) -> None:
    embeddings, labels = batch()
    loss = InBatchNegatives(InfoNCELoss(reduction=reduction))
    items = loss.items(embeddings, labels)
    expected = {"mean": items.mean(), "mean_active": items[items > 0].mean(), "sum": items.sum(), "none": items}
    torch.testing.assert_close(loss(embeddings, labels), expected[reduction])


def test_an_objective_over_batches_is_refused() -> None:
    wrapped: Any = InBatchNegatives(InfoNCELoss())
    with pytest.raises(InputError, match=r"objective is of type InBatchNegatives.*InfoNCELoss"):
        InBatchNegatives(wrapped)
