"""A gradient without a gradient of its own, which says so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from siamese_verify.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def first_order(backward: Callable[P, R]) -> Callable[P, R]:
    """Refuse to be differentiated again; torch's `once_differentiable` would let constants through in silence.

    Raises:
        InputError: when called to create a graph.
    """

    @functools.wraps(backward)
    def once(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.is_grad_enabled():
            raise InputError(
                "A gradient of a gradient was asked for, but objectives have first derivatives only: leave out "
                "create_graph=True."
            )
        return backward(*args, **kwargs)

    return once


Metric = Literal["euclidean", "squared", "cosine"]

GATHERED = 1 << 18  # numbers of gathered rows held at once


def unit(embeddings: Tensor) -> Tensor:
    """Scale every row to length 1.

    Args:
        embeddings: (B, D).

    Returns:
        (B, D) unit rows. A row of zeros has no direction: it stays zero, and its gradient stays finite.
    """
    directions: Tensor = _Unit.apply(embeddings)
    return directions


def directions_of(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D) unit rows, and (B, 1) the lengths they were divided by: 1 for a row of zeros."""
    length = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
    length.masked_fill_(length == 0, 1)
    return embeddings / length, length


def through_directions_(gradient: Tensor, directions: Tensor, length: Tensor) -> Tensor:
    """Turn a (B, D) gradient by the directions into that by the embeddings, in place: only turning changes them."""
    along = torch.linalg.vecdot(gradient, directions)[:, None]
    return gradient.addcmul_(directions, along, value=-1).div_(length)


def row_distance(
    embeddings: Tensor, candidates: Tensor, rows: Tensor, columns: Tensor, metric: Metric = "euclidean"
) -> Tensor:
    """Distances of chosen rows, two by two.

    Euclidean distances come from differences, never from `|a|^2 + |b|^2 - 2 a.b`: in float32 the expansion is wrong by
    3e-4 between near-identical unit vectors, which is where genuine pairs end up. At zero distance the gradient is 0,
    the smallest of the subgradients. Gathered rows are held a few at a time, in the backward pass too.

    Args:
        embeddings: (B, D).
        candidates: (C, D).
        rows: (M,) int64 rows of `embeddings`.
        columns: (M,) int64 rows of `candidates`.
        metric: `euclidean` |a - b|; `squared` |a - b|^2; `cosine` 1 - cos(a, b), in [0, 2].

    Returns:
        (M,) distances, >= 0.
    """
    if metric == "cosine":
        directions = unit(embeddings)
        others = directions if candidates is embeddings else unit(candidates)
        return (1 - row_product(directions, others, rows, columns)).clamp(
            min=0
        )  # rounding alone would make it negative
    distance: Tensor = _RowDistance.apply(embeddings, candidates, rows, columns, metric == "squared")
    return distance


def row_product(embeddings: Tensor, candidates: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(M,) inner products of chosen rows; arguments as in `row_distance`."""
    product: Tensor = _RowProduct.apply(embeddings, candidates, rows, columns)
    return product


def chunks(count: int, dimensions: int) -> list[slice]:
    """Cut a list so that the gathered rows of a piece stay few."""
    size = max(1, GATHERED // max(dimensions, 1))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:
        directions, length = directions_of(embeddings)
        ctx.save_for_backward(directions, length)
        return directions

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return through_directions_(slope.clone(), *ctx.saved_tensors)


class _RowDistance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, candidates: Tensor, rows: Tensor, columns: Tensor, squared: bool
    ) -> Tensor:
        distance = embeddings.new_empty(len(rows))
        pieces = chunks(len(rows), embeddings.shape[1])
        difference = None
        for part in pieces:
            difference = embeddings.index_select(0, rows[part]).sub_(candidates.index_select(0, columns[part]))  # (m,D)
            torch.linalg.vector_norm(difference, dim=1, out=distance[part])
        ctx.save_for_backward(embeddings, candidates, rows, columns, distance)
        ctx.squared, ctx.shared = squared, embeddings is candidates
        ctx.difference = difference if len(pieces) == 1 else None  # little enough to be kept
        return distance.square() if squared else distance

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, candidates, rows, columns, distance = ctx.saved_tensors
        weight = 2 * slope if ctx.squared else torch.where(distance > 0, slope / distance, 0)
        to_rows = torch.zeros_like(embeddings) if ctx.needs_input_grad[0] else None
        to_columns = to_rows
        if not ctx.shared:
            to_columns = torch.zeros_like(candidates) if ctx.needs_input_grad[1] else None
        for part in chunks(len(rows), embeddings.shape[1]):
            difference = ctx.difference
            if difference is None:
                difference = embeddings.index_select(0, rows[part]).sub_(candidates.index_select(0, columns[part]))
            pull = difference * weight[part, None]
            if to_rows is not None:
                to_rows.index_add_(0, rows[part], pull)
            if to_columns is not None:
                to_columns.index_add_(0, columns[part], pull, alpha=-1)
        return to_rows, None if ctx.shared else to_columns, None, None, None


class _RowProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, candidates: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(embeddings, candidates, rows, columns)
        ctx.shared = embeddings is candidates
        product = embeddings.new_empty(len(rows))
        for part in chunks(len(rows), embeddings.shape[1]):
            left, right = embeddings.index_select(0, rows[part]), candidates.index_select(0, columns[part])
            torch.linalg.vecdot(left, right, out=product[part])
        return product

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, candidates, rows, columns = ctx.saved_tensors
        to_rows = torch.zeros_like(embeddings) if ctx.needs_input_grad[0] else None
        to_columns = to_rows
        if not ctx.shared:
            to_columns = torch.zeros_like(candidates) if ctx.needs_input_grad[1] else None
        for part in chunks(len(rows), embeddings.shape[1]):
            if to_rows is not None:
                pull = candidates.index_select(0, columns[part]).mul_(slope[part, None])
                to_rows.index_add_(0, rows[part], pull)
            if to_columns is not None:
                pull = embeddings.index_select(0, rows[part]).mul_(slope[part, None])
                to_columns.index_add_(0, columns[part], pull)
        return to_rows, None if ctx.shared else to_columns, None, None


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


P_uncompiled = ParamSpec("P_uncompiled")
R_uncompiled = TypeVar("R_uncompiled")


def uncompiled(function: Callable[P_uncompiled, R_uncompiled]) -> Callable[P_uncompiled, R_uncompiled]:
    """Leave a walk through tiles as it is when torch compiles what is around it."""
    return cast("Callable[P_uncompiled, R_uncompiled]", torch.compiler.disable(function))  # type: ignore[no-untyped-call]
