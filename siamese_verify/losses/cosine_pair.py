"""Cosine loss over genuine and impostor pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.geometry import Batch, row_distance
from siamese_verify.losses.every_pair import Cost, every_pair
from siamese_verify.losses.objective import BatchObjective, listed_pairs
from siamese_verify.losses.reduction import Items, Reduction, Totals
from siamese_verify.types import Pairs, Triplets


def cosine_pair_loss(cosine: Tensor, same: Tensor, margin: float = 0.0) -> Tensor:
    """Turn genuine pairs into one direction, and impostors away from each other until their cosine is `margin`.

    Args:
        cosine: (M,) cosines, in [-1, 1].
        same: (M,) bool, True for a genuine pair.
        margin: cosine below which an impostor pair costs nothing, in [-1, 1].

    Returns:
        (M,) losses: 1 - cos if genuine, else max(0, cos - margin).

    torch's `CosineEmbeddingLoss`, with a bool in place of its 1 and -1.
    """
    return torch.where(same, 1 - cosine, cosine - margin).clamp(min=0)  # rounding alone would make 1 - cos negative


class CosinePairLoss(BatchObjective):
    """`cosine_pair_loss` over mined pairs, or over every pair i < j of the batch; items as in `ContrastiveLoss`.

    Args:
        margin: cosine below which an impostor pair costs nothing, in [-1, 1].
        reduction: `mean`, `mean_active`, `sum` or `none`.

    Raises:
        InputError: an argument out of its range.
    """

    def __init__(self, margin: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        if not -1 <= margin <= 1:
            raise InputError(f"margin is {margin}, but is compared with a cosine: choose one from -1 to 1.")
        self.margin = margin

    @property
    def at_collapse(self) -> float:
        """What every active item, an impostor pair, costs when all embeddings are one point."""
        return 1 - self.margin

    def list_items(self, batch: Batch, mined: Pairs | Triplets | None) -> Items:
        """Compute the items of pairs; see `BatchObjective.items`."""
        pairs = listed_pairs(batch, mined)
        distance = row_distance(batch.embeddings, batch.candidates, pairs.anchor, pairs.other, "cosine")
        return Items.of(cosine_pair_loss(1 - distance, pairs.same, self.margin))

    def add_up_all(self, batch: Batch) -> Totals:
        """Sum over every pair."""
        return every_pair(batch, self._rule, cosine=True)

    def _rule(self, cosine: Tensor, same: Tensor) -> Cost:
        losses = cosine_pair_loss(cosine, same, self.margin)
        active = losses > 0
        return Cost(losses.sum(), active.sum(), torch.where(same, -1, active.to(cosine.dtype)))

    def extra_repr(self) -> str:
        """Name the parameters where the module is printed."""
        return f"margin={self.margin}, reduction={self.reduction!r}"
