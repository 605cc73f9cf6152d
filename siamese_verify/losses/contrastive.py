"""Contrastive losses over genuine and impostor pairs, by Euclidean distance or cosine."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from siamese_verify.errors import InputError, check_numbers
from siamese_verify.losses.base import BatchLoss, Items, Reduction, listed_pairs
from siamese_verify.pairwise import Batch, Totals, row_distance
from siamese_verify.pairwise.pair_sum import Hinge, pair_sum
from siamese_verify.structures import Pairs, Triplets

PairDistance = Literal["euclidean", "cosine"]


def contrastive_loss(distance: Tensor, same: Tensor, margin: float = 1.0, scale: float = 0.5) -> Tensor:
    """Contrastive loss of each pair.

    Args:
        distance: distances, >= 0.
        same: bool, True for a genuine pair.
        margin: distance from which on an impostor pair costs nothing, >= 0.
        scale: factor of the whole; 0.5 is Hadsell's form, 1 the other common one.

    Returns:
        Losses of the same shape: scale * d^2 if genuine, else scale * max(0, margin - d)^2.

    Hadsell, Chopra & LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, eq. 4.
    """
    return scale * torch.where(same, distance, (margin - distance).relu()).square()


def cosine_pair_loss(cosine: Tensor, same: Tensor, margin: float = 0.0) -> Tensor:
    """Cosine loss of each pair: torch's `CosineEmbeddingLoss` with a bool in place of its 1 and -1.

    Args:
        cosine: cosines, in [-1, 1].
        same: bool, True for a genuine pair.
        margin: cosine up to which an impostor pair costs nothing, in [-1, 1].

    Returns:
        Losses of the same shape: 1 - cos if genuine, else max(0, cos - margin).
    """
    return torch.where(same, 1 - cosine, cosine - margin).clamp(min=0)  # rounding may leave 1 - cos at -1e-7


class ContrastiveLoss(BatchLoss):
    """`contrastive_loss` over given pairs, or over all pairs i < j of the batch.

    Items come in the order of the pairs; all pairs are ordered by i, then j, those with references last for each i.
    Triplets are taken apart: T genuine pairs (anchor, positive), then T impostor pairs (anchor, negative).

    Args:
        margin: distance from which on an impostor pair costs nothing, >= 0. Unit embeddings are at most 2 apart.
        distance: `euclidean`, of the embeddings as they are, or `cosine`: 1 - cos, in [0, 2].
        scale: factor of the whole, > 0.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.

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
        check_numbers(margin=margin, scale=scale)
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
        """Loss of an impostor pair when all embeddings are equal."""
        return self.scale * self.margin**2

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Losses of pairs; see `BatchLoss.items`."""
        pairs = listed_pairs(batch, tuples)
        distance = row_distance(batch.embeddings, batch.candidates, pairs.anchor, pairs.other, self.distance)
        return Items.from_losses(contrastive_loss(distance, pairs.same, self.margin, self.scale))

    def sum_all(self, batch: Batch) -> Totals:
        """Sum over all pairs."""
        hinge = Hinge(self.margin, self.scale, 2)
        return pair_sum(batch, self._loss, cosine=self.distance == "cosine", hinge=hinge)

    def _loss(self, measure: Tensor, same: Tensor) -> Tensor:
        distance = (1 - measure).clamp(min=0) if self.distance == "cosine" else measure
        return contrastive_loss(distance, same, self.margin, self.scale)

    def extra_repr(self) -> str:
        """Parameters for `print(module)`."""
        return f"margin={self.margin}, distance={self.distance!r}, scale={self.scale}, reduction={self.reduction!r}"


class CosinePairLoss(BatchLoss):
    """`cosine_pair_loss` over given pairs, or over all pairs i < j of the batch; items as in `ContrastiveLoss`.

    Args:
        margin: cosine up to which an impostor pair costs nothing, in [-1, 1].
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.

    Raises:
        InputError: an argument out of its range.
    """

    def __init__(self, margin: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        check_numbers(margin=margin)
        if not -1 <= margin <= 1:
            raise InputError(f"margin is {margin}, but is compared with a cosine: choose one from -1 to 1.")
        self.margin = margin

    @property
    def collapsed_loss(self) -> float:
        """Loss of an impostor pair when all embeddings are equal."""
        return 1 - self.margin

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Losses of pairs; see `BatchLoss.items`."""
        pairs = listed_pairs(batch, tuples)
        distance = row_distance(batch.embeddings, batch.candidates, pairs.anchor, pairs.other, "cosine")
        return Items.from_losses(cosine_pair_loss(1 - distance, pairs.same, self.margin))

    def sum_all(self, batch: Batch) -> Totals:
        """Sum over all pairs."""

        def loss(cosine: Tensor, same: Tensor) -> Tensor:
            return cosine_pair_loss(cosine, same, self.margin)

        return pair_sum(batch, loss, cosine=True, hinge=Hinge(1 - self.margin, 1, 1))

    def extra_repr(self) -> str:
        """Parameters for `print(module)`."""
        return f"margin={self.margin}, reduction={self.reduction!r}"
