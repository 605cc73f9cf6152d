"""Searches of hard negatives and positives in small batches: one product, and exact distances where it is in doubt."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.pairwise.blocks import is_small
from siamese_verify.pairwise.distances import Centered, has_exact_products, places
from siamese_verify.pairwise.nearest import ComparedRows, exact_distance, expanded, first_best, rounding

DOUBTFUL = 4  # candidates for each row or pair, on average, beyond which the searches of `nearest` take less time


class Matrix(NamedTuple):
    """All pairs of a small batch."""

    squared: Tensor  # (N, C) approximate squared distances
    slack: float  # how far they may be off
    same: Tensor  # (N, C) bool, whether both have one identity


def small_matrix(compared: ComparedRows) -> Matrix | None:
    """All pairs, if so few that the matrix is fastest, and products are as exact as their type."""
    small = compared.own is None and is_small(compared.column_labels) and has_exact_products(compared.rows)
    if not small or not len(compared.rows) or not len(compared.columns):
        return None
    center = compared.columns.mean(dim=0)
    right = Centered.around(compared.columns, center)
    left = right.part(slice(len(compared.rows))) if compared.itself else Centered.around(compared.rows, center)
    same = compared.labels[:, None] == compared.column_labels
    return Matrix(expanded(left, right).clamp_(min=0), rounding(left, right), same)


def farthest_and_nearest(compared: ComparedRows) -> tuple[Tensor, Tensor] | None:
    """(N,) farthest positives and (N,) nearest negatives as `nearest` finds them, -1 for none.

    None where the batch is not small, or too much is in doubt.
    """
    found = small_matrix(compared)
    if found is None:
        return None
    squared, slack, same = found
    negative = _least(compared, squared.masked_fill(same, torch.inf), slack, 1)
    if compared.itself:
        same.fill_diagonal_(False)
    positive = _least(compared, squared.neg_().masked_fill_(~same, torch.inf), slack, -1)
    return None if positive is None or negative is None else (positive, negative)


def _least(compared: ComparedRows, value: Tensor, slack: float, sign: int) -> Tensor | None:
    """(N,) columns of the least value of each row; values are squared distances times the sign, inf for none."""
    least, column = value.min(dim=1)
    second = value.scatter(1, column[:, None], torch.inf).amin(dim=1)
    several = (second <= least + 2 * slack).logical_and_(second < torch.inf).nonzero().flatten()
    if len(several):
        candidates = value[several] <= (least[several, None] + 2 * slack).clamp_(max=torch.finfo(value.dtype).max)
        number, other = candidates.nonzero(as_tuple=True)
        if len(number) > DOUBTFUL * len(value):
            return None
        exact = exact_distance(compared, several[number], other).mul_(sign)
        column[several] = first_best(number, other, exact, len(several))
    return column.masked_fill_(least == torch.inf, -1)


def nearest_beyond_positives(
    compared: ComparedRows, margin: float, squared: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """(M,) rows and columns of genuine pairs, and (M,) nearest negatives less than a margin beyond them; -1 for none.

    None where the batch is not small, or too much is in doubt.
    """
    found = small_matrix(compared)
    if found is None:
        return None
    matrix, slack, same = found
    others = matrix.masked_fill(same, torch.inf)
    if compared.itself:
        same.fill_diagonal_(False)
    place = places(same)
    row, positive = place // same.shape[1], place % same.shape[1]
    if len(row) * others.shape[1] > matrix.numel() * DOUBTFUL * 2:  # rows of many positives
        return None
    inner = matrix[row, positive]
    low, high = (inner - slack).clamp_(min=0), inner + slack
    if squared:
        surely, possibly = low + margin, high + margin
    else:
        surely, possibly = (low.sqrt_() + margin).square_(), (high.sqrt() + margin).square_()
    beyond = others.index_select(0, row)  # (M,C)
    beyond.masked_fill_(beyond <= (inner - 2 * slack)[:, None], torch.inf)
    least, column = beyond.min(dim=1)
    second = beyond.scatter_(1, column[:, None], torch.inf).amin(dim=1)
    none = least > possibly + slack
    clear = (least > inner + 2 * slack) & (second > least + 2 * slack) & (least + slack < surely)
    column.masked_fill_(none, -1)
    doubtful = clear.logical_or_(none).logical_not_().nonzero().flatten()
    if len(doubtful):
        anchor, inner = row[doubtful], inner[doubtful, None]
        distance = others.index_select(0, anchor)
        least = distance.masked_fill(distance <= inner + 2 * slack, torch.inf).amin(dim=1)
        limit = torch.minimum(least + 2 * slack, possibly[doubtful] + slack)
        candidates = (distance <= limit[:, None]).logical_and_(distance > inner - 2 * slack)
        number, other = candidates.nonzero(as_tuple=True)
        if len(number) > DOUBTFUL * len(row):
            return None
        nearest = exact_distance(compared, anchor, positive[doubtful], squared)[number]
        value = exact_distance(compared, anchor[number], other, squared)
        within = ((value > nearest) & (value < nearest + margin)).nonzero().flatten()
        column[doubtful] = first_best(number[within], other[within], value[within], len(doubtful))
    return row, positive, column
