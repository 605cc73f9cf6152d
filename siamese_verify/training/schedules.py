"""Learning rates over a whole run, whose number of steps is known only when it starts."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR


def one_cycle(optimizer: Optimizer, steps: int, warmup: float = 0.1) -> LRScheduler:
    """Rise to the optimizer's learning rate over a share `warmup` of the steps, then fall to zero by a cosine.

    Smith & Topin, "Super-Convergence", 2018, with the momentum left alone.
    """
    warmup = warmup if warmup * steps > 1 else 0.0  # OneCycleLR divides by zero where the rise is a single step
    rates = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, rates, total_steps=steps, pct_start=warmup, cycle_momentum=False)


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Fall from the optimizer's learning rate to zero by a cosine (Loshchilov & Hutter, "SGDR", ICLR 2017)."""
    return CosineAnnealingLR(optimizer, steps)
