"""Sum of a loss over all pairs of a batch and its gradient, block by block, in O(B D) memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from siamese_verify.pairwise.batch import Batch, Totals
from siamese_verify.pairwise.blocks import block_size, blocks, first_order, uncompiled
from siamese_verify.pairwise.distances import block_distance, unit

PairLoss = Callable[[Tensor, Tensor], Tensor]


@uncompiled
def pair_sum(batch: Batch, loss: PairLoss, cosine: bool = False, size: int | None = None) -> Totals:
    """Sum of `loss(measure, same)` over all pairs i < j of the embeddings and all pairs of embedding and reference.

    Each block takes its gradient from autograd while it is there: 1.5 products of the whole (B, D) batch with itself
    in all, and nothing for the backward pass but a scaling.

    Args:
        batch: embeddings, labels and references.
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
        rows, batch.labels, references, batch.reference_labels, loss, cosine, size, learning
    )
    count = len(rows)
    return Totals(total, count * (count - 1) // 2 + count * len(references), nonzero)


class _PairSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        labels: Tensor,
        references: Tensor,
        reference_labels: Tensor,
        loss: PairLoss,
        cosine: bool,
        size: int,
        learning: bool,
    ) -> tuple[Tensor, Tensor]:
        needed = learning and ctx.needs_input_grad[0], learning and ctx.needs_input_grad[2]
        to_rows, to_references = (
            torch.zeros_like(part) if need else None for part, need in zip((rows, references), needed, strict=True)
        )
        total, nonzero = rows.new_zeros(()), labels.new_zeros(())
        for columns, column_labels, to_columns in (
            (rows, labels, to_rows),
            (references, reference_labels, to_references),
        ):
            itself = columns is rows
            for i, j in blocks(len(rows), None if itself else len(columns), size):
                left = rows[i].detach()
                right = None if itself and i == j else columns[j].detach()
                leaves = [
                    (leaf.requires_grad_(), gradient[part])
                    for leaf, gradient, part in ((left, to_rows, i), (right, to_columns, j))
                    if leaf is not None and gradient is not None
                ]
                same = labels[i, None] == column_labels[j]
                with torch.set_grad_enabled(bool(leaves)):
                    measure = left @ (left if right is None else right).T if cosine else block_distance(left, right)
                    losses = loss(measure, same)  # (n,m)
                    if right is None:
                        losses = losses.triu(diagonal=1)
                    subtotal = losses.sum()
                total += subtotal.detach()
                nonzero += torch.count_nonzero(losses.detach())
                if leaves:
                    gradients = torch.autograd.grad(subtotal, [leaf for leaf, _ in leaves])
                    for (_, target), gradient in zip(leaves, gradients, strict=True):
                        target += gradient
        ctx.gradients = to_rows, to_references
        ctx.mark_non_differentiable(nonzero)
        return total, nonzero

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        to_rows, to_references = (None if gradient is None else gradient * slope for gradient in ctx.gradients)
        return to_rows, None, to_references, None, None, None, None, None
