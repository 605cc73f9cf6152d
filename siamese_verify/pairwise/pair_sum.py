"""Sum of a loss over all pairs of a batch and its gradient, block by block, in O(B D) memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from siamese_verify.pairwise.batch import Batch, Totals
from siamese_verify.pairwise.blocks import block_size, first_order, rectangles, share_blocks, uncompiled
from siamese_verify.pairwise.distances import block_distance, unit

PairLoss = Callable[[Tensor, Tensor], Tensor]


@uncompiled
def pair_sum(batch: Batch, loss: PairLoss, cosine: bool = False, size: int | None = None) -> Totals:
    """Sum of `loss(measure, same)` over all pairs i < j of the embeddings and all pairs of embedding and reference.

    Each block takes its gradient from autograd while it is there: 1.5 products of the whole (B, D) batch with itself
    in all, and nothing for the backward pass but a scaling. Of pairs of two ranks' rows each rank sums its half.

    Args:
        batch: embeddings, labels and references, and which rows are this rank's.
        loss: called with distances (or cosines) and a bool of the same shape, True for a genuine pair; returns losses
            >= 0 of this shape.
        cosine: compare by cosine, not by Euclidean distance.
        size: rows of a block; None chooses by device.
    """
    rows, references = batch.embeddings, batch.references
    if cosine:
        rows, references = unit(rows), unit(references)
    size = size or block_size(rows.device)
    learning = torch.is_grad_enabled()
    total, nonzero = _PairSum.apply(
        rows, batch.labels, references, batch.reference_labels, batch.anchors, loss, cosine, size, learning
    )
    own = batch.anchors.stop - batch.anchors.start
    shared = sum(len(some) * len(others) for some, others in rectangles(batch.anchors, len(rows)))
    return Totals(total, own * (own - 1) // 2 + shared + own * len(references), nonzero)


class _PairSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        labels: Tensor,
        references: Tensor,
        reference_labels: Tensor,
        own: slice,
        loss: PairLoss,
        cosine: bool,
        size: int,
        learning: bool,
    ) -> tuple[Tensor, Tensor]:
        to_rows = torch.zeros_like(rows) if learning and ctx.needs_input_grad[0] else None
        to_references = torch.zeros_like(references) if learning and ctx.needs_input_grad[2] else None
        total, nonzero = rows.new_zeros(()), labels.new_zeros(())
        batch, remembered = (rows, labels, to_rows), (references, reference_labels, to_references)
        for i, j, itself in share_blocks(own, len(rows), len(references), size):
            columns, column_labels, to_columns = batch if itself else remembered
            left, right = rows[i].detach().requires_grad_(to_rows is not None), None
            if not itself or i != j:
                right = columns[j].detach().requires_grad_(to_columns is not None)
            same = labels[i, None] == column_labels[j]
            block_total, block_nonzero, gradients = _sum_block(left, right, same, loss, cosine)
            total += block_total
            nonzero += block_nonzero
            for target, part, gradient in zip((to_rows, to_columns), (i, j), gradients, strict=True):
                if target is not None and gradient is not None:
                    target[part] += gradient
        ctx.gradients = to_rows, to_references
        ctx.mark_non_differentiable(nonzero)
        return total, nonzero

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        to_rows, to_references = (None if gradient is None else gradient * slope for gradient in ctx.gradients)
        return to_rows, None, to_references, None, None, None, None, None, None


def _sum_block(
    left: Tensor, right: Tensor | None, same: Tensor, loss: PairLoss, cosine: bool
) -> tuple[Tensor, Tensor, tuple[Tensor | None, Tensor | None]]:
    """Sum over the pairs of two blocks, or of one with itself: total, number above zero, gradients by both blocks."""
    with torch.enable_grad():
        measure = left @ (left if right is None else right).T if cosine else block_distance(left, right)
        losses = loss(measure, same)  # (n,m)
        if right is None:
            losses = losses.triu(diagonal=1)
        total = losses.sum()
    ends = [end if end is not None and end.requires_grad else None for end in (left, right)]
    leaves = [end for end in ends if end is not None]
    found = iter(torch.autograd.grad(total, leaves) if leaves else ())
    to_left, to_right = (None if end is None else next(found) for end in ends)
    return total.detach(), torch.count_nonzero(losses.detach()), (to_left, to_right)
