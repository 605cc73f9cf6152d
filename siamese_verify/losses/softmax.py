"""What the objectives with a softmax over all partners share: its logarithm, without the matrix of its logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.geometry import Batch, Identities, row_product, unit
from siamese_verify.losses.every_partner import choose_among_all
from siamese_verify.losses.objective import BatchObjective, by_anchor
from siamese_verify.losses.reduction import Reduction
from siamese_verify.types import Pairs, Triplets


class PositiveTerms(NamedTuple):
    """-log of the softmax at each positive."""

    anchor: Tensor  # (M,) int64, the row whose positive it is
    loss: Tensor  # (M,) >= 0
    contested: Tensor  # (M,) bool, whether the anchor has another partner: then the loss is above zero


class SoftmaxObjective(BatchObjective):
    """Each anchor picks its positives among all its partners, by a softmax over cosines divided by a temperature.

    Mined pairs are everything an anchor is compared with, and count for both their rows, each once: those of `AllPairs`
    give what None gives. Of mined triplets each is a choice between two. With one partner only there is nothing to
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

    def positive_terms(self, batch: Batch, mined: Pairs | Triplets | None) -> PositiveTerms:
        """List -log softmax of every ordered (anchor, positive): by anchor, then positive, if nothing was mined."""
        rows = unit(batch.embeddings)
        candidates = unit(batch.candidates) if len(batch.references) else rows
        if mined is None:
            anchor, positive = Identities(batch.candidate_labels).pairs(batch.labels, itself=True)
            logit = row_product(rows, candidates, anchor, positive) / self.temperature
            partition = choose_among_all(batch, self.temperature).partition
            contested = torch.full_like(anchor, len(batch.candidate_labels) > 2, dtype=torch.bool)
            return PositiveTerms(anchor, (partition[anchor] - logit).clamp(min=0), contested)
        if isinstance(mined, Triplets):
            genuine = row_product(rows, candidates, mined.anchor, mined.positive)
            impostor = row_product(rows, candidates, mined.anchor, mined.negative)
            difference = (impostor - genuine) / self.temperature
            losses = torch.logaddexp(difference, torch.zeros_like(difference))
            return PositiveTerms(mined.anchor, losses, torch.ones_like(losses, dtype=torch.bool))
        anchor, partner, same = by_anchor(batch, mined)
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
