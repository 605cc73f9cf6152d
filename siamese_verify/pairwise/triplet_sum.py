"""A sum over every triplet of a batch and its gradient in one pass, without listing the triplets."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from siamese_verify.pairwise.batch import Batch, Identities
from siamese_verify.pairwise.blocks import DistanceTile, Spread, Totals, bands
from siamese_verify.pairwise.distances import first_order, uncompiled


class TripletRule(Protocol):
    """What a triplet costs."""

    def __call__(self, difference: Tensor, /) -> tuple[Tensor, Tensor]:
        """Differences d_ap - d_an -> losses >= 0 and their derivatives, of the same shape."""


@uncompiled
def every_triplet(batch: Batch, rule: TripletRule, squared: bool) -> Totals:
    """Sum `rule` over all (anchor, positive, negative): anchors are embeddings, the others may be references.

    The distances of some anchors from all candidates are held at once, and their gradient is computed along with the
    sum: O((B + R) D) memory, and time that grows with the number of triplets. On a GPU it waits for the number of
    genuine pairs.

    Args:
        batch: embeddings, labels and references.
        rule: what a triplet costs.
        squared: compare squared distances.
    """
    learning = torch.is_grad_enabled()
    candidates, labels = batch.candidates, batch.candidate_labels
    total, active = _EveryTriplet.apply(candidates, labels, len(batch.labels), rule, squared, learning)
    first, last = Identities(labels).span(batch.labels)
    count = ((last - first - 1) * (len(labels) - (last - first))).sum()
    return Totals(total, count, active)


class _EveryTriplet(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, candidates: Tensor, labels: Tensor, anchors: int, rule: TripletRule, squared: bool, learning: bool
    ) -> tuple[Tensor, Tensor]:
        gradient = torch.zeros_like(candidates) if learning and ctx.needs_input_grad[0] else None
        total, active = candidates.new_zeros(()), labels.new_zeros(())
        everyone = Spread.around(candidates, candidates.mean(dim=0))
        identities = Identities(labels)
        for rows in bands(anchors, len(labels)):
            tile = DistanceTile(everyone.part(rows), everyone)
            distance = tile.values.square() if squared else tile.values  # (b,C)
            slope = torch.zeros_like(distance)
            pairs = identities.pairs(labels[rows], rows.start, itself=True)
            for part in bands(len(pairs.row), len(labels)):
                anchor, positive = pairs.row[part] - rows.start, pairs.column[part]
                losses, pull = rule(distance[anchor, positive, None] - distance[anchor])  # (m,C): all as the negative
                same = labels[positive, None] == labels
                losses.masked_fill_(same, 0)
                total += losses.sum()
                active += torch.count_nonzero(losses)
                pull.masked_fill_(same, 0)
                slope.index_add_(0, anchor, pull, alpha=-1)
                slope.index_put_((anchor, positive), pull.sum(dim=1), accumulate=True)
            if gradient is not None:
                slope = slope.mul_(tile.values).mul_(2) if squared else slope
                tile.pull(slope, gradient[rows], gradient)
        ctx.gradient = gradient
        ctx.mark_non_differentiable(active)
        return total, active

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient * slope, None, None, None, None, None
