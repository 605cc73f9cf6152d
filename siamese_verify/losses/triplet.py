"""Triplet loss, with a margin or soft."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from siamese_verify import pairwise as geometry
from siamese_verify.errors import InputError
from siamese_verify.losses.base import BatchObjective, Reduction
from siamese_verify.pairwise import Batch, Metric, row_distance
from siamese_verify.pairwise.blocks import Items, Totals
from siamese_verify.pairwise.triplet_sum import every_triplet
from siamese_verify.structures import Pairs, Triplets


def triplet_loss(positive_distance: Tensor, negative_distance: Tensor, margin: float = 0.2) -> Tensor:
    """Keep the impostor at least `margin` farther from the anchor than the genuine partner.

    Args:
        positive_distance: distances from anchor to positive, >= 0.
        negative_distance: distances from anchor to negative, >= 0, of a shape that broadcasts with the other.
        margin: >= 0, in the unit of the distances.

    Returns:
        Losses of the broadcast shape: max(0, d_ap - d_an + margin).

    Schroff, Kalenichenko & Philbin, "FaceNet", CVPR 2015, section 3.1, on squared distances.
    """
    return (positive_distance - negative_distance + margin).clamp(min=0)


def soft_triplet_loss(positive_distance: Tensor, negative_distance: Tensor) -> Tensor:
    """Prefer the positive to the negative without a margin at which the pull ends.

    Args:
        positive_distance: distances from anchor to positive, >= 0.
        negative_distance: distances from anchor to negative, >= 0, of a shape that broadcasts with the other.

    Returns:
        Losses of the broadcast shape: log(1 + exp(d_ap - d_an)), > 0.

    Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, section 2.
    """
    difference = positive_distance - negative_distance
    return torch.logaddexp(difference, torch.zeros_like(difference))  # torch's softplus is cut to linear above 20


class TripletLoss(BatchObjective):
    """`triplet_loss` over tuples triplets, or over every (anchor, positive, negative) of the batch.

    The items follow the order of the triplets; all triplets come ordered by anchor, positive, negative. Pairs are
    refused: those of a pair data set seldom share an anchor, and a loss of 0 on every step would hide it.

    Args:
        margin: >= 0, in the unit of the distance; 0.2 on squared distances of unit embeddings is FaceNet's. The soft
            form has none and ignores it.
        squared: compare squared Euclidean distances in place of plain ones.
        soft: log(1 + exp(d_ap - d_an)) in place of the hinge. Its items are never 0: all count as active.
        reduction: `mean`, `mean_active`, `sum` or `none`.

    Raises:
        InputError: a negative margin or an unknown reduction; when called with Pairs.
    """

    takes = (Triplets,)
    instead = "set miner=none, or one that chooses triplets, such as miner=semi_hard"

    def __init__(
        self, margin: float = 0.2, squared: bool = False, soft: bool = False, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        if not margin >= 0:
            raise InputError(f"margin is {margin}, but a triplet loss needs a margin of 0 or more.")
        self.margin = margin
        self.squared = squared
        self.soft = soft

    @property
    def collapsed_loss(self) -> float:
        """What every item costs when all embeddings are one point."""
        return math.log(2) if self.soft else self.margin

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Compute the items of triplets; see `BatchObjective.items`."""
        if isinstance(tuples, Pairs):
            raise InputError(
                f"TripletLoss compares triplets, but was given {len(tuples.anchor)} pairs: feed triplets, or let a "
                f"miner such as BatchHard or SemiHard choose them."
            )
        if tuples is None:
            tuples = geometry.every_triplet(batch.labels, batch.candidate_labels, itself=True)
        anchor, positive, negative = tuples
        metric: Metric = "squared" if self.squared else "euclidean"
        distance = row_distance(
            batch.embeddings, batch.candidates, torch.cat([anchor, anchor]), torch.cat([positive, negative]), metric
        )
        positive_distance, negative_distance = distance.tensor_split(2)
        if self.soft:
            losses = soft_triplet_loss(positive_distance, negative_distance)
            return Items(losses, torch.ones_like(losses, dtype=torch.bool))
        return Items.of(triplet_loss(positive_distance, negative_distance, self.margin))

    def add_up_all(self, batch: Batch) -> Totals:
        """Sum over every triplet."""
        totals = every_triplet(batch, self._rule, self.squared)
        return totals._replace(active=totals.items) if self.soft else totals

    def _rule(self, difference: Tensor) -> tuple[Tensor, Tensor]:
        if self.soft:
            return torch.logaddexp(difference, torch.zeros_like(difference)), difference.sigmoid()
        losses = (difference + self.margin).clamp_(min=0)
        return losses, (losses > 0).to(losses.dtype)

    def extra_repr(self) -> str:
        """Name the parameters where the module is printed."""
        return f"margin={self.margin}, squared={self.squared}, soft={self.soft}, reduction={self.reduction!r}"
