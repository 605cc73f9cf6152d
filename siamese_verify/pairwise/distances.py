"""Differentiable distances and inner products of rows, of listed pairs or of all pairs of two blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from siamese_verify.pairwise.blocks import bands, first_order

Metric = Literal["euclidean", "squared", "cosine"]

GATHERED = 1 << 18  # numbers of gathered rows held at once
NEAR = 1 / 32  # of |a|^2 + |b|^2: a squared distance below it has lost more than five bits to cancellation
CROWDED = 1 / 16  # share of near pairs in a block from which on identical rows are looked for


def unit(embeddings: Tensor) -> Tensor:
    """(B, D) rows scaled to length 1. A row of zeros stays zero, and its gradient is finite."""
    directions: Tensor = _Unit.apply(embeddings)
    return directions


def row_distance(
    embeddings: Tensor, candidates: Tensor, rows: Tensor, columns: Tensor, metric: Metric = "euclidean"
) -> Tensor:
    """Distances of listed pairs of rows.

    Euclidean distances come from differences, never from `|a|^2 + |b|^2 - 2 a.b`: in float32 the expansion is wrong by
    3e-4 between near-identical unit vectors, which is where genuine pairs end up. At zero distance the gradient is 0.

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
        return (1 - row_product(directions, others, rows, columns)).clamp(min=0)  # rounding may leave -1e-7
    distinct = None if candidates is embeddings else candidates
    distance: Tensor = _RowDistance.apply(embeddings, distinct, rows, columns, metric == "squared")
    return distance


def row_product(embeddings: Tensor, candidates: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(M,) inner products of listed pairs of rows; arguments as in `row_distance`."""
    product: Tensor = _RowProduct.apply(embeddings, candidates, rows, columns)
    return product


def block_cosine(candidates: Tensor, count: int, temperature: float = 1) -> Tensor:
    """(count, C) cosines of the first of (C, D) candidates with all of them, over temperature; 0 for a row of zeros."""
    logits: Tensor = _BlockCosine.apply(candidates, count, temperature)
    return logits


def block_distance(left: Tensor, right: Tensor | None = None) -> Tensor:
    """Euclidean distances of all rows of one block from all rows of another, or from each other.

    They are those of `torch.cdist(compute_mode="donot_use_mm_for_euclid_dist")`, at about the cost of a matrix
    product: far pairs come from inner products, near pairs, where these cancel, from differences. On a GPU, where
    finding these would wait for it, and where float32 is multiplied as TF32, all come from products in float64: of unit
    rows they keep five digits of distances from 1e-4 on, and of 1e-6 three. At zero distance the gradient is 0.

    Args:
        left: (n, D).
        right: (m, D); None compares `left` with itself.

    Returns:
        (n, m) distances, >= 0.
    """
    if not has_exact_products(left):
        kind, left, right = left.dtype, left.double(), None if right is None else right.double()
        exact: Tensor = _BlockDistance.apply(left, right, False)
        return exact.to(kind)
    distance: Tensor = _BlockDistance.apply(left, right, True)
    return distance


class Centered(NamedTuple):
    """Rows around a common center: distances stay, and the lengths they cancel from become small."""

    rows: Tensor  # (N, D), moved
    squares: Tensor  # (N,) squared lengths of those
    origin: Tensor  # (N, D), as they were: moving rounds

    def part(self, rows: slice) -> Centered:
        """Some of the rows."""
        return Centered(self.rows[rows], self.squares[rows], self.origin[rows])

    @classmethod
    def around(cls, rows: Tensor, center: Tensor) -> Centered:
        """Move (N, D) rows by a (D,) center."""
        moved = rows - center
        return cls(moved, torch.linalg.vecdot(moved, moved), rows)


def centered(rows: Tensor, columns: Tensor, itself: bool) -> tuple[Centered, Centered]:
    """Rows and columns around the mean of the columns; `itself` if the first columns are the rows."""
    center = columns.mean(dim=0)
    right = Centered.around(columns, center)
    if not itself:
        return Centered.around(rows, center), right
    return right if len(rows) == len(columns) else right.part(slice(len(rows))), right


def matmul_precision() -> str:
    """Precision of products of float32 matrices: `highest`, `high` or `medium`."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by torch.backends instead: take the worst for granted
        return "medium"


def has_exact_products(rows: Tensor) -> bool:
    """Whether matrix products of the rows are as precise as their type, and finding near pairs waits for no GPU."""
    exact = rows.dtype == torch.float64 or matmul_precision() == "highest"
    return rows.device.type == "cpu" and exact


def chunks(count: int, source: Tensor) -> Iterator[slice]:
    """Bands of so few rows that gathering them from (N, D) ones takes little memory: 64 MB on a GPU, 1 MB else."""
    return bands(count, source.shape[1], GATHERED if source.device.type == "cpu" else GATHERED << 6)


def places(mask: Tensor) -> Tensor:
    """Flat places of the few True values of a mask; numpy finds them in a tenth of torch's time."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.view(-1).nonzero().flatten()


def identical(rows: Tensor) -> Tensor:
    """Number rows by their content.

    Args:
        rows: (N, D) finite.

    Returns:
        (N,) int64 in [0, N): rows of one number are identical, and identical rows have one number, unless a different
        row has the same weighted sum.
    """
    weight = torch.arange(1, rows.shape[1] + 1, dtype=torch.float64, device=rows.device).sin()
    mark = rows.new_empty(len(rows), dtype=torch.float64)
    for part in chunks(len(rows), rows):
        torch.sum(rows[part].double() * weight, dim=1, out=mark[part])
    order = mark.argsort(stable=True)
    begins = torch.cat([mark.new_ones(min(1, len(rows)), dtype=torch.bool), mark[order][1:] != mark[order][:-1]])
    repeated = (~begins).nonzero().flatten()
    for part in chunks(len(repeated), rows):
        place = repeated[part]
        begins[place] = (rows[order[place]] != rows[order[place - 1]]).any(dim=1)
    return torch.empty_like(order).index_put((order,), begins.cumsum(0) - 1)


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:
        directions, length = _directions(embeddings)
        ctx.save_for_backward(directions, length)
        return directions

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return _turned(slope, *ctx.saved_tensors)


def _directions(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D) unit rows and (B, 1) lengths, 1 for a row of zeros."""
    length = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
    length.masked_fill_(length == 0, 1)
    return embeddings / length, length


def _turned(slope: Tensor, directions: Tensor, length: Tensor) -> Tensor:
    """Gradient by rows of that by their directions."""
    along = torch.linalg.vecdot(slope, directions)[:, None]  # a change of length changes nothing
    return slope.addcmul(directions, along, value=-1).div_(length)


class _RowDistance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, candidates: Tensor | None, rows: Tensor, columns: Tensor, squared: bool
    ) -> Tensor:
        others, difference = embeddings if candidates is None else candidates, None
        if len(rows) * embeddings.shape[1] <= GATHERED:  # so few that they may wait for the backward pass
            difference = differences(embeddings, others, rows, columns)
            distance: Tensor = torch.linalg.vector_norm(difference, dim=1)
        else:
            distance = listed_distance(embeddings, others, rows, columns)
        ctx.save_for_backward(embeddings, candidates, rows, columns, distance, difference)
        ctx.squared = squared
        return distance.square() if squared else distance

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, candidates, rows, columns, distance, difference = ctx.saved_tensors
        weight = 2 * slope if ctx.squared else (slope / distance).masked_fill_(distance == 0, 0)
        to_rows = torch.zeros_like(embeddings) if ctx.needs_input_grad[0] else None
        to_columns = torch.zeros_like(candidates) if ctx.needs_input_grad[1] else None
        itself = candidates is None
        ends = (to_rows, to_rows, embeddings, embeddings) if itself else (to_rows, to_columns, embeddings, candidates)
        add_differences(*ends, rows, columns, weight, difference)
        return to_rows, to_columns, None, None, None


class _RowProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, candidates: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(embeddings, candidates, rows, columns)
        product = embeddings.new_empty(len(rows))
        for part in chunks(len(rows), embeddings):
            left, right = embeddings.index_select(0, rows[part]), candidates.index_select(0, columns[part])
            torch.linalg.vecdot(left, right, out=product[part])
        return product

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, candidates, rows, columns = ctx.saved_tensors
        ends = (embeddings, rows, candidates, columns), (candidates, columns, embeddings, rows)
        gradients: list[Tensor | None] = [None, None]
        for number, (target, to, source, of) in enumerate(ends):
            if ctx.needs_input_grad[number]:
                gradient = gradients[number] = torch.zeros_like(target)
                for part in chunks(len(rows), target):
                    gradient.index_add_(0, to[part], source.index_select(0, of[part]).mul_(slope[part, None]))
        return *gradients, None, None


class _BlockCosine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, candidates: Tensor, count: int, temperature: float) -> Tensor:
        directions, length = _directions(candidates)
        ctx.save_for_backward(directions, length * temperature)
        return (directions[:count] @ directions.T).div_(temperature)

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        directions, length = ctx.saved_tensors
        if len(slope) == len(directions):  # by symmetry one product suffices
            return _turned((slope + slope.T) @ directions, directions, length), None, None
        gradient = slope.T @ directions[: len(slope)]
        gradient[: len(slope)].addmm_(slope, directions)
        return _turned(gradient, directions, length), None, None


class _BlockDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor | None, differences: bool) -> Tensor:
        ctx.itself, ctx.differences = right is None, differences
        right = left if right is None else right
        (a, a_squares, _), (b, b_squares, _) = centered(left, right, ctx.itself)
        squared = (a_squares[:, None] + b_squares).addmm_(a, b.T, alpha=-2)  # (n,m)
        if ctx.itself:
            squared.fill_diagonal_(torch.inf)
        near = row = column = None
        if not differences:
            rounding = 8 * torch.finfo(squared.dtype).eps * (a_squares[:, None] + b_squares)
            squared.masked_fill_(squared <= rounding, 0)
        elif squared.numel() and float(squared.amin()) <= NEAR * float(a_squares.max() + b_squares.max()):
            near = squared <= NEAR * (a_squares[:, None] + b_squares)  # most batches have none
            row, column = near.nonzero(as_tuple=True)
            if len(row) > CROWDED * squared.numel():
                numbers, others = identical(torch.cat([left, right])).tensor_split([len(left)])
                squared.masked_fill_(near, 0)  # what is identical stays so
                row, column = (near & (numbers[:, None] != others)).nonzero(as_tuple=True)
            squared[row, column] = listed_distance(left, right, row, column).square_()
        if ctx.itself:
            squared.fill_diagonal_(0)
        distance: Tensor = squared.sqrt_()
        ctx.save_for_backward(left, right, a, b, distance, near, row, column)
        return distance

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        left, right, a, b, distance, near, row, column = ctx.saved_tensors
        weight = slope / distance  # (n,m): d distance / d left = (left - right) / distance
        if ctx.itself:
            weight.fill_diagonal_(0)
        if not ctx.differences:
            weight.masked_fill_(distance == 0, 0)
        if near is not None:
            near_weight = torch.where(distance[row, column] > 0, weight[row, column], 0)
            weight.masked_fill_(near, 0)
        to_left = to_right = None
        if ctx.itself:
            weight = weight + weight.T
        if ctx.needs_input_grad[0]:
            to_left = (a * weight.sum(dim=1, keepdim=True)).addmm_(weight, b, alpha=-1)
        if ctx.needs_input_grad[1]:
            to_right = (b * weight.sum(dim=0)[:, None]).addmm_(weight.T, a, alpha=-1)
        if near is not None:
            add_differences(to_left, to_left if ctx.itself else to_right, left, right, row, column, near_weight)
        return to_left, to_right, None


def listed_distance(left: Tensor, right: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(M,) Euclidean distances of listed pairs, from differences; not differentiable."""
    distance = left.new_empty(len(rows))
    for part in chunks(len(rows), left):
        difference = differences(left, right, rows[part], columns[part])
        torch.linalg.vector_norm(difference, dim=1, out=distance[part])
    return distance


def differences(left: Tensor, right: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(M, D) differences of listed pairs."""
    return left.index_select(0, rows).sub_(right.index_select(0, columns))


def add_differences(
    to_left: Tensor | None,
    to_right: Tensor | None,
    left: Tensor,
    right: Tensor,
    rows: Tensor,
    columns: Tensor,
    weight: Tensor,
    kept: Tensor | None = None,
) -> None:
    """Add the differences of listed pairs, `kept` or computed, times (M,) weights, to the gradient of either end."""
    for part in chunks(len(rows), left):
        row, column = rows[part], columns[part]
        pull = (differences(left, right, row, column) if kept is None else kept) * weight[part, None]
        if to_left is not None:
            to_left.index_add_(0, row, pull)
        if to_right is not None:
            to_right.index_add_(0, column, pull, alpha=-1)
