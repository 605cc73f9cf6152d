"""Ranks of the genuine columns of each row among all columns, by exact distances, band by band."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.pairwise.blocks import BAND
from siamese_verify.pairwise.nearest import ComparedRows, Distances, exact_distance


class GenuineRanks(NamedTuple):
    """Genuine pairs, ordered by row, then rank; the rows of one band."""

    row: Tensor  # (M,) int64
    rank: Tensor  # (M,) int64, from 1: place of the column among those of the row, nearest first
    order: Tensor  # (M,) int64, from 1: place among the genuine columns of the row
    rows: slice  # of the band


@torch.no_grad()
def genuine_ranks(
    compared: ComparedRows, group: Tensor | None = None, column_group: Tensor | None = None, numbers: int = BAND
) -> Iterator[GenuineRanks]:
    """Rank the genuine columns of each row by distance; of equally far columns those of other identities come first.

    Args:
        compared: rows and columns.
        group: (N,) int64 of the rows, such as cameras: a genuine column of the row's group is left out, as if it were
            no column of this row; None leaves none out.
        column_group: (C,) int64 of the columns.
        numbers: distances held at once.

    Yields:
        The genuine pairs of some rows after the others; bands without any too.
    """
    distances = Distances(compared)
    for band in distances.bands(numbers):
        start = band.rows.start
        row, column = distances.identities.pairs(compared.labels[band.rows], start, compared.itself)
        if group is not None and column_group is not None:
            others = (group[row] != column_group[column]).nonzero().flatten()
            row, column = row[others], column[others]
        if not len(row):
            yield GenuineRanks(row, row, row, band.rows)
            continue
        value = exact_distance(compared, row, column, squared=True)
        place = value.argsort(stable=True)
        place = place[row[place].argsort(stable=True)]
        row, value = row[place], value[place]
        size = torch.bincount(row - start, minlength=band.rows.stop - start)
        order = torch.arange(len(row), device=row.device) - (size.cumsum(0) - size)[row - start]
        genuine = value.new_full((len(size), int(size.max())), torch.inf)
        genuine[row - start, order] = value
        nearer = torch.searchsorted(genuine, band.exact(squared=True))  # (n,C) genuine columns nearer than a negative
        ahead = size.new_zeros(len(size), genuine.shape[1] + 1)
        ahead.scatter_add_(1, nearer, torch.ones_like(nearer))
        negatives = ahead.cumsum(dim=1)[row - start, order]  # as near as this genuine column, or nearer
        yield GenuineRanks(row, order + 1 + negatives, order + 1, band.rows)
