"""InfoNCELoss, and what all objectives over queries share, against reference values, naive loops and gradcheck."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from siamese_verify.errors import InputError
from siamese_verify.losses.info_nce import InfoNCELoss, NCELoss, QueryObjective, info_nce_loss

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "objectives.json"
LOSSES = pytest.mark.parametrize("loss", [InfoNCELoss(0.3), NCELoss(0.3)], ids=["info_nce", "nce"])
OWN = pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])


@pytest.fixture(scope="module")
def reference() -> Any:
    if not REFERENCE.exists():
        pytest.skip(f"reference values are missing: {REFERENCE}")
    return json.loads(REFERENCE.read_text())


def queries(own: bool, count: int = 5, negatives: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    shape = (count, negatives, 3) if own else (negatives, 3)
    query, positive, others = (
        torch.randn(size, dtype=torch.float64, generator=generator) for size in ((count, 3), (count, 3), shape)
    )
    return query, positive, others


def cosine(a: Tensor, b: Tensor) -> float:
    return math.fsum((a * b).tolist()) / (math.hypot(*a.tolist()) * math.hypot(*b.tolist()))


def gradients(loss: QueryObjective, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    return list(torch.autograd.grad(loss(*leaves), leaves))


def test_the_reference_value_is_met(reference: Any) -> None:
    rows = torch.tensor(reference["embeddings"], dtype=torch.float64)
    expected = reference["values"]["info_nce temperature=0.07 q=rows0-1 pos=rows2-3 neg=rows4-7"]
    for negatives in (rows[4:8], rows[4:8].expand(2, 4, -1)):
        assert InfoNCELoss(0.07)(rows[:2], rows[2:4], negatives).item() == pytest.approx(expected, abs=1e-12)


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


@OWN
def test_it_agrees_with_a_naive_loop(own: bool) -> None:
    query, positive, negatives = queries(own)
    expected = []
    for i in range(5):
        own_negatives = negatives[i] if own else negatives
        genuine = math.exp(cosine(query[i], positive[i]) / 0.3)
        impostors = [math.exp(cosine(query[i], row) / 0.3) for row in own_negatives]
        expected.append(-math.log(genuine / (genuine + math.fsum(impostors))))
    items = InfoNCELoss(0.3, "none")(query, positive, negatives)
    torch.testing.assert_close(items, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    for reduction, value in (("mean", items.mean()), ("mean_active", items.mean()), ("sum", items.sum())):
        assert InfoNCELoss(0.3, reduction)(query, positive, negatives) == value  # type: ignore[arg-type]


def test_the_pure_function_is_a_cross_entropy_of_logits() -> None:
    logits = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(40).requires_grad_()
    ours = info_nce_loss(logits[:, 0], logits[:, 1:])
    theirs = functional.cross_entropy(logits, torch.zeros(6, dtype=torch.int64), reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    slopes = [torch.autograd.grad(items.sum(), logits)[0] for items in (ours, theirs)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-12)


def test_a_tiny_loss_keeps_its_digits() -> None:
    item = info_nce_loss(torch.tensor([100.0], dtype=torch.float64), torch.tensor([[0.0]], dtype=torch.float64))
    assert item.item() == pytest.approx(math.exp(-100), rel=1e-12)


def test_absent_negatives_add_nothing_and_have_no_gradient() -> None:
    positive = torch.tensor([1.0, 1.0, -500.0], requires_grad=True)
    negatives = torch.tensor([[2.0, -torch.inf], [-torch.inf, -torch.inf], [-torch.inf, -torch.inf]]).requires_grad_()
    items = info_nce_loss(positive, negatives)
    to_positive, to_negatives = torch.autograd.grad(items.sum(), (positive, negatives))
    assert items.tolist() == [pytest.approx(math.log1p(math.e)), 0, 0]
    share = math.e / (1 + math.e)
    assert to_positive.tolist() == [pytest.approx(-share), 0, 0]
    assert to_negatives.tolist() == [[pytest.approx(share), 0], [0, 0], [0, 0]]


@LOSSES
@OWN
def test_gradient_is_right_with_identical_embeddings_too(loss: QueryObjective, own: bool) -> None:
    query, positive, negatives = queries(own)
    positive[1] = query[1]
    negatives[..., 0, :] = query[2]
    tensors = [tensor.requires_grad_() for tensor in (query, positive, negatives)]
    assert torch.autograd.gradcheck(loss, tensors)


@LOSSES
@OWN
def test_many_bands_give_what_one_gives(loss: QueryObjective, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = queries(own, count=9)
    value, slopes = loss(*tensors), gradients(loss, tensors)
    monkeypatch.setattr("siamese_verify.pairwise.blocks.SIDE", 2)  # 4 rows of 4, or 1 row of 4 x 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(*tensors), value, rtol=0, atol=1e-14)
        torch.testing.assert_close(gradients(loss, tensors), slopes, rtol=0, atol=1e-14)


@LOSSES
def test_no_matrix_of_logits_outlives_its_band(loss: QueryObjective, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamese_verify.pairwise.blocks.SIDE", 16)
    tensors = [tensor.requires_grad_() for tensor in queries(False, count=300, negatives=200)]
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(*tensors)
    assert 0 < max(kept) <= 300 * 3


@LOSSES
@OWN
@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum", "none"])
@pytest.mark.parametrize(("count", "negatives"), [(0, 4), (5, 0), (0, 0), (1, 1)])
def test_without_queries_or_negatives_the_value_and_gradient_are_defined(
    loss: QueryObjective, own: bool, reduction: Any, count: int, negatives: int
) -> None:
    leaves = [tensor.requires_grad_() for tensor in queries(own, count, negatives)]
    value = type(loss)(0.3, reduction)(*leaves)
    assert value.shape == ((count,) if reduction == "none" else ())
    value.sum().backward()
    assert value.isfinite().all()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)
    if count == 0 or (negatives == 0 and isinstance(loss, InfoNCELoss)):
        assert not value.any()
        assert not any(leaf.grad.any() for leaf in leaves if leaf.grad is not None)


@LOSSES
@OWN
def test_rows_of_zeros_have_cosine_zero_and_a_finite_gradient(loss: QueryObjective, own: bool) -> None:
    leaves = [torch.zeros_like(tensor).requires_grad_() for tensor in queries(own)]
    value = loss(*leaves)
    value.backward()
    assert value.item() == pytest.approx(math.log(5) if isinstance(loss, InfoNCELoss) else 5 * math.log(2))
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


@LOSSES
@OWN
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single_and_returned_in_its_own(
    loss: QueryObjective, own: bool, dtype: torch.dtype
) -> None:
    tensors = tuple(tensor.to(dtype) for tensor in queries(own))
    value = loss(*tensors)
    assert value.dtype == dtype
    assert value == loss(*(tensor.float() for tensor in tensors)).to(dtype)
    assert [slope.dtype for slope in gradients(loss, tensors)] == [dtype] * 3


@LOSSES
def test_autocast_changes_nothing(loss: QueryObjective) -> None:
    tensors = [tensor.float() for tensor in queries(False)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(*tensors)
    assert inside == loss(*tensors)


@LOSSES
@OWN
def test_the_memory_layout_does_not_matter(loss: QueryObjective, own: bool) -> None:
    tensors = queries(own)
    scattered = [torch.stack([tensor, tensor], dim=-2)[..., 0, :].mT.contiguous().mT for tensor in tensors]
    assert not scattered[0].is_contiguous()
    torch.testing.assert_close(loss(*scattered), loss(*tensors), rtol=1e-14, atol=0)


@LOSSES
@OWN
def test_nothing_waits_for_a_gpu(loss: QueryObjective, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamese_verify.pairwise.blocks.SIDE", 2)
    with FakeTensorMode():  # raises where a value is asked for
        loss(*(torch.empty(tensor.shape, device="cuda") for tensor in queries(own)))
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for `meta`
        leaves = [torch.empty(tensor.shape, device="meta", requires_grad=True) for tensor in queries(own)]
        loss(*leaves).backward()  # on `meta`, as a build without CUDA has no backward pass for it


ROWS, NEGATIVES = torch.ones(4, 3), torch.ones(5, 3)


@pytest.mark.parametrize(
    ("query", "positive", "negatives", "message"),
    [
        (torch.ones(3), ROWS, NEGATIVES, r"^queries must be.*shape \(3,\)"),
        (ROWS, torch.ones(4, 1, 3), NEGATIVES, r"^positives must be.*shape \(4, 1, 3\)"),
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
def test_what_cannot_be_compared_is_refused(query: Tensor, positive: Tensor, negatives: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        InfoNCELoss()(query, positive, negatives)


@pytest.mark.parametrize("kind", [InfoNCELoss, NCELoss])
def test_an_argument_out_of_range_is_named(kind: Any) -> None:
    with pytest.raises(InputError, match="temperature is 0"):
        kind(0)
    with pytest.raises(InputError, match="reduction is 'median'"):
        kind(reduction="median")
    assert repr(kind(0.5)) == f"{kind.__name__}(temperature=0.5, reduction='mean')"
