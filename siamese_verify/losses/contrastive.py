"""Contrastive loss over genuine and impostor pairs."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.losses.distance import distance_matrix, row_distance
from siamese_verify.losses.objective import BatchObjective
from siamese_verify.losses.reduction import Reduction
from siamese_verify.types import Pairs, Triplets

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
    """`contrastive_loss` over mined pairs, or over every pair i < j of the batch.

    The items follow the order of the pairs. Triplets are taken apart: T genuine pairs (anchor, positive), then T
    impostor pairs (anchor, negative); a pair that several triplets share counts as often as they name it.

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
    def at_collapse(self) -> float:
        """What every active item, an impostor pair, costs when all embeddings are one point."""
        return self.scale * self.margin**2

    def score_items(self, embeddings: Tensor, labels: Tensor, mined: Pairs | Triplets | None) -> Tensor:
        """Compute (M,) losses of pairs; see `BatchObjective.items`."""
        if mined is None:
            upper = torch.ones(len(labels), len(labels), dtype=torch.bool, device=labels.device).triu(1)  # i < j
            distance = distance_matrix(embeddings, self.distance)[upper]  # (B * (B - 1) / 2,)
            same = (labels[:, None] == labels)[upper]
        else:
            pairs = mined if isinstance(mined, Pairs) else pairs_of_triplets(mined)
            distance = row_distance(embeddings, pairs.anchor, pairs.other, self.distance)
            same = pairs.same.bool()
        return contrastive_loss(distance, same, self.margin, self.scale)

    def extra_repr(self) -> str:
        """Name the parameters where the module is printed."""
        return f"margin={self.margin}, distance={self.distance!r}, scale={self.scale}, reduction={self.reduction!r}"


def pairs_of_triplets(triplets: Triplets) -> Pairs:
    """Take T triplets apart into 2T pairs: (anchor, positive) genuine, then (anchor, negative) impostor."""
    genuine = torch.ones_like(triplets.anchor, dtype=torch.bool)
    return Pairs(
        anchor=torch.cat([triplets.anchor, triplets.anchor]),
        other=torch.cat([triplets.positive, triplets.negative]),
        same=torch.cat([genuine, ~genuine]),
    )
