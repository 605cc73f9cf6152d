"""Momentum encoder: a copy of a network that follows it slowly."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

CHUNK = 256  # images that are embedded at once


class MomentumEncoder(nn.Module):
    """A copy of a network whose weights are moving averages of the network's, without gradients.

    It is always in evaluation mode: batch norms use running statistics, which are averages of the network's too. So a
    key depends on its own image alone, and not on the batch or rank that it is embedded with (Cai et al., "Exponential
    Moving Average Normalization for Self-supervised and Semi-supervised Learning", CVPR 2021). With statistics of the
    batch, as in MoCo's first version, a query could find its key by what both batches have in common, which is why
    MoCo shuffles the images between GPUs; here nothing has to be shuffled.

    Args:
        parts: of the network, one behind the other.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, eq. 2.
    """

    updates: Tensor

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(*copy.deepcopy(parts)).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.train()

    def train(self, mode: bool = True) -> MomentumEncoder:
        """Stay in evaluation mode."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(N,D) outputs of the last part."""
        return torch.cat([self.parts(chunk) for chunk in torch.split(images, CHUNK)])

    @torch.no_grad()
    def update(self, parts: Iterable[nn.Module], momentum: float) -> None:
        """Move weights and running statistics to m * own + (1 - m) * those of the network.

        Statistics start without any meaning, so that their first averages forget faster, with the momentum
        min(m, (1 + n) / (10 + n)) of the n-th update.

        Args:
            parts: of the network, as given at first.
            momentum: m, in [0, 1].
        """
        for own, followed in zip(self.parts, parts, strict=True):
            mine, theirs = tuple(own.parameters()), tuple(followed.parameters())
            if mine:
                torch._foreach_mul_(mine, momentum)
                torch._foreach_add_(mine, theirs, alpha=1 - momentum)
            updates = self.updates.double()
            share = 1 - torch.clamp((1 + updates) / (10 + updates), max=momentum)
            for statistic, now in zip(own.buffers(), followed.buffers(), strict=True):
                if statistic.is_floating_point():
                    statistic.add_((now - statistic) * share)  # constants stay what they are
                else:
                    statistic.copy_(now)
        self.updates += 1
