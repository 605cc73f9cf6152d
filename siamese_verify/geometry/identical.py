"""Rows that are identical, found by sorting and never by comparing all with all."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.geometry.distance import chunks


def identical(rows: Tensor) -> Tensor:
    """Number rows by what they hold.

    Args:
        rows: (N, D) finite.

    Returns:
        (N,) int64 in [0, N): two rows of one number are identical. Identical rows have one number, unless rows that
        differ happen to share their weighted sum with them.
    """
    # Identical rows have one mark, since the sum over a row does not depend on other rows.
    weight = torch.arange(1, rows.shape[1] + 1, dtype=torch.float64, device=rows.device).sin()
    mark = rows.new_empty(len(rows), dtype=torch.float64)
    pieces = chunks(len(rows), rows.shape[1])
    for part in pieces:
        torch.sum(rows[part].double() * weight, dim=1, out=mark[part])
    order = mark.argsort(stable=True)
    begins = torch.cat([mark.new_ones(min(1, len(rows)), dtype=torch.bool), mark[order][1:] != mark[order][:-1]])
    alike = (~begins).nonzero().flatten()
    for part in chunks(len(alike), rows.shape[1]):
        place = alike[part]
        begins[place] = (rows[order[place]] != rows[order[place - 1]]).any(dim=1)
    return torch.empty_like(order).index_put((order,), begins.cumsum(0) - 1)
