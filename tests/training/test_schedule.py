from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from siamese_verify.training import cosine, one_cycle


def rates(schedule: Callable[[Optimizer, int], LRScheduler], steps: int) -> list[list[float]]:
    groups = [{"params": [torch.zeros(1)], "lr": 0.1}, {"params": [torch.zeros(1)], "lr": 0.01}]
    optimizer = SGD(groups, momentum=0.9)
    scheduler = schedule(optimizer, steps)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(steps):
            seen.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            if len(seen) < steps:
                scheduler.step()
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9]
    return seen


def test_one_cycle_rises_to_the_learning_rate_of_each_group_and_falls_to_zero() -> None:
    first, second = zip(*rates(one_cycle, 101), strict=True)
    assert max(first) == pytest.approx(0.1, rel=1e-3)
    assert max(second) == pytest.approx(0.01, rel=1e-3)
    peak = first.index(max(first))
    assert peak == pytest.approx(10, abs=1)
    assert list(first[: peak + 1]) == sorted(first[: peak + 1])
    assert list(first[peak:]) == sorted(first[peak:], reverse=True)
    assert first[0] < 0.01
    assert first[-1] < 1e-5


def test_cosine_falls_from_the_learning_rate_along_half_a_cosine() -> None:
    for step, (first, second) in enumerate(rates(cosine, 20)):
        assert first == pytest.approx(0.05 * (1 + math.cos(math.pi * step / 20)))
        assert second == pytest.approx(first / 10)


@pytest.mark.parametrize("schedule", [one_cycle, cosine])
@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 19, 20, 21])  # 10: a rise of one step
def test_a_run_of_any_length_has_a_schedule(schedule: Callable[[Optimizer, int], LRScheduler], steps: int) -> None:
    assert all(0 <= rate <= 0.1 for groups in rates(schedule, steps) for rate in groups)
