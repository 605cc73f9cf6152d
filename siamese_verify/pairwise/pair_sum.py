"""Sum of a loss over all pairs of a batch and its gradient, block by block, in O(B D) memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from siamese_verify.pairwise.batch import Batch, Identities, Totals
from siamese_verify.pairwise.blocks import block_size, first_order, rectangles, share_blocks, uncompiled
from siamese_verify.pairwise.distances import block_cosine, block_distance, unit
from siamese_verify.pairwise.tiles import TILE, WALKED, Tiles, fused, kernels, multiply, rounded, squared_lengths

PairLoss = Callable[[Tensor, Tensor], Tensor]


class Hinge(NamedTuple):
    """A loss in the form that kernels know: scale * d^power of a genuine pair, else scale * max(0, margin - d)^power.

    The distance d is 1 - cosine, or Euclidean, then with a power of 2.
    """

    margin: float
    scale: float
    power: int  # 1 or 2


@uncompiled
def pair_sum(
    batch: Batch, loss: PairLoss, cosine: bool = False, size: int | None = None, hinge: Hinge | None = None
) -> Totals:
    """Sum of `loss(measure, same)` over all pairs i < j of the embeddings and all pairs of embedding and reference.

    Each block takes its gradient from autograd while it is there: 1.5 products of the whole (B, D) batch with itself
    in all, and nothing for the backward pass but a scaling. Of pairs of two ranks' rows each rank sums its half.

    Where kernels reduce the products, nothing waits for the GPU; `pairwise.tiles` says how exact they are. Impostors
    so near that float32 cancels no longer pull with their full force.

    Args:
        batch: embeddings, labels and references, and which rows are this rank's.
        loss: called with distances (or cosines) and a bool of the same shape, True for a genuine pair; returns losses
            >= 0 of this shape.
        cosine: compare by cosine, not by Euclidean distance.
        size: rows of a block; None chooses by device.
        hinge: the loss in the form that kernels know; None leaves all to PyTorch.
    """
    rows, references, own = batch.embeddings, batch.references, batch.anchors
    count = own.stop - own.start
    pairs = count * (count - 1) // 2 + count * len(references)
    if size is None and batch.small and not fused(rows):
        if cosine:
            measure = block_cosine(batch.candidates, len(rows))
        else:
            measure = block_distance(rows, batch.candidates if len(references) else None)
        losses = loss(measure, batch.labels[:, None] == batch.candidate_labels).triu(diagonal=1)
        return Totals(losses.sum(), pairs, torch.count_nonzero(losses))
    pairs += sum(len(some) * len(others) for some, others in rectangles(own, len(rows)))
    if cosine:
        rows, references = unit(rows), unit(references)
    learning = torch.is_grad_enabled()
    if hinge is not None and fused(rows):
        batch = batch._replace(embeddings=rows, references=references)
        total, nonzero = _FusedPairSum.apply(rows, references, batch, hinge, cosine, size or TILE, learning)
    else:
        size = size or block_size(rows.device)
        total, nonzero = _PairSum.apply(
            rows, batch.labels, references, batch.reference_labels, own, loss, cosine, size, learning
        )
    return Totals(total, pairs, nonzero)


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
    return total.detach(), torch.count_nonzero(losses), (to_left, to_right)


class _FusedPairSum(torch.autograd.Function):
    """Impostors tile by tile, from products; genuine pairs row by row, from differences. Gradients come along."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, references: Tensor, batch: Batch, hinge: Hinge, cosine: bool, size: int, learning: bool
    ) -> tuple[Tensor, Tensor]:
        learning = learning and (ctx.needs_input_grad[0] or ctx.needs_input_grad[1])
        candidates, labels, count = batch.candidates.detach().contiguous(), batch.candidate_labels, len(rows)
        gradient = torch.zeros_like(candidates) if learning else None
        identities = Identities(labels)
        first, last = identities.span(labels)
        many = last - first > WALKED
        marks = torch.where(many, ~first, first)  # identities whose genuine pairs come from products are below 0
        total, nonzero = _sum_tiles(candidates, marks, batch, hinge, cosine, size, gradient)
        genuine = kernels().genuine_losses(
            *(candidates, identities.order, first, torch.where(many, first, last), gradient, count, batch.anchors),
            *(hinge.scale, hinge.power, cosine),
        )
        nonzero = nonzero + genuine[1]
        ctx.gradient = gradient
        ctx.count = count
        ctx.mark_non_differentiable(nonzero)
        return total + genuine[0], nonzero

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradient = ctx.gradient * slope
        return gradient[: ctx.count], gradient[ctx.count :], None, None, None, None, None


def _sum_tiles(
    candidates: Tensor, marks: Tensor, batch: Batch, hinge: Hinge, cosine: bool, size: int, gradient: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Sum and number above zero of the losses of tiles; adds the gradient of (C, D) rows and references.

    These are the losses of impostors, and of genuine pairs whose mark is below 0.
    """
    count, width = len(batch.labels), candidates.shape[1]
    squares = None
    if cosine:
        factors = rounded(candidates, batch.factors)
    else:  # distances stay around a center, and what they cancel from becomes small
        factors = rounded(candidates - candidates.mean(dim=0), batch.factors)
        squares = squared_lengths(factors)
        # A column of ones sums the weights of each row, rounded as the product rounds them.
        factors = torch.nn.functional.pad(factors, (0, 1), value=1)
        factors = torch.nn.functional.pad(factors, (0, 7))  # rows of 16 bytes again
    pulls = factors.new_zeros(factors.shape, dtype=torch.float32) if gradient is not None else None
    tiles = Tiles(factors, (min(size, count), min(size, len(candidates))))
    total, nonzero = candidates.new_zeros(()), marks.new_zeros(())
    for i, j, itself in share_blocks(batch.anchors, count, len(candidates) - count, size):
        if not itself:
            j = slice(j.start + count, j.stop + count)
        diagonal = itself and i == j
        product = tiles.product(factors[i, :width], factors[j, :width])
        weights = None if pulls is None else tiles.weights_like(product)
        ends = None if squares is None else (squares[i], squares[j])
        found = kernels().hinge_losses(product, weights, marks[i], marks[j], ends, *hinge, diagonal)
        total, nonzero = total + found[0], nonzero + found[1]
        if pulls is not None and weights is not None:
            pulls[i] += multiply(weights, factors[j])
            if not diagonal:
                pulls[j] += multiply(weights.T, factors[i])
    if gradient is not None and pulls is not None:
        gradient += pulls[:, :width]
        if not cosine:
            gradient -= factors[:, :width] * pulls[:, width, None]
    return total, nonzero
