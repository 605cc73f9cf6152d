"""Contrastive loss over genuine and impostor pairs."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.losses.base import BatchObjective, Reduction, listed_pairs
from siamese_verify.pairwise import Batch, row_distance
from siamese_verify.pairwise.blocks import Items, Totals
from siamese_verify.pairwise.pair_sum import Cost, every_pair
from siamese_verify.structures import Pairs, Triplets

PairDistance = Literal["euclidean", "cosine"]


def contrastive_loss(distance: Tensor, same: Tensor, margin: float = 1.0, scale: float = 0.5) -> Tensor:
    """Pull genuine pairs together, push impostors at least `margin` apart.

    Args:
        distance: (M,) distances, >= 0.
        same: (M,) bool, True for a genuine pair.
        margin: distance beyond which an impostor pair costs nothing, >= 0.
        scale: factor of the whole; 0.5 is Hadsell's form, 1 the other common one.

    Returns:
        (M,) losses: scale * d^2 if genuine, else scale * max(0, margin - d)^2.

    Hadsell, Chopra & LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, eq. 4.
    """
    return scale * torch.where(same, distance, (margin - distance).clamp(min=0)).square()


class ContrastiveLoss(BatchObjective):
    """`contrastive_loss` over tuples pairs, or over every pair i < j of the batch.

    The items follow the order of the pairs; all pairs come ordered by i, then j, those with references last of each i.
    Triplets are taken apart: T genuine pairs (anchor, positive), then T impostor pairs (anchor, negative); a pair that
    several triplets share counts as often as they name it.

    Args:
        margin: distance beyond which an impostor pair costs nothing, >= 0, in the unit of the distance. Unit
            embeddings lie at most 2 apart, both ways.
        distance: `euclidean`, of the embeddings as they come; `cosine`: 1 - cos, in [0, 2], for embeddings of any
            length.
        scale: factor of the whole, > 0.
        reduction: `mean`, `mean_active`, `sum` or `none`.

    Raises:
        InputError: an argument out of its range.
    """

    def __init__(
        self,
        margin: float = 1.0,
        distance: PairDistance = "euclidean",
        scale: float = 0.5,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction)
        if not margin >= 0:
            raise InputError(f"margin is {margin}, but a contrastive loss needs a margin of 0 or more.")
        if distance not in get_args(PairDistance):
            raise InputError(f"distance is {distance!r}, but must be one of {', '.join(get_args(PairDistance))}.")
        if not scale > 0:
            raise InputError(f"scale is {scale}, but must be above 0: 0.5 is Hadsell's form, 1 the other common one.")
        self.margin = margin
        self.distance = distance
        self.scale = scale

    @property
    def collapsed_loss(self) -> float:
        """What every active item, an impostor pair, costs when all embeddings are one point."""
        return self.scale * self.margin**2

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Compute the items of pairs; see `BatchObjective.items`."""
        pairs = listed_pairs(batch, tuples)
        distance = row_distance(batch.embeddings, batch.candidates, pairs.anchor, pairs.other, self.distance)
        active = torch.where(pairs.same, distance > 0, distance < self.margin)
        return Items(contrastive_loss(distance, pairs.same, self.margin, self.scale), active)

    def add_up_all(self, batch: Batch) -> Totals:
        """Sum over every pair."""
        return every_pair(batch, self._rule, self.distance == "cosine")

    def _rule(self, measure: Tensor, same: Tensor) -> Cost:
        cosine = self.distance == "cosine"
        distance = (1 - measure).clamp_(min=0) if cosine else measure
        # Genuine pairs are too far apart by d, impostors by the negative d - margin: the loss is the square of either.
        excess = (distance - self.margin).clamp_(max=0)
        torch.where(same, distance, excess, out=excess)
        total, active = self.scale * excess.square().sum(), torch.count_nonzero(excess)
        return Cost(total, active, excess.mul_(-2 * self.scale if cosine else 2 * self.scale))

    def extra_repr(self) -> str:
        """Name the parameters where the module is printed."""
        return f"margin={self.margin}, distance={self.distance!r}, scale={self.scale}, reduction={self.reduction!r}"


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
    """`cosine_pair_loss` over tuples pairs, or over every pair i < j of the batch; items as in `ContrastiveLoss`.

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
    def collapsed_loss(self) -> float:
        """What every active item, an impostor pair, costs when all embeddings are one point."""
        return 1 - self.margin

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Compute the items of pairs; see `BatchObjective.items`."""
        pairs = listed_pairs(batch, tuples)
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
