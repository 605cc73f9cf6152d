"""NCELoss against reference values and a naive loop; test_info_nce.py has what it shares with InfoNCELoss."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from siamese_verify.losses.info_nce import NCELoss, nce_loss

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "objectives.json"


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"reference values are missing: {REFERENCE}")
def test_the_reference_value_is_met() -> None:
    reference = json.loads(REFERENCE.read_text())
    rows = torch.tensor(reference["embeddings"], dtype=torch.float64)
    expected = reference["values"]["nce_logistic temperature=1 q=rows0-1 pos=rows2-3 neg=rows4-7"]
    for negatives in (rows[4:8], rows[4:8].expand(2, 4, -1)):
        assert NCELoss(1)(rows[:2], rows[2:4], negatives).item() == pytest.approx(expected, abs=1e-12)


def test_the_pure_function_agrees_with_a_naive_loop_far_from_zero_too() -> None:
    positive = torch.tensor([0.3, -45.0, 30.0, 0.0], dtype=torch.float64)
    negatives = torch.tensor([[0.1, -2.0], [25.0, -25.0], [-40.0, -30.0], [700.0, 0.0]], dtype=torch.float64)

    def softplus(x: float) -> float:
        return max(x, 0) + math.log1p(math.exp(-abs(x)))

    expected = [
        softplus(-p) + math.fsum(map(softplus, row))
        for p, row in zip(positive.tolist(), negatives.tolist(), strict=True)
    ]
    torch.testing.assert_close(
        nce_loss(positive, negatives), torch.tensor(expected, dtype=torch.float64), rtol=1e-15, atol=0
    )
    leaves = (positive.requires_grad_(), negatives.requires_grad_())
    assert torch.autograd.gradcheck(nce_loss, leaves)


def test_absent_negatives_add_nothing_and_have_no_gradient() -> None:
    positive = torch.zeros(2, requires_grad=True)
    negatives = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]], requires_grad=True)
    items = nce_loss(positive, negatives)
    to_positive, to_negatives = torch.autograd.grad(items.sum(), (positive, negatives))
    assert items.tolist() == [pytest.approx(2 * math.log(2)), pytest.approx(math.log(2))]
    assert to_positive.tolist() == [-0.5, -0.5]
    assert to_negatives.tolist() == [[0.5, 0], [0, 0]]


def test_at_the_default_temperature_a_solved_pair_costs_next_to_nothing() -> None:
    rows = torch.eye(2)
    assert NCELoss()(rows[:1], rows[:1], -rows[:1]).item() < 1e-4
