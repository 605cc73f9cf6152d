"""Supervised contrastive loss."""

from __future__ import annotations

import torch

from siamese_verify.geometry import Batch
from siamese_verify.losses.every_partner import choose_among_all
from siamese_verify.losses.reduction import Items, Reduction, Totals
from siamese_verify.losses.softmax import SoftmaxObjective
from siamese_verify.types import Pairs, Triplets


class SupConLoss(SoftmaxObjective):
    """The terms of `NTXentLoss`, averaged over the positives of each anchor first: one item an anchor that has any.

    So every anchor weighs the same, however many photos there are of the person. Items come in the order of anchors.

    Args:
        temperature: > 0; 0.1 is the paper's.
        reduction: `mean`, `mean_active`, `sum` or `none`; an item is above zero, however small it rounds, unless the
            positive is the anchor's only partner.

    Raises:
        InputError: a temperature that is not above 0; an unknown reduction.

    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2 (L_out).
    """

    def __init__(self, temperature: float = 0.1, reduction: Reduction = "mean") -> None:
        super().__init__(temperature, reduction)

    def list_items(self, batch: Batch, mined: Pairs | Triplets | None) -> Items:
        """Compute the items of anchors; see `BatchObjective.items`."""
        anchor, loss, contested = self.positive_terms(batch, mined)
        total = loss.new_zeros(len(batch.labels)).index_add(0, anchor, loss)
        positives = anchor.bincount(minlength=len(batch.labels))
        active = torch.zeros_like(positives, dtype=torch.bool).index_fill(0, anchor[contested], True)
        chosen = positives > 0
        return Items((total / positives.clamp(min=1))[chosen], active[chosen])

    def add_up_all(self, batch: Batch) -> Totals:
        """Sum over every anchor that has a positive."""
        _, loss, positives = choose_among_all(batch, self.temperature)
        count = (positives > 0).sum()
        return Totals((loss / positives.clamp(min=1)).sum(), count, count if len(batch.candidate_labels) > 2 else 0)
