"""Distances of listed pairs and of blocks against differences in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from siamese_verify.pairwise import Metric, block_distance, row_distance, row_product, unit
from siamese_verify.pairwise.distances import block_cosine, has_exact_products


def rows(count: int, size: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive(a: list[float], b: list[float], metric: Metric) -> float:
    if metric == "cosine":
        return 1 - math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
    return math.dist(a, b) ** (2 if metric == "squared" else 1)


def exact(left: Tensor, right: Tensor) -> Tensor:
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")


ROW, COLUMN = torch.tensor([0, 5, 5, 2, 0]), torch.tensor([3, 0, 1, 2, 3])
METRICS = pytest.mark.parametrize("metric", ["euclidean", "squared", "cosine"])


@METRICS
def test_row_distances_agree_with_a_naive_loop(metric: Metric) -> None:
    left, right = rows(6), rows(4, seed=1)
    expected = [naive(left[a].tolist(), right[b].tolist(), metric) for a, b in zip(ROW, COLUMN, strict=True)]
    measured = row_distance(left, right, ROW, COLUMN, metric)
    torch.testing.assert_close(measured, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-13)
    leaves = left.requires_grad_(), right.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: row_distance(a, b, ROW, COLUMN, metric), leaves)


@METRICS
def test_rows_of_one_set_get_the_gradient_of_both_ends(metric: Metric) -> None:
    leaf, other = rows(6).requires_grad_(), torch.tensor([3, 0, 1, 4, 3])
    assert torch.autograd.gradcheck(lambda z: row_distance(z, z, ROW, other, metric), leaf)


@METRICS
def test_rows_that_are_gathered_one_by_one_agree_with_plain_torch(metric: Metric) -> None:
    wide = rows(6, size=1 << 17).requires_grad_()
    a, b = wide[ROW], wide[torch.tensor([3, 0, 1, 4, 3])]
    expected = {
        "euclidean": (a - b).norm(dim=1),
        "squared": (a - b).square().sum(dim=1),
        "cosine": 1 - torch.nn.functional.cosine_similarity(a, b),
    }[metric]
    measured = row_distance(wide, wide, ROW, torch.tensor([3, 0, 1, 4, 3]), metric)
    torch.testing.assert_close(measured, expected)
    slopes = [torch.autograd.grad(value.square().sum(), wide)[0] for value in (measured, expected)]
    torch.testing.assert_close(*slopes)


def test_the_gradient_at_zero_distance_is_zero() -> None:
    same = torch.ones(2, 3, requires_grad=True)
    for distance in (row_distance(same, same, torch.tensor([0]), torch.tensor([1])), block_distance(same, same + 0)):
        assert not distance.any()
        assert not torch.autograd.grad(distance.sum(), same)[0].any()


def test_products_of_rows_and_their_gradient() -> None:
    left, right = rows(6).requires_grad_(), rows(4, seed=1).requires_grad_()
    torch.testing.assert_close(row_product(left, right, ROW, COLUMN), (left[ROW] * right[COLUMN]).sum(1))
    assert torch.autograd.gradcheck(lambda a, b: row_product(a, b, ROW, COLUMN), (left, right))
    assert torch.autograd.gradcheck(lambda a: row_product(a, a, ROW, COLUMN), left)


@pytest.mark.parametrize("count", [0, 2, 6])
def test_cosines_of_the_first_rows_with_all_and_their_gradient(count: int) -> None:
    z = rows(6).requires_grad_()
    torch.testing.assert_close(block_cosine(z, count), torch.cosine_similarity(z[:count, None], z, dim=2))
    assert torch.autograd.gradcheck(lambda a: block_cosine(a, count), z)
    with_zero = z.detach().index_fill(0, torch.tensor(0), 0).requires_grad_()
    assert not block_cosine(with_zero, count)[:1].any()
    assert torch.autograd.grad(block_cosine(with_zero, count).sum(), with_zero)[0].isfinite().all()


def test_unit_rows_have_length_one_and_the_right_gradient() -> None:
    z = rows(5).requires_grad_()
    torch.testing.assert_close(unit(z), torch.nn.functional.normalize(z))
    assert torch.autograd.gradcheck(unit, z)
    zero = torch.zeros(1, 3, requires_grad=True)
    assert not unit(zero).any()
    assert torch.autograd.grad(unit(zero).sum(), zero)[0].isfinite().all()


def cases() -> dict[str, tuple[Tensor, Tensor]]:
    near = rows(40)
    near[3] = near[1]
    near[4] = near[2] + 1e-9
    few = rows(3)[torch.arange(40) % 3]
    crowded = few + 1e-7 * rows(40, seed=1)
    crowded[::2] = few[::2]
    return {
        "apart": (rows(7), rows(9, seed=1)),
        "some near": (near, near + 0),
        "one cluster": (1000 + 1e-3 * rows(7), 1000 + 1e-3 * rows(5)),
        "three clusters": (crowded, crowded + 0),
        "three values": (few, few[:10]),
        "identical": (torch.ones(4, 3, dtype=torch.float64), torch.ones(3, 3, dtype=torch.float64)),
        "no rows": (rows(0), rows(3)),
    }


@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("case", cases())
def test_block_distances_and_their_gradients_are_those_of_differences(case: str, itself: bool) -> None:
    left, right = (part.requires_grad_() for part in cases()[case])
    others = left if itself else right
    expected, measured = exact(left, others), block_distance(left, None if itself else right)
    torch.testing.assert_close(measured, expected, rtol=1e-7 if case == "one cluster" else 1e-12, atol=1e-15)
    slope = torch.arange(1.0, measured.numel() + 1, dtype=torch.float64).reshape(measured.shape)
    if measured.numel():
        leaves = (left,) if itself else (left, right)
        gradients, plain = (torch.autograd.grad(value, leaves, slope) for value in (measured, expected))
        torch.testing.assert_close(gradients, plain, rtol=1e-6, atol=1e-6)


def test_a_precision_that_torch_cannot_name_is_taken_for_a_low_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed() -> str:
        raise RuntimeError("mix of the legacy and new APIs")  # as after torch.backends.cuda.matmul.fp32_precision = ...

    rows = torch.zeros(2, 3)
    assert has_exact_products(rows)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    assert not has_exact_products(rows)
    assert has_exact_products(rows.double())


@pytest.fixture(params=["highest", "high"])  # with "high", float32 is not multiplied
def precision(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("distance", [1e-6, 1e-4, 1e-2, 0.2, 1.0])
def test_single_precision_keeps_five_digits_at_any_distance(distance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = unit(torch.randn(64, 512, generator=generator))
    others = anchors + distance * unit(torch.randn(64, 512, generator=generator))
    measured = block_distance(anchors, others)
    products = torch.get_float32_matmul_precision() == "high"  # as on a GPU: near pairs too, in float64
    off = 2e-3 if products and distance < 1e-4 else 1e-5
    torch.testing.assert_close(measured.double(), exact(anchors.double(), others.double()), rtol=off, atol=0)
