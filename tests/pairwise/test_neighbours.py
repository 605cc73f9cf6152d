"""The search for the nearest directions: whatever products round to, exact ones decide, and then the lower key."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.pairwise import neighbors as neighbours
from siamese_verify.pairwise.neighbors import nearest_directions, stand_ins, tiles

DIMENSIONS = 5
SIZES = [(1, 4), (7, 16), (16, 1 << 19), (2048, 1 << 19)]  # rows of a tile, candidates that are not sorted yet


@pytest.fixture(params=SIZES, ids=lambda size: f"tiles of {size[0]}")
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    side, waiting = request.param
    monkeypatch.setattr(neighbours, "SIDE", side)
    monkeypatch.setattr(neighbours, "WAITING", waiting)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows)


def spread(count: int, seed: int = 0) -> Tensor:
    return unit(torch.randn(count, DIMENSIONS, generator=generator(seed)))


def whole(count: int, seed: int = 0) -> Tensor:
    """Few products, exact in any order: ties everywhere, among the same rows and among others."""
    return torch.randint(-1, 2, (count, DIMENSIONS), generator=generator(seed)).float()


def repeated(count: int, seed: int = 0) -> Tensor:
    return spread(3, 9)[torch.randint(3, (count,), generator=generator(seed))]


def collapsed(count: int, seed: int = 0) -> Tensor:
    """Rows so close together that float32 products can't tell who is nearer."""
    return unit(1 + 1e-5 * torch.randn(count, DIMENSIONS, generator=generator(seed)))


def identical(count: int, seed: int = 0) -> Tensor:
    return unit(torch.ones(count, DIMENSIONS))


KINDS = [spread, whole, repeated, collapsed, identical]
Kind = Callable[..., Tensor]


def naive(queries: Tensor, keys: Tensor, count: int, own: Tensor | None = None) -> list[list[int]]:
    found = []
    columns = keys.double().tolist()
    for number, query in enumerate(queries.double().tolist()):
        product = [sum(a * b for a, b in zip(query, key, strict=True)) for key in columns]
        others = [key for key in range(len(columns)) if own is None or key != int(own[number])]
        found.append(sorted(others, key=lambda key: (-product[key], key))[:count])
    return found


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("count", [1, 3, 12, 99])
@pytest.mark.parametrize("rows_of", KINDS)
def test_a_set_in_itself_has_the_neighbours_of_a_naive_loop(rows_of: Kind, count: int) -> None:
    rows, own = rows_of(45), torch.arange(45)
    assert nearest_directions(rows, rows, count, own).tolist() == naive(rows, rows, count, own)
    assert nearest_directions(rows, rows, count).tolist() == naive(rows, rows, count)


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("count", [1, 3, 99])
@pytest.mark.parametrize("rows_of", KINDS)
def test_two_sets_have_the_neighbours_of_a_naive_loop(rows_of: Kind, count: int) -> None:
    queries, keys = rows_of(30, 1), rows_of(41, 2)
    own = torch.randint(41, (30,), generator=generator(3))
    assert nearest_directions(queries, keys, count, own).tolist() == naive(queries, keys, count, own)
    assert nearest_directions(queries, keys, count).tolist() == naive(queries, keys, count)


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("rows_of", KINDS)
def test_a_set_in_itself_is_searched_like_two_sets(rows_of: Kind) -> None:
    rows, own = rows_of(40), torch.arange(40)
    assert torch.equal(nearest_directions(rows, rows, 4, own), nearest_directions(rows, rows.clone(), 4, own))
    turned = own.flip(0)  # nobody is his own key
    assert nearest_directions(rows, rows, 4, turned).tolist() == naive(rows, rows, 4, turned)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("rows_of", [spread, whole, collapsed])
def test_neither_tiles_nor_threads_change_the_result(rows_of: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, own = rows_of(300), torch.arange(300)
    found = []
    for side, waiting in [(2048, 1 << 19), (128, 1000), (37, 1 << 19)]:
        monkeypatch.setattr(neighbours, "SIDE", side)
        monkeypatch.setattr(neighbours, "WAITING", waiting)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(nearest_directions(rows, rows, 10, own))
    assert all(torch.equal(other, found[0]) for other in found[1:])


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("precision_of_products", ["high", "medium"])
@pytest.mark.parametrize("rows_of", [spread, collapsed])
def test_less_precise_products_change_nothing(rows_of: Kind, precision_of_products: str) -> None:
    rows, own = rows_of(200), torch.arange(200)
    expected = nearest_directions(rows, rows, 5, own)
    torch.set_float32_matmul_precision(precision_of_products)
    assert torch.equal(nearest_directions(rows, rows, 5, own), expected)


def test_rows_too_close_for_float32_are_searched_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "SIDE", 32)
    monkeypatch.setattr(neighbours, "WAITING", 64)
    used = []
    start = neighbours._Search.__init__

    def noted(self: neighbours._Search, queries: Tensor, keys: Tensor, count: int) -> None:
        used.append(keys.dtype)
        start(self, queries, keys, count)

    monkeypatch.setattr(neighbours._Search, "__init__", noted)
    for rows in (spread(300), collapsed(300)):
        nearest_directions(rows, rows, 2)
    assert used == [torch.float32, torch.float32, torch.float64]


@pytest.mark.parametrize("rows_of", [identical, whole, collapsed])
@pytest.mark.parametrize("precise", [torch.float32, torch.float64])
def test_ties_never_make_many_candidates_wait(
    rows_of: Kind, precise: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "SIDE", 64)
    monkeypatch.setattr(neighbours, "WAITING", 256)
    most = 0
    look = neighbours._Search.look

    def noted(self: neighbours._Search, query: Tensor, key: Tensor, value: Tensor) -> None:
        nonlocal most
        look(self, query, key, value)
        most = max(most, self.kept + self.pending)

    monkeypatch.setattr(neighbours._Search, "look", noted)
    rows = rows_of(600).to(precise)
    nearest_directions(rows, rows, 3, torch.arange(600))
    kept = 2 * 600 * 3 + 256  # beyond it ties are decided
    assert most <= 2 * kept + 2 * 256  # of 360,000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_give_the_neighbours_of_what_they_hold(dtype: torch.dtype) -> None:
    rows, own = spread(50).to(dtype), torch.arange(50)
    assert nearest_directions(rows, rows, 4, own).tolist() == naive(rows, rows, 4, own)
    assert nearest_directions(rows, spread(20, 1), 4).tolist() == naive(rows, spread(20, 1), 4)


def test_float64_tells_apart_what_is_one_in_float32() -> None:
    rows = torch.tensor([[1.0, 0.0], [1 - 1e-12, 0.0], [1 - 1e-13, 0.0]], dtype=torch.float64)
    assert nearest_directions(rows, rows, 2, torch.arange(3)).tolist() == [[2, 1], [0, 2], [0, 1]]


def test_rows_need_not_lie_next_to_one_another() -> None:
    rows = torch.randn(DIMENSIONS, 60, generator=generator(0)).T[::2]
    assert not rows.is_contiguous()
    assert nearest_directions(rows, rows, 4, torch.arange(30)).tolist() == naive(rows, rows, 4, torch.arange(30))


def test_rows_are_left_as_they_are() -> None:
    rows = spread(40)
    before = rows.clone()
    nearest_directions(rows.requires_grad_(), rows, 4, torch.arange(40))
    assert torch.equal(rows, before)


@pytest.mark.parametrize(
    ("queries", "keys", "count", "excluded", "shape"),
    [
        (0, 0, 4, False, (0, 0)),
        (0, 0, 4, True, (0, 0)),
        (0, 3, 4, False, (0, 3)),
        (3, 0, 4, False, (3, 0)),
        (1, 1, 4, True, (1, 0)),
        (1, 1, 4, False, (1, 1)),
        (5, 7, 0, False, (5, 0)),
        (2, 2, 4, True, (2, 1)),
    ],
)
def test_little_to_choose_from_gives_what_there_is(
    queries: int, keys: int, count: int, excluded: bool, shape: tuple[int, int]
) -> None:
    own = torch.zeros(queries, dtype=torch.int64) if excluded else None
    found = nearest_directions(spread(queries), spread(keys), count, own)
    assert tuple(found.shape) == shape
    assert found.dtype == torch.int64


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    rows = spread(6)
    rows[3, 1] = value
    with pytest.raises(InputError, match="NaN or infinity"):
        nearest_directions(rows, rows, 2)
    with pytest.raises(InputError, match="NaN or infinity"):
        nearest_directions(rows, spread(6), 2)


def test_only_rows_with_enough_identical_ones_before_them_have_a_stand_in() -> None:
    rows = spread(3)[[0, 1, 0, 0, 2, 0, 1, 0]]
    found = stand_ins(rows, 2)
    assert found is not None
    assert found.tolist() == [0, 1, 2, 2, 4, 2, 6, 2]
    assert stand_ins(rows, 5) is None


def test_rows_with_the_same_mark_are_not_taken_for_identical() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 1e-30]], dtype=torch.float64)[[0, 1, 0, 1, 0]]  # the mark is rounded
    assert stand_ins(rows, 1) is None
    assert nearest_directions(rows, rows, 1, torch.arange(5)).tolist() == [[1], [0], [0], [0], [0]]


@pytest.mark.parametrize("count", [1, 6, 7, 13, 25])
def test_tiles_hold_each_two_rows_of_a_set_once(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "SIDE", 4)
    met = torch.zeros(count, count, dtype=torch.int64)
    for rows, columns, first in tiles(count, count, True):
        assert first == (rows == columns)
        met[rows, columns] += 1
        if not first:
            met[columns, rows] += 1
    assert bool((met == 1).all())
