"""Batches and reference values of the losses' tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "objectives.json"


@pytest.fixture(scope="session")
def reference() -> Any:
    """Fixed inputs and float64 values of published formulas."""
    if not REFERENCE.exists():
        pytest.skip(f"reference values are missing: {REFERENCE}")
    return json.loads(REFERENCE.read_text())


def batch(count: int = 9, identities: int = 3, seed: int = 0, size: int = 5) -> tuple[Tensor, Tensor]:
    """Random float64 embeddings, and labels 0, 1, ..., 0, 1, ..."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, dtype=torch.float64, generator=generator), torch.arange(count) % identities


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    """Gradient of the sum of a value by one leaf."""
    return torch.autograd.grad(value.sum(), leaf)[0]
