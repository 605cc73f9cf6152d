"""one_cycle: learning rates over runs of any length."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.optim import SGD

from siamese_verify.training import one_cycle


def rates(steps: int) -> list[list[float]]:
    """Learning rates of two parameter groups in each step."""
    groups = [{"params": [torch.zeros(1)], "lr": 0.1}, {"params": [torch.zeros(1)], "lr": 0.01}]
    optimizer = SGD(groups, momentum=0.9)
    scheduler = one_cycle(optimizer, steps)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(steps):
            seen.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            if step < steps - 1:
                scheduler.step()
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9]
    return seen


def test_it_rises_to_the_learning_rate_of_each_group_and_falls_to_zero() -> None:
    first, second = zip(*rates(101), strict=True)
    assert max(first) == pytest.approx(0.1, rel=1e-3)
    assert max(second) == pytest.approx(0.01, rel=1e-3)
    peak = first.index(max(first))
    assert peak == pytest.approx(10, abs=1)
    assert list(first[: peak + 1]) == sorted(first[: peak + 1])
    assert list(first[peak:]) == sorted(first[peak:], reverse=True)
    assert first[0] < 0.01
    assert first[-1] < 1e-5


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 19, 20, 21])  # 10: a rise of one step
def test_a_run_of_any_length_has_a_schedule(steps: int) -> None:
    assert all(0 <= rate <= 0.1 for groups in rates(steps) for rate in groups)
