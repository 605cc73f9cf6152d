"""Sum of a loss over all triplets of a batch and its gradient, band by band, in O(B D) memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from siamese_verify.pairwise.batch import Batch, Identities, Totals
from siamese_verify.pairwise.blocks import BAND, bands, first_order, uncompiled
from siamese_verify.pairwise.distances import block_distance

TripletLossFunction = Callable[[Tensor, Tensor], Tensor]


@uncompiled
def triplet_sum(batch: Batch, loss: TripletLossFunction, squared: bool = False, numbers: int = BAND) -> Totals:
    """Sum of `loss(positive_distance, negative_distance)` over all (anchor, positive, negative).

    Anchors are embeddings, of this rank where ranks share the batch; positives and negatives may be references. The
    distances of some anchors from all candidates are held at once. The time grows with the number of triplets; on a GPU
    it waits for the number of genuine pairs.

    Args:
        batch: embeddings, labels and references.
        loss: called with distances of shapes that broadcast; returns losses >= 0.
        squared: compare squared distances.
        numbers: triplets and distances held at once.
    """
    candidates, labels = batch.candidates, batch.candidate_labels
    learning = torch.is_grad_enabled()
    total, nonzero = _TripletSum.apply(candidates, labels, batch.anchors, loss, squared, numbers, learning)
    first, last = Identities(labels).span(batch.labels[batch.anchors])
    count = ((last - first - 1) * (len(labels) - (last - first))).sum()
    return Totals(total, count, nonzero)


class _TripletSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        candidates: Tensor,
        labels: Tensor,
        anchors: slice,
        loss: TripletLossFunction,
        squared: bool,
        numbers: int,
        learning: bool,
    ) -> tuple[Tensor, Tensor]:
        learning = learning and ctx.needs_input_grad[0]
        ctx.gradient = torch.zeros_like(candidates) if learning else None
        total, nonzero = candidates.new_zeros(()), labels.new_zeros(())
        identities = Identities(labels)
        for rows in bands(anchors.stop, len(labels), numbers, anchors.start):
            left, right = (part.detach().requires_grad_(learning) for part in (candidates[rows], candidates))
            with torch.set_grad_enabled(learning):
                distance = block_distance(left, right)  # (b,C)
                distance = distance.square() if squared else distance
            leaf = distance.detach().requires_grad_(learning)
            slope = torch.zeros_like(leaf)
            pairs = identities.pairs(labels[rows], rows.start, itself=True)
            for part in bands(len(pairs.row), len(labels), numbers):
                anchor, positive = pairs.row[part] - rows.start, pairs.column[part]
                same = labels[positive, None] == labels  # (m,C): every column as the negative
                with torch.set_grad_enabled(learning):
                    losses = loss(leaf[anchor, positive, None], leaf.index_select(0, anchor)).masked_fill(same, 0)
                    subtotal = losses.sum()
                total += subtotal.detach()
                nonzero += torch.count_nonzero(losses)
                if learning:
                    slope += torch.autograd.grad(subtotal, leaf)[0]
            if learning:
                to_anchors, to_all = torch.autograd.grad(distance, (left, right), slope)
                ctx.gradient[rows] += to_anchors
                ctx.gradient += to_all
        ctx.mark_non_differentiable(nonzero)
        return total, nonzero

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient * slope, None, None, None, None, None, None
