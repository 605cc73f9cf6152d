"""What the objectives with a softmax over all partners share: its logarithm, without the matrix of its logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.losses.base import BatchObjective, Reduction, by_anchor
from siamese_verify.pairwise import Batch, Identities, row_product, unit
from siamese_verify.pairwise.blocks import Items, Totals
from siamese_verify.pairwise.log_softmax import choose_among_all
from siamese_verify.structures import Pairs, Triplets


class PositiveTerms(NamedTuple):
    """-log of the softmax at each positive."""

    anchor: Tensor  # (M,) int64, the row whose positive it is
    loss: Tensor  # (M,) >= 0
    contested: Tensor  # (M,) bool, whether the anchor has another partner: then the loss is above zero


class SoftmaxObjective(BatchObjective):
    """Each anchor picks its positives among all its partners, by a softmax over cosines divided by a temperature.

    Mined pairs are everything an anchor is compared with, and count for both their rows, each once: those of `AllPairs`
    give what None gives. Of tuples triplets each is a choice between two. With one partner only there is nothing to
    choose: the item is 0.

    Args:
        temperature: > 0. The smaller, the more the hardest partners decide.
        reduction: `mean`, `mean_active`, `sum` or `none`.

    Raises:
        InputError: a temperature that is not above 0; an unknown reduction.
    """

    needs_rivals = True

    def __init__(self, temperature: float, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        check_temperature(temperature)
        self.temperature = temperature

    def positive_terms(self, batch: Batch, tuples: Pairs | Triplets | None) -> PositiveTerms:
        """List -log softmax of every ordered (anchor, positive): by anchor, then positive, if nothing was tuples."""
        rows = unit(batch.embeddings)
        candidates = unit(batch.candidates) if len(batch.references) else rows
        if tuples is None:
            anchor, positive = Identities(batch.candidate_labels).pairs(batch.labels, itself=True)
            logit = row_product(rows, candidates, anchor, positive) / self.temperature
            partition = choose_among_all(batch, self.temperature).partition
            contested = torch.full_like(anchor, len(batch.candidate_labels) > 2, dtype=torch.bool)
            return PositiveTerms(anchor, (partition[anchor] - logit).clamp(min=0), contested)
        if isinstance(tuples, Triplets):
            genuine = row_product(rows, candidates, tuples.anchor, tuples.positive)
            impostor = row_product(rows, candidates, tuples.anchor, tuples.negative)
            difference = (impostor - genuine) / self.temperature
            losses = torch.logaddexp(difference, torch.zeros_like(difference))
            return PositiveTerms(tuples.anchor, losses, torch.ones_like(losses, dtype=torch.bool))
        anchor, partner, same = by_anchor(batch, tuples)
        logit = row_product(rows, candidates, anchor, partner) / self.temperature
        partition = log_sum_exp_by(logit, anchor, len(rows))
        contested = (anchor.bincount(minlength=len(rows)) > 1)[anchor]
        return PositiveTerms(anchor[same], (partition[anchor] - logit)[same].clamp(min=0), contested[same])

    def extra_repr(self) -> str:
        """Name the parameters where the module is printed."""
        return f"temperature={self.temperature}, reduction={self.reduction!r}"


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that divides by nothing, or turns the softmax upside down."""
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}, but must be above 0: 0.05 to 0.5 are usual.")


def log_sum_exp_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Log-sum-exp within groups.

    Args:
        values: (M,).
        group: (M,) int64 in [0, groups).
        groups: how many there are.

    Returns:
        (groups,); -inf for one without values.
    """
    highest = values.new_full((groups,), -torch.inf).scatter_reduce(0, group, values.detach(), "amax")
    total = values.new_zeros(groups).index_add(0, group, (values - highest[group]).exp())
    return torch.where(total > 0, highest + total.log(), -torch.inf)


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

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Compute the items of ordered positive pairs; see `BatchObjective.items`."""
        terms = self.positive_terms(batch, tuples)
        return Items(terms.loss, terms.contested)

    def add_up_all(self, batch: Batch) -> Totals:
        """Sum over every ordered positive pair."""
        _, loss, positives = choose_among_all(batch, self.temperature)
        count = positives.sum()
        return Totals(loss.sum(), count, count if len(batch.candidate_labels) > 2 else 0)


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

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Compute the items of anchors; see `BatchObjective.items`."""
        anchor, loss, contested = self.positive_terms(batch, tuples)
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
