"""Normalised, temperature-scaled cross-entropy over all partners."""

from __future__ import annotations

from siamese_verify.geometry import Batch
from siamese_verify.losses.every_partner import choose_among_all
from siamese_verify.losses.reduction import Items, Reduction, Totals
from siamese_verify.losses.softmax import SoftmaxObjective
from siamese_verify.types import Pairs, Triplets


class NTXentLoss(SoftmaxObjective):
    """-log exp(s_ip / t) / sum over k != i of exp(s_ik / t), for each ordered positive pair (i, p).

    With two views of each image a label, it is SimCLR's. With more, the other positives of an anchor stand in the
    denominator too, as in `SupConLoss`, which only averages differently. Items come ordered by i, then p.

    Args:
        temperature: > 0; 0.5 is SimCLR's on small images, 0.07 ... 0.1 are usual for faces.
        reduction: `mean`, `mean_active`, `sum` or `none`; an item is above zero, however small it rounds, unless the
            positive is the anchor's only partner.

    Raises:
        InputError: a temperature that is not above 0; an unknown reduction.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, eq. 1.
    """

    def __init__(self, temperature: float = 0.1, reduction: Reduction = "mean") -> None:
        super().__init__(temperature, reduction)

    def list_items(self, batch: Batch, mined: Pairs | Triplets | None) -> Items:
        """Compute the items of ordered positive pairs; see `BatchObjective.items`."""
        terms = self.positive_terms(batch, mined)
        return Items(terms.loss, terms.contested)

    def add_up_all(self, batch: Batch) -> Totals:
        """Sum over every ordered positive pair."""
        _, loss, positives = choose_among_all(batch, self.temperature)
        count = positives.sum()
        return Totals(loss.sum(), count, count if len(batch.candidate_labels) > 2 else 0)
