"""A sum over every pair of a batch and its gradient in one pass, without listing the pairs."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from siamese_verify.geometry import Batch, DistanceTile, Spread, directions_of, steps, through_directions_
from siamese_verify.losses.objective import uncompiled
from siamese_verify.losses.reduction import Totals


class PairRule(Protocol):
    """What a pair costs."""

    def __call__(self, measure: Tensor, same: Tensor, /) -> tuple[Tensor, Tensor]:
        """Distances or cosines and a bool of one shape -> losses >= 0 and their derivatives, of that shape."""


class CosineTile:
    """Cosines of n rows and m columns, and their gradient: the part of `DistanceTile` where nothing cancels."""

    def __init__(self, left: Spread, right: Spread) -> None:
        self.left, self.right = left.rows, right.rows
        self.values = left.rows @ right.rows.T  # (n,m)

    def pull(self, slope: Tensor, to_left: Tensor, to_right: Tensor | None) -> None:
        """Add the gradient of a sum over the tile, as `DistanceTile.pull`."""
        to_left.addmm_(slope, self.right)
        if to_right is not None:
            to_right.addmm_(slope.T, self.left)


@uncompiled
def every_pair(batch: Batch, rule: PairRule, cosine: bool) -> Totals:
    """Sum `rule` over all pairs i < j of the embeddings, and over all pairs of an embedding with a reference.

    Each product of two rows is computed once, in tiles, and used for both rows' gradients, which are computed along
    with the sum: 1.5 products of the whole (B, D) batch with itself, O(B D) memory.

    Args:
        batch: embeddings, labels and references.
        rule: what a pair costs.
        cosine: measure the cosine of two embeddings, in place of their Euclidean distance.
    """
    total, active = _EveryPair.apply(*batch, rule, cosine, torch.is_grad_enabled())
    count = len(batch.labels)
    return Totals(total, count * (count - 1) // 2 + count * len(batch.reference_labels), active)


class _EveryPair(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        labels: Tensor,
        references: Tensor,
        reference_labels: Tensor,
        rule: PairRule,
        cosine: bool,
        learning: bool,
    ) -> tuple[Tensor, Tensor]:
        needed, _, needed_of_references, *_ = (learning and needed for needed in ctx.needs_input_grad)
        to_rows = torch.zeros_like(embeddings) if needed or needed_of_references else None
        to_references = torch.zeros_like(references) if needed_of_references else None
        total, active = embeddings.new_zeros(()), labels.new_zeros(())
        if cosine:
            (own, length), (others, length_of_references) = directions_of(embeddings), directions_of(references)
            left, right = Spread(own, length, own), Spread(others, length_of_references, others)
        else:
            centre = embeddings.mean(dim=0)
            left, right = Spread.around(embeddings, centre), Spread.around(references, centre)

        def add(rows: slice, others: Spread, other_labels: Tensor, to_others: Tensor | None, diagonal: bool) -> None:
            tile = CosineTile(left.part(rows), others) if cosine else DistanceTile(left.part(rows), others)
            losses, slope = rule(tile.values, labels[rows, None] == other_labels)
            if diagonal:  # each pair once, nobody with himself
                losses, slope = losses.triu_(1), slope.triu_(1)
            total.add_(losses.sum())
            active.add_(torch.count_nonzero(losses))
            if to_rows is not None:
                tile.pull(slope, to_rows[rows], to_others)

        for rows in steps(len(labels), labels.device):
            for columns in steps(len(labels), labels.device, rows.start):
                to_columns = None if to_rows is None else to_rows[columns]
                add(rows, left.part(columns), labels[columns], to_columns, columns == rows)
            for columns in steps(len(reference_labels), labels.device):
                to_columns = None if to_references is None else to_references[columns]
                add(rows, right.part(columns), reference_labels[columns], to_columns, False)
        if cosine and to_rows is not None:
            through_directions_(to_rows, left.rows, length)
        if cosine and to_references is not None:
            through_directions_(to_references, right.rows, length_of_references)
        ctx.gradients = (to_rows if needed else None, to_references)
        ctx.mark_non_differentiable(active)
        return total, active

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if gradient is None else gradient * slope for gradient in ctx.gradients]
        return scaled[0], None, scaled[1], None, None, None, None
