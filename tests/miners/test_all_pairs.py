"""AllPairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.miners import AllPairs, BatchHard, SemiHard
from siamese_verify.structures import Pairs


def test_every_pair_comes_once_in_order() -> None:
    pairs = AllPairs()(torch.zeros(4, 2), torch.tensor([5, 9, 5, 9]))
    assert isinstance(pairs, Pairs)
    assert list(zip(pairs.anchor.tolist(), pairs.other.tolist(), strict=True)) == [
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 2),
        (1, 3),
        (2, 3),
    ]
    assert pairs.same.tolist() == [False, True, False, False, True, False]
    assert pairs.anchor.dtype == torch.int64
    assert pairs.same.dtype == torch.bool


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_rows_have_no_pairs(count: int) -> None:
    pairs = AllPairs()(torch.zeros(count, 2), torch.zeros(count, dtype=torch.int64))
    assert [len(field) for field in pairs] == [0, 0, 0]


@pytest.mark.parametrize("miner", [AllPairs(), BatchHard(), SemiHard()])
@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (torch.zeros(3), torch.zeros(3).long(), r"shape \(3,\)"),
        (torch.zeros(3, 2).long(), torch.zeros(3).long(), r"type torch\.int64"),
        (torch.zeros(3, 2), torch.zeros(3), r"type torch\.float32"),
        (torch.zeros(3, 2), torch.zeros(2).long(), "3 embeddings came with 2 labels"),
        (torch.full((3, 2), torch.nan), torch.zeros(3).long(), "NaN"),
    ],
)
def test_every_miner_refuses_a_batch_that_is_none(
    miner: AllPairs | BatchHard | SemiHard, embeddings: Tensor, labels: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        miner(embeddings, labels)
