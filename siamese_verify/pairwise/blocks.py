"""From the losses of single items to one number, with a defined value where there are no items."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.pairwise.distances import chunks, identical


class Items(NamedTuple):
    """Losses of single items, and which of them are above zero, also where they round to it."""

    loss: Tensor  # (M,) >= 0
    active: Tensor  # (M,) bool

    @classmethod
    def of(cls, loss: Tensor) -> Items:
        """Items that are above zero wherever they are in floating point."""
        return cls(loss, loss.detach() > 0)


class Totals(NamedTuple):
    """What a reduction needs to know of the items, whether or not they were ever listed."""

    total: Tensor  # scalar, the sum of the items
    items: Tensor | int  # how many there are
    active: Tensor | int  # how many are above zero


SIDE = 512  # rows of a tile on a CPU: small enough for its cache, large enough for a matrix product
SIDE_OF_ACCELERATOR = 2048
NEAR = 1 / 32  # of |a|^2 + |b|^2: a squared distance below it has lost more than five bits to cancellation
CROWDED = 1 / 16  # share of a tile that is near, beyond which the whole of it is measured by differences


BLOCK = 512  # rows of a block: its product of 1 MiB fits a CPU's cache; an accelerator wants 2,048 or more


def ranges(count: int, size: int = BLOCK, start: int = 0) -> Iterator[slice]:
    """Consecutive slices of at most `size` rows, evenly long, that cover rows `start` to `count`."""
    size = -(-count // max(1, -(-count // max(size, 1))))  # 513 rows are cut into 257 + 256, not 512 + 1
    return (slice(first, min(first + size, count)) for first in range(start, count, max(size, 1)))


def blocks(rows: int, columns: int | None = None, size: int = BLOCK) -> Iterator[tuple[slice, slice]]:
    """Row and column ranges of the blocks that cover all pairs of rows and columns.

    Args:
        rows: number of rows.
        columns: number of columns; None compares the rows with themselves and covers the upper triangle: a block whose
            two ranges are equal lies on the diagonal and holds its pairs twice, any other one holds each pair once.
        size: at most this many rows and columns in a block.

    Yields:
        Row ranges in ascending order, and for each the column ranges in ascending order.
    """
    for top in ranges(rows, size):
        for left in ranges(rows, size, start=top.start) if columns is None else ranges(columns, size):
            yield top, left


def steps(count: int, device: torch.device, first: int = 0) -> Iterator[slice]:
    """Cut rows `first` ... `count` into even pieces, each the side of a tile at most."""
    side = SIDE if device.type == "cpu" else SIDE_OF_ACCELERATOR
    size = -(-count // max(1, -(-count // side)))
    return (slice(start, min(start + size, count)) for start in range(first, count, max(size, 1)))


def bands(rows: int, columns: int) -> Iterator[slice]:
    """Cut rows into pieces that can be held with all columns: the area of a few tiles."""
    size = max(1, 4 * SIDE * SIDE // max(columns, 1))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


class Piece(NamedTuple):
    """Rows of a batch, and what they are compared with in one tile."""

    left: slice
    right: slice  # of the batch: `left` or after it
    remembered: bool  # the right ones are references, not of the batch

    @property
    def diagonal(self) -> bool:
        """Rows are compared with themselves."""
        return self.left == self.right and not self.remembered


def pieces(count: int, references: int, device: torch.device) -> Iterator[Piece]:
    """Compare the rows of a batch with one another, each two once, and with all references."""
    for left in steps(count, device):
        for right in steps(count, device, left.start):
            yield Piece(left, right, False)
        for right in steps(references, device):
            yield Piece(left, right, True)


class Spread(NamedTuple):
    """Rows around a centre that all share: distances stay, and the lengths they cancel from become small."""

    rows: Tensor  # (N, D), moved
    squares: Tensor  # (N,) squared lengths of those
    origin: Tensor  # (N, D), as they were: moving rounds

    def part(self, rows: slice) -> Spread:
        """Some of the rows."""
        return Spread(self.rows[rows], self.squares[rows], self.origin[rows])

    @classmethod
    def around(cls, rows: Tensor, centre: Tensor) -> Spread:
        """Move (N, D) rows by a (D,) centre."""
        moved = rows - centre
        return cls(moved, torch.linalg.vecdot(moved, moved), rows)


def expands(rows: Tensor) -> bool:
    """Whether `|a|^2 + |b|^2 - 2 a.b` is to be used: where rounding is known, and correcting it waits for nobody."""
    exact = rows.dtype == torch.float64 or torch.get_float32_matmul_precision() == "highest"
    return rows.device.type == "cpu" and exact


class DistanceTile:
    """Euclidean distances of some rows from some columns, and their gradient.

    Far pairs come from an inner product; the near ones, where it cancels, from differences, unless their rows are
    identical. Where many are near all the same, or a GPU would have to be waited for, all come from differences.

    Args:
        left: n rows.
        right: m columns, around the same centre.
        diagonal: the columns are the rows, and nobody is near himself.

    Attributes:
        values: (n, m) distances, >= 0; inf between a row and itself.
    """

    def __init__(self, left: Spread, right: Spread, diagonal: bool = False) -> None:
        self.left, self.right = left, right
        self.graph: Tensor | None = None
        self.near: tuple[Tensor, Tensor] | None = None
        self.twins: Tensor | None = None
        if not expands(left.rows):
            self._measure(diagonal)
            return
        squared = (left.squares[:, None] + right.squares).addmm_(left.rows, right.rows.T, alpha=-2)  # (n,m)
        if diagonal:
            squared.fill_diagonal_(torch.inf)
        if squared.amin() <= NEAR * (left.squares.max() + right.squares.max()):  # otherwise none is near
            near = squared <= NEAR * (left.squares[:, None] + right.squares)
            row, column = near.nonzero(as_tuple=True)
            if len(row) > CROWDED * squared.numel():  # of identical rows the distance is known
                number, other = identical(torch.cat([left.origin, right.origin])).tensor_split([len(left.origin)])
                twins = (number[:, None] == other).logical_and_(squared < torch.inf)  # nobody is his own
                squared.masked_fill_(twins, 0)
                row, column = near.logical_and_(~twins).nonzero(as_tuple=True)
                self.twins = twins
            self.near = row, column
            if len(row) > CROWDED * squared.numel():
                self._measure(diagonal)
                return
            for part in chunks(len(row), left.rows.shape[1]):
                difference = left.origin[row[part]] - right.origin[column[part]]  # (k,D)
                squared[row[part], column[part]] = torch.linalg.vecdot(difference, difference)
        self.values = squared.sqrt_()

    def _measure(self, diagonal: bool) -> None:
        with torch.enable_grad():
            left, right = (side.origin.detach().requires_grad_() for side in (self.left, self.right))
            self.leaves = left, right
            self.graph = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
        self.values = self.graph.detach()
        if diagonal:
            self.values = self.values.clone().fill_diagonal_(torch.inf)  # the graph needs its own

    def pull(self, slope: Tensor, to_left: Tensor, to_right: Tensor | None) -> None:
        """Add the gradient of a sum over the tile; zero distances have none.

        Args:
            slope: (n, m) derivative by each distance; not to be used afterwards.
            to_left: (n, D) to add to.
            to_right: (m, D) to add to; None if the columns are constants.
        """
        if self.graph is not None:
            gradients = torch.autograd.grad(self.graph, self.leaves, slope)
            for gradient, target in zip(gradients, (to_left, to_right), strict=True):
                if target is not None:
                    target.add_(gradient)
            return
        near_slope = None if self.near is None else slope[self.near]  # (k,)
        weight = slope.div_(self.values)
        if self.twins is not None:
            weight.masked_fill_(self.twins, 0)
        if self.near is not None and near_slope is not None:
            weight[self.near] = 0
            self._pull_near(near_slope, to_left, to_right)
        left, right = self.left.rows, self.right.rows
        to_left.addcmul_(left, weight.sum(dim=1, keepdim=True)).addmm_(weight, right, alpha=-1)
        if to_right is not None:
            to_right.addcmul_(right, weight.sum(dim=0)[:, None]).addmm_(weight.T, left, alpha=-1)

    def _pull_near(self, slope: Tensor, to_left: Tensor, to_right: Tensor | None) -> None:
        assert self.near is not None
        row, column = self.near
        distance = self.values[row, column]
        weight = torch.where(distance > 0, slope / distance, 0)
        for part in chunks(len(row), self.left.rows.shape[1]):
            pull = (self.left.origin[row[part]] - self.right.origin[column[part]]).mul_(weight[part, None])
            to_left.index_add_(0, row[part], pull)
            if to_right is not None:
                to_right.index_add_(0, column[part], pull, alpha=-1)
