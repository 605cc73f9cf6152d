"""CosinePairLoss against reference values, torch and a naive loop."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from siamese_verify.errors import InputError
from siamese_verify.losses import CosinePairLoss, cosine_pair_loss
from siamese_verify.pairwise import blocks as tiles
from siamese_verify.structures import Pairs

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "objectives.json"


def test_the_reference_value_is_met() -> None:
    if not REFERENCE.exists():
        pytest.skip(f"reference values are missing: {REFERENCE}")
    reference = json.loads(REFERENCE.read_text())
    rows = reference["pairs"]
    pairs = Pairs(torch.tensor(rows["anchor_rows"]), torch.tensor(rows["other_rows"]), torch.tensor(rows["same"]))
    embeddings = torch.tensor(reference["embeddings"], dtype=torch.float64)
    value = CosinePairLoss(0)(embeddings, torch.tensor(reference["labels_two_views"]), pairs)
    assert value.item() == pytest.approx(reference["values"]["cosine margin=0"], abs=1e-12)


@pytest.mark.parametrize("side", [4, 512])
@pytest.mark.parametrize("margin", [-0.5, 0.0, 0.3])
@pytest.mark.parametrize("seed", range(2))
def test_all_pairs_are_torchs_cosine_embedding_loss(
    seed: int, margin: float, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "SIDE", side)
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(11, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.randint(3, (11,), generator=generator)
    i, j = torch.triu_indices(11, 11, 1)
    target = torch.where(labels[i] == labels[j], 1, -1)
    expected = F.cosine_embedding_loss(embeddings[i], embeddings[j], target, margin)
    value = CosinePairLoss(margin)(embeddings, labels)
    torch.testing.assert_close(value, expected)
    ours, theirs = (torch.autograd.grad(loss, embeddings)[0] for loss in (value, expected))
    torch.testing.assert_close(ours, theirs)


def test_the_gradient_is_right_with_identical_and_opposite_embeddings_too() -> None:
    embeddings = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    embeddings[1], embeddings[3] = embeddings[0], -embeddings[2]
    labels = torch.tensor([0, 0, 1, 1, 2, 0])
    assert torch.autograd.gradcheck(lambda z: CosinePairLoss(0.1)(z, labels), embeddings.requires_grad_())


def test_the_pure_function_takes_cosines() -> None:
    items = cosine_pair_loss(torch.tensor([0.9, 0.9, 0.1, 1.0000001]), torch.tensor([True, False, False, True]), 0.25)
    torch.testing.assert_close(items, torch.tensor([0.1, 0.65, 0.0, 0.0]))


@pytest.mark.parametrize("margin", [1.5, -1.1, math.nan])
def test_a_margin_that_is_no_cosine_is_refused(margin: float) -> None:
    with pytest.raises(InputError, match=f"margin is {margin}"):
        CosinePairLoss(margin)
