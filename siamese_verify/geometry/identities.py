"""Who is who: rows of one identity, found by sorting the labels, never by a (B, B) comparison."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.geometry.tiles import bands
from siamese_verify.types import Triplets


class GenuinePairs(NamedTuple):
    """Rows with the same identity, two by two: ordered by the first, then by the second."""

    row: Tensor  # (M,) int64
    column: Tensor  # (M,) int64


class Identities:
    """The columns that rows may be compared with, by identity.

    Args:
        labels: (C,) int64.
    """

    def __init__(self, labels: Tensor) -> None:
        self.sorted, self.order = labels.sort(stable=True)  # rows of one identity ascend

    def span(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Where the columns of given identities lie in `order`: (N,) first and (N,) one past the last.

        No two identities share a first place, which makes it a number of the identity, in [0, C); for an identity
        that no column has, both are the same. Nothing waits for a GPU.
        """
        first = torch.searchsorted(self.sorted, labels)
        return first, torch.searchsorted(self.sorted, labels, right=True)

    def pairs(self, labels: Tensor, start: int = 0, itself: bool = False) -> GenuinePairs:
        """List the genuine pairs of some rows with all columns; on a GPU this waits for their number.

        Args:
            labels: (N,) of the rows.
            start: number of the first row.
            itself: the rows are columns too, of the same number, and nobody is his own partner.
        """
        first, last = self.span(labels)
        counts = last - first
        row = torch.repeat_interleave(counts)  # (M,) 0 0 0 1 1 1 ...
        shift = first - counts.cumsum(0) + counts  # (N,) from the place in this list to that in `order`
        place = torch.arange(len(row), device=row.device) + shift.index_select(0, row)
        column = self.order.index_select(0, place)
        if start:
            row = row + start
        if not itself:
            return GenuinePairs(row, column)
        others = (row != column).nonzero().flatten()
        return GenuinePairs(row.index_select(0, others), column.index_select(0, others))


def every_triplet(labels: Tensor, column_labels: Tensor, itself: bool) -> Triplets:
    """List every (anchor, positive, negative): ordered by anchor, positive, negative.

    Args:
        labels: (N,) int64 of the anchors.
        column_labels: (C,) int64 of the others.
        itself: the anchors are the first of the columns, and nobody is his own positive.
    """
    anchor, positive = Identities(column_labels).pairs(labels, itself=itself)
    pieces = [Triplets(anchor[:0], anchor[:0], anchor[:0])]
    for part in bands(len(anchor), len(column_labels)):
        pair, negative = (labels[anchor[part], None] != column_labels).nonzero(as_tuple=True)
        pieces.append(Triplets(anchor[part][pair], positive[part][pair], negative))
    return Triplets(*(torch.cat(column) for column in zip(*pieces, strict=True)))
