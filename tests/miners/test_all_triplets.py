"""AllTriplets against a naive loop."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from siamese_verify.errors import InputError
from siamese_verify.miners import AllTriplets, all_triplets
from siamese_verify.pairwise import blocks as tiles
from siamese_verify.structures import Triplets

LABELS = [[7, 2, 7, 2, 7], [0, 0, 1], [5, -3, 5, 5, 9, -3, 9, 1], [4, 4, 4, 4, 0], [1, 2, 3, 1]]


def listed(triplets: Triplets) -> list[tuple[int, ...]]:
    return [tuple(triplet) for triplet in torch.stack(list(triplets), dim=1).tolist()]


def naive(labels: list[int], columns: list[int] | None = None) -> list[tuple[int, ...]]:
    itself, columns = columns is None, labels if columns is None else columns
    return [
        (a, p, n)
        for a, p, n in product(range(len(labels)), range(len(columns)), range(len(columns)))
        if labels[a] == columns[p] and labels[a] != columns[n] and not (itself and a == p)
    ]


@pytest.mark.parametrize("side", [1, 2, 512])  # the list is made in pieces of 4 side^2 / columns pairs
@pytest.mark.parametrize("labels", LABELS, ids=str)
def test_a_naive_loop_lists_the_same_in_order(labels: list[int], side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SIDE", side)
    triplets = AllTriplets()(torch.zeros(len(labels), 2), torch.tensor(labels))
    assert isinstance(triplets, Triplets)
    assert listed(triplets) == naive(labels) != []
    assert listed(all_triplets(torch.tensor(labels))) == naive(labels)


@pytest.mark.parametrize("side", [1, 2, 512])
@pytest.mark.parametrize("labels", LABELS, ids=str)
@pytest.mark.parametrize("columns", LABELS, ids=str)
def test_a_naive_loop_lists_the_same_among_references(
    columns: list[int], labels: list[int], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "SIDE", side)
    rows, references = torch.zeros(len(labels), 2), torch.zeros(len(columns), 2)
    triplets = AllTriplets()(rows, torch.tensor(labels), references, torch.tensor(columns))
    assert listed(triplets) == naive(labels, columns)
    assert listed(all_triplets(torch.tensor(labels), torch.tensor(columns))) == naive(labels, columns)


@pytest.mark.parametrize("labels", [[], [3], [3, 3, 3], [1, 2, 3]], ids=["none", "one", "no negative", "no positive"])
def test_a_batch_without_triplets_gives_none(labels: list[int]) -> None:
    triplets = AllTriplets()(torch.ones(len(labels), 2), torch.tensor(labels, dtype=torch.int64))
    assert [field.tolist() for field in triplets] == [[], [], []]
    assert [field.dtype for field in triplets] == [torch.int64] * 3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_labels_of_other_integer_types_are_the_same_people(dtype: torch.dtype) -> None:
    labels = [100, 7, 100, 0, 7]
    triplets = AllTriplets()(torch.zeros(5, 2), torch.tensor(labels, dtype=dtype))
    assert listed(triplets) == naive(labels)
    assert [field.dtype for field in triplets] == [torch.int64] * 3
    assert listed(all_triplets(torch.tensor(labels, dtype=dtype), torch.tensor(labels[::-1]))) == naive(
        labels, labels[::-1]
    )


def test_references_without_labels_are_refused() -> None:
    with pytest.raises(InputError, match="2 references came without reference_labels"):
        AllTriplets()(torch.zeros(3, 2), torch.tensor([0, 0, 1]), torch.zeros(2, 2))
