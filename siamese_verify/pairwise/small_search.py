"""Searches of hard negatives and positives in small batches: one product, and exact distances where it is in doubt."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.pairwise.blocks import is_small
from siamese_verify.pairwise.distances import centered, has_exact_products, places
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
    left, right = centered(compared.rows, compared.columns, compared.itself)
    same = compared.labels[:, None] == compared.column_labels
    return Matrix(expanded(left, right), rounding(left, right), same)


def farthest_and_nearest(compared: ComparedRows) -> tuple[Tensor, Tensor] | None:
    """(N,) farthest positives and (N,) nearest negatives as `nearest` finds them, -1 for none.

    None where the batch is not small, or too much is in doubt.
    """
    found = small_matrix(compared)
    if found is None:
        return None
    squared, slack, same = found
    negative = squared.masked_fill(same, torch.inf)
    if compared.itself:
        same.fill_diagonal_(False)
    value = torch.cat([squared.neg_().masked_fill_(~same, torch.inf), negative])  # (2N,C): the least are searched
    least, column = value.min(dim=1)
    second = value.scatter(1, column[:, None], torch.inf).amin(dim=1)
    several = places(second - least <= 2 * slack)  # false where there is no second one
    if len(several):
        limit = (least.index_select(0, several) + 2 * slack).clamp_(max=torch.finfo(value.dtype).max)
        number, other = (value.index_select(0, several) <= limit[:, None]).nonzero(as_tuple=True)
        if len(number) > DOUBTFUL * len(value):
            return None
        row = several.index_select(0, number)
        exact = exact_distance(compared, row % len(same), other)
        best = first_best(number, other, torch.where(row < len(same), -exact, exact), len(several))
        column.index_copy_(0, several, best)
    positive, negative = column.masked_fill_(least == torch.inf, -1).chunk(2)
    return positive, negative


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
    inner = matrix.view(-1).index_select(0, place)
    ends = torch.stack([inner - slack, inner + slack]).clamp_(min=0)
    surely, possibly = ends.add_(margin) if squared else ends.sqrt_().add_(margin).square_()
    beyond = others.index_select(0, row)  # (M,C)
    beyond.masked_fill_(beyond <= (inner - 2 * slack)[:, None], torch.inf)
    least, column = beyond.min(dim=1)
    second = beyond.scatter(1, column[:, None], torch.inf).amin(dim=1)
    none = least > possibly + slack
    clear = torch.minimum(second - least, least - inner) > 2 * slack
    clear.logical_and_(least + slack < surely).logical_or_(none)
    column.masked_fill_(none, -1)
    doubtful = places(~clear)
    if len(doubtful):
        distance, inner, high = (field.index_select(0, doubtful) for field in (beyond, inner, possibly))
        least = distance.masked_fill(distance <= (inner + 2 * slack)[:, None], torch.inf).amin(dim=1)
        limit = torch.minimum(least + 2 * slack, high + slack)
        number, other = (distance <= limit[:, None]).nonzero(as_tuple=True)
        if len(number) > DOUBTFUL * len(row):
            return None
        anchor = row.index_select(0, torch.cat([doubtful, doubtful.index_select(0, number)]))
        exact = exact_distance(compared, anchor, torch.cat([positive.index_select(0, doubtful), other]), squared)
        nearest, value = exact.index_select(0, number), exact[len(doubtful) :]
        within = places((value > nearest) & (value < nearest + margin))
        number, other, value = (field.index_select(0, within) for field in (number, other, value))
        column.index_copy_(0, doubtful, first_best(number, other, value, len(doubtful)))
    return row, positive, column
