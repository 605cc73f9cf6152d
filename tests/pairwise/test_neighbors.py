"""Nearest neighbors: whatever products round to, exact ones decide, and then the lower key."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.pairwise import neighbors
from siamese_verify.pairwise.neighbors import nearest_neighbors

DIMENSIONS = 5
Kind = Callable[..., Tensor]


@pytest.fixture
def threads_and_precision() -> Iterator[None]:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows)


def random(count: int, seed: int = 0) -> Tensor:
    return unit(torch.randn(count, DIMENSIONS, generator=generator(seed)))


def whole(count: int, seed: int = 0) -> Tensor:
    """Few products, exact in any order: ties everywhere, among the same rows and among others."""
    return torch.randint(-1, 2, (count, DIMENSIONS), generator=generator(seed)).float()


def repeated(count: int, seed: int = 0) -> Tensor:
    return random(3, 9)[torch.randint(3, (count,), generator=generator(seed))]


def collapsed(count: int, seed: int = 0) -> Tensor:
    """Rows so close together that float32 products cannot tell which is nearer."""
    return unit(1 + 1e-5 * torch.randn(count, DIMENSIONS, generator=generator(seed)))


def identical(count: int, seed: int = 0) -> Tensor:
    return unit(torch.ones(count, DIMENSIONS))


def nearly_identical(count: int, seed: int = 0) -> Tensor:
    """Two rows in turn whose difference is lost in a sum of their entries."""
    return torch.tensor([[1.0, 0.0], [1.0, 1e-30]], dtype=torch.float64)[torch.arange(count) % 2]


KINDS = [random, whole, repeated, collapsed, identical, nearly_identical]


def naive(queries: Tensor, keys: Tensor | None, count: int) -> list[list[int]]:
    found = []
    columns = (queries if keys is None else keys).double().tolist()
    for number, query in enumerate(queries.double().tolist()):
        product = [sum(a * b for a, b in zip(query, key, strict=True)) for key in columns]
        others = [key for key in range(len(columns)) if keys is not None or key != number]
        found.append(sorted(others, key=lambda key: (-product[key], key))[:count])
    return found


@pytest.mark.parametrize("size", [1, 7, 16, 2048])
@pytest.mark.parametrize("count", [1, 3, 12, 99])
@pytest.mark.parametrize("rows_of", KINDS)
def test_neighbors_are_those_of_a_naive_loop(rows_of: Kind, count: int, size: int) -> None:
    rows, queries, keys = rows_of(45), rows_of(30, 1), rows_of(41, 2)
    assert nearest_neighbors(rows, None, count, size).tolist() == naive(rows, None, count)
    assert nearest_neighbors(rows, rows, count, size).tolist() == naive(rows, rows, count)
    assert nearest_neighbors(queries, keys, count, size).tolist() == naive(queries, keys, count)


@pytest.mark.usefixtures("threads_and_precision")
@pytest.mark.parametrize("rows_of", [random, whole, collapsed])
def test_neither_blocks_nor_threads_nor_less_precise_products_change_the_result(rows_of: Kind) -> None:
    rows = rows_of(300)
    expected = nearest_neighbors(rows, None, 10)
    for size, threads, precision in [(128, 1, "highest"), (37, 2, "highest"), (128, 2, "high"), (37, 1, "medium")]:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        assert torch.equal(nearest_neighbors(rows, None, 10, size), expected)


@pytest.mark.parametrize("precise", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows_of", KINDS)
def test_many_ties_in_small_blocks(rows_of: Kind, precise: torch.dtype) -> None:
    rows = rows_of(600).to(precise)
    similarity = (rows.double()[:, None] * rows.double()).sum(dim=2).fill_diagonal_(-torch.inf)
    expected = similarity.sort(dim=1, descending=True, stable=True).indices[:, :3]
    assert torch.equal(nearest_neighbors(rows, None, 3, size=64), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_give_the_neighbors_of_what_they_hold(dtype: torch.dtype) -> None:
    rows = random(50).to(dtype)
    assert nearest_neighbors(rows, None, 4).tolist() == naive(rows, None, 4)
    assert nearest_neighbors(rows, random(20, 1), 4).tolist() == naive(rows, random(20, 1), 4)


def test_float64_tells_apart_what_is_one_in_float32() -> None:
    rows = torch.tensor([[1.0, 0.0], [1 - 1e-12, 0.0], [1 - 1e-13, 0.0]], dtype=torch.float64)
    assert nearest_neighbors(rows, None, 2).tolist() == [[2, 1], [0, 2], [0, 1]]


def test_rows_may_be_strided_and_are_left_as_they_are() -> None:
    rows = torch.randn(DIMENSIONS, 60, generator=generator(0)).T[::2]
    before = rows.clone()
    assert nearest_neighbors(rows.requires_grad_(), None, 4).tolist() == naive(before, None, 4)
    assert torch.equal(rows, before)


@pytest.mark.parametrize(
    ("queries", "keys", "count", "shape"),
    [
        (0, None, 4, (0, 0)),
        (0, 3, 4, (0, 3)),
        (3, 0, 4, (3, 0)),
        (1, None, 4, (1, 0)),
        (1, 1, 4, (1, 1)),
        (5, 7, 0, (5, 0)),
        (2, None, 4, (2, 1)),
    ],
)
def test_where_there_are_few_keys_all_are_returned(
    queries: int, keys: int | None, count: int, shape: tuple[int, int]
) -> None:
    found = nearest_neighbors(random(queries), None if keys is None else random(keys), count)
    assert tuple(found.shape) == shape
    assert found.dtype == torch.int64


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_are_refused(value: float) -> None:
    rows = random(6)
    rows[3, 1] = value
    for queries, keys in ((rows, None), (rows, random(6)), (random(6), rows)):
        with pytest.raises(InputError, match="NaN or infinity"):
            nearest_neighbors(queries, keys, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3, 12])
@pytest.mark.parametrize("size", [7, 8192])
def test_neighbors_by_tiles_are_the_same(kind: Kind, count: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, queries, keys = kind(40), kind(11, 1), kind(40, 2)
    expected = [naive(rows, None, count), naive(queries, keys, count)]
    monkeypatch.setattr(neighbors, "fused", lambda _: True)
    monkeypatch.setattr(neighbors._by_tiles, "__defaults__", (size,))
    found = [nearest_neighbors(rows, None, count), nearest_neighbors(queries, keys, count)]
    assert [each.tolist() for each in found] == expected


def test_neighbors_by_tiles_are_decided_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "fused", lambda _: True)
    monkeypatch.setattr(neighbors._TopK, "search", lambda *_: pytest.fail("searched block by block"))
    assert nearest_neighbors(random(300), None, 5).tolist() == naive(random(300), None, 5)
