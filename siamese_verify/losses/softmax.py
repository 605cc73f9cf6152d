"""Losses with a softmax over all other rows of the batch: NT-Xent and SupCon."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.errors import InputError, check_numbers
from siamese_verify.losses.base import BatchLoss, Items, Reduction
from siamese_verify.pairwise import Batch, Identities, Totals, row_product, unit
from siamese_verify.pairwise.distances import block_cosine
from siamese_verify.pairwise.log_softmax import SMALLEST_TEMPERATURE, log_sum_exp_of_others, softmax_over_others
from siamese_verify.pairwise.tiles import as_multiplied
from siamese_verify.structures import Pairs, Triplets


def nt_xent_loss(positive: Tensor, log_sum: Tensor) -> Tensor:
    """Normalized temperature-scaled cross-entropy of each positive.

    Args:
        positive: logits of the positives, s_ip / t.
        log_sum: logarithm of the sum over all k != i of exp(s_ik / t), of the same shape.

    Returns:
        -log(exp(s_ip / t) / sum_k exp(s_ik / t)), >= 0.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, eq. 1.
    """
    return (log_sum - positive).clamp(min=0)  # rounding may leave -1e-7


def sup_con_loss(positive: Tensor, log_sum: Tensor, anchor: Tensor, anchors: int) -> Tensor:
    """`nt_xent_loss` averaged over the positives of each anchor.

    Args:
        positive: (M,) logits of the positives.
        log_sum: (M,) as in `nt_xent_loss`.
        anchor: (M,) int64, whose positives they are.
        anchors: B.

    Returns:
        (B,) losses, >= 0; 0 for an anchor without positives.

    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2 (L_out).
    """
    total = positive.new_zeros(anchors).index_add(0, anchor, nt_xent_loss(positive, log_sum))
    return total / anchor.bincount(minlength=anchors).clamp(min=1)


LOWEST = torch.finfo(torch.float32).min / 4  # a logit that adds nothing


class Positives(NamedTuple):
    """Ordered genuine pairs and what `nt_xent_loss` needs of them."""

    anchor: Tensor  # (M,) int64
    logit: Tensor  # (M,)
    log_sum: Tensor  # (M,)
    contested: Tensor  # (M,) bool, whether the anchor is compared with any other row: then the loss is above zero


class SoftmaxObjective(BatchLoss):
    """Base class of losses with a softmax over all other rows of the batch, of cosines over temperature.

    Given pairs are everything that an anchor is compared with, in both directions, each once. A given triplet is a
    choice between its positive and its negative. Compared with nothing but its positive, an anchor has a loss of 0;
    any other loss is above zero, however small it rounds.

    Args:
        temperature: at least 0.003. The smaller, the more the hardest negatives decide.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.

    Raises:
        InputError: a temperature that is too small; an unknown reduction.
    """

    needs_negatives = True

    def __init__(self, temperature: float = 0.1, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        check_temperature(temperature)
        self.temperature = temperature

    def positives(self, batch: Batch, tuples: Pairs | Triplets | None) -> Positives:
        """List the positives of all anchors, ordered by anchor, then positive, or as triplets are given."""
        candidates = unit(batch.candidates)
        rows = candidates[: len(batch.labels)]
        if tuples is None:
            own = batch.anchors
            anchor, positive = Identities(batch.candidate_labels).pairs(batch.labels[own], own.start, itself=True)
            candidates = as_multiplied(candidates, batch.factors)
            rows = candidates[: len(rows)]
            logit = row_product(rows, candidates, anchor, positive) / self.temperature
            log_sum = log_sum_exp_of_others(
                rows, candidates[len(rows) :], self.temperature, own=batch.own, factors=batch.factors
            )
            contested = torch.full_like(anchor, len(candidates) > 2, dtype=torch.bool)
            return Positives(anchor, logit, log_sum[anchor], contested)
        if isinstance(tuples, Triplets):
            anchor = tuples.anchor
            logit, other = (row_product(rows, candidates, anchor, end) / self.temperature for end in tuples[1:])
            return Positives(anchor, logit, torch.logaddexp(logit, other), torch.ones_like(anchor, dtype=torch.bool))
        anchor, other, same = tuples
        logit = row_product(rows, candidates, anchor, other) / self.temperature
        log_sum = log_sum_exp_by(logit, anchor, len(rows))[anchor]
        contested = (anchor.bincount(minlength=len(rows)) > 1)[anchor]
        return Positives(anchor[same], logit[same], log_sum[same], contested[same])

    def anchor_sums(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(N,) sums of `nt_xent_loss` over all positives of each of N anchors, and (N,) how many positives it has."""
        if batch.small:
            logits = block_cosine(batch.candidates, len(batch.labels), self.temperature)  # (B,B+R)
            logits.detach().diagonal().fill_(LOWEST)  # where the gradient is 0 without a backward pass of its own
            genuine = (batch.labels[:, None] == batch.candidate_labels).fill_diagonal_(False).to(logits.dtype)
            return torch.linalg.vecdot(logits.log_softmax(dim=1), -genuine), genuine.sum(dim=1)
        labels, own = (batch.labels, batch.reference_labels), batch.anchors
        log_sum, positive, count = softmax_over_others(
            unit(batch.embeddings), unit(batch.references), labels, self.temperature, batch.own, batch.factors
        )
        return nt_xent_loss(positive[own], count[own] * log_sum[own]), count[own]

    def extra_repr(self) -> str:
        """Parameters for `print(module)`."""
        return f"temperature={self.temperature}, reduction={self.reduction!r}"


class NTXentLoss(SoftmaxObjective):
    """`nt_xent_loss` over all ordered positive pairs (i, p): with two views of each image a label, SimCLR's loss.

    With more views, the other positives of an anchor stand in the denominator too, as in `SupConLoss`, which only
    averages differently.

    Args:
        temperature: at least 0.003; 0.5 is SimCLR's on small images, 0.07 to 0.1 are usual for faces.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.

    Raises:
        InputError: a temperature that is too small; an unknown reduction.
    """

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Losses of ordered positive pairs; see `BatchLoss.items`."""
        _, logit, log_sum, contested = self.positives(batch, tuples)
        return Items(nt_xent_loss(logit, log_sum), contested)

    def sum_all(self, batch: Batch) -> Totals:
        """Sum over all ordered positive pairs."""
        losses, positives = self.anchor_sums(batch)
        count = positives.sum()
        return Totals(losses.sum(), count, count if len(batch.candidate_labels) > 2 else 0)


class SupConLoss(SoftmaxObjective):
    """`sup_con_loss` over all anchors that have a positive.

    So every anchor weighs the same, however many photos there are of the person.

    Args:
        temperature: at least 0.003; 0.1 is the paper's.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.

    Raises:
        InputError: a temperature that is too small; an unknown reduction.
    """

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Losses of anchors; see `BatchLoss.items`."""
        anchor, logit, log_sum, contested = self.positives(batch, tuples)
        losses = sup_con_loss(logit, log_sum, anchor, len(batch.labels))
        nonzero = torch.zeros_like(batch.labels, dtype=torch.bool).index_fill(0, anchor[contested], True)
        chosen = anchor.bincount(minlength=len(batch.labels)) > 0
        return Items(losses[chosen], nonzero[chosen])

    def sum_all(self, batch: Batch) -> Totals:
        """Sum over all anchors that have a positive."""
        losses, count = self.anchor_sums(batch)
        anchors = (count > 0).sum()
        total = (losses / count.clamp(min=1)).sum()
        return Totals(total, anchors, anchors if len(batch.candidate_labels) > 2 else 0)


def check_temperature(temperature: float) -> None:
    """Raise InputError for a temperature that exponentials of float64 have no room for."""
    check_numbers(temperature=temperature)
    if not temperature >= SMALLEST_TEMPERATURE:
        raise InputError(
            f"temperature is {temperature}, but must be {SMALLEST_TEMPERATURE} or more: 0.05 to 0.5 are usual."
        )


def log_sum_exp_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """(groups,) log-sum-exp of (M,) values by their (M,) group; -inf for a group without values."""
    highest = values.new_full((groups,), -torch.inf).scatter_reduce(0, group, values.detach(), "amax")
    total = values.new_zeros(groups).index_add(0, group, (values - highest[group]).exp())
    return torch.where(total > 0, highest + total.log(), -torch.inf)
