"""A sum over every pair of a batch and its gradient in one pass, without listing the pairs."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from siamese_verify.pairwise.batch import Batch
from siamese_verify.pairwise.blocks import DistanceTile, Spread, Totals, pieces
from siamese_verify.pairwise.distances import directions_of, first_order, through_directions_, uncompiled


class Cost(NamedTuple):
    """What the pairs of a tile cost together."""

    total: Tensor  # scalar
    active: Tensor  # scalar int64, how many cost something
    slope: Tensor  # derivatives by the distances or cosines, of their shape


class PairRule(Protocol):
    """What a pair costs."""

    def __call__(self, measure: Tensor, same: Tensor, /) -> Cost:
        """Distances or cosines, and a bool of the same shape; an impostor infinitely far away costs nothing."""


class CosineTile:
    """Cosines of n rows and m columns, and their gradient: the part of `DistanceTile` where nothing cancels."""

    def __init__(self, left: Spread, right: Spread, diagonal: bool) -> None:
        self.left, self.right = left.rows, right.rows
        self.values = left.rows @ right.rows.T  # (n,m)
        if diagonal:
            self.values.fill_diagonal_(-torch.inf)

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
        make = CosineTile if cosine else DistanceTile
        batch, memory = (left, labels, to_rows), (right, reference_labels, to_references)
        for piece in pieces(len(labels), len(reference_labels), labels.device):
            columns, column_labels, to_columns = memory if piece.remembered else batch
            tile = make(left.part(piece.left), columns.part(piece.right), piece.diagonal)
            same = labels[piece.left, None] == column_labels[piece.right]
            if piece.diagonal:
                same.fill_diagonal_(False)
            cost = rule(tile.values, same)
            share = 1 if piece.diagonal else 2  # a tile of the diagonal holds each pair twice
            total.add_(cost.total, alpha=share)
            active.add_(cost.active, alpha=share)
            if to_rows is not None:
                to_right = None if piece.diagonal or to_columns is None else to_columns[piece.right]
                tile.pull(cost.slope, to_rows[piece.left], to_right)
        if cosine and to_rows is not None:
            through_directions_(to_rows, left.rows, length)
        if cosine and to_references is not None:
            through_directions_(to_references, right.rows, length_of_references)
        ctx.gradients = (to_rows if needed else None, to_references)
        total, active = total / 2, active // 2
        ctx.mark_non_differentiable(active)
        return total, active

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if gradient is None else gradient * slope for gradient in ctx.gradients]
        return scaled[0], None, scaled[1], None, None, None, None
