"""InfoNCELoss, NCELoss and InBatchNegatives against reference values, naive loops, peers and gradcheck."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as theirs
from torch import Tensor
from torch.nn import functional

from siamese_verify.errors import InputError
from siamese_verify.losses import InBatchNegatives, InfoNCELoss, NCELoss, QueryLoss, info_nce_loss, nce_loss
from siamese_verify.miners import AllPairs
from siamese_verify.structures import Pairs, Triplets
from tests.losses.conftest import batch, gradient

LOSSES = pytest.mark.parametrize("loss", [InfoNCELoss(0.3), NCELoss(0.3)], ids=["info_nce", "nce"])
OWN = pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
PAIRS = Pairs(  # rows of 9 embeddings of 3 identities and of 4 references of 2; one impostor pair is named twice
    torch.tensor([0, 4, 2, 0, 5, 1, 3, 0]),
    torch.tensor([3, 9, 8, 1, 7, 0, 10, 11]),
    torch.tensor([True, True, True, False, False, False, False, False]),
)
TRIPLETS = Triplets(torch.tensor([0, 4]), torch.tensor([3, 9]), torch.tensor([12, 5]))


def queries(own: bool, count: int = 5, negatives: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    shape = (count, negatives, 3) if own else (negatives, 3)
    query, positive, others = (
        torch.randn(size, dtype=torch.float64, generator=generator) for size in ((count, 3), (count, 3), shape)
    )
    return query, positive, others


def memory() -> tuple[Tensor, Tensor]:
    return batch(4, identities=2, seed=1)[0], torch.tensor([1, 2, 1, 7])


def naive_items(loss: QueryLoss, rows: Tensor, queries: list[tuple[int, int, list[int]]]) -> Tensor:
    """Losses of (row, its positive, its negatives)."""
    unit = [[x / math.hypot(*row) for x in row] for row in rows.tolist()]

    def logit(i: int, j: int) -> float:
        return math.fsum(x * y for x, y in zip(unit[i], unit[j], strict=True)) / loss.temperature

    items = []
    for i, p, negatives in queries:
        impostors = [math.exp(logit(i, n)) for n in negatives]
        if isinstance(loss, InfoNCELoss):
            items.append(math.log1p(math.fsum(impostors) / math.exp(logit(i, p))))
        else:
            items.append(math.log1p(math.exp(-logit(i, p))) + math.fsum(map(math.log1p, impostors)))
    return torch.tensor(items, dtype=torch.float64)


# Pure functions


def test_info_nce_is_a_cross_entropy_of_logits() -> None:
    logits = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(40).requires_grad_()
    ours = info_nce_loss(logits[:, 0], logits[:, 1:])
    peer = functional.cross_entropy(logits, torch.zeros(6, dtype=torch.int64), reduction="none")
    torch.testing.assert_close(ours, peer, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient(ours, logits), gradient(peer, logits), rtol=0, atol=1e-12)


def test_nce_is_a_sum_of_softplus_far_from_zero_too() -> None:
    positive = torch.tensor([0.3, -45.0, 30.0, 0.0], dtype=torch.float64)
    negatives = torch.tensor([[0.1, -2.0], [25.0, -25.0], [-40.0, -30.0], [700.0, 0.0]], dtype=torch.float64)
    logits = torch.cat([-positive[:, None], negatives], dim=1).tolist()
    expected = [math.fsum(max(x, 0) + math.log1p(math.exp(-abs(x))) for x in row) for row in logits]
    items = nce_loss(positive, negatives)
    torch.testing.assert_close(items, torch.tensor(expected, dtype=torch.float64), rtol=1e-15, atol=0)
    assert torch.autograd.gradcheck(nce_loss, (positive.requires_grad_(), negatives.requires_grad_()))


def test_a_tiny_loss_keeps_its_digits() -> None:
    item = info_nce_loss(torch.tensor([100.0], dtype=torch.float64), torch.tensor([[0.0]], dtype=torch.float64))
    assert item.item() == pytest.approx(math.exp(-100), rel=1e-12)


def test_absent_negatives_add_nothing_and_have_no_gradient() -> None:
    positive = torch.tensor([1.0, 1.0, -500.0], requires_grad=True)
    negatives = torch.tensor([[2.0, -torch.inf], [-torch.inf, -torch.inf], [-torch.inf, -torch.inf]]).requires_grad_()
    items = info_nce_loss(positive, negatives)
    share = math.e / (1 + math.e)
    assert items.tolist() == [pytest.approx(math.log1p(math.e)), 0, 0]
    assert gradient(info_nce_loss(positive, negatives), positive).tolist() == [pytest.approx(-share), 0, 0]
    assert gradient(items, negatives).tolist() == [[pytest.approx(share), 0], [0, 0], [0, 0]]
    items = nce_loss(0 * positive, negatives - 2)
    assert items.tolist() == [pytest.approx(2 * math.log(2)), pytest.approx(math.log(2)), pytest.approx(math.log(2))]
    assert gradient(items, negatives).tolist() == [[0.5, 0], [0, 0], [0, 0]]


# Queries with negatives of their own or shared ones


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("info_nce temperature=0.07 q=rows0-1 pos=rows2-3 neg=rows4-7", InfoNCELoss(0.07)),
        ("nce_logistic temperature=1 q=rows0-1 pos=rows2-3 neg=rows4-7", NCELoss(1)),
    ],
)
def test_reference_values_are_met(reference: Any, name: str, loss: QueryLoss) -> None:
    rows = torch.tensor(reference["embeddings"], dtype=torch.float64)
    for negatives in (rows[4:8], rows[4:8].expand(2, 4, -1)):
        value = loss(rows[:2], rows[2:4], negatives)
        assert value.item() == pytest.approx(reference["values"][name], abs=1e-12)


def test_the_worked_example_is_met(reference: Any) -> None:
    example = reference["worked_example"]
    query, positive, negatives = (
        torch.tensor(example[name], dtype=torch.float64) for name in ("query", "positive", "negatives")
    )
    temperature, expected = example["temperature"], example["info_nce (dot products, vectors already unit to 8 digits)"]
    pure = info_nce_loss((query @ positive / temperature)[None], (negatives @ query / temperature)[None])
    assert pure.item() == pytest.approx(expected, rel=1e-10)
    scaled = InfoNCELoss(temperature)(3 * query[None], positive[None] / 7, negatives)
    assert scaled.item() == pytest.approx(expected, rel=1e-6)  # the vectors are unit to 8 digits only


@LOSSES
@OWN
def test_queries_agree_with_a_naive_loop(loss: QueryLoss, own: bool) -> None:
    query, positive, negatives = queries(own)
    rows = torch.cat([query, positive, negatives.reshape(-1, 3)])
    first = [10 + 4 * i * own for i in range(5)]
    expected = naive_items(loss, rows, [(i, 5 + i, list(range(first[i], first[i] + 4))) for i in range(5)])
    torch.testing.assert_close(loss.items(query, positive, negatives), expected, rtol=0, atol=1e-12)
    reductions: Any = {"mean": expected.mean(), "mean_nonzero": expected.mean(), "sum": expected.sum()}
    for reduction, value in reductions.items():
        reduced = type(loss)(0.3, reduction)(query, positive, negatives)
        torch.testing.assert_close(reduced, value, rtol=0, atol=1e-12)


@LOSSES
@OWN
def test_gradient_of_queries_is_right_with_identical_embeddings(loss: QueryLoss, own: bool) -> None:
    query, positive, negatives = queries(own)
    positive[1] = query[1]
    negatives[..., 0, :] = query[2]
    assert torch.autograd.gradcheck(loss, [tensor.requires_grad_() for tensor in (query, positive, negatives)])


@LOSSES
def test_many_queries_hold_no_matrix_of_logits_and_agree_with_the_plain_formula(loss: QueryLoss) -> None:
    tensors = [tensor.requires_grad_() for tensor in queries(False, count=1500, negatives=1000)]  # two bands
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss(*tensors)
    assert 0 < max(kept) <= 1500 * 3
    query, positive, negatives = map(functional.normalize, tensors)
    expected = loss.score((query * positive).sum(dim=1) / 0.3, query @ negatives.T / 0.3).mean()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    ours, plain = (torch.autograd.grad(result, tensors) for result in (value, expected))
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-14)


@LOSSES
@OWN
@pytest.mark.parametrize("reduction", ["mean", "mean_nonzero", "sum", "none"])
@pytest.mark.parametrize(("count", "negatives"), [(0, 4), (5, 0), (0, 0), (1, 1)])
def test_without_queries_or_negatives_value_and_gradient_are_defined(
    loss: QueryLoss, own: bool, reduction: Any, count: int, negatives: int
) -> None:
    leaves = [tensor.requires_grad_() for tensor in queries(own, count, negatives)]
    value = type(loss)(0.3, reduction)(*leaves)
    assert value.shape == ((count,) if reduction == "none" else ())
    slopes = torch.autograd.grad(value.sum(), leaves)
    assert value.isfinite().all()
    assert all(slope.isfinite().all() for slope in slopes)
    if count == 0 or (negatives == 0 and isinstance(loss, InfoNCELoss)):
        assert not value.any()
        assert not any(slope.any() for slope in slopes)


@LOSSES
@OWN
def test_rows_of_zeros_have_cosine_zero_and_a_finite_gradient(loss: QueryLoss, own: bool) -> None:
    leaves = [torch.zeros_like(tensor).requires_grad_() for tensor in queries(own)]
    value = loss(*leaves)
    assert value.item() == pytest.approx(math.log(5) if isinstance(loss, InfoNCELoss) else 5 * math.log(2))
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(value, leaves))


@LOSSES
@OWN
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_queries_in_half_precision_are_computed_in_float32(loss: QueryLoss, own: bool, dtype: torch.dtype) -> None:
    tensors = [tensor.to(dtype).requires_grad_() for tensor in queries(own)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*tensors)
    assert value.dtype == dtype
    assert value == loss(*(tensor.float() for tensor in tensors)).to(dtype)
    assert [slope.dtype for slope in torch.autograd.grad(value, tensors)] == [dtype] * 3


@LOSSES
@OWN
def test_the_memory_layout_does_not_matter(loss: QueryLoss, own: bool) -> None:
    tensors = queries(own)
    scattered = [torch.stack([tensor, tensor], dim=-2)[..., 0, :].mT.contiguous().mT for tensor in tensors]
    assert not scattered[0].is_contiguous()
    torch.testing.assert_close(loss(*scattered), loss(*tensors), rtol=1e-14, atol=0)


def test_at_the_default_temperature_a_solved_pair_costs_next_to_nothing() -> None:
    rows = torch.eye(2)
    assert NCELoss()(rows[:1], rows[:1], -rows[:1]).item() < 1e-4


ROWS, NEGATIVES = torch.ones(4, 3), torch.ones(5, 3)


@pytest.mark.parametrize(
    ("query", "positive", "negatives", "message"),
    [
        (torch.ones(3), ROWS, NEGATIVES, r"^queries must be.*shape \(3,\)"),
        (ROWS, torch.ones(4, 1, 3), NEGATIVES, r"^positives must be.*shape \(4, 1, 3\)"),
        (ROWS, ROWS, None, r"^negatives must be a tensor, got None: without any give torch\.empty\(0, 0\)"),
        (ROWS, ROWS, torch.ones(3), r"^negatives must be.*shape \(3,\)"),
        (ROWS, ROWS, torch.ones(1, 4, 5, 3), r"^negatives must be.*shape \(1, 4, 5, 3\)"),
        (ROWS.long(), ROWS, NEGATIVES, r"^queries.*torch\.int64"),
        (ROWS, ROWS, NEGATIVES.long(), r"^negatives.*torch\.int64"),
        (ROWS, torch.ones(2, 3), NEGATIVES, "4 queries came with 2 positives"),
        (ROWS, ROWS, torch.ones(2, 5, 3), "4 queries came with negatives of 2"),
        (ROWS, torch.ones(4, 2), NEGATIVES, "3 dimensions.*positives of 2"),
        (ROWS, ROWS, torch.ones(5, 2), "3 dimensions.*negatives of 2"),
        (ROWS * math.nan, ROWS, NEGATIVES, "4 of 4 queries hold NaN"),
        (ROWS, ROWS, torch.full((4, 5, 3), math.inf), "20 of 20 negatives hold NaN or infinity"),
    ],
)
def test_what_cannot_be_compared_is_refused(query: Tensor, positive: Tensor, negatives: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        InfoNCELoss()(query, positive, negatives)


@pytest.mark.parametrize("kind", [InfoNCELoss, NCELoss])
def test_an_argument_out_of_range_is_named(kind: Any) -> None:
    with pytest.raises(InputError, match="temperature is 0"):
        kind(0)
    with pytest.raises(InputError, match="temperature must be a finite number, got inf"):
        kind(math.inf)
    with pytest.raises(InputError, match="reduction is 'median'"):
        kind(reduction="median")
    assert repr(kind(0.5)) == f"{kind.__name__}(temperature=0.5, reduction='mean')"


# Negatives of the batch


@LOSSES
@pytest.mark.parametrize("remembered", [False, True])
def test_in_batch_negatives_agree_with_a_naive_loop(loss: QueryLoss, remembered: bool) -> None:
    embeddings, labels = batch(11, identities=4)
    extra = memory() if remembered else ()
    identities = torch.cat([labels, *extra[1:]]).tolist()
    rows = range(len(identities))
    expected = naive_items(
        loss,
        torch.cat([embeddings, *extra[:1]]),
        [
            (i, p, [n for n in rows if identities[n] != identities[i]])
            for i in range(11)
            for p in rows
            if p != i and identities[p] == identities[i]
        ],
    )
    in_batch = InBatchNegatives(loss)
    torch.testing.assert_close(in_batch.items(embeddings, labels, None, *extra), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(in_batch(embeddings, labels, None, *extra), expected.mean(), rtol=0, atol=1e-12)


@LOSSES
@pytest.mark.parametrize(
    ("tuples", "named"),
    [
        (PAIRS, [(0, 3, [1, 11]), (2, 8, []), (3, 0, [10]), (4, 9, []), (8, 2, [])]),  # 9 is a reference: no anchor
        (TRIPLETS, [(0, 3, [12]), (4, 9, [5])]),
    ],
    ids=["pairs", "triplets"],
)
def test_given_tuples_agree_with_a_naive_loop(
    loss: QueryLoss, tuples: Pairs | Triplets, named: list[tuple[int, int, list[int]]]
) -> None:
    (embeddings, labels), extra = batch(), memory()
    expected = naive_items(loss, torch.cat([embeddings, extra[0]]), named)
    items = InBatchNegatives(loss).items(embeddings, labels, tuples, *extra)
    torch.testing.assert_close(items, expected, rtol=0, atol=1e-12)


@LOSSES
def test_all_pairs_are_everything(loss: QueryLoss) -> None:
    embeddings, labels = batch(600, identities=150)
    in_batch = InBatchNegatives(loss)
    listed = in_batch(embeddings, labels, AllPairs()(embeddings, labels))
    torch.testing.assert_close(listed, in_batch(embeddings, labels), rtol=0, atol=1e-12)


def test_info_nce_in_a_batch_is_the_nt_xent_of_pytorch_metric_learning() -> None:
    embeddings, labels = batch(12)
    embeddings.requires_grad_()
    ours = InBatchNegatives(InfoNCELoss(0.1))(embeddings, labels)
    peer = theirs.NTXentLoss(0.1)(embeddings, labels)
    torch.testing.assert_close(ours, peer, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient(ours, embeddings), gradient(peer, embeddings), rtol=0, atol=1e-12)


def test_info_nce_in_a_large_batch_of_two_views_is_torchs_cross_entropy() -> None:
    embeddings, labels = batch(1200, identities=600)  # two bands
    embeddings.requires_grad_()
    logits = functional.normalize(embeddings) @ functional.normalize(embeddings).T / 0.1
    expected = functional.cross_entropy(logits.fill_diagonal_(-torch.inf), (torch.arange(1200) + 600) % 1200)
    value = InBatchNegatives(InfoNCELoss(0.1))(embeddings, labels)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(value, embeddings), gradient(expected, embeddings), rtol=1e-9, atol=1e-14)


@LOSSES
@pytest.mark.parametrize("tuples", [None, PAIRS, TRIPLETS], ids=["everything", "pairs", "triplets"])
def test_gradient_in_a_batch_is_right_with_identical_embeddings(
    loss: QueryLoss, tuples: Pairs | Triplets | None
) -> None:
    (embeddings, labels), (references, reference_labels) = batch(), memory()
    embeddings[1] = embeddings[0]  # an impostor pair
    embeddings[8] = embeddings[2]  # a genuine pair
    in_batch = InBatchNegatives(loss)
    leaves = (embeddings.requires_grad_(), references.requires_grad_())
    assert torch.autograd.gradcheck(lambda z, r: in_batch(z, labels, tuples, r, reference_labels), leaves)


def test_identical_embeddings_leave_the_choice_to_chance() -> None:
    embeddings = torch.ones(6, 4, requires_grad=True)
    value = InBatchNegatives(InfoNCELoss(0.07))(embeddings, torch.arange(6) % 3)
    assert value.item() == pytest.approx(math.log(1 + 4), rel=1e-6)
    assert gradient(value, embeddings).isfinite().all()


@pytest.mark.parametrize("reduction", ["mean", "mean_nonzero", "sum", "none"])
def test_the_reduction_is_that_of_the_query_loss(reduction: Any) -> None:
    embeddings, labels = batch()
    loss = InBatchNegatives(InfoNCELoss(reduction=reduction))
    items = loss.items(embeddings, labels)
    expected = {"mean": items.mean(), "mean_nonzero": items[items > 0].mean(), "sum": items.sum(), "none": items}
    torch.testing.assert_close(loss(embeddings, labels), expected[reduction])


def test_a_loss_over_batches_is_refused() -> None:
    wrapped: Any = InBatchNegatives(InfoNCELoss())
    with pytest.raises(InputError, match=r"objective is of type InBatchNegatives.*InfoNCELoss"):
        InBatchNegatives(wrapped)
