"""Distances of chosen rows and of tiles against differences in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from siamese_verify.pairwise import DistanceTile, Metric, Spread, row_distance, row_product, unit
from siamese_verify.pairwise import blocks as tiles
from siamese_verify.pairwise import distances as distance_module


def rows(count: int, dimensions: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive(a: list[float], b: list[float], metric: Metric) -> float:
    if metric == "cosine":
        return 1 - math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
    return math.dist(a, b) ** (2 if metric == "squared" else 1)


@pytest.mark.parametrize("gathered", [1, 12, 1 << 18])  # rows are gathered one by one, two by two, all at once
@pytest.mark.parametrize("metric", ["euclidean", "squared", "cosine"])
def test_row_distances_agree_with_a_naive_loop(metric: Metric, gathered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance_module, "GATHERED", gathered)
    left, right = rows(6), rows(4, seed=1)
    i, j = torch.tensor([0, 5, 5, 2, 0]), torch.tensor([3, 0, 1, 2, 3])
    expected = [naive(left[a].tolist(), right[b].tolist(), metric) for a, b in zip(i, j, strict=True)]
    measured = row_distance(left, right, i, j, metric)
    torch.testing.assert_close(measured, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(
        lambda a, b: row_distance(a, b, i, j, metric), (left.requires_grad_(), right.requires_grad_())
    )


@pytest.mark.parametrize("metric", ["euclidean", "squared", "cosine"])
@pytest.mark.parametrize("gathered", [1, 1 << 18])
def test_rows_of_one_set_get_the_gradient_of_both_ends(
    metric: Metric, gathered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance_module, "GATHERED", gathered)
    i, j = torch.tensor([0, 5, 5, 2, 0]), torch.tensor([3, 0, 1, 4, 3])
    assert torch.autograd.gradcheck(lambda z: row_distance(z, z, i, j, metric), rows(6).requires_grad_())


def test_the_gradient_at_zero_distance_is_zero() -> None:
    same = torch.ones(2, 3, requires_grad=True)
    row_distance(same, same, torch.tensor([0]), torch.tensor([1])).sum().backward()  # type: ignore[no-untyped-call]
    assert same.grad is not None
    assert not same.grad.any()


def test_products_of_rows_and_their_gradient() -> None:
    left, right = rows(6).requires_grad_(), rows(4, seed=1).requires_grad_()
    i, j = torch.tensor([0, 5, 5]), torch.tensor([3, 0, 1])
    torch.testing.assert_close(row_product(left, right, i, j), (left[i] * right[j]).sum(1))
    assert torch.autograd.gradcheck(lambda a, b: row_product(a, b, i, j), (left, right))
    assert torch.autograd.gradcheck(lambda a: row_product(a, a, i, j.clamp(max=3)), left)


def test_unit_rows_have_length_one_and_the_right_gradient() -> None:
    z = rows(5).requires_grad_()
    torch.testing.assert_close(unit(z), torch.nn.functional.normalize(z))
    assert torch.autograd.gradcheck(unit, z)


def test_a_row_of_zeros_stays_and_gets_a_finite_gradient() -> None:
    z = torch.zeros(1, 3, requires_grad=True)
    directions = unit(z)
    directions.sum().backward()  # type: ignore[no-untyped-call]
    assert not directions.any()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def cases() -> dict[str, tuple[Tensor, Tensor]]:
    spread = rows(7)
    near = spread.clone()
    near[3] = near[1]
    near[4] = near[2] + 1e-9
    clustered = 1000 + 1e-3 * rows(7)
    return {
        "apart": (spread, rows(9, seed=1)),
        "some near": (near, near),
        "one cluster": (clustered, clustered[:5]),
        "identical": (torch.ones(4, 3, dtype=torch.float64), torch.ones(3, 3, dtype=torch.float64)),
    }


def measure(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    centre = right.mean(dim=0)
    tile = DistanceTile(Spread.around(left, centre), Spread.around(right, centre))
    values = tile.values.clone()
    to_left, to_right = torch.zeros_like(left), torch.zeros_like(right)
    slope = torch.arange(1.0, values.numel() + 1, dtype=values.dtype).reshape(values.shape)
    tile.pull(slope, to_left, to_right)
    return values, to_left, to_right


@pytest.mark.parametrize("way", ["products", "few near", "differences"])
@pytest.mark.parametrize("case", cases())
def test_a_tile_holds_exact_distances_and_gradients(case: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = cases()[case]
    if way == "differences":
        monkeypatch.setattr(tiles, "expands", lambda rows: False)
    elif way == "few near":
        monkeypatch.setattr(tiles, "CROWDED", 1.0)  # however many are near, each is measured by itself
    values, to_left, to_right = measure(left, right)
    difference = left[:, None] - right  # (n,m,D)
    expected = difference.square().sum(2).sqrt()
    torch.testing.assert_close(values, expected, rtol=1e-7 if case == "one cluster" else 1e-12, atol=1e-15)
    slope = torch.arange(1.0, values.numel() + 1, dtype=values.dtype).reshape(values.shape)
    weight = torch.where(expected > 0, slope / expected, 0)[:, :, None] * difference
    torch.testing.assert_close(to_left, weight.sum(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(to_right, -weight.sum(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("distance", [1e-6, 1e-4, 1e-2, 0.2, 1.0])
def test_single_precision_keeps_five_digits_at_any_distance(distance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = unit(torch.randn(64, 512, generator=generator))
    others = anchors + distance * unit(torch.randn(64, 512, generator=generator))
    values, *_ = measure(anchors, others)
    exact = torch.cdist(anchors.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(values.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 1500])
def test_steps_and_bands_cover_every_row_once(count: int) -> None:
    cpu = torch.device("cpu")
    assert [row for part in tiles.steps(count, cpu) for row in range(count)[part]] == list(range(count))
    assert [row for part in tiles.bands(count, 10_000) for row in range(count)[part]] == list(range(count))
    edges = [part.start for part in tiles.steps(count, cpu)]
    for first in edges:
        assert [part.start for part in tiles.steps(count, cpu, first)] == [edge for edge in edges if edge >= first]
