"""Nearest negatives: whatever matrix products round to, exact distances decide."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from siamese_verify.pairwise.nearest import (
    ComparedRows,
    Distances,
    check_compared,
    nearest_negative_pairs,
    nearest_negatives,
)

GRID = 1 / 1024  # differences of such numbers, and sums of their squares, are exact in float32: ties are ties
NUMBERS = [1, 100, 1 << 20]  # distances held at once: one row, a few, all
DIMENSIONS = 8


def close_rows(kind: str, count: int, seed: int) -> Tensor:
    """Rows that differ by a thousandth of their length; `two centers` are so far apart that no shift helps."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(-9, 10, (count, DIMENSIONS), generator=generator) * GRID
    side = torch.randint(2, (count, 1), generator=generator) * 2 - 1 if kind == "two centers" else 1
    return small + 8.0 * side


def identities(count: int, seed: int, number: int = 4) -> Tensor:
    return torch.randint(number, (count,), generator=torch.Generator().manual_seed(seed + 100))


def example(kind: str, references: bool) -> ComparedRows:
    if references:
        return check_compared(close_rows(kind, 21, 0), identities(21, 0), close_rows(kind, 34, 1), identities(34, 1))
    return check_compared(close_rows(kind, 40, 2), identities(40, 2), None, None)


def naive(
    compared: ComparedRows,
    anchor: Tensor,
    inner: Tensor | None = None,
    outer: Tensor | None = None,
    squared: bool = False,
) -> list[int]:
    rows, labels = compared.rows.tolist(), compared.labels.tolist()
    columns, others = compared.columns.tolist(), compared.column_labels.tolist()
    above = [-math.inf] * len(anchor) if inner is None else inner.tolist()
    below = [math.inf] * len(anchor) if outer is None else outer.tolist()
    chosen = []
    for a, low, high in zip(anchor.tolist(), above, below, strict=True):
        within = {}
        for c in range(len(columns)):
            d = sum((x - y) ** 2 for x, y in zip(rows[a], columns[c], strict=True))
            d = float(np.float32(d if squared else math.sqrt(d)))
            if others[c] != labels[a] and low < d < high:
                within[c] = d
        chosen.append(min(within, key=lambda c: within[c], default=-1))  # the first of equals
    return chosen


def naive_pairs(compared: ComparedRows, count: int) -> list[tuple[int, int]]:
    negatives = [
        (float(np.float32(sum((x - y) ** 2 for x, y in zip(row, compared.columns[j].tolist(), strict=True)))), i, j)
        for i, row in enumerate(compared.rows.tolist())
        for j in range(i + 1 if compared.itself else 0, len(compared.columns))
        if compared.labels[i] != compared.column_labels[j]
    ]
    return [(i, j) for _, i, j in sorted(negatives)[:count]]


def found_pairs(compared: ComparedRows, count: int, numbers: int = 1 << 20) -> list[tuple[int, int]]:
    return list(zip(*(part.tolist() for part in nearest_negative_pairs(compared, count, numbers)), strict=True))


@pytest.mark.parametrize("precision", ["highest", "high"])  # with less precision products are not used
@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("kind", ["one center", "two centers"])
def test_exact_distances_decide(kind: str, references: bool, numbers: int, precision: str) -> None:
    compared = example(kind, references)
    everyone = torch.arange(len(compared.rows))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert nearest_negatives(compared, everyone, numbers=numbers).tolist() == naive(compared, everyone)
        for count in (0, 1, 30, 10_000):
            assert found_pairs(compared, count, numbers) == naive_pairs(compared, count)
        for repeats in (3, 12):  # many queries of a row are answered by sorting
            anchor = everyone[1::2].repeat_interleave(repeats)
            inner = torch.arange(len(anchor)) % 13 * 4 * GRID
            for squared, low, width in ((False, inner, 8 * GRID), (True, inner.square(), (40 * GRID) ** 2)):
                expected = naive(compared, anchor, low, low + width, squared)
                assert nearest_negatives(compared, anchor, low, low + width, squared, numbers).tolist() == expected
                assert -1 in expected and max(expected) > 0
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("kind", ["one center", "two centers"])
def test_a_matrix_product_alone_would_choose_wrongly(kind: str, references: bool) -> None:
    """Else the test above proves little."""
    compared = example(kind, references)
    center = compared.columns.mean(dim=0) if kind == "two centers" else 0
    distance = torch.cdist(compared.rows - center, compared.columns - center, compute_mode="use_mm_for_euclid_dist")
    chosen = distance.masked_fill(compared.labels[:, None] == compared.column_labels, torch.inf).argmin(dim=1)
    nearest = compared.columns[naive(compared, torch.arange(len(compared.rows)))]
    farther = (compared.rows - compared.columns[chosen]).norm(dim=1) > (compared.rows - nearest).norm(dim=1)
    assert int(farther.sum()) > 3


@pytest.mark.parametrize("repeats", [1, 20])
def test_bounds_are_open_and_hit_exactly(repeats: int) -> None:
    rows = torch.tensor([[0.0], [3.0], [-3.0], [4.0], [5.0]]) + 4096
    compared, anchor = check_compared(rows, torch.tensor([0, 1, 1, 1, 1]), None, None), torch.zeros(repeats).long()
    for low, high, expected in [
        (2.5, 3.5, 1),
        (3.0, 5.0, 3),
        (3.0, 4.0, -1),
        (4.0, 5.5, 4),
        (5.0, 9.0, -1),
        (0.0, 3.0, -1),
    ]:
        inner, outer = (torch.full((repeats,), bound) for bound in (low, high))
        assert nearest_negatives(compared, anchor, inner, outer).tolist() == [expected] * repeats
        found = nearest_negatives(compared, anchor, inner.square(), outer.square(), squared=True)
        assert found.tolist() == [expected] * repeats


@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("kind", ["one center", "two centers"])
def test_bands_hold_every_negative_within_their_slack_and_can_make_it_exact(kind: str, references: bool) -> None:
    compared = example(kind, references)
    exact = torch.cdist(compared.rows.double(), compared.columns.double(), compute_mode="donot_use_mm_for_euclid_dist")
    same = compared.labels[:, None] == compared.column_labels
    seen = 0
    for band in Distances(compared).bands(100):
        seen += len(band.squared)
        expected = exact[band.rows]
        assert torch.equal(band.squared == torch.inf, same[band.rows])
        assert float((band.squared - expected.square())[~same[band.rows]].abs().max()) <= band.slack
        assert torch.equal(band.exact(squared=False), expected.float().masked_fill(same[band.rows], torch.inf))
    assert seen == len(compared.rows)


@pytest.mark.parametrize("numbers", NUMBERS)
def test_among_identical_embeddings_the_lowest_negative_is_nearest(numbers: int) -> None:
    labels = torch.tensor([6, 6, 2, 6, 9, 2, 2, 9, 9, 6])
    compared, everyone = check_compared(torch.full((10, 5), 0.1), labels, None, None), torch.arange(10)
    found = nearest_negatives(compared, everyone, numbers=numbers)
    assert found.tolist() == [2, 2, 0, 2, 0, 0, 0, 0, 0, 2]
    zero = torch.zeros(10)
    assert nearest_negatives(compared, everyone, zero, zero + 1, numbers=numbers).tolist() == [-1] * 10  # 0 < distance


def test_a_row_without_negatives_beside_one_with_two_equally_near() -> None:
    rows, labels = torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1])
    compared = check_compared(rows, labels, torch.tensor([[3.0], [1.0], [3.0]]), torch.tensor([0, 0, 0]))
    assert nearest_negatives(compared, torch.arange(2)).tolist() == [-1, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_decided_as_exactly(dtype: torch.dtype) -> None:
    rows = (torch.randint(-9, 10, (30, 4), generator=torch.Generator().manual_seed(0)) / 8 + 8).to(dtype)
    compared, anchor = check_compared(rows, identities(30, 0), None, None), torch.arange(30)
    assert nearest_negatives(compared, anchor).tolist() == naive(compared._replace(rows=rows.double()), anchor)
    assert found_pairs(compared, 90) == naive_pairs(compared, 90)
    between = check_compared(rows[:9], identities(9, 0), rows[9:].float(), identities(21, 1))  # of another type
    assert nearest_negatives(between, anchor[:9]).tolist() == naive(between, anchor[:9])


@pytest.mark.parametrize("seed", range(40))
def test_batches_of_any_shape_agree_with_a_naive_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    numbers = int(random.choice([1, 9, 64, 1 << 20]))
    dimensions, scale, offset = int(random.integers(1, 7)), int(random.choice([1, 6, 40])), int(random.integers(0, 64))

    def draw(count: int) -> tuple[Tensor, Tensor]:
        rows = random.integers(-scale, scale + 1, (count, dimensions)) / 32 + offset
        labels = {
            "long tail": random.zipf(1.5, count) % 50,
            "all different": random.permutation(count) - 3,
            "one": np.full(count, 4),
            "few": random.integers(0, 3, count),
        }[str(random.choice(["long tail", "all different", "one", "few"]))]
        return torch.tensor(rows, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64)

    rows, labels = draw(int(random.integers(1, 26)))
    references = draw(int(random.integers(1, 26))) if seed % 2 else (None, None)
    compared = check_compared(rows, labels, *references)
    for queries in (30, 400):
        anchor = torch.tensor(np.sort(random.integers(0, len(rows), int(random.integers(0, queries)))))
        assert nearest_negatives(compared, anchor, numbers=numbers).tolist() == naive(compared, anchor)
        inner = torch.tensor(random.integers(0, 2 * scale, len(anchor)) / 32, dtype=torch.float32)
        outer = inner + float(random.integers(1, scale + 1)) / 32
        for squared in (False, True):
            low, high = (inner.square(), outer.square()) if squared else (inner, outer)
            found = nearest_negatives(compared, anchor, low, high, squared, numbers)
            assert found.tolist() == naive(compared, anchor, low, high, squared)
    count = int(random.integers(0, 60))
    assert found_pairs(compared, count, numbers) == naive_pairs(compared, count)
