"""Triplet loss, with a margin or soft."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from siamese_verify.errors import InputError, check_numbers
from siamese_verify.losses.base import BatchLoss, Items, Reduction
from siamese_verify.pairwise import Batch, Metric, Totals, every_triplet, row_distance
from siamese_verify.pairwise.triplet_sum import triplet_sum
from siamese_verify.structures import Pairs, Triplets


def triplet_loss(positive_distance: Tensor, negative_distance: Tensor, margin: float = 0.2) -> Tensor:
    """Triplet loss with a margin, max(0, d_ap - d_an + margin); the distances' shapes broadcast.

    Schroff, Kalenichenko & Philbin, "FaceNet", CVPR 2015, section 3.1, on squared distances.
    """
    return (positive_distance - negative_distance + margin).clamp(min=0)


def soft_triplet_loss(positive_distance: Tensor, negative_distance: Tensor) -> Tensor:
    """Triplet loss without a margin, log(1 + exp(d_ap - d_an)); the distances' shapes broadcast.

    Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, section 2.
    """
    difference = positive_distance - negative_distance
    return torch.logaddexp(difference, torch.zeros_like(difference))  # torch's softplus is cut to linear above 20


class TripletLoss(BatchLoss):
    """`triplet_loss` over given triplets, or over all (anchor, positive, negative) of the batch, in this order.

    Pairs are refused: those of a pair sampler seldom share an anchor, and a loss of 0 on every step would hide it.

    Args:
        margin: >= 0, in the unit of the distance; 0.2 on squared distances of unit embeddings is FaceNet's. The soft
            form ignores it.
        squared: compare squared Euclidean distances, not plain ones.
        soft: `soft_triplet_loss`, whose items are never 0.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.

    Raises:
        InputError: a negative margin or an unknown reduction; when called with pairs.
    """

    takes = (Triplets,)
    instead = "set miner=none, or one that chooses triplets, such as miner=semi_hard"

    def __init__(
        self, margin: float = 0.2, squared: bool = False, soft: bool = False, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        check_numbers(margin=margin)
        if not margin >= 0:
            raise InputError(f"margin is {margin}, but a triplet loss needs a margin of 0 or more.")
        self.margin = margin
        self.squared = squared
        self.soft = soft

    @property
    def collapsed_loss(self) -> float:
        """Loss of every triplet when all embeddings are equal."""
        return math.log(2) if self.soft else self.margin

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Losses of triplets; see `BatchLoss.items`."""
        triplets = tuples or every_triplet(batch.labels, batch.candidate_labels, itself=True, anchors=batch.anchors)
        assert isinstance(triplets, Triplets)
        anchor, others = torch.cat([triplets.anchor] * 2), torch.cat([triplets.positive, triplets.negative])
        metric: Metric = "squared" if self.squared else "euclidean"
        distance = row_distance(batch.embeddings, batch.candidates, anchor, others, metric)
        losses = self._loss(*distance.chunk(2))
        return Items(losses, torch.ones_like(losses, dtype=torch.bool)) if self.soft else Items.from_losses(losses)

    def sum_all(self, batch: Batch) -> Totals:
        """Sum over all triplets."""
        totals = triplet_sum(batch, self._loss, self.squared)
        return totals._replace(nonzero=totals.items) if self.soft else totals

    def _loss(self, positive_distance: Tensor, negative_distance: Tensor) -> Tensor:
        if self.soft:
            return soft_triplet_loss(positive_distance, negative_distance)
        return triplet_loss(positive_distance, negative_distance, self.margin)

    def extra_repr(self) -> str:
        """Parameters for `print(module)`."""
        return f"margin={self.margin}, squared={self.squared}, soft={self.soft}, reduction={self.reduction!r}"
