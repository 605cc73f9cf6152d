"""SemiHard against the reference and a naive loop."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.miners import SemiHard
from siamese_verify.pairwise import blocks as tiles
from siamese_verify.structures import Triplets

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "objectives.json"


def listed(triplets: Triplets) -> list[list[int]]:
    return torch.stack(list(triplets), dim=1).tolist()


def naive(embeddings: Tensor, labels: list[int], margin: float, squared: bool) -> list[list[int]]:
    rows = embeddings.tolist()

    def distance(i: int, j: int) -> float:
        plain = math.dist(rows[i], rows[j])
        return plain**2 if squared else plain

    triplets = []
    for a in range(len(rows)):
        for p in range(len(rows)):
            if p == a or labels[p] != labels[a]:
                continue
            d = distance(a, p)
            band = [n for n in range(len(rows)) if labels[n] != labels[a] and d < distance(a, n) < d + margin]
            if band:
                triplets.append([a, p, min(band, key=lambda row: distance(a, row))])
    return triplets


def test_reference_triplets_are_chosen() -> None:
    if not REFERENCE.exists():
        pytest.skip(f"reference values are missing: {REFERENCE}")
    reference = json.loads(REFERENCE.read_text())
    embeddings = torch.tensor(reference["embeddings"], dtype=torch.float64)
    triplets = SemiHard(margin=1.0)(embeddings, torch.tensor(reference["labels_many"]))
    assert listed(triplets) == reference["mining (raw embeddings, labels_many)"]["semi_hard margin=1.0"]


@pytest.mark.parametrize("block", [1, 4, 512])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("margin", [0.05, 0.5, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_naive_loop_chooses_the_same(
    seed: int, margin: float, squared: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "SIDE", block)
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(18, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(5, (18,), generator=generator)
    assert listed(SemiHard(margin, squared)(embeddings, labels)) == naive(embeddings, labels.tolist(), margin, squared)


@pytest.mark.parametrize("margin", [0.5, 1.0])  # with 1.0 both borders of the band are hit exactly
@pytest.mark.parametrize("seed", range(4))
def test_ties_take_the_lowest_row_and_the_band_is_open(seed: int, margin: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randint(5, (20, 1), generator=generator).double()
    labels = torch.randint(4, (20,), generator=generator)
    assert listed(SemiHard(margin)(embeddings, labels)) == naive(embeddings, labels.tolist(), margin, False)
    assert listed(SemiHard(2 * margin)(embeddings, labels)) == naive(embeddings, labels.tolist(), 2 * margin, False)


@pytest.mark.parametrize("labels", [[], [3], [3, 3, 3], [1, 2, 3]], ids=["none", "one", "no negative", "no positive"])
def test_a_batch_without_triplets_gives_none(labels: list[int]) -> None:
    triplets = SemiHard()(torch.ones(len(labels), 2), torch.tensor(labels, dtype=torch.int64))
    assert [field.tolist() for field in triplets] == [[], [], []]


def test_identical_embeddings_have_no_semi_hard_negatives() -> None:
    triplets = SemiHard()(torch.ones(6, 2), torch.arange(6) % 2)
    assert len(triplets.anchor) == 0


@pytest.mark.parametrize("margin", [0.0, -0.5])
def test_a_band_without_width_is_refused(margin: float) -> None:
    with pytest.raises(InputError, match=f"margin is {margin}"):
        SemiHard(margin)
