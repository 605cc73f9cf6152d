"""HardPairs against a naive loop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.miners import HardPairs, hard_pairs
from siamese_verify.pairwise import blocks as tiles
from siamese_verify.structures import Pairs

RATIOS = [0.01, 0.5, 1.0, 1.5, 3, 1000.0]
DEGENERATE: list[tuple[list[int], list[list[Any]]]] = [
    ([], []),
    ([3], []),
    ([1, 2, 3], []),  # no genuine pair to find impostors for
    ([3, 3, 3], [[0, 1, True], [0, 2, True], [1, 2, True]]),
    ([3, 3], [[0, 1, True]]),
    ([3, 4], []),
]


def listed(pairs: Pairs) -> list[list[Any]]:
    return [list(pair) for pair in zip(*(field.tolist() for field in pairs), strict=True)]


def naive(
    embeddings: Tensor,
    labels: Tensor,
    ratio: float,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
) -> list[list[Any]]:
    itself = references is None
    columns, others = (
        (embeddings, labels) if references is None or reference_labels is None else (references, reference_labels)
    )
    genuine: list[tuple[int, int]] = []
    impostors: list[tuple[int, int]] = []
    rows, partners = embeddings.tolist(), columns.tolist()
    for i in range(len(rows)):
        for j in range(i + 1 if itself else 0, len(partners)):
            (genuine if labels[i] == others[j] else impostors).append((i, j))
    impostors.sort(key=lambda pair: (math.dist(rows[pair[0]], partners[pair[1]]), pair))
    chosen = impostors[: math.ceil(ratio * len(genuine))]
    return [[i, j, True] for i, j in genuine] + [[i, j, False] for i, j in chosen]


def batch(seed: int, count: int = 19, identities: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, 4, dtype=torch.float64, generator=generator)
    return embeddings, torch.randint(identities, (count,), generator=generator)


@pytest.mark.parametrize("side", [1, 4, 512])
@pytest.mark.parametrize("ratio", RATIOS)
def test_a_naive_loop_chooses_the_same(ratio: float, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SIDE", side)
    for seed in range(3):
        embeddings, labels = batch(seed)
        assert listed(HardPairs(ratio)(embeddings, labels)) == naive(embeddings, labels, ratio)


@pytest.mark.parametrize("side", [1, 4, 512])
@pytest.mark.parametrize("ratio", RATIOS)
def test_a_naive_loop_chooses_the_same_among_references(
    ratio: float, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "SIDE", side)
    for first, second in [(batch(0, 6), batch(1, 11)), (batch(2, 11), batch(3, 6)), (batch(4, 1), batch(5, 9))]:
        assert listed(HardPairs(ratio)(*first, *second)) == naive(*first, ratio, *second)


@pytest.mark.parametrize("side", [1, 4, 512])
@pytest.mark.parametrize("seed", range(3))
def test_ties_go_by_row_then_column(seed: int, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SIDE", side)
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(2, (32, 3), generator=generator).float()  # of a cube: full of ties
    labels = torch.randint(4, (32,), generator=generator)
    assert listed(HardPairs(0.5)(corners, labels)) == naive(corners, labels, 0.5)
    first, second = (corners[:12], labels[:12]), (corners[12:], labels[12:])
    assert listed(HardPairs(0.5)(*first, *second)) == naive(*first, 0.5, *second)


@pytest.mark.parametrize(("ratio", "impostors"), [(0.01, 1), (0.5, 2), (0.75, 3), (1.0, 3), (1.01, 4), (100.0, 12)])
def test_the_number_of_impostors_is_rounded_up_and_ends_with_those_there_are(ratio: float, impostors: int) -> None:
    pairs = HardPairs(ratio)(batch(0, 6)[0], torch.tensor([1, 2, 3, 1, 2, 3]))  # 3 genuine pairs, 12 of impostors
    assert pairs.same.tolist() == [True] * 3 + [False] * impostors


@pytest.mark.parametrize(("labels", "expected"), DEGENERATE)
def test_a_batch_without_genuine_pairs_or_without_impostors(labels: list[int], expected: list[list[Any]]) -> None:
    embeddings = torch.arange(2.0 * len(labels)).reshape(-1, 2)
    pairs = HardPairs(2)(embeddings, torch.tensor(labels, dtype=torch.int64))
    assert listed(pairs) == expected
    assert [field.dtype for field in pairs] == [torch.int64, torch.int64, torch.bool]


@pytest.mark.parametrize("side", [4, 512])
def test_of_identical_embeddings_the_first_impostors_are_taken(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SIDE", side)
    embeddings = torch.full((9, 3), 0.1)
    pairs = listed(HardPairs(0.5)(embeddings, torch.arange(9) % 3))  # 9 genuine pairs
    assert pairs[9:] == [[0, 1, False], [0, 2, False], [0, 4, False], [0, 5, False], [0, 7, False]]


@pytest.mark.parametrize("labels_type", [torch.uint8, torch.int32])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_types_are_measured_in_single(dtype: torch.dtype, labels_type: torch.dtype) -> None:
    embeddings, labels = batch(3)
    embeddings = embeddings.to(dtype).requires_grad_()
    pairs = HardPairs(1.5)(embeddings, labels.to(labels_type))
    assert listed(pairs) == naive(embeddings.double(), labels, 1.5)
    assert [field.dtype for field in pairs] == [torch.int64, torch.int64, torch.bool]


@pytest.mark.parametrize("ratio", [0, -1.0, math.nan, math.inf])
def test_a_ratio_without_a_number_of_impostors_is_refused_in_one_sentence(ratio: float) -> None:
    for refuse in (lambda: HardPairs(ratio), lambda: hard_pairs(*batch(0), ratio=ratio)):
        with pytest.raises(InputError, match=rf"ratio is {ratio},") as refusal:
            refuse()
        message = str(refusal.value)
        assert message.endswith(".") and ". " not in message and "\n" not in message
