"""BatchHard against the reference and a naive loop."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from siamese_verify.miners import BatchHard
from siamese_verify.pairwise import blocks as tiles
from siamese_verify.structures import Triplets

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "objectives.json"


def listed(triplets: Triplets) -> list[list[int]]:
    return torch.stack(list(triplets), dim=1).tolist()


def naive(embeddings: Tensor, labels: list[int]) -> list[list[int]]:
    rows = embeddings.tolist()
    triplets = []
    for a in range(len(rows)):
        positives = [p for p in range(len(rows)) if p != a and labels[p] == labels[a]]
        negatives = [n for n in range(len(rows)) if labels[n] != labels[a]]
        if positives and negatives:  # max and min return the first of equals
            p = max(positives, key=lambda row: math.dist(rows[a], rows[row]))
            n = min(negatives, key=lambda row: math.dist(rows[a], rows[row]))
            triplets.append([a, p, n])
    return triplets


def test_reference_triplets_are_chosen() -> None:
    if not REFERENCE.exists():
        pytest.skip(f"reference values are missing: {REFERENCE}")
    reference = json.loads(REFERENCE.read_text())
    embeddings = torch.tensor(reference["embeddings"], dtype=torch.float64)
    triplets = BatchHard()(embeddings, torch.tensor(reference["labels_many"]))
    assert listed(triplets) == reference["mining (raw embeddings, labels_many)"]["batch_hard"]


@pytest.mark.parametrize("block", [1, 4, 512])
@pytest.mark.parametrize("seed", range(4))
def test_a_naive_loop_chooses_the_same(seed: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SIDE", block)
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(17, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(6, (17,), generator=generator)
    assert listed(BatchHard()(embeddings, labels)) == naive(embeddings, labels.tolist())


@pytest.mark.parametrize("seed", range(4))
def test_ties_take_the_lowest_row(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randint(2, (20, 3), generator=generator).double()  # corners of a cube: full of ties
    labels = torch.randint(4, (20,), generator=generator)
    assert listed(BatchHard()(embeddings, labels)) == naive(embeddings, labels.tolist())


@pytest.mark.parametrize("labels", [[], [3], [3, 3, 3], [1, 2, 3]], ids=["none", "one", "no negative", "no positive"])
def test_a_batch_without_triplets_gives_none(labels: list[int]) -> None:
    triplets = BatchHard()(torch.ones(len(labels), 2), torch.tensor(labels, dtype=torch.int64))
    assert [field.tolist() for field in triplets] == [[], [], []]
    assert all(field.dtype == torch.int64 for field in triplets)


def test_anchors_lacking_a_positive_are_left_out() -> None:
    triplets = BatchHard()(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([8, 8, 9]))
    assert listed(triplets) == [[0, 1, 2], [1, 0, 2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_single(dtype: torch.dtype) -> None:
    embeddings = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.arange(12, dtype=torch.uint8) % 4
    assert listed(BatchHard()(embeddings, labels)) == naive(embeddings.double(), labels.tolist())


def test_nothing_is_recorded_for_the_backward_pass() -> None:
    embeddings = torch.randn(6, 3, requires_grad=True)
    assert not any(field.requires_grad for field in BatchHard()(embeddings, torch.arange(6) % 2))
